"""What the weights of a model that writes tell of its config, whatever its family."""

from collections.abc import Collection
from typing import Any


def told_by_weights(names: Collection[str], *, tied: bool) -> dict[str, Any]:
    """Fields of the config that the weights tell and `config.json` does not.

    Whether there is a head, for one: Transformers 5 writes `tie_word_embeddings: true` for models
    with a head of their own.

    Args:
      names: of the weights.
      tied: whether none of them is a head, or one that equals the embedding table.
    """
    return {"tie_embeddings": tied}
