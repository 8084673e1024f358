"""Plans: what is counted, on devices at hand and on TPUs that are not."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.config import (
    BackboneConfig,
    Config,
    DataConfig,
    EvalConfig,
    InputError,
    TaskConfig,
    TrainConfig,
)
from prompt_jax.plan import Plan, as_json, draw, plan, plan_remat, text
from prompt_jax.plan.chips import devices_of
from prompt_jax.plan.plan import _rank, alternatives
from prompt_jax.plan.programs import programs_of


@pytest.fixture(scope="module")
def config(tiny_folder):
    return Config(
        backbone=str(tiny_folder),
        data=DataConfig(max_source_length=12, max_target_length=4),
        train=TrainConfig(batch_size=4),
    )


@pytest.fixture(scope="module")
def made(config):
    """Its plan on one device of this machine."""
    return plan(config, None)


def test_a_plan_for_the_devices_at_hand(config, tmp_path, capsys):
    made = plan(config, None, programs=("train", "decode"))
    train, decode = made.costs
    assert made.fits and train.bounds is None and train.limit is None
    weights = sum(np.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(_shapes(config)))
    assert train.memory.weights * 2**30 == pytest.approx(weights)
    # Four rows that write 64 tokens.
    assert decode.flops > train.flops > 2 * 4 * 32 * 16 * 16
    page = text(made)
    assert "GiB on each" in page and "one device, remat none, weights auto" in page
    assert json.loads(json.dumps(as_json(made)))["programs"][0]["name"] == "train"
    assert draw(tmp_path / "plan.png", [made]).stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "programs"),
    [
        ({}, ("train", "score")),
        ({"data": DataConfig(task="embedded:kjv_to_modern")}, ("train", "decode", "score")),
        ({"data": DataConfig(task="file:x.tsv")}, ("train", "decode", "score")),
        (
            {"data": DataConfig(task="file:x.tsv"), "task": TaskConfig(labels=("no", "yes"))},
            ("train", "score"),
        ),
        ({"task": TaskConfig(kind="generation")}, ("train", "decode", "score")),
        (
            {"data": DataConfig(mixture=("embedded:kjv_to_modern",))},
            ("train", "decode", "score"),
        ),
    ],
)
def test_what_scores_validation_is_planned_too(changes, programs):
    assert programs_of(Config(**changes)) == programs


def test_a_run_is_its_step_and_what_scores_validation(config, made):
    """A batch of evaluation may be what does not fit: fewer rows of it are then proposed."""
    train, score = made.costs
    assert (train.program, score.program) == ("train", "score")
    assert "4 of target; 4 rows to evaluate" in text(made)
    # Rows of evaluation are those of a micro-batch, or as many as are wanted.
    halved = dataclasses.replace(config, train=TrainConfig(batch_size=4, accumulate=2))
    many = dataclasses.replace(config, eval=EvalConfig(batch_size=256))
    needed = [plan(c, None, programs=("score",)).needed for c in (halved, many)]
    needed.insert(1, made.costs[1].needed)
    assert needed == sorted(needed) and needed[2] > train.needed and needed[1] == score.needed
    limit = (train.needed + needed[2]) / 2
    costs = [
        cost._replace(limit=limit) for cost in (train, *plan(many, None, programs=("score",)).costs)
    ]
    large = Plan(many, None, 1, "cpu", made.mesh, costs)
    assert [cost.fits for cost in costs] == [True, False]
    assert "no, score takes" in text(large) and "eval.batch_size 256" in text(large)
    changes = list(alternatives(large))
    assert [what for what, _ in changes[:2]] == ["eval.batch_size 128", "eval.batch_size 64"]
    assert changes[0][1].scoring.rows == 128 and len(changes) == 8
    # What is kept for a backward pass says nothing of scoring.
    assert _rank(made) == 0.0


def test_texts_are_written_and_their_targets_scored(config):
    writing = dataclasses.replace(config, task=TaskConfig(kind="generation"))
    one, two = (plan(c, None, programs=("score",)).costs[0] for c in (writing, config))
    assert one.fits and one.flops < two.flops  # A target a row, not every label word.


def _shapes(config):
    from prompt_jax.plan.programs import shape_of_backbone

    return shape_of_backbone(config, jax.devices()).params


def test_the_command(config, capsys):
    arguments = ["plan", "--backbone", config.backbone, "--data.max-source-length", "12", "--json"]
    assert cli.main(arguments) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["fits"] and last["others"] == [] and last["kind"] == "cpu"


@pytest.mark.parametrize(
    ("members", "changes", "message"),
    [
        (0, {}, "members must be at least 1, got 0; leave it out for one prompt"),
        (2, {"pull": 0.1}, "train.pull is for one prompt, and a population trains 2"),
    ],
)
def test_members_that_no_population_has(config, members, changes, message):
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
    with pytest.raises(InputError, match=message):
        plan(config, None, members=members)


@pytest.mark.slow
def test_a_population_is_planned_as_one_program(config, made):
    many = plan_remat(config, members=3)
    (step,), alone = many.costs, made.costs[0]
    assert step.flops == 3 * alone.flops and step.memory.weights == alone.memory.weights
    assert step.memory.state == pytest.approx(3 * alone.memory.state, rel=0.01)
    assert "3 prompts at once, each 4 rows of" in text(many) and as_json(many)["members"] == 3


def test_alternatives_keep_less_before_they_take_fewer_bits(made):
    words = [what for what, _ in alternatives(made)]
    assert words[0] == "one device, remat full, weights auto"
    assert all("weights int8" in what for what in words[2:]) and len(words) == 5
    assert len({str(changed) for _, changed in alternatives(made)}) == 5


@pytest.mark.parametrize("kind", ["int8", "float8", "int4"])
def test_alternatives_to_few_bits_are_no_more_bits(kind, config):
    few = dataclasses.replace(config, frozen=BackboneConfig(dtype=kind))
    made = Plan(few, None, 1, "cpu", {"data": 1, "fsdp": 1, "tensor": 1}, [])
    assert [what for what, _ in alternatives(made)] == [
        f"one device, remat {remat}, weights {kind}" for remat in ("full", "minimal")
    ]


def test_a_topology_that_is_not(capsys):
    with pytest.raises(InputError, match="unknown topology 'v5e-5'.*Perhaps you meant 'v5e-"):
        devices_of("v5e-5")


def test_without_libtpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(InputError, match="planning for v5e-4 needs libtpu: pip install"):
        devices_of("v5e-4")


def test_a_model_that_only_reads(bert_folder, config):
    with pytest.raises(InputError, match="plan counts models that write, and .* only reads"):
        plan(dataclasses.replace(config, backbone=str(bert_folder)), None)
