"""Examples become padded batches that are a function of the step."""

import collections
from pathlib import Path

import numpy as np
import pytest

import prompt_jax
from prompt_jax.config import DataConfig, InputError
from prompt_jax.data import (
    Batches,
    encode,
    encode_examples,
    length_ladder,
    pad,
    prefetch,
    shares,
)
from prompt_jax.tasks import Example

ASSETS = Path(prompt_jax.__file__).parent / "assets"


@pytest.fixture(scope="module")
def words():
    """A tokenizer of one id a word that ends with </s>, as T5's does: w0 is 3, w1 is 4, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>"])}
    vocabulary |= {f"w{i}": i + 3 for i in range(400)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def numbered(count, lengths=(2, 9, 17, 30)):
    """Example i begins with the word w<i>, so a batch tells which examples it holds."""
    return [
        Example(" ".join([f"w{i}"] + ["w0"] * (lengths[i % len(lengths)] - 2)), f"w{i % 2}")
        for i in range(count)
    ]


def ids(batch):
    return (batch.tokens[:, 0] - 3).tolist()


def test_encode_keeps_the_end_of_sequence(words):
    rows = encode(words, ["w0 w1", "w0 w1 w2 w3", ""], 3)
    assert [row.tolist() for row in rows] == [[3, 4, 1], [3, 4, 1], [1]]
    assert all(row.dtype == np.int32 for row in rows)
    assert encode(words, [], 3) == []


def test_encode_with_the_embedded_tokenizer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "t5")
    short, long = encode(tokenizer, ["A film.", "word " * 50], 8)
    assert tokenizer.decode(short) == "A film.</s>"
    assert len(long) == 8 and long[-1] == tokenizer.eos_token_id


def test_pad_masks_by_length():
    tokens, mask = pad([np.array([5, 0, 1]), np.array([1])], 4, 0)
    np.testing.assert_array_equal(tokens, [[5, 0, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [1, 0, 0, 0]])
    assert tokens.dtype == np.int32 and mask.dtype == bool


def test_the_ladder_pads_least():
    assert length_ladder([3, 9, 17]) == (8, 16, 24)
    assert length_ladder([3, 9, 17], prompt_length=20) == (4, 12, 20)
    # One rung for all costs 4 * 80; two cost 3 * 8 + 80 or 3 * 16 + 80 or so.
    assert length_ladder([1, 2, 3, 80], rungs=1) == (80,)
    assert length_ladder([1, 2, 9, 80], rungs=2) == (16, 80)
    assert length_ladder([8] * 9 + [16, 24, 32, 40, 48], rungs=3) == (8, 24, 48)


def test_a_batch_is_a_picture(words):
    examples = [Example("w7 w8", "w1"), Example("w9", "w2 w3")]
    batch = Batches(examples, words, DataConfig(), batch_size=2, seed=0, prompt_length=4)[0]
    np.testing.assert_array_equal(batch.tokens, [[12, 1, 0, 0], [10, 11, 1, 0]])
    np.testing.assert_array_equal(batch.mask, [[1, 1, 0, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(batch.targets, [[5, 6, 1], [4, 1, 0]])
    np.testing.assert_array_equal(batch.target_mask, [[1, 1, 1], [1, 1, 0]])


def make(words, count=50, size=4, seed=0, **options):
    return Batches(numbered(count), words, DataConfig(), size, seed, **options)


def test_a_batch_depends_on_the_step_alone(words):
    forwards = make(words)
    backwards = make(words)
    steps = [0, 3, 12, 13, 40, 999]
    seen = {step: backwards[step] for step in reversed(steps)}
    for step in steps:
        for a, b in zip(forwards[step], seen[step], strict=True):
            np.testing.assert_array_equal(a, b)
    assert ids(make(words, seed=1)[0]) != ids(forwards[0])
    assert ids(forwards[0]) != ids(forwards[13])


@pytest.mark.parametrize(("count", "size"), [(50, 4), (48, 4), (7, 3), (3, 8), (200, 3), (1, 1)])
def test_an_epoch_shows_every_example_once(words, count, size):
    batches = make(words, count, size)
    assert len(batches) == -(-count // size)
    seen = collections.Counter()
    step = 0
    for epoch in range(1, 5):
        # An epoch ends with the batch that holds its last row; the next fills what is over.
        while step * size < epoch * count:
            seen.update(ids(batches[step]))
            step += 1
        assert set(seen) == set(range(count))
        assert min(seen.values()) >= epoch
        assert sum(seen.values()) - epoch * count < size


def test_epochs_differ(words):
    batches = Batches(numbered(48, lengths=(5,)), words, DataConfig(), 4, 0)
    first, second = ([ids(batches[s]) for s in range(e * 12, e * 12 + 12)] for e in (0, 1))
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(48))
    # Not the same batches in another order: the rows meet others.
    assert {frozenset(rows) for rows in first} != {frozenset(rows) for rows in second}


def test_rows_of_a_batch_are_alike_in_length(words):
    batches = make(words, 200, 4, prompt_length=20)
    assert batches.source_lengths == (4, 12, 20, 36)
    shapes = collections.Counter(batches[step].tokens.shape[1] for step in range(len(batches)))
    assert set(shapes) <= set(batches.source_lengths)
    padded = sum(batches[step].tokens.size for step in range(50))
    assert padded < 0.7 * 200 * 36
    size = sum(20 * 4 + batches[step].tokens.size for step in range(50))
    real = sum(20 * 4 + batches[step].mask.sum() for step in range(50))
    assert batches.padding(batches.source_lengths) == pytest.approx(1 - real / size)
    assert batches.padding(batches.ladder(1)) > 0.3 > batches.padding(batches.ladder(9))
    mixed = [batches[step].tokens.shape[1] for step in range(16)]
    assert mixed != sorted(mixed) and mixed != sorted(mixed, reverse=True)


def test_prefetch_equals_indexing(words):
    batches = make(words)
    got = list(prefetch(batches, 3, 9))
    assert [ids(batch) for batch in got] == [ids(batches[step]) for step in range(3, 9)]
    assert list(prefetch(batches, 3, 3)) == []


def test_prefetch_passes_errors_on(words):
    batches = make(words)
    batches._encoded = batches._encoded._replace(targets=None)
    with pytest.raises(TypeError, match="None"):
        list(prefetch(batches, 0, 6))


def test_cut_texts_are_counted(words):
    config = DataConfig(max_source_length=9, max_target_length=1)
    batches = Batches(numbered(8), words, config, 2, 0)
    assert batches.truncated == (4, 8)
    assert encode_examples(numbered(8), words, config).truncated.sources == 4
    assert all(batches[step].mask.sum(1).max() <= 9 for step in range(4))
    assert (batches[0].targets == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "train.batch_size must be at least 1"),
        ({"seed": -1}, "train.seed must be at least 0"),
        ({"count": 0}, "there are no examples"),
    ],
)
def test_numbers_that_do_not_fit(words, options, message):
    with pytest.raises(InputError, match=message):
        make(words, **options)


def test_steps_begin_at_zero(words):
    with pytest.raises(IndexError, match="steps begin at 0, got -1"):
        make(words)[-1]


def test_rows_keep_the_task_they_belong_to(words):
    examples = [Example(f"w{i} w{i}", "w0") for i in range(10)]
    ids = [i % 3 for i in range(10)]
    batches = Batches(examples, words, DataConfig(), 4, 0, task_ids=ids)
    for step in range(3):
        batch = batches[step]
        np.testing.assert_array_equal(batch.task_ids, (batch.tokens[:, 0] - 3) % 3)
    assert Batches(examples, words, DataConfig(), 4, 0)[0].task_ids is None


def test_tasks_of_a_mixture_come_as_often_as_their_rates_say(words):
    assert shares([8, 2], 1.0, None) == ((10, 10),)
    assert shares([8, 2], 2.0, None) == ((8, 7), (2, 3))
    assert shares([8, 2], float("inf"), None) == ((8, 5), (2, 5))
    assert shares([80, 20], 1.0, 40) == ((80, 67), (20, 33))
    assert shares([80, 1], 1.0, None) == ((81, 81),)
    ids = np.repeat([0, 1], [8, 2])
    mixing = shares([8, 2], float("inf"), None)
    options = {"task_ids": ids, "mixing": mixing}
    batches = Batches(numbered(10), words, DataConfig(), 5, 0, **options)
    assert len(batches) == 2
    rows = np.concatenate([batches.rows(step) for step in range(16)])
    # In 8 epochs each task has 40 draws, which go through its rows evenly.
    assert np.bincount(rows).tolist() == [5] * 8 + [20] * 2
    assert np.array_equal(batches[3].task_ids, ids[batches.rows(3)])
    again = Batches(numbered(10), words, DataConfig(), 5, 0, **options)
    assert np.array_equal(again.rows(7), batches.rows(7))
