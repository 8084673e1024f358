"""The public face of decoding: arguments checked, and the program that they ask for."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from prompt_jax.backbones import Backbone, is_encoder
from prompt_jax.config import InputError, at_least
from prompt_jax.generate.beam import Lengths, search_beams
from prompt_jax.generate.prefill import decoding_module
from prompt_jax.generate.sampling import Draw, decode_tokens
from prompt_jax.methods import Injection
from prompt_jax.sharding import on_host, place_rows


def generate(
    backbone: Backbone,
    injection: Injection | None,
    tokens: Int[Array | np.ndarray, "B T"],
    mask: Bool[Array | np.ndarray, "B T"],
    *,
    frozen: Any = None,
    max_new_tokens: int = 64,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    rows: Int[Array | np.ndarray, " B"] | None = None,
) -> Int[np.ndarray, "B U"]:
    """Target tokens [B, max_new_tokens], EOS kept and padding behind it.

    Compiles once for a shape of input, a length and a number of beams; every other argument may
    change freely. A row's answer depends on no other row.

    Args:
      frozen: the weights; None takes `backbone.params`.
      length_penalty: beam scores are divided by length ** length_penalty; above 0 favours long
        answers.
      early_stopping: when beam search decides a row, as in Transformers: True as soon as
        `num_beams` hypotheses have ended, False when a better one is unlikely, "never" when it is
        impossible.
      temperature: 0 is greedy; above, tokens are drawn from softmax(logits / temperature).
      top_k: draw among the likeliest so many; 0 is all of them.
      top_p: draw among the likeliest tokens that hold so much probability, in (0, 1].
      rows: what the draws of each row are seeded with, beside `seed`; None numbers the rows from
        0. Pass the numbers of the rows in a dataset and batching changes no draw.

    Raises:
      InputError: a backbone that writes nothing, an argument outside its range, sampling together
        with beams, or more tokens than the backbone has positions.
    """
    if is_encoder(backbone.config):
        raise InputError(
            f"backbone {backbone.name!r} only reads and writes no answers; classify with it "
            "(SEQ_CLS), or use a T5 or a decoder"
        )
    backbone.check_word_head()
    _check(max_new_tokens, num_beams, temperature, top_k, top_p, early_stopping)
    arguments = (
        decoding_module(backbone),
        backbone.params if frozen is None else frozen,
        injection,
        *place_rows((np.asarray(tokens, np.int32), np.asarray(mask, bool)), backbone.mesh),
    )
    virtual = 0 if injection is None else injection.positions
    backbone.check_context(virtual, backbone.longest(np.asarray(mask, bool)), max_new_tokens)
    if num_beams > 1:
        lengths = _lengths(max_new_tokens, length_penalty, early_stopping)
        full = early_stopping is True
        found = search_beams(
            *arguments, lengths, length=max_new_tokens, beams=num_beams, stop_when_full=full
        )
        return on_host(found)
    draw = None
    if temperature > 0:
        draw = Draw(
            key=jax.random.key(seed),
            rows=np.arange(len(tokens), dtype=np.int32) if rows is None else np.asarray(rows),
            temperature=np.float32(temperature),
            top_k=np.int32(top_k or backbone.config.vocab_size),
            top_p=np.float32(top_p),
        )
    return on_host(decode_tokens(*arguments, draw, length=max_new_tokens))


def _lengths(tokens: int, penalty: float, early_stopping: bool | str) -> Lengths:
    divisor = (np.arange(1, tokens + 1, dtype=np.float64) ** penalty).astype(np.float32)
    # Where long is cheap, the best that a beam may become is as long as it can get.
    patient = early_stopping == "never" and penalty > 0
    return Lengths(divisor, np.full_like(divisor, divisor[-1]) if patient else divisor)


def _check(
    max_new_tokens: int,
    num_beams: int,
    temperature: float,
    top_k: int,
    top_p: float,
    early_stopping: bool | str,
) -> None:
    at_least("max_new_tokens", max_new_tokens, 1)
    at_least("num_beams", num_beams, 1, "1 is greedy")
    at_least("temperature", temperature, 0.0, "0 is greedy")
    at_least("top_k", top_k, 0, "0 draws among all tokens")
    if not 0.0 < top_p <= 1.0:
        raise InputError(f"top_p must be in (0, 1], got {top_p}; 1 draws among all tokens")
    if early_stopping not in (True, False, "never"):
        raise InputError(f'early_stopping must be True, False or "never", got {early_stopping!r}')
    if temperature > 0 and num_beams > 1:
        raise InputError(
            f"sampling and beam search exclude each other, got temperature {temperature} and "
            f"num_beams {num_beams}; set temperature=0 or num_beams=1"
        )
    if temperature == 0 and (top_k or top_p < 1):
        raise InputError(
            f"top_k and top_p cut what is drawn from, and temperature=0 draws nothing: got top_k "
            f"{top_k} and top_p {top_p}; set temperature, e.g. to 1.0"
        )
