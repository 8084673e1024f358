"""`prompt-jax prompts`: what is done with saved prompts, other than to run them."""

from pathlib import Path

from tyro.conf import Positional

from prompt_jax.cli.arguments import load, parse
from prompt_jax.config import InputError, choose


def run(arguments: list[str]) -> None:
    """Runs the command about prompts that the first argument names."""
    actions = {
        "list": _list,
        "inspect": _inspect,
        "export": _export,
        "import": _import,
        "similarity": _similarity,
        "compose": _compose,
    }
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(f"usage: prompt-jax prompts {{{','.join(actions)}}} ...")
        return
    choose("prompts command", action, actions)
    parse(actions[action], f"prompts {action}", rest)


def _list(folder: Positional[str] = "runs") -> None:
    """Lists the prompts in a folder of runs or saved prompts.

    Args:
      folder: where to look.
    """
    from rich.console import Console
    from rich.table import Table

    from prompt_jax.prompts import list_prompts

    table = Table("name", "method", "numbers", "backbone", "metric", "digest", "problem")
    for row in list_prompts(folder):
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)


def _inspect(
    prompt: Positional[str],
    backbone: str = "",
    k: int = 3,
    heat_map: str = "",
    allow_mismatch: bool = False,
) -> None:
    """Prints identity, metrics and the nearest words of every virtual token.

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      backbone: empty takes the one that the prompt was trained on.
      k: neighbours of a virtual token.
      heat_map: also draw the similarity of the virtual tokens into this PNG.
      allow_mismatch: use a backbone whose fingerprint is not the one it was trained on.
    """
    from prompt_jax.prompts import draw_similarity, inspect

    loaded, model = load(prompt, backbone, allow_mismatch)
    print(inspect(loaded, model, k=k, allow_mismatch=allow_mismatch))
    if heat_map:
        print(f"heat map in {draw_similarity(loaded, heat_map)}")


def _export(prompt: Positional[str], output: Positional[str], overwrite: bool = False) -> None:
    """Writes a prompt for other tools: a PEFT folder, or a .npy of [P, D].

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      output: ends in .npy, or names a folder.
      overwrite: replace what is there.
    """
    from prompt_jax.prompts import export_prompt, load_prompt

    print(f"written: {export_prompt(load_prompt(prompt), output, overwrite=overwrite)}")


def _import(
    path: Positional[str],
    output: Positional[str],
    backbone: str,
    allow_mismatch: bool = False,
    overwrite: bool = False,
) -> None:
    """Makes a prompt of ours from a PEFT folder or a .npy.

    Args:
      path: what to read.
      output: the folder to write.
      backbone: the model it was trained on.
      allow_mismatch: take it although it names another backbone.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.prompts import import_prompt, save_prompt
    from prompt_jax.weights import load_backbone

    prompt = import_prompt(path, load_backbone(backbone), allow_mismatch=allow_mismatch)
    print(f"written: {save_prompt(output, prompt, overwrite=overwrite)}")


def _similarity(query: Positional[str], folder: Positional[str] = "runs") -> None:
    """Ranks the prompts in a folder by how alike they are to one: good starts come first.

    Args:
      query: a prompt folder, a run folder, or a .npy.
      folder: what to compare it with: a folder of runs or saved prompts.
    """
    from rich.console import Console
    from rich.table import Table

    from prompt_jax.prompts import Similar, list_prompts, load_prompt, similarities, task_embedding

    asked = load_prompt(query)
    task_embedding(asked)  # Says at once where the prompt to compare with has no rows.
    found: list[tuple[str, Similar]] = []
    left_out: dict[str, str] = {}
    for row in list_prompts(folder):
        try:
            (like,) = similarities(asked, [load_prompt(Path(folder) / row.name)])
            found.append((row.name, like))
        except InputError as error:
            # One prompt of another kind or backbone must not hide the others.
            left_out[row.name] = str(error)
    if not (found or left_out):
        raise InputError(f"no prompts in {folder}; give the folder that holds runs or prompts")
    table = Table("name", "cosine of average tokens", "cosine token by token", "digest")
    for name, like in sorted(found, key=lambda pair: -pair[1].average):
        cells = f"{like.average:.4f}", f"{like.per_token:.4f}", like.prompt.digest[:12]
        table.add_row(name, *cells)
    Console().print(table)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")


def _compose(
    prompts: Positional[tuple[str, ...]],
    *,
    output: str,
    how: str = "concat",
    weights: tuple[float, ...] = (),
    name: str = "",
    overwrite: bool = False,
) -> None:
    """Makes one prompt of several, without training.

    Args:
      prompts: prompt folders, run folders, or .npy files, in order.
      output: the folder to write.
      how: concat, average, weighted, or task_arithmetic, which adds to the first prompt what sets
        the others apart from it.
      weights: one a prompt for weighted; one a prompt after the first for task_arithmetic.
      name: of the new prompt; empty takes that of the output folder.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.prompts import compose, load_prompt, save_prompt

    loaded = [load_prompt(path) for path in prompts]
    made = compose(loaded, how, weights or None, name or Path(output).name)
    print(f"{len(made.rows)} virtual tokens, digest {made.digest[:12]}")
    print(f"written: {save_prompt(output, made, overwrite=overwrite)}")
