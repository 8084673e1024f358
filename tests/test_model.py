"""PromptTuningModel: the program that people who come from PEFT write."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_golden_peft import EXPECTED, GOLDEN, inputs, numbers

from prompt_jax.backbones.encoder_decoder import shift_right
from prompt_jax.config import InputError
from prompt_jax.generate import generate
from prompt_jax.methods import MultitaskPromptConfig, PromptTuningConfig
from prompt_jax.model import PromptTuningModel
from prompt_jax.prompts import load_prompt, of_task, save_prompt
from prompt_jax.weights import load_backbone

TOKENS = np.array([[5, 9, 33, 1, 0, 0], [7, 8, 12, 40, 41, 1]])
DECODER_TOKENS = np.array([[0, 4, 6], [0, 11, 3]])
CONFIG = PromptTuningConfig(num_virtual_tokens=4, init="random")


@pytest.fixture
def model(tiny):
    return PromptTuningModel.from_pretrained(tiny, CONFIG, seed=1)


def logits(model, *args, **kwargs):
    return np.asarray(model(*args, **kwargs).logits)


def test_program_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from prompt_jax import PromptTuningConfig, PromptTuningModel, load_backbone

    backbone = load_backbone("embedded")
    config = PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=20, tokenizer_name_or_path="embedded"
    )
    model = PromptTuningModel.from_pretrained(backbone, config)
    ids = backbone.tokenizer("The film was a delight.", return_tensors="np").input_ids
    out = model(input_ids=ids, decoder_input_ids=np.zeros((1, 1), int))
    print(backbone.tokenizer.decode(model.generate(ids)[0]))
    model.save_pretrained("my_prompt")

    assert out.logits.shape == (1, 1, backbone.config.vocab_size) and np.isfinite(out.logits).all()
    assert capsys.readouterr().out.strip()
    again = PromptTuningModel.from_pretrained(backbone, "my_prompt")
    same = again(input_ids=ids, decoder_input_ids=np.zeros((1, 1), int))
    np.testing.assert_array_equal(same.logits, out.logits)
    config = json.loads((tmp_path / "my_prompt" / "adapter_config.json").read_text())
    assert config["tokenizer_name_or_path"] == "embedded"


class TestCall:
    def test_prompt_of_embedded_words_is_those_words(self, tiny, model):
        words = np.array([30, 31, 32, 33])
        model.tuned = {"prompt": tiny.embed(words)}
        plain = PromptTuningModel.from_pretrained(tiny, None)
        joined = np.concatenate([np.tile(words, (2, 1)), TOKENS], axis=1)
        np.testing.assert_allclose(
            logits(model, TOKENS, decoder_input_ids=DECODER_TOKENS),
            logits(plain, joined, decoder_input_ids=DECODER_TOKENS),
            atol=1e-5,
        )

    def test_plain_backbone(self, tiny):
        plain = PromptTuningModel.from_pretrained(tiny, None)
        expected = jax.jit(tiny.module.apply)(
            {"params": tiny.params},
            tiny.embed(TOKENS),
            jnp.asarray(TOKENS != 0),
            jnp.asarray(DECODER_TOKENS),
        )
        ours = logits(plain, TOKENS, decoder_input_ids=DECODER_TOKENS)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        assert plain.prompt is None and plain.tuned is None

    def test_numpy_jax_and_int64_agree(self, model):
        ours = logits(model, TOKENS, decoder_input_ids=DECODER_TOKENS)
        theirs = logits(model, jnp.asarray(TOKENS), decoder_input_ids=jnp.asarray(DECODER_TOKENS))
        np.testing.assert_array_equal(ours, theirs)

    def test_mask_defaults_to_what_is_not_padding(self, model):
        given = logits(model, TOKENS, TOKENS != 0, DECODER_TOKENS)
        as_integers = logits(model, TOKENS, (TOKENS != 0).astype(np.int64), DECODER_TOKENS)
        default = logits(model, TOKENS, decoder_input_ids=DECODER_TOKENS)
        everything = logits(model, TOKENS, np.ones_like(TOKENS), DECODER_TOKENS)
        np.testing.assert_array_equal(given, default)
        np.testing.assert_array_equal(given, as_integers)
        assert np.abs(given[0] - everything[0]).max() > 1e-3
        np.testing.assert_allclose(given[1], everything[1], atol=1e-6)

    def test_placement_reaches_the_backbone(self, tiny, model):
        other = dataclasses.replace(CONFIG, placement="suffix")
        suffix = PromptTuningModel.from_pretrained(tiny, other, seed=1)
        front = logits(model, TOKENS, decoder_input_ids=DECODER_TOKENS)
        behind = logits(suffix, TOKENS, decoder_input_ids=DECODER_TOKENS)
        assert np.abs(front - behind).max() > 1e-3

    def test_loss_counts_what_is_not_minus_100(self, model):
        labels = np.array([[4, 6, 1, -100], [9, 1, -100, -100]])
        out = model(TOKENS, labels=labels)
        shifted = shift_right(jnp.where(labels == -100, 0, labels), (0,))
        np.testing.assert_array_equal(out.logits, model(TOKENS, decoder_input_ids=shifted).logits)
        by_hand = [
            -float(jax.nn.log_softmax(out.logits[b, u])[labels[b, u]])
            for b, u in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
        ]
        np.testing.assert_allclose(out.loss, np.mean(by_hand), rtol=1e-5)
        both = model(TOKENS, decoder_input_ids=shifted, labels=labels)
        np.testing.assert_allclose(both.loss, out.loss, rtol=1e-6)
        assert model(TOKENS, decoder_input_ids=shifted).loss is None

    def test_nothing_counted_is_zero_and_not_nan(self, model):
        assert model(TOKENS, labels=np.full((2, 3), -100)).loss == 0.0

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (dict(), "decoder_input_ids or labels are needed; to write an answer call generate"),
            (dict(input_ids=TOKENS[0]), r"input_ids must be integers .* int64 of shape \[6\]"),
            (dict(input_ids=TOKENS * 1.0), r"input_ids must be integers .* got float64"),
            (dict(input_ids=TOKENS + 60), r"input_ids holds 65; allowed: 0 to 63; use"),
            (dict(input_ids=TOKENS - 1), r"input_ids holds -1; allowed: 0 to 63; use"),
            (
                dict(attention_mask=np.ones((2, 10))),
                r"shape \[2, 10\] and input_ids \[2, 6\]",
            ),
            (dict(decoder_input_ids=DECODER_TOKENS[:1]), "decoder_input_ids has 1 rows and input_"),
            (dict(labels=np.full((2, 3), -7)), "labels holds -7; allowed: 0 to 63 and -100; use"),
            (
                dict(labels=np.ones((2, 2), int), decoder_input_ids=DECODER_TOKENS),
                r"labels have shape \[2, 2\] and decoder_input_ids \[2, 3\]; give equal",
            ),
        ],
    )
    def test_refused(self, model, arguments, match):
        with pytest.raises(InputError, match=match):
            model(**{"input_ids": TOKENS} | arguments)


class TestTasks:
    """A prompt for several tasks answers as the one that is named, and never as another."""

    @pytest.fixture
    def several(self, tiny, tmp_path):
        config = MultitaskPromptConfig(num_virtual_tokens=3, num_tasks=3, init="random")
        model = PromptTuningModel.from_pretrained(tiny, config, seed=2)
        key = jax.random.key(4)
        model.tuned["cols"] += jax.random.normal(key, model.tuned["cols"].shape)
        prompt = dataclasses.replace(
            model.prompt, recipe={"data": {"task": "file:a.tsv", "mixture": ("file:b.tsv", "c")}}
        )
        return load_prompt(save_prompt(tmp_path / "several", prompt))

    def test_every_way_to_name_a_task_is_that_task_alone(self, tiny, several):
        model = PromptTuningModel.from_pretrained(tiny, several)
        rows = [
            logits(model, TOKENS, decoder_input_ids=DECODER_TOKENS, task_ids=task)
            for task in (0, 1, [1, 0], "file:b.tsv", "1", np.array(1))
        ]
        assert np.abs(rows[0] - rows[1]).max() > 1e-3
        np.testing.assert_array_equal(rows[2], [rows[1][0], rows[0][1]])
        for same in rows[3:]:
            np.testing.assert_array_equal(same, rows[1])
        for source, task_id in ((several, 1), (of_task(several, "file:b.tsv"), None)):
            alone = PromptTuningModel.from_pretrained(tiny, source, task_id=task_id)
            ours = logits(alone, TOKENS, decoder_input_ids=DECODER_TOKENS)
            np.testing.assert_allclose(ours, rows[1], atol=1e-6)
        mixed = model.generate(TOKENS, max_new_tokens=3, task_ids=[1, 0])
        for row, task in enumerate((1, 0)):
            one = model.generate(TOKENS, max_new_tokens=3, task_ids=task)
            np.testing.assert_array_equal(mixed[row], one[row])

    def test_a_task_must_be_named(self, tiny, several):
        model = PromptTuningModel.from_pretrained(tiny, several)
        tasks = r"0 \(file:a.tsv\), 1 \(file:b.tsv\), 2 \(c\)"
        for task_ids, message in (
            (None, "3 tasks, and none is named; .*: " + tasks),
            (3, "has no task '3'; tasks: " + tasks),
            ("d", "has no task 'd'"),
            ([0, -1], "has no task"),
            ([0, 1, 2], r"one integer, or 2 of them, one a row, got int64 of shape \[3\]"),
            (np.array(0.5), "got float64"),
        ):
            with pytest.raises(InputError, match=message):
                model(TOKENS, decoder_input_ids=DECODER_TOKENS, task_ids=task_ids)
            with pytest.raises(InputError, match=message):
                model.generate(TOKENS, task_ids=task_ids)
        with pytest.raises(InputError, match="has no task 'd'"):
            PromptTuningModel.from_pretrained(tiny, several, task_id="d")
        # No backbone reads the prompts of all tasks as those of the rows of a batch.
        tokens = np.tile(TOKENS[:1], (3, 1))
        with pytest.raises(InputError, match="those of 3 tasks; name one, 0 to 2"):
            generate(tiny, several.injection(), tokens, tokens > 0)

    def test_others_have_no_tasks(self, tiny, model):
        plain = PromptTuningModel.from_pretrained(tiny, None)
        with pytest.raises(InputError, match="has no prompt and so no task"):
            plain.generate(TOKENS, task_ids=0)
        with pytest.raises(InputError, match="is the same for all tasks, and task 1 is named"):
            model.generate(TOKENS, task_ids=1)
        one = MultitaskPromptConfig(num_virtual_tokens=3, num_tasks=1, init="random")
        only = PromptTuningModel.from_pretrained(tiny, one)
        written = only.generate(TOKENS, max_new_tokens=2)
        np.testing.assert_array_equal(
            only.generate(TOKENS, max_new_tokens=2, task_ids=[0, 0]), written
        )


class TestGenerate:
    def test_greedy_is_the_argmax_of_calls(self, model):
        written = model.generate(TOKENS, max_new_tokens=4)
        decoder_tokens = np.zeros((2, 1), np.int32)
        for step in range(4):
            best = logits(model, TOKENS, decoder_input_ids=decoder_tokens)[:, -1].argmax(-1)
            ended = (decoder_tokens == 1).any(1)
            decoder_tokens = np.c_[decoder_tokens, np.where(ended, 0, best)]
            np.testing.assert_array_equal(written[:, step], decoder_tokens[:, -1])

    def test_options_reach_the_search(self, model):
        assert model.generate(TOKENS, max_new_tokens=3, num_beams=2).shape == (2, 3)
        with pytest.raises(InputError, match="num_beams must be at least 1"):
            model.generate(TOKENS, num_beams=0)
        with pytest.raises(InputError, match="input_ids must be integers"):
            model.generate(TOKENS[0])


class TestFromPretrained:
    def test_seed_decides_a_fresh_prompt(self, tiny, model):
        same = PromptTuningModel.from_pretrained(tiny, CONFIG, seed=1)
        other = PromptTuningModel.from_pretrained(tiny, CONFIG, seed=2)
        assert same.prompt.digest == model.prompt.digest != other.prompt.digest
        assert (model.prompt.seed, other.prompt.seed) == (1, 2)

    def test_folder_and_prompt(self, tiny, model, tmp_path):
        folder = model.save_pretrained(tmp_path / "p")
        for source in (folder, str(folder), load_prompt(folder)):
            again = PromptTuningModel.from_pretrained(tiny, source)
            assert again.prompt.digest == model.prompt.digest
            assert jax.tree.structure(again.tuned) == jax.tree.structure(model.tuned)

    def test_init_from_a_file(self, tiny, model, tmp_path):
        folder = model.save_pretrained(tmp_path / "p")
        config = PromptTuningConfig(num_virtual_tokens=4, init="file", init_file=str(folder))
        again = PromptTuningModel.from_pretrained(tiny, config)
        assert again.prompt.digest == model.prompt.digest
        with pytest.raises(InputError, match=r"is \[4, 16\] and this one is \[7, 16\]"):
            longer = dataclasses.replace(config, num_virtual_tokens=7)
            PromptTuningModel.from_pretrained(tiny, longer)

    def test_other_weights_need_the_flag(self, tiny, model, tmp_path):
        prompt = dataclasses.replace(model.prompt, fingerprint="a" * 64)
        other = dataclasses.replace(tiny, fingerprint="b" * 64)
        with pytest.raises(InputError, match="trained on other weights"):
            PromptTuningModel.from_pretrained(other, prompt)
        PromptTuningModel.from_pretrained(other, prompt, allow_mismatch=True)

    def test_another_task(self, tiny, model):
        config = dataclasses.replace(CONFIG, task_type="CAUSAL_LM")
        fresh = PromptTuningModel.from_pretrained(
            tiny, config
        )  # Which writes as its backbone does.
        assert fresh.prompt.method.task_type == "SEQ_2_SEQ_LM"
        prompt = dataclasses.replace(model.prompt, method=config)
        with pytest.raises(InputError, match='"CAUSAL_LM" and backbone .* does SEQ_2_SEQ_LM'):
            PromptTuningModel.from_pretrained(tiny, prompt)

    def test_absent_folder(self, tiny, tmp_path):
        with pytest.raises(InputError, match="no prompt at .*absent"):
            PromptTuningModel.from_pretrained(tiny, tmp_path / "absent")


class TestSave:
    def test_scores_stay_until_the_prompt_changes(self, tiny, model, tmp_path):
        scored = dataclasses.replace(model.prompt, metrics={"accuracy": 1.0}, name="x")
        again = PromptTuningModel.from_pretrained(tiny, save_prompt(tmp_path / "p", scored))
        assert again.prompt.metrics == {"accuracy": 1.0}
        again.tuned = jax.tree.map(lambda leaf: leaf + 1, again.tuned)
        assert again.prompt.metrics == {} and again.prompt.name == "x"
        saved = load_prompt(again.save_pretrained(tmp_path / "q"))
        np.testing.assert_array_equal(saved.rows, scored.rows + 1)

    def test_nothing_is_overwritten_unasked(self, model, tmp_path):
        model.save_pretrained(tmp_path / "p")
        with pytest.raises(InputError, match="p exists"):
            model.save_pretrained(tmp_path / "p")
        model.save_pretrained(tmp_path / "p", overwrite=True)

    def test_plain_backbone_has_nothing_to_save(self, tiny, tmp_path):
        with pytest.raises(InputError, match="the plain backbone has no prompt to save; pass a"):
            PromptTuningModel.from_pretrained(tiny, None).save_pretrained(tmp_path / "p")


def test_print_trainable_parameters(tiny, model, capsys):
    model.print_trainable_parameters()
    total = 64 + sum(leaf.size for leaf in jax.tree.leaves(tiny.params))
    said = f"trainable params: 64 || all params: {total:,} || trainable%: {6400 / total:.4f}\n"
    assert capsys.readouterr().out == said
    PromptTuningModel.from_pretrained(tiny, None).print_trainable_parameters()
    assert re.match(r"trainable params: 0 \|\| .* trainable%: 0\.0000$", capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning"])
def test_golden_logits_of_peft(kind, tmp_path):
    """Folders that PEFT wrote give the logits that PEFT gave, on a machine without it."""
    import safetensors.numpy

    golden = json.loads(EXPECTED.read_text())
    weights = {name: numbers(name, tuple(shape)) for name, shape in golden["shapes"].items()}
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(golden["config"]))
    backbone = load_backbone(tmp_path, dtype="float32")
    model = PromptTuningModel.from_pretrained(backbone, GOLDEN / kind)
    expected = np.array(golden["logits"][kind])
    error = np.abs(logits(model, *inputs())[1] - expected).max() / np.abs(expected).max()
    assert error < 1e-4
    plain = PromptTuningModel.from_pretrained(backbone, None)
    assert np.abs(logits(plain, *inputs())[1] - expected).max() > 0.01


@pytest.mark.parametrize("pad", [None, 1, 0])
def test_a_decoder_without_padding_attends_to_all(tiny_gpt2, pad):
    config = dataclasses.replace(tiny_gpt2.config, pad_token_id=pad)
    plain = PromptTuningModel.from_pretrained(dataclasses.replace(tiny_gpt2, config=config), None)
    tokens = np.array([[5, 0, 1, 9]])
    # Word 0 is padding in the last case only; 1 ends texts.
    same = np.abs(logits(plain, tokens) - logits(plain, tokens, np.ones_like(tokens))).max()
    assert same > 0.01 if pad == 0 else same == 0
