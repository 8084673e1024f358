"""Layers that backbones share: Dense, the two norms, the table of words at both ends, and biases.

Parameters have their natural shape, [D, H, K] and not [D, H*K], and name their axes where they
are born, so that sharding is a table of names: what an axis of a mesh is, only `sharding` knows.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from prompt_jax.backbones.quantised import SCALE, is_grouped, widened
from prompt_jax.backbones.sockets import gated, low_rank, magnitude_ratio, per_row
from prompt_jax.sharding import activation_spec, left_of

NEVER = -1e9  # Added to a masked score: exp() of it is exactly zero, and unlike -inf it has no NaN.
ACTIVATIONS = {
    "relu": jax.nn.relu,
    # Hugging Face's names: its "gelu" is the exact one, and the default of JAX is its "gelu_new".
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def constrain(x: Array, mesh: Mesh | None, *names: str | None) -> Array:
    """An activation split by the names of its first axes; `x` itself without a mesh.

    XLA finds most of a program's layout by itself, from that of the weights. It gets a hint where a
    wrong guess would gather: the residual stream, tokens and states that meet the vocabulary,
    logits, caches.
    """
    left = None if mesh is None else left_of(mesh)
    if left is None:
        return x
    # An axis without a name is replicated, so "batch" alone gathers positions that were split.
    spec = activation_spec(names, x.shape, left)
    return jax.lax.with_sharding_constraint(x, NamedSharding(left, spec))


def parameter(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: Sequence[str],
    shape: Sequence[int],
) -> Array:
    """A parameter of a module that names its axes where it is born."""
    # The box is there for `boxed_shapes` alone; without it a leaf is a plain array.
    boxed: Any = nn.with_logical_partitioning(init, tuple(axes))
    return module.param(name, boxed, tuple(shape))


def socket(module: nn.Module, name: str) -> Any:
    """What a method put at this place of the model; None where there is nothing."""
    # Known while the program is traced, so a model without the socket has no branch for it.
    return module.get_variable("tuned", name) if module.has_variable("tuned", name) else None


def scale_of(module: nn.Module, name: str) -> Array | None:
    """The scales of a parameter that is held in few bits; None of any other."""
    # Looked up and not declared: `init` makes no scales, and the tree of whole weights has none.
    name += SCALE
    return module.get_variable("params", name) if module.has_variable("params", name) else None


class Dense(nn.Module):
    """A linear map over the trailing axes of its input [B, T, *in]."""

    shape: Sequence[int]
    axes: Sequence[str]
    std: float
    contracted: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    as_matrix: bool = True
    """False where a mesh splits an axis behind another one, which no matrix could keep."""
    scanned: bool = False
    """Whether a scan over layers runs it, see `checkpoint` below."""

    @nn.compact
    def __call__(self, x: Float[Array, "#B T *in"]) -> Float[Array, "B T *out"]:
        init, inputs = nn.initializers.normal(self.std), self.contracted
        kernel = parameter(self, "kernel", init, self.axes, self.shape)
        factor = scale_of(self, "kernel")
        x = x.astype(self.dtype)
        input_scale = socket(self, "input_scale")
        if input_scale is not None:
            x = x * per_row(input_scale, x)
        product = functools.partial(_product, inputs if self.as_matrix else None)
        if factor is None:
            y = product(x, kernel)
        else:
            # Or the backward pass would keep what it makes of the kernel, beside the kernel. The
            # barrier that holds both passes apart would copy a layer's kernel out of the stack,
            # and nothing is merged across the border of a scan.
            product = jax.checkpoint(product, prevent_cse=not self.scanned)
            y = product(x, kernel, factor)
        lora = socket(self, "lora")
        if lora is not None:
            # The frozen product above read `x` without dropout, as in PEFT's LoRA.
            change = low_rank(_dropped(self, x, lora), lora, inputs)
            y = y + gated(x, lora, change)
            if "magnitude" in lora:
                outputs = range(inputs, kernel.ndim)
                # The norm is that of the weights as they multiply: those in few bits are widened.
                weight = kernel if factor is None else widened(kernel, factor, outputs)
                y = y * per_row(magnitude_ratio(weight, lora, inputs), y)
        if self.use_bias:  # Behind DoRA, whose magnitude is that of the kernel alone.
            shape = (self.axes[inputs:], self.shape[inputs:])
            y = y + _like(parameter(self, "bias", nn.initializers.zeros_init(), *shape), y)
        # IA3's scale comes last, because PEFT scales what the whole layer gives, its bias included.
        bias, scale = socket(self, "bias"), socket(self, "scale")
        y = y if bias is None else y + per_row(bias, y)
        return y if scale is None else y * per_row(scale, y)


def _product(
    as_matrix: int | None,
    x: Float[Array, "B T *in"],
    kernel: Shaped[Array, "*in_out"],
    scale: Float[Array, "*scales"] | None = None,
) -> Float[Array, "B T *out"]:
    if scale is not None and is_grouped(kernel, scale):
        # Unlike a scale an output, one a group of inputs does not commute with the sum over them.
        kernel, scale = widened(kernel, scale, ()), None
    # To the dtype of activations, so that the product is no wider than they are.
    kernel = kernel.astype(x.dtype)
    if as_matrix is None:
        # Whatever stands behind B and T in `x` is contracted.
        y = jnp.tensordot(x, kernel, x.ndim - 2)
        return y if scale is None else y * per_row(scale, y)
    # The transposed product of the backward pass would copy a kernel of rank 3.
    inputs, outputs = kernel.shape[:as_matrix], kernel.shape[as_matrix:]
    matrix = kernel.reshape(math.prod(inputs), math.prod(outputs))
    y = x.reshape(*x.shape[:2], -1) @ matrix
    # Scaled before it is split into heads: a kernel of attention joins them again, and of states
    # that are heads in between it would read copies.
    y = y if scale is None else y * per_row(scale.reshape(-1), y)
    return y.reshape(*x.shape[:2], *outputs)


def _dropped(module: nn.Module, x: Array, lora: dict[str, Array]) -> Array:
    """The input of a LoRA: with dropout where it asks for it and a "dropout" rng is given."""
    if "dropout" not in lora or not module.has_rng("dropout"):
        return x
    # The rate is a leaf and not a field of the module, so another rate compiles nothing.
    keep = 1.0 - lora["dropout"]
    mask = jax.random.bernoulli(module.make_rng("dropout"), keep, x.shape)
    # Divided by what is kept, so that the expectation is that of no dropout.
    return jnp.where(mask, x / keep.astype(x.dtype), 0.0)


def _like(leaf: Array, x: Array) -> Array:
    """A frozen leaf [*out], which is that of all rows, ready to meet `x`."""
    # By hand: the suite forbids that arrays of different rank meet, where a wrong axis would hide.
    return jnp.broadcast_to(leaf, x.shape).astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation; the statistics are float32 whatever the dtype."""

    width: int
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    axis: str = "embed"
    from_one: bool = False
    """The scale is stored less one, as Gemma has it."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T *H D"]) -> Float[Array, "B T *H D"]:
        init = nn.initializers.zeros_init() if self.from_one else nn.initializers.ones_init()
        scale = parameter(self, "scale", init, (self.axis,), (self.width,))
        # The mean square of a wide state loses its last digits in bfloat16's eight bits.
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        if self.from_one:
            # Added in float32, as beside the one bfloat16 would keep seven bits of a small scale.
            scale = 1.0 + scale.astype(jnp.float32)
            y = (wide * jnp.broadcast_to(scale, x.shape)).astype(self.dtype)
        else:
            # T5 and Llama round before the scale in Transformers, and Gemma behind it.
            y = wide.astype(self.dtype) * jnp.broadcast_to(scale.astype(self.dtype), x.shape)
        tuned = socket(self, "scale")
        if tuned is None:
            return y
        # The heads of a row share its scale, [B, D] where each row has its own.
        heads = [1] * (y.ndim - 3)
        return y * per_row(tuned.reshape(*tuned.shape[:-1], *heads, self.width), y)


class LayerNorm(nn.Module):
    """Normalisation to mean 0 and variance 1; the statistics are float32 whatever the dtype."""

    width: int
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B T D"]) -> Float[Array, "*B T D"]:
        scale = parameter(self, "scale", nn.initializers.ones_init(), ("embed",), (self.width,))
        wide = x.astype(jnp.float32)
        # Centred first: the mean of squares less the square of the mean would cancel.
        centred = wide - wide.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.epsilon)
        y = (centred * inverse).astype(self.dtype)
        y = y * _like(scale, y)
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            y = y + _like(parameter(self, "bias", zeros, ("embed",), (self.width,)), y)
        tuned, shift = socket(self, "scale"), socket(self, "bias")
        y = y if tuned is None else y * per_row(tuned, y)
        return y if shift is None else y + per_row(shift, y)


def soft_capped(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """Scores or logits bent by a tanh so that none passes `cap`; None leaves them alone."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def look_up(module: nn.Module, name: str, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
    """Rows of a module's table [V, D].

    On a mesh the table stays where it is, split over words: every device looks up those that it
    has, and the sum over devices has them all.
    """
    c, table, scale = module.config, getattr(module, name), scale_of(module, name)
    # Over `data` alone: fsdp and tensor hold words, and a row's words may be in any part.
    tokens = constrain(tokens, c.mesh, "rows")
    # Gathered before anything is cast or widened, so that no copy of the whole table is made.
    rows = constrain(table[tokens], c.mesh, "rows")
    rows = rows if scale is None else widened(rows, scale[tokens], ())
    return constrain(rows.astype(c.dtype), c.mesh, "batch")


@jax.named_scope("logits")
def word_logits(
    module: nn.Module,
    states: Float[Array, "B T D"],
    head: Dense | None = None,
    name: str = "embedding",
) -> Float[Array, "B T V"]:
    """Logits in float32, of a head or of the tied table `name`; on a mesh, split over words."""
    c = module.config
    # States travel to where the words are: logits [B, T, V] would be the larger thing to gather.
    states = constrain(states, c.mesh, "rows")
    if head is not None:
        logits = head(states)
    else:
        table, scale = getattr(module, name), scale_of(module, name)
        table = table if scale is None else widened(table, scale, ())
        table = constrain(table.astype(c.dtype), c.mesh, "vocab")
        logits = jnp.einsum("btd,vd->btv", states, table)
    # The product is of the model's dtype; a softmax over V words and the loss need float32.
    return constrain(logits.astype(jnp.float32), c.mesh, "rows", None, "vocab")


def mask_bias(mask: Bool[Array, "*B S"]) -> Float[Array, "*B S"]:
    """Zero where a key may be seen, `NEVER` where not."""
    return jnp.where(mask, 0.0, NEVER)


class ByBucket(NamedTuple):
    """A bias that is looked up where scores need it: a number for every head and bucket."""

    table: Float[Array, "N H"]
    buckets: Int[Array, "*B T PS"]

    def rows(self) -> Float[Array, "#B H T PS"]:
        """The bias of these queries."""
        # Gathered and not by one-hot: the table has a few hundred numbers, the scores millions.
        rows = jnp.moveaxis(self.table[self.buckets], -1, -3)
        return rows if rows.ndim == 4 else rows[None]


class Causal(NamedTuple):
    """Every query sees the real keys up to its own place, and all P keys of a prefix before them.

    As an array, and not as scores: a kernel that holds few scores at a time makes its own mask.
    """

    real: Bool[Array, "B PS"]

    def rows(self, queries: int, prefix: int) -> Float[Array, "B 1 T PS"]:
        """The bias of the first queries, behind P = `prefix` keys."""
        places = jnp.arange(self.real.shape[1])
        seen = places[None, :] <= prefix + jnp.arange(queries)[:, None]
        return mask_bias(seen[None] & self.real[:, None, :])[:, None]


Bias: TypeAlias = Float[Array, "#B #H #T PS"] | ByBucket | Causal
