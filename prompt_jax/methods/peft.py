"""What a folder of PEFT says, and what a method needs to be read from one and written as one."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from jaxtyping import Float

from prompt_jax.config import InputError, MethodConfig

KEY = "prompt_embeddings"
"""The tensor of virtual tokens, whatever the method."""
AGAIN = "save the folder again with PEFT"

Leaves = Mapping[str, np.ndarray]
"""The leaves of a tuned tree by path, or tensors by PEFT's names."""
Shapes = Mapping[str, tuple[int, ...]]


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
        """What the adapter is for; PEFT loads a prompt that does not say so and ignores it."""
        return self.values.get("task_type") or "SEQ_2_SEQ_LM"

    @property
    def submodules(self) -> int:
        """How many stacks PEFT keeps rows for: T5's two unless told otherwise."""
        both = 1 + (self.task_type == "SEQ_2_SEQ_LM")
        return self.whole("num_transformer_submodules", both)

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
        """A field that measures something.

        Raises:
          InputError: it is no finite number.
        """
        value = self._value(name, default)
        if not _is_number(value):
            raise InputError(f"{self.config}: {name} must be a number, got {value!r}; {AGAIN}")
        return float(value)

    def _value(self, name: str, default: float | None) -> object:
        value = self.values.get(name)
        return default if value is None else value

    def expect(self, names: Iterable[str]) -> None:
        """Checks that exactly these tensors are there.

        Raises:
          InputError: some are missing, or there are others.
        """
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


def matrix(path: Path, array: np.ndarray) -> Float[np.ndarray, "N D"]:
    """The array as float32 rows.

    Raises:
      InputError: it is not two-dimensional and real.
    """
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise InputError(
            f"{path} holds {array.dtype} of shape {list(array.shape)}; a prompt is an array of "
            "real numbers [virtual tokens, width]"
        )
    return array.astype(np.float32)
