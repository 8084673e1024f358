"""Training rows as the tokens that a prompt of examples starts from."""

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, MethodConfig
from prompt_jax.data import sample
from prompt_jax.experiment.splits import Data
from prompt_jax.methods import CPTConfig
from prompt_jax.methods.cpt import INPUT, INPUT_TEMPLATE, LABEL, OUTPUT_TEMPLATE
from prompt_jax.tasks import Example, Task
from prompt_jax.tasks.text import cuts_of
from prompt_jax.trees import Tokenizer


def with_examples(
    method: MethodConfig, config: Config, backbone: Backbone, tasks: Sequence[Data]
) -> MethodConfig:
    """The method with the rows that it starts from; itself, where it starts otherwise.

    Every label has its share of them. The seed of the data draws them, so that prompts of several
    seeds start from the same rows.

    Raises:
      InputError: several tasks, chats, too few rows, or a tokenizer that does not tell where in a
        text its tokens stand.
    """
    if not isinstance(method, CPTConfig) or method.cpt_token_ids:
        return method
    data, *others = tasks
    if others:
        raise InputError(
            f"cpt starts from rows of one task, and data.mixture names {len(others)} more; train "
            "each alone, or give method.cpt_token_ids"
        )
    if data.task.chat:
        raise InputError(
            f"cpt shows its rows as plain text, and task {data.task.name!r} is a chat on "
            f'{backbone.name}; set task.chat to "off"'
        )
    if len(data.train) < method.num_examples:
        raise InputError(
            f"cpt starts from {method.num_examples} rows and {data.task.name} has "
            f"{len(data.train)}; lower method.num_examples"
        )
    if not backbone.tokenizer.is_fast:
        raise InputError(
            f"cpt asks where tokens stand in a text, which the tokenizer of {backbone.name} does "
            "not tell; take a fast one, or give method.cpt_token_ids and cpt_tokens_type_mask"
        )
    rows = list(sample(data.train, method.num_examples, data.task, config.data.seed))
    random.Random(config.data.seed).shuffle(rows)  # A file may have the rows of a label together.
    tokens, types = shown(rows, data.task, backbone.tokenizer)
    ids = {"cpt_token_ids": tuple(tokens.tolist()), "cpt_tokens_type_mask": tuple(types.tolist())}
    return dataclasses.replace(method, **ids)


def check_same_start(methods: Sequence[MethodConfig]) -> None:
    """Checks that members can share a program, in which the tokens of examples are constants."""
    if len({getattr(method, "cpt_token_ids", ()) for method in methods}) > 1:
        raise InputError(
            "cpt starts from other rows in each task, and those of several tasks share no program; "
            "train each alone"
        )


def shown(
    rows: Sequence[Example], task: Task, tokenizer: Tokenizer
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """The tokens of rows with their answers, one behind the other, and what each token is of."""
    gap = "" if task.source[-1:].isspace() else " "
    text, kinds = "", []
    for i, row in enumerate(rows):
        source = np.full(len(row.source), INPUT_TEMPLATE)
        for first, last in cuts_of(row.source):
            source[first:last] = INPUT
        parts = (OUTPUT_TEMPLATE,) * len(gap), (LABEL,) * len(row.target), (OUTPUT_TEMPLATE,) * 2
        kinds.append(4 * i + np.concatenate([source, *parts]))
        text += f"{row.source}{gap}{row.target}\n\n"
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # By its last character, as a token may begin with the space before a word.
    ends = np.array([last - 1 for _, last in read["offset_mapping"]])
    return np.array(read["input_ids"]), np.concatenate(kinds)[ends].astype(int)
