"""Checkpoints in, frozen trees out: Hugging Face folders, hub ids, T5X, and random models."""

import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from prompt_jax.backbones import FAMILIES, Backbone, family_of, is_encoder
from prompt_jax.config import DTYPES, REMATS, choose
from prompt_jax.weights.export import save_hugging_face as save_hugging_face
from prompt_jax.weights.hub import locate
from prompt_jax.weights.hugging_face import read_hugging_face
from prompt_jax.weights.mapping import assemble
from prompt_jax.weights.t5x import read_t5x
from prompt_jax.weights.tokenizer import has_tokenizer
from prompt_jax.weights.tokenizer import load_tokenizer as load_tokenizer


def load_backbone(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    dtype: str = "auto",
    remat: str = "none",
    scan: bool | None = None,
    seed: int = 0,
    tokenizer: Any = None,
) -> Backbone:
    """A frozen backbone: its module's config, weights on the default device, and tokenizer.

    Weights are read one leaf at a time, so the host needs little more than the model's size. The
    fingerprint depends on their values only, see `mapping.assemble`.

    Args:
      name: `embedded`; a hub id; a folder in Hugging Face's format; a legacy T5X checkpoint, a
        folder or `gs://...`; or a preset such as `t5_1_1_small`, which has random weights.
      revision: branch, tag or commit of a hub id.
      token: for private repositories; None takes the one of `hf auth login`.
      dtype: `auto` is bfloat16 on TPU and GPU, float32 on CPU.
      remat: `none`, `minimal` or `full`: what the backward pass recomputes.
      scan: compile one block for all layers, or each layer; None is each on CPU, where that runs
        faster, and one elsewhere, where it compiles faster.
      seed: of a preset's weights.
      tokenizer: a tokenizer, or the folder or hub id of one; None takes the one beside the
        weights. T5X checkpoints and presets have none.

    Raises:
      InputError: there is no such backbone, or it is damaged, incomplete or of another kind.
    """
    name = os.fspath(name)
    choose("dtype", dtype, DTYPES)
    choose("remat", remat, REMATS)
    scan = jax.default_backend() != "cpu" if scan is None else scan
    ours = {"remat": remat, "dtype": _dtype(dtype), "scan": scan}
    presets = {name: config for family in FAMILIES for name, config in family.PRESETS.items()}
    if name in presets:
        config = dataclasses.replace(presets[name], **ours)
        rolled = dataclasses.replace(config, scan=True, remat="none")
        params = _random(rolled, jax.random.key(seed))
        fingerprint = hashlib.sha256(f"{name} with seed {seed}".encode()).hexdigest()
    else:
        source = locate(name, revision, token)
        t5x = source.startswith("gs://") or Path(source, "checkpoint").is_file()
        config, tensors = (read_t5x if t5x else read_hugging_face)(source, **ours)
        params, fingerprint = assemble(source, tensors, config)
        if tokenizer is None and not t5x and has_tokenizer(Path(source)):
            tokenizer = source
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = load_tokenizer(os.fspath(tokenizer))
    if is_encoder(config):  # No config.json tells its special tokens.
        own = {name: getattr(tokenizer, name, None) for name in ("mask_token_id", "sep_token_id")}
        own = {name: token for name, token in own.items() if token is not None}
        config = dataclasses.replace(config, **own)
    return Backbone(
        name=name, config=config, params=params, tokenizer=tokenizer, fingerprint=fingerprint
    )


def _dtype(name: str) -> Any:
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


@functools.partial(jax.jit, static_argnums=0)
def _random(config: Any, key: jax.Array) -> Any:
    params = family_of(config).init_params(config, key)
    return jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
