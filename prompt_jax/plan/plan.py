"""Whether a run fits, how long a step takes at least, and what would make it fit."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax

from prompt_jax.backbones.quantised import LIMITS, bytes_of
from prompt_jax.config import BackboneConfig, Config, InputError, MeshConfig, at_least, resolved
from prompt_jax.config.experiment import Remat
from prompt_jax.plan.chips import GIB, chip_of, compile_for, devices_of, limit_of, links_of
from prompt_jax.plan.compiled import Traffic, read_compiled
from prompt_jax.plan.costs import work_of
from prompt_jax.plan.kept import Outcome, compiled_once
from prompt_jax.plan.programs import (
    SHORT,
    Program,
    decode_program,
    for_short_inputs,
    programs_of,
    score_program,
    shape_of_backbone,
    train_program,
)
from prompt_jax.population import check_members, check_together
from prompt_jax.sharding import AXES, Device, check_rows
from prompt_jax.trees import Tree

PROGRAMS = {
    "train": train_program,
    SHORT: train_program,
    "decode": decode_program,
    "score": score_program,
}
TRIES = 8
"""Programs that a search compiles at most: one of T5-XXL takes about a minute."""


class Memory(NamedTuple):
    """GiB of a device."""

    weights: float
    state: float
    """The prompt, its optimizer's state and a batch."""
    temporaries: float
    """What the program holds while it runs: activations, gathered weights, gradients."""
    code: float

    @property
    def total(self) -> float:
        """GiB of all four together."""
        return sum(self)


class Bounds(NamedTuple):
    """Seconds that a program takes at least; the longest of them decides."""

    compute: float
    memory: float
    """Seconds to move the operands and results of all products."""
    network: float

    @property
    def seconds(self) -> float:
        """The longest."""
        return max(self)


class Estimate(NamedTuple):
    """Seconds that the compiler expects a program to take."""

    parts: dict[str, float]
    """By part of the program, see `compiled.PARTS`."""
    network: float
    """Seconds of collectives that nothing is computed beside, by their bytes and the links."""

    @property
    def seconds(self) -> float:
        """All together."""
        return sum(self.parts.values()) + self.network


class Cost(NamedTuple):
    """What a program takes on every device."""

    program: str
    memory: Memory | None
    """None where it does not fit."""
    needed: float
    """GiB, also where they are not there."""
    limit: float | None
    """GiB that a program may use; None on devices that do not tell."""
    flops: float
    traffic: list[Traffic]
    bounds: Bounds | None
    """None on devices whose speed is not known."""
    estimate: Estimate | None
    """None of a compiler that does not tell."""
    utilization: float | None
    """Model FLOPs utilization by the estimate, else if the bounds were reached: no recomputation
    counts as work."""

    @property
    def seconds(self) -> float | None:
        """As its compiler estimates, else at least; None on devices whose speed is not known."""
        timing = self.estimate or self.bounds
        return None if timing is None else timing.seconds

    @property
    def fits(self) -> bool:
        """Whether the device has so much memory."""
        return self.memory is not None and (self.limit is None or self.needed <= self.limit)


class Plan(NamedTuple):
    """A run on devices that this machine need not have."""

    config: Config
    topology: str | None
    """None of local devices."""
    devices: int
    kind: str
    mesh: dict[str, int]
    costs: list[Cost]
    members: int = 1
    """Prompts that train together."""

    @property
    def fits(self) -> bool:
        """Whether all of its programs do."""
        return all(cost.fits for cost in self.costs)

    @property
    def needed(self) -> float:
        """GiB of the largest program."""
        return max(cost.needed for cost in self.costs)


def plan(
    config: Config, topology: str | None, *, programs: Sequence[str] = (), members: int = 1
) -> Plan:
    """Compiles the programs of a run for a topology.

    Args:
      config: as `train` takes it; its longest input and target are planned for.
      topology: as `devices_of` takes it.
      programs: of `PROGRAMS`; empty takes those of the run, see `programs_of`.
      members: prompts that train together, each on `train.batch_size` rows.

    Raises:
      InputError: no such topology or backbone, a mesh that does not divide it, a model that only
        reads, or several members of a run that only one prompt can have.
    """
    config = resolved(config)
    at_least("members", members, 1, "leave it out for one prompt")
    if members > 1:
        check_together(config, members)
    devices = devices_of(topology)
    backbone = shape_of_backbone(config, devices)
    check = check_members if members > 1 else check_rows
    check(config.train.batch_size // config.train.accumulate, backbone.mesh)
    # What remat and chunks compute twice is work of the device, and of no use to the model.
    way = {"remat": "none", "remat_beyond": 0, "attention_chunk": None, "attention": "einsum"}
    nothing_twice = dataclasses.replace(config.frozen, **way)
    costs = []
    for name in programs or programs_of(config):
        options = {"members": members} if PROGRAMS[name] is train_program else {}
        sized = for_short_inputs(config) if name == SHORT else config
        plain = dataclasses.replace(sized, frozen=nothing_twice)
        program = PROGRAMS[name](sized, backbone, devices[0], **options)._replace(name=name)
        bare = PROGRAMS[name](plain, shape_of_backbone(plain, devices), devices[0], **options)
        ways = 1 if backbone.mesh is None else backbone.mesh.size
        costs.append(_cost(program, bare, ways, devices))
    shape = backbone.mesh.shape if backbone.mesh else dict.fromkeys(AXES, 1)
    sizes = {name: int(shape[name]) for name in AXES}
    kind = chip_of(devices[0])
    name = kind.name if kind else devices[0].device_kind
    return Plan(config, topology, len(devices), name, sizes, costs, members)


def _cost(program: Program, bare: Program, ways: int, devices: Sequence[Device]) -> Cost:
    chip, limit = chip_of(devices[0]), limit_of(devices[0])
    frozen = _held(program.arguments[1]) / GIB
    others = sum(map(_held, (program.arguments[0], *program.arguments[2:]))) / GIB
    traced = program.function.trace(*program.arguments)
    work = work_of(traced.jaxpr.jaxpr, program.rounds)
    useful = work_of(bare.function.trace(*bare.arguments).jaxpr.jaxpr, bare.rounds)
    # Products within a kernel are in no jaxpr.
    flops = max(work.flops, useful.flops) / ways
    lowered = traced.lower()
    outcome = compiled_once(lowered, devices, lambda: _outcome(lowered, devices))
    if outcome.needed is not None:
        return Cost(program.name, None, outcome.needed, limit, flops, [], None, None, None)
    memory = Memory(frozen, others, outcome.temporaries, outcome.code)
    traffic, cycles = list(outcome.traffic), outcome.cycles
    bounds = estimate = utilization = None
    if chip:
        links = links_of(devices)
        bounds = Bounds(
            flops / chip.flops,
            work.bytes / ways / chip.bandwidth,
            sum(t.moved for t in traffic) / links,
        )
        seconds = bounds.seconds
        if cycles and chip.clock:
            parts = {part: count / chip.clock for part, count in cycles.items()}
            estimate = Estimate(parts, sum(t.moved for t in traffic if not t.hidden) / links)
            seconds = estimate.seconds
        utilization = useful.flops / ways / chip.flops / seconds
    return Cost(
        *(program.name, memory, memory.total, limit, flops, traffic, bounds, estimate, utilization)
    )


def _outcome(lowered: jax.stages.Lowered, devices: Sequence[Device]) -> Outcome:
    try:
        compiled = compile_for(devices, lowered)
    except jax.errors.JaxRuntimeError as error:
        # The compiler tells how much it wanted in the text of its error alone.
        needed = _needed(str(error))
        if needed is None:
            raise
        return Outcome(needed)
    sizes = compiled.memory_analysis()
    temporaries = sizes.temp_size_in_bytes / GIB if sizes else 0.0
    code = sizes.generated_code_size_in_bytes / GIB if sizes else 0.0
    return Outcome(None, temporaries, code, *read_compiled(_text(compiled, lowered, devices)))


def _text(
    compiled: jax.stages.Compiled, lowered: jax.stages.Lowered, devices: Sequence[Device]
) -> str:
    try:
        return compiled.as_text() or ""
    except jax.errors.JaxRuntimeError:
        # A v5p looks words up on its SparseCores, which jax cannot put into text; what travels
        # between devices is the same without them.
        without: dict[str, str | bool] = {"xla_tpu_offload_gather_to_sparsecore": False}
        return compile_for(devices, lowered, without).as_text() or ""


def _held(tree: Tree) -> int:
    """Bytes of a tree on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += bytes_of(jax.ShapeDtypeStruct(shape, leaf.dtype))
    return total


_OUT = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM|Used ([\d.]+)([KMGT]?) of")


def _needed(error: str) -> float | None:
    """GiB that a compiler asked for in vain; None of any other error."""
    match = _OUT.search(error)
    if match is None:
        return None
    amount, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
    return float(amount) * {"": 1 / GIB, "K": 2**-20, "M": 2**-10, "G": 1, "T": 2**10}[unit]


def search(
    first: Plan,
    *,
    enough: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> list[Plan]:
    """Other meshes, less kept for the backward pass, fewer bits: plans that fit, the best first.

    The cheapest changes to a plan are tried first. Best is what takes the least time, see
    `Cost.seconds`; of equals, the one that changes less.

    Args:
      enough: ends the search once so many plans fit.
      say: receives a line for every program that was compiled.
    """
    fitting: list[Plan] = []
    tried = 0
    programs = [cost.program for cost in first.costs]
    for words, changed in alternatives(first):
        if tried >= TRIES or len(fitting) >= enough:
            break
        try:
            candidate = plan(changed, first.topology, programs=programs, members=first.members)
        except InputError:
            continue  # A mesh that does not divide the rows of a step.
        tried += 1
        verdict = "fits" if candidate.fits else "does not fit"
        say(f"{words}: {candidate.needed:.2f} GiB, {verdict}")
        if candidate.fits:
            fitting.append(candidate)
    return sorted(fitting, key=_rank)


def _rank(plan: Plan) -> float:
    """Seconds of a step, which is run far more often than any other program."""
    steps = [cost for cost in plan.costs if cost.program == "train"] or plan.costs
    return sum(cost.seconds for cost in steps if cost.seconds is not None)


def alternatives(first: Plan) -> Iterator[tuple[str, Config]]:
    """Changes to a plan, each with its words, those that cost the least first."""
    fits = {cost.program: cost.fits for cost in first.costs}
    if fits.get("train") and fits.get(SHORT, True) and not first.fits:
        yield from _fewer_rows(first.config)
        return
    config, devices = first.config, devices_of(first.topology)
    limit = limit_of(devices[0])
    remats: list[Remat] = [r for r in ("none", "minimal", "full") if r != config.frozen.remat]
    kinds = [config.frozen.dtype, *(["int8"] if config.frozen.dtype not in LIMITS else [])]
    heads = shape_of_backbone(config, devices).config.num_heads
    # After the remat that was asked for: what keeps less comes first, since it is likelier to fit.
    for kind, remat in itertools.product(kinds, (config.frozen.remat, *reversed(remats))):
        for sizes in _meshes(len(devices), heads):
            frozen = dataclasses.replace(with_remat(config.frozen, remat), dtype=kind)
            changed = dataclasses.replace(config, frozen=frozen, mesh=MeshConfig(**sizes))
            same = frozen == config.frozen and sizes == first.mesh
            if same or not _holds(changed, devices, limit):
                continue
            mesh = ", ".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
            yield f"{mesh or 'one device'}, remat {remat}, weights {kind}", changed


def with_remat(frozen: BackboneConfig, remat: Remat | Literal["auto"]) -> BackboneConfig:
    """The same with another `remat`; what is asked for short inputs belongs to `full`."""
    beyond = frozen.remat_beyond if remat in ("full", "auto") else 0
    return dataclasses.replace(frozen, remat=remat, remat_beyond=beyond)


def _fewer_rows(config: Config) -> Iterator[tuple[str, Config]]:
    """Smaller batches of evaluation: nothing else is wrong with a run whose step fits."""
    rows = config.scoring.rows
    while rows > 1:
        rows //= 2
        fewer = dataclasses.replace(config.eval, batch_size=rows)
        yield f"eval.batch_size {rows}", dataclasses.replace(config, eval=fewer)


def _meshes(count: int, heads: int) -> list[dict[str, int]]:
    """Grids of devices, those that share a model among few first, and along `tensor` first."""
    grids = [
        {"data": count // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor}
        for fsdp in range(1, count + 1)
        for tensor in range(1, count + 1)
        if count % (fsdp * tensor) == 0 and heads % tensor == 0
    ]
    return sorted(grids, key=lambda g: (g["fsdp"] * g["tensor"], g["fsdp"]))


def _holds(config: Config, devices: Sequence[Device], limit: float | None) -> bool:
    """Whether the weights alone leave room, which no compiler is needed for."""
    weights = _held(shape_of_backbone(config, devices).params) / GIB
    # A tenth is left for a prompt, a batch and activations; the compiler then says whether enough.
    return limit is None or weights < 0.9 * limit
