"""What the text of a compiled program tells, and what a jaxpr counts."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from prompt_jax.plan.chips import links_of
from prompt_jax.plan.compiled import Traffic, read_compiled
from prompt_jax.plan.costs import work_of
from prompt_jax.plan.plan import _needed
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
