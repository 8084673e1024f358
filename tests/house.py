"""How the package is written, measured: names of the sentence's grammar, `Any`, lines."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "prompt_jax"
PICTURE = PACKAGE.parent / "docs" / "images" / "rooms.svg"
GRAMMAR = set(
    "found made given own each asked told said some wanted known ours theirs whole what one other "
    "more".split()
)
"""Names of the sentence, not of the value: `candidates`, `request`, `row` say what a thing is."""


def files():
    return sorted(PACKAGE.rglob("*.py"))


def bound_names(tree):
    """Variables and arguments with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def grammar_names():
    """`file:line name` of every variable and argument named by grammar."""
    return [
        f"{path.relative_to(PACKAGE.parent)}:{line} {name}"
        for path in files()
        for name, line in bound_names(ast.parse(path.read_text()))
        if name in GRAMMAR
    ]


def anys():
    """`file:line` of every use of `Any` that is no import."""
    return [
        f"{path.relative_to(PACKAGE.parent)}:{number}"
        for path in files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "import" not in line
        for _ in re.findall(r"\bAny\b", line)
    ]


def lines():
    """Lines of the package."""
    return sum(path.read_text().count("\n") for path in files())


def arrows():
    """(room, room that it imports), without those that other arrows already say."""
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in files()}
    imports = {room: set() for room in rooms if not room.startswith("__")}
    for path in files():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if room in imports and isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                parts = [name.split(".") for name in names if name.startswith("prompt_jax.")]
                imports[room] |= {part[1] for part in parts} & imports.keys() - {room}

    def below(room):
        return imports[room].union(*map(below, imports[room]))

    return sorted(
        (room, target)
        for room, targets in imports.items()
        for target in targets
        if not any(target in below(between) for between in targets - {target})
    )


HIGH, ROW, LETTER, BETWEEN, MARGIN = 34, 86, 8.6, 26, 20
"""Pixels: height of a box, from row to row, width of a letter, between boxes, around all."""
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" \
font-family="system-ui, sans-serif" font-size="16">
  <rect width="{width:.0f}" height="{height:.0f}" rx="12" fill="#ffffff"/>
  <g fill="none" stroke="#8fa8c8" stroke-width="1.5">
{arrows}
  </g>
  <g fill="#dbe7f7" stroke="#3b6fb6">
{boxes}
  </g>
  <g fill="#1d3f72" text-anchor="middle">
{names}
  </g>
</svg>
"""


def rows(pairs):
    """The rooms from top to bottom: each is below all that import it, and beside its kin."""
    importers = {}
    for room, target in pairs:
        importers.setdefault(room, [])
        importers.setdefault(target, []).append(room)

    def depth(room):
        return 1 + max(map(depth, importers[room]), default=-1)

    ranks = [[] for _ in range(1 + max(map(depth, importers)))]
    for room in sorted(importers):
        ranks[depth(room)].append(room)
    shares = {}
    for rank in ranks:
        # Where its importers stand from left to right, so that few arrows cross.
        means = {r: sum(shares[i] for i in importers[r]) / len(importers[r] or [1]) for r in rank}
        rank.sort(key=lambda room: (means[room], room))
        shares |= {room: (i + 0.5) / len(rank) for i, room in enumerate(rank)}
    return ranks


def picture():
    """The rooms as an SVG: an arrow leads from a room down to one that it imports."""
    pairs = arrows()
    ranks = rows(pairs)
    wide = {room: LETTER * len(room) + 20 for rank in ranks for room in rank}
    widths = [sum(wide[room] + BETWEEN for room in rank) - BETWEEN for rank in ranks]
    width, places = max(widths) + 2 * MARGIN, {}
    for i, (rank, taken) in enumerate(zip(ranks, widths, strict=True)):
        left = (width - taken) / 2
        for room in rank:
            places[room] = (left + wide[room] / 2, MARGIN + i * ROW)
            left += wide[room] + BETWEEN
    curves, boxes, names = [], [], []
    for room, target in pairs:
        (x, y), (to_x, to_y) = places[room], places[target]
        bend = (y + HIGH + to_y) / 2
        curve = f"M{x:.0f} {y + HIGH} C{x:.0f} {bend:.0f} {to_x:.0f} {bend:.0f} {to_x:.0f} {to_y}"
        curves.append(f'    <path d="{curve}"/>')
        curves.append(f'    <path d="M{to_x - 5:.0f} {to_y - 7} l5 7 l5 -7"/>')
    for room, (x, y) in sorted(places.items()):
        corner = f'x="{x - wide[room] / 2:.0f}" y="{y}"'
        boxes.append(f'    <rect {corner} width="{wide[room]:.0f}" height="{HIGH}" rx="8"/>')
        names.append(f'    <text x="{x:.0f}" y="{y + 23}">{room}</text>')
    height = 2 * MARGIN + (len(ranks) - 1) * ROW + HIGH
    parts = {"arrows": curves, "boxes": boxes, "names": names}
    parts = {name: "\n".join(lines) for name, lines in parts.items()}
    return SVG.format(width=width, height=height, **parts)


if __name__ == "__main__":
    import sys
    from collections import Counter

    if sys.argv[1:] == ["picture"]:
        PICTURE.write_text(picture())
        print(f"drawn: {PICTURE}")
        sys.exit()
    for title, places in (("grammar names", grammar_names()), ("Any", anys())):
        print(f"{title}: {len(places)}, {1000 * len(places) / lines():.1f} per 1,000 lines")
        rooms = Counter(place.split("/")[1].split(":")[0] for place in places)
        print(" ", ", ".join(f"{room} {count}" for room, count in rooms.most_common()))
        if len(sys.argv) > 1:
            print("\n".join(place for place in places if sys.argv[1] in place))
    print(f"{lines()} lines in {len(files())} files")
