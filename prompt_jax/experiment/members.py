"""What trains in a loop: one prompt on any mesh, or several in one program."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, MethodConfig, differences, resolved
from prompt_jax.data import Batches, prefetch, shares
from prompt_jax.evaluate import Evaluation, evaluate
from prompt_jax.experiment.answering import (
    batches_of,
    check_blanks,
    check_texts,
    loss_of,
    method_of,
)
from prompt_jax.experiment.choice import Best, Judgement, judge, unjudged
from prompt_jax.experiment.loop import Members, Report
from prompt_jax.experiment.resemblance import evaluate_lessons
from prompt_jax.experiment.shown import check_same_start, with_examples
from prompt_jax.experiment.splits import Data
from prompt_jax.forward import Injection, for_tasks, only_real
from prompt_jax.methods import materialize
from prompt_jax.population import (
    check_lengths,
    check_members,
    check_together,
    compile_population_step,
    cut,
    filled,
    fit_population,
    length_of,
    member,
    members_of,
    padded,
    stack,
    stacked_batches,
)
from prompt_jax.prompts import fresh
from prompt_jax.sharding import on_host
from prompt_jax.tasks import joined
from prompt_jax.train import State, compile_step, fit, start
from prompt_jax.trees import Tuned

VARYING = ("out", "data.task", "train.learning_rate", "train.weight_decay", "train.seed")
VARYING += ("method.num_virtual_tokens", "method.init", "method.init_text", "method.init_labels")
VARYING += ("method.init_file", "method.init_population", "method.init_scale", "method.num_labels")
"""Fields in which the experiments of a population may differ."""


class Trained(NamedTuple):
    """An experiment and the best prompt that it came to."""

    config: Config
    tasks: Sequence[Data]
    backbone: Backbone
    method: MethodConfig
    best: Best


class Single(Members):
    """One prompt, for one task or a mixture, on any mesh and in any number of processes.

    Its program is `compile_step`, in which learning rate and seed are constants.
    """

    def __init__(self, config: Config, backbone: Backbone, tasks: Sequence[Data]):
        self.config, self.backbone, self.tasks = config, backbone, tasks
        method = method_of(config, backbone, [data.task for data in tasks])
        self.method = method = with_examples(method, config, backbone, tasks)
        check_texts(config, method, backbone, tasks)
        tuned = on_host(fresh(method, backbone, config.train.seed))
        examples = joined([data.train for data in tasks])
        task_ids = np.repeat(np.arange(len(tasks)), [len(data.train) for data in tasks])
        task = tasks[0].task
        options = config.data
        mixing = shares(
            [len(data.train) for data in tasks], options.mixture_temperature, options.mixture_limit
        )
        self.batches = batches_of(
            config, method, backbone, examples, task, task_ids=task_ids, mixing=mixing
        )
        check_context(method, backbone, tuned, self.batches)
        check_blanks(method, backbone, self.batches, examples)
        # On the host between rounds: a step donates the arrays on the device.
        self.state: State = on_host(start(tuned, config.train))
        self.best = unjudged(self.state.tuned)
        loss = loss_of(config, method, backbone, task, tuned)
        self._step = compile_step(loss, config.train, backbone.mesh)
        self._loss, self._frozen = loss, backbone.unstacked()

    def __len__(self) -> int:
        return 1

    def step(self, index: int) -> int:
        return int(self.state.step)

    def target(self, index: int) -> int:
        return self.config.train.steps

    def ready(self) -> list[int]:
        patience = self.config.train.patience
        patient = patience is None or int(self.best.since) < patience
        return super().ready() if patient else []

    def advance(
        self, chosen: Sequence[int], steps: int, report: Report, going: Callable[[], bool]
    ) -> None:
        first = self.step(0)

        def after_step(step: int, state: State | None, metrics: dict[str, float]) -> bool:
            if state is not None:
                self.state = on_host(state)
            values = {name: [value] for name, value in metrics.items()}
            report(step - first, values, state is not None)
            return False

        # Rows are a function of the step, so a round needs to know only where it begins.
        batches = prefetch(self.batches, first, first + steps)
        fit(
            self._loss,
            self.state,
            self._frozen,
            itertools.takewhile(lambda _: going(), batches),
            self.config.train,
            after_step=after_step,
            due=lambda _: False,  # Only the last state of a round is read.
            step_fn=self._step,
            mesh=self.backbone.mesh,
        )

    def judge(self, index: int) -> Judgement:
        injection = materialize(self.method, self.state.tuned)
        judgement = judge(
            {
                data.task.name: _answers(self.config, self.backbone, for_tasks(injection, i), data)
                for i, data in enumerate(self.tasks)
            }
        )
        self.best = self.best.after(judgement, self.state.tuned, self.step(0))
        return judgement

    def checkpoint(self) -> tuple[State, Best]:
        return self.state, self.best

    def restore(self, state: tuple[State, Best]) -> None:
        self.state, self.best = state

    def trained(self) -> Trained:
        """The experiment with its best prompt."""
        return Trained(self.config, self.tasks, self.backbone, self.method, self.best)


class Population(Members):
    """Experiments of one backbone and one program, each a member.

    Their states are on the host between rounds, so that a round may have any of them.

    Args:
      configs: what every member trains; they differ in fields of `VARYING` only.
    """

    def __init__(self, configs: Sequence[Config], backbone: Backbone, data: Sequence[Data]):
        check_one_program(configs)
        self.configs = configs = [resolved(config, backbone.word_size) for config in configs]
        self.backbone, self.data = backbone, list(data)
        self.methods = [
            with_examples(method_of(config, backbone, [rows.task]), config, backbone, [rows])
            for config, rows in zip(configs, data, strict=True)
        ]
        check_lengths(self.methods)
        check_same_start(self.methods)
        train = configs[0].train
        self._rows = train.batch_size // train.accumulate
        check_members(self._rows, backbone.mesh)
        self._check_heads()
        self.length = max(map(length_of, self.methods))
        self.members = members_of([c.train for c in configs], self.methods, self.length)
        # One program for all: shorter prompts are padded on the left, and the padding is masked.
        longest = max(self.methods, key=length_of)
        self.batches = self._batches(longest)
        tuned = [
            padded(on_host(fresh(method, backbone, config.train.seed)), method, self.length)
            for config, method in zip(configs, self.methods, strict=True)
        ]
        self.states: State = stack([start(tree, configs[0].train) for tree in tuned])
        self.best = [unjudged(self.tree(i)) for i in range(len(configs))]
        for batches in self.batches:
            check_context(longest, backbone, tuned[0], batches)
        loss = loss_of(configs[0], longest, backbone, data[0].task, tuned[0])
        self._step = compile_population_step(loss, configs[0].train, backbone.mesh)
        self._frozen = backbone.unstacked()

    def _batches(self, longest: MethodConfig) -> list[Batches]:
        """Every member's rows, encoded once for all members of a task."""
        encoded: dict[str, Batches] = {}
        for config, data in zip(self.configs, self.data, strict=True):
            if data.task.name not in encoded:
                check_texts(config, longest, self.backbone, [data])
                batches = batches_of(config, longest, self.backbone, data.train, data.task)
                check_blanks(longest, self.backbone, batches, data.train)
                encoded[data.task.name] = batches
        return [
            encoded[data.task.name].reseeded(config.train.seed)
            for config, data in zip(self.configs, self.data, strict=True)
        ]

    def _check_heads(self) -> None:
        tasks = {data.task.name for data in self.data}
        if len(tasks) > 1 and any(method.num_labels is not None for method in self.methods):
            raise InputError(
                f"a head answers one task, and the members have {', '.join(sorted(tasks))}; train "
                "each alone, or answer in words: a T5, a decoder, a cloze"
            )

    def __len__(self) -> int:
        return len(self.configs)

    def title(self, index: int) -> str:
        alike = len({data.task.name for data in self.data}) == 1
        seed = f"seed {self.configs[index].train.seed}"
        return f"{seed if alike else self.data[index].task.name}: "

    def step(self, index: int) -> int:
        return int(self.states.step[index])

    def target(self, index: int) -> int:
        return self.configs[index].train.steps

    def advance(
        self, chosen: Sequence[int], steps: int, report: Report, going: Callable[[], bool]
    ) -> None:
        # Devices that would have no member repeat one; every number of members is a program.
        at = np.resize(chosen, filled(len(chosen), self._rows, self.backbone.mesh))
        first = np.asarray(self.states.step)[at]

        def after_step(step: int, states: State | None, metrics: dict[str, np.ndarray]) -> None:
            if states is not None:
                parts = jax.tree.leaves(on_host(states))
                # Before hooks are called, which read the states. Copies write the same twice.
                for leaf, part in zip(jax.tree.leaves(self.states), parts, strict=True):
                    leaf[at] = part
            # Behind the numbers of the chosen may be those of copies.
            values = {name: rows.tolist()[: len(chosen)] for name, rows in metrics.items()}
            report(step, values, states is not None)

        batches = stacked_batches([self.batches[i] for i in at], (first + k for k in range(steps)))
        fit_population(
            self._step,
            jax.tree.map(lambda leaf: leaf[at], self.states),
            self._frozen,
            itertools.takewhile(lambda _: going(), batches),
            jax.tree.map(lambda leaf: leaf[at], self.members),
            after_step=after_step,
            mesh=self.backbone.mesh,
        )

    def judge(self, index: int) -> Judgement:
        tuned, step, data = self.tree(index), self.step(index), self.data[index]
        injection = for_tasks(materialize(self.methods[index], tuned), None)
        if self.members.real is not None:
            # Padded as in training, so that members of all lengths share one program.
            injection = only_real(injection, jnp.asarray(self.members.real[index]))
        answers = _answers(self.configs[index], self.backbone, injection, data)
        judgement = judge({data.task.name: answers})
        self.best[index] = self.best[index].after(judgement, tuned, step)
        return judgement

    def checkpoint(self) -> tuple[State, Best]:
        return self.states, stack(self.best)

    def restore(self, state: tuple[State, Best]) -> None:
        states, best = state
        self.states = jax.tree.map(np.array, states)  # Written in place, unlike what was read.
        self.best = [member(best, i) for i in range(len(self))]

    def trained(self, index: int) -> Trained:
        """A member's experiment with its best prompt as it would be alone."""
        config, method, best = self.configs[index], self.methods[index], self.best[index]
        best = best._replace(tuned=cut(best.tuned, method, self.length))
        return Trained(config, [self.data[index]], self.backbone, method, best)

    def become(self, index: int, source: int, rate: float, decay: float) -> None:
        """Makes a member what another one is, but for its seed and at these rates.

        Its state is left to the caller.
        """
        config, seed = self.configs[source], self.configs[index].train.seed
        train = dataclasses.replace(config.train, learning_rate=rate, weight_decay=decay, seed=seed)
        self.configs[index] = dataclasses.replace(config, train=train)
        self.methods[index] = self.methods[source]
        self.members.learning_rate[index] = rate
        self.members.weight_decay[index] = decay
        if self.members.real is not None:
            self.members.real[index] = self.members.real[source]

    def tree(self, index: int) -> Tuned:
        """A member's tuned tree as it is trained, padded."""
        # Copied, since `states` is written in place and the best prompt has to stay what it was.
        return jax.tree.map(lambda leaf: leaf[index].copy(), self.states.tuned)


def check_one_program(configs: Sequence[Config]) -> None:
    """Checks that experiments differ in nothing that a program is compiled for.

    Raises:
      InputError: they do, or ask for what one experiment alone can have.
    """
    first = configs[0]
    for config in configs[1:]:
        for line in differences(first, config):
            name = line.partition(":")[0]
            if type(config.method) is not type(first.method) or name not in VARYING:
                raise InputError(
                    f"members of a population train in one program and differ in {line}; they may "
                    f"differ in {', '.join(VARYING[1:])}"
                )
    check_together(first, len(configs))
    if first.train.objective != "tokens" and len({config.data.task for config in configs}) > 1:
        raise InputError(
            f'train.objective="{first.train.objective}" compares the label words of one task; use '
            'objective="tokens" for several'
        )


def check_context(method: MethodConfig, backbone: Backbone, tuned: Tuned, batches: Batches) -> None:
    """Checks that the longest text fits the model behind a prompt."""
    positions = jax.eval_shape(lambda tree: materialize(method, tree), tuned).positions
    headed = method.num_labels is not None  # Its targets take no positions.
    written = 0 if headed else batches.target_length
    backbone.check_context(positions, batches.source_lengths[-1], written)


def _answers(
    config: Config, backbone: Backbone, injection: Injection | None, data: Data
) -> Evaluation:
    """The answers to the validation rows of a task, as `train.eval_examples` has it."""
    if config.train.objective == "distil":
        return evaluate_lessons(backbone, injection, data.watched(config), config)
    options = {"data": config.data, "eval": config.scoring, "likelihood": True}
    return evaluate(backbone, injection, data.watched(config), data.task, **options)
