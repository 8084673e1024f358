"""Examples per second of a training step: prompt_jax against PEFT on torch, same shapes.

Both sides train on a random T5 1.1 (virtual tokens), or on the decoder of a folder (a soft prompt,
a prefix, a LoRA), in float32 with AdamW, on the same machine and in the same process, one after the
other in every round, so that a change of the machine's speed meets both. The ratio is taken round
by round, and its median printed.

    pip install "prompt-jax[parity]"
    python benchmarks/train_step_vs_peft.py --rounds 7
    python benchmarks/train_step_vs_peft.py --folder smollm2 --rounds 7
"""

import argparse
import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable

import jax
import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from prompt_jax import load_backbone
from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.t5 import PRESETS
from prompt_jax.backbones.t5 import T5Config as BackboneT5Config
from prompt_jax.config import MethodConfig, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn
from prompt_jax.methods import LoraConfig, PrefixTuningConfig, PromptTuningConfig, init
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
BATCH, TEXT, TARGET, VIRTUAL, RANK = 8, 44, 4, 20, 8  # Of a step on a decoder.
METHODS = {
    "prompt": (
        PromptTuningConfig(num_virtual_tokens=VIRTUAL, init="random"),
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    ),
    "prefix": (
        PrefixTuningConfig(num_virtual_tokens=VIRTUAL),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    ),
    "lora": (
        LoraConfig(r=RANK, target_modules=("q_proj", "v_proj")),
        peft.LoraConfig(task_type="CAUSAL_LM", r=RANK, target_modules=["q_proj", "v_proj"]),
    ),
}
Step = Callable[[], float]
"""Runs a step, waits for it and gives its loss."""


def our_step(backbone: Backbone, method: MethodConfig, data: Batch) -> Step:
    """A step of prompt_jax."""
    train = TrainConfig(optimizer="adamw", learning_rate=1e-3, batch_size=len(data.tokens))
    state = start(init(method, backbone, jax.random.key(1)), train)
    step, frozen = compile_step(loss_fn(method, backbone), train), backbone.unstacked()

    def run() -> float:
        nonlocal state
        state, metrics = step(state, frozen, data)
        return float(metrics["loss"])

    return run


def peft_step(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Step:
    """A step of PEFT."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def rows_of(batch: int, text: int, target: int, vocabulary: int) -> Batch:
    """Random tokens without padding."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, vocabulary, (batch, text), np.int32)
    targets = rng.integers(2, vocabulary, (batch, target), np.int32)
    return Batch(tokens, np.ones((batch, text), bool), targets, np.ones((batch, target), bool))


def peer_config(preset: BackboneT5Config) -> T5Config:
    """A preset's sizes for Transformers, without dropout."""
    return T5Config(
        **{name: getattr(preset, name) for name in ("vocab_size", "d_model", "d_kv", "d_ff")},
        num_heads=preset.num_heads,
        num_layers=preset.num_layers,
        num_decoder_layers=preset.num_decoder_layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )


def of_t5(size: str, batch: int, text: int, virtual: int, target: int) -> tuple[Step, Step]:
    """Both sides on a T5 of random weights."""
    preset = PRESETS[size]
    config = dataclasses.replace(preset, scan=False)  # As load_backbone has it on CPU.
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    backbone = Backbone(name=size, config=config, params=params)
    data = rows_of(batch, text, target, 32000)
    plain = T5ForConditionalGeneration(peer_config(preset))
    settings = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=virtual)
    tokens, labels = (torch.tensor(x).long() for x in (data.tokens, data.targets))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
    ours = our_step(backbone, PromptTuningConfig(num_virtual_tokens=virtual), data)
    return ours, peft_step(peft.get_peft_model(plain, settings).train(), inputs)


def of_decoder(folder: str, name: str) -> tuple[Step, Step]:
    """Both sides on the decoder of a folder."""
    backbone = load_backbone(folder, dtype="float32")
    ours, settings = METHODS[name]
    data = rows_of(BATCH, TEXT, TARGET, backbone.config.vocab_size)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # Behind the text stands the target, which alone has labels.
    tokens = torch.tensor(np.concatenate([data.tokens, data.targets], axis=1)).long()
    labels = tokens.clone()
    labels[:, :TEXT] = -100
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
    method = dataclasses.replace(ours, task_type="CAUSAL_LM")
    step = our_step(backbone, method, data)
    return step, peft_step(peft.get_peft_model(plain, settings).train(), inputs)


def seconds(run: Step) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def compare(label: str, batch: int, steps: tuple[Step, Step], rounds: int) -> float:
    """Prints a row, and gives its median ratio."""
    ours, peft_side = steps
    for run in (*steps, *steps):  # Compile and warm up.
        run()
    pairs = [(seconds(ours), seconds(peft_side)) for _ in range(rounds)]
    ratios = [slow / fast for fast, slow in pairs]
    our_rate, peft_rate = (batch / statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"{label:36s} {our_rate:11.1f} {peft_rate:11.1f}   "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})",
        flush=True,
    )
    return statistics.median(ratios)


def main() -> None:
    """Prints a row a shape, or a method, and the median ratio of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", type=int, nargs="*", help="indices of SHAPES; default all")
    parser.add_argument("--folder", help="of a decoder, which is measured in place of T5")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, help="torch threads; default torch's own choice")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()  # As the command line does; it serves both sides.
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"jax {jax.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    print(f"{'':36s}   ours ex/s   PEFT ex/s   ratio (min .. max)")
    ratios = []
    if options.folder:
        for name in options.methods:
            label = f"{name:8s} B {BATCH}  T {TEXT}  U {TARGET}"
            steps = of_decoder(options.folder, name)
            ratios.append(compare(label, BATCH, steps, options.rounds))
    else:
        for size, batch, text, virtual, target in [
            SHAPES[i] for i in options.shapes or range(len(SHAPES))
        ]:
            label = f"{size:12s} B {batch}  T {text}  P {virtual}  U {target}"
            steps = of_t5(size, batch, text, virtual, target)
            ratios.append(compare(label, batch, steps, options.rounds))
    print(f"median ratio over {len(ratios)} rows: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
