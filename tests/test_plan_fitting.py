"""What a run keeps for its backward pass, and the rows of its evaluations, by what fits."""

import dataclasses

import pytest

from prompt_jax.config import (
    BackboneConfig,
    Config,
    DataConfig,
    EvalConfig,
    InputError,
    TrainConfig,
)
from prompt_jax.plan import fitted, plan, plan_remat, planned
from prompt_jax.plan.programs import programs_of


@pytest.fixture(scope="module")
def config(tiny_folder):
    return Config(
        backbone=str(tiny_folder),
        data=DataConfig(max_source_length=12, max_target_length=4),
        train=TrainConfig(batch_size=4),
    )


@pytest.mark.slow
def test_a_device_that_does_not_tell_has_what_is_assumed(config, monkeypatch):
    said = []
    found = plan_remat(config, say=said.append)
    assert found.config.frozen.remat == "none" and "of the 16.00 GiB of each" in said[0]
    monkeypatch.setattr("prompt_jax.sharding.ASSUMED_MEMORY", 1000)
    with pytest.raises(InputError, match="GiB of each device with remat full, and 0.00 are there"):
        plan_remat(config)
    # A plan is made all the same, and says so.
    auto = dataclasses.replace(config, frozen=BackboneConfig(remat="auto"))
    assert planned(auto, None, programs=("train",)).config.frozen.remat == "full"


@pytest.mark.slow
def test_an_evaluation_has_the_rows_that_fit(config):
    """What `train` does where a batch of evaluation is too much for its device."""
    large = dataclasses.replace(config, eval=EvalConfig(batch_size=1024))
    small = dataclasses.replace(config, eval=EvalConfig(batch_size=256))
    needed = plan(small, None, programs=("score",)).needed
    said = []
    found = fitted(large, memory=needed + 1e-4, say=said.append)
    assert found == small and len(said) == 1
    assert said[0].startswith(f"evaluation of 256 rows at a time: {needed:.2f} of the {needed:.2f}")
    assert said[0].endswith(" with 512") and " with 1024, and " in said[0]
    # This CPU does not tell how much there is.
    assert fitted(large, say=said.append) == large and len(said) == 1
    few = dataclasses.replace(config, eval=EvalConfig(batch_size=2))
    with pytest.raises(InputError, match="score of 1 rows takes 0.* GiB of each .*, and 0.00 are"):
        fitted(few, memory=1e-6)


@pytest.mark.slow
def test_remat_is_what_fits():
    """Small T5 on this CPU, pretending that its memory ends between two ways."""
    config = Config(
        backbone="t5_1_1_small",
        frozen=BackboneConfig(remat="auto"),
        data=DataConfig(max_source_length=492, max_target_length=8),
        train=TrainConfig(batch_size=8),
    )
    assert plan_remat(config).config.frozen.remat == "none"
    needed = {}
    for remat in ("none", "minimal", "full"):
        frozen = BackboneConfig(remat=remat)
        needed[remat] = plan(dataclasses.replace(config, frozen=frozen), None).needed
    assert needed["none"] > needed["minimal"] > needed["full"]
    said = []
    for remat, gib in needed.items():
        found = plan_remat(config, memory=gib + 1e-4, say=said.append)
        assert found.config.frozen.remat == remat and found.needed == pytest.approx(gib)
    none, minimal, full = needed.values()
    assert said[0] == f"remat none: a step takes {none:.2f} of the {none:.2f} GiB of each device"
    assert said[2].endswith(f"device, and {none:.2f} with none, and {minimal:.2f} with minimal")
    # Where only `full` fits 512 positions, short inputs keep what there is room for.
    beyond = found.config.frozen.remat_beyond
    assert beyond in (128, 256) and said[3].startswith(f"remat minimal up to {beyond} positions")
    assert programs_of(found.config) == ("train", "short train", "score")
    costs = {cost.program: cost for cost in plan(found.config, None).costs}
    assert costs["short train"].needed <= full + 1e-4
    assert costs["short train"].flops < costs["train"].flops
    message = "t5_1_1_small takes .* GiB of each device with remat full, and 0.10 are there; take"
    with pytest.raises(InputError, match=message):
        plan_remat(config, memory=0.1)
