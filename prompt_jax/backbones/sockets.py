"""Where a method may reach inside a backbone: the places, their sizes, and how a layer reads them.

A socket is a leaf of the Linen collection "tuned", whose tree mirrors the frozen one. A layer looks
for its socket and uses it; where there is none, nothing is computed. Leaves under `layers` carry L
in front. A leaf may also have a batch axis B, behind L, with a value for every row.

| socket | leaves of one layer | read by |
|---|---|---|
| `lora` | `a` [in, R], `b` [R, out]; `magnitude` [out] makes it DoRA; `dropout` [] | Dense |
| `scale` | [out], multiplies what comes out | Dense, RMSNorm |
| `input_scale` | [in], multiplies what goes in | Dense |
| `bias` | [out], is added | Dense |
| `prefix` | `key`, `value` [P, H, K]; `mask` [P], False at padding | Attention |
| `adaption` | by place, `inside` or `behind`: `prompt` [P, D], `gate` []; `mask` | Attention |
| `adapter`, `parallel` | by sublayer: `down` [D, R], `up` [R, D], their `..._bias` | Block |
| `prompt` | `replace` or `add`, [P, D], in place of or on top of the first P states | Block |
| `prompt` | [P, D], virtual tokens before the target | Decoder |

Beside the leaves of a `lora`, a `prefix` or an adapter, `gate` [in] and `gate_bias` [] scale what
they do to every token, see `openness`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Axes = tuple[tuple[str, int], ...]
"""Names and sizes."""


class Projection(NamedTuple):
    """A Dense of every layer of a stack."""

    layers: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    modules: tuple[str, ...]
    """What Hugging Face calls it, a name a layer: what `target_modules` are matched with."""
    axes: tuple[str, ...]
    """Names of the axes of `inputs` and `outputs`, as the kernel has them."""


def projection(inputs: Axes, outputs: Axes, weights: Sequence[str]) -> Projection:
    """A Dense with these axes, by Hugging Face's names of its weights, one a layer."""
    return Projection(
        len(weights),
        tuple(size for _, size in inputs),
        tuple(size for _, size in outputs),
        tuple(name.removesuffix(".weight") for name in weights),
        tuple(name for name, _ in (*inputs, *outputs)),
    )


class Attention(NamedTuple):
    """An attention of every layer of a stack."""

    layers: int
    heads: int
    width: int
    """K, the width of a head."""
    role: str
    """`encoder`, `decoder` or `cross`."""


class Layers(NamedTuple):
    """The blocks of a stack."""

    layers: int
    width: int
    """D."""
    sublayers: tuple[str, ...]
    role: str
    """`encoder` or `decoder`."""


class Norm(NamedTuple):
    """A norm: of every layer, or of none (`layers` is 0) at the end of a stack."""

    layers: int
    width: int


class Head(NamedTuple):
    """What a trained head on top of a model is made of."""

    hidden: str | None = None
    """Activation of a layer [D, D] before the last one; None has no such layer."""
    bias: bool = True
    """Whether the last layer [D, C] has one."""


class Sockets(NamedTuple):
    """Every place of a backbone, by path."""

    projections: dict[str, Projection]
    attentions: dict[str, Attention]
    blocks: dict[str, Layers]
    norms: dict[str, Norm]


def per_row(leaf: Array, x: Float[Array, "B T *out"]) -> Array:
    """A leaf of [*out], or of [B, *out] with a value a row, ready to meet `x`."""
    # The rank tells, since the scan over layers has already taken L away.
    if leaf.ndim != x.ndim - 1:
        return jnp.broadcast_to(leaf, x.shape).astype(x.dtype)
    # By the leaf's rows: `x` may be the same for all of them, as what DeBERTa makes of distances.
    return jnp.broadcast_to(leaf[:, None], (len(leaf), *x.shape[1:])).astype(x.dtype)


@jax.named_scope("lora")
def low_rank(
    x: Float[Array, "#B T *in"], lora: dict[str, Array], inputs: int
) -> Float[Array, "B T *out"]:
    """`x` through a LoRA: x A B, the scaling already in B (Hu et al. 2021)."""
    a, b = lora["a"].astype(x.dtype), lora["b"].astype(x.dtype)
    row = "b" if a.ndim > inputs + 1 else ""
    i, o = "ijk"[:inputs], "xyz"[: b.ndim - 1 - len(row)]
    # Two thin products: A B would be as large as the kernel, and one for each row.
    hidden = jnp.einsum(f"bt{i},{row}{i}r->btr", x, a)
    return jnp.einsum(f"btr,{row}r{o}->bt{o}", hidden, b)


@jax.named_scope("lora")
def magnitude_ratio(
    kernel: Float[Array, "*in_out"], lora: dict[str, Array], inputs: int
) -> Float[Array, "*out"]:
    """DoRA's factor: the trained magnitude over the norm of W + A B (Liu et al. 2024, eq. 5).

    The norm takes no gradient, as in section 4.3 of the paper.
    """
    # In float32: the ratio begins at one, and bfloat16 has seven bits for what it moves by.
    updated = kernel.astype(jnp.float32) + jnp.tensordot(lora["a"], lora["b"], axes=1)
    square = jnp.square(updated).sum(tuple(range(inputs)))
    return lora["magnitude"] / jax.lax.stop_gradient(jnp.sqrt(square))


def openness(x: Float[Array, "#B T *in"], leaves: dict[str, Array]) -> Float[Array, "B T"] | None:
    """How far a gate opens for every token, from 0 to 1; None where there is none.

    UniPELT's gate is the sigmoid of a linear map of what goes in (Mao et al. 2022).
    Its released code takes the mean over the text; here each token has its own, or padding, and
    targets that are yet to come, would change a logit.
    """
    if "gate" not in leaves:
        return None
    gate, bias = (leaves[name].astype(x.dtype) for name in ("gate", "gate_bias"))
    inputs = "ijk"[: x.ndim - 2]
    row = "b" if gate.ndim > len(inputs) else ""
    # One for all rows has no axis; one a row meets the tokens of its row.
    bias = bias[:, None] if bias.ndim else bias
    scores = jnp.einsum(f"bt{inputs},{row}{inputs}->bt", x, gate)
    return jax.nn.sigmoid(scores + jnp.broadcast_to(bias, scores.shape))


def gated(
    x: Float[Array, "#B T *in"], leaves: dict[str, Array], y: Float[Array, "B T *out"]
) -> Float[Array, "B T *out"]:
    """What a method makes of `x`, as far as its gate lets it through."""
    opened = openness(x, leaves)
    if opened is None:
        return y
    return y * jnp.broadcast_to(opened[(..., *[None] * (y.ndim - 2))], y.shape)


@jax.named_scope("adapter")
def bottleneck(x: Float[Array, "B T D"], adapter: dict[str, Array]) -> Float[Array, "B T D"]:
    """An adapter's answer to `x`: down, ReLU, up (Houlsby et al. 2019)."""
    down, up = adapter["down"].astype(x.dtype), adapter["up"].astype(x.dtype)
    row = "b" if down.ndim == 3 else ""
    hidden = jnp.einsum(f"btd,{row}dr->btr", x, down)
    if "down_bias" in adapter:
        hidden = hidden + per_row(adapter["down_bias"], hidden)
    y = jnp.einsum(f"btr,{row}rd->btd", jax.nn.relu(hidden), up)
    y = y + per_row(adapter["up_bias"], y) if "up_bias" in adapter else y
    return gated(x, adapter, y)


@jax.named_scope("prompt")
def with_rows(x: Float[Array, "B S D"], prompt: dict[str, Array]) -> Float[Array, "B S D"]:
    """States whose first P are replaced by, or summed with, a layer's own virtual tokens."""
    for how, rows in prompt.items():
        virtual = rows.shape[-2]
        rows = jnp.broadcast_to(rows.astype(x.dtype), (len(x), virtual, x.shape[-1]))
        first = rows if how == "replace" else x[:, :virtual] + rows
        x = jnp.concatenate([first, x[:, virtual:]], axis=1)
    return x


def prefix_seen(prefix: dict[str, Array], rows: int) -> Bool[Array, "B P"]:
    """Which keys of a prefix, L in front, are real, for every row."""
    # A prefix is padded alike in all layers.
    real = prefix["mask"][0] if "mask" in prefix else True
    return jnp.broadcast_to(real, (rows, prefix["key"].shape[-3]))


@jax.named_scope("prefix")
def prefix_scores(
    query: Float[Array, "B H T K"], prefix: dict[str, Array]
) -> Float[Array, "B H T P"]:
    """Scores of a prefix's keys, which have no batch axis unless every row has its own."""
    row = "b" if prefix["key"].ndim == 4 else ""
    key = prefix["key"].astype(query.dtype)
    # Sums in float32, as those of the text's keys, with which these share a softmax.
    return jnp.einsum(f"bhtk,{row}phk->bhtp", query, key, preferred_element_type=jnp.float32)


def prefix_masked(
    scores: Float[Array, "B H T P"], prefix: dict[str, Array], never: float
) -> Float[Array, "B H T P"]:
    """Scores of a prefix's keys with `never` added to those of its padding."""
    if "mask" not in prefix:
        return scores
    seen: Bool[Array, "*B P"] = prefix["mask"]
    bias = jnp.where(seen, 0.0, never)
    # A mask a row is the same for all heads and queries.
    bias = bias[:, None, None, :] if bias.ndim == 2 else bias
    return scores + jnp.broadcast_to(bias, scores.shape)


@jax.named_scope("prefix")
def prefix_values(
    weights: Float[Array, "B H T P"], prefix: dict[str, Array]
) -> Float[Array, "B H T K"]:
    """What a prefix's values add to the answer of an attention."""
    row = "b" if prefix["value"].ndim == 4 else ""
    value = prefix["value"].astype(weights.dtype)
    return jnp.einsum(f"bhtp,{row}phk->bhtk", weights, value)


@jax.named_scope("adaption")
def adaption_values(
    query: Float[Array, "B T H K"],
    key: Float[Array, "#B P G K"],
    value: Float[Array, "#B P G K"],
    adaption: dict[str, Array],
    never: float,
) -> Float[Array, "B T H K"]:
    """What rows beside the text answer, in a softmax of their own, as far as their gate is open.

    Args:
      query: scaled, as it meets the keys of the text.
      key: of the rows, at no position.
      never: added to the scores of padding.
    """
    group = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, group, axis=2) if group > 1 else x for x in (key, value))
    key, value = (jnp.broadcast_to(x, (len(query), *x.shape[1:])) for x in (key, value))
    scores = jnp.einsum("bthk,bphk->bhtp", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(prefix_masked(scores, adaption, never), axis=-1).astype(value.dtype)
    answers = jnp.einsum("bhtp,bphk->bthk", weights, value)
    # One gate for all rows, or one a row.
    gate = jnp.broadcast_to(adaption["gate"], (len(query),)).astype(value.dtype)
    return answers * gate[:, None, None, None]
