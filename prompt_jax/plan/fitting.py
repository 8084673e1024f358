"""What a run leaves to its devices: what the backward pass keeps, and the rows of an evaluation."""

import dataclasses
import math
from collections.abc import Sequence

import jax

from prompt_jax.config import REMATS, Config, InputError
from prompt_jax.lines import Say, silent
from prompt_jax.plan.chips import GIB, devices_of, limit_of
from prompt_jax.plan.plan import Plan, plan, with_remat
from prompt_jax.plan.programs import SHORT, programs_of, shape_of_backbone
from prompt_jax.sharding import device_memory, row_ways


def fitted(
    config: Config,
    topology: str | None = None,
    *,
    members: int = 1,
    memory: float | None = None,
    say: Say = silent,
) -> Config:
    """The config with `remat` and rows of evaluation that fit the devices.

    Programs are compiled for it, of the longest texts. On devices that do not tell their memory, as
    on CPU, an evaluation keeps its rows; so does that of a model that only reads.

    Args:
      topology: as `devices_of` takes it.
      members: prompts that train together; each is evaluated alone.
      memory: GiB of a device; None asks the local devices, or the table of chips.
      say: receives a line for each that says what fits, and what did not.

    Raises:
      InputError: nothing fits, or as `plan`.
    """
    if config.frozen.remat == "auto":
        config = plan_remat(config, topology, members=members, memory=memory, say=say).config
    return _fewer_rows(config, topology, memory, say)


def _fewer_rows(config: Config, topology: str | None, memory: float | None, say: Say) -> Config:
    devices = devices_of(topology)
    limit = limit_of(devices[0]) if memory is None else memory
    if limit is None:
        return config
    backbone = shape_of_backbone(config, devices)
    if backbone.target_place == "within":
        return config
    programs = [name for name in programs_of(config) if name not in ("train", SHORT)]
    over = ""
    while True:
        rows = config.scoring.rows
        costs = plan(config, topology, programs=programs).costs
        largest = max(costs, key=lambda cost: cost.needed)
        if largest.memory is not None and largest.needed <= limit:
            say(
                f"evaluation of {rows} rows at a time: {largest.needed:.2f} of the {limit:.2f} GiB "
                f"of each device{over}"
            )
            return config
        over += f", and {largest.needed:.2f} with {rows}"
        if rows <= row_ways(backbone.mesh):
            raise InputError(
                f"{largest.program} of {rows} rows takes {largest.needed:.2f} GiB of each device, "
                f"and {limit:.2f} are there; take more devices (mesh.tensor, mesh.fsdp), a smaller "
                "data.max_source_length, or frozen.dtype int8"
            )
        fewer = dataclasses.replace(config.eval, batch_size=rows // 2)
        config = dataclasses.replace(config, eval=fewer)


def plan_remat(
    config: Config,
    topology: str | None = None,
    *,
    members: int = 1,
    memory: float | None = None,
    say: Say = silent,
) -> Plan:
    """The fastest plan that fits of those that keep everything, something, nothing for backward.

    Where the compiler has no estimate, the first that fits. A run compiles the step once more, at
    the lengths of its own batches: this one is of the longest, for which there may be no batch.

    Args:
      config: its `frozen.remat` is not looked at.
      topology: as `devices_of` takes it.
      members: prompts that train together.
      memory: GiB of a device; None asks the local devices, or the table of chips.
      say: receives a line that says what fits, and what did not.

    Raises:
      InputError: none fits, or as `plan`.
    """
    limit = _limit(topology, memory)
    step = _fastest(config, topology, members, limit, say)
    if not _fits(step, limit):
        raise InputError(
            f"{config.backbone} takes {step.needed:.2f} GiB of each device with remat full, and "
            f"{limit:.2f} are there; take more devices (mesh.tensor, mesh.fsdp), a smaller "
            "train.batch_size, or frozen.dtype int8"
        )
    return step


def planned(
    config: Config,
    topology: str | None,
    *,
    programs: Sequence[str] = (),
    members: int = 1,
    say: Say = silent,
) -> Plan:
    """A plan as `plan` makes it, in which `remat auto` is the fastest that fits, else `full`."""
    if config.frozen.remat != "auto":
        return plan(config, topology, programs=programs, members=members)
    step = _fastest(config, topology, members, _limit(topology, None), say)
    names = programs or programs_of(step.config)
    others = [name for name in names if name != "train"]
    rest = plan(step.config, topology, programs=others, members=members).costs if others else []
    return step._replace(costs=[*(step.costs if "train" in names else []), *rest])


def _limit(topology: str | None, memory: float | None) -> float | None:
    """GiB of a device: what is given, what the local devices have, or the table of chips."""
    if memory is not None:
        return memory
    if topology is None:
        return device_memory(jax.devices()) / GIB
    return limit_of(devices_of(topology)[0])


def _fits(step: Plan, limit: float | None) -> bool:
    (cost,) = step.costs
    return limit is None or (cost.memory is not None and cost.needed <= limit)


def _fastest(
    config: Config, topology: str | None, members: int, limit: float | None, say: Say
) -> Plan:
    """The fastest step of `REMATS` that fits, or the last one.

    What is kept is written and read again, which may take longer than to compute it twice. From the
    first that fits on, less is kept for as long as that is faster.
    """
    fitting: list[Plan] = []
    too_large: list[Plan] = []
    for remat in REMATS:
        changed = dataclasses.replace(config, frozen=with_remat(config.frozen, remat))
        step = plan(changed, topology, programs=("train",), members=members)
        if not _fits(step, limit):
            too_large.append(step)
            continue
        fitting.append(step)
        if _seconds(step) >= min(map(_seconds, fitting[:-1]), default=math.inf):
            break
    if not fitting:
        return step
    fastest = min(fitting, key=_seconds)
    room = "" if limit is None else f" of the {limit:.2f}"
    line = f"remat {_remat(fastest)}: a step takes {fastest.needed:.2f}{room} GiB of each device"
    line += "".join(f", and {other.needed:.2f} with {_remat(other)}" for other in too_large)
    if len(fitting) > 1:
        line += f"; {_seconds(fastest):.3f} s by the compiler's estimate"
        others = (other for other in fitting if other is not fastest)
        line += "".join(f", and {_seconds(other):.3f} with {_remat(other)}" for other in others)
    say(line)
    # Where only `full` fits the longest inputs, shorter ones may keep more.
    return fastest if _remat(fitting[0]) != "full" else _short_inputs(fastest, limit, say)


def _remat(step: Plan) -> str:
    return step.config.frozen.remat


def _seconds(step: Plan) -> float:
    """By the compiler's estimate; infinite where there is none."""
    (cost,) = step.costs
    return cost.estimate.seconds if cost.estimate else math.inf


def _short_inputs(step: Plan, limit: float | None, say: Say) -> Plan:
    """The plan with `remat_beyond`: half of the positions, or a quarter."""
    config, virtual = step.config, step.config.method.input_tokens
    longest = virtual + config.data.max_source_length
    if config.frozen.remat_beyond:
        return step
    for positions in (longest // 16 * 8, longest // 32 * 8):
        if positions <= virtual:
            break
        frozen = dataclasses.replace(config.frozen, remat_beyond=positions)
        changed = dataclasses.replace(config, frozen=frozen)
        short = plan(changed, step.topology, programs=(SHORT,), members=step.members)
        if _fits(short, limit):
            say(f"remat minimal up to {positions} positions: {short.needed:.2f} GiB")
            return step._replace(config=changed)
    return step
