"""`prompt-jax prompts`: what several saved prompts become together."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from prompt_jax.cli.arguments import Backbone, Prompt, aside, on_backbone, task_of
from prompt_jax.config import Config, InputError, TaskConfig, TrainConfig


def compose(
    prompts: Positional[tuple[str, ...]],
    *,
    output: str,
    how: str = "concat",
    weights: tuple[float, ...] = (),
    name: str = "",
    task_id: str = "",
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
      task_id: the task of those among them that are multitask prompts, by its number or name.
      overwrite: replace the prompt in output.
    """
    from prompt_jax import prompts as saved

    loaded = _of_task(prompts, task_id)
    composed = saved.compose(loaded, how, weights or None, name or Path(output).name)
    print(f"{len(composed.rows)} virtual tokens, digest {composed.digest[:12]}")
    print(f"written: {saved.save_prompt(output, composed, overwrite=overwrite)}")


def attention(
    prompts: Positional[tuple[str, ...]],
    *,
    output: str,
    task: str = "",
    name: str = "",
    task_id: str = "",
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
      task_id: the task of those among them that are multitask prompts, by its number or name.
      steps: of training.
      batch_size: rows of a step.
      seed: of the order of the rows.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.experiment import train_attention
    from prompt_jax.prompts import check_free, save_prompt

    check_free(Path(output), overwrite)
    loaded, model, config = _together(prompts, task, task_id)
    train = TrainConfig(steps=steps, batch_size=batch_size, seed=seed)
    config = dataclasses.replace(config, train=train)
    mixture = train_attention(config, loaded, model, name=name or Path(output).name)
    for weight, source in zip(mixture.recipe["weights"], loaded, strict=True):
        print(f"{weight:.3f}  {source.label}")
    print(f"written: {save_prompt(output, mixture, overwrite=overwrite)}")


def ensemble(
    prompts: Positional[tuple[str, ...]], *, how: str = "average", task: str = "", task_id: str = ""
) -> None:
    """Scores several prompts, each alone and all together.

    Args:
      prompts: prompt folders, run folders, or .npy files of one backbone.
      how: average of their log-probabilities, vote, or weighted, as fits validation best.
      task: what to score them on; empty takes the task of the first prompt.
      task_id: the task of those among them that are multitask prompts, by its number or name.
    """
    from prompt_jax import report
    from prompt_jax.experiment import evaluate_ensemble

    loaded, model, config = _together(prompts, task, task_id)
    results = evaluate_ensemble(config, loaded, model, how, say=aside)
    print(report.markdown(report.table(results)))


def _of_task(paths: tuple[str, ...], task_id: str) -> list[Prompt]:
    """The prompts at several paths, each of one task; those without tasks need no name of one."""
    from prompt_jax.prompts import load_shaped, of_task, task_names

    loaded = [load_shaped(path) for path in paths]
    return [of_task(prompt, task_id or None) if task_names(prompt) else prompt for prompt in loaded]


def _together(
    paths: tuple[str, ...], task: str, task_id: str
) -> tuple[list[Prompt], Backbone, Config]:
    """Prompts of one backbone, that backbone, and the config of the first one's task."""
    if not paths:
        raise InputError("no prompts given; name their folders")
    first, *others = _of_task(paths, task_id)
    if not first.backbone:
        raise InputError(
            f"{paths[0]} does not say which backbone it belongs to; import it first "
            "(prompt-jax prompts import)"
        )
    first, model = on_backbone(first, first.backbone)
    others = [prompt.on(model) for prompt in others]
    data, texts = task_of(first)
    if task:
        data, texts = dataclasses.replace(data, task=task), TaskConfig()
    return [first, *others], model, Config(backbone=model.name, data=data, task=texts)
