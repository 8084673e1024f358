"""Rows of the hub of Hugging Face, or of its cache, by the `datasets` library."""

import contextlib
import difflib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from prompt_jax.config import InputError, choose
from prompt_jax.data.tables import Table, arrow_rows, class_names
from prompt_jax.tasks import TaskName
from prompt_jax.tasks.benchmarks import MRQA

Builder: TypeAlias = Any
"""A dataset builder of `datasets`."""
Dataset: TypeAlias = Any
"""A split that `datasets` has prepared."""
CHUNK = 1000
"""Rows that a stream hands over at a time."""
SUBSETS = dict.fromkeys(("mrqa-workshop/mrqa", "mrqa"), ("subset", tuple(MRQA.values())))
"""Datasets that are several in one, which `ID/SUBSET` names: the column that tells a row's subset,
and what stands in it."""


def parts(name: TaskName) -> list[str]:
    """The splits of a dataset; no rows are fetched for them.

    Raises:
      InputError: no such dataset or configuration, or the hub cannot be reached.
    """
    return sorted(_builder(_parsed(name.path)[0]).as_streaming_dataset())


def read(name: TaskName, split: str, limit: int | None) -> Table:
    """The rows of a split, e.g. "train" or "train[:100]"; with a limit they are streamed.

    Raises:
      InputError: as `parts`, or no such split.
    """
    import pyarrow

    path, column, subset = _parsed(name.path)
    builder, names = _builder(path), parts(name)
    for part in split.split("+"):
        choose(f"split of {name.dataset}", part.partition("[")[0].strip(), names)
    if limit is not None and split in names:
        stream = builder.as_streaming_dataset(split=split)
        if subset:
            stream = stream.filter(lambda row: row[column] == subset)
        chunks = list(stream.take(limit).with_format("arrow").iter(CHUNK))
        table = pyarrow.concat_tables(chunks) if chunks else pyarrow.table({})
        rows, features, source = np.arange(len(table)), stream.features, ""
    else:
        dataset = _prepared(name, builder, split)
        table, features = dataset.with_format("arrow")[:], dataset.features
        rows = np.arange(len(table))
        rows = (rows[table[column].to_numpy() == subset] if subset else rows)[:limit]
        # `datasets` makes it of the files, their revision, and all that was done to them.
        source = dataset._fingerprint
    if not len(rows):
        raise InputError(
            f"{name.dataset} has no rows in split {split!r}; take a larger part of it, or another "
            f"split: {', '.join(names)}"
        )
    described = features.to_dict() if features is not None else {}
    place = f"{name.dataset} ({split}) row "
    names = functools.partial(class_names, described)
    return Table(arrow_rows(table, lambda row: f"{place}{row + 1}", source, names).take(rows))


def _parsed(path: str) -> tuple[str, str, str]:
    """The path of a whole dataset, and the column and the value of the subset that is meant.

    Raises:
      InputError: the dataset has no such subset.
    """
    identifier, mark, revision = path.partition("@")
    for dataset, (column, subsets) in SUBSETS.items():
        if identifier.startswith(f"{dataset}/"):
            subset = identifier.removeprefix(f"{dataset}/")
            choose(f"subset of hf:{dataset}", subset, subsets)
            return f"{dataset}{mark}{revision}", column, subset
    return path, "", ""


def _prepared(name: TaskName, builder: Builder, split: str) -> Dataset:
    from datasets.exceptions import DatasetGenerationError

    try:
        builder.download_and_prepare()
        return builder.as_dataset(split=split)
    except (OSError, DatasetGenerationError) as error:
        raise InputError(
            f"{name.dataset} cannot be fetched: {error}; try again, or download its files and "
            "name them as file:FOLDER"
        ) from error
    except ValueError as error:
        raise InputError(f"{name.dataset}, split {split!r}: {error}") from error


# The splits and the rows of a dataset are asked for one after the other.
@functools.lru_cache(maxsize=8)
def _builder(path: str) -> Builder:
    """The builder of `ID[/CONFIG][@REVISION]`."""
    try:
        from datasets import config, load_dataset_builder
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        raise InputError(
            f'hf:{path} is read by the datasets library: pip install "prompt-jax[hf]"'
        ) from error
    identifier, _, revision = path.partition("@")
    problems: list[Exception] = []
    silence = "" if config.HF_HUB_OFFLINE else _silence()
    with _offline() if silence else contextlib.nullcontext():
        for dataset, configuration in _readings(identifier):
            try:
                return load_dataset_builder(dataset, configuration, revision=revision or None)
            except (DatasetNotFoundError, ConnectionError) as error:
                problems.append(error)
                if isinstance(error, ConnectionError) and not config.HF_HUB_OFFLINE:
                    break  # It has been tried for long enough.
            except (ValueError, RuntimeError, OSError) as error:
                raise InputError(
                    f"hf:{path}: {error}; write hf:ID/CONFIG@REVISION:SPLIT"
                ) from error
    near = _near(identifier)
    raise InputError(
        f"hf:{path} cannot be had: {silence or problems[0]}.{near} Give an ID of the hub (HF_TOKEN "
        "for a private one), or download its files and name them as file:FOLDER"
    ) from problems[0]


def _silence() -> str:
    """What is wrong where the hub does not answer; empty where it does.

    `datasets` itself tries six times and waits in between, minutes where a firewall drops all.
    """
    import huggingface_hub
    from huggingface_hub import constants

    seconds = constants.HF_HUB_ETAG_TIMEOUT
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # Its library for HTTP, and so the errors, are another by version.
        return (
            f"{constants.ENDPOINT} does not answer ({error}; HF_HUB_ETAG_TIMEOUT={seconds} are the "
            f"seconds it has), and it is not in the cache ({_cache()})"
        )
    return ""


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """What is in the cache, at once: as under HF_HUB_OFFLINE=1."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _readings(identifier: str) -> list[tuple[str, str | None]]:
    """What ID/CONFIG may be: an ID has an owner, but for a few old ones."""
    owner, *names = identifier.split("/")
    if not names:
        return [(owner, None)]
    config = "/".join(names[1:]) or None
    readings: list[tuple[str, str | None]] = [(f"{owner}/{names[0]}", config)]
    return readings if config else [*readings, (owner, names[0])]


def _near(identifier: str) -> str:
    """The dataset in the cache that was perhaps meant."""
    names = [path.name.replace("___", "/") for path in _cache().glob("*") if path.is_dir()]
    near = difflib.get_close_matches(identifier, names, n=1)
    return f" Perhaps you meant 'hf:{near[0]}', which is in the cache?" if near else ""


def _cache() -> Path:
    from datasets import config

    return Path(os.path.expanduser(config.HF_DATASETS_CACHE))
