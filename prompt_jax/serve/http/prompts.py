"""Routes that list prompts and change them."""

import asyncio
import io
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from prompt_jax.config import InputError
from prompt_jax.prompts import Prompt, load_shaped
from prompt_jax.serve.http import schemas
from prompt_jax.serve.http.answers import Refused
from prompt_jax.serve.http.desk import Desk, card
from prompt_jax.serve.http.keys import Key
from prompt_jax.serve.store import check_folder

FILES = 8
"""Of an uploaded prompt at most."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, IndexError, NotImplementedError,
    OSError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile raises of archives that are damaged or want a password."""


def add_prompts(app: FastAPI) -> None:
    """Adds them to an application that has a desk."""
    desk: Desk = app.state.desk

    @app.get("/v1/key")
    async def key(request: Request) -> dict[str, Any]:
        """Who is asking, and what for."""
        key: Key = request.state.key
        return {"name": key.name, "scopes": list(key.scopes), "prompts": list(key.prompts)}

    @app.get("/v1/prompts")
    async def listed(request: Request) -> dict[str, Any]:
        seen = [s for s in desk.catalog.served if request.state.key.sees(s.name)]
        return {"object": "list", "data": [card(desk, served) for served in seen]}

    @app.get("/v1/prompts/{name}")
    async def one(request: Request, name: str) -> dict[str, Any]:
        served = desk.find(request.state.key, name)
        if served is None:
            raise Refused(404, "model_not_found", f"there is no prompt {name[:80]!r}")
        task = served.prompt.task
        about = {
            "task": task and task.name, "template": task and task.source, "size": served.prompt.size
        }  # fmt: skip
        words = await asyncio.to_thread(desk.nearest_words, served)
        return {
            **card(desk, served), **about, "metrics": served.prompt.metrics, "nearest_words": words
        }  # fmt: skip

    @app.put("/v1/prompts/{name}")
    async def put(request: Request, name: str) -> dict[str, Any]:
        """A new version: the body is a zip of the folder that `save_prompt` writes."""
        body = await request.body()
        expected = expected_of(request)
        prompt = await asyncio.to_thread(unpacked, body)
        served = await asyncio.to_thread(lambda: desk.catalog.put(name, prompt, expected=expected))
        return card(desk, served)

    @app.delete("/v1/prompts/{name}/{version}")
    async def remove(request: Request, name: str, version: int) -> dict[str, Any]:
        expected = expected_of(request)
        work = lambda: desk.catalog.remove(name, version, expected=expected)  # noqa: E731
        await asyncio.to_thread(work)
        return {"id": f"{name}@{version}", "object": "model", "deleted": True}

    @app.put("/v1/prompts/{name}/aliases/{alias}")
    async def alias(
        request: Request, name: str, alias: str, body: schemas.AliasRequest
    ) -> dict[str, Any]:
        expected = expected_of(request)
        work = lambda: desk.catalog.alias(name, alias, body.version, expected=expected)  # noqa: E731
        await asyncio.to_thread(work)
        return card(desk, desk.find(request.state.key, f"{name}@{alias}"))

    @app.post("/v1/load_lora_adapter")
    async def load(body: schemas.LoadRequest) -> PlainTextResponse:
        """Another name for a version, until it is unloaded or the server ends."""
        given = (body.lora_name, body.lora_path)
        await asyncio.to_thread(lambda: desk.catalog.load(*given, replace=body.load_inplace))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: schemas.UnloadRequest) -> PlainTextResponse:
        desk.catalog.unload(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def expected_of(request: Request) -> str | None:
    """The digest of `If-Match`."""
    given = request.headers.get("if-match")
    return None if given is None else given.strip().strip('"')


def unpacked(body: bytes) -> Prompt:
    """The prompt of a zip: flat, a few files of known names, looked at before it is read.

    Raises:
      InputError: it is none.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
        entries = archive.infolist()
    except DAMAGED as error:
        raise InputError(f"the body is a zip of a prompt's folder: {error}") from error
    if not 0 < len(entries) <= FILES:
        raise InputError(f"a prompt has 1 to {FILES} files, got {len(entries)}")
    if sum(entry.file_size for entry in entries) > 64 * max(len(body), 1):
        raise InputError("the zip grows more than 64 times; send it less compressed")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "prompt")
        folder.mkdir()
        for entry in entries:
            name = entry.filename
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{name[:80]!r} is compressed in another way than by deflate")
            if entry.is_dir() or Path(name).name != name or "\\" in name:
                raise InputError(f"{name[:80]!r} is no file name; the zip has no folders")
            try:
                data = archive.read(entry)
            except DAMAGED as error:
                raise InputError(f"{name[:80]!r} cannot be unpacked: {error}") from error
            (folder / name).write_bytes(data)
        check_folder(folder)
        return load_shaped(folder)


def packed(folder: Path) -> bytes:
    """The body of a PUT, of the folder that `save_prompt` wrote."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return made.getvalue()
