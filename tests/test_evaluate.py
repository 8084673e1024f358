"""Answers to examples: ranked or written, in order, whatever shares their batch."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_jax.answers import Answers, Reading, spans, tags
from prompt_jax.config import DataConfig, EvalConfig, InputError
from prompt_jax.data import Batch, encode, pad, padded_length
from prompt_jax.data.texts import input_length
from prompt_jax.evaluate import baselines, evaluate
from prompt_jax.forward import Injection
from prompt_jax.generate import generate, score
from prompt_jax.metrics import measure
from prompt_jax.tasks import Example, Task
from prompt_jax.weights import load_backbone

# Twelve inputs of 2 to 13 tokens in no order of length; their labels are never read as answers.
SIZES = (1, 9, 3, 12, 2, 7, 5, 11, 4, 8, 6, 10)
LABELS = ("good", "very bad indeed", "so so")
EXAMPLES = [Example(" ".join(["film"] * n), LABELS[n % 3]) for n in SIZES]
RANKING = Task(name="file:x", source="{input}", target="{target}", labels=LABELS)
WRITING = Task(name="file:x", source="{input}", target="{target}", metrics=("chrf", "token_f1"))
DATA = DataConfig(max_source_length=12)


@pytest.fixture(scope="module")
def backbone(tiny_folder):
    return load_backbone(tiny_folder, dtype="float32")


@pytest.fixture(scope="module")
def injection():
    return Injection(np.asarray(jax.random.normal(jax.random.key(1), (3, 16)) * 3))


def run(backbone, injection, task, batch_size=5, **options):
    settings = EvalConfig(batch_size=batch_size, max_new_tokens=6, **options)
    return evaluate(backbone, injection, EXAMPLES, task, data=DATA, eval=settings)


def alone(backbone):
    """Every example by itself, in a batch without padding of rows."""
    for tokens in encode(backbone.tokenizer, [e.source for e in EXAMPLES], DATA.max_source_length):
        row = np.zeros((1, 16), np.int32)
        row[0, : len(tokens)] = tokens
        yield row, np.arange(16)[None] < len(tokens)


@pytest.mark.parametrize("normalize", [True, False])
def test_labels_are_ranked_by_their_scores(backbone, injection, normalize):
    words = encode(backbone.tokenizer, LABELS, 64)
    width = max(map(len, words))
    candidates = np.stack([np.pad(word, (0, width - len(word))) for word in words])
    real = np.arange(width) < np.array([len(word) for word in words])[:, None]
    assert (candidates[real.sum(1)[:, None] - 1 == np.arange(width)] == 1).all()
    options = {"length_normalize": normalize}
    expected = np.concatenate(
        [score(backbone, injection, *row, candidates, real, **options) for row in alone(backbone)]
    )
    found = run(backbone, injection, RANKING, **options)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
    assert found.predictions == [LABELS[best] for best in expected.argmax(1)]
    references = [example.target for example in EXAMPLES]
    assert found.metrics == measure(RANKING.metrics, found.predictions, references, LABELS)
    assert list(found.metrics) == ["accuracy", "macro_f1"]
    right = [LABELS.index(example.target) for example in EXAMPLES]
    likely = jax.nn.log_softmax(expected)[np.arange(len(EXAMPLES)), np.array(right)].mean()
    assert found.log_likelihood == pytest.approx(float(likely), rel=1e-4)


def test_the_prompt_and_the_normalisation_are_used(backbone, injection):
    ways = [
        run(backbone, injection, RANKING).scores,
        run(backbone, None, RANKING).scores,
        run(backbone, injection, RANKING, length_normalize=False).scores,
    ]
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(ways, ways[1:], strict=False))


def test_the_size_of_a_batch_changes_nothing(backbone, injection):
    one, another = (run(backbone, injection, RANKING, size) for size in (5, 64))
    np.testing.assert_allclose(one.scores, another.scores, rtol=1e-4)
    assert one.predictions == another.predictions


@pytest.mark.parametrize("beams", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_answers_are_written_in_order(backbone, injection, beams):
    options = {"num_beams": beams, "max_new_tokens": 6}
    rows = [generate(backbone, injection, *row, **options)[0] for row in alone(backbone)]
    found = run(backbone, injection, WRITING, num_beams=beams)
    assert found.predictions == backbone.tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert len(set(found.predictions)) > 2
    assert found.scores is None and list(found.metrics) == ["chrf", "token_f1"]


def test_the_weights_are_those_of_the_backbone(backbone, injection):
    frozen = jax.tree.map(lambda leaf: leaf * 1.3, backbone.params)
    scores = run(dataclasses.replace(backbone, params=frozen), injection, RANKING).scores
    assert np.abs(scores - run(backbone, injection, RANKING).scores).max() > 0.01


def test_progress_and_a_second_prompt_that_compiles_nothing(backbone, injection):
    seen, compiled = [], []

    def note(event, _, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    settings = {"data": DATA, "eval": EvalConfig(batch_size=5)}
    evaluate(backbone, injection, EXAMPLES, RANKING, **settings)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        other = Injection(injection.prompt[::-1] * 2)
        report = {"progress": lambda *counts: seen.append(counts)}
        evaluate(backbone, other, EXAMPLES[::-1], RANKING, **settings, **report)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not compiled
    assert seen == [(5, 12), (10, 12), (12, 12)]


@pytest.mark.parametrize(
    ("length_of", "least", "share", "count"),
    [(padded_length, 8, 0.25, 16), (input_length, 16, 0.5, 10)],
)
def test_lengths_are_few_and_fit(length_of, least, share, count):
    for virtual in (0, 20):
        lengths = {longest: length_of(longest, virtual) for longest in range(1, 257)}
        assert all(n <= found for n, found in lengths.items())
        assert all((found + virtual) % least == 0 for found in lengths.values())
        assert all(
            found + virtual < n + virtual + max(least, share * (n + virtual))
            for n, found in lengths.items()
        )
        assert len(set(lengths.values())) <= count


def test_likelihood_of_targets_is_the_loss_that_training_lowers(backbone, injection):
    from prompt_jax.answers import target_likelihood
    from prompt_jax.config import PromptTuningConfig
    from prompt_jax.data import encode_examples
    from prompt_jax.losses import loss_fn

    encoded = encode_examples(EXAMPLES, backbone.tokenizer, DATA)
    batch = Batch(*pad(encoded.sources, 16, 0), *pad(encoded.targets, 16, 0))
    loss = jax.jit(loss_fn(PromptTuningConfig(num_virtual_tokens=3), backbone))
    mean, _ = loss({"prompt": injection.prompt}, backbone.params, batch)
    texts = [[getattr(e, name) for e in EXAMPLES] for name in ("source", "target")]
    way = {"data": DATA, "eval": EvalConfig(batch_size=5)}
    found = target_likelihood(backbone, injection, *texts, WRITING, **way)
    assert found == pytest.approx(-float(mean), rel=1e-4)
    writing = EvalConfig(batch_size=5, max_new_tokens=6)
    wanted = {"data": DATA, "eval": writing, "likelihood": True}
    assert evaluate(backbone, injection, EXAMPLES, WRITING, **wanted).log_likelihood == found
    assert run(backbone, injection, WRITING).log_likelihood is None


def test_likelihood_of_what_a_head_reads():
    """A tag at the first token of each word, an end of a span; what was cut off is left out."""
    scores = np.log(np.float32([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2]]))
    places = np.array([[0, 4], [4, 6], [7, 11]])
    tagging = Task(name="x", source="{s}", target="{t}", kind="tagging", labels=("O", "B"))
    tagged = [Reading(scores, places), Reading(scores[:1], places[:1])]
    texts = [Example("filmed good", "B O"), Example("filmed good", "B O")]
    wanted = np.log([0.9, 0.8, 0.9]).mean()
    assert tags.likelihood(Answers([], readings=tagged), texts, tagging) == pytest.approx(
        wanted, rel=1e-6
    )
    span = dataclasses.replace(tagging, kind="span", labels=(), metrics=())
    ends = [Reading(scores.T, places), Reading(scores.T[:, :1], places[:1])]
    texts = [Example("filmed good", "good", (), 7)] * 2
    wanted = np.log([0.8, 0.2]).mean()
    assert spans.likelihood(Answers([], readings=ends), texts, span) == pytest.approx(
        wanted, rel=1e-6
    )
    assert spans.likelihood(Answers([], readings=ends[1:]), texts[1:], span) is None


def test_baselines_of_classification():
    train = [Example("x", "a"), Example("x", "b"), Example("x", "b")]
    test = [Example("x", "a"), Example("x", "b"), Example("x", "a"), Example("x", "a")]
    task = dataclasses.replace(RANKING, labels=("a", "b"))
    found = baselines(train, test, task)
    assert found == {"majority": pytest.approx({"accuracy": 0.25, "macro_f1": 0.2})}


def test_baselines_of_generation():
    test = [Example("a b", "a c"), Example("a b", "a b")]
    task = dataclasses.replace(WRITING, metrics=("token_f1",))
    # "a" is an article and not counted: b against c, and b against b.
    assert baselines([], test, task) == {"copy input": {"token_f1": pytest.approx(0.5)}}


def test_no_examples(backbone):
    settings = {"data": DATA, "eval": EvalConfig()}
    with pytest.raises(InputError, match="there are no examples to evaluate on"):
        evaluate(backbone, None, [], RANKING, **settings)
    with pytest.raises(InputError, match="there are no examples to test on"):
        baselines(EXAMPLES, [], RANKING)
    with pytest.raises(InputError, match="there are no examples to train on"):
        baselines([], EXAMPLES, RANKING)


def test_no_tokenizer(tiny):
    with pytest.raises(InputError, match="backbone 'tiny' has no tokenizer"):
        evaluate(tiny, None, EXAMPLES, RANKING, data=DATA, eval=EvalConfig())
