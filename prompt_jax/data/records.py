"""Rows of the embedded tasks and of TFDS: array records, which need no TensorFlow."""

import contextlib
import difflib
import hashlib
import importlib.util
import os
import socket
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
from jaxtyping import Int

from prompt_jax.config import InputError, choose
from prompt_jax.data.tables import Row, Table, table_of
from prompt_jax.tasks import HELD, TASKS, TaskName
from prompt_jax.tasks.benchmarks import ROWS

Builder: TypeAlias = Any
"""A dataset builder of TFDS."""
PREPARED = Path(__file__).parent.parent / "assets" / "tasks" / "embedded_tasks"
HOSTS = 3
"""Hosts that are looked up before a download, at most."""
# TFDS keeps builders in folders by kind and registers some of them only when imported.
_KINDS = ("text", "question_answering", "summarization", "translate", "text_simplification")


def parts(name: TaskName) -> list[str]:
    """The splits of a prepared dataset.

    Raises:
      InputError: no such dataset, or one that cannot be read here.
    """
    return sorted(_builder(name).info.splits)


def read(name: TaskName, split: str, limit: int | None) -> Table:
    """The rows of a split, e.g. "train" or "train[:100]".

    Raises:
      InputError: as `parts`, or no such split.
    """
    return _read_records(_builder(name), name.dataset, split, limit)


def _builder(name: TaskName) -> Builder:
    import tensorflow_datasets as tfds

    if name.prefix == "embedded":
        (folder,) = (PREPARED / name.path).iterdir()  # One version is shipped.
        return tfds.builder_from_directory(folder)
    folder = Path(name.path).expanduser()
    if folder.is_dir():
        try:
            return tfds.builder_from_directory(folder)
        except OSError as error:
            raise InputError(
                f"{folder} holds no prepared dataset ({error}); name the folder of "
                "dataset_info.json, which ends in a version"
            ) from error
    return _registered_builder(name.path)


def _registered_builder(path: str) -> Builder:
    from tensorflow_datasets.core import read_only_builder, registered
    from tensorflow_datasets.core.download.util import DownloadError

    try:
        # Prepared data first: they need no code of the dataset, which may need TensorFlow.
        return read_only_builder.builder_from_files(path, data_dir=_data_dir())
    except registered.DatasetNotFoundError:
        pass
    except ValueError as error:
        raise InputError(f"tfds:{path} is no dataset name: {error}") from error
    try:
        return _prepare(path)
    except registered.DatasetNotFoundError as error:
        raise InputError(
            f"TFDS has no dataset {path!r}, and none is prepared under that name{_near(path)}"
        ) from error
    except ImportError as error:
        raise InputError(
            f"tfds:{path} is not prepared, and preparing it needs a module that is not here "
            f"({error}): pip install tensorflow, or name a folder with prepared array records"
            f"{_on_the_hub(path)}"
        ) from error
    except (OSError, DownloadError) as error:
        raise InputError(
            f"tfds:{path} is not prepared, and preparing it failed ({error}): try again, or set "
            f"TFDS_DATA_DIR to a folder in which it is prepared{_on_the_hub(path)}"
        ) from error
    except (ValueError, AssertionError) as error:
        raise InputError(f"tfds:{path} cannot be prepared: {error}{_near(path)}") from error


def _prepare(path: str) -> Builder:
    import tensorflow_datasets as tfds

    dataset = path.partition("/")[0].partition(":")[0]
    for kind in _KINDS:
        module = f"tensorflow_datasets.{kind}.{dataset}"
        if importlib.util.find_spec(module):
            importlib.import_module(module)
    builder = tfds.builder(path, file_format="array_record", data_dir=_data_dir())
    _check_hosts(builder)
    builder.download_and_prepare()
    return builder


def _check_hosts(builder: Builder) -> None:
    """Checks that a host is known from which a dataset comes: TFDS tries each ten times.

    Raises:
      ConnectionError: none is, as on a machine without a network.
    """
    hosts = sorted({urlsplit(url).hostname or "" for url in builder.url_infos})
    if not hosts or getproxies():  # A proxy knows hosts that this machine does not.
        return
    for host in hosts[:HOSTS]:
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, None)
            return
    raise ConnectionError(f"no network: the host {hosts[0]} is not known")


def _on_the_hub(path: str) -> str:
    """Where the hub has the same rows, as the end of an error."""
    names = next((row.names for row in ROWS if f"tfds:{path}" in row.names), ())
    hub = next((name for name in names if name.startswith("hf:")), "")
    return f", or take {hub} of the hub" if hub else ""


def _data_dir() -> str | None:
    # TFDS itself reads the variable only once, when it is imported.
    return os.environ.get("TFDS_DATA_DIR")


def _near(path: str) -> str:
    from tensorflow_datasets.core import registered

    names = [name.removeprefix("tfds:") for name in TASKS if name.startswith("tfds:")]
    names += registered.list_imported_builders()
    near = difflib.get_close_matches(path, set(names) - {path}, n=1)
    return f". Perhaps you meant 'tfds:{near[0]}'?" if near else ""


def _read_records(builder: Builder, name: str, split: str, limit: int | None) -> Table:
    for part in split.split("+"):
        choose(f"split of {name}", part.partition("[")[0].strip(), sorted(builder.info.splits))
    try:
        count = builder.info.splits[split].num_examples
        source = builder.as_data_source(split=split) if count > 0 else None
    except NotImplementedError as error:
        raise InputError(
            f"{name} is prepared as {builder.info.file_format.value}, which only TensorFlow "
            "reads; prepare it with file_format=array_record in another TFDS_DATA_DIR"
        ) from error
    except ValueError as error:
        raise InputError(f"{name}, split {split!r}: {error}; write e.g. train[10:20]") from error
    if source is None:
        raise InputError(f"{name} has no rows in split {split!r}; take a larger part of it")
    count = count if limit is None else min(limit, count)
    features = builder.info.features

    def read(rows: Int[np.ndarray, " N"]) -> list[Row]:
        records = source.__getitems__(rows.tolist())
        return [
            Row(
                f"{name} ({split}) row {n + 1}", {c: _plain(v, features[c]) for c, v in row.items()}
            )
            for n, row in zip(rows.tolist(), records, strict=True)
        ]

    digest = _digest(builder.info.splits[split], limit) if count > HELD else ""
    return table_of(read, count, digest)


def _digest(split: Any, limit: int | None) -> str:
    """A digest of the files of a split and of which of their rows it has."""
    total = hashlib.sha256(f"{split.file_instructions} {limit}".encode())
    for path in split.filepaths:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _plain(value: Any, feature: Any) -> Any:
    """A TFDS value as Python has it: text for bytes, names for class labels, lists for arrays."""
    if isinstance(value, dict):
        return {name: _plain(part, feature[name]) for name, part in value.items()}
    if isinstance(value, list) or getattr(value, "ndim", 0) == 1:
        return [_plain(part, getattr(feature, "feature", feature)) for part in value]
    if hasattr(feature, "int2str"):
        # TFDS has -1 for a label that is kept secret.
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if getattr(value, "dtype", None) == np.float32:  # As the decimal number that it stands for.
        return float(str(value))
    return value.item() if getattr(value, "ndim", None) == 0 else value
