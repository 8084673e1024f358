"""How an answer is written, under the names and with the meanings that Transformers has."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

from prompt_jax.config.checks import InputError, at_least, finite

TOP_K = 50
"""Of `do_sample=True` where none is given, as in Transformers."""


COLDEST = 1e-6
"""The lowest temperature to draw at: logits divided by much less are infinite."""


class Drawing(NamedTuple):
    """What tokens are drawn from."""

    temperature: float
    top_k: int
    """0 is all of them."""
    top_p: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class WritingConfig:
    """How an answer is written: what commands and `generate` take alike."""

    label: ClassVar[str] = ""
    """What stands before a field's name in errors."""

    max_new_tokens: int = 64
    """Longest generated answer in tokens."""
    min_new_tokens: int = 0
    """Tokens before an answer may end."""
    num_beams: int = 1
    """Beams of generation; 1 is greedy."""
    length_penalty: float = 1.0
    """Beam scores are divided by length ** length_penalty; above 0 favours long answers."""
    do_sample: bool | None = None
    """True draws tokens, with temperature 1 and top_k 50 unless set; False takes the likeliest
    whatever the temperature; None draws where a temperature above 0 is set."""
    temperature: float | None = None
    """0 is greedy; above, tokens are drawn from softmax(logits / temperature)."""
    top_k: int | None = None
    """Draw among this many of the likeliest tokens; 0 draws among all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability, in (0, 1]."""
    seed: int = 0
    """Seeds drawn answers."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that a decoder has read or written become less likely; an encoder-decoder
    counts what it has written. Virtual tokens and padding never count."""
    no_repeat_ngram_size: int = 0
    """Never write this many tokens in a row twice; 0 lets all repeat."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer beside the backbone's own."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end an answer, which is cut before the first of them."""
    bad_words: tuple[str, ...] = ()
    """Words that are never written, whether a space is before them or not."""

    def __post_init__(self):
        label = self.label
        at_least(f"{label}max_new_tokens", self.max_new_tokens, 1)
        at_least(f"{label}min_new_tokens", self.min_new_tokens, 0)
        at_least(f"{label}num_beams", self.num_beams, 1, "1 is greedy")
        finite(self, label, "length_penalty", "temperature")
        at_least(f"{label}temperature", self.temperature or 0.0, 0.0, "0 is greedy")
        if self.temperature and self.temperature < COLDEST:
            raise InputError(
                f"{label}temperature must be at least {COLDEST} to draw tokens, got "
                f"{self.temperature}; 0 is greedy"
            )
        at_least(f"{label}top_k", self.top_k or 0, 0, "0 draws among all tokens")
        remedy = "0 lets everything repeat"
        at_least(f"{label}no_repeat_ngram_size", self.no_repeat_ngram_size, 0, remedy)
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"{label}min_new_tokens is {self.min_new_tokens} and an answer has at most "
                f"{self.max_new_tokens}; raise {label}max_new_tokens"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(
                f"{label}top_p must be in (0, 1], got {self.top_p}; 1 draws among all tokens"
            )
        if not 0.0 < self.repetition_penalty < math.inf:
            raise InputError(
                f"{label}repetition_penalty must be above 0, got {self.repetition_penalty}; 1 is "
                "none"
            )
        for name in ("stop_strings", "bad_words"):
            if not all(getattr(self, name)):
                raise InputError(f"{label}{name} has an empty text; leave it out")
        if self.drawing and self.num_beams > 1:
            raise InputError(
                f"sampling and beam search exclude each other, got {label}temperature "
                f"{self.drawing.temperature} and {label}num_beams {self.num_beams}; set "
                f"{label}temperature=0 (do_sample=False) or {label}num_beams=1"
            )

    @property
    def drawing(self) -> Drawing | None:
        """What tokens are drawn from; None takes the likeliest.

        Raises:
          InputError: cuts of what is not drawn from, or a temperature of 0 to draw at.
        """
        label, temperature = self.label, self.temperature
        if self.do_sample is False:
            return None
        if self.do_sample:
            if temperature == 0:
                raise InputError(
                    f"{label}do_sample=True draws tokens and {label}temperature=0 draws none; set "
                    f"a temperature above 0, or {label}do_sample=False"
                )
            return Drawing(
                temperature or 1.0, TOP_K if self.top_k is None else self.top_k, self.top_p
            )
        if temperature:
            return Drawing(temperature, self.top_k or 0, self.top_p)
        if self.top_k or self.top_p < 1:
            raise InputError(
                f"{label}top_k and {label}top_p cut what is drawn from, and {label}temperature=0 "
                f"draws nothing: got top_k {self.top_k or 0} and top_p {self.top_p}; set "
                f"{label}temperature, e.g. to 1.0"
            )
        return None
