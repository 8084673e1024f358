"""A prompt with its identity."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Int

from prompt_jax.backbones import BACKBONES, Backbone
from prompt_jax.backbones.backbone import tokenizer_hash
from prompt_jax.backbones.sizes import numbers
from prompt_jax.config import IN_CHATS, InputError, MethodConfig
from prompt_jax.forward import Injection, for_tasks
from prompt_jax.methods.classifier import CLASSIFIER
from prompt_jax.methods.method import Shapes, as_written, materialize, resolve, shapes, simplify
from prompt_jax.tasks import Task
from prompt_jax.tasks.chat import template_hash
from prompt_jax.trees import Tree, Tuned


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("prompt_jax", "jax", "flax", "numpy"):
        # A checkout that was never installed has no version to tell.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.generic | np.ndarray | jax.Array) else str(value)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """What a method trained, as it is served, and all that is needed to use it elsewhere.

    An empty string is what is not known: a `.npy` names no backbone.

    Raises:
      InputError: a leaf is not finite or empty, or a prompt's rows are not [P, D] or not as many as
        the method says.
    """

    tuned: Tuned
    """The tuned tree of `method`: float32 and read-only, so that the digest stays true."""
    method: MethodConfig
    """How the tree was made and what it does."""
    training: Tuned | None = None
    """The tree that training ended with, where that was another one: what resumes it."""
    trained_as: MethodConfig | None = None
    """The method of `training`."""
    name: str = ""
    backbone: str = ""
    """Name of the backbone it was trained on."""
    fingerprint: str = ""
    """Fingerprint of that backbone."""
    tokenizer_hash: str = ""
    """`tokenizer_hash` of that backbone's tokenizer."""
    model_type: str = ""
    """Kind of that backbone, by which PEFT's names of its modules are known."""
    num_layers: int | None = None
    """Layers of that backbone, for readers of PEFT's config that want them without the model."""
    num_attention_heads: int | None = None
    """Heads of that backbone, for the same readers."""
    states_task: bool = True
    """Whether `method.task_type` was chosen; else it becomes the one by which a backbone writes."""
    task: Task | None = None
    """Templates, label words and metrics it was trained with; the first task's of several."""
    tasks: tuple[Task, ...] = ()
    """The tasks that a multitask prompt has a prompt for, in their order."""
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Scores, the deciding one first."""
    seed: int | None = None
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The config that trained it; plain JSON."""
    versions: dict[str, str] = dataclasses.field(default_factory=_versions)

    def __post_init__(self):
        object.__setattr__(self, "tuned", jax.tree.map(_frozen, self.tuned))
        _check_leaves(self.arrays)
        if self.method.rows_only:
            for rows in self.own_arrays.values():
                _check_rows(rows, self.method)
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
    def label(self) -> str:
        """What it is called, where somebody reads: its name, or how its digest begins."""
        return self.name or self.digest[:12]

    @property
    def trained_method(self) -> MethodConfig:
        """The method of the tree that training ended with, `trained_tree`."""
        return self.trained_as or self.method

    @property
    def trained_tree(self) -> Tuned:
        """What training ended with and goes on from; `tuned` is what it is served as."""
        return self.tuned if self.training is None else self.training

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The leaves of `tuned`, by path."""
        return by_path(self.tuned)

    @property
    def own_arrays(self) -> dict[str, np.ndarray]:
        """The leaves of the method itself: `arrays` without those of a head."""
        arrays, head = self.arrays, self.head
        return {path: leaf for path, leaf in arrays.items() if path not in head}

    @property
    def head(self) -> dict[str, np.ndarray]:
        """The leaves of a trained head by path; empty where there is none."""
        return {p: leaf for p, leaf in self.arrays.items() if p.startswith(f"{CLASSIFIER}/")}

    @property
    def rows(self) -> np.ndarray:
        """The virtual tokens [P, D] before the input."""
        rows = self.arrays.get("prompt")
        if not self.method.rows_only or rows is None:
            raise InputError(
                f"{self.label} is {self.method.kind} and has no rows before the "
                "input; this is for prompt tuning and what becomes it: P-tuning, residual prompts, "
                "one task of a multitask prompt"
            )
        return rows

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return sum(leaf.size for leaf in self.arrays.values())

    @property
    def digest(self) -> str:
        """sha256 of paths, shapes and numbers: the same for the same prompt, whatever its file."""
        digest = hashlib.sha256()
        for path, leaf in sorted(self.arrays.items()):
            # Little-endian, so that the digest is the same on every machine.
            digest.update(f"{path}{leaf.shape}".encode() + leaf.astype("<f4").tobytes())
        return digest.hexdigest()

    def injection(self, task: Int[ArrayLike, "*B"] | int | None = None) -> Injection:
        """What the prompt puts into the frozen model.

        Args:
          task: of a prompt for several tasks, the number of the one that is meant, or of every
            row's; see `task_numbers` for names.
        """
        return for_tasks(materialize(self.method, self.tuned), task)

    def on(self, backbone: Backbone, *, allow_mismatch: bool = False) -> "Prompt":
        """The prompt, checked, with the backbone's identity where its own is unknown.

        A prompt on other weights of the same width runs and means nothing, so it is refused.

        Args:
          backbone: what it shall run on. What is not known about the prompt (an empty fingerprint)
            is not checked.
          allow_mismatch: lets another family, fingerprint or tokenizer pass; another width never
            does.
        """
        if not allow_mismatch:
            _check_family(self, backbone)
        check_shapes(self, backbone)
        if not allow_mismatch:
            _check_weights(self, backbone)
        identity = backbone.identity.items()
        unknown = {name: value for name, value in identity if value and not getattr(self, name)}
        rows_alone = not (self.backbone or self.model_type)
        if rows_alone or not self.states_task:
            unknown |= {"method": as_written(self.method, backbone), "states_task": True}
        return dataclasses.replace(self, **unknown) if unknown else self


def by_path(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree of dicts and lists by their paths, `a/0/b`."""
    return {
        "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def from_paths(leaves: dict[str, Any]) -> Tuned:
    """The reverse of `by_path`; numbers are places in a list."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return {name: _listed(value) for name, value in tree.items()}


def _listed(tree: Tree) -> Tree:
    if not isinstance(tree, dict):
        return tree
    if tree and all(name.isdecimal() for name in tree):
        return [_listed(tree[name]) for name in sorted(tree, key=int)]
    return {name: _listed(value) for name, value in tree.items()}


def _frozen(leaf: ArrayLike) -> np.ndarray:
    # A copy: the digest must not change with an array that the caller still holds.
    array = np.array(leaf, np.float32, order="C")
    array.setflags(write=False)
    return array


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


def _check_rows(rows: np.ndarray, method: MethodConfig) -> None:
    virtual = getattr(method, "num_virtual_tokens", len(rows))
    if rows.ndim != 2:
        raise InputError(
            f"a prompt is an array [virtual tokens, width], got shape {list(rows.shape)}"
        )
    if virtual != len(rows):
        raise InputError(
            f"the method says {virtual} virtual tokens and the prompt holds {len(rows)}; "
            f"set num_virtual_tokens={len(rows)}"
        )


def check_shapes(prompt: Prompt, backbone: Backbone, expected: Shapes | None = None) -> None:
    """Checks that a prompt's tree is one of its method on a backbone.

    Args:
      expected: the shapes of such a tree by path, where they are known.
    """
    names = f"prompt {prompt.label!r}", f"backbone {backbone.name!r}"
    trained_on = f" ({prompt.backbone})" if prompt.backbone else ""
    remedy = f"use the backbone that it was trained on{trained_on}"
    if prompt.method.rows_only:
        width = next(iter(prompt.own_arrays.values())).shape[1]
        if width != backbone.width:
            raise InputError(
                f"{names[0]} is {width} wide and {names[1]} is {backbone.width}; {remedy}"
            )
        if prompt.method.num_labels is None:
            return
    expected = expected or shapes_on(prompt.method, backbone)
    actual = {path: leaf.shape for path, leaf in prompt.arrays.items()}
    for path in {**expected, **actual}:
        if expected.get(path) != actual.get(path):
            raise InputError(
                f"{names[0]} does not fit {names[1]}: {path} is {actual.get(path, 'missing')} and "
                f"must be {expected.get(path, 'absent')}; {remedy}"
            )


def shapes_on(method: MethodConfig, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The shapes of a method's tree on a backbone, by path."""
    return {path: leaf.shape for path, leaf in by_path(shapes(method, backbone)).items()}


REMEDY = "use that backbone, or pass allow_mismatch=True (--allow-mismatch) to run it all the same"


def _check_family(prompt: Prompt, backbone: Backbone) -> None:
    if prompt.model_type and BACKBONES.get(prompt.model_type) is not backbone.family:
        raise InputError(
            f"prompt {prompt.label!r} was trained on a {prompt.model_type} "
            f"({prompt.backbone or 'unnamed'}) and backbone {backbone.name!r} is a "
            f"{backbone.model_type}; {REMEDY}"
        )


def _check_weights(prompt: Prompt, backbone: Backbone) -> None:
    for part, here, there in (
        ("weights", backbone.fingerprint, prompt.fingerprint),
        ("tokenizer", tokenizer_hash(backbone.tokenizer), prompt.tokenizer_hash),
    ):
        if here and there and here != there:
            raise InputError(
                f"prompt {prompt.label!r} was trained on other {part} "
                f"({prompt.backbone or 'unnamed'}, sha256 {there[:12]}) than backbone "
                f"{backbone.name!r} has (sha256 {here[:12]}); {REMEDY}"
            )
    _check_template(prompt, backbone)


def _check_template(prompt: Prompt, backbone: Backbone) -> None:
    """Checks that texts are rendered as in training, whatever else the tokenizer does alike."""
    here = template_hash(backbone.tokenizer)
    there = next((task.template for task in (prompt.task, *prompt.tasks) if task), "")
    if there and here != there:
        written = f"another (sha256 {here[:12]})" if here else "none"
        raise InputError(
            f"prompt {prompt.label!r} was trained with the chat template "
            f"sha256 {there[:12]} and the tokenizer of backbone {backbone.name!r} has {written}; "
            f"{REMEDY.replace('that backbone', 'the tokenizer that it was trained with')}"
        )


def prompt_for(tuned: Tuned, method: MethodConfig, backbone: Backbone, **about: Any) -> Prompt:
    """The prompt of a tuned tree, in the form that is served, with the backbone's identity.

    Args:
      tuned: the tree of `method`, numpy or jax, of any float type.
      method: how it was made.
      about: other fields of `Prompt`: name, task, metrics, seed, recipe.

    Raises:
      InputError: it is no prompt, see `Prompt`, or of a task that the backbone does not do.
    """
    method = resolve(method, backbone)
    check_task(method, backbone)
    served, tree = simplify(method, tuned)
    form = {} if served == method else {"training": tuned, "trained_as": method}
    return Prompt(tuned=tree, method=served, **{**backbone.identity, **form, **about})


def check_task(method: MethodConfig, backbone: Backbone) -> None:
    """Checks that a prompt is of a task that the backbone does, and has a place in its chats.

    Raises:
      InputError: PEFT's file of the prompt says another task, or the backbone has no chat template
        with the turn that the prompt stands in.
    """
    if method.task_type not in backbone.task_types:
        raise InputError(
            f'task_type is "{method.task_type}" and backbone {backbone.name!r} does '
            f'{", ".join(backbone.task_types)}; set task_type="{backbone.task_types[0]}", or use '
            "a backbone that does it"
        )
    if method.place in IN_CHATS:
        backbone.config.opening(method.place)
    if method.task_type in ("SEQ_2_SEQ_LM", "CAUSAL_LM"):
        backbone.check_word_head()
