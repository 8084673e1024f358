"""loss(tuned, frozen, batch): trainable first, frozen second, data last."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.t5 import shift_right
from prompt_jax.config import PromptTuningConfig
from prompt_jax.methods import Injection, materialize, prepend

Loss = Callable[..., tuple[Array, dict[str, Array]]]


def cross_entropy(
    logits: Float[Array, "B U V"],
    targets: Int[Array, "B U"],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Float[Array, "B U"]:
    """Negative log-likelihood of every target token, in nats.

    Written with logsumexp, so no one-hot [B, U, V] array exists. Smoothing moves its mass to all V
    words evenly; `z_loss * log(Z)**2` keeps the normaliser near one.
    """
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        picked = (1 - label_smoothing) * picked + label_smoothing * logits.mean(-1)
    return normalizer - picked + z_loss * jnp.square(normalizer)


def seq2seq_logits(
    module: Any,
    frozen: Any,
    injection: Injection | None,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    decoder_tokens: Int[Array, "B U"],
    *,
    placement: str = "prefix",
    rngs: dict[str, Any] | None = None,
) -> Float[Array, "B U V"]:
    """Logits of an encoder-decoder with a prompt in its input."""
    variables = {"params": frozen}
    embeddings = module.apply(variables, tokens, method="embed")
    joined = prepend(injection, embeddings, mask, placement)
    return module.apply(variables, *joined, decoder_tokens, rngs=rngs)


def loss_fn(
    method: PromptTuningConfig,
    backbone: Backbone,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    module: Any | None = None,
) -> Loss:
    """The loss of a method on a backbone: `loss(tuned, frozen, batch, key=None) -> (mean, aux)`.

    The mean is over target tokens. `aux` holds `tokens`, their number, so that losses of
    micro-batches can be weighted. The backbone's weights are not closed over: they are `frozen`.

    Args:
      module: takes the place of the backbone's module; used to train with dropout.
    """
    module = module or backbone.module
    start = backbone.config.decoder_start_token_id

    def loss(tuned: Any, frozen: Any, batch: Any, key: Any = None) -> tuple[Array, dict]:
        batch = jax.tree.map(jnp.asarray, batch)
        logits = seq2seq_logits(
            module,
            frozen,
            materialize(method, tuned),
            batch.tokens,
            batch.mask,
            shift_right(batch.targets, start),
            placement=method.placement,
            rngs=None if key is None else {"dropout": key},
        )
        nll = cross_entropy(logits, batch.targets, label_smoothing=label_smoothing, z_loss=z_loss)
        tokens = batch.target_mask.sum()
        mean = jnp.where(batch.target_mask, nll, 0.0).sum() / jnp.maximum(tokens, 1)
        return mean, {"tokens": tokens}

    return loss
