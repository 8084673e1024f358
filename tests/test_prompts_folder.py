"""Folders of prompts: what is written, what is read back, and damage that is seen."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from prompt_jax import prompts
from prompt_jax.config import InputError
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.prompts import (
    Prompt,
    export_peft,
    export_prompt,
    list_prompts,
    load_prompt,
    save_prompt,
)

GOLDEN = Path(__file__).parent / "golden" / "peft"


@pytest.fixture
def suffix(prompt):
    return dataclasses.replace(
        prompt, method=PromptTuningConfig(num_virtual_tokens=5, placement="suffix")
    )


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestSave:
    def test_round_trip(self, prompt, tmp_path):
        again = load_prompt(save_prompt(tmp_path / "new" / "p", prompt))
        np.testing.assert_array_equal(again.rows, prompt.rows)
        expected = {f.name: getattr(prompt, f.name) for f in dataclasses.fields(Prompt)}
        assert type(again.metrics["validation"]["macro_f1"]) is float
        for name in expected.keys() - {"tuned"}:
            assert getattr(again, name) == expected[name], name

    def test_second_save_is_byte_equal(self, prompt, tmp_path):
        first = save_prompt(tmp_path / "a", prompt)
        second = save_prompt(tmp_path / "b", load_prompt(first))
        assert files(first) == files(second)

    def test_is_the_folder_of_peft(self, prompt, tmp_path):
        folder = save_prompt(tmp_path / "p", prompt)
        assert set(files(folder)) == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "prompt_jax_config.json",
            "README.md",
        }
        config = json.loads((folder / "adapter_config.json").read_text())
        by_peft = json.loads((GOLDEN / "prompt_tuning" / "adapter_config.json").read_text())
        assert config.keys() == by_peft.keys()
        assert config["num_transformer_submodules"] == 1
        assert config["prompt_tuning_init"] == "RANDOM"
        assert config["inference_mode"] is True
        dims = ("num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads")
        assert [config[name] for name in dims] == [5, 16, 2, 3]
        with safetensors.safe_open(folder / "adapter_model.safetensors", "np") as file:
            assert file.metadata() == {"format": "pt"}
            assert list(file.keys()) == ["prompt_embeddings"]
            assert file.get_tensor("prompt_embeddings").dtype == np.float32

    def test_card_says_what_it_is(self, prompt, tmp_path):
        card = (save_prompt(tmp_path / "p", prompt) / "README.md").read_text()
        assert card.startswith('---\nbase_model: "tiny"\nlibrary_name: peft\n')
        assert '- "base_model:adapter:tiny"' in card
        assert prompt.digest in card
        assert "| Score: validation.accuracy | 0.7500 |" in card
        assert "| Task: source | review: {input} |" in card
        assert "PeftModel.from_pretrained" in card

    def test_another_placement_is_hidden_from_peft(self, suffix, tmp_path):
        folder = save_prompt(tmp_path / "p", suffix)
        assert set(files(folder)) == {"prompt.safetensors", "prompt_jax_config.json", "README.md"}
        assert "does not load in PEFT" in (folder / "README.md").read_text()
        assert load_prompt(folder).method.placement == "suffix"
        assert load_prompt(folder).digest == suffix.digest

    def test_export_of_another_placement_is_refused(self, suffix, tmp_path):
        with pytest.raises(InputError, match='to PEFT: PEFT only places .* "suffix"'):
            export_peft(tmp_path / "p", suffix)
        with pytest.raises(InputError, match=r"to a \.npy file: .*placement=\"prefix\""):
            export_prompt(suffix, tmp_path / "p.npy")
        assert not list(tmp_path.iterdir())

    def test_export_of_a_cloze_is_refused(self, prompt, tmp_path):
        method = PromptTuningConfig(num_virtual_tokens=5, task_type="SEQ_CLS")
        with pytest.raises(InputError, match="a trained head beside a SEQ_CLS prompt"):
            export_prompt(dataclasses.replace(prompt, method=method), tmp_path / "p")

    def test_existing_folder_is_refused(self, prompt, tmp_path):
        folder = save_prompt(tmp_path / "p", prompt)
        before = files(folder)
        with pytest.raises(InputError, match="p exists; choose another folder or pass overwrite"):
            save_prompt(folder, dataclasses.replace(prompt, tuned={"prompt": prompt.rows + 1}))
        assert files(folder) == before

    def test_overwrite_replaces_the_prompt_and_keeps_the_rest(self, prompt, suffix, tmp_path):
        folder = save_prompt(tmp_path / "p", prompt)
        (folder / "notes.txt").write_text("mine")
        save_prompt(folder, suffix, overwrite=True)
        names = {"prompt.safetensors", "prompt_jax_config.json", "README.md", "notes.txt"}
        assert set(files(folder)) == names
        assert [path.name for path in tmp_path.iterdir()] == ["p"]

    def test_overwrite_fills_an_empty_folder(self, prompt, tmp_path):
        (tmp_path / "p").mkdir()
        save_prompt(tmp_path / "p", prompt, overwrite=True)
        assert load_prompt(tmp_path / "p").digest == prompt.digest

    def test_overwrite_spares_what_is_no_prompt(self, prompt, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("...")
        (tmp_path / "file").write_text("...")
        for name in ("thesis", "file"):
            with pytest.raises(InputError, match=f"{name} exists and is no prompt"):
                save_prompt(tmp_path / name, prompt, overwrite=True)
        assert (tmp_path / "thesis" / "chapter.tex").read_text() == "..."

    def test_unwritable_place(self, prompt, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot write .*file/p.*choose another place"):
            save_prompt(tmp_path / "file" / "p", prompt)
        with pytest.raises(InputError, match=r"cannot write .*p\.npy"):
            export_prompt(prompt, tmp_path / "file" / "p.npy")

    def test_nothing_half_written_is_seen(self, prompt, tmp_path, monkeypatch):
        """The power fails at every write in turn: the old prompt stays, and nothing lies about."""
        folder = save_prompt(tmp_path / "p", prompt)
        before = files(folder)
        fsync = prompts.folder.os.fsync
        for last in range(5):
            calls = iter(range(100))

            def failing(descriptor, calls=calls, last=last):
                if next(calls) == last:
                    raise OSError("No space left on device")
                fsync(descriptor)

            monkeypatch.setattr(prompts.folder.os, "fsync", failing)
            with pytest.raises(InputError, match="cannot write .*No space left on device"):
                changed = dataclasses.replace(prompt, tuned={"prompt": prompt.rows + 1})
                save_prompt(folder, changed, overwrite=True)
            assert files(folder) == before
            assert [path.name for path in tmp_path.iterdir()] == ["p"]

    def test_failed_swap_puts_the_old_prompt_back(self, prompt, tmp_path, monkeypatch):
        folder = save_prompt(tmp_path / "p", prompt)
        before = files(folder)
        rename, calls = prompts.folder.os.rename, iter(range(100))

        def failing(source, target):
            if next(calls) == 1:
                raise OSError("Input/output error")
            rename(source, target)

        monkeypatch.setattr(prompts.folder.os, "rename", failing)
        with pytest.raises(InputError, match="cannot write .*Input/output error"):
            save_prompt(folder, prompt, overwrite=True)
        assert files(folder) == before
        assert [path.name for path in tmp_path.iterdir()] == ["p"]


class TestDamage:
    @pytest.mark.parametrize("name", ["prompt_jax_config.json", "adapter_model.safetensors"])
    def test_every_flipped_bit_is_seen(self, prompt, tmp_path, name):
        folder = save_prompt(tmp_path / "p", prompt)
        path = folder / name
        whole = path.read_bytes()
        for at in range(0, len(whole), 3):
            for bit in (0, 4, 6):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
                # "__metadata__" and its "format" say nothing about the prompt.
                if name.endswith("json") or not 8 <= at < whole.index(b"prompt_embeddings"):
                    with pytest.raises(InputError, match=name):
                        load_prompt(folder)

    @pytest.mark.parametrize("name", ["prompt_jax_config.json", "adapter_model.safetensors"])
    @pytest.mark.parametrize("left", [0, 5, 40, -2])
    def test_truncated(self, prompt, tmp_path, name, left):
        folder = save_prompt(tmp_path / "p", prompt)
        (folder / name).write_bytes((folder / name).read_bytes()[:left])
        with pytest.raises(InputError, match=f"{name} is truncated or damaged"):
            load_prompt(folder)

    def test_a_changed_score_is_seen(self, prompt, tmp_path):
        path = save_prompt(tmp_path / "p", prompt) / "prompt_jax_config.json"
        path.write_text(path.read_text().replace("0.75", "0.95"))
        with pytest.raises(InputError, match="its checksum is not that of its content"):
            load_prompt(path.parent)

    def test_rows_of_another_prompt_are_seen(self, prompt, tmp_path):
        folder = save_prompt(tmp_path / "p", prompt)
        other = save_prompt(
            tmp_path / "q", dataclasses.replace(prompt, tuned={"prompt": prompt.rows + 1})
        )
        shutil.copy(other / "adapter_model.safetensors", folder)
        with pytest.raises(InputError, match="its numbers have not the digest"):
            load_prompt(folder)

    def test_missing_weights(self, prompt, tmp_path):
        folder = save_prompt(tmp_path / "p", prompt)
        (folder / "adapter_model.safetensors").unlink()
        with pytest.raises(InputError, match="p holds no weights, neither prompt.safetensors nor"):
            load_prompt(folder)

    def test_a_later_format(self, prompt, tmp_path):
        path = save_prompt(tmp_path / "p", prompt) / "prompt_jax_config.json"
        values = json.loads(path.read_text()) | {"format": 2}
        values["checksum"] = prompts.folder.checksum(values)
        path.write_text(json.dumps(values))
        with pytest.raises(InputError, match="has format 2 and this version reads 1; update"):
            load_prompt(path.parent)


class TestLoad:
    def test_run_folder(self, prompt, tmp_path):
        save_prompt(tmp_path / "runs" / "x" / "prompt", dataclasses.replace(prompt, name=""))
        assert load_prompt(tmp_path / "runs" / "x").digest == prompt.digest
        assert load_prompt(tmp_path / "runs" / "x").name == "x"

    def test_absent_path_names_its_neighbours(self, prompt, tmp_path):
        save_prompt(tmp_path / "sentiment", prompt)
        save_prompt(tmp_path / "sentiment_run" / "prompt", prompt)
        (tmp_path / "sentimental").mkdir()
        with pytest.raises(
            InputError, match="no prompt at .*sentimnet; perhaps you meant"
        ) as error:
            load_prompt(tmp_path / "sentimnet")
        assert f"{tmp_path}/sentiment, {tmp_path}/sentiment_run" in str(error.value)
        assert "sentimental" not in str(error.value)
        with pytest.raises(InputError, match="no prompt at .*prompt-jax prompts list"):
            load_prompt(tmp_path / "nowhere" / "zzz")

    def test_folder_without_a_prompt(self, prompt, tmp_path):
        save_prompt(tmp_path / "runs" / "a" / "prompt", prompt)
        with pytest.raises(InputError, match="runs holds no prompt: .*prompts inside it: a$"):
            load_prompt(tmp_path / "runs")

    def test_a_file_that_is_no_array(self, tmp_path):
        (tmp_path / "a.txt").write_text("hello")
        with pytest.raises(InputError, match=r"a\.txt is no NumPy file"):
            load_prompt(tmp_path / "a.txt")


class TestList:
    def test_rows(self, prompt, tmp_path):
        save_prompt(tmp_path / "b", prompt)
        save_prompt(tmp_path / "a" / "prompt", dataclasses.replace(prompt, metrics={}))
        export_prompt(prompt, tmp_path / "c.npy")
        (tmp_path / "empty").mkdir()
        broken = save_prompt(tmp_path / "d", prompt)
        (broken / "prompt_jax_config.json").write_text("{")
        a, b, c, d = list_prompts(tmp_path)
        digest = prompt.digest[:12]
        assert b == ("b", "prompt_tuning", 80, "tiny", "validation.macro_f1 0.5000", digest, "")
        assert a == ("a", "prompt_tuning", 80, "tiny", "", digest, "")
        assert c == ("c.npy", "prompt_tuning", 80, "", "", digest, "")
        assert d[:6] == ("d", "", None, "", "", "") and "truncated or damaged" in d.problem

    def test_absent_folder(self, tmp_path):
        with pytest.raises(InputError, match="no folder .*absent"):
            list_prompts(tmp_path / "absent")
