"""Routes that list prompts and change them."""

import asyncio
import contextvars
import io
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from prompt_jax import disk
from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.prompts import Prompt, load_shaped, save_prompt
from prompt_jax.serve.http import schemas, shapes
from prompt_jax.serve.http.auth import View
from prompt_jax.serve.http.errors import Refused
from prompt_jax.serve.http.responses import Responses
from prompt_jax.serve.http.shapes import answers
from prompt_jax.serve.inspection import check_file_name, check_folder

FILES = 8
"""Files of an uploaded prompt at most."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, IndexError, NotImplementedError,
    OSError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile raises of archives that are damaged or want a password."""
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
ZIPPED = {"requestBody": {"required": True, "content": BINARY}}
"""How /openapi.json tells of an upload."""
Change = TypeVar("Change")
"""What a change answers."""


def add_prompts(app: FastAPI) -> None:
    """Adds the routes to an application that has `state.responses`."""
    responses: Responses = app.state.responses
    # Changes take turns and may have to wait for those of other processes. Of the threads that
    # tokenize for everybody they would keep many waiting.
    changes = ThreadPoolExecutor(1, "changes")

    def in_turn(change: Callable[[], Change]) -> Awaitable[Change]:
        # With the context of the request, so that the log says whose change it is.
        context = contextvars.copy_context()
        return asyncio.get_running_loop().run_in_executor(changes, context.run, change)

    @app.get("/v1/key", **answers(shapes.KeyHolder))
    async def key(request: Request) -> shapes.KeyHolder:
        """Who is asking, and what for."""
        key = request.state.view.key
        return {"name": key.name, "scopes": list(key.scopes), "prompts": list(key.prompts)}

    @app.get("/v1/prompts", **answers(shapes.Models))
    async def index(request: Request) -> shapes.Models:
        view: View = request.state.view
        return {"object": "list", "data": [responses.model(served) for served in view.served]}

    @app.get("/v1/prompts/{name}", **answers(shapes.PromptDetails))
    async def prompt(request: Request, name: str) -> shapes.PromptDetails:
        served = request.state.view.find(name)
        if served is None or served.prompt is None:
            raise Refused(404, "model_not_found", f"there is no prompt {name[:80]!r}")
        task = served.prompt.task
        words = await asyncio.to_thread(responses.nearest_words, served)
        return {
            **responses.model(served), "task": task and task.name, "template": task and task.source,
            "chat": bool(task and task.chat), "system": task.system if task else "",
            "size": served.prompt.size, "metrics": served.prompt.metrics, "nearest_words": words,
        }  # fmt: skip

    @app.put("/v1/prompts/{name}", openapi_extra=ZIPPED, **answers(shapes.Model))
    async def put(request: Request, name: str) -> shapes.Model:
        """A new version: the body is a zip of the folder that `save_prompt` writes."""
        view: View = request.state.view
        view.writable(name)  # Before the body is looked at.
        body = await request.body()
        prompt = await asyncio.to_thread(unpacked, body, responses.engine.backbone)
        served = await in_turn(lambda: view.put(name, prompt, expected_of(request)))
        return responses.model(served)

    @app.delete("/v1/prompts/{name}/{version}", **answers(shapes.Removed))
    async def remove(request: Request, name: str, version: int) -> shapes.Removed:
        view: View = request.state.view
        await in_turn(lambda: view.remove(name, version, expected_of(request)))
        return {"id": f"{name}@{version}", "object": "model", "deleted": True}

    @app.put("/v1/prompts/{name}/aliases/{alias}", **answers(shapes.Model))
    async def alias(
        request: Request, name: str, alias: str, body: schemas.AliasRequest
    ) -> shapes.Model:
        view: View = request.state.view
        expected = expected_of(request)
        served = await in_turn(lambda: view.alias(name, alias, body.version, expected))
        return responses.model(served)

    @app.post("/v1/load_lora_adapter", **answers(str))
    async def load(request: Request, body: schemas.LoadRequest) -> PlainTextResponse:
        """An alias for a version, under the name that vLLM's clients know."""
        view: View = request.state.view
        name, replace = body.lora_name, body.load_inplace
        await in_turn(lambda: view.load(name, body.lora_path, replace=replace))
        # The words of vLLM, whose clients use this route.
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter", **answers(str))
    async def unload(request: Request, body: schemas.UnloadRequest) -> PlainTextResponse:
        view: View = request.state.view
        await in_turn(lambda: view.unload(body.lora_name))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def expected_of(request: Request) -> str | None:
    """The digest of `If-Match`."""
    header = request.headers.get("if-match")
    return None if header is None else header.strip().strip('"')


def unpacked(body: bytes, backbone: Backbone | None = None) -> Prompt:
    """The prompt of a zip: flat, a few files of known names, looked at before it is read."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
        entries = archive.infolist()
    except DAMAGED as error:
        raise InputError(f"the body is a zip of a prompt's folder: {error}") from error
    if not 0 < len(entries) <= FILES:
        raise InputError(f"a prompt has 1 to {FILES} files, got {len(entries)}")
    # Sizes are what the archive claims; zipfile gives no more of an entry than that.
    if sum(entry.file_size for entry in entries) > 64 * max(len(body), 1):
        raise InputError("the zip grows more than 64 times; send it less compressed")
    with disk.writing(Path("an upload")), tempfile.TemporaryDirectory() as place:
        folder = Path(place, "upload")
        folder.mkdir()
        for entry in entries:
            (folder / entry.filename).write_bytes(_read(archive, entry))
        try:
            check_folder(folder)
            prompt = load_shaped(folder, backbone)
            # As the store will have it: what could not be read again would be there for good.
            load_shaped(save_prompt(Path(place, "again"), prompt))
            return prompt
        except InputError as error:
            # The sender knows its files by their names, and nothing of where they were read.
            message = re.sub(
                rf"{re.escape(place)}/(upload|again)(?P<file>/)?", _own_name, str(error)
            )
            raise InputError(message) from error


def _own_name(path: re.Match[str]) -> str:
    return "" if path["file"] else "it"


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """A file of a zip, whose name is that of a prompt's file."""
    name = entry.filename
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{name[:80]!r} is compressed in another way than by deflate")
    # A path in a name could lead out of the folder.
    if entry.is_dir() or Path(name).name != name or "\\" in name:
        raise InputError(f"{name[:80]!r} is no file name; the zip has no folders")
    check_file_name(name)
    try:
        return archive.read(entry)
    except DAMAGED as error:
        raise InputError(f"{name[:80]!r} cannot be unpacked: {error}") from error


def packed(folder: Path) -> bytes:
    """The body of a PUT, of the folder that `save_prompt` wrote."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return body.getvalue()
