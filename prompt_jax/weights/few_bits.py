"""Weights that are stored in few bits, by the formats of `quantization_config` in config.json.

A weight is several tensors then: small numbers, and their scales. They are put together as they
are read, in the type and the order of the format's own library, so values are equal to the bit.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from prompt_jax.config import InputError, choose
from prompt_jax.weights.stored import FLOATS, StoredTensor, parsing

Settings: TypeAlias = Mapping[str, Any]
"""The `quantization_config` of a config.json."""
Parts: TypeAlias = Mapping[str, StoredTensor]
"""What a weight is made of, by the end of each name."""
Shape: TypeAlias = tuple[int, ...]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each four bits of an integer are, the lowest first."""


class Packing(NamedTuple):
    """One way to store a weight."""

    mark: str
    """The name of a tensor that only such weights have."""
    parts: tuple[str, ...]
    """The names of all tensors that may belong to one."""
    shape: Callable[[Parts, Settings], Shape]
    """The shape of the weight, [out, in]."""
    unpack: Callable[[Parts, Settings], np.ndarray]
    """Its values."""


def unpacked(file: Path, tensors: Parts, settings: Settings) -> dict[str, StoredTensor]:
    """The weights of a checkpoint by their own names, dequantised as they are read.

    Args:
      file: that says so, for errors.
      tensors: of the checkpoint.
      settings: of config.json.

    Raises:
      InputError: a format that is not known.
    """
    choose(f"quantization_config.quant_method in {file}", settings.get("quant_method"), METHODS)
    packings, weights = METHODS[settings["quant_method"]], dict(tensors)
    with parsing(file, "a quantised model"):
        for name in tensors:
            for packing in packings:
                stem = name.removesuffix(f".{packing.mark}")
                if stem != name:
                    names = [part for part in packing.parts if f"{stem}.{part}" in tensors]
                    parts = {part: weights.pop(f"{stem}.{part}") for part in names}
                    weights[f"{stem}.weight"] = _weight(packing, parts, settings)
    return {name: tensor for name, tensor in weights.items() if not name.endswith(ACTIVATIONS)}


def _weight(packing: Packing, parts: Parts, settings: Settings) -> StoredTensor:
    def read() -> np.ndarray:
        return packing.unpack(parts, settings).astype(np.float32)

    return StoredTensor(packing.shape(parts, settings), np.dtype(np.float32), read)


def _shape(parts: Parts, settings: Settings) -> Shape:
    return parts["weight"].shape


def _blocks(settings: Settings) -> tuple[int, int]:
    """Rows and columns that share a scale, where neither all nor one row do."""
    groups = settings.get("config_groups")
    weights = next(iter(groups.values()))["weights"] if groups else {}
    block = settings.get("weight_block_size") or weights.get("block_structure")
    rows, columns = block or (1, weights.get("group_size") or 1)
    return rows, columns


def _scaled(scale_name: str) -> Callable[[Parts, Settings], np.ndarray]:
    """Numbers of eight bits times scales: of all, of each row, or of blocks."""

    def unpack(parts: Parts, settings: Settings) -> np.ndarray:
        form = settings.get("format", "float-quantized")
        choose("quantization_config.format", form, ("float-quantized", "int-quantized"))
        small, scale = parts["weight"].read(), parts[scale_name].read()
        rows, columns = small.shape
        if scale.size == 1:
            scale = scale.reshape(1, 1)
        elif scale.size == rows:
            scale = scale.reshape(rows, 1)
        else:
            height, width = _blocks(settings)
            # The last blocks may reach over the edge.
            scale = scale.repeat(height, 0)[:rows].repeat(width, 1)[:, :columns]
        return small.astype(scale.dtype) * scale

    return unpack


def _state(parts: Parts) -> dict[str, Any]:
    """What bitsandbytes says of a weight, as JSON in bytes."""
    name = next(name for name in parts if ".quant_state." in name)
    return json.loads(parts[name].read().tobytes())


def _four_bits(parts: Parts, settings: Settings) -> np.ndarray:
    """Dettmers et al. 2023: sixteen values, scaled by blocks, whose scales may be of eight bits."""
    state = _state(parts)
    scales = parts["weight.absmax"].read()
    if "nested_offset" in state:
        largest = parts["weight.nested_absmax"].read().repeat(state["nested_blocksize"])
        values = parts["weight.nested_quant_map"].read()[scales]
        scales = values * largest[: scales.size] + np.float32(state["nested_offset"])
    packed = parts["weight"].read().ravel().view(np.uint8)
    # bitsandbytes has the earlier of two numbers in the upper four bits.
    places = np.stack([packed >> 4, packed & 15], axis=1).ravel()
    numbers = parts["weight.quant_map"].read()[places]
    numbers = numbers * scales.repeat(state["blocksize"])[: numbers.size]
    return numbers.astype(FLOATS[state["dtype"]]).reshape(state["shape"])


def _eight_bits(parts: Parts, settings: Settings) -> np.ndarray:
    """Dettmers et al. 2022: rows of integers, the largest of each being 127."""
    layout = parts["weight_format"].read() if "weight_format" in parts else np.zeros(())
    if layout.any():
        raise InputError(
            "the weights are in the order of one kind of GPU (weight_format is not row); save the "
            "model with a newer bitsandbytes"
        )
    rows = parts["weight"].read().astype(np.float32)
    return rows * parts["SCB"].read().reshape(-1, 1) * np.float32(1 / 127)


def _nibbles(packed: np.ndarray, bits: int) -> np.ndarray:
    """Integers of few bits out of the last axis, the lowest first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    # Unsigned, because >> of a signed integer fills up with its sign.
    numbers = packed.view(np.uint32)[..., None] >> shifts & np.uint32(2**bits - 1)
    return numbers.astype(np.int32).reshape(*packed.shape[:-1], -1)


def _awq_shape(parts: Parts, settings: Settings) -> Shape:
    rows, eighths = parts["qweight"].shape
    return 8 * eighths, rows


def _awq(parts: Parts, settings: Settings) -> np.ndarray:
    """Lin et al. 2023, as AutoAWQ's `gemm` packs it: by rows of inputs, a zero for every group."""
    choose("quantization_config.version", settings.get("version", "gemm"), ("gemm",))
    choose("quantization_config.bits", str(settings.get("bits", 4)), ("4",))
    # The order tells which column each place holds; its inverse, where each column is.
    columns = np.argsort(AWQ_ORDER)

    def numbers(part: str) -> np.ndarray:
        nibbles = _nibbles(parts[part].read(), 4)
        return nibbles.reshape(len(nibbles), -1, 8)[..., columns].reshape(len(nibbles), -1)

    weight, scales = numbers("qweight"), parts["scales"].read()
    group = len(weight) // len(scales)
    small = weight - numbers("qzeros").repeat(group, 0)
    return (small.astype(scales.dtype) * scales.repeat(group, 0)).T


def _gptq_shape(parts: Parts, settings: Settings) -> Shape:
    rows, columns = parts["qweight"].shape
    return columns, rows * 32 // settings["bits"]


def _gptq(parts: Parts, settings: Settings) -> np.ndarray:
    """Frantar et al. 2022: packed along the inputs, whose groups may be in any order."""
    bits = settings["bits"]
    choose("quantization_config.bits", str(bits), ("2", "4", "8"))
    form = settings.get("checkpoint_format", "gptq")
    choose("quantization_config.checkpoint_format", form, ("gptq", "gptq_v2"))
    # The first version stores zeros less one.
    zeros = _nibbles(parts["qzeros"].read(), bits) + (form == "gptq")
    # Copied, since `view` needs integers that are neighbours in memory.
    weight, scales = _nibbles(parts["qweight"].read().T.copy(), bits).T, parts["scales"].read()
    if "g_idx" in parts:
        groups = parts["g_idx"].read()
    else:
        groups = np.arange(len(weight)) // (len(weight) // len(scales))
    return (scales[groups] * (weight - zeros[groups]).astype(scales.dtype)).T


BITSANDBYTES = (
    *("weight", "weight.absmax", "weight.quant_map"),
    *("weight.nested_absmax", "weight.nested_quant_map"),
)
INTEGERS = ("qweight", "qzeros", "scales", "g_idx")
METHODS: dict[str, tuple[Packing, ...]] = {
    "bitsandbytes": (
        *(
            Packing(
                state,
                (*BITSANDBYTES, state),
                lambda parts, _: tuple(_state(parts)["shape"]),
                _four_bits,
            )
            for state in (
                "weight.quant_state.bitsandbytes__nf4",
                "weight.quant_state.bitsandbytes__fp4",
            )
        ),
        Packing("SCB", ("weight", "SCB", "weight_format"), _shape, _eight_bits),
    ),
    "compressed-tensors": (
        Packing("weight_scale", ("weight", "weight_scale"), _shape, _scaled("weight_scale")),
    ),
    "fp8": (
        Packing(
            "weight_scale_inv", ("weight", "weight_scale_inv"), _shape, _scaled("weight_scale_inv")
        ),
    ),
    "awq": (Packing("qweight", INTEGERS, _awq_shape, _awq),),
    "gptq": (Packing("qweight", INTEGERS, _gptq_shape, _gptq),),
}
"""By `quant_method`, the ways in which a weight may be stored; other weights stay as they are."""
ACTIVATIONS = (".input_scale", ".activation_scale", ".output_scale", ".k_scale", ".v_scale")
"""Scales of what is computed, which is not rounded here."""
