"""The public face of decoding: arguments checked, and the program that they ask for."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate.beam import Lengths, search_beams
from prompt_jax.generate.options import (
    Drawing,
    check_names,
    check_search,
    drawing,
    new_tokens,
    rules_of,
)
from prompt_jax.generate.sampling import Draw, decode_tokens
from prompt_jax.sharding import on_host, place_rows

APART = 0x9E3779B1
"""Between the draws of two answers to one row: far, so that they meet those of no other row."""


def generate(
    backbone: Backbone,
    injection: Injection | None,
    tokens: Int[Array | np.ndarray, "B T"],
    mask: Bool[Array | np.ndarray, "B T"],
    *,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    min_new_tokens: int = 0,
    num_beams: int = 1,
    num_return_sequences: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    eos_token_id: int | Sequence[int] | None = None,
    seed: int = 0,
    rows: Int[Array | np.ndarray, " B"] | None = None,
    **unknown: object,
) -> Int[np.ndarray, "N U"]:
    """Target tokens [B * num_return_sequences, U], the end token kept and padding behind it.

    Compiles once for a shape of input, a length, a number of beams and an n-gram; every other
    argument may change freely. A row's answer depends on no other row. Options have the names and
    the meaning that they have in Transformers.

    Args:
      max_new_tokens: U; None is 64, or what max_length leaves.
      max_length: as Transformers counts: of a decoder T + U, of an encoder-decoder U and its start
        token.
      min_new_tokens: tokens before the answer may end.
      num_return_sequences: answers to every row, side by side: the best beams, or several drawn.
      length_penalty: beam scores are divided by length ** length_penalty; above 0 favours long
        answers.
      early_stopping: when beam search decides a row, as in Transformers: True as soon as
        `num_beams` hypotheses have ended, False when a better one is unlikely, "never" when it is
        impossible.
      do_sample: True draws, with temperature 1 and top_k 50 unless given; False takes the likeliest
        whatever the temperature; None draws where a temperature above 0 is given.
      temperature: 0 is greedy; above, tokens are drawn from softmax(logits / temperature).
      top_k: draw among the likeliest so many; 0 is all of them.
      top_p: draw among the likeliest tokens that hold so much probability, in (0, 1].
      repetition_penalty: above 1, tokens that a decoder has read or written become less likely.
      no_repeat_ngram_size: so many tokens in a row are never written twice; 0 lets all repeat.
      eos_token_id: the token, or several, that end an answer; None takes the backbone's.
      rows: what the draws of each row are seeded with, beside `seed`; None numbers the rows from
        0. Pass the numbers of the rows in a dataset and batching changes no draw.

    Raises:
      InputError: a backbone that writes nothing, an unknown option, an argument outside its range,
        sampling together with beams, or more tokens than the backbone has positions.
    """
    check_names(unknown, OPTIONS)
    if backbone.config.is_encoder:
        raise InputError(
            f"backbone {backbone.name!r} only reads and writes no answers; classify with it "
            "(SEQ_CLS), or use a T5 or a decoder"
        )
    backbone.check_word_head()
    drawn = drawing(do_sample, temperature, top_k, top_p)
    check_search(num_beams, early_stopping, num_return_sequences, drawn)
    tokens, mask = np.asarray(tokens, np.int32), np.asarray(mask, bool)
    length = new_tokens(backbone, tokens.shape[1], max_new_tokens, max_length)
    virtual = 0 if injection is None else injection.positions
    backbone.check_context(virtual, backbone.longest(mask), length)
    identity = np.arange(len(tokens)) if rows is None else np.asarray(rows)
    if drawn and num_return_sequences > 1:
        injection, tokens, mask, identity = _copies(
            injection, tokens, mask, identity, num_return_sequences
        )
    rules = rules_of(
        backbone, tokens, mask, length=length, eos_token_id=eos_token_id,
        min_new_tokens=min_new_tokens, repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )  # fmt: skip
    placed = place_rows((tokens, mask), backbone.mesh)
    arguments = (PromptedModel.of(backbone, injection), *placed, rules)
    shape = {"length": length, "ngram": no_repeat_ngram_size}
    if num_beams == 1:
        draw = drawn and _draw(drawn, seed, identity, backbone.config.vocab_size)
        return on_host(decode_tokens(*arguments, draw, **shape))
    found = search_beams(
        *arguments,
        _lengths(length, length_penalty, early_stopping),
        **shape,
        beams=num_beams,
        stop_when_full=early_stopping is True,
    )
    return on_host(found[:, :num_return_sequences].reshape(-1, length))


OPTIONS = [
    name
    for name, kind in generate.__annotations__.items()
    if name not in ("backbone", "injection", "tokens", "mask", "unknown", "return")
]


def _copies(
    injection: Injection | None, tokens: np.ndarray, mask: np.ndarray, rows: np.ndarray, count: int
) -> tuple[Injection | None, np.ndarray, np.ndarray, np.ndarray]:
    """Every row so often, one copy beside the other, and what the draws of each are seeded with."""
    copies = np.tile(np.arange(count, dtype=np.uint32) * np.uint32(APART), len(tokens))
    rows = np.repeat(rows, count).astype(np.uint32) + copies
    if injection is not None:
        by_row = {"prompt": 3, "prompt_mask": 2, "shift": 3}
        parts = {name: getattr(injection, name) for name in by_row}
        parts = {
            name: jnp.repeat(part, count, axis=0)
            for name, part in parts.items()
            if part is not None and part.ndim == by_row[name]
        }
        injection = injection._replace(**parts)
    return injection, np.repeat(tokens, count, 0), np.repeat(mask, count, 0), rows


def _draw(drawn: Drawing, seed: int, rows: np.ndarray, vocabulary: int) -> Draw:
    return Draw(
        jax.random.key(seed),
        *jax.device_put(
            (
                rows.astype(np.uint32).view(np.int32),
                np.float32(drawn.temperature),
                np.int32(drawn.top_k or vocabulary),
                np.float32(drawn.top_p),
            )
        ),
    )


def _lengths(tokens: int, penalty: float, early_stopping: bool | str) -> Lengths:
    divisor = (np.arange(1, tokens + 1, dtype=np.float64) ** penalty).astype(np.float32)
    # Where long is cheap, the best that a beam may become is as long as it can get.
    patient = early_stopping == "never" and penalty > 0
    hoped = np.full_like(divisor, divisor[-1]) if patient else divisor
    return Lengths(*jax.device_put((divisor, hoped)))
