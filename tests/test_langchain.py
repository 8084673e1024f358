"""LangChain's models: prompts are switched in every way there is, and share batches."""

import asyncio
import dataclasses
import operator
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, TypedDict

import pytest

pytest.importorskip("langchain_core")
httpx = pytest.importorskip("httpx")

from langchain_core.caches import InMemoryCache  # noqa: E402
from langchain_core.globals import set_llm_cache  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage  # noqa: E402
from langchain_core.runnables import ConfigurableField  # noqa: E402
from serving import prompt_of  # noqa: E402

from prompt_jax.config import InputError  # noqa: E402
from prompt_jax.integrations.langchain import ChatPromptJax, PromptJaxEmbeddings, PromptJaxLLM
from prompt_jax.integrations.sources import Local, Remote
from prompt_jax.methods import LoraConfig, PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402
from prompt_jax.serve import UnknownPromptError
from prompt_jax.tasks import Task  # noqa: E402
from prompt_jax.weights import load_backbone  # noqa: E402

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]
NAMES = [f"p{i}" for i in range(8)]
TEXT = "a fine film"


@pytest.fixture
def engine(served):
    return served.catalog.engine


@pytest.fixture
def chat(engine):
    return ChatPromptJax(source=Local(engine), max_tokens=6)


def said(engine, name, text=TEXT, count=6):
    """What the engine itself answers."""
    tokenizer = engine.backbone.tokenizer
    written = engine.generate(name or None, tokenizer(text)["input_ids"], max_new_tokens=count)
    return tokenizer.decode(written.result().tokens, skip_special_tokens=True)


def test_every_way_to_switch_prompts(chat, engine):
    base = engine.backbone.name
    picked = chat.configurable_fields(soft_prompt=ConfigurableField(id="soft_prompt"))
    for name in ("p1", "p3", ""):
        wanted = said(engine, name)
        ways = [
            chat.bind(soft_prompt=name).invoke(TEXT),
            chat.invoke(TEXT, model=f"{base}:{name}"),
            chat.model_copy(update={"model": name}).invoke(TEXT),
            picked.invoke(TEXT, config={"configurable": {"soft_prompt": name}}),
            chat.with_prompt(name).invoke([HumanMessage([{"type": "text", "text": TEXT}])]),
            asyncio.run(chat.ainvoke(TEXT, soft_prompt=name)),
        ]
        assert [each.text for each in ways] == [wanted] * 6
        about = ways[0].response_metadata
        assert about["prompt_digest"] == Local(engine).digest(name)
        assert ways[0].usage_metadata["input_tokens"] == len(
            engine.backbone.tokenizer(TEXT)["input_ids"]
        )
        assert (
            PromptJaxLLM(source=chat.source, max_tokens=6).invoke(TEXT, soft_prompt=name) == wanted
        )
        # A call goes before the model's own fields, whichever of both names it.
        field = PromptJaxLLM(source=chat.source, max_tokens=6, soft_prompt="p2")
        assert field.invoke(TEXT, model=f"{base}:{name}") == wanted
        streamed = list(chat.stream(TEXT, soft_prompt=name))
        assert "".join(each.text for each in streamed) == wanted
    assert len({said(engine, name) for name in NAMES}) > 4


def test_what_is_no_prompt_and_no_text(chat):
    with pytest.raises(UnknownPromptError, match="there is no prompt 'none'"):
        chat.with_prompt("none")
    with pytest.raises(UnknownPromptError, match="there is no prompt 'none'"):
        chat.invoke(TEXT, soft_prompt="none")
    strict = chat.model_copy(update={"require_prompt": True})
    picked = strict.configurable_fields(soft_prompt=ConfigurableField(id="soft_prompt"))
    with pytest.raises(InputError, match="no prompt is named and require_prompt is set"):
        picked.invoke(TEXT, config={"configurable": {"soft_promt": "p1"}})
    picture = HumanMessage([{"type": "image_url", "image_url": {"url": "https://example.org"}}])
    with pytest.raises(InputError, match="only parts of type text are read, got image_url"):
        chat.invoke([picture])
    with pytest.raises(InputError, match="there are 2 inputs and 1 prompts"):
        chat.batch_with_prompts(["a", "b"], ["p1"])


def test_stops_and_sampling(chat, engine):
    whole = said(engine, "p1")
    stop = whole[len(whole) // 2]
    for given in (chat.invoke(TEXT, soft_prompt="p1", stop=[stop]), chat.model_copy(
        update={"stop": [stop]}
    ).invoke(TEXT, soft_prompt="p1")):  # fmt: skip
        assert given.text == whole[: whole.index(stop)]
    plain = PromptJaxLLM(source=chat.source, max_tokens=6, stop=[stop])
    assert plain.invoke(TEXT, soft_prompt="p1") == whole[: whole.index(stop)]
    drawn = {chat.invoke(TEXT, soft_prompt="p1", temperature=2.0, seed=i).text for i in range(4)}
    assert len(drawn) > 1
    anew = [chat.invoke(TEXT, soft_prompt="p1", temperature=1.0).text for _ in range(4)]
    assert len(set(anew)) == 4


def test_options_are_honoured_or_refused(chat, engine):
    llm = PromptJaxLLM(source=chat.source, max_tokens=6)
    short = said(engine, "p1", count=1)
    given = {"soft_prompt": "p1", "max_new_tokens": 1, "n": 1, "tools": None}
    ways = [
        chat.invoke(TEXT, **given).text,
        chat.bind(**given).invoke(TEXT).text,
        chat.batch([TEXT], **given)[0].text,
        "".join(each.text for each in chat.stream(TEXT, **given)),
        asyncio.run(chat.ainvoke(TEXT, **given)).text,
        llm.invoke(TEXT, **given),
        llm.batch([TEXT], **given)[0],
        "".join(llm.stream(TEXT, **given)),
        ChatPromptJax(source=chat.source, soft_prompt="p1", max_new_tokens=1).invoke(TEXT).text,
    ]
    assert ways == [short] * len(ways)
    for options, message in (
        ({"top_n": 2}, "unknown option of a call 'top_n'; allowed: max_tokens, .*, soft_prompt"),
        ({"n": 2}, "n is 2 and a call has one answer; use batch"),
        ({"tools": [{}]}, "unknown option of a call 'tools'"),
        ({"max_tokens": 2, "max_new_tokens": 3}, "max_tokens is 2 and max_new_tokens 3"),
    ):
        for call in (
            lambda options: chat.invoke(TEXT, **options),
            lambda options: chat.bind(**options).invoke(TEXT),
            lambda options: list(chat.stream(TEXT, **options)),
            lambda options: llm.invoke(TEXT, **options),
            lambda options: list(llm.stream(TEXT, **options)),
        ):
            with pytest.raises(InputError, match=message):
                call(options)
    for kind in (ChatPromptJax, PromptJaxLLM, PromptJaxEmbeddings):
        with pytest.raises(ValueError, match="top_n"):
            kind(source=chat.source, top_n=2)


def test_a_classification_is_answered_by_its_label_words(chat, engine, tiny_backbone):
    task = Task(name="file:x", source="{input}", target="{target}", labels=("billing", "a refund"))
    prompt = dataclasses.replace(
        prompt_of(tiny_backbone, PromptTuningConfig(num_virtual_tokens=3), 4), task=task
    )
    engine.put("tickets", prompt)
    tokens = tiny_backbone.tokenizer(TEXT)["input_ids"]
    scores = engine.score("tickets", tokens, task.labels).result().log_likelihoods
    label = task.labels[int(scores.argmax())]
    message = chat.invoke(TEXT, soft_prompt="tickets", max_tokens=1)
    assert message.text == label and message.response_metadata["finish_reason"] == "stop"
    assert "".join(each.text for each in chat.stream(TEXT, soft_prompt="tickets")) == label
    assert asyncio.run(chat.ainvoke(TEXT, soft_prompt="tickets")).text == label
    assert PromptJaxLLM(source=chat.source).invoke(TEXT, soft_prompt="tickets") == label
    drawn = [
        chat.invoke(TEXT, soft_prompt="tickets", temperature=50.0, seed=i).text for i in range(12)
    ]
    assert set(drawn) == set(task.labels)
    assert chat.invoke(TEXT, soft_prompt="tickets", temperature=50.0, top_k=1).text == label
    engine.remove("tickets")


def test_caches_tell_prompts_and_versions_apart(chat, engine, tiny_backbone):
    set_llm_cache(InMemoryCache())
    try:
        for model in (chat, PromptJaxLLM(source=chat.source, max_tokens=6)):
            text = lambda found: getattr(found, "text", found)  # noqa: E731
            for name in ("p1", "p2", "p1"):
                assert text(model.invoke(TEXT, soft_prompt=name)) == said(engine, name)
                assert text(model.with_prompt(name).invoke(TEXT)) == said(engine, name)
            rows = engine.stats.rows
            assert (
                text(model.invoke(TEXT, soft_prompt="p1")) and engine.stats.rows == rows
            )  # Cached.
            method = PromptTuningConfig(num_virtual_tokens=5)
            for seed in (91, 92):
                engine.put("swapped", prompt_of(tiny_backbone, method, seed))
                assert text(model.invoke(TEXT, soft_prompt="swapped")) == said(engine, "swapped")
                bound = model.with_prompt("swapped")
                assert text(bound.invoke(TEXT)) == said(engine, "swapped")
    finally:
        set_llm_cache(None)
        engine.remove("swapped")


def test_branches_of_a_graph_share_batches(chat, engine):
    graphs = pytest.importorskip("langgraph.graph")
    from langgraph.types import Send

    class State(TypedDict, total=False):
        rows: list[tuple[str, str]]
        found: Annotated[list[tuple[str, str, str]], operator.add]

    class Branch(TypedDict):
        row: tuple[str, str]

    vectors = PromptJaxEmbeddings(source=chat.source)

    async def ask(state: Branch) -> State:
        text, name = state["row"]
        answer = await chat.ainvoke(text, soft_prompt=name)
        await asyncio.to_thread(vectors.with_prompt(name).embed_query, text)
        return {"found": [(text, name, answer.text)]}

    graph = graphs.StateGraph(State)
    graph.add_node("ask", ask)
    fan_out = lambda state: [Send("ask", {"row": row}) for row in state["rows"]]  # noqa: E731
    graph.add_conditional_edges(graphs.START, fan_out, ["ask"])
    graph.add_edge("ask", graphs.END)
    rows = [(f"{TEXT} {i}", NAMES[i % 8]) for i in range(32)]
    before = engine.stats
    found = asyncio.run(graph.compile().ainvoke({"rows": rows}))["found"]
    after = engine.stats
    assert sorted(found) == sorted((text, name, said(engine, name, text)) for text, name in rows)
    assert after.rows - before.rows == 32  # Vectors; and of those that were read:
    assert after.batches - before.batches < 32 and after.mixed > before.mixed


def test_an_agents_middleware_picks_the_prompt(chat, engine):
    agents = pytest.importorskip("langchain.agents")
    from langchain.agents.middleware import wrap_model_call

    @wrap_model_call
    def pick(request, handler):
        name = "p1" if "film" in request.messages[-1].text else "p2"
        return handler(request.override(model_settings={"soft_prompt": name}))

    agent = agents.create_agent(chat, middleware=[pick])
    for text, name in ((TEXT, "p1"), ("the news", "p2")):
        last = agent.invoke({"messages": [HumanMessage(text)]})["messages"][-1]
        assert isinstance(last, AIMessage) and last.text == said(engine, name, text)


def test_a_batch_of_prompts(chat, engine):
    found = chat.batch_with_prompts([TEXT] * 8, NAMES)
    assert [each.text for each in found] == [said(engine, name) for name in NAMES]
    vectors = PromptJaxEmbeddings(source=chat.source, soft_prompt="p1")
    one, two = vectors.embed_query("a"), vectors.embed_documents(["a", "b"])
    assert len(one) == 16 and one == pytest.approx(two[0], abs=1e-5) and two[0] != two[1]


def test_a_server_and_langchains_own_client(served, engine):
    address, wanted = served.address, said(engine, "films@2")
    remote = Remote(address, "user")
    assert remote.base == served.catalog.base
    chat = ChatPromptJax(source=remote, max_tokens=6).with_prompt("films")
    assert chat.invoke(TEXT).text == wanted
    assert asyncio.run(chat.ainvoke(TEXT)).text == wanted
    assert "".join(each.text for each in chat.stream(TEXT)) == wanted
    vector = PromptJaxEmbeddings(source=remote, soft_prompt="films").embed_query(TEXT)
    assert vector == pytest.approx(engine.embed("films@2", TEXT).result().vector, abs=1e-5)
    with pytest.raises(UnknownPromptError, match="the server said 404: there is no model 'no'"):
        chat.with_prompt("no")
    for source in (remote, Local(engine)):  # What is more than 16 is cut.
        cut = ChatPromptJax(source=source, max_tokens=17, soft_prompt="films@2").invoke(TEXT)
        assert cut.text == said(engine, "films@2", count=16)
        assert cut.response_metadata["finish_reason"] == "length"
    with pytest.raises(InputError, match="the server said 401: no such API key"):
        Remote(address, "wrong")

    openai = pytest.importorskip("langchain_openai")
    given = {"base_url": f"{address}/v1", "api_key": "user", "max_retries": 0}
    theirs = openai.ChatOpenAI(model="films", max_tokens=6, **given)
    assert theirs.invoke(TEXT).text == wanted
    assert "".join(each.text for each in theirs.stream(TEXT)) == wanted
    vectors = openai.OpenAIEmbeddings(model="films", check_embedding_ctx_length=False, **given)
    assert vectors.embed_query(TEXT) == pytest.approx(vector, abs=1e-5)
    with pytest.raises(Exception, match="there is no model 'none'"):
        openai.ChatOpenAI(model="none", **given).invoke(TEXT)
    with pytest.raises(InputError, match="no server answers at"):
        Remote("http://127.0.0.1:9", timeout=5)


@pytest.mark.slow
def test_langchains_own_tests_pass_without_sockets():
    pytest.importorskip("langchain_tests")
    command = [sys.executable, "-m", "pytest", "langchain_standard.py", "-q", "-o", "addopts="]
    command += ["-o", "asyncio_mode=auto", "-o", "filterwarnings=", "--disable-socket"]
    command += ["--allow-unix-socket", "-p", "no:cacheprovider"]
    here = Path(__file__).parent
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    done = subprocess.run(
        command, cwd=here, capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stdout[-8000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 35


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
@pytest.mark.timeout(600)
def test_the_example_routes_every_message(tmp_path):
    pytest.importorskip("langgraph")
    example = Path(__file__).parent.parent / "examples" / "langgraph_prompt_routing.py"
    backbone = load_backbone("embedded")
    # Trained prompts are there already: training has tests of its own.
    for seed, name in enumerate(("film", "word", "country", "news", "router")):
        method = LoraConfig(r=4) if name == "news" else PromptTuningConfig(num_virtual_tokens=20)
        kept = tmp_path / "runs" / "routing" / "kept" / name
        save_prompt(kept, prompt_of(backbone, method, seed))
    command = [sys.executable, str(example)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1].startswith("32 messages: ")
