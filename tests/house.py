"""How the package is written, measured: names of the sentence's grammar, `Any`, lines."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "prompt_jax"
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


def picture():
    """The rooms as a mermaid diagram."""
    lines = [f"    {room} --> {target}" for room, target in arrows()]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


if __name__ == "__main__":
    import sys
    from collections import Counter

    if sys.argv[1:] == ["picture"]:
        print(picture())
        sys.exit()
    for title, places in (("grammar names", grammar_names()), ("Any", anys())):
        print(f"{title}: {len(places)}, {1000 * len(places) / lines():.1f} per 1,000 lines")
        rooms = Counter(place.split("/")[1].split(":")[0] for place in places)
        print(" ", ", ".join(f"{room} {count}" for room, count in rooms.most_common()))
        if len(sys.argv) > 1:
            print("\n".join(place for place in places if sys.argv[1] in place))
    print(f"{lines()} lines in {len(files())} files")
