"""Prompt tuning: P trained rows before the frozen token embeddings (Lester et al. 2021).

PEFT's PROMPT_TUNING, and P_TUNING, whose files hold what its encoder wrote, are one tensor of rows.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import IN_CHATS, InputError, MethodConfig, choose
from prompt_jax.forward import Injection
from prompt_jax.methods.method import (
    AGAIN,
    KEY,
    Leaves,
    PeftFormat,
    Stored,
    matrix,
    register_method,
)
from prompt_jax.methods.virtual_tokens import (
    InputPrompt,
    peft_fields,
    peft_start,
    start_rows,
    unplaced,
)
from prompt_jax.trees import Tuned

Stack = Literal["encoder", "decoder", "both"]


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(InputPrompt):
    """A soft prompt before the frozen token embeddings (Lester et al. 2021)."""

    kind = "prompt_tuning"

    rows_only = True

    stack: Stack = "encoder"
    """The input of a T5 that gets the prompt: the encoder's, the decoder's, or both."""

    def __post_init__(self):
        super().__post_init__()
        choose("stack", self.stack, get_args(Stack))
        if self.stack != "encoder" and self.place != "prefix":
            raise InputError(
                f'placement="{self.placement}" is for the encoder\'s input, and stack is '
                f'"{self.stack}"; a decoder reads its prompt first: use placement="prefix"'
            )

    def in_chats(self) -> MethodConfig:
        return super().in_chats() if self.stack == "encoder" else self

    @property
    def input_tokens(self) -> int:
        return 0 if self.stack == "decoder" else self.num_virtual_tokens

    @property
    def virtual_axis(self) -> int | None:
        # In chats too: their models give masked virtual tokens no position, wherever these stand.
        movable = self.place in ("prefix", *IN_CHATS) and self.stack == "encoder"
        return -2 if movable else None


def init(
    config: PromptTuningConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Float[Array, "P D"]]:
    """The tuned tree of a fresh prompt: `prompt`, `decoder_prompt`, or both."""
    if config.stack != "encoder" and len(backbone.sockets.blocks) == 1:
        raise InputError(
            f'stack is "{config.stack}" and backbone {backbone.name!r} has one stack only; use '
            'stack="encoder", which is its input'
        )
    widths = [block.width for block in backbone.sockets.blocks.values()]
    if config.stack != "encoder" and len(set(widths)) > 1:
        raise InputError(
            f'stack is "{config.stack}" and the stacks of backbone {backbone.name!r} are '
            f"{' and '.join(map(str, widths))} wide, where one prompt has one width; use "
            'stack="encoder"'
        )
    names = {"encoder": ["prompt"], "decoder": ["decoder_prompt"]}
    names["both"] = names["encoder"] + names["decoder"]
    return {name: start_rows(config, backbone, key, start) for name in names[config.stack]}


def materialize(
    config: PromptTuningConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection:
    """The prompt as it is; nothing is reparameterised here."""
    rows = tuned.get("decoder_prompt")
    sockets = {} if rows is None else {"decoder": {"prompt": rows}}
    return Injection(tuned.get("prompt"), sockets=sockets)


def plain_prompt(
    config: InputPrompt, rows: Float[Array, "P D"]
) -> tuple[PromptTuningConfig, Tuned]:
    """Rows, however they came about, as a prompt of prompt tuning."""
    plain = PromptTuningConfig(
        task_type=config.task_type,
        tokenizer_name_or_path=config.tokenizer_name_or_path,
        num_virtual_tokens=len(rows),
        # The rows are already there, and this start needs no text, labels or file.
        init="random",
        placement=config.placement,
        num_labels=config.num_labels,
        pooling=config.pooling,
    )
    return plain, {"prompt": rows}


def obstacle(config: PromptTuningConfig, leaves: Leaves, model_type: str) -> str:
    """Why PEFT would run this prompt differently, and what to do."""
    if config.stack != "encoder":
        return (
            f'PEFT reads the encoder\'s prompt only and this one is of "{config.stack}"; train '
            'with stack="encoder"'
        )
    return unplaced(config)


def write(
    config: PromptTuningConfig, leaves: Leaves, model_type: str
) -> tuple[dict[str, object], Leaves]:
    """PEFT's fields, and its only tensor."""
    rows = leaves["prompt"]
    return peft_fields(config, rows), {KEY: rows}


def read(stored: Stored, model_type: str) -> tuple[PromptTuningConfig, Leaves]:
    """The method and its rows.

    PEFT keeps 2n rows for T5, of which it uses the first n. Elsewhere it gives 2n to the model and
    a mask for n, so that the end of the text is masked.
    """
    stored.expect([KEY])
    rows = matrix(stored.weights, stored.tensors[KEY])
    stacks = stored.submodules
    virtual = stored.whole("num_virtual_tokens", max(len(rows) // stacks, 1))
    width = stored.whole("token_dim", rows.shape[1])
    both = stored.task_type == "SEQ_2_SEQ_LM"
    if stacks != 1 and not both:
        raise InputError(
            f"{stored.config} has num_transformer_submodules {stacks}, with which PEFT masks the "
            "end of every text where one stack reads it; allowed: 1; train with that"
        )
    if len(rows) not in (virtual, virtual * (1 + both)) or width != rows.shape[1]:
        allowed = f"{virtual} or twice as many" if both else virtual
        raise InputError(
            f"{stored.config} says {virtual} virtual tokens of width {width} and the tensor beside "
            f"it is {list(rows.shape)}; allowed are {allowed} rows; {AGAIN}"
        )
    method = PromptTuningConfig(num_virtual_tokens=virtual, **peft_start(stored))
    return method, {"prompt": rows[:virtual]}


PEFT = PeftFormat("PROMPT_TUNING", read, write, obstacle)
register_method(PromptTuningConfig, init=init, materialize=materialize, peft=PEFT)
