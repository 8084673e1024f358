"""Prefix tuning: trained keys and values before those of every layer (Li and Liang 2021).

P-tuning v2 is the same with another choice of attentions. A prefix that starts from a text takes
the keys and values which the frozen model makes of it, PEFT's best start for a prompt method.
"""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.sockets import Attention
from prompt_jax.config import InputError, PrefixTuningConfig
from prompt_jax.forward import Injection
from prompt_jax.methods.p_tuning import apply_linear, linear

NOISE = 0.02


def init(
    config: PrefixTuningConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> dict[str, Any]:
    """By attention, `key` and `value` [L, P, H, K]; or an embedding and an MLP to write them."""
    places = _places(config, backbone)
    if config.start == "text":
        return _unflatten(_of_text(config, backbone, places))
    keys = jax.random.split(key, 2 + len(places))
    zero = 0.0 if config.start == "zero" else 1.0
    if not config.prefix_projection:
        return _unflatten(
            {
                path: _noise(k, (2, p.layers, config.num_virtual_tokens, p.heads, p.width), zero)
                for k, (path, p) in zip(keys[2:], places.items(), strict=True)
            }
        )
    width, hidden = backbone.width, config.encoder_hidden_size
    outputs = {
        path: {
            "kernel": zero
            * linear(k, hidden, 2 * p.layers * p.heads * p.width)["kernel"].reshape(
                hidden, 2, p.layers, p.heads, p.width
            )
        }
        for k, (path, p) in zip(keys[2:], places.items(), strict=True)
    }
    return {
        "embedding": jax.random.normal(keys[0], (config.num_virtual_tokens, width)),
        "inner": linear(keys[1], width, hidden),
        "outer": _unflatten(outputs),
    }


def _places(config: PrefixTuningConfig, backbone: Backbone) -> dict[str, Attention]:
    attentions = backbone.sockets.attentions
    found = {path: place for path, place in attentions.items() if getattr(config, place.role)}
    if not found:
        roles = sorted({place.role for place in attentions.values()})
        raise InputError(
            f"backbone {backbone.name!r} has none of the attentions asked for; it has: "
            f"{', '.join(roles)}; set these fields"
        )
    return found


def _noise(key: PRNGKeyArray, shape: tuple[int, ...], scale: float) -> dict[str, Array]:
    return dict(zip(("key", "value"), scale * NOISE * jax.random.normal(key, shape), strict=True))


def _of_text(
    config: PrefixTuningConfig, backbone: Backbone, places: dict[str, Attention]
) -> dict[str, Any]:
    if backbone.tokenizer is None:
        raise InputError(
            f'init="text" needs a tokenizer and backbone {backbone.name!r} has none; '
            'use init="random"'
        )
    ids = backbone.tokenizer(config.init_text)["input_ids"]
    backbone.check_tokens(ids, "method.init_text")
    tokens = np.resize(np.asarray(ids), config.num_virtual_tokens)
    found = backbone.keys_and_values(tokens)
    return {path: jax.tree.map(lambda v: v.astype(jnp.float32), found[path]) for path in places}


def _unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def _attentions(tree: dict[str, Any], leaf: str, path: str = "") -> dict[str, Any]:
    """The subtrees that hold `leaf`, by path."""
    if leaf in tree:
        return {path: tree}
    below = [_attentions(v, leaf, f"{path}/{k}".lstrip("/")) for k, v in tree.items()]
    return {path: found for part in below for path, found in part.items()}


def keys_and_values(config: PrefixTuningConfig, tuned: dict[str, Any]) -> dict[str, Any]:
    """The prefix of every attention by path, whether it is trained itself or written."""
    if not config.prefix_projection:
        return _attentions(tuned, "key")
    hidden = jnp.tanh(apply_linear(tuned["inner"], tuned["embedding"]))
    return {
        path: dict(
            zip(
                ("key", "value"),
                jnp.einsum("pi,ijlhk->jlphk", hidden, layer["kernel"]),
                strict=True,
            )
        )
        for path, layer in _attentions(tuned["outer"], "kernel").items()
    }


def materialize(config: PrefixTuningConfig, tuned: dict[str, Any], key: Any = None) -> Injection:
    """The prefixes, in their attentions' sockets."""
    prefixes = keys_and_values(config, tuned)
    return Injection(sockets=_unflatten({f"{path}/prefix": kv for path, kv in prefixes.items()}))


def simplify(config: PrefixTuningConfig, tuned: Any) -> tuple[PrefixTuningConfig, Any]:
    """The same prefix without the MLP that wrote it."""
    if not config.prefix_projection:
        return config, tuned
    import dataclasses

    plain = dataclasses.replace(config, prefix_projection=False)
    return plain, _unflatten(keys_and_values(config, tuned))
