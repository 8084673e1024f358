"""Makes `golden/few_bits.safetensors`: one small weight in every format, and what it stands for.

    pip install --no-deps bitsandbytes compressed-tensors loguru
    python tests/make_golden_few_bits.py

bitsandbytes and compressed-tensors quantise and dequantise their formats themselves. The kernels
of DeepSeek, AutoAWQ and AutoGPTQ need a GPU, so theirs are packed here by hand, block by block and
column by column, from the written formats.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

OUT, IN, GROUP = 16, 32, 16
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def bitsandbytes(weight, kind, *, nested):
    from bitsandbytes import functional

    # Blocks within rows: its CPU kernel takes the scale of another block where one spans two rows.
    packed, state = functional.quantize_4bit(
        weight, blocksize=IN, compress_statistics=nested, quant_type=kind
    )
    parts = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
    values = functional.dequantize_4bit(packed, state)
    return {"quant_method": "bitsandbytes"}, {"weight": packed, **parts}, values


def bitsandbytes_int8(weight):
    from bitsandbytes import functional

    rows, scales, _ = functional.int8_vectorwise_quant(weight.half())
    values = functional.int8_vectorwise_dequant(rows, scales)
    parts = {"weight": rows, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return {"quant_method": "bitsandbytes"}, parts, values


def compressed(weight, strategy, kind="float"):
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize

    arguments = QuantizationArgs(
        num_bits=8, type=kind, strategy=strategy, symmetric=True,
        block_structure=[8, 12] if strategy == "block" else None,
    )  # fmt: skip
    if strategy == "block":
        padded = torch.nn.functional.pad(weight, (0, 4)).reshape(2, 8, 3, 12)
        largest = padded.abs().amax((1, 3))
    else:
        largest = weight.abs().amax() if strategy == "tensor" else weight.abs().amax(1)[:, None]
    scale = (largest / (448 if kind == "float" else 127)).bfloat16()
    dtype = torch.float8_e4m3fn if kind == "float" else torch.int8
    zeros = torch.zeros_like(scale).to(dtype)
    small = quantize(weight.bfloat16(), scale, zeros, arguments, dtype=dtype)
    values = dequantize(small, scale, None, arguments, dtype=torch.bfloat16)
    settings = {
        "quant_method": "compressed-tensors",
        "format": f"{'float' if kind == 'float' else 'int'}-quantized",
        "config_groups": {"group_0": {"weights": arguments.model_dump(mode="json")}},
    }
    parts = {"weight": small, "weight_scale": scale.reshape(-1) if scale.ndim == 0 else scale}
    return settings, parts, values


def float8_blocks(weight):
    """DeepSeek's: a scale in float32 for each block, here of 8 by 20; the last reach over."""
    height, width = 8, 20
    scales = torch.zeros(2, 2)
    small = torch.zeros(OUT, IN, dtype=torch.float8_e4m3fn)
    values = torch.zeros(OUT, IN)
    for i in range(2):
        for j in range(2):
            place = slice(height * i, height * (i + 1)), slice(width * j, width * (j + 1))
            scales[i, j] = weight[place].abs().max() / 448
            small[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
            values[place] = small[place].float() * scales[i, j]
    settings = {"quant_method": "fp8", "weight_block_size": [height, width]}
    return settings, {"weight": small, "weight_scale_inv": scales}, values


def rounded(weight, groups, bits):
    """Integers [in, out], scales and zeros a group of inputs, and what they stand for."""
    rows = weight.T.numpy()
    lowest = np.stack([rows[groups == g].min(0) for g in range(groups.max() + 1)])
    highest = np.stack([rows[groups == g].max(0) for g in range(groups.max() + 1)])
    scales = ((highest - lowest) / (2**bits - 1)).astype(np.float16)
    zeros = np.clip(np.round(-lowest / scales), 1, 2**bits - 1).astype(np.int64)
    small = np.round(rows / scales[groups].astype(np.float32)) + zeros[groups]
    small = np.clip(small, 0, 2**bits - 1).astype(np.int64)
    values = (small - zeros[groups]).astype(np.float16) * scales[groups]
    return small, scales, zeros, values.T


def awq_packed(numbers):
    packed = np.zeros((numbers.shape[0], numbers.shape[1] // 8), np.uint32)
    for column in range(packed.shape[1]):
        for place, source in enumerate(AWQ_ORDER):
            packed[:, column] |= (numbers[:, 8 * column + source] << (4 * place)).astype(np.uint32)
    return torch.from_numpy(packed.view(np.int32))


def awq(weight):
    small, scales, zeros, values = rounded(weight, np.arange(IN) // GROUP, 4)
    parts = {"qweight": awq_packed(small), "qzeros": awq_packed(zeros)}
    parts["scales"] = torch.from_numpy(scales)
    settings = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
    return settings, parts, torch.from_numpy(values.copy())


def gptq(weight, bits, form):
    # Groups by the order of activations, as `desc_act` leaves them.
    groups = np.random.default_rng(0).permutation(np.arange(IN) // GROUP)
    small, scales, zeros, values = rounded(weight, groups, bits)
    each = 32 // bits
    down = np.zeros((IN // each, OUT), np.uint32)
    for row in range(IN):
        down[row // each] |= (small[row] << (bits * (row % each))).astype(np.uint32)
    stored = zeros - (form == "gptq")
    across = np.zeros((len(zeros), OUT // each), np.uint32)
    for column in range(OUT):
        across[:, column // each] |= (stored[:, column] << (bits * (column % each))).astype(
            np.uint32
        )
    parts = {
        "qweight": torch.from_numpy(down.view(np.int32)),
        "qzeros": torch.from_numpy(across.view(np.int32)),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(groups.astype(np.int32)),
    }
    settings = {"quant_method": "gptq", "bits": bits, "checkpoint_format": form}
    return settings, parts, torch.from_numpy(values.copy())


def main():
    torch.manual_seed(0)
    weight = torch.randn(OUT, IN) * 0.2
    formats = {
        "nf4": bitsandbytes(weight, "nf4", nested=False),
        "nf4_nested": bitsandbytes(weight.bfloat16(), "nf4", nested=True),
        "fp4": bitsandbytes(weight.half(), "fp4", nested=False),
        "int8": bitsandbytes_int8(weight),
        "fp8_tensor": compressed(weight, "tensor"),
        "fp8_channel": compressed(weight, "channel"),
        "fp8_block": compressed(weight, "block"),
        "int8_channel": compressed(weight, "channel", "int"),
        "fp8_deepseek": float8_blocks(weight),
        "awq": awq(weight),
        "gptq_v1": gptq(weight, 4, "gptq"),
        "gptq_v2": gptq(weight, 4, "gptq_v2"),
        "gptq_8": gptq(weight, 8, "gptq"),
    }
    tensors = {
        f"{name}/{part}": tensor.contiguous()
        for name, (_, parts, values) in formats.items()
        for part, tensor in {**parts, "values": values.float()}.items()
    }
    settings = {name: json.dumps(settings) for name, (settings, _, _) in formats.items()}
    file = Path(__file__).parent / "golden" / "few_bits.safetensors"
    save_file(tensors, file, metadata=settings)
    print(f"{file}: {file.stat().st_size} bytes, {len(formats)} formats")


if __name__ == "__main__":
    main()
