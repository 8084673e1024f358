"""`prompt-jax init`: a config for a file of rows, as the rows show it."""

import contextlib
import json
import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tyro.conf import Positional

from prompt_jax import disk
from prompt_jax.cli.arguments import aside
from prompt_jax.cli.calls import Call
from prompt_jax.config import InputError, TaskConfig, check_place

if TYPE_CHECKING:
    from prompt_jax.tasks import Example, Record, Task
else:  # `--help` answers at once: nothing heavy is imported before a command runs.
    Example = Record = Task = object

Ask = Callable[[str, str, Sequence[str]], list[str]]
"""Called with an option, what it names and the columns to choose among; gives the chosen ones."""
SAMPLE = 2000
"""Rows that are looked at for columns and lengths."""
SHARE = 0.99
"""Of the inputs, so many keep all their tokens."""
LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768)
"""What inputs are cut at."""
LONGEST_ANSWER = 256
"""Tokens of an answer at most."""
SHOWN = 8
"""Labels whose rows are counted in the config."""
ANSWERS = {"generation": "a written text", "regression": "a number"}
"""What the kinds that a file without labels may have are in words."""
NAMES = "Config, DataConfig, TaskConfig, TrainConfig"
CONFIG = '''\
"""{title}

Written by prompt-jax init. Change it, and train it: prompt-jax train {place}
"""

from prompt_jax import {names}

config = Config(
    # The frozen model: embedded (ships with the package), a hub id, a folder or a .gguf file.
    # {model}
    backbone={backbone},
    # The folder of the run: the saved prompt, its scores and a report.
    out={out},
    data=DataConfig(
        task={name},
        # A tenth of the rows is held out for validation. Another file: validation="file:PATH"
        {source_length},
        max_target_length={target_length},
    ),
    task=TaskConfig(
        source={source},
        target={target},
        {kind}
    ),
    train=TrainConfig(
        # Optimizer steps of batch_size rows. The file has {rows:,} rows.
        steps=300,
        batch_size={batch_size},
        # A learning_rate in place of that of the method: learning_rate=0.1
    ),
{writing})
'''


class Lengths(NamedTuple):
    """Tokens of inputs and answers."""

    usual: int
    """The length that `SHARE` of the inputs have at most."""
    longest: int
    answer: int
    """Of the longest answer."""


def run(arguments: list[str]) -> Call:
    """Writes a config."""

    def init(
        file: Positional[str],
        *,
        out: str = "config.py",
        input: tuple[str, ...] = (),
        answer: str = "",
        backbone: str = "embedded",
        overwrite: bool = False,
    ) -> None:
        """Reads a file of rows, and writes a config with comments that `train` runs.

        It chooses columns, the kind of answer, labels and lengths. Where several columns fit, it
        asks on a terminal.

        Args:
          file: a .csv, .tsv, .jsonl or .parquet, or a folder of such files.
          out: the config to write.
          input: columns of the input, in their order; by default those that look like texts.
          answer: the column of the answer; by default the one that looks like labels.
          backbone: the frozen model, in whose tokens texts are measured.
          overwrite: replace the config.
        """
        check_place(out)
        if Path(out).exists() and not overwrite:
            raise InputError(f"{out} exists; give another --out, or --overwrite to replace it")
        if not out.endswith(".py"):
            raise InputError(f"--out is a Python file and ends in .py, got {out}")
        ask = _ask if sys.stdin.isatty() and sys.stdout.isatty() else _refuse
        disk.write(Path(out), config_text(file, out, input, answer, backbone, ask))
        aside(f"config written to {out}")
        print(f"next: prompt-jax train {shlex.quote(out)}")

    return Call("init", init, arguments)


def _refuse(option: str, purpose: str, columns: Sequence[str]) -> list[str]:
    example = " ".join(columns) if option == "--input" else columns[0]
    raise InputError(
        f"the {purpose} may be {', '.join(columns[:-1])} or {columns[-1]}; choose with {option}, "
        f"e.g. {option} {example}"
    )


def _ask(option: str, purpose: str, columns: Sequence[str]) -> list[str]:
    numbers = {str(number): column for number, column in enumerate(columns, 1)}
    for number, column in numbers.items():
        print(f"  {number}  {column}")
    while True:
        line = input(f"Which column is the {purpose} ({option})? Number or name: ")
        chosen = [numbers.get(word, word) for word in line.replace(",", " ").split()]
        if chosen and set(chosen) <= set(columns):
            return chosen
        print(f"Write a number from 1 to {len(columns)}, or a name.")


def config_text(
    file: str, place: str, inputs: Sequence[str], answer: str, backbone: str, ask: Ask
) -> str:
    """The config for a file, as Python.

    Args:
      place: where it will be written.
      inputs: the columns of the input; empty leaves them open.
      answer: the column of the answer; empty leaves it open.
      ask: called where several columns fit.

    Raises:
      InputError: a file that cannot be read, a column that it lacks, rows that do not fit, or as
        `ask`.
    """
    from prompt_jax.data import load_table, splits
    from prompt_jax.tasks import completed, resolve, to_examples

    name = f"file:{file.removeprefix('file:')}"
    parts = splits(name)
    rows = load_table(name, parts[0] if len(parts) == 1 else "train")
    options = _templates(name, [row.values for row in rows[:SAMPLE]], inputs, answer, ask)
    task = resolve(name, options, rows[0].values, rows)
    examples = to_examples(task, rows)
    task = completed(task, examples)
    lengths = None if task.chat else _lengths(backbone, examples[:SAMPLE])
    return _filled(name, place, backbone, task, examples, lengths)


def _templates(
    name: str, rows: Sequence[Record], inputs: Sequence[str], answer: str, ask: Ask
) -> TaskConfig:
    """The templates of a file; its kind too, where the answers are decimal numbers."""
    from prompt_jax.tasks import resolve
    from prompt_jax.tasks.columns import candidates, is_decimal, template
    from prompt_jax.tasks.task import lone_column
    from prompt_jax.tasks.templates import check_column

    for column in filter(None, (*inputs, answer)):
        check_column(column, rows[0], name)
    if answer in inputs:
        raise InputError(f"--input and --answer both name {answer}; name it once")
    source = target = ""
    if not inputs and not answer:
        with contextlib.suppress(InputError):  # Usual columns need no guess.
            usual = resolve(name, TaskConfig(), rows[0])
            source, target = usual.source, usual.target
    if not source:
        answers = [c for c in candidates(rows, answer).answers if c not in inputs]
        answers = ask("--answer", "answer", answers)[:1] if len(answers) > 1 else answers
        if not answers:
            raise InputError(f"{name} has no column for the answer; name one with --answer")
        others = inputs or candidates(rows, answers[0]).inputs
        others = ask("--input", "input", others) if len(others) > 1 and not inputs else others
        if not others:
            raise InputError(f"{name} has no column for the input; name one with --input")
        source, target, answer = template(others), template(answers), answers[0]
    answer = answer or lone_column(target)
    decimal = answer and is_decimal([row.get(answer) for row in rows])
    return TaskConfig(source=source, target=target, kind="regression" if decimal else None)


def _lengths(backbone: str, examples: Sequence[Example]) -> Lengths | None:
    """Tokens of inputs and answers; None where the backbone has no tokenizer."""
    from prompt_jax.weights.load import open_backbone, tokenizer_for

    _, place, _ = open_backbone(backbone, None, None)
    tokenizer = tokenizer_for(place, None)
    if tokenizer is None:
        return None

    def count(texts: list[str]) -> list[int]:
        return sorted(map(len, tokenizer(texts)["input_ids"]))

    sources = count([str(example.source) for example in examples])
    answers = count([str(example.target) for example in examples])
    return Lengths(sources[math.ceil(SHARE * len(sources)) - 1], sources[-1], answers[-1])


def _filled(
    name: str,
    place: str,
    backbone: str,
    task: Task,
    examples: Sequence[Example],
    lengths: Lengths | None,
) -> str:
    file = Path(name.removeprefix("file:"))
    answer_length = 64 if lengths is None else min(-(-lengths.answer // 8) * 8, LONGEST_ANSWER)
    answer = f"one of {len(task.choices)} labels" if task.choices else ANSWERS[task.kind]
    model, names, writing = "It may also be named by --backbone of prompt-jax train.", NAMES, ""
    if task.kind == "generation":
        names = NAMES.replace("TaskConfig", "EvalConfig, TaskConfig")
        options = f"eval=EvalConfig(max_new_tokens={answer_length}),"
        writing = f"    # Tokens of a written answer.\n    {options}\n"
        if backbone == "embedded":
            model = "It is too small to write well: for written answers take an instruct model."
    return CONFIG.format(
        title=_inside(f"{file.name}: {task.source} -> {task.target}, {answer}."),
        place=shlex.quote(place),
        names=names,
        model=model,
        backbone=_python(backbone),
        out=_python(f"runs/{file.name.partition('.')[0] or 'init'}"),
        name=_python(name),
        source_length=_source_length(lengths),
        target_length=answer_length,
        source=_python(task.source),
        target=_python(task.target),
        kind=_kind(task, examples),
        rows=len(examples),
        batch_size=min(32, 2 ** int(math.log2(len(examples)))),
        writing=writing,
    )


def _inside(text: str) -> str:
    """A text as it may stand in a docstring or a comment of one line."""
    return " ".join(text.replace("\\", "\\\\").replace('"', "'").split())


def _python(value: str | Sequence[str]) -> str:
    """A text or several as Python has them, in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"({', '.join(map(_python, value))}{',' * (len(value) == 1)})"


def _source_length(lengths: Lengths | None) -> str:
    if lengths is None:
        return "# Tokens of an input; longer ones are cut.\n        max_source_length=256"
    cut = next((size for size in LENGTHS if size >= lengths.usual), LENGTHS[-1])
    return (
        f"# {SHARE:.0%} of the inputs have at most {lengths.usual} tokens, the longest has "
        f"{lengths.longest}; longer ones are cut.\n        max_source_length={cut}"
    )


def _kind(task: Task, examples: Sequence[Example]) -> str:
    """The lines about what an answer is."""
    from prompt_jax.tasks import label_numbers, write_labels

    if not task.choices:
        return f"kind={_python(task.kind)},"
    counts = Counter(label_numbers(examples, task).tolist())
    words = map(_inside, task.choices[:SHOWN])
    shares = ", ".join(f"{word} {counts[i]:,}" for i, word in enumerate(words))
    rest = ", ..." if len(task.choices) > SHOWN else ""
    return (
        f"# Rows: {shares}{rest}.\n"
        f"        labels={_python(write_labels(task))},\n"
        f'        # To write free texts, replace labels by kind="generation"'
    )
