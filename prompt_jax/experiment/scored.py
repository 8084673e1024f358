"""What a saved prompt is scored on: rows that it was not trained on, under the names of files."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prompt_jax.config import Config, DataConfig, from_json
from prompt_jax.data import splits
from prompt_jax.experiment.splits import (
    Data,
    check_one,
    digest,
    examples_of,
    load_data,
    read_rows,
)
from prompt_jax.lines import Say
from prompt_jax.prompts import Prompt
from prompt_jax.tasks import completed, parse_name, resolve, to_examples

Recipe = Mapping[str, Any]
"""What a saved prompt says of its training: `prompt.recipe`."""
T = TypeVar("T")
SPLITTING = (
    *("seed", "first_rows", "skip_unlabelled"),
    *("validation_fraction", "max_examples", "shots"),
)
"""Fields of `DataConfig` that decide which rows are held out."""


class Scored(NamedTuple):
    """Examples to score."""

    data: Data
    titles: dict[str, str]
    """Set -> the head of its column, where that is another name."""

    def named(self, results: Mapping[str, Mapping[str, T]]) -> dict[str, dict[str, T]]:
        """Results by way and set, the sets under their titles."""
        return {
            way: {self.titles.get(name, name): scores for name, scores in sets.items()}
            for way, sets in results.items()
        }


def scored(config: Config, prompts: Sequence[Prompt], say: Say) -> Scored:
    """What `config.data` has to score prompts on.

    The task that a prompt was trained on: what its run held out, or the validation rows, and the
    test rows. Any other: a file or a split whole, a dataset without its training rows.

    Args:
      prompts: their recipes say what they were trained on, and which rows were held out.
      say: receives a line that says what is scored, and a warning where training rows are among it.
    """
    check_one(config, "evaluate")
    name, recipes = config.data.task, [prompt.recipe for prompt in prompts]
    trained = [recipe for recipe in recipes if any(_same(n, name) for n in _names(recipe))]
    if not trained and len(splits(name)) == 1:
        selection = _whole(config, recipes)
    else:
        data = load_data(_as_split(config, trained))
        held_out = f"{_title(name)}, held out" if data.held_out else ""
        titles = {"validation": held_out or _title(config.data.validation or "validation")}
        titles |= {"test": _title(config.data.test)} if config.data.test else {}
        selection = Scored(data, _apart(titles, config.data))
        validation_digest = digest(data.validation)
        if data.held_out and any(
            _held_out(recipe, name) != validation_digest for recipe in trained
        ):
            selection = _unknown(config, selection)
            say(
                f"warning: which rows of {_title(name)} were held out in training is not known: "
                "the prompt does not say, or the file, the templates or the split have changed. "
                "All of them are scored, rows of training among them"
            )
    data, titles = selection
    sets = {"validation": data.validation, **data.tests}
    counts = [f"{len(rows):,} rows of {titles.get(s, s)}" for s, rows in sets.items() if rows]
    say(f"scored: {'; '.join(counts)}")
    return selection


def _names(recipe: Recipe) -> list[str]:
    """The tasks that a prompt was trained on."""
    data = recipe.get("data", {})
    return [data["task"], *data.get("mixture", ())] if "task" in data else []


def _held_out(recipe: Recipe, name: str) -> str | None:
    """The digest of the rows of a task that a run held out; None where it does not say."""
    digests = recipe.get("held_out", {}).items()
    return next((value for key, value in digests if _same(key, parse_name(name).key)), None)


def _same(name: str, task: str) -> bool:
    first, second = parse_name(name), parse_name(task)
    if (first.prefix, second.prefix) != ("file", "file"):
        return first == second
    return _path(first.path) == _path(second.path)


def _path(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _as_split(config: Config, trained: Sequence[Recipe]) -> Config:
    """The config with what decided in training which rows were held out."""
    if not trained:
        return config
    run = from_json(DataConfig, trained[0]["data"])
    split = {name: getattr(run, name) for name in SPLITTING}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **split))


def _whole(config: Config, recipes: Sequence[Recipe]) -> Scored:
    """A split or a file, and files beside it that are not those of training."""
    name, options = config.data.task, config.data
    (split,) = splits(name)
    rows, remarks = read_rows(config, name, split)
    task = resolve(name, config.task, rows[0][1], rows)
    examples = to_examples(task, rows)
    task = completed(task, examples)
    sets = {name: examples}
    for part in ("validation", "test"):
        file = getattr(options, part)
        if file and file not in [recipe.get("data", {}).get(part) for recipe in recipes]:
            sets[file] = examples_of(config, task, file, part)
    titles = _apart({n: _title(n) for n in sets}, options)
    return Scored(Data(task, sets[name], [], sets, remarks=remarks), titles)


def _unknown(config: Config, selection: Scored) -> Scored:
    """All rows of a file or a training split, in place of a validation that is not to be had."""
    name = config.data.task
    first, *others = splits(name)
    rows, _ = read_rows(config, name, "train" if others else first)
    examples = to_examples(selection.data.task, rows)
    data = selection.data._replace(validation=[], tests={name: examples, **selection.data.tests})
    return Scored(data, {**selection.titles, name: f"{_title(name)}, with rows of training"})


def _title(name: str) -> str:
    """The name of a file, or of a split or a dataset."""
    if name.startswith("file:"):
        return Path(name.removeprefix("file:")).name
    return (parse_name(name).split or name) if ":" in name else name


def _apart(titles: dict[str, str], options: DataConfig) -> dict[str, str]:
    """Titles of which no two are alike: of files of one name, their paths."""
    if len(set(titles.values())) == len(titles):
        return titles
    paths = {"validation": options.validation or options.task, "test": options.test}
    return {key: (paths.get(key) or key).removeprefix("file:") for key in titles}
