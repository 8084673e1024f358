"""What a prompt is distilled from: a text in the context of the same frozen model."""

from dataclasses import dataclass
from typing import Literal, get_args

from prompt_jax.config.checks import InputError, at_least, choose

Divergence = Literal["forward", "reverse", "cross_entropy"]
DIVERGENCES: tuple[str, ...] = get_args(Divergence)


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """The teacher is the frozen model with a text in its context, the student has a prompt."""

    context: str = ""
    """A file with the text: an instruction, a style, examples, a document."""
    questions: str = ""
    """A file with inputs that need no answers, as data.task reads them; of a .txt every line is
    one. Empty takes the rows of data.task."""
    write: int = 0
    """Questions that the model writes itself, with the text in its context, in place of a file:
    what a user may ask, facts, summaries, uses, tables. Equal ones count once."""
    chunk: int | None = None
    """Tokens of a part of the text. Each question is then put to the part that has most words in
    common with it, so that a text may be longer than the model's window. None reads all of it."""
    top: int = 64
    """Words whose probability is kept at every token of an answer; all others count as one."""
    divergence: Divergence = "forward"
    """The loss: KL from the teacher to the student (forward), from the student to the teacher
    (reverse), or the cross-entropy of the teacher's likeliest word."""
    temperature: float = 1.0
    """Above 1, unlikely words count for more; the loss is multiplied by its square, so that the
    gradient keeps its size (Hinton et al. 2015)."""
    answer_after: str = ""
    """The teacher thinks aloud and the student answers at once: it learns what stands behind this
    text in an answer, such as "Answer:". Answers without it are left out. Empty learns all."""
    lengths: tuple[int, ...] = ()
    """Virtual tokens of prompts that are trained together, one of each length, with one teacher."""
    cache: str = ""
    """A folder for the teacher's answers that several runs share; empty is teacher/ in the run."""

    def __post_init__(self):
        choose("divergence", self.divergence, DIVERGENCES)
        at_least("distil.top", self.top, 1)
        at_least("distil.write", self.write, 0, "0 reads questions from a file")
        if self.write and self.questions:
            raise InputError(
                f"distil.write has the model write {self.write} questions, and distil.questions "
                f"names {self.questions}; give one of them"
            )
        for length in self.lengths:
            at_least("distil.lengths", length, 1)
        if self.chunk is not None:
            at_least("distil.chunk", self.chunk, 1)
        at_least("distil.temperature", self.temperature, 0.01, "1 leaves probabilities as they are")
