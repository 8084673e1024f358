"""What the configs of all families have: the sizes of a model, and how it is run."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from prompt_jax.backbones.layers import ACTIVATIONS
from prompt_jax.backbones.sockets import Head
from prompt_jax.config import (
    ATTENTIONS,
    IN_CHATS,
    PLACEMENTS,
    REMATS,
    InputError,
    Opening,
    at_least,
    choose,
)
from prompt_jax.trees import Tokenizer

ConfigJson: TypeAlias = Mapping[str, Any]
"""What a `config.json` of Hugging Face's says."""
LM_HEAD = "lm_head.weight"
"""What Hugging Face calls a head over words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes that every family has under the same names, and how a model is run."""

    target_place: ClassVar[Literal["apart", "behind", "within"]]
    """Where a target stands: `apart` from its input, in a decoder of its own; `behind` it; or
    `within` it, for its masks."""
    is_encoder: ClassVar[bool] = False
    """Whether a model reads only: it takes a head, or fills the masks of a cloze."""
    model_type: ClassVar[str]
    """What Hugging Face calls its kind; "t5" for all of that family."""
    label: ClassVar[str] = ""
    """What stands before a field's name in errors."""
    count_padding: ClassVar[bool] = False
    """Padding takes positions too, see `CausalConfig`, as for the next."""
    bidirectional_input: ClassVar[bool] = False
    embedding_scale: ClassVar[float] = 1.0
    decoder_start_token_id: ClassVar[int]
    """What targets that stand apart are read behind."""
    final_token_id: ClassVar[int | None] = None
    """What an answer that has reached its longest length ends with, where the model asks for it."""
    mask_token_id: ClassVar[int]
    """Where an encoder fills in a word."""

    vocab_size: int = 1
    """Rows of the embedding table; a tokenizer may know fewer words, or more."""
    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 3072
    num_heads: int = 12
    num_layers: int = 12
    max_positions: int | None = None
    """Most virtual and text tokens together; None of a model that takes any number."""
    layer_norm_epsilon: float = 1e-6
    activation: str = "gelu_new"
    gated: bool = False
    """The feed-forward multiplies what it activates with a second map of its input."""
    fused_mlp: bool = False
    """The two maps of a gated feed-forward are one kernel, the activated one first."""
    pad_token_id: int | None = 0
    """None of a model without a token for padding."""
    eos_token_ids: tuple[int, ...] = ()
    """Each of them ends an answer; none of a model that writes nothing."""
    openings: tuple[Opening, ...] = ()
    """What the tokenizer's chat template writes before texts; none of a model without one."""
    word_head: bool = True
    """The weights have a head over words; one to read with can do without."""
    dropout: float = 0.0
    """Used only while a "dropout" rng is given."""
    remat: str = "none"
    """What the backward pass recomputes: nothing, or as `REMAT_POLICIES` say."""
    remat_beyond: int = 0
    """Positions of an input up to which `full` is `minimal`."""
    attention_chunk: int | None = None
    """Queries whose scores are in memory at a time; None has those of all."""
    attention: str = "einsum"
    """What answers queries: products that hold all scores, or one of the kernels of `fused`."""
    scan: bool = True
    """One compiled block for all layers; False compiles each layer, which is faster on CPU."""
    dtype: DTypeLike = jnp.float32
    mesh: Mesh | None = None
    """The devices that share the work, see `prompt_jax.sharding`; None is one."""

    def __post_init__(self):
        choose("remat", self.remat, REMATS)
        choose("attention", self.attention, ATTENTIONS)
        if self.attention_chunk is not None:
            at_least("attention_chunk", self.attention_chunk, 1)
        choose(f"{self.label}activation", self.activation, ACTIVATIONS)
        for size in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers"):
            at_least(f"{self.label}{size}", getattr(self, size), 1)
        if self.max_positions is not None:
            at_least("max_positions", self.max_positions, 1)

    def for_short_inputs(self) -> "ModelConfig":
        """The config as a step runs it whose inputs have at most `remat_beyond` positions."""
        return dataclasses.replace(self, remat="minimal") if self.remat == "full" else self

    def told_by_tokenizer(self, tokenizer: Tokenizer | None) -> "ModelConfig":
        """The config with the special tokens that its tokenizer has and no `config.json` tells.

        A model that writes ends its answers with the tokenizer's end too, since targets are trained
        with it. It comes first: rows that have ended are filled up with it where there is no
        padding, and the tokenizer leaves it out of texts.
        """
        end = getattr(tokenizer, "eos_token_id", None)
        if end is None:
            return self
        ends = dict.fromkeys((end, *self.eos_token_ids))
        return dataclasses.replace(self, eos_token_ids=tuple(ends))

    def opens(self, place: str) -> bool:
        """Whether the chat template has a turn with such a place."""
        return any(opening.place == place for opening in self.openings)

    def opening(self, place: str) -> Opening:
        """What the chat template writes before the text of a turn.

        Raises:
          InputError: there is no template, or it has no such turn.
        """
        for opening in self.openings:
            if opening.place == place:
                return opening
        others = [name for name in PLACEMENTS if name not in IN_CHATS]
        others += [opening.place for opening in self.openings]
        raise InputError(
            f'placement="{place}" is in a turn of a chat, and the backbone has no chat template '
            f"with such a turn; use {', '.join(others)}, or an instruct model that writes"
        )

    def head(self, task_type: str) -> Head:
        """What a trained head for a task is made of, as the family has it."""
        return Head()

    @property
    def kernel(self) -> str:
        """What answers queries on this mesh."""
        # XLA cannot split a kernel over devices, and nothing here tells it how.
        return self.attention if self.mesh is None else "einsum"

    @property
    def start_tokens(self) -> tuple[int, ...]:
        """What a decoder of its own has read before the first token of a target."""
        return (self.decoder_start_token_id,)

    @property
    def filler(self) -> int:
        """What rows are filled up with behind their text, where it is masked.

        What ends a text where there is no padding, or none with a row in the table: it is no word
        of an answer.
        """
        pad = self.pad_token_id
        if pad is None or not 0 <= pad < self.vocab_size:
            return min(next(iter(self.eos_token_ids), 0), self.vocab_size - 1)
        return pad


def check_shared_width(config: ModelConfig) -> None:
    """Checks that the heads of attention are as wide as the model, together.

    Raises:
      InputError: they are not, and no `config.json` of the family could say so.
    """
    c = config
    if c.num_heads * c.d_kv != c.d_model:
        raise InputError(
            f"the heads of a {c.model_type} share its width, got {c.num_heads} heads of {c.d_kv} "
            f"and d_model {c.d_model}; the width must be a multiple of the number of heads"
        )


def end_ids(*files: ConfigJson) -> tuple[int, ...]:
    """The tokens that end an answer: each one that a `config.json` or its like names, once.

    Args:
      files: of one model; `eos_token_id` is a token, a list of them, or not there.
    """
    values = [values.get("eos_token_id") for values in files]
    lists = [value if isinstance(value, list) else [value] for value in values]
    # Some files write -1 for none.
    ends = [i for ids in lists for i in ids if isinstance(i, int) and i >= 0]
    return tuple(dict.fromkeys(ends))


def written_ends(ids: tuple[int, ...]) -> int | list[int] | None:
    """What `eos_token_id` of a `config.json` says; the reverse of `end_ids`."""
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def check_fields(values: ConfigJson, supported: ConfigJson) -> None:
    """Checks fields of a `config.json` of which one value is supported.

    Args:
      values: of the file; a field that is missing or null has the supported value.
      supported: that value, by field.

    Raises:
      InputError: a field has another one.
    """
    for name, value in supported.items():
        if values.get(name) not in (None, value):
            raise unsupported(name, values[name], value)


def unsupported(name: str, value: object, allowed: object) -> InputError:
    """The error for a field of a `config.json` that asks for what no family can do."""
    return InputError(
        f"config.json has {name} {value!r}, which is not supported; allowed: {allowed}; use "
        "another checkpoint of the family"
    )


def told_by_weights(
    names: Collection[str], *, tied: bool, untied: bool = False, head: str = LM_HEAD
) -> dict[str, bool]:
    """Fields of the config of a model that writes, which its weights tell and no `config.json`.

    Whether there is a head, for one: Transformers 5 writes `tie_word_embeddings: true` for models
    with a head of their own.

    Args:
      names: of the weights.
      tied: whether none of them is a head, or one that equals the embedding table.
      untied: whether `config.json` says that the head is not the table. With no head among the
        weights there is none, as of a base model, and the table is no head either.
      head: what the family calls its head.
    """
    return {"tie_embeddings": tied, "word_head": not untied or head in names}
