"""Self-study: the model itself writes the questions that a text is distilled with, or a summary.

As in Cartridges (Eyuboglu et al. 2025), a handful of recipes ask for questions of different kinds.
A request for a question is answered as any other question is, by the teacher and once.
"""

import dataclasses
from collections.abc import Sequence

from prompt_jax.config import Config, EvalConfig, InputError
from prompt_jax.data import hold_out
from prompt_jax.experiment.questions import with_context
from prompt_jax.experiment.splits import Data, for_backbone
from prompt_jax.experiment.teacher import Teacher, answered
from prompt_jax.lines import Say
from prompt_jax.tasks import Example, Task, Text, to_source

RECIPES = (
    "Write one question that somebody may ask you now. Write the question and nothing else.",
    "Write one question that the text above answers. Write the question and nothing else.",
    "Ask for a short summary of one part of the text above. Write the request and nothing else.",
    "Ask for help with one thing that the text above is useful for. Write the request and nothing "
    "else.",
    "Ask to put some facts of the text above into a list or a table. Write the request and nothing "
    "else.",
)
"""Requests for a question: of a user, of a fact, of a summary, of a use, of a structure."""
SUMMARY = (
    "Write the text above again in at most {words} words, so that they say the most important of "
    "it. Write these words and nothing else."
)
LONGEST = 48
"""Tokens of a question."""


def study_sources(teacher: Teacher) -> list[Text]:
    """Requests for `distil.write` questions, each with a part of the text in the context."""
    # The number makes each request another one: equal requests would draw equal answers.
    requests = [
        Text(f"{RECIPES[i % len(RECIPES)]} This is question {i + 1}.", f"recipe {i + 1}")
        for i in range(teacher.config.distil.write)
    ]
    parts = teacher.all_parts
    # Parts change slower than recipes, so that each part gets a question of every kind.
    turns = [parts[i // len(RECIPES) % len(parts)] for i in range(len(requests))]
    return _sources(teacher, requests, turns)


def _sources(teacher: Teacher, requests: Sequence[Text], parts: Sequence[str]) -> list[Text]:
    """Requests, each with its part of the text in the context."""
    config, backbone = teacher.config, teacher.backbone
    examples = [Example(text, "") for text in requests]
    rendered = for_backbone(Data(_task(config), examples, [], {}), config, backbone).train
    return [
        with_context(example.source, part, in_system=teacher.in_system)
        for example, part in zip(rendered, parts, strict=True)
    ]


def summaries(teacher: Teacher, length: int, say: Say) -> dict[str, str]:
    """A summary of every part of the text, as the model writes it.

    Args:
      length: tokens of each at most; of 0 tokens there is none.

    Returns:
      nothing where the model's window has no room for the request behind the text, which is said.
    """
    if not length:
        return {}
    parts, config = teacher.all_parts, teacher.config
    request = Text(SUMMARY.format(words=max(1, length * 3 // 4)), "the request for a summary")
    writing = EvalConfig(max_new_tokens=length, batch_size=config.scoring.rows)
    writer = teacher._replace(config=dataclasses.replace(config, eval=writing))
    sources = _sources(writer, [request] * len(parts), parts)
    try:
        writer.rows(sources)
    except InputError as error:  # The questions, which fit, are shorter.
        say(f"the report has no row for a summary of the text: {error}")
        return {}
    texts, _ = answered(writer, sources, lambda line: None)
    return dict(zip(parts, texts, strict=True))


def studied(teacher: Teacher, say: Say) -> Data:
    """The questions that the model writes, of which some are held out.

    Raises:
      InputError: it writes too few different ones to hold any out.
    """
    # Drawn, since the likeliest question to a text is one and the same.
    drawing = EvalConfig(
        max_new_tokens=LONGEST,
        temperature=1.0,
        top_p=0.95,
        seed=teacher.config.eval.seed,
        batch_size=teacher.config.scoring.rows,
    )
    config = dataclasses.replace(teacher.config, eval=drawing)
    texts, _ = answered(teacher._replace(config=config), study_sources(teacher), say)
    return of_texts(config, texts)


def of_texts(config: Config, texts: Sequence[str]) -> Data:
    """Questions as a model wrote them: the first line of each, and every one once."""
    lines = [text.strip().splitlines()[0].strip() for text in texts if text.strip()]
    questions = list(dict.fromkeys(lines))
    if len(questions) < 2:
        raise InputError(
            f"the model writes {len(questions)} different question(s) in {len(texts)} tries; give "
            "a file of them (distil.questions), or use a model that follows instructions"
        )
    task, options = _task(config), config.data
    rows = [(f"question {i}", {"text": line}) for i, line in enumerate(questions, start=1)]
    examples = [Example(to_source(task, row, place), "") for place, row in rows]
    draw = (options.validation_fraction, task, options.seed, "distil.write")
    train, validation = hold_out(examples, *draw)
    data = Data(task, train, validation, {}, True)
    return data._replace(validation=data.watched(config))


def _task(config: Config) -> Task:
    return Task(
        name="self-study",
        source=config.task.source or "{text}",
        target="{target}",
        kind="generation",
        metrics=("chrf", "exact_match"),
        chat=config.task.chat == "on",
        system=config.task.system,
    )
