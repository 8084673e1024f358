"""A frozen model with a prompt: the one value that runs a backbone.

`prepend` is the one seam between a prompt and a text. The mask grows there and only there, so no
later code has to know that a prompt exists.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.cache import LayerCache
from prompt_jax.backbones.layers import NEVER
from prompt_jax.config import IN_CHATS, PLACEMENTS, InputError
from prompt_jax.forward.head import apply_head
from prompt_jax.forward.injection import Injection
from prompt_jax.forward.places import NOWHERE, positions_before


@jax.named_scope("prompt")
def prepend(
    injection: Injection | None,
    embeddings: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
    before: Int[Array, " B"] | None,
) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
    """Joins the virtual tokens with every text of the batch, S = P + T.

    Args:
      injection: None is the plain backbone: the text comes back as it is.
      mask: True where a token is real.
      before: how many positions of every text stand before the prompt, see `positions_before`;
        None is a prompt in front of all texts.
    """
    if injection is None:
        return embeddings, mask
    batch, length, width = embeddings.shape
    if injection.shift is not None:
        # A batch may be shorter than the texts that the shift was trained on.
        shift = injection.shift[..., :length, :].astype(embeddings.dtype)
        shift = jnp.broadcast_to(shift, (batch, *shift.shape[-2:]))
        embeddings = embeddings.at[:, : shift.shape[1]].add(shift)
    if injection.prompt is None:
        return embeddings, mask
    if injection.prompt.shape[-1] != width:
        raise InputError(
            f"the prompt is {injection.prompt.shape[-1]} wide and the backbone {width}; "
            f"use the backbone that the prompt was trained on"
        )
    virtual = injection.prompt.shape[-2]
    # What is trained is float32, and here takes the dtype of the frozen model.
    prompt = jnp.broadcast_to(injection.prompt.astype(embeddings.dtype), (batch, virtual, width))
    real = True if injection.prompt_mask is None else injection.prompt_mask
    prompt_mask = jnp.broadcast_to(real, (batch, virtual))
    if before is not None:
        # A prompt that has no place must not stand at another one, so its row is no number.
        prompt = jnp.where(before[:, None, None] < 0, jnp.nan, prompt)
    joined = jnp.concatenate([prompt, embeddings], axis=1)
    joined_mask = jnp.concatenate([prompt_mask, mask], axis=1)
    if before is None:
        return joined, joined_mask
    # The place differs by row, so rows are put in order by a gather, which keeps shapes static.
    order = _order(before, virtual, length)
    return (
        jnp.take_along_axis(joined, order[:, :, None], axis=1),
        jnp.take_along_axis(joined_mask, order, axis=1),
    )


def _order(before: Int[Array, " B"], virtual: int, length: int) -> Int[Array, "B S"]:
    """Positions in [prompt, text] that put `before` of the text ahead of the prompt."""
    position = jnp.arange(virtual + length)[None, :]
    before = before[:, None]
    leading = position < before
    in_prompt = (position >= before) & (position < before + virtual)
    # Behind the prompt, text stands where the concatenation has it already.
    return jnp.where(leading, position + virtual, jnp.where(in_prompt, position - before, position))


def text_states(
    injection: Injection | None,
    states: Float[Array, "B S D"],
    before: Int[Array, " B"] | None,
) -> Float[Array, "B T D"]:
    """The states of the text tokens among those of a text that `prepend` joined with a prompt."""
    if injection is None or not injection.input_tokens:
        return states
    virtual = injection.input_tokens
    if before is None:
        return states[:, virtual:]
    text = jnp.arange(states.shape[1] - virtual)[None, :]
    places = jnp.where(text < before[:, None], text, text + virtual)
    return jnp.take_along_axis(states, places[:, :, None], axis=1)


def text_mask(
    injection: Injection | None,
    embeddings: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
    before: Int[Array, " B"] | None,
) -> Bool[Array, "B S"]:
    """Where the real tokens of the text stand once `prepend` has joined it with a prompt."""
    if injection is None or not injection.input_tokens:
        return mask
    # By `prepend` itself, so that the two cannot disagree; XLA drops the embeddings that it joins.
    hidden = injection._replace(prompt_mask=jnp.zeros(injection.input_tokens, bool))
    return prepend(hidden, embeddings, mask, before)[1]


def at_places(
    logits: Float[Array, "B T 2"], mask: Bool[Array | np.ndarray, "B T"]
) -> Float[Array, "B 2 T"]:
    """Logits of the first and the last token over the places of a text, none at padding."""
    return jnp.where(mask[..., None], logits, NEVER).swapaxes(1, 2)


class Prefilled(NamedTuple):
    """A model that has read its input and is about to write."""

    logits: Float[Array, "B V"]
    """Of the first target token."""
    cache: LayerCache | None
    """None of an encoder, which fills a mask and goes on with nothing."""
    mask: Bool[Array, "B S"]
    """Of the input, virtual tokens included."""

    @property
    def decoder_cache(self) -> LayerCache:
        """The cache of a model that writes."""
        if self.cache is None:
            raise TypeError("an encoder fills masks and has no cache to decode with")
        return self.cache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptedModel:
    """A frozen model with a prompt in it, or with none: an argument of every compiled program.

    Example:
      >>> model = PromptedModel.of(backbone, prompt.injection())
      >>> logits = jax.jit(PromptedModel.target_logits)(model, tokens, mask, targets)

    Texts are tokens [B, T] and a mask [B, T] that is True where a token is real.
    """

    module: nn.Module = dataclasses.field(metadata={"static": True})
    """A program is compiled for it."""
    # No static field: weights are an argument of programs, and never a constant in them.
    frozen: Any
    """The backbone's parameters."""
    injection: Any = None
    """An `Injection`; None runs the plain backbone."""
    dropout: Any = None
    """The key of dropout; None while nothing is trained."""

    @classmethod
    def of(cls, backbone: Backbone, injection: Injection | None = None) -> "PromptedModel":
        """The model as it answers: its layers scanned.

        Layers apart train faster on CPU, but they decode no faster and compile for longer.
        """
        return cls(backbone.scanned_module, backbone.params, injection)

    @property
    def variables(self) -> dict[str, Any]:
        """What the module is applied to."""
        if self.injection is None:
            return {"params": self.frozen}
        params = self.frozen if self.injection.params is None else self.injection.params
        sockets = self.injection.sockets
        return {"params": params} | ({"tuned": sockets} if sockets else {})

    def apply(self, *arguments: Any, method: str) -> Any:
        """Runs a method of the module."""
        rngs = None if self.dropout is None else {"dropout": self.dropout}
        return self.module.apply(self.variables, *arguments, method=method, rngs=rngs)

    def read(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Embeddings and mask of texts with the prompt in its place, S = P + T."""
        embeddings = self.apply(tokens, method="embed")
        return prepend(self.injection, embeddings, mask, self.before(tokens, mask))

    def before(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Int[Array, " B"] | None:
        """How many positions of every text stand before the prompt; None is in front of all."""
        injection = self.injection
        if injection is None or injection.prompt is None:
            return None
        config = self.module.config

        def behind(place: str) -> Int[Array, " B"]:
            opening = config.opening(place) if place in IN_CHATS else None
            return positions_before(place, opening, tokens, mask)

        if injection.places is None:
            return None if injection.placement == "prefix" else behind(injection.placement)
        # All places are sought for every row, which costs less than a layer.
        nowhere = jnp.full(len(tokens), NOWHERE)
        missing = [place for place in IN_CHATS if not config.opens(place)]
        places = [nowhere if place in missing else behind(place) for place in PLACEMENTS]
        return jnp.stack(places)[injection.places, jnp.arange(len(tokens))]

    def target_logits(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], targets: Int[Array, "B U"]
    ) -> Float[Array, "B U V"]:
        """Logits of every target token; of an encoder, of the words at its first U masks."""
        if self.module.config.is_encoder:
            return self.cloze_logits(tokens, mask, targets.shape[1])
        return self.apply(*self.read(tokens, mask), targets, method="predict")

    def seq2seq_logits(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], decoder_tokens: Int[Array, "B U"]
    ) -> Float[Array, "B U V"]:
        """Logits behind every decoder token of an encoder-decoder."""
        return self.apply(*self.read(tokens, mask), decoder_tokens, method="__call__")

    def text_logits(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], *, virtual: bool = False
    ) -> Float[Array, "B S V"]:
        """Logits behind every text token of a model of one stack, S = T.

        Args:
          virtual: also those of virtual tokens, S = P + T.
        """
        logits = self.apply(*self.read(tokens, mask), method="__call__")
        if virtual:
            return logits
        return text_states(self.injection, logits, self.before(tokens, mask))

    def text_states(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """The states of the text's own tokens, wherever the prompt stands."""
        states = self.apply(*self.read(tokens, mask), method="encode")
        return text_states(self.injection, states, self.before(tokens, mask))

    def token_logits(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B T C"]:
        """What the head says of every token of the text."""
        read = self.apply(self.text_states(tokens, mask), method="features")
        hidden = self.module.config.head("TOKEN_CLS").hidden
        return apply_head(self.injection.head, read, hidden)

    def span_logits(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B 2 T"]:
        """What the head says of every token as the first, and as the last one of the answer."""
        return at_places(self.token_logits(tokens, mask), mask)

    def class_logits(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B C"]:
        """What the head says of every text.

        PEFT's head reads a position, whatever stands there (`pool_prompt`); ours the text's own.
        """
        embeddings, before = self.apply(tokens, method="embed"), self.before(tokens, mask)
        joined, real = prepend(self.injection, embeddings, mask, before)
        states = self.apply(joined, real, method="encode")
        visible = text_mask(self.injection, embeddings, mask, before)
        if self.injection.pool_prompt is not None:
            # An array and no flag, so that heads of both kinds share a program.
            # A decoder's reads the last place in PEFT, and an encoder's what is real.
            places = real if self.module.config.is_encoder else jnp.ones_like(real)
            visible = visible | (places & self.injection.pool_prompt)
        pooled = self.apply(states, visible, method="pool")
        hidden = self.module.config.head("SEQ_CLS").hidden
        return apply_head(self.injection.head, pooled, hidden)

    def cloze_logits(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], count: int
    ) -> Float[Array, "B U V"]:
        """Logits of the words in place of the first U = `count` masks of every text.

        A text of fewer masks gives those of its first tokens, which nobody should read.
        """
        states = self.text_states(tokens, mask)
        masks = (tokens == self.module.config.mask_token_id) & mask
        # A stable sort puts masks first, in their order; its shape does not depend on their number.
        places = jnp.argsort(~masks, axis=1, stable=True)[:, :count]
        states = jnp.take_along_axis(states, places[:, :, None], axis=1)
        return self.apply(states, method="words")

    def prefill(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        length: int,
        behind: Prefilled | None = None,
    ) -> Prefilled:
        """Reads the input once, before an answer is written.

        Args:
          length: target tokens that the cache has room for.
          behind: virtual tokens that were read already, see `prefill_prompt`; only the text is
            read then.
        """
        if self.module.config.is_encoder:
            return Prefilled(self.cloze_logits(tokens, mask, 1)[:, 0], None, mask)
        if behind is None:
            embeddings, mask = self.read(tokens, mask)
            logits, cache = self.apply(embeddings, mask, length, method="prefill")
            return Prefilled(logits, cache, mask)
        text = self.injection._replace(prompt=None, prompt_mask=None)
        embeddings, mask = dataclasses.replace(self, injection=text).read(tokens, mask)
        mask = jnp.concatenate([behind.mask, mask], axis=1)
        read = behind.decoder_cache
        logits, cache = self.apply(embeddings, mask, length, read, method="prefill")
        return Prefilled(logits, cache, mask)

    def prefill_prompt(self, rows: int) -> Prefilled:
        """Reads virtual tokens alone, which stand before any text of a decoder."""
        nothing = jnp.zeros((rows, 0), jnp.int32)
        read = self.prefill(nothing, nothing > 0, 0)
        # What they predict is looked at by nobody, and would be a row of the vocabulary's size.
        return read._replace(logits=read.logits[:, :0])

    def decode(
        self,
        tokens: Int[Array, "B U"],
        mask: Bool[Array, "B S"],
        cache: LayerCache,
        index: Int[Array, "*B"] | int,
    ) -> tuple[Float[Array, "B U V"], LayerCache]:
        """Logits behind tokens of the answer, the first of which is its `index`-th, from 1.

        Rows may stand at tokens of their own: `index` is one for all, or one for each.
        """
        # No encoder's states: the cache has the keys and values that were made of them.
        return self.apply(tokens, None, mask, cache, index, method="decode")
