"""PREFIX_TUNING: keys and values of self-attention, in one wide row a token.

In a model of one stack, a row is a key and a value a layer. On T5 they are the decoder's, and PEFT
cuts a row into `2 * num_layers` parts, repeats them for the second stack, and deals them out by
four: a key and a value for self-attention, and two for cross-attention that it then drops. So the
second half of the layers gets what the first half has. Saying twice as many layers as there are,
with zeros in the dropped places, gives every layer its own.
"""

from typing import Any

import numpy as np

from prompt_jax.config import InputError, PrefixTuningConfig
from prompt_jax.prompts.peft.files import KEY, Stored, matrix

PLACE = "decoder/layers/attention"
KEYS, VALUES = f"{PLACE}/key", f"{PLACE}/value"


def obstacle(method: PrefixTuningConfig, arrays: dict[str, np.ndarray], model_type: str) -> str:
    """Why PEFT would run this prefix differently, and what to do."""
    if method.prefix_projection:
        return "its keys and values are not computed yet; make the prompt with prompt_for"
    if method.task_type != "SEQ_2_SEQ_LM":
        return ""  # One attention, and PEFT puts it there.
    elsewhere = [role for role in ("encoder", "cross") if getattr(method, role)]
    if elsewhere:
        return (
            "PEFT puts a prefix into the decoder's self-attention alone and this one has "
            f"{' and '.join(f'{role}=True' for role in elsewhere)}; train with encoder=False and "
            "cross=False"
        )
    if set(arrays) != {KEYS, VALUES}:
        return f"its prefix is not that of an encoder-decoder: {', '.join(sorted(arrays))}"
    return ""


def write(
    method: PrefixTuningConfig, arrays: dict[str, np.ndarray], model_type: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config's own fields, and the tensor [P, 2 * L * H * K], twice as wide for T5."""
    key, value = (leaf for _, leaf in sorted(arrays.items()))
    layers, virtual, heads, width = key.shape
    stacks = 1 + (method.task_type == "SEQ_2_SEQ_LM")
    parts = np.zeros((virtual, 2 * stacks * layers, heads, width), np.float32)
    parts[:, 0 :: 2 * stacks] = np.moveaxis(key, 0, 1)
    parts[:, 1 :: 2 * stacks] = np.moveaxis(value, 0, 1)
    fields = {
        "encoder_hidden_size": heads * width,
        "num_attention_heads": heads,
        "num_layers": stacks * layers,
        "num_transformer_submodules": stacks,
        "num_virtual_tokens": virtual,
        "prefix_projection": False,
        "token_dim": heads * width,
    }
    return fields, {KEY: parts.reshape(virtual, -1)}


def read(stored: Stored) -> tuple[PrefixTuningConfig, dict[str, np.ndarray], str]:
    """The method, a key and a value for as many layers as PEFT would have some for, and no type.

    A decoder with fewer layers takes the first ones, as in PEFT. Which stack a model's only one is,
    the backbone says: see `peft_shapes`.

    Raises:
      InputError: a prefix that PEFT does not run on T5, or the sizes do not make the tensor.
    """
    stored.expect([KEY])
    both = stored.task_type == "SEQ_2_SEQ_LM"
    if both and stored.submodules != 2:
        raise InputError(
            f"{stored.config} has num_transformer_submodules {stored.submodules}, with which PEFT "
            "runs no prefix on T5; allowed: 2; train with that"
        )
    rows = matrix(stored.weights, stored.tensors[KEY])
    virtual = stored.whole("num_virtual_tokens", len(rows))
    layers, heads = stored.whole("num_layers"), stored.whole("num_attention_heads")
    inner = stored.whole("token_dim")
    if rows.shape != (virtual, 2 * layers * inner) or inner % heads:
        raise stored.mismatch(
            f"{virtual} virtual tokens, {layers} layers, token_dim {inner} and {heads} heads make "
            f"a tensor {[virtual, 2 * layers * inner]}, and {KEY} is {list(rows.shape)}"
        )
    parts = rows.reshape(virtual, 2 * layers, heads, inner // heads).swapaxes(0, 1)
    if not both:
        plain = PrefixTuningConfig(num_virtual_tokens=virtual)
        return plain, {KEYS: parts[0::2], VALUES: parts[1::2]}, ""
    parts = np.concatenate([parts, parts])
    method = PrefixTuningConfig(num_virtual_tokens=virtual, encoder=False, cross=False)
    return method, {KEYS: parts[0::4], VALUES: parts[1::4]}, ""
