"""Label words as token ids, which have to differ for their scores to differ."""

from collections.abc import Sequence

import numpy as np

from prompt_jax.config import InputError
from prompt_jax.data.texts import encode_targets
from prompt_jax.trees import Tokenizer


def encode_labels(
    tokenizer: Tokenizer, labels: Sequence[str], max_length: int, *, place: str = "apart"
) -> list[np.ndarray]:
    """The rows of `encode_targets` for label words.

    Raises:
      InputError: two are the same tokens, as words that a tokenizer does not know.
    """
    rows = encode_targets(tokenizer, labels, max_length, place=place)
    seen: dict[bytes, str] = {}
    for label, row in zip(labels, rows, strict=True):
        twin = seen.setdefault(row.tobytes(), label)
        if twin != label:
            raise InputError(
                f"the label words {twin!r} and {label!r} are the same tokens to this backbone "
                f"({tokenizer.decode(row)!r}), so their scores can never differ; choose other "
                f"words, e.g. task.labels {twin}=WORD {label}=WORD"
            )
    return rows
