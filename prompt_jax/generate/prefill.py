"""What a decoder reads before all texts: keys and values in place of embeddings."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from prompt_jax.backbones import Backbone
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.trees import by_path, from_paths

NO_TOKENS = np.zeros(0, np.int32)
TILE = 8  # Tokens: lengths of texts are such that tiles of the hardware are full.
_before = jax.jit(PromptedModel.before)


def read_once(
    backbone: Backbone, injection: Injection | None, beginning: Int[np.ndarray, " T"] = NO_TOKENS
) -> Injection | None:
    """The prompt and what all texts begin with, as keys and values that the model made of them.

    A decoder reads both before anything else, and the same for all texts: read once, they cost no
    later request a position. What cannot be had so comes back as it is: a prompt that does not
    stand within the beginning, one with padding or with a gate, and one of a model that reads input
    and prompt in both directions.

    Args:
      beginning: tokens that all texts begin with, which are then left out of them.
    """
    prompted = injection is not None and injection.prompt is not None
    if not (prompted or len(beginning)) or not _may_read(backbone, injection, beginning):
        return injection
    injection = injection or Injection()
    model = PromptedModel.of(backbone, injection)
    # Where the prompt stands among the tokens, the model knows.
    tokens = jnp.asarray(beginning)[None]
    embeddings = model.read(tokens, jnp.ones(tokens.shape, bool))[0][0]
    sockets = by_path(injection.sockets)
    for path, read in backbone.keys_and_values(embeddings, injection.sockets).items():
        for name, rows in read.items():
            place = f"{path}/prefix/{name}"
            # Behind a prefix that is there, as it is what they have read themselves.
            before = [sockets[place].astype(rows.dtype)] if place in sockets else []
            sockets[place] = jnp.concatenate([*before, rows], axis=1)
    return Injection(sockets=from_paths(sockets))


def read_ahead(
    backbone: Backbone, injection: Injection | None, rows: list[np.ndarray]
) -> tuple[Injection | None, list[np.ndarray]]:
    """The prompt with what all texts begin with, read once, and what is left of every text.

    Texts of one task share the words of its template, those of a chat its system text, and
    examples in the context are the same for all.
    """
    # Full tiles alone: beginnings that differ by a token or two would be programs of their own.
    shared = common_tokens(rows) // TILE * TILE
    if not shared or not _may_read(backbone, injection, rows[0][:shared]):
        return injection, rows
    return read_once(backbone, injection, rows[0][:shared]), [row[shared:] for row in rows]


def common_tokens(rows: Sequence[np.ndarray]) -> int:
    """How many tokens all rows begin with; each keeps one, behind which an answer is read."""
    if len(rows) < 2:
        return 0
    length = max(min(map(len, rows)) - 1, 0)
    heads = np.stack([row[:length] for row in rows])
    return int(np.append((heads == heads[:1]).all(0), False).argmin())


def _may_read(
    backbone: Backbone, injection: Injection | None, beginning: Int[np.ndarray, " T"]
) -> bool:
    """Whether a prompt, and tokens that all texts begin with, may be read before the texts."""
    if backbone.target_place != "behind" or backbone.config.bidirectional_input:
        return False
    if injection is None:
        return True
    sockets = by_path(injection.sockets)
    # Those of a layer are rows of the text's states; a gate opens a prefix, and no text's keys.
    apart = [p for p in sockets if "/prompt/" in p or "/prefix/gate" in p or p.endswith("mask")]
    rows = [leaf for path, leaf in sockets.items() if path.endswith("prefix/key") and leaf.ndim > 4]
    rest = injection._replace(prompt=None, sockets={})
    if apart or rows or jax.tree.leaves(rest):
        return False
    if injection.prompt is None:
        return True
    return injection.prompt.ndim == 2 and _stands_within(backbone, injection, beginning)


def _stands_within(
    backbone: Backbone, injection: Injection, beginning: Int[np.ndarray, " T"]
) -> bool:
    """Whether the prompt stands before the last of the tokens, whatever follows them."""
    if injection.placement == "prefix":
        return True
    if not len(beginning):
        return False
    tokens = jnp.asarray(beginning)[None]
    before = _before(PromptedModel.of(backbone, injection), tokens, jnp.ones(tokens.shape, bool))
    return bool(0 <= before[0] < len(beginning))
