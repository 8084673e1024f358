"""`prompt-jax distil`."""

import dataclasses

from prompt_jax.cli.arguments import Experiment, starting_config
from prompt_jax.cli.calls import Call
from prompt_jax.cli.output import Output, Printed
from prompt_jax.config import TrainConfig
from prompt_jax.runtime import prepare

USUAL = TrainConfig(objective="distil", steps=200, batch_size=8, eval_every=50, eval_examples=64)
"""Of a run whose config says nothing of training: an answer teaches at each of its tokens."""


def run(arguments: list[str]) -> Call:
    """Turns a long text into a prompt."""
    default, arguments = starting_config(arguments, out="runs/distil")
    train = USUAL if default.train == TrainConfig() else default.train
    default = dataclasses.replace(default, train=dataclasses.replace(train, objective="distil"))

    def distil(
        config: Experiment = default,
        *,
        output: Printed = Output(),  # noqa: B008 (frozen)
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Turns a long text into a prompt that makes the frozen model answer as if it read it.

        The model answers questions with the text of --distil.context in its context, once; then a
        prompt learns to answer them so without it. No labels are needed.

        Args:
          config: the experiment; --distil.questions or --data.task gives the questions.
          output: what is printed.
          resume: continue the run in --out, the teacher's answers too.
          overwrite: replace the run in --out.
        """
        prepare()
        from prompt_jax import experiment

        run = experiment.distil_lengths if config.distil.lengths else experiment.distil
        run(config, resume=resume, overwrite=overwrite, say=output.say)

    return Call("distil", distil, arguments)
