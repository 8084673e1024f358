"""What travels through the package, by name: trees of arrays, and the tokenizer beside a model.

A tree holds arrays, tracers, or what stands for them (shapes, shardings), so its leaves have no
one type.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

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
