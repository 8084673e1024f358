"""A look at the files of a prompt that nobody vouches for, before anything is made of them."""

import json
import os
import stat
from pathlib import Path

from prompt_jax.config import InputError
from prompt_jax.prompts.folder import OWN_FILES

FILE_BYTES, JSON_BYTES, HEADER_BYTES, TENSORS = 2**28, 2**22, 2**20, 10_000
"""The most that a file, a config, and the header and the number of tensors of weights may be."""
DTYPES = ("F32", "F16", "BF16")


def check_file_name(name: str) -> None:
    """Checks that a prompt has files of this name, and that nothing in them is run."""
    if name not in OWN_FILES or Path(name).suffix not in (".json", ".safetensors", ".md"):
        raise InputError(f"{name[:80]!r} is no file of a prompt; take it out")


def check_folder(folder: Path) -> None:
    """Checks that a folder may be read as a prompt: files of known names, none a link or large."""
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder.name} is no folder; a version of a prompt is one")
    for path in sorted(folder.iterdir()):
        check_file_name(path.name)
        check_file(path, FILE_BYTES if path.suffix == ".safetensors" else JSON_BYTES)
        if path.suffix == ".safetensors":
            _check_header(path)


def check_file(path: Path, most: int) -> None:
    """Checks that a file is one itself, and no larger than allowed."""
    # Not `stat`, which would follow a link and describe its target.
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"{path.name} is a link or a folder; a prompt has files of its own")
    if state.st_size > most:
        raise InputError(f"{path.name} has {state.st_size} bytes, and {most} is the most")


def _check_header(path: Path) -> None:
    """What the header of a safetensors file claims, before anything is made of it."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= HEADER_BYTES:
            raise InputError(
                f"{path.name} has a header of {size} bytes, and {HEADER_BYTES} is the most"
            )
        try:
            # A hostile header may be nested deeply enough to exhaust the parser's recursion.
            header = json.loads(file.read(size))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise InputError(f"{path.name} has a header that is no JSON object; it is damaged")
    tensors = {name: about for name, about in header.items() if name != "__metadata__"}
    if len(tensors) > TENSORS:
        raise InputError(f"{path.name} has {len(tensors)} tensors, and {TENSORS} is the most")
    for name, about in tensors.items():
        dtype = about.get("dtype") if isinstance(about, dict) else None
        if dtype not in DTYPES:
            raise InputError(
                f"{name[:80]!r} of {path.name} is {str(dtype)[:20]!r}; the numbers of a prompt are "
                f"{', '.join(DTYPES)}"
            )
