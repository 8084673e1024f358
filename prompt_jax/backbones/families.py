"""The families of models, and what each of them binds."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import flax.linen as nn

from prompt_jax.backbones import bert, causal, t5
from prompt_jax.backbones.config import ConfigJson, ModelConfig
from prompt_jax.backbones.sockets import Sockets

T = TypeVar("T")


@runtime_checkable
class Family(Protocol):
    """A package such as `backbones.t5`. Its `config` is always an instance of its `Config`."""

    @property
    def Config(self) -> type[ModelConfig]:
        """The config of a model."""
        ...

    @property
    def Module(self) -> Callable[..., nn.Module]:
        """The module of a config.

        It has `embed`, and `predict`, `prefill` and `decode` where it writes, `encode` and `pool`
        where it takes a head.
        """
        ...

    @property
    def MODEL_TYPES(self) -> tuple[str, ...]:
        """What Hugging Face calls its models."""
        ...

    @property
    def TASK_TYPES(self) -> tuple[str, ...]:
        """What it does by PEFT's names, the usual one first."""
        ...

    @property
    def PRESETS(self) -> Mapping[str, ModelConfig]:
        """Models that have a name of ours, and random weights."""
        ...

    @property
    def TABLES(self) -> tuple[str, ...]:
        """What checkpoints call the embedding table."""
        ...

    @property
    def COPIES(self) -> tuple[str, ...]:
        """Second names of the table, which some checkpoints keep."""
        ...

    def one_layer(self, model_type: str) -> tuple[ModelConfig, ...]:
        """Small models that between them have every kernel of a model type."""
        ...

    def from_hugging_face(self, values: ConfigJson, **fields: Any) -> ModelConfig:
        """The config of a `config.json`, and of fields that it does not tell."""
        ...

    def to_hugging_face(self, config: Any, dtype: str) -> ConfigJson:
        """What `config.json` says of a model."""
        ...

    def told_by_weights(
        self, names: Collection[str], *, tied: bool, untied: bool = False
    ) -> dict[str, bool]:
        """Fields of the config that the names of the weights tell."""
        ...

    def canonical(self, tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
        """Weights under the names that are read here, whatever their writer called them."""
        ...

    def hugging_face_names(self, config: Any) -> dict[str, list[str]]:
        """Paths of the frozen tree to names of weights: one, or one a layer for stacked leaves."""
        ...

    def transposed(self, config: Any, path: str) -> bool:
        """Whether a leaf is stored the other way round, [out, in]."""
        ...

    def sockets(self, config: Any) -> Sockets:
        """Every place where a method may reach inside a model."""
        ...


FAMILIES: tuple[Family, ...] = (t5, causal, bert)
BACKBONES = {model_type: family for family in FAMILIES for model_type in family.MODEL_TYPES}
"""Hugging Face's `model_type` to its family."""
PRESETS = {name: config for family in FAMILIES for name, config in family.PRESETS.items()}


def family_of(config: ModelConfig) -> Family:
    """The package that a config belongs to."""
    return next(family for family in FAMILIES if isinstance(config, family.Config))
