"""The server on loopback, as the clients of others see it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

from serving import ADMIN, USER, prompt_of  # noqa: E402

from prompt_jax.config import InputError  # noqa: E402
from prompt_jax.methods import LoraConfig, PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import compose, export_peft, save_prompt  # noqa: E402
from prompt_jax.serve import Store
from prompt_jax.serve.http.prompts import packed, unpacked
from prompt_jax.tasks import Task  # noqa: E402

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=f"{served[0]}/v1", api_key="user", max_retries=0)


def test_openais_client_lists_and_completes(client, served):
    _, catalog, backbone = served
    ids = [model.id for model in client.models.list()]
    # Other tests may have put prompts of their own.
    assert ids[0] == catalog.base and {"films@1", "films@2", "satire@1"} <= set(ids)
    assert client.models.retrieve("films").id == "films@2"
    for model, name in [("films", "films@2"), ("films@1", "films@1"), ("", None)]:
        got = client.completions.create(model=model, prompt="a fine film", max_tokens=8)
        tokens = backbone.tokenizer("a fine film")["input_ids"]
        wanted = catalog.engine.generate(name, tokens, max_new_tokens=8).result()
        text = backbone.tokenizer.decode(wanted.tokens, skip_special_tokens=True)
        assert got.choices[0].text == text and got.usage.prompt_tokens == len(tokens)
        assert got.model_extra["prompt_digest"] == wanted.digest
        assert got.choices[0].finish_reason in ("stop", "length")


def test_openais_client_chats_and_streams(client, served):
    base = served[1].base
    asked = {"model": f"{base}:films", "max_tokens": 12}
    whole = client.chat.completions.create(messages=[{"role": "user", "content": "hello"}], **asked)
    stream = client.chat.completions.create(
        messages=[{"role": "user", "content": "hello"}], stream=True,
        stream_options={"include_usage": True}, **asked,
    )  # fmt: skip
    chunks = list(stream)
    said = "".join(c.choices[0].delta.content for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] is not None


def test_a_classification_is_completed_by_its_label_word(client, served):
    address, catalog, backbone = served
    task = Task(name="file:x", source="{input}", target="{target}", labels=("billing", "a refund"))
    prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=3), 4)
    catalog.put("tickets", dataclasses.replace(prompt, task=task))
    asked = {"input": "a fine film", "model": "tickets"}
    # It compiles what classifies, which takes a slow machine longer than httpx waits by itself.
    options = {"headers": USER, "json": asked, "timeout": 60}
    found = httpx.post(f"{address}/v1/classify", **options).json()["data"][0]
    given = {"model": "tickets", "max_tokens": 1}
    whole = client.completions.create(prompt="a fine film", **given)
    assert whole.choices[0].text == found["label"] and whole.choices[0].finish_reason == "stop"
    stream = client.completions.create(prompt="a fine film", stream=True, **given)
    assert "".join(chunk.choices[0].text for chunk in stream) == found["label"]
    chat = client.chat.completions.create(
        messages=[{"role": "user", "content": "a fine film"}], **given
    )
    assert chat.choices[0].message.content == found["label"]
    catalog.remove("tickets", 1)


def test_openais_client_embeds_and_is_told_errors(client):
    got = client.embeddings.create(model="films", input=["a", "b c"])
    assert len(got.data) == 2 and len(got.data[0].embedding) == 16
    with pytest.raises(openai.NotFoundError, match="there is no model 'none'"):
        client.completions.create(model="none", prompt="a")
    with pytest.raises(openai.BadRequestError, match="64 tokens|tokens and 32 is the most"):
        client.completions.create(model="films", prompt="word " * 100)
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(
            model="films", messages=[{"role": "user", "content": "a"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )  # fmt: skip
    with pytest.raises(openai.AuthenticationError, match="no such API key"):
        client.with_options(api_key="wrong").models.list()


def test_prompts_are_put_changed_and_removed(served, tmp_path):
    address, catalog, backbone = served
    admin = httpx.Client(base_url=address, headers={"Authorization": "Bearer admin"})
    prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=4), 9)
    body = packed(save_prompt(tmp_path / "p", prompt))
    made = admin.put("/v1/prompts/new", content=body)
    assert made.status_code == 200 and made.json()["id"] == "new@1", made.text
    assert made.json()["root"] == prompt.digest
    stale = admin.put("/v1/prompts/new", content=body, headers={"If-Match": '"0"'})
    assert stale.status_code == 412
    again = admin.put("/v1/prompts/new", content=body, headers={"If-Match": prompt.digest})
    assert again.json()["id"] == "new@2"
    flip = admin.put("/v1/prompts/new/aliases/default", json={"version": 1})
    assert flip.json()["id"] == "new@1", flip.text
    told = admin.get("/v1/prompts/new").json()
    assert told["id"] == "new@1" and told["size"] == prompt.size and told["template"] is None
    assert admin.delete("/v1/prompts/new/1").status_code == 400  # An alias means it.
    assert admin.delete("/v1/prompts/new/2").status_code == 200
    assert admin.put("/v1/prompts/new", content=b"no zip").status_code == 400
    assert "new@1" in catalog.engine.names and "new@2" not in catalog.engine.names


def test_a_folder_of_peft_gets_its_shapes_from_the_backbone_of_the_server(served, tmp_path):
    address, catalog, backbone = served
    prompt = prompt_of(backbone, LoraConfig(r=2), 9)
    folder = export_peft(tmp_path / "lora", prompt)
    (folder / "prompt_jax_config.json").unlink()  # As PEFT leaves a folder.
    with pytest.raises(InputError, match="nor shapes without its backbone"):
        unpacked(packed(folder))
    admin = httpx.Client(base_url=address, headers={"Authorization": "Bearer admin"})
    try:
        put = admin.put("/v1/prompts/peft", content=packed(folder))
        assert put.status_code == 200 and put.json()["root"] == prompt.digest, put.text
        shutil.copytree(folder, catalog.store.root / "peft" / "2")
        with pytest.raises(InputError, match="nor shapes without its backbone"):
            catalog.store.load("peft@2")
        assert not catalog.refresh() and catalog.find("peft@2").digest == prompt.digest
    finally:
        for version in (1, 2):
            admin.delete(f"/v1/prompts/peft/{version}")


def test_what_is_sent_to_a_strange_host_or_is_too_large(served):
    with httpx.Client(base_url=served[0]) as plain:
        tricked = plain.get("/metrics", headers={"Host": "x/livez?"})
        assert tricked.status_code == 400 and "Host" in tricked.text
        assert plain.post("/v1/generate", content=b"x" * (2**20 + 1)).status_code == 413


def test_what_is_no_request(served):
    headers = {"Authorization": "Bearer user"}
    with httpx.Client(base_url=served[0], headers=headers, timeout=60) as user:
        for body in (b"{", b"\xff", b"[" * 100_000, b'{"text": "' + b"x" * 100_001 + b'"}', b"3"):
            found = user.post(
                "/v1/generate", content=body, headers={"Content-Type": "application/json"}
            )
            assert found.status_code == 400 and found.json()["error"]["code"], (
                body[:20],
                found.text,
            )
        for wrong in (
            {"n": 9}, {"max_tokens": 0}, {"stop": ["a"] * 17}, {"temperature": -1}, {"echo": True},
            {"bad_words": ["a"]}, {"ignore_eos": True}, {"stop_token_ids": [-1]},
            {"min_tokens": 4, "max_tokens": 3}, {"repetition_penalty": 0},
        ):  # fmt: skip
            found = user.post("/v1/generate", json={"text": "a", **wrong})
            assert found.status_code == 400, found.text
        mixed = user.post(
            "/v1/generate", json={"text": ["a", "b", "c"], "prompts": ["films", None, "satire"]}
        ).json()
        assert [c["model"] for c in mixed["choices"]] == ["films@2", served[1].base, "satire@1"]
        labels = {"input": ["good film", "bad"], "labels": ["good", "bad"]}
        found = user.post("/v1/classify", json={"model": "films", **labels}).json()
        assert {each["label"] for each in found["data"]} <= {"good", "bad"}
        assert abs(sum(found["data"][0]["probs"].values()) - 1) < 1e-5
        found = user.post("/v1/classify", json={"prompts": ["films", "satire"], **labels}).json()
        assert found["prompts"] == ["films@2", "satire@1"] and len(found["data"]) == 2


def test_health_and_numbers(served):
    with httpx.Client(base_url=served[0]) as plain:
        assert plain.get("/livez").text == plain.get("/readyz").text == plain.get("/health").text
        told = plain.get("/metrics", headers={"Authorization": "Bearer admin"}).text
        assert "prompt_jax:num_requests_waiting" in told and "prompt_jax:batches_mixed" in told
        spec = plain.get("/openapi.json", headers={"Authorization": "Bearer user"}).json()
        assert "/v1/chat/completions" in spec["paths"]
        assert json.dumps(spec)


def test_prompts_are_composed_on_request(client, served):
    _, catalog, backbone = served
    parts = {"prompts": ["films@1", "films@2"], "how": "concat"}
    asked = {"model": "", "prompt": "a fine film", "max_tokens": 8}
    got = client.completions.create(**asked, extra_body={"compose": parts})
    both = compose([catalog.store.load("films@1"), catalog.store.load("films@2")])
    assert got.model_extra["prompt_digest"] == both.digest
    assert got.model.startswith("concat(films@1,films@2)")
    catalog.engine.put("both", both)
    tokens = backbone.tokenizer("a fine film")["input_ids"]
    wanted = catalog.engine.generate("both", tokens, max_new_tokens=8).result()
    catalog.engine.remove("both")
    assert got.choices[0].text == backbone.tokenizer.decode(wanted.tokens, skip_special_tokens=True)
    wrong = {**parts, "how": "average"}
    with pytest.raises(openai.BadRequestError, match="films@1|length|3 .* 5"):
        client.completions.create(**asked, extra_body={"compose": wrong})
    for names in (["films", ""], ["films", "none"]):
        with pytest.raises(openai.APIStatusError, match="nothing to compose|no model 'none'"):
            client.completions.create(**asked, extra_body={"compose": {"prompts": names}})


def test_no_more_compositions_are_kept_than_allowed(served, monkeypatch):
    catalog = served[1]
    monkeypatch.setattr("prompt_jax.serve.catalog.COMPOSED", 1)
    parts = [catalog.find("films@1"), catalog.find("films@2")]
    first = catalog.composed(parts, "concat", None)
    assert catalog.composed(parts, "concat", None) is first
    second = catalog.composed(parts[::-1], "concat", None)
    names = catalog.engine.names
    assert second.reference in names and first.reference not in names


def test_aliases_are_loaded_and_unloaded_as_in_vllm(served):
    with httpx.Client(base_url=served.address, headers=ADMIN) as admin:
        load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
        live = {"lora_name": "films@live", "lora_path": "films@1"}
        assert admin.post(load, json=live).text.startswith("Success")
        assert admin.post(load, json=live).text.startswith("Success")
        assert admin.get("/v1/models/films@live").json()["id"] == "films@1"
        assert Store(served.catalog.store.root).resolve("films@live").version == 1
        other = {**live, "lora_path": "films@2"}
        taken = admin.post(load, json=other)
        assert taken.status_code == 400 and "'films@live' means films@1; unload it" in taken.text
        assert admin.post(load, json={**other, "load_inplace": True}).status_code == 200
        assert admin.get("/v1/models/films@live").json()["id"] == "films@2"
        assert admin.post(unload, json={"lora_name": "films@live"}).text.startswith("Success")
        assert admin.get("/v1/models/films@live").status_code == 404
        assert admin.post(unload, json={"lora_name": "films@live"}).status_code == 404
        # Under the name alone it is the alias `default`; no prompt is served as another.
        plain = {"lora_name": "films", "lora_path": "films@1", "load_inplace": True}
        assert admin.post(load, json=plain).status_code == 200
        assert admin.get("/v1/models/films").json()["aliases"] == ["default"]
        assert admin.post(unload, json={"lora_name": "films"}).status_code == 200
        assert admin.get("/v1/models/films").json()["id"] == "films@2"
        for name in ("satire", "live", served.catalog.base, "films@3"):
            refused = admin.post(load, json={**plain, "lora_name": name})
            assert refused.status_code == 400, (name, refused.text)
        assert admin.get("/v1/models/satire").json()["id"] == "satire@1"
        for path in ("/etc/passwd", "../films", "https://example.org/p", "", "films/1"):
            absent = admin.post(load, json={"lora_name": "films", "lora_path": path})
            assert absent.status_code == 404, (path, absent.text)


NAMES = (
    "..%2fx", "%2e%2e%2fx", "%252e%252e%252fx", "%2fetc%2fpasswd", "..%5cx", "x%00y", ".hidden",
    "%EF%BC%8E%EF%BC%8E", "%D1%85", "UPPER", "x%20y", "x%0a", "-x", "x" * 65, "~", "aux:",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere(name, served, tmp_path):
    address, catalog, backbone = served
    prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=4), 9)
    body = packed(save_prompt(tmp_path / "p", prompt))
    before = sorted(catalog.store.root.parent.rglob("*"))
    with httpx.Client(base_url=address, headers=ADMIN) as admin:
        for method, path, more in [
            ("PUT", f"/v1/prompts/{name}", {"content": body}),
            ("GET", f"/v1/prompts/{name}", {}),
            ("GET", f"/v1/models/{name}", {}),
            ("DELETE", f"/v1/prompts/{name}/1", {}),
            ("PUT", f"/v1/prompts/{name}/aliases/x", {"json": {"version": 1}}),
            ("PUT", f"/v1/prompts/films/aliases/{name}", {"json": {"version": 1}}),
        ]:
            found = admin.request(method, path, **more)
            assert found.status_code in (400, 404, 405), (method, path, found.text)
    assert sorted(catalog.store.root.parent.rglob("*")) == before


def test_a_prompt_that_is_no_number_is_not_taken(served, tmp_path):
    address, catalog, backbone = served
    prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=4), 9)
    folder = save_prompt(tmp_path / "p", prompt)
    weights = next(folder.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    weights.write_bytes(bytes(data))
    with httpx.Client(base_url=address, headers=ADMIN) as admin:
        found = admin.put("/v1/prompts/nan", content=packed(folder))
        assert found.status_code in (400, 409), found.text
        assert admin.get("/v1/prompts/nan").status_code == 404
    assert not (catalog.store.root / "nan").exists()
