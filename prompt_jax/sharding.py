"""A mesh of devices, and which axis of an array goes along which axis of the mesh.

Parameters name their axes where they are born and activations where they are constrained; `RULES`
is the only place that knows both these names and those of the mesh. Whatever it does not name, and
so every prompt and every optimizer state, is replicated. Without a mesh nothing here does anything.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import ArrayLike

from prompt_jax.config import InputError, MeshConfig
from prompt_jax.trees import Tree

AXES = ("data", "fsdp", "tensor")
RULES = {
    "batch": ("data", "fsdp"),
    # Rows that meet the vocabulary, which takes fsdp as well.
    "rows": ("data",),
    # Twice, so that neither a table nor logits are ever gathered: a device looks up and scores its
    # own words, and what travels is states.
    "length": ("tensor",),
    "vocab": ("tensor", "fsdp"),
    "pos": ("tensor", "fsdp"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "embed_out": ("tensor",),
    "embed": ("fsdp",),
}
"""Name of an axis -> axes of the mesh. What stands first chooses first; an axis of the mesh is
given away once in an array, and only where it divides."""
Grid: TypeAlias = Mesh | AbstractMesh
"""The sizes of its axes are all that rules look at."""
Device: TypeAlias = Any
"""A `jax.Device`, which has no public type."""
ASSUMED_MEMORY = 16 * 2**30
"""Bytes of a device that does not tell, as on CPU; a TPU v5e has as many."""
ROOM = 0.4
"""What weights may take of a device; activations, caches and gathered layers have the rest."""


def activation_spec(names: Sequence[str | None], shape: Sequence[int], mesh: Grid) -> PartitionSpec:
    """How an activation is split.

    The vocabulary may be split unevenly: XLA pads the last device's share, where an argument of a
    program could not have one.
    """
    return PartitionSpec(*_split(names, shape, mesh, uneven="vocab"))


def parameter_spec(names: Sequence[str | None], shape: Sequence[int], mesh: Grid) -> PartitionSpec:
    """How a frozen leaf is split.

    What fits no rule, such as two heads of keys on four devices or an odd vocabulary, is split
    along `embed` instead. A vector of that width is replicated: gathering it would cost more.
    """
    # Norms and biases, with layers in front or not.
    if [name for name in names if name != "layers"] == ["embed"]:
        return PartitionSpec()
    parts = _split(names, shape, mesh)
    taken = {axis for part in parts for axis in part}
    place = names.index("embed") if "embed" in names else None
    for axis in ("fsdp", "tensor"):
        if place is None or axis in taken or mesh.shape[axis] == 1:
            continue
        if shape[place] % (_ways(parts[place], mesh) * mesh.shape[axis]) == 0:
            parts[place] = (*parts[place], axis)
    return PartitionSpec(*parts)


def _split(
    names: Sequence[str | None], shape: Sequence[int], mesh: Grid, uneven: str = ""
) -> list[tuple[str, ...]]:
    parts: list[tuple[str, ...]] = [() for _ in names]
    taken = set()
    # In the order of the rules and not of the axes: a table's words choose before its width.
    ranked = [i for rule in RULES for i, name in enumerate(names) if name == rule]
    for i in ranked:
        for axis in RULES[names[i] or ""]:
            fits = shape[i] % (_ways(parts[i], mesh) * mesh.shape[axis]) == 0
            free = axis not in taken and axis not in mesh.manual_axes
            if mesh.shape[axis] > 1 and free and (fits or names[i] == uneven):
                parts[i] = (*parts[i], axis)
                taken.add(axis)
    return parts


def _ways(part: Sequence[str], mesh: Grid) -> int:
    return math.prod(mesh.shape[axis] for axis in part)


def left_of(mesh: Grid) -> Grid | None:
    """What XLA is left to split over: inside of `shard_map`, the axes that this has not split.

    None where none is left.
    """
    around = jax.sharding.get_abstract_mesh()
    if not around.manual_axes:
        return mesh
    return None if around.are_all_axes_manual else around


def place_rows(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays whose rows are shared out over devices; those whose rows do not divide, on all.

    Every process has all rows, and puts on its devices those that they hold.
    """
    if mesh is None:
        return tree

    def place(leaf: ArrayLike) -> jax.Array:
        spec = activation_spec(("batch",), np.shape(leaf), mesh)
        return _put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def put(tree: Tree, sharding: NamedSharding) -> Tree:
    """A tree on its devices, all leaves alike."""
    return jax.tree.map(lambda leaf: _put(leaf, sharding), tree)


def _put(leaf: ArrayLike, sharding: NamedSharding) -> jax.Array:
    """An array on its devices; on those of this process where there are others."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def whole(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """A prompt, or a training state, whole on every device."""
    return tree if mesh is None else put(tree, whole(mesh))


def on_host(tree: Tree) -> Tree:
    """Numpy copies of whole arrays, in every process; all have to ask."""

    def gather(leaf: ArrayLike) -> ArrayLike:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        from jax.experimental import multihost_utils

        # Tiled joins the parts; without it each process would be an axis of its own.
        return multihost_utils.process_allgather(leaf, tiled=True)

    # One transfer for all, as each one waits for the device.
    return jax.tree.map(np.array, jax.device_get(jax.tree.map(gather, tree)))


def describe(mesh: Mesh | None) -> str:
    """The devices in words."""
    if mesh is None:
        return f"1 {jax.default_backend()} device"
    sizes = " x ".join(f"{name} {mesh.shape[name]}" for name in AXES)
    return f"{mesh.size} {mesh.devices.flat[0].platform} devices: {sizes}"


def row_ways(mesh: Grid | None, axes: Sequence[str] = RULES["batch"]) -> int:
    """Parts that the rows of a batch are split into."""
    return 1 if mesh is None else _ways(axes, mesh)


def whole_rows(rows: int, mesh: Grid | None, axes: Sequence[str] = RULES["batch"]) -> int:
    """The next number of rows that divides over the devices."""
    return -(-rows // row_ways(mesh, axes)) * row_ways(mesh, axes)


def check_rows(rows: int, mesh: Grid | None, axes: Sequence[str] = RULES["batch"]) -> None:
    """Checks that a step's rows divide over the devices."""
    ways = row_ways(mesh, axes)
    if rows % ways:
        near = " or ".join(
            str(n) for n in sorted({rows // ways * ways, whole_rows(rows, mesh, axes)}) if n
        )
        raise InputError(
            f"{rows} rows of a step do not divide over the {ways} devices of "
            f"{' and '.join(f'mesh.{axis}' for axis in axes)}; take {near} rows (train.batch_size "
            "over train.accumulate), or another mesh"
        )


def build_mesh(
    config: MeshConfig,
    *,
    heads: int,
    size: int,
    devices: Sequence[Device] | None = None,
    memory: float | None = None,
) -> Mesh | None:
    """The mesh that a config asks for; None of one device, which needs none.

    Args:
      heads: of the model's queries.
      size: of the model's weights, in bytes.
      devices: None takes all.
      memory: of a device, in bytes; None asks it.

    Raises:
      InputError: a size that does not divide the devices or the heads, or less than all devices
        of several processes.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, devices, heads=heads, size=size, memory=memory)
    check_heads(shape[2], heads, len(devices))
    used = math.prod(shape)
    processes = len({device.process_index for device in devices})
    if processes > 1 and used < len(devices):
        raise InputError(
            f"a mesh of {used} devices leaves some of {processes} processes without work; use all "
            f'{len(devices)}, with "auto" for mesh.data'
        )
    # Auto axes: XLA lays out what nothing constrains, and Linen fails on Explicit ones.
    return None if used == 1 else Mesh(_grid(shape, devices[:used]), AXES, (AxisType.Auto,) * 3)


def mesh_shape(
    config: MeshConfig,
    devices: Sequence[Device],
    *,
    heads: int,
    size: int,
    memory: float | None = None,
) -> tuple[int, int, int]:
    """Devices along `data`, `fsdp` and `tensor`.

    A model that does not fit one device is first split along `tensor`, which moves the least, as
    far as heads and the devices of one host go; `fsdp` takes the rest, `data` what is left.
    """
    count = len(devices)
    sizes = [getattr(config, name) for name in AXES]
    fixed = math.prod(n for n in sizes if n != "auto")
    if count % fixed:
        raise InputError(
            f"{_described(sizes)} does not divide {count} devices; {_remedy(sizes, count)}"
        )
    left = count // fixed
    data, fsdp, tensor = sizes
    # How many devices have to share one copy of the weights.
    parts = -(-size // int(ROOM * (memory or device_memory(devices))))
    if tensor == "auto":
        local = sum(_host(device) == _host(devices[0]) for device in devices)
        needed = -(-parts // (1 if fsdp == "auto" else fsdp))
        fit = [n for n in _divisors(left) if heads % n == 0 and n <= local]
        tensor = next((n for n in fit if n >= needed), fit[-1])
        left //= tensor
    if fsdp == "auto":
        fit = _divisors(left)
        fsdp = next((n for n in fit if n * tensor >= parts), fit[-1])
        left //= fsdp
    return (left if data == "auto" else data), fsdp, tensor


def _host(device: Device) -> int:
    """What devices of one host have in common."""
    # Slurm may start a process a GPU, where JAX numbers hosts as slices: what NVLink joins is one.
    return device.slice_index if device.platform == "gpu" else device.process_index


def check_mesh(mesh: Mesh, heads: int) -> None:
    """Checks a mesh that was not built here."""
    kinds = tuple(getattr(mesh, "axis_types", ()))
    if tuple(mesh.axis_names) != AXES or set(kinds) != {AxisType.Auto}:
        raise InputError(
            f"the mesh has the axes {', '.join(map(str, mesh.axis_names))} of types "
            f"{', '.join(kind.name for kind in kinds)}; allowed: {', '.join(AXES)}, all Auto: "
            "jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * 3), or a MeshConfig"
        )
    check_heads(mesh.shape["tensor"], heads, mesh.size)


def check_heads(tensor: int, heads: int, count: int) -> None:
    """Checks that every device has whole heads."""
    if heads % tensor:
        allowed = [n for n in _divisors(count) if heads % n == 0]
        raise InputError(
            f"mesh.tensor {tensor} does not divide the model's {heads} heads; nearest on {count} "
            f"devices: {_nearest(tensor, allowed)}; split the rest with mesh.fsdp"
        )


def _described(sizes: Sequence[int | str]) -> str:
    named = zip(AXES, sizes, strict=True)
    return "a mesh of " + " x ".join(f"{name} {n}" for name, n in named if n != "auto")


def _remedy(sizes: Sequence[int | str], count: int) -> str:
    """What every size may be beside the others."""
    ways = []
    fixed = {name: n for name, n in zip(AXES, sizes, strict=True) if isinstance(n, int)}
    for name, size in fixed.items():
        others = math.prod(n for axis, n in fixed.items() if axis != name)
        if size != 1 and count % others == 0:
            ways.append(f"mesh.{name} {_nearest(size, _divisors(count // others))}")
    return "nearest that do: " + ("; ".join(ways) or "set two of the sizes to 1")


def _nearest(value: int, allowed: Sequence[int]) -> str:
    below = [n for n in allowed if n < value][-1:]
    above = [n for n in allowed if n > value][:1]
    return " or ".join(map(str, below + above))


def _divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0]


def device_memory(devices: Sequence[Device]) -> int:
    """Bytes of one of the devices, all alike; `ASSUMED_MEMORY` where they do not tell."""
    return memory_limit(devices) or ASSUMED_MEMORY


def memory_limit(devices: Sequence[Device]) -> int | None:
    """Bytes that JAX has of one of the devices, all alike; None where they do not tell."""
    # A device of another process tells nothing, not even that.
    local = next(d for d in devices if d.process_index == jax.process_index())
    return (local.memory_stats() or {}).get("bytes_limit")


def _grid(shape: tuple[int, int, int], devices: list[Device]) -> np.ndarray:
    """The devices in the order that neighbours on a mesh are neighbours in their network.

    Several slices, or hosts without such a network, meet along `data`, which moves next to nothing
    of a frozen model.
    """
    from jax.experimental import mesh_utils

    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices)
    if shape[0] % slices:
        raise InputError(
            f"mesh.data {shape[0]} does not divide over {slices} slices, and only data may cross "
            f"them; take a multiple of {slices}"
        )
    # `data` alone crosses slices.
    per_slice = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(per_slice, (slices, 1, 1), devices)
