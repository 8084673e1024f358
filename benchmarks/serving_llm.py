"""Tokens per second of the engine's writing, beside `generate` and Transformers with PEFT.

All answer the same texts greedily in float32, in one process and one after the other in every
round, so that a change of the machine's speed meets all of them: `generate` with all rows in a
batch; `serve.Engine` with a request a row, all sent at once; the same over HTTP, where each request
is a stream of its own (the model needs a tokenizer); Transformers with PEFT, in a batch where all
rows have one prompt, and a row at a time under its own adapter where each has another. No answer
may end, so all write the same number of tokens, and the texts are compared.

The first token of the engine, and over HTTP, is when a stream gets it, the median over the
requests; that of PEFT is a call for one token of all rows, or of the first row where each has its
own prompt. Server and clients of HTTP share the process with the engine.

    pip install "prompt-jax[parity]"
    python benchmarks/serving_llm.py    # a random model of SmolLM2's shape
    python benchmarks/serving_llm.py --folder smollm2 --requests 1 8 16 --rounds 5
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import httpx
import jax
import numpy as np
import torch
from generate_vs_transformers import random_model
from peft import PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

import prompt_jax as pj
from prompt_jax.backbones import Backbone
from prompt_jax.forward import Injection
from prompt_jax.generate import generate, read_once
from prompt_jax.prompts import Prompt, prompt_for
from prompt_jax.runtime import prepare
from prompt_jax.serve import Engine, Kind, Store, Written
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import Keys, create_app
from prompt_jax.serve.http.run import server_of
from prompt_jax.trees import Tokenizer

LENGTHS, ROOM = (32, 128), 64
Side = Callable[[], np.ndarray]
"""Writes all answers [B, U]."""


def random_prompts(backbone: Backbone, count: int, virtual: int) -> list[Prompt]:
    """Prompts in the scale of the table, as those that start from words are."""
    config, rng = pj.PromptTuningConfig(num_virtual_tokens=virtual), np.random.default_rng(1)
    rows = rng.standard_normal((count, virtual, backbone.width), np.float32) * backbone.word_size
    return [
        prompt_for({"prompt": row}, config, backbone, name=f"p{i}") for i, row in enumerate(rows)
    ]


def adapted(folder: str, prompts: list[Prompt]) -> PeftModel:
    """PEFT with an adapter for every prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for i, prompt in enumerate(prompts):
        rows = np.asarray(prompt.injection().prompt)
        settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(rows))
        if i:
            model.add_adapter(prompt.name, settings)
        else:
            model = get_peft_model(model, settings, adapter_name=prompt.name)
        with torch.no_grad():
            model.prompt_encoder[prompt.name].embedding.weight.copy_(torch.tensor(rows))
    return model.eval()


def generate_side(backbone: Backbone, prompts: list[Prompt], tokens: np.ndarray, new: int) -> Side:
    """All rows in a batch of `generate`."""
    rows = np.stack([np.asarray(prompt.injection().prompt) for prompt in prompts])
    # One prompt for all rows has no axis of rows, and is read once, as `PromptTuningModel` does.
    alone = len({prompt.name for prompt in prompts}) == 1
    injection = read_once(backbone, Injection(rows[0])) if alone else Injection(rows)
    inputs = (backbone, injection, tokens, np.ones(tokens.shape, bool))
    return lambda: generate(*inputs, max_new_tokens=new, min_new_tokens=new)


def engine_side(
    engine: Engine, prompts: list[Prompt], tokens: np.ndarray, new: int, firsts: list[float]
) -> Side:
    """A request a row; seconds to first tokens are added to `firsts`."""

    def write() -> np.ndarray:
        begun, times = time.perf_counter(), {}

        def ask(row: int) -> Future[Written]:
            def note(_: Written) -> None:
                times.setdefault(row, time.perf_counter() - begun)

            return engine.generate(
                prompts[row].name, tokens[row], max_new_tokens=new, min_new_tokens=new, stream=note
            )

        futures = [ask(row) for row in range(len(tokens))]
        answers = np.stack([future.result().tokens for future in futures])
        firsts.append(statistics.median(times.values()))
        return answers

    return write


@contextlib.contextmanager
def listening(engine: Engine, prompts: list[Prompt]) -> Iterator[str]:
    """The address of a server with this engine and these prompts."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for prompt in prompts:
            store.put(prompt.name, prompt)
        catalog = Catalog(engine, store)
        catalog.refresh()
        server = server_of(create_app(catalog, Keys(())), "127.0.0.1", 0)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def http_side(
    address: str, prompts: list[Prompt], tokens: np.ndarray, new: int, firsts: list[float]
) -> Side:
    """As `engine_side`, a stream a row; gives texts [B]."""

    async def ask(web: httpx.AsyncClient, row: int, begun: float, times: dict[int, float]) -> str:
        body = {"model": prompts[row].name, "prompt": tokens[row].tolist(), "stream": True}
        body |= {"max_tokens": new, "min_tokens": new, "temperature": 0}
        text = ""
        async with web.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
                    times.setdefault(row, time.perf_counter() - begun)
        return text

    async def ask_all() -> list[str]:
        begun, times = time.perf_counter(), {}
        async with httpx.AsyncClient(base_url=address, timeout=600) as web:
            asked = [ask(web, row, begun, times) for row in range(len(tokens))]
            texts = await asyncio.gather(*asked)
        firsts.append(statistics.median(times.values()))
        return texts

    return lambda: np.array(asyncio.run(ask_all()))


def peft_side(model: PeftModel, prompts: list[Prompt], tokens: np.ndarray, new: int) -> Side:
    """A batch of all rows, or a row at a time where prompts differ."""
    apart = len({prompt.name for prompt in prompts}) > 1
    batches = [[i] for i in range(len(tokens))] if apart else [list(range(len(tokens)))]

    def write() -> np.ndarray:
        answers = []
        for rows in batches:
            model.set_adapter(prompts[rows[0]].name)
            texts = torch.tensor(tokens[rows])
            with torch.inference_mode():
                written = model.generate(
                    input_ids=texts, attention_mask=torch.ones_like(texts), do_sample=False,
                    max_new_tokens=new, min_new_tokens=new, pad_token_id=0,
                )  # fmt: skip
            answers.append(written[:, -new:].numpy())
        return np.concatenate(answers)

    return write


def seconds(side: Side) -> float:
    """Wall-clock seconds of one call."""
    begun = time.perf_counter()
    side()
    return time.perf_counter() - begun


def measure(sides: dict[str, Side], first: Side, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, by side; `first` is PEFT's first token."""
    sides = {**sides, "first": first}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(seconds(side))
    return times


def main() -> None:
    """Prints a row for each number of requests, with one prompt and with a prompt each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="of a decoder; default a random one of SmolLM2's shape")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, nargs="*", default=[1, 8, 16])
    parser.add_argument("--virtual", type=int, default=20, help="tokens of a prompt")
    parser.add_argument("--text", type=int, default=32, help="tokens of every text")
    parser.add_argument("--new", type=int, default=48, help="tokens of every answer")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()  # As the command line does; it serves all sides.
    most = max(options.requests)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        if not options.folder:
            random_model(folder)
        backbone = pj.load_backbone(folder, dtype="float32")
        prompts = random_prompts(backbone, most, options.virtual)
        model = adapted(folder, prompts)
    rng = np.random.default_rng(0)
    print(f"jax {jax.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    print(
        "tokens/s            generate  engine    HTTP    PEFT  engine over: generate   PEFT  "
        "HTTP over engine  first token: engine   HTTP   PEFT  same tokens"
    )
    named = {prompt.name: prompt for prompt in prompts}
    with (
        Engine(backbone, named, lengths=LENGTHS, max_new_tokens=ROOM, places=most) as engine,
        contextlib.ExitStack() as servers,
    ):
        begun = time.perf_counter()
        counts = [most // 2**i for i in range(most.bit_length())]
        kinds = [Kind("write", length, count) for length in LENGTHS for count in counts]
        # The largest board is that of `WRITE`.
        engine.warm_up([Kind("write"), *kinds[: -len(counts)], *kinds[-len(counts) + 1 :]])
        print(f"{engine.stats.shapes} programs in {time.perf_counter() - begun:.0f} s", flush=True)
        address = ""
        if backbone.tokenizer is not None:
            address = servers.enter_context(listening(engine, prompts))
        for count in options.requests:
            for apart in (False, True) if count > 1 else (False,):
                tokens = rng.integers(
                    3, backbone.config.vocab_size, (count, options.text), np.int32
                )
                rows = prompts[:count] if apart else prompts[:1] * count
                firsts: dict[str, list[float]] = {"engine": [], "HTTP": []}
                sides = {
                    "generate": generate_side(backbone, rows, tokens, options.new),
                    "engine": engine_side(engine, rows, tokens, options.new, firsts["engine"]),
                    "PEFT": peft_side(model, rows, tokens, options.new),
                }
                if address:
                    sides["HTTP"] = http_side(address, rows, tokens, options.new, firsts["HTTP"])
                answers = {name: side() for name, side in sides.items()}  # Compiles, warms up.
                same = agreement(answers, backbone.tokenizer)
                for seconds_to_first in firsts.values():
                    seconds_to_first.clear()
                few = slice(1) if apart else slice(None)
                first = peft_side(model, rows[few], tokens[few], 1)
                times = measure(sides, first, options.rounds)
                firsts["PEFT"] = times.pop("first")
                label = f"{count:2d}, {'a prompt each' if apart else 'one prompt'}"
                report(label, count * options.new, times, firsts, same)


def agreement(answers: dict[str, np.ndarray], tokenizer: Tokenizer | None) -> float:
    """The least share of tokens, or over HTTP of texts, that are those of the engine."""
    written = answers["engine"]
    shares = [(written == answers[name]).mean() for name in ("generate", "PEFT")]
    if tokenizer is not None:
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in written]
        shares.append((np.array(texts) == answers["HTTP"]).mean())
    return float(min(shares))


def report(
    label: str,
    tokens: int,
    times: dict[str, list[float]],
    firsts: dict[str, list[float]],
    same: float,
) -> None:
    """A row of the table; NaN stands for what was not run."""

    def rate(name: str) -> float:
        return tokens / statistics.median(times[name]) if name in times else np.nan

    def ratio(name: str, base: str) -> float:
        """Tokens/s of a side over those of another, in the same rounds."""
        if not {name, base} <= times.keys():
            return np.nan
        return statistics.median(
            there / here for there, here in zip(times[base], times[name], strict=True)
        )

    def first(name: str) -> float:
        return statistics.median(firsts[name]) if firsts[name] else np.nan

    print(
        f"{label:<17} {rate('generate'):10.1f} {rate('engine'):7.1f} {rate('HTTP'):7.1f} "
        f"{rate('PEFT'):7.1f} {ratio('engine', 'generate'):22.2f} {ratio('engine', 'PEFT'):6.2f} "
        f"{ratio('HTTP', 'engine'):17.2f} {first('engine'):20.3f} {first('HTTP'):6.3f} "
        f"{first('PEFT'):6.3f} {same:12.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
