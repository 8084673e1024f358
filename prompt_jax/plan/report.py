"""A plan in words, as data, and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from prompt_jax.plan.compiled import PARTS
from prompt_jax.plan.hours import of_longest
from prompt_jax.plan.plan import Cost, Plan
from prompt_jax.report import markdown, new_figure, save_figure
from prompt_jax.sharding import AXES

SHOWN = 6
"""Kinds and sizes of collectives that a report lists."""
_ANSWERS = {True: "yes", False: "no"}


def answer(plan: Plan) -> str:
    """Whether it fits, in a line."""
    cost = max(plan.costs, key=lambda cost: cost.needed)
    where = f"{plan.config.backbone} on {_place(plan)}"
    if cost.limit is None:
        return f"{where}: {cost.needed:.2f} GiB on each"
    if plan.fits:
        return f"{where}: yes, it fits: {cost.needed:.2f} of {cost.limit:.2f} GiB on each"
    return (
        f"{where}: no, {cost.program} takes {cost.needed:.2f} GiB, {cost.needed - cost.limit:.2f} "
        f"over the {cost.limit:.2f} of each"
    )


def _place(plan: Plan) -> str:
    devices = f"{plan.devices} x {plan.kind}"
    return f"{plan.topology} ({devices})" if plan.topology else devices


def choice(plan: Plan) -> str:
    """The mesh, what is kept, and in what the weights are held."""
    mesh = ", ".join(f"{name}={plan.mesh[name]}" for name in AXES if plan.mesh[name] > 1)
    frozen = plan.config.frozen
    rows = plan.config.eval.batch_size
    chosen = f", eval.batch_size {rows}" if rows else ""
    remat = f"{frozen.remat} beyond {frozen.remat_beyond}" if frozen.remat_beyond else frozen.remat
    return f"{mesh or 'one device'}, remat {remat}, weights {frozen.dtype}{chosen}"


def text(plan: Plan, others: Sequence[Plan] = ()) -> str:
    """A plan as a page, and other plans that fit in a table below."""
    c = plan.config
    lengths = f"{c.method.input_tokens} + {c.data.max_source_length} tokens"
    parts = [
        answer(plan),
        f"{choice(plan)}; {_steps(plan)} of {lengths}, "
        f"{c.data.max_target_length} of target; {c.scoring.rows} rows to evaluate",
        "",
        *_table(_memory_rows(plan.costs)),
    ]
    if any(cost.bounds for cost in plan.costs):
        parts += ["", *_table(_time_rows(plan.costs))]
    hours = of_longest(plan)
    if hours:
        parts[2:2] = [f"a run of the longest texts, without evaluation: {hours}"]
    if any(cost.estimate for cost in plan.costs):
        parts += ["", *_table(_estimate_rows(plan.costs))]
    for cost in plan.costs:
        if cost.traffic:
            parts += ["", f"between devices, {cost.program}, each:", *_table(_traffic_rows(cost))]
    if others:
        title = "the cheapest that fit:" if not plan.fits else "others that fit, the fastest first:"
        parts += ["", title, *_table(_search_rows(others))]
    return "\n".join(parts)


def _steps(plan: Plan) -> str:
    """The rows of a step."""
    rows = f"{plan.config.train.batch_size} rows"
    return rows if plan.members == 1 else f"{plan.members} prompts at once, each {rows}"


def _table(rows: list[list[str]]) -> list[str]:
    return markdown(rows).splitlines()


def _memory_rows(costs: Sequence[Cost]) -> list[list[str]]:
    rows = [["GiB on each", "weights", "prompt, optimizer, batch", "temporaries", "code", "all"]]
    for cost in costs:
        sizes = ["", "", "", ""] if cost.memory is None else [f"{n:.2f}" for n in cost.memory]
        rows.append([cost.program, *sizes, f"{cost.needed:.2f}"])
    return rows


def _time_rows(costs: Sequence[Cost]) -> list[list[str]]:
    rows = [["at least", "TFLOP on each", "compute", "memory", "network", "seconds", "MFU at most"]]
    for cost in costs:
        if cost.bounds and cost.utilization is not None:
            seconds = [f"{n:.3f}" for n in (*cost.bounds, cost.bounds.seconds)]
            # What the bound would reach, where the last column is of the estimate.
            share = cost.utilization * (cost.seconds or 0.0) / cost.bounds.seconds
            rows.append([cost.program, f"{cost.flops / 1e12:.1f}", *seconds, f"{share:.0%}"])
    return rows


def _estimate_rows(costs: Sequence[Cost]) -> list[list[str]]:
    rows = [["its compiler's estimate", *PARTS, "between devices", "seconds", "MFU"]]
    for cost in costs:
        if cost.estimate and cost.utilization is not None:
            parts = [cost.estimate.parts.get(part, 0.0) for part in PARTS]
            seconds = [*parts, cost.estimate.network, cost.estimate.seconds]
            share = f"{cost.utilization:.0%}"
            rows.append([cost.program, *(f"{n:.3f}" for n in seconds), share])
    return rows


def _traffic_rows(cost: Cost) -> list[list[str]]:
    rows = [["collective", "MiB", "times", "MiB that arrive", "while computing"]]
    for traffic in cost.traffic[:SHOWN]:
        size, moved = f"{traffic.bytes / 2**20:.2f}", f"{traffic.moved / 2**20:.0f}"
        rows.append([traffic.kind, size, str(traffic.times), moved, _ANSWERS[traffic.hidden]])
    rest = cost.traffic[SHOWN:]
    if rest:
        moved = sum(t.moved for t in rest) / 2**20
        rows.append([f"{len(rest)} more", "", str(sum(t.times for t in rest)), f"{moved:.0f}", ""])
    return rows


def _search_rows(plans: Sequence[Plan]) -> list[list[str]]:
    rows = [["change", "GiB on each", "seconds"]]
    for plan in plans:
        seconds = [cost.seconds for cost in plan.costs if cost.seconds is not None]
        rows.append([choice(plan), f"{plan.needed:.2f}", f"{sum(seconds):.3f}" if seconds else ""])
    return rows


def as_json(plan: Plan) -> dict[str, object]:
    """A plan as plain data, sizes in GiB and seconds; hours are those of `of_longest`."""
    hours = of_longest(plan)
    return {
        "backbone": plan.config.backbone,
        "topology": plan.topology,
        "devices": plan.devices,
        "kind": plan.kind,
        "mesh": plan.mesh,
        "remat": plan.config.frozen.remat,
        "weights": plan.config.frozen.dtype,
        "members": plan.members,
        "fits": plan.fits,
        "chip_hours": hours and hours.device_hours,
        "programs": [
            {
                "name": cost.program,
                "fits": cost.fits,
                "needed": cost.needed,
                "limit": cost.limit,
                "memory": cost.memory and cost.memory._asdict(),
                "flops": cost.flops,
                "bounds": cost.bounds and cost.bounds._asdict(),
                "estimate": cost.estimate and cost.estimate._asdict(),
                "utilization": cost.utilization,
                "traffic": [traffic._asdict() for traffic in cost.traffic],
            }
            for cost in plan.costs
        ],
    }


def draw(path: str | Path, plans: Sequence[Plan]) -> Path:
    """A picture of the memory of plans, a bar each, with the limit of a device."""
    largest = [max(plan.costs, key=lambda cost: cost.needed) for plan in plans]
    figure = new_figure(9, 1.4 + 0.5 * len(plans))
    axes = figure.add_subplot()
    names = [f"{choice(plan)} ({_ANSWERS[plan.fits]})" for plan in plans]
    left = [0.0] * len(plans)
    parts = ("weights", "state", "temporaries", "code")
    for part in (*parts, "does not fit"):
        sizes = [
            (0.0 if cost.memory is None else getattr(cost.memory, part))
            if part in parts
            else (cost.needed if cost.memory is None else 0.0)
            for cost in largest
        ]
        if any(sizes):
            axes.barh(names, sizes, left=left, label=part)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    limit = largest[0].limit
    if limit is not None:
        axes.axvline(limit, color="black", linestyle="--", label=f"{limit:.2f} GiB")
    axes.invert_yaxis()
    axes.set_xlabel("GiB on each device")
    axes.set_title(f"{plans[0].config.backbone} on {_place(plans[0])}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    save_figure(Path(path), figure)
    return Path(path)
