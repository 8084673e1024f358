"""Decoder-only backbones: what is special about them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.config import Config, DataConfig, EvalConfig, InputError, Opening, TrainConfig
from prompt_jax.data import encode_targets, pad
from prompt_jax.experiment import TUNED, train
from prompt_jax.experiment.shown import shown
from prompt_jax.forward import Injection, Placement, PromptedModel
from prompt_jax.generate import generate, read_ahead, read_once, score
from prompt_jax.methods import (
    CPTConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    init,
    materialize,
)
from prompt_jax.model import PromptTuningModel
from prompt_jax.prompts import prompt_for
from prompt_jax.tasks import Task
from prompt_jax.tasks.task import filled_example
from prompt_jax.weights import load_backbone, save_hugging_face

METHOD = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")


def test_layers_that_all_see_alike_have_one_bias(tiny_llama):
    """A window in some layers costs those that have none of it nothing."""

    def size(**fields):
        config = dataclasses.replace(tiny_llama.config, **fields)
        program = jax.make_jaxpr(dataclasses.replace(tiny_llama, config=config).module.apply)
        embedded = tiny_llama.embed(jnp.ones((1, 4), jnp.int32))
        found = program({"params": tiny_llama.params}, embedded, jnp.ones((1, 4), bool))
        (scan,) = [e for e in found.jaxpr.eqns if e.primitive.name == "scan"]
        return len(scan.params["jaxpr"].eqns), found

    plain, whole = size()[0], size(sliding_window=2)[0]
    mixed, program = size(sliding_window=2, full_layers=(1,))
    assert plain == whole < mixed and "2,1,1,4,4" in str(program)


@pytest.mark.parametrize("placement", ["prefix", "after_bos", "suffix"])
def test_logits_are_of_text_positions(tiny_gpt2, placement):
    """Virtual tokens have no place in the logits, wherever they stand."""
    method = dataclasses.replace(METHOD, placement=placement)
    model = PromptTuningModel.from_pretrained(tiny_gpt2, method)
    ids = np.array([[5, 6, 7, 8], [9, 3, 0, 0]])
    logits = model(ids, ids > 0).logits
    assert logits.shape == (2, 4, 64)
    # What follows the last text token is what generation begins with, unless the prompt follows.
    if placement != "suffix":
        last = logits[jnp.arange(2), (ids > 0).sum(1) - 1].argmax(-1)
        np.testing.assert_array_equal(last, model.generate(ids, ids > 0, max_new_tokens=1)[:, 0])
    else:
        plain = PromptTuningModel.from_pretrained(tiny_gpt2, None)(ids, ids > 0).logits
        np.testing.assert_allclose(logits[0], plain[0], atol=1e-5)


def test_the_loss_is_of_the_token_behind(tiny_gpt2):
    model = PromptTuningModel.from_pretrained(tiny_gpt2, METHOD)
    ids = np.array([[5, 6, 7, 8]])
    logits = model(ids).logits
    expected = -jax.nn.log_softmax(logits[0])[np.array([1, 2]), ids[0, 2:]].mean()
    labels = np.where(np.arange(4) < 2, -100, ids)
    assert model(ids, labels=labels).loss == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(InputError, match="has one stack and takes no decoder_input_ids"):
        model(ids, decoder_input_ids=ids)
    with pytest.raises(InputError, match="a decoder-only model wants a label a token"):
        model(ids, labels=ids[:, :2])


@pytest.mark.slow
def test_a_prompt_as_a_prefix_costs_no_place_and_says_the_same(tiny_llama):
    """Keys and values of the virtual tokens, in the attentions instead of the input."""
    rows = init(METHOD, tiny_llama, jax.random.key(0))["prompt"]
    found = tiny_llama.keys_and_values(rows)
    method = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    prefix = materialize(method, {"decoder": {"layers": {"attention": found[PATH]}}})
    ids = jnp.array([[5, 6, 7, 8]])
    given = {"params": tiny_llama.params}
    embedded, mask = tiny_llama.embed(ids), jnp.ones((1, 4), bool)
    short = {**given, "tuned": prefix.sockets}
    ours = tiny_llama.module.apply(short, embedded, mask)
    whole = jnp.concatenate([rows[None], embedded], axis=1)
    theirs = tiny_llama.module.apply(given, whole, jnp.ones((1, 7), bool))[:, 3:]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


PATH = "decoder/layers/attention"


@pytest.mark.slow
def test_an_input_that_sees_itself_whole(tiny_gpt2):
    """A later input token changes an earlier state; a later target does not."""
    config = dataclasses.replace(tiny_gpt2.config, bidirectional_input=True)
    module = dataclasses.replace(tiny_gpt2, config=config).module
    ids, mask = jnp.array([[5, 6, 7], [5, 6, 8]]), jnp.ones((2, 3), bool)
    given = {"params": tiny_gpt2.params}
    logits = module.apply(given, tiny_gpt2.embed(ids), mask)
    assert not np.allclose(logits[0, 0], logits[1, 0])
    causal = tiny_gpt2.module.apply(given, tiny_gpt2.embed(ids), mask)
    np.testing.assert_allclose(causal[0, 0], causal[1, 0], atol=1e-6)
    targets = jnp.array([[9, 4, 3], [9, 4, 2]])
    embedded = tiny_gpt2.embed(ids[:1].repeat(2, 0))
    same = module.apply(given, embedded, mask, targets, method="predict")
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)


def test_a_prompt_is_of_the_task_that_the_backbone_does(tiny_gpt2):
    rows, plain = np.ones((2, 16)), PromptTuningConfig(num_virtual_tokens=2)
    assert prompt_for({"prompt": rows}, plain, tiny_gpt2).method.task_type == "CAUSAL_LM"
    other = dataclasses.replace(plain, task_type="FEATURE_EXTRACTION")
    with pytest.raises(InputError, match='does CAUSAL_LM, SEQ_CLS, .*; set task_type="CAUSAL_LM"'):
        prompt_for({"prompt": rows}, other, tiny_gpt2)
    both = dataclasses.replace(METHOD, stack="both")
    with pytest.raises(InputError, match="'tiny_gpt2' has one stack only"):
        init(both, tiny_gpt2, jax.random.key(0))


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory, tiny_gpt2):
    """A tiny GPT-2 with a byte-level tokenizer of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["a good film", "a bad film", "yes no"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<pad>"
    )
    folder = tmp_path_factory.mktemp("gpt2")
    config = dataclasses.replace(tiny_gpt2.config, vocab_size=300)
    from prompt_jax.backbones import Backbone, init_params

    backbone = Backbone(name="g", config=config, params=init_params(config, jax.random.key(0)))
    save_hugging_face(folder, dataclasses.replace(backbone, tokenizer=tokenizer))
    return folder


def test_targets_stand_behind_a_space_and_end(gpt2_folder, embedded):
    tokenizer = load_backbone(gpt2_folder).tokenizer
    (row,) = encode_targets(tokenizer, ["yes"], 8, place="behind")
    assert tokenizer.decode(row) == " yes<|endoftext|>" and row[-1] == tokenizer.eos_token_id
    (row,) = encode_targets(tokenizer, ["yes"], 8)
    assert tokenizer.decode(row) == "yes<|endoftext|>"
    (cut,) = encode_targets(tokenizer, ["yes no yes no"], 3)
    assert len(cut) == 3 and cut[-1] == tokenizer.eos_token_id
    # T5's own form is what it was: no space, and the same end.
    for place in ("apart", "behind"):
        (row,) = encode_targets(embedded.tokenizer, ["positive"], 8, place=place)
        np.testing.assert_array_equal(row, embedded.tokenizer("positive")["input_ids"])


def test_the_tokens_of_examples_know_what_they_are_of(gpt2_folder):
    tokenizer = load_backbone(gpt2_folder).tokenizer
    task = Task(name="films", source="Film: {input} It is", target="{target}", labels=("yes", "no"))
    rows = [
        filled_example(task, {"input": f"a {word} film", "target": target}, "row")
        for word, target in (("good", "yes"), ("bad", "no"))
    ]
    tokens, types = shown(rows, task, tokenizer)
    assert (
        tokenizer.decode(tokens) == "Film: a good film It is yes\n\nFilm: a bad film It is no\n\n"
    )
    parts = [tokenizer.decode(tokens[types == kind]) for kind in range(9)]
    # A token with a space in front is of the word behind it; this tokenizer has most spaces apart.
    assert parts == [
        *("", "Film:  It is", "a good film", " \n\n", "yes"),
        *("Film:  It is", "a bad film", "\n\n", " no"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [PromptTuningConfig(num_virtual_tokens=3), CPTConfig(num_examples=1)],
    ids=["prompt", "cpt"],
)
def test_an_experiment_on_a_decoder(gpt2_folder, task_file, tmp_path, method):
    config = Config(
        backbone=str(gpt2_folder),
        out=str(tmp_path / "run"),
        method=method,
        data=DataConfig(task=f"file:{task_file}"),
        train=TrainConfig(steps=4, batch_size=8, eval_every=4),
        eval=EvalConfig(max_new_tokens=8),
    )
    result = train(config, say=lambda line: None)
    assert result.prompt.method.task_type == "CAUSAL_LM"
    prompt, trained = result.prompt, result.prompt.trained_method
    if isinstance(trained, CPTConfig):
        moved = np.linalg.norm(prompt.rows - prompt.trained_tree["fixed"]["start"], axis=1)
        # PEFT's radius in a model of this width; labels stay to the bit.
        assert (moved <= 0.1 * (prompt.rows.shape[1] / 2048) ** 0.5 + 1e-6).all() and moved.any()
        assert not moved[trained.labels].any() and trained.labels.any()
    assert set(result.results[TUNED]) == {"validation"}
    rows = [json.loads(line) for line in open(tmp_path / "run/metrics.jsonl")]
    assert rows[-1]["loss"] < rows[1]["loss"]


@pytest.mark.parametrize("method", [PromptTuningConfig, PrefixTuningConfig])
def test_a_context_that_is_too_short(method, gpt2_folder, task_file, tmp_path):
    config = Config(
        backbone=str(gpt2_folder),
        out=str(tmp_path / "run"),
        method=method(num_virtual_tokens=60),
        data=DataConfig(task=f"file:{task_file}"),
    )
    with pytest.raises(InputError, match=r"\(60 \+ .*over the 64 of .*take fewer virtual tokens"):
        train(config)


def test_an_answer_that_would_leave_the_context(tiny_gpt2):
    tokens = np.ones((1, 40), np.int32)
    with pytest.raises(InputError, match=r"70 tokens long \(0 \+ 40 \+ 30\), 6 over the 64"):
        generate(tiny_gpt2, None, tokens, tokens > 0, max_new_tokens=30)
    words = np.ones((2, 30), np.int32)
    with pytest.raises(InputError, match="6 over the 64 of 'tiny_gpt2'"):
        score(tiny_gpt2, None, tokens, tokens > 0, words, words > 0)


def test_a_task_of_encoders_is_refused(gpt2_folder, task_file, tmp_path):
    config = Config(
        backbone=str(gpt2_folder),
        out=str(tmp_path / "run"),
        method=PromptTuningConfig(num_virtual_tokens=3, task_type="QUESTION_ANS"),
        data=DataConfig(task=f"file:{task_file}"),
    )
    with pytest.raises(InputError, match='is "QUESTION_ANS" and backbone .* does CAUSAL_LM'):
        train(config)


def test_a_prompt_that_was_read_once_says_the_same(tiny_llama):
    injection = materialize(METHOD, init(METHOD, tiny_llama, jax.random.key(0)))
    once = read_once(tiny_llama, injection)
    assert once.prompt is None and once.positions == injection.positions == 3
    tokens = np.array([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = tokens > 0
    words = np.array([[4, 1], [11, 1]]), np.ones((2, 2), bool)
    found = [score(tiny_llama, given, tokens, mask, *words) for given in (injection, once)]
    np.testing.assert_allclose(*found, atol=1e-4)


METHODS = {
    "after_bos": dataclasses.replace(METHOD, placement="after_bos"),
    "turn": dataclasses.replace(METHOD, placement="turn"),
    "prefix": PrefixTuningConfig(num_virtual_tokens=3),
    "lora": LoraConfig(r=2),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("", "turn", "lora")]
OPENINGS = (Opening("turn", (5,), (6,)), Opening("system", (9, 10)))


@pytest.mark.parametrize("name", ["after_bos", "prefix", *SLOW])
def test_what_all_texts_begin_with_is_read_once(name, tiny_llama):
    """Scores are those of a whole sequence for each candidate."""
    if name == "turn":
        config = dataclasses.replace(tiny_llama.config, openings=OPENINGS)
        tiny_llama = dataclasses.replace(tiny_llama, config=config)
    injection = None
    if name:
        tuned = jax.tree.map(lambda x: x + 0.1, init(METHODS[name], tiny_llama, jax.random.key(1)))
        injection = materialize(METHODS[name], tuned)
    beginning = np.arange(3, 13, dtype=np.int32)
    rows = [np.append(beginning, row).astype(np.int32) for row in ([], [40, 41, 42], [50])]
    words, real = pad([np.array(row) for row in ([4, 1], [11, 7, 1], [4, 9, 1])], 3, 0)
    model, rest = PromptedModel.of(tiny_llama, injection), {"length_normalize": False}
    tokens, mask = pad(rows, 13, 0)
    columns, read_whole = [], jax.jit(PromptedModel.target_logits)
    for candidate, seen in zip(words, real, strict=True):
        targets = jnp.broadcast_to(candidate, (3, 3))
        logits = jax.nn.log_softmax(read_whole(model, tokens, mask, targets))
        columns.append(jnp.where(seen, logits[:, np.arange(3), candidate], 0.0).sum(1))
    whole = jnp.stack(columns, axis=1)
    once, left = read_ahead(tiny_llama, injection, rows)
    assert [len(row) for row in left] == [2, 5, 3]
    for way, texts in ((injection, rows), (once, left)):
        found = score(tiny_llama, way, *pad(texts, max(map(len, texts)), 0), words, real, **rest)
        np.testing.assert_allclose(found, whole, atol=1e-5)


def test_what_is_read_with_every_text(tiny, tiny_gpt2):
    rows = jnp.ones((2, 16))
    whole = dataclasses.replace(tiny_gpt2.config, bidirectional_input=True)
    both_ways = dataclasses.replace(tiny_gpt2, config=whole)
    chats = dataclasses.replace(tiny_gpt2.config, openings=OPENINGS)
    chats = dataclasses.replace(tiny_gpt2, config=chats)
    inside = [Injection(rows, placement=Placement(place)) for place in ("turn", "system")]
    texts = [np.arange(3, 13, dtype=np.int32)] * 2
    # Shared are eight tokens, behind which a text may go on with what opens the turn.
    assert read_ahead(chats, inside[1], texts) == (inside[1], texts)
    for backbone, injection in (
        (tiny, Injection(rows)),
        (tiny_gpt2, Injection(rows, placement=Placement("suffix"))),
        (tiny_gpt2, Injection(rows, jnp.array([True, False]))),
        (tiny_gpt2, Injection(rows[None])),
        (both_ways, Injection(rows)),
        (chats, inside[0]),
        (tiny_gpt2, None),
    ):
        assert read_once(backbone, injection) is injection


def test_padding_that_is_counted_takes_room(tiny_gpt2):
    config = dataclasses.replace(tiny_gpt2.config, count_padding=True)
    backbone = dataclasses.replace(tiny_gpt2, config=config)
    tokens = np.pad(np.full((1, 2), 5, np.int32), ((0, 0), (58, 0)))
    assert generate(tiny_gpt2, None, tokens, tokens > 0, max_new_tokens=6).shape == (1, 6)
    with pytest.raises(InputError, match=r"\(0 \+ 60 \+ 6\), 2 over the 64"):
        generate(backbone, None, tokens, tokens > 0, max_new_tokens=6)


def test_logits_of_virtual_tokens_where_there_are_none(tiny, tiny_gpt2):
    ids = np.array([[5, 6]])
    suffix = dataclasses.replace(METHOD, placement="suffix")
    for backbone, method in ((tiny, None), (tiny_gpt2, suffix)):
        model = PromptTuningModel.from_pretrained(backbone, method)
        with pytest.raises(InputError, match="virtual_logits want a decoder that writes"):
            model(ids, virtual_logits=True)
