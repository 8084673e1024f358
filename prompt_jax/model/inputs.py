"""Arrays that callers give, checked: a gather takes the last row for an id that is too large."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.forward import check_places


def token_ids(
    backbone: Backbone,
    name: str,
    values: Any,
    batch: int | None = None,
    also: tuple[int, ...] = (),
) -> Int[np.ndarray, "B U"]:
    """Token ids of a backbone.

    Args:
      name: of the argument, for errors.
      batch: rows that it must have.
      also: what stands in it beside token ids.
    """
    tokens = np.asarray(values)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise InputError(
            f"{name} must be integers of shape [batch, tokens], got {tokens.dtype} of shape "
            f"{list(tokens.shape)}"
        )
    if batch is not None and len(tokens) != batch:
        raise InputError(f"{name} has {len(tokens)} rows and input_ids has {batch}")
    size = backbone.config.vocab_size
    wrong = tokens[((tokens < 0) | (tokens >= size)) & ~np.isin(tokens, also)]
    if wrong.size:
        allowed = " and ".join([f"0 to {size - 1}", *map(str, also)])
        raise InputError(
            f"{name} holds {wrong[0]}; allowed: {allowed}; use the backbone's own tokenizer"
        )
    # Of one type, since int64 tokens would compile programs of their own where x64 is on.
    return tokens.astype(np.int32)


def texts(
    backbone: Backbone, input_ids: Any, attention_mask: Any, placement: str
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Tokens and mask of a batch; without a mask, what is not padding is real.

    Args:
      placement: of the prompt, which all rows must have.
    """
    tokens, padding = token_ids(backbone, "input_ids", input_ids), backbone.padding
    mask = np.ones_like(tokens, bool) if padding is None else tokens != padding
    if attention_mask is not None:
        mask = np.asarray(attention_mask).astype(bool)
    if mask.shape != tokens.shape:
        raise InputError(
            f"attention_mask has shape {list(mask.shape)} and input_ids {list(tokens.shape)}; "
            "cover the text only, the prompt is added here"
        )
    names = [f"row {i} of input_ids" for i in range(len(tokens))]
    rows = [row[real] for row, real in zip(tokens, mask, strict=True)]
    check_places(placement, backbone, rows, names)
    return tokens, mask
