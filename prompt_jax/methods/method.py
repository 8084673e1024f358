"""What a method is, how PEFT saves one, how it becomes known, and the functions that all share."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig
from prompt_jax.config.method import WRITES, add_kind
from prompt_jax.forward import Injection, Placement, PromptedModel, TaskPrompts
from prompt_jax.methods.classifier import CLASSIFIER, init_head
from prompt_jax.trees import Frozen, Tuned

KEY = "prompt_embeddings"
"""The tensor of virtual tokens, whatever the method."""
AGAIN = "save the folder again with PEFT"
FIXED = "fixed"
"""The branch of a tuned tree, or of a part of a union, that no optimizer changes: what a method
starts from and saves, but does not train."""

Leaves = Mapping[str, np.ndarray]
"""The leaves of a tuned tree by path, or tensors by PEFT's names."""
Shapes = Mapping[str, tuple[int, ...]]

C = TypeVar("C", bound=MethodConfig)
Options = TypeVar("Options", bound=MethodConfig, contravariant=True)


@runtime_checkable
class Init(Protocol[Options]):
    """`init(config, backbone, key) -> tuned`: a fresh tuned tree, float32.

    The tree is all that is trained, but for a branch `FIXED`. A method whose config has an
    `init_file` takes a fourth argument, `start` [P, D]: the rows in that file, or None.
    """

    def __call__(self, config: Options, backbone: Backbone, key: PRNGKeyArray, /) -> Tuned: ...


@runtime_checkable
class Materialize(Protocol[Options]):
    """`materialize(config, tuned, key=None)`: what the tree puts into the frozen model.

    Differentiable. The key is for the method's own dropout, and None while nothing is trained.
    """

    def __call__(
        self, config: Options, tuned: Tuned, key: PRNGKeyArray | None = None, /
    ) -> Injection | TaskPrompts: ...


class Stored(NamedTuple):
    """An adapter folder as it was read, with the paths for messages."""

    config: Path
    weights: Path
    values: dict[str, Any]
    """The content of `config`; its keys are not checked, and unknown ones are passed over."""
    tensors: dict[str, np.ndarray]
    """The content of `weights`, float32."""

    @property
    def task_type(self) -> str:
        """What the adapter is for; "" where the config does not say, as PEFT's does by default."""
        return self.values.get("task_type") or ""

    @property
    def submodules(self) -> int:
        """How many stacks PEFT keeps rows for: two under SEQ_2_SEQ_LM unless told otherwise."""
        both = 1 + (self.task_type == "SEQ_2_SEQ_LM")
        return self.whole("num_transformer_submodules", both)

    def on(self, backbone: Backbone) -> "Stored":
        """The adapter with the task by which a backbone writes, where it says none."""
        writing = backbone.task_types[0]
        if self.task_type or writing not in WRITES:
            return self
        return self._replace(values={**self.values, "task_type": writing})

    def whole(self, name: str, default: int | None = None) -> int:
        """A field that counts something; 8.0, which other writers of JSON make of 8, is 8.

        Raises:
          InputError: it is absent without a default, or no whole number of at least 1.
        """
        value = self._value(name, default)
        if not _is_number(value) or value != int(value) or value < 1:
            raise InputError(
                f"{self.config}: {name} must be a whole number of at least 1, got {value!r}; "
                f"{AGAIN}"
            )
        return int(value)

    def number(self, name: str, default: float) -> float:
        """A field that measures something: a finite number."""
        value = self._value(name, default)
        if not _is_number(value):
            raise InputError(f"{self.config}: {name} must be a number, got {value!r}; {AGAIN}")
        return float(value)

    def _value(self, name: str, default: float | None) -> object:
        value = self.values.get(name)
        return default if value is None else value

    def expect(self, names: Iterable[str]) -> None:
        """Checks that exactly these tensors are there."""
        names = list(names)
        missing = [name for name in names if name not in self.tensors]
        surplus = sorted(set(self.tensors) - set(names))
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        faults += [f"holds {', '.join(surplus)}, which no such adapter has"] if surplus else []
        if faults:
            raise InputError(f"{self.weights} {' and '.join(faults)}; {AGAIN}")

    def mismatch(self, why: str) -> InputError:
        """The error for a config and tensors that contradict each other."""
        return InputError(f"{self.config} and {self.weights.name} do not agree: {why}; {AGAIN}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class PeftFormat(NamedTuple):
    """How PEFT saves a method. Leaves are by path, without those of a head."""

    peft_type: str
    """What PEFT calls it."""
    read: Callable[[Stored, str], tuple[MethodConfig, Leaves]]
    """`read(stored, model_type)`: the method and its leaves, a kernel's matrices as PEFT has them,
    in which all heads are one axis."""
    write: Callable[[Any, Leaves, str], tuple[dict[str, object], Leaves]] | None = None
    """`write(config, leaves, model_type)`: fields of adapter_config.json, and the tensors. None is
    of a method that has become a simpler one when it is saved."""
    obstacle: Callable[[Any, Leaves, str], str] | None = None
    """`obstacle(config, leaves, model_type)`: why PEFT would run this differently; "" if not."""
    fit: Callable[[Leaves, Shapes], Leaves] | None = None
    """`fit(leaves, shapes)`: the leaves in a backbone's shapes, as far as they can be brought into
    them. None where PEFT's files say all about shapes, so that no backbone is needed."""
    root: str = "base_model."
    """What begins the names of a head's tensors."""
    kin: tuple[str, ...] = ()
    """What else PEFT calls folders that hold the same and run the same, and train otherwise."""
    takes_head: bool = True
    """Whether PEFT saves a trained head beside it."""


def matrix(path: Path, array: np.ndarray) -> Float[np.ndarray, "N D"]:
    """The array as float32 rows."""
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path} holds {array.dtype} of shape {list(array.shape)}; a prompt is an array of "
            "real numbers [virtual tokens, width]"
        )
    return array.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Method:
    """The functions of a method, see `register_method`."""

    init: Callable[..., Tuned]
    materialize: Callable[..., Injection | TaskPrompts]
    resolve: Callable[..., MethodConfig] | None = None
    simplify: Callable[..., tuple[MethodConfig, Tuned]] | None = None
    of_task: Callable[..., tuple[MethodConfig, Tuned]] | None = None
    merge: Callable[..., tuple[MethodConfig, Frozen]] | None = None
    context_loss: Callable[..., tuple[Float[Array, ""], int]] | None = None
    peft: PeftFormat | None = None


_METHODS: dict[type[MethodConfig], Method] = {}


def register_method(
    config: type[C],
    *,
    init: Init[C],
    materialize: Materialize[C],
    resolve: Callable[[C, Backbone], C] | None = None,
    simplify: Callable[[C, Tuned], tuple[MethodConfig, Tuned]] | None = None,
    of_task: Callable[[C, Tuned, int], tuple[MethodConfig, Tuned]] | None = None,
    merge: Callable[[C, Tuned, Frozen], tuple[MethodConfig, Frozen]] | None = None,
    context_loss: Callable[[C, PromptedModel], tuple[Float[Array, ""], int]] | None = None,
    peft: PeftFormat | None = None,
) -> None:
    """Makes a method known: to the command line, saved prompts and recipes, by `config.kind`.

    Only the first two functions are needed.

    Args:
      config: a frozen dataclass under `MethodConfig` that binds `kind`.
      init: a fresh tuned tree, see `Init`.
      materialize: what a tree puts into the frozen model, see `Materialize`.
      resolve: fills fields that are empty until a backbone is known, such as names of kernels.
      simplify: the same prompt as a simpler method, where training needs more than serving.
      of_task: one task's prompt out of a tree that holds those of several.
      merge: adds what was trained to the frozen tree, which is then a tree of full fine-tuning.
      context_loss: the mean loss of tokens that stand in the prompt itself, and how many they are;
        every row of a batch counts them with its own.
      peft: how PEFT saves it; without one, only this package reads what is saved.

    Raises:
      InputError: the config has no `kind`, or that of another method.
    """
    add_kind(config)
    _METHODS[config] = Method(
        init, materialize, resolve, simplify, of_task, merge, context_loss, peft
    )


def method_of(config: MethodConfig) -> Method:
    """The functions that go with a config."""
    if type(config) not in _METHODS:
        raise InputError(f"{type(config).__name__} is of no known method; call register_method")
    return _METHODS[type(config)]


def peft_formats() -> Mapping[str, PeftFormat]:
    """The formats that PEFT's folders may have, by what PEFT calls them."""
    formats = [method.peft for method in _METHODS.values() if method.peft is not None]
    return {name: format for format in formats for name in (format.peft_type, *format.kin)}


def init(
    config: MethodConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Tuned:
    """A fresh tuned tree: the only thing that is ever trained, all of it float32.

    Args:
      start: [P, D], only for `init="file"`: the rows that `init_file` holds.
    """
    rows = () if start is None else (start,)
    tuned = method_of(config).init(resolve(config, backbone), backbone, key, *rows)
    if config.num_labels is None:
        return tuned
    # crc32, because Python's own `hash` of a text differs from process to process.
    head_key = jax.random.fold_in(key, zlib.crc32(CLASSIFIER.encode()))
    return {**tuned, CLASSIFIER: init_head(config, backbone, head_key)}


def shapes(config: MethodConfig, backbone: Backbone) -> Tuned:
    """The shapes and types of a fresh tuned tree; nothing is computed."""
    # Where a start would come from does not matter to its shape.
    anyhow = {"init": "random"} if hasattr(config, "init") else {}
    config = dataclasses.replace(config, **anyhow)
    return jax.eval_shape(lambda key: init(config, backbone, key), jax.random.key(0))


def resolve(config: MethodConfig, backbone: Backbone) -> MethodConfig:
    """The config with what its fields mean on a backbone: how it writes, names of kernels."""
    config = as_written(config, backbone)
    fill = method_of(config).resolve
    return config if fill is None else fill(config, backbone)


def as_written(config: MethodConfig, backbone: Backbone) -> MethodConfig:
    """The config with the task type by which a backbone writes, where both write."""
    writing = backbone.task_types[0]
    if config.task_type not in WRITES or writing not in WRITES:
        return config
    return dataclasses.replace(config, task_type=writing)


def materialize(
    config: MethodConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection | TaskPrompts:
    """What the tuned tree puts into the frozen model; differentiable.

    The prompts of several tasks become an `Injection` by `for_tasks`.

    Args:
      key: for the method's own dropout; None while nothing is trained.
    """
    tree, head = _apart(config, tuned)
    with jax.named_scope(config.kind):
        injection = method_of(config).materialize(config, tree, key)
    if isinstance(injection, TaskPrompts):
        return injection._replace(rest=_placed(config, injection.rest, head))
    return _placed(config, injection, head)


def materializer(
    config: MethodConfig,
) -> Callable[[Tuned, PRNGKeyArray | None], Injection | TaskPrompts]:
    """`materialize` of a config, looked up once for all steps.

    It is the method's own function where no head and no placement come around it.
    """
    if config.num_labels is not None or config.place != "prefix":
        return functools.partial(materialize, config)
    return jax.named_scope(config.kind)(functools.partial(method_of(config).materialize, config))


def _placed(config: MethodConfig, injection: Injection, head: dict[str, Tuned]) -> Injection:
    """The injection at the method's placement, with the head beside it if there is one."""
    if config.place != injection.placement:
        injection = injection._replace(placement=Placement(config.place))
    if not head:
        return injection
    # Without virtual tokens in the input, PEFT leaves the choice to the model: the text's own.
    pool = jnp.asarray(config.pooling == "peft" and config.input_tokens > 0)
    return injection._replace(head=head[CLASSIFIER], pool_prompt=pool)


def _apart(config: MethodConfig, tuned: Tuned) -> tuple[Tuned, dict[str, Tuned]]:
    """The method's tree, and the head beside it if there is one."""
    # jnp.asarray would compile a copy for every shape.
    tuned = jax.tree.map(lambda x: x if isinstance(x, Array) else jax.device_put(x), tuned)
    if config.num_labels is None:
        return tuned, {}
    tree = {name: branch for name, branch in tuned.items() if name != CLASSIFIER}
    return tree, {CLASSIFIER: tuned[CLASSIFIER]}


def simplify(config: MethodConfig, tuned: Tuned) -> tuple[MethodConfig, Tuned]:
    """The same prompt as a simpler method: what is served, and what other programs read.

    A prompt that an LSTM wrote is a plain prompt once the LSTM has written it.
    """
    change = method_of(config).simplify
    if change is None:
        return config, tuned
    tree, head = _apart(config, tuned)
    simple, tree = change(config, tree)
    return simple, {**tree, **head} if head else tree


def of_task(config: MethodConfig, tuned: Tuned, task: int) -> tuple[MethodConfig, Tuned]:
    """The prompt of one task among several as a method of its own, with a head if there is one."""
    pick = method_of(config).of_task
    if pick is None:
        raise InputError(f"{config.kind} has one prompt for all tasks; use it as it is")
    tree, head = _apart(config, tuned)
    plain, tree = pick(config, tree, task)
    return plain, {**tree, **head}
