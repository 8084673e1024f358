"""Which rows are drawn and held out: by label, by a seed, and never the last of a label."""

import collections

import numpy as np
import pytest

from prompt_jax.config import InputError
from prompt_jax.data import balanced, hold_out, sample, shots
from prompt_jax.tasks import Example, Task

WRITING = Task(name="file:x", source="{input}", target="{target}")


def rows_of(**counts):
    """Rows sorted by label, and their task."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    rows = [Example(f"text {i}", label) for i, label in enumerate(labels)]
    return rows, Task(name="file:x", source="{input}", target="{target}", labels=tuple(counts))


def counted(rows):
    return dict(collections.Counter(row.target for row in rows))


@pytest.mark.parametrize(
    ("counts", "count", "drawn"),
    [
        ({"no": 150, "yes": 150}, 64, {"no": 32, "yes": 32}),
        ({"no": 900, "yes": 100}, 50, {"no": 45, "yes": 5}),
        ({"no": 990, "yes": 10}, 8, {"no": 7, "yes": 1}),
        ({"a": 5, "b": 5, "c": 5}, 7, {"a": 3, "b": 2, "c": 2}),
        ({"a": 98, "b": 1, "c": 1}, 4, {"a": 2, "b": 1, "c": 1}),
        ({"no": 3, "yes": 2}, 9, {"no": 3, "yes": 2}),
        ({"no": 3, "yes": 2}, None, {"no": 3, "yes": 2}),
    ],
)
def test_a_sample_has_every_label_in_its_share(counts, count, drawn):
    rows, task = rows_of(**counts)
    rows_drawn = sample(rows, count, task, 0)
    assert counted(rows_drawn) == drawn
    assert rows_drawn == [row for row in rows if row in rows_drawn], "in the order they had"
    assert rows_drawn == sample(rows, count, task, 0)


def test_fewer_than_labels():
    rows, task = rows_of(a=5, b=5, c=5)
    assert len(sample(rows, 2, task, 0)) == 2


@pytest.mark.parametrize("task", [rows_of(no=150, yes=150)[1], WRITING])
def test_a_seed_draws_other_rows_from_the_whole_file(task):
    rows, _ = rows_of(no=150, yes=150)
    one, other = (sample(rows, 64, task, seed) for seed in (0, 1))
    assert one != other and len(one) == len(other) == 64
    assert {rows.index(row) // 100 for row in one} == {0, 1, 2}


@pytest.mark.parametrize(
    ("counts", "fraction", "held"),
    [
        ({"no": 200, "yes": 200}, 0.1, {"no": 20, "yes": 20}),
        ({"no": 8, "yes": 8}, 0.1, {"no": 1, "yes": 1}),
        ({"no": 4, "yes": 4}, 0.1, {"no": 1, "yes": 1}),
        ({"no": 8, "yes": 8}, 0.5, {"no": 4, "yes": 4}),
        ({"no": 30, "yes": 1}, 0.1, {"no": 3}),
        # Of 77 labels with two rows each, no more than a quarter of all.
        ({f"l{i}": 2 for i in range(77)}, 0.1, {f"l{i}": 1 for i in range(38)}),
        ({"no": 2, "yes": 2}, 0.99, {"no": 1, "yes": 1}),
    ],
)
def test_every_label_is_held_out_and_left_to_train_on(counts, fraction, held):
    rows, task = rows_of(**counts)
    train, validation = hold_out(rows, fraction, task, 0, "file:x")
    assert counted(validation) == held
    assert set(counted(train)) == set(counts)
    assert sorted([*train, *validation]) == sorted(rows)
    assert hold_out(rows, fraction, task, 0, "file:x") == (train, validation)


def test_texts_are_held_out_by_their_number():
    rows = [Example(str(i), str(i)) for i in range(30)]
    train, validation = hold_out(rows, 0.1, WRITING, 0, "file:x")
    assert (len(train), len(validation)) == (27, 3)
    assert hold_out(rows, 0.1, WRITING, 1, "file:x")[1] != validation
    assert len(hold_out(rows[:2], 0.1, WRITING, 0, "file:x")[0]) == 1


@pytest.mark.parametrize("counts", [{"no": 1}, {"no": 1, "yes": 1}])
def test_no_row_to_spare(counts):
    rows, task = rows_of(**counts)
    with pytest.raises(InputError, match=f"and {len(rows)} rows, too few to hold any out; give --"):
        hold_out(rows, 0.1, task, 0, "file:x")


def test_shares_follow_sizes():
    """Whatever the sizes, no label is more than one row away from its share, but for the one."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        sizes = generator.integers(5, 200, 6)
        count = int(generator.integers(30, sizes.sum()))
        rows, task = rows_of(**{f"l{i}": int(n) for i, n in enumerate(sizes)})
        drawn = counted(sample(rows, count, task, 0))
        exact = {f"l{i}": count * n / sizes.sum() for i, n in enumerate(sizes)}
        assert sum(drawn.values()) == count
        assert all(abs(n - exact[label]) <= 2 for label, n in drawn.items())


def test_shots_are_as_many_of_every_label():
    rows, task = rows_of(a=50, b=7, c=20)
    train, validation = shots(rows, 3, task, 0, "file:x", spare=True)
    assert counted(train) == counted(validation) == {"a": 3, "b": 3, "c": 3}
    assert not set(train) & set(validation)
    assert train == [row for row in rows if row in train], "in the order they had"
    assert (train, validation) == shots(rows, 3, task, 0, "file:x", spare=True)
    seeds = {tuple(shots(rows, 3, task, seed, "file:x", spare=True)[0]) for seed in range(5)}
    assert len(seeds) == 5
    # The same rows with a validation set of its own, and so more of them.
    alone, nothing = shots(rows, 7, task, 0, "file:x", spare=False)
    assert (counted(alone), nothing) == ({"a": 7, "b": 7, "c": 7}, [])
    assert set(train) <= set(alone)


@pytest.mark.parametrize(
    ("count", "task", "message"),
    [
        (4, rows_of(a=1, b=1)[1], "as many to validate on, make 8, and file:x has 7 rows of 'b'"),
        (1, rows_of(a=1, b=1, c=1)[1], "every label, and file:x has no row of 'c'; leave it out"),
        (1, WRITING, "file:x is a generation without label words; use data.max_examples"),
    ],
)
def test_shots_that_cannot_be_drawn(count, task, message):
    with pytest.raises(InputError, match=message):
        shots(rows_of(a=50, b=7)[0], count, task, 0, "file:x", spare=True)


def test_rarer_labels_come_again():
    rows, task = rows_of(a=10, b=4, c=1)
    drawn = balanced(rows, task, 0)
    assert counted(drawn) == {"a": 10, "b": 10, "c": 10}
    assert drawn[:15] == rows and set(drawn) == set(rows)
    # Of b, each row twice and two of them once more.
    assert sorted(collections.Counter(row for row in drawn if row.target == "b").values()) == [
        2, 2, 3, 3
    ]  # fmt: skip
    with pytest.raises(InputError, match="'file:x' is a generation without label words; leave it"):
        balanced(rows, WRITING, 0)
