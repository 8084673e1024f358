"""Where virtual tokens stand among those of a text.

`prefix` is before the text; `after_bos` behind its first token; `suffix` behind its last one. In a
chat, `system` is at the head of the system's turn and `turn` at that of the first user's: behind
the tokens that the chat template opens this turn with.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import IN_CHATS, InputError, Opening
from prompt_jax.trees import Tokenizer

NOWHERE = -1


def positions_before(
    placement: str,
    opening: Opening | None,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Int[Array, " B"]:
    """How many positions of every text stand before a prompt.

    Padding on the left is among them. A text that has not what the prompt stands behind: `NOWHERE`.

    Args:
      opening: of a placement in chats.
    """
    # Virtual tokens may be read alone, before any text.
    if placement == "prefix" or not tokens.shape[1]:
        return jnp.zeros(len(tokens), jnp.int32)
    if opening is not None:
        return _behind(opening, tokens, mask)
    # A text without tokens has none to stand behind.
    if placement == "after_bos":
        return jnp.where(mask.any(1), mask.argmax(1) + 1, 0)
    return jnp.where(mask, jnp.arange(mask.shape[1]) + 1, 0).max(1)


def _behind(
    opening: Opening, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Int[Array, " B"]:
    """The positions up to the end of an opening, where it first stands.

    A user's text cannot come before it: control tokens of a user are torn, and the template has
    written the opening by then.
    """
    size, length = len(opening.tokens), tokens.shape[1]
    # No token is negative; so far behind the text, nothing is read past its end.
    real = jnp.pad(
        jnp.where(mask, tokens, -1), ((0, 0), (0, size + len(opening.tail))), constant_values=-1
    )
    is_there = jnp.ones((len(tokens), length), bool)
    for i, token in enumerate(opening.tokens):
        is_there &= real[:, i : i + length] == token
    end = is_there.argmax(1) + size
    swallowed = jnp.zeros(len(tokens), bool)
    for token in opening.tail:
        swallowed |= jnp.take_along_axis(real, end[:, None], axis=1)[:, 0] != token
        end = jnp.where(swallowed, end, end + 1)
    return jnp.where(is_there.any(1), end, NOWHERE)


def check_places(
    placement: str, backbone: Backbone, rows: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    """Checks that every text has the place where a prompt shall stand.

    Args:
      placement: of the prompt.
      rows: the tokens of texts, without padding.
      names: where each stands, for the error.

    Raises:
      InputError: a text is no chat in the backbone's template, or lacks the turn.
    """
    if placement not in IN_CHATS:
        return
    opening = backbone.config.opening(placement)
    for row, name in zip(rows, names, strict=True):
        if not _stands(opening, row):
            words = _words(backbone.tokenizer, opening)
            raise InputError(
                f'{name}: the prompt stands behind {words}, by placement="{placement}", and the '
                "text has no such tokens; give a chat in the tokenizer's chat template "
                '(task.chat on), or use a prompt of placement="prefix"'
            )


def _stands(opening: Opening, row: np.ndarray) -> bool:
    tokens, size = opening.tokens, len(opening.tokens)
    starts = np.flatnonzero(np.asarray(row) == tokens[0])
    return any(tuple(row[i : i + size].tolist()) == tokens for i in starts)


def _words(tokenizer: Tokenizer | None, opening: Opening) -> str:
    tokens = list(opening.tokens)
    return repr(tokenizer.decode(tokens)) if tokenizer else f"the tokens {tokens}"
