"""What travels through the package, by name: trees of arrays, and the tokenizer beside a model.

A tree holds arrays, tracers, or what stands for them (shapes, shardings), so its leaves have no
one type.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import flax.traverse_util
from jax.sharding import Mesh as Mesh
from jaxtyping import PyTree

Tree: TypeAlias = PyTree
"""Any nesting of arrays; a single array is one too."""
Frozen: TypeAlias = Mapping[str, Any]
"""The weights of a backbone, `{"encoder": {"layers": ...}}`: argument 1 of a loss."""
Tuned: TypeAlias = Mapping[str, Any]
"""What training changes, `{"prompt": [P, D]}`: argument 0 of a loss."""

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:  # Importing Transformers takes seconds.
    Tokenizer: TypeAlias = Any


def by_path(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts: `{"a": {"b": 1}}` to `{"a/b": 1}`."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def from_paths(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts again: the reverse of `by_path`."""
    return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")
