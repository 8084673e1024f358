"""A token table that starts from a teacher's word vectors.

Meaning learned from billions of words is the part of a language model that a small corpus cannot
give; the rows of a BERT's embedding layer already hold most of it. Read with numpy alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from prompt_jax.config import InputError

WORDS = "word_embeddings.weight"
TENSORS = (WORDS, "token_type_embeddings.weight", "position_embeddings.weight")
TENSORS += ("LayerNorm.weight", "LayerNorm.bias")
FORM_DIMENSIONS = 8
"""Capital, within a word, no letter, the word's rating; the others are noise that tells equal
meanings apart."""


def read_lexicon(path: str | Path) -> dict[str, float]:
    """Words and their ratings, tab-separated lines of which further columns are ignored.

    That is the format of vaderSentiment's vader_lexicon.txt, people's ratings from -4 to 4.
    """
    path, ratings = Path(path), {}
    if not path.is_file():
        raise InputError(f"no lexicon {str(path)!r}; give lines of a word, a tab and a number")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        word, _, rest = line.partition("\t")
        try:
            ratings[word.lower()] = float(rest.split("\t")[0])
        except ValueError as error:
            raise InputError(
                f"lexicon {str(path)!r} line {number} is not a word, a tab and a number: {line!r}"
            ) from error
    return ratings


def read_teacher(folder: str | Path) -> tuple[Float[np.ndarray, "W E"], dict[str, int]]:
    """The teacher's layer-0 word vectors and its WordPiece vocabulary.

    The vectors are those that its first layer sees: word, mean position and first type, normed.
    """
    from safetensors import safe_open

    folder = Path(folder)
    for name in ("model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"teacher folder {str(folder)!r} has no {name}; "
                "give a BERT with a WordPiece vocabulary in Hugging Face's format"
            )
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    # Only these few: sentence encoders also carry integer buffers that are of no use here.
    with safe_open(folder / "model.safetensors", "np") as stored:
        key = next((k for k in stored.keys() if k.endswith(WORDS)), None)
        if key is None or vocabulary.get("type") != "WordPiece":
            raise InputError(
                f"teacher folder {str(folder)!r} holds no BERT with a WordPiece vocabulary"
            )
        prefix = key.removesuffix(WORDS)
        tensors = {n: stored.get_tensor(prefix + n).astype(np.float32) for n in TENSORS}
    words = tensors[WORDS] + tensors["token_type_embeddings.weight"][0]
    words = words + tensors["position_embeddings.weight"][1:20].mean(0)
    words = words - words.mean(-1, keepdims=True)
    # The LayerNorm of BERT, whose epsilon is 1e-12.
    words /= np.sqrt(words.var(-1, keepdims=True) + 1e-12)
    return words * tensors["LayerNorm.weight"] + tensors["LayerNorm.bias"], vocabulary["vocab"]


def word_pieces(word: str, vocabulary: dict[str, int], *, inside: bool = False) -> list[int]:
    """WordPiece's longest-match-first rows of a lower-case word; empty when it cannot be spelt."""
    rows, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start or inside else "") + word[start:end]
            if piece in vocabulary:
                rows.append(vocabulary[piece])
                start = end
                break
        else:
            return []
    return rows


def token_table(
    pieces: list[str],
    rows: int,
    width: int,
    teacher: tuple[Float[np.ndarray, "W E"], dict[str, int]],
    *,
    ratings: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "V D"]:
    """Rows for SentencePiece `pieces`: the teacher's meaning, in `width` numbers of RMS one.

    Half-whitened principal coordinates fill all but the last `FORM_DIMENSIONS`, of which one is the
    word's rating; columns are then shuffled so that every attention head gets its share of the
    wide ones.
    """
    vectors, vocabulary = teacher
    kept = width - FORM_DIMENSIONS
    if not 0 < kept <= vectors.shape[1]:
        raise InputError(
            f"a token table of width {width} cannot start from a teacher of width "
            f"{vectors.shape[1]}; choose d_model from {FORM_DIMENSIONS + 1} to "
            f"{vectors.shape[1] + FORM_DIMENSIONS}"
        )
    rng = np.random.default_rng(seed)
    meanings, spelt, forms = _meanings(pieces, vectors, vocabulary)
    centred = np.where(spelt[:, None], meanings - meanings[spelt].mean(0), 0.0)
    _, sizes, axes = np.linalg.svd(centred[spelt], full_matrices=False)
    deviation = np.maximum(sizes[:kept], 1e-6 * sizes[0]) / np.sqrt(spelt.sum())
    coordinates = centred @ axes[:kept].T / np.sqrt(deviation)
    coordinates /= coordinates[spelt].std()
    table = rng.normal(size=(rows, width)).astype(np.float32)
    noise = 0.15 * rng.normal(size=(len(pieces), width))
    count = len(pieces)
    table[:count, : coordinates.shape[1]] = np.where(
        spelt[:, None], coordinates, table[:count, : coordinates.shape[1]]
    )
    table[:count, kept : kept + 3] = 1.5 * forms - 0.5
    if ratings:
        rated = [ratings.get(p[1:].lower(), 0.0) if p.startswith("▁") else 0.0 for p in pieces]
        table[:count, kept + 3] = rated
    table[:count] += noise
    table /= np.sqrt((table**2).mean(-1, keepdims=True))
    return table[:, rng.permutation(width)]


def _meanings(
    pieces: list[str], vectors: Float[np.ndarray, "W E"], vocabulary: dict[str, int]
) -> tuple[Float[np.ndarray, "N E"], Bool[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """What the teacher says of every piece, whether it says any, and how the piece is written."""
    meanings = np.zeros((len(pieces), vectors.shape[1]), np.float32)
    spelt, forms = np.zeros(len(pieces), bool), np.zeros((len(pieces), 3), np.float32)
    for i, piece in enumerate(pieces):
        body = piece.lstrip("▁")
        inside = not piece.startswith("▁")
        forms[i] = body[:1].isupper(), inside, not any(c.isalpha() for c in body)
        lowered = body.lower()
        rows = word_pieces(lowered, vocabulary, inside=inside and lowered.isalnum())
        rows = rows or word_pieces(lowered, vocabulary)
        if rows:
            meanings[i], spelt[i] = vectors[rows].mean(0), True
    return meanings, spelt, forms
