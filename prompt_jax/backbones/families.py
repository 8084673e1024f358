"""The families of models, and what each of them binds."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import flax.linen as nn

from prompt_jax.backbones import bart, bert, causal, modernbert, t5, t5gemma
from prompt_jax.backbones.config import ConfigJson, ModelConfig
from prompt_jax.backbones.sockets import Sockets

T = TypeVar("T")


@runtime_checkable
class Family(Protocol):
    """What a package such as `backbones.t5` binds; a `config` is one of its `Config`.

    `Module` has `embed`; `predict`, `prefill` and `decode` where it writes; `encode`, `pool`
    and `features` where it takes a head. `TASK_TYPES` are PEFT's names, the usual one first.
    `TABLES` are names of the embedding table in checkpoints, and `COPIES` second ones, the head's
    first. `PRESETS` are models with random weights, by names of this package.
    """

    @property
    def Config(self) -> type[ModelConfig]: ...
    @property
    def Module(self) -> Callable[..., nn.Module]: ...
    @property
    def MODEL_TYPES(self) -> tuple[str, ...]: ...
    @property
    def TASK_TYPES(self) -> tuple[str, ...]: ...
    @property
    def PRESETS(self) -> Mapping[str, ModelConfig]: ...
    @property
    def TABLES(self) -> tuple[str, ...]: ...
    @property
    def COPIES(self) -> tuple[str, ...]: ...

    def one_layer(self, model_type: str) -> tuple[ModelConfig, ...]:
        """Small models that between them have every kernel of a model type."""
        ...

    def from_hugging_face(self, values: ConfigJson, **fields: Any) -> ModelConfig:
        """The config of a Hugging Face `config.json`.

        Args:
          values: the file's.
          fields: what the file does not say: the fields of `told_by_weights`, and the user's.

        Raises:
          InputError: a model type, an activation or an option that the family does not support.
        """
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

    def kernel_names(self, model_type: str) -> dict[str, tuple[str, ...]]:
        """What Hugging Face calls the kernels that methods tune where none are named, by role.

        `query` and `value`; `scaled`, those that PEFT trains factors for, or would; `feedforward`,
        those of them that are scaled at their input.
        """
        ...

    def head_names(self, task_type: str, model_type: str) -> dict[str, str]:
        """Layers of a head, and what PEFT calls them."""
        ...

    def transposed(self, config: Any, path: str) -> bool:
        """Whether a leaf is stored the other way round, [out, in]."""
        ...

    def sockets(self, config: Any) -> Sockets:
        """Every place where a method may reach inside a model."""
        ...


FAMILIES: tuple[Family, ...] = (t5, causal, bert, t5gemma, modernbert, bart)
BACKBONES: dict[str, Family] = {
    model_type: family for family in FAMILIES for model_type in family.MODEL_TYPES
}
"""Hugging Face's `model_type` to its family."""
PRESETS = {name: config for family in FAMILIES for name, config in family.PRESETS.items()}


def family_of(config: ModelConfig) -> Family:
    """The package that a config belongs to."""
    return next(family for family in FAMILIES if isinstance(config, family.Config))
