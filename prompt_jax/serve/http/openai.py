"""The routes that OpenAI's clients know."""

import base64
from typing import Any

from fastapi import FastAPI, Request

from prompt_jax.config import InputError
from prompt_jax.data.files import whole
from prompt_jax.serve.http import schemas
from prompt_jax.serve.http.auth import View
from prompt_jax.serve.http.errors import JSON, Refused
from prompt_jax.serve.http.responses import Responses, gathered
from prompt_jax.serve.prompts import PLAIN
from prompt_jax.tasks.chat import messages_of
from prompt_jax.tasks.text import Messages


def add_openai(app: FastAPI) -> None:
    """Adds the routes to an application that has `state.responses`."""
    responses: Responses = app.state.responses

    @app.get("/v1/models")
    async def models(request: Request) -> JSON:
        view: View = request.state.view
        data = [responses.model(served) for served in (None, *view.served)]
        return {"object": "list", "data": data}

    @app.get("/v1/models/{model:path}")
    async def model(request: Request, model: str) -> JSON:
        return responses.model(request.state.view.find(model))

    @app.post("/v1/completions")
    async def completions(request: Request, body: schemas.CompletionRequest) -> Any:
        served = await responses.served(request.state.view, body)
        texts = [(served, text) for text in body.prompt]
        return await responses.respond(body, texts, "text_completion")

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: schemas.ChatRequest) -> Any:
        served = await responses.served(request.state.view, body)
        tokenizer = responses.engine.backbone.tokenizer
        text = (served or PLAIN).conversation(messages_in(body), tokenizer)
        return await responses.respond(body, [(served, text)], "chat.completion")

    @app.post("/v1/embeddings")
    async def embeddings(request: Request, body: schemas.EmbeddingRequest) -> JSON:
        served = await responses.served(request.state.view, body)
        texts = await responses.tokens(body.input)
        engine, timeout = responses.engine, responses.timeout
        answers = await gathered(engine.embed(served, t, timeout=timeout) for t in texts)
        data = []
        for index, answer in enumerate(answers):
            # OpenAI's clients read base64 as little-endian float32.
            vector = answer.vector.astype("<f4")
            packed = base64.b64encode(vector.tobytes()).decode()
            numbers = packed if body.encoding_format == "base64" else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": numbers})
        read = sum(map(len, texts))
        identity, usage = responses.identity(served), {"prompt_tokens": read, "total_tokens": read}
        responses.metrics.count("embedding", identity["model"], len(data), read=read)
        return {"object": "list", "data": data, "usage": usage, **identity}


def messages_in(body: schemas.ChatRequest) -> Messages:
    """The messages of a request; `Refused` for a part that is no text."""
    try:
        messages = [whole(message.model_dump()) for message in body.messages]
        return messages_of(messages, "the request")
    except InputError as error:
        raise Refused(400, "unsupported", str(error), "messages") from error
