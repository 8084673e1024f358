"""Prompts of other programs: NumPy's files and PEFT's folders."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from test_weights_pickle import state_dict, write

from prompt_jax import prompts
from prompt_jax.config import InputError
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.model import PromptTuningModel
from prompt_jax.prompts import export_prompt, list_prompts, load_prompt, save_prompt

GOLDEN = Path(__file__).parent / "golden" / "peft"


def peft_folder(folder, rows, **config):
    folder.mkdir()
    config = {"peft_type": "PROMPT_TUNING", "task_type": "SEQ_2_SEQ_LM"} | config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file({"prompt_embeddings": rows}, folder / "adapter_model.safetensors")
    return folder


class TestNumpy:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_both_ways(self, prompt, tmp_path, dtype):
        rows = prompt.rows.astype(dtype)
        np.save(tmp_path / "in.npy", rows)
        loaded = load_prompt(tmp_path / "in.npy")
        np.testing.assert_array_equal(loaded.rows, rows.astype(np.float32))
        out = np.load(export_prompt(loaded, tmp_path / "deep" / "out.npy"))
        assert out.dtype == np.dtype("<f4") and out.flags.c_contiguous
        np.testing.assert_array_equal(out, loaded.rows)
        assert loaded.name == "in" and loaded.backbone == "" and loaded.versions == {}

    def test_released_prompts_have_no_ending(self, prompt, tmp_path):
        path = tmp_path / "encoder.prompt.prompt.prompt"
        with path.open("wb") as file:
            np.save(file, prompt.rows)
        assert load_prompt(path).digest == prompt.digest

    def test_existing_file_is_refused(self, prompt, tmp_path):
        path = export_prompt(prompt, tmp_path / "p.npy")
        with pytest.raises(InputError, match=r"p\.npy exists; choose another path"):
            export_prompt(prompt, path)
        changed = dataclasses.replace(prompt, tuned={"prompt": prompt.rows + 1})
        export_prompt(changed, path, overwrite=True)
        assert load_prompt(path).digest == changed.digest
        assert [path.name for path in tmp_path.iterdir()] == ["p.npy"]

    def test_full_disk_leaves_nothing(self, prompt, tmp_path, monkeypatch):
        def failing(descriptor):
            raise OSError("No space left on device")

        monkeypatch.setattr(prompts.folder.os, "fsync", failing)
        with pytest.raises(InputError, match=r"cannot write .*p\.npy: No space left"):
            export_prompt(prompt, tmp_path / "p.npy")
        assert not list(tmp_path.iterdir())

    def test_truncated(self, prompt, tmp_path):
        path = export_prompt(prompt, tmp_path / "p.npy")
        whole = path.read_bytes()
        for left in (8, 100, -4):
            path.write_bytes(whole[:left])
            with pytest.raises(InputError, match=r"p\.npy cannot be read"):
                load_prompt(path)

    def test_pickles_are_refused(self, tmp_path):
        np.save(tmp_path / "p.npy", np.array([[{}]], object), allow_pickle=True)
        with pytest.raises(InputError, match=r"p\.npy cannot be read .*allow_pickle=False"):
            load_prompt(tmp_path / "p.npy")

    @pytest.mark.parametrize("array", [np.zeros(4), np.zeros((2, 2), complex), np.array([["a"]])])
    def test_other_arrays_are_refused(self, tmp_path, array):
        np.save(tmp_path / "p.npy", array)
        with pytest.raises(InputError, match=r"p\.npy holds .*real numbers \[virtual tokens"):
            load_prompt(tmp_path / "p.npy")

    def test_nan_names_the_file(self, tmp_path):
        np.save(tmp_path / "p.npy", np.full((2, 3), np.nan))
        with pytest.raises(InputError, match=r"p\.npy: the prompt holds NaN or inf in 2 of 2 rows"):
            load_prompt(tmp_path / "p.npy")


def tensor(file, rows, name=""):
    """What `torch.save` writes of an array, or of a dict of one."""
    bare = ("tensor", "FloatStorage", "0", 0, rows.shape, (rows.shape[1], 1))
    return write(file, state_dict({name: bare} if name else bare), {"0": rows.ravel()})


class TestOtherTools:
    ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)

    def adapterhub(self, folder, **config):
        folder.mkdir()
        config = {"architecture": "prompt_tuning", "prompt_length": 2} | config
        values = {"config": config, "model_name": "t5-small", "name": "mine", "hidden_size": 4}
        (folder / "adapter_config.json").write_text(json.dumps(values))
        name = "encoder.prompt_tuning.prompt_tunings.mine.prompt_embedding.weight"
        tensor(folder / "pytorch_adapter.bin", self.ROWS, name)
        return folder

    def test_adapterhub(self, tmp_path):
        prompt = load_prompt(self.adapterhub(tmp_path / "p", combine="prefix_after_bos"))
        np.testing.assert_array_equal(prompt.rows, self.ROWS)
        assert (prompt.method.placement, prompt.backbone) == ("after_bos", "t5-small")
        assert prompt.name == "p" and [row.name for row in list_prompts(tmp_path)] == ["p"]

    def test_adapterhub_says_no_task(self, tiny_gpt2, tmp_path):
        self.ROWS = rows = np.ones((2, tiny_gpt2.width), np.float32)
        folder = self.adapterhub(tmp_path / "p")
        saved = save_prompt(tmp_path / "again", load_prompt(folder))
        for path in (folder, saved):
            model = PromptTuningModel.from_pretrained(tiny_gpt2, path)
            assert model.prompt.method.task_type == "CAUSAL_LM"
            np.testing.assert_array_equal(model.prompt.rows, rows)

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ({"architecture": "lora"}, "AdapterHub's adapters, of architecture 'lora'; allowed: p"),
            ({"architecture": None}, "AdapterHub's adapters, of architecture 'a bottleneck'"),
            ({"combine": "suffix"}, "has combine 'suffix'; allowed: prefix, prefix_after_bos"),
        ],
    )
    def test_other_adapters_of_adapterhub(self, tmp_path, config, match):
        with pytest.raises(InputError, match=match):
            load_prompt(self.adapterhub(tmp_path / "p", **config))

    def test_adapterhub_without_weights(self, tmp_path):
        folder = self.adapterhub(tmp_path / "p")
        tensor(folder / "pytorch_adapter.bin", self.ROWS, "other.weight")
        with pytest.raises(InputError, match="holds 0 tensors whose names end in .prompt_embedd"):
            load_prompt(folder)
        (folder / "pytorch_adapter.bin").unlink()
        with pytest.raises(InputError, match="of AdapterHub's adapters and lacks its weights"):
            load_prompt(folder)

    @pytest.mark.parametrize(
        ("files", "task_type", "leaves"),
        [
            (["decoder.pt"], "CAUSAL_LM", ["prompt"]),
            (["encoder.pt"], "SEQ_2_SEQ_LM", ["prompt"]),
            (["encoder.pt", "decoder.pt"], "SEQ_2_SEQ_LM", ["prompt", "decoder_prompt"]),
        ],
    )
    def test_tgis(self, tmp_path, files, task_type, leaves):
        folder = tmp_path / "mine"
        folder.mkdir()
        for i, name in enumerate(files):
            tensor(folder / name, self.ROWS + i)
        prompt = load_prompt(folder)
        assert prompt.method.task_type == task_type and prompt.name == "mine"
        assert prompt.arrays.keys() == set(leaves)
        for i, leaf in enumerate(leaves):
            np.testing.assert_array_equal(prompt.arrays[leaf], self.ROWS + i)
        assert load_prompt(save_prompt(tmp_path / "again", prompt)).digest == prompt.digest

    def test_what_tgis_would_not_have_saved(self, tmp_path):
        tensor(tmp_path / "encoder.pt", self.ROWS)
        assert load_prompt(tmp_path / "encoder.pt").name == "encoder"
        tensor(tmp_path / "decoder.pt", self.ROWS[:1])
        with pytest.raises(InputError, match=r"encoder.pt is \[2, 4\] and decoder.pt is \[1, 4\]"):
            load_prompt(tmp_path)
        tensor(tmp_path / "decoder.pt", self.ROWS, "weights")
        with pytest.raises(InputError, match="decoder.pt .*expected one tensor, got a dict"):
            load_prompt(tmp_path / "decoder.pt")
        (tmp_path / "decoder.pt").write_bytes(pickle.dumps(os.system))
        with pytest.raises(InputError, match="decoder.pt: refused posix.system"):
            load_prompt(tmp_path / "decoder.pt")


class TestPeft:
    @pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning"])
    def test_golden_folder(self, kind):
        stored = safetensors.numpy.load_file(GOLDEN / kind / "adapter_model.safetensors")
        assert stored["prompt_embeddings"].shape == (6, 12)
        prompt = load_prompt(GOLDEN / kind)
        np.testing.assert_array_equal(prompt.rows, stored["prompt_embeddings"][:3])
        assert prompt.name == kind
        assert prompt.method == PromptTuningConfig(num_virtual_tokens=3, init="random")
        assert (prompt.num_layers, prompt.num_attention_heads) == (2, 2)

    @pytest.mark.parametrize(
        ("config", "rows", "expected"),
        [
            ({"num_virtual_tokens": 4, "num_transformer_submodules": 1}, 4, 4),
            ({"num_virtual_tokens": 2}, 4, 2),
            ({}, 4, 2),
            ({"task_type": None}, 4, 4),
            ({"task_type": None, "num_transformer_submodules": 1}, 4, 4),
            ({"task_type": "CAUSAL_LM"}, 4, 4),
            ({"num_transformer_submodules": 1}, 4, 4),
        ],
    )
    def test_rows_of_the_encoder(self, tmp_path, config, rows, expected):
        table = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        prompt = load_prompt(peft_folder(tmp_path / "p", table, **config))
        np.testing.assert_array_equal(prompt.rows, table[:expected])

    def test_unknown_keys_and_the_text(self, tmp_path):
        config = dict(
            from_the_future=1,
            base_model_name_or_path="t5-small",
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text="Classify:",
            tokenizer_name_or_path="t5-small",
        )
        prompt = load_prompt(peft_folder(tmp_path / "p", np.ones((2, 3), np.float32), **config))
        assert prompt.method.init_text == "Classify:"
        assert prompt.backbone == prompt.method.tokenizer_name_or_path == "t5-small"

    def test_bfloat16(self, tmp_path):
        import ml_dtypes

        rows = np.array([[1.5, -2.0]] * 2, ml_dtypes.bfloat16)
        prompt = load_prompt(peft_folder(tmp_path / "p", rows))
        np.testing.assert_array_equal(prompt.rows, [[1.5, -2.0]])

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            (
                {"peft_type": "VERA"},
                "unknown peft_type in .*'VERA'; allowed: PROMPT_TUNING, P_TUNING",
            ),
            ({"task_type": "SEQ"}, "unknown task_type in .*'SEQ'; allowed: SEQ_2_SEQ_LM"),
            ({"task_type": "SEQ_CLS"}, "has no tensors of a head and .* says task_type SEQ_CLS"),
            ({"num_virtual_tokens": 3}, r"says 3 virtual tokens of width 3 .* is \[4, 3\]"),
            ({"num_virtual_tokens": "4"}, "num_virtual_tokens must be a whole number .* got '4'"),
            ({"token_dim": 5}, r"virtual tokens of width 5 and the tensor beside it is \[4, 3\]"),
            (
                {"task_type": "CAUSAL_LM", "num_transformer_submodules": 2},
                "num_transformer_submodules 2, with which PEFT masks the end of every text",
            ),
            (
                {"task_type": "CAUSAL_LM", "num_virtual_tokens": 2},
                r"says 2 virtual tokens .* is \[4, 3\]; allowed are 2 rows",
            ),
        ],
    )
    def test_refused(self, tmp_path, config, match):
        with pytest.raises(InputError, match=match):
            load_prompt(peft_folder(tmp_path / "p", np.ones((4, 3), np.float32), **config))

    def test_tensors_of_another_method(self, tmp_path):
        folder = peft_folder(tmp_path / "p", np.ones((4, 3), np.float32))
        data = safetensors.numpy.save({"lora_A": np.ones((2, 2), np.float32)})
        (folder / "adapter_model.safetensors").write_bytes(data)
        with pytest.raises(InputError, match="lacks prompt_embeddings and holds lora_A, which"):
            load_prompt(folder)

    def test_a_missing_config_of_an_own_folder(self, prompt, tmp_path):
        folder = save_prompt(tmp_path / "p", prompt)
        (folder / "adapter_config.json").unlink()
        with pytest.raises(InputError, match="p holds no adapter_config.json; copy it again"):
            load_prompt(folder)

    def test_damaged_config(self, tmp_path):
        folder = peft_folder(tmp_path / "p", np.ones((4, 3), np.float32))
        (folder / "adapter_config.json").write_text('{"peft_type": ')
        with pytest.raises(InputError, match="adapter_config.json is truncated or damaged"):
            load_prompt(folder)

    def test_hostile_pickle(self, tmp_path):
        import pickle

        folder = peft_folder(tmp_path / "p", np.ones((4, 3), np.float32))
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(print))
        with pytest.raises(InputError, match=r"adapter_model\.bin"):
            load_prompt(folder)

    def test_export_to_a_folder(self, prompt, tmp_path):
        assert load_prompt(export_prompt(prompt, tmp_path / "p")).digest == prompt.digest
