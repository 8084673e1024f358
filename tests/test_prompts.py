"""A saved prompt: its numbers, its digest, and which backbone it fits."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_jax.config import InputError
from prompt_jax.forward import Injection
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.model import PromptTuningModel
from prompt_jax.prompts import export_prompt, load_prompt, tokenizer_hash
from prompt_jax.train import State
from prompt_jax.weights import load_backbone


class TestPrompt:
    def test_digest_is_of_shape_and_numbers(self, prompt):
        same = dataclasses.replace(
            prompt, name="other", tuned={"prompt": prompt.rows.astype(np.float64)}
        )
        flat = dataclasses.replace(
            prompt,
            tuned={"prompt": prompt.rows.reshape(10, -1)},
            method=PromptTuningConfig(num_virtual_tokens=10),
        )
        assert same.digest == prompt.digest != flat.digest

    def test_rows_are_read_only(self, prompt):
        with pytest.raises(ValueError, match="read-only"):
            prompt.rows[0, 0] = 1.0

    def test_injection_is_the_rows(self, prompt):
        np.testing.assert_array_equal(prompt.injection().prompt, prompt.rows)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_refuses_what_is_not_finite(self, prompt, bad):
        rows = prompt.rows.copy()
        rows[2, 1] = bad
        with pytest.raises(InputError, match="NaN or inf in 1 of 5 rows, first in row 2"):
            dataclasses.replace(prompt, tuned={"prompt": rows})

    @pytest.mark.parametrize("shape", [(16,), (0, 16), (2, 5, 16)])
    def test_refuses_other_ranks(self, prompt, shape):
        with pytest.raises(InputError, match="virtual tokens, width|is empty"):
            dataclasses.replace(prompt, tuned={"prompt": np.zeros(shape)})

    def test_refuses_another_length_than_the_method(self, prompt):
        with pytest.raises(InputError, match="says 5 virtual tokens and the prompt holds 4"):
            dataclasses.replace(prompt, tuned={"prompt": prompt.rows[:4]})


class TestFit:
    def test_own_backbone(self, prompt, tiny):
        prompt.on(tiny)

    def test_width_is_never_overridden(self, prompt, tiny):
        narrow = dataclasses.replace(prompt, tuned={"prompt": prompt.rows[:, :8]})
        with pytest.raises(
            InputError, match="'reviews' is 8 wide and backbone 'tiny' is 16; .*tiny"
        ):
            narrow.on(tiny, allow_mismatch=True)

    def test_other_weights(self, prompt, tiny):
        prompt = dataclasses.replace(prompt, fingerprint="a" * 64)
        other = dataclasses.replace(tiny, name="other", fingerprint="b" * 64)
        with pytest.raises(
            InputError, match=r"other weights \(tiny, sha256 a{12}\) than .*'other'"
        ):
            prompt.on(other)
        prompt.on(other, allow_mismatch=True)

    def test_other_family(self, prompt, tiny):
        other = dataclasses.replace(prompt, model_type="gpt2", fingerprint="", tokenizer_hash="")
        with pytest.raises(InputError, match=r"on a gpt2 \(tiny\) and .*tiny. is a t5; use"):
            other.on(tiny)
        other.on(tiny, allow_mismatch=True)

    def test_other_tokenizer(self, prompt, embedded, tiny):
        prompt = dataclasses.replace(prompt, tokenizer_hash="c" * 64)
        other = dataclasses.replace(tiny, tokenizer=embedded.tokenizer)
        with pytest.raises(InputError, match=r"trained on other tokenizer .* allow_mismatch=True"):
            prompt.on(other)
        prompt.on(other, allow_mismatch=True)

    def test_tokenizer_hash_of_a_copy(self, embedded, tmp_path):
        from prompt_jax.weights import load_tokenizer

        embedded.tokenizer.save_pretrained(tmp_path)
        copy = load_tokenizer(str(tmp_path))
        assert tokenizer_hash(copy) == tokenizer_hash(embedded.tokenizer) != ""
        copy.add_tokens(["<new>"])
        assert tokenizer_hash(copy) != tokenizer_hash(embedded.tokenizer)
        assert tokenizer_hash(None) == ""

    def test_import_takes_the_identity_of_the_backbone(self, prompt, tiny, tmp_path):
        backbone = dataclasses.replace(tiny, fingerprint="d" * 64)
        imported = load_prompt(export_prompt(prompt, tmp_path / "p.npy"), backbone)
        assert (imported.backbone, imported.fingerprint) == ("tiny", "d" * 64)
        assert (imported.num_layers, imported.num_attention_heads) == (2, 3)
        np.save(tmp_path / "narrow.npy", prompt.rows[:, :3])
        with pytest.raises(InputError, match="'narrow' is 3 wide"):
            load_prompt(tmp_path / "narrow.npy", backbone)

    def test_rows_alone_write_as_the_backbone_does(self, tiny_gpt2, tmp_path):
        rows = np.zeros((4, tiny_gpt2.config.d_model), np.float32)
        np.save(tmp_path / "p.npy", rows)
        assert load_prompt(tmp_path / "p.npy").method.task_type == "SEQ_2_SEQ_LM"
        model = PromptTuningModel.from_pretrained(tiny_gpt2, tmp_path / "p.npy")
        assert model.prompt.method.task_type == "CAUSAL_LM"


def test_what_holds_trees_shows_how_much_in_one_line(tiny, tiny_folder):
    config = PromptTuningConfig(num_virtual_tokens=4)
    model = PromptTuningModel.from_pretrained(tiny, config)
    state = State(0, model.tuned, {"row": np.zeros(4, np.float32)})
    count = sum(leaf.size for leaf in jax.tree.leaves(tiny.params))
    backbone = f"<Backbone 'tiny': t5, {count:,} numbers, float32>"
    assert repr(tiny) == backbone
    assert repr(model.prompt) == "<Prompt: prompt_tuning, 64 numbers, float32, for 'tiny'>"
    assert repr(model) == f"<PromptTuningModel: prompt_tuning, 64 numbers, float32, on {backbone}>"
    plain = PromptTuningModel.from_pretrained(tiny, None)
    assert repr(plain) == f"<PromptTuningModel: no prompt, on {backbone}>"
    assert repr(model.prompt.injection()) == "<Injection: prompt; 64 numbers, float32>"
    assert repr(Injection()) == "<Injection: nothing; 0 numbers>"
    assert repr(state) == (
        "<State at step 0: tuned 64 numbers, float32; optimizer 4 numbers, float32>"
    )
    assert repr(load_backbone(tiny_folder, dtype="int8")).endswith("numbers, float32, int8>")
