"""What travels through the package, by name: trees of arrays, and the tokenizer beside a model.

A tree holds arrays, tracers, or what stands for them (shapes, shardings), so its leaves have no
one type.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

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

    class Tokenizer(Protocol):
        """What is asked of a Hugging Face tokenizer; naming its class would import Transformers."""

        is_fast: bool
        """Whether it tells where in a text a token stands."""
        pad_token_id: int | None
        eos_token_id: int | None
        unk_token_id: int | None
        all_special_ids: Sequence[int]
        backend_tokenizer: Any
        """The fast tokenizer itself, of the library `tokenizers`."""

        def __call__(self, text: object, **options: object) -> Any: ...
        def __len__(self) -> int: ...
        def apply_chat_template(self, messages: object, **options: object) -> Any: ...
        def decode(self, ids: object, **options: object) -> str: ...
        def batch_decode(self, rows: object, **options: object) -> list[str]: ...
        def convert_ids_to_tokens(self, ids: object) -> list[str]: ...
        def get_vocab(self) -> dict[str, int]: ...
        def get_added_vocab(self) -> dict[str, int]: ...
        def save_pretrained(self, folder: object) -> Any: ...

else:  # A part of it is enough to run: tests have tokenizers of a few lines.
    Tokenizer: TypeAlias = Any


def by_path(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts: `{"a": {"b": 1}}` to `{"a/b": 1}`."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def from_paths(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts again: the reverse of `by_path`."""
    return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")
