"""`prompt-jax prompts`: what is done with saved prompts, other than to run them."""

import dataclasses
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from prompt_jax.cli.arguments import aside, load, parse, task_of
from prompt_jax.config import Config, InputError, TaskConfig, TrainConfig, choose


def run(arguments: list[str]) -> None:
    """Runs the command about prompts that the first argument names."""
    actions = {
        "list": _list,
        "inspect": _inspect,
        "export": _export,
        "import": _import,
        "similarity": _similarity,
        "compose": _compose,
        "attention": _attention,
        "ensemble": _ensemble,
        "recycle": _recycle,
        "publish": _publish,
        "push": _push,
        "pull": _pull,
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
    """Makes a prompt of ours from a folder of PEFT, AdapterHub, TGIS or caikit, or a .npy.

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


def _attention(
    prompts: Positional[tuple[str, ...]],
    *,
    output: str,
    task: str = "",
    name: str = "",
    steps: int = 100,
    batch_size: int = 32,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Makes one prompt of several by weights that a task's training rows decide (ATTEMPT).

    Args:
      prompts: prompt folders, run folders, or .npy files of one backbone.
      output: the folder to write.
      task: whose rows to train on; empty takes those of the first prompt.
      name: of the new prompt; empty takes that of the output folder.
      steps: of training.
      batch_size: rows of a step.
      seed: of the order of the rows.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.experiment import attend
    from prompt_jax.prompts import check_free, save_prompt

    check_free(Path(output), overwrite)
    loaded, model, config = _together(prompts, task)
    train = TrainConfig(steps=steps, batch_size=batch_size, seed=seed)
    config = dataclasses.replace(config, train=train)
    made = attend(config, loaded, model, name=name or Path(output).name)
    for weight, source in zip(made.recipe["weights"], loaded, strict=True):
        print(f"{weight:.3f}  {source.name or source.digest[:12]}")
    print(f"written: {save_prompt(output, made, overwrite=overwrite)}")


def _ensemble(
    prompts: Positional[tuple[str, ...]], *, how: str = "average", task: str = ""
) -> None:
    """Scores several prompts, each alone and all together.

    Args:
      prompts: prompt folders, run folders, or .npy files of one backbone.
      how: average of their log-probabilities, vote, or weighted, as fits validation best.
      task: what to score them on; empty takes the task of the first prompt.
    """
    from prompt_jax import report
    from prompt_jax.experiment import evaluate_ensemble

    loaded, model, config = _together(prompts, task)
    results = evaluate_ensemble(config, loaded, model, how, say=aside)
    print(report.markdown(report.table(results)))


def _publish(
    prompt: Positional[str], *, name: str, store: str = "prompts", alias: str = ""
) -> None:
    """Puts a prompt into a store as the next version of a name, for `prompt-jax serve`.

    Args:
      prompt: a prompt folder, a run folder or a .npy file.
      name: what requests call it.
      store: folder of the store; made if it is not there.
      alias: what shall mean this version from now on, beside its number.
    """
    from prompt_jax.prompts import load_prompt
    from prompt_jax.serve import Store

    kept = Store(store)
    entry = kept.put(name, load_prompt(prompt))
    if alias:
        kept.alias(name, alias, entry.version)
    print(f"{entry} in {store}")


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
    """Reads a prompt of ours or of PEFT's from a repository of the Hugging Face hub.

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
    overwrite: bool = False,
) -> None:
    """Carries a prompt over to another backbone by the words that both know; a start, no more.

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      backbone: the one to carry it to.
      output: the folder to write.
      how: linear, mlp or combination.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.prompts import check_free, recycle, save_prompt
    from prompt_jax.weights import load_backbone

    check_free(Path(output), overwrite)
    loaded, source = load(prompt, "", False)
    made = recycle(loaded, source, load_backbone(backbone), how)
    print(f"by {made.recipe['words']:,} shared words")
    print(f"written: {save_prompt(output, made, overwrite=overwrite)}")


def _together(paths: tuple[str, ...], task: str) -> tuple[list[Any], Any, Config]:
    """Prompts of one backbone, that backbone, and the config of the first one's task."""
    from prompt_jax.prompts import check_fits, load_prompt

    if not paths:
        raise InputError("no prompts given; name their folders")
    first, model = load(paths[0], "", False)
    others = [load_prompt(path) for path in paths[1:]]
    for prompt in others:
        check_fits(prompt, model)
    data, texts = task_of(first)
    if task:
        data, texts = dataclasses.replace(data, task=task), TaskConfig()
    return [first, *others], model, Config(backbone=model.name, data=data, task=texts)
