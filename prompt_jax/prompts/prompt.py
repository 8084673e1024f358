"""A prompt with its identity."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import weakref
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Int

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.sizes import numbers
from prompt_jax.config import InputError, MethodConfig, PromptTuningConfig
from prompt_jax.forward import Injection, for_tasks
from prompt_jax.methods import CLASSIFIER, materialize, resolve, simplify
from prompt_jax.tasks import Task


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("prompt_jax", "jax", "flax", "numpy"):
        # A checkout that was never installed has no version to tell.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """What a method trained, as it is served, and all that is needed to use it elsewhere.

    An empty string is what is not known: a `.npy` names no backbone.

    Raises:
      InputError: a leaf is not finite or empty, or a prompt's rows are not [P, D] or not as many as
        the method says.
    """

    tuned: Any
    """The tuned tree of `method`: float32 and read-only, so that the digest stays true."""
    method: MethodConfig
    """How the tree was made and what it does."""
    training: Any = None
    """The tree that training ended with, where that was another one: what resumes it."""
    trained_as: MethodConfig | None = None
    """The method of `training`."""
    name: str = ""
    backbone: str = ""
    """Name of the backbone it was trained on."""
    fingerprint: str = ""
    """That backbone's fingerprint."""
    tokenizer_hash: str = ""
    """`tokenizer_hash` of that backbone's tokenizer."""
    model_type: str = ""
    """That backbone's kind, by which PEFT's names of its modules are known."""
    num_layers: int | None = None
    num_attention_heads: int | None = None
    """With `num_layers` in PEFT's config, whose readers may want them without the model.

    None beside LoRA, IA3 or a prefix means that the tree has PEFT's shapes until it is adopted."""
    task: Task | None = None
    """Templates, label words and metrics it was trained with; the first task's of several."""
    tasks: tuple[Task, ...] = ()
    """Those that a multitask prompt has a prompt each for, in their order."""
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Scores, the deciding one first."""
    seed: int | None = None
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The config that trained it; plain JSON."""
    versions: dict[str, str] = dataclasses.field(default_factory=_versions)

    def __post_init__(self):
        object.__setattr__(self, "tuned", jax.tree.map(_frozen, self.tuned))
        _check_leaves(self.arrays)
        if isinstance(self.method, PromptTuningConfig):
            for rows in self.own_arrays.values():
                _check_rows(rows, self.method.num_virtual_tokens)
        if self.training is not None:
            object.__setattr__(self, "training", jax.tree.map(_frozen, self.training))
        # As they will be read from a file: no NumPy scalars, no tuples.
        for name in ("metrics", "recipe"):
            plain = json.loads(json.dumps(getattr(self, name), default=_plain))
            object.__setattr__(self, name, plain)

    def __repr__(self) -> str:
        name, on = (f" {word!r}" if word else "" for word in (self.name, self.backbone))
        kind = f"{self.method.kind}, {numbers(self.tuned)}"
        return f"<Prompt{name}: {kind}{', for' if on else ''}{on}>"

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The leaves of `tuned`, by path."""
        return by_path(self.tuned)

    @property
    def own_arrays(self) -> dict[str, np.ndarray]:
        """The leaves of the method itself: `arrays` without those of a head."""
        head = f"{CLASSIFIER}/"
        return {path: leaf for path, leaf in self.arrays.items() if not path.startswith(head)}

    @property
    def rows(self) -> np.ndarray:
        """The virtual tokens [P, D] before the input.

        Raises:
          InputError: the method has no such rows.
        """
        found = self.arrays.get("prompt")
        if not isinstance(self.method, PromptTuningConfig) or found is None:
            raise InputError(
                f"{self.name or self.digest[:12]} is {self.method.kind} and has no rows before the "
                "input; this is for prompt tuning and what becomes it: P-tuning, residual prompts, "
                "one task of a multitask prompt"
            )
        return found

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return sum(leaf.size for leaf in self.arrays.values())

    @property
    def digest(self) -> str:
        """sha256 of paths, shapes and numbers: the same for the same prompt, whatever its file."""
        digest = hashlib.sha256()
        for path, leaf in sorted(self.arrays.items()):
            digest.update(f"{path}{leaf.shape}".encode() + leaf.astype("<f4").tobytes())
        return digest.hexdigest()

    def injection(self, task: Int[ArrayLike, "*B"] | int | None = None) -> Injection:
        """What the prompt puts into the frozen model.

        Args:
          task: of a prompt for several tasks, the number of the one that is meant, or of every
            row's; see `task_numbers` for names.

        Raises:
          InputError: there are several tasks, and none is named.
        """
        return for_tasks(materialize(self.method, self.tuned), task)


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of dicts and lists by their paths, `a/0/b`."""
    return {
        "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def from_paths(leaves: dict[str, Any]) -> Any:
    """The reverse of `by_path`; numbers are places in a list."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return _listed(tree)


def _listed(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree and all(name.isdecimal() for name in tree):
        return [_listed(tree[name]) for name in sorted(tree, key=int)]
    return {name: _listed(value) for name, value in tree.items()}


def _frozen(leaf: Any) -> np.ndarray:
    leaf = np.array(leaf, np.float32, order="C")
    leaf.setflags(write=False)
    return leaf


def _check_leaves(arrays: dict[str, np.ndarray]) -> None:
    for path, leaf in arrays.items():
        if 0 in leaf.shape:
            raise InputError(f"the prompt is empty: {path} has shape {list(leaf.shape)}")
        rows = leaf.reshape(len(leaf) if leaf.ndim else 1, -1)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            raise InputError(
                f"the prompt holds NaN or inf in {bad.size} of {len(rows)} rows, first in row "
                f"{bad[0]}, of {path}; take an earlier checkpoint, or train with a lower rate"
            )


def _check_rows(rows: np.ndarray, virtual: int) -> None:
    if rows.ndim != 2:
        raise InputError(
            f"a prompt is an array [virtual tokens, width], got shape {list(rows.shape)}"
        )
    if virtual != len(rows):
        raise InputError(
            f"the method says {virtual} virtual tokens and the prompt holds {len(rows)}; "
            f"set num_virtual_tokens={len(rows)}"
        )


def prompt_for(tuned: Any, method: MethodConfig, backbone: Backbone, **about: Any) -> Prompt:
    """The prompt of a tuned tree, in the form that is served, with the backbone's identity.

    Args:
      tuned: the tree of `method`, numpy or jax, of any float type.
      method: how it was made.
      backbone: what it was trained on.
      about: other fields of `Prompt`: name, task, metrics, seed, recipe.

    Raises:
      InputError: it is no prompt, see `Prompt`, or of a task that the backbone does not do.
    """
    check_task(method, backbone)
    method = resolve(method, backbone)
    served, tree = simplify(method, tuned)
    form = {} if served == method else {"training": tuned, "trained_as": method}
    return Prompt(tuned=tree, method=served, **{**identity_of(backbone), **form, **about})


def check_task(method: MethodConfig, backbone: Backbone) -> None:
    """Checks that a prompt is of a task that the backbone does, which PEFT reads from its file.

    Raises:
      InputError: it is not, or it is to write and the backbone has no head over words.
    """
    if method.task_type not in backbone.task_types:
        raise InputError(
            f'task_type is "{method.task_type}" and backbone {backbone.name!r} does '
            f'{", ".join(backbone.task_types)}; set task_type="{backbone.task_types[0]}", or use '
            "a backbone that does it"
        )
    if method.task_type in ("SEQ_2_SEQ_LM", "CAUSAL_LM"):
        backbone.check_word_head()


def identity_of(backbone: Backbone) -> dict[str, Any]:
    """What a saved prompt tells about its backbone, as fields of a `Prompt`."""
    return {
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "tokenizer_hash": tokenizer_hash(backbone.tokenizer),
        "model_type": backbone.model_type,
        "num_layers": backbone.config.num_layers,
        "num_attention_heads": backbone.config.num_heads,
    }


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over the sorted vocabulary; empty without a tokenizer.

    Neither paths nor file formats go in, so copies of one tokenizer agree.
    """
    if tokenizer is None:
        return ""
    size, known = _HASHES.get(tokenizer, (-1, ""))
    if size != len(tokenizer):  # A vocabulary only ever grows.
        words = json.dumps(sorted(tokenizer.get_vocab().items()))
        known = hashlib.sha256(words.encode()).hexdigest()
        _HASHES[tokenizer] = len(tokenizer), known
    return known


_HASHES: weakref.WeakKeyDictionary[Any, tuple[int, str]] = weakref.WeakKeyDictionary()
"""Of tokenizers met before, with the size of their vocabulary then: hashing takes 30 ms."""
