"""What the weights of a model that writes tell of its config, whatever its family."""

from collections.abc import Collection
from typing import Any

HEAD = "lm_head.weight"
"""What a head over words is called."""


def told_by_weights(names: Collection[str], *, tied: bool, untied: bool = False) -> dict[str, Any]:
    """Fields of the config that the weights tell and `config.json` does not.

    Whether there is a head, for one: Transformers 5 writes `tie_word_embeddings: true` for models
    with a head of their own.

    Args:
      names: of the weights.
      tied: whether none of them is a head, or one that equals the embedding table.
      untied: whether `config.json` says that the head is not the table. With no head among the
        weights there is none, as of a base model, and the table is no head either.
    """
    return {"tie_embeddings": tied, "word_head": not untied or HEAD in names}
