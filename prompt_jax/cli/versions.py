"""`prompt-jax prompts`: the versions of prompts in a store, and which of them a name means."""

from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from prompt_jax.cli.arguments import print_table
from prompt_jax.config import InputError

if TYPE_CHECKING:
    from prompt_jax.serve import Store
else:  # `--help` answers at once: nothing heavy is imported before a command runs.
    Store = object


def publish(
    prompt: Positional[str],
    *,
    name: str,
    store: str = "prompts",
    alias: str = "",
    task_id: str = "",
) -> None:
    """Puts a prompt into a store as the next version of a name, for `prompt-jax serve`.

    Args:
      prompt: a prompt folder, a run folder or a .npy file.
      name: what requests call it.
      store: folder of the store; made if it is not there.
      alias: what shall mean this version from now on, beside its number.
      task_id: the task of a multitask prompt, by its number from 0 or its name.
    """
    from prompt_jax.prompts import load_shaped, of_task
    from prompt_jax.serve import Store
    from prompt_jax.serve.store import check_alias

    if alias:
        check_alias(alias)
    loaded = of_task(load_shaped(prompt), task_id or None)
    library = Store(store)  # Which makes the folder: not for a prompt that is refused.
    with library.changing():
        entry = library.put(name, loaded)
        if alias:
            library.alias(name, alias, entry.version)
    print(f"{entry} in {store}")


def versions(name: Positional[str] = "", *, store: str = "prompts") -> None:
    """Lists the versions in a store, and the names by which each is meant.

    Args:
      name: of a prompt; empty lists all.
      store: folder of the store.
    """
    from rich.table import Table

    from prompt_jax.prompts import list_prompts
    from prompt_jax.prompts.loading import Listed

    empty = Listed("", "", None, "", "", "", "no prompt is in its folder")
    library = _open(store)
    scan = library.versions(name) if name else library.entries()
    by_name = {entry.name: entry for entry in scan.entries if entry.by_name}  # The newest is last.
    folders = sorted({entry.name for entry in scan.entries})
    rows = {f"{f}@{row.name}": row for f in folders for row in list_prompts(library.root / f)}
    table = Table("version", "meant by", "method", "metric", "digest", "problem")
    for entry in scan.entries:
        names = [entry.name] if by_name.get(entry.name) is entry else []
        row = rows.get(str(entry), empty)
        cells = " ".join([*names, *entry.aliases]), row.method, row.metric, row.digest, row.problem
        table.add_row(str(entry), *cells)
    print_table(table)
    for problem in scan.problems:
        print(problem)


def alias(version: Positional[str], alias: Positional[str], *, store: str = "prompts") -> None:
    """Makes an alias mean a version, such as `alias films@3 stable`; `default` rolls back.

    The name alone means the alias `default`, or the newest version where there is none.

    Args:
      version: a version of a prompt, such as films@3, or films@canary by another alias.
      alias: what shall mean it from now on.
      store: folder of the store.
    """
    library = _open(store)
    with library.changing():
        entry = library.resolve(version)
        library.alias(entry.name, alias, entry.version)
    print(f"{entry.name}@{alias} is {entry}")


def remove(version: Positional[str], *, store: str = "prompts") -> None:
    """Deletes a version that no name means, `remove films@2`, or an alias, `remove films@stable`.

    Args:
      version: the version, or the alias.
      store: folder of the store.
    """
    name, _, number = version.partition("@")
    library = _open(store)
    if number.isdecimal():
        library.remove(name, int(number))
    elif number:
        library.unalias(name, number)
    else:
        raise InputError(f"{version!r} names all versions; give one of them, such as {name}@2")
    print(f"{version} is removed")


def _open(folder: str) -> Store:
    """A store that is there: a misspelt one would be made anew."""
    from prompt_jax.serve import Store

    if not Path(folder).is_dir():
        raise InputError(f"there is no store {folder}; prompts publish makes one, or give --store")
    return Store(folder)
