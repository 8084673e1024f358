"""The routes that OpenAI's clients know."""

import base64
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request

from prompt_jax.serve.http import schemas
from prompt_jax.serve.http.answers import Refused
from prompt_jax.serve.http.desk import Desk, card, together
from prompt_jax.serve.http.keys import Key
from prompt_jax.serve.http.spoken import respond
from prompt_jax.serve.words import flat


def add_openai(app: FastAPI) -> None:
    """Adds them to an application that has a desk."""
    desk: Desk = app.state.desk

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        key: Key = request.state.key
        seen = [served for served in desk.catalog.served if key.sees(served.name)]
        return {"object": "list", "data": [card(desk, None), *(card(desk, s) for s in seen)]}

    @app.get("/v1/models/{model:path}")
    async def model(request: Request, model: str) -> dict[str, Any]:
        return card(desk, desk.find(request.state.key, model))

    @app.post("/v1/completions")
    async def completions(request: Request, body: schemas.CompletionRequest) -> Any:
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        served = await desk.meant(request.state.key, body)
        return await respond(desk, body, [(served, text) for text in texts], "text_completion")

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: schemas.ChatRequest) -> Any:
        served = await desk.meant(request.state.key, body)
        return await respond(desk, body, [(served, spoken(body.messages))], "chat.completion")

    @app.post("/v1/embeddings")
    async def embeddings(request: Request, body: schemas.EmbeddingRequest) -> dict[str, Any]:
        texts = [body.input] if isinstance(body.input, str) else body.input
        served = await desk.meant(request.state.key, body)
        asked = [await desk.asked(served, text) for text in texts]
        found = await together(
            desk.engine.embed(each.reference, each.tokens, timeout=desk.timeout) for each in asked
        )
        data = []
        for index, each in enumerate(found):
            vector: Any = each.vector.astype("<f4")
            packed = base64.b64encode(vector.tobytes()).decode()
            vector = packed if body.encoding_format == "base64" else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        read = sum(len(each.tokens) for each in asked)
        about, usage = desk.about(served), {"prompt_tokens": read, "total_tokens": read}
        desk.count("embedding", about["model"], len(data), read=read)
        return {"object": "list", "data": data, "usage": usage, **about}


def spoken(messages: Sequence[schemas.Message]) -> str:
    """A chat as one text, see `flat`.

    Raises:
      Refused: a part that is no text.
    """

    def words(message: schemas.Message) -> str:
        if isinstance(message.content, str):
            return message.content
        if any(part.get("type") != "text" for part in message.content):
            raise Refused(400, "unsupported", "only parts of type text are supported", "messages")
        return "".join(str(part.get("text", "")) for part in message.content)

    return flat([(message.role, words(message)) for message in messages])
