"""Several prompts that answer as one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.answers import answer, ensemble
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.forward import Injection, Placement
from prompt_jax.generate import scoring
from prompt_jax.tasks import Task

TASK = Task(name="x", source="{input}", target="{target}", labels=("no", "yes", "it may be"))
# Seven to eleven tokens each, so that few programs are compiled.
SOURCES = [
    "it was a very good film",
    "a bad film about the sea and a man",
    "the film was not so good as that",
    "this is one of the good ones",
    "it was a film about the war and a sea",
    "a man and the sea in the war",
    "the war was not a very good film",
]
SETTINGS = {"data": DataConfig(), "eval": EvalConfig(batch_size=7)}


@pytest.fixture(scope="module")
def small(tiny_folder):
    from prompt_jax.weights import load_backbone

    return load_backbone(str(tiny_folder))


@pytest.fixture(scope="module")
def three(small):
    """Three prompts of different length, far apart."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(length, small.width) for length in (2, 5, 3)]
    return [Injection(4 * jax.random.normal(k, s)) for k, s in zip(keys, shapes, strict=True)]


def normalised(answers):
    return np.asarray(jax.nn.log_softmax(jnp.asarray(answers.scores), axis=-1))


@pytest.mark.parametrize("how", ["average", "vote"])
@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_one_prompt_many_times_is_the_prompt(small, three, how, placement):
    one = three[0]._replace(placement=Placement(placement))
    alone = answer(small, one, SOURCES, TASK, **SETTINGS)
    crowd = ensemble(small, [one] * 3, SOURCES, TASK, how=how, **SETTINGS)
    assert crowd.predictions == alone.predictions
    np.testing.assert_allclose(crowd.scores, normalised(alone), atol=1e-5)


@pytest.fixture(scope="module")
def each(small, three):
    """What every prompt says alone."""
    return [normalised(answer(small, prompt, SOURCES, TASK, **SETTINGS)) for prompt in three]


# Fewer rows than prompts, and a size that is no multiple of three and leaves an input over.
@pytest.mark.parametrize("size", [2, 7])
def test_average_is_of_what_each_prompt_says_alone(small, three, each, size):
    assert np.abs(each[0] - each[1]).max() > 1e-2  # Else the order of prompts would not show.
    settings = SETTINGS | {"eval": EvalConfig(batch_size=size)}
    together = ensemble(small, three, SOURCES, TASK, **settings)
    np.testing.assert_allclose(together.scores, np.mean(each, 0), atol=1e-5)
    best = np.mean(each, 0).argmax(-1)
    assert together.predictions == [TASK.labels[i] for i in best]


def test_a_mask_of_a_prompt_stays(small, three):
    padded = Injection(jnp.pad(three[0].prompt, ((1, 0), (0, 0))), jnp.array([False, True, True]))
    one = ensemble(small, [three[0], three[1]], SOURCES, TASK, **SETTINGS)
    two = ensemble(small, [padded, three[1]], SOURCES, TASK, **SETTINGS)
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)


def test_votes_count_and_ties_go_to_the_average():
    from prompt_jax.answers.ensemble import _most_voted

    said = np.log(
        [
            [[0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [0.01, 0.01, 0.98]],  # two against one
            [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],  # one each
            [[0.5, 0.4, 0.1], [0.1, 0.4, 0.5], [0.5, 0.4, 0.1]],  # the average's is nobody's
        ]
    ).astype(np.float32)
    mean = said.mean(1)
    assert mean.argmax(-1).tolist()[0] != 0 and mean.argmax(-1).tolist()[2] == 1
    votes = _most_voted(said, mean)
    assert votes.tolist()[0] == 0 and votes.tolist()[2] == 0
    assert votes[1] == mean[1].argmax()


def test_weights_are_those_under_which_the_right_labels_are_likeliest(each):
    from prompt_jax.answers import combine, fit_weights

    said, rng = np.stack(each, 1), np.random.default_rng(0)
    labels = rng.integers(0, said.shape[2], len(said))
    right = np.take_along_axis(np.exp(said), labels[:, None, None], 2)[:, :, 0]
    weights = fit_weights(said, labels)
    assert weights.min() >= 0 and abs(weights.sum() - 1) < 1e-6
    best = np.log(right @ weights).sum()
    for other in rng.dirichlet(np.ones(3), 500):
        assert np.log(right @ other).sum() <= best + 1e-6
    # A prompt that knows all takes all of it, and answers as it would alone.
    knows = np.log(np.full((len(said), said.shape[2]), 0.01))
    knows[np.arange(len(said)), labels] = np.log(0.98)
    some = np.stack([said[:, 0], knows], 1)
    np.testing.assert_allclose(fit_weights(some, labels), [0, 1], atol=1e-6)
    chosen, scores = combine(some, "weighted", [0, 7])
    np.testing.assert_array_equal(chosen, labels)
    np.testing.assert_allclose(scores, knows, rtol=1e-5)


def test_a_weighted_answer_is_of_the_mean_probability(small, three, each):
    got = ensemble(small, three, SOURCES, TASK, how="weighted", weights=[1, 0, 3], **SETTINGS)
    wanted = np.log(0.25 * np.exp(each[0]) + 0.75 * np.exp(each[2]))
    np.testing.assert_allclose(got.scores, wanted, atol=1e-5)


def test_one_program_serves_all(small, three):
    before = scoring.score_candidates._cache_size()
    settings = SETTINGS | {"eval": EvalConfig(batch_size=9)}
    first = ensemble(small, three, SOURCES[:1] * 5, TASK, **settings)
    others = [three[2], three[0], three[1]]
    again = ensemble(small, others, SOURCES[:1] * 5, TASK, how="vote", **settings)
    assert scoring.score_candidates._cache_size() == before + 1
    np.testing.assert_allclose(first.scores, again.scores, atol=1e-5)


def test_bad_input(small, three):
    one = three[0]
    wide = Injection(jnp.zeros((2, 8)))
    behind = [each._replace(placement=Placement("suffix")) for each in three]
    cases = [
        ([], {}, "at least one prompt, got none"),
        ([one, one], {"how": "votes"}, "unknown way to ensemble prompts 'votes'.*meant 'vote'"),
        ([one, one], {"how": "weighted"}, "how='weighted' and no weights; fit them on validation"),
        ([one, one], {"weights": [1, 1]}, "got how='average' and weights"),
        ([one, one], {"how": "weighted", "weights": [1]}, r"weights are 2 numbers .* got \[1\]"),
        ([one, one], {"how": "weighted", "weights": [0, 0]}, r"not all 0, got \[0, 0\]"),
        ([one, one], {"how": "weighted", "weights": [2, -1]}, "numbers from 0 on"),
        ([one, Injection()], {}, r"prompt 1 .* must be \[P, 16\], got no virtual tokens"),
        ([wide], {}, r"prompt 0 .* must be \[P, 16\], got \[2, 8\]"),
        ([Injection(one.prompt[None])], {}, r"got \[1, 2, 16\]"),
        ([one._replace(sockets={"a": one.prompt})], {}, "prompt 0 of the ensemble has sockets"),
        ([one._replace(shift=one.prompt)], {}, "has a shift of the embeddings"),
        ([one._replace(params={"a": one.prompt})], {}, "has weights of its own"),
        ([one._replace(head={"out": one.prompt})], {}, "has a head"),
        (behind, {}, '2, 5, 3 virtual tokens cannot.*placement="suffix"'),
        ([one, behind[0]], {}, "stand at prefix and suffix; use prompts of one placement"),
    ]
    for injections, options, message in cases:
        with pytest.raises(InputError, match=message):
            ensemble(small, injections, SOURCES, TASK, **SETTINGS, **options)
    free = dataclasses.replace(TASK, labels=(), kind="generation")
    with pytest.raises(InputError, match="task 'x' has no labels"):
        ensemble(small, three, SOURCES, free, **SETTINGS)
    silent = dataclasses.replace(small, tokenizer=None)
    with pytest.raises(InputError, match="has no tokenizer"):
        ensemble(silent, three, SOURCES, TASK, **SETTINGS)
