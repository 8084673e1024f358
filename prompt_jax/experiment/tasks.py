"""A prompt for each of several tasks, trained in one program: `prompt-jax train --data.tasks`."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prompt_jax import checkpoints
from prompt_jax.config import Config, InputError
from prompt_jax.experiment.choice import Best, Judgement, judge, unjudged, warnings_of
from prompt_jax.experiment.conclude import Result, conclude, short
from prompt_jax.experiment.data import load_data
from prompt_jax.experiment.population import Population
from prompt_jax.experiment.run import load
from prompt_jax.experiment.watch import Say, Watch, on_sigterm
from prompt_jax.population import member, stack
from prompt_jax.runs import Metrics, begin_run, check_run
from prompt_jax.sharding import on_host
from prompt_jax.tasks import remarks
from prompt_jax.train import DivergedError


def train_tasks(
    config: Config, *, resume: bool = False, overwrite: bool = False, say: Say = print
) -> list[Result]:
    """Trains one prompt for each task of `config.data.tasks` over one frozen model.

    Every task has a run folder of its own in tasks/ within `config.out`, as if it had been trained
    alone, but for the checkpoints, which hold all of them.

    Raises:
      InputError: tasks that cannot share a program, several processes, or as `train`.
      DivergedError: no task has a loss that is a number.
    """
    if jax.process_count() > 1:
        raise InputError(
            f"data.tasks trains in one process, and there are {jax.process_count()}; give each "
            "task a run of its own, or one process (distributed.detect False)"
        )
    folder = check_run(config, resume=resume, overwrite=overwrite)
    data = [load_data(config, name) for name in config.data.tasks]
    configs = [
        dataclasses.replace(
            config,
            out=str(folder / "tasks" / short(own.task)),
            data=dataclasses.replace(config.data, task=own.task.name, tasks=()),
        )
        for own in data
    ]
    made = Population(configs, load(config, say), data)
    begin_run(folder, config, resume=resume)
    for own in configs:
        Path(own.out).mkdir(parents=True, exist_ok=True)
        begin_run(Path(own.out), own, resume=resume)
    say(f"{len(made)} tasks at once: {', '.join(config.data.tasks)}")
    for own in data:
        for line in remarks(own.task, config.task):
            say(f"{own.task.name}: {line}")
        for line in warnings_of(own, config):
            say(line)
    manager = checkpoints.open_checkpoints(folder / "checkpoints")
    none = [unjudged(made.tree(i)) for i in range(len(made))]
    restored = checkpoints.restore(manager, (made.states, stack(none))) if resume else None
    first, (states, best) = restored or (0, (made.states, stack(none)))
    made.states = jax.tree.map(np.array, states)
    if resume:
        say(f"resuming after step {first} of {config.train.steps}")
    team = _Team(made, [member(best, i) for i in range(len(made))], manager, first, say)
    if restored is None:
        team.evaluate(0)
    with on_sigterm(team.stop):
        made.advance(range(len(made)), max(config.train.steps - first, 0), team)
    team.close()
    if team.stopped:
        say(f"stopped by SIGTERM after step {int(made.steps[0])}; continue with --resume")
        return [Result(None, {}, Path(own.out)) for own in configs]
    return [
        conclude(
            own,
            [made.data[i]],
            made.backbone,
            made.methods[i],
            team.best(i),
            Path(own.out),
            say,
        )
        for i, own in enumerate(configs)
    ]


class _Team:
    """Called after every step: what `Watch` is to one run, to all of a population."""

    def __init__(self, made: Population, best: list[Best], manager: Any, first: int, say: Say):
        self.made, self.manager, self.say, self.stopped = made, manager, say, False
        self.options = made.configs[0].train
        self.metrics = [Metrics(Path(own.out), step=first) for own in made.configs]
        self.watches = [self._watch(i, own) for i, own in enumerate(best)]
        self.step = first

    def _watch(self, index: int, best: Best) -> Watch:
        made, name = self.made, self.made.data[index].task.name

        def score(tuned: Any) -> Judgement:
            return judge({name: made.score(index, tuned)})

        def say(line: str) -> None:
            if "validation" in line or index == 0:
                self.say(f"{name}: {line}")

        return Watch(made.configs[index], None, self.metrics[index], score, best, say)

    def stop(self) -> None:
        """Ends training after the step that is under way."""
        self.stopped = True

    def evaluate(self, step: int) -> None:
        """Scores every member where it stands."""
        for i, watch in enumerate(self.watches):
            watch.evaluate(step, member(self.made.states, i), {"step": step})

    def __call__(self, states: Any, metrics: dict[str, np.ndarray]) -> bool:
        self.step += 1
        if not np.isfinite(metrics["loss"]).any():
            raise DivergedError(
                f"no task has a loss that is a number after step {self.step}; the last good "
                "checkpoint is kept. Try a lower train.learning_rate"
            )
        states = on_host(states)
        for i, watch in enumerate(self.watches):
            row = {name: float(values[i]) for name, values in metrics.items()}
            watch(self.step, member(states, i), row)
        ending = self.stopped or self.step == self.options.steps
        if ending or self.step % self.options.checkpoint_every == 0:
            bests = stack([watch.best for watch in self.watches])
            checkpoints.save(self.manager, self.step, (states, bests))
        return self.stopped

    def best(self, index: int) -> Best:
        """A task's best prompt as it would be alone."""
        found = self.watches[index].best
        return found._replace(tuned=self.made.own(index, found.tuned))

    def close(self) -> None:
        """Closes the files and waits for the checkpoint that is under way."""
        for metrics in self.metrics:
            metrics.close()
        self.manager.close()
