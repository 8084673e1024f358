"""From names to folders: the package, the disk, the hub's cache; and tokenizers beside weights."""

import dataclasses
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from prompt_jax.config import InputError
from prompt_jax.weights import hub, load_backbone, load_tokenizer, save_hugging_face

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def cached(cache, tiny):
    """The tiny model as a snapshot in the cache, as a download leaves it."""
    root = cache / "models--someone--tiny"
    save_hugging_face(root / "snapshots" / COMMIT, tiny)
    for name in ("main", "v1.0"):
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / name).write_text(COMMIT)
    return root / "snapshots" / COMMIT


def test_a_hub_id_comes_from_the_cache(cached, tiny):
    backbone = load_backbone("someone/tiny", dtype="float32")
    np.testing.assert_array_equal(backbone.params["embedding"], tiny.params["embedding"])
    assert backbone.name == "someone/tiny"
    for revision in ("main", "v1.0", COMMIT):
        assert hub.locate("someone/tiny", revision, None) == str(cached)


def test_a_gguf_file_of_a_repository_comes_from_the_cache(cached):
    (cached / "tiny.Q4_0.gguf").touch()
    place = hub.locate("someone/tiny/tiny.Q4_0.gguf", "v1.0", None)
    assert place == str(cached / "tiny.Q4_0.gguf")
    with pytest.raises(InputError, match="someone/tiny on the .* hub has no tiny.Q8_0.gguf"):
        hub.locate("someone/tiny/tiny.Q8_0.gguf", None, None)


def test_a_revision_that_is_not_there(cached):
    with pytest.raises(InputError, match="unknown backbone 'someone/tiny' at revision 'v2.0'"):
        load_backbone("someone/tiny", revision="v2.0")


def test_only_the_best_format_is_downloaded(cache, tmp_path, monkeypatch):
    """The hub's client is the one thing replaced here: what it is asked for is what counts."""
    asked = []

    def snapshot_download(name, *, revision, token, allow_patterns):
        asked.append((name, revision, token, allow_patterns[-1]))
        if allow_patterns[-1].startswith("pytorch"):
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert hub.locate("google/t5-small-lm-adapt", "v1", "secret") == str(tmp_path)
    name, patterns = ("google/t5-small-lm-adapt", "v1", "secret"), hub.WEIGHTS[:2]
    assert asked == [(*name, pattern) for pattern in patterns]


def test_a_cached_model_without_weights(cached):
    (cached / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no weights; allowed: .* there are: config.json"):
        load_backbone("someone/tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t5_1_1_smal", r"Perhaps you meant 't5_1_1_small'\? Allowed: embedded; random models t5_"),
        ("embeded", r"Perhaps you meant 'embedded'\? Allowed"),
        ("google/no-such-model", "not to be had from the Hugging Face hub .* a hub id such as"),
        ("./no/such/folder", r"no folder './no/such/folder'. Allowed"),
        ("two words", "no folder 'two words'"),
        (__file__, "no folder .*test_weights_hub.py"),
        ("a" * 120 + "/b", "unknown backbone"),
    ],
)
def test_an_unknown_name(cache, name, message):
    with pytest.raises(InputError, match=message):
        load_backbone(name)


def test_embedded_is_in_the_package(embedded):
    assert embedded.name == "embedded"
    assert embedded.tokenizer("a film", return_tensors="np").input_ids.shape[0] == 1
    assert len(embedded.tokenizer) <= embedded.config.vocab_size
    assert np.isfinite(np.asarray(embedded.embed(np.array([[1, 2]])))).all()


@pytest.fixture
def tokenizer_folder(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model", "config.json"):
        shutil.copy(Path(hub.locate("embedded", None, None)) / name, tmp_path)
    return tmp_path


def test_a_tokenizer_is_saved_beside_the_weights(tiny, embedded, tmp_path):
    both = dataclasses.replace(tiny, tokenizer=embedded.tokenizer)
    again = load_backbone(save_hugging_face(tmp_path, both))
    text = "The film was a delight."
    assert again.tokenizer(text).input_ids == embedded.tokenizer(text).input_ids


def test_a_tokenizer_that_is_absent_or_damaged(tiny, tokenizer_folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match=r"has no tokenizer; add tokenizer.json or spiece.model"):
        load_tokenizer(str(empty))
    with pytest.raises(InputError, match=r"has no tokenizer"):
        load_backbone(save_hugging_face(empty / "model", tiny), tokenizer=str(empty))
    (tokenizer_folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"the tokenizer of .* cannot be loaded .*download its"):
        load_tokenizer(str(tokenizer_folder))


def test_a_tokenizer_with_code_of_its_own_is_not_run(tokenizer_folder):
    mark = tokenizer_folder / "mark"
    (tokenizer_folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    (tokenizer_folder / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["own.Own", null]}, "tokenizer_class": "Own"}'
    )
    (tokenizer_folder / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer(str(tokenizer_folder))
    assert not mark.exists()


def test_a_tokenizer_of_an_unknown_id(cache):
    with pytest.raises(InputError, match="the tokenizer of someone/none cannot be loaded"):
        load_tokenizer("someone/none")
