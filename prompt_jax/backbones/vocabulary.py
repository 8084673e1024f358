"""Which tokens of a tokenizer are words, and how a person reads them."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from prompt_jax.trees import Tokenizer

NO_WORD = re.compile(r"<0x[0-9A-Fa-f]{2}>|\[unused\d+\]")
"""Single bytes of SentencePiece, and rows that BERT keeps free."""
SPACE = "\u2581"
"""What SentencePiece writes for a space."""


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether its tokens are bytes, each written as a letter: GPT-2, Llama 3, Qwen, SmolLM."""
    from tokenizers.pre_tokenizers import ByteLevel

    return tokenizer.get_vocab().keys() >= set(ByteLevel.alphabet())


def word_ids(tokenizer: Tokenizer | None, size: int) -> Int[np.ndarray, " C"]:
    """The tokens that are words or parts of words, in the order of their ids.

    Left out are special and added tokens, such as those of a chat, and single bytes. All are taken
    where there is no tokenizer, or where it has nothing but bytes.

    Args:
      tokenizer: of the model.
      size: rows of its embedding table.
    """
    if tokenizer is None:
        return np.arange(size)
    control = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    shortest = 2 if is_byte_level(tokenizer) else 1
    ids = [
        i
        for i, token in enumerate(tokenizer.convert_ids_to_tokens(range(min(size, len(tokenizer)))))
        if i not in control and token and len(token) >= shortest and not NO_WORD.fullmatch(token)
    ]
    return np.array(ids) if ids else np.arange(size)


def readable(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Tokens as the text that they stand for: " positive" and not "Ġpositive" or "▁positive".

    A token that is a part of a letter stays as the tokenizer writes it.
    """
    tokens, bytewise = tokenizer.convert_ids_to_tokens(list(ids)), is_byte_level(tokenizer)
    texts = []
    for i, token in zip(ids, tokens, strict=True):
        text = tokenizer.decode([i]) if bytewise else token.replace(SPACE, " ")
        texts.append(token if "\ufffd" in text else text)
    return texts
