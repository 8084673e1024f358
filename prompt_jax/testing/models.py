"""Tiny random backbones, a tokenizer of a few words, and batches: a test runs in milliseconds."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.bart import BartConfig
from prompt_jax.backbones.bert import BertConfig, Distances
from prompt_jax.backbones.causal import CausalConfig, Rope, StackConfig
from prompt_jax.backbones.modernbert import ModernBertConfig
from prompt_jax.backbones.t5 import T5Config
from prompt_jax.backbones.t5gemma import T5GemmaConfig
from prompt_jax.config import choose
from prompt_jax.data import Batch
from prompt_jax.methods import FIXED

VOCABULARY = 64
_CAUSAL = CausalConfig(
    model_type="gpt2", vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=32, num_heads=4,
    num_kv_heads=4, num_layers=2, max_positions=64, eos_token_ids=(1,),
)  # fmt: skip
_BLOCKS: dict[str, Any] = {
    **{"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 4, "max_positions": 64},
    **{"norm": "rms_from_one", "norm_places": ("before", "behind"), "layer_norm_epsilon": 1e-6},
    **{"rope": Rope(), "fused": None, "qkv_bias": False, "out_bias": False, "mlp_bias": False},
    **{"query_scale": 0.25, "attention_cap": 50.0, "sliding_window": 4},
    **{"activation": "gelu_pytorch_tanh", "gated": True},
}
_GEMMA3: dict[str, Any] = _BLOCKS | {
    **{"attention_cap": None, "qk_norm": "heads", "sliding_rope": Rope()},
    "rope": Rope(theta=1e6, kind="linear", factor=8.0),
}
_GEMMA = CausalConfig(
    **_BLOCKS, model_type="gemma2", vocab_size=VOCABULARY, num_kv_heads=2, num_layers=2,
    full_layers=(1,), logit_cap=30.0, embedding_scale=4.0, eos_token_ids=(1,),
)  # fmt: skip
_LLAMA = CausalConfig(
    model_type="llama",
    vocab_size=VOCABULARY,
    d_model=16,
    d_kv=8,
    d_ff=32,
    num_heads=4,
    num_kv_heads=2,
    num_layers=2,
    max_positions=64,
    eos_token_ids=(1,),
    norm="rms",
    rope=Rope(),
    fused=None,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    activation="silu",
    gated=True,
    tie_embeddings=False,
)
CONFIGS = {
    # heads * d_kv differs from d_model, and the decoder is deeper than the encoder.
    "t5": T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_heads=3, num_layers=2,
        num_decoder_layers=3,
    ),
    "gpt2": _CAUSAL,
    # Two heads of queries share each head of keys.
    "llama": _LLAMA,
    # Norms stand behind sublayers alone, and the heads of queries are normed as one vector.
    "olmo2": dataclasses.replace(
        _LLAMA, model_type="olmo2", norm_places=("behind",), qk_norm="whole"
    ),
    # Positions turn in the first two layers alone, and the third one has a window.
    "smollm3": dataclasses.replace(
        _LLAMA, model_type="smollm3", num_layers=3, nope_layers=(2,), sliding_window=4,
        full_layers=(0, 1), tie_embeddings=True,
    ),
    # Both sublayers read the same, and a fused kernel has the three parts of a head side by side.
    "gpt_neox": dataclasses.replace(
        _CAUSAL, model_type="gpt_neox", fused="by_head", rope=Rope(part=0.5), activation="gelu",
        parallel_residual=True, tie_embeddings=False,
    ),
    # Learned positions whose first row is the third, and norms behind the residual sums.
    "opt": dataclasses.replace(
        _CAUSAL, model_type="opt", fused=None, activation="relu", position_offset=2,
        norm_places=("after",),
    ),
    # Input, scores, sublayers and logits are scaled.
    "granite": dataclasses.replace(
        _LLAMA, model_type="granite", input_scale=3.0, query_scale=0.25, residual_scale=0.5,
        logits_scaling=2.0,
    ),
    # Kernels are fused, the heads of keys are few, and a part of a head turns with the positions.
    "phi3": dataclasses.replace(
        _LLAMA, model_type="phi3", fused="by_role", fused_mlp=True, rope=Rope(part=0.75)
    ),
    # Every other layer has a window, norms behind sublayers too, and caps on scores and logits.
    "gemma2": _GEMMA,
    # Layers with a window turn at a rate of their own; queries and keys are normed.
    "gemma3": dataclasses.replace(
        _GEMMA, **_GEMMA3, model_type="gemma3_text", logit_cap=None, num_kv_heads=1, num_layers=3,
        full_layers=(2,),
    ),
    # The same blocks in two stacks of different depth; the decoder has fewer heads of keys.
    "t5gemma": T5GemmaConfig(
        **_BLOCKS, model_type="t5gemma", vocab_size=VOCABULARY, num_kv_heads=2, num_layers=2,
        full_layers=(1,), logit_cap=30.0,
        decoder=StackConfig(
            **_BLOCKS, model_type="t5gemma", vocab_size=VOCABULARY, num_kv_heads=1, num_layers=3,
            full_layers=(1,), cross_width=16,
        ),
    ),
    # The decoder reads both stacks in one attention, and an encoder's window is of both sides.
    "t5gemma2": T5GemmaConfig(
        **_GEMMA3, model_type="t5gemma2", vocab_size=VOCABULARY, num_kv_heads=2, num_layers=2,
        full_layers=(1,), split_window=True, shared_table=True, embedding_scale=4.0,
        decoder=StackConfig(
            **_GEMMA3, model_type="t5gemma2", vocab_size=VOCABULARY, num_kv_heads=1, num_layers=3,
            full_layers=(1,), merged_cross=True,
        ),
    ),
    # Norms behind the residual sums; a decoder that reads a first token behind its start.
    "bart": BartConfig(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_kv_heads=4,
        num_layers=2, max_positions=64, embedding_scale=4.0, pad_token_id=0, eos_token_ids=(1,),
        decoder_start_token_id=1, first_token_id=2, final_token_id=1,
        decoder=StackConfig(
            model_type="bart", vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_heads=2,
            num_kv_heads=2, num_layers=3, max_positions=64, norm_places=("after",), fused=None,
            activation="gelu", cross_width=16,
        ),
    ),
    # Every third layer sees all of a text; the first one has no norm before its attention.
    "modernbert": ModernBertConfig(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_kv_heads=4,
        num_layers=4, max_positions=64, sliding_window=2, full_layers=(0, 3), pad_token_id=0,
        mask_token_id=63,
    ),
    # Attention reads distances; a pooler, and a head that fills masks.
    "deberta": BertConfig(
        model_type="deberta-v2", vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=32, num_heads=4,
        num_layers=2, max_positions=64, mask_token_id=63, num_token_types=0,
        distances=Distances(reach=8, buckets=4), pooler_activation="gelu",
    ),
    # With a pooler, and with a head that fills masks.
    "bert": BertConfig(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=32, num_heads=4, num_layers=2,
        max_positions=64, mask_token_id=63,
    ),
}  # fmt: skip
"""One configuration a family (several for decoders): 16 wide, 2 or 3 layers, 64 tokens."""


@functools.cache
def tiny(family: str = "t5", seed: int = 0) -> Backbone:
    """A random backbone of a family, without a tokenizer; the same object at every call.

    Args:
      family: a key of `CONFIGS`, e.g. `t5` or `gemma2`.

    Example:
      >>> tiny("gpt2").width
      16
    """
    choose("family", family, tuple(CONFIGS))
    return random_backbone(
        CONFIGS[family], name="tiny" if family == "t5" else f"tiny_{family}", seed=seed
    )


def random_backbone(config: Any, *, name: str, seed: int = 0, tokenizer: Any = None) -> Backbone:
    """A backbone of any family's configuration with random weights.

    Weights of decoders and encoders are shaken: those that start at zero, such as biases, would
    test nothing, and small ones make all logits alike.
    """
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(seed))
    if not isinstance(config, T5Config):
        params = shaken(params, seed + 1, 0.2)
    return Backbone(name=name, config=config, params=params, tokenizer=tokenizer)


def shaken(tree: PyTree, seed: int = 0, scale: float = 0.3) -> PyTree:
    """A tree with normal noise of a standard deviation of `scale` added to all that is trained."""
    leaves, structure = jax.tree.flatten_with_path(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        leaf
        if f"['{FIXED}']" in jax.tree_util.keystr(path)
        else leaf + scale * jax.random.normal(key, jnp.shape(leaf))
        for (path, leaf), key in zip(leaves, keys, strict=True)
    )


def random_batch(
    backbone: Backbone,
    seed: int = 0,
    *,
    rows: int = 4,
    text: int = 6,
    target: int = 3,
    tasks: int = 3,
) -> Batch:
    """Random rows of 1 to T tokens, padded on the right, with tokens from 2 to 29.

    Args:
      text: T, tokens of the longest input that may come.
      target: U, tokens of the longest target; an encoder's inputs begin with U masks.
      tasks: task ids are drawn from 0 to `tasks` - 1.
    """
    rng = np.random.default_rng(seed)
    encoder = backbone.config.is_encoder
    shortest = target if encoder else 1
    mask = np.arange(text) < rng.integers(shortest, text + 1, rows)[:, None]
    tokens = np.where(mask, rng.integers(2, 30, (rows, text)), 0).astype(np.int32)
    if encoder:
        tokens[:, :target] = backbone.config.mask_token_id
    return Batch(
        tokens,
        mask,
        rng.integers(2, 30, (rows, target), np.int32),
        np.arange(target) < rng.integers(1, target + 1, rows)[:, None],
        rng.integers(0, tasks, rows, np.int32),
    )


def word_tokenizer(words: Sequence[str]) -> Any:
    """A BERT-like tokenizer of whole words and of digits, `[CLS]` before a text, `[SEP]` behind."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    digits = [str(i) for i in range(10)] + [f"##{i}" for i in range(10)]
    vocabulary = {word: i for i, word in enumerate([*special, *words, *digits])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
