"""Task and tokenizer in, batches out: `batch = batches[step]`."""

from prompt_jax.data.batches import (
    Batch,
    Batches,
    encode,
    encode_examples,
    encode_targets,
    length_ladder,
    pad,
    prefetch,
)
from prompt_jax.data.sources import load_examples, load_rows, splits

__all__ = [
    "Batch",
    "Batches",
    "encode",
    "encode_targets",
    "encode_examples",
    "length_ladder",
    "load_examples",
    "load_rows",
    "pad",
    "prefetch",
    "splits",
]
