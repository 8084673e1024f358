"""Every method, with the names that its kernels have in each family."""

import dataclasses
import functools

import prompt_jax as pj
from prompt_jax.methods import mam, unipelt
from prompt_jax.testing import Subject, tiny

P = 4
KERNELS = ("q", "v", "o", "wi_0", "wo")
CHANGING = {
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=P),
    "prompt_decoder": pj.PromptTuningConfig(num_virtual_tokens=P, stack="decoder"),
    "prompt_both": pj.PromptTuningConfig(num_virtual_tokens=P, stack="both"),
    "prompt_suffix": pj.PromptTuningConfig(num_virtual_tokens=P, placement="suffix"),
    "p_tuning_mlp": pj.PTuningConfig(num_virtual_tokens=P, encoder_hidden_size=8),
    "p_tuning_lstm": pj.PTuningConfig(
        num_virtual_tokens=P, encoder_hidden_size=8, encoder_dropout=0.1,
        encoder_reparameterization_type="LSTM",
    ),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=P),
    "prefix_encoder": pj.PrefixTuningConfig(num_virtual_tokens=P, decoder=False, cross=False),
    "prefix_mlp": pj.PrefixTuningConfig(
        num_virtual_tokens=P, prefix_projection=True, encoder_hidden_size=8
    ),
    "prefix_sink": pj.PrefixTuningConfig(num_virtual_tokens=P, num_frozen_tokens=1),
    "p_tuning_v2": pj.PTuningV2Config(num_virtual_tokens=P),
    "deep_replace": pj.DeepPromptConfig(num_virtual_tokens=P),
    "deep_add": pj.DeepPromptConfig(num_virtual_tokens=P, how="add"),
    "residual": pj.ResidualPromptConfig(num_virtual_tokens=P, bottleneck_size=4),
    "decomposed": pj.DecomposedPromptConfig(num_virtual_tokens=P, r=2, max_length=5),
    **{
        f"multitask_{how}": pj.MultitaskPromptConfig(
            num_virtual_tokens=P, num_tasks=3, combine=how
        )
        for how in ("multiply", "add", "concat", "concat_features", "project")
    },
    "dora": pj.LoraConfig(r=2, use_dora=True, target_modules=("q", "o")),
    "mam": mam(num_virtual_tokens=P, bottleneck_size=3),
    "unipelt": unipelt(num_virtual_tokens=P, r=2, bottleneck_size=3),
}  # fmt: skip
NEUTRAL = {
    "lora": pj.LoraConfig(r=2, target_modules=KERNELS),
    "rslora": pj.LoraConfig(r=4, use_rslora=True, lora_dropout=0.1),
    "ia3": pj.IA3Config(),
    "houlsby": pj.AdapterConfig(bottleneck_size=3, style="houlsby"),
    "pfeiffer": pj.AdapterConfig(bottleneck_size=3),
    "parallel": pj.AdapterConfig(bottleneck_size=3, style="parallel", scaling=2.0),
    "prompt_adapter": pj.PromptAdapterConfig(num_virtual_tokens=P),
    "adaption": pj.AdaptionPromptConfig(adapter_len=3, adapter_layers=1),
    "bias": pj.BiasConfig(),
    "norm": pj.NormConfig(),
    "full": pj.FullConfig(),
}
"""Methods whose fresh tree leaves the backbone's logits as they are, to the bit."""
DECODERS = {
    "cpt": pj.CPTConfig(
        cpt_token_ids=(7, 9, 11, 13, 15, 9, 11, 17), cpt_tokens_type_mask=(1, 2, 3, 4, 5, 6, 7, 8),
        opt_weighted_loss_type="decay", opt_loss_decay_factor=0.5,
        opt_projection_epsilon=9.0, opt_projection_format_epsilon=4.0,
    ),
}  # fmt: skip
"""Methods that only a decoder has."""
_HEAD = {"num_labels": 3, "task_type": "SEQ_CLS"}
HEADS = {
    "head": pj.HeadConfig(**_HEAD),
    "head_prompt": pj.PromptTuningConfig(num_virtual_tokens=P, **_HEAD),
    "head_p_tuning": pj.PTuningConfig(num_virtual_tokens=P, encoder_hidden_size=8, **_HEAD),
    "head_prefix": pj.PrefixTuningConfig(num_virtual_tokens=P, **_HEAD),
    "head_lora": pj.LoraConfig(r=2, **_HEAD),
    "head_full": pj.FullConfig(**_HEAD),
    "head_both": pj.UnionConfig(methods=(pj.LoraConfig(r=2), pj.PrefixTuningConfig()), **_HEAD),
}
CASES = CHANGING | NEUTRAL | HEADS | DECODERS

# KERNELS by their names in each family.
NAMES = {
    "gpt2": ("c_attn", "c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
    **dict.fromkeys(
        ("llama", "olmo2", "smollm3", "granite", "gemma2", "gemma3", "t5gemma", "t5gemma2"),
        ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"),
    ),
    "opt": ("q_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "bart": ("q_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "modernbert": ("Wqkv", "Wqkv", "attn.Wo", "Wi", "mlp.Wo"),
    "gpt_neox": (
        "query_key_value",
        "query_key_value",
        "attention.dense",
        "dense_h_to_4h",
        "dense_4h_to_h",
    ),
    "phi3": ("qkv_proj", "qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "deberta": (
        *("query_proj", "value_proj", "attention.output.dense", "intermediate.dense"),
        "output.dense",
    ),
    "bert": ("query", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
}


def renamed(method, names):
    """The method with the names that its kernels have in a family."""
    fields = ("target_modules", "feedforward_modules")
    changes = {
        field: tuple(dict.fromkeys(names.get(kernel, kernel) for kernel in getattr(method, field)))
        for field in fields
        if hasattr(method, field)
    }
    if hasattr(method, "methods"):
        changes["methods"] = tuple(renamed(part, names) for part in method.methods)
    return dataclasses.replace(method, **changes)


@functools.cache
def subject(family, name):
    """One subject for all of its laws: what they have in common is computed once."""
    names = dict(zip(KERNELS, NAMES.get(family, KERNELS), strict=True))
    # DoRA's factor is a quotient of equal norms, rounded. A factor of 1 between a norm's scale and
    # its bias keeps the compiler from fusing the two, as does an adapter behind one.
    rounded = name == "dora" or (name == "norm" and family != "t5")
    rounded |= name in ("parallel", "prompt_adapter") and family in ("gemma2", "gemma3", "t5gemma")
    neutral = {"neutral": name in NEUTRAL, "tolerance": 1e-5 if rounded else 0.0}
    return Subject(tiny(family), renamed(CASES[name], names), **neutral)
