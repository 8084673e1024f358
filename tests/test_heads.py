"""Heads beside a method, and clozes: how models that only read answer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.answers import Candidates, classify
from prompt_jax.config import TrainConfig
from prompt_jax.data import Batch, encode_targets
from prompt_jax.forward import Injection, PromptedModel, apply_head
from prompt_jax.generate import score
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, materialize
from prompt_jax.train import compile_step, start

WORDS = Candidates(np.array([[40], [41], [42]]), np.ones((3, 1), bool))
METHODS = {
    "head": pj.HeadConfig(),
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=4),
    "p_tuning": pj.PTuningConfig(num_virtual_tokens=4, encoder_hidden_size=8),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=4),
    "lora": pj.LoraConfig(r=2),
    "full": pj.FullConfig(),
    "both": pj.UnionConfig(methods=(pj.LoraConfig(r=2), pj.PrefixTuningConfig())),
}

on_readers = pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_gpt2"], indirect=True)


@pytest.fixture
def backbone(request):
    return request.getfixturevalue(request.param)


def headed(name, labels=3, task_type="SEQ_CLS", **fields):
    return dataclasses.replace(METHODS[name], num_labels=labels, task_type=task_type, **fields)


def batch_of(seed=0, rows=4, text=6):
    rng = np.random.default_rng(seed)
    mask = np.arange(text) < rng.integers(1, text + 1, rows)[:, None]
    tokens = np.where(mask, rng.integers(2, 40, (rows, text)), 0).astype(np.int32)
    targets = rng.integers(40, 43, (rows, 1)).astype(np.int32)
    return Batch(tokens, mask, targets, np.ones((rows, 1), bool))


_class_logits = jax.jit(PromptedModel.class_logits)


def logits_of(backbone, injection, batch):
    tokens, mask = jnp.asarray(batch.tokens), jnp.asarray(batch.mask)
    return _class_logits(PromptedModel(backbone.module, backbone.params, injection), tokens, mask)


@pytest.mark.parametrize("name", ["head", "prompt"])
def test_the_head_has_a_rate_of_its_own(name, tiny_bert):
    config = headed(name)
    fresh = init(config, tiny_bert, jax.random.key(0))
    options = TrainConfig(
        optimizer="adamw", learning_rate=0.0, head_learning_rate=1e-2, weight_decay=0.0
    )
    step = compile_step(loss_fn(config, tiny_bert, candidates=WORDS), options)
    state, _ = step(start(fresh, options), tiny_bert.params, batch_of())
    moved = np.abs(np.asarray(state.tuned["classifier"]["out"]["bias"])).max()
    assert moved == pytest.approx(1e-2, rel=1e-3)
    rest = {name: leaf for name, leaf in state.tuned.items() if name != "classifier"}
    jax.tree.map(np.testing.assert_array_equal, rest, {name: fresh[name] for name in rest})


@pytest.mark.parametrize("placement", ["prefix", "after_bos", "suffix"])
def test_a_head_reads_the_texts_own_token_wherever_the_prompt_stands(placement, tiny_bert):
    config = headed("prompt", placement=placement)
    injection = materialize(config, init(config, tiny_bert, jax.random.key(0)))
    batch = batch_of()
    tokens, mask = jnp.asarray(batch.tokens), jnp.asarray(batch.mask)
    model = PromptedModel(tiny_bert.module, tiny_bert.params, injection)
    states = model.text_states(tokens, mask)
    params = {"params": tiny_bert.params}
    pooled = tiny_bert.module.apply(params, states, mask, method="pool")
    expected = apply_head(injection.head, pooled, None)
    ours = logits_of(tiny_bert, injection, batch)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    tags = model.token_logits(tokens, mask)
    np.testing.assert_allclose(tags, apply_head(injection.head, states, None), atol=1e-6)


def test_pooling_as_in_peft_reads_a_virtual_token(tiny_bert):
    config = headed("prompt")
    tuned = init(config, tiny_bert, jax.random.key(0))
    ours, theirs = (
        logits_of(tiny_bert, materialize(dataclasses.replace(config, pooling=p), tuned), batch_of())
        for p in ("cls", "peft")
    )
    assert not np.allclose(ours, theirs)
    # Without virtual tokens the first position is the text's own.
    plain = headed("head")
    tuned = init(plain, tiny_bert, jax.random.key(0))
    ours, theirs = (
        logits_of(tiny_bert, materialize(dataclasses.replace(plain, pooling=p), tuned), batch_of())
        for p in ("cls", "peft")
    )
    np.testing.assert_array_equal(ours, theirs)


@on_readers
def test_padding_on_either_side_changes_no_class(backbone):
    config = headed("prompt")
    injection = materialize(config, init(config, backbone, jax.random.key(0)))
    batch = batch_of()
    wide = batch._replace(
        tokens=np.pad(batch.tokens, ((0, 0), (3, 2))), mask=np.pad(batch.mask, ((0, 0), (3, 2)))
    )
    ours = logits_of(backbone, injection, batch)
    np.testing.assert_allclose(ours, logits_of(backbone, injection, wide), atol=1e-5)


def test_rows_with_heads_of_their_own_are_the_rows_alone(tiny_bert):
    config, batch = headed("prompt"), batch_of()
    fresh = [init(config, tiny_bert, jax.random.key(k)) for k in range(4)]
    many = [materialize(config, tuned) for tuned in fresh]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    stacked = stacked._replace(pool_prompt=jnp.asarray(False))
    together = logits_of(tiny_bert, stacked, batch)
    for i, injection in enumerate(many):
        row = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch)
        np.testing.assert_allclose(
            together[i : i + 1], logits_of(tiny_bert, injection, row), atol=1e-5
        )


def test_classify_gives_log_probabilities(tiny_bert):
    config, batch = headed("prefix"), batch_of()
    injection = materialize(config, init(config, tiny_bert, jax.random.key(0)))
    found = classify(tiny_bert, injection, batch.tokens, batch.mask)
    np.testing.assert_allclose(np.exp(found).sum(1), 1.0, rtol=1e-5)
    assert (found.argmax(1) == logits_of(tiny_bert, injection, batch).argmax(1)).all()


def test_a_cloze_ranks_words_by_the_logits_at_its_mask(tiny_bert):
    batch = batch_of()
    tokens = batch.tokens.copy()
    tokens[:, 0] = tiny_bert.config.mask_token_id
    prompt = Injection(tiny_bert.embed(jnp.array([7, 9])))
    found = score(tiny_bert, prompt, tokens, batch.mask, *WORDS)
    spelled = np.concatenate([np.tile([7, 9], (len(tokens), 1)), tokens], axis=1)
    mask = np.pad(batch.mask, ((0, 0), (2, 0)), constant_values=True)
    given = tiny_bert.embed(spelled), jnp.asarray(mask)
    logits = tiny_bert.module.apply({"params": tiny_bert.params}, *given)[:, 2]
    expected = jax.nn.log_softmax(logits)[:, WORDS.tokens[:, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_words_within_a_text_have_no_end():
    class Tokenizer:
        eos_token_id = 5

        def __call__(self, texts, **options):
            return {"input_ids": [[ord(c) for c in text] for text in texts]}

        def decode(self, ids):
            return "".join(map(chr, ids))

    rows = {p: encode_targets(Tokenizer(), ["x"], 8, place=p)[0].tolist() for p in
            ("apart", "behind", "within")}  # fmt: skip
    assert rows == {"apart": [120, 5], "behind": [32, 120, 5], "within": [32, 120]}


def _model(backbone, task_type, labels=3):
    config = headed("prompt", labels, task_type)
    return pj.PromptTuningModel.from_pretrained(backbone, config)


def _nll(logits, labels):
    picked = [np.log(np.exp(z) / np.exp(z).sum())[y] for z, y in zip(logits, labels, strict=True)]
    return -np.mean(picked)


@on_readers
def test_a_model_with_a_head_has_logits_and_a_loss_of_the_text_alone(backbone):
    batch = batch_of()
    tokens, mask = batch.tokens, batch.mask
    labels = np.array([0, 2, 1, 2])
    found = _model(backbone, "SEQ_CLS")(tokens, mask, labels=labels)
    assert found.logits.shape == (4, 3)
    np.testing.assert_allclose(found.loss, _nll(np.asarray(found.logits), labels), rtol=1e-5)
    tags = np.where(mask, 1, -100)
    found = _model(backbone, "TOKEN_CLS")(tokens, mask, labels=tags)
    assert found.logits.shape == (*tokens.shape, 3)
    expected = _nll(np.asarray(found.logits)[mask], tags[mask])
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)


def test_a_span_is_looked_for_among_the_texts_own_tokens(tiny_bert):
    batch = batch_of()
    model = _model(tiny_bert, "QUESTION_ANS", None)
    spans = np.zeros((4, 2), int)
    found = model(batch.tokens, batch.mask, labels=spans)
    assert found.logits.shape == (*batch.tokens.shape, 2)
    logits = [z[m] for z, m in zip(np.asarray(found.logits), batch.mask, strict=True)]
    expected = np.mean([_nll(z.T, [0, 0]) for z in logits])
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)


def test_features_are_the_states_of_the_text(tiny_bert):
    batch = batch_of()
    config = pj.PromptTuningConfig(num_virtual_tokens=4, task_type="FEATURE_EXTRACTION")
    model = pj.PromptTuningModel.from_pretrained(tiny_bert, config)
    found = model(batch.tokens, batch.mask).logits
    injection = materialize(config, model.tuned)
    prompted = PromptedModel(tiny_bert.module, tiny_bert.params, injection)
    states = prompted.text_states(jnp.asarray(batch.tokens), jnp.asarray(batch.mask))
    np.testing.assert_allclose(found, states, atol=1e-5)
    plain = pj.PromptTuningModel.from_pretrained(tiny_bert, None)(batch.tokens, batch.mask)
    assert plain.logits.shape == (*batch.tokens.shape, 64)
