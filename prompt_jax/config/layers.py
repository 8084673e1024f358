"""Configs of the methods that reach inside the layers, and of unions of methods."""

import math
from dataclasses import dataclass
from typing import Literal

from prompt_jax.config.checks import InputError, at_least, choose
from prompt_jax.config.method import MethodConfig, each_at_least_one
from prompt_jax.config.prompts import VirtualTokens


@dataclass(frozen=True, kw_only=True)
class LoraConfig(MethodConfig):
    """Low-rank updates of frozen kernels (Hu et al. 2021); rsLoRA and DoRA by field."""

    kind = "lora"
    rates = {"adamw": 5e-3}

    r: int = 8
    """R, the rank."""
    lora_alpha: float = 8
    """The update is scaled by lora_alpha / r."""
    lora_dropout: float = 0.0
    """Dropout of the update's input while training."""
    target_modules: tuple[str, ...] = ()
    """Which kernels: names or their last parts, as Hugging Face has them; empty takes those that
    PEFT takes for the family, such as T5's "q" and "v"."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) (Kalajdzievski 2023)."""
    use_dora: bool = False
    """Train each output's magnitude apart from its direction (Liu et al. 2024)."""

    def __post_init__(self):
        super().__post_init__()
        at_least("r", self.r, 1, "a rank of 0 trains nothing")
        if not self.lora_alpha or not math.isfinite(self.lora_alpha):
            raise InputError(
                f"lora_alpha must be a number other than 0, got {self.lora_alpha}: it scales the "
                "update"
            )
        if self.lora_alpha == int(self.lora_alpha):  # Other readers of PEFT's files want an int.
            object.__setattr__(self, "lora_alpha", int(self.lora_alpha))
        if not 0.0 <= self.lora_dropout < 1.0:
            raise InputError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)


@dataclass(frozen=True, kw_only=True)
class IA3Config(MethodConfig):
    """Trained factors on keys, values and the feed-forward's inner states (Liu et al. 2022)."""

    kind = "ia3"
    rates = {"adamw": 3e-2}

    target_modules: tuple[str, ...] = ()
    """Which kernels: names or their last parts, as Hugging Face has them; empty takes those that
    PEFT takes for the family, such as T5's "k", "v" and "wo", and their feed-forwards."""
    feedforward_modules: tuple[str, ...] = ()
    """Which of them are scaled at their input; beside named target_modules, empty is none."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(MethodConfig):
    """Bottleneck layers beside or behind sublayers (Houlsby et al. 2019, Pfeiffer et al. 2021)."""

    kind = "adapter"

    bottleneck_size: int = 16
    """R, the width of the bottleneck."""
    style: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """Behind every sublayer, behind the feed-forward, or beside it (He et al. 2022)."""
    scaling: float = 1.0
    """What the adapter's answer is multiplied by."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "bottleneck_size")
        choose("style", self.style, ("houlsby", "pfeiffer", "parallel"))


@dataclass(frozen=True, kw_only=True)
class PromptAdapterConfig(VirtualTokens):
    """A branch beside every feed-forward that is fed by virtual tokens, as LoRA is by its factors.

    Virtual tokens are shared by all layers: as keys they meet the layer's input, as values they
    answer; each layer only has a gate on either side.
    """

    kind = "prompt_adapter"
    rates = {"adamw": 1e-2}

    init_population: int = 5000
    """Virtual tokens start from rows among so many of the vocabulary's first."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig(MethodConfig):
    """A trained head and nothing else: what every method with `num_labels` is compared with."""

    kind = "head"


@dataclass(frozen=True, kw_only=True)
class BiasConfig(MethodConfig):
    """A trained bias behind every kernel (BitFit, Ben Zaken et al. 2022); T5 has no own ones."""

    kind = "bias"
    rates = {"adamw": 1e-2}


@dataclass(frozen=True, kw_only=True)
class NormConfig(MethodConfig):
    """A trained factor on every norm."""

    kind = "norm"
    rates = {"adamw": 1e-2}


@dataclass(frozen=True, kw_only=True)
class FullConfig(MethodConfig):
    """The whole model, tuned: what all other methods are compared with."""

    kind = "full"
    rates = {"adamw": 1e-4, "adafactor": 1e-4}


@dataclass(frozen=True, kw_only=True)
class UnionConfig(MethodConfig):
    """Several methods in one tuned tree."""

    kind = "union"

    methods: tuple[MethodConfig, ...] = ()
    """At least two, which put nothing into the same place."""
    gated: bool = False
    """LoRA, prefixes and adapters have a trained gate in every layer (Mao et al. 2022)."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.methods) < 2:
            raise InputError(
                f"a union has at least two methods, got {len(self.methods)}; use the method itself"
            )
        if any(m.num_labels is not None for m in self.methods):
            raise InputError(
                "a union has one head beside all its methods; set num_labels of the union, and of "
                "none of its methods"
            )
        prompts = [m for m in self.methods if m.input_tokens]
        if any(m.placement != prompts[0].placement for m in prompts[1:]):
            raise InputError("the prompts of a union need one placement")
        if self.gated and any(isinstance(m, LoraConfig) and m.use_dora for m in self.methods):
            raise InputError(
                "a gate scales an update for every token, and DoRA's magnitude knows one update "
                "only; set gated=False or use_dora=False"
            )

    @property
    def placement(self) -> str:
        return next((m.placement for m in self.methods if m.input_tokens), "prefix")

    @property
    def input_tokens(self) -> int:
        return sum(method.input_tokens for method in self.methods)
