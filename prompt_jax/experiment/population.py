"""Experiments that train in one program, and keep their states on the host in between."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, MethodConfig, differences, resolved
from prompt_jax.data import Batches
from prompt_jax.evaluate import Evaluation, evaluate
from prompt_jax.experiment.answering import (
    batches_of,
    check_blanks,
    check_texts,
    for_tasks_of,
    loss_of,
)
from prompt_jax.experiment.data import Data
from prompt_jax.forward import Injection, for_tasks, only_real
from prompt_jax.methods import materialize
from prompt_jax.population import (
    AfterStep,
    check_lengths,
    check_mesh,
    compile_population_step,
    cut,
    fit_population,
    length_of,
    members_of,
    padded,
    stack,
    stacked_batches,
)
from prompt_jax.prompts import fresh
from prompt_jax.sharding import on_host, whole_rows
from prompt_jax.train import start

OWN = ("out", "data.task", "train.learning_rate", "train.weight_decay", "train.seed")
OWN += ("method.num_virtual_tokens", "method.init", "method.init_text", "method.init_labels")
OWN += ("method.init_file", "method.init_population", "method.init_scale", "method.num_labels")
"""Fields in which the experiments of a population may differ."""


class Population:
    """Experiments of one backbone and one program, each a member.

    Args:
      configs: what every member trains; they differ in fields of `OWN` only.
      backbone: the frozen model that all share.
      data: the examples of every member's task.

    Raises:
      InputError: members that cannot share a program, or as a single experiment.
    """

    def __init__(self, configs: Sequence[Config], backbone: Backbone, data: Sequence[Data]):
        check_one_program(configs)
        self.configs = configs = [resolved(config) for config in configs]
        self.backbone, self.data = backbone, list(data)
        self.methods = [
            for_tasks_of(config, backbone, [own.task])
            for config, own in zip(configs, data, strict=True)
        ]
        check_lengths(self.methods)
        check_mesh(backbone.mesh)
        self._check_heads()
        self.length = max(map(length_of, self.methods))
        self.members = members_of([c.train for c in configs], self.methods, self.length)
        longest = max(self.methods, key=length_of)
        self.batches = self._batches(longest)
        tuned = [
            padded(on_host(fresh(method, backbone, config.train.seed)), method, self.length)
            for config, method in zip(configs, self.methods, strict=True)
        ]
        self.states = stack([start(tree, configs[0].train) for tree in tuned])
        self._check_context(longest, tuned[0])
        # A device has whole members, of which no part is to be split.
        apart = dataclasses.replace(backbone.config, mesh=None)
        alone = dataclasses.replace(backbone, config=apart)
        loss = loss_of(configs[0], longest, alone, data[0].task, None)
        self._step = compile_population_step(loss, configs[0].train, backbone.mesh)
        self._frozen = backbone.unstacked()

    def _batches(self, longest: MethodConfig) -> list[Batches]:
        """Every member's rows, encoded once for all members of a task."""
        encoded: dict[str, Batches] = {}
        for config, own in zip(self.configs, self.data, strict=True):
            if own.task.name not in encoded:
                check_texts(config, longest, self.backbone, [own])
                made = batches_of(config, longest, self.backbone, own.train, own.task)
                check_blanks(longest, self.backbone, made, own.train)
                encoded[own.task.name] = made
        return [encoded[config.data.task].reseeded(config.train.seed) for config in self.configs]

    def _check_heads(self) -> None:
        tasks = {own.task.name for own in self.data}
        if len(tasks) > 1 and any(method.num_labels is not None for method in self.methods):
            raise InputError(
                f"a head answers one task, and the members have {', '.join(sorted(tasks))}; train "
                "each alone, or answer in words: a T5, a decoder, a cloze"
            )

    def _check_context(self, longest: MethodConfig, tuned: Any) -> None:
        positions = jax.eval_shape(lambda tree: materialize(longest, tree), tuned).positions
        for batches in self.batches:
            written = 0 if longest.num_labels is not None else batches.target_length
            self.backbone.check_context(positions, batches.source_lengths[-1], written)

    def __len__(self) -> int:
        return len(self.configs)

    @property
    def steps(self) -> np.ndarray:
        """How many every member has made, [N]."""
        return self.states.step

    def advance(
        self,
        chosen: Sequence[int],
        steps: int,
        after_step: AfterStep | None = None,
        due: Callable[[int], bool] | None = None,
    ) -> None:
        """Trains some members for so many steps.

        Args:
          chosen: which, each once; a program is compiled for every number of them.
          steps: from where each is.
          after_step, due: as for `fit_population`.
        """
        # Devices that would have no member repeat one.
        at = np.resize(chosen, whole_rows(len(chosen), self.backbone.mesh))
        first = self.steps[at]
        states = fit_population(
            self._step,
            jax.tree.map(lambda leaf: leaf[at], self.states),
            self._frozen,
            stacked_batches([self.batches[i] for i in at], (first + k for k in range(steps))),
            jax.tree.map(lambda leaf: leaf[at], self.members),
            after_step=after_step,
            due=due,
            mesh=self.backbone.mesh,
        )
        for whole, part in zip(jax.tree.leaves(self.states), jax.tree.leaves(states), strict=True):
            whole[at] = np.asarray(part)

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

    def injection(self, index: int, tuned: Any = None) -> Injection:
        """What a member puts into the model, padded as in training; all have the same shapes.

        Args:
          tuned: of that member; None takes what it has now.
        """
        tuned = self.tree(index) if tuned is None else tuned
        injection = for_tasks(materialize(self.methods[index], tuned), None)
        real = self.members.real
        return injection if real is None else only_real(injection, jnp.asarray(real[index]))

    def tree(self, index: int) -> Any:
        """A member's tuned tree as it is trained, padded."""
        return jax.tree.map(lambda leaf: leaf[index].copy(), self.states.tuned)

    def own(self, index: int, tuned: Any) -> Any:
        """A tuned tree of a member as it would be alone."""
        return cut(tuned, self.methods[index], self.length)

    def score(self, index: int, tuned: Any = None) -> Evaluation:
        """A member's answers on validation, as `train.eval_examples` says."""
        config, own = self.configs[index], self.data[index]
        return evaluate(
            self.backbone,
            self.injection(index, tuned),
            own.watched(config),
            own.task,
            data=config.data,
            eval=config.scoring,
            likelihood=True,
        )


def check_one_program(configs: Sequence[Config]) -> None:
    """Checks that experiments differ in nothing that a program is compiled for.

    Raises:
      InputError: they do, or ask for what one experiment alone can have.
    """
    first = configs[0]
    for config in configs[1:]:
        for line in differences(first, config):
            name = line.partition(":")[0]
            if type(config.method) is not type(first.method) or name not in OWN:
                raise InputError(
                    f"members of a population train in one program and differ in {line}; they may "
                    f"differ in {', '.join(OWN[1:])}"
                )
    for name, off in (("pull", 0.0), ("patience", None)):
        if getattr(first.train, name) != off:
            raise InputError(
                f"train.{name} is for one prompt, and a population trains {len(configs)}; leave "
                "it out"
            )
    if first.train.objective != "tokens" and len({config.data.task for config in configs}) > 1:
        raise InputError(
            f'train.objective="{first.train.objective}" compares the label words of one task; use '
            'objective="tokens" for several'
        )
    if any(config.data.mixture for config in configs):
        raise InputError(
            "each member of a population has one task, and data.mixture names more; leave it out"
        )
