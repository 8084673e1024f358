"""Encoder-only models in Linen: BERT, RoBERTa, DistilBERT and DeBERTa by their configs.

As for T5, embeddings come in and not tokens: words only, since positions, segments and the first
norm belong to a prompt's rows as well. Positions are counted over what the mask shows, so padding
may stand anywhere; a prefix in every attention counts as positions. Devlin et al. 2019.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones.attention import answer_of, attend
from prompt_jax.backbones.bert.config import BertConfig
from prompt_jax.backbones.bert.distances import (
    Read,
    content_to_position,
    embedding_places,
    position_to_content,
)
from prompt_jax.backbones.blocks import (
    MLP,
    add,
    by_heads,
    dropout,
    prefix_of,
    stack,
    virtual_rows,
)
from prompt_jax.backbones.encoder import EncoderOnly, first_state
from prompt_jax.backbones.layers import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    constrain,
    look_up,
    mask_bias,
    parameter,
    socket,
)
from prompt_jax.backbones.sockets import openness, prefix_seen


class Attention(nn.Module):
    """Self-attention in both directions."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], bias: Array, distances: Read | None
    ) -> Float[Array, "B S D"]:
        c = self.config
        x = constrain(x, c.mesh, "batch")
        query_of, key_of, value_of = (self._dense(name) for name in ("query", "key", "value"))
        query, key, value = by_heads(c.mesh, query_of(x), key_of(x), value_of(x))
        # Kept only for a caller that asks for them, see `keys_and_values`.
        self.sow("intermediates", "keys", key)
        self.sow("intermediates", "values", value)
        prefix = socket(self, "prefix")
        opened = None if prefix is None else openness(x, prefix)
        # Before the product: fewer numbers than scores.
        query = query * self.scale
        biases = [bias]
        if distances is not None:
            biases += self._of_distances(query, key, prefix, opened, distances, query_of, key_of)
        way = {"chunk": c.attention_chunk, "kernel": c.kernel}
        out = attend(query, key, value, biases, prefix, opened, **way)
        back = {"contracted": 2, "use_bias": True, "dtype": c.dtype, "scanned": c.scan}
        shape, axes = (c.num_heads, c.d_kv, c.d_model), ("heads", "kv", "embed")
        output = Dense(shape, axes, 0.02, **back, name="out")

        def keys_of(rows: Float[Array, "#B P D"]) -> tuple[Array, Array]:
            return key_of(rows), value_of(rows)

        (heads,) = by_heads(c.mesh, out)
        return answer_of(self, query, heads, keys_of, output)

    @property
    def scale(self) -> float:
        """What scores are multiplied by: each is a sum of as many products as there are terms."""
        distances = self.config.distances
        terms = 1 if distances is None else 1 + len(distances.terms)
        return (self.config.d_kv * terms) ** -0.5

    def _dense(self, name: str) -> Dense:
        c = self.config
        shape, axes = (c.d_model, c.num_heads, c.d_kv), ("embed", "heads", "kv")
        options = {"use_bias": True, "dtype": c.dtype, "scanned": c.scan}
        return Dense(shape, axes, 0.02, **options, name=name)

    def _of_distances(
        self,
        query: Float[Array, "B S H K"],
        key: Float[Array, "B S H K"],
        prefix: dict[str, Array] | None,
        opened: Float[Array, "B S"] | None,
        distances: Read,
        query_of: Dense,
        key_of: Dense,
    ) -> list[Float[Array, "B H S PS"]]:
        """What distances add to scores, those of a prefix's keys in front."""
        c, (embeddings, places) = self.config, distances
        assert c.distances is not None
        shared, biases = c.distances.shared, []
        if "c2p" in c.distances.terms:
            position_key = (key_of if shared else self._dense("distance_key"))(embeddings)
            biases.append(content_to_position(query, position_key, places))
        if "p2c" in c.distances.terms:
            position_query = (query_of if shared else self._dense("distance_query"))(embeddings)
            position_query = position_query * self.scale
            scores = position_to_content(position_query, key, places[..., -key.shape[1] :])
            if prefix is not None:
                keys = prefix["key"].astype(key.dtype)
                keys = keys if keys.ndim == 4 else keys[None]
                first = position_to_content(position_query, keys, places[..., : keys.shape[1]])
                # The gate of a prefix scales its keys, whatever meets them.
                first = first if opened is None else first * opened[:, None, :, None]
                scores = jnp.concatenate([first, scores], axis=3)
            biases.append(scores)
        return biases


class Block(nn.Module):
    """Attention and MLP, each beside a residual and before a norm."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], bias: Array, distances: Read | None
    ) -> tuple[Float[Array, "B S D"], None]:
        c = self.config
        x = virtual_rows(self, x)
        out = Attention(c, name="attention")(x, bias, distances)
        # BERT has its norms behind residuals, so attention and a parallel adapter read the stream.
        x = _norm(c, "attention_norm")(add(self, "attention", x, x, out))
        out = MLP(c, use_bias=True, name="mlp")(x)
        return _norm(c, "mlp_norm")(add(self, "mlp", x, x, out)), None


def _norm(config: BertConfig, name: str | None = None) -> LayerNorm:
    return LayerNorm(config.d_model, config.layer_norm_epsilon, config.dtype, name=name)


class Encoder(nn.Module):
    """[B, S, D] embeddings to [B, S, D] states."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], bias: Array, distances: Read | None = None
    ) -> Float[Array, "B S D"]:
        return stack(self, Block, self.config.num_layers, dropout(self, x), bias, distances)[0]


class Bert(EncoderOnly):
    """The whole model: states of a text, and what stands on top of them in the checkpoint."""

    config: BertConfig

    def setup(self):
        c = self.config
        self.embedding = self.table("embedding", c.vocab_size, "vocab")
        if c.distances is None:
            self.positions = self.table("positions", c.max_positions + c.first_position, "pos")
        else:
            self.distances = self.table("distances", 2 * c.distances.span, "pos")
            if c.distances.norm:
                self.distance_norm = _norm(c)
        if c.num_token_types:
            self.token_types = self.table("token_types", c.num_token_types, "types")
        self.embedding_norm = _norm(c)
        self.encoder = Encoder(c)
        square = ((c.d_model, c.d_model), ("embed", "embed_out"), 0.02)
        if c.pooler:
            self.pooler = Dense(*square, use_bias=True, dtype=c.dtype)
        if c.word_head:
            self.word_dense = Dense(*square, use_bias=True, dtype=c.dtype)
            self.word_norm = _norm(c)
            zeros, shape = nn.initializers.zeros_init(), (c.vocab_size,)
            self.word_bias = parameter(self, "word_bias", zeros, ("vocab",), shape)

    def embed(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Rows of the word table, without positions or norm.

        All texts are of the first segment, which is added with the positions; here only what the
        second one differs by, behind the separator of a pair.
        """
        c = self.config
        x = super().embed(tokens)
        if c.num_token_types < 2 or c.sep_token_id is None:
            return x
        separators = tokens == c.sep_token_id
        # Less itself, as the separator still belongs to the first text.
        second = (jnp.cumsum(separators, axis=-1) - separators > 0)[..., None]
        first_type, second_type = self.token_types[:2].astype(c.dtype)
        return x + jnp.where(second, jnp.broadcast_to(second_type - first_type, x.shape), 0)

    def encode(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The states of the last layer; a prompt, if any, is already in `embeddings` and `mask`."""
        c = self.config
        prefix = prefix_of(self.variables.get("tuned", {}).get("encoder", {}), "attention")
        seen = mask
        if prefix is not None:
            seen = jnp.concatenate([prefix_seen(prefix, len(mask)), mask], axis=1)
        # Counted over what is real, so that padding may stand anywhere; -1 would be the last row.
        keys = jnp.maximum(jnp.cumsum(seen, axis=1) - 1, 0)
        places = keys[:, -mask.shape[1] :]
        x, distances = embeddings.astype(c.dtype), None
        if c.distances is None:
            x = x + look_up(self, "positions", places + c.first_position)
        else:
            rows = self.distances.astype(c.dtype)[None]
            rows = self.distance_norm(rows) if c.distances.norm else rows
            distances = Read(rows, embedding_places(c.distances, places, keys))
        if c.num_token_types:
            x = x + jnp.broadcast_to(self.token_types.astype(c.dtype)[0], x.shape)
        bias = mask_bias(seen)[:, None, None, :]
        return self.encoder(self.embedding_norm(x), bias, distances)

    def pool(self, states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
        """What stands for a text before a head: its first real token, through the pooler if any."""
        first = first_state(states, mask)
        # RoBERTa has the layer and no head that reads it.
        read = self.config.pooled or (self.config.pooler and self.is_initializing())
        activate = ACTIVATIONS[self.config.pooler_activation]
        return (activate(self.pooler(first)) if read else first)[:, 0]

    def word_states(self, states: Float[Array, "B U D"]) -> Float[Array, "B U D"]:
        """What the word table is compared with."""
        activate = ACTIVATIONS[self.config.word_activation]
        return self.word_norm(activate(self.word_dense(states)))
