"""Where tags and spans stand among the tokens of any kind of tokenizer."""

import numpy as np
import pytest

from prompt_jax.answers import spans, tags
from prompt_jax.config import DataConfig, InputError
from prompt_jax.data import Batches, EncodeOptions, encode, first_tokens, locate
from prompt_jax.data.alignment import IGNORED, span_targets, tag_targets
from prompt_jax.tasks import TASKS, Example, Task, Text, completed, to_example, to_source
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
    encode = {"TOKEN_CLS": tags.encode, "QUESTION_ANS": spans.encode}[task_type]
    options = EncodeOptions(place="within", labels=("O", "B-X"))
    return Batches(examples, tokenizer, config, 2, 0, encode=encode, options=options)


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
    far = Text("12 12 12 bad", "film.jsonl line 9")
    examples = [Example("good", "good", start=0), Example(far, "bad", start=9)]
    message = "film.jsonl line 9: the answer is behind the cut at 4 tokens, as in 1 of 2 .* raise"
    with pytest.raises(InputError, match=message):
        batches(tokenizer, examples, "QUESTION_ANS", 4)


def test_words_are_those_of_the_list(tokenizer):
    words = ["", "good films", "12\u00a0bad", " ", "no", ""]
    task = Task(name="t", source="tag: {words}", target="{tags}", kind="tagging")
    example = to_example(task, {"words": words, "tags": ["O", "B-X", "B-X", "O", "B-X", "O"]})
    (places,) = locate(tokenizer, [example.source], 99).places
    first = first_tokens(example.source, places)
    starts = [example.source.index(word) for word in ("good", "12", "no")]
    assert places[first[[1, 2, 4]], 0].tolist() == starts
    assert first[[0, 3, 5]].tolist() == [-1] * 3
    batch = batches(tokenizer, [example], "TOKEN_CLS")[0]
    assert batch.target_mask.sum(1).tolist() == [3, 3] and batch.targets.sum(1).tolist() == [3, 3]
    answer = tags.tags_of(np.zeros((len(places), 2)), example.source, places, ("O", "X"))
    assert len(answer.split()) == 6


def test_a_question_without_an_answer_is_the_first_token(bert_folder):
    tokenizer = load_tokenizer(str(bert_folder))
    answers = [["bad"], {"text": [], "answer_start": []}, []]
    task = Task(name="t", source="{text}", target="{answers}", kind="span")
    examples = [to_example(task, {"text": "good bad", "answers": each}) for each in answers]
    assert completed(task, examples[:1]) is task
    task = completed(task, examples)
    assert task.labels == ("",) and [example.target for example in examples] == ["bad", "", ""]
    targets = batches(tokenizer, examples, "QUESTION_ANS")._encoded.targets
    assert [target.tolist() for target in targets] == [[2, 2], [0, 0], [0, 0]]
    (places,) = locate(tokenizer, ["good bad"], 9).places
    scores = np.log(np.array([[0.5, 0.1, 0.3, 0.1], [0.5, 0.1, 0.3, 0.1]]))
    assert spans.span_of(scores, "good bad", places, task.labels) == ""
    assert spans.span_of(scores, "good bad", places) == "bad"


@pytest.mark.parametrize(
    ("template", "longest", "left"),
    [
        ("{a} number: {b} no", 9, "good good number : yes yes no"),
        ("{a} number: {b} no", 7, "good number : yes no"),
        ("film: {b} {a}", 8, "film : yes yes good good"),
        ("film: {a}", 6, "film : good good"),
        ("{a}", 5, "good good good"),
        ("{a} number: {b!cut} no", 36, "good " * 30 + "number : yes no"),
        ("{b} {a!cut}", 6, "yes yes good good"),
        ("{b!cut} {a!cut} no", 7, "yes yes good good no"),
    ],
)
def test_a_cut_takes_the_longest_column_or_what_is_marked(bert_folder, template, longest, left):
    tokenizer = load_tokenizer(str(bert_folder))
    row = {"a": "good " * 30, "b": "yes " * 2}
    source = to_source(Task(name="t", source=template, target="{b}"), row)
    (tokens,) = encode(tokenizer, [source], longest)
    # The vocabulary has no colon.
    assert tokenizer.decode(tokens) == f"[CLS] {left} [SEP]".replace(":", "[UNK]")


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_a_question_behind_a_long_passage(kind, embedded):
    from transformers import ByT5Tokenizer

    tokenizer = embedded.tokenizer if kind == "fast" else ByT5Tokenizer()
    task = TASKS["tfds:super_glue/boolq"]
    row = {"passage": "the river runs to the sea and " * 60, "question": "is it a river"}
    source = to_source(task, row, "boolq row 4")
    (tokens,) = encode(tokenizer, [source], 90)
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    assert text.startswith("passage: the river") and text.endswith(" question: is it a river")
    assert 88 <= len(tokens) <= 90 and tokens[-1] == tokenizer.eos_token_id
    with pytest.raises(InputError, match="boolq row 4: the words around the columns"):
        encode(tokenizer, [source], 4)


def test_what_is_not_marked_leaves_no_room(bert_folder):
    tokenizer = load_tokenizer(str(bert_folder))
    task = Task(name="t", source="{a} {b!cut}", target="{b}")
    source = to_source(task, {"a": "good " * 30, "b": "yes"})
    with pytest.raises(InputError, match="columns without !cut where another has it"):
        encode(tokenizer, [source], 9)
    assert len(encode(tokenizer, [source], 33)[0]) == 33
    with pytest.raises(InputError, match="{a!r} is unknown; {a!cut} says"):
        Task(name="t", source="{a!r}", target="{b}").instruction  # noqa: B018


def test_a_tokenizer_that_tells_no_places():
    from transformers import ByT5Tokenizer

    with pytest.raises(InputError, match="ByT5Tokenizer does not tell; use a fast tokenizer"):
        locate(ByT5Tokenizer(), ["a"], 9)
