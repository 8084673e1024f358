"""A prompt as an engine serves it: one record a version."""

import dataclasses
from collections.abc import Iterable

import jax
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import IN_CHATS, KINDS, PLACEMENTS, InputError, MethodConfig
from prompt_jax.forward import Injection, for_tasks
from prompt_jax.methods import init, materialize
from prompt_jax.prompts import Prompt
from prompt_jax.prompts.multitask import of_task
from prompt_jax.serve.errors import PoisonedPromptError, PromptRefusedError, UnknownPromptError
from prompt_jax.serve.slots import Layout, Leaves, check_room, content_of, leaves_of
from prompt_jax.tasks import Task, as_chat, conversation
from prompt_jax.tasks.text import Messages
from prompt_jax.trees import Tokenizer

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
        content=content_of(leaves),
        prompt=prompt,
        leaves=leaves,
        labels=labels_of(prompt),
        virtual_tokens=injection.positions,
        head=head,
        classes=classes,
        place=prompt.method.place,
        target_place=prompt.task.target_place(backbone.target_place) if prompt.task else "",
    )


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
