"""What OpenAI's clients send and read: nulls, fields that ask for nothing, shapes."""

import pytest

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

from serving import USER  # noqa: E402

from prompt_jax.serve.http import schemas  # noqa: E402

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
