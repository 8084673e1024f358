"""Routes of our own: classes, and a prompt for every text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request

from prompt_jax.config import InputError
from prompt_jax.serve.http import schemas
from prompt_jax.serve.http.desk import Desk, invalid, together
from prompt_jax.serve.http.keys import Key
from prompt_jax.serve.http.spoken import respond


def add_native(app: FastAPI) -> None:
    """Adds them to an application that has a desk."""
    desk: Desk = app.state.desk

    @app.post("/v1/classify")
    async def classify(request: Request, body: schemas.ClassifyRequest) -> dict[str, Any]:
        texts = [body.input] if isinstance(body.input, str) else body.input
        if body.prompts is not None:
            return await _ensemble(desk, request.state.key, body, texts)
        served = await desk.meant(request.state.key, body)
        labels = body.labels or list(
            served.prompt.task.choices if served and served.prompt.task else ()
        )
        asked = [await desk.asked(served, text) for text in texts]
        if served is not None and served.prompt.method.num_labels is not None:
            heads = await together(
                desk.engine.classify(served.reference, each.tokens, timeout=desk.timeout)
                for each in asked
            )
            log_probs = [found.log_probs for found in heads]
        elif labels:
            scored = await together(
                desk.engine.score(each.reference, each.tokens, labels, timeout=desk.timeout)
                for each in asked
            )
            log_probs = [normalised(each.log_likelihoods) for each in scored]
        else:
            raise invalid("labels", "the prompt has none of its own")
        data = [told(index, labels, each) for index, each in enumerate(log_probs)]
        about = desk.about(served)
        read = sum(len(each.tokens) for each in asked)
        desk.count("classification", about["model"], len(data), read=read)
        return {"object": "list", "data": data, **about}

    @app.post("/v1/generate")
    async def generate(request: Request, body: schemas.GenerateRequest) -> Any:
        texts = [body.text] if isinstance(body.text, str) else body.text
        names = body.prompts
        if names is None:
            wanted = [await desk.meant(request.state.key, body)] * len(texts)
        elif len(names) == len(texts):
            wanted = [desk.find(request.state.key, name or "") for name in names]
        else:
            raise invalid("prompts", f"{len(texts)} texts and {len(names)} prompts")
        found = await respond(desk, body, list(zip(wanted, texts, strict=True)), "generation")
        if isinstance(found, dict):
            for own, served in zip(
                found["choices"], [w for w in wanted for _ in range(body.n)], strict=True
            ):
                own |= {k: v for k, v in desk.about(served).items() if k != "system_fingerprint"}
        return found


async def _ensemble(
    desk: Desk, key: Key, body: schemas.ClassifyRequest, texts: Sequence[str]
) -> dict[str, Any]:
    if not body.labels:
        raise invalid("labels", "an ensemble needs them")
    served = [desk.find(key, name) for name in body.prompts or ()]
    if None in served:
        raise invalid("prompts", "the base has no say in an ensemble")
    names = [each.reference for each in served if each is not None]
    asked = [await desk.asked(None, text) for text in texts]
    given = {"how": body.how, "weights": body.weights, "timeout": desk.timeout}
    found = await together(
        desk.engine.ensemble(names, each.tokens, body.labels, **given) for each in asked
    )
    data = [told(i, body.labels, normalised(each.scores)) for i, each in enumerate(found)]
    for own, each in zip(data, found, strict=True):
        own["label"] = body.labels[each.best]
    read = len(names) * sum(len(each.tokens) for each in asked)
    desk.count("ensemble", "+".join(names), len(data), read=read)
    digests = [each.digest for each in served if each is not None]
    return {"object": "list", "data": data, "prompts": names, "prompt_digests": digests}


def normalised(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities among the candidates."""
    return scores - np.logaddexp.reduce(scores)


def told(index: int, labels: Sequence[str], log_probs: np.ndarray) -> dict[str, Any]:
    """A classification."""
    names = list(labels) or [str(i) for i in range(len(log_probs))]
    if len(names) != len(log_probs):
        raise InputError(f"the head has {len(log_probs)} classes and {len(names)} labels are given")
    probs = dict(zip(names, np.exp(log_probs).tolist(), strict=True))
    return {"index": index, "label": names[int(log_probs.argmax())], "probs": probs}
