"""What encoder-only models share: the tokens their configs know, and how they are called."""

import abc
import dataclasses
from typing import Self

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.layers import look_up, parameter, word_logits
from prompt_jax.trees import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """The shape of an encoder-only model."""

    target_place = "within"
    is_encoder = True

    pooler: bool = True
    """The weights have a frozen layer that heads read through."""
    mask_token_id: int = 103
    """The token of the mask, where a cloze is filled in; the tokenizer tells it."""
    sep_token_id: int | None = None
    """The token between the two texts of a pair; the tokenizer tells it. None has no pairs."""

    def told_by_tokenizer(self, tokenizer: Tokenizer | None) -> Self:
        """The config with the tokenizer's mask and separator, which no `config.json` tells."""
        ids = {name: getattr(tokenizer, name, None) for name in ("mask_token_id", "sep_token_id")}
        return dataclasses.replace(self, **{name: i for name, i in ids.items() if i is not None})


class EncoderOnly(nn.Module):
    """A prompt stands in the input; a head or a head over words reads the states."""

    config: EncoderConfig

    def table(self, name: str, rows: int, axis: str) -> Shaped[Array, "V D"]:
        """A frozen table of embeddings, or of what is held of it in few bits."""
        init, shape = nn.initializers.normal(0.02), (rows, self.config.d_model)
        return parameter(self, name, init, (axis, "embed"), shape)

    def embed(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Rows of the word table, without what the model adds to all rows, or their norm."""
        return look_up(self, "embedding", tokens)

    @abc.abstractmethod
    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The states of the last layer; a prompt, if any, is already in `embeddings` and `mask`."""

    def features(self, states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What a head over tokens reads."""
        return states

    @abc.abstractmethod
    def pool(self, states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """What stands for a text before a head."""

    @abc.abstractmethod
    def word_states(self, states: Float[Array, "B U D"]) -> Float[Array, "B U D"]:
        """What the word table is compared with."""

    def words(self, states: Float[Array, "B U D"]) -> Float[Array, "B U V"]:
        """Logits of the words that may stand at each state, float32."""
        logits = word_logits(self, self.word_states(states))
        # Behind the cast to float32, so that the sum is not rounded.
        return logits + jnp.broadcast_to(self.word_bias.astype(jnp.float32), logits.shape)

    def __call__(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S VD"]:
        """Logits of the words that may stand at every position; states without that head."""
        states = self.encode(embeddings, mask)
        # Or the pooler's parameters would not be made, as no logit reads it.
        if self.is_initializing():
            self.pool(states, mask)
        return self.words(states) if self.config.word_head else states


def first_state(states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B 1 D"]:
    """The state of every text's first real token."""
    # Not place 0, where a virtual token or padding may stand.
    return jnp.take_along_axis(states, mask.argmax(1)[:, None, None], axis=1)
