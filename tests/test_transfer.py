"""Which prompts are alike, and a prompt carried over to another backbone."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.config import InputError
from prompt_jax.methods import LoraConfig, PromptTuningConfig, init
from prompt_jax.prompts import (
    Prompt,
    prompt_for,
    recycle,
    save_prompt,
    similarities,
    task_embedding,
    transfer,
)


class Tokenizer:
    """A vocabulary and no more: what recycling asks of a tokenizer."""

    all_special_ids = (0, 1)

    def __init__(self, words):
        self.words = words

    def __len__(self):
        return len(self.words)

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}


WORDS = ["<pad>", "</s>", *(f"w{i}" for i in range(60))]


def make(rows, backbone=None, name="", **method):
    config = PromptTuningConfig(num_virtual_tokens=len(rows), **method)
    if backbone is None:
        return Prompt(tuned={"prompt": rows}, method=config, name=name)
    return prompt_for({"prompt": rows}, config, backbone, name=name)


@pytest.fixture
def source(tiny):
    return dataclasses.replace(tiny, name="source", tokenizer=Tokenizer(WORDS), fingerprint="a")


@pytest.fixture
def target(tiny):
    """Twice as wide, with the words in another order; its embeddings are a map of the source's."""
    table = np.asarray(tiny.params["embedding"])
    turned = np.random.default_rng(1).normal(size=(tiny.width, 2 * tiny.width)) / 4
    order = [0, 1, *range(61, 1, -1)]
    params = {"embedding": np.concatenate([table[order] @ turned, np.zeros((2, 32))])}
    config = dataclasses.replace(tiny.config, d_model=2 * tiny.width)
    tokenizer = Tokenizer([WORDS[i] for i in order])
    return dataclasses.replace(
        tiny, name="target", config=config, params=params, tokenizer=tokenizer, fingerprint="b"
    ), turned


@pytest.fixture
def prompt(source):
    rows = np.random.default_rng(0).normal(size=(5, source.width))
    return make(rows, source, "reviews", placement="suffix")


class TestSimilarities:
    def test_by_hand(self):
        query = make(np.array([[1.0, 0.0], [0.0, 1.0]]), name="query")
        same = make(np.array([[2.0, 0.0], [0.0, 2.0]]), name="same")
        half = make(np.array([[3.0, 0.0]]), name="half")
        against = make(np.array([[-1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]]), name="against")
        np.testing.assert_array_equal(task_embedding(query), [0.5, 0.5])
        found = similarities(query, [against, half, same])
        assert [row.prompt.name for row in found] == ["same", "half", "against"]
        averages, per_token = [r.average for r in found], [r.per_token for r in found]
        np.testing.assert_allclose(averages, [1, 0.5**0.5, -3 / 10**0.5], rtol=1e-6)
        np.testing.assert_allclose(per_token, [0.5, 0.5, -0.5], rtol=1e-6)

    def test_bad_input(self, source, prompt, tiny):
        lora = LoraConfig()
        low = prompt_for(init(lora, tiny, jax.random.key(0)), lora, tiny, name="low")
        other = dataclasses.replace(prompt, name="other", fingerprint="z" * 64)
        cases = [
            ([], "no prompts to compare with"),
            ([low], "low is lora and has no rows"),
            ([other], "'reviews' was trained on source .*'other' on source"),
            ([make(np.ones((2, 8)), placement="suffix")], "are 16 and 8 wide"),
            ([make(np.ones((2, 16)))], 'stand at "suffix" and "prefix"'),
        ]
        for library, message in cases:
            with pytest.raises(InputError, match=message):
                similarities(prompt, library)
        with pytest.raises(InputError, match="low is lora"):
            task_embedding(low)

    def test_command(self, tiny, tmp_path, capsys):
        rows = np.random.default_rng(0).normal(size=(3, tiny.width))
        for name, change in (("near", 0.1), ("far", 10.0)):
            noise = change * np.random.default_rng(1).normal(size=rows.shape)
            save_prompt(tmp_path / "all" / name, make(rows + noise, tiny, name))
        lora = LoraConfig()
        low = prompt_for(init(lora, tiny, jax.random.key(0)), lora, tiny)
        low = str(save_prompt(tmp_path / "all" / "low", low))
        query = str(save_prompt(tmp_path / "query", make(rows, tiny)))
        assert cli.main(["prompts", "similarity", query, str(tmp_path / "all")]) == 0
        out = capsys.readouterr().out
        assert out.index("near") < out.index("far") < out.index("left out: low: ")
        assert cli.main(["prompts", "similarity", low, str(tmp_path / "all")]) == 2
        assert "has no rows" in capsys.readouterr().err
        (tmp_path / "none").mkdir()
        assert cli.main(["prompts", "similarity", query, str(tmp_path / "none")]) == 2
        assert "no prompts in" in capsys.readouterr().err


class TestRecycle:
    @pytest.mark.parametrize("how", ["linear", "combination"])
    def test_to_the_same_backbone_is_nearly_the_prompt(self, source, prompt, how):
        again = recycle(prompt, source, source, how)
        np.testing.assert_allclose(again.rows, prompt.rows, atol=1e-4)

    @pytest.mark.parametrize("how", ["linear", "combination"])
    def test_finds_the_map_between_two_models(self, source, target, prompt, how):
        target, turned = target
        made = recycle(prompt, source, target, how)
        np.testing.assert_allclose(made.rows, prompt.rows @ turned, atol=1e-3)
        assert (made.backbone, made.fingerprint, made.name) == ("target", "b", "reviews")
        assert made.method.placement == "suffix" and made.method.init == "random"
        assert made.recipe == {
            "recycled": how,
            "words": 60,
            "parents": [{"name": "reviews", "digest": prompt.digest, "backbone": "source"}],
        }

    def test_mlp_learns_the_map_and_repeats_itself(self, source, target):
        target, turned = target
        rows = np.asarray(source.params["embedding"])[2:8]
        words = make(rows, source)
        made = recycle(words, source, target, "mlp")
        assert made.rows.shape == (6, 32) and made.recipe["seed"] == 0
        np.testing.assert_array_equal(made.rows, recycle(words, source, target, "mlp").rows)
        assert (made.rows != recycle(words, source, target, "mlp", seed=1).rows).any()
        # Sixty words give one step an epoch; with more epochs the map is found.
        table = np.asarray(source.params["embedding"])[:62]
        trained = transfer._by_mlp(jax.random.key(0), table, table @ turned, rows, epochs=2000)
        error = np.abs(np.asarray(trained) - rows @ turned).mean()
        assert error < 0.1 * np.abs(rows @ turned).mean()

    def test_chosen_words(self, source, target, prompt):
        target, _ = target
        made = recycle(prompt, source, target, words=["w3", "nowhere", "w5", "w3"])
        assert made.recipe["words"] == 2

    def test_a_large_vocabulary_goes_without_its_first_words(self, source, monkeypatch):
        table = np.asarray(source.params["embedding"])
        monkeypatch.setattr(transfer, "SKIPPED", 10)
        monkeypatch.setattr(transfer, "MAX_WORDS", 50)
        found, _ = transfer._shared(source, source, None)
        np.testing.assert_array_equal(found, table[12:62])
        monkeypatch.setattr(transfer, "MAX_WORDS", 51)  # Too few would be left.
        found, _ = transfer._shared(source, source, None)
        np.testing.assert_array_equal(found, table[2:53])

    def test_the_shipped_backbone(self, embedded):
        rows = np.asarray(embedded.params["embedding"])[[40, 400, 4000]]
        made = recycle(make(rows, embedded), embedded, embedded, "linear")
        assert made.recipe["words"] == 4000
        np.testing.assert_allclose(made.rows, rows, atol=1e-3 * np.abs(rows).max())

    def test_bad_input(self, source, target, prompt, tiny):
        target, _ = target
        bare = dataclasses.replace(target, tokenizer=None)
        strange = dataclasses.replace(target, tokenizer=Tokenizer(["x", "y", "z"]))
        cases = [
            ((source, target, "linaer"), "unknown way to recycle a prompt.*meant 'linear'"),
            ((source, bare), "backbone 'target' has no tokenizer"),
            ((dataclasses.replace(source, tokenizer=None), target), "'source' has no tokenizer"),
            ((source, strange), "no word is a token of both 'source' and 'target'"),
            ((source, target, "linear", ["film"]), "no given word is a token of both"),
            ((target, source), "is 16 wide and backbone 'target' is 32"),
            ((dataclasses.replace(source, fingerprint="c"), target), "trained on other weights"),
        ]
        for arguments, message in cases:
            with pytest.raises(InputError, match=message):
                recycle(prompt, *arguments)
        lora = LoraConfig()
        low = prompt_for(init(lora, tiny, jax.random.key(0)), lora, tiny, name="low")
        with pytest.raises(InputError, match="low is lora"):
            recycle(low, source, target)
