"""Clients of `serving_load.py`: what they ask a server, and whether its answers are right."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import httpx
import numpy as np

from prompt_jax.prompts import Prompt

TEXT = "the film is slow and long , but its two leads are warm and funny , and so in the end"
LABELS = ["negative", "positive"]
PAUSE = 0.1
"""Seconds between two replacements."""


class Reply(NamedTuple):
    """What came of one request."""

    status: int
    sent: float
    received: float
    right: bool


class Versions:
    """Which versions a name stood for, and when.

    Args:
      answers: the probability of the first label by each version.
    """

    def __init__(self, prompts: dict[str, Prompt], answers: dict[str, float]):
        self._begins = {name: [(0.0, prompt.digest)] for name, prompt in prompts.items()}
        self._ends: dict[tuple[str, str], float] = {}
        self._answers = answers

    def begin(self, name: str, digest: str) -> None:
        """From now on an answer may be of this version."""
        self._begins[name].append((time.monotonic(), digest))

    def end(self, name: str, digest: str) -> None:
        """From now on no request that is sent is answered by it."""
        self._ends[name, digest] = time.monotonic()

    def answer(self, digest: str, probs: dict[str, float]) -> bool:
        """Whether probabilities are those of a version; of new labels they are not known."""
        return list(probs) != LABELS or abs(probs[LABELS[0]] - self._answers[digest]) < 1e-4

    def allow(self, name: str, digest: str, sent: float, received: float) -> bool:
        """Whether a request of then could have been answered by a version."""
        return self._ends.get((name, digest), received) >= sent and any(
            version == digest and begin <= received for begin, version in self._begins[name]
        )


async def client(
    port: int,
    requests: Iterator[tuple[str, list[str]]],
    end: float,
    versions: Versions,
    replies: list[Reply],
    thinks: float = 0.0,
) -> None:
    """One client on one connection: asks, is answered, asks again some seconds later.

    It speaks HTTP itself: a client library at this rate would take a core from the server.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    while time.monotonic() < end:
        name, labels = next(requests)
        body = json.dumps({"model": name, "input": TEXT, "labels": labels}).encode()
        sent = time.monotonic()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received_head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(received_head.partition(b"content-length: ")[2].split()[0])
        answer = json.loads(await reader.readexactly(length))
        received, status = time.monotonic(), int(received_head.split()[1])
        digest = answer.get("prompt_digest", "")
        right = status == 200 and versions.allow(name, digest, sent, received)
        right = right and versions.answer(digest, answer["data"][0]["probs"])
        replies.append(Reply(status, sent, received, right))
        await asyncio.sleep(thinks)
    writer.close()


def usual(names: Sequence[str], seed: int) -> Iterator[tuple[str, list[str]]]:
    """Requests for any prompt."""
    generator = np.random.default_rng(seed)
    while True:
        yield names[int(generator.integers(len(names)))], LABELS


def new_label_sets(names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Requests for 2 to 40 labels of one or several tokens, which begin with other letters."""
    generator = np.random.default_rng(0)
    while True:
        words = [f"{i} {'word ' * generator.integers(1, 12)}".strip() for i in range(40)]
        yield names[int(generator.integers(len(names)))], words[: generator.integers(2, 40)]


async def replace(
    web: httpx.AsyncClient,
    names: Sequence[str],
    archives: list[tuple[str, bytes]],
    end: float,
    versions: Versions,
    seconds: list[float],
) -> None:
    """Puts a new version under one name after the other, and deletes its old one."""
    count = 0
    while time.monotonic() < end:
        name = names[count % len(names)]
        digest, body = archives[(count + count // len(names)) % len(archives)]
        old = (await web.get(f"/v1/models/{name}")).json()
        if digest != old["root"]:
            begin = time.monotonic()
            versions.begin(name, digest)
            (await web.put(f"/v1/prompts/{name}", content=body)).raise_for_status()
            seconds.append(time.monotonic() - begin)
            versions.end(name, old["root"])
            number = old["id"].partition("@")[2]
            (await web.delete(f"/v1/prompts/{name}/{number}")).raise_for_status()
        count += 1
        await asyncio.sleep(PAUSE)


def longest_gap(replies: list[Reply]) -> float:
    """The longest time in which nothing was answered while somebody waited."""
    replies = sorted(replies, key=lambda reply: reply.received)
    # Of those that are not answered yet, when the first was sent.
    waits = [*itertools.accumulate((reply.sent for reply in reversed(replies)), min)][::-1]
    before = [0.0, *(reply.received for reply in replies)]
    gaps = zip(replies, waits, before, strict=False)
    return max(reply.received - max(begin, last) for reply, begin, last in gaps)
