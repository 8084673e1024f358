"""What the text of a compiled program tells: what travels, and the compiler's estimate of time."""

import collections
import math
import re
from typing import NamedTuple

from prompt_jax.backbones.relative import CYCLES

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SCATTER = "all-reduce-scatter"
"""What libtpu calls the computation of a reduce-scatter, which is written as an all-reduce."""
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"= (.*?) (" + "|".join(COLLECTIVES) + r")(-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_LOOP = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_TRIPS = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_CALL = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.-]+)")
_SHAPE = re.compile(r"\b(pred|[su]\d+|bf16|f\d+\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KERNEL = re.compile(r'(relative_\w+?)\)*/pallas_call.*"transcendentals":"(\d+)"')
"""Attention of `backbones.relative`, with its scores."""
_SOURCE = re.compile(r'op_name="([^"]*)"')
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_NAMED = re.compile(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}")

PARTS = {
    # Slices of what a scan stacks, and changes of layout.
    "copies": re.compile(r"dynamic_(?:index|update_index|slice)|^copy$"),
    "MLP": re.compile(r"/mlp/"),
    "projections": re.compile(r"attention[^/]*/(?:query|key|value|qkv|out)/"),
    "attention": re.compile(r"attention(?:\.\w+)?/|/relative_bias/"),
    "words": re.compile(r"/logits/|\.embed\)|/embed/|/head/"),
    "rest": re.compile(""),
}
"""Part of a program -> where its operations come from; the first that matches has it."""


class Traffic(NamedTuple):
    """Collectives of one kind and size that a device takes part in."""

    kind: str
    bytes: int
    """Bytes of the array, as large as it is before it is scattered or after it is gathered."""
    times: int
    ways: int
    """Devices that it is between; 0 where the text does not tell."""
    hidden: bool
    """Whether the device computes meanwhile."""

    @property
    def moved(self) -> float:
        """Bytes that arrive at a device, all times together."""
        # A device has its own part already. An all-reduce is a reduce-scatter and an all-gather.
        share = (self.ways - 1) / self.ways if self.ways else 1.0
        rounds = 2 if self.kind == "all-reduce" else 1
        return self.bytes * self.times * rounds * share


class Operation(NamedTuple):
    """A collective where it is written."""

    channel: str
    """What its start, its end and all between them have in common."""
    kind: str
    bytes: int
    ways: int
    hidden: bool


class Computation(NamedTuple):
    """One computation of a program, with what it calls and on what condition."""

    operations: list[Operation]
    calls: list[tuple[str, str]]
    cycles: collections.Counter[str]
    """By part of the program."""


class Compiled(NamedTuple):
    """What a compiled program does on one device."""

    traffic: list[Traffic]
    """The heaviest first."""
    cycles: dict[str, int]
    """By part of the program, as the compiler estimates; none of a compiler that does not."""


def read_compiled(hlo: str) -> Compiled:
    """What a compiled program does.

    Args:
      hlo: its text. A loop runs as often as the number says that its condition compares with; one
        that ends when it likes counts once.
    """
    computations, trips, entry = _computations(hlo)
    met: dict[str, dict[str, Operation]] = collections.defaultdict(dict)
    times: collections.Counter[str] = collections.Counter()
    cycles: collections.Counter[str] = collections.Counter()

    def walk(name: str, count: int) -> None:
        if name not in computations:
            return
        operations, calls, estimated = computations[name]
        for operation in operations:
            met[operation.channel][name] = operation
            # Written again at its end and wherever work goes on meanwhile, in the same loop.
            times[operation.channel] = max(times[operation.channel], count)
        for part, number in estimated.items():
            cycles[part] += number * count
        for callee, condition in calls:
            walk(callee, count * trips.get(condition, 1))

    walk(entry, 1)
    alike: collections.Counter[tuple[str, int, int, bool]] = collections.Counter()
    for channel, places in met.items():
        operation = next(iter(places.values()))
        hidden = operation.hidden or len(places) > 1
        alike[operation.kind, operation.bytes, operation.ways, hidden] += times[channel]
    traffic = [
        Traffic(kind, size, count, ways, hidden)
        for (kind, size, ways, hidden), count in alike.items()
    ]
    traffic.sort(key=lambda t: -t.moved)
    return Compiled(traffic, {part: cycles[part] for part in PARTS if cycles[part]})


def _computations(hlo: str) -> tuple[dict[str, Computation], dict[str, int], str]:
    """Every computation by name, the number in it, and the name of the first."""
    computations: dict[str, Computation] = {}
    trips: dict[str, int] = {}
    name = entry = ""
    for line in hlo.splitlines():
        head = _HEAD.match(line)
        if head:
            name = head.group(1)
            computations[name] = Computation([], [], collections.Counter())
            entry = name if line.startswith("ENTRY") else entry
            continue
        if name not in computations:
            continue
        operations, calls, cycles = computations[name]
        operation = _OPERATION.search(line)
        if operation:
            operations.append(_operation(line, operation, name))
        loop = _LOOP.search(line)
        if loop:
            calls.append((loop.group(2), loop.group(1)))
        # What a collective calls adds two numbers, and is no part of the program to walk into.
        elif operation is None:
            calls.extend((callee, "") for callee in _CALL.findall(line))
        number, estimated, kernel = (p.search(line) for p in (_TRIPS, _CYCLES, _KERNEL))
        if number:
            trips[name] = int(number.group(1))
        if estimated:
            cycles[_part(line)] += int(estimated.group(1))
        if kernel:
            cycles["attention"] += int(CYCLES[kernel.group(1)] * int(kernel.group(2)))
    return computations, trips, entry


def _operation(line: str, operation: re.Match[str], computation: str) -> Operation:
    shapes, kind, start = operation.groups()
    channel = _CHANNEL.search(line)
    scatters = computation.startswith(_SCATTER)
    return Operation(
        channel=channel.group(1) if channel else line,
        kind="reduce-scatter" if scatters else kind,
        bytes=_size(shapes),
        ways=_ways(line),
        hidden=start is not None,
    )


def _part(line: str) -> str:
    """The part of the program that an operation belongs to."""
    source = _SOURCE.search(line)
    where = source.group(1) if source else "copy" if " copy(" in line else ""
    return next(part for part, pattern in PARTS.items() if pattern.search(where))


def _ways(line: str) -> int:
    """Devices that a collective is between, by any of the three ways to write groups."""
    if listed := _LISTED.search(line):
        return len(listed.group(1).split(","))
    if counted := _COUNTED.search(line):
        return int(counted.group(1))
    if named := _NAMED.search(line):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", named.group(1))}
        return math.prod(sizes[name] for name in re.findall(r"'\w+'", named.group(2)))
    return 0


def _size(shapes: str) -> int:
    """Bytes of the largest array in a result, which of a started operation also has its operand."""
    sizes = [0]
    for kind, dimensions in _SHAPE.findall(shapes):
        bits = 8 if kind == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", kind))
        count = math.prod(int(n) for n in dimensions.split(",") if n)
        sizes.append(count * bits // 8)
    return max(sizes)
