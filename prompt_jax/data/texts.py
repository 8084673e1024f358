"""Texts as token ids, cut and padded."""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from prompt_jax.config import InputError
from prompt_jax.tasks import SLICE, Rendered, Text, answer_turn, cuts_of, place_of, rendered
from prompt_jax.trees import Tokenizer

Place = Literal["apart", "behind", "joined", "turn", "within"]
"""Where a target stands to its input: `apart`, in a decoder of its own; `behind` it, where it
begins with a space if its tokens would run into those of the input; `joined` to an input that ends
with space; as the assistant's `turn` in a chat; `within` it, in place of a mask, and without an
end."""
# `verbose` is off because Transformers warns of long texts, which are cut here.
BARE = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
"""How words are tokenized that begin no text."""


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
    """Token ids of each text, cut to `max_length`.

    A cut takes the end of the longest column, then of all that are as long, and where a template
    marks columns with `!cut` only of these; the words that it has around its columns stay, and so
    do special tokens: the model was never shown a text without them.

    Raises:
      InputError: what stays is longer than `max_length`.
    """
    return cut_texts(tokenizer, texts, max_length)[0]


def encode_targets(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, *, place: str = "apart"
) -> list[np.ndarray]:
    """Token ids of what a model shall write: an end of sequence behind, nothing before.

    Args:
      place: where the target stands to its input, see `Place`.
    """
    return cut_targets(tokenizer, texts, max_length, place)[0]


def cut_targets(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, place: str
) -> tuple[list[np.ndarray], int]:
    """The rows of `encode_targets` and how many of them were cut."""
    if not texts:
        return [], 0
    distinct = list(dict.fromkeys(texts))  # Label words are few, and rows are many.
    if place == "turn":
        turns = [_turn(tokenizer, text) for text in distinct]
        ids, ends = [words for words, _ in turns], [end for _, end in turns]
    else:
        space = " " if place in ("behind", "within") and _spaceless(tokenizer) else ""
        ids = tokenizer([space + text for text in distinct], **BARE)["input_ids"]
        ends = [[] if place == "within" else _end(tokenizer)] * len(ids)
    rows: dict[str, np.ndarray] = {}
    long: set[str] = set()
    for text, row, end in zip(distinct, ids, ends, strict=True):
        rows[text] = np.asarray(row[: max_length - len(end)] + end, np.int32)
        if len(row) + len(end) > max_length:
            long.add(text)
    return [rows[text] for text in texts], sum(text in long for text in texts) if long else 0


def _spaceless(tokenizer: Tokenizer) -> bool:
    """Whether texts that are tokenized apart run into each other."""
    a, b = tokenizer(["a", "b"], **BARE)["input_ids"]
    return tokenizer.decode(a + b) == "ab"


def _end(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _turn(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The tokens of an answer in the assistant's turn, and those that end the turn."""
    cue, words, end = answer_turn(tokenizer, text)
    before, ids, ends = tokenizer([cue, cue + words, end], **BARE)["input_ids"]
    if ids[: len(before)] == before:  # Some tokenizers write a first word as one behind a space.
        ids = ids[len(before) :]
    else:
        (ids,) = tokenizer([words], **BARE)["input_ids"]
    return ids, ends or _end(tokenizer)


def tokenized(
    tokenizer: Tokenizer, texts: Sequence[str], *, places: bool = False
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """The tokens of texts and chats, whole, and where in the text each stands, if `places`.

    A chat has its special tokens from its template; to a text the tokenizer adds them.

    Raises:
      InputError: a chat, and the tokenizer has no template, or the template refuses it.
    """
    texts = prepared(tokenizer, texts)
    options = {"return_attention_mask": False, "verbose": False}
    if not places and not any(isinstance(text, Rendered) for text in texts):
        return _token_ids(tokenizer, texts, options), []
    rows: list[list[int]] = [[] for _ in texts]
    spots: list[list[tuple[int, int]]] = [[] for _ in texts]
    options |= {"return_offsets_mapping": True} if places else {}
    for chats in (False, True):
        parts = [
            (i, start, text[start:stop])
            for i, text in enumerate(texts)
            if isinstance(text, Rendered) is chats
            for start, stop in (text.pieces if isinstance(text, Rendered) else [(0, len(text))])
        ]
        if not parts:
            continue
        words = [words for *_, words in parts]
        if not places:
            ids = _token_ids(tokenizer, words, BARE if chats else options)
            for (i, *_), row in zip(parts, ids, strict=True):
                rows[i] += row
            continue
        encoded = tokenizer(words, **(options | (BARE if chats else {})))
        for n, (i, start, _) in enumerate(parts):
            rows[i] += encoded["input_ids"][n]
            pairs = encoded["offset_mapping"][n]
            spots[i] += [(first + start, stop + start) for first, stop in pairs]
    return rows, spots


def _token_ids(
    tokenizer: Tokenizer, texts: Sequence[str], options: Mapping[str, bool]
) -> list[list[int]]:
    """The tokens of texts by the tokenizer's core, which leaves out what nobody reads.

    Transformers goes over every text in Python, for a third of the time.
    """
    # By this call Transformers sets up the core, and it tells that the core alone gives the same.
    first = tokenizer(texts[:1], **options)["input_ids"]
    if tokenizer.is_fast and len(texts) > 1:
        special = options.get("add_special_tokens", True)
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=special)
        ids = [encoding.ids for encoding in encoded]
        if ids[:1] == first:
            return ids
    return first + (tokenizer(texts[1:], **options)["input_ids"] if len(texts) > 1 else [])


def prepared(tokenizer: Tokenizer, texts: Sequence[str], first: int = 0) -> list[str]:
    """The texts as the model reads them: chats in the template, all others as they are.

    Args:
      first: the number of the first text, for errors.

    Raises:
      InputError: as `tokenized`.
    """
    return [
        rendered(tokenizer, text, i) if isinstance(text, Text) and text.turns else text
        for i, text in enumerate(texts, first)
    ]


def cut_texts(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int
) -> tuple[list[np.ndarray], int]:
    """The rows of `encode` and how many of them were cut."""
    rows: list[np.ndarray] = []
    count = 0
    # The tokenizer's own objects of a text take more memory than all that is kept of it.
    for start in range(0, len(texts), SLICE):
        part = prepared(tokenizer, texts[start : start + SLICE], start)
        part, cut = _cut_slice(tokenizer, part, max_length)
        rows += part
        count += cut
    return rows, count


def _cut_slice(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int
) -> tuple[list[np.ndarray], int]:
    rows = [np.asarray(row, np.int32) for row in tokenized(tokenizer, texts)[0]]
    long = [i for i, row in enumerate(rows) if len(row) > max_length]
    if long and tokenizer.is_fast:
        places = tokenized(tokenizer, [texts[i] for i in long], places=True)[1]
        for i, pairs in zip(long, places, strict=True):
            rows[i] = rows[i][kept(texts[i], pairs, max_length)]
    for i in long if not tokenizer.is_fast else ():
        rows[i] = _shortened(tokenizer, texts[i], max_length)
    return rows, len(long)


def kept(text: str, pairs: Sequence[tuple[int, int]], max_length: int) -> Int[np.ndarray, " K"]:
    """Which tokens of a text are left once it is cut.

    Args:
      pairs: where in the text each token stands; at none if it is special.
    """
    if len(pairs) <= max_length:
        return np.arange(len(pairs))
    columns = cuts_of(text)
    start, stop = np.asarray(pairs).T
    column = np.full(len(pairs), -1)
    for i, (first, end) in enumerate(columns):
        # The space before a column may belong to its first token.
        column[(start < stop) & (start >= first - 1) & (stop > first) & (stop <= end)] = i
    room = max_length - int((column < 0).sum())
    if room < 1:
        raise _no_room(text, max_length)
    stays = column < 0
    lengths = _levelled(np.bincount(column[~stays], minlength=len(columns)), room)
    for i, length in enumerate(lengths):
        stays[np.flatnonzero(column == i)[:length]] = True
    return np.flatnonzero(stays)


def _levelled(lengths: Int[np.ndarray, " C"], room: int) -> Int[np.ndarray, " C"]:
    """Lengths that together fill `room`: the longest is lowered, then all that are as long."""
    level = _largest(room, lambda level: np.minimum(lengths, level).sum() <= room)
    lowered = np.minimum(lengths, level)
    lowered[np.flatnonzero(lengths > level)[: room - int(lowered.sum())]] += 1
    return lowered


def _shortened(tokenizer: Tokenizer, text: str, max_length: int) -> Int32[np.ndarray, " T"]:
    """What `kept` leaves, where a tokenizer does not tell where tokens stand: by characters."""
    columns = cuts_of(text)

    def tokens(most: int) -> list[int]:
        short, end = "", 0
        for start, stop in columns:
            short += text[end : min(stop, start + most)]
            end = stop
        special = not isinstance(text, Rendered)
        return tokenizer(short + text[end:], add_special_tokens=special, verbose=False)["input_ids"]

    longest = max(stop - start for start, stop in columns)
    most = _largest(longest, lambda most: len(tokens(most)) <= max_length)
    if most < 1:
        raise _no_room(text, max_length)
    return np.asarray(tokens(most), np.int32)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, where all below fit too; -1 if none does."""
    return bisect.bisect(range(most + 1), False, key=lambda number: not fits(number)) - 1


def _no_room(text: str, max_length: int) -> InputError:
    return InputError(
        f"{place_of(text, 0)}: the words around the columns, columns without !cut where another "
        f"has it, and special tokens take all of data.max_source_length {max_length}, so a cut "
        "leaves nothing of the columns; raise it, or shorten task.source"
    )


def trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """A token's place without the space that some tokenizers count to the word behind it."""
    piece = text[start:stop]
    return (start + len(piece) - len(piece.lstrip()), stop) if piece.strip() else (start, start)


def pad(
    rows: Sequence[np.ndarray], length: int, pad_id: int
) -> tuple[Int32[np.ndarray, "B T"] | Float32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Rows padded on the right to `length`, and the mask that is True on their own tokens.

    The mask is taken from the lengths, so a padding id inside a text stays visible.
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(length) < lengths[:, None]
    values = np.concatenate(rows)
    kind = np.float32 if values.dtype.kind == "f" else np.int32
    tokens = np.full(mask.shape, pad_id, kind)
    # A mask as index goes row by row, in the order in which the values were concatenated.
    tokens[mask] = values
    return tokens, mask


def padded_length(longest: int, virtual: int = 0) -> int:
    """The length T that targets or a single text are padded to, at least `longest`.

    P + T is a multiple of 8, four sizes an octave.
    """
    return _rounded(longest, virtual, 8)


def input_length(longest: int, virtual: int = 0) -> int:
    """The length T that a batch of inputs is padded to, at least `longest`.

    P + T is a multiple of 16, and above 64 of 32, with four sizes an octave from 128 on. The same
    sizes serve every dataset. They are few where texts are short: there a program takes longer to
    compile than it spares.
    """
    return _rounded(longest, virtual, 16 if longest + virtual <= 64 else 32)


def _rounded(longest: int, virtual: int, least: int) -> int:
    total = longest + virtual
    step = max(least, 2 ** ((total - 1).bit_length() - 3))
    return -(-total // step) * step - virtual


def batches_by_length(
    rows: list[np.ndarray], size: int, virtual: int, pad_id: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Indices, tokens and mask of batches of rows of similar length.

    The longest come first, so what does not fit in memory fails at once.

    The last batch is filled up with copies of its last row, which have no index.
    """
    order = np.argsort([-len(row) for row in rows], kind="stable")
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        picked = [rows[i] for i in np.pad(indices, (0, size - len(indices)), mode="edge")]
        yield indices, *pad(picked, input_length(len(picked[0]), virtual), pad_id)
