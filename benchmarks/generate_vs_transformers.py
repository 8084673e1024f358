"""Tokens per second of `generate` against Transformers, with and without a prompt.

Both sides write greedily from the same folder in float32, in the same process, one after the other
in every round, so that a change of the machine's speed meets both. No answer may end, so both write
the same number of tokens. The prompt is random: here an `Injection`, there a prompt of PEFT with
the same numbers. The texts that both sides write are compared, too.

    pip install "prompt-jax[parity]"
    python benchmarks/generate_vs_transformers.py    # a random model of SmolLM2's shape
    python benchmarks/generate_vs_transformers.py --folder smollm2 --rounds 7
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import jax
import numpy as np
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from prompt_jax import load_backbone
from prompt_jax.backbones import Backbone
from prompt_jax.forward import Injection
from prompt_jax.generate import generate, read_once
from prompt_jax.runtime import prepare

SMOLLM2 = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
Writer = Callable[[], np.ndarray]


def random_model(folder: str) -> None:
    """Writes a random model of SmolLM2-135M's shape."""
    torch.manual_seed(0)
    LlamaForCausalLM(SMOLLM2).save_pretrained(folder)


def writers(
    backbone: Backbone,
    model: LlamaForCausalLM | PeftModel,
    prompt: np.ndarray | None,
    tokens: np.ndarray,
    new: int,
) -> tuple[Writer, Writer]:
    """Closures in which each side writes `new` tokens for every row and waits for them."""
    mask = np.ones_like(tokens)
    injection = read_once(backbone, None if prompt is None else Injection(prompt))
    # As many tokens at least as at most: no end is taken.
    length = {"max_new_tokens": new, "min_new_tokens": new}

    def prompt_jax_side() -> np.ndarray:
        return generate(backbone, injection, tokens, mask.astype(bool), **length)

    def transformers_side() -> np.ndarray:
        with torch.inference_mode():
            texts = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
            rows = model.generate(**texts, **length, do_sample=False, pad_token_id=0)
        return rows[:, -new:].numpy()

    return prompt_jax_side, transformers_side


def with_prompt(model: LlamaForCausalLM, prompt: np.ndarray) -> PeftModel:
    """The model behind PEFT's prompt tuning, its virtual tokens being these."""
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(prompt))
    tuned = get_peft_model(model, settings).eval()
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.copy_(torch.tensor(prompt))
    return tuned


def seconds(write: Writer) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    write()
    return time.perf_counter() - begin


def main() -> None:
    """Prints a row for each prompt and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="of a decoder; default a random one of SmolLM2's shape")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--virtual", type=int, default=20, help="tokens of the prompt")
    parser.add_argument("--text", type=int, default=32, help="tokens of every text")
    parser.add_argument("--new", type=int, default=48, help="tokens of every answer")
    parser.add_argument("--threads", type=int, help="torch threads; default torch's own choice")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()  # As the command line does; it serves both sides.
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        if not options.folder:
            random_model(folder)
        backbone = load_backbone(folder, dtype="float32")
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    # In the scale of the table, as a prompt that starts from words is.
    scale = float(np.asarray(backbone.table).std())
    shape = (options.virtual, backbone.width)
    prompt = (rng.standard_normal(shape) * scale).astype(np.float32)
    print(f"jax {jax.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    print("  B    P   ours tok/s   theirs tok/s   ratio (min .. max)   same tokens")
    for rows in (None, prompt):
        model = plain if rows is None else with_prompt(plain, rows)
        for batch in options.batches:
            size = (batch, options.text)
            tokens = rng.integers(3, backbone.config.vocab_size, size, np.int32)
            us, them = writers(backbone, model, rows, tokens, options.new)
            same = float((us() == them()).mean())  # Compiles and warms up.
            pairs = [(seconds(us), seconds(them)) for _ in range(options.rounds)]
            ratios = [their / our for our, their in pairs]
            written = batch * options.new
            print(
                f"{batch:3d} {0 if rows is None else len(rows):4d} "
                f"{written / statistics.median(our for our, _ in pairs):12.1f} "
                f"{written / statistics.median(their for _, their in pairs):14.1f}   "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
                f"{same:19.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
