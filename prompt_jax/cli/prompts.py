"""`prompt-jax prompts`: what is done with saved prompts, other than to run them."""

from pathlib import Path

from tyro.conf import Positional

from prompt_jax.cli import mixing, readable, versions
from prompt_jax.cli.arguments import load, print_table, prompt_at
from prompt_jax.cli.calls import Call
from prompt_jax.cli.options import Command
from prompt_jax.config import InputError, choose


def _list(folder: Positional[str] = "runs") -> None:
    """Lists the prompts in a folder of runs or saved prompts.

    Args:
      folder: where to look.
    """
    from rich.table import Table

    from prompt_jax.prompts import list_prompts

    table = Table("name", "method", "parameters", "backbone", "metric", "digest", "problem")
    for row in list_prompts(folder):
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    print_table(table)


def _inspect(
    prompt: Positional[str],
    backbone: str = "",
    k: int = 3,
    heat_map: str = "",
    task_id: str = "",
    allow_mismatch: bool = False,
) -> None:
    """Prints identity, metrics and the nearest words of every virtual token.

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      backbone: empty takes the one that the prompt was trained on.
      k: neighbours of a virtual token.
      heat_map: also draw the similarity of the virtual tokens into this PNG.
      task_id: the task of a multitask prompt, by its number from 0 or its name; empty prints its
        tasks.
      allow_mismatch: use a backbone whose fingerprint is not the one it was trained on.
    """
    from prompt_jax.prompts import draw_similarity, inspect

    loaded, model = load(prompt, backbone, allow_mismatch, task_id=task_id or None)
    print(inspect(loaded, model, k=k, allow_mismatch=allow_mismatch))
    if heat_map:
        print(f"heat map in {draw_similarity(loaded, heat_map)}")


def _export(
    prompt: Positional[str],
    output: Positional[str],
    to: str = "",
    task_id: str = "",
    overwrite: bool = False,
) -> None:
    """Writes a prompt for other tools: a PEFT folder, a .npy of [P, D], or a folder for an engine.

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      output: ends in .npy, or names a folder.
      to: vllm or sglang: what that engine serves, and the line that starts it; see docs/vllm.md.
      task_id: the task of a multitask prompt, by its number from 0 or its name; empty exports all
        tasks together, which a PEFT folder can hold.
      overwrite: replace what is there.
    """
    from prompt_jax.prompts import (
        export_prompt,
        export_to_engine,
        load_prompt,
        load_shaped,
        of_task,
        serving_line,
    )

    if to:
        served = of_task(load_shaped(prompt), task_id or None)
        folder = export_to_engine(served, output, to, overwrite=overwrite)
        print(f"written: {folder}\n{serving_line(served, to, folder)}")
        return
    all_tasks = not task_id and not output.endswith(".npy")
    loaded = load_prompt(prompt) if all_tasks else prompt_at(prompt, task_id)
    print(f"written: {export_prompt(loaded, output, overwrite=overwrite)}")


def _import(
    path: Positional[str],
    output: Positional[str],
    backbone: str,
    allow_mismatch: bool = False,
    overwrite: bool = False,
) -> None:
    """Makes a prompt folder from a folder of PEFT, AdapterHub, TGIS or caikit, or a .npy.

    Args:
      path: what to read.
      output: the folder to write.
      backbone: the model it was trained on.
      allow_mismatch: take it although it names another backbone.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.prompts import load_prompt, save_prompt
    from prompt_jax.weights import load_backbone

    prompt = load_prompt(path, load_backbone(backbone), allow_mismatch=allow_mismatch)
    print(f"written: {save_prompt(output, prompt, overwrite=overwrite)}")


def _similarity(query: Positional[str], folder: Positional[str] = "runs") -> None:
    """Ranks the prompts in a folder by how alike they are to one: good starts come first.

    Args:
      query: a prompt folder, a run folder, or a .npy.
      folder: what to compare it with: a folder of runs or saved prompts.
    """
    from rich.table import Table

    from prompt_jax.prompts import Similar, list_prompts, load_shaped, similarities, task_embedding

    reference = load_shaped(query)
    task_embedding(reference)  # Says at once where the prompt to compare with has no rows.
    ranked: list[tuple[str, Similar]] = []
    left_out: dict[str, str] = {}
    for row in list_prompts(folder):
        try:
            (like,) = similarities(reference, [load_shaped(Path(folder) / row.name)])
            ranked.append((row.name, like))
        except InputError as error:
            # One prompt of another kind or backbone must not hide the others.
            left_out[row.name] = str(error)
    if not (ranked or left_out):
        raise InputError(f"no prompts in {folder}; give the folder that holds runs or prompts")
    table = Table("name", "cosine of average tokens", "mean cosine of token pairs", "digest")
    for name, like in sorted(ranked, key=lambda pair: -pair[1].average):
        cells = f"{like.average:.4f}", f"{like.per_token:.4f}", like.prompt.digest[:12]
        table.add_row(name, *cells)
    print_table(table)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")


def _push(prompt: Positional[str], repository: Positional[str], *, private: bool = True) -> None:
    """Writes a prompt with its card to a repository of the Hugging Face hub.

    Args:
      prompt: a prompt folder, a run folder or a .npy file.
      repository: owner/name; made if it is not there.
      private: of a repository that is made now.
    """
    from prompt_jax.prompts import load_prompt, push_prompt

    commit = push_prompt(load_prompt(prompt), repository, private=private)
    print(f"{repository} at commit {commit}")


def _pull(
    repository: Positional[str],
    output: Positional[str],
    *,
    revision: str,
    overwrite: bool = False,
) -> None:
    """Reads a prompt, also one of PEFT, from a repository of the Hugging Face hub.

    Args:
      repository: owner/name.
      output: the folder to write.
      revision: a commit, which always means the same; or a tag or branch, which may not.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.prompts import pull_prompt, save_prompt
    from prompt_jax.prompts.folder import check_free

    check_free(Path(output), overwrite)
    written = save_prompt(output, pull_prompt(repository, revision), overwrite=overwrite)
    print(f"written: {written}")


def _recycle(
    prompt: Positional[str],
    *,
    backbone: str,
    output: str,
    how: str = "linear",
    task_id: str = "",
    overwrite: bool = False,
) -> None:
    """Carries a prompt over to another backbone by the words that both know; use it as a start.

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      backbone: the one to carry it to.
      output: the folder to write.
      how: linear, mlp or combination.
      task_id: the task of a multitask prompt, by its number from 0 or its name.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.prompts import check_free, recycle, save_prompt
    from prompt_jax.weights import load_backbone

    check_free(Path(output), overwrite)
    loaded, source = load(prompt, "", False, task_id=task_id)
    carried = recycle(loaded, source, load_backbone(backbone), how)
    print(f"by {carried.recipe['words']:,} shared words")
    print(f"written: {save_prompt(output, carried, overwrite=overwrite)}")


ACTIONS: dict[str, Command] = {
    "list": _list,
    "inspect": _inspect,
    "export": _export,
    "import": _import,
    "similarity": _similarity,
    "compose": mixing.compose,
    "attention": mixing.attention,
    "ensemble": mixing.ensemble,
    "recycle": _recycle,
    "prune": readable.prune,
    "project": readable.project,
    "publish": versions.publish,
    "versions": versions.versions,
    "alias": versions.alias,
    "remove": versions.remove,
    "push": _push,
    "pull": _pull,
}


def run(arguments: list[str]) -> Call | None:
    """The command about prompts that the first argument names; None where its help is asked for."""
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print("usage: prompt-jax prompts COMMAND ...\n")
        for name, function in ACTIONS.items():
            print(f"  {name:<11}{(function.__doc__ or '').splitlines()[0]}")
        print("\nRun prompt-jax prompts COMMAND --help for the options of a command.")
        return None
    choose("prompts command", action, ACTIONS)
    return Call(f"prompts {action}", ACTIONS[action], rest)
