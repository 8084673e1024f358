"""What an experiment trains for the tasks that it has: the method's head, its batches, its loss."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from prompt_jax.answers import Candidates, check_words, head_of, heads, readout_for, tokenizer_of
from prompt_jax.answers.heads import IN_WORDS
from prompt_jax.backbones import Backbone
from prompt_jax.backbones.backbone import tokenizer_hash
from prompt_jax.config import Config, InputError, MethodConfig
from prompt_jax.config.method import WRITES
from prompt_jax.data import Batches, EncodeOptions, Share, encode_labels, pad
from prompt_jax.experiment.splits import Data
from prompt_jax.forward import check_places
from prompt_jax.generate import one_mask
from prompt_jax.losses import Loss, Pull, loss_fn
from prompt_jax.prompts import check_task
from prompt_jax.tasks import Example, Series, Task, place_of
from prompt_jax.trees import Tuned


def method_of(config: Config, backbone: Backbone, tasks: Sequence[Task]) -> MethodConfig:
    """The experiment's method with the kind of task that the backbone does, and the label words.

    A model that reads answers with a head of the task's kind. A text is classified by a head,
    unless its template has a mask for the label word to fill.

    Raises:
      InputError: the backbone or `train` does not do that, a head has other classes than the task
        has labels, or would serve several tasks, or label words are the same tokens.
    """
    tokenizer_of(backbone)
    task, *others = tasks
    method, head = config.method, head_of(task.kind)
    if method.task_type in WRITES:
        if head is not None and backbone.config.is_encoder:
            method = head.configure(head, method, backbone, task)
        else:
            method = dataclasses.replace(method, task_type=backbone.task_types[0])
    check_task(method, backbone)
    # Reversed, so that of several kinds of one task type the first is named.
    names = {row.task_type: kind for kind, row in reversed(heads().items())}
    if method.task_type in names:
        if head is None and method.task_type == "SEQ_CLS":
            head = heads()["classification"]  # Which says that there are no label words.
        if head is None or head.task_type != method.task_type:
            kind = names[method.task_type]
            raise InputError(
                f"{method.task_type} answers a {kind} and task {task.name!r} is a {task.kind}; set "
                f'task.kind to "{kind}", or leave method.task_type out'
            )
        method = head.configure(head, method, backbone, task)
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
    objective = config.train.objective
    if task.kind == "multi_label" and objective != "tokens":
        raise InputError(
            f'train.objective="{objective}" is for one label word a row and task {task.name!r} is '
            "a multi label, whose loss is of each word by itself; leave train.objective out"
        )
    for labelled in tasks:
        _label_rows(config, backbone, labelled)
    if all(labelled.chat for labelled in tasks) and backbone.config.opens("turn"):
        method = method.in_chats()
    # What a start takes from the task where the method does not say it.
    words = {"class_labels": ("init_labels", task.choices), "text": ("init_text", task.instruction)}
    field, value = words.get(getattr(method, "start", ""), ("", None))
    if field and not getattr(method, field):
        return dataclasses.replace(method, **{field: value})
    return method


def batches_of(
    config: Config,
    method: MethodConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    task: Task,
    task_ids: np.ndarray | None = None,
    mixing: tuple[Share, ...] = (),
) -> Batches:
    """The training batches of a method on a backbone.

    Args:
      task: the only one that a head answers.
      task_ids: which task every example belongs to, of several.
      mixing: how often each of several tasks comes.

    Raises:
      InputError: a text has no place for the prompt, or as `Batches`.
    """
    if config.train.objective == "distil" and any(e.lesson is None for e in examples):
        raise InputError(
            'train.objective="distil" learns from the answers of a teacher; use prompt-jax distil, '
            "or another objective"
        )
    batches = Batches(
        examples,
        tokenizer_of(backbone),
        config.data,
        config.train.batch_size,
        config.train.seed,
        encode=readout_for(method, kind=task.kind).encode,
        options=EncodeOptions(
            place=task.target_place(backbone.target_place),
            filler=backbone.config.filler,
            labels=task.labels,
            tokenizer=tokenizer_hash(backbone.tokenizer),
        ),
        prompt_length=method.input_tokens,
        task_ids=task_ids,
        mixing=mixing,
    )
    check_places(method.place, backbone, batches.sources, _places(examples))
    return batches


def _places(examples: Sequence[Example]) -> Sequence[str]:
    """Where each example stands; of many as errors need it."""
    if isinstance(examples, Series):
        return examples.mapped(lambda example: place_of(example.source, 0), "places")
    return [place_of(example.source, i) for i, example in enumerate(examples)]


def _label_rows(config: Config, backbone: Backbone, task: Task) -> list[np.ndarray]:
    words = (backbone.tokenizer, task.ranked, config.data.max_target_length)
    return encode_labels(*words, place=task.target_place(backbone.target_place))


def loss_of(
    config: Config, method: MethodConfig, backbone: Backbone, task: Task, tuned: Tuned
) -> Loss:
    """The loss that an experiment trains `tuned` with."""
    options = config.train
    candidates = None
    if task.ranked and (method.num_labels or options.objective not in IN_WORDS or not task.choices):
        rows = _label_rows(config, backbone, task)
        candidates = Candidates(*pad(rows, max(map(len, rows)), backbone.config.filler))
    # Dropout is for training alone, so the backbone itself keeps its config.
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
        divergence=config.distil.divergence,
        temperature=config.distil.temperature,
        pull=Pull(jax.tree.map(np.array, tuned), options.pull) if options.pull else None,
        module=module,
        kind=task.kind,
    )


def check_texts(
    config: Config, method: MethodConfig, backbone: Backbone, tasks: Sequence[Data]
) -> None:
    """Checks that the backbone's table has every word of all rows, of those scored later too."""
    for data in tasks if backbone.beyond else ():
        examples = list(itertools.chain(data.train, data.validation, *data.tests.values()))
        sources = [example.source for example in examples]
        if method.num_labels is not None:
            check_words(backbone, config.data, sources)
        else:
            targets = [example.target for example in examples]
            check_words(backbone, config.data, sources, targets, data.task.ranked)


def check_blanks(
    method: MethodConfig, backbone: Backbone, batches: Batches, examples: Sequence[Example]
) -> None:
    """Checks that every text of a cloze has one mask."""
    if backbone.config.is_encoder and method.num_labels is None:
        one_mask(backbone, batches.sources, _places(examples))
