"""One file a method. A method is a config and two pure functions, `init` and `materialize`.

Where the trained form is more than what is served, a third one, `simplify`, gives the same prompt
as a simpler method.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax import config as configs
from prompt_jax.backbones import Backbone
from prompt_jax.config import MethodConfig
from prompt_jax.forward import Injection, Placement, TaskPrompts
from prompt_jax.methods import (
    adapter,
    bias,
    decomposed_prompt,
    deep_prompt,
    full,
    head,
    ia3,
    lora,
    multitask_prompt,
    norm,
    p_tuning,
    prefix_tuning,
    prompt_adapter,
    prompt_tuning,
    residual_prompt,
    union,
)
from prompt_jax.methods.head import CLASSIFIER as CLASSIFIER
from prompt_jax.methods.union import mam as mam
from prompt_jax.methods.union import unipelt as unipelt

METHODS: dict[type[MethodConfig], Any] = {
    configs.PromptTuningConfig: prompt_tuning,
    configs.PTuningConfig: p_tuning,
    configs.PrefixTuningConfig: prefix_tuning,
    configs.PTuningV2Config: prefix_tuning,
    configs.DeepPromptConfig: deep_prompt,
    configs.ResidualPromptConfig: residual_prompt,
    configs.DecomposedPromptConfig: decomposed_prompt,
    configs.MultitaskPromptConfig: multitask_prompt,
    configs.LoraConfig: lora,
    configs.IA3Config: ia3,
    configs.AdapterConfig: adapter,
    configs.PromptAdapterConfig: prompt_adapter,
    configs.HeadConfig: head,
    configs.BiasConfig: bias,
    configs.NormConfig: norm,
    configs.FullConfig: full,
    configs.UnionConfig: union,
}


def init(
    config: MethodConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Any:
    """A fresh tuned tree: the only thing that is ever trained, all of it float32.

    Args:
      start: [P, D], only for `init="file"`: the rows that `init_file` holds.

    Raises:
      InputError: the method cannot start from what the config names on this backbone.
    """
    tuned = METHODS[type(config)].init(resolve(config, backbone), backbone, key, start)
    if config.num_labels is None:
        return tuned
    own = jax.random.fold_in(key, zlib.crc32(CLASSIFIER.encode()))
    return {**tuned, CLASSIFIER: head.init_head(config, backbone, own)}


def resolve(config: MethodConfig, backbone: Backbone) -> MethodConfig:
    """The config with what its empty fields mean on a backbone: names of kernels."""
    change = getattr(METHODS[type(config)], "resolve", None)
    return config if change is None else change(config, backbone)


def materialize(config: MethodConfig, tuned: Any, key: Any = None) -> Injection | TaskPrompts:
    """What the tuned tree puts into the frozen model; differentiable.

    The prompts of several tasks become an `Injection` by `for_tasks`.

    Args:
      key: for the method's own dropout; None while nothing is trained.
    """
    own, beside = _apart(config, tuned)
    injection = METHODS[type(config)].materialize(config, own, key)
    if isinstance(injection, TaskPrompts):
        return injection._replace(rest=_placed(config, injection.rest, beside))
    return _placed(config, injection, beside)


def _placed(config: MethodConfig, injection: Injection, beside: dict[str, Any]) -> Injection:
    """The injection at the method's placement, with the head beside it if there is one."""
    injection = injection._replace(placement=Placement(config.placement))
    if not beside:
        return injection
    # Without virtual tokens in the input, PEFT leaves the choice to the model: the text's own.
    pool = jnp.asarray(config.pooling == "peft" and config.input_tokens > 0)
    return injection._replace(head=beside[CLASSIFIER], pool_prompt=pool)


def _apart(config: MethodConfig, tuned: Any) -> tuple[Any, dict[str, Any]]:
    """The method's own tree, and the head beside it if there is one."""
    # jnp.asarray would compile a copy for every shape.
    tuned = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x), tuned)
    if config.num_labels is None:
        return tuned, {}
    own = {name: tree for name, tree in tuned.items() if name != CLASSIFIER}
    return own, {CLASSIFIER: tuned[CLASSIFIER]}


def simplify(config: MethodConfig, tuned: Any) -> tuple[MethodConfig, Any]:
    """The same prompt as a simpler method: what is served, and what other programs read.

    A prompt that an LSTM wrote is a plain prompt once the LSTM has written it.
    """
    change = getattr(METHODS[type(config)], "simplify", None)
    if change is None:
        return config, tuned
    own, beside = _apart(config, tuned)
    simple, tree = change(config, own)
    return simple, {**tree, **beside} if beside else tree


def of_task(config: configs.MultitaskPromptConfig, tuned: Any, task: int) -> tuple[Any, Any]:
    """The plain prompt of one task among several, and its tree, with a head if there is one.

    Raises:
      InputError: there is no such task.
    """
    own, beside = _apart(config, tuned)
    plain, tree = multitask_prompt.of_task(config, own, task)
    return plain, {**tree, **beside}
