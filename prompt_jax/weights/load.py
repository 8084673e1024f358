"""From the name of a backbone to its config, its weights on their devices and its tokenizer."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import PRESETS, Backbone, ModelConfig, init_params, shardings
from prompt_jax.backbones.quantised import LIMITS, quantise_tree
from prompt_jax.config import ATTENTIONS, DTYPES, REMATS, InputError, MeshConfig, choose
from prompt_jax.sharding import Device, build_mesh, check_mesh
from prompt_jax.tasks import openings
from prompt_jax.tasks.chat import turn_ends
from prompt_jax.trees import Frozen, Tokenizer
from prompt_jax.weights.gguf import is_gguf, read_gguf
from prompt_jax.weights.hub import locate
from prompt_jax.weights.hugging_face import read_hugging_face
from prompt_jax.weights.mapping import assemble, shapes
from prompt_jax.weights.progress import reading
from prompt_jax.weights.stored import StoredTensor
from prompt_jax.weights.t5x import read_t5x
from prompt_jax.weights.tokenizer import has_tokenizer, load_tokenizer


def load_backbone(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    dtype: str = "auto",
    remat: str = "none",
    remat_beyond: int = 0,
    attention_chunk: int | None = None,
    attention: str = "einsum",
    scan: bool | None = None,
    seed: int = 0,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    mesh: MeshConfig | Mesh | None = None,
    say: Callable[[str], None] | None = None,
) -> Backbone:
    """A frozen backbone: its module's config, weights on their devices, and tokenizer.

    Weights go to their devices block by block, so the host needs next to nothing beside them. The
    fingerprint depends on their values only, see `mapping.assemble`.

    Args:
      name: `embedded`; a hub id; a folder in Hugging Face's format; a .gguf file, or a folder with
        one; a legacy T5X checkpoint, a folder or `gs://...`; or a preset such as `t5_1_1_small`,
        which has random weights.
      revision: branch, tag or commit of a hub id.
      token: for private repositories; None takes the one of `hf auth login`.
      dtype: `auto` is bfloat16 on TPU and GPU, float32 on CPU; `int8` and `float8` hold kernels
        and the word table in eight bits with a scale an output, `int4` kernels in four with a scale
        for every 64 inputs of an output; they compute in what `auto` is.
      remat: `none`, `minimal` or `full`: what the backward pass recomputes.
      remat_beyond: positions of an input up to which `full` is `minimal`.
      attention_chunk: queries that attention answers at a time; None answers all at once.
      attention: `einsum`, or a kernel that never holds all scores: `cudnn` on a GPU, `pallas` on a
        TPU; `auto` takes the one of the device, which on a CPU is `einsum`.
      scan: compile one block for all layers, or each layer; None is each on one CPU, where that
        runs faster, and one elsewhere, where it compiles faster.
      seed: of a preset's weights.
      tokenizer: a tokenizer, or the folder or hub id of one; None takes the one beside the
        weights. T5X checkpoints and presets have none.
      mesh: the devices that share the model, by sizes or as `jax.make_mesh` gives them, with the
        axes `data`, `fsdp` and `tensor` of type Auto; None is the default device.
      say: receives a line now and then while a large checkpoint is read.

    Raises:
      InputError: there is no such backbone, or it is damaged, incomplete or of another kind; or
        the mesh does not divide the devices or its heads.
    """
    name = os.fspath(name)
    choose("dtype", dtype, DTYPES)
    choose("remat", remat, REMATS)
    how = {"dtype": _dtype(dtype), "remat": remat, "remat_beyond": remat_beyond}
    how |= {"attention_chunk": attention_chunk}
    how |= {"attention": kernel_on(jax.devices()[0], attention)}
    config, source, tensors = open_backbone(name, revision, token, **how)
    kind = dtype if dtype in LIMITS else None
    config = _on_mesh(config, mesh, scan, kind)
    # Before the weights, so that what building a tokenizer takes is free again when they come.
    words = tokenizer_for(source, tokenizer)
    if tensors is None:
        params = _random(config, seed, kind)
        fingerprint = hashlib.sha256(f"{name} with seed {seed}".encode()).hexdigest()
    else:
        total = sum(math.prod(t.shape) * t.dtype.itemsize for t in tensors.values())
        progress = None if say is None else reading(total, say)
        params, fingerprint = assemble(source, tensors, config, progress, kind)
    config = in_words(config, words)
    return Backbone(
        name=name, config=config, params=params, tokenizer=words, fingerprint=fingerprint
    )


def tokenizer_for(
    source: str, tokenizer: Tokenizer | str | os.PathLike[str] | None
) -> Tokenizer | None:
    """The tokenizer that is given or named, or else the one beside the weights."""
    # What lies beside a T5X checkpoint is no tokenizer that the checkpoint names.
    complete = is_gguf(Path(source)) or Path(source, "config.json").exists()
    if tokenizer is None and complete and has_tokenizer(Path(source)):
        tokenizer = source
    by_name = isinstance(tokenizer, str | os.PathLike)
    return load_tokenizer(os.fspath(tokenizer)) if by_name else tokenizer


def in_words(config: ModelConfig, words: Tokenizer | None) -> ModelConfig:
    """The config with what a tokenizer tells: what ends answers, what opens turns of chats."""
    config = config.told_by_tokenizer(words)
    if config.eos_token_ids:  # Targets of chats end with their turn, so that answers do too.
        with contextlib.suppress(InputError):  # A template that takes no chat as plain as this.
            ends = dict.fromkeys((*config.eos_token_ids, *turn_ends(words)))
            config = dataclasses.replace(config, eos_token_ids=tuple(ends))
    if config.target_place == "behind":
        config = dataclasses.replace(config, openings=openings(words))
    return config


def read_config(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    dtype: str = "auto",
    mesh: MeshConfig | Mesh | None = None,
) -> ModelConfig:
    """The config of a backbone on a mesh; none of its weights is read.

    Raises:
      InputError: as `load_backbone`.
    """
    choose("dtype", dtype, DTYPES)
    config, _, _ = open_backbone(os.fspath(name), revision, token, dtype=_dtype(dtype))
    return _on_mesh(config, mesh, None, dtype if dtype in LIMITS else None)


def open_backbone(
    name: str, revision: str | None, token: str | None, *, table_only: bool = False, **fields: Any
) -> tuple[ModelConfig, str, dict[str, StoredTensor] | None]:
    """The config, where the weights are, and the weights; those of a preset are none.

    Args:
      name: as for `load_backbone`, as are `revision` and `token`.
      revision: of a hub id.
      token: for private repositories.
      table_only: a model in shards is there as soon as the one with the embedding table is.
      fields: of the config that are not the checkpoint's, such as dtype.
    """
    if name in PRESETS:
        return dataclasses.replace(PRESETS[name], **fields), "", None
    source = locate(name, revision, token, table_only=table_only)
    if is_gguf(Path(source)):
        read = read_gguf
    elif source.startswith("gs://") or Path(source, "checkpoint").is_file():
        read = read_t5x
    else:
        read = functools.partial(read_hugging_face, table_only=table_only)
    config, tensors = read(source, **fields)
    return config, source, tensors


def kernel_on(device: Device, attention: str) -> str:
    """What computes attention on a device.

    Args:
      attention: of `ATTENTIONS`, or `auto`.

    Raises:
      InputError: it runs on other devices.
    """
    choose("attention", attention, (*ATTENTIONS, "auto"))
    kernel = {"gpu": "cudnn", "tpu": "pallas"}.get(device.platform, "einsum")
    if kernel == "cudnn":
        # Of NVIDIA's from Ampere on: not of a T4 or a V100, nor of AMD, whose name is no number.
        generation = str(device.compute_capability).partition(".")[0]
        kernel = kernel if generation.isdecimal() and int(generation) >= 8 else "einsum"
    if attention not in ("auto", "einsum", kernel):
        raise InputError(
            f"attention {attention} does not run on {device.device_kind}, which has {kernel}; use "
            "auto"
        )
    return kernel if attention == "auto" else attention


def _dtype(name: str) -> np.dtype:
    if name not in ("float32", "bfloat16"):
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def _on_mesh(
    config: ModelConfig, mesh: MeshConfig | Mesh | None, scan: bool | None, kind: str | None
) -> ModelConfig:
    """The config of a model that these devices share."""
    if isinstance(mesh, MeshConfig):
        itemsize = jnp.dtype(config.dtype).itemsize if kind is None else 1
        size = sum(map(math.prod, shapes(config).values())) * itemsize
        mesh = build_mesh(mesh, heads=config.num_heads, size=size)
    elif mesh is not None:
        check_mesh(mesh, config.num_heads)
    if scan is None:
        scan = jax.default_backend() != "cpu" or mesh is not None
    return dataclasses.replace(config, scan=scan, mesh=mesh)


def _random(config: ModelConfig, seed: int, kind: str | None) -> Frozen:
    # Fields that do not change the draw are set alike, so that they compile nothing anew.
    plain = dataclasses.replace(config, scan=True, remat="none", mesh=None)
    key, draw = jax.random.key(seed), _draw
    if config.mesh is not None:
        # Drawn where it will be: a model that needs a mesh may not fit on one device.
        draw = jax.jit(draw, static_argnums=(0, 1), out_shardings=shardings(config, kind))
    return draw(plain, kind, key)


# By itself, so that a second seed compiles nothing.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(config: ModelConfig, kind: str | None, key: PRNGKeyArray) -> Frozen:
    params = init_params(config, key)
    params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
    return params if kind is None else quantise_tree(params, kind)
