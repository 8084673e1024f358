"""Texts as token ids, cut and padded."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32


def encode(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
    """Token ids of each text, cut to `max_length`.

    A final special token (T5's end of sequence) survives the cut: the model was never shown a
    text without it.
    """
    return cut_texts(tokenizer, texts, max_length)[0]


def encode_targets(
    tokenizer: Any, texts: Sequence[str], max_length: int, *, place: str = "apart"
) -> list[np.ndarray]:
    """Token ids of what a model shall write: an end of sequence behind, nothing before.

    Args:
      place: where the target stands to its input. `behind` it, in a decoder-only model, it begins
        with a space where the tokens themselves would run into each other; so it does `within` it,
        in place of a mask, where it has no end either.
    """
    return cut_targets(tokenizer, texts, max_length, place)[0]


def cut_targets(
    tokenizer: Any, texts: Sequence[str], max_length: int, place: str
) -> tuple[list[np.ndarray], int]:
    """The rows of `encode_targets` and how many of them were cut."""
    if not texts:
        return [], 0
    plain = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    one, other = tokenizer(["a", "b"], **plain)["input_ids"]
    space = " " if place != "apart" and tokenizer.decode(one + other) == "ab" else ""
    endless = place == "within" or tokenizer.eos_token_id is None
    end = [] if endless else [tokenizer.eos_token_id]
    ids = tokenizer([space + text for text in texts], **plain)["input_ids"]
    rows = [np.asarray(row[: max_length - len(end)] + end, np.int32) for row in ids]
    return rows, sum(len(row) + len(end) > max_length for row in ids)


def cut_texts(
    tokenizer: Any, texts: Sequence[str], max_length: int
) -> tuple[list[np.ndarray], int]:
    """The rows of `encode` and how many of them were cut."""
    if not texts:
        return [], 0
    # verbose=False: a text over the tokenizer's own limit is cut here, so its warning is idle.
    ids = tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    rows = [np.asarray(row, np.int32) for row in ids]
    special = set(tokenizer.all_special_ids)
    short = [row[kept(row, max_length, special)] for row in rows]
    return short, sum(len(row) > max_length for row in rows)


def kept(
    row: Int32[np.ndarray, " T"], max_length: int, special: Collection[int]
) -> Int[np.ndarray, " K"]:
    """Which tokens of a row are left once it is cut: the first ones, and a special last one."""
    places = np.arange(len(row))
    if len(row) <= max_length:
        return places
    if int(row[-1]) in special:
        return np.append(places[: max_length - 1], places[-1])
    return places[:max_length]


def pad(
    rows: Sequence[np.ndarray], length: int, pad_id: int
) -> tuple[Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows padded on the right to `length`, and the mask that is True on their own tokens.

    The mask is taken from the lengths, so a padding id inside a text stays visible.
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(length) < lengths[:, None]
    tokens = np.full(mask.shape, pad_id, np.int32)
    tokens[mask] = np.concatenate(rows)
    return tokens, mask
