"""N prompts trained together are N prompts trained apart."""

import dataclasses
import json

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
    TrainConfig,
)
from prompt_jax.data import Batch
from prompt_jax.experiment import train_tasks
from prompt_jax.experiment.members import Population, check_one_program
from prompt_jax.losses import loss_fn
from prompt_jax.methods import (
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    PTuningConfig,
    init,
)
from prompt_jax.population import (
    apart,
    check_lengths,
    check_members,
    compile_population_step,
    cut,
    filled,
    fit_population,
    joined,
    member,
    members_of,
    padded,
    stack,
)
from prompt_jax.sharding import AXES
from prompt_jax.train import DivergedError, compile_step, fit, start

LENGTHS = (4, 2, 3, 4)
RATES = (0.3, 0.1, 0.03, 1.0)
DECAYS = (0.0, 1e-2, 1e-5, 0.1)
METHODS = {
    "prompt": [PromptTuningConfig(num_virtual_tokens=n) for n in LENGTHS],
    "prefix": [PrefixTuningConfig(num_virtual_tokens=n) for n in LENGTHS],
    "lora": [LoraConfig(r=2)] * 4,
    "p_tuning": [PTuningConfig(num_virtual_tokens=3, encoder_hidden_size=8)] * 4,
}
STEPS = 3


def rows(seed, length):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 60, (4, length)).astype(np.int32)
    tokens[:, -1] = 63  # A mask, for models that fill one.
    mask = np.arange(length)[None] >= rng.integers(0, length - 2, (4, 1))
    targets = rng.integers(2, 60, (4, 1)).astype(np.int32)
    return Batch(tokens, mask[:, ::-1].copy() | (tokens == 63), targets, np.ones((4, 1), bool))


# All kinds on one family; that trees by vmap are trees apart on the others is a law of theirs.
CASES = [
    ("tiny", "prompt", "adafactor"), ("tiny", "prompt", "adamw"), ("tiny", "prefix", "adafactor"),
    ("tiny", "p_tuning", "adamw"), ("tiny_gpt2", "prefix", "adamw"), ("tiny_bert", "lora", "adamw"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "kind", "optimizer"),
    [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:])],
)
def test_members_equal_single_runs(backbone, kind, optimizer, request):
    """Of their own lengths, starts, rates, decays, seeds, and rows of other lengths."""
    backbone = request.getfixturevalue(backbone)
    scale = 1.0 if optimizer == "adafactor" else 0.1
    task_type = backbone.task_types[0]
    methods = [dataclasses.replace(m, task_type=task_type) for m in METHODS[kind]]
    longest = max(methods, key=lambda m: getattr(m, "num_virtual_tokens", 0))
    length = getattr(longest, "num_virtual_tokens", 0)
    configs = [
        TrainConfig(
            steps=STEPS, optimizer=optimizer, learning_rate=scale * rate, weight_decay=w, seed=i
        )
        for i, (rate, w) in enumerate(zip(RATES, DECAYS, strict=True))
    ]
    trees = [init(method, backbone, jax.random.key(i)) for i, method in enumerate(methods)]
    batches = [[rows(10 * i + step, 6 + i) for step in range(STEPS)] for i in range(4)]
    loss = loss_fn(longest, backbone)
    states = stack(
        [start(padded(t, m, length), configs[0]) for t, m in zip(trees, methods, strict=True)]
    )
    found = fit_population(
        compile_population_step(loss, configs[0]),
        states,
        backbone.params,
        [joined([own[step] for own in batches]) for step in range(STEPS)],
        members_of(configs, methods, length),
    )
    for i, (method, config) in enumerate(zip(methods, configs, strict=True)):
        alone = fit(
            loss_fn(method, backbone), start(trees[i], config), backbone.params, batches[i], config
        )
        mine = cut(jax.tree.map(np.asarray, member(found.tuned, i)), method, length)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(alone.tuned), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_one_member_has_no_axis_in_the_program(tiny):
    config = TrainConfig(steps=2, optimizer="adamw", learning_rate=0.1, weight_decay=0.0)
    method = PromptTuningConfig(num_virtual_tokens=2)
    tuned, batch = init(method, tiny, jax.random.key(0)), rows(0, 6)
    loss = loss_fn(method, tiny)
    members = members_of([config], [method], 2)
    states = stack([start(tuned, config)])
    found, _ = compile_population_step(loss, config)(states, tiny.params, joined([batch]), members)
    alone, _ = compile_step(loss, config)(start(tuned, config), tiny.params, batch)
    np.testing.assert_allclose(found.tuned["prompt"][0], alone.tuned["prompt"], atol=1e-6)


@pytest.mark.slow
def test_a_member_that_diverges_harms_no_other(tiny):
    config = TrainConfig(steps=2, optimizer="adamw", learning_rate=0.1)
    method = PromptTuningConfig(num_virtual_tokens=2)
    trees = [init(method, tiny, jax.random.key(i)) for i in range(3)]
    loss, batches = loss_fn(method, tiny), [joined([rows(0, 6)] * 3) for _ in range(2)]
    members = members_of([config] * 3, [method] * 3, 2)

    def after(states):
        step = compile_population_step(loss, config)
        return fit_population(step, states, tiny.params, batches, members).tuned["prompt"]

    healthy = after(stack([start(tree, config) for tree in trees]))
    trees[1] = {"prompt": np.full_like(trees[1]["prompt"], np.nan)}
    ill = after(stack([start(tree, config) for tree in trees]))
    assert np.isnan(ill[1]).all()
    np.testing.assert_array_equal(np.asarray(ill)[[0, 2]], np.asarray(healthy)[[0, 2]])


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            [PTuningConfig(num_virtual_tokens=n) for n in (2, 3)],
            "padded on the left, which p_tuning as configured does not allow; use one length",
        ),
        (
            [PromptTuningConfig(num_virtual_tokens=n, placement="suffix") for n in (2, 3)],
            "different num_virtual_tokens",
        ),
        (
            [PrefixTuningConfig(num_virtual_tokens=n, prefix_projection=True) for n in (2, 3)],
            "different num_virtual_tokens",
        ),
    ],
)
def test_lengths_that_cannot_share_a_program(methods, message):
    check_lengths(methods[:1])
    with pytest.raises(InputError, match=message):
        check_lengths(methods)


def test_devices_share_members_or_their_rows():
    """Members where they divide over groups of devices, and else the rows of all."""
    replicas, shared = (jax.sharding.AbstractMesh(sizes, AXES) for sizes in ((4, 1, 1), (2, 2, 2)))
    assert (filled(3, 8, None), filled(3, 8, replicas), filled(3, 8, shared)) == (3, 4, 3)
    assert filled(3, 6, shared) == 4  # Six rows are of two devices, and not of four.
    assert [apart(n, shared) for n in (3, 4)] == [False, True] and apart(4, replicas)
    for mesh in (None, replicas):
        check_members(5, mesh)
    check_members(6, shared)
    with pytest.raises(InputError, match="5 rows of a step do not divide over the 2 devices of"):
        check_members(5, shared)


@pytest.fixture
def config(tmp_path, tiny_folder, task_file):
    return Config(
        backbone=str(tiny_folder),
        out=str(tmp_path / "run"),
        data=DataConfig(task=f"file:{task_file}"),
        train=TrainConfig(steps=4, batch_size=8, eval_every=2, checkpoint_every=2),
        eval=EvalConfig(batch_size=8, max_new_tokens=2),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": PromptTuningConfig(placement="suffix")}, "differ in method.placement"),
        ({"train": TrainConfig(batch_size=4)}, "differ in .*; they may differ in data.task"),
        ({"frozen": BackboneConfig(attention_chunk=4)}, "differ in frozen.attention_chunk"),
    ],
)
def test_experiments_that_cannot_share_a_program(config, change, message):
    with pytest.raises(InputError, match=message):
        check_one_program([config, dataclasses.replace(config, **change)])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"pull": 0.1}, "train.pull is for one prompt, and a population trains 2"),
        ({"patience": 2}, "train.patience is for one prompt"),
    ],
)
def test_options_of_one_prompt(config, train, message):
    own = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    with pytest.raises(InputError, match=message):
        check_one_program([own, own])


def test_tasks_with_heads_or_label_words_are_not_joined(config, tiny_bert):
    labels = dataclasses.replace(config.train, objective="labels")
    own = [
        dataclasses.replace(config, train=labels, data=DataConfig(task=task))
        for task in ("embedded:sentiment", "embedded:headline_satire")
    ]
    with pytest.raises(InputError, match="compares the label words of one task; use"):
        check_one_program(own)
    mixed = dataclasses.replace(config, data=DataConfig(mixture=("embedded:factbook_topic",)))
    with pytest.raises(InputError, match="each member of a population has one task"):
        check_one_program([mixed])


@pytest.mark.slow
def test_a_prompt_for_each_task(config, tmp_path, task_file, capsys):
    other = tmp_path / "other.tsv"
    other.write_text(task_file.read_text().replace("film", "long and winding book"))
    arguments = [
        "train", f"--backbone={config.backbone}", f"--out={config.out}", "--data.tasks",
        f"file:{task_file},file:{other}", "--train.steps=4", "--train.batch-size=8",
        "--train.eval-every=2", "--train.checkpoint-every=2", "--eval.batch-size=8",
        "--eval.max-new-tokens=2",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 tasks at once: ")
    folders = sorted((tmp_path / "run" / "tasks").iterdir())
    assert len(folders) == 2
    for folder, path in zip(folders, sorted([task_file, other]), strict=True):
        assert {"prompt", "report.md", "curve.png", "config.json"} <= {
            p.name for p in folder.iterdir()
        }
        steps = [json.loads(line)["step"] for line in open(folder / "metrics.jsonl")]
        assert steps == [0, 1, 2, 3, 4]
        kept = json.loads((folder / "config.json").read_text())
        assert kept["data"]["task"] == f"file:{path}"
    assert cli.main([*arguments[:3], "--resume"]) == 0
    assert "resuming after step 4 of 4" in capsys.readouterr().out
    assert cli.main([*arguments, "--overwrite"]) == 0


@pytest.mark.slow
def test_tasks_that_all_diverge(config, task_file):
    data = DataConfig(tasks=(f"file:{task_file}",))
    train = dataclasses.replace(config.train, learning_rate=1e38, weight_decay=1e3, steps=20)
    with pytest.raises(DivergedError, match="no prompt has a loss that is a number after step"):
        train_tasks(dataclasses.replace(config, data=data, train=train), say=lambda _: None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tasks": ("a", "a")}, "data.tasks names each task once, got a, a"),
        ({"tasks": ("a,b",), "mixture": ("c",)}, "leave out data.mixture, data.validation and"),
        ({"tasks": ("a,b",), "test": "c"}, "splits of its own"),
    ],
)
def test_tasks_that_do_not_go_together(data, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**data)


def test_a_head_answers_one_task(config, tiny_bert, embedded, tmp_path, task_file):
    from prompt_jax.experiment import load_data

    backbone = dataclasses.replace(tiny_bert, tokenizer=embedded.tokenizer)
    second = tmp_path / "second.tsv"
    second.write_text(task_file.read_text())
    own = [
        dataclasses.replace(config, data=DataConfig(task=f"file:{path}"))
        for path in (task_file, second)
    ]
    with pytest.raises(InputError, match="a head answers one task, and the members have file:"):
        Population(own, backbone, [load_data(c) for c in own])
