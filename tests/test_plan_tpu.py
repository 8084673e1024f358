"""Plans for TPUs that are not here, compiled by libtpu."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from prompt_jax.backbones.blocks import MLP, stack
from prompt_jax.backbones.t5 import T5Config
from prompt_jax.config import (
    BackboneConfig,
    Config,
    DataConfig,
    InputError,
    MeshConfig,
    TrainConfig,
)
from prompt_jax.plan import TOPOLOGIES, plan, search, text
from prompt_jax.plan.chips import compile_for, devices_of
from prompt_jax.plan.plan import _text


@pytest.fixture(scope="module")
def config(tiny_folder):
    return Config(
        backbone=str(tiny_folder),
        data=DataConfig(max_source_length=12, max_target_length=4),
        train=TrainConfig(batch_size=4),
    )


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
        devices = devices_of("v5p-8")
        place = jax.sharding.SingleDeviceSharding(devices[0])
        table = jax.ShapeDtypeStruct((32128, 512), jnp.bfloat16, sharding=place)
        tokens = jax.ShapeDtypeStruct((4096,), jnp.int32, sharding=place)
        lowered = jax.jit(lambda table, tokens: table[tokens] @ table[:512]).lower(table, tokens)
        compiled = compile_for(devices, lowered)
        assert _text(compiled, lowered, devices).startswith("HloModule")

    @pytest.mark.slow
    def test_kernels_in_few_bits_are_read_from_their_stack(self):
        """No product of a scan copies the kernel of its layer out of the stack before it."""
        devices = devices_of("v5e-1")
        place = jax.sharding.SingleDeviceSharding(devices[0])
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
        compiled = compile_for(devices, jax.jit(jax.grad(total)).lower(states, kernels))
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
