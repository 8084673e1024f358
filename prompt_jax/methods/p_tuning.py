"""P-tuning: an MLP or a biLSTM writes the soft prompt (Liu et al. 2021).

The layers are PEFT's: embedding, then three linear maps with ReLU, or a biLSTM and two. Once
trained, what was written is an ordinary prompt, and that is what is served.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, choose
from prompt_jax.config.checks import each_at_least_one
from prompt_jax.forward import Injection
from prompt_jax.methods.method import PeftFormat, register_method
from prompt_jax.methods.prompt_tuning import PromptTuningConfig, plain_prompt, read
from prompt_jax.methods.virtual_tokens import InputPrompt, start_rows
from prompt_jax.trees import Tuned

Writer = Literal["MLP", "LSTM"]


@dataclass(frozen=True, kw_only=True)
class PTuningConfig(InputPrompt):
    """A soft prompt that an MLP or a biLSTM writes (Liu et al. 2021, GPT understands, too)."""

    kind = "p_tuning"
    rates = {"adamw": 5e-3}
    trains_words = False  # But the encoder that makes the rows.
    only_with = {
        "encoder_num_layers": ("encoder_reparameterization_type", "LSTM"),
        "encoder_dropout": ("encoder_reparameterization_type", "LSTM"),
    }

    encoder_reparameterization_type: Writer = "MLP"
    """What writes the prompt."""
    encoder_hidden_size: int = 256
    """Width inside it."""
    encoder_num_layers: int = 2
    """Layers of the LSTM; an MLP always has three."""
    encoder_dropout: float = 0.0
    """Dropout between the layers of the LSTM."""

    def __post_init__(self):
        super().__post_init__()
        writer = self.encoder_reparameterization_type
        choose("encoder_reparameterization_type", writer, get_args(Writer))
        each_at_least_one(self, "encoder_hidden_size", "encoder_num_layers")
        if not 0.0 <= self.encoder_dropout < 1.0:
            raise InputError(f"encoder_dropout must be in [0, 1), got {self.encoder_dropout}")


def init(
    config: PTuningConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> Tuned:
    """`embedding` [P, D] and the maps that write the prompt from it.

    The last map starts at zero beside a residual `base`, which is where `config.start` says: so
    training begins at a good prompt and not at noise.
    """
    width, hidden = backbone.width, config.encoder_hidden_size
    keys = iter(jax.random.split(key, 8 + 2 * config.encoder_num_layers))
    tuned: Tuned = {"base": start_rows(config, backbone, next(keys), start)}
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


def linear(key: PRNGKeyArray, inputs: int, outputs: int) -> Tuned:
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


def _cell(key: PRNGKeyArray, inputs: int, hidden: int) -> Tuned:
    # As torch starts an LSTM, with one bias where torch has two: only their sum matters.
    bound, keys = hidden**-0.5, jax.random.split(key, 3)
    shapes = {"input": (inputs, 4 * hidden), "hidden": (hidden, 4 * hidden), "bias": (4 * hidden,)}
    return {
        name: jax.random.uniform(k, shape, minval=-bound, maxval=bound)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _lstm(cell: dict[str, Array], x: Float[Array, "P I"]) -> Float[Array, "P H"]:
    """One direction of an LSTM layer; gates in torch's order."""
    # One product for the inputs of all steps, so that the scan has only the hidden state's.
    gates = x @ cell["input"]
    gates = gates + jnp.broadcast_to(cell["bias"], gates.shape)

    def step(carry: tuple[Array, Array], row: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = carry
        i, f, g, o = jnp.split(row + h @ cell["hidden"], 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros(cell["hidden"].shape[0])
    return jax.lax.scan(step, (zero, zero), gates)[1]


def written(
    config: PTuningConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Float[Array, "P D"]:
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


def materialize(config: PTuningConfig, tuned: Tuned, key: PRNGKeyArray | None = None) -> Injection:
    """What the encoder writes, as a prompt."""
    return Injection(written(config, tuned, key))


def simplify(config: PTuningConfig, tuned: Tuned) -> tuple[PromptTuningConfig, Tuned]:
    """The plain prompt that this one has become."""
    return plain_prompt(config, written(config, tuned))


register_method(
    PTuningConfig,
    init=init,
    materialize=materialize,
    simplify=simplify,
    peft=PeftFormat("P_TUNING", read),
)
