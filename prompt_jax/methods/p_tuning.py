"""P-tuning: an MLP or a biLSTM writes the soft prompt (Liu et al. 2021).

The layers are PEFT's: embedding, then three linear maps with ReLU, or a biLSTM and two. Once
trained, what was written is an ordinary prompt, and that is what is served.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import PromptTuningConfig, PTuningConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.prompt_tuning import start_rows


def init(
    config: PTuningConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """`embedding` [P, D] and the maps that write the prompt from it.

    The last map starts at zero beside a residual `base`, which is where `config.start` says: so
    training begins at a good prompt and not at noise.
    """
    width, hidden = backbone.width, config.encoder_hidden_size
    keys = iter(jax.random.split(key, 8 + 2 * config.encoder_num_layers))
    tuned: dict[str, Any] = {"base": start_rows(config, backbone, next(keys), start)}
    tuned["embedding"] = jax.random.normal(next(keys), (config.num_virtual_tokens, width))
    if config.encoder_reparameterization_type == "LSTM":
        sizes = [width, *[2 * hidden] * (config.encoder_num_layers - 1)]
        tuned["lstm"] = [[_cell(next(keys), size, hidden) for _ in range(2)] for size in sizes]
        widths = (2 * hidden, 2 * hidden, width)
    else:
        widths = (width, hidden, hidden, width)
    tuned["mlp"] = [linear(next(keys), *ends) for ends in zip(widths, widths[1:], strict=False)]
    tuned["mlp"][-1] = jax.tree.map(jnp.zeros_like, tuned["mlp"][-1])
    return tuned


def linear(key: PRNGKeyArray, inputs: int, outputs: int) -> dict[str, Array]:
    """A linear map as torch starts one: uniform within 1 / sqrt(inputs)."""
    bound, keys = inputs**-0.5, jax.random.split(key)
    kernel = jax.random.uniform(keys[0], (inputs, outputs), minval=-bound, maxval=bound)
    return {
        "kernel": kernel,
        "bias": jax.random.uniform(keys[1], (outputs,), minval=-bound, maxval=bound),
    }


def apply_linear(layer: dict[str, Array], x: Float[Array, "P I"]) -> Float[Array, "P O"]:
    """`x` through a linear map."""
    y = x @ layer["kernel"]
    return y + jnp.broadcast_to(layer["bias"], y.shape)


def _cell(key: PRNGKeyArray, inputs: int, hidden: int) -> dict[str, Array]:
    bound, keys = hidden**-0.5, jax.random.split(key, 3)
    shapes = {"input": (inputs, 4 * hidden), "hidden": (hidden, 4 * hidden), "bias": (4 * hidden,)}
    return {
        name: jax.random.uniform(k, shape, minval=-bound, maxval=bound)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _lstm(cell: dict[str, Array], x: Float[Array, "P I"]) -> Float[Array, "P H"]:
    """One direction of an LSTM layer; gates in torch's order."""
    given = x @ cell["input"]
    given = given + jnp.broadcast_to(cell["bias"], given.shape)

    def step(carry: tuple[Array, Array], row: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = carry
        i, f, g, o = jnp.split(row + h @ cell["hidden"], 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros(cell["hidden"].shape[0])
    return jax.lax.scan(step, (zero, zero), given)[1]


def written(config: PTuningConfig, tuned: dict[str, Any], key: Any = None) -> Float[Array, "P D"]:
    """The prompt that the encoder writes."""
    x = tuned["embedding"]
    for i, (forward, backward) in enumerate(tuned.get("lstm", ())):
        if i and key is not None and config.encoder_dropout:
            keep = 1.0 - config.encoder_dropout
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), keep, x.shape)
            x = jnp.where(kept, x / keep, 0.0)
        x = jnp.concatenate([_lstm(forward, x), _lstm(backward, x[::-1])[::-1]], axis=1)
    *inner, last = tuned["mlp"]
    for layer in inner:
        x = jax.nn.relu(apply_linear(layer, x))
    return tuned["base"] + apply_linear(last, x)


def materialize(config: PTuningConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """What the encoder writes, as a prompt."""
    return Injection(written(config, tuned, key))


def simplify(config: PTuningConfig, tuned: Any) -> tuple[PromptTuningConfig, Any]:
    """The plain prompt that this one has become."""
    return plain_prompt(config, written(config, tuned))


def plain_prompt(config: Any, rows: Float[Array, "P D"]) -> tuple[PromptTuningConfig, Any]:
    """Rows, however they came about, as a prompt of prompt tuning."""
    plain = PromptTuningConfig(
        task_type=config.task_type,
        tokenizer_name_or_path=config.tokenizer_name_or_path,
        num_virtual_tokens=len(rows),
        init="random",
        placement=config.placement,
        num_labels=config.num_labels,
        pooling=config.pooling,
    )
    return plain, {"prompt": rows}
