"""The teacher of a distillation: the frozen model with a text in its context, which answers once.

Answers are files of some rows each, named by all that they depend on: a run that was stopped goes
on with the next file, and another run with the same teacher reads them all.
"""

import dataclasses
import hashlib
import itertools
import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prompt_jax import disk
from prompt_jax.answers import tokenizer_of
from prompt_jax.answers.distilled import teach
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, WritingConfig
from prompt_jax.data import encode
from prompt_jax.experiment.questions import nearest_parts, parts_of, with_context
from prompt_jax.experiment.splits import Data
from prompt_jax.lines import Say, clock_time
from prompt_jax.tasks import Example, Lesson, Likely, Text, place_of
from prompt_jax.trees import Tokenizer

ROWS = 64
"""Questions of a file."""
ALL = 2**30
"""Tokens: nothing that a teacher reads is cut, and what is too long is refused."""


class Teacher(NamedTuple):
    """A frozen model with a text in its context."""

    config: Config
    backbone: Backbone
    context: str
    folder: Path
    """Of files with its answers; those that are there are read."""

    @property
    def in_system(self) -> bool:
        """Whether the chat template has a system's turn for the text."""
        return self.backbone.config.opens("system")

    @property
    def all_parts(self) -> tuple[str, ...]:
        """The text itself, or its chunks."""
        return parts_of(self.context, self.backbone.tokenizer, self.config.distil.chunk)

    def parts(self, questions: Sequence[str]) -> list[str]:
        """The part of the text that each question is put to."""
        parts = self.all_parts
        return [parts[i] for i in nearest_parts(questions, parts)]

    def sources(self, examples: Sequence[Example]) -> list[Text]:
        """What the teacher reads."""
        questions = [example.source for example in examples]
        pairs = zip(questions, self.parts(questions), strict=True)
        return [with_context(text, part, in_system=self.in_system) for text, part in pairs]

    def rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Texts as tokens, whole.

        Raises:
          InputError: they do not fit the model, or the window that the run allows.
        """
        tokenizer = tokenizer_of(self.backbone)
        rows = encode(tokenizer, texts, ALL)
        for i, row in enumerate(rows):
            self.backbone.check_tokens(row, place_of(texts[i], i))
        behind = self.backbone.target_place == "behind"
        written = self.config.eval.max_new_tokens if behind else 0
        positions = self.backbone.config.max_positions
        limit = positions or self.config.data.max_total_length
        longest = max(map(len, rows))
        over = longest + written - limit
        if over > 0:
            owner = repr(self.backbone.name) if positions else "data.max_total_length"
            length = len(tokenizer(self.context, add_special_tokens=False)["input_ids"])
            room = max(min(length, self.config.distil.chunk or length) - over, 0) // 8 * 8
            remedy = f"read it in parts (--distil.chunk {room}), or " if room else ""
            raise InputError(
                f"the text is {length} tokens long, with the longest question {longest}"
                f"{f' and {written} to answer' if written else ''}: {over} over the {limit} of "
                f"{owner}; {remedy}shorten the text or the questions"
            )
        return rows


def folder_of(config: Config) -> Path:
    """Where the answers of a run's teacher are: one that runs share, or within the run."""
    shared = config.distil.cache
    return Path(shared).expanduser() if shared else Path(config.out) / "teacher"


def taught(teacher: Teacher, data: Data, say: Say) -> Data:
    """The data with the teacher's answers as targets, and a lesson at every token of them.

    Raises:
      InputError: the answers are empty, or all alike, so that they teach nothing.
    """
    sets = {"train": data.train, "validation": data.validation, **data.tests}
    examples = [example for part in sets.values() for example in part]
    answers, lessons = answered(teacher, teacher.sources(examples), say)
    marker = teacher.config.distil.answer_after
    if marker:
        answers, lessons = _conclusions(teacher, answers, lessons, say)
    _check_answers([answer for answer in answers if answer or not marker], teacher, say)
    full = iter(
        example._replace(target=text, lesson=lesson)
        for example, text, lesson in zip(examples, answers, lessons, strict=True)
    )
    filled = {
        name: [e for e in itertools.islice(full, len(part)) if e.target or not marker]
        for name, part in sets.items()
    }
    _check_sets(filled, marker)
    train, validation = filled.pop("train"), filled.pop("validation")
    return data._replace(train=train, validation=validation, tests=filled)


def _conclusions(
    teacher: Teacher, answers: Sequence[str], lessons: Sequence[Lesson], say: Say
) -> tuple[list[str], list[Lesson]]:
    """What the teacher says behind its thoughts; nothing where it does not come to an end."""
    marker, tokenizer = teacher.config.distil.answer_after, teacher.backbone.tokenizer
    ends = [behind(lesson, marker, tokenizer) for lesson in lessons]
    texts = tokenizer.batch_decode([end.tokens for end in ends], skip_special_tokens=True)
    conclusions = [text.strip() for text in texts]
    missing = sum(not text for text in conclusions)
    if missing == len(conclusions):
        raise InputError(
            f"none of the teacher's {len(answers)} answers has words behind {marker!r}, as "
            f"{answers[0]!r:.80}; have the text ask for it, or raise eval.max_new_tokens, now "
            f"{teacher.config.eval.max_new_tokens}"
        )
    if missing:
        say(f"{missing:,} of {len(answers):,} answers have no words behind {marker!r}: left out")
    return conclusions, ends


def behind(lesson: Lesson, marker: str, tokenizer: Tokenizer) -> Lesson:
    """The part of a lesson behind the first place where a text stands in its answer."""
    for length in range(1, len(lesson.tokens)):
        if marker in tokenizer.decode(lesson.tokens[:length], skip_special_tokens=True):
            words, log_probs = lesson.likely
            return Lesson(lesson.tokens[length:], Likely(words[length:], log_probs[length:]))
    return Lesson(lesson.tokens[:0], Likely(lesson.likely.words[:0], lesson.likely.log_probs[:0]))


def _check_sets(sets: Mapping[str, Sequence[Example]], marker: str) -> None:
    """Checks that questions are left in every set."""
    for name, part in sets.items():
        if not part:
            raise InputError(
                f"no {name} question has an answer with words behind {marker!r}; give more "
                "questions"
            )


def answered(teacher: Teacher, sources: Sequence[str], say: Say) -> tuple[list[str], list[Lesson]]:
    """The answers to what the teacher reads: as texts, and as lessons."""
    lessons = _lessons(teacher, teacher.rows(sources), say)
    decode = teacher.backbone.tokenizer.batch_decode
    texts = decode([lesson.tokens for lesson in lessons], skip_special_tokens=True)
    return [text.strip() for text in texts], lessons


def _check_answers(answers: Sequence[str], teacher: Teacher, say: Say) -> None:
    empty = sum(not answer for answer in answers)
    remedy = (
        f"{teacher.config.distil.context} so that the model follows it, e.g. with examples, or use "
        "a model that follows instructions"
    )
    if empty == len(answers):
        raise InputError(
            f"the teacher's answers to all {len(answers)} questions are empty; write {remedy}"
        )
    if len(set(answers)) == 1 < len(answers):
        raise InputError(
            f"the teacher answers {answers[0]!r:.60} to all {len(answers)} questions, which "
            f"teaches nothing about the text; give other questions, or write {remedy}"
        )
    if empty:
        say(f"warning: {empty:,} of the teacher's {len(answers):,} answers are empty")
    for answer in answers[:2]:
        say(f"the teacher answers: {answer!r:.100}")


def _lessons(teacher: Teacher, rows: list[np.ndarray], say: Say) -> list[Lesson]:
    """The lessons of all rows, from files where these are there."""
    with disk.writing(teacher.folder):
        teacher.folder.mkdir(parents=True, exist_ok=True)
    lessons: list[Lesson] = []
    config, begun, written = teacher.config, time.monotonic(), 0
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        path = teacher.folder / f"{_digest(teacher, part)}.npz"
        if not path.is_file():
            _write(path, teach(teacher.backbone, part, config.scoring, config.distil.top))
            written += len(part)
        lessons += _read(path, teacher.backbone.config.vocab_size)
        seconds = (time.monotonic() - begun) * (len(rows) - len(lessons)) / max(written, 1)
        left = f", {clock_time(int(seconds))} left" if written else ""
        say(f"teacher: {len(lessons):,} of {len(rows):,} questions answered{left}")
    return lessons


def _digest(teacher: Teacher, rows: Sequence[np.ndarray]) -> str:
    """Of all that answers depend on: what is read, the model, and how it writes."""
    config, digest = teacher.config, hashlib.sha256()
    writing = {f.name: getattr(config.eval, f.name) for f in dataclasses.fields(WritingConfig)}
    identity = {**teacher.backbone.identity, "dtype": config.frozen.dtype, "writing": writing}
    digest.update(json.dumps([identity, config.distil.top], sort_keys=True).encode())
    for row in rows:
        digest.update(np.int64(len(row)).tobytes() + row.tobytes())
    return digest.hexdigest()[:32]


def _write(path: Path, lessons: Sequence[Lesson]) -> None:
    likely = [lesson.likely for lesson in lessons]
    with disk.replacing(path) as fresh:
        np.savez(
            fresh,
            lengths=np.array([len(lesson.tokens) for lesson in lessons]),
            tokens=np.concatenate([lesson.tokens for lesson in lessons]),
            words=np.concatenate([part.words for part in likely]),
            log_probs=np.concatenate([part.log_probs for part in likely]),
        )


def _read(path: Path, vocabulary: int) -> list[Lesson]:
    """The lessons of a file.

    Raises:
      InputError: it is damaged, or of a teacher with another vocabulary.
    """
    try:
        with np.load(path) as file:
            names = ("lengths", "tokens", "words", "log_probs")
            lengths, tokens, words, log_probs = (file[name] for name in names)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it, and its questions are answered again"
        ) from error
    largest = int(max(tokens.max(), words.max()))
    if largest >= vocabulary:
        raise InputError(
            f"{path} has token {largest} and the model {vocabulary} words: its teacher had another "
            "tokenizer; delete it, or give another distil.cache"
        )
    ends = np.cumsum(lengths)[:-1]
    columns = (np.split(array, ends) for array in (tokens, words, log_probs))
    return [Lesson(row, Likely(w, p)) for row, w, p in zip(*columns, strict=True)]
