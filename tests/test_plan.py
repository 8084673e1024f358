"""Plans: what is counted, on devices at hand and on TPUs that are not."""

import dataclasses
import json
import re
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from prompt_jax import cli
from prompt_jax.backbones.blocks import MLP, stack
from prompt_jax.backbones.t5 import T5Config
from prompt_jax.config import (
    BackboneConfig,
    Config,
    DataConfig,
    EvalConfig,
    InputError,
    MeshConfig,
    TaskConfig,
    TrainConfig,
)
from prompt_jax.plan import (
    TOPOLOGIES,
    Plan,
    as_json,
    draw,
    fitted,
    plan,
    plan_remat,
    planned,
    search,
    text,
)
from prompt_jax.plan.chips import devices_of, links_of
from prompt_jax.plan.compiled import Traffic, read_compiled
from prompt_jax.plan.costs import work_of
from prompt_jax.plan.plan import _needed, _rank, _text, alternatives
from prompt_jax.plan.programs import programs_of
from prompt_jax.sharding import AXES

HLO = """HloModule jit_step

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %all-reduce.1 = bf16[4,8]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  %ags = (bf16[2,8]{1,0}, bf16[4,8]{1,0}) all-gather-start(%y), dimensions={0}
  %agd = bf16[4,8]{1,0} all-gather-done(%ags)
}

%until (q: (s32[], bf16[4,8])) -> pred[] {
  %n = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[3]) -> f32[3] {
  %w = (s32[], bf16[4,8]) while(%t), condition=%until, body=%body
  %all-reduce.2 = f32[20,64]{1,0} all-reduce(%g), to_apply=%add
  %f = f32[3] fusion(%a), kind=kLoop, calls=%fused
}
"""
GROUPS = "channel_id=7, replica_groups=mesh['a'=2,'b'=4] {'b'}"
CYCLES = 'backend_config={"window_config":{"estimated_cycles":"100"}}'
TPU = f"""HloModule jit_step

%started (x: bf16[4,8]) -> bf16[16,8] {{
  %ag.1 = bf16[16,8] all-gather(%x), {GROUPS}, dimensions={{0}}
  ROOT %c.1 = (bf16[16,8], u32[]) custom-call(%ag.1), custom_call_target="AsyncCollectiveStart"
}}

%beside (x: bf16[4,8], y: bf16[64,8]) -> bf16[64,8] {{
  %ag.2 = bf16[16,8] all-gather(%x), {GROUPS}, dimensions={{0}}
}}

%done (x: bf16[4,8]) -> bf16[16,8] {{
  %ag.3 = bf16[16,8] all-gather(%x), {GROUPS}, dimensions={{0}}
}}

%all-reduce-scatter.1 (x: f32[8,8]) -> f32[4,8] {{
  %ar = f32[8,8] all-reduce(%x), channel_id=8, replica_groups=[4,2]<=[8], to_apply=%add
}}

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {{
  %s = (bf16[16,8], u32[]) fusion(%x), calls=%started
  %m = bf16[64,8] fusion(%s), calls=%beside, metadata={{op_name="jit/mlp/wi/dot"}}, {CYCLES}
  %d = bf16[16,8] fusion(%s), kind=kCustom, calls=%done
  %r = f32[4,8] fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %k = s8[8,8] copy(%w), {CYCLES}
}}

%until (q: (s32[], bf16[4,8])) -> pred[] {{
  %n = s32[] constant(24)
}}

ENTRY %main (a: f32[3]) -> f32[3] {{
  %w = (s32[], bf16[4,8]) while(%t), condition=%until, body=%body
}}
"""


def test_collectives_in_a_loop_count_as_often_as_it_runs():
    found = {(t.kind, t.bytes): (t.times, t.hidden) for t in read_compiled(HLO).traffic}
    assert found == {
        ("all-reduce", 64): (24, False),
        ("all-gather", 64): (24, True),
        ("all-reduce", 5120): (1, False),
    }


def test_what_is_written_several_times_travels_once():
    """libtpu writes a gathering at its start, at its end, and in what is computed meanwhile."""
    gathered, scattered = read_compiled(TPU).traffic
    assert gathered == Traffic("all-gather", 256, 24, 4, hidden=True)
    assert scattered == Traffic("reduce-scatter", 256, 24, 2, hidden=False)
    # Each device has a fourth of the first one, and half of the second one, before.
    assert (gathered.moved, scattered.moved) == (24 * 192, 24 * 128)
    assert scattered._replace(kind="all-reduce").moved == 24 * 256


def test_cycles_belong_to_parts_of_the_program():
    assert read_compiled(TPU).cycles == {"copies": 2400, "MLP": 2400}


@pytest.mark.parametrize(
    ("grid", "neighbours"), [((1, 1), 1), ((2, 2), 2), ((2, 4), 3), ((4, 4, 4), 6)]
)
def test_links_are_those_to_neighbours(grid, neighbours):
    kind = "TPU v5 lite" if len(grid) == 2 else "TPU v4"
    devices = [SimpleNamespace(device_kind=kind, coords=at) for at in np.ndindex(*grid)]
    assert links_of(devices) == neighbours * 50e9
    assert links_of([SimpleNamespace(device_kind="NVIDIA H200")]) == 450e9


def test_products_of_a_loop_count_as_often_as_it_runs():
    def step(x, ws):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0].sum()

    shapes = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((5, 8, 8), jnp.float32)
    work = work_of(jax.make_jaxpr(step)(*shapes).jaxpr)
    assert work.flops == 5 * 2 * 4 * 8 * 8
    assert work.bytes == 5 * 4 * (4 * 8 + 8 * 8 + 4 * 8)
    # The backward pass to the input has as many again.
    assert work_of(jax.make_jaxpr(jax.grad(step))(*shapes).jaxpr).flops == 2 * work.flops

    def loop(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    square = jax.make_jaxpr(loop)(jax.ShapeDtypeStruct((8, 8), jnp.float32)).jaxpr
    assert work_of(square, rounds=7).flops == 7 * 2 * 8**3


def test_products_on_groups_of_devices_count_for_all_of_them():
    sizes = {"axis_sizes": (4, 1, 2), "axis_names": AXES, "axis_types": (AxisType.Auto,) * 3}
    split = {"in_specs": (PartitionSpec("data"), PartitionSpec()), "axis_names": {"data"}}
    split |= {"mesh": AbstractMesh(**sizes), "out_specs": PartitionSpec("data")}
    groups = jax.shard_map(jnp.matmul, **split)
    shapes = jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert work_of(jax.make_jaxpr(groups)(*shapes).jaxpr).flops == 2 * 8**3


def test_what_a_compiler_asked_for_in_vain():
    new = "total memory required for HLO temporaries (1.50T) exceeds available HBM (15.75G). HLO"
    old = "Ran out of memory in memory space hbm. Used 46.05G of 15.75G hbm. Exceeded by 30.30G."
    assert _needed(new) == 1536 and _needed(old) == 46.05
    assert _needed("INTERNAL: something else") is None


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


class Layer(nn.Module):
    """The feed-forward of a layer, alone."""

    config: T5Config

    @nn.compact
    def __call__(self, x):
        return MLP(self.config, name="mlp")(x), None


class Layers(nn.Module):
    """Four of them."""

    config: T5Config

    @nn.compact
    def __call__(self, x):
        return stack(self, Layer, 4, x)[0]


class TestTpu:
    """Compiled for TPUs by libtpu, where it is installed."""

    @pytest.fixture(autouse=True)
    def libtpu(self):
        pytest.importorskip("libtpu", reason="pip install prompt-jax[plan]")

    def test_what_libtpu_does_not_know(self):
        with pytest.raises(InputError, match="libtpu knows no topology 'v9:2x2'.*allowed: v4-8"):
            devices_of("v9:2x2")

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["v5e-1", "v5e-4", "v4-8", "v5p-8", "v6e-8"])
    def test_slices_as_they_are_sold(self, name):
        count = int(name.partition("-")[2])
        assert name in TOPOLOGIES
        # v4 and v5p are sold by the core, of which a chip has two.
        assert len(devices_of(name)) == (count // 2 if name[:3] in ("v4-", "v5p") else count)

    @pytest.mark.slow
    def test_words_looked_up_on_sparse_cores(self):
        """jax cannot put these into text: what travels is read all the same."""
        place = jax.sharding.SingleDeviceSharding(devices_of("v5p-8")[0])
        table = jax.ShapeDtypeStruct((32128, 512), jnp.bfloat16, sharding=place)
        tokens = jax.ShapeDtypeStruct((4096,), jnp.int32, sharding=place)
        lowered = jax.jit(lambda table, tokens: table[tokens] @ table[:512]).lower(table, tokens)
        assert _text(lowered, lowered.compile()).startswith("HloModule")

    @pytest.mark.slow
    def test_kernels_in_few_bits_are_read_from_their_stack(self):
        """No product of a scan copies the kernel of its layer out of the stack before it."""
        place = jax.sharding.SingleDeviceSharding(devices_of("v5e-1")[0])
        config = T5Config(d_model=256, d_ff=512, gated=False, remat="full", dtype=jnp.bfloat16)

        def shape(dtype, *sizes):
            return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

        kernels = {
            name: {"kernel": shape(jnp.int8, 4, *sizes), "kernel_scale": shape(jnp.float32, 4, out)}
            for name, *sizes, out in (("wi", 256, 512, 512), ("wo", 512, 256, 256))
        }

        def total(states, kernels):
            params = {"layers": {"mlp": kernels}}
            return Layers(config).apply({"params": params}, states).astype(jnp.float32).sum()

        states = shape(config.dtype, 8, 256, 256)
        compiled = jax.jit(jax.grad(total)).lower(states, kernels).compile()
        copies = r"= s8\[(?:1,)?(?:256,512|512,256)\]\S* (?:fusion|copy|dynamic-slice)\("
        assert re.findall(rf"{copies}.*estimated_cycles", compiled.as_text()) == []

    @pytest.mark.slow
    def test_a_mesh_of_v4_chips(self, config):
        made = plan(dataclasses.replace(config, mesh=MeshConfig(data=2, tensor=2)), "v4-8")
        assert made.fits and made.costs[0].limit == 30.75
        assert made.mesh == {"data": 2, "fsdp": 1, "tensor": 2}

    @pytest.mark.slow
    def test_members_share_devices_or_a_model(self, config):
        """Along `data` chips have members, which need not meet; `fsdp` splits the rows of each."""
        apart, shared = MeshConfig(data=4), MeshConfig(data=2, fsdp=2)
        options = {"programs": ("train",), "members": 4}
        split = dataclasses.replace(config, mesh=apart, train=TrainConfig(batch_size=3))
        # A kernel, which XLA cannot split, works on the members of its chip.
        kernel = BackboneConfig(dtype="bfloat16", attention="pallas")
        small = dataclasses.replace(split, backbone="t5_1_1_small", frozen=kernel)
        (cost,) = plan(small, "v5e-4", **options).costs
        # Metrics of all members meet: a few numbers.
        assert cost.fits and max(traffic.bytes for traffic in cost.traffic) <= 64
        with pytest.raises(InputError, match="3 rows of a step do not divide over the 2 devices"):
            plan(dataclasses.replace(split, mesh=shared), "v5e-4", **options)

    @pytest.mark.slow
    def test_what_travels_is_as_small_as_a_prompt(self, config):
        """Data-parallel training of a frozen model moves the gradient of the prompt alone."""
        data = dataclasses.replace(config, mesh=MeshConfig(data=4))
        made = plan(data, "v5e-4", programs=("train",))
        (cost,) = made.costs
        assert made.fits and cost.limit == 15.75 and 0 < cost.utilization <= 1
        assert cost.estimate.seconds == cost.seconds > cost.bounds.seconds
        assert {"MLP", "attention"} < set(cost.estimate.parts) and cost.estimate.network > 0
        assert "its compiler's estimate" in text(made)
        largest = max(found.bytes for found in cost.traffic)
        assert largest <= 4 * config.method.num_virtual_tokens * 16
        split = plan(
            dataclasses.replace(config, mesh=MeshConfig(data=1, tensor=2, fsdp=2)), "v5e-4"
        )
        assert split.costs[0].memory.weights < 0.6 * cost.memory.weights
        assert split.mesh == {"data": 1, "fsdp": 2, "tensor": 2}

    @pytest.mark.slow
    def test_a_model_that_does_not_fit_is_answered(self):
        """256 rows of small T5 keep too much for one chip of 16 GB, and fit once they keep less."""
        large = Config(
            backbone="t5_1_1_small",
            data=DataConfig(max_source_length=412, max_target_length=16),
            frozen=BackboneConfig(dtype="bfloat16"),
            train=TrainConfig(batch_size=256),
        )
        made = plan(large, "v5e-1", programs=("train",))
        assert not made.fits and made.needed > 15.75
        assert ", train takes " in text(made) and "over the 15.75 of each" in text(made)
        (other,) = search(made, enough=1)
        assert other.fits and other.config.frozen.remat == "full" and other.needed < 10
        assert "the cheapest that fit:" in text(made, [other])


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
