"""Several methods in one tuned tree, such as MAM's prefix and parallel adapter."""

import dataclasses
from dataclasses import dataclass

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.config.method import Place
from prompt_jax.forward import Injection, TaskPrompts
from prompt_jax.methods import method
from prompt_jax.methods.adapter import STD, AdapterConfig
from prompt_jax.methods.kernels import by_place
from prompt_jax.methods.lora import LoraConfig
from prompt_jax.methods.method import register_method
from prompt_jax.methods.prefix_tuning import PrefixTuningConfig
from prompt_jax.trees import Tree, Tuned


@dataclass(frozen=True, kw_only=True)
class UnionConfig(MethodConfig):
    """Several methods in one tuned tree."""

    kind = "union"

    methods: tuple[MethodConfig, ...] = ()
    """At least two, which put nothing into the same place."""
    gated: bool = False
    """LoRA, prefixes and adapters have a trained gate in every layer (Mao et al. 2022)."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.methods) < 2:
            raise InputError(
                f"a union has at least two methods, got {len(self.methods)}; use the method itself"
            )
        if any(m.num_labels is not None for m in self.methods):
            raise InputError(
                "a union has one head beside all its methods; set num_labels of the union, and of "
                "none of its methods"
            )
        prompts = [m for m in self.methods if m.input_tokens]
        if any(part.place != prompts[0].place for part in prompts[1:]):
            raise InputError("the prompts of a union need one placement")
        if self.gated and any(isinstance(m, LoraConfig) and m.use_dora for m in self.methods):
            raise InputError(
                "a gate scales an update for every token, and DoRA's magnitude knows one update "
                "only; set gated=False or use_dora=False"
            )

    @property
    def place(self) -> Place:
        first = next((part for part in self.methods if part.input_tokens), self.methods[0])
        return first.place

    def in_chats(self) -> MethodConfig:
        return dataclasses.replace(self, methods=tuple(m.in_chats() for m in self.methods))

    @property
    def input_tokens(self) -> int:
        return sum(part.input_tokens for part in self.methods)


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
) -> Tuned:
    """The tuned tree of every method, by its number and kind, and `gates`, all half open."""
    tuned = {
        name: method.init(
            part, backbone, jax.random.fold_in(key, i), start if part.start_file else None
        )
        for i, (name, part) in enumerate(_named(config).items())
    }
    # Also without gates: two methods that claim one place are refused here, before training.
    sockets = jax.eval_shape(lambda tree: _together(config, tree)[1], tuned).sockets
    if not config.gated:
        return tuned
    gate_key = jax.random.fold_in(key, len(config.methods))
    return {**tuned, GATES: _gates(sockets, backbone, gate_key)}


def _gates(sockets: Tuned, backbone: Backbone, key: PRNGKeyArray) -> Tuned:
    """The gates: by what they scale, `gate` [L, *in] and `gate_bias` [L]."""
    inputs = {}
    for path, leaves in by_place(sockets).items():
        if path[-1] == "prefix":
            inputs[path] = leaves["key"].shape[0], backbone.width
        elif path[-1] == "lora" or "down" in leaves:
            inputs[path] = leaves["a" if path[-1] == "lora" else "down"].shape[:-1]
    if not inputs:
        raise InputError(
            "gates scale LoRA, prefixes and adapters, and this union has none of them; set "
            "gated=False"
        )
    gates = {}
    for i, (path, shape) in enumerate(sorted(inputs.items())):
        gates[*path, "gate"] = STD * jax.random.normal(jax.random.fold_in(key, i), shape)
        # sigmoid(0) is 0.5: gates start half open.
        gates[*path, "gate_bias"] = jnp.zeros(shape[0])
    return flax.traverse_util.unflatten_dict(gates)


def resolve(config: UnionConfig, backbone: Backbone) -> UnionConfig:
    """The config with names of kernels in every method."""
    named = tuple(method.resolve(part, backbone) for part in config.methods)
    return dataclasses.replace(config, methods=named)


def _named(config: UnionConfig) -> dict[str, MethodConfig]:
    return {f"{i}_{part.kind}": part for i, part in enumerate(config.methods)}


def materialize(
    config: UnionConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection | TaskPrompts:
    """All parts together; prompts stand behind each other in the order of the methods."""
    prompts, joined = _together(config, tuned, key)
    if config.gated:
        joined = joined._replace(sockets=_merged(joined.sockets, tuned[GATES], ""))
    return joined if prompts is None else TaskPrompts(prompts, joined)


def _together(
    config: UnionConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> tuple[Array | None, Injection]:
    """The prompts of several tasks, if a method has them, and all the rest."""
    prompts, joined = None, Injection()
    for name, part_config in _named(config).items():
        part = method.materialize(part_config, tuned[name], key)
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
    rest: dict[str, Tree] = {}
    for name in ("shift", "params"):
        values = [v for v in (getattr(first, name), getattr(second, name)) if v is not None]
        if len(values) > 1:
            raise InputError(f"two methods of the union both set {name}; keep one of them")
        rest[name] = values[0] if values else None
    return Injection(prompt, sockets=sockets, **rest)


def _merged(first: Tuned, second: Tuned, path: str) -> dict[str, Tree]:
    merged = dict(first)
    for name, value in second.items():
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


register_method(UnionConfig, init=init, materialize=materialize, resolve=resolve)
