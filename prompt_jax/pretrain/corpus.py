"""Text files to short texts, a tokenizer, and token lists.

One paragraph a line, as in most plain-text corpora. A small model learns most from short texts: a
sentence or a clause is what a prompt is later asked about, and it costs a fraction of a page.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from prompt_jax import disk
from prompt_jax.config import InputError

PAD, EOS = 0, 1
NUM_SENTINELS = 100
_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"')]*\s+")
_PHRASE_END = re.compile(r"(?<=[,:])\s+")


def sentences(paragraph: str, *, least: int = 4, most: int = 36) -> list[str]:
    """The sentences of a paragraph, of `least` to `most` words each.

    A longer sentence is cut after a comma or colon, because a cut elsewhere teaches the model that
    texts stop anywhere. Lines that are mostly figures or code are left out.
    """
    parts = []
    for sentence in _SENTENCE_END.split(paragraph.strip()):
        if len(sentence.split()) > most:
            sentence = _shorten(sentence, most)
        letters = sum(c.isalpha() or c == " " for c in sentence)
        if least <= len(sentence.split()) <= most and letters >= 0.82 * len(sentence):
            parts.append(sentence)
    return parts


def _shorten(sentence: str, most: int) -> str:
    kept = ""
    for phrase in _PHRASE_END.split(sentence):
        if len(f"{kept} {phrase}".split()) > most:
            break
        kept = f"{kept} {phrase}".strip()
    return kept or " ".join(sentence.split()[:most])


def read_sentences(
    folder: str | Path, weights: Sequence[tuple[str, float]], *, most_per_file: int, seed: int = 0
) -> list[str]:
    """Sentences of the named files, each file thinned to its weight and cut to `most_per_file`.

    Args:
      folder: where the files are, one paragraph a line.
      weights: (file name, share of its sentences to keep, in (0, 1]).
      most_per_file: sentences of a file, at most, after thinning.
      seed: of the thinning and of the order.
    """
    rng = np.random.default_rng(seed)
    taken: list[str] = []
    for name, share in weights:
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(
                f"no text file {name!r} in {str(folder)!r}; put one paragraph a line there, "
                "or take the name out of `files`"
            )
        with path.open(encoding="utf-8", errors="replace") as lines:
            drawn = [s for line in lines for s in sentences(line) if rng.random() < share]
        order = rng.permutation(len(drawn))[:most_per_file]
        taken += [drawn[i] for i in order]
    if not taken:
        raise InputError(
            f"no sentence of 4 to 36 words in {len(weights)} files of {str(folder)!r}; "
            "give prose, one paragraph a line"
        )
    return taken


def train_tokenizer(
    texts: Iterable[str], folder: str | Path, *, size: int, words: Sequence[str] = ()
) -> Path:
    """Trains a unigram SentencePiece vocabulary and writes `spiece.model`; gives its path.

    `words`, most frequent first, are added with counts that fall as 1/rank: a corpus of old books
    lacks today's words, and a word in one piece is one a small model can know.
    """
    import sentencepiece

    counts = (max(1, 6000 // (rank + 300)) for rank in range(len(words)))
    extra = (" ".join([word] * 10) for word, n in zip(words, counts, strict=True) for _ in range(n))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Into memory first, so that the file appears whole or not at all.
    target, model = folder / "spiece.model", io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*texts, *extra]),
            model_writer=model,
            vocab_size=size,
            model_type="unigram",
            character_coverage=0.9995,
            # The ids of T5: its config and Transformers' tokenizer expect them.
            pad_id=PAD,
            eos_id=EOS,
            unk_id=2,
            bos_id=-1,
            split_digits=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"a vocabulary of {size} pieces could not be made: {error}; "
            "give more text or a smaller vocab_pieces"
        ) from error
    disk.write(target, model.getvalue())
    return target


@runtime_checkable
class Pieces(Protocol):
    """A SentencePiece processor."""

    def encode(self, input: Any) -> Any: ...
    def get_piece_size(self) -> int: ...
    def id_to_piece(self, id: int) -> str: ...


def load_tokenizer(path: str | Path) -> Pieces:
    """The SentencePiece processor of a `spiece.model`."""
    import sentencepiece

    if not Path(path).is_file():
        raise InputError(f"no tokenizer at {str(path)!r}; set `tokenizer` to a spiece.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def padded(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Token lists as int32 [B, width], cut or padded on the right."""
    out = np.full((len(rows), width), PAD, np.int32)
    for row, tokens in zip(out, rows, strict=True):
        row[: len(tokens)] = tokens[:width]
    return out
