"""Several methods in one tuned tree, such as MAM's prefix and parallel adapter."""

import dataclasses
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import AdapterConfig, InputError, LoraConfig, PrefixTuningConfig, UnionConfig
from prompt_jax.forward import Injection, TaskPrompts
from prompt_jax.methods.adapter import STD

GATES = "gates"


def mam(num_virtual_tokens: int = 20, bottleneck_size: int = 16) -> UnionConfig:
    """Mix-and-match (He et al. 2022): prefix tuning and an adapter beside the feed-forward."""
    prefix = PrefixTuningConfig(num_virtual_tokens=num_virtual_tokens)
    adapter = AdapterConfig(bottleneck_size=bottleneck_size, style="parallel", scaling=4.0)
    return UnionConfig(methods=(prefix, adapter))


def unipelt(num_virtual_tokens: int = 10, r: int = 8, bottleneck_size: int = 16) -> UnionConfig:
    """UniPELT (Mao et al. 2022): LoRA, prefix tuning and an adapter, each behind a gate."""
    prefix = PrefixTuningConfig(num_virtual_tokens=num_virtual_tokens)
    adapter = AdapterConfig(bottleneck_size=bottleneck_size)
    return UnionConfig(methods=(LoraConfig(r=r), prefix, adapter), gated=True)


def init(
    config: UnionConfig, backbone: Backbone, key: PRNGKeyArray, start: np.ndarray | None = None
) -> dict[str, Any]:
    """The tuned tree of every method, by its number and kind, and `gates`, all half open.

    Raises:
      InputError: two methods put something into the same place, or there is nothing to gate.
    """
    from prompt_jax import methods

    tuned = {
        name: methods.init(method, backbone, jax.random.fold_in(key, i), start)
        for i, (name, method) in enumerate(_named(config).items())
    }
    sockets = jax.eval_shape(lambda tree: _together(config, tree)[1], tuned).sockets
    if not config.gated:
        return tuned
    own = jax.random.fold_in(key, len(config.methods))
    return {**tuned, GATES: _gates(sockets, backbone, own)}


def _gates(sockets: dict[str, Any], backbone: Backbone, key: PRNGKeyArray) -> dict[str, Any]:
    """By what it scales, `gate` [L, *in] and `gate_bias` [L]."""
    inputs = {}
    for path, leaf in flax.traverse_util.flatten_dict(sockets).items():
        if path[-2:] == ("prefix", "key"):
            inputs[path[:-1]] = leaf.shape[0], backbone.width
        elif path[-2:] == ("lora", "a") or path[-1] == "down":
            inputs[path[:-1]] = leaf.shape[:-1]
    if not inputs:
        raise InputError(
            "gates scale LoRA, prefixes and adapters, and this union has none of them; set "
            "gated=False"
        )
    gates = {}
    for i, (path, shape) in enumerate(sorted(inputs.items())):
        own = jax.random.fold_in(key, i)
        gates[*path, "gate"] = STD * jax.random.normal(own, shape)
        gates[*path, "gate_bias"] = jnp.zeros(shape[0])
    return flax.traverse_util.unflatten_dict(gates)


def resolve(config: UnionConfig, backbone: Backbone) -> UnionConfig:
    """The config with names of kernels in every method."""
    from prompt_jax import methods

    named = tuple(methods.resolve(method, backbone) for method in config.methods)
    return dataclasses.replace(config, methods=named)


def _named(config: UnionConfig) -> dict[str, Any]:
    return {f"{i}_{method.kind}": method for i, method in enumerate(config.methods)}


def materialize(
    config: UnionConfig, tuned: dict[str, Any], key: Any = None
) -> Injection | TaskPrompts:
    """All parts together; prompts stand behind each other in the order of the methods."""
    prompts, joined = _together(config, tuned, key)
    if config.gated:
        joined = joined._replace(sockets=_merged(joined.sockets, tuned[GATES], ""))
    return joined if prompts is None else TaskPrompts(prompts, joined)


def _together(
    config: UnionConfig, tuned: dict[str, Any], key: Any = None
) -> tuple[Array | None, Injection]:
    """The prompts of several tasks, if a method has them, and all the rest."""
    from prompt_jax import methods

    prompts, joined = None, Injection()
    for name, method in _named(config).items():
        part = methods.materialize(method, tuned[name], key)
        if isinstance(part, TaskPrompts):
            if prompts is not None:
                raise InputError("two methods of the union both have tasks; keep one of them")
            prompts, part = part
        joined = _join(joined, part)
    if prompts is not None and joined.prompt is not None:
        raise InputError(
            "two methods of the union put virtual tokens into the input, and one of them has "
            "several tasks; keep one of them"
        )
    return prompts, joined


def _join(first: Injection, second: Injection) -> Injection:
    sockets = _merged(first.sockets, second.sockets, "")
    prompts = [part.prompt for part in (first, second) if part.prompt is not None]
    prompt = jnp.concatenate(prompts, axis=-2) if prompts else None
    rest: dict[str, Any] = {}
    for name in ("shift", "params"):
        values = [v for v in (getattr(first, name), getattr(second, name)) if v is not None]
        if len(values) > 1:
            raise InputError(f"two methods of the union both set {name}; keep one of them")
        rest[name] = values[0] if values else None
    return Injection(prompt, sockets=sockets, **rest)


def _merged(one: dict[str, Any], other: dict[str, Any], path: str) -> dict[str, Any]:
    merged = dict(one)
    for name, value in other.items():
        place = f"{path}/{name}".lstrip("/")
        if name not in merged:
            merged[name] = value
        elif isinstance(value, dict) and isinstance(merged[name], dict):
            merged[name] = _merged(merged[name], value, place)
        else:
            raise InputError(
                f"two methods of the union both claim the socket {place}; keep one of them, or "
                "give them different target_modules"
            )
    return merged
