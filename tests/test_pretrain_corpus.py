"""Text for pretraining: sentences, their tokens, and the tokenizer that is trained on them."""

import pytest
from make_corpus import rng, sentence

from prompt_jax.config import InputError
from prompt_jax.pretrain.corpus import (
    EOS,
    load_tokenizer,
    padded,
    read_sentences,
    sentences,
    train_tokenizer,
)


def test_sentences_are_cut_at_stops_and_long_ones_at_commas():
    assert sentences("One two three four. Too short. Five six, seven eight?") == [
        "One two three four.",
        "Five six, seven eight?",
    ]
    long = "one two three four five, " + " ".join(["more"] * 10)
    assert sentences(long, most=8) == ["one two three four five,"]
    assert sentences("x = 1 + 2 - 3 * 4 / 5 % 6 == 7") == []


def test_shares_thin_a_file_and_the_seed_decides_how(corpus):
    def read(share, seed=0):
        return read_sentences(corpus, [("prose.txt", share)], most_per_file=1000, seed=seed)

    assert len(read(1.0)) == 400
    assert 60 < len(read(0.25)) < 140
    assert read(0.25) == read(0.25) != read(0.25, seed=1)
    assert len(read_sentences(corpus, [("prose.txt", 1.0)], most_per_file=7)) == 7


def test_missing_text_is_named(corpus):
    with pytest.raises(InputError, match="no text file 'poems.txt'.*one paragraph a line"):
        read_sentences(corpus, [("poems.txt", 1.0)], most_per_file=5)


def test_text_without_sentences_is_refused(tmp_path):
    (tmp_path / "code.txt").write_text("1 2 3 4 5 6\n")
    with pytest.raises(InputError, match="no sentence of 4 to 36 words in 1 files"):
        read_sentences(tmp_path, [("code.txt", 1.0)], most_per_file=5)


def test_extra_words_get_pieces_of_their_own(tmp_path):
    texts = [sentence(rng(i)) for i in range(200)]
    pieces = load_tokenizer(train_tokenizer(texts, tmp_path, size=70, words=["laptop", "email"]))
    assert len(pieces.encode("laptop")) == 1
    assert pieces.id_to_piece(EOS) == "</s>"


def test_too_large_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(InputError, match="vocabulary of 5000 pieces could not be made.*smaller"):
        train_tokenizer([sentence(rng())], tmp_path, size=5000)
    assert not list(tmp_path.iterdir())


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="no tokenizer at .*spiece.model"):
        load_tokenizer(tmp_path / "spiece.model")


def test_padded_cuts_and_fills():
    assert padded([[5, 6, 7, 8], [9]], 3).tolist() == [[5, 6, 7], [9, 0, 0]]
