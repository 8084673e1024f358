"""Where tags and spans stand among the tokens of any kind of tokenizer."""

import numpy as np
import pytest

from prompt_jax.config import DataConfig, InputError
from prompt_jax.data import Batches, encode, first_tokens, locate
from prompt_jax.data.alignment import IGNORED, span_targets, tag_targets
from prompt_jax.tasks import Example
from prompt_jax.weights.tokenizer import load_tokenizer

TEXT = "good  films 12 bad"


@pytest.fixture(scope="module", params=["words", "pieces", "bytes"])
def tokenizer(request, bert_folder, embedded):
    """WordPiece, which cuts "12" in two; SentencePiece, with spaces in its pieces; and bytes."""
    if request.param == "words":
        return load_tokenizer(str(bert_folder))
    return embedded.tokenizer if request.param == "pieces" else of_bytes()


def of_bytes():
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, "go", "go od"])}
    tokenizer = Tokenizer(BPE(vocab, [("g", "o")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_tokens_are_those_of_any_text(tokenizer):
    for longest in (3, 5, 99):
        found = locate(tokenizer, [TEXT, "bad"], longest)
        for ours, theirs in zip(
            found.tokens, encode(tokenizer, [TEXT, "bad"], longest), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert [len(row) for row in found.places] == [len(row) for row in found.tokens]
    assert locate(tokenizer, [TEXT, "bad"], 5).cut >= 1


def test_every_word_has_its_first_token(tokenizer):
    (places,) = locate(tokenizer, [TEXT], 99).places
    first = first_tokens(TEXT, places)
    starts = [TEXT.index(word) for word in TEXT.split()]
    assert places[first, 0].tolist() == starts
    targets = tag_targets(TEXT, places, [1, 0, 2, 3])
    assert targets[first].tolist() == [1, 0, 2, 3]
    assert (np.delete(targets, first) == IGNORED).all()


def test_a_span_is_its_tokens_again(tokenizer):
    (places,) = locate(tokenizer, [TEXT], 99).places
    begin, end = span_targets(places, TEXT.index("films"), TEXT.index(" bad"))
    assert TEXT[places[begin, 0] : places[end, 1]] == "films 12"


def test_words_behind_the_cut(tokenizer):
    (places,) = locate(tokenizer, [TEXT], 4).places
    assert first_tokens(TEXT, places)[-1] == -1
    assert (tag_targets(TEXT, places, [1, 1, 1, 7]) != 7).all()
    assert span_targets(places, TEXT.index("bad"), len(TEXT)) is None
    assert span_targets(places, 0, len(TEXT)) is None


def batches(tokenizer, examples, task_type, longest=99):
    config = DataConfig(max_source_length=longest)
    kind = {"place": "within", "task_type": task_type, "labels": ("O", "B-X")}
    return Batches(examples, tokenizer, config, 2, 0, **kind)


def test_batches_of_tags(tokenizer):
    examples = [Example("good 12", "O B-X"), Example("bad film is bad", "B-X O O B-X")]
    batch = batches(tokenizer, examples, "TOKEN_CLS")[0]
    assert batch.targets.shape == batch.target_mask.shape == batch.tokens.shape
    assert sorted(batch.target_mask.sum(1)) == [2, 4]
    assert sorted(np.where(batch.target_mask, batch.targets, 0).sum(1)) == [1, 2]
    assert not (batch.target_mask & ~batch.mask).any()


def test_batches_of_spans(tokenizer):
    examples = [Example("good 12 bad", "12", start=5), Example("bad", "bad", start=0)]
    batch = batches(tokenizer, examples, "QUESTION_ANS")[0]
    assert batch.targets.shape == (2, 2) and batch.target_mask.all()
    assert (batch.targets[:, 0] <= batch.targets[:, 1]).all()


def test_an_answer_behind_the_cut(tokenizer):
    examples = [Example("good", "good", start=0), Example("12 12 12 bad", "bad", start=9)]
    message = r"1 of 2 training rows have their answer behind the cut at 4 .* first is row 2; raise"
    with pytest.raises(InputError, match=message):
        batches(tokenizer, examples, "QUESTION_ANS", 4)


def test_a_tokenizer_that_tells_no_places():
    from transformers import ByT5Tokenizer

    with pytest.raises(InputError, match="ByT5Tokenizer does not tell; use a fast tokenizer"):
        locate(ByT5Tokenizer(), ["a"], 9)
