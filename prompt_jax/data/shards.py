"""Which files a name stands for: one, those of a glob, or those of a folder, by split."""

import collections
import glob
import json
import re
from pathlib import Path

from prompt_jax.config import InputError, choose
from prompt_jax.data.files import COMPRESSED, READERS, form_of, read_file
from prompt_jax.data.tables import Table, end_to_end
from prompt_jax.tasks import TaskName

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the names of files and folders that tell a split, as `datasets` reads them."""
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""What `save_to_disk` writes beside the rows."""


def parts(name: TaskName) -> list[str]:
    """The splits of a folder that tells some; of files and globs it is `train`.

    Raises:
      InputError: no such file or folder, or nothing in it that can be read.
    """
    return sorted(files_of(Path(name.path).expanduser()))


def read(name: TaskName, split: str, limit: int | None) -> Table:
    """The rows of all files of a split; the only split that there is, whatever it is called.

    Raises:
      InputError: as `parts` and `read_file`, no such split, or files of different columns.
    """
    files = files_of(Path(name.path).expanduser())
    if len(files) > 1:
        choose(f"split of {name.dataset}", split, files)
    paths = files[split] if len(files) > 1 else next(iter(files.values()))
    tables: list[Table] = []
    for path in paths:
        if limit is not None and sum(map(len, tables)) >= limit:
            break
        tables.append(read_file(path))
        columns, first = [list(table[0].values) for table in (tables[-1], tables[0])]
        if set(columns) != set(first):
            raise InputError(
                f"{path} has the columns {', '.join(columns)}, and {paths[0]} has "
                f"{', '.join(first)}; name files that have the same"
            )
    return end_to_end(tables, limit)


def files_of(path: Path) -> dict[str, list[Path]]:
    """The files behind a path, by split and in order.

    Raises:
      InputError: there are none, or they are of several forms.
    """
    if path.is_dir():
        return _saved(path) or _grouped(path)
    if not path.exists() and glob.has_magic(str(path)):
        paths = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not paths:
            raise InputError(f"no file is called {path}; check the folder and the pattern")
        return {"train": paths}
    return {"train": [path]}


def _saved(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that `save_to_disk` wrote; empty of any other."""
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]
        return {name: _saved(folder / name)["train"] for name in names}
    if (folder / "state.json").is_file():
        state = json.loads((folder / "state.json").read_text("utf-8"))
        return {"train": [folder / file["filename"] for file in state["_data_files"]]}
    return {}


def _grouped(folder: Path) -> dict[str, list[Path]]:
    """The files in and below a folder, by the split that folders or names tell."""
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and form_of(path) and path.name not in SAVED
        if not any(part[0] in "._" for part in path.relative_to(folder).parts)
    ]
    forms = {form_of(path) for path in paths}
    # Texts beside data are licences and notes.
    forms = forms - {".txt"} or forms
    if len(forms) != 1:
        endings = ", ".join((*READERS, *COMPRESSED))
        reason = f"holds {' and '.join(sorted(forms))} files" if forms else "has no file of rows"
        raise InputError(
            f"{folder} {reason}; name files of one form, e.g. file:{folder}/train-*.parquet "
            f"(endings: {endings})"
        )
    splits = collections.defaultdict(list)
    for path in paths:
        if form_of(path) in forms:
            splits[_split(path.relative_to(folder))].append(path)
    return dict(splits)


def _split(path: Path) -> str:
    """The split that a folder tells, or the name of the file; `train` where neither does."""
    for part in path.parts:
        words = re.split(r"[-._ 0-9]+", part)
        for split, names in SPLITS.items():
            if set(names) & set(words):
                return split
    return "train"
