"""Prompts by name, on the host: what a request may ask for."""

import dataclasses
import threading
from typing import Any

import jax
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.forward import Injection, for_tasks
from prompt_jax.methods import init, materialize
from prompt_jax.prompts.multitask import of_task
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.serve.bank import Layout, check_room, flat
from prompt_jax.serve.errors import PoisonedPromptError, PromptRefusedError, UnknownPromptError
from prompt_jax.serve.slots import PLAIN_VERSION, Version

NAMED = 10
"""Names that an error lists at most."""


class Registry:
    """What every name stands for now; safe to use from any thread.

    Args:
      backbone: what prompts shall fit.
      layout: of a slot.
    """

    def __init__(self, backbone: Backbone, layout: Layout):
        self._backbone, self._layout = backbone, layout
        self._lock = threading.Lock()
        self._versions: dict[str, Version] = {}
        self._poisoned: set[str] = set()

    def put(self, name: str, prompt: Prompt, allow_mismatch: bool) -> str:
        """See `Engine.put`."""
        if not name:
            raise InputError("a prompt needs a name, got an empty one")
        if not all(np.isfinite(leaf).all() for leaf in prompt.arrays.values()):
            raise PoisonedPromptError(
                f"prompt {name!r} holds NaN or inf; it is damaged or its training diverged"
            )
        try:
            leaves = flat(injection_for(self._backbone, prompt, allow_mismatch))
            check_room(leaves, self._layout)
        except InputError as error:
            raise PromptRefusedError(f"prompt {name!r}: {error}") from error
        version = Version(name, prompt.digest, leaves, labels_of(prompt))
        with self._lock:
            self._versions[name] = version
            self._poisoned.discard(version.digest)
        return version.digest

    def remove(self, name: str) -> None:
        """See `Engine.remove`."""
        with self._lock:
            if self._versions.pop(name, None) is None:
                raise self._unknown(name)

    def names(self) -> list[str]:
        """Of all prompts, sorted."""
        with self._lock:
            return sorted(self._versions)

    def label_sets(self) -> list[tuple[str, ...]]:
        """The label words that prompts without a head choose among, each set once."""
        with self._lock:
            versions = list(self._versions.values())
        return sorted({v.labels for v in versions if v.labels and not v.classes})

    def version(self, name: str | None) -> Version:
        """See `Engine.version`."""
        if name is None:
            return PLAIN_VERSION
        with self._lock:
            found = self._versions.get(name)
            if found is None:
                raise self._unknown(name)
            if found.digest in self._poisoned:
                raise poisoned(found)
            return found

    def poison(self, version: Version) -> None:
        """Refuses a prompt from now on, under all of its names, until it is put anew."""
        with self._lock:
            self._poisoned.add(version.digest)

    def _unknown(self, name: str) -> UnknownPromptError:
        known = sorted(self._versions)
        few = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
        return UnknownPromptError(f"there is no prompt {name!r}; known: {few or 'none'}")


def injection_for(backbone: Backbone, prompt: Prompt, allow_mismatch: bool) -> Injection:
    """What a prompt puts into rows of its own.

    Raises:
      InputError: it is of another backbone, holds those of several tasks, or stands elsewhere
        than before the text.
    """
    prompt = of_task(prompt.on(backbone, allow_mismatch=allow_mismatch))
    if prompt.method.placement != "prefix":
        raise InputError(
            f"it stands at {prompt.method.placement!r}, and rows of one batch share the "
            'placement "prefix"; answer with it alone'
        )
    return prompt.injection()


def labels_of(prompt: Prompt) -> tuple[str, ...]:
    """The label words that a prompt chooses among; none where its answers are other texts."""
    labels = prompt.task.choices if prompt.task else ()
    return labels if prompt.method.num_labels in (None, len(labels)) else ()


def example(backbone: Backbone, method: MethodConfig) -> Injection:
    """What a method puts into a model, for its shapes."""
    if method.num_labels is None:  # What it shall do has no part in them.
        method = dataclasses.replace(method, task_type=backbone.task_types[0])
    tuned: Any = init(method, backbone, jax.random.key(0))
    return for_tasks(materialize(method, tuned), 0)


def poisoned(version: Version) -> PoisonedPromptError:
    """What callers of such a prompt are told."""
    return PoisonedPromptError(
        f"the answers of prompt {version.name!r} ({version.digest[:12]}) are no numbers; put a "
        "sound one in its place"
    )
