"""What a program does: its products from the jaxpr, its traffic between devices from the HLO."""

import collections
import math
import re
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


KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"= (.*?) (" + "|".join(KINDS) + r")(?:-start)?\(")
_LOOP = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_TRIPS = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_CALL = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.-]+)")
_SHAPE = re.compile(r"\b(pred|[su]\d+|bf16|f\d+\w*)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """Collectives of one kind and size that a device takes part in."""

    kind: str
    bytes: int
    """Bytes that arrive at a device each time."""
    times: int


def traffic_of(hlo: str) -> list[Traffic]:
    """The collectives of a compiled program, the heaviest first.

    Args:
      hlo: its text. A loop runs as often as the number says that its condition compares with; one
        that ends when it likes counts once.
    """
    collectives, calls, trips, entry = _computations(hlo)
    times: collections.Counter = collections.Counter()

    def walk(name: str, count: int) -> None:
        for kind, size in collectives.get(name, ()):
            times[kind, size] += count
        for callee, condition in calls.get(name, ()):
            walk(callee, count * trips.get(condition, 1))

    walk(entry, 1)
    traffic = [Traffic(kind, size, count) for (kind, size), count in times.items()]
    return sorted(traffic, key=lambda t: -t.bytes * t.times)


def _computations(hlo: str) -> tuple[dict, dict, dict, str]:
    """Every computation's collectives, what it calls on what condition, and the number in it."""
    collectives, calls = collections.defaultdict(list), collections.defaultdict(list)
    trips: dict[str, int] = {}
    name = entry = ""
    for line in hlo.splitlines():
        head = _HEAD.match(line)
        if head:
            name = head.group(1)
            entry = name if line.startswith("ENTRY") else entry
            continue
        operation = _OPERATION.search(line)
        if operation:
            collectives[name].append((operation.group(2), _size(operation.group(1))))
        loop = _LOOP.search(line)
        if loop:
            calls[name].append((loop.group(2), loop.group(1)))
        # What a collective calls adds two numbers, and is no part of the program to walk into.
        elif operation is None:
            calls[name].extend((callee, "") for callee in _CALL.findall(line))
        number = _TRIPS.search(line)
        if number:
            trips[name] = int(number.group(1))
    return collectives, calls, trips, entry


def _size(shapes: str) -> int:
    """Bytes of the largest array in a result, which of a started operation also has its operand."""
    sizes = [0]
    for kind, dimensions in _SHAPE.findall(shapes):
        bits = 8 if kind == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", kind))
        count = math.prod(int(n) for n in dimensions.split(",") if n)
        sizes.append(count * bits // 8)
    return max(sizes)
