"""What a saved prompt tells about its backbone, so that no other is taken for it."""

import hashlib
import json
import weakref
from typing import Any

from prompt_jax.backbones import Backbone
from prompt_jax.trees import Tokenizer


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


def tokenizer_hash(tokenizer: Tokenizer | None) -> str:
    """sha256 over the sorted vocabulary; empty without a tokenizer.

    Neither paths nor file formats go in, so copies of one tokenizer agree.
    """
    if tokenizer is None:
        return ""
    size, digest = _HASHES.get(tokenizer, (-1, ""))
    if size != len(tokenizer):  # A vocabulary only ever grows.
        words = json.dumps(sorted(tokenizer.get_vocab().items()))
        digest = hashlib.sha256(words.encode()).hexdigest()
        _HASHES[tokenizer] = len(tokenizer), digest
    return digest


_HASHES: weakref.WeakKeyDictionary[Tokenizer, tuple[int, str]] = weakref.WeakKeyDictionary()
"""Hashes of tokenizers met before, and the size of their vocabulary then: hashing takes 30 ms."""
