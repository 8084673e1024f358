"""Which prompt is kept, and what is said about rows that cannot tell."""

import dataclasses

import numpy as np
import pytest

from prompt_jax.config import Config, DataConfig, TrainConfig
from prompt_jax.evaluate import Evaluation
from prompt_jax.experiment import Data
from prompt_jax.experiment.choice import Judgement, judge, lesson, unjudged, warnings_of
from prompt_jax.metrics import Scores
from prompt_jax.tasks import Example, Task

TASK = Task(name="file:x", source="{input}", target="{target}", labels=("no", "yes"))


def accuracy(score):
    return Scores({"accuracy": score}, "accuracy")


def chosen(*judged):
    """The step that is kept of prompts that are judged one after the other, and the best."""
    best = unjudged({"prompt": np.zeros(2)})
    for step, (score, likely) in enumerate(judged):
        best = best.after(Judgement(accuracy(score), likely), {"prompt": step}, step)
    return best


@pytest.mark.parametrize(
    ("judged", "step", "since"),
    [
        ([(0.5, -0.7), (0.6, -0.9)], 1, 0),
        ([(0.0, -11.3), (0.0, -4.7), (0.0, -5.0)], 1, 1),
        # A third as Python has it is not what float32 has.
        ([(1 / 3, -0.5), (1 / 3, -0.4)], 1, 0),
        ([(1 / 3, -0.4), (1 / 3, -0.5)], 0, 1),
        ([(0.5, None), (0.5, None), (0.4, None)], 0, 2),
        ([(float("nan"), -2.0), (float("nan"), -1.0)], 1, 0),
        ([(0.5, -1.0), (float("nan"), float("nan"))], 0, 1),
    ],
)
def test_likelihood_decides_between_equal_scores(judged, step, since):
    best = chosen(*judged)
    assert (int(best.step), int(best.since)) == (step, since)
    assert best.tuned == {"prompt": step}


def test_likelihood_decides_over_few_rows():
    few, many = (
        judge({"a": Evaluation(accuracy(0.75), ["no"] * count, None, -0.2)}) for count in (49, 50)
    )
    start = unjudged({"prompt": np.zeros(2)}).after(
        Judgement(accuracy(0.78), -0.6), {"prompt": 0}, 0
    )
    assert start.after(few, {"prompt": 1}, 1).step == 1
    assert start.after(many, {"prompt": 1}, 1).step == 0


def test_several_tasks_are_judged_by_their_means():
    one, other = (
        Evaluation(accuracy(s), ["no"] * 50, None, log) for s, log in ((0.5, -1.0), (1.0, -2))
    )
    judgement = judge({"a": one, "b": other})
    assert judgement == Judgement(Scores({"mean": 0.75, "a": 0.5, "b": 1.0}, "mean"), -1.5)
    assert judgement.score == 0.75
    unknown = other._replace(log_likelihood=None)
    assert judge({"a": one, "b": unknown}).log_likelihood is None
    assert judge({"a": one}).scores == {"accuracy": 0.5, "log_likelihood": -1.0}


def test_few_rows_and_a_label_without_any_are_told():
    rows = [Example(str(i), "no") for i in range(60)]
    data = Data(TASK, rows, rows[:4], {}, True)
    missing, few = warnings_of(data, Config())
    assert "no training row has the label yes" in missing
    assert "with 4 validation rows to choose" in few and "accuracy by up to 0.250" in few
    assert "--data.validation or a larger --data.validation-fraction" in few
    (few,) = warnings_of(
        data._replace(train=[*rows, Example("x", "yes")], validation=rows[:1], held_out=False),
        Config(),
    )
    assert "with 1 validation row to choose" in few and few.endswith("--data.validation")
    both = [*rows, *(row._replace(target="yes") for row in rows)]
    assert warnings_of(Data(TASK, both, both, {}), Config()) == []
    less = dataclasses.replace(Config(), train=TrainConfig(eval_examples=20))
    assert "with 20 validation rows to" in warnings_of(Data(TASK, both, both, {}), less)[0]


def test_rows_watched_in_training_have_every_label():
    """Of a validation file sorted by label, the first rows would have one."""
    rows = [Example(str(i), "no" if i < 600 else "yes") for i in range(1200)]
    data = Data(TASK, rows, rows, {})
    watched = data.watched(Config())
    assert len(watched) == 500 and sum(row.target == "yes" for row in watched) == 250
    other = Config(data=DataConfig(seed=1))
    assert data.watched(other) != watched


def test_what_was_not_learned_is_told():
    rows = [{"step": 0, "validation/accuracy": 0.5, "validation/log_likelihood": -0.7}]
    start = chosen((0.5, -0.7), (0.5, -0.8))
    assert lesson(start, rows, "accuracy").startswith("warning: no step was better on validation")
    likelier = chosen((0.5, -0.7), (0.5, -0.6))
    line = lesson(likelier, rows, "accuracy")
    assert line.startswith("note: accuracy on validation did not rise from 0.500")
    assert "(-0.700 at the start, -0.600 now)" in line
    assert lesson(chosen((0.5, -0.7), (0.6, -0.9)), rows, "accuracy") == ""
    assert lesson(likelier, [{"step": 4, "validation/accuracy": 0.5}], "accuracy") == ""
