"""Time to decode with a prompt of 100 virtual tokens, over the plain decoder's on the same texts.

    python benchmarks/prompt_reuse.py [--rounds 15] [--virtual 100]

A random GPT-2 of 6 layers and width 384 continues texts of 32 tokens by 32: without a prompt,
with one that is read with every text, and with one that was read once (`read_once`), which is what
`predict`, `evaluate` and `PromptTuningModel.generate` do. The three take turns in one run.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.causal import CausalConfig
from prompt_jax.forward import Injection
from prompt_jax.generate import generate, read_once
from prompt_jax.runtime import prepare

TEXT, NEW = 32, 32
BATCHES = (1, 8)


def main():
    """Prints the medians of every way and their ratios, a row a batch size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--virtual", type=int, default=100)
    options = parser.parse_args()
    prepare()
    config = CausalConfig(d_model=384, num_heads=6, num_kv_heads=6, d_ff=1536, num_layers=6)
    params = init_params(config, jax.random.key(0))
    backbone = Backbone(name="gpt2", config=config, params=params)
    rows = jax.random.normal(jax.random.key(1), (options.virtual, config.d_model))
    ways = {
        "plain": None,
        "read every time": Injection(rows),
        "read once": read_once(backbone, Injection(rows)),
    }
    print(f"{'rows':>4}  {'way':<16} {'ms':>8} {'over plain':>11}")
    for batch in BATCHES:
        tokens = np.random.default_rng(0).integers(2, 50000, (batch, TEXT)).astype(np.int32)
        mask = np.ones(tokens.shape, bool)
        taken = {way: [] for way in ways}
        for turn in range(options.rounds + 1):
            for way, injection in ways.items():
                begin = time.perf_counter()
                generate(backbone, injection, tokens, mask, max_new_tokens=NEW)
                if turn:  # The first one compiles.
                    taken[way].append(time.perf_counter() - begin)
        for way, seconds in taken.items():
            ratio = statistics.median(s / p for s, p in zip(seconds, taken["plain"], strict=True))
            print(f"{batch:>4}  {way:<16} {1e3 * statistics.median(seconds):>8.1f} {ratio:>9.2f} x")


if __name__ == "__main__":
    main()
