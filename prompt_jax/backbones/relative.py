"""T5's attention in one Pallas kernel of a TPU: neither scores nor biases go through its memory.

A bias of distances is the same along each diagonal of the scores. `diagonals` are its numbers, one
for every head and distance, and the kernel rolls them into the rows that it needs. Heads stay side
by side, as projections leave them: a tile of 128 lanes holds as many as fit, and a product takes
one of them by zeros in place of the others, which costs a TPU nothing.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from prompt_jax.backbones.layers import Bias, ByBucket
from prompt_jax.sharding import Grid, activation_spec, left_of

Ref: TypeAlias = Any
"""A block in the memory of the chip, for which Pallas has no public type."""
LANES = 128
"""Numbers in a row of a TPU's tile."""
SUBLANES = 8
"""Rows of a tile, of numbers of four bytes."""
PACKED = 16
"""Likewise, of two bytes."""
CYCLES = {"relative_forward": 5.4e-3, "relative_backward": 12.1e-3}
"""Of a score, on a v5e: instructions that its compiler schedules for eight rows of 512 places of
XXL (2,678 and 6,175 a row and tile, 1,386 and 1,533 more of the first row), since it estimates no
time of a kernel that it did not write."""
MEMORY = 32 * 2**20
"""Bytes of a TPU's own memory that the kernel may take; XLA gives 16 MiB of 128 unless asked."""
SCORES = 2**19
"""Scores of a head that the kernel holds at a time: two megabytes in float32."""
BIASES = 2**21
"""Biases of a tile's heads, which stay in the kernel for all rows: eight megabytes."""


def serves(heads: int, width: int, bias: ByBucket, mesh: Grid | None) -> bool:
    """Whether heads of this width fill tiles, and biases of so many places fit.

    Those of a decoder, whose rows may stand at places of their own, have buckets for each row.
    """
    if bias.buckets.ndim != 2 or LANES % width:
        return False
    (queries, keys), tiles = bias.buckets.shape, LANES // width
    ways = 1 if mesh is None or heads % mesh.shape["tensor"] else mesh.shape["tensor"]
    fit = tiles * _up(queries, PACKED) * _up(keys, LANES) <= BIASES
    return fit and heads // ways % tiles == 0


def diagonals(bias: ByBucket) -> Float[Array, "H TPS"]:
    """The bias of every distance, from the last query's first key to the first query's last key.

    Args:
      bias: whose buckets depend on how far a key is from a query, and on nothing else.
    """
    buckets = jnp.concatenate([bias.buckets[::-1, 0], bias.buckets[0, 1:]])
    return bias.table[buckets].T


def relative(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B PS H K"],
    value: Float[Array, "B PS H K"],
    biases: Sequence[Bias],
    virtual: int = 0,
    cap: None = None,
    mesh: Grid | None = None,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Softmax attention with a bias of keys and one of distances, see `fused`.

    Scores and softmax are float32, products of the states' type, as in `attention`. Gradients of a
    trained table of biases are those of products.

    Args:
      biases: of keys, for all queries and heads alike, and of distances.
      mesh: over which rows and heads are split.
      interpret: runs anywhere, slowly.
    """
    run = functools.partial(_relative, interpret=interpret)
    hidden, bias = biases
    assert isinstance(hidden, jax.Array) and isinstance(bias, ByBucket)
    hidden = jnp.broadcast_to(hidden[:, 0], (len(query), 1, hidden.shape[3]))
    distances = diagonals(bias)
    left = None if mesh is None else left_of(mesh)
    if left is None:
        return run(query, key, value, hidden, distances)

    def spec(x: Array, *names: str | None) -> PartitionSpec:
        return activation_spec(names, x.shape, left)

    heads = "batch", None, "heads", None
    # XLA cannot split a kernel over devices: each runs it on its rows and heads.
    specs = [spec(x, *heads) for x in (query, key, value)]
    specs += [spec(hidden, "batch", None, None), spec(distances, "heads", None)]
    options = {"in_specs": tuple(specs), "out_specs": specs[0], "check_vma": False}
    axes = set(left.axis_names) - set(left.manual_axes)
    run = jax.shard_map(run, mesh=left, axis_names=axes, **options)
    return run(query, key, value, hidden, distances)


class Shape(NamedTuple):
    """What a kernel is compiled for."""

    queries: int
    """Real ones: the first distance is that of the last of them."""
    width: int
    """Of a head."""
    block: int
    """Queries at a time."""
    interpret: bool


def _relative(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B PS H K"],
    value: Float[Array, "B PS H K"],
    hidden: Float[Array, "B 1 PS"],
    distances: Float[Array, "H TPS"],
    interpret: bool,
) -> Float[Array, "B T H K"]:
    (batch, queries, heads, width), keys = query.shape, key.shape[1]
    tiles = LANES // width
    # As few blocks as there is room for: each loads all keys.
    blocks = -(-queries * _up(keys, LANES) // SCORES)
    # One is as long as the queries, which then are not copied, whatever their number.
    block = queries if blocks == 1 else _up(-(-queries // blocks), PACKED)
    rows = blocks * block
    query = jnp.pad(query, ((0, 0), (0, rows - queries), (0, 0), (0, 0)))
    # As long as the rows that are rolled out of it.
    size = _up(max(distances.shape[1], keys), LANES)
    distances = jnp.pad(distances, ((0, 0), (0, size - distances.shape[1])))
    shape = Shape(queries, width, block, interpret)
    states = (x.reshape(batch, x.shape[1], heads * width) for x in (query, key, value))
    out: Array = _attention(shape, *states, hidden, distances.reshape(heads // tiles, tiles, size))
    return out.reshape(batch, rows, heads, width)[:, :queries]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    shape: Shape, query: Array, key: Array, value: Array, hidden: Array, distances: Array
) -> Array:
    return _call(shape, relative_forward, (query, key, value, hidden, distances), "q")[0]


def _save(shape: Shape, *inputs: Any) -> tuple[Array, dict[str, Any]]:
    values = tuple(x.value for x in inputs)
    # By its keys, as they are the same for all runs of a program.
    trained = {"trained": ()} if inputs[-1].perturbed else {}
    return _attention(shape, *values), {"values": values, **trained}


def _gradients(shape: Shape, saved: dict[str, Any], change: Array) -> tuple[Array, ...]:
    values = saved["values"]
    if "trained" in saved:  # The kernel makes no gradient of biases, as a frozen table has none.
        return jax.vjp(functools.partial(_products, shape), *values)[1](change)
    parts = _call(shape, relative_backward, (*values, change), "qkk")
    return (*parts, *map(jnp.zeros_like, values[3:]))


_attention.defvjp(_save, _gradients, symbolic_zeros=True)


def _products(
    shape: Shape, query: Array, key: Array, value: Array, hidden: Array, distances: Array
) -> Array:
    """The same by plain products, which hold all scores."""
    query, key, value = (
        x.reshape(*x.shape[:2], -1, shape.width).swapaxes(1, 2) for x in (query, key, value)
    )
    rows, columns = query.shape[2], key.shape[2]
    distances = distances.reshape(-1, distances.shape[-1])
    places = jnp.arange(columns)[None] - jnp.arange(rows)[:, None] + shape.queries - 1
    scores = jnp.einsum("bhtk,bhsk->bhts", query, key, preferred_element_type=jnp.float32)
    scores = scores + hidden[:, None] + distances[None, :, places % distances.shape[-1]]
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("bhts,bhsk->bthk", weights, value)
    return out.reshape(*out.shape[:2], -1)


def _call(
    shape: Shape, kernel: Callable[..., None], inputs: tuple[Array, ...], outputs: str
) -> Sequence[Array]:
    """Runs a kernel for every tile of heads, row and block of queries.

    Args:
      outputs: which of the inputs each output is like: `q` the queries, `k` the keys.
    """
    # Only here: Pallas takes a second to import, and nothing but a TPU wants it.
    import jax.experimental.pallas as pl
    import jax.experimental.pallas.tpu as tpu

    query, key, value, hidden, distances, *change = inputs
    columns, (groups, tiles, size) = key.shape[1], distances.shape
    lines = jnp.stack([jnp.roll(distances, i, axis=2) for i in range(SUBLANES)], axis=2)
    inputs = query, key, value, hidden, lines, *change
    specs = {
        "q": pl.BlockSpec((1, shape.block, LANES), lambda group, row, block: (row, block, group)),
        "k": pl.BlockSpec((1, columns, LANES), lambda group, row, block: (row, 0, group)),
        "hidden": pl.BlockSpec((1, 1, columns), lambda group, row, block: (row, 0, 0)),
        "distances": pl.BlockSpec(
            (1, tiles, SUBLANES, size), lambda group, row, block: (group, 0, 0, 0)
        ),
    }
    names = ["q", "k", "k", "hidden", "distances", "q"][: len(inputs)]
    like = {"q": query, "k": key}
    products = {"q": 2, "qkk": 5}[outputs]
    # A TPU computes whole tiles.
    sides = _up(query.shape[1], SUBLANES), _up(columns, LANES)
    scores = len(query) * groups * tiles * sides[0] * sides[1]
    moved = sum(x.nbytes for x in (*inputs, *(like[name] for name in outputs)))
    return pl.pallas_call(
        functools.partial(kernel, shape),
        grid=(groups, len(query), query.shape[1] // shape.block),
        in_specs=[specs[name] for name in names],
        out_specs=[specs[name] for name in outputs],
        out_shape=[jax.ShapeDtypeStruct(like[n].shape, like[n].dtype) for n in outputs],
        # Biases, and what all blocks of queries add to the gradients of keys and values.
        scratch_shapes=[
            tpu.VMEM((tiles, query.shape[1], columns), jnp.float32),
            *[tpu.VMEM((columns, LANES), jnp.float32)] * outputs.count("k"),
        ],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=MEMORY
        ),
        cost_estimate=pl.CostEstimate(
            # A tile's product is as wide as all its heads.
            flops=2 * LANES * products * scores,
            transcendentals=scores,
            bytes_accessed=moved,
        ),
        interpret=shape.interpret,
        name=kernel.__name__,
    )(*inputs)


def _heads(
    shape: Shape, query: Ref, key: Ref, hidden: Ref, distances: Ref, biases: Ref
) -> Iterator[tuple[slice, Array, Array, Array]]:
    """The lanes of every head of a tile, its queries and keys, and its weights."""
    import jax.experimental.pallas as pl
    import jax.experimental.pallas.tpu as tpu

    heads, columns, size = len(biases), key.shape[1], distances.shape[3]
    place = pl.program_id(2) * shape.block

    @pl.when(pl.program_id(1) == 0)  # For the first row of a batch; all others read the same.
    def _spread() -> None:
        # Row i of a block is read from i places further in front.
        first = jax.lax.rem(place + size - (shape.queries - 1), size)
        for head in range(heads):
            # A TPU rolls by another number of places for every 8 rows, not for each.
            tiles = -(-shape.block // SUBLANES)
            lines = jnp.broadcast_to(distances[0, head], (tiles, SUBLANES, size))
            lines = tpu.roll(lines, first, 2, stride=SUBLANES, stride_axis=0)
            rows = lines.reshape(tiles * SUBLANES, size)[: shape.block, :columns]
            biases[head, pl.ds(place, shape.block), :] = rows

    for head in range(heads):
        lanes = slice(head * shape.width, (head + 1) * shape.width)
        queries, keys = query[0, :, lanes], key[0, :, lanes]
        scores = _dot(queries, keys, 1, 1) + biases[head, pl.ds(place, shape.block), :] + hidden[0]
        weights = jnp.exp(scores - scores.max(axis=1, keepdims=True))
        yield lanes, queries, keys, weights / weights.sum(axis=1, keepdims=True)


def relative_forward(
    shape: Shape,
    query: Ref,
    key: Ref,
    value: Ref,
    hidden: Ref,
    distances: Ref,
    out: Ref,
    biases: Ref,
) -> None:
    """Answers to a block of queries."""
    for lanes, *_, weights in _heads(shape, query, key, hidden, distances, biases):
        # Rounded as products round them.
        answers = _dot(weights.astype(value.dtype), value[0, :, lanes], 1, 0)
        out[0, :, lanes] = answers.astype(out.dtype)


def relative_backward(
    shape: Shape,
    query: Ref,
    key: Ref,
    value: Ref,
    hidden: Ref,
    distances: Ref,
    change: Ref,
    of_query: Ref,
    of_key: Ref,
    of_value: Ref,
    biases: Ref,
    of_keys: Ref,
    of_values: Ref,
) -> None:
    """Gradients of queries, keys and values by that of the answers, `change`.

    Args:
      of_keys: what blocks of queries have added to the gradient of keys, in float32.
      of_values: likewise, of values.
    """
    import jax.experimental.pallas as pl

    block, last = pl.program_id(2), pl.num_programs(2) - 1

    @pl.when(block == 0)
    def _begin() -> None:
        of_keys[...] = jnp.zeros_like(of_keys)
        of_values[...] = jnp.zeros_like(of_values)

    for lanes, queries, keys, weights in _heads(shape, query, key, hidden, distances, biases):
        answers = change[0, :, lanes]
        shares = _dot(answers, value[0, :, lanes], 1, 1)
        # The softmax's: what all weights of a query share changes nothing.
        scores = weights * (shares - (weights * shares).sum(axis=1, keepdims=True))
        scores = scores.astype(keys.dtype)
        of_query[0, :, lanes] = _dot(scores, keys, 1, 0).astype(of_query.dtype)
        of_keys[:, lanes] += _dot(scores, queries, 0, 0)
        of_values[:, lanes] += _dot(weights.astype(answers.dtype), answers, 0, 0)

    @pl.when(block == last)
    def _end() -> None:
        of_key[0] = of_keys[...].astype(of_key.dtype)
        of_value[0] = of_values[...].astype(of_value.dtype)


def _dot(left: Array, right: Array, of_left: int, of_right: int) -> Array:
    """A product that contracts these axes, with sums in float32."""
    axes = (((of_left,), (of_right,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
