"""Whether a pronoun stands for the referent that the row names: WSC, in the format of T5.

    The dog chased the cat until *it* got tired.   span1_text: the dog   label: True

The model writes what the pronoun stands for, and learns it from the rows whose referent is right.
An answer is True where it is the referent in other words: without case and determiners, all words
of one are among those of the other.
"""

from collections.abc import Sequence
from typing import Any

from prompt_jax.answers import written
from prompt_jax.answers.multiple_choice import candidates_of
from prompt_jax.answers.readout import Answers, Places, Readout
from prompt_jax.tasks import Example, Task, Text, label_word
from prompt_jax.tasks.task import Kind, filled_source, filled_target
from prompt_jax.tasks.templates import fill
from prompt_jax.tasks.text import Record
from prompt_jax.trees import Tokenizer

RIGHT, WRONG = "True", "False"
TRUTH = Task(name="truth", source="", target="", labels=(WRONG, RIGHT))
"""Whose label words say whether a referent is right."""
DETERMINERS = frozenset(
    "a an few her his each every many much my our some that the their these this those which "
    "whose your".split()
)
"""Words that make no difference between two referents, as T5 compares them."""


def source(task: Task, row: Record, place: str) -> Text:
    """The source, with the referent that the row asks about."""
    referent = str(fill(task.labels[0], row, place, "referent"))
    return filled_source(task, row, place).with_candidates((referent,))


def example(task: Task, row: Record, place: str) -> Example:
    """The source with its referent, and whether that is right."""
    right = label_word(TRUTH, filled_target(task.target, row, place), place)
    return Example(source(task, row, place), right)


def taught(task: Task, examples: Sequence[Example]) -> list[Example]:
    """The referents that are right, as texts to write."""
    return [
        example._replace(target=candidates_of(example.source)[0])
        for example in examples
        if example.target == RIGHT
    ]


def always_wrong(
    task: Task, train: Sequence[Example], test: Sequence[Example]
) -> tuple[str, list[str]]:
    """`False` for every test example: training has right referents only, and knows no majority."""
    return "always False", [WRONG] * len(test)


def judged(text: str, referent: str) -> str:
    """Whether a written text is the referent; empty of a text without a word."""
    words, right = (
        [word for word in part.strip().lower().split() if word not in DETERMINERS]
        for part in (text, referent)
    )
    if not words:
        return ""
    # "Bob" is not "Bob's hat".
    owned = any("'" in word for word in words) == any("'" in word for word in right)
    return RIGHT if owned and (set(words) <= set(right) or set(right) <= set(words)) else WRONG


def answers(
    task: Task, tokenizer: Tokenizer, results: list[Any], texts: Sequence[str], places: Places
) -> Answers:
    """Whether what was written is the referent of each row."""
    pairs = zip(results, texts, strict=True)
    return Answers([judged(result, candidates_of(text)[0]) for result, text in pairs])


KIND = Kind(example=example, source=source, taught=taught, baseline=always_wrong)
READOUT = Readout(loss=written.loss, program=written.program, answers=answers)
