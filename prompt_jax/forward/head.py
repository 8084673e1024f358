"""A trained head on the states of a frozen model."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_jax.backbones.layers import ACTIVATIONS


def apply_head(
    head: dict[str, Any], x: Float[Array, "B *T D"], activation: str | None
) -> Float[Array, "B *T C"]:
    """Logits, float32. A leaf may have an axis B in front, with a head for every row."""
    # A head is trained and so float32, whatever the frozen model computes in.
    x = x.astype(jnp.float32)
    if activation is not None:
        x = ACTIVATIONS[activation](_linear(head["hidden"], x))
    return _linear(head["out"], x)


def _linear(leaves: dict[str, Array], x: Float[Array, "B *T D"]) -> Float[Array, "B *T C"]:
    # One kernel for all rows has no axis B, so that none is copied for every row.
    row = "b" if leaves["kernel"].ndim == 3 else ""
    y = jnp.einsum(f"b...d,{row}dc->b...c", x, leaves["kernel"])
    if "bias" not in leaves:
        return y
    bias = leaves["bias"]
    return y + jnp.broadcast_to(bias.reshape(-1, *[1] * (x.ndim - 2), bias.shape[-1]), y.shape)
