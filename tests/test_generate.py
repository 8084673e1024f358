"""Decoding: the laws of caching, padding and batching, of sampling and of beams."""

import dataclasses
import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.answers import cross_entropy
from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.encoder_decoder import shift_right
from prompt_jax.backbones.t5 import T5Config
from prompt_jax.config import InputError
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate import generate, score, scoring
from prompt_jax.generate.options import options_of
from prompt_jax.generate.sampling import Draw, restrict, sample

NEW = 8
LENGTHS = np.array([7, 3, 5, 2, 6])
CANDIDATES = np.array([[5, 1, 0], [7, 8, 1], [9, 0, 1]], np.int32)
CANDIDATE_MASK = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)


@pytest.fixture(scope="module")
def lively(tiny):
    """The tiny backbone with a loud word for EOS, so that some answers end before they must."""
    head = tiny.params["head"]["kernel"].at[:, 1].multiply(-2.0)
    return dataclasses.replace(tiny, params={**tiny.params, "head": {"kernel": head}})


@pytest.fixture(scope="module")
def batch():
    mask = np.arange(7) < LENGTHS[:, None]
    return np.where(mask, np.random.default_rng(0).integers(2, 64, mask.shape), 0), mask


@pytest.fixture(scope="module")
def injection():
    return Injection(jax.random.normal(jax.random.key(7), (4, 16)))


def teacher_forced(backbone, injection, tokens, mask, targets):
    run = jax.jit(PromptedModel.seq2seq_logits)
    decoder_tokens = shift_right(jnp.asarray(targets), (0,))
    batch = (jnp.asarray(tokens), jnp.asarray(mask), decoder_tokens)
    return run(PromptedModel(backbone.module, backbone.params, injection), *batch)


def test_cached_decoding_is_uncached(lively, injection, batch):
    found = generate(lively, injection, *batch, max_new_tokens=NEW)
    best = np.asarray(teacher_forced(lively, injection, *batch, found).argmax(-1))
    ended = np.cumsum(found == 1, axis=1) - (found == 1) > 0
    assert found.dtype == np.int32 and found.shape == (5, NEW)
    np.testing.assert_array_equal(found, np.where(ended, 0, best))
    assert ended.any() and not ended.any(1).all() and len(np.unique(found)) > 4


@pytest.mark.parametrize("normalize", [True, False])
def test_score_is_the_teacher_forced_loss(lively, injection, batch, normalize):
    arguments = (lively, injection, *batch, CANDIDATES, CANDIDATE_MASK)
    found = score(*arguments, length_normalize=normalize)
    for column, (candidate, real) in enumerate(zip(CANDIDATES, CANDIDATE_MASK, strict=True)):
        targets = np.tile(candidate, (5, 1))
        logits = teacher_forced(lively, injection, *batch, targets)
        nll = np.asarray(cross_entropy(logits, jnp.asarray(targets)))[:, real]
        expected = -nll.mean(1) if normalize else -nll.sum(1)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5)


def test_candidates_scored_one_by_one_are_those_scored_at_once(
    lively, injection, batch, monkeypatch
):
    at_once = score(lively, injection, *batch, CANDIDATES, CANDIDATE_MASK)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 1)
    found = score(lively, injection, *batch, CANDIDATES[:2], CANDIDATE_MASK[:2])
    np.testing.assert_allclose(found, at_once[:, :2], rtol=1e-5)


def test_score_of_one_token(lively, injection, batch):
    words = np.array([[5], [1], [9]])
    found = score(lively, injection, *batch, words, words > 0)
    padded = np.pad(words, ((0, 0), (0, 2)))
    expected = score(lively, injection, *batch, padded, padded > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_row_alone_is_the_row_in_a_crowd(lively, injection, batch):
    tokens, mask = batch
    alone = (tokens[1:2, :3], mask[1:2, :3])
    for beams in (1, 3):
        options = {"max_new_tokens": NEW, "num_beams": beams}
        one = generate(lively, injection, *alone, **options)
        crowd = generate(lively, injection, *batch, **options)
        np.testing.assert_array_equal(one[0], crowd[1])
    candidates = (CANDIDATES, CANDIDATE_MASK)
    one = score(lively, injection, *alone, *candidates)
    crowd = score(lively, injection, *batch, *candidates)
    np.testing.assert_allclose(one[0], crowd[1], rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_one_program_serves_all_prompts_weights_and_settings(
    lively, injection, batch, beams, compilations
):
    def run(prompt, frozen=lively.params, **options):
        backbone = dataclasses.replace(lively, params=frozen)
        return generate(backbone, Injection(prompt), *batch, max_new_tokens=NEW, **options)

    def options(penalty, seed):
        if beams > 1:
            return {"num_beams": beams, "length_penalty": penalty}
        return {"temperature": penalty, "seed": seed, "top_k": 3 + seed, "top_p": 1 - seed / 8}

    prompt = np.asarray(injection.prompt)
    other_weights = jax.tree.map(lambda leaf: np.asarray(leaf) * 1.5, lively.params)
    first = run(prompt, **options(1.0, 0))
    del compilations[:]
    again = run(prompt, **options(1.0, 0))
    another_prompt = run(np.flip(prompt, 0) * 3, **options(1.0, 0))
    frozen = run(prompt, other_weights, **options(1.0, 0))
    run(prompt, **options(2.0, 1))
    assert not compilations
    np.testing.assert_array_equal(again, first)
    assert (another_prompt != first).any() and (frozen != first).any()


def test_scoring_compiles_once(lively, injection, batch, compilations):
    other = Injection(2 * np.asarray(injection.prompt))
    score(lively, injection, *batch, CANDIDATES, CANDIDATE_MASK).block_until_ready()
    del compilations[:]
    score(lively, other, *batch, CANDIDATES + 1, CANDIDATE_MASK, length_normalize=False)
    assert not compilations


def test_decoding_stops_when_all_rows_have_ended(tiny, injection, batch):
    # Of weights that are all zero, word 0 is the likeliest.
    config = dataclasses.replace(tiny.config, eos_token_ids=(0,))
    backbone = dataclasses.replace(tiny, config=config)
    zeros = jax.tree.map(np.zeros_like, tiny.params)

    def seconds(frozen):
        start = time.perf_counter()
        weights = dataclasses.replace(backbone, params=frozen)
        found = generate(weights, injection, *batch, max_new_tokens=600)
        return time.perf_counter() - start, found

    seconds(zeros)
    short, ended = seconds(zeros)
    long, going_on = seconds(tiny.params)
    assert not ended.any() and (going_on[:, -1] != 0).any()
    assert short < long / 3


def test_sampling_is_seeded(lively, injection, batch):
    options = {"max_new_tokens": NEW, "temperature": 1.0}
    run = functools.partial(generate, lively, injection, *batch, **options)

    np.testing.assert_array_equal(run(seed=1), run(seed=1))
    assert (run(seed=1) != run(seed=2)).any()
    greedy = generate(lively, injection, *batch, max_new_tokens=NEW)
    np.testing.assert_array_equal(run(top_k=1), greedy)
    np.testing.assert_array_equal(run(top_p=1e-6), greedy)


def test_draws_follow_the_row_and_not_its_place(lively, injection, batch):
    tokens, mask = (np.repeat(part[:1], 5, axis=0) for part in batch)
    options = {"max_new_tokens": NEW, "temperature": 1.0}
    run = functools.partial(generate, lively, injection, tokens, mask, **options)
    found = run(rows=np.array([9, 4, 9, 0, 1], np.int32))
    np.testing.assert_array_equal(found[0], found[2])
    assert len({row.tobytes() for row in found}) == 4
    np.testing.assert_array_equal(run()[0], found[3])


def test_several_answers_of_a_row_are_drawn_apart(lively, injection, batch):
    run = functools.partial(generate, lively, injection, *batch, max_new_tokens=NEW, do_sample=True)
    found = run(num_return_sequences=3).reshape(5, 3, NEW)
    np.testing.assert_array_equal(found[:, 0], run())
    assert all(len({row.tobytes() for row in rows}) == 3 for rows in found)
    np.testing.assert_array_equal(run(), run(temperature=1.0, top_k=50))
    greedy = generate(lively, injection, *batch, max_new_tokens=NEW)
    np.testing.assert_array_equal(run(do_sample=False, temperature=2.0), greedy)
    by_row = injection._replace(prompt=jnp.stack([injection.prompt + i for i in range(5)]))
    several = generate(lively, by_row, *batch, temperature=1.0, num_return_sequences=2)
    np.testing.assert_array_equal(several[::2], generate(lively, by_row, *batch, temperature=1.0))


def test_draws_have_the_distribution_of_the_softmax():
    rows = 20_000
    logits = jnp.tile(jnp.array([[1.0, 0.0, 2.0, -1.0]]), (rows, 1))
    number = jnp.float32
    draw = Draw(jax.random.key(0), jnp.arange(rows), number(2.0), jnp.int32(3), number(1.0))
    found = np.bincount(np.asarray(sample(draw, logits, jnp.int32(0))), minlength=4) / rows
    expected = np.exp([0.5, 0.0, 1.0, -np.inf])
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.015)


def test_restrict_keeps_the_smallest_set_with_the_mass():
    logits = jnp.log(jnp.array([[0.1, 0.5, 0.05, 0.35]]))

    def kept(top_k, top_p):
        found = restrict(logits, jnp.int32(top_k), jnp.float32(top_p))
        return np.flatnonzero(np.asarray(found[0]) > -1e8).tolist()

    assert kept(4, 0.8) == [1, 3]
    assert kept(4, 0.86) == [0, 1, 3]
    assert kept(4, 0.001) == [1]
    assert kept(3, 1.0) == [0, 1, 3]
    # Of the two that are left, the first holds 0.5 / 0.85 of the mass.
    assert kept(2, 0.6) == [1, 3]
    assert kept(2, 0.58) == [1]


@pytest.mark.slow
def test_wide_beams_find_the_best_of_all():
    config = T5Config(
        vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1, num_decoder_layers=1
    )
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(5))
    backbone = Backbone(name="five words", config=config, params=params)
    tokens = np.array([[2, 3, 4], [4, 4, 2], [3, 2, 2], [2, 2, 2]])
    mask = np.ones_like(tokens, bool)
    # Every answer of at most 3 tokens: EOS ends it, and nothing but the length cuts it off.
    words = (0, 2, 3, 4)
    every = [[1], *([a, 1] for a in words)]
    every += [[a, b, c] for a, b, c in itertools.product(words, words, (0, 1, 2, 3, 4))]
    lengths = np.array([len(answer) for answer in every])
    padded = np.array([answer + [0] * (3 - len(answer)) for answer in every])
    real = np.arange(3) < lengths[:, None]
    scores = score(backbone, None, tokens, mask, padded, real, length_normalize=False)
    search = functools.partial(
        generate, backbone, None, tokens, mask, max_new_tokens=3, num_beams=20
    )
    found = []
    for penalty in (0.0, 1.0, 3.0):
        best = padded[np.argmax(np.asarray(scores) / lengths**penalty, axis=1)]
        found.append(search(length_penalty=penalty, early_stopping="never"))
        np.testing.assert_array_equal(found[-1], best)
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"num_beams": 0}, "num_beams must be at least 1, got 0; 1 is greedy"),
        ({"temperature": -0.5}, "temperature must be at least 0.0, got -0.5"),
        ({"temperature": 1.0, "top_k": -1}, "top_k must be at least 0, got -1"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"temperature": 1.0, "num_beams": 2}, "sampling and beam search exclude each other"),
        ({"num_beams": 2, "early_stopping": "soon"}, 'True, False or "never", got .soon.'),
        ({"top_k": 5}, "temperature=0 draws nothing: got top_k 5"),
        ({"top_p": 0.9}, "temperature=0 draws nothing: got top_k 0 and top_p 0.9"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample=True draws tokens and temperature=0"),
        ({"do_sample": True, "num_beams": 2}, "got temperature 1.0 and num_beams 2"),
        ({"num_return_sequences": 2}, "at most num_beams answers, 1; set num_beams=2, or draw"),
        ({"num_return_sequences": 3, "num_beams": 2}, "at most num_beams answers, 2"),
        ({"max_length": 1}, "max_length is 1 and counts 1 tokens before the answer"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 8},
            "min_new_tokens is 9 and an answer has at mos",
        ),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
        ({"stop_token_ids": -1}, r"stop_token_ids are tokens, 0 to 63, got \[-1\]"),
        ({"bad_words_ids": [[3, 64]]}, "bad_words_ids are tokens, 0 to 63"),
        ({"bad_words_ids": [[]]}, "bad_words_ids has a word of no token"),
        ({"stop_strings": ["x", ""]}, "stop_strings has an empty text"),
        ({"stop_strings": "x"}, "stop_strings are texts, and backbone .* has no tokenizer"),
        ({"bad_words": ["x"]}, "bad_words are texts, and backbone .* has no tokenizer"),
        ({"eos_token_id": [1, 64]}, r"0 to 63, got \[1, 64\]"),
        ({"max_new_tokens": 4.0}, "Options has max_new_tokens as int, got '4.0'"),
        ({"max_new_tokens": "5"}, "Options has max_new_tokens as int, got '5'"),
        ({"num_beams": 2.0}, "Options has num_beams as int, got '2.0'"),
        ({"no_repeat_ngram_size": 2.0}, "Options has no_repeat_ngram_size as int"),
        ({"bad_words_ids": [3, 4]}, r"Options has bad_words_ids as tuple.*, got '\(3, 4\)'"),
        ({"eos_token_id": 1.0}, r"Options has eos_token_id as tuple.*, got '\(1.0,\)'"),
        ({"num_beam": 2}, "unknown option of generate 'num_beam'; allowed: .*meant 'num_beams'"),
        ({"top_n": 2}, "allowed: bad_words, bad_words_ids, do_sample, early_stopping, eos_tok"),
    ],
)
def test_bad_arguments(tiny, batch, options, message):
    with pytest.raises(InputError, match=message):
        generate(tiny, None, *batch, **options)


def test_tokens_of_numpy_are_tokens(tiny):
    values = {"eos_token_id": np.int64(3), "bad_words_ids": [np.array([3, 4])]}
    options = options_of(tiny, 4, values | {"stop_token_ids": (np.int32(5),)})
    tokens = options.eos_token_id, options.bad_words_ids, options.stop_token_ids
    assert repr(tokens) == "((3,), ((3, 4),), (5,))"


@pytest.mark.parametrize("shape", [(0, 0), (2, 3)])
def test_bad_candidates(tiny, batch, shape):
    with pytest.raises(InputError, match="at least one candidate and no empty one"):
        score(tiny, None, *batch, np.zeros(shape, np.int32), np.zeros(shape, bool))
