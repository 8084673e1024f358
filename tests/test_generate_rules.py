"""Rules of an answer: stop strings, words that are banned, and all options in one program."""

import numpy as np
import pytest

from prompt_jax.answers import written
from prompt_jax.config import DataConfig, EvalConfig
from prompt_jax.forward import Injection
from prompt_jax.generate import generate
from prompt_jax.generate.stops import first_stop, stop_table
from prompt_jax.tasks import Task

NEW = 12


def test_a_stop_table_ends_where_the_text_has_a_stop_string(tiny_backbone):
    tokenizer, size = tiny_backbone.tokenizer, tiny_backbone.config.vocab_size
    stops = ("e.", "ere", "s t", "ana")
    table, rng = stop_table(tokenizer, stops, size), np.random.default_rng(0)
    assert table.shape[1] == size and (table[-1] == len(table) - 1).all()
    # Tokens that have a letter of some stop string, or nothing but common words would be drawn.
    likely = np.flatnonzero(table[:-1].any(0))
    first = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    ended = 0
    for _ in range(300):
        row, state = rng.choice(likely, 6), 0
        before = tokenizer.decode([first])
        for i, token in enumerate(row):
            state = table[state, token]
            text = tokenizer.decode([first, *row[: i + 1]])[len(before) :]
            assert (state == len(table) - 1) == (first_stop(text, stops) is not None), text
        ended += state == len(table) - 1
    assert 20 < ended < 280


@pytest.fixture(scope="module")
def batch(tiny_backbone):
    mask = np.arange(7) < np.array([7, 3, 5, 2, 6])[:, None]
    tokens = np.random.default_rng(1).integers(3, tiny_backbone.config.vocab_size, mask.shape)
    return np.where(mask, tokens, 0), mask


def test_all_options_in_one_program_and_no_row_depends_on_another(
    tiny_backbone, batch, compilations
):
    tokens, mask = batch
    width, rng = tiny_backbone.width, np.random.default_rng(2)
    prompts = rng.standard_normal((5, 4, width)).astype(np.float32)
    options = {
        "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3,
        "bad_words_ids": [[7], [8, 9]], "stop_strings": ("ing", "\n"), "stop_token_ids": [5, 9],
        "temperature": 0.9, "top_k": 40, "top_p": 0.95, "max_new_tokens": NEW,
    }  # fmt: skip
    crowd = generate(tiny_backbone, Injection(prompts), *batch, **options)
    del compilations[:]
    for row in range(5):
        same = np.full(5, row)
        rows, by_row = (tokens[same], mask[same]), Injection(prompts[same])
        alone = generate(tiny_backbone, by_row, *rows, **options, rows=same)
        np.testing.assert_array_equal(alone, np.tile(crowd[row], (5, 1)))
    banned = {"bad_words_ids": [[int(crowd[0, 1])], crowd[1, 1:3].tolist()]}
    without = generate(tiny_backbone, Injection(prompts), *batch, **{**options, **banned})
    assert (without[0] != crowd[0, 1]).all() and (without[1, :2] == crowd[1, :2]).all()
    assert without[1, 2] != crowd[1, 2]
    others = {"stop_strings": "of the", "seed": 3, "top_k": 5, "repetition_penalty": 2.0}
    changed = generate(tiny_backbone, Injection(prompts), *batch, **{**options, **others})
    assert (changed != crowd).any() and not compilations


def test_the_text_of_an_answer_is_cut_at_a_stop_string(tiny_backbone, batch):
    texts, data = ["a", "b", "c", "d", "e"], DataConfig()
    task = Task(name="words", source="{input}", target="{target}")

    def writer(**options):
        eval = EvalConfig(max_new_tokens=NEW, **options)
        return written.program(tiny_backbone, None, task, data, eval)

    texts_whole = writer()(*batch, texts)
    stop = texts_whole[0][2:5]
    cut = writer(stop_strings=(stop,))(*batch, texts)
    assert stop and cut == [text.partition(stop)[0] for text in texts_whole]
    draw = writer(temperature=1.0)
    drawn = draw(*batch, texts)
    # A row's draws depend on its text, wherever it stands.
    turned = [np.flip(part, 0) for part in batch]
    assert draw(*turned, texts[::-1]) == drawn[::-1] and drawn != texts_whole
