"""The shape of a stack of blocks, and of a decoder-only model, which is one stack."""

import dataclasses
from typing import Literal

from prompt_jax.backbones.causal.model_types import ALWAYS, SHARED
from prompt_jax.backbones.causal.rope import Rope
from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.sockets import Axes, Head
from prompt_jax.config import InputError, at_least

Fused = Literal["by_role", "by_head"]
"""How one kernel has queries, keys and values: all of one role after another, or those of a head
side by side."""
QKNorm = Literal["heads", "whole"]
"""What of queries and of keys is normed: each head by itself, or all heads as one vector."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig(ModelConfig):
    """The shape of a stack of blocks; what is named as in T5Config means the same."""

    model_type: str = "gpt2"
    """What Hugging Face calls the family, and so its weights."""
    num_kv_heads: int = 12
    """Heads of keys and values; each serves num_heads / num_kv_heads heads of queries."""
    norm: str = "layer"
    """`layer` (mean and bias too), `rms`, or `rms_from_one`: stored less one, Gemma's."""
    norm_places: tuple[str, ...] = ("before",)
    """Where sublayers are normed: `before` them, `behind` them before the residual sum, or `after`
    that sum; then the stack needs no norm behind it."""
    norm_bias: bool = True
    """Norms of kind `layer` have a bias."""
    first_norm: bool = True
    """The first attention has a norm before it too, which ModernBERT leaves out."""
    layer_norm_epsilon: float = 1e-5
    rope: Rope | None = None
    """None adds learned position embeddings to the input."""
    sliding_rope: Rope | None = None
    """That of the layers with a sliding window, where it is another one."""
    fused: Fused | None = "by_role"
    """How one kernel has queries, keys and values: `by_role` in GPT-2 and Phi-3, `by_head` in
    GPT-NeoX; None has a kernel for each."""
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    qk_norm: QKNorm | None = None
    """Queries and keys are normed: by `heads` in Qwen3 and Gemma 3, as a `whole` in OLMo 2."""
    query_scale: float | None = None
    """What queries are multiplied with; None is d_kv ** -0.5."""
    parallel_residual: bool = False
    """The feed-forward reads what the attention reads, not what it gives: GPT-NeoX."""
    residual_scale: float = 1.0
    """What a sublayer gives is multiplied with before the residual sum: Granite."""
    attention_cap: float | None = None
    """What no score of attention passes, by a tanh: Gemma 2."""
    sliding_window: int | None = None
    """A position sees only so many before it, itself included."""
    full_layers: tuple[int, ...] = ()
    """Layers that a sliding window leaves alone, the first being 0."""
    nope_layers: tuple[int, ...] = ()
    """Layers in which no position turns, the first being 0: SmolLM3."""
    split_window: bool = False
    """An encoder's window is that of both sides together: T5Gemma 2. Others have one on each."""
    cross_width: int | None = None
    """Width of the states that a cross-attention of every layer reads; None has no such."""
    merged_cross: bool = False
    """Every attention reads other states too, through its own kernels: T5Gemma 2."""

    @property
    def final_norm(self) -> bool:
        """The stack ends in a norm of its own."""
        return "after" not in self.norm_places

    def __post_init__(self):
        super().__post_init__()
        at_least("num_kv_heads", self.num_kv_heads, 1)
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"num_heads must be a multiple of num_kv_heads, got {self.num_heads} and "
                f"{self.num_kv_heads}; use the config.json that belongs to the weights"
            )
        if self.rope is not None:
            self.rope.check(self.d_kv)
        layers = range(self.num_layers)
        if not set(self.full_layers) < set(layers):
            raise InputError(
                f"full_layers must be some of the {len(layers)} layers, 0 to {len(layers) - 1}, "
                f"got {self.full_layers}; where all are, sliding_window is None"
            )

    @property
    def ropes(self) -> tuple[Rope | None, ...]:
        """How positions turn in every layer; None where they do not."""
        near = self.sliding_rope or self.rope if self.sliding_window else self.rope
        return tuple(
            None if i in self.nope_layers else self.rope if i in self.full_layers else near
            for i in range(self.num_layers)
        )

    @property
    def fused_axes(self) -> Axes:
        """Axes of what a kernel with queries, keys and values gives, in the order of its rows."""
        heads, kv = ("heads", self.num_heads), ("kv", self.d_kv)
        if self.fused == "by_head":
            return heads, ("qkv", 3), kv
        if self.num_kv_heads < self.num_heads:  # Phi-3, whose three parts differ in size.
            return ("heads", self.num_heads + 2 * self.num_kv_heads), kv
        return ("qkv", 3), heads, kv


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig(StackConfig):
    """The shape of a decoder-only model."""

    target_place = "behind"

    vocab_size: int = 50257
    max_positions: int = 1024
    """Most virtual and text tokens together; GPT-2 has no embedding for later ones."""
    tie_embeddings: bool = True
    embedding_scale: float = 1.0
    """What rows of the embedding table are multiplied with, rounded to `dtype`."""
    input_scale: float = 1.0
    """What the first layer multiplies its input with, virtual tokens among it: Granite."""
    logits_scaling: float = 1.0
    """What logits are divided by: Granite."""
    logit_cap: float | None = None
    """What no logit passes, by a tanh: Gemma 2."""
    bidirectional_input: bool = False
    """Prompt and input see each other whole, as in a prefix language model; targets stay causal."""
    position_offset: int = 0
    """The row of learned positions that the first position has: 2 in OPT."""
    count_padding: bool = False
    """Padding takes positions too, so that a text padded on the left is read as another one: what
    PEFT does with virtual tokens in the input, and Transformers where no position_ids are given."""
    eos_token_ids: tuple[int, ...] = (50256,)

    def __post_init__(self):
        super().__post_init__()
        if self.model_type in SHARED and self.num_heads * self.d_kv != self.d_model:
            raise InputError(
                f"the heads of a {self.model_type} share its width, got {self.num_heads} heads of "
                f"{self.d_kv} and d_model {self.d_model}; the width must be a multiple of the heads"
            )

    def head(self, task_type: str) -> Head:
        """What a head for a task is made of, as the family has it."""
        return Head(bias=task_type != "SEQ_CLS")


PRESETS: dict[str, CausalConfig] = {}
"""None: "gpt2" and the like are ids of the hub."""


def one_layer(model_type: str) -> tuple[CausalConfig, ...]:
    """Small models that between them have every kernel of a family."""
    llama = {"norm": "rms", "rope": Rope(), "fused": None, "gated": True}
    fields = llama | ALWAYS.get(model_type, {})
    return (CausalConfig(model_type=model_type, num_layers=1, **fields),)
