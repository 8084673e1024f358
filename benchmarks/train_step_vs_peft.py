"""Examples per second of a prompt-tuning step: prompt_jax against PEFT on torch, same shapes.

Both sides train P virtual tokens on a random T5 1.1 in float32 with AdamW, on the same machine and
in the same process, one after the other in every round, so that a change of the machine's speed
meets both. The ratio is taken round by round, and its median printed.

    pip install "prompt-jax[parity]"
    python benchmarks/train_step_vs_peft.py --rounds 7
"""

import argparse
import statistics
import time
import warnings

import jax
import numpy as np
import torch
from peft import PromptTuningConfig as PeftConfig
from peft import get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.t5 import PRESETS
from prompt_jax.config import PromptTuningConfig, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init
from prompt_jax.runtime import prepare
from prompt_jax.train import compile_step, start

SHAPES = [
    # size, batch, text tokens, virtual tokens, target tokens
    ("t5_1_1_small", 8, 64, 20, 4),
    ("t5_1_1_small", 32, 64, 20, 4),
    ("t5_1_1_small", 16, 128, 100, 8),
    ("t5_1_1_base", 8, 64, 20, 4),
    ("t5_1_1_base", 16, 128, 20, 8),
    ("t5_1_1_base", 4, 256, 100, 8),
]


def ours(size, batch, text, virtual, target):
    """A closure that runs one step of prompt_jax and waits for it."""
    import dataclasses

    config = PRESETS[size]
    config = dataclasses.replace(config, scan=False)  # As load_backbone has it on CPU.
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    backbone = Backbone(name=size, config=config, params=params)
    method = PromptTuningConfig(num_virtual_tokens=virtual)
    train = TrainConfig(optimizer="adamw", learning_rate=1e-3, batch_size=batch)
    state = start(init(method, backbone, jax.random.key(1)), train)
    step, frozen = compile_step(loss_fn(method, backbone), train), backbone.unstacked()
    rng = np.random.default_rng(0)
    data = Batch(
        rng.integers(2, 32000, (batch, text), np.int32),
        np.ones((batch, text), bool),
        rng.integers(2, 32000, (batch, target), np.int32),
        np.ones((batch, target), bool),
    )

    def run():
        nonlocal state
        state, metrics = step(state, frozen, data)
        return float(metrics["loss"])

    return run


def theirs(size, batch, text, virtual, target):
    """A closure that runs one step of PEFT."""
    preset = PRESETS[size]
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=preset.vocab_size,
            d_model=preset.d_model,
            d_kv=preset.d_kv,
            d_ff=preset.d_ff,
            num_heads=preset.num_heads,
            num_layers=preset.num_layers,
            num_decoder_layers=preset.num_decoder_layers,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
    )
    config = PeftConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=virtual)
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    tokens = torch.randint(2, 32000, (batch, text))
    mask, labels = torch.ones_like(tokens), torch.randint(2, 32000, (batch, target))

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return run


def seconds(run):
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main():
    """Prints a row a shape and the median ratio of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", type=int, nargs="*", help="indices of SHAPES; default all")
    parser.add_argument("--threads", type=int, help="torch threads; default torch's own choice")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()  # As the command line does; it serves both sides.
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"jax {jax.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    print("size          B    T    P   U   ours ex/s   PEFT ex/s   ratio (min .. max)")
    ratios = []
    for shape in [SHAPES[i] for i in options.shapes or range(len(SHAPES))]:
        us, them = ours(*shape), theirs(*shape)
        for run in (us, them, us, them):  # compile and warm up
            run()
        pairs = [(seconds(us), seconds(them)) for _ in range(options.rounds)]
        each = [their / our for our, their in pairs]
        ratios.append(statistics.median(each))
        size, batch, text, virtual, target = shape
        ours_rate = batch / statistics.median(our for our, _ in pairs)
        peft_rate = batch / statistics.median(their for _, their in pairs)
        print(
            f"{size:12s} {batch:3d} {text:4d} {virtual:4d} {target:3d} {ours_rate:11.1f} "
            f"{peft_rate:11.1f}   {ratios[-1]:.2f} ({min(each):.2f} .. {max(each):.2f})",
            flush=True,
        )
    print(f"median ratio over {len(ratios)} shapes: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
