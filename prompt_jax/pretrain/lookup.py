"""A start from which prompts can steer.

A small T5 of random weights takes very long to find out that the vectors before a text say what to
do with it. This start does a crude form of that at once: the first cross-attention of the decoder
averages the text, the second compares the average with every virtual token and answers with those
that it resembles. They are ordinary weights, and pretraining changes all of them.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_jax.trees import Frozen

SCALE = 3.0
"""Root mean square of the token table, against branches that add about one."""
QUIET = 0.03
"""Gain of every branch at the start, on top of T5's own initialiser."""
SAMPLE = 8_000
FLATTENING = 0.2
"""Which power of the inverse covariance compares texts: 0.5 would drown meaning in noise, 0 in the
few wide directions that all texts share."""
SHARPNESS, READING, LOGITS = 0.2, 4.0, 0.3
POOL_TEXT, LOOK_AT_PROMPT = 0.08, 1.0
"""How strongly the first attention prefers words of the text, and the second those that are not."""


def centred(
    table: Float[np.ndarray, "V D"], counts: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "V D"]:
    """The table with the mean word of the corpus at zero, and coordinate 0 telling words.

    Texts differ little beside what all of them share; with that gone, an average of rows says
    what a text is about. `counts` are those of the first N rows; row 0, the decoder's start, is
    left empty so that what it attends to is all it knows.
    """
    table = SCALE * table
    pieces = len(counts)
    table[:pieces] -= (counts / counts.sum()) @ table[:pieces]
    table[:pieces, 0] = SCALE
    table[0] = 0.0
    table[0, 0] = 1.0
    return table.astype(np.float32)


def pooled(
    table: Float[np.ndarray, "V D"], texts: Sequence[Sequence[int]]
) -> Float[np.ndarray, "N D"]:
    """The mean encoder state of each text while the encoder is still quiet: its normed rows."""
    normed = table / np.sqrt(np.mean(table**2, axis=1, keepdims=True) + 1e-6)
    return np.stack([normed[list(row)[:-1]].mean(0) for row in texts])


def with_lookup(params: Frozen, texts: Float[np.ndarray, "N D"], heads: int, seed: int) -> Frozen:
    """The parameters of a T5 of at least two decoder layers, with the two attentions set.

    Args:
      params: a T5's, with a token table from `centred`.
      texts: mean encoder states, from `pooled`.
      heads: of an attention; they share D evenly.
      seed: of the rotation that gives every head its share of all directions.
    """
    width = texts.shape[1]
    compare = _comparison(texts, np.random.default_rng(seed))
    length = np.sqrt(np.mean(np.sum(texts**2, axis=1)) / width)
    query = compare * length * SHARPNESS
    key = compare * np.sqrt(width) / np.linalg.norm(compare)
    word = np.zeros((width // heads, width))
    word[-1, 0] = 1.0
    is_word = np.tile(word, (heads, 1))
    free = 1.0 - is_word.sum(1, keepdims=True)
    prompt = np.sqrt(LOOK_AT_PROMPT) * is_word
    pool = np.sqrt(POOL_TEXT) * is_word
    same = np.eye(width)
    layers = params["decoder"]["layers"]
    cross = dict(layers["cross_attention"])
    for name, maps in {
        "query": (pool, query * free + prompt),
        "key": (pool, key * free - prompt),
        "value": (same, same),
    }.items():
        kernel = jnp.stack([_kernel(matrix, heads) for matrix in maps])
        cross[name] = {"kernel": cross[name]["kernel"].at[:2].set(kernel)}
    out = jnp.asarray(np.stack([same, READING * same]), jnp.float32)
    shape = (2, heads, width // heads, width)
    cross["out"] = {"kernel": cross["out"]["kernel"].at[:2].set(out.reshape(shape))}
    decoder = {**params["decoder"], "layers": {**layers, "cross_attention": cross}}
    decoder["final_norm"] = {"scale": LOGITS * decoder["final_norm"]["scale"]}
    return {**params, "decoder": decoder}


def _comparison(texts: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "D D"]:
    values, axes = np.linalg.eigh(np.cov(texts.T))
    values = np.maximum(values, 0.05 * values.mean())
    turn, _ = np.linalg.qr(rng.normal(size=axes.shape))
    return turn @ (axes * values**-FLATTENING) @ axes.T


def _kernel(matrix: np.ndarray, heads: int) -> Float[Array, "D H K"]:
    """[D, H, K] from rows of heads, [H*K, D]."""
    return jnp.asarray(matrix.T.reshape(len(matrix), heads, -1), jnp.float32)


def readout(
    texts: Float[np.ndarray, "N D"], places: Float[np.ndarray, "N Z"]
) -> Float[np.ndarray, "D Z"]:
    """The linear map from mean encoder states to places, by ridge regression."""
    gram = texts.T @ texts + 5.0 * np.eye(texts.shape[1])
    return np.linalg.solve(gram, texts.T @ places).astype(np.float32)
