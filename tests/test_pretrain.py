"""Stages of pretraining on a tiny model, and the options that they take."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.config import InputError
from prompt_jax.pretrain import pretrain, run
from prompt_jax.pretrain.corpus import EOS, load_tokenizer
from prompt_jax.pretrain.step import rescaled
from prompt_jax.weights import load_backbone


@pytest.mark.slow
def test_a_stage_gives_a_backbone_and_resumes_exactly(stage, tmp_path):
    whole = pretrain(dataclasses.replace(stage, output=str(tmp_path / "whole")))
    backbone = load_backbone(whole)
    assert backbone.tokenizer("the king").input_ids == [
        *load_tokenizer(whole / "spiece.model").encode("the king"),
        EOS,
    ]
    assert backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>") == 161
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]

    broken = tmp_path / "broken"
    stopped = dataclasses.replace(stage, output=str(broken))
    with pytest.MonkeyPatch.context() as patch:

        def dies(stage, module, state, rows, weight, step=run.train_step):
            if int(state.step) == 4:
                raise KeyboardInterrupt
            if int(state.step) == 2:
                with pytest.raises(InputError, match="is in use by another process"):
                    pretrain(stopped)
            return step(stage, module, state, rows, weight)

        patch.setattr(run, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            pretrain(stopped)
    assert not (broken / "model.safetensors").exists()
    again = load_backbone(pretrain(stopped))
    jax.tree.map(np.testing.assert_array_equal, again.params, backbone.params)
    assert (broken / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_second_stage_goes_on_from_the_first(stage, tmp_path):
    first = pretrain(dataclasses.replace(stage, output=str(tmp_path / "1"), embedding_scale=4.0))
    assert np.sqrt((np.asarray(load_backbone(first).params["embedding"]) ** 2).mean()) == (
        pytest.approx(4.0, rel=1e-2)
    )
    later = dataclasses.replace(
        stage, output=str(tmp_path / "2"), start=str(first), tokenizer="", steps=1
    )
    second = load_backbone(pretrain(later))
    rescaled_first = rescaled(jax.tree.map(jnp.asarray, load_backbone(first).params), 3.0)
    for ours, theirs in zip(
        jax.tree.leaves(second.params), jax.tree.leaves(rescaled_first), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=0.05)
    with pytest.raises(InputError, match="another architecture than this stage"):
        pretrain(dataclasses.replace(later, output=str(tmp_path / "3"), d_ff=32))


@pytest.mark.slow
def test_a_vocabulary_is_trained_when_none_is_given(stage, tmp_path):
    found = pretrain(
        dataclasses.replace(
            stage, output=str(tmp_path / "own"), tokenizer="", vocab_pieces=55, steps=1
        )
    )
    assert load_tokenizer(found / "spiece.model").get_piece_size() == 55


@pytest.mark.slow
def test_other_options_in_the_same_folder_are_refused(stage, tmp_path):
    own = dataclasses.replace(stage, output=str(tmp_path), steps=1)
    pretrain(own)
    with pytest.raises(InputError, match="holds a stage with other options"):
        pretrain(dataclasses.replace(own, learning_rate=1e-3))


def test_a_folder_of_something_else_is_refused(stage, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="is not empty; give another output"):
        pretrain(dataclasses.replace(stage, output=str(tmp_path)))
    with pytest.raises(InputError, match="is a file; give a folder"):
        pretrain(dataclasses.replace(stage, output=str(tmp_path / "thesis.tex")))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_stage(stage, tmp_path):
    wild = dataclasses.replace(
        stage, output=str(tmp_path), learning_rate=1e30, warmup_steps=0, steps=6
    )
    with pytest.raises(InputError, match="is not a number; lower learning_rate"):
        pretrain(wild)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": ()}, "files is empty; name at least one"),
        ({"files": (("a.txt", 1.5),)}, "share of 'a.txt' must be above 0 and at most 1, got 1.5"),
        ({"classify_share": 2.0}, "classify_share must be from 0 to 1, got 2.0"),
        ({"label_starts": -0.1}, "label_starts must be from 0 to 1, got -0.1"),
        ({"num_decoder_layers": 1}, "num_decoder_layers must be at least 2, got 1; one pools"),
        ({"num_heads": 3}, "d_model 16 is not a multiple of num_heads 3; choose a divisor"),
        ({"teacher_folder": ""}, 'needs teacher_folder.*word_vectors="random"'),
        ({"dtype": "float16"}, "unknown dtype 'float16'; allowed: float32, bfloat16"),
        ({"word_vectors": "glove"}, "unknown word_vectors 'glove'; allowed: teacher, random"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be at least 0, got -1.0"),
        ({"most_classes": 1}, "most_classes must be at least 2, got 1; a classifier"),
        ({"d_model": 8}, "d_model must be at least 16, got 8"),
        ({"text_tokens": 4}, "text_tokens must be at least 8, got 4"),
        ({"pair_tokens": 4}, "pair_tokens must be at least 8, got 4"),
        ({"slots": 1}, "slots must be at least 2, got 1; or draw fewer"),
    ],
)
def test_wrong_options_are_answered(stage, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(stage, **change)
