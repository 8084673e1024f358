"""Candidates that train together: who goes on, and what is left of them."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    InputError,
    SweepConfig,
    TaskConfig,
    TrainConfig,
)
from prompt_jax.experiment import load_data, sweep
from prompt_jax.experiment.budget import Budget, Work
from prompt_jax.experiment.candidates import Candidates
from prompt_jax.experiment.course import all_steps, begin, followers, ready
from prompt_jax.experiment.sweep import candidates
from prompt_jax.methods import LoraConfig
from prompt_jax.prompts import load_prompt
from prompt_jax.train import DivergedError

SMALL = SweepConfig(learning_rates=(0.1, 0.3), lengths=(2, 4), slots=2, eta=2, rungs=2)


@pytest.fixture
def config(tmp_path, tiny_folder, task_file):
    return Config(
        backbone=str(tiny_folder),
        out=str(tmp_path / "run"),
        data=DataConfig(task=f"file:{task_file}"),
        train=TrainConfig(steps=8, batch_size=4, eval_every=4),
        eval=EvalConfig(batch_size=8, max_new_tokens=2),
    )


def test_candidates_are_drawn_from_all_combinations():
    choices = SweepConfig(learning_rates=(0.1, 0.3), lengths=(2, 4, 8))
    drawn = candidates(Config(), choices)
    assert len({(c.train.learning_rate, c.method.num_virtual_tokens) for c in drawn}) == 6
    fewer = candidates(
        Config(), SweepConfig(learning_rates=(0.1, 0.3), lengths=(2, 4, 8), candidates=3)
    )
    assert len(fewer) == 3 and set(fewer) < set(drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "halfing"}, "unknown sweep.how 'halfing'.*Perhaps you meant 'halving'"),
        ({"slots": 0}, "sweep.slots must be at least 1, got 0"),
        ({"lengths": (4, 4)}, "sweep.lengths names .*twice; name each value once"),
        ({"how": "pbt", "placements": ("prefix", "suffix")}, "have one placement, got prefix, suf"),
    ],
)
def test_sweeps_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        SweepConfig(**options)


def test_steps_that_make_no_rungs():
    assert SweepConfig().targets(300) == (75, 300)
    assert SweepConfig(eta=2, rungs=4).targets(300) == (38, 75, 150, 300)
    assert SweepConfig(how="pbt", rungs=4).targets(300) == (75, 150, 225, 300)
    assert SweepConfig(how="full").targets(300) == (300,)
    with pytest.raises(InputError, match="4 steps are too few for 4 rungs at eta 4; raise"):
        SweepConfig(rungs=4).targets(4)


def test_a_sweep_needs_a_choice_that_the_method_has():
    with pytest.raises(InputError, match="needs a choice, got 1 combination; give two values"):
        candidates(Config(), SweepConfig(learning_rates=(0.1,)))
    with pytest.raises(InputError, match="lora has no init for sweep.inits to choose; leave it"):
        candidates(Config(method=LoraConfig()), SweepConfig(inits=("vocab", "random")))


def reached(course, rung, scores):
    for i, score in scores.items():
        course.scores[i, rung] = score
        course.rung[i] = rung + 1
    return course


def test_halving_waits_for_all_and_keeps_the_best_half():
    how = SweepConfig(how="halving", eta=2, rungs=3)
    course = begin(4, 3)
    assert ready(course, how) == [0, 1, 2, 3]
    reached(course, 0, {0: 0.1, 1: 0.4, 2: 0.3})
    assert ready(course, how) == [3]
    reached(course, 0, {3: 0.2})
    assert ready(course, how) == [1, 2]
    reached(course, 1, {1: 0.4, 2: 0.5})
    assert ready(course, how) == [2]
    reached(course, 2, {2: 0.6})
    assert ready(course, how) == []


def test_asha_lets_the_best_go_on_at_once():
    how = SweepConfig(how="asha", eta=2, rungs=3)
    course = reached(begin(4, 3), 0, {0: 0.1, 1: 0.4})
    assert ready(course, how) == [1, 2, 3]
    reached(course, 0, {2: 0.2, 3: 0.3})
    assert ready(course, how) == [1, 3]
    reached(course, 1, {1: 0.4, 3: 0.3})
    assert ready(course, how) == [1]
    alone = reached(begin(3, 2), 0, {0: 0.1, 1: 0.2, 2: 0.3})
    assert ready(alone, how) == [2]


def test_a_generation_waits_for_all_and_the_worst_follow_the_best():
    how = SweepConfig(how="pbt", rungs=2)
    course = reached(begin(8, 2), 0, {i: i / 10 for i in range(7)})
    assert ready(course, how) == [7]
    reached(course, 0, {7: 0.7})
    assert ready(course, how) == list(range(7, -1, -1))
    found = followers(course, 0, np.random.default_rng(0))
    assert found.keys() == {0, 1} and set(found.values()) <= {6, 7}


@pytest.mark.slow
def test_a_prompt_is_of_the_candidate_whose_rate_trained_it(config, tiny_backbone):
    how = SweepConfig(how="pbt", learning_rates=(9.0, 0.1, 0.2, 0.3), slots=4, rungs=2)
    pool = Candidates(candidates(config, how), how, tiny_backbone, load_data(config))
    (population,) = pool.populations
    population.best = [best._replace(score=np.float32(i)) for i, best in enumerate(population.best)]
    reached(pool.course, 0, {i: float(i) for i in range(4)})
    pool.follow(0)
    assert pool.course.parent[0, 0] == 3 and pool.best(0).score == -np.inf
    assert pool.winner() == 3 and pool.configs[3].train.learning_rate == 0.3


def check(folder, made, count):
    prompt = load_prompt(folder)
    assert made.result.prompt is not None and prompt.digest == made.result.prompt.digest
    kept = json.loads((folder / "sweep.json").read_text())
    assert len(kept["candidates"]) == count + 1
    assert kept["winner"]["candidate"] == made.best == prompt.recipe["sweep"]["candidate"]
    assert (folder / "sweep.png").stat().st_size > 10_000
    assert prompt.rows.shape[0] == prompt.method.num_virtual_tokens
    return kept


@pytest.mark.parametrize(
    "kind", ["classification", pytest.param("generation", marks=pytest.mark.slow)]
)
def test_a_sweep_ends_with_an_ordinary_prompt(config, tmp_path, kind):
    config, lines = dataclasses.replace(config, task=TaskConfig(kind=kind)), []
    made = sweep(config, SMALL, say=lines.append)
    kept = check(tmp_path / "run", made, 4)
    steps = [int(row[kept["candidates"][0].index("steps")]) for row in kept["candidates"][1:]]
    assert sorted(steps) == [4, 4, 8, 8]
    assert lines[0].startswith("4 candidates over learning_rates 0.1, 0.3; lengths 2, 4; 2 at once")
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    judged: dict[int, list[float]] = {}
    for row in rows:
        if "validation/log_likelihood" in row:
            judged.setdefault(row["candidate"], []).append(row["validation/log_likelihood"])
    went_on = {candidate for candidate, found in judged.items() if len(found) == 2}
    assert went_on == set(sorted(judged, key=lambda i: -judged[i][0])[:2])


@pytest.mark.slow
def test_a_sweep_of_which_nothing_is_left(config):
    rates = SweepConfig(learning_rates=(1e38, 3e38), rungs=1)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, weight_decay=1e3))
    with pytest.raises(DivergedError, match="no candidate has a prompt whose numbers are finite"):
        sweep(config, rates, say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["asha", "pbt", "full"])
def test_other_ways_to_choose(config, tmp_path, how):
    own = dataclasses.replace(SMALL, how=how)
    kept = check(tmp_path / "run", sweep(config, own, say=lambda _: None), 4)
    if how == "pbt":
        rows = kept["candidates"]
        rates = {row[rows[0].index("learning_rate")] for row in rows[1:]}
        assert rates - {0.1, 0.3}, "a follower has a rate of its own"


@pytest.mark.slow
def test_placements_have_programs_of_their_own(config, tmp_path):
    own = SweepConfig(placements=("prefix", "suffix"), learning_rates=(0.1, 0.3), rungs=1)
    check(tmp_path / "run", sweep(config, own, say=lambda _: None), 4)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "number"), [("halving", signal.SIGTERM), ("pbt", signal.SIGINT)])
def test_stopped_and_resumed_is_never_stopped(config, tmp_path, how, number):
    own = dataclasses.replace(SMALL, how=how)
    whole = sweep(config, own, say=lambda _: None)
    other = dataclasses.replace(config, out=str(tmp_path / "other"))

    usual = signal.getsignal(number)

    def stop(line):
        if line.startswith("candidate") and "step      4" in line:
            if signal.getsignal(number) is not usual:  # It is wished once.
                signal.raise_signal(number)

    stopped = sweep(other, own, say=stop)
    assert stopped.result.prompt is None
    again = sweep(other, own, resume=True, say=lambda _: None)
    assert again.best == whole.best
    rows = [load_prompt(c.out).rows for c in (config, other)]
    np.testing.assert_array_equal(*rows)


def test_another_sweep_is_not_resumed(config, tmp_path, capsys):
    sweep(config, SweepConfig(learning_rates=(0.1, 0.3), rungs=1), say=lambda _: None)
    with pytest.raises(InputError, match=r"holds another sweep: sweep.how: 'halving' -> 'asha'"):
        sweep(config, SweepConfig(learning_rates=(0.1, 0.3), rungs=1, how="asha"), resume=True)
    (tmp_path / "run" / "sweep_config.json").unlink()
    assert cli.main(["sweep", "--resume", f"--out={config.out}"]) == 2
    assert "holds no sweep to resume" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no sweep to resume"):
        sweep(config, SMALL, resume=True)


@pytest.mark.slow
def test_the_command(config, tmp_path, capsys):
    arguments = [
        "sweep", f"--backbone={config.backbone}", f"--out={config.out}",
        f"--data.task={config.data.task}", "--train.steps=8", "--train.batch-size=4",
        "--eval.batch-size=8", "--eval.max-new-tokens=2", "--sweep.learning-rates", "0.1", "0.3",
        "--sweep.rungs=2",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    assert "| candidate | learning_rate | steps | score | at step |" in capsys.readouterr().out
    assert cli.main(["sweep", "--resume", f"--out={config.out}"]) == 0


@pytest.mark.parametrize(
    ("budget", "seconds"), [("", None), ("8h", 28800), ("1.5h", 5400), ("90m", 5400), ("20 s", 20)]
)
def test_a_budget_is_a_time(budget, seconds):
    assert SweepConfig(budget=budget).budget_seconds == seconds


@pytest.mark.parametrize("budget", ["8", "h", "0h", "-1h", "8 hours", "1d"])
def test_what_is_no_budget(budget):
    with pytest.raises(InputError, match=f"all devices together such as 8h, .* got '{budget}'"):
        SweepConfig(budget=budget)


def test_steps_of_all_candidates():
    assert all_steps(16, SweepConfig(), 300) == 16 * 75 + 4 * 225
    assert all_steps(3, SweepConfig(), 300) == 3 * 75 + 225
    assert all_steps(8, SweepConfig(how="pbt"), 300) == all_steps(8, SweepConfig(how="full"), 300)


def test_a_budget_of_less_than_one_candidate(tmp_path):
    said = []
    budget = Budget(SweepConfig(budget="1h"), tmp_path, said.append)
    budget.begin(Work(steps=300, all=900, batch_size=8), 4, resume=False)
    budget.check(2.9, "as measured")  # 300 steps on 4 devices in 3480 s.
    with pytest.raises(InputError, match="300 steps takes about 1 device-hours, by its compiler, "):
        budget.check(3.1, "by its compiler")
    # Two candidates at once, of which a step takes a second: the first one compiles.
    for rate in (0.1, 8, 8):
        budget.measure(1, {i: {"step": 1, "examples_per_second": rate} for i in range(2)})
    budget.foretell(3, {})
    budget.foretell(6, {})
    assert [str(line) for line in said] == [
        "about 7:30 for all candidates (900 steps of one at 0.5 s), beside evaluation; the budget "
        "is 1h"
    ]


def test_a_budget_that_is_spent_too_soon(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("prompt_jax.experiment.budget.monotonic", lambda: now[0])
    budget = Budget(SweepConfig(budget="1h"), tmp_path, print)
    budget.begin(Work(steps=300, all=900, batch_size=8), 2, resume=False)
    now[0] = 1799.0
    budget.keep(0, {})
    assert not budget.exhausted()
    now[0] = 1800.0
    assert budget.exhausted()
    with pytest.raises(InputError, match="budget 1h was spent before the first evaluation; give"):
        budget.ended(judged=False)
    # What was spent counts on, and not the time between.
    resumed = Budget(SweepConfig(budget="1h"), tmp_path, print)
    resumed.begin(Work(steps=300, all=900, batch_size=8), 2, resume=True)
    assert resumed.spent == 2 * 1799


@pytest.mark.slow
def test_a_budget_ends_a_sweep_with_its_best_prompt(config, tmp_path, monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr("prompt_jax.experiment.budget.monotonic", lambda: now[0])

    def later(line):
        lines.append(line)
        now[0] += 1800.0 * line.startswith("candidate")

    hour, day = (dataclasses.replace(SMALL, budget=budget) for budget in ("1h", "24h"))
    # The two candidates of the first round are evaluated, and it is over.
    summary = check(tmp_path / "run", sweep(config, hour, say=later), 4)
    assert "the budget of 1h is spent: the best prompt so far is kept" in "\n".join(lines)
    assert sorted(row[3] for row in summary["candidates"][1:]) == [0, 0, 4, 4]
    again = check(tmp_path / "run", sweep(config, day, resume=True, say=later), 4)
    assert sorted(row[3] for row in again["candidates"][1:]) == [4, 4, 8, 8]
