"""A prompt with fewer virtual tokens, and a prompt in words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.cli.arguments import training_of
from prompt_jax.config import InputError
from prompt_jax.experiment.projection import nearest, project, read_again
from prompt_jax.experiment.pruning import only, prune, token_importance
from prompt_jax.experiment.saved import saved_run
from prompt_jax.methods import LoraConfig, init
from prompt_jax.prompts import Prompt, load_prompt, prompt_for, save_prompt


@pytest.fixture(scope="module")
def trained(finished_run, tiny_backbone):
    """A prompt of six virtual tokens with the rows of a run."""
    prompt = load_prompt(finished_run)
    method = dataclasses.replace(prompt.method, num_virtual_tokens=6)
    rows = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    rows[2] = 0.0
    prompt = dataclasses.replace(prompt, tuned={"prompt": rows}, method=method)
    prompt = prompt.on(tiny_backbone)
    return saved_run(training_of(prompt, ""), prompt, tiny_backbone, print)


def test_importance_is_the_mean_gradient_of_a_mask_by_row(trained):
    """Each row's gradient by itself: those of two rows may cancel out."""
    batch, rows, frozen = trained.batches[0], trained.prompt.rows, trained.backbone.params
    importance = token_importance(trained.loss, rows, frozen, [batch])

    def mean(prompt, part):
        return trained.loss({"prompt": prompt}, frozen, part)

    gradient = jax.jit(jax.grad(mean, has_aux=True))
    sums, tokens = np.zeros(6), 0
    for i in range(len(batch.tokens)):
        part = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch)
        by_row, aux = gradient(jnp.asarray(rows), part)
        # The derivative along the token itself, of the sum over the row's target tokens.
        sums += abs(np.sum(by_row * rows, axis=1)) * aux["tokens"]
        tokens += aux["tokens"]
    np.testing.assert_allclose(importance, sums / tokens, rtol=1e-3, atol=1e-6)
    assert importance[2] == 0 and (np.delete(importance, 2) > 0).all()


def test_the_fewest_tokens_are_kept_that_lose_nothing(trained):
    pruned = prune(trained, tolerance=0.0, batches=2)
    assert list(pruned.curve) == [6, 5, 4, 3, 2, 1]
    count, whole = len(pruned.kept), pruned.curve[6]
    assert pruned.curve[count] >= whole
    assert all(value < whole for kept, value in pruned.curve.items() if kept < count)
    np.testing.assert_array_equal(pruned.prompt.rows, trained.prompt.rows[pruned.kept])
    assert pruned.prompt.recipe["pruned"]["kept"] == pruned.kept
    assert pruned.prompt.recipe["data"] == trained.prompt.recipe["data"]
    # Masked in the shape of the whole prompt, tokens give what they give in a shorter one.
    one = prune(trained, tolerance=1e3, batches=2)
    assert one.kept == [int(one.importance.argmax())]
    assert trained.quality(one.prompt.injection()) == pytest.approx(one.curve[1], abs=1e-5)
    places = only(trained.prompt, np.array([1, 4]))
    np.testing.assert_array_equal(places.prompt[-2:], trained.prompt.rows[[1, 4]])
    with pytest.raises(InputError, match="tolerance must be at least 0.0"):
        prune(trained, tolerance=-1.0)


def test_the_nearest_word_is_nearest_in_direction(trained):
    table = jnp.asarray(trained.backbone.table, jnp.float32)
    far = 50 * table[jnp.array([9, 30, 400])]
    assert nearest(far, table).tolist() == [9, 30, 400]
    assert (
        read_again("a film", trained.backbone)
        == trained.backbone.tokenizer("a film", add_special_tokens=False)["input_ids"]
    )
    with pytest.raises(InputError, match="an empty text; take more steps"):
        read_again("", trained.backbone)


@pytest.mark.slow
def test_words_are_found_that_are_no_worse_than_the_nearest_ones(trained):
    lines = []
    projected = project(trained, steps=6, every=2, learning_rate=0.5, say=lines.append)
    assert [line.split()[1] for line in lines] == ["0", "2", "4", "6"]
    values = [float(line.split()[-1]) for line in lines]
    assert projected.step == 2 * int(np.argmax(values))
    assert len(set(values)) > 1  # The gradient of the words moves the rows to other words.
    assert set(projected.words) <= set(trained.backbone.word_ids.tolist())
    assert projected.text == trained.backbone.tokenizer.decode(projected.words).strip()
    cells = trained.compared({"no prompt": None, **projected.injections})
    assert [row[0] for row in cells[1:]] == [
        "no prompt", "soft prompt", "its nearest words", "the text",
    ]  # fmt: skip
    assert float(cells[3][1]) == pytest.approx(values[0], abs=1e-3)


@pytest.mark.slow
def test_prune_and_project_on_the_command_line(run, tmp_path, capsys):
    out, curve, text = (tmp_path / name for name in ("few", "curve.png", "words.txt"))
    prune_it = ["prompts", "prune", str(run), "--output", str(out), "--curve", str(curve)]
    assert cli.main([*prune_it, "--batches", "1", "--tolerance", "10"]) == 0
    printed = capsys.readouterr().out
    assert "| virtual tokens kept | log-likelihood |" in printed
    assert "kept 1 of 20 virtual tokens" in printed and "| all tokens |" in printed
    assert len(load_prompt(out).rows) == 1 and curve.is_file()
    # It knows the rows of its task, as the whole one does.
    assert cli.main(["evaluate", "--prompt", str(out)]) == 0
    capsys.readouterr()
    project_it = ["prompts", "project", str(run), "--output", str(text), "--steps", "2"]
    assert cli.main(project_it) == 0
    printed = capsys.readouterr().out
    assert "| its nearest words |" in printed and "| the text |" in printed
    assert text.read_text().strip() in printed
    assert cli.main(project_it) == 2
    assert "words.txt exists; choose another file" in capsys.readouterr().err
    assert cli.main([*prune_it, "--batches", "1"]) == 2
    assert "few exists; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["prune", "project"])
def test_prompts_without_rows_or_data_are_refused(
    command, tiny_backbone, trained, tmp_path, capsys
):
    method, out = LoraConfig(r=2), str(tmp_path / "out")
    lora = prompt_for(init(method, tiny_backbone, jax.random.key(0)), method, tiny_backbone)
    bare = dataclasses.replace(trained.prompt, recipe={})
    for name, prompt in {"lora": lora, "bare": bare}.items():
        assert isinstance(prompt, Prompt)
        save_prompt(tmp_path / name, prompt)
    line = ["prompts", command, str(tmp_path / "lora"), "--output", out]
    assert cli.main([*line, "--task", "embedded:sentiment"]) == 2
    error = capsys.readouterr().err
    assert "is lora and has no rows before the input; this is for prompt tuning" in error
    assert cli.main(["prompts", command, str(tmp_path / "bare"), "--output", out]) == 2
    assert "does not say what it was trained on; give --task" in capsys.readouterr().err
