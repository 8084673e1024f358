"""What a saved prompt is scored on: what its run held out, and files under their names."""

import dataclasses

import pytest

from prompt_jax.config import Config, DataConfig, InputError, TaskConfig
from prompt_jax.experiment.scored import scored
from prompt_jax.experiment.splits import digest, load_data


@pytest.fixture
def config(task_file):
    """Of a run on a file that held out a fifth."""
    data = DataConfig(task=f"file:{task_file}", validation_fraction=0.2, seed=3, max_examples=10)
    return Config(data=data, task=TaskConfig(labels=("negative", "positive")))


@pytest.fixture
def trained(config, prompt):
    """The prompt of that run."""
    data = load_data(config)
    recipe = {
        "data": dataclasses.asdict(config.data),
        "held_out": {data.task.name: digest(data.validation)},
    }
    return dataclasses.replace(prompt, recipe=recipe)


@pytest.fixture
def other(task_file):
    path = task_file.with_name("other.tsv")
    path.write_text("\n".join(task_file.read_text().splitlines()[:13]) + "\n")
    return path


def outcome(config, *prompts):
    """The sizes of all sets under the heads of their columns, and what is said."""
    lines = []
    selection = scored(config, prompts, lines.append)
    sets = {"validation": selection.data.validation, **selection.data.tests}
    results = selection.named({"way": {name: len(rows) for name, rows in sets.items() if rows}})
    return results["way"], lines


def at(config, **fields):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def test_what_was_held_out_is_scored(config, trained, task_file, monkeypatch):
    sizes, lines = outcome(config, trained)
    assert sizes == {"task.tsv, held out": 8}
    assert lines == ["scored: 8 rows of task.tsv, held out"]
    assert scored(config, [trained], str).data.validation == load_data(config).validation
    # The split is the one of the run, whatever a caller's config has.
    assert outcome(at(config, seed=0, validation_fraction=0.1), trained)[0] == sizes
    monkeypatch.chdir(task_file.parent)
    assert outcome(at(config, task="file:./task.tsv"), trained, trained)[0] == sizes


def test_test_rows_are_scored_beside_them(config, trained, other):
    sizes, _ = outcome(at(config, test=f"file:{other}"), trained)
    assert sizes == {"task.tsv, held out": 8, "other.tsv": 12}
    sizes, _ = outcome(at(config, validation=f"file:{other}"), trained)
    assert sizes == {"other.tsv": 12}


def test_another_file_is_scored_whole(config, trained, other, task_file):
    elsewhere = at(config, task=f"file:{other}")
    assert outcome(elsewhere, trained) == ({"other.tsv": 12}, ["scored: 12 rows of other.tsv"])
    # A test file of the run is not meant; one that is given now is.
    recipe = trained.recipe | {"data": trained.recipe["data"] | {"test": "file:gone.tsv"}}
    with_test = dataclasses.replace(trained, recipe=recipe)
    assert outcome(at(elsewhere, test="file:gone.tsv"), with_test)[0] == {"other.tsv": 12}
    sizes, _ = outcome(at(elsewhere, test=f"file:{task_file}"), trained)
    assert sizes == {"other.tsv": 12, "task.tsv": 40}


def test_files_of_one_name_are_told_apart(config, trained, task_file):
    folder = task_file.parent / "later"
    folder.mkdir()
    (folder / "other.tsv").write_text(task_file.read_text())
    (folder.parent / "other.tsv").write_text(task_file.read_text())
    names = [f"file:{place / 'other.tsv'}" for place in (folder, folder.parent)]
    sizes, _ = outcome(at(config, task=names[0], test=names[1]), trained)
    assert sizes == {name.removeprefix("file:"): 40 for name in names}
    sizes, _ = outcome(at(config, validation=names[0], test=names[1]), trained)
    assert sizes == {name.removeprefix("file:"): 40 for name in names}


def test_a_split_that_is_not_known_is_told(config, trained, task_file, prompt):
    older = dataclasses.replace(trained, recipe={"data": trained.recipe["data"]})
    whole = {"task.tsv, with rows of training": 40}
    sizes, (warning, _) = outcome(config, older)
    assert sizes == whole and warning.startswith("warning: which rows of task.tsv were held out")
    # Both have to know, or rows of training of one are among them.
    assert outcome(config, trained, older)[0] == whole
    # Of a prompt that says nothing, the file is as any other.
    silent = dataclasses.replace(prompt, recipe={})
    assert outcome(config, silent)[0] == {"task.tsv": 40}
    with task_file.open("a") as file:
        file.write("good film again\tpositive\n")
    assert outcome(config, trained)[0] == {"task.tsv, with rows of training": 41}


def test_a_file_of_a_mixture_was_trained_on(config, trained, task_file, other):
    mixed = trained.recipe | {"data": trained.recipe["data"] | {"mixture": [f"file:{other}"]}}
    mixed["held_out"] = mixed["held_out"] | {
        f"file:{other}": digest(load_data(config, f"file:{other}").validation)
    }
    both = dataclasses.replace(trained, recipe=mixed)
    assert outcome(at(config, task=f"file:{other}"), both)[0] == {"other.tsv, held out": 2}


def test_a_dataset_has_splits_of_its_own(prompt):
    config = Config(data=DataConfig(task="embedded:factbook_topic"))
    assert outcome(config, prompt)[0] == {"validation": 422, "test": 500}
    assert outcome(at(config, task="embedded:factbook_topic/test"), prompt)[0] == {"test": 500}
    part = at(config, task="embedded:factbook_topic/train[:50]")
    data = load_data(part)
    recipe = {
        "data": dataclasses.asdict(part.data),
        "held_out": {data.task.name: digest(data.validation)},
    }
    sizes, _ = outcome(part, dataclasses.replace(prompt, recipe=recipe))
    assert sizes == {"train[:50], held out": len(data.validation)}


def test_one_task_is_scored(config, trained):
    data = dataclasses.replace(config.data, mixture=("file:b.tsv",))
    with pytest.raises(InputError, match="evaluate is for one task, and data.mixture names"):
        outcome(Config(data=data), trained)


def test_test_sets_are_capped_with_every_label(task_file):
    task = TaskConfig(labels=("negative", "positive"))
    data = DataConfig(task=f"file:{task_file}", test=f"file:{task_file}", max_test_examples=6)
    (rows,) = load_data(Config(data=data, task=task)).tests.values()
    assert sorted(row.target for row in rows) == ["negative"] * 3 + ["positive"] * 3
