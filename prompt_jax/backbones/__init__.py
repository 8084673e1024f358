"""Frozen models: embeddings in, logits out, no word about prompts.

A family is a package that binds `Config` and `Module`, and reads its weights by name: see `t5`.
`BACKBONES` maps Hugging Face's `model_type` to its family.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from prompt_jax.backbones import bert, causal, t5
from prompt_jax.backbones.quantised import dequantised, quantised_shapes
from prompt_jax.backbones.sizes import numbers
from prompt_jax.backbones.sockets import Sockets
from prompt_jax.backbones.stack import unstack
from prompt_jax.config import InputError
from prompt_jax.sharding import parameter_spec

FAMILIES = (t5, causal, bert)
BACKBONES = {model_type: family for family in FAMILIES for model_type in family.MODEL_TYPES}


def family_of(config: Any) -> Any:
    """The package that a config belongs to."""
    return next(family for family in FAMILIES if isinstance(config, family.Config))


def target_place(family: Any) -> str:
    """Where a target stands: `apart` from its input, `behind` it, or `within`, for a mask."""
    return {"SEQ_2_SEQ_LM": "apart", "CAUSAL_LM": "behind"}.get(family.TASK_TYPES[0], "within")


def is_encoder(config: Any) -> bool:
    """Whether a model reads only: it has a head, or fills the masks of a cloze."""
    return target_place(family_of(config)) == "within"


def boxed_shapes(config: Any, kind: str | None = None) -> Any:
    """Shape and type of every frozen leaf with the names of its axes, as `LogicallyPartitioned`.

    Args:
      kind: of weights in few bits, which have scales beside them; None of whole ones.
    """
    plain = dataclasses.replace(config, scan=True, remat="none", mesh=None)
    init = family_of(config).init_params
    shapes = jax.eval_shape(lambda: init(plain, jax.random.key(0), boxed=True))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, config.dtype), shapes)
    return shapes if kind is None else quantised_shapes(shapes, kind)


def shardings(config: Any, kind: str | None = None) -> Any:
    """How `config.mesh` holds every frozen leaf; arguments as for `boxed_shapes`."""

    def place(leaf: Any) -> NamedSharding:
        spec = parameter_spec(leaf.names, leaf.value.shape, config.mesh)
        return NamedSharding(config.mesh, spec)

    shapes = boxed_shapes(config, kind)
    return jax.tree.map(place, shapes, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen model with its weights and its tokenizer."""

    name: str
    """What `load_backbone` was asked for; written into saved prompts."""
    config: Any
    """Of its family: `T5Config`, `CausalConfig`, `BertConfig`."""
    params: Any
    """The frozen tree; always passed as an argument, never closed over."""
    tokenizer: Any = None
    """A Hugging Face tokenizer, or None for a model without one."""
    fingerprint: str = ""
    """sha256 of the source of the weights, whatever dtype they are held in."""

    def __repr__(self) -> str:
        mesh = "" if self.mesh is None else f", on {dict(self.mesh.shape)}"
        return f"<Backbone {self.name!r}: {self.model_type}, {numbers(self.params)}{mesh}>"

    @property
    def family(self) -> Any:
        """The package of its kind of model."""
        return family_of(self.config)

    @property
    def task_types(self) -> tuple[str, ...]:
        """What PEFT calls the tasks that such a model does, the usual one first."""
        return self.family.TASK_TYPES

    @property
    def model_type(self) -> str:
        """Hugging Face's name of its kind; "t5" for all of that family."""
        return getattr(self.config, "model_type", "t5")

    @property
    def target_place(self) -> str:
        """Where a target stands, see `target_place`."""
        return target_place(self.family)

    @property
    def module(self) -> nn.Module:
        """The Flax module that `params` belong to."""
        return self.family.Module(self.config)

    @functools.cached_property
    def scanned_module(self) -> nn.Module:
        """The module with its layers scanned, whatever way training runs them."""
        return self.family.Module(dataclasses.replace(self.config, scan=True))

    @property
    def mesh(self) -> Any:
        """The devices that share the model, None of one; see `prompt_jax.sharding`."""
        return self.config.mesh

    @property
    def width(self) -> int:
        """D, the width that a prompt must have."""
        return self.config.d_model

    @property
    def table(self) -> Any:
        """[V, D], the rows of all words."""
        return dequantised(self.params, "embedding")

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
        return None if pad == c.eos_token_id else pad

    @functools.cached_property
    def beyond(self) -> dict[int, str]:
        """The tokenizer's words that have no row in the embedding table, by their ids.

        Harmless as long as no text has one: words were added and the model was not resized.
        """
        vocab = {} if self.tokenizer is None else self.tokenizer.get_vocab()
        return {i: word for word, i in vocab.items() if i >= self.config.vocab_size}

    def check_tokens(self, tokens: Any, what: str) -> None:
        """Checks that the embedding table has a row for every token of a text.

        Args:
          tokens: ids, of any shape.
          what: begins the error, e.g. "train.tsv line 17".

        Raises:
          InputError: it has none for one of them; without this it would be read as the last row.
        """
        size = self.config.vocab_size
        wrong = next((int(i) for i in np.ravel(tokens) if i >= size), None) if self.beyond else None
        if wrong is not None:
            raise InputError(
                f"{what}: {self.beyond.get(wrong, '')!r} is token {wrong}, and the embedding table "
                f"of {self.name!r} has {size} rows; use the tokenizer that belongs to the weights, "
                "or resize the model (resize_token_embeddings in Transformers) and save it again"
            )

    def check_word_head(self) -> None:
        """Checks that the model has a head over words, to write them or to rank them.

        Raises:
          InputError: it has none.
        """
        if not self.config.word_head:
            kind = "fills masks" if is_encoder(self.config) else "writes words (lm_head.weight)"
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
        limit = getattr(self.config, "max_positions", None)
        parts = (virtual, source, target)
        if limit is not None and sum(parts) > limit:
            raise InputError(
                f"prompt, input and target are {sum(parts)} tokens long "
                f"({' + '.join(map(str, parts))}), {sum(parts) - limit} over the {limit} of "
                f"{self.name!r}; take fewer virtual tokens, a shorter input (max_source_length) or "
                "a shorter target (max_target_length, max_new_tokens)"
            )

    def longest(self, mask: Any) -> int:
        """Positions that the longest text of a batch takes, its mask being [B, T]."""
        if getattr(self.config, "count_padding", False):
            return mask.shape[1]
        return int(mask.sum(1).max(initial=0))

    def unstacked(self) -> Any:
        """`params` as a training step reads them fastest: layers apart where none are scanned.

        That is a copy. Everything that takes `params` takes it too, but for decoding. Leaves on a
        mesh stay as they are: taken apart outside of a program, they would leave their devices.
        """
        whole = self.config.scan or self.config.mesh is not None
        return self.params if whole else unstack(self.params)

    def keys_and_values(self, tokens: Any) -> dict[str, Any]:
        """What every attention makes of a text [T]: `key` and `value` [L, T, H, K], by path."""
        return self.family.keys_and_values(self.config, self.params, jnp.asarray(tokens))

    def embed(self, tokens: Any) -> Any:
        """Embeddings of tokens, [..., T] to [..., T, D]."""
        return self.module.apply({"params": self.params}, jnp.asarray(tokens), method="embed")
