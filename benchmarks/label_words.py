"""Rows per second that label words rank: a whole sequence for each, and what they share read once.

Three ways to the same scores, one after the other in every round on the same rows, so that a change
of the machine's speed meets all:

    whole    the input and a label word read together, once for each label word
    shared   the input read once, and every label word behind its keys and values (`score`)
    ahead    also the prompt and what all texts begin with, read once for all rows (`read_ahead`)

    python benchmarks/label_words.py                      # random GPT-2 and Llama of six layers
    python benchmarks/label_words.py --beginning 0 --rounds 9
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.causal import CausalConfig, Rope
from prompt_jax.data import pad
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate import read_ahead, read_once, score
from prompt_jax.runtime import prepare

SIZES = {
    "vocab_size": 32000, "d_model": 384, "d_kv": 64, "d_ff": 1024, "num_heads": 6,
    "num_layers": 6, "max_positions": 1024, "eos_token_ids": (1,),
}  # fmt: skip
CONFIGS = {
    "gpt2": CausalConfig(model_type="gpt2", num_kv_heads=6, **SIZES),
    "llama": CausalConfig(
        model_type="llama", num_kv_heads=2, norm="rms", rope=Rope(), fused=False, qkv_bias=False,
        out_bias=False, mlp_bias=False, activation="silu", gated=True, **SIZES,
    ),
}  # fmt: skip
Scorer = Callable[[], np.ndarray]


@jax.jit
def likelihoods(model: PromptedModel, tokens: jax.Array, mask: jax.Array, word: jax.Array):
    """The log-likelihood of a label word behind every text, read with it."""
    targets = jnp.broadcast_to(word, (len(tokens), len(word)))
    log_probs = jax.nn.log_softmax(model.target_logits(tokens, mask, targets))
    return jnp.take_along_axis(log_probs, targets[:, :, None], axis=2)[..., 0].sum(1)


def scorers(
    backbone: Backbone, injection: Injection, rows: list[np.ndarray], words: np.ndarray
) -> dict[str, Scorer]:
    """Closures that score all label words behind all rows, and wait for it."""
    model = PromptedModel.of(backbone, injection)
    real = np.ones(words.shape, bool)

    def whole() -> np.ndarray:
        inputs = pad(rows, max(map(len, rows)), 0)
        columns = [likelihoods(model, *inputs, word) for word in words]
        return np.stack([np.asarray(column) for column in columns], axis=1)

    def behind(injection: Injection | None, texts: list[np.ndarray]) -> np.ndarray:
        inputs = pad(texts, max(map(len, texts)), 0)
        return np.asarray(score(backbone, injection, *inputs, words, real, length_normalize=False))

    def ahead() -> np.ndarray:
        # Read anew in every call, as if for this one batch alone.
        read, rest = read_ahead(backbone, injection, rows)
        return behind(read_once(backbone, read), rest)

    return {"whole": whole, "shared": lambda: behind(injection, rows), "ahead": ahead}


def seconds(run: Scorer) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    """Prints a row for each model and number of label words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--text", type=int, default=64, help="tokens of every text")
    parser.add_argument("--beginning", type=int, default=32, help="of them, those all begin with")
    parser.add_argument("--virtual", type=int, default=20, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=2, help="of a label word, its end too")
    parser.add_argument("--labels", type=int, nargs="*", default=[2, 4, 8])
    options = parser.parse_args()
    prepare()  # As the command line does.
    rng = np.random.default_rng(0)
    print(f"{options.rows} rows of {options.virtual} + {options.text} tokens, rows a second")
    print("model  labels    whole   shared    ahead   shared/whole  ahead/shared   differ by")
    for name, config in CONFIGS.items():
        params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
        backbone = Backbone(name=name, config=config, params=params)
        shape = (options.virtual, config.d_model)
        injection = Injection(jnp.asarray(rng.standard_normal(shape, np.float32) * 0.02))
        rows = rng.integers(3, config.vocab_size, (options.rows, options.text), np.int32)
        rows[:, : options.beginning] = rows[:1, : options.beginning]
        for count in options.labels:
            words = rng.integers(3, config.vocab_size, (count, options.tokens), np.int32)
            words[:, -1] = 1
            ways = scorers(backbone, injection, list(rows), words)
            scores = [way() for way in ways.values()]  # Compiles and warms up.
            apart = max(float(np.abs(found - scores[0]).max()) for found in scores)
            rounds = [[seconds(way) for way in ways.values()] for _ in range(options.rounds)]
            whole, shared, ahead = (statistics.median(times) for times in zip(*rounds, strict=True))
            gain = statistics.median(times[0] / times[1] for times in rounds)
            more = statistics.median(times[1] / times[2] for times in rounds)
            rates = "".join(f"{options.rows / time:9.1f}" for time in (whole, shared, ahead))
            print(f"{name:6s} {count:6d}{rates}{gain:15.2f}{more:14.2f}{apart:12.1e}", flush=True)


if __name__ == "__main__":
    main()
