"""Routes that list prompts and change them."""

import asyncio
import io
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.prompts import Prompt, load_shaped
from prompt_jax.serve.http import schemas, shapes
from prompt_jax.serve.http.auth import Key
from prompt_jax.serve.http.errors import JSON, Refused
from prompt_jax.serve.http.responses import Responses
from prompt_jax.serve.store import check_folder

FILES = 8
"""Files of an uploaded prompt at most."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, IndexError, NotImplementedError,
    OSError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile raises of archives that are damaged or want a password."""


def add_prompts(app: FastAPI) -> None:
    """Adds the routes to an application that has `state.responses`."""
    responses: Responses = app.state.responses
    catalog = responses.catalog

    @app.get("/v1/key")
    async def key(request: Request) -> JSON:
        """Who is asking, and what for."""
        key: Key = request.state.key
        return {"name": key.name, "scopes": list(key.scopes), "prompts": list(key.prompts)}

    @app.get("/v1/prompts")
    async def index(request: Request) -> JSON:
        visible = [served for served in catalog.served if request.state.key.sees(served.name)]
        return {"object": "list", "data": [responses.model(served) for served in visible]}

    @app.get("/v1/prompts/{name}")
    async def prompt(request: Request, name: str) -> JSON:
        served = catalog.find(name, request.state.key.sees)
        if served is None or served.prompt is None:
            raise Refused(404, "model_not_found", f"there is no prompt {name[:80]!r}")
        task = served.prompt.task
        words = await asyncio.to_thread(responses.nearest_words, served)
        return {
            **responses.model(served), "task": task and task.name, "template": task and task.source,
            "chat": bool(task and task.chat), "system": task.system if task else "",
            "size": served.prompt.size, "metrics": served.prompt.metrics, "nearest_words": words,
        }  # fmt: skip

    @app.put("/v1/prompts/{name}")
    async def put(request: Request, name: str) -> shapes.Model:
        """A new version: the body is a zip of the folder that `save_prompt` writes."""
        body = await request.body()
        expected = expected_of(request)
        prompt = await asyncio.to_thread(unpacked, body, catalog.engine.backbone)
        served = await asyncio.to_thread(catalog.put, name, prompt, expected=expected)
        return responses.model(served)

    @app.delete("/v1/prompts/{name}/{version}")
    async def remove(request: Request, name: str, version: int) -> JSON:
        await asyncio.to_thread(catalog.remove, name, version, expected=expected_of(request))
        return {"id": f"{name}@{version}", "object": "model", "deleted": True}

    @app.put("/v1/prompts/{name}/aliases/{alias}")
    async def alias(
        request: Request, name: str, alias: str, body: schemas.AliasRequest
    ) -> shapes.Model:
        expected = expected_of(request)
        await asyncio.to_thread(catalog.alias, name, alias, body.version, expected=expected)
        return responses.model(catalog.find(f"{name}@{alias}", request.state.key.sees))

    @app.post("/v1/load_lora_adapter")
    async def load(body: schemas.LoadRequest) -> PlainTextResponse:
        """Another name for a version, until it is unloaded or the server ends."""
        name, replace = body.lora_name, body.load_inplace
        await asyncio.to_thread(catalog.load, name, body.lora_path, replace=replace)
        # The words of vLLM, whose clients use this route.
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: schemas.UnloadRequest) -> PlainTextResponse:
        catalog.unload(body.lora_name)
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
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "prompt")
        folder.mkdir()
        for entry in entries:
            name = entry.filename
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{name[:80]!r} is compressed in another way than by deflate")
            # A path in a name could lead out of the folder.
            if entry.is_dir() or Path(name).name != name or "\\" in name:
                raise InputError(f"{name[:80]!r} is no file name; the zip has no folders")
            try:
                data = archive.read(entry)
            except DAMAGED as error:
                raise InputError(f"{name[:80]!r} cannot be unpacked: {error}") from error
            (folder / name).write_bytes(data)
        check_folder(folder)
        return load_shaped(folder, backbone)


def packed(folder: Path) -> bytes:
    """The body of a PUT, of the folder that `save_prompt` wrote."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return body.getvalue()
