"""Requests per second of an engine whose requests want 1, 8, 64 or 1,000 prompts, and of PEFT's.

Every request is a text of 36 tokens, a prompt of 20 virtual tokens and two words to weigh. The
engine has 64 slots, takes them as they come and mixes prompts in a batch; PEFT groups a batch of 32
by prompt, switches its adapter for each group and asks what the group's rows are asked. Sides take
turns in every round, so that a change of the machine's speed meets all; medians are printed, and
ratios taken round by round.

    pip install "prompt-jax[parity]"
    python benchmarks/mixed_serving.py --rounds 5
"""

import argparse
import itertools
import statistics
import time
import warnings

import jax
import numpy as np
import torch
from peft import PromptTuningConfig as PeftConfig
from peft import get_peft_model
from transformers import T5ForConditionalGeneration

from prompt_jax.methods import PromptTuningConfig, init
from prompt_jax.prompts import prompt_for
from prompt_jax.runtime import prepare
from prompt_jax.serve import Engine, Kind
from prompt_jax.weights import load_backbone
from prompt_jax.weights.hub import locate

STORES, PEFT_STORES = (1, 8, 64, 1000), (1, 8, 64)
REQUESTS, BATCH, TEXT, VIRTUAL = 256, 32, 36, 20
WORDS = [[1465], [2841]]
REST = 0.3
"""Seconds for which torch's threads wait for more work, on cores that the next side needs."""


def requests_of(prompts, seed):
    """Who wants what: a prompt's number and a text for every request."""
    rng = np.random.default_rng(seed)
    texts = rng.integers(2, 16000, (REQUESTS, TEXT)).astype(np.int32)
    return rng.integers(0, prompts, REQUESTS), texts


def ours(backbone, prompts):
    """An engine with so many prompts, and a closure that answers requests."""
    method = PromptTuningConfig(num_virtual_tokens=VIRTUAL)
    made = (init(method, backbone, jax.random.key(i)) for i in range(prompts))
    named = {str(i): prompt_for(tree, method, backbone) for i, tree in enumerate(made)}
    engine = Engine(backbone, named, slots=64, rows=(BATCH,), lengths=(TEXT,), queue=REQUESTS)
    engine.warm_up([Kind("score", TEXT, 2, 1)])

    def run(which, texts):
        asked = zip(which, texts, strict=True)
        found = [engine.score(str(prompt), text, WORDS) for prompt, text in asked]
        return [future.result().log_likelihoods for future in found]

    return engine, run


def theirs(folder, prompts):
    """The same through PEFT, with an adapter for every prompt."""
    base = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    config = PeftConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=VIRTUAL, num_transformer_submodules=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That adapters are added one by one.
        model = get_peft_model(base, config, adapter_name="0").eval()
        for i in range(1, prompts):
            model.add_adapter(str(i), config)
    words = torch.tensor([word[0] for word in WORDS])

    @torch.inference_mode()
    def run(which, texts):
        found = [None] * len(which)
        for start in range(0, len(which), BATCH):
            rows = sorted(range(start, start + BATCH), key=lambda row: which[row])
            for prompt, group in itertools.groupby(rows, key=lambda row: which[row]):
                group = list(group)
                model.set_adapter(str(prompt))
                tokens = torch.from_numpy(texts[group]).long()
                begin = torch.zeros(len(group), 1, dtype=torch.long)
                out = model(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    decoder_input_ids=begin,
                )
                weighed = out.logits[:, 0].log_softmax(-1)[:, words].numpy()
                for row, values in zip(group, weighed, strict=True):
                    found[row] = values
        return found

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    prepare()
    backbone = load_backbone("embedded")
    folder = locate("embedded", None, None)
    peft = {count: theirs(folder, count) for count in PEFT_STORES}
    engines = {count: ours(backbone, count) for count in STORES}
    sides = {("engine", count): run for count, (_, run) in engines.items()}
    sides |= {("PEFT", count): run for count, run in peft.items()}
    times = {side: [] for side in sides}
    for number in range(1, rounds + 1):
        for side, run in sides.items():
            asked = requests_of(side[1], number)
            time.sleep(REST)
            run(*(part[:BATCH] for part in asked))  # What comes first after a rest is slow.
            began = time.perf_counter()
            run(*asked)
            times[side].append(time.perf_counter() - began)
    print(f"{REQUESTS} requests of {TEXT} tokens, {VIRTUAL} virtual; median of {rounds} rounds\n")
    print("| prompts | engine, rows/s | over 1 prompt | PEFT, rows/s | engine over PEFT |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for count in STORES:
        own, one = times["engine", count], times["engine", 1]
        other = times.get(("PEFT", count))
        cells = [f"{REQUESTS / statistics.median(own):.1f}", f"{ratio(one, own):.2f}"]
        cells += [f"{REQUESTS / statistics.median(other):.1f}" if other else ""]
        cells += [f"{ratio(other, own):.1f}" if other else ""]
        print(f"| {count} | {' | '.join(cells)} |")
    for count, (engine, _) in engines.items():
        stats = engine.stats
        print(f"\n{count} prompts: {stats.loaded} put into slots, {stats.batches} batches", end="")
        engine.close()
    print()


def ratio(slow, fast):
    """The median of how much longer one side took than the other, round by round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


if __name__ == "__main__":
    main()
