"""What the comparisons with torch and PEFT have in common."""

import functools
import warnings

import jax
import numpy as np
import pytest

MARKS = [
    pytest.mark.parity,
    # PEFT asks Transformers by a name that Transformers has retired.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
BERT = {
    **{"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 40, "pad_token_id": 0},
}
DISTILBERT = {
    **{"vocab_size": 61, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4},
    **{"max_position_embeddings": 40, "pad_token_id": 0},
}
MODERNBERT = BERT | {
    **{"num_hidden_layers": 4, "local_attention": 4, "norm_eps": 1e-5},
    **{"bos_token_id": 1, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1},
}
# Texts of nine tokens reach past the buckets of single distances, and past the last one.
DEBERTA = BERT | {
    **{"relative_attention": True, "position_biased_input": False, "position_buckets": 4},
    **{"max_relative_positions": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    **{"pos_att_type": "p2c|c2p", "type_vocab_size": 0, "pooler_hidden_size": 16},
}
GPT2 = {
    **{"vocab_size": 61, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 64},
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1},
}
LLAMA = BERT | {"num_key_value_heads": 2, "eos_token_id": 1}
# Caps that bend: those of the published models bend nothing at this size.
GEMMA = LLAMA | {
    **{"head_dim": 6, "max_position_embeddings": 64, "query_pre_attn_scalar": 9},
    **{"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 4},
}


VISION = {
    **{"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16},
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4},
}
UNREAD = ("vision_tower.", "multi_modal_projector.", "eoi_embedding")


def torch_model(kind, values, suffix, **more):
    """A model of transformers' with all its weights random: biases start at 0, norms at 1."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**values, **more)
    config._attn_implementation = "eager"
    if (kind, suffix) == ("GPT2", "ForCausalLM"):
        suffix = "LMHeadModel"
    kind = "Gemma3" if (kind, suffix) == ("Gemma3Text", "ForCausalLM") else kind
    return shaken(getattr(transformers, f"{kind}{suffix}")(config).eval(), 0.2)


def shaken(model, scale, trained_only=False):
    """The model with normal noise on its weights, or on those that PEFT trains."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trained_only:
                parameter += scale * torch.randn_like(parameter)
    return model


def texts(lengths=(9, 5, 2), *, pad=0, seed=0):
    """Random tokens and their mask, padded on the right."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(2, 61, mask.shape), pad), mask


def padded_left(tokens, mask):
    """The same texts with their padding on the left."""
    rows = [np.concatenate([row[~real], row[real]]) for row, real in zip(tokens, mask, strict=True)]
    return np.stack(rows), np.sort(mask, axis=1)


def difference(ours, reference):
    """The largest difference over the largest number."""
    if hasattr(reference, "detach"):
        reference = reference.detach().numpy()
    ours = np.asarray(ours)
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.abs(reference).max()


def close(ours, reference):
    """Equal to 1e-4 of the largest number."""
    error = difference(ours, reference)
    assert error < 1e-4, f"relative error {error:.2e}"


@functools.cache
def _compiled(module):
    return jax.jit(module.apply, static_argnames=("method", "length"))


def apply(backbone, *arguments, **options):
    """The backbone's module on arguments, compiled."""
    return _compiled(backbone.module)({"params": backbone.params}, *arguments, **options)


def padded_to(tokens, length):
    """Tokens [B, U] with as many columns as we give."""
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


def load_in_peft(model, folder):
    """PEFT's model of a folder that we wrote, which must come without a warning."""
    import peft

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    messages = [str(warning.message) for warning in caught]
    assert [m for m in messages if "is_gradient_checkpointing" not in m] == []
    return loaded


def assert_round_trip(model, backbone, folder):
    """A folder that we write is the model again, to us and to Transformers: what reads text."""
    import torch

    from prompt_jax.weights import load_backbone, save_hugging_face

    again = load_backbone(save_hugging_face(folder / "again", backbone), scan=True)
    assert again.fingerprint == backbone.fingerprint and again.config == backbone.config
    loaded = type(model).from_pretrained(folder / "again")
    for name, tensor in model.state_dict().items():
        if any(part in name for part in UNREAD):
            continue
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
