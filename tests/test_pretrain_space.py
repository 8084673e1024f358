"""Word vectors of a teacher, a lexicon, and the space that texts stand in."""

import dataclasses

import numpy as np
import pytest
from make_corpus import ADJECTIVES, VERBS, rng

from prompt_jax.config import InputError
from prompt_jax.pretrain import bank
from prompt_jax.pretrain.bank import classifier, usable
from prompt_jax.pretrain.corpus import EOS, load_tokenizer
from prompt_jax.pretrain.run import prepare
from prompt_jax.pretrain.space import build_space, clusters
from prompt_jax.pretrain.word_vectors import read_lexicon, read_teacher, token_table, word_pieces


def test_word_pieces_are_longest_first():
    vocabulary = {"un": 0, "##able": 1, "##a": 2, "unab": 3, "##le": 4}
    assert word_pieces("unable", vocabulary) == [3, 4]
    assert word_pieces("able", vocabulary, inside=True) == [1]
    assert word_pieces("xyz", vocabulary) == []


def test_token_table_keeps_the_teachers_neighbours(corpus):
    vectors, vocabulary = read_teacher(corpus / "teacher")
    vectors = vectors.copy()
    vectors[vocabulary["king"]] = vectors[vocabulary["ship"]] + 0.05
    pieces = ["<pad>", "▁king", "▁ship", "▁King", *(f"▁{word}" for word in (*VERBS, *ADJECTIVES))]
    table = token_table(pieces, 64, 24, (vectors, vocabulary))
    assert table.shape == (64, 24)
    np.testing.assert_allclose(np.sqrt((table**2).mean(-1)), 1.0, rtol=1e-5)
    near = table @ table[1]
    assert near[2] > 0.6 * near[1] > near[4:24].max()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_an_incomplete_teacher_is_refused(corpus, tmp_path, name):
    for other in {"model.safetensors", "tokenizer.json"} - {name}:
        (tmp_path / other).write_bytes((corpus / "teacher" / other).read_bytes())
    with pytest.raises(InputError, match=f"has no {name}; give a BERT"):
        read_teacher(tmp_path)


def test_a_teacher_that_is_no_bert_is_refused(corpus, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(
        (corpus / "teacher" / "model.safetensors").read_bytes()
    )
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    with pytest.raises(InputError, match="holds no BERT with a WordPiece vocabulary"):
        read_teacher(tmp_path)


def test_a_table_wider_than_its_teacher_is_refused(corpus):
    with pytest.raises(InputError, match="choose d_model from 9 to 32"):
        token_table(["a"], 64, 40, read_teacher(corpus / "teacher"))


def test_a_lexicon_gives_a_coordinate_and_classifiers(corpus, stage, monkeypatch):
    path = corpus / "rated.txt"
    path.write_text("king\t2.5\t0.3\nship\t-1.5\t0.5\n")
    assert read_lexicon(path) == {"king": 2.5, "ship": -1.5}
    pieces = ["▁king", "king", "▁ship", "▁garden", "▁Ship"]
    teacher = read_teacher(corpus / "teacher")
    plain, rated = (
        token_table(pieces, 8, 16, teacher, ratings=ratings)
        for ratings in (None, read_lexicon(path))
    )
    rates = (rated[0] > 1) & (rated[2] < -0.5) & (rated[4] < -0.5)
    rates &= np.abs(rated[[1, 3]]).max(0) < 0.6  # no rating but noise: only whole words have one
    assert rates.sum() == 1 and not (plain[0] > 1)[rates] & (plain[2] < -0.5)[rates]
    stage = dataclasses.replace(stage, lexicon=str(path))
    material = prepare(stage, load_tokenizer(stage.tokenizer))[0]
    for text, rating in zip(material.strings[:40], material.ratings, strict=False):
        words = text.lower().replace(".", "").replace(",", "").split()
        total = 2.5 * words.count("king") - 1.5 * words.count("ship")
        assert rating == pytest.approx(total / len(words) ** 0.5, abs=1e-5)
    monkeypatch.setattr(bank, "RATED", 1.0)
    pool, signs = usable(material, stage), set()
    for seed in range(20):
        asked = classifier(material, pool, 2, np.random.default_rng(seed))
        one, other = (material.ratings[side] for side in asked.sides)
        assert one.max() <= other.min() or other.max() <= one.min()
        signs.add(one.mean() < other.mean())
    assert signs == {True, False}


@pytest.mark.parametrize("content", ["king\n", "king\tgood\n"])
def test_a_damaged_lexicon_is_refused(tmp_path, content):
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(InputError, match="l.txt' line 1 is not a word, a tab and a number"):
        read_lexicon(tmp_path / "l.txt")
    with pytest.raises(InputError, match="no lexicon .*absent"):
        read_lexicon(tmp_path / "absent")


def test_clusters_find_far_apart_heaps():
    heaps = np.repeat(np.eye(3) * 100, 50, axis=0) + rng().normal(size=(150, 3))
    centres = clusters(heaps, 6, rng(1))
    nearest = np.abs(heaps[:, None] - centres[None]).sum(-1).min(1)
    assert nearest.max() < 20


def test_space_stands_texts_at_their_mean(prepared):
    material, params, _ = prepared
    space, table = material.space, np.asarray(params["embedding"])
    means = np.stack([table[row[:-1]].mean(0) for row in material.texts])
    means -= means.mean(0)
    solved = np.linalg.lstsq(means, space.texts, rcond=None)[0]
    np.testing.assert_allclose(means @ solved, space.texts, atol=1e-3)
    assert np.mean(space.texts**2) == pytest.approx(1.0, rel=1e-3)
    assert (np.diff(space.spread) < 1e-3).all()


def test_too_few_texts_for_a_space_are_refused():
    with pytest.raises(InputError, match="3 texts are too few for a space of 8 .*at least 16"):
        build_space(np.ones((10, 8), np.float32), [[4, EOS]] * 3)
