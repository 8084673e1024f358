"""The questions of a distillation: inputs without answers, and the text that the teacher reads."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from prompt_jax.config import Config, InputError
from prompt_jax.data import hold_out, load_table, sample, splits
from prompt_jax.experiment.splits import Data
from prompt_jax.tasks import TASKS, Example, Message, Task, Text, answer_turn, parse_name, to_source
from prompt_jax.tasks.chat import SYSTEM
from prompt_jax.tasks.examples import SHAPES
from prompt_jax.tasks.task import messages_in
from prompt_jax.tasks.templates import columns_in, listing, parse
from prompt_jax.trees import Tokenizer

GAP = "\n\n"
"""Between the text and a question that is plain text."""


def read_context(config: Config) -> str:
    """The text that a prompt is to stand in for.

    Raises:
      InputError: no file is named, it cannot be read, or it is empty.
    """
    name = config.distil.context
    if not name:
        raise InputError(
            "no text to distil; give a file with it, e.g. --distil.context instruction.txt"
        )
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"distil.context {name} cannot be read as a text ({error}); give a file in UTF-8"
        ) from error
    if not text:
        raise InputError(f"distil.context {name} is empty; write the text into it")
    return text


def load_questions(config: Config) -> Data:
    """The questions, of which some are held out; their targets are empty until they are taught.

    Raises:
      InputError: a dataset without a known column of questions, or none to hold out.
    """
    name, options = config.data.task, config.data
    parts = splits(name)
    train: Sequence[Example]
    task, train, remarks = _read(config, name, parts[0] if len(parts) == 1 else "train")
    validation: Sequence[Example] = []
    if options.validation or "validation" in parts:
        validation = _read(config, options.validation or name, "validation")[1]
    held_out = not validation
    if held_out:
        train, validation = hold_out(train, options.validation_fraction, task, options.seed, name)
    tests = {"test": _read(config, options.test, "test")[1]} if options.test else {}
    draw = (options.max_test_examples, task, options.seed)
    tests = {split: sample(questions, *draw) for split, questions in tests.items()}
    train = sample(train, options.max_examples, task, options.seed)
    data = Data(task, train, validation, tests, held_out, remarks)
    # No more are taught than are scored: an answer of the teacher costs more than a score.
    return data._replace(validation=data.watched(config))


def _read(config: Config, name: str, split: str) -> tuple[Task, list[Example], tuple[str, ...]]:
    options, parts = config.task, splits(name)
    table = load_table(name, split if split in parts else parts[0], config.data.first_rows)
    place, row = table[0]
    source = options.source or _source(name, list(row))
    messages = options.chat == "auto" and bool(messages_in(source, row, place))
    task = Task(
        name=parse_name(name).key,
        source=source,
        target="{target}",
        kind="generation",
        # Of texts that part early, letters in common say more than whole answers.
        metrics=options.metrics or ("chrf", "exact_match"),
        chat=options.chat == "on" or messages,
        system=options.system,
    )
    return task, [Example(to_source(task, row, place), "") for place, row in table], table.remarks


def _source(name: str, columns: Sequence[str]) -> str:
    """The template of a dataset's input: the known one, one of a usual column, or the only one."""
    described = TASKS.get(parse_name(name).key)
    if described:
        return described.source
    for source, _ in SHAPES:
        if set(columns_in(source)) <= set(columns):
            return source
    if len(columns) == 1:
        return f"{{{columns[0]}}}"
    raise InputError(
        f'{name}: none of its columns is known to hold questions; give --task.source "{{column}}", '
        f"one of {listing(columns)}"
    )


def check_bare(task: Task, examples: Sequence[Example], tokenizer: Tokenizer) -> None:
    """Checks that no question has in it what is written around all questions.

    Raises:
      InputError: one has: it would be asked within a question, of which a prompt learns nothing.
    """
    literals = (piece.literal.strip() for piece in parse(task.source))
    marks = [literal for literal in literals if any(map(str.isalnum, literal))]
    if task.chat:
        cue = answer_turn(tokenizer, "").cue.strip().splitlines()[-1]
        marks += [cue] if any(map(str.isalnum, cue)) else []
    for i, example in enumerate(examples):
        text = example.source
        columns = text.columns if isinstance(text, Text) and text.columns else ((0, len(text)),)
        for mark in marks:
            if any(mark in text[start:stop] for start, stop in columns):
                place = text.place if isinstance(text, Text) else ""
                raise InputError(
                    f"{place or f'question {i + 1}'} has {mark!r} in it, which the template "
                    "writes around every question; give the bare questions"
                )


def with_context(text: str, context: str, *, in_system: bool) -> Text:
    """A question behind a text: in the system's turn of a chat, else right before the question.

    Args:
      in_system: whether the chat template has a system's turn.
    """
    text = text if isinstance(text, Text) else Text(text)
    if not text.turns:
        return Text(f"{context}{GAP}{text}", text.place)
    heads = text.turns[:1] if text.turns[0].role in SYSTEM else ()
    first, *others = text.turns[len(heads) :]
    words = GAP.join(filter(None, (context, *(turn.content for turn in heads))))
    if in_system:
        return text.with_turns((Message("system", words), first, *others))
    return text.with_turns((first._replace(content=f"{words}{GAP}{first.content}"), *others))


def without_context(text: str) -> str:
    """A question as one asks it who has no prompt: without a system's turn that is empty."""
    if not isinstance(text, Text) or not text.turns:
        return text
    first, *others = text.turns
    # A prompt stands in such a turn. Without one, some templates write a system text of their own.
    empty = first.role in SYSTEM and not first.content
    return text.with_turns(tuple(others)) if empty else text


def parts_of(context: str, tokenizer: Tokenizer, size: int | None) -> tuple[str, ...]:
    """The text in parts of so many tokens; None is all of it."""
    if size is None:
        return (context,)
    tokens = tokenizer(context, add_special_tokens=False, verbose=False)["input_ids"]
    starts = range(0, len(tokens), size)
    return tuple(tokenizer.decode(tokens[start : start + size]).strip() for start in starts)


def nearest_parts(questions: Sequence[str], parts: Sequence[str]) -> list[int]:
    """Of every question the part with most words in common, those in few parts counting more."""
    if len(parts) == 1:
        return [0] * len(questions)
    words = [_words(part) for part in parts]
    weights = {
        word: math.log(1 + len(parts) / sum(word in part for part in words))
        for word in set().union(*words)
    }
    shared = [
        [sum(weights[w] for w in _words(text) & part) for part in words] for text in questions
    ]
    return [row.index(max(row)) for row in shared]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
