"""A backbone as far as a client needs it: config, tokenizer, and its table of words on disk."""

import dataclasses
import os

import numpy as np
from jaxtyping import Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.trees import Tokenizer
from prompt_jax.weights.load import in_words, open_backbone, tokenizer_for
from prompt_jax.weights.stored import StoredTensor


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of a backbone that itself runs elsewhere."""

    backbone: Backbone
    """With one row of its table in place of weights: a prompt is checked against its shapes."""
    table: StoredTensor
    """[V, D]; rows are read from the file as texts need them."""

    def embed(self, tokens: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T D"]:
        """The embeddings of a text, as `Backbone.embed` gives them, in the type of the table.

        Raises:
          InputError: a token that the table has no row for.
        """
        self.backbone.check_tokens(tokens, "a text")
        return np.asarray(_holding(self.backbone, _rows(self.table, tokens)).table)


def _rows(table: StoredTensor, tokens: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T D"]:
    read = table.read_rows
    if read is None:  # A pickle, whose tensors are read whole.
        return table.read()[tokens]
    # The first of these is empty, as an empty text is.
    return np.concatenate([read(0, 0), *(read(token, token + 1) for token in tokens.tolist())])


def _holding(backbone: Backbone, rows: Float[np.ndarray, "T D"]) -> Backbone:
    return dataclasses.replace(backbone, params={"embedding": rows})


def load_words(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
) -> Words:
    """The words of a backbone; of its weights nothing is read but rows of the table.

    Args:
      name: as for `load_backbone`, as are the others; a preset has no words.
      revision: branch, tag or commit of a hub id.
      token: for private repositories.
      tokenizer: a tokenizer, or the folder or hub id of one; None takes the one beside the weights.

    Raises:
      InputError: as `load_backbone`, or there is no tokenizer, or the weights are random.
    """
    name = os.fspath(name)
    config, source, tensors = open_backbone(name, revision, token, table_only=True)
    if tensors is None:
        raise InputError(
            f"{name!r} is a model of random weights, and no server runs it; give a folder or hub id"
        )
    words = tokenizer_for(source, tokenizer)
    if words is None:
        raise InputError(f"{name!r} has no tokenizer; give tokenizer=, the folder or hub id of one")
    backbone = Backbone(name=name, config=in_words(config, words), params={}, tokenizer=words)
    (path,) = backbone.family.hugging_face_names(config)["embedding"]
    table = tensors[path]
    return Words(_holding(backbone, _rows(table, np.zeros(1, int))), table)
