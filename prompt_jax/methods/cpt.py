"""Context-aware prompt tuning: rows that start as examples and stay near them (Blau et al. 2024).

The tokens of a few examples are the virtual tokens. Those of their texts and templates may move
within a ball around where they start; those of their labels stay, and are learned as well as those
of the batch.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig, at_least, choose
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.methods.method import (
    AGAIN,
    FIXED,
    KEY,
    Leaves,
    PeftFormat,
    Stored,
    matrix,
    register_method,
)
from prompt_jax.methods.prompt_tuning import PromptTuningConfig
from prompt_jax.trees import Tuned

Weighting = Literal["none", "decay"]
INPUT_TEMPLATE, INPUT, OUTPUT_TEMPLATE, LABEL = 1, 2, 3, 4
"""What a token is of, as PEFT numbers it; each further example adds four."""
WIDTH = 2048
"""The width for which PEFT's radii hold; they grow with the square root of it."""


@dataclass(frozen=True, kw_only=True)
class CPTConfig(MethodConfig):
    """Rows that start as the tokens of a few examples and stay near them (Blau et al. 2024)."""

    kind = "cpt"
    rates = {"adamw": 1e-3}

    num_examples: int = 4
    """How many training rows the prompt starts from, where cpt_token_ids are not given."""
    cpt_token_ids: tuple[int, ...] = ()
    """The tokens that it starts as, P of them."""
    cpt_tokens_type_mask: tuple[int, ...] = ()
    """What each token is of: 1 a template before a text, 2 a text, 3 a template before a label, 4 a
    label, and four more in the next example; 0 is kept as it is. Empty is 1 throughout."""
    opt_weighted_loss_type: Weighting = "none"
    """Whether the labels of the examples weigh less, the farther from the text they stand."""
    opt_loss_decay_factor: float = 1.0
    """What the weight of a label falls by from one example to the one before it, of `decay`."""
    opt_projection_epsilon: float = 0.1
    """How far the token of a text may move, in a model of width 2048."""
    opt_projection_format_epsilon: float = 0.1
    """How far that of a template may move."""

    def __post_init__(self):
        super().__post_init__()
        at_least("num_examples", self.num_examples, 1)
        choose("opt_weighted_loss_type", self.opt_weighted_loss_type, get_args(Weighting))
        for name in ("opt_projection_epsilon", "opt_projection_format_epsilon"):
            at_least(name, getattr(self, name), 0)
        tokens, types = len(self.cpt_token_ids), len(self.cpt_tokens_type_mask)
        if types not in (0, tokens):
            raise InputError(
                f"cpt_tokens_type_mask has {types} numbers and cpt_token_ids {tokens}; give one a "
                "token, or leave it out"
            )

    @property
    def num_virtual_tokens(self) -> int:
        """P, the tokens of the examples."""
        return len(self.cpt_token_ids)

    @property
    def input_tokens(self) -> int:
        return self.num_virtual_tokens

    @property
    def types(self) -> np.ndarray:
        """What every token is of, [P]."""
        plain = np.full(len(self.cpt_token_ids), INPUT_TEMPLATE)
        return np.array(self.cpt_tokens_type_mask, int) if self.cpt_tokens_type_mask else plain

    @property
    def labels(self) -> Bool[np.ndarray, " P"]:
        """Which tokens are those of labels."""
        return (self.types > 0) & (self.types % 4 == 0)


def init(config: CPTConfig, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """`delta` [P, D] of zeros, and in `fixed` `start` [P, D], the embedded tokens."""
    if backbone.target_place != "behind":
        raise InputError(
            f"cpt shows examples to a decoder, and backbone {backbone.name!r} is none; use "
            'prompt_tuning with init="text"'
        )
    if not config.cpt_token_ids:
        raise InputError(
            "cpt starts from examples and has none; train on a task with rows, or give "
            "method.cpt_token_ids"
        )
    size = backbone.config.vocab_size
    if not all(0 <= token < size for token in config.cpt_token_ids):
        raise InputError(
            f"method.cpt_token_ids go from {min(config.cpt_token_ids)} to "
            f"{max(config.cpt_token_ids)}, and backbone {backbone.name!r} has tokens 0 to "
            f"{size - 1}; use the tokenizer of the backbone"
        )
    start = backbone.embed(np.array(config.cpt_token_ids)).astype(jnp.float32)
    return {"delta": jnp.zeros_like(start), FIXED: {"start": start}}


def radii(config: CPTConfig, width: int) -> Float[np.ndarray, " P"]:
    """How far every token may move; 0 for labels, and for what is of nothing."""
    kinds = config.types % 4
    texts = np.where(kinds == INPUT, config.opt_projection_epsilon, 0.0)
    templates = np.isin(kinds, (INPUT_TEMPLATE, OUTPUT_TEMPLATE))
    radius = np.where(templates, config.opt_projection_format_epsilon, texts)
    return (radius * (width / WIDTH) ** 0.5).astype(np.float32)


def near(config: CPTConfig, delta: Float[Array, "P D"]) -> Float[Array, "P D"]:
    """The changes, those that leave their ball brought back to its surface."""
    radius = jnp.asarray(radii(config, delta.shape[1]))
    norm = jnp.sqrt(jnp.square(delta).sum(-1))
    # A change of zero is on no ray, and stays.
    return delta * (radius / jnp.maximum(norm, jnp.maximum(radius, 1e-30)))[:, None]


def materialize(config: CPTConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """The tokens where they start, each with its change as far as the ball lets it."""
    delta = tuned["delta"]
    # PEFT projects before each pass and takes the gradient there, as if nothing had been
    # projected. So here; what is stored goes on outside of the ball, and the model never sees it.
    moves = jnp.asarray(radii(config, delta.shape[1]) > 0)[:, None]
    through = jnp.where(moves, delta - jax.lax.stop_gradient(delta), 0.0)
    return Injection(jax.lax.stop_gradient(tuned[FIXED]["start"] + near(config, delta)) + through)


def simplify(config: CPTConfig, tuned: Tuned) -> tuple[MethodConfig, Tuned]:
    """The plain prompt that it has become."""
    plain = PromptTuningConfig(
        task_type=config.task_type,
        tokenizer_name_or_path=config.tokenizer_name_or_path,
        num_virtual_tokens=config.num_virtual_tokens,
        init="random",
        num_labels=config.num_labels,
        pooling=config.pooling,
    )
    return plain, {"prompt": materialize(config, tuned).prompt}


def context_loss(config: CPTConfig, model: PromptedModel) -> tuple[Float[Array, ""], int]:
    """The mean loss of the examples' labels, each read behind what stands before it.

    A decoder sees nothing of the text there, so that it is the same for all rows.
    """
    # Of the first token nothing before it tells what it is.
    places = np.flatnonzero(config.labels[1:])
    if not places.size:
        return jnp.zeros(()), 0
    nothing = jnp.zeros((1, 0), jnp.int32)
    logits = model.text_logits(nothing, nothing > 0, virtual=True)[0, places]
    targets = jnp.array(config.cpt_token_ids)[places + 1]
    picked = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    return (losses * weights(config)[places + 1]).mean(), len(places)


def weights(config: CPTConfig) -> Float[np.ndarray, " P"]:
    """What the label of every token weighs; that of the text itself weighs one."""
    if config.opt_weighted_loss_type == "none":
        return np.ones(config.num_virtual_tokens, np.float32)
    examples = np.unique(config.types[config.labels])
    behind = len(examples) - np.searchsorted(examples, config.types)
    return (config.opt_loss_decay_factor**behind).astype(np.float32)


OPTIONS = ("opt_loss_decay_factor", "opt_projection_epsilon", "opt_projection_format_epsilon")


def write(
    config: CPTConfig, leaves: Leaves, model_type: str
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """PEFT's fields, and its only tensor."""
    tuned = {"delta": leaves["delta"], FIXED: {"start": leaves[START]}}
    rows = np.asarray(materialize(config, jax.tree.map(jnp.asarray, tuned)).prompt)
    fields: dict[str, object] = {
        "cpt_mask": [1] * len(rows),
        "cpt_token_ids": list(config.cpt_token_ids),
        "cpt_tokens_type_mask": config.types.tolist(),
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(rows),
        "opt_weighted_loss_type": config.opt_weighted_loss_type,
        "token_dim": rows.shape[1],
        "tokenizer_name_or_path": config.tokenizer_name_or_path,
    }
    return fields | {name: getattr(config, name) for name in OPTIONS}, {KEY: rows}


START = f"{FIXED}/start"


def read(stored: Stored, model_type: str) -> tuple[CPTConfig, Leaves]:
    """The method and its leaves: it starts again where PEFT's training ended."""
    stored.expect([KEY])
    rows = matrix(stored.weights, stored.tensors[KEY])
    tokens, types = (
        _whole_numbers(stored, f"cpt_{name}") for name in ("token_ids", "tokens_type_mask")
    )
    if len(tokens) != len(rows) or len(types) not in (0, len(rows)):
        raise stored.mismatch(
            f"cpt_token_ids has {len(tokens)} and cpt_tokens_type_mask {len(types)} numbers, and "
            f"{KEY} {len(rows)} rows"
        )
    options: dict[str, Any] = {
        name: stored.number(name, getattr(CPTConfig, name)) for name in OPTIONS
    }
    config = CPTConfig(
        cpt_token_ids=tokens,
        cpt_tokens_type_mask=types,
        opt_weighted_loss_type=stored.values.get("opt_weighted_loss_type") or "none",
        tokenizer_name_or_path=stored.values.get("tokenizer_name_or_path"),
        **options,
    )
    return config, {"delta": np.zeros_like(rows), START: rows}


def _whole_numbers(stored: Stored, name: str) -> tuple[int, ...]:
    values = stored.values.get(name) or []
    numbers = isinstance(values, list) and all(type(value) is int for value in values)
    if not numbers:
        raise InputError(f"{stored.config}: {name} must be a list of whole numbers; {AGAIN}")
    return tuple(values)


register_method(
    CPTConfig,
    init=init,
    materialize=materialize,
    simplify=simplify,
    context_loss=context_loss,
    peft=PeftFormat("CPT", read, write, takes_head=True),
)
