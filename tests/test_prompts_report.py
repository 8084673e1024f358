"""What is told of a prompt: the words near it, and how alike its tokens are."""

import numpy as np
import pytest

from prompt_jax.backbones.vocabulary import readable
from prompt_jax.config import InputError
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.prompts import draw_similarity, inspect, nearest_words, prompt_for, similarity
from prompt_jax.tasks import Task

TASK = Task(name="file:x.tsv", source="review: {input}", target="{target}", labels=("bad", "good"))


class TestReport:
    def test_embedded_words_are_their_own_neighbours(self, embedded):
        table = np.asarray(embedded.params["embedding"], np.float32)
        ids = [5, 77, 4000]
        words = readable(embedded.tokenizer, ids)
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
        assert [cosine[0][0]] == readable(embedded.tokenizer, [7])
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
        for word in readable(embedded.tokenizer, [200, 300]):
            assert f"{word!r} 1.00" in page and f"{word!r} 0.00" in page
        facts = (prompt.digest, embedded.fingerprint, "review: {input}", "accuracy", "0.75")
        for part in (*facts, "cosine", "L2", "not explanations"):
            assert part in page
        assert max(map(len, page.splitlines())) <= 100

    def test_in_a_notebook_inspect_gives_the_page_and_shows_nothing(self, embedded, monkeypatch):
        rows = np.asarray(embedded.params["embedding"], np.float32)[[200]]
        prompt = prompt_for({"prompt": rows}, PromptTuningConfig(num_virtual_tokens=1), embedded)
        page = inspect(prompt, embedded)
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
        assert page and inspect(prompt, embedded) == page

    def test_inspect_refuses_another_backbone(self, embedded, prompt):
        with pytest.raises(InputError, match="16 wide and backbone 'embedded' is 256"):
            inspect(prompt, embedded)

    def test_draw_similarity(self, prompt, tmp_path):
        path = draw_similarity(prompt, tmp_path / "s.png")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.png"]
        with pytest.raises(InputError, match="cannot write .*absent/s.png"):
            draw_similarity(prompt, tmp_path / "absent" / "s.png")
