"""Writes tests/golden/t5.json: logits of tiny Hugging Face T5s, so that parity needs no torch.

Run with torch installed: `python tests/make_golden.py`. Weights are not stored: `numbers` makes
them again from their names.
"""

import json
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "t5.json"

SIZES = dict(
    vocab_size=23,
    d_model=12,
    d_kv=5,
    d_ff=14,
    num_heads=2,
    num_layers=2,
    num_decoder_layers=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=20,
    decoder_start_token_id=0,
)
UNTIED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
# Every size differs from the others, so that no transposed kernel goes unseen.
CASES = {
    "t5_1_0": ("T5", {**SIZES}, True),
    "t5_1_1": ("T5", {**SIZES, **UNTIED}, False),
    "t5_1_0_own_head": ("T5", {**SIZES}, False),
    "wide_heads": ("T5", {**SIZES, **UNTIED, "d_kv": 9, "num_layers": 1}, False),
    "exact_gelu": ("T5", {**SIZES, "feed_forward_proj": "gelu"}, True),
    "gated_silu": ("T5", {**SIZES, "feed_forward_proj": "gated-silu"}, True),
    "mt5": ("MT5", {**SIZES, **UNTIED, "vocab_size": 31}, False),
    "byt5": (
        "T5",
        {**SIZES, **UNTIED, "vocab_size": 29, "num_layers": 3, "num_decoder_layers": 1},
        False,
    ),
    "umt5": ("UMT5", {**SIZES}, True),
    "umt5_own_head": ("UMT5", {**SIZES}, False),
}


def numbers(name, shape):
    """The same weights everywhere: RandomState's stream is frozen, unlike Generator's."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (1 + 0.2 * noise if "norm" in name else 0.4 * noise).astype(np.float32)


def inputs(vocab_size, source_length=13, target_length=5):
    """Tokens, mask (rows of three lengths) and decoder tokens, which begin with the start token."""
    rng = np.random.RandomState(7)
    tokens = rng.randint(2, vocab_size, (3, source_length))
    mask = np.arange(source_length) < np.array([[source_length], [source_length - 4], [3]])
    decoder_tokens = rng.randint(2, vocab_size, (3, target_length))
    decoder_tokens[:, 0] = 0
    return np.where(mask, tokens, 0), mask, decoder_tokens


def torch_model(family, config, tied):
    """A Hugging Face model in eval mode whose weights are `numbers`."""
    import torch
    import transformers

    model = getattr(transformers, f"{family}ForConditionalGeneration")(
        getattr(transformers, f"{family}Config")(**config)
    ).eval()
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.tensor(numbers(name, tuple(weight.shape))))
    return model


def torch_logits(model, tokens, mask, decoder_tokens):
    import torch

    with torch.no_grad():
        return model(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(decoder_tokens),
        ).logits.numpy()


def main():
    golden = {}
    for name, case in CASES.items():
        model = torch_model(*case)
        logits = torch_logits(model, *inputs(model.config.vocab_size))
        # One row, the padded one of middle length, is enough: the others run through the same code.
        golden[name] = {
            "config": {**case[1], "model_type": case[0].lower()},
            "tied": case[2],
            "logits": [[float(f"{x:.8g}") for x in row] for row in logits[1]],
        }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
