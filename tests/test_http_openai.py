"""What OpenAI's clients send and read: nulls, fields that ask for nothing, shapes."""

import dataclasses
import json

import pytest

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

import numpy as np  # noqa: E402
from openai.types.responses import Response  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402
from serving import ADMIN, KEYS, USER, asking, prompt_of  # noqa: E402

from prompt_jax import testing  # noqa: E402
from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.serve import Engine, Store  # noqa: E402
from prompt_jax.serve.catalog import Catalog  # noqa: E402
from prompt_jax.serve.http import (  # noqa: E402
    create_app,  # noqa: E402
    schemas,
    shapes,
)
from prompt_jax.serve.http.writing import event  # noqa: E402

pytestmark = pytest.mark.timeout(180)
TEXT = "a fine film"
ROUTES = {
    "completions": ({"prompt": TEXT}, schemas.CompletionRequest),
    "chat/completions": ({"messages": [{"role": "user", "content": TEXT}]}, schemas.ChatRequest),
    "embeddings": ({"input": TEXT}, schemas.EmbeddingRequest),
    "classify": ({"input": TEXT, "labels": ["good", "bad"]}, schemas.ClassifyRequest),
    "generate": ({"text": TEXT}, schemas.GenerateRequest),
}


@pytest.fixture(scope="module")
def user(served):
    with httpx.Client(base_url=f"{served.address}/v1/", headers=USER, timeout=60) as client:
        yield client


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=f"{served.address}/v1", api_key="user", max_retries=0)


@pytest.mark.parametrize("route", ROUTES)
def test_null_is_as_if_a_field_were_not_there(route, user):
    body, schema = ROUTES[route]
    nulls = dict.fromkeys(schema.model_fields) | dict.fromkeys(schemas.NEUTRAL)
    body = {**nulls, **body, "model": "films"}
    reply = user.post(route, json=body)
    assert reply.status_code == 200, reply.text
    for name, values in schemas.NEUTRAL.items():
        for value in values:
            if name not in schema.model_fields:
                assert schema.model_validate({**body, name: value}), name
    assert schema.model_validate({**body, "user": "me", "metadata": {"run": "1"}})


@pytest.mark.parametrize(
    "field",
    [
        {"echo": 1}, {"best_of": True}, {"best_of": 2}, {"presence_penalty": 1},
        {"presence_penalty": True}, {"frequency_penalty": 1.0}, {"presence_penalty": False},
        {"min_p": 0.1}, {"guided_choice": ["a"]}, {"bad_words": ["a"]}, {"ignore_eos": True},
        {"prompt_embeds": "AA=="}, {"dimensions": 8}, {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}}, {"suffix": "a"}, {"temprature": 1.0},
        {"logit_bias": {"1": 5}}, {"store": True}, {"service_tier": "flex"},
    ],
)  # fmt: skip
def test_a_field_that_nothing_follows_is_refused(field, user):
    (name,) = field
    reply = user.post("completions", json={"model": "films", "prompt": TEXT, **field})
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["param"] == name, reply.text
    assert "prompt" in error["message"] or "valid boolean" in error["message"]


def test_the_coldest_temperature_is_greedy(user):
    asked = {"model": "films", "prompt": TEXT, "max_tokens": 4}
    replies = [
        user.post("completions", json={**asked, "temperature": temperature, "seed": seed}).json()
        for temperature, seed in ((0, 0), (1e-8, 1))
    ]
    assert replies[0]["choices"] == replies[1]["choices"]


def test_half_a_character_is_no_name_of_a_field(user):
    content = b'{"model": "films", "prompt": "a", "\\ud800": 1}'
    reply = user.post("completions", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400 and "ud800 is not supported here" in reply.text


def test_an_event_is_one_line_however_lines_are_split():
    text = "a\x85b\u2028c\u2029d\ne é"
    for line in (event({"text": text}), event({"text": text}, "kind").partition("\n")[2]):
        (data,) = line.strip().splitlines()
        assert json.loads(data.removeprefix("data: ")) == {"text": text} and "é" in data


def test_a_number_is_no_truth_value_and_two_names_are_one_field(user):
    for field in ({"n": True}, {"max_tokens": True}, {"temperature": True}, {"stream": 1}):
        reply = user.post("completions", json={"model": "films", "prompt": TEXT, **field})
        assert reply.status_code == 400 and reply.json()["error"]["param"] == next(iter(field))
    twice = {"model": "films", "prompt": TEXT, "max_tokens": 2, "max_completion_tokens": 3}
    assert "give one" in user.post("completions", json=twice).json()["error"]["message"]
    composed = {"model": "films", "prompt": TEXT, "compose": {"prompts": ["films@1", "films@2"]}}
    assert user.post("completions", json=composed).json()["error"]["param"] == "compose"
    voted = {"model": "films", "input": TEXT, "labels": ["good", "bad"], "how": "vote"}
    assert "give its prompts too" in user.post("classify", json=voted).json()["error"]["message"]
    many = user.post("embeddings", json={"model": "films", "input": ["a"] * 65}).json()
    assert many["error"]["message"] == "input: there may be 64, got 65"


def test_messages_that_are_empty_or_of_a_tool(user):
    turns = [{"role": "assistant", "content": None}, {"role": "user", "content": "", "name": "me"}]
    reply = user.post("chat/completions", json={"model": "films", "messages": turns})
    assert reply.status_code == 200, reply.text
    tool = {"role": "tool", "content": "4", "tool_call_id": "call_1"}
    error = user.post("chat/completions", json={"messages": [tool]}).json()["error"]
    assert error["param"] == "messages.0.role" and "a prompt calls no tools" in error["message"]
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1"}]}
    error = user.post("chat/completions", json={"messages": [called]}).json()["error"]
    assert error["param"] == "messages.0.tool_calls"


def test_without_a_seed_every_answer_is_drawn_anew(client):
    draw = lambda **options: [  # noqa: E731
        choice.text
        for choice in client.completions.create(
            model="films", temperature=1.0, max_tokens=8, **options
        ).choices
    ]
    anew = [draw(prompt=TEXT)[0] for _ in range(3)] + draw(prompt=[TEXT, TEXT], n=2)
    assert len(set(anew)) == 7
    for seed in (7, -1, 2**63 - 1):
        assert draw(prompt=TEXT, seed=seed, n=2) == draw(prompt=TEXT, seed=seed, n=2)
    assert draw(prompt=TEXT, seed=7) != draw(prompt=TEXT, seed=8)


def test_langchains_completions(served, client):
    langchain = pytest.importorskip("langchain_openai")
    llm = langchain.OpenAI(
        model="films", base_url=f"{served.address}/v1", api_key="user", max_retries=0, temperature=0
    )
    written = client.completions.create(model="films", prompt=TEXT).choices[0]
    assert written.finish_reason == "length"  # The 256 tokens that LangChain asks for are cut.
    assert llm.invoke(TEXT) == "".join(llm.stream(TEXT)) == written.text


CHAT = [{"role": "user", "content": TEXT}]


def test_tokens_of_a_completion(client, served):
    """In OpenAI's shape, whole and streamed, with the tokens that a stop sequence leaves."""
    asked = {"model": "films", "prompt": TEXT, "max_tokens": 6}
    plain = client.completions.create(**asked).choices[0]
    told = client.completions.create(**asked, logprobs=3).choices[0]
    rows = told.logprobs
    assert told.text == plain.text and plain.logprobs is None and len(rows.tokens) == 6
    columns = rows.tokens, rows.token_logprobs, rows.top_logprobs
    for token, log_prob, top in zip(*columns, strict=True):
        assert len(top) == 3 and top[token] == log_prob == max(top.values())  # Greedy.
    for token, start in zip(rows.tokens, rows.text_offset, strict=True):
        assert token.startswith("<") or told.text[start : start + len(token)] == token
    written = served.catalog.engine.generate(
        "films@2", served.backbone.tokenizer(TEXT)["input_ids"], max_new_tokens=6
    ).result()
    assert rows.token_logprobs == pytest.approx(written.log_probs.tolist(), abs=1e-5)
    chunks = list(client.completions.create(**asked, logprobs=3, stream=True))
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert sum((getattr(part, field) for part in parts), []) == getattr(rows, field), field
    stop = rows.tokens[1].strip()
    cut = client.completions.create(**asked, logprobs=0, stop=stop)
    assert cut.choices[0].logprobs.tokens == rows.tokens[:2] and cut.usage.completion_tokens == 2
    assert cut.choices[0].text == told.text[: told.text.index(stop)]


def test_tokens_of_a_chat(client):
    asked = {"model": "films", "messages": CHAT, "max_tokens": 4, "logprobs": True}
    rows = client.chat.completions.create(**asked, top_logprobs=2).choices[0].logprobs.content
    assert len(rows) == 4
    for row in rows:
        assert bytes(row.bytes).decode() == row.token and len(row.top_logprobs) == 2
        assert row.top_logprobs[0].logprob == row.logprob > row.top_logprobs[1].logprob
    chunks = list(client.chat.completions.create(**asked, stream=True))
    deltas = [chunk.choices[0] for chunk in chunks]
    assert [t.token for d in deltas for t in d.logprobs.content] == [row.token for row in rows]
    assert [delta.delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    for wrong in ({"logprobs": 2}, {"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="films", messages=CHAT, **wrong)


def test_texts_in_tokens_echo_and_cuts(client, served):
    ids = served.backbone.tokenizer(TEXT)["input_ids"]
    asked = {"model": "films", "max_tokens": 4}
    plain = client.completions.create(prompt=TEXT, **asked)
    same = client.completions.create(prompt=ids, **asked)
    assert same.choices == plain.choices and same.usage == plain.usage
    both = client.completions.create(prompt=[ids, ids[:2]], **asked).choices
    assert both[0].text == plain.choices[0].text
    echoed = client.completions.create(prompt=TEXT, echo=True, **asked).choices[0].text
    assert echoed == TEXT + plain.choices[0].text
    cut = client.completions.create(
        prompt=TEXT, echo=True, **asked, extra_body={"truncate_prompt_tokens": 3}
    )
    left = served.backbone.tokenizer.decode([*ids[:2], ids[-1]], skip_special_tokens=True)
    assert cut.choices[0].text.startswith(left) and len(left) < len(TEXT)
    assert not cut.choices[0].text.startswith(TEXT)
    stream = client.completions.create(prompt=TEXT, echo=True, stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in stream) == echoed
    with pytest.raises(openai.BadRequestError, match="reads a text without predicting it"):
        client.completions.create(prompt=TEXT, echo=True, logprobs=1, **asked)
    vectors = [client.embeddings.create(model="films", input=i).data[0] for i in (ids, TEXT)]
    assert vectors[0].embedding == vectors[1].embedding

    long = "word " * 50
    for most, count in ((-1, 32), (5, 5)):
        cut = client.completions.create(
            prompt=long, **asked, extra_body={"truncate_prompt_tokens": most}
        )
        assert cut.usage.prompt_tokens == count
    # As training cuts: the end of the words goes, and the end of the sequence stays.
    words = served.backbone.tokenizer(long)["input_ids"]
    cut = client.embeddings.create(
        model="films", input=long, extra_body={"truncate_prompt_tokens": 5}
    )
    whole = client.embeddings.create(model="films", input=[*words[:4], words[-1]])
    assert cut.data[0].embedding == pytest.approx(whole.data[0].embedding, abs=1e-6)
    with pytest.raises(openai.BadRequestError, match="tokens and 32 is the most"):
        client.completions.create(prompt=long, **asked)


def test_a_label_word_is_one_token_among_labels(client, served):
    from prompt_jax.tasks import Task

    task = Task(name="file:x", source="{input}", target="{target}", labels=("billing", "a refund"))
    prompt = prompt_of(served.backbone, PromptTuningConfig(num_virtual_tokens=3), 4)
    served.catalog.put("labelled", dataclasses.replace(prompt, task=task))
    try:
        told = client.completions.create(model="labelled", prompt=TEXT, logprobs=2).choices[0]
        classified = httpx.post(
            f"{served.address}/v1/classify", json={"model": "labelled", "input": TEXT}, headers=USER
        ).json()["data"][0]
        assert told.logprobs.tokens == [told.text] == [classified["label"]]
        shares = {label: np.exp(share) for label, share in told.logprobs.top_logprobs[0].items()}
        assert shares == pytest.approx(classified["probs"], rel=1e-5)
    finally:
        served.catalog.remove("labelled", 1)


def test_a_stream_of_several_prompts_names_each(user, served):
    body = {"text": ["a", "b"], "prompts": ["films", None], "max_tokens": 2}
    whole = user.post("generate", json=body).json()["choices"]
    with user.stream("POST", "generate", json={**body, "stream": True}) as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    chunks = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == "[DONE]" and {c["index"] for k in chunks for c in k["choices"]} == {0, 1}
    for chunk in chunks:
        (row,) = chunk["choices"]
        names = [(part["model"], part["prompt_digest"]) for part in (chunk, row)]
        assert names[0] == names[1]
        assert names[1] == (whole[row["index"]]["model"], whole[row["index"]]["prompt_digest"])


def test_responses(client, user):
    asked = {"model": "films", "max_output_tokens": 4}
    plain = client.completions.create(model="films", prompt=TEXT, max_tokens=4)
    for text in (TEXT, [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}]):
        answer = client.responses.create(input=text, **asked)
        assert answer.output_text == plain.choices[0].text and answer.status == "incomplete"
        assert answer.incomplete_details.reason == "max_output_tokens"
        assert answer.usage.total_tokens == plain.usage.total_tokens
    again = client.responses.create(
        input=[{"role": "user", "content": TEXT}, *answer.output, {"role": "user", "content": "b"}],
        instructions="be short", **asked,
    )  # fmt: skip
    assert again.usage.input_tokens > answer.usage.input_tokens
    events = list(client.responses.create(input=TEXT, stream=True, **asked))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        plain.choices[0].text
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"
    assert (
        isinstance(events[-1].response, Response) and events[-1].response.usage.output_tokens == 4
    )
    for wrong in ({"tools": [{"type": "web_search"}]}, {"previous_response_id": "x"}):
        assert user.post("responses", json={"input": TEXT, **wrong}).status_code == 400
    absent = user.post("responses", json={"model": "none", "input": TEXT, "stream": True})
    assert absent.status_code == 404


def test_every_answer_has_the_shape_that_openapi_tells(user, served):
    spec = httpx.get(f"{served.address}/openapi.json", headers=ADMIN).json()
    told, silent = {}, []
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            answer = operation["responses"]["200"]["content"]
            if "application/json" not in answer:
                silent.append(path)
            elif path.startswith("/v1/"):
                told[method, path] = answer["application/json"]["schema"]["$ref"]
    # What tells no shape is plain text.
    assert {path.rpartition("/")[2] for path in silent} == {
        "load_lora_adapter", "unload_lora_adapter", "livez", "readyz", "health", "metrics",
    }  # fmt: skip
    bodies = {
        "completions": ({"prompt": TEXT, "logprobs": 1, "max_tokens": 2}, shapes.Completion),
        "generate": ({"text": TEXT, "max_tokens": 2}, shapes.Completion),
        "chat/completions": (
            {"messages": CHAT, "logprobs": True, "max_tokens": 2}, shapes.ChatCompletion
        ),
        "responses": ({"input": TEXT, "max_output_tokens": 2}, shapes.Response),
        "embeddings": ({"input": TEXT}, shapes.Embeddings),
        "classify": (ROUTES["classify"][0], shapes.Classification),
    }  # fmt: skip
    replies = [
        ("post", path, user.post(path, json=body), shape) for path, (body, shape) in bodies.items()
    ]
    reads = {
        "models": shapes.Models, "prompts": shapes.Models, "key": shapes.KeyHolder,
        "prompts/{name}": shapes.PromptDetails,
    }  # fmt: skip
    replies += [
        ("get", path, user.get(path.replace("{name}", "films")), shape)
        for path, shape in reads.items()
    ]
    voted = {**bodies["classify"][0], "prompts": ["films", "satire"]}
    replies += [("post", "classify", user.post("classify", json=voted), shapes.Classification)]
    for method, path, reply, shape in replies:
        # What a shape does not have would be left out.
        assert TypeAdapter(shape).validate_python(reply.json()) == reply.json(), path
        assert told[method, f"/v1/{path}"].endswith(f"/{shape.__name__}")
    failure = user.post("completions", json={}).json()
    assert TypeAdapter(shapes.Failure).validate_python(failure) == failure


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Asks a server of a decoder, and the engine of it."""
    tokenizer = testing.word_tokenizer("the film was good bad yes no".split())
    base = testing.tiny("llama")
    config = dataclasses.replace(base.config, vocab_size=len(tokenizer))
    backbone = testing.random_backbone(config, name="decoder", tokenizer=tokenizer)
    store = Store(tmp_path_factory.mktemp("decoder"))
    store.put("films", prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=2), 1))
    sizes = {"rows": (4,), "lengths": (16,), "max_new_tokens": 4, "places": 4}
    with Engine(backbone, room=[PromptTuningConfig(num_virtual_tokens=2)], **sizes) as engine:
        catalog = Catalog(engine, store)
        assert catalog.refresh() == []
        yield asking(create_app(catalog, KEYS)), engine


@pytest.mark.slow
def test_what_the_lm_evaluation_harness_asks(decoder):
    """Its `local-completions` sums the log-probabilities of a continuation behind a context."""
    post, engine = decoder
    tokenizer = engine.backbone.tokenizer
    ids = [tokenizer(t)["input_ids"] for t in ("the film was good", "the film was bad", "yes")]
    rows = [context + answer for context, answer in ((ids[0], ids[2]), (ids[1][:2], ids[1][2:]))]
    lengths = [len(ids[0]), 2]
    asked = {
        "model": "films", "prompt": rows, "temperature": 0, "max_tokens": 1, "logprobs": 1,
        "seed": 1234, "echo": True,
    }  # fmt: skip
    reply = post("completions", **asked)
    assert reply.status_code == 200, reply.text
    choices = reply.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for choice, row, length in zip(choices, rows, lengths, strict=True):
        told = choice["logprobs"]
        log_probs, top = (told[field][length:-1] for field in ("token_logprobs", "top_logprobs"))
        scored = engine.score("films@1", row[:length], [row[length:]], length_normalize=False)
        assert sum(log_probs) == pytest.approx(scored.result().log_likelihoods[0], abs=1e-4)
        read = engine.read("films@1", row, top_logprobs=1).result()
        greedy = [p == max(best.values()) for p, best in zip(log_probs, top, strict=True)]
        assert greedy == (read.likeliest.tokens[length:, 0] == row[length:]).tolist()
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        assert len(told["tokens"]) == len(row) + 1 == len(told["text_offset"])
    until = {"model": "films", "prompt": rows, "max_tokens": 3, "temperature": 0, "seed": 1234}
    written = post("completions", **until, stop=["\n\n", "Q:", "</s>", "<|im_end|>", "no no"])
    assert len(written.json()["choices"]) == 2
    plain = post("completions", **{**asked, "echo": False, "prompt": rows[0]}).json()["choices"][0]
    last = choices[0]["logprobs"]["token_logprobs"][-1:]
    assert plain["logprobs"]["token_logprobs"] == pytest.approx(last, abs=1e-5)
    cut = {**until, "prompt": "the film was " * 9, "truncate_prompt_tokens": 3, "echo": True}
    assert post("completions", **cut).json()["usage"]["prompt_tokens"] == 3
