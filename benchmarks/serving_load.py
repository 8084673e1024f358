"""HTTP beside the engine alone, and a server that changes under load.

Five parts in one run, of the same length each: the embedded model, random prompts of 20 virtual
tokens, texts of 24 tokens, two label words, and clients that ask again once they are answered:

    engine    `Engine.score` in this process
    http      `/v1/classify` of `prompt-jax serve`, one connection a client
    changes   the same, while one prompt after the other is replaced, and one client more asks for
              label sets of new sizes, which the server has to compile for
    few       as http, by four clients that wait for 50 ms before they ask again: the server has
              time left, so that who waits does not wait for the cores
    few chg   the same with changes, in a server that was started anew

Prints rows a second and latencies of each, the longest time in which no answer came while somebody
waited for one (gap), what was refused, the server's memory and programs, and how many answers are
wrong: other probabilities than those of the version that they name, or one that their name did not
stand for while they were asked. No server finds programs on disk.

    python benchmarks/serving_load.py --seconds 60 --clients 128
"""

import argparse
import asyncio
import collections
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import httpx
import jax
import numpy as np
from serving_clients import (
    LABELS,
    TEXT,
    Reply,
    Versions,
    client,
    longest_gap,
    new_label_sets,
    replace,
    usual,
)

import prompt_jax as pj
from prompt_jax.backbones import Backbone
from prompt_jax.methods import init
from prompt_jax.prompts import Prompt, prompt_for
from prompt_jax.runtime import prepare
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.http.prompts import packed

METHOD = pj.PromptTuningConfig(num_virtual_tokens=20)
AsyncTask: TypeAlias = Callable[[float], Awaitable[None]]
FEW, THINKS = 4, 0.05
"""Clients that leave the server time, and seconds until they ask again."""


def random_prompts(backbone: Backbone, count: int) -> list[Prompt]:
    """Prompts that differ."""
    keys = map(jax.random.key, range(count))
    return [prompt_for(init(METHOD, backbone, key), METHOD, backbone) for key in keys]


async def engine_side(
    backbone: Backbone, prompts: dict[str, Prompt], clients: int, seconds: float
) -> list[Reply]:
    """The engine in this process, with as many requests under way as there are clients."""
    replies: list[Reply] = []
    names = sorted(prompts)

    async def ask(engine: Engine, generator: np.random.Generator, end: float) -> None:
        while (begin := time.monotonic()) < end:
            name = names[generator.integers(len(names))]
            answer = await asyncio.wrap_future(engine.score(name, TEXT, LABELS))
            right = answer.digest == prompts[name].digest
            replies.append(Reply(200, begin, time.monotonic(), right))

    with Engine(backbone, prompts) as engine:
        await asyncio.to_thread(engine.warm_up)
        end = time.monotonic() + seconds
        await asyncio.gather(*[
            ask(engine, np.random.default_rng(i), end) for i in range(clients)
        ])  # fmt: skip
    return replies


def answers_of(backbone: Backbone, candidates: Sequence[Prompt]) -> dict[str, float]:
    """The probability of the first label by every prompt, alone in an engine."""
    with Engine(backbone, room=[METHOD], rows=(1,), window=0.0) as engine:
        answers = dict[str, float]()
        for prompt in candidates:
            digest = engine.put("alone", prompt)
            scores = engine.score("alone", TEXT, LABELS).result().log_likelihoods
            answers[digest] = float(np.exp(scores[0] - np.logaddexp.reduce(scores)))
    return answers


def ready(address: str) -> bool:
    """Whether a server is there and warm."""
    try:
        return httpx.get(f"{address}/readyz", timeout=60).status_code == 200
    except httpx.TransportError:  # It listens before it answers.
        return False


@contextlib.asynccontextmanager
async def serving(store: Path) -> AsyncIterator[tuple[int, Callable[[], tuple[float, float]]]]:
    """A server of its own process: its port, and what tells its MiB of memory and its programs.

    It compiles all of its programs: nothing is there on disk.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prompt_jax", "serve", "--store", str(store)]
    command += ["--port", str(port), "--log-level", "warning"]
    address = f"http://127.0.0.1:{port}"

    def state() -> tuple[float, float]:
        status = Path(f"/proc/{process.pid}/status").read_text()
        numbers = httpx.get(f"{address}/metrics").text
        resident = re.search(r"VmRSS:\s+(\d+)", status)
        programs = re.search(r"^prompt_jax:xla_programs (\S+)", numbers, re.M)
        assert resident and programs
        return int(resident[1]) / 1024, float(programs[1])

    with (
        tempfile.TemporaryDirectory() as cache,
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        ) as process,
    ):
        try:
            while not ready(address):
                assert process.poll() is None, "the server has ended"
                await asyncio.sleep(0.2)
            yield port, state
        finally:
            process.terminate()


def show(part: str, replies: list[Reply], seconds: float) -> float:
    """Prints a row of the table; rows a second."""
    took = [reply.received - reply.sent for reply in replies if reply.status == 200]
    quantiles = [1000 * float(np.quantile(took, q)) for q in (0.5, 0.95, 0.99, 1.0)]
    rate = len(took) / seconds
    wrong = sum(not reply.right for reply in replies if reply.status == 200)
    statuses = dict(collections.Counter(reply.status for reply in replies))
    numbers = "".join(f"{value:7.0f}" for value in (*quantiles, 1000 * longest_gap(replies)))
    print(f"{part:9s} {rate:8.0f}   {numbers}   {wrong:5d}   {statuses}", flush=True)
    return rate


class Load:
    """Clients of one server, and the changes that it sees meanwhile.

    Args:
      archives: digests and bodies of the prompts that others are replaced with.
      state: tells the server's MiB of memory and its programs.
    """

    def __init__(
        self,
        port: int,
        state: Callable[[], tuple[float, float]],
        versions: Versions,
        names: Sequence[str],
        archives: list[tuple[str, bytes]],
    ):
        self._port, self._state, self._archives = port, state, archives
        self._names, self._versions = names, versions

    async def run(
        self, clients: int, seconds: float, thinks: float = 0.0, others: Sequence[AsyncTask] = ()
    ) -> list[Reply]:
        """What clients are answered in so many seconds."""
        replies: list[Reply] = []
        end = time.monotonic() + seconds
        asking = [usual(self._names, seed) for seed in range(clients)]
        await asyncio.gather(
            *[
                client(self._port, requests, end, self._versions, replies, thinks)
                for requests in asking
            ],
            *[task(end) for task in others],
        )
        return replies

    async def change(self, part: str, clients: int, seconds: float, thinks: float = 0.0) -> None:
        """Prints what clients are answered while prompts are replaced and label sets are new."""
        unseen, swaps, states = list[Reply](), list[float](), [self._state()]

        async def watch(end: float) -> None:
            for _ in range(2):
                await asyncio.sleep(seconds / 2)
                states.append(await asyncio.to_thread(self._state))

        async def ask(end: float) -> None:
            await client(self._port, new_label_sets(self._names), end, self._versions, unseen)

        address = f"http://127.0.0.1:{self._port}"
        async with httpx.AsyncClient(base_url=address, timeout=120) as web:

            async def swap(end: float) -> None:
                await replace(web, self._names, self._archives, end, self._versions, swaps)

            show(part, await self.run(clients, seconds, thinks, (watch, ask, swap)), seconds)
        show(" new sets", unseen, seconds)
        memory, programs = zip(*states, strict=True)
        print(
            f"{len(swaps)} prompts replaced, p99 {1000 * np.quantile(swaps, 0.99):.0f} ms each; "
            f"at the start, half-time and the end MiB of memory {np.round(memory)}, "
            f"programs {np.round(programs)}"
        )


async def run(options: argparse.Namespace, folder: Path) -> None:
    """All parts."""
    backbone = pj.load_backbone("embedded")
    candidates = random_prompts(backbone, options.prompts + 16)
    prompts = {f"p{i:02}": prompt for i, prompt in enumerate(candidates[: options.prompts])}
    archives = [
        (prompt.digest, packed(pj.save_prompt(folder / f"new{i}", prompt)))
        for i, prompt in enumerate(candidates[options.prompts :])
    ]
    answers = answers_of(backbone, candidates)
    clients, seconds = options.clients, options.seconds

    @contextlib.asynccontextmanager
    async def loading() -> AsyncIterator[Load]:
        """A load on a server of its own, whose store holds the first prompts."""
        with tempfile.TemporaryDirectory(dir=folder) as place:
            store = Store(Path(place))
            for name, prompt in prompts.items():
                store.put(name, prompt)
            async with serving(store.root) as (port, state):
                load = Load(port, state, Versions(prompts, answers), sorted(prompts), archives)
                await load.run(clients, 3.0)
                yield load

    print("part      rows/s       p50    p95    p99   most    gap   wrong   answers", flush=True)
    replies = await engine_side(backbone, prompts, clients, seconds)
    engine_rate = show("engine", replies, seconds)
    async with loading() as load:
        http_rate = show("http", await load.run(clients, seconds), seconds)
        show("few", await load.run(FEW, seconds, THINKS), seconds)
        await load.change("changes", clients, seconds)
    async with loading() as load:
        await load.change("few chg", FEW, seconds, THINKS)
    print(f"http over engine {http_rate / engine_rate:.2f}")


def main() -> None:
    """Prints what the docstring says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each part")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=64)
    options = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(options, Path(folder)))


if __name__ == "__main__":
    main()
