"""Writes tests/golden/peft: folders that PEFT wrote, and PEFT's logits, for machines without it.

Run with torch and peft installed: `python tests/make_golden_peft.py`. The backbone's weights are
not stored: `numbers` makes them again from their names.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "peft"
EXPECTED = GOLDEN / "expected.json"
VIRTUAL = 3

# All sizes differ, so that PEFT finds the embedding table, which it knows by its first one.
CONFIG = dict(
    vocab_size=29,
    d_model=12,
    d_kv=5,
    d_ff=14,
    num_heads=2,
    num_layers=2,
    num_decoder_layers=2,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=20,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    decoder_start_token_id=0,
    dropout_rate=0.0,
)


def numbers(name, shape):
    """The same numbers everywhere: RandomState's stream is frozen, unlike Generator's."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (1 + 0.2 * noise if "norm" in name else 0.5 * noise).astype(np.float32)


def inputs():
    """Tokens, mask and decoder tokens; the second row is padded."""
    rng = np.random.RandomState(3)
    mask = np.arange(9) < np.array([[9], [5]])
    tokens = np.where(mask, rng.randint(2, CONFIG["vocab_size"], mask.shape), 0)
    decoder_tokens = rng.randint(2, CONFIG["vocab_size"], (2, 4))
    decoder_tokens[:, 0] = 0
    return tokens, mask, decoder_tokens


def torch_model():
    """A T5 in eval mode whose weights are `numbers`."""
    import torch
    import transformers

    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**CONFIG)).eval()
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


def peft_model(kind):
    """The T5 with an adapter of a kind, in PEFT's default layout, which is 2n rows for T5."""
    import peft

    common = dict(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=VIRTUAL)
    config = {
        "prompt_tuning": lambda: peft.PromptTuningConfig(**common),
        "p_tuning": lambda: peft.PromptEncoderConfig(**common, encoder_hidden_size=7),
    }[kind]()
    return peft.get_peft_model(torch_model(), config).eval()


def main():
    import torch

    shutil.rmtree(GOLDEN, ignore_errors=True)
    expected = {"config": {**CONFIG, "model_type": "t5"}, "logits": {}}
    expected["shapes"] = {n: list(w.shape) for n, w in torch_model().named_parameters()}
    for kind in ("prompt_tuning", "p_tuning"):
        torch.manual_seed(0)
        model = peft_model(kind)
        model.save_pretrained(GOLDEN / kind)
        (GOLDEN / kind / "README.md").unlink()  # PEFT's empty form.
        logits = torch_logits(model, *inputs())[1]
        expected["logits"][kind] = [[float(f"{x:.8g}") for x in row] for row in logits]
    EXPECTED.write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
