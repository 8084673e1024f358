"""The products of a program, counted from its jaxpr."""

import math
from typing import Any, NamedTuple, cast

from jax.extend import core


class Work(NamedTuple):
    """Matrix products of a program, over all devices."""

    flops: float
    bytes: float
    """Bytes of their operands and results, each as often as it is read or written."""

    def __add__(self, work: "Work") -> "Work":  # type: ignore[override]
        return Work(self.flops + work.flops, self.bytes + work.bytes)

    def times(self, count: float) -> "Work":
        """The products of so many repetitions."""
        return Work(self.flops * count, self.bytes * count)


NOTHING = Work(0.0, 0.0)


def work_of(jaxpr: core.Jaxpr, rounds: int = 1) -> Work:
    """The products of a jaxpr; loops count as often as they run.

    XLA's own count takes the body of a loop once, however often it runs.

    Args:
      rounds: of loops that end when they like, such as decoding.
    """
    total = NOTHING
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
            continue
        inner = [work_of(sub, rounds) for sub in _inside(equation)]
        if not inner:
            continue
        if equation.primitive.name == "scan":
            total += inner[0].times(equation.params["length"])
        elif equation.primitive.name == "while":
            total += sum(inner, NOTHING).times(rounds)
        elif equation.primitive.name == "shard_map":
            (local,) = _inside(equation)
            pairs = [
                [math.prod(cast(Any, variable.aval).shape) for variable in pair]
                for pair in zip(equation.invars, local.invars, strict=True)
            ]
            # Its program is that of one device, which has a part of what is split the most.
            total += inner[0].times(max(all_ // part for all_, part in pairs if part))
        elif equation.primitive.name == "cond":
            # One branch runs; which one is not known here, so the most expensive one counts.
            total += max(inner, key=lambda work: work.flops)
        else:
            total += sum(inner, NOTHING)
    return total


def _inside(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """The programs that an equation runs: the body of a loop, the branches of a condition."""
    jaxprs = []
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                jaxprs.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                jaxprs.append(item)
    return jaxprs


def _product(equation: core.JaxprEqn) -> Work:
    (contracted, _), _ = equation.params["dimension_numbers"]
    # Arrays, which their type does not say.
    left, right, out = (cast(Any, v.aval) for v in (*equation.invars, equation.outvars[0]))
    depth = math.prod(left.shape[axis] for axis in contracted)
    size = sum(a.size * a.dtype.itemsize for a in (left, right, out))
    # A multiplication and an addition for each number that is contracted.
    return Work(2.0 * out.size * depth, float(size))
