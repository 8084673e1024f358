"""The public face of decoding: arguments checked, and the program that they ask for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from prompt_jax.backbones import Backbone
from prompt_jax.config import Drawing, InputError
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate.beam import Lengths, search_beams
from prompt_jax.generate.options import Options, options_of, rules_of
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
    rows: Integer[Array | np.ndarray, " B"] | None = None,
    **options: Any,
) -> Int[np.ndarray, "N U"]:
    """Target tokens [B * num_return_sequences, U], the end token kept and padding behind it.

    Compiles once for a shape of input, a length, a number of beams, an n-gram and the rules that
    are on; their numbers and all else may change freely, and a rule that is off costs nothing. A
    row's answer depends on no other row.

    Args:
      rows: what the draws of each row are seeded with, beside `seed`; None numbers the rows from
        0. Pass the numbers of the rows in a dataset and batching changes no draw.
      options: the fields of `Options`, under the names and with the meanings of Transformers:
        max_new_tokens, num_beams, do_sample, repetition_penalty, stop_strings, ...; None is the
        default. max_length counts as there: of a decoder T + U, of an encoder-decoder U and its
        start token. A stop string ends an answer with the token that completes it, and
        is cut when the answer is decoded.

    Raises:
      InputError: a backbone that writes nothing, an unknown option (it names all), one outside its
        range, sampling together with beams, or more tokens than the backbone has positions.
    """
    # In numpy, as lengths are checked and rules are made on the host.
    tokens, mask = np.asarray(tokens, np.int32), np.asarray(mask, bool)
    chosen = options_of(backbone, tokens.shape[1], options)
    if backbone.config.is_encoder:
        raise InputError(
            f"backbone {backbone.name!r} only reads and writes no answers; classify with it "
            "(SEQ_CLS), or use a T5 or a decoder"
        )
    backbone.check_word_head()
    length = chosen.max_new_tokens
    virtual = 0 if injection is None else injection.positions
    backbone.check_context(virtual, backbone.longest(mask), length)
    identity = np.arange(len(tokens)) if rows is None else np.asarray(rows)
    if chosen.drawing and chosen.num_return_sequences > 1:
        injection, tokens, mask, identity = _copies(
            injection, tokens, mask, identity, chosen.num_return_sequences
        )
    rules = rules_of(backbone, chosen, tokens, mask)
    placed = place_rows((tokens, mask), backbone.mesh)
    arguments = (PromptedModel.of(backbone, injection), *placed, rules)
    # Static: a cache has room for the length, and a loop over the n-gram is unrolled.
    shape = {"length": length, "ngram": chosen.no_repeat_ngram_size}
    if chosen.num_beams == 1:
        draw = chosen.drawing and _draw(
            chosen.drawing, chosen.seed, identity, backbone.config.vocab_size
        )
        return on_host(decode_tokens(*arguments, draw, **shape))
    answers = search_beams(
        *arguments,
        _lengths(backbone, length, chosen),
        **shape,
        beams=chosen.num_beams,
        # Not its truth value: "never" is a text and would count as True.
        stop_when_full=chosen.early_stopping is True,
    )
    return on_host(answers[:, : chosen.num_return_sequences].reshape(-1, length))


def _copies(
    injection: Injection | None, tokens: np.ndarray, mask: np.ndarray, rows: np.ndarray, count: int
) -> tuple[Injection | None, np.ndarray, np.ndarray, np.ndarray]:
    """Every row so often, one copy beside the other, and what the draws of each are seeded with."""
    copies = np.tile(np.arange(count, dtype=np.uint32) * np.uint32(APART), len(tokens))
    rows = np.repeat(rows, count).astype(np.uint32) + copies
    if injection is not None:
        # The rank of a part with an axis B; a part without one serves copies as it serves rows.
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
                # The same 32 bits, which `fold_in` reads as unsigned ones.
                rows.astype(np.uint32).view(np.int32),
                np.float32(drawn.temperature),
                # All words are a number too, so that no top_k is the same program.
                np.int32(drawn.top_k or vocabulary),
                np.float32(drawn.top_p),
            )
        ),
    )


def _lengths(backbone: Backbone, tokens: int, options: Options) -> Lengths:
    # Every start token but one counts, as Transformers has written it.
    apart = backbone.target_place == "apart"
    before = len(backbone.config.start_tokens) - 1 if apart else 0
    # In float64 on the host, as Transformers has it: powers in float32 may rank otherwise.
    lengths = np.arange(1 + before, tokens + before + 1, dtype=np.float64)
    divisor = (lengths**options.length_penalty).astype(np.float32)
    # Where long is cheap, the best that a beam may become is as long as it can get.
    patient = options.early_stopping == "never" and options.length_penalty > 0
    hoped = np.full_like(divisor, divisor[-1]) if patient else divisor
    return Lengths(*jax.device_put((divisor, hoped)))
