"""What all routes share: which prompt a request means, its tokens, and what they say of both."""

import asyncio
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from prompt_jax.data import encode, locate
from prompt_jax.data.alignment import Located
from prompt_jax.data.texts import tokenized
from prompt_jax.prompts import nearest_words
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.http import schemas, shapes
from prompt_jax.serve.http.auth import View
from prompt_jax.serve.http.budgets import spend
from prompt_jax.serve.http.errors import invalid
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.prompts import Served
from prompt_jax.tasks import Text

SHORT = 2000
"""Letters of a text that is tokenised at once."""
UNCUT = 2**20
"""Tokens, more than the text of a request may have letters."""
LABEL_WORDS = 4096
"""Label words that are remembered."""
NEAREST = 256
"""Prompts whose nearest words are remembered, the last that were looked at."""
Answer = TypeVar("Answer")


class Responses:
    """What routes share."""

    def __init__(self, engine: Engine, base: str, metrics: Metrics, timeout: float):
        self.engine, self.base, self.metrics, self.timeout = engine, base, metrics, timeout
        self._nearest: dict[str, list[str]] = {}
        # A client asks for the same label words in request after request.
        self.unknown = functools.lru_cache(LABEL_WORDS)(self._unknown)
        """Whether a label has letters that the tokenizer does not know."""

    def _unknown(self, label: str) -> bool:
        tokenizer = self.engine.backbone.tokenizer
        return tokenizer.unk_token_id in tokenizer(label)["input_ids"]

    async def served(self, view: View, body: schemas.Prompted) -> Served | None:
        """The prompt that a request names, or composes."""
        compose = body.compose
        if compose is None:
            return view.find(body.model)
        composed = await asyncio.to_thread(
            view.composed, compose.prompts, compose.how, compose.weights
        )
        if composed is None:
            raise invalid("compose.prompts", "the base has nothing to compose")
        return composed

    def most(self, truncate: int | None) -> int | None:
        """Tokens that a longer text is cut to, see `tokens`; None cuts none."""
        return self.engine.lengths[-1] if truncate == -1 else truncate

    async def tokens(
        self,
        texts: Sequence[str | list[int]],
        served: Served | None = None,
        truncate: int | None = None,
        times: int = 1,
    ) -> list[list[int]]:
        """The tokens of texts, each as the prompt was trained to read it; tokens as they are.

        Args:
          truncate: tokens that a longer text is cut to; -1 is the most that the engine reads.
          times: how often each is read, for the budget of the key.
        """
        tokenizer = self.engine.backbone.tokenizer
        in_turns = served is not None and served.target_place == "turn"
        most = self.most(truncate)
        rows = []
        for text in texts:
            if isinstance(text, str) and served is not None and in_turns:
                text = served.trained_form(text)
            if isinstance(text, list):
                row = text
            elif isinstance(text, Text):
                row = (await asyncio.to_thread(tokenized, tokenizer, [text]))[0][0]
            else:
                # To another thread and back takes longer than a short text.
                read = functools.partial(tokenizer, text, verbose=False)
                short = len(text) <= SHORT
                row = (read() if short else await asyncio.to_thread(read))["input_ids"]
            if most is not None and len(row) > most:
                row = await asyncio.to_thread(self._cut, text, row, most)
            rows.append(row)
        spend(times * sum(map(len, rows)))
        return rows

    async def located(self, texts: Sequence[str], truncate: int | None = None) -> Located:
        """The tokens of texts and where they stand in them; arguments as of `tokens`."""
        most = self.most(truncate)
        tokenizer = self.engine.backbone.tokenizer
        located = await asyncio.to_thread(locate, tokenizer, texts, UNCUT if most is None else most)
        spend(sum(map(len, located.tokens)))
        return located

    def _cut(self, text: str | list[int], row: list[int], most: int) -> list[int]:
        """A text that is too long, as training cuts it; a decoder goes on from its end."""
        backbone = self.engine.backbone
        if isinstance(text, Text) and text.turns:
            return encode(backbone.tokenizer, [text], most)[0].tolist()
        if backbone.target_place == "behind":
            return row[-most:]
        words = text if isinstance(text, str) else None
        return (
            row[:most] if words is None else encode(backbone.tokenizer, [words], most)[0].tolist()
        )

    def identity(self, served: Served | None) -> shapes.Identity:
        """Which numbers answer: the fields that go into every response."""
        base = self.engine.backbone.fingerprint[:12]
        digest = "" if served is None else served.digest
        return {
            "model": self.base if served is None else served.reference,
            "system_fingerprint": f"{base}-{digest[:12]}" if digest else base,
            "prompt_digest": digest,
        }

    def model(self, served: Served | None) -> shapes.Model:
        """OpenAI's object of a model: the frozen one, or a prompt for it."""
        base = shapes.Model(
            id=self.base, object="model", created=int(self.metrics.began),
            owned_by="prompt_jax", root=self.engine.backbone.fingerprint, parent=None,
        )  # fmt: skip
        if served is None or served.prompt is None:
            return base
        return {
            **base, "id": served.reference, "root": served.digest, "parent": base["id"],
            "aliases": list(served.aliases), "method": served.prompt.method.kind,
            "poisoned": served.digest in self.engine.poisoned,
        }  # fmt: skip

    def nearest_words(self, served: Served) -> list[str]:
        """The word nearest to each of a prompt's virtual tokens; none where it has none."""
        prompt = served.prompt
        if prompt is None or not prompt.method.rows_only:
            return []
        if "prompt" not in prompt.arrays:
            return []
        words = self._nearest.get(served.digest)
        if words is None:
            backbone = self.engine.backbone
            nearest = nearest_words(prompt.rows, backbone.table, backbone.tokenizer, k=1)
            words = self._nearest[served.digest] = [row[0][0] for row in nearest]
            # Every replacement is another digest.
            for digest in list(self._nearest)[:-NEAREST]:
                self._nearest.pop(digest, None)
        return words


async def gathered(requests: Iterable[Future[Answer]]) -> list[Answer]:
    """What the engine answers, once all is there.

    Args:
      requests: begins one as it is read; where one is refused or the caller leaves, those before
        it are cancelled.
    """
    loop, futures = asyncio.get_running_loop(), list[Future[Answer]]()
    end = loop.create_future()

    def note(future: Future[Answer]) -> None:
        # Of the first that fails nobody waits for the others.
        ready = all(map(Future.done, futures)) or future.cancelled() or future.exception()
        if ready and not end.done():
            end.set_result(None)

    try:
        futures.extend(requests)
        for future in futures:
            future.add_done_callback(lambda future: _bring(loop, functools.partial(note, future)))
        await end
        failed = [future for future in futures if future.cancelled() or _error(future)]
        return [future.result() for future in failed or futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _error(future: Future[Answer]) -> BaseException | None:
    return future.exception() if future.done() else None


ARRIVED: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
"""What other threads have done, until the loop takes it in."""
LOCK = threading.Lock()


def _bring(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Has a loop call something soon; from any thread.

    A loop that woke up for every row of a batch would as often take the interpreter from the
    engine, in the middle of the batch: it takes all that has arrived at one go.
    """
    with LOCK:
        calls = ARRIVED.setdefault(loop, [])
        calls.append(call)
        if loop.is_closed():
            del ARRIVED[loop]
        elif len(calls) == 1:
            loop.call_soon_threadsafe(_take, loop)


def _take(loop: asyncio.AbstractEventLoop) -> None:
    with LOCK:
        calls = ARRIVED.pop(loop)
    for call in calls:
        call()
