"""One table of laws: every method on every family of backbones."""

import pytest
from method_table import CASES, CHANGING, DECODERS, HEADS, NEUTRAL, subject

from prompt_jax.config import method_kinds
from prompt_jax.testing import BACKBONE_LAWS, CONFIGS, LAWS, tiny

# What every family has in its own way. The rest of CASES computes vectors or kernels of another
# case and knows nothing of a family, so T5 alone has it.
SOCKETS = ("prompt", "prompt_suffix", "prefix", "deep_replace", "lora", "dora", "ia3", "parallel")
SOCKETS += ("adaption", "prompt_adapter", "bias", "norm", "full")
ON = {
    "t5": (*CHANGING, *NEUTRAL),
    "gpt2": (*SOCKETS, *DECODERS, "unipelt", "head", "head_prompt", "head_lora", "head_both"),
    "llama": ("prompt", "prefix", "lora", "ia3", "adaption"),  # It shares GPT-2's code.
    "olmo2": ("prompt", "lora", "parallel"),
    "smollm3": ("prompt", "prefix"),
    "granite": ("prompt", "prefix", "deep_add", "parallel"),
    "gpt_neox": ("prompt", "prefix", "lora", "ia3", "parallel", "bias"),
    "opt": ("prompt", "prefix", "lora", "deep_replace"),
    "phi3": ("prompt", "prefix", "lora", "ia3", "dora"),
    "gemma2": ("prompt", "prefix", "lora", "ia3", "parallel", "deep_add", "norm", "head_lora"),
    "gemma3": ("prompt", "prefix", "lora"),
    "t5gemma": ("prompt", "prompt_both", "prefix", "deep_add", "lora", "ia3", "parallel", "norm"),
    "t5gemma2": ("prompt", "prompt_both", "prefix", "lora"),
    "bart": ("prompt", "prompt_both", "prefix", "deep_add", "lora", "ia3", "parallel", "norm"),
    "modernbert": ("prompt", "prefix", "lora", "bias", "deep_add", "head_prompt", "head_lora"),
    "deberta": ("prompt", "prefix", "lora", "ia3", "dora", "bias", "unipelt", "head_prompt"),
    "bert": (*SOCKETS, "mam", "prefix_encoder", *HEADS),
}
# What a cache holds more of: rows of a layer. A changed kernel is none of its business.
CACHED = ("prompt", "prompt_suffix", "prefix", "deep_replace", "ia3", "parallel", "adaption")
# One tree of each shape: a vector, sockets, an encoder with a recurrence, tasks that share.
TREES = ("prefix", "prefix_sink", "lora", "dora", "p_tuning_lstm", "multitask_project")
SIMPLIFIED = ("cpt", "p_tuning_mlp", "p_tuning_lstm", "residual", "prefix_mlp", "head_p_tuning")
PLAIN = ("prompt", "prompt_suffix", "head_prompt")
# Of the rest, the gradient is that of a case here and the step is the same: one of each is trained.
TRAINED = (*SOCKETS, *TREES, *DECODERS, "p_tuning_mlp", "multitask_multiply", "mam")
TRAINED_HEADS = ("head", "head_prompt", "head_lora")
# Rows and a socket on T5 and a head on BERT at every run of the tests, the rest with the slow ones.
QUICK = {("t5", "prompt"), ("t5", "prefix"), ("bert", "head_lora")}


def says(law, family, name):
    """Whether a law says something of a method on a family that no other row of it says."""
    # What a decoder alone has is looked at there.
    on_t5, head, plain = family == "t5" or name in DECODERS, name in HEADS, name in PLAIN
    return {
        "gradient_is_the_tuned_tree": name != "head_full",  # A head does not read all weights.
        "fresh_tree_is_neutral_where_it_claims_to_be": not head and (on_t5 or name in NEUTRAL),
        "optimizer_holds_the_tuned_tree_alone": plain,
        "training_lowers_the_loss_and_leaves_the_frozen_tree": name in TRAINED_HEADS
        or plain
        or (on_t5 and name in TRAINED),
        "trees_by_vmap_equal_separate_runs": plain or (on_t5 and name in TREES),
        "unrolled_layers_equal_scanned": name in SOCKETS and (on_t5 or plain),
        "padding_changes_no_logit": plain,
        "row_alone_equals_row_in_batch": plain or name.startswith("multitask"),
        "saved_equals_loaded": on_t5 or head,
        "simplified_equals_trained": name in SIMPLIFIED,
        "cached_decoding_equals_uncached": name in CACHED and not CONFIGS[family].is_encoder,
        "resumed_equals_uninterrupted": on_t5 and name in TREES + PLAIN,
    }[law]


def test_every_method_is_in_the_table():
    assert {method.kind for method in CASES.values()} == set(method_kinds())


@pytest.mark.parametrize("law", BACKBONE_LAWS)
@pytest.mark.parametrize(
    "family",
    [name if name == "t5" else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS],
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
