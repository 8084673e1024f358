"""What a run takes altogether, by the estimate of a compiler: of one run, and of a paper's."""

import dataclasses
import json
import re
import time

import jax
import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.cli.arguments import bound
from prompt_jax.config import Config, DataConfig, MeshConfig, TrainConfig
from prompt_jax.experiment.loop import Loop, Members
from prompt_jax.lines import clock_time
from prompt_jax.plan import Plan, as_json, plan, published, text
from prompt_jax.plan.chips import compile_for, devices_of
from prompt_jax.plan.hours import Hours, Mark, Pace, evaluated_rows, of_longest, pace
from prompt_jax.plan.kept import Outcome, compiled_once

# Mean padded length over the longest one, as another model of these tasks' lengths had it.
PADDED = {"boolq": 0.59, "cb": 0.47, "copa": 0.27, "multirc": 0.91, "record": 0.82, "rte": 0.44}
PADDED |= {"wic": 0.29, "wsc.fixed": 0.31}


def test_hours_are_of_all_devices():
    hours = Hours(30_000, 0.36, 600.0, 8, "v5e-8")
    assert hours.seconds == 30_000 * 0.36 + 600 and hours.device_hours == hours.seconds * 8 / 3600
    assert str(hours) == (
        "about 25.3 chip-hours on v5e-8 (30,000 steps at 0.36 s and 10 minutes of evaluation, by "
        "the compiler's estimate)"
    )
    assert str(hours._replace(steps=100, evaluation=0.0)).startswith("about 0.08 chip-hours on v5e")


def test_time_grows_evenly_with_positions():
    options = DataConfig(max_source_length=60)
    config = Config(data=options, train=TrainConfig(batch_size=4))
    assert config.method.input_tokens == 20
    run = Plan(config, "v5e-4", 4, "TPU v5e", {}, [])
    known = Pace(run, 0.5, [Mark(0, 0.0), Mark(80, 2.0)])
    hours = known.hours({60: 0.5, 20: 0.5}, 1000, 80)
    assert hours == Hours(1000, 1.5, 0.75 * 20 * 0.5, 4, "v5e-4")
    # A fourth of the positions takes more than a fourth of the time: the weights are read too.
    known = known._replace(marks=[Mark(20, 0.8), Mark(80, 2.0)])
    assert known.hours({60: 1.0}, 1000, 0).step == 2.0
    assert known.hours({20: 1.0}, 1000, 0).step == pytest.approx(1.2)
    # What is kept up to 48 positions and not beyond.
    known = known._replace(marks=[Mark(20, 0.6), Mark(48, 0.95), Mark(56, 1.4), Mark(80, 2.0)])
    assert known.step(16) == pytest.approx(0.55) and known.step(48) == 0.95
    assert known.step(56) == pytest.approx(1.4) and known.step(68) == pytest.approx(1.7)
    assert known.hours({28: 0.5, 36: 0.5}, 1000, 0).step == pytest.approx((0.95 + 1.4) / 2)


def test_rows_are_scored_before_a_run_on_its_way_and_at_its_end():
    options = TrainConfig(steps=100, eval_every=30, eval_examples=50)
    config = Config(train=options)
    # At steps 0, 30, 60, 90 and 100; then all of them with the prompt and without.
    assert evaluated_rows(config, 80, tests=7) == 5 * 50 + 2 * 87
    everything = dataclasses.replace(config, train=dataclasses.replace(options, eval_examples=None))
    assert evaluated_rows(everything, 80) == 5 * 80 + 2 * 80


def test_a_cpu_has_no_estimate():
    assert pace(Config()) is None


class Counting(Members):
    """A member that counts."""

    def __init__(self, steps):
        self.count, self.steps = 0, steps

    def __len__(self):
        return 1

    def step(self, index):
        return self.count

    def target(self, index):
        return self.steps

    def advance(self, chosen, steps, report, going):
        for step in range(1, steps + 1):
            time.sleep(0.001)
            self.count += 1
            report(step, {"loss": [0.5]}, step == steps)

    def judge(self, index):
        raise AssertionError("nothing is judged")

    def checkpoint(self):
        return np.array(self.count)

    def restore(self, state):
        self.count = int(state)


@pytest.mark.parametrize(("steps", "early"), [(200, 0.001), (20, 0.001), (200, 60)])
def test_a_long_run_says_early_how_long_it_takes(steps, early, tmp_path, monkeypatch):
    monkeypatch.setattr("prompt_jax.experiment.loop.EARLY", early)
    lines = []
    loop = Loop(Counting(steps), [tmp_path], TrainConfig(steps=steps), lines.append)
    loop.every(steps // 20, loop.progress, reads=False)
    loop.every(1, loop.foretell, reads=False)
    loop.run(tmp_path / "checkpoints", resume=False)
    about = [line for line in lines if line.startswith("about")]
    # Not where the usual lines come as soon, and nothing in less than `EARLY` seconds.
    assert len(about) == (steps == 200 and early < 1)
    for line in about:
        assert re.fullmatch(r"about 0:0\d left for 198 steps at 0.0\d+ s, beside evaluation", line)
        assert line.values["step"] == 2 and line.values["seconds_left"] < 10


def test_times_of_a_clock():
    assert [clock_time(n) for n in (59, 61, 3599, 3600, 90061)] == [
        *("0:59", "1:01", "59:59", "1:00:00", "25:01:01")
    ]


@pytest.mark.parametrize("workload", published.EXPERIMENTS["superglue"], ids=lambda w: w.task)
def test_lengths_of_superglue(workload):
    config = bound("configs/lester2021/xxl.py", Config)
    lengths = published.lengths_of(workload, config)
    assert sum(lengths.values()) == pytest.approx(1) and max(lengths) <= 412 and len(lengths) <= 4
    padded = sum((100 + length) * share for length, share in lengths.items()) / 512
    assert padded == pytest.approx(PADDED[workload.task.rpartition("/")[2]], abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["superglu"], "unknown experiment 'superglu'.*Perhaps you meant 'superglue'"),
        (["superglue"], "no compiler estimates the time of this run on cpu; give the slice"),
        (["superglue", "--search"], "prints a table; leave out --programs, --members"),
    ],
)
def test_an_experiment_that_has_no_price(arguments, message, capsys):
    assert cli.main(["plan", "--experiment", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """The folder of caches, one for all: a program is compiled by the first that needs it."""
    return tmp_path_factory.mktemp("plans")


@pytest.mark.slow
class TestTpu:
    """Compiled for TPUs by libtpu, where it is installed."""

    @pytest.fixture(autouse=True)
    def libtpu(self, plans, monkeypatch):
        pytest.importorskip("libtpu", reason="pip install prompt-jax[plan]")
        monkeypatch.setenv("XDG_CACHE_HOME", str(plans))

    @pytest.fixture
    def config(self, tiny_folder):
        return Config(
            backbone=str(tiny_folder),
            mesh=MeshConfig(data="auto"),
            data=DataConfig(max_source_length=44, max_target_length=4),
            train=TrainConfig(steps=1000, batch_size=4),
        )

    def test_a_program_is_compiled_once(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        devices = devices_of("v5e-1")
        place = jax.sharding.SingleDeviceSharding(devices[0])
        lowered = [
            jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((n, n), "float32", sharding=place))
            for n in (128, 256)
        ]
        compiled = []

        def outcome():
            compiled.append(compile_for(devices, lowered[0]))
            return Outcome(None, 0.5, 0.25, [], {"rest": 7})

        first = compiled_once(lowered[0], devices, outcome)
        assert compiled_once(lowered[0], devices, outcome) == first and len(compiled) == 1
        compiled_once(lowered[1], devices, outcome)
        kept = list((tmp_path / "prompt_jax" / "plans").iterdir())
        assert len(compiled) == len(kept) == 2
        # A file that is damaged is written again; where none can be written, nothing is lost.
        for path in kept:
            path.write_text("{")
        assert compiled_once(lowered[0], devices, outcome) == first and len(compiled) == 3
        assert compiled_once(lowered[0], devices, outcome) == first and len(compiled) == 3
        monkeypatch.setenv("XDG_CACHE_HOME", str(kept[0]))
        assert compiled_once(lowered[0], devices, outcome) == first and len(compiled) == 4

    def test_a_plan_says_what_a_run_takes(self, config):
        first = plan(config, "v5e-1", programs=("train",))
        hours = of_longest(first)
        assert hours.device_hours == pytest.approx(1000 * first.costs[0].estimate.seconds / 3600)
        assert f"without evaluation: {hours}" in text(first)
        again = plan(config, "v5e-1", programs=("train",))
        assert json.dumps(as_json(again)) == json.dumps(as_json(first))

    def test_what_jax_keeps_on_disk_is_not_asked(self, config, tmp_path, monkeypatch):
        """It keeps programs for a TPU that is not here, and warns when it cannot read them."""
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        try:
            for own in ("first", "second"):
                monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / own))
                plan(config, "v5e-1", programs=("train",))
            assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
        assert not list(tmp_path.glob("*-cache"))

    def test_a_run_has_the_lengths_of_its_batches(self, config):
        costs = {c.program: c.estimate.seconds for c in plan(config, "v5e-1").costs}
        hours = pace(config, "v5e-1").hours({44: 0.5, 12: 0.5}, 1000, 80)
        # 20 virtual tokens in front: 64 positions, and half of them.
        assert config.method.input_tokens == 20 and set(costs) == {"train", "score"}
        assert hours.step == pytest.approx(0.75 * costs["train"])
        assert hours.evaluation == pytest.approx(0.75 * 20 * costs["score"])
