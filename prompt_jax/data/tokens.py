"""Examples as two flat arrays: tokens of inputs end to end, and targets end to end."""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Int

from prompt_jax.config import DataConfig, InputError
from prompt_jax.data.cache import Arrays, Cache
from prompt_jax.data.texts import cut_targets, cut_texts
from prompt_jax.processes import arrays_of_all, code_digest, in_all, part_of, together
from prompt_jax.tasks import SLICE, Example, Likely, Series, digest_of, uncollected
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
    arrays = cache.read(title, digest)
    # What one process lacks all make, each a part, so all ask.
    kept = isinstance(examples, Series) and in_all(arrays is not None)
    if arrays is None or not kept:
        fresh = _encode_all(encode, examples, tokenizer, config, options)
        arrays = cache.write(title, digest, fresh)
    long_sources, long_targets, by_token = arrays["facts"].tolist()
    return Flat(
        Ragged(arrays["sources"], arrays["source_ends"]),
        Ragged(arrays["targets"], arrays["target_ends"]),
        Truncated(long_sources, long_targets),
        options.pad_id(tokenizer),
        bool(by_token),
        *(Ragged(arrays[name], arrays["target_ends"]) for name in LIKELY if name in arrays),
    )


def _encode_all(
    encode: Encoder,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: DataConfig,
    options: EncodeOptions,
) -> Arrays:
    """The arrays of all examples, of many each process making a part."""
    if not isinstance(examples, Series):
        return _arrays(encode(examples, tokenizer, config, options))
    start, stop = part_of(len(examples))
    mine = examples[start:stop]

    def encoded(start: int) -> Arrays:
        part = list(mine[start : start + SLICE])
        return _arrays(encode(part, tokenizer, config, options))

    def parts() -> Arrays:
        # The first one alone, since the first call of a tokenizer sets it up.
        first, *others = range(0, len(mine), SLICE)
        # One fills rows and packs arrays while another is in the tokenizer of Rust, which needs no
        # lock of the interpreter. One of Python may have a state, and where the one of Rust has no
        # threads, they would wait for memory: see `runtime.keep_memory`.
        workers = 1 + (tokenizer.is_fast and os.environ.get("TOKENIZERS_PARALLELISM") != "false")
        with uncollected(), concurrent.futures.ThreadPoolExecutor(workers) as threads:
            return _end_to_end([encoded(first), *threads.map(encoded, others)])

    return _end_to_end(arrays_of_all(together(parts)))


def _arrays(encoded: Encoded) -> Arrays:
    sources, targets = Ragged.of(encoded.sources), Ragged.of(encoded.targets)
    likely = zip(*encoded.likely or (), strict=True)
    return {
        "sources": _small(sources.values),
        "source_ends": sources.ends,
        "targets": _small(targets.values),
        "target_ends": targets.ends,
        "facts": np.array([*encoded.truncated, encoded.by_token]),
        **dict(zip(LIKELY, map(np.concatenate, likely), strict=False)),
    }


def _small(values: np.ndarray) -> np.ndarray:
    """The same tokens in half the memory, where all of them fit."""
    fits = values.dtype.kind == "i" and values.size and 0 <= values.min() <= values.max() < 2**16
    return values.astype(np.uint16) if fits else values


def _end_to_end(parts: Sequence[Arrays]) -> Arrays:
    """The arrays of the rows of all parts."""
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for rows in ("source", "target"):
        sizes = np.cumsum([0, *(len(part[f"{rows}s"]) for part in parts[:-1])])
        ends = [part[f"{rows}_ends"] + size for part, size in zip(parts, sizes, strict=True)]
        arrays[f"{rows}_ends"] = np.concatenate(ends)
    # The sum of what was cut, and tags are of tokens in all parts or in none.
    return arrays | {"facts": np.sum([part["facts"] for part in parts], axis=0)}
