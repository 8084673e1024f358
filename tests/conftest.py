"""Shape checks, strict ranks and a tiny backbone for every test."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import beartype
import jaxtyping

# An int is a good float, as PEP 484 says and beartype by itself does not.
typechecked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
jaxtyping.install_import_hook("prompt_jax", "conftest.typechecked")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny():
    """A random T5 1.1 of 2 encoder and 3 decoder layers, with heads*d_kv != d_model."""
    from prompt_jax.backbones import Backbone
    from prompt_jax.backbones.t5 import T5Config, init_params

    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_heads=3, num_layers=2, num_decoder_layers=3
    )
    return Backbone(name="tiny", config=config, params=init_params(config, jax.random.key(0)))


@pytest.fixture(scope="session")
def embedded():
    """The backbone that ships with the package, with its tokenizer."""
    from prompt_jax.weights import load_backbone

    return load_backbone("embedded")
