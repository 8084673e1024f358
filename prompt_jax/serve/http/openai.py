"""The routes that OpenAI's clients know."""

import base64
from collections.abc import Sequence
from typing import TypeAlias

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from prompt_jax.config import InputError
from prompt_jax.data.json_rows import whole
from prompt_jax.serve.http import schemas, shapes
from prompt_jax.serve.http.auth import View
from prompt_jax.serve.http.errors import JSON, Refused
from prompt_jax.serve.http.responses import Responses, gathered
from prompt_jax.serve.http.shapes import answers
from prompt_jax.serve.http.writing import CHAT, COMPLETION, respond
from prompt_jax.serve.prompts import PLAIN
from prompt_jax.tasks.chat import messages_of
from prompt_jax.tasks.text import Messages

Answered: TypeAlias = JSON | StreamingResponse
"""A response, whole or streamed."""


def add_openai(app: FastAPI) -> None:
    """Adds the routes to an application that has `state.responses`."""
    responses: Responses = app.state.responses

    @app.get("/v1/models", **answers(shapes.Models))
    async def models(request: Request) -> shapes.Models:
        view: View = request.state.view
        data = [responses.model(served) for served in (None, *view.served)]
        return {"object": "list", "data": data}

    @app.get("/v1/models/{model:path}", **answers(shapes.Model))
    async def model(request: Request, model: str) -> shapes.Model:
        return responses.model(request.state.view.find(model))

    @app.post("/v1/completions", **answers(shapes.Completion, streams=True))
    async def completions(request: Request, body: schemas.CompletionRequest) -> Answered:
        served = await responses.served(request.state.view, body)
        texts = [(served, text) for text in body.prompt]
        return await respond(responses, body, texts, COMPLETION)

    @app.post("/v1/chat/completions", **answers(shapes.ChatCompletion, streams=True))
    async def chat(request: Request, body: schemas.ChatRequest) -> Answered:
        served = await responses.served(request.state.view, body)
        tokenizer = responses.engine.backbone.tokenizer
        text = (served or PLAIN).conversation(messages_in(body.messages), tokenizer)
        return await respond(responses, body, [(served, text)], CHAT)

    @app.post("/v1/embeddings", **answers(shapes.Embeddings))
    async def embeddings(request: Request, body: schemas.EmbeddingRequest) -> shapes.Embeddings:
        served = await responses.served(request.state.view, body)
        texts = await responses.tokens(body.input, truncate=body.truncate_prompt_tokens)
        engine, timeout = responses.engine, responses.timeout
        vectors = await gathered(engine.embed(served, t, timeout=timeout) for t in texts)
        data: list[shapes.Embedding] = []
        for index, answer in enumerate(vectors):
            # OpenAI's clients read base64 as little-endian float32.
            vector = answer.vector.astype("<f4")
            packed = base64.b64encode(vector.tobytes()).decode()
            numbers = packed if body.encoding_format == "base64" else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": numbers})
        read = sum(map(len, texts))
        identity = responses.identity(served)
        virtual = len(texts) * (served or PLAIN).virtual_tokens
        responses.metrics.count(identity["model"], len(data), read=read, virtual=virtual)
        usage = shapes.ReadUsage(prompt_tokens=read, total_tokens=read)
        return shapes.Embeddings(object="list", data=data, usage=usage, **identity)


def messages_in(messages: Sequence[schemas.Message]) -> Messages:
    """The messages of a request; `Refused` for a part that is no text."""
    try:
        return messages_of([whole(message.spoken) for message in messages], "the request")
    except InputError as error:
        raise Refused(400, "unsupported", str(error), "messages") from error
