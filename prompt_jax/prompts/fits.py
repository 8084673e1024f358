"""Whether a prompt fits a backbone, and what it takes from there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.backbones import BACKBONES, Backbone
from prompt_jax.config import InputError, MethodConfig, PromptTuningConfig
from prompt_jax.methods import init
from prompt_jax.prompts.peft_shapes import fitted
from prompt_jax.prompts.prompt import Prompt, by_path, from_paths, identity_of, tokenizer_hash


def check_fits(prompt: Prompt, backbone: Backbone, *, allow_mismatch: bool = False) -> None:
    """Checks that the prompt was trained on this backbone, as far as its file tells.

    A prompt on other weights of the same width runs and means nothing, so it is refused.

    Args:
      prompt: what is not known about it (an empty fingerprint) is not checked. One that PEFT saved
        needs `adopt` instead, which also gives its tree the backbone's shapes.
      backbone: what it shall run on.
      allow_mismatch: lets another family, fingerprint or tokenizer pass; another width never does.

    Raises:
      InputError: width, family, fingerprint or tokenizer differ.
    """
    _arrays_on(prompt, backbone, allow_mismatch)


def adopt(prompt: Prompt, backbone: Backbone, *, allow_mismatch: bool = False) -> Prompt:
    """The prompt, checked, with the backbone's identity and shapes where its own are unknown.

    Raises:
      InputError: as `check_fits`.
    """
    arrays = _arrays_on(prompt, backbone, allow_mismatch)
    identity = identity_of(backbone).items()
    unknown = {name: value for name, value in identity if value and not getattr(prompt, name)}
    if not unknown:
        return prompt
    return dataclasses.replace(prompt, tuned=from_paths(arrays), **unknown)


def _arrays_on(prompt: Prompt, backbone: Backbone, allow_mismatch: bool) -> dict[str, np.ndarray]:
    """The leaves by path, checked, in the backbone's shapes if they still have PEFT's."""
    names = f"prompt {prompt.name or prompt.digest[:12]!r}", f"backbone {backbone.name!r}"
    remedy = (
        "use that backbone, or pass allow_mismatch=True (--allow-mismatch) to run it all the same"
    )
    kinds = prompt.model_type, backbone.model_type
    of_another = prompt.model_type and BACKBONES.get(kinds[0]) is not BACKBONES.get(kinds[1])
    if of_another and not allow_mismatch:
        raise InputError(
            f"{names[0]} was trained on a {kinds[0]} ({prompt.backbone or 'unnamed'}) and "
            f"{names[1]} is a {kinds[1]}; {remedy}"
        )
    arrays = _check_shapes(prompt, backbone, *names)
    for what, ours, its in (
        ("weights", backbone.fingerprint, prompt.fingerprint),
        ("tokenizer", tokenizer_hash(backbone.tokenizer), prompt.tokenizer_hash),
    ):
        if ours and its and ours != its and not allow_mismatch:
            raise InputError(
                f"{names[0]} was trained on other {what} ({prompt.backbone or 'unnamed'}, sha256 "
                f"{its[:12]}) than {names[1]} has (sha256 {ours[:12]}); {remedy}"
            )
    return arrays


def _check_shapes(
    prompt: Prompt, backbone: Backbone, ours: str, theirs: str
) -> dict[str, np.ndarray]:
    trained_on = f" ({prompt.backbone})" if prompt.backbone else ""
    remedy = f"use the backbone that it was trained on{trained_on}"
    arrays, of_rows = prompt.arrays, isinstance(prompt.method, PromptTuningConfig)
    if of_rows:
        width = next(iter(prompt.own_arrays.values())).shape[1]
        if width != backbone.width:
            raise InputError(f"{ours} is {width} wide and {theirs} is {backbone.width}; {remedy}")
        if prompt.method.num_labels is None:
            return arrays
    expected = _shapes(prompt.method, backbone)
    if prompt.num_attention_heads is None and not of_rows:
        arrays = fitted(arrays, expected)
    actual = {path: leaf.shape for path, leaf in arrays.items()}
    for path in {**expected, **actual}:
        if expected.get(path) != actual.get(path):
            raise InputError(
                f"{ours} does not fit {theirs}: {path} is {actual.get(path, 'missing')} and must "
                f"be {expected.get(path, 'absent')}; {remedy}"
            )
    return arrays


def _shapes(method: MethodConfig, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The shapes of a method's tree on a backbone, by path."""
    # Shapes only: where a start would come from does not matter.
    plain = {"init": "random"} if hasattr(method, "init") else {}
    method = dataclasses.replace(method, **plain)
    tree = jax.eval_shape(lambda key: init(method, backbone, key), jax.random.key(0))
    return jax.tree.map(jnp.shape, by_path(tree), is_leaf=lambda v: hasattr(v, "shape"))
