"""One table of laws: every method on every family of backbones."""

import dataclasses
import functools

import pytest

import prompt_jax as pj
from prompt_jax.config import METHOD_KINDS
from prompt_jax.methods import METHODS, mam, unipelt
from prompt_jax.testing import BACKBONE_LAWS, CONFIGS, LAWS, Subject, tiny

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
    "bias": pj.BiasConfig(),
    "norm": pj.NormConfig(),
    "full": pj.FullConfig(),
}
"""Methods whose fresh tree leaves the backbone's logits as they are, to the bit."""
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
CASES = CHANGING | NEUTRAL | HEADS

# What every family has in its own way. The rest of CASES computes vectors or kernels of another
# case and knows nothing of a family, so T5 alone has it.
SOCKETS = ("prompt", "prefix", "p_tuning_v2", "deep_replace", "deep_add", "lora", "dora", "ia3")
SOCKETS += ("houlsby", "pfeiffer", "parallel", "prompt_adapter", "bias", "norm", "full", "mam")
SOCKETS += ("unipelt", "prompt_suffix")
ON = {
    "t5": (*CHANGING, *NEUTRAL),
    "gpt2": (*SOCKETS, *HEADS),
    "llama": ("prompt", "prefix", "lora", "ia3", "deep_replace"),  # It shares GPT-2's code.
    "bert": (*SOCKETS, "prefix_encoder", *HEADS),
}
SIMPLIFIED = ("p_tuning_mlp", "p_tuning_lstm", "residual", "prefix_mlp", "head_p_tuning")
PLAIN = ("prompt", "prompt_suffix", "head_prompt")
# One of each kind of socket at every run of the tests, the rest with the slow ones.
QUICK = {("t5", name) for name in ("prompt", "prompt_both", "ia3", "prefix", "p_tuning_mlp")}
QUICK |= {("bert", "prompt"), ("bert", "head_lora"), ("gpt2", "head_lora")}
# KERNELS by their names in each family.
NAMES = {
    "gpt2": ("c_attn", "c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
    "llama": ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"),
    "bert": ("query", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
}


def says(law, family, name):
    """Whether a law says something of a method on a family that no other row of it says."""
    on_t5, head, plain = family == "t5", name in HEADS, name in PLAIN
    return {
        "gradient_is_the_tuned_tree": True,
        "fresh_tree_is_neutral_where_it_claims_to_be": not head,
        "optimizer_holds_the_tuned_tree_alone": plain,
        "training_lowers_the_loss_and_leaves_the_frozen_tree": on_t5 or head or plain,
        "trees_by_vmap_equal_separate_runs": on_t5 or plain,
        "unrolled_layers_equal_scanned": name in SOCKETS and (on_t5 or plain),
        "padding_changes_no_logit": plain,
        "row_alone_equals_row_in_batch": plain or name.startswith("multitask"),
        "saved_equals_loaded": on_t5 or head,
        "simplified_equals_trained": name in SIMPLIFIED,
        "cached_decoding_equals_uncached": name in SOCKETS and family != "bert",
        "resumed_equals_uninterrupted": on_t5,
    }[law]


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
    # DoRA's factor is a quotient of equal norms, rounded.
    neutral = {"neutral": name in NEUTRAL, "tolerance": 1e-5 if name == "dora" else 0.0}
    return Subject(tiny(family), renamed(CASES[name], names), **neutral)


def test_every_method_is_in_the_table():
    assert {method.kind for method in CASES.values()} == set(METHOD_KINDS)
    assert {type(method) for method in CASES.values()} == set(METHODS)


@pytest.mark.parametrize("law", BACKBONE_LAWS)
@pytest.mark.parametrize(
    "family",
    ["t5", "bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "llama"))],
)
def test_backbone(family, law):
    BACKBONE_LAWS[law](tiny(family))


@pytest.mark.parametrize(
    ("family", "name", "law"),
    [
        pytest.param(
            *(family, name, law),
            marks=() if (family, name) in QUICK else pytest.mark.slow,
        )
        for family in CONFIGS
        for name in ON[family]
        for law in LAWS
        if says(law, family, name)
    ],
)
def test_method(family, name, law):
    LAWS[law](subject(family, name))
