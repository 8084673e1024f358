"""How a method answers the tasks of an experiment: in words, with a head, or in a cloze."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from prompt_jax.backbones import Backbone, is_encoder
from prompt_jax.config import Config, InputError, MethodConfig
from prompt_jax.data import Batches, encode_labels, pad
from prompt_jax.experiment.splits import Data
from prompt_jax.generate import check_words, one_mask
from prompt_jax.losses import Candidates, Loss, Pull, loss_fn
from prompt_jax.prompts import check_task
from prompt_jax.tasks import Example, Task, place_of


def tokenizer_of(backbone: Backbone) -> Any:
    """The backbone's tokenizer.

    Raises:
      InputError: it has none.
    """
    if backbone.tokenizer is None:
        raise InputError(
            f"backbone {backbone.name!r} has no tokenizer; use a folder or hub id that holds one"
        )
    return backbone.tokenizer


HEADS = {"classification": "SEQ_CLS", "tagging": "TOKEN_CLS", "span": "QUESTION_ANS"}
"""The head that answers a kind of task."""
WRITES = ("SEQ_2_SEQ_LM", "CAUSAL_LM")


def for_tasks_of(config: Config, backbone: Backbone, tasks: Sequence[Task]) -> Any:
    """The experiment's method with the kind of task that the backbone does, and the label words.

    A model that reads answers with a head of the task's kind. A text is classified by a head,
    unless its template has a mask for the label word to fill.

    Raises:
      InputError: the backbone or `train` does not do that, a head has other classes than the task
        has labels, or would serve several tasks, or label words are the same tokens.
    """
    task, *others = tasks
    method = config.method
    if method.task_type in WRITES:
        usual = backbone.task_types[0]
        if is_encoder(backbone.config):
            usual = HEADS.get(task.kind, usual)
        method = _with_type(method, usual, task)
    check_task(method, backbone)
    if method.task_type in HEADS.values():
        method = _with_head(method, backbone, task)
        if method.num_labels is not None and others:
            raise InputError(
                f"a head answers one task, and data.mixture names {len(others)} more; train each "
                "one alone"
            )
    elif method.task_type not in WRITES:
        raise InputError(
            f"train writes answers, classifies texts and their words, and finds spans; it has no "
            f"loss for task_type {method.task_type}: use prompt_jax.PromptTuningModel"
        )
    for labelled in tasks:
        _label_rows(config, backbone, labelled)
    if getattr(method, "start", None) == "class_labels" and not getattr(method, "init_labels", ()):
        return dataclasses.replace(method, **{"init_labels": task.choices})
    return method


def _with_type(method: MethodConfig, task_type: str, task: Task) -> MethodConfig:
    if task_type != "TOKEN_CLS":
        return dataclasses.replace(method, task_type=task_type)
    return dataclasses.replace(method, task_type=task_type, num_labels=len(task.labels))


def _with_head(method: MethodConfig, backbone: Backbone, task: Task) -> MethodConfig:
    blank = getattr(tokenizer_of(backbone), "mask_token", None)
    if method.task_type == "SEQ_CLS" and not task.choices:
        raise InputError(
            f"SEQ_CLS chooses among label words and task {task.name!r} has none; set task.labels"
        )
    if method.task_type != HEADS.get(task.kind):
        wanted = next(kind for kind, head in HEADS.items() if head == method.task_type)
        raise InputError(
            f"{method.task_type} answers a {wanted} and task {task.name!r} is a {task.kind}; set "
            f'task.kind to "{wanted}", or leave method.task_type out'
        )
    if method.task_type == "QUESTION_ANS":
        return method
    if method.num_labels is None and blank and blank in task.source:
        backbone.check_word_head()
        return method
    if method.num_labels not in (None, len(task.labels)):
        raise InputError(
            f"num_labels is {method.num_labels} and task {task.name!r} has {len(task.labels)} "
            f"{'tags' if task.kind == 'tagging' else 'label words'}; leave num_labels out"
        )
    return dataclasses.replace(method, num_labels=len(task.labels))


def batches_of(
    config: Config,
    method: MethodConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    task: Task,
    task_ids: np.ndarray | None = None,
) -> Batches:
    """The training batches of a method on a backbone.

    Args:
      task: the only one that a head answers.
      task_ids: which task every example belongs to, of several.

    Raises:
      InputError: see `Batches`.
    """
    return Batches(
        examples,
        tokenizer_of(backbone),
        config.data,
        config.train.batch_size,
        config.train.seed,
        place=backbone.target_place,
        task_type=method.task_type,
        labels=task.labels,
        filler=backbone.config.filler,
        prompt_length=method.input_tokens,
        task_ids=task_ids,
    )


def _label_rows(config: Config, backbone: Backbone, task: Task) -> list[np.ndarray]:
    words = (tokenizer_of(backbone), task.choices, config.data.max_target_length)
    return encode_labels(*words, place=backbone.target_place)


def loss_of(
    config: Config, method: MethodConfig, backbone: Backbone, task: Task, tuned: Any
) -> Loss:
    """The loss that an experiment trains `tuned` with."""
    options = config.train
    candidates = None
    if task.choices and (method.num_labels or options.objective != "tokens"):
        rows = _label_rows(config, backbone, task)
        candidates = Candidates(*pad(rows, max(map(len, rows)), backbone.config.filler))
    shape = dataclasses.replace(backbone.config, dropout=options.dropout)
    module = dataclasses.replace(backbone, config=shape).module
    return loss_fn(
        method,
        backbone,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        objective=options.objective,
        candidates=candidates,
        margin=options.margin,
        pull=Pull(jax.tree.map(np.array, tuned), options.pull) if options.pull else None,
        module=module,
    )


def check_texts(
    config: Config, method: MethodConfig, backbone: Backbone, tasks: Sequence[Data]
) -> None:
    """Checks that the backbone's table has every word of all rows, of those scored later too.

    Raises:
      InputError: a word has no row in it, see `check_words`.
    """
    for data in tasks:
        examples = sum(data.tests.values(), [*data.train, *data.validation])
        sources = [example.source for example in examples]
        written = [example.target for example in examples] if method.num_labels is None else ()
        labels = data.task.choices if method.num_labels is None else ()
        check_words(backbone, config.data, sources, written, labels)


def check_blanks(
    method: MethodConfig, backbone: Backbone, batches: Batches, examples: Sequence[Example]
) -> None:
    """Checks that every text of a cloze has one mask.

    Raises:
      InputError: one has none, or several.
    """
    if is_encoder(backbone.config) and method.num_labels is None:
        places = [place_of(example.source, i) for i, example in enumerate(examples)]
        one_mask(backbone, batches.sources, places)
