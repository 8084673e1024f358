"""The candidates of a sweep: their states, how far each is, and the best prompt of each."""

from typing import Any

import jax
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, SweepConfig
from prompt_jax.experiment.choice import Judgement, judge, unjudged
from prompt_jax.experiment.course import RATES, Course, begin, followers, ready
from prompt_jax.experiment.data import Data
from prompt_jax.experiment.population import Population
from prompt_jax.population import member, stack


class Candidates:
    """All candidates of a sweep with their states, and the best prompt of each.

    Those of one placement share a program, and so a population.
    """

    def __init__(self, configs: list[Config], sweep: SweepConfig, backbone: Backbone, data: Data):
        self.configs, self.sweep = configs, sweep
        self.targets = sweep.targets(configs[0].train.steps)
        self.course = begin(len(configs), len(self.targets))
        by_program: dict[str, list[int]] = {}
        for i, config in enumerate(configs):
            by_program.setdefault(config.method.placement, []).append(i)
        self.populations = [
            Population([configs[i] for i in own], backbone, [data] * len(own))
            for own in by_program.values()
        ]
        self.place = {
            i: (population, at)
            for population, own in zip(self.populations, by_program.values(), strict=True)
            for at, i in enumerate(own)
        }
        self.best = [unjudged(self.tree(i)) for i in range(len(configs))]

    def tree(self, index: int) -> Any:
        """The tuned tree that a candidate has now."""
        population, at = self.place[index]
        return population.tree(at)

    def step(self, index: int) -> int:
        """Steps that a candidate has made."""
        population, at = self.place[index]
        return int(population.steps[at])

    def chosen(self) -> list[int]:
        """The candidates that train next, at most as many as slots and all of one program.

        Their number is a power of two or that of the slots, so that few programs are compiled.
        """
        waiting = ready(self.course, self.sweep)
        if not waiting:
            return []
        population = self.place[waiting[0]][0]
        waiting = [i for i in waiting if self.place[i][0] is population][: self.sweep.slots]
        if len(waiting) < self.sweep.slots:
            waiting = waiting[: 2 ** (len(waiting).bit_length() - 1)]
        return waiting

    def until(self, chosen: list[int]) -> int:
        """Steps until the first of them is to be evaluated."""
        every = self.configs[0].train.eval_every
        stops = []
        for i in chosen:
            step = self.step(i)
            stops.append(min(self.targets[self.course.rung[i]], step - step % every + every) - step)
        return min(stops)

    def judge(self, index: int) -> Judgement:
        """Scores a candidate, keeps its best prompt, and says so where it has reached a rung.

        Early on most answers are one label, or no text is right, whatever the candidate. So how
        likely the right answers are decides who goes on, and the metric who wins.
        """
        population, at = self.place[index]
        found = judge({population.data[at].task.name: population.score(at)})
        step, score = self.step(index), next(iter(found.metrics.values()))
        judged = score if found.log_likelihood is None else found.log_likelihood
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(population.tree(at))):
            self.best[index] = self.best[index].after(found, population.tree(at), step)
        else:
            judged = -np.inf  # It diverged, and no other with it.
        rung = int(self.course.rung[index])
        if step == self.targets[rung]:
            self.course.scores[index, rung] = judged
            self.course.rung[index] = rung + 1
            if self.sweep.how == "pbt" and (self.course.rung > rung).all():
                self._follow(rung)
        return found

    def _follow(self, rung: int) -> None:
        """The worst of a generation go on with prompts of the best, at other rates."""
        if rung + 1 == len(self.targets):
            return
        generator = np.random.default_rng((self.sweep.seed, rung))
        for index, parent in followers(self.course, rung, generator).items():
            own = self.configs[parent].train
            factors = generator.choice(RATES, 2)
            rates = np.float32([own.learning_rate, own.weight_decay]) * factors
            self.course.parent[index, rung], self.course.rates[index, rung] = parent, rates
            self._become(index, rung)
            (population, at), (_, source) = self.place[index], self.place[parent]
            for leaf in jax.tree.leaves(population.states):
                leaf[at] = leaf[source]
            self.best[index] = self.best[parent]

    def _become(self, index: int, rung: int) -> None:
        """A candidate has the length of its parent, and rates of its own."""
        (population, at), (_, source) = (
            self.place[i] for i in (index, self.course.parent[index, rung])
        )
        rate, decay = map(float, self.course.rates[index, rung])
        population.become(at, source, rate, decay)
        self.configs[index] = population.configs[at]

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        states = [population.states for population in self.populations]
        return {"states": states, "best": stack(self.best), "course": self.course}

    def take(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.course = Course(*map(np.array, state["course"]))
        for rung in range(len(self.targets)):
            for index in np.flatnonzero(~np.isnan(self.course.rates[:, rung, 0])):
                self._become(int(index), rung)
        for population, states in zip(self.populations, state["states"], strict=True):
            population.states = jax.tree.map(np.array, states)
        self.best = [member(state["best"], i) for i in range(len(self.configs))]

    def winner(self) -> int:
        """The candidate with the best prompt; of equals, the one that went furthest."""
        return max(range(len(self.configs)), key=self.reached)

    def reached(self, index: int) -> tuple[float, float, int]:
        """What candidates are compared by once all have ended."""
        score, likelihood = self.best[index].rank
        return score, likelihood, int(self.course.rung[index])

    def lineage(self, index: int) -> list[dict[str, Any]]:
        """Every prompt that a candidate's best one went on from, the first one first."""
        steps, found = int(self.best[index].step), []
        for rung in reversed(range(len(self.targets))):
            rates = self.course.rates[index, rung]
            if self.targets[rung] >= steps or np.isnan(rates[0]):
                continue
            parent = int(self.course.parent[index, rung])
            found.append(
                {
                    "after_step": self.targets[rung],
                    "candidate": index,
                    "from": parent,
                    "learning_rate": float(rates[0]),
                    "weight_decay": float(rates[1]),
                }
            )
            index = parent
        return found[::-1]
