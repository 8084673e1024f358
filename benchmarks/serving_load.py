"""A server under load: 64 prompts, many clients, prompts swapped all the while.

Starts `prompt-jax serve` on the embedded model with random prompts of 20 virtual tokens, and asks
for classes of texts of some 25 tokens from so many clients at once, each as fast as it is answered.
Meanwhile one prompt after the other gets a new version and loses its old one. Prints latencies,
rows a second, what was refused, the server's memory and its programs at the start and at the end,
and whether every answer names a version that its name stood for while it was asked.

    python benchmarks/serving_load.py --seconds 60
"""

import argparse
import asyncio
import collections
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import jax
import numpy as np

import prompt_jax as pj
from prompt_jax.methods import init
from prompt_jax.prompts import prompt_for
from prompt_jax.serve import Store
from prompt_jax.serve.http.prompts import packed

METHOD = pj.PromptTuningConfig(num_virtual_tokens=20)
TEXT = "the film is slow and long , but its two leads are warm and funny , and so in the end"
LABELS = ["negative", "positive"]


def make(backbone, count):
    """So many prompts."""
    return [prompt_for(init(METHOD, backbone, jax.random.key(i)), METHOD, backbone)
            for i in range(count)]  # fmt: skip


class Meaning:
    """Which versions a name stood for, and when."""

    def __init__(self, prompts):
        self.known = {name: [(0.0, prompt.digest)] for name, prompt in prompts.items()}
        self.until = collections.defaultdict(dict)

    def begin(self, name, digest):
        """From now on an answer may be of this version."""
        self.known[name].append((time.monotonic(), digest))

    def end(self, name, digest):
        """From now on no request that is sent is answered by it."""
        self.until[name][digest] = time.monotonic()

    def right(self, name, digest, sent, received):
        """Whether a request of then could have been answered so."""
        return any(
            digest == known and begun <= received and self.until[name].get(known, received) >= sent
            for begun, known in self.known[name]
        )


async def ask(port, names, generator, end, meaning, found):
    """One client on one connection: asks, is answered, asks again.

    It speaks HTTP itself: a client library at this rate would take a core from the server.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        name = names[generator.integers(len(names))]
        body = json.dumps({"model": name, "input": TEXT, "labels": LABELS}).encode()
        sent = time.monotonic()
        head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        told = (await reader.readuntil(b"\r\n\r\n")).lower()
        status, length = (
            int(told.split()[1]),
            int(told.partition(b"content-length: ")[2].split()[0]),
        )
        answer = json.loads(await reader.readexactly(length))
        received = time.monotonic()
        right = status == 200 and meaning.right(name, answer["prompt_digest"], sent, received)
        found.append((status, received - sent, right))
    writer.close()


async def swap(client, names, archives, end, meaning, took):
    """New versions for one name after the other; the old one goes."""
    count = 0
    while time.monotonic() < end:
        name = names[count % len(names)]
        digest, body = archives[(count + count // len(names)) % len(archives)]
        old = (await client.get(f"/v1/models/{name}")).json()
        began = time.monotonic()
        if digest != old["root"]:
            meaning.begin(name, digest)
            made = await client.put(f"/v1/prompts/{name}", content=body)
            made.raise_for_status()
            took.append(time.monotonic() - began)
            meaning.end(name, old["root"])
            version = old["id"].partition("@")[2]
            (await client.delete(f"/v1/prompts/{name}/{version}")).raise_for_status()
        count += 1
        await asyncio.sleep(0.1)


async def load(address, options, prompts, archives):
    """All of it, for so many seconds; what came of each request, and the seconds of each swap."""
    meaning, found, took = Meaning(prompts), [], []
    names, port = sorted(prompts), int(address.rpartition(":")[2])
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        end = time.monotonic() + options.seconds
        work = [
            ask(port, names, np.random.default_rng(i), end, meaning, found)
            for i in range(options.clients)
        ]
        await asyncio.gather(*work, swap(client, names, archives, end, meaning, took))
    return found, took


def ready(address):
    """Whether the server answers yet; waits a little where it does not."""
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.ConnectError:
        time.sleep(0.2)
        return False


def state(address, process):
    """The server's memory in MiB, and its programs."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    numbers = httpx.get(f"{address}/metrics").text
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
    return resident, float(re.search(r"^prompt_jax:xla_programs (\S+)", numbers, re.M)[1])


def main():
    """Prints what the docstring says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=64)
    options = parser.parse_args()
    backbone = pj.load_backbone("embedded")
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place, "store"))
        made = make(backbone, options.prompts + 16)
        prompts = {f"p{i:02}": prompt for i, prompt in enumerate(made[: options.prompts])}
        for name, prompt in prompts.items():
            store.put(name, prompt)
        archives = [
            (prompt.digest, packed(pj.save_prompt(Path(place, f"new{i}"), prompt)))
            for i, prompt in enumerate(made[options.prompts :])
        ]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "prompt_jax", "serve", "--store", str(store.root)]
        address = f"http://127.0.0.1:{port}"
        with subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL) as server:
            while not ready(address):
                assert server.poll() is None, "the server has ended"
            asyncio.run(warm(address))
            before = state(address, server)
            found, took = asyncio.run(load(address, options, prompts, archives))
            after = state(address, server)
            server.terminate()
    seconds = sorted(taken for code, taken, _ in found if code == 200)
    p50, p95, p99 = (1e3 * np.quantile(seconds, q) for q in (0.5, 0.95, 0.99))
    wrong = sum(not right for code, _, right in found if code == 200)
    codes = dict(collections.Counter(code for code, _, _ in found))
    tokens = len(backbone.tokenizer(TEXT)["input_ids"])
    print(f"{options.clients} clients, texts of {tokens} tokens: "
          f"{len(seconds) / options.seconds:.0f} rows a second; "
          f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms")  # fmt: skip
    print(f"answers by status: {codes}; of a version that the name did not stand for: {wrong}")
    print(f"{len(took)} prompts replaced, p99 {1e3 * np.quantile(took, 0.99):.0f} ms each")
    print(
        f"memory {before[0]:.0f} -> {after[0]:.0f} MiB; programs {before[1]:.0f} -> {after[1]:.0f}"
    )


async def warm(address):
    """A few requests of each kind, before anything is measured."""
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        body = {"model": "p00", "input": [TEXT] * 32, "labels": LABELS}
        for _ in range(20):
            (await client.post("/v1/classify", json=body)).raise_for_status()


if __name__ == "__main__":
    main()
