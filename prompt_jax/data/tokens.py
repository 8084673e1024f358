"""Examples as two flat arrays: tokens of inputs end to end, and targets end to end."""

import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Int

from prompt_jax.config import DataConfig, InputError
from prompt_jax.data.cache import Arrays, Cache
from prompt_jax.data.texts import cut_targets, cut_texts
from prompt_jax.processes import code_digest
from prompt_jax.tasks import SLICE, Example, Likely, Series, digest_of
from prompt_jax.trees import Tokenizer

LIKELY = ("words", "log_probs")
"""What a teacher says at every token of the targets."""


class Truncated(NamedTuple):
    """How many texts were longer than allowed and were cut."""

    sources: int
    targets: int


class Ragged(Sequence[np.ndarray]):
    """Rows of any length in one array, end to end.

    Args:
      values: of all rows.
      ends: where each row ends.
    """

    def __init__(self, values: np.ndarray, ends: Int[np.ndarray, " N"]):
        self.values, self.ends = values, ends

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> "Ragged":
        """Rows laid end to end."""
        ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        return cls(np.concatenate(rows) if len(rows) else np.zeros(0, np.int32), ends)

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Of the rows."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        row = range(len(self))[index]
        return self.values[self.ends[row - 1] if row else 0 : self.ends[row]]


class Encoded(NamedTuple):
    """Examples as token ids, each row as long as it is."""

    sources: list[np.ndarray]
    targets: list[np.ndarray]
    """Tokens, numbers of tags, or floats."""
    truncated: Truncated
    pad_id: int
    by_token: bool = False
    """Targets stand at the tokens of the source, one each, `IGNORED` where there is none."""
    likely: list[Likely] | None = None
    """What a teacher says at the tokens of every target; None where there is no teacher."""


class Flat(NamedTuple):
    """The fields of `Encoded`, with the rows end to end."""

    sources: Ragged
    targets: Ragged
    truncated: Truncated
    pad_id: int
    by_token: bool
    words: Ragged | None = None
    """[U, K] of every row: those of `Likely`, as are the log-probabilities."""
    log_probs: Ragged | None = None


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What an encoder needs to know of the backbone and of the task."""

    place: str = "apart"
    """Where a target stands to its input, as for `encode_targets`."""
    filler: int | None = None
    """The token behind a text; None takes the tokenizer's padding, which the embedding table of a
    backbone may lack."""
    labels: tuple[str, ...] = ()
    """Those of the task; only heads read them."""
    tokenizer: str = ""
    """A digest of the tokenizer; without it nothing is cached."""

    def pad_id(self, tokenizer: Tokenizer) -> int:
        """The token behind a text. Any will do, because the mask hides it."""
        if self.filler is not None:
            return self.filler
        pad = tokenizer.pad_token_id
        return pad if isinstance(pad, int) else 0


PLAIN = EncodeOptions()

Encoder = Callable[[Sequence[Example], Tokenizer, DataConfig, EncodeOptions], Encoded]
"""Makes token ids and targets of examples."""


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: DataConfig,
    options: EncodeOptions = PLAIN,
) -> Encoded:
    """Every example tokenized once, its target as the tokens to write.

    Those of a lesson are the tokens that the teacher wrote, which its text may not lead back to.

    Raises:
      InputError: there are no examples.
    """
    sources, targets = sources_of(examples), [example.target for example in examples]
    rows, long_sources = cut_texts(tokenizer, sources, config.max_source_length)
    pad_id = options.pad_id(tokenizer)
    lessons = [example.lesson for example in examples if example.lesson is not None]
    if len(lessons) == len(examples):
        answers = [lesson.tokens for lesson in lessons]
        likely = [lesson.likely for lesson in lessons]
        return Encoded(rows, answers, Truncated(long_sources, 0), pad_id, likely=likely)
    targets, long_targets = cut_targets(tokenizer, targets, config.max_target_length, options.place)
    return Encoded(rows, targets, Truncated(long_sources, long_targets), pad_id)


def sources_of(examples: Sequence[Example]) -> list[str]:
    """The inputs of examples.

    Raises:
      InputError: there are none.
    """
    if not examples:
        raise InputError("there are no examples; give a task or a split with at least one row")
    return [example.source for example in examples]


def encode_flat(
    encode: Encoder,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: DataConfig,
    options: EncodeOptions,
    cache: Cache,
) -> Flat:
    """What `encode` makes of examples, as flat arrays; of many a slice after the other."""
    digest = ""
    if isinstance(examples, Series) and examples.digest and options.tokenizer:
        lengths = (config.max_source_length, config.max_target_length)
        # Of the code too: other code may make other tokens, under the same version while it grows.
        way = f"{encode.__module__} {options} {lengths} {code_digest()}"
        digest = digest_of(examples.digest, way)
    title = f"tokens of {len(examples):,} rows"
    make = functools.partial(_encode_slices, encode, examples, tokenizer, config, options)
    arrays = cache.arrays(title, digest, make)
    long_sources, long_targets, by_token = arrays["facts"].tolist()
    return Flat(
        Ragged(arrays["sources"], arrays["source_ends"]),
        Ragged(arrays["targets"], arrays["target_ends"]),
        Truncated(long_sources, long_targets),
        options.pad_id(tokenizer),
        bool(by_token),
        *(Ragged(arrays[name], arrays["target_ends"]) for name in LIKELY if name in arrays),
    )


def _encode_slices(
    encode: Encoder,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: DataConfig,
    options: EncodeOptions,
) -> Arrays:
    sources: list[Ragged] = []
    targets: list[Ragged] = []
    likely: list[Likely] = []
    truncated = np.zeros(2, int)
    by_token = False
    for part in _slices(examples):
        encoded = encode(part, tokenizer, config, options)
        sources.append(_small(Ragged.of(encoded.sources)))
        targets.append(_small(Ragged.of(encoded.targets)))
        likely += encoded.likely or []
        truncated += encoded.truncated
        by_token = encoded.by_token
    all_sources, all_targets = _end_to_end(sources), _end_to_end(targets)
    return {
        "sources": all_sources.values,
        "source_ends": all_sources.ends,
        "targets": all_targets.values,
        "target_ends": all_targets.ends,
        "facts": np.array([*truncated, by_token]),
        **dict(zip(LIKELY, map(np.concatenate, zip(*likely, strict=True)), strict=False)),
    }


def _small(rows: Ragged) -> Ragged:
    """The same rows in half the memory, where every token fits."""
    values = rows.values
    fits = values.dtype.kind == "i" and values.size and 0 <= values.min() <= values.max() < 2**16
    return Ragged(values.astype(np.uint16), rows.ends) if fits else rows


def _end_to_end(parts: Sequence[Ragged]) -> Ragged:
    sizes = np.array([0, *(len(part.values) for part in parts[:-1])]).cumsum()
    ends = [part.ends + size for part, size in zip(parts, sizes, strict=True)]
    return Ragged(np.concatenate([part.values for part in parts]), np.concatenate(ends))


def _slices(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """The examples in pieces, each one filled while the tokenizer is at work on that before it."""
    if not isinstance(examples, Series):
        yield examples
        return
    # One thread is enough: a tokenizer of Rust holds no lock of the interpreter.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        pending = thread.submit(list, examples[:SLICE])
        for start in range(SLICE, len(examples), SLICE):
            ready, pending = pending, thread.submit(list, examples[start : start + SLICE])
            yield ready.result()
        yield pending.result()
