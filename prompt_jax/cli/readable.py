"""`prompt-jax prompts`: a prompt with fewer virtual tokens, and one in words."""

from pathlib import Path

from tyro.conf import Positional

from prompt_jax.cli.arguments import aside, load, training_of
from prompt_jax.config import InputError, check_place


def prune(
    prompt: Positional[str],
    *,
    output: str,
    tolerance: float = 0.01,
    batches: int = 16,
    task: str = "",
    task_id: str = "",
    curve: str = "",
    overwrite: bool = False,
) -> None:
    """Leaves out the virtual tokens that a prompt does not need (XPrompt).

    The tokens are ranked by the gradient of a mask on training rows. The fewest are kept with which
    the right answers to the validation rows are as likely as with all.

    Args:
      prompt: a prompt folder, or a run folder.
      output: the folder to write.
      tolerance: nats that the right answers may become less likely.
      batches: of training rows, that the importance of tokens is measured on.
      task: whose rows to use; empty takes those of the prompt's training.
      task_id: the task of a multitask prompt, by its number from 0 or its name.
      curve: also draw how likely the answers are over the tokens kept into this PNG.
      overwrite: replace the prompt in output.
    """
    from prompt_jax import report
    from prompt_jax.experiment import pruning
    from prompt_jax.experiment.saved import saved_run
    from prompt_jax.prompts import check_free, save_prompt

    check_free(Path(output), overwrite)
    if curve:
        check_place(curve)
    loaded, model = load(prompt, "", False, task_id=task_id)
    run = saved_run(training_of(loaded, task), loaded, model, aside)
    pruned = pruning.prune(run, tolerance=tolerance, batches=batches, name=Path(output).name)
    rows = [["virtual tokens kept", run.measure]]
    rows += [[str(count), f"{value:.4f}"] for count, value in pruned.curve.items()]
    print(report.markdown(rows))
    ways = {"no prompt": None, "all tokens": loaded.injection(), "kept": pruned.prompt.injection()}
    print(f"\n{report.markdown(run.compared(ways))}")
    kept = ", ".join(map(str, pruned.kept))
    print(f"\nkept {len(pruned.kept)} of {len(pruned.importance)} virtual tokens: {kept}")
    if curve:
        pruning.draw_pruning(Path(curve), pruned, run.measure)
        print(f"curve in {curve}")
    print(f"written: {save_prompt(output, pruned.prompt, overwrite=overwrite)}")


def project(
    prompt: Positional[str],
    *,
    output: str = "",
    steps: int = 200,
    every: int = 20,
    learning_rate: float | None = None,
    seed: int = 0,
    task: str = "",
    task_id: str = "",
    overwrite: bool = False,
) -> None:
    """Finds words that do nearly what a prompt does, for models behind an API (PEZ).

    Args:
      prompt: a prompt folder, or a run folder.
      output: a text file to write the words into; empty prints them alone.
      steps: of the optimisation, each on a batch of the training rows.
      every: steps between two scores on validation; the best words are taken.
      learning_rate: None fits the size of the model's word embeddings.
      seed: of the order of the rows.
      task: whose rows to use; empty takes those of the prompt's training.
      task_id: the task of a multitask prompt, by its number from 0 or its name.
      overwrite: replace the file in output.
    """
    from prompt_jax import disk, report
    from prompt_jax.experiment import projection
    from prompt_jax.experiment.saved import saved_run

    if output:
        check_place(output)
        if Path(output).exists() and not overwrite:
            raise InputError(f"{output} exists; choose another file, or pass --overwrite")
    loaded, model = load(prompt, "", False, task_id=task_id)
    run = saved_run(training_of(loaded, task), loaded, model, aside)
    options = {"steps": steps, "every": every, "learning_rate": learning_rate, "seed": seed}
    projected = projection.project(run, **options, say=aside)
    print(report.markdown(run.compared({"no prompt": None, **projected.injections})))
    print(f"\nthe words of step {projected.step}:\n{projected.text}")
    if output:
        disk.write(Path(output), projected.text + "\n")
        print(f"written: {output}")
