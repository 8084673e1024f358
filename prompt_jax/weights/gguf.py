"""GGUF: one file with the config, the tokenizer and the weights of a model, often in few bits.

llama.cpp's names and layout are turned into those of Hugging Face, so that the rest knows one.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from prompt_jax.backbones import BACKBONES, Family, ModelConfig
from prompt_jax.backbones.causal import CausalConfig
from prompt_jax.backbones.causal.config_json import FULL, SLIDING
from prompt_jax.backbones.causal.rope import rotations
from prompt_jax.config import InputError, choose
from prompt_jax.weights.gguf_architectures import ARCHITECTURES, GEMMA, GPT2, T5
from prompt_jax.weights.mapping import is_tied
from prompt_jax.weights.stored import StoredTensor, at_extent, parsing, reordered, transposed

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType as Kind
    from gguf import ReaderTensor
else:
    Kind = ReaderTensor = Any

Metadata: TypeAlias = Mapping[str, Any]
"""Numbers, texts and lists by llama.cpp's keys."""
ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
"""Ids that end a text, a turn and a message."""
FACTORS = "rope_freqs.weight"
"""By how much each pair of a head turns slower, for longer texts: Llama 3.1 and later."""
LONGROPE = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
"""The same for texts of the first length and for longer ones: Phi-3."""
UNUSED = ("dec.blk.0.cross_attn_rel_b.weight",)
"""A weight of old T5 1.0 checkpoints that no T5 has ever read."""


class GGUF(NamedTuple):
    """What a file holds."""

    metadata: Metadata
    tensors: dict[str, StoredTensor]
    """By llama.cpp's names, in torch's orientation, dequantised as they are read."""


def is_gguf(source: Path) -> bool:
    """Whether this is a .gguf file."""
    return source.suffix.lower() == ".gguf" and source.is_file()


def library() -> ModuleType:
    """The `gguf` library, which knows the format and every quantisation.

    Raises:
      InputError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            'reading a .gguf file needs the gguf library: pip install "prompt-jax[gguf]"'
        ) from error
    return gguf


def open_gguf(file: Path) -> GGUF:
    """The metadata and the weights of a file.

    Raises:
      InputError: the file is damaged, is a part of a model, or holds a quantisation that the gguf
        library cannot dequantise.
    """
    stamp = file.stat()
    # Time and size are part of the cache's key, so a file that was replaced is read again.
    return _open(file, stamp.st_mtime_ns, stamp.st_size)


# A file is opened for its weights and again for its tokenizer, and its words take seconds to parse.
@functools.lru_cache(maxsize=1)
def _open(file: Path, modified: int, size: int) -> GGUF:
    gguf = library()
    with parsing(file, "GGUF"):
        reader = gguf.GGUFReader(file)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    parts = metadata.get("split.count", 0)
    if parts > 1:
        raise InputError(
            f"{file} is one of the {parts} parts of a model; join them first: "
            f"llama-gguf-split --merge {file} whole.gguf"
        )
    if reader.endianess == gguf.GGUFEndian.BIG:
        raise InputError(f"{file} is big-endian; use a little-endian file of the same model")
    kinds = {tensor.tensor_type for tensor in reader.tensors}
    for kind in sorted(kinds - set(_dequantisable(kinds))):
        names = ", ".join(readable.name for readable in _dequantisable(gguf.GGMLQuantizationType))
        raise InputError(
            f"{file} holds weights of type {kind.name}, which the gguf library cannot dequantise; "
            f"allowed: {names}; use another file of the same model"
        )
    return GGUF(metadata, {tensor.name: _stored(file, tensor) for tensor in reader.tensors})


def _dequantisable(kinds: Iterable[Kind]) -> list[Kind]:
    """The quantisations of which the library can read a block, tried on one of zeros."""
    gguf, readable = library(), []
    for kind in kinds:
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            continue
        readable.append(kind)
    return readable


def _stored(file: Path, tensor: ReaderTensor) -> StoredTensor:
    """A weight of the file; its rows are dequantised as they are read."""
    gguf, kind = library(), tensor.tensor_type
    # GGUF lists the axis first along which numbers are neighbours.
    shape = tuple(int(size) for size in tensor.shape[::-1])
    # The data have the shape of the weight where they are floats, and rows of bytes where not.
    data = tensor.data
    packed = at_extent(
        file, tensor.name, int(tensor.data_offset), int(tensor.n_bytes), data.shape, data.dtype
    )

    def read_rows(first: int, last: int) -> np.ndarray:
        assert packed.read_rows is not None
        return gguf.dequantize(packed.read_rows(first, last), kind)

    def read() -> np.ndarray:
        return gguf.dequantize(packed.read(), kind)

    return StoredTensor(shape, np.dtype(np.float32), read, read_rows if shape else None)


def read_gguf(location: str, **fields: Any) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The config, from the metadata, and the weights, under Hugging Face's names.

    Args:
      location: the file.
      fields: of the config that are not the checkpoint's, such as dtype.

    Raises:
      InputError: the file is damaged, or of an architecture that is not supported.
    """
    file = Path(location)
    contents = open_gguf(file)
    name = contents.metadata.get("general.architecture", "")
    choose(f"architecture in {file}", name, ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    with parsing(file, "the metadata of a supported model"):
        values = _config_json(contents, name)
        family = BACKBONES[values["model_type"]]
        # Whether the head is tied is only known under Hugging Face's names, which need the shapes.
        shape = family.from_hugging_face(values, tie_embeddings=False)
        _check_factors(file, contents, shape)
        tensors = _renamed(contents.tensors, name, family, shape, architecture.interleaved)
        tied = family.told_by_weights(tensors, tied=is_tied(tensors, family))
        config = family.from_hugging_face(values, **tied, **fields)
    return config, tensors


def _config_json(contents: GGUF, name: str) -> dict[str, Any]:
    """What the config.json of such a model says."""
    metadata, tensors = contents
    model_type, fields, _ = ARCHITECTURES[name]
    values = {
        word: metadata[f"{name}.{key}"]
        for key, word in fields.items()
        if f"{name}.{key}" in metadata
    }
    values |= {
        "model_type": model_type,
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "eos_token_id": [metadata[key] for key in ENDS if key in metadata] or None,
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    if fields is T5:
        per_layer = "enc.blk.1.attn_rel_b.weight" in tensors
        return values | {
            "model_type": "umt5" if per_layer else "t5",
            "feed_forward_proj": "gated-gelu" if "enc.blk.0.ffn_gate.weight" in tensors else "relu",
            "tie_word_embeddings": "output.weight" not in tensors,
        }
    if fields is GPT2:
        return values
    biased = ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias")
    values["attention_bias"] = any(name in tensors for name in biased)
    values["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    share = values["hidden_size"] // values["num_attention_heads"]
    width = values.get("head_dim", share)
    values["rope_parameters"] = _rope(metadata, name, tensors) | {
        "partial_rotary_factor": metadata.get(f"{name}.rope.dimension_count", width) / width
    }
    if fields is GEMMA:
        # No key tells; llama.cpp knows the two models that differ by their depth.
        deep = (name, values["num_hidden_layers"]) in (("gemma2", 46), ("gemma3", 62))
        values["query_pre_attn_scalar"] = share if deep else width
    if name == "gemma3":
        near = {"rope_theta": metadata.get("gemma3.rope.freq_base_swa", 10000.0)}
        values["rope_parameters"] = {FULL: values["rope_parameters"], SLIDING: near}
    return values


def _rope(metadata: Metadata, name: str, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """`rope_parameters` of a config.json."""
    rope = {"rope_theta": metadata.get(f"{name}.rope.freq_base", 10000.0)}
    if FACTORS in tensors:
        # Their config.json says of what numbers the factors are made, the file has the factors
        # alone: these numbers are those of all Llamas so far, which `_check_factors` makes sure of.
        return rope | {
            "rope_type": "llama3",
            "factor": float(tensors[FACTORS].read().max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    kind = metadata.get(f"{name}.rope.scaling.type", "none")
    if LONGROPE["short_factor"] in tensors:
        factors = {word: tensors[weight].read().tolist() for word, weight in LONGROPE.items()}
        rope, kind = rope | factors, "longrope"
    if kind == "none":
        return rope
    keys = {
        "factor": "factor",
        "original_context_length": "original_max_position_embeddings",
        "attn_factor": "attention_factor",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    }
    scaling = {word: metadata.get(f"{name}.rope.scaling.{key}") for key, word in keys.items()}
    return rope | {"rope_type": kind, **scaling}


def _check_factors(file: Path, contents: GGUF, config: ModelConfig) -> None:
    """Checks that the factors of a file are those that our rope makes of its few numbers.

    Raises:
      InputError: they are not, so the model is stretched in a way that is not known here.
    """
    if FACTORS not in contents.tensors or not isinstance(config, CausalConfig) or not config.rope:
        return
    first = jnp.ones((1, 1), jnp.int32)
    rates = config.rope.theta ** (-np.arange(0, config.d_kv, 2, dtype=np.float32) / config.d_kv)
    turns = np.asarray(rotations(config.rope, first, config.d_kv))[1, 0, 0, : len(rates)]
    factors = contents.tensors[FACTORS].read()
    if factors.shape != rates.shape or not np.allclose(turns, np.sin(rates / factors), rtol=1e-3):
        raise InputError(
            f"{file}: its {FACTORS} stretch the positions as no Llama 3 does; use the model's "
            "folder in Hugging Face's format"
        )


def _renamed(
    tensors: Mapping[str, StoredTensor],
    name: str,
    family: Family,
    config: ModelConfig,
    interleaved: bool,
) -> dict[str, StoredTensor]:
    """Hugging Face's names and layout; what has none keeps its own, and is refused later."""
    gguf = library()
    architecture = next(key for key, word in gguf.MODEL_ARCH_NAMES.items() if word == name)
    names = family.hugging_face_names(config)
    modules = gguf.get_tensor_name_map(architecture, max(map(len, names.values())))
    places = {}
    for path, weights in names.items():
        for module in (weight.rpartition(".")[0] for weight in weights):
            places[modules.get_name(module)] = module, path.rpartition("/")[0]
    renamed = {}
    for word, tensor in tensors.items():
        if word == FACTORS or word in UNUSED or word in LONGROPE.values():
            continue
        stem, _, leaf = word.rpartition(".")
        module, path = places.get(stem, (stem, ""))
        if interleaved and path.endswith(("attention/query", "attention/key")):
            tensor = reordered(tensor, _halves(tensor.shape[0], config.d_kv))
        if path.endswith("attention/qkv") and getattr(config, "fused", None) == "by_head":
            tensor = reordered(tensor, _by_head(tensor.shape[0], config.d_kv))
        # llama.cpp writes all matrices [out, in], also those that GPT-2 has the other way round.
        matrix = "/layers/" in path and len(tensor.shape) == 2
        if matrix and not family.transposed(config, f"{path}/kernel"):
            tensor = transposed(tensor)
        # Gemma's norms multiply by 1 + w, and llama.cpp stores that.
        if path.endswith("norm") and getattr(config, "norm", "") == "rms_from_one":
            tensor = _less_one(tensor)
        renamed[f"{module}.{leaf}"] = tensor
    return renamed


def _less_one(tensor: StoredTensor) -> StoredTensor:
    return StoredTensor(tensor.shape, tensor.dtype, lambda: tensor.read() - 1)


def _by_head(rows: int, width: int) -> np.ndarray:
    """For every row of queries, keys and values, head by head, where it stands among llama.cpp's.

    llama.cpp has those of all heads together: all queries, all keys, all values.
    """
    return np.arange(rows).reshape(3, -1, width).swapaxes(0, 1).ravel()


def _halves(rows: int, width: int) -> np.ndarray:
    """For every row of queries or keys, where it stands among llama.cpp's.

    A position turns the first half of a head against the second; llama.cpp has each number beside
    the one that it is turned against.
    """
    pairs = np.arange(rows).reshape(-1, width // 2, 2)
    return pairs.swapaxes(1, 2).ravel()
