"""The candidates of a sweep: their states, how far each is, and the best prompt of each."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, SweepConfig
from prompt_jax.experiment.choice import Best, Judgement, unjudged
from prompt_jax.experiment.course import RATES, Course, all_steps, begin, followers, ready
from prompt_jax.experiment.loop import Members, Report
from prompt_jax.experiment.members import Population, Trained
from prompt_jax.experiment.splits import Data, for_backbone
from prompt_jax.population import member, stack
from prompt_jax.runs import Row
from prompt_jax.train import is_finite
from prompt_jax.trees import Tree


class Candidates(Members):
    """All candidates of a sweep with their states, and the best prompt of each.

    Those of one placement share a program, and so a population.

    Args:
      data: as `load_data` gives it.
    """

    def __init__(self, configs: list[Config], sweep: SweepConfig, backbone: Backbone, data: Data):
        self.configs, self.sweep = configs, sweep
        self.targets = sweep.targets(configs[0].train.steps)
        self.course = begin(len(configs), len(self.targets))
        self.steps = all_steps(len(configs), sweep, configs[0].train.steps)
        # A placement is part of the program; all else that candidates differ in is numbers.
        by_program: dict[str, list[int]] = {}
        for i, config in enumerate(configs):
            by_program.setdefault(config.method.place, []).append(i)
        self.populations = []
        for numbers in by_program.values():
            group = [configs[i] for i in numbers]
            # A prompt in the system's turn has chats with such a turn, and no other prompt has.
            rows = for_backbone(data, group[0], backbone)
            self.populations.append(Population(group, backbone, [rows] * len(numbers)))
        self.place = {
            i: (population, at)
            for population, numbers in zip(self.populations, by_program.values(), strict=True)
            for at, i in enumerate(numbers)
        }

    def __len__(self) -> int:
        return len(self.configs)

    def best(self, index: int) -> Best:
        """The best prompt that a candidate had so far."""
        population, at = self.place[index]
        return population.best[at]

    def title(self, index: int) -> str:
        return f"candidate {index:>3}  "

    def labels(self, index: int, step: int) -> Row:
        return {"candidate": index, "own_step": step}

    def step(self, index: int) -> int:
        population, at = self.place[index]
        return population.step(at)

    def target(self, index: int) -> int:
        return self.targets[self.course.rung[index]]

    def ready(self) -> list[int]:
        """The candidates that train next, at most as many as slots and all of one program.

        Their number is a power of two or that of the slots, so that few programs are compiled.
        """
        waiting = ready(self.course, self.sweep)
        if not waiting:
            return []
        population = self.place[waiting[0]][0]
        waiting = [i for i in waiting if self.place[i][0] is population][: self.sweep.slots]
        # Whoever has to wait is in the next round: a program takes longer to compile.
        if len(waiting) < self.sweep.slots:
            waiting = waiting[: 2 ** (len(waiting).bit_length() - 1)]
        return waiting

    def advance(
        self, chosen: Sequence[int], steps: int, report: Report, going: Callable[[], bool]
    ) -> None:
        population = self.place[chosen[0]][0]
        population.advance([self.place[i][1] for i in chosen], steps, report, going)

    def judge(self, index: int) -> Judgement:
        """Scores a candidate, keeps its best prompt, and notes its score at a rung.

        Early on most answers are one label, or no text is right, whatever the candidate. So how
        likely the right answers are decides who goes on, and the metric who wins.
        """
        population, at = self.place[index]
        judgement = population.judge(at)
        likely = judgement.log_likelihood
        score = judgement.score if likely is None else likely
        if not is_finite(population.tree(at)):
            score = float("-inf")  # It diverged, and no other with it.
        rung = int(self.course.rung[index])
        if population.step(at) == self.targets[rung]:
            self.course.scores[index, rung] = score
            self.course.rung[index] = rung + 1
            if self.sweep.how == "pbt" and (self.course.rung > rung).all():
                self.follow(rung)
        return judgement

    def follow(self, rung: int) -> None:
        """The worst of a generation go on with prompts of the best, at other rates."""
        if rung + 1 == len(self.targets):
            return
        # By the rung, so that a resumed sweep draws what it would have drawn.
        generator = np.random.default_rng((self.sweep.seed, rung))
        for index, parent in followers(self.course, rung, generator).items():
            options = self.configs[parent].train
            factors = generator.choice(RATES, 2)
            # In float32, as a checkpoint holds them: a resumed sweep has the same rates to the bit.
            rates = np.array([options.learning_rate, options.weight_decay], np.float32) * factors
            self.course.parent[index, rung], self.course.rates[index, rung] = parent, rates
            self._become(index, rung)
            (population, at), (_, source) = self.place[index], self.place[parent]
            # With the optimizer's state, which belongs to the prompt that it was made by.
            for leaf in jax.tree.leaves(population.states):
                leaf[at] = leaf[source]
            # What the parent was best at is the parent's: these rates have trained nothing yet.
            population.best[at] = unjudged(population.tree(at))

    def _become(self, index: int, rung: int) -> None:
        """A candidate has the length of its parent, and rates of its own."""
        (population, at), (_, source) = (
            self.place[i] for i in (index, self.course.parent[index, rung])
        )
        rate, decay = map(float, self.course.rates[index, rung])
        population.become(at, source, rate, decay)
        self.configs[index] = population.configs[at]

    def checkpoint(self) -> dict[str, Tree]:
        states = [population.states for population in self.populations]
        best = stack([self.best(i) for i in range(len(self))])
        return {"states": states, "best": best, "course": self.course}

    def restore(self, state: dict[str, Tree]) -> None:
        self.course = Course(*map(np.array, state["course"]))
        # Rates and lengths are in no state: they follow from the course, generation by generation.
        for rung in range(len(self.targets)):
            for index in np.flatnonzero(~np.isnan(self.course.rates[:, rung, 0])):
                self._become(int(index), rung)
        for population, states in zip(self.populations, state["states"], strict=True):
            population.states = jax.tree.map(np.array, states)
        for i, (population, at) in self.place.items():
            population.best[at] = member(state["best"], i)

    def trained(self, index: int) -> Trained:
        """A candidate's experiment with its best prompt."""
        population, at = self.place[index]
        return population.trained(at)

    def winner(self) -> int:
        """The candidate with the best prompt; of equals, the one that went furthest."""
        return max(range(len(self.configs)), key=self.reached)

    def reached(self, index: int) -> tuple[float, float, int]:
        """What candidates are compared by once all have ended."""
        score, likelihood = self.best(index).rank
        return score, likelihood, int(self.course.rung[index])

    def lineage(self, index: int) -> list[dict[str, float]]:
        """Every prompt that a candidate's best one went on from, the first one first."""
        steps, ancestors = int(self.best(index).step), []
        for rung in reversed(range(len(self.targets))):
            rates = self.course.rates[index, rung]
            if self.targets[rung] >= steps or np.isnan(rates[0]):
                continue
            parent = int(self.course.parent[index, rung])
            ancestors.append(
                {
                    "after_step": self.targets[rung],
                    "candidate": index,
                    "from": parent,
                    "learning_rate": float(rates[0]),
                    "weight_decay": float(rates[1]),
                }
            )
            index = parent
        return ancestors[::-1]
