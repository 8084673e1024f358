"""Where LangChain's models get answers: who answered, and what is done where too many ask."""

import asyncio
import contextlib
import dataclasses
import threading

import pytest

pytest.importorskip("langchain_core")
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from langchain_core.caches import InMemoryCache  # noqa: E402
from langchain_core.globals import set_llm_cache  # noqa: E402
from serving import KEYS, prompt_of, serving  # noqa: E402

from prompt_jax.integrations import retries  # noqa: E402
from prompt_jax.integrations.langchain import ChatPromptJax, PromptJaxEmbeddings, PromptJaxLLM
from prompt_jax.integrations.sources import BusyError, Local, Remote
from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.serve import EngineError, QueueFullError, UnknownPromptError
from prompt_jax.serve.http import create_app

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]
TEXT = "a fine film"


@pytest.fixture
def engine(served):
    return served.catalog.engine


@pytest.fixture
def remote(served):
    return Remote(served.address, "user")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """The next try comes at once."""
    monkeypatch.setattr(retries, "FIRST", 0.01)


@dataclasses.dataclass
class Refusals:
    """Statuses with which the next requests for answers are refused."""

    statuses: list[int]
    posts: int = 0
    """Requests for answers so far."""


class Busy:
    """A server's middleware that refuses requests for answers."""

    def __init__(self, app, refusals):
        self.app, self.refusals = app, refusals

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] == "POST":
            self.refusals.posts += 1
            if self.refusals.statuses:
                headers = [(b"retry-after", b"0"), (b"content-type", b"application/json")]
                status = self.refusals.statuses.pop(0)
                await send({"type": "http.response.start", "status": status, "headers": headers})
                body = b'{"error": {"message": "later", "code": "overloaded"}}'
                return await send({"type": "http.response.body", "body": body})
        return await self.app(scope, receive, send)


@contextlib.contextmanager
def busy(served, *statuses):
    app, refusals = create_app(served.catalog, KEYS), Refusals(list(statuses))
    app.add_middleware(Busy, refusals=refusals)
    with serving(app) as address:
        yield refusals, Remote(address, "user")


def test_an_answer_names_the_prompt_that_wrote_it(served, engine, remote, tiny_backbone):
    method = PromptTuningConfig(num_virtual_tokens=3)
    old, new = (prompt_of(tiny_backbone, method, seed) for seed in (41, 42))
    engine.put("swapped", old)
    llm = ChatPromptJax(source=Local(engine), soft_prompt="swapped")
    stream = llm.stream(TEXT)
    first = next(stream)
    engine.put("swapped", new)
    last = [first, *stream]
    digests = [chunk.response_metadata.get("prompt_digest") for chunk in last]
    assert [digest for digest in digests if digest] == [old.digest]
    assert llm.invoke(TEXT).response_metadata["prompt_digest"] == new.digest
    engine.remove("swapped")

    served.catalog.put("swapped", old)
    try:
        message = ChatPromptJax(source=remote, soft_prompt="swapped").invoke(TEXT)
        assert message.response_metadata["prompt_digest"] == old.digest
        read = len(tiny_backbone.tokenizer(TEXT)["input_ids"])
        usage = message.usage_metadata
        assert usage["input_tokens"] == read and 0 < usage["output_tokens"] <= 16
        assert usage["total_tokens"] == read + usage["output_tokens"]
    finally:
        served.catalog.remove("swapped", 1)


def test_a_loop_has_one_client_and_is_not_held_up(remote, monkeypatch):
    opened, looked, here = [], [], threading.get_ident()
    new, get = remote._open, remote._get
    monkeypatch.setattr(remote, "_open", lambda: opened.append(new()) or opened[-1])
    monkeypatch.setattr(
        remote, "_get", lambda path: looked.append(threading.get_ident() == here) or get(path)
    )
    chat = ChatPromptJax(source=remote, soft_prompt="films", max_tokens=2)
    llm = PromptJaxLLM(source=remote, soft_prompt="films", max_tokens=2)

    async def several():
        return await asyncio.gather(*(model.ainvoke(TEXT) for model in (chat, llm) * 4))

    answers = asyncio.run(several())
    assert len({getattr(answer, "text", answer) for answer in answers}) == 1
    assert len(opened) == 1 and opened[0].is_closed and looked == []
    set_llm_cache(InMemoryCache())
    try:
        asyncio.run(several())
        assert looked and not any(looked)  # What a cache asks is asked in another thread.
        assert len(opened) == 2 and len(remote._clients) == 1
        for model in (chat, llm):  # Found by a call of the other kind.
            monkeypatch.setattr(remote, "write", None)
            answer = model.invoke(TEXT)
            assert getattr(answer, "text", answer) == answers[1]
    finally:
        set_llm_cache(None)


@pytest.mark.parametrize("where", ["local", "remote"])
def test_many_texts_become_many_requests(where, engine, remote):
    source = Local(engine) if where == "local" else remote
    vectors = PromptJaxEmbeddings(source=source, soft_prompt="films@2")
    texts = [f"{TEXT} {i % 7}" for i in range(130)]
    rows = vectors.embed_documents(texts)
    assert len(rows) == 130 and rows[129] == pytest.approx(rows[3], abs=1e-5)
    assert rows[0] == pytest.approx(engine.embed("films@2", texts[0]).result().vector, abs=1e-5)


def test_what_is_refused_leaves_nothing_and_is_tried_again(engine, monkeypatch):
    embed, submitted = engine.embed, []

    def full_once(served, text):
        submitted.append(None)
        if len(submitted) == 3:
            raise QueueFullError("1024 requests wait and 1024 may")
        return embed(served, text)

    monkeypatch.setattr(engine, "embed", full_once)
    vectors = PromptJaxEmbeddings(source=Local(engine), soft_prompt="p1", max_retries=1)
    assert len(vectors.embed_documents([TEXT] * 4)) == 4 and len(submitted) == 7
    submitted.clear()
    with pytest.raises(QueueFullError):
        vectors.model_copy(update={"max_retries": 0}).embed_documents([TEXT] * 4)
    monkeypatch.undo()
    assert engine.embed("p1", TEXT).result() and engine.stats.waiting == 0


def test_a_busy_server_is_asked_again(served, engine):
    with busy(served, 429, 503) as (refusals, remote):
        chat = ChatPromptJax(source=remote, soft_prompt="films@2", max_tokens=4)
        direct = ChatPromptJax(source=Local(engine), soft_prompt="films@2", max_tokens=4)
        assert chat.invoke(TEXT).text == direct.invoke(TEXT).text and refusals.posts == 3
        refusals.statuses = [503]
        assert asyncio.run(chat.ainvoke(TEXT)).text == direct.invoke(TEXT).text
        refusals.statuses = [429]
        assert PromptJaxEmbeddings(source=remote, soft_prompt="films@2").embed_query(TEXT)
        refusals.statuses, refusals.posts = [429, 429], 0
        with pytest.raises(BusyError, match="the server said 429: later"):
            chat.invoke(TEXT, max_retries=1)
        assert refusals.posts == 2
        refusals.statuses, refusals.posts = [500], 0
        with pytest.raises(Exception, match="the server said 500"):
            chat.invoke(TEXT)
        assert refusals.posts == 1


def test_an_answer_that_breaks_off_is_no_answer():
    from prompt_jax.integrations.sources import Events

    events = Events()
    line = 'data: {"choices": [{"text": "a", "finish_reason": null}], "prompt_digest": "d"}'
    assert [piece.text for piece in events.pieces(line)] == ["a"]
    with pytest.raises(EngineError, match="broke off"):
        events.check_whole()


def test_a_batch_has_few_threads_and_keeps_what_it_has(engine):
    chat = ChatPromptJax(source=Local(engine), max_tokens=1)
    names = [f"p{i % 4}" for i in range(64)]
    names[7] = "none"
    peak, over = [0], threading.Event()

    def watch():
        while not over.wait(0.005):
            peak[0] = max(peak[0], threading.active_count())

    before, watcher = threading.active_count(), threading.Thread(target=watch)
    watcher.start()
    answers = chat.batch_with_prompts([TEXT] * 64, names, return_exceptions=True)
    over.set()
    watcher.join()
    assert peak[0] <= before + 1 + 32
    assert isinstance(answers.pop(7), UnknownPromptError)
    assert len({answer.text for answer in answers}) > 1
    with pytest.raises(UnknownPromptError):
        chat.batch_with_prompts([TEXT] * 8, names[:8])
