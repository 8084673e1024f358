"""Saved prompts: what is written, what is read back, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from prompt_jax import prompts
from prompt_jax.config import InputError, PromptTuningConfig
from prompt_jax.prompts import (
    Prompt,
    check_fits,
    draw_similarity,
    export_peft,
    export_prompt,
    import_prompt,
    inspect,
    list_prompts,
    load_prompt,
    nearest_words,
    prompt_for,
    save_prompt,
    similarity,
    tokenizer_hash,
)
from prompt_jax.tasks import Task

GOLDEN = Path(__file__).parent / "golden" / "peft"
TASK = Task(name="file:x.tsv", source="review: {input}", target="{target}", labels=("bad", "good"))


@pytest.fixture
def prompt(tiny):
    rows = np.random.default_rng(0).normal(size=(5, tiny.width)).astype(np.float32)
    return prompt_for(
        {"prompt": rows},
        PromptTuningConfig(num_virtual_tokens=5),
        tiny,
        name="reviews",
        task=TASK,
        metrics={"validation": {"macro_f1": np.float32(0.5), "accuracy": 0.75}},
        seed=3,
        recipe={"train": {"steps": 7}},
    )


@pytest.fixture
def suffix(prompt):
    return dataclasses.replace(
        prompt, method=PromptTuningConfig(num_virtual_tokens=5, placement="suffix")
    )


def peft_folder(folder, rows, **config):
    folder.mkdir()
    config = {"peft_type": "PROMPT_TUNING", "task_type": "SEQ_2_SEQ_LM"} | config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file({"prompt_embeddings": rows}, folder / "adapter_model.safetensors")
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
        assert "sentiment, sentiment_run" in str(error.value)
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
            ({"task_type": None}, 4, 2),
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
                {"peft_type": "CPT"},
                "unknown peft_type in .*'CPT'; allowed: PROMPT_TUNING, P_TUNING",
            ),
            ({"task_type": "SEQ"}, "unknown task_type in .*'SEQ'; allowed: SEQ_2_SEQ_LM"),
            ({"task_type": "SEQ_CLS"}, "has no tensors of a head and .* says task_type SEQ_CLS"),
            ({"num_virtual_tokens": 3}, r"says 3 virtual tokens of width 3 .* is \[4, 3\]"),
            ({"num_virtual_tokens": "4"}, "num_virtual_tokens must be a whole number .* got '4'"),
            ({"token_dim": 5}, r"virtual tokens of width 5 and the tensor beside it is \[4, 3\]"),
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


class TestFit:
    def test_own_backbone(self, prompt, tiny):
        check_fits(prompt, tiny)

    def test_width_is_never_overridden(self, prompt, tiny):
        narrow = dataclasses.replace(prompt, tuned={"prompt": prompt.rows[:, :8]})
        with pytest.raises(
            InputError, match="'reviews' is 8 wide and backbone 'tiny' is 16; .*tiny"
        ):
            check_fits(narrow, tiny, allow_mismatch=True)

    def test_other_weights(self, prompt, tiny):
        prompt = dataclasses.replace(prompt, fingerprint="a" * 64)
        other = dataclasses.replace(tiny, name="other", fingerprint="b" * 64)
        with pytest.raises(
            InputError, match=r"other weights \(tiny, sha256 a{12}\) than .*'other'"
        ):
            check_fits(prompt, other)
        check_fits(prompt, other, allow_mismatch=True)

    def test_other_tokenizer(self, prompt, embedded, tiny):
        prompt = dataclasses.replace(prompt, tokenizer_hash="c" * 64)
        other = dataclasses.replace(tiny, tokenizer=embedded.tokenizer)
        with pytest.raises(InputError, match=r"trained on other tokenizer .* allow_mismatch=True"):
            check_fits(prompt, other)
        check_fits(prompt, other, allow_mismatch=True)

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
        imported = import_prompt(export_prompt(prompt, tmp_path / "p.npy"), backbone)
        assert (imported.backbone, imported.fingerprint) == ("tiny", "d" * 64)
        assert (imported.num_layers, imported.num_attention_heads) == (2, 3)
        np.save(tmp_path / "narrow.npy", prompt.rows[:, :3])
        with pytest.raises(InputError, match="'narrow' is 3 wide"):
            import_prompt(tmp_path / "narrow.npy", backbone)


class TestReport:
    def test_embedded_words_are_their_own_neighbours(self, embedded):
        table = np.asarray(embedded.params["embedding"], np.float32)
        ids = [5, 77, 4000]
        words = embedded.tokenizer.convert_ids_to_tokens(ids)
        for by, perfect in (("cosine", 1.0), ("l2", 0.0)):
            near = nearest_words(table[ids], table, embedded.tokenizer, 3, by)
            assert [row[0][0] for row in near] == words
            assert [len(row) for row in near] == [3, 3, 3]
            np.testing.assert_allclose([row[0][1] for row in near], perfect, atol=1e-5)

    def test_measures_differ_and_are_sorted(self, embedded):
        table = np.asarray(embedded.params["embedding"], np.float32)
        row = 10 * table[7:8] + table[8:9]
        cosine = nearest_words(row, table, embedded.tokenizer, 4)[0]
        l2 = nearest_words(row, table, embedded.tokenizer, 4, "l2")[0]
        words = table[: len(embedded.tokenizer)]
        by_hand = np.sort(np.linalg.norm(words.astype(np.float64) - row, axis=1))[:4]
        np.testing.assert_allclose([d for _, d in l2], by_hand, rtol=1e-5)
        assert cosine[0][0] == embedded.tokenizer.convert_ids_to_tokens(7)
        assert [s for _, s in cosine] == sorted((s for _, s in cosine), reverse=True)

    def test_padding_of_the_table_is_no_word(self, embedded):
        table = np.asarray(embedded.params["embedding"], np.float32)
        assert len(embedded.tokenizer) < len(table)
        found = nearest_words(table[-1:], table, embedded.tokenizer, len(table), "l2")
        assert len(found[0]) == len(embedded.tokenizer)

    def test_refused(self, embedded, prompt):
        table = embedded.params["embedding"]
        with pytest.raises(InputError, match="unknown measure 'dot'; allowed: cosine, l2"):
            nearest_words(table[:2], table, embedded.tokenizer, by="dot")
        with pytest.raises(InputError, match="k must be at least 1, got 0"):
            nearest_words(table[:2], table, embedded.tokenizer, 0)
        with pytest.raises(InputError, match="need a tokenizer and this backbone has none"):
            nearest_words(table[:2], table, None)
        with pytest.raises(InputError, match="the rows are 16 wide and the words 256"):
            nearest_words(prompt.rows, table, embedded.tokenizer)

    def test_similarity(self):
        rows = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
        expected = [[1, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]
        np.testing.assert_array_equal(similarity(rows), expected)

    def test_inspect(self, embedded):
        rows = np.asarray(embedded.params["embedding"], np.float32)[[200, 300]]
        method = PromptTuningConfig(num_virtual_tokens=2)
        prompt = prompt_for(
            {"prompt": rows}, method, embedded, task=TASK, metrics={"accuracy": 0.75}
        )
        page = inspect(prompt, embedded)
        for word in embedded.tokenizer.convert_ids_to_tokens([200, 300]):
            assert f"{word} 1.00" in page and f"{word} 0.00" in page
        facts = (prompt.digest, embedded.fingerprint, "review: {input}", "accuracy", "0.75")
        for part in (*facts, "cosine", "L2", "not explanations"):
            assert part in page
        assert max(map(len, page.splitlines())) <= 100

    def test_inspect_refuses_another_backbone(self, embedded, prompt):
        with pytest.raises(InputError, match="16 wide and backbone 'embedded' is 256"):
            inspect(prompt, embedded)

    def test_draw_similarity(self, prompt, tmp_path):
        path = draw_similarity(prompt, tmp_path / "s.png")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.png"]
        with pytest.raises(InputError, match="cannot write .*absent/s.png"):
            draw_similarity(prompt, tmp_path / "absent" / "s.png")


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
