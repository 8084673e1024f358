"""Prompts made of prompts: concatenated, averaged, added up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import cli, prompts
from prompt_jax.config import InputError, TrainConfig
from prompt_jax.experiment import compose_attention
from prompt_jax.forward import Placement, positions_before, prepend
from prompt_jax.losses import loss_fn
from prompt_jax.methods import LoraConfig, PromptTuningConfig, init
from prompt_jax.prompts import compose, load_prompt, prompt_for, save_prompt
from prompt_jax.tasks import Task
from prompt_jax.testing import random_batch

# One program for what is joined in either way: the same numbers to the bit.
_apply = jax.jit(
    lambda module, params, *arrays: module.apply({"params": params}, *arrays), static_argnums=0
)
TASK = Task(name="file:x.tsv", source="{input}", target="{target}", labels=("bad", "good"))


def make(tiny, name, length=3, seed=0, **about):
    rows = np.random.default_rng(seed).normal(size=(length, tiny.width))
    method = PromptTuningConfig(num_virtual_tokens=length, **about.pop("method", {}))
    return prompt_for({"prompt": rows}, method, tiny, name=name, **about)


@pytest.fixture
def three(tiny):
    return [make(tiny, name, seed=i, task=TASK) for i, name in enumerate("abc")]


class TestCompose:
    @pytest.mark.parametrize("placement", ["prefix", "after_bos", "suffix"])
    def test_concat_is_both_prompts_before_the_input(self, tiny, placement):
        method = {"placement": placement}
        one, two = make(tiny, "a", 2, method=method), make(tiny, "b", 4, seed=1, method=method)
        tokens = jnp.array([[5, 6, 7, 1], [8, 1, 0, 0]])
        text, mask = tiny.embed(tokens), tokens > 0
        both = compose([one, two])

        def standing(prompt, text, mask):
            place, first = Placement(placement), placement == "prefix"
            before = None if first else positions_before(place, None, mask.astype(int), mask)
            return prepend(prompt.injection(), text, mask, before)

        ours = standing(both, text, mask)
        order = (one, two) if placement == "suffix" else (two, one)
        theirs = text, mask
        for prompt in order:
            theirs = standing(prompt, *theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(both.rows, np.concatenate([one.rows, two.rows]))

        def logits(joined):
            target = jnp.array([[0, 9], [0, 4]])
            return _apply(tiny.module, tiny.params, *joined, target)

        np.testing.assert_array_equal(logits(ours), logits(theirs))

    def test_average_of_equal_prompts_is_the_prompt(self, three):
        for how, weights in (("average", None), ("weighted", [0.2, 0.5, 0.3])):
            made = compose([three[0]] * 3, how, weights)
            np.testing.assert_array_equal(made.rows, three[0].rows)

    def test_weighted_and_arithmetic(self, three):
        a, b, c = (prompt.rows for prompt in three)
        close = {"rtol": 0, "atol": 1e-6}
        np.testing.assert_allclose(compose(three, "average").rows, (a + b + c) / 3, **close)
        made = compose(three, "weighted", [2, 0, -1])
        np.testing.assert_allclose(made.rows, 2 * a - c, **close)
        made = compose(three, "task_arithmetic")
        np.testing.assert_allclose(made.rows, b + c - a, **close)
        made = compose(three, "task_arithmetic", [0.5, -1])
        np.testing.assert_allclose(made.rows, a + 0.5 * (b - a) - (c - a), **close)
        np.testing.assert_array_equal(compose(three, "task_arithmetic", [0, 0]).rows, a)

    def test_is_an_ordinary_prompt_that_tells_its_parents(self, three, tmp_path):
        made = compose(three, "average", name="all")
        assert made.method == PromptTuningConfig(num_virtual_tokens=3, init="random")
        assert made.recipe == {
            "composed": "average",
            "weights": [1 / 3] * 3,
            "parents": [{"name": p.name, "digest": p.digest} for p in three],
        }
        assert made.task == TASK and made.name == "all" and not made.metrics
        again = load_prompt(save_prompt(tmp_path / "all", made))
        assert again.digest == made.digest and again.recipe == made.recipe
        other = dataclasses.replace(three[1], task=None)
        assert compose([three[0], other]).task is None

    def test_an_array_takes_the_identity_of_the_other(self, three):
        bare = prompts.Prompt(tuned=three[0].tuned, method=three[0].method)
        known = dataclasses.replace(three[1], fingerprint="f" * 64)
        made = compose([bare, known])
        assert (made.backbone, made.fingerprint) == ("tiny", "f" * 64)

    def test_bad_input(self, tiny, three):
        a, b, _ = three
        wide = prompts.Prompt(
            tuned={"prompt": np.ones((3, 8))}, method=PromptTuningConfig(num_virtual_tokens=3)
        )
        there = make(tiny, "there", method={"placement": "suffix"})
        known = [dataclasses.replace(a, fingerprint=f * 64) for f in "ef"]
        lora = LoraConfig()
        low = prompt_for(init(lora, tiny, jax.random.key(0)), lora, tiny, name="low")
        pair = PromptTuningConfig(num_virtual_tokens=3, stack="both")
        both = prompt_for({"prompt": a.rows, "decoder_prompt": a.rows}, pair, tiny, name="both")
        cases = [
            ([], "concat", None, "at least two prompts, got 0"),
            ([a], "concat", None, "at least two prompts, got 1"),
            (three, "concta", None, "unknown way to compose prompts 'concta'.*meant 'concat'"),
            ([a, wide], "concat", None, "'a' and prompt .* are 16 and 8 wide"),
            ([a, there], "concat", None, 'stand at "prefix" and "suffix"'),
            ([known[0], b, known[1]], "concat", None, "sha256 eeeeeeeeeeee.*sha256 ffffffffffff"),
            ([a, make(tiny, "d", 4)], "average", None, "equal length, got 3, 4 virtual tokens"),
            ([a, make(tiny, "d", 4)], "task_arithmetic", None, "equal length"),
            (three, "weighted", None, "needs 3 weights, one a prompt, got 0"),
            (three, "weighted", [1, 2], "needs 3 weights, one a prompt, got 2"),
            (three, "weighted", [1, 2, np.nan], "finite numbers"),
            (three, "task_arithmetic", [1, 2, 3], "needs 2 weights.*after the first, got 3"),
            (three, "average", [1, 2, 3], "takes no weights, got 3"),
            ([a, low], "concat", None, "low is lora and has no rows"),
            ([a, both], "concat", None, "'both' also has rows in the decoder's input"),
        ]
        for given, how, weights, message in cases:
            with pytest.raises(InputError, match=message):
                compose(given, how, weights)


class TestCommand:
    def test_compose(self, three, tmp_path, capsys):
        paths = [str(save_prompt(tmp_path / p.name, p)) for p in three]
        out = str(tmp_path / "made")
        assert cli.main(["prompts", "compose", *paths, "--how", "concat", "--output", out]) == 0
        assert "9 virtual tokens" in capsys.readouterr().out
        assert load_prompt(out).digest == compose(three).digest
        assert load_prompt(out).name == "made"
        flags = ["--how", "task_arithmetic", "--weights", "0.5", "-1", "--overwrite"]
        assert cli.main(["prompts", "compose", *paths, *flags, "--output", out]) == 0
        assert load_prompt(out).digest == compose(three, "task_arithmetic", [0.5, -1]).digest

    def test_bad_input_exits_with_two(self, three, tmp_path, capsys):
        path, out = str(save_prompt(tmp_path / "a", three[0])), str(tmp_path / "made")
        assert cli.main(["prompts", "compose", path, "--output", out]) == 2
        assert "at least two prompts, got 1" in capsys.readouterr().err
        assert cli.main(["prompts", "compose", path, path, "--how", "x", "--output", out]) == 2
        assert "unknown way to compose" in capsys.readouterr().err
        assert cli.main(["prompts", "compose", path, path, "--output", path]) == 2
        assert "exists" in capsys.readouterr().err


class TestAttention:
    @pytest.fixture
    def batch(self, tiny):
        return random_batch(tiny, target=2)

    def test_learns_weights_and_rows_and_leaves_the_sources(self, tiny, three, batch):
        before = [prompt.digest for prompt in three]
        config = TrainConfig(steps=20, batch_size=4)
        made = compose_attention(three, tiny, [batch] * 20, config, name="mixed")
        loss = jax.jit(loss_fn(made.method, tiny))

        def loss_of(prompt):
            return loss(prompt.tuned, tiny.params, batch)[0]

        assert loss_of(made) < 0.9 * loss_of(compose(three, "average"))
        weights = made.recipe["weights"]
        assert sum(weights) == pytest.approx(1) and np.ptp(weights) > 0.01
        assert made.recipe["composed"] == "attention" and made.recipe["steps"] == 20
        assert [p["digest"] for p in made.recipe["parents"]] == before == [p.digest for p in three]
        assert made.rows.shape == three[0].rows.shape and made.fingerprint == tiny.fingerprint

    def test_untrained_it_is_the_average(self, tiny, three):
        made = compose_attention(three, tiny, [])
        np.testing.assert_allclose(made.rows, compose(three, "average").rows, atol=1e-6)

    def test_bad_input(self, tiny, three):
        with pytest.raises(InputError, match="at least two prompts, got 1"):
            compose_attention(three[:1], tiny, [])
        with pytest.raises(InputError, match="prompts of equal length, got 3, 4 virtual tokens"):
            compose_attention([three[0], make(tiny, "d", 4)], tiny, [])
        with pytest.raises(InputError, match="use compose_attention with a backbone and batches"):
            compose(three, "attention")
