"""A prompt as an engine serves it: one record a version, and the room that it takes in a slot.

A slot has room for all that any of its prompts puts into the model. What a prompt does not use is
neutral, and its virtual tokens stand on the right of their room, so that a row has the numbers it
would have alone.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import flax.traverse_util
import jax
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import IN_CHATS, KINDS, PLACEMENTS, InputError, MethodConfig
from prompt_jax.forward import Injection, for_tasks
from prompt_jax.methods import init, materialize
from prompt_jax.prompts import Prompt
from prompt_jax.prompts.multitask import of_task
from prompt_jax.serve.errors import PoisonedPromptError, PromptRefusedError, UnknownPromptError
from prompt_jax.tasks import Task, as_chat, conversation
from prompt_jax.tasks.text import Messages
from prompt_jax.trees import Tokenizer

Layout: TypeAlias = dict[str, tuple[int, ...]]
"""Path of a leaf -> its shape in one slot."""
Leaves: TypeAlias = Mapping[str, np.ndarray]
"""Path of a leaf -> its numbers, on the host."""
VIRTUAL = {"prompt": 0, "mask": 0, "prefix/key": -3, "prefix/value": -3, "prefix/mask": -1}
VIRTUAL |= {"prompt/add": -2, "inside/prompt": -2, "behind/prompt": -2}
VIRTUAL |= {"inside/mask": -1, "behind/mask": -1}
"""End of a path -> which of its axes are virtual tokens; those are padded in front."""
SEEN = ("prefix/key", "inside/prompt", "behind/prompt")
"""Ends of the paths of what an attention reads, whose masks stand beside them."""
FACTORS = ("scale", "input_scale")
"""Leaves whose neutral value is one; that of all others is zero."""
MARKS = {
    "tagging": "ask /v1/tags for its tags (Engine.mark)",
    "span": "ask /v1/spans for its spans (Engine.mark)",
}
"""Heads that mark parts of a text -> who asks them."""
LISTED = 10
"""Names that an error lists at most."""


# Compared by identity: a generated `==` would compare arrays, which have no single truth value.
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Served:
    """One version of a prompt, as it was when it was put under its name.

    A request keeps the record that it began with, whatever the name means by the time it is
    answered.
    """

    reference: str = ""
    """Its name in the engine, `name@version` where it comes from a store; empty of no prompt."""
    digest: str = ""
    """sha256 of its numbers. Empty of no prompt."""
    content: str = ""
    """sha256 of `leaves`, by which two names share a slot: the same numbers mean something else
    with another alpha or at another place. Empty of no prompt."""
    prompt: Prompt | None = None
    leaves: Leaves = dataclasses.field(default_factory=dict)
    """What goes into a slot, see `leaves_of`."""
    labels: tuple[str, ...] = ()
    """The label words of a classification, one of which is every answer; empty of others."""
    head: str = ""
    """The kind of answer that its trained head gives, one of `KINDS`; empty without a head."""
    virtual_tokens: int = 0
    """Positions of the model's input that it takes in every request."""
    classes: int = 0
    """C of a head that chooses a class for a text, or a tag for every word; 0 of all others."""
    name: str = ""
    """Its name in the store; empty of a prompt that no store has."""
    version: int = 0
    aliases: tuple[str, ...] = ()
    """Names of the store that mean this version now."""
    by_name: bool = False
    """Whether its name alone may mean this version, see `store.Entry`."""
    place: str = "prefix"
    """Where it stands, one of `PLACEMENTS`."""
    target_place: str = ""
    """Where its answers stand to a text, "turn" in a chat; empty is where the backbone has them."""

    @property
    def task(self) -> Task | None:
        """What it was trained on; None where that is not known."""
        return self.prompt.task if self.prompt else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The label words of its task, with a head or without."""
        return self.task.choices if self.task else ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes of its head are called: labels of its task, or numbers."""
        names = self.task.labels if self.task and self.task.kind == self.head else ()
        return names if len(names) == self.classes else tuple(map(str, range(self.classes)))

    @property
    def length_normalize(self) -> bool:
        """Whether its candidates are ranked by the mean over their tokens, as it was evaluated."""
        settings = self.prompt.recipe.get("eval") if self.prompt else None
        return not isinstance(settings, dict) or settings.get("length_normalize") is not False

    def check_classifies(self) -> None:
        """Checks that its answer to a text may be a class.

        Raises:
          InputError: it marks parts of a text, or its head answers with a number.
        """
        kind = self.head or (self.task.kind if self.task else "")
        unlike = kind == "multi_label" or bool(kind and KINDS[kind].marks_text)
        if unlike or self.head not in ("", "classification"):
            route = MARKS[kind] if self.head in MARKS else "answer with it by prompt-jax predict"
            raise InputError(
                f"prompt {self.reference!r} is for {kind.replace('_', ' ')} and gives no class of "
                f"a text; {route}"
            )

    def check_marks(self, *kinds: str) -> None:
        """Checks that its head marks parts of a text in one of these ways.

        Raises:
          InputError: it does not.
        """
        if self.head not in kinds:
            label = f"prompt {self.reference!r}" if self.reference else "the model without a prompt"
            route = MARKS.get(self.head, "name a prompt that was trained with one")
            raise InputError(f"{label} has no head for {' or '.join(kinds)}; {route}")

    def trained_form(self, text: str) -> str:
        """A text as the prompt was trained to read it: plain, or as the user's turn of a chat."""
        return as_chat(self.task, text) if self.task and self.task.chat else text

    def conversation(self, messages: Messages, tokenizer: Tokenizer | None) -> str:
        """Messages as the model reads them, see `prompt_jax.tasks.conversation`."""
        return conversation(self.task, messages, tokenizer)


PLAIN = Served()
"""The frozen model without a prompt."""


def served_as(
    reference: str, prompt: Prompt, backbone: Backbone, layout: Layout, allow_mismatch: bool
) -> Served:
    """The record of a prompt that an engine takes.

    Raises:
      PoisonedPromptError: it holds NaN or inf.
      PromptRefusedError: of another backbone, larger than a slot, or not one row's alone.
      InputError: the name is empty.
    """
    if not reference:
        raise InputError("a prompt needs a name, got an empty one")
    if not all(np.isfinite(leaf).all() for leaf in prompt.arrays.values()):
        raise PoisonedPromptError(
            f"prompt {reference!r} holds NaN or inf; it is damaged or its training diverged"
        )
    try:
        injection = injection_for(backbone, prompt, allow_mismatch)
        leaves = leaves_of(injection)
        check_room(leaves, layout)
    except InputError as error:
        raise PromptRefusedError(f"prompt {reference!r}: {error}") from error
    kernel, head = leaves.get("head/out/kernel"), head_of(prompt)
    classes = 0
    if kernel is not None and head in ("classification", "tagging"):
        classes = kernel.shape[-1]
    return Served(
        reference=reference,
        digest=prompt.digest,
        content=_content(leaves),
        prompt=prompt,
        leaves=leaves,
        labels=labels_of(prompt),
        virtual_tokens=injection.positions,
        head=head,
        classes=classes,
        place=prompt.method.place,
        target_place=prompt.task.target_place(backbone.target_place) if prompt.task else "",
    )


def _content(leaves: Leaves) -> str:
    content = hashlib.sha256()
    for path, leaf in sorted(leaves.items()):
        content.update(f"{path}{leaf.shape}".encode() + leaf.tobytes())
    return content.hexdigest()


def unknown(name: str, names: Iterable[str]) -> UnknownPromptError:
    """The error of a name that means nothing, with some names that do."""
    names = sorted(names)
    listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    return UnknownPromptError(f"there is no prompt {name!r}", f"known: {listed or 'none'}")


def poisoned(served: Served) -> PoisonedPromptError:
    """The error of a prompt whose answers were NaN or infinite."""
    return PoisonedPromptError(
        f"the answers of prompt {served.reference!r} ({served.digest[:12]}) are no numbers; put a "
        "sound one in its place"
    )


def injection_for(backbone: Backbone, prompt: Prompt, allow_mismatch: bool) -> Injection:
    """What a prompt puts into rows of its own."""
    prompt = of_task(prompt.on(backbone, allow_mismatch=allow_mismatch))
    # What fills up a slot stands before the virtual tokens. A decoder counts positions over real
    # tokens; elsewhere it would come between a text and a prompt that stands behind some of it.
    allowed = PLACEMENTS if backbone.target_place == "behind" else ("prefix", *IN_CHATS)
    if prompt.method.place not in allowed:
        raise InputError(
            f'it stands at "{prompt.method.place}", and prompts that share batches stand at '
            f"{', '.join(allowed)}; answer with it alone"
        )
    return prompt.injection()


def labels_of(prompt: Prompt) -> tuple[str, ...]:
    """The label words that a prompt chooses among; none where its answers are other texts."""
    labels = prompt.task.choices if prompt.task else ()
    if head_of(prompt) in ("", "classification") and prompt.method.num_labels in (
        None,
        len(labels),
    ):
        return labels
    return ()


def head_of(prompt: Prompt) -> str:
    """The kind of answer that a prompt's head gives; empty where it has none."""
    method, kind = prompt.method, prompt.task.kind if prompt.task else ""
    if method.num_labels is None:
        return ""
    if method.task_type != "SEQ_CLS":
        return {"TOKEN_CLS": "tagging", "QUESTION_ANS": "span"}[method.task_type]
    # One output is a number, as in Transformers, also where nothing is known of the task.
    numbers = "regression" if method.num_labels == 1 else "classification"
    return kind if kind in ("regression", "multiple_choice", "multi_label") else numbers


def example(backbone: Backbone, method: MethodConfig) -> Injection:
    """What a fresh prompt of a method puts into a model, for its shapes."""
    if backbone.config.opens("turn"):
        method = method.in_chats()
    if method.num_labels is None:  # The task has no part in the shapes.
        method = dataclasses.replace(method, task_type=backbone.task_types[0])
    # Any key will do, since only the shapes are used.
    return for_tasks(materialize(method, init(method, backbone, jax.random.key(0))), 0)


def layout_of(injections: Iterable[Injection]) -> Layout:
    """The smallest slot that each of these fits into."""
    layout: Layout = {}
    for injection in injections:
        for path, leaf in leaves_of(injection).items():
            shape = layout.get(path, leaf.shape)
            if len(shape) != leaf.ndim:
                raise InputError(
                    f"{path} is {list(leaf.shape)} in one prompt and {list(shape)} in another; "
                    "prompts of one bank are of one backbone"
                )
            layout[path] = tuple(map(max, shape, leaf.shape))
    return layout


def leaves_of(injection: Injection) -> dict[str, np.ndarray]:
    """The leaves of an injection by path, with masks of what is virtual."""
    _check_rows_apart(injection)
    leaves: dict[str, np.ndarray] = {}
    if injection.prompt is not None:
        leaves["prompt"] = np.asarray(injection.prompt, np.float32)
        real = injection.prompt_mask
        leaves["mask"] = np.ones(len(leaves["prompt"]), bool) if real is None else np.asarray(real)
        if injection.placement != "prefix":
            leaves["place"] = np.array(PLACEMENTS.index(injection.placement), np.int32)
    if injection.shift is not None:
        leaves["shift"] = np.asarray(injection.shift, np.float32)
    head = flax.traverse_util.flatten_dict(injection.head or {}, sep="/")
    leaves.update({f"head/{path}": np.asarray(leaf, np.float32) for path, leaf in head.items()})
    sockets: dict[str, Any] = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    for path, leaf in sockets.items():
        if path.endswith("lora/dropout"):  # A matter of training; no answer has dropout.
            continue
        leaves[f"sockets/{path}"] = np.asarray(leaf, bool if _is_mask(path) else np.float32)
        # Keys without a mask are real throughout. In a longer slot they need one, since the
        # attention would see the zeros in front of them.
        end = next((end for end in SEEN if path.endswith(end)), None)
        mask = f"{path.removesuffix(end.rpartition('/')[2])}mask" if end else path
        if end and mask not in sockets:
            length = leaf.shape[VIRTUAL[end]]
            leaves[f"sockets/{mask}"] = np.ones((leaf.shape[0], length), bool)
    return leaves


def check_room(leaves: Leaves, layout: Layout) -> None:
    """Checks that leaves fit into a slot."""
    for path, leaf in leaves.items():
        room = layout.get(path)
        if room is None or any(a > b for a, b in zip(leaf.shape, room, strict=True)):
            raise InputError(
                f"{path} is {list(leaf.shape)} and a slot has "
                f"{'no room for it' if room is None else list(room)}; {_remedy(path, leaf)}"
            )


def _remedy(path: str, leaf: np.ndarray) -> str:
    """What makes room for a leaf."""
    if path in ("prompt", "mask"):
        return f"serve with --num-virtual-tokens {len(leaf)}, or give the engine room for as many"
    if path.endswith("lora/a"):
        return f"serve with --lora-rank {leaf.shape[-1]}, or give the engine room for that rank"
    return "serve with --room METHOD, or have such a prompt in the store when the server starts"


def fitted(leaves: Leaves, layout: Layout) -> dict[str, np.ndarray]:
    """Leaves in the room of a slot."""
    check_room(leaves, layout)
    slot = neutral(layout)
    for path, leaf in leaves.items():
        axis = next((axis for end, axis in VIRTUAL.items() if _ends(path, end)), None)
        place = [slice(0, size) for size in leaf.shape]
        if axis is not None:
            # Padding goes in front of virtual tokens: between them and the text it would shift the
            # distances that a model with relative positions sees.
            place[axis] = slice(layout[path][axis] - leaf.shape[axis], None)
        slot[path][tuple(place)] = leaf
    return slot


def neutral(layout: Layout) -> dict[str, np.ndarray]:
    """A slot that leaves the model as it is."""
    return {path: _neutral(path, shape) for path, shape in layout.items()}


def _neutral(path: str, shape: tuple[int, ...]) -> np.ndarray:
    # A virtual token that is masked has no effect, so a neutral mask is False throughout.
    if path == "place":
        return np.zeros(shape, np.int32)  # In front, the first of `PLACEMENTS`.
    if _is_mask(path):
        return np.zeros(shape, bool)
    return np.full(shape, float(path.rpartition("/")[2] in FACTORS), np.float32)


def _is_mask(path: str) -> bool:
    return path.rpartition("/")[2] == "mask"


def _ends(path: str, end: str) -> bool:
    return path == end if "/" not in end else path.endswith(f"/{end}")


def _check_rows_apart(injection: Injection) -> None:
    """Checks that every row of a batch can have an injection of this kind for itself."""
    leaves = flax.traverse_util.flatten_dict(injection.sockets, sep="/")
    refused = {
        "weights of its own": injection.params is not None,
        "a head that reads virtual tokens": bool(injection.pool_prompt),
        "a prompt for each row": injection.prompt is not None and injection.prompt.ndim > 2,
        "states that replace those of the text": any(p.endswith("prompt/replace") for p in leaves),
        "virtual tokens before the target": "decoder/prompt" in leaves,
        "the norms of DoRA": any(p.endswith("lora/magnitude") for p in leaves),
    }
    reasons = [reason for reason, applies in refused.items() if applies]
    if reasons:
        raise InputError(
            f"the prompt has {' and '.join(reasons)}, which rows of a batch cannot have each for "
            "itself; answer with it alone"
        )
    numbers = [injection.prompt, injection.shift, injection.head, injection.sockets]
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(numbers)):
        raise InputError("the prompt holds NaN or inf; it is damaged or its training diverged")
