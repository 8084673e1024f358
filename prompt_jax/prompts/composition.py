"""New prompts out of trained ones: their rows one behind the other, averaged, or added up."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from prompt_jax.config import InputError, choose
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.prompts.prompt import Prompt

Way = Literal["concat", "average", "weighted", "task_arithmetic"]
IDENTITY = ("backbone", "fingerprint", "tokenizer_hash", "model_type", "num_layers")
IDENTITY += ("num_attention_heads", "states_task")


def compose(
    prompts: Sequence[Prompt],
    how: str = "concat",
    weights: Sequence[float] | None = None,
    name: str = "",
) -> Prompt:
    """One prompt made of several; nothing is trained.

    Scores do not carry over: the result has none. It has the parents' task, and the data they were
    trained on, where they share them. Weights that are learned from examples are the business of
    `compose_attention`.

    Args:
      prompts: at least two, of one backbone and one placement.
      how: `concat` stacks their rows in this order, which is the same as all of them in front of
        the input; `average` and `weighted` add up rows of equal number; `task_arithmetic` takes
        the first prompt as the start S and gives S + sum of w_i (P_i - S) over the others.
      weights: of `weighted`, one a prompt, which need not sum to one; of `task_arithmetic`, one a
        prompt after the start, 1 each unless given; negative ones unlearn. The others take none.

    Raises:
      InputError: fewer than two prompts, another `how`, weights that do not fit it, or prompts
        that have no rows or differ in width, backbone, placement or, where it matters, length.
    """
    if how == "attention":
        raise InputError(
            'how="attention" learns its weights from examples; use compose_attention with a '
            "backbone and batches (prompt-jax prompts attention)"
        )
    choose("way to compose prompts", how, get_args(Way))
    check_mixable(prompts, how)
    rows = [prompt.rows for prompt in prompts]
    weights = _weights(how, weights, len(prompts))
    # In float64, so that the average of equal prompts is that prompt to the last bit.
    wide = [array.astype(np.float64) for array in rows]
    if how == "concat":
        mixed = np.concatenate(rows)
    elif how == "task_arithmetic":
        changes = [weight * (array - wide[0]) for weight, array in _pairs(weights, wide[1:])]
        mixed = wide[0] + np.sum(changes, axis=0)
    else:
        mixed = np.sum([weight * array for weight, array in _pairs(weights, wide)], axis=0)
    recipe = {"composed": how, "weights": weights, "parents": [parent(p) for p in prompts]}
    data = [p.recipe.get("data") for p in prompts]
    if data[0] and data.count(data[0]) == len(data):
        recipe["data"] = data[0]
    # An identity is taken whole, from a prompt that knows its weights if there is one.
    identified = next((p for p in prompts if p.fingerprint), prompts[0])
    first = prompts[0]
    return Prompt(
        tuned={"prompt": mixed},
        method=plain_method(first, len(mixed)),
        name=name,
        task=first.task if all(p.task == first.task for p in prompts) else None,
        recipe=recipe,
        **{field: getattr(identified, field) for field in IDENTITY},
    )


def check_mixable(prompts: Sequence[Prompt], how: str) -> None:
    """Checks that prompts can become one."""
    if len(prompts) < 2:
        raise InputError(
            f"compose needs at least two prompts, got {len(prompts)}; a single one is used as it is"
        )
    for prompt in prompts:
        input_rows(prompt)
    check_alike(prompts)
    if how != "concat":
        _check_lengths(prompts, how)


def input_rows(prompt: Prompt) -> Float[np.ndarray, "P D"]:
    """`prompt.rows`, of a prompt that is these rows and nothing else."""
    rows = prompt.rows
    if len(prompt.own_arrays) > 1:
        raise InputError(
            f"prompt {prompt.label!r} also has rows in the decoder's input, which cannot be "
            'combined yet; use prompts with stack="encoder"'
        )
    return rows


def check_alike(prompts: Sequence[Prompt]) -> None:
    """Checks that the rows of prompts mean the same to one model."""
    first = prompts[0]
    for prompt in prompts[1:]:
        names = f"prompt {first.label!r} and prompt {prompt.label!r}"
        widths = first.rows.shape[1], prompt.rows.shape[1]
        if widths[0] != widths[1]:
            raise InputError(
                f"{names} are {widths[0]} and {widths[1]} wide; use prompts of one backbone"
            )
        places = first.method.place, prompt.method.place
        if places[0] != places[1]:
            raise InputError(
                f'{names} stand at "{places[0]}" and "{places[1]}"; use prompts of one placement'
            )
    identified = [prompt for prompt in prompts if prompt.fingerprint]
    for prompt in identified[1:]:
        if prompt.fingerprint != identified[0].fingerprint:
            raise InputError(
                f"prompt {identified[0].label!r} was trained on {_backbone(identified[0])} and "
                f"prompt {prompt.label!r} on {_backbone(prompt)}; use prompts of one backbone, or "
                "`recycle` one for the other's"
            )


def parent(prompt: Prompt) -> dict[str, str]:
    """What a recipe says about a prompt that went into another one."""
    return {"name": prompt.name, "digest": prompt.digest}


def plain_method(prompt: Prompt, length: int) -> PromptTuningConfig:
    """The config of rows that were computed from a prompt's.

    Where the parents' training began is not where these rows began, so no `init` is kept.
    """
    if prompt.method.num_labels is not None:
        raise InputError(
            f"prompt {prompt.label!r} has a trained head, which a prompt computed from its rows "
            "would lose; use prompts that answer in words"
        )
    kept = ("task_type", "tokenizer_name_or_path")
    return PromptTuningConfig(
        num_virtual_tokens=length,
        init="random",
        placement=getattr(prompt.method, "placement", None),
        **{name: getattr(prompt.method, name) for name in kept},
    )


def _backbone(prompt: Prompt) -> str:
    return f"{prompt.backbone or 'an unnamed backbone'} (sha256 {prompt.fingerprint[:12]})"


def _check_lengths(prompts: Sequence[Prompt], how: str) -> None:
    lengths = [len(prompt.rows) for prompt in prompts]
    if len(set(lengths)) > 1:
        raise InputError(
            f'how="{how}" needs prompts of equal length, got {", ".join(map(str, lengths))} '
            'virtual tokens; use how="concat"'
        )


def _weights(how: str, weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights that are used; none for `concat`."""
    if how in ("concat", "average"):
        if weights is not None:
            raise InputError(
                f'how="{how}" takes no weights, got {len(weights)}; leave them out or use '
                'how="weighted"'
            )
        return [] if how == "concat" else [1 / count] * count
    weighted = count - 1 if how == "task_arithmetic" else count
    if weights is None and how == "task_arithmetic":
        return [1.0] * weighted
    owner = "a prompt after the first" if how == "task_arithmetic" else "a prompt"
    got = 0 if weights is None else len(weights)
    if got != weighted:
        raise InputError(
            f'how="{how}" needs {weighted} weights, one {owner}, got {got}; give {weighted}'
        )
    numbers = [float(weight) for weight in weights or ()]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"weights must be finite numbers, got {numbers}; mend the one that is not")
    return numbers


def _pairs(weights: list[float], rows: list[np.ndarray]) -> Iterable[tuple[float, np.ndarray]]:
    return zip(weights, rows, strict=True)
