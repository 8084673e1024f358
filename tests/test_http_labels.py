"""What a class is called, whoever names it: prompts with heads, and label words."""

import dataclasses
import math

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from serving import KEYS, USER, asking, prompt_of  # noqa: E402

from prompt_jax.answers import answer  # noqa: E402
from prompt_jax.config import DataConfig, EvalConfig, InputError  # noqa: E402
from prompt_jax.data import first_tokens, span_targets  # noqa: E402
from prompt_jax.methods import HeadConfig, PromptTuningConfig  # noqa: E402
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import create_app
from prompt_jax.tasks import Task  # noqa: E402
from prompt_jax.weights import load_backbone  # noqa: E402

pytestmark = pytest.mark.timeout(180)
FILMS = Task(name="f", source="{input}", target="{target}", labels=("bad", "good"))
TAGS = dataclasses.replace(FILMS, kind="tagging", labels=("O", "B", "I"), metrics=())
HEADS = {
    "films": (HeadConfig(num_labels=2, task_type="SEQ_CLS"), FILMS),
    "nameless": (HeadConfig(num_labels=3, task_type="SEQ_CLS"), None),
    "tags": (HeadConfig(num_labels=3, task_type="TOKEN_CLS"), TAGS),
    "untold": (HeadConfig(num_labels=3, task_type="TOKEN_CLS"), None),
    "spans": (HeadConfig(task_type="QUESTION_ANS"), None),
    "numbers": (HeadConfig(num_labels=1, task_type="SEQ_CLS"), None),
}


UNTOLD = {
    "untold": dataclasses.replace(TAGS, labels=("0", "1", "2")),
    "spans": dataclasses.replace(FILMS, kind="span", labels=(), metrics=()),
}
"""What a prompt is for that does not tell it."""


@pytest.fixture(scope="module")
def heads_backbone(bert_folder):
    return load_backbone(str(bert_folder))


@pytest.fixture(scope="module")
def heads_prompts(heads_backbone):
    return {
        name: dataclasses.replace(prompt_of(heads_backbone, method, seed), task=task)
        for seed, (name, (method, task)) in enumerate(HEADS.items())
    }


@pytest.fixture(scope="module")
def heads(heads_backbone, heads_prompts, tmp_path_factory):
    """Asks a server of an encoder whose prompts have heads."""
    backbone, prompts = heads_backbone, heads_prompts
    store = Store(tmp_path_factory.mktemp("heads"))
    for name, prompt in prompts.items():
        store.put(name, prompt)
    with Engine(backbone, prompts, rows=(1,), lengths=(16,)) as engine:
        catalog = Catalog(engine, store)
        assert catalog.refresh() == []
        yield asking(create_app(catalog, KEYS))


def test_a_class_keeps_its_name_whatever_the_order_of_labels(heads):
    body = {"model": "films", "input": "good film"}
    row = heads("classify", **body).json()["data"][0]
    assert list(row["probs"]) == ["bad", "good"] and math.isclose(
        sum(row["probs"].values()), 1, rel_tol=1e-5
    )
    for labels in (["bad", "good"], ["good", "bad"]):
        turned = heads("classify", **body, labels=labels).json()["data"][0]
        assert turned == row and list(turned["probs"]) == labels
    for labels in (["yes", "no"], ["bad", "good", "number"], ["bad", "bad"]):
        reply = heads("classify", **body, labels=labels)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == "labels", reply.text
    assert "has the classes bad, good; give these in any order" in (
        heads("classify", **body, labels=["yes", "no"]).text
    )
    body["model"] = "nameless"
    row = heads("classify", **body).json()["data"][0]
    assert list(row["probs"]) == ["0", "1", "2"]
    assert heads("classify", **body, labels=["bad", "good", "yes"]).status_code == 400


def test_tags_and_spans_are_those_of_predict(heads, heads_backbone, heads_prompts):
    texts = ["good  bad film", "number", "", "yes no " * 12]
    for name, route in (("tags", "tags"), ("untold", "tags"), ("spans", "spans")):
        prompt, task = heads_prompts[name], HEADS[name][1] or UNTOLD[name]
        sizes = {"data": DataConfig(max_source_length=16), "eval": EvalConfig(batch_size=2)}
        words = answer(heads_backbone, prompt.injection(), texts, task, **sizes)
        reply = heads(route, model=name, input=texts, truncate_prompt_tokens=-1).json()
        assert reply["prompt_digest"] == prompt.digest
        for row, text, prediction, reading in zip(
            reply["data"], texts, words.predictions, words.readings, strict=True
        ):
            if route == "spans":
                assert row["text"] == text[row["start"] : row["end"]] == prediction
                ends = span_targets(reading.places, row["start"], row["end"])
                if ends is not None:
                    share = float(np.exp(reading.scores[[0, 1], ends].sum()))
                    assert row["probability"] == pytest.approx(share, rel=1e-4)
                continue
            assert " ".join(word["tag"] for word in row["words"]) == prediction
            told = [word["word"] for word in row["words"]]
            assert told == text.split() == [text[w["start"] : w["end"]] for w in row["words"]]
            first = first_tokens(text, reading.places)
            shares = [float(np.exp(reading.scores[t].max())) if t >= 0 else None for t in first]
            for word, share in zip(row["words"], shares, strict=True):
                assert word["probability"] == (share and pytest.approx(share, rel=1e-4))
    assert heads("tags", model="tags", input="yes no " * 12).status_code == 400
    one = heads("spans", model="spans", input="good film").json()["data"]
    assert [row["index"] for row in one] == [0]


@pytest.mark.parametrize(
    ("route", "name", "message"),
    [
        ("tags", "spans", "has no head for tagging; ask /v1/spans for its spans"),
        ("spans", "tags", "has no head for span; ask /v1/tags for its tags"),
        ("tags", "films", "has no head for tagging; name a prompt that was trained with one"),
        ("spans", "", "the model without a prompt has no head for span; name a prompt"),
    ],
)
def test_a_head_of_another_kind_marks_nothing(route, name, message, heads):
    reply = heads(route, model=name, input="good film")
    assert reply.status_code == 400 and message in reply.text
    assert heads(route, model=name, input=[[5, 6]]).json()["error"]["param"].startswith("input")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tags", "tagging"), ("untold", "tagging"), ("spans", "span"), ("numbers", "regression")],
)
def test_a_prompt_that_gives_no_class_is_refused(name, kind, heads):
    for labels in ({}, {"labels": ["O", "B", "I"]}):
        reply = heads("classify", model=name, input="good film", **labels)
        assert reply.status_code == 400 and f"is for {kind} and gives no class" in reply.text
    for route, text in (("completions", {"prompt": "a"}), ("generate", {"text": "a"})):
        assert heads(route, model=name, **text).status_code == 400
    voted = heads("classify", prompts=[name, "films"], input="good", labels=["bad", "good"])
    assert voted.status_code == 400 and "has a head, and label words are ranked" in voted.text


def test_labels_that_cannot_be_told_apart(served):
    with httpx.Client(base_url=served.address, headers=USER, timeout=60) as user:
        for labels, message in (
            (["good", "good"], "'good' is there twice"),
            (["\U0001f600", "\U0001f680"], "has letters that the tokenizer does not know"),
            (["good", "bad \U0001f680"], "has letters that the tokenizer does not know"),
        ):
            for prompts in ({"model": "films"}, {"prompts": ["films", "satire"]}):
                body = {"input": "a fine film", "labels": labels, **prompts}
                reply = user.post("/v1/classify", json=body)
                assert reply.status_code == 400 and message in reply.text, reply.text


@pytest.mark.slow
def test_a_head_writes_nothing(tiny_llama):
    method = PromptTuningConfig(num_virtual_tokens=2, num_labels=3, task_type="TOKEN_CLS")
    prompt = dataclasses.replace(prompt_of(tiny_llama, method, 1), task=TAGS)
    with Engine(tiny_llama, {"tags": prompt}, rows=(1,), lengths=(8,), max_new_tokens=4) as engine:
        assert engine.version("tags").labels == ()
        with pytest.raises(InputError, match=r"by a trained head \(tagging\) and writes nothing"):
            engine.generate("tags", [5, 6], max_new_tokens=4)
        with pytest.raises(InputError, match="is for tagging and gives no class"):
            engine.classify("tags", [5, 6])
