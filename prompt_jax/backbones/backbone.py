"""A frozen model: its config, its weights, its tokenizer, and what fits it."""

import dataclasses
import functools
import hashlib
import json
import weakref
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.families import Family, family_of
from prompt_jax.backbones.parameters import keys_and_values, unstack
from prompt_jax.backbones.quantised import dequantised
from prompt_jax.backbones.sizes import numbers
from prompt_jax.backbones.sockets import Sockets
from prompt_jax.backbones.vocabulary import word_ids
from prompt_jax.config import InputError
from prompt_jax.trees import Frozen, Tokenizer, Tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen model with its weights and its tokenizer."""

    name: str
    """What `load_backbone` was asked for; written into saved prompts."""
    config: ModelConfig
    """The config of its family, e.g. a `T5Config`."""
    params: Frozen
    """The frozen tree; always passed as an argument, never closed over."""
    tokenizer: Any = None
    """A Hugging Face tokenizer, or None for a model without one."""
    fingerprint: str = ""
    """sha256 of the source of the weights, whatever dtype they are held in."""

    def __repr__(self) -> str:
        mesh = "" if self.mesh is None else f", on {dict(self.mesh.shape)}"
        return f"<Backbone {self.name!r}: {self.model_type}, {numbers(self.params)}{mesh}>"

    @functools.cached_property
    def family(self) -> Family:
        """The package of its kind of model."""
        return family_of(self.config)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from others, by the names of fields of a saved prompt."""
        return {
            "backbone": self.name,
            "fingerprint": self.fingerprint,
            "tokenizer_hash": tokenizer_hash(self.tokenizer),
            "model_type": self.model_type,
            "num_layers": self.config.num_layers,
            "num_attention_heads": self.config.num_heads,
        }

    @property
    def task_types(self) -> tuple[str, ...]:
        """What PEFT calls the tasks that such a model does, the usual one first."""
        return self.family.TASK_TYPES

    @property
    def model_type(self) -> str:
        """Hugging Face's name of its kind; "t5" for all of that family."""
        return self.config.model_type

    @property
    def target_place(self) -> str:
        """Where a target stands: `apart` from its input, `behind` it, or `within` it."""
        return self.config.target_place

    @property
    def module(self) -> nn.Module:
        """The Flax module that `params` belong to."""
        # Modules of equal configs are equal, so a program compiled for one serves the next.
        return self.family.Module(self.config)

    @functools.cached_property
    def scanned_module(self) -> nn.Module:
        """The module with its layers scanned, whatever way training runs them."""
        return self.family.Module(dataclasses.replace(self.config, scan=True))

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share the model, None of one; see `prompt_jax.sharding`."""
        return self.config.mesh

    @property
    def width(self) -> int:
        """D, the width that a prompt must have."""
        return self.config.d_model

    @property
    def table(self) -> Float[Array | np.ndarray, "V D"]:
        """[V, D], the rows of all words, as `embed` gives them."""
        # The scale is rounded to the type of the rows, as in `embed`.
        table, scale = dequantised(self.params, "embedding"), self.config.embedding_scale
        return table if scale == 1 else table * np.asarray(scale, table.dtype)

    @functools.cached_property
    def word_size(self) -> float:
        """The root mean square of the word embeddings, as the first layer gets them."""
        return float(jnp.sqrt(jnp.mean(jnp.square(jnp.asarray(self.table, jnp.float32)))))

    @functools.cached_property
    def sockets(self) -> Sockets:
        """Every place where a method may reach inside the model."""
        return self.family.sockets(self.config)

    @property
    def padding(self) -> int | None:
        """The token of padding, by which a text without a mask is masked.

        None where there is none: a decoder often has no such token, or makes do with the one that
        ends texts, which may stand in a text as well.
        """
        c = self.config
        pad = c.pad_token_id
        if pad is None:
            pad = getattr(self.tokenizer, "pad_token_id", None)
        return None if pad in c.eos_token_ids[:1] else pad

    @functools.cached_property
    def word_ids(self) -> Int[np.ndarray, " C"]:
        """The tokens that are words, and no marks or single bytes."""
        return word_ids(self.tokenizer, self.config.vocab_size)

    @functools.cached_property
    def beyond(self) -> dict[int, str]:
        """The tokenizer's words that have no row in the embedding table, by their ids.

        Harmless as long as no text has one: words were added and the model was not resized.
        """
        vocab = {} if self.tokenizer is None else self.tokenizer.get_vocab()
        return {i: word for word, i in vocab.items() if i >= self.config.vocab_size}

    def check_tokens(self, tokens: ArrayLike | Sequence[int], place: str) -> None:
        """Checks that the embedding table has a row for every token of a text.

        Args:
          tokens: ids, of any shape.
          place: begins the error, e.g. "train.tsv line 17".

        Raises:
          InputError: it has none for one of them; without this it would be read as the last row.
        """
        size = self.config.vocab_size
        if not self.beyond:
            return
        wrong = next((int(i) for i in np.ravel(tokens) if i >= size), None)
        if wrong is not None:
            raise InputError(
                f"{place}: {self.beyond.get(wrong, '')!r} is token {wrong}, and the embedding "
                f"table of {self.name!r} has {size} rows; use the tokenizer that belongs to the "
                "weights, or resize the model (resize_token_embeddings in Transformers) and save "
                "it again"
            )

    def check_word_head(self) -> None:
        """Checks that the model has a head over words, to write them or to rank them.

        Raises:
          InputError: it has none.
        """
        if not self.config.word_head:
            kind = "fills masks" if self.config.is_encoder else "writes words (lm_head.weight)"
            raise InputError(
                f"backbone {self.name!r} has no head that {kind}; use weights that have one, or "
                'train a head: set method.task_type to "SEQ_CLS" or "TOKEN_CLS", and num_labels'
            )

    def check_context(self, virtual: int, source: int, target: int) -> None:
        """Checks that prompt, input and target fit into the model's positions.

        Args:
          virtual: positions that the prompt takes.
          source: tokens of the longest input.
          target: tokens of the longest target.

        Raises:
          InputError: they do not. Models without a limit of their own, such as T5, take any.
        """
        limit, parts = self.config.max_positions, (virtual, source, target)
        if self.target_place == "apart":  # In a decoder, whose positions are its own.
            parts = max((virtual, source, 0), (0, 0, target), key=sum)
        if limit is not None and sum(parts) > limit:
            raise InputError(
                f"prompt, input and target are {sum(parts)} tokens long "
                f"({' + '.join(map(str, parts))}), {sum(parts) - limit} over the {limit} of "
                f"{self.name!r}; take fewer virtual tokens, a shorter input (max_source_length) or "
                "a shorter target (max_target_length, max_new_tokens)"
            )

    def longest(self, mask: Bool[np.ndarray, "B T"]) -> int:
        """Positions that the longest text of a batch takes."""
        if self.config.count_padding:
            return mask.shape[1]
        return int(mask.sum(1).max(initial=0))

    def unstacked(self) -> Frozen:
        """`params` as a training step reads them fastest: layers apart where none are scanned.

        On a CPU it shares the memory of `params`; elsewhere it is a copy. Everything that takes
        `params` takes it too, but for decoding. Leaves on a mesh stay as they are: taken apart
        outside of a program, they would leave their devices.
        """
        stacked = self.config.scan or self.config.mesh is not None
        return self.params if stacked else unstack(self.params)

    def keys_and_values(
        self,
        text: Int[ArrayLike, " T"] | Float[ArrayLike, "T D"],
        sockets: Tuned | None = None,
    ) -> dict[str, dict[str, Float[Array, "L T H K"]]]:
        """What every attention makes of a text or its embeddings: `key` and `value`, by path.

        Args:
          sockets: what a method put into the model.
        """
        return keys_and_values(self.config, self.params, jnp.asarray(text), sockets)

    def embed(self, tokens: Int[ArrayLike, "*B T"]) -> Float[Array, "*B T D"]:
        """The embeddings of tokens."""
        params = {"params": self.params}
        return jnp.asarray(self.module.apply(params, jnp.asarray(tokens), method="embed"))


def tokenizer_hash(tokenizer: Tokenizer | None) -> str:
    """sha256 over the sorted vocabulary; empty without a tokenizer.

    Neither paths nor file formats go in, so copies of one tokenizer agree.
    """
    if tokenizer is None:
        return ""
    size, digest = _HASHES.get(tokenizer, (-1, ""))
    if size != len(tokenizer):  # A vocabulary only ever grows.
        words = json.dumps(sorted(tokenizer.get_vocab().items()))
        digest = hashlib.sha256(words.encode()).hexdigest()
        _HASHES[tokenizer] = len(tokenizer), digest
    return digest


_HASHES: weakref.WeakKeyDictionary[Tokenizer, tuple[int, str]] = weakref.WeakKeyDictionary()
"""Hashes of tokenizers met before, and the size of their vocabulary then: hashing takes 30 ms."""
