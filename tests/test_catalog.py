"""What a server makes of a store that others change, damage and unmount."""

import contextlib
import dataclasses
import shutil

import numpy as np
import pytest

pytest.importorskip("fastapi")

from serving import SIZES, prompt_of  # noqa: E402

from prompt_jax.config import InputError  # noqa: E402
from prompt_jax.methods import LoraConfig, PromptTuningConfig  # noqa: E402
from prompt_jax.serve import Engine, Store, UnknownPromptError
from prompt_jax.serve.catalog import Catalog, open_catalog
from prompt_jax.serve.errors import ChangedError, StoreError

ROOM = [PromptTuningConfig(num_virtual_tokens=4)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def catalog(tiny, store):
    """Of films@1, which `films` means, films@2 and satire@1."""
    for name, seed in (("films", 1), ("films", 2), ("satire", 3)):
        store.put(name, prompt_of(tiny, ROOM[0], seed))
    store.alias("films", "default", 1)
    with Engine(tiny, room=ROOM, **SIZES) as engine:
        catalog = Catalog(engine, store)
        assert catalog.refresh() == []
        yield catalog


def references(catalog):
    return [served.reference for served in catalog.served]


def digest_of(catalog, model):
    return catalog.find(model).digest


def test_what_cannot_be_served(tiny, store):
    room = ROOM
    store.put("good", prompt_of(tiny, PromptTuningConfig(num_virtual_tokens=3), 1))
    prompt = prompt_of(tiny, PromptTuningConfig(num_virtual_tokens=3), 1)
    store.put("other", dataclasses.replace(prompt, tuned={"prompt": np.ones((3, 8), np.float32)}))
    (store.root / "good" / "2").mkdir()
    catalog, problems = open_catalog(tiny, store, room, **SIZES)
    with catalog.engine:
        assert [each.reference for each in catalog.served] == ["good@1"]
        assert sorted(problem.partition(":")[0] for problem in problems) == ["good@2", "other@1"]
        with pytest.raises(UnknownPromptError, match="there is no model 'good@2'"):
            catalog.find("good@2")
        first = catalog.find("good")
        with pytest.raises(ChangedError, match="'good' is .* and not '0'; look at it again"):
            catalog.put("good", first.prompt, expected="0")
        with pytest.raises(InputError, match="no room for it; serve with --lora-rank 2"):
            catalog.put("good", prompt_of(tiny, LoraConfig(r=2), 3))
        assert len(store.entries().entries) == 3  # What was refused left nothing.
        second = catalog.put("good", prompt_of(tiny, room[0], 5))
        with pytest.raises(InputError, match="'good' means good@3; unload it, or replace it"):
            catalog.load("good", "good@1")
        assert catalog.find("good") is second
        with pytest.raises(UnknownPromptError, match="the base needs no other name"):
            catalog.load("x", catalog.base)
        with pytest.raises(UnknownPromptError, match="there is no 'x@default' in the store"):
            catalog.unload("x")
        store.remove("good", 1)
        assert catalog.refresh() != [] and "good@1" not in catalog.engine.names


def test_changes_in_place_are_noticed(catalog, store, tiny):
    first = catalog.find("films")
    (store.root / "films" / "aliases.json").write_text('{"default": 2}')
    assert catalog.refresh() == [] and catalog.find("films").reference == "films@2"
    assert catalog.find("films@1").leaves is first.leaves  # It was not read again.
    shutil.rmtree(store.root / "satire")
    again = store.put("satire", prompt_of(tiny, ROOM[0], 7))
    assert catalog.refresh() == [] and str(again) == "satire@1"
    assert digest_of(catalog, "satire") == store.load("satire").digest
    # The same numbers for another task are another prompt.
    prompt = dataclasses.replace(store.load("satire"), metrics={"accuracy": 0.5})
    other = Store(store.root.parent / "other")
    other.put("satire", prompt)
    shutil.copytree(other.root / "satire" / "1", store.root / "satire" / "1", dirs_exist_ok=True)
    assert catalog.refresh() == []
    assert catalog.find("satire").prompt.metrics == {"accuracy": 0.5}
    unchanged = catalog.served
    assert catalog.refresh() == [] and catalog.served == unchanged


def test_what_is_damaged_while_it_is_served_stays(catalog, store):
    before = catalog.served
    aliases = store.root / "films" / "aliases.json"
    aliases.write_text('{"default": ')  # As far as somebody has written it.
    (store.root / "satire" / "1" / "prompt_jax_config.json").write_text("{}")
    first, second = catalog.refresh()
    assert first.startswith("films: aliases.json of 'films' is no table")
    assert second.startswith("satire@1: ") and catalog.served == before
    aliases.write_text('{"default": 2}')
    (second,) = catalog.refresh()
    assert catalog.find("films").reference == "films@2" and second.startswith("satire@1: ")
    aliases.write_text('{"default": 7}')  # Nobody is answered by another version unseen.
    assert catalog.refresh()[0] == "films@default: there is no version 7"
    with pytest.raises(UnknownPromptError, match="there is no model 'films'"):
        catalog.find("films")


def test_a_store_that_is_lost(catalog, store, tiny, tmp_path, monkeypatch):
    before = catalog.served
    store.root.rename(tmp_path / "mounted")
    for why in ("the store cannot be read: No such file or directory", "the store is empty"):
        assert catalog.refresh() == [] and catalog.lost == why and catalog.served == before
        store.root.mkdir(exist_ok=True)
    with pytest.raises(StoreError, match="the store is empty; prompts are served and cannot be"):
        catalog.put("films", prompt_of(tiny, ROOM[0], 4))
    assert store.names() == []
    shutil.rmtree(store.root)
    (tmp_path / "mounted").rename(store.root)

    def unmounted(name):  # In the middle of a look.
        with contextlib.suppress(FileNotFoundError):
            store.root.rename(tmp_path / "mounted")
        return Store.marks(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(store, "marks", unmounted)
        assert catalog.refresh() == [] and catalog.lost and catalog.served == before
    (tmp_path / "mounted").rename(store.root)
    assert catalog.refresh() == [] and catalog.lost == "" and catalog.served == before
    store.unalias("films", "default")
    for name, version in (("films", 1), ("films", 2), ("satire", 1)):
        catalog.remove(name, version)
    assert catalog.refresh() == [] and catalog.lost == "" and catalog.served == []


def test_a_change_is_compared_with_what_others_have_changed(catalog, store, tiny):
    first = digest_of(catalog, "films")
    with Engine(tiny, room=ROOM, **SIZES) as engine:
        replica = Catalog(engine, store)
        replica.refresh()
        catalog.alias("films", "default", 2, expected=first)
        for change in (
            lambda: replica.alias("films", "default", 1, expected=first),
            lambda: replica.put("films", prompt_of(tiny, ROOM[0], 5), expected=first),
        ):
            with pytest.raises(ChangedError, match=f"and not '{first[:12]}'; look at it again"):
                change()
        replica.alias("films", "default", 1, expected=digest_of(catalog, "films"))
    store.alias("films", "default", 2)  # As `prompts alias` does.
    with pytest.raises(ChangedError):
        catalog.alias("films", "default", 1, expected=first)
    shutil.rmtree(store.root / "satire")
    last = digest_of(catalog, "satire")
    store.put("satire", prompt_of(tiny, ROOM[0], 8))
    with pytest.raises(ChangedError, match="'satire@1' is"):
        catalog.remove("satire", 1, expected=last)
    assert store.resolve("films").version == 2 and store.resolve("satire").version == 1
    for model in ("none", "films@new"):  # `*` is what is there, and "" what is not.
        name, _, alias = model.partition("@")
        with pytest.raises(ChangedError, match="is not there and not"):
            catalog.alias(name, alias or "new", 1, expected="*")
    catalog.alias("films", "new", 1, expected="")
    catalog.alias("films", "new", 2, expected="*")
    with pytest.raises(ChangedError):
        catalog.alias("films", "new", 1, expected="")


def test_the_name_of_the_base_is_no_prompts(catalog, store, tiny):
    prompt = prompt_of(tiny, ROOM[0], 4)
    with pytest.raises(InputError, match="'tiny' is what the frozen model is called; give another"):
        catalog.put("tiny", prompt)
    store.put("tiny", prompt)
    assert catalog.refresh() == [
        "tiny: it is what the frozen model is called; publish it as another"
    ]
    assert "tiny@1" not in references(catalog)
