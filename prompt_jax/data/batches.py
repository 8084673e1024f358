"""Examples and tokenizer in, padded arrays out.

`batches[step]` is a pure function of the step, so resuming needs only the step. Rows of similar
length share a batch, and lengths come from a short ladder: little padding, few compiled programs.
"""

import collections
import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from prompt_jax.config import DataConfig, at_least
from prompt_jax.data.alignment import IGNORED
from prompt_jax.data.cache import Cache
from prompt_jax.data.texts import pad
from prompt_jax.data.tokens import (
    PLAIN,
    EncodeOptions,
    Encoder,
    Flat,
    encode_examples,
    encode_flat,
)
from prompt_jax.tasks import Example, Likely
from prompt_jax.trees import Tokenizer

# Batches among which rows are sorted by length: more pads less, fewer mixes better.
WINDOW = 16
PADDED = 16 * WINDOW
"""Batches from which the shares of padding and of lengths are estimated."""


class Batch(NamedTuple):
    """Rows of one step, padded on the right: numpy arrays here, jax arrays once on a device."""

    tokens: Int32[Any, "B T"]
    mask: Bool[Any, "B T"]
    """True where there is a token."""
    targets: Int32[Any, "B U"] | Float32[Any, "B U"]
    """Tokens; tags of all tokens, U = T; the first and the last token of a span, U = 2; or a
    number, U = 1."""
    target_mask: Bool[Any, "B U"]
    task_ids: Int32[Any, " B"] | None = None
    """Which task every row belongs to, for methods that train several; None is one task."""
    likely: Likely | None = None
    """[B, U, K], what a teacher says at every target token; None where there is no teacher."""


def length_ladder(
    lengths: Sequence[int] | np.ndarray,
    prompt_length: int = 0,
    rungs: int = DataConfig.padded_lengths,
    multiple: int = 8,
) -> tuple[int, ...]:
    """At most `rungs` lengths to pad to, chosen so that the rows need the least padding.

    Each rung is a length T for which `prompt_length` + T is a multiple of `multiple`, as hardware
    tiles want; the last one holds the longest row.
    """
    # -(-a // b) is a / b rounded up.
    tiled = -(-(np.asarray(lengths) + prompt_length) // multiple) * multiple
    sizes, counts = np.unique(tiled - prompt_length, return_counts=True)
    sizes, rows = sizes.tolist(), np.cumsum(counts).tolist()
    # best[i]: tokens and rungs of the cheapest ladder that ends at sizes[i].
    best = [(n * size, (size,)) for n, size in zip(rows, sizes, strict=True)]
    for _ in range(rungs - 1):
        best = [
            min(
                [best[i]]
                + [
                    (best[j][0] + (rows[i] - rows[j]) * sizes[i], (*best[j][1], sizes[i]))
                    for j in range(i)
                ]
            )
            for i in range(len(sizes))
        ]
    return best[-1][1]


class Share(NamedTuple):
    """How often a task of a mixture comes."""

    rows: int
    draws: int
    """Rows of it in an epoch."""


# A window may reach into the next epoch, whose order is then in use beside this one's.
@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, shares: tuple[Share, ...]) -> np.ndarray:
    # The 0 keeps these draws apart from the shuffling in `Batches.rows`, which has a 1.
    shuffle = np.random.default_rng((seed, 0, epoch)).permutation
    if len(shares) == 1:
        return shuffle(shares[0].rows)
    parts, before = [], 0
    for task, (rows, draws) in enumerate(shares):
        # Where the last epoch left off, so that each row comes once before any comes again.
        rounds = range(epoch * draws // rows, -(-(epoch + 1) * draws // rows))
        seeds = [(seed, 2, task, round) for round in rounds]
        laps = np.concatenate([np.random.default_rng(lap).permutation(rows) for lap in seeds])
        start = epoch * draws - rounds.start * rows
        parts.append(before + laps[start : start + draws])
        before += rows
    return shuffle(np.concatenate(parts))


def shares(sizes: Sequence[int], temperature: float, limit: int | None) -> tuple[Share, ...]:
    """How many rows of each task of a mixture an epoch has, as many as there are, but for rounding.

    Args:
      sizes: rows of each task.
      temperature: a task comes as often as rows ** (1 / temperature).
      limit: rows beyond so many do not count.
    """
    total = sum(sizes)
    counted = np.minimum(sizes, total if limit is None else limit)
    if temperature == 1 and counted.sum() == total:
        return (Share(total, total),)
    rates = counted ** (1 / temperature)
    draws = np.maximum(np.rint(total * rates / rates.sum()), 1).astype(int)
    return tuple(Share(*share) for share in zip(sizes, draws.tolist(), strict=True))


class Schedule:
    """Which rows make up the batch of a step, and how long it is: a function of their lengths.

    Rows come in a new order every epoch, each one once. The rows an epoch leaves over begin a
    batch that the next epoch fills, so none is dropped. Its `len` is the steps of an epoch.

    Args:
      lengths: tokens of every row.
      batch_size: rows of one step.
      seed: of the order.
      padded_lengths: lengths to pad to at most.
      mixing: how often each task comes, in the order of the rows; none is as often as it has rows.
      prompt_length: virtual tokens P before the text; lengths T are such that 8 divides P + T.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        *,
        padded_lengths: int = DataConfig.padded_lengths,
        mixing: tuple[Share, ...] = (),
        prompt_length: int = 0,
    ):
        at_least("train.batch_size", batch_size, 1)
        at_least("train.seed", seed, 0)
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._prompt_length = prompt_length
        self._mixing = mixing or (Share(len(lengths), len(lengths)),)
        self._epoch = sum(share.draws for share in self._mixing)
        self.source_lengths = self.ladder(padded_lengths)

    def ladder(self, rungs: int) -> tuple[int, ...]:
        """The lengths to pad to where there are at most so many."""
        return length_ladder(self._lengths, self._prompt_length, rungs)

    def length(self, step: int) -> int:
        """The length that the batch of a step is padded to."""
        return _rung(self.source_lengths, self._lengths[self.rows(step)])

    def step_lengths(self) -> dict[int, float]:
        """The share of steps that are padded to every length, the shortest first."""
        steps = min(len(self), PADDED)
        counts = collections.Counter(self.length(step) for step in range(steps))
        return {length: counts[length] / steps for length in sorted(counts)}

    def padding(self, ladder: tuple[int, ...]) -> float:
        """The share of positions, virtual tokens among them, that holds none at these lengths."""
        rows = [self._lengths[self.rows(step)] for step in range(min(len(self), PADDED))]
        total = sum((_rung(ladder, part) + self._prompt_length) * len(part) for part in rows)
        return 1 - sum(float(part.sum()) + self._prompt_length * len(part) for part in rows) / total

    def __len__(self) -> int:
        return -(-self._epoch // self._batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Which examples make up the batch of a step."""
        if step < 0:
            raise IndexError(f"steps begin at 0, got {step}")
        size, count = self._batch_size, self._epoch
        epoch = step * size // count
        # The steps that begin in this epoch; the last of them may reach into the next one.
        first, last = -(-epoch * count // size), -(-(epoch + 1) * count // size)
        start = first + (step - first) // WINDOW * WINDOW
        stop = min(start + WINDOW, last)
        rows = self._stream(start * size, stop * size)
        # Stable: the batch of a step must not depend on how numpy sorts.
        rows = rows[np.argsort(self._lengths[rows], kind="stable")]
        shuffle = np.random.default_rng((self._seed, 1, start)).permutation(stop - start)
        return rows.reshape(-1, size)[shuffle[step - start]]

    def _stream(self, start: int, stop: int) -> np.ndarray:
        """Examples `start` to `stop` of the shuffled epochs laid end to end."""
        count = self._epoch
        epochs = range(start // count, -(-stop // count))
        rows = np.concatenate([_order(self._seed, epoch, self._mixing) for epoch in epochs])
        return rows[start - epochs.start * count : stop - epochs.start * count]


class Batches(Schedule):
    """Endless training batches; `batches[step]` depends on nothing but its arguments and the step.

    Args:
      examples: what to train on.
      tokenizer: a fast Hugging Face tokenizer.
      config: the lengths at which texts are cut.
      batch_size: rows of one step.
      seed: of the order.
      task_ids: which task every example belongs to; None is one task.
      mixing: how often each task comes, in the order of the examples; none is as often as it has
        rows.
      encode: makes token ids and targets of the examples.
      options: of `encode`.
      prompt_length: virtual tokens P before the text; lengths T are such that 8 divides P + T.

    Raises:
      InputError: no examples, or numbers that do not fit together.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        config: DataConfig,
        batch_size: int,
        seed: int,
        *,
        task_ids: Sequence[int] | np.ndarray | None = None,
        mixing: tuple[Share, ...] = (),
        encode: Encoder = encode_examples,
        options: EncodeOptions = PLAIN,
        prompt_length: int = 0,
    ):
        cache = Cache(config.cache)
        self._encoded = encode_flat(encode, examples, tokenizer, config, options, cache)
        self.remarks = tuple(cache.lines)
        super().__init__(
            self._encoded.sources.lengths,
            *(batch_size, seed),
            padded_lengths=config.padded_lengths,
            mixing=mixing,
            prompt_length=prompt_length,
        )
        self._task_ids = None if task_ids is None else np.asarray(task_ids, np.int32)
        self.truncated = self._encoded.truncated
        # One length for all targets: they are short, and each further length is another program.
        self.target_length = int(self._encoded.targets.lengths.max())

    def reseeded(self, seed: int) -> "Batches":
        """The same rows in another order."""
        at_least("train.seed", seed, 0)
        # Shallow, so that all seeds share the encoded rows.
        batches = copy.copy(self)
        batches._seed = seed
        return batches

    @property
    def sources(self) -> Sequence[np.ndarray]:
        """The token ids of every input, in the order of the examples."""
        return self._encoded.sources

    def __getitem__(self, step: int) -> Batch:
        rows = self.rows(step)
        length = _rung(self.source_lengths, self._lengths[rows])
        batch = _assemble(self._encoded, rows, length, self.target_length)
        return batch if self._task_ids is None else batch._replace(task_ids=self._task_ids[rows])


def prefetch(batches: Batches, start: int, stop: int) -> Iterator[Batch]:
    """The batches of steps `start` to `stop`, the next ones prepared while one is used."""
    import grain

    steps = grain.MapDataset.range(start, stop).map(batches.__getitem__)
    # One thread: assembling is cheap, and the cores belong to the training step.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(steps.to_iter_dataset(options))


def pad_likely(rows: Sequence[Likely], length: int) -> Likely:
    """Rows [U, K] as one [B, U, K], with zeros behind each, which the mask of the targets hides."""

    def padded(leaves: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.pad(x, ((0, length - len(x)), (0, 0))) for x in leaves])

    words, log_probs = zip(*rows, strict=True)
    return Likely(padded(list(words)), padded(list(log_probs)))


def _rung(ladder: tuple[int, ...], lengths: np.ndarray) -> int:
    longest = lengths.max()
    return next(rung for rung in ladder if rung >= longest)


def _assemble(encoded: Flat, rows: np.ndarray, length: int, target_length: int) -> Batch:
    inputs = pad([encoded.sources[row] for row in rows.tolist()], length, encoded.pad_id)
    picked = [encoded.targets[row] for row in rows.tolist()]
    if encoded.words is not None and encoded.log_probs is not None:
        pairs = [(encoded.words[row], encoded.log_probs[row]) for row in rows.tolist()]
        likely = pad_likely([Likely(*pair) for pair in pairs], target_length)
        return Batch(*inputs, *pad(picked, target_length, encoded.pad_id), likely=likely)
    if not encoded.by_token:
        return Batch(*inputs, *pad(picked, target_length, encoded.pad_id))
    tags = pad(picked, length, IGNORED)[0]
    # IGNORED is no class, and the mask hides what stands in its place.
    there = tags != IGNORED
    return Batch(*inputs, np.where(there, tags, np.int32(0)), there)
