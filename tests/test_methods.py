import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.config import Config, DataConfig, InputError, Opening, TaskConfig
from prompt_jax.experiment.answering import method_of
from prompt_jax.experiment.splits import load_data
from prompt_jax.forward import Injection, Placement, positions_before, prepend
from prompt_jax.methods import (
    MultitaskPromptConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    init,
    materialize,
)
from prompt_jax.methods.multitask_prompt import Combine
from prompt_jax.methods.virtual_tokens import from_rows, from_vocab, uniform
from prompt_jax.prompts import prompt_for

KEY = jax.random.key(0)


def test_vocab_takes_different_rows_of_the_frequent_words(tiny):
    method = PromptTuningConfig(num_virtual_tokens=10, init_population=12)
    prompt = np.asarray(init(method, tiny, KEY)["prompt"])
    table = np.asarray(tiny.params["embedding"])[:12]
    rows = [int(np.flatnonzero((table == row).all(1))[0]) for row in prompt]
    assert len(set(rows)) == 10


def test_more_virtual_tokens_than_words_repeat():
    table = jnp.arange(6.0).reshape(3, 2)
    assert from_vocab(table, np.arange(3), 3)(KEY, (8, 2)).shape == (8, 2)


def test_random_is_uniform_within_half(tiny):
    method = PromptTuningConfig(num_virtual_tokens=200, init="random")
    prompt = np.asarray(init(method, tiny, KEY)["prompt"])
    assert prompt.min() >= -0.5 and prompt.max() < 0.5
    assert prompt.min() < -0.45 and prompt.max() > 0.45


def test_initialisers_compose():
    given = jnp.ones((2, 4))
    prompt = from_rows(given, uniform(0.1))(KEY, (5, 4))
    assert (prompt[:2] == 1).all() and (abs(prompt[2:]) <= 0.1).all()
    assert (from_rows(given, uniform())(KEY, (1, 4)) == 1).all()


def test_text_is_repeated_to_the_length(embedded):
    ids = embedded.tokenizer("good film")["input_ids"]
    method = PromptTuningConfig(num_virtual_tokens=len(ids) + 1, init="text", init_text="good film")
    prompt = init(method, embedded, KEY)["prompt"]
    expected = embedded.embed(jnp.array([*ids, ids[0]]))
    np.testing.assert_array_equal(prompt, expected)


def test_class_labels_are_means_of_their_pieces_and_vocabulary_fills_the_rest(embedded):
    labels = ("negative", "positive")
    method = PromptTuningConfig(num_virtual_tokens=5, init="class_labels", init_labels=labels)
    prompt = init(method, embedded, KEY)["prompt"]
    for row, label in zip(prompt, labels, strict=False):
        ids = embedded.tokenizer(label, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(row, embedded.embed(jnp.array(ids)).mean(0), rtol=1e-6)
    table = np.asarray(embedded.params["embedding"][:5000])
    assert all((table == row).all(1).any() for row in np.asarray(prompt[2:]))


def test_file_starts_where_another_prompt_ended(tiny):
    rows = np.full((3, tiny.width), 2.0)
    method = PromptTuningConfig(num_virtual_tokens=3, init="file", init_file="x.npy")
    prompt = init(method, tiny, KEY, rows)["prompt"]
    assert prompt.dtype == jnp.float32 and (prompt == 2).all()


def test_the_trained_side_is_float32_on_a_bfloat16_backbone(tiny):
    half = dataclasses.replace(
        tiny, params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny.params)
    )
    assert init(PromptTuningConfig(), half, KEY)["prompt"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("method", "start", "message"),
    [
        (dict(init="file", init_file="x"), None, "needs the array of init_file"),
        (dict(init="file", init_file="x"), np.ones((3, 5)), r"\[3, 5\] and this one is \[20, 16\]"),
        (dict(init="text", init_text="a"), None, "needs a tokenizer and backbone 'tiny' has none"),
    ],
)
def test_bad_starts(tiny, method, start, message):
    with pytest.raises(InputError, match=message):
        init(PromptTuningConfig(**method), tiny, KEY, start)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (PromptTuningConfig(init="class_labels"), "needs label words"),
        (PromptTuningConfig(init="text"), "needs a text, e.g. method.init_text"),
        (PrefixTuningConfig(init="text"), "or a task with an instruction: set task.system"),
    ],
)
def test_starts_that_have_no_words(embedded, method, message):
    with pytest.raises(InputError, match=message):
        init(method, embedded, KEY)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (TaskConfig(source="Is it good? {input}\nAnswer:"), "Is it good? \nAnswer:"),
        (TaskConfig(source="A: {input}", system="Say good or bad."), "Say good or bad."),
        (TaskConfig(), ""),
    ],
)
def test_a_start_takes_the_words_of_the_task(embedded, task, text):
    data = DataConfig(task="embedded:sentiment", max_examples=4, max_test_examples=1)
    config = Config(task=task, data=data, method=PrefixTuningConfig(init="text"))
    rows = load_data(config)
    assert method_of(config, embedded, [rows.task]).init_text == text
    named = PrefixTuningConfig(init_text="Say:")
    config = dataclasses.replace(config, method=named)
    assert method_of(config, embedded, [rows.task]).init_text == "Say:"


def test_prepend_is_a_picture():
    prompt = jnp.array([[9.0], [8.0]])
    tokens = jnp.array([[1, 2, 3], [4, 5, 0], [0, 6, 2]])
    mask = tokens > 0

    def joined(placement, opening=None):
        place = Placement(placement)
        first = placement == "prefix"
        before = None if first else positions_before(place, opening, tokens, mask)
        return prepend(Injection(prompt, placement=place), tokens[..., None] * 1.0, mask, before)

    after_bos = [[1, 9, 8, 2, 3], [4, 9, 8, 5, 0], [0, 6, 9, 8, 2]]
    pictures = {
        "prefix": [[9, 8, 1, 2, 3], [9, 8, 4, 5, 0], [9, 8, 0, 6, 2]],
        "after_bos": after_bos,
        "suffix": [[1, 2, 3, 9, 8], [4, 5, 9, 8, 0], [0, 6, 2, 9, 8]],
    }
    for placement, picture in pictures.items():
        text, seen = joined(placement)
        assert text[..., 0].tolist() == picture
        assert seen[:, 2:].tolist() == (text[:, 2:, 0] > 0).tolist()
    # Behind the first 2 in a row; a row without one must not be read as a row with a prompt.
    behind = joined("turn", Opening("turn", (2,)))[0][..., 0]
    np.testing.assert_array_equal(behind[0], [1, 2, 9, 8, 3])
    np.testing.assert_array_equal(behind[2], [0, 6, 2, 9, 8])
    assert np.isnan(behind[1]).sum() == 2


@pytest.mark.parametrize(
    ("row", "end"),
    [
        ([5, 6, 7, 1, 5, 6, 7], 3),
        ([3, 5, 6, 1, 5, 6, 7], 3),  # Where it first stands, though its tail is swallowed there.
        ([5, 5, 6, 7, 7], 4),
        ([5, 6, 8, 7], 2),
        ([6, 5, 6], 3),
        ([5], -1),
        ([5, 7, 6], -1),
    ],
)
def test_an_opening_ends_before_what_a_text_has_swallowed(row, end):
    opening = Opening("turn", (5, 6), (7, 8))
    for left in (0, 2):
        tokens = jnp.pad(jnp.array([row]), ((0, 0), (left, 2 - left)), constant_values=5)
        mask = (jnp.arange(len(row) + 2) >= left) & (jnp.arange(len(row) + 2) < left + len(row))
        before = positions_before(Placement("turn"), opening, tokens, mask[None])
        assert before == (end if end < 0 else end + left)


def test_prepend_refuses_another_width_and_placement():
    text, mask = jnp.ones((1, 2, 4)), jnp.ones((1, 2), bool)
    with pytest.raises(InputError, match="prompt is 3 wide and the backbone 4"):
        prepend(Injection(jnp.ones((2, 3))), text, mask, None)
    with pytest.raises(InputError, match="unknown placement 'sufix'.*meant 'suffix'"):
        Placement("sufix")


def test_an_injection_keeps_where_it_stands(tiny):
    config = PromptTuningConfig(num_virtual_tokens=2, init="random", placement="suffix")
    tuned = init(config, tiny, KEY)
    injection = materialize(config, tuned)
    assert prompt_for(tuned, config, tiny).injection().placement == injection.placement == "suffix"
    many = jax.vmap(lambda tree: materialize(config, tree))(jax.tree.map(lambda x: x[None], tuned))
    assert many.placement == "suffix" and many.prompt.shape == (1, 2, 16)
    assert jax.jit(lambda x: x)(injection).placement == "suffix"
    assert len(jax.tree.leaves(injection)) == 1


@pytest.mark.parametrize("how", get_args(Combine))
def test_every_task_starts_at_the_shared_prompt(tiny, how):
    rows = np.random.default_rng(0).normal(size=(5, tiny.width)).astype(np.float32)
    options = {"num_virtual_tokens": 5, "num_tasks": 2, "init": "file", "init_file": "rows.npy"}
    method = MultitaskPromptConfig(combine=how, **options)
    prompts = materialize(method, init(method, tiny, KEY, rows)).prompts
    np.testing.assert_allclose(prompts, [rows, rows], atol=1e-6)
