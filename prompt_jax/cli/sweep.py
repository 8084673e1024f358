"""`prompt-jax sweep`."""

import dataclasses
from pathlib import Path

from prompt_jax.cli.arguments import Experiment, starting_config, value_of
from prompt_jax.cli.calls import Call
from prompt_jax.cli.output import Output, Printed
from prompt_jax.config import DistributedConfig, SweepConfig
from prompt_jax.runtime import prepare

USUAL: dict[str, tuple[float | str, ...]] = {
    "learning_rates": (0.1, 0.3, 1.0),
    "inits": ("vocab", "random"),
    "lengths": (10, 20),
}
"""Choices for prompt tuning where none are given: what it is known to be touchy about."""


def run(arguments: list[str]) -> Call:
    """Trains candidates together and keeps the best."""
    resuming = "--resume" in arguments
    default, arguments = starting_config(arguments, out="runs/sweep")
    chosen = SweepConfig()
    if resuming:
        from prompt_jax.experiment.sweep import KEPT, read_sweep

        folder = Path(value_of(arguments, "--out") or default.out)
        # Of several processes the first alone may have the folder: the others are given options.
        chosen = read_sweep(folder) if (folder / KEPT).is_file() else chosen

    def sweep(
        config: Experiment = default,
        *,
        sweep: SweepConfig = chosen,
        distributed: DistributedConfig = DistributedConfig(),  # noqa: B008 (frozen)
        output: Printed = Output(),  # noqa: B008 (frozen)
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Trains candidates together over one frozen model, drops losers, and keeps the best.

        Without --sweep.learning-rates, .inits, .lengths, ... prompt tuning is tried at rates from
        0.1 to 1, from words and from noise, with 10 and 20 virtual tokens.

        Args:
          config: the experiment; --train.steps is what a candidate that wins has made.
          sweep: what candidates differ in, and who goes on.
          distributed: the processes that train together, where there are several.
          output: what is printed.
          resume: continue the sweep in --out from its last checkpoint.
          overwrite: replace it.
        """
        prepare(distributed)
        from prompt_jax import experiment
        from prompt_jax.methods import PromptTuningConfig

        if not sweep.choices and type(config.method) is PromptTuningConfig:
            sweep = dataclasses.replace(sweep, **USUAL)
        experiment.sweep(config, sweep, resume=resume, overwrite=overwrite, say=output.say)

    return Call("sweep", sweep, arguments)
