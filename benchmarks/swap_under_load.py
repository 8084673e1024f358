"""A thousand prompts of 100 virtual tokens put, replaced and removed while four threads ask.

Prints how long each change takes, how many programs were compiled meanwhile, and whether every
answer is, to the bit, what the version that it names says in an engine that nobody disturbs.

    python benchmarks/swap_under_load.py
"""

import argparse
import threading
import time

import jax
import numpy as np

from prompt_jax.methods import PromptTuningConfig
from prompt_jax.prompts import Prompt
from prompt_jax.runtime import prepare
from prompt_jax.serve import Engine, Kind, UnknownPromptError
from prompt_jax.weights import load_backbone

THREADS, TEXT, WORDS = 4, list(range(100, 130)), [[1465], [2841]]
PAUSE = 0.005
"""Seconds between changes, so that all of them together are made under load."""
METHOD = PromptTuningConfig(num_virtual_tokens=100)
SHAPES = {"rows": (8,), "lengths": (32,), "slots": 64, "max_new_tokens": 8}


def version_of(backbone, name, number):
    """A prompt of random rows, as far from each other as words are."""
    rows = np.random.default_rng((name, number)).normal(size=(100, backbone.width))
    about = {"fingerprint": backbone.fingerprint, "backbone": backbone.name}
    return Prompt(tuned={"prompt": rows}, method=METHOD, name=str(name), **about)


def timed(work, *arguments):
    """Seconds of a call, some after the one before it."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def main():
    """Prints a row for every kind of change."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1000)
    count = parser.parse_args().prompts
    prepare()
    backbone = load_backbone("embedded")
    compiled, answers, failed = [], [], []

    def listen(name, *_, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    stop = threading.Event()
    with Engine(backbone, room=[METHOD], **SHAPES) as engine:
        engine.warm_up([Kind("score", 32, 2, 1)])
        versions = [
            [version_of(backbone, name, number) for name in range(count)] for number in (0, 1)
        ]
        jax.monitoring.register_event_duration_secs_listener(listen)

        def ask(seed):
            rng = np.random.default_rng(seed)
            while not stop.is_set():
                name = str(rng.integers(count))
                try:
                    got = engine.score(name, TEXT, WORDS).result()
                except UnknownPromptError:
                    time.sleep(0.001)
                except Exception as error:
                    failed.append(error)
                else:
                    answers.append((int(name), got))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        times = {}
        for what, number in (("insert", 0), ("replace", 1)):
            each = enumerate(versions[number])
            times[what] = [timed(engine.put, str(name), prompt) for name, prompt in each]
        times["remove"] = [timed(engine.remove, str(name)) for name in range(count)]
        stop.set()
        for thread in threads:
            thread.join()
        stats = engine.stats
        jax.monitoring.unregister_event_duration_listener(listen)
    print("| change | median, ms | p99, ms | longest, ms |\n| --- | ---: | ---: | ---: |")
    for what, seconds in times.items():
        middle, most = np.quantile(seconds, (0.5, 0.99))
        cells = [f"{1e3 * value:.2f}" for value in (middle, most, max(seconds))]
        print(f"| {what} | {' | '.join(cells)} |")
    print(f"\n{len(answers)} answers meanwhile, {len(failed)} failed", end="; ")
    print(f"{len(compiled)} programs compiled")
    print(f"{stats.batches} batches, {stats.mixed} of them mixed; {stats.loaded} put into slots")
    numbers = {prompt.digest: number for number in (0, 1) for prompt in versions[number]}
    wanted = {}
    with Engine(backbone, room=[METHOD], **SHAPES) as quiet:
        for name, got in answers:
            if got.digest not in wanted:
                quiet.put("x", versions[numbers[got.digest]][name])
                wanted[got.digest] = quiet.score("x", TEXT, WORDS).result().log_likelihoods
    same = sum(np.array_equal(got.log_likelihoods, wanted[got.digest]) for _, got in answers)
    news = sum(numbers[got.digest] for _, got in answers)
    print(f"{same} of them are to the bit those of their version, {news} of the new one")


if __name__ == "__main__":
    main()
