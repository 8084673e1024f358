"""Routes that OpenAI has not: classes, tags and spans, and a prompt for every text."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from jaxtyping import Float, Int

from prompt_jax.answers.spans import best_span
from prompt_jax.answers.tags import tagged_words
from prompt_jax.serve.http import schemas, shapes
from prompt_jax.serve.http.auth import View
from prompt_jax.serve.http.errors import JSON, invalid
from prompt_jax.serve.http.responses import Responses, gathered
from prompt_jax.serve.http.shapes import answers
from prompt_jax.serve.http.writing import GENERATION, respond
from prompt_jax.serve.prompts import PLAIN, Served


def add_native(app: FastAPI) -> None:
    """Adds the routes to an application that has `state.responses`."""
    responses: Responses = app.state.responses

    @app.post("/v1/classify", **answers(shapes.Classification))
    async def classify(request: Request, body: schemas.ClassifyRequest) -> shapes.Classification:
        if body.prompts is not None:
            return await _ensemble(responses, request.state.view, body)
        served = await responses.served(request.state.view, body)
        labels = labels_of(body.labels, served or PLAIN, responses.unknown)
        texts = await responses.tokens(body.input, served, body.truncate_prompt_tokens)
        engine, timeout = responses.engine, responses.timeout
        if served is not None and served.classes:
            heads = await gathered(engine.classify(served, t, timeout=timeout) for t in texts)
            # Whatever the order of the request's labels is, a class keeps its name.
            order = [served.class_names.index(label) for label in labels]
            scores = [answer.log_probs[order] for answer in heads]
        else:
            ranked = await gathered(engine.score(served, t, labels, timeout=timeout) for t in texts)
            scores = [answer.log_likelihoods for answer in ranked]
        data = [classification(index, labels, row) for index, row in enumerate(scores)]
        identity = responses.identity(served)
        read = sum(map(len, texts))
        virtual = len(texts) * (served or PLAIN).virtual_tokens
        responses.metrics.count(identity["model"], len(data), read=read, virtual=virtual)
        return shapes.Classification(object="list", data=data, **identity)

    @app.post("/v1/tags", **answers(shapes.Tagging))
    async def tags(request: Request, body: schemas.MarkRequest) -> shapes.Tagging:
        served, rows = await _marked(responses, request.state.view, body, "tagging")
        data = [tagged(index, served.class_names, *row) for index, row in enumerate(rows)]
        identity = responses.identity(served)
        return shapes.Tagging(object="list", data=data, **identity)

    @app.post("/v1/spans", **answers(shapes.Spans))
    async def spans(request: Request, body: schemas.MarkRequest) -> shapes.Spans:
        served, rows = await _marked(responses, request.state.view, body, "span")
        labels = served.task.labels if served.task else ()
        data = [answer_span(index, labels, *row) for index, row in enumerate(rows)]
        identity = responses.identity(served)
        return shapes.Spans(object="list", data=data, **identity)

    @app.post("/v1/generate", **answers(shapes.Completion, streams=True))
    async def generate(request: Request, body: schemas.GenerateRequest) -> JSON | StreamingResponse:
        texts, names, view = body.text, body.prompts, request.state.view
        if names is None:
            prompts = [await responses.served(view, body)] * len(texts)
        elif len(names) == len(texts):
            prompts = [view.find(name or "") for name in names]
        else:
            raise invalid("prompts", f"{len(texts)} texts and {len(names)} prompts")
        rows = [
            (served, served.trained_form(text) if served and isinstance(text, str) else text)
            for served, text in zip(prompts, texts, strict=True)
        ]
        return await respond(responses, body, rows, GENERATION)


class MarkedText(NamedTuple):
    """What a head says of the tokens of a text, and where they stand in it."""

    log_probs: Float[np.ndarray, "R C"]
    text: str
    places: Int[np.ndarray, "T 2"]


async def _marked(
    responses: Responses, view: View, body: schemas.MarkRequest, kind: str
) -> tuple[Served, list[MarkedText]]:
    """The texts of a request as the prompt's head marks them.

    Raises:
      InputError: the prompt has no head of this kind.
    """
    served = await responses.served(view, body) or PLAIN
    served.check_marks(kind)
    located = await responses.located(body.input, body.truncate_prompt_tokens)
    engine, timeout = responses.engine, responses.timeout
    marks = await gathered(engine.mark(served, t, timeout=timeout) for t in located.tokens)
    read = sum(map(len, located.tokens))
    virtual = len(marks) * served.virtual_tokens
    responses.metrics.count(served.reference, len(marks), read=read, virtual=virtual)
    rows = zip(marks, body.input, located.places, strict=True)
    return served, [MarkedText(mark.log_probs, text, places) for mark, text, places in rows]


def tagged(
    index: int,
    names: Sequence[str],
    log_probs: Float[np.ndarray, "T C"],
    text: str,
    places: Int[np.ndarray, "T 2"],
) -> shapes.TaggedText:
    """The tag of every word of a text.

    Args:
      names: of the tags.
    """
    words = [
        shapes.TaggedWord(
            word=text[word.start : word.stop],
            start=word.start,
            end=word.stop,
            tag=names[word.tag],
            probability=None if word.log_prob is None else math.exp(word.log_prob),
        )  # fmt: skip
        for word in tagged_words(log_probs, text, places)
    ]
    return {"index": index, "words": words}


def answer_span(
    index: int,
    labels: tuple[str, ...],
    log_probs: Float[np.ndarray, "2 T"],
    text: str,
    places: Int[np.ndarray, "T 2"],
) -> shapes.AnswerSpan:
    """The part of a text that answers its question.

    Args:
      labels: of the task, see `answers.spans.best_span`.
    """
    span = best_span(log_probs, places, labels)
    return {
        "index": index, "text": text[span.start : span.stop], "start": span.start,
        "end": span.stop, "probability": math.exp(span.log_prob),
    }  # fmt: skip


async def _ensemble(
    responses: Responses, view: View, body: schemas.ClassifyRequest
) -> shapes.Classification:
    if not body.labels:
        raise invalid("labels", "an ensemble needs them")
    engine = responses.engine
    members = [view.find(name) for name in body.prompts or ()]
    prompts = [served for served in members if served is not None]
    if len(prompts) < len(members):
        raise invalid("prompts", "the base has no say in an ensemble")
    labels = body.labels
    for served in prompts:
        if served.head:
            raise invalid("prompts", f"{served.reference} has a head, and label words are ranked")
        labels = labels_of(labels, served, responses.unknown)
    texts = await responses.tokens(
        body.input, prompts[0], body.truncate_prompt_tokens, times=len(prompts)
    )
    options = {"how": body.how, "weights": body.weights, "timeout": responses.timeout}
    joint = await gathered(engine.ensemble(prompts, t, labels, **options) for t in texts)
    data = [classification(i, labels, answer.scores) for i, answer in enumerate(joint)]
    for row, answer in zip(data, joint, strict=True):
        row["label"] = labels[answer.best]
    names = [served.reference for served in prompts]
    read = len(names) * sum(map(len, texts))
    virtual = len(texts) * sum(served.virtual_tokens for served in prompts)
    responses.metrics.count("+".join(names), len(data), read=read, virtual=virtual)
    digests = [served.digest for served in prompts]
    return {"object": "list", "data": data, "prompts": names, "prompt_digests": digests}


def labels_of(
    labels: Sequence[str] | None, served: Served, unknown: Callable[[str], bool]
) -> Sequence[str]:
    """The labels to choose among: those of a request, or the prompt's own.

    Args:
      unknown: whether a label has letters that the tokenizer does not know.

    Raises:
      Refused: they are not the classes of the prompt's head, or two of them have the same tokens.
      InputError: the prompt gives no classes.
    """
    served.check_classifies()
    classes = served.class_names if served.classes else served.choices
    if labels is None:
        if not classes:
            raise invalid("labels", "the prompt has none of its own; give some")
        return classes
    twins = [label for i, label in enumerate(labels) if label in labels[:i]]
    if twins:
        raise invalid("labels", f"{twins[0]!r} is there twice; give every label once")
    if served.classes:
        if set(labels) != set(classes):
            raise invalid(
                "labels",
                f"the head of {served.reference} has the classes {', '.join(classes)}; give these "
                "in any order, or leave labels out",
            )
        return labels
    for label in labels:
        if label not in classes and unknown(label):
            raise invalid("labels", f"{label!r} has letters that the tokenizer does not know")
    return labels


def classification(
    index: int, labels: Sequence[str], scores: Float[np.ndarray, " C"]
) -> shapes.Classified:
    """The likeliest label of a text, and the probability of every one among them.

    Args:
      scores: log-probabilities up to a constant.
    """
    shares = np.exp(scores - np.logaddexp.reduce(scores)).tolist()
    probs = dict(zip(labels, shares, strict=True))
    return {"index": index, "label": labels[int(scores.argmax())], "probs": probs}
