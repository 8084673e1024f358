"""Legacy T5X checkpoints: a msgpack named `checkpoint`, beside it a zarr for every large weight.

Small weights stand in the msgpack; of a large one it holds a TensorStore spec. Only the last part
of the spec's path counts, because checkpoints are moved between disks and buckets.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from prompt_jax.backbones import t5
from prompt_jax.backbones.t5 import COPIES, TABLES
from prompt_jax.backbones.t5.names import ATTENTION
from prompt_jax.config import InputError
from prompt_jax.weights.msgpack import Array, walk
from prompt_jax.weights.stored import (
    StoredTensor,
    damaged,
    float_dtype,
    parsing,
    transposed,
)

BLOCKS = {
    "encoder": (
        ("pre_attention_layer_norm", "attention", "SelfAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
    "decoder": (
        ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
        ("pre_cross_attention_layer_norm", "encoder_decoder_attention", "EncDecAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
}
MLP = ("wi", "wi_0", "wi_1", "wo")
Spec: TypeAlias = Mapping[str, Any]
"""What TensorStore opens; a checkpoint nests them in its tree."""
PATIENCE = {"max_retries": 4, "max_delay": "4s"}


def read_t5x(location: str, **fields: Any) -> tuple[t5.T5Config, dict[str, StoredTensor]]:
    """The config, read off the shapes, and the weights, under Hugging Face's names.

    Args:
      location: a `checkpoint_<step>` folder on disk or in a bucket (`gs://...`).
      fields: of the config that are not the checkpoint's, such as dtype.

    Raises:
      InputError: no legacy T5X checkpoint is there, or it is damaged or of another model.
    """
    store = _store(location)
    data = _read_file(store, location, "checkpoint")
    with parsing(f"{location}/checkpoint", "a T5X checkpoint"):
        tree = walk(io.BytesIO(data))
        target = tree["optimizer"]["target"] if "optimizer" in tree else tree["target"]
        leaves = dict(_leaves(target))
    specs = {path: leaf for path, leaf in leaves.items() if isinstance(leaf, dict)}
    tensors = _open_zarrs(store, location, specs)
    for path in leaves.keys() - specs.keys():
        tensors[path] = _inlined(location, path, leaves[path], data)
    _refuse_scanned(location, tensors)
    return _config(location, tensors, fields), _renamed(tensors)


def _store(location: str) -> Spec:
    """The TensorStore key-value store of a folder."""
    if location.startswith("gs://"):
        bucket, _, path = location.removeprefix("gs://").partition("/")
        place = {"driver": "gcs", "bucket": bucket, "path": f"{path.rstrip('/')}/"}
        return {**place, "context": {"gcs_request_retries": PATIENCE}}
    return {"driver": "file", "path": f"{Path(location).absolute()}/"}


def _read_file(store: Spec, location: str, name: str) -> bytes:
    import tensorstore as ts

    try:
        result = ts.KvStore.open(store).result().read(name).result()
    except ValueError as error:
        raise InputError(f"{location}: {_cause(error)}; check address and access") from error
    if result.state != "value":
        raise InputError(
            f"{location} has no file {name!r}, so it is not a legacy T5X checkpoint; newer ones "
            f"(Orbax) are not read: convert it to Hugging Face's format"
        )
    return result.value


def _leaves(tree: Spec, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths with the arrays and the TensorStore specs they lead to."""
    for key, value in tree.items():
        if isinstance(value, Array) or "kvstore" in value:
            yield f"{prefix}{key}", value
        else:
            yield from _leaves(value, f"{prefix}{key}/")


def _inlined(location: str, path: str, array: Array, data: bytes) -> StoredTensor:
    dtype = float_dtype(f"{location}/checkpoint", path, array.dtype)
    offset, size = array.bytes
    with parsing(f"{location}/checkpoint", f"whole: {path} lies outside of it"):
        values = np.frombuffer(data[offset : offset + size], dtype).reshape(array.shape)
    return StoredTensor(array.shape, dtype, lambda: values)


def _open_zarrs(store: Spec, location: str, specs: dict) -> dict[str, StoredTensor]:
    """All zarrs of a checkpoint; opened at once, because a bucket answers each in its own time."""
    import tensorstore as ts

    folders = {}
    for path, spec in specs.items():
        with parsing(f"{location}/checkpoint", f"clear about where {path} is"):
            written = f"{spec['kvstore'].get('path', '')}/{spec.get('path', '')}".rstrip("/")
            # The last part alone: the rest of the path is where the checkpoint was first written.
            folders[path] = written.rsplit("/", 1)[-1]
    opening = {
        path: ts.open(
            {
                "driver": "zarr",
                "kvstore": {**store, "path": f"{store['path']}{folder}/"},
                # A missing chunk is an error here; TensorStore's own answer is zeros.
                "fill_missing_data_reads": False,
                "open": True,
            }
        )
        for path, folder in folders.items()
    }
    tensors = {}
    for path, future in opening.items():
        with parsing(f"{location}/{folders[path]}", "a zarr"):
            tensors[path] = _zarr(f"{location}/{folders[path]}", path, future.result())
    return tensors


def _zarr(file: str, path: str, array: Any) -> StoredTensor:
    def read_rows(first: int, last: int) -> np.ndarray:
        try:
            return array[first:last].read().result()
        except ValueError as error:
            raise damaged(file, _cause(error)) from error

    shape, dtype = tuple(array.shape), float_dtype(file, path, array.dtype.name)
    return StoredTensor(shape, dtype, lambda: read_rows(0, shape[0]), read_rows)


def _cause(error: Exception) -> str:
    """TensorStore's message without the spec and the source lines that it appends."""
    return re.split(r" \[(tensorstore_spec|source locations)", str(error))[0]


def _refuse_scanned(location: str, tensors: Mapping[str, StoredTensor]) -> None:
    if "encoder/layers_0/attention/query/kernel" not in tensors:
        names = ", ".join(sorted(tensors)[:3])
        raise InputError(
            f"{location}: no weight encoder/layers_0/attention/query/kernel, but {names}; only T5X "
            f"models with unscanned layers are read: convert it to Hugging Face's format"
        )


def _config(location: str, tensors: Mapping[str, StoredTensor], fields: dict) -> t5.T5Config:
    """A T5X folder has no config file, but its shapes say all of it that matters."""
    with parsing(f"{location}/checkpoint", "a T5"):
        vocab, width = tensors["token_embedder/embedding"].shape
        heads, buckets = tensors["encoder/relpos_bias/rel_embedding"].shape
        tied = "decoder/logits_dense/kernel" not in tensors
        gated = "encoder/layers_0/mlp/wi_0/kernel" in tensors
        return t5.T5Config(
            **{
                "vocab_size": vocab,
                "d_model": width,
                "d_kv": tensors["encoder/layers_0/attention/query/kernel"].shape[1] // heads,
                "d_ff": tensors["encoder/layers_0/mlp/wo/kernel"].shape[0],
                "num_heads": heads,
                "num_layers": _depth(tensors, "encoder"),
                "num_decoder_layers": _depth(tensors, "decoder"),
                "activation": "gelu_new" if gated else "relu",
                "gated": gated,
                "tie_embeddings": tied,
                # T5 1.0 ties its head and scales by width ** -0.5; T5 1.1 does neither.
                "scale_logits": tied,
                "relative_attention_num_buckets": buckets,
                **fields,
            }
        )


def _depth(tensors: Mapping[str, StoredTensor], stack: str) -> int:
    matches = (re.match(rf"{stack}/layers_(\d+)/", path) for path in tensors)
    return 1 + max(int(match[1]) for match in matches if match)


def _renamed(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Hugging Face's names and orientation; what has none keeps its own, and is refused later."""
    names = {"token_embedder/embedding": TABLES[0], "decoder/logits_dense/kernel": COPIES[0]}
    for stack, blocks in BLOCKS.items():
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names[f"{stack}/relpos_bias/rel_embedding"] = bias
        names[f"{stack}/{stack}_norm/scale"] = f"{stack}.final_layer_norm.weight"
        for layer in range(_depth(tensors, stack)):
            for i, (norm, part, module) in enumerate(blocks):
                old, new = f"{stack}/layers_{layer}", f"{stack}.block.{layer}.layer.{i}"
                names[f"{old}/{norm}/scale"] = f"{new}.layer_norm.weight"
                kernels = dict(zip(MLP, MLP, strict=True)) if part == "mlp" else ATTENTION
                for kernel, letter in kernels.items():
                    names[f"{old}/{part}/{kernel}/kernel"] = f"{new}.{module}.{letter}.weight"
    # T5X has kernels [in, out] and biases [heads, buckets], and torch the reverse of both.
    reverse = ("kernel", "rel_embedding")
    return {
        names.get(path, path): transposed(tensor) if path.endswith(reverse) else tensor
        for path, tensor in tensors.items()
    }
