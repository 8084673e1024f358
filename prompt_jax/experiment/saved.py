"""A saved prompt with the rows, the loss and the scores of its training."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError
from prompt_jax.data import Batches
from prompt_jax.evaluate import answer_likelihood, evaluate
from prompt_jax.experiment.answering import batches_of, loss_of
from prompt_jax.experiment.questions import load_questions, read_context
from prompt_jax.experiment.resemblance import evaluate_lessons
from prompt_jax.experiment.splits import Data, check_one, for_backbone, load_data
from prompt_jax.experiment.study import studied
from prompt_jax.experiment.teacher import Teacher, folder_of, taught
from prompt_jax.forward import Injection
from prompt_jax.lines import Say
from prompt_jax.losses import Loss
from prompt_jax.prompts import Prompt
from prompt_jax.prompts.composition import input_rows, plain_method


class SavedRun(NamedTuple):
    """A prompt of rows on its backbone, with what it was trained on."""

    prompt: Prompt
    backbone: Backbone
    config: Config
    data: Data

    @property
    def loss(self) -> Loss:
        """The loss of training for a tree of such rows: `loss({"prompt": rows}, frozen, batch)`."""
        rows = input_rows(self.prompt)
        method = plain_method(self.prompt, len(rows))
        return loss_of(self.config, method, self.backbone, self.data.task, {"prompt": rows})

    @property
    def batches(self) -> Batches:
        """The training rows."""
        data = self.data
        return batches_of(self.config, self.prompt.method, self.backbone, data.train, data.task)

    @property
    def measure(self) -> str:
        """What `quality` is."""
        return "minus KL" if self._distilled else "log-likelihood"

    def quality(self, injection: Injection | None) -> float:
        """How likely the right answers to the validation rows are, in nats; more is better.

        Of a distilled prompt minus the KL from its teacher, in nats a token.
        """
        rows, backbone = self.data.watched(self.config), self.backbone
        if self._distilled:
            return evaluate_lessons(backbone, injection, rows, self.config).metrics.score
        way = {"data": self.config.data, "eval": self.config.scoring}
        return answer_likelihood(backbone, injection, rows, self.data.task, **way)

    def compared(self, ways: Mapping[str, Injection | None]) -> list[list[str]]:
        """Rows of cells: a row a way to answer, with its quality and the task's first metric."""
        task, rows = self.data.task, self.data.watched(self.config)
        way = {"data": self.config.data, "eval": self.config.scoring}
        cells = [["validation", self.measure, task.metrics[0]]]
        for name, injection in ways.items():
            score = evaluate(self.backbone, injection, rows, task, **way).metrics.score
            cells.append([name, f"{self.quality(injection):.3f}", f"{score:.3f}"])
        return cells

    @property
    def _distilled(self) -> bool:
        return self.config.train.objective == "distil"


def saved_run(config: Config, prompt: Prompt, backbone: Backbone, say: Say) -> SavedRun:
    """A prompt with the rows of `config.data.task`.

    Args:
      config: of its training. The teacher of a distilled prompt answers again what is not in the
        files of its run.

    Raises:
      InputError: the prompt is not rows before the input alone, or has a head; or the data, the
        text or the questions cannot be read.
    """
    check_one(config, "score a prompt")
    plain_method(prompt, len(input_rows(prompt)))
    # Numbers of the frozen model and the prompt alone.
    train = dataclasses.replace(config.train, dropout=0.0, pull=0.0)
    config = dataclasses.replace(config, method=prompt.method, train=train)
    distilled = train.objective == "distil"
    data = _answered(config, backbone, say) if distilled else load_data(config)
    data = data if distilled else for_backbone(data, config, backbone)
    if not data.validation:
        raise InputError(
            f"{data.task.name} has no validation rows to score with; give some (data.validation)"
        )
    return SavedRun(prompt, backbone, config, data)


def _answered(config: Config, backbone: Backbone, say: Say) -> Data:
    """The questions of a distilled prompt, with its teacher's answers."""
    teacher = Teacher(config, backbone, read_context(config), folder_of(config))
    questions = studied(teacher, say) if config.distil.write else load_questions(config)
    return taught(teacher, for_backbone(questions, config, backbone), say)
