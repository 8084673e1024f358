"""Task and tokenizer in, batches out: `batch = batches[step]`."""

from prompt_jax.data.alignment import IGNORED, first_tokens, locate, span_targets, tag_targets
from prompt_jax.data.batches import (
    Batch,
    Batches,
    Schedule,
    Share,
    length_ladder,
    pad_likely,
    prefetch,
    shares,
)
from prompt_jax.data.cache import Arrays, Cache
from prompt_jax.data.label_words import encode_labels
from prompt_jax.data.selection import balanced, hold_out, sample, shots
from prompt_jax.data.sources import load_examples, load_rows, load_table, splits
from prompt_jax.data.texts import (
    batches_by_length,
    encode,
    encode_targets,
    pad,
    padded_length,
)
from prompt_jax.data.tokens import EncodeOptions, encode_examples

__all__ = [
    "IGNORED",
    "Arrays",
    "Batch",
    "Batches",
    "Cache",
    "EncodeOptions",
    "Schedule",
    "Share",
    "balanced",
    "batches_by_length",
    "encode",
    "encode_labels",
    "encode_targets",
    "encode_examples",
    "first_tokens",
    "hold_out",
    "length_ladder",
    "load_examples",
    "load_rows",
    "load_table",
    "locate",
    "pad",
    "pad_likely",
    "padded_length",
    "prefetch",
    "sample",
    "shares",
    "shots",
    "span_targets",
    "splits",
    "tag_targets",
]
