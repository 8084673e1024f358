"""Log-likelihoods of candidate targets: how label words are ranked."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.sharding import place_rows

LOGITS_BYTES = 256 * 2**20  # Logits held at once while candidates are scored.


def score(
    backbone: Backbone,
    injection: Injection | None,
    tokens: Int[Array | np.ndarray, "B T"],
    mask: Bool[Array | np.ndarray, "B T"],
    candidates: Int[Array | np.ndarray, "C U"],
    candidate_mask: Bool[Array | np.ndarray, "C U"],
    *,
    length_normalize: bool = True,
) -> Float[Array, "B C"]:
    """The log-likelihood of every candidate as the answer to every row, in nats.

    A row is encoded once and all candidates are decoded against it. The result stays on the
    device, so that a caller may fetch those of many batches together.

    Args:
      candidates: with EOS, padded on the right.
      candidate_mask: True where a token is real; every candidate has at least one.
      length_normalize: divide by the number of tokens, EOS among them.

    Raises:
      InputError: there is no candidate, or an empty one, or more tokens than the backbone has
        positions.
    """
    candidates = np.asarray(candidates, np.int32)
    candidate_mask = np.asarray(candidate_mask, bool)
    if not candidates.size or not candidate_mask.any(1).all():
        raise InputError(
            f"score needs at least one candidate and no empty one, got {len(candidates)} of "
            f"{candidate_mask.sum(-1).tolist()} tokens; end every candidate with EOS"
        )
    backbone.check_word_head()
    mask = np.asarray(mask, bool)
    if backbone.config.is_encoder:
        _check_cloze(backbone, np.asarray(tokens), mask, candidate_mask)
    virtual = 0 if injection is None else injection.positions
    backbone.check_context(virtual, backbone.longest(mask), candidates.shape[1])
    return score_candidates(
        PromptedModel.of(backbone, injection),
        *place_rows((np.asarray(tokens, np.int32), mask), backbone.mesh),
        candidates,
        candidate_mask,
        candidate_mask.sum(1) if length_normalize else np.ones(len(candidates), int),
    )


def _check_cloze(
    backbone: Backbone, tokens: np.ndarray, mask: np.ndarray, candidate_mask: np.ndarray
) -> None:
    longest = int(candidate_mask.sum(1).max())
    named = f"backbone {backbone.name!r}"
    if longest > 1:
        raise InputError(
            f"a label word of {longest} tokens cannot stand in place of one mask; choose label "
            f"words that are one token of {named}, or train a head: set num_labels"
        )
    one_mask(backbone, [row[seen] for row, seen in zip(tokens, mask, strict=True)])


def one_mask(backbone: Backbone, rows: Sequence[np.ndarray], places: Sequence[str] = ()) -> None:
    """Checks that every text of a cloze has one mask.

    Args:
      places: what names every text in an error; none numbers them from 0.

    Raises:
      InputError: one has none, or several.
    """
    for i, row in enumerate(rows):
        masks = int((row == backbone.config.mask_token_id).sum())
        if masks != 1:
            raise InputError(
                f"{places[i] if places else f'input {i}'} has {masks} masks and backbone "
                f"{backbone.name!r} fills one; write the tokenizer's mask once into task.source"
            )


@jax.jit
def score_candidates(
    model: PromptedModel,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    candidates: Int[Array, "*B C U"],
    candidate_mask: Bool[Array, "*B C U"],
    divisor: Int[Array, "*B C"],
) -> Float[Array, "B C"]:
    """The program behind `score`, and behind losses over label words; differentiable.

    Log-likelihoods are divided by `divisor`. Candidates are those of all rows, or of each.

    All candidates share the first step, because the start token is all that it reads, and the
    cross-attention keys and values of their row.
    """
    count, length = candidates.shape[-2:]
    first = model.prefill(tokens, mask, length)
    batch, vocab = first.logits.shape
    log_first = jax.nn.log_softmax(first.logits)

    def likelihood(candidate: Int[Array, "#B U"], real: Bool[Array, "#B U"]) -> Float[Array, " B"]:
        written = jnp.broadcast_to(candidate, (batch, length))
        log_probs = _picked(log_first[:, None], written[:, :1])
        if length > 1:
            # Every candidate goes on from the same cache, and what it writes there is dropped.
            later, _ = model.decode(written[:, :-1], first.mask, first.decoder_cache, 1)
            later = _picked(later, written[:, 1:]) - jax.nn.logsumexp(later, axis=-1)
            log_probs = jnp.concatenate([log_probs, later], axis=1)
        return jnp.where(real, log_probs, 0.0).sum(-1)

    # As many candidates at a time as their logits have room for.
    at_once = min(count, max(1, LOGITS_BYTES // (4 * batch * length * vocab)))
    # Candidates of all rows have one row, which is broadcast and not copied.
    rows = -1 if candidates.ndim == 3 else 1
    # Candidates in front, since `lax.map` goes over the first axis.
    by_candidate = tuple(
        x.reshape(rows, count, length).swapaxes(0, 1) for x in (candidates, candidate_mask)
    )
    scores = jax.lax.map(lambda pair: likelihood(*pair), by_candidate, batch_size=at_once).T
    return scores / divisor.reshape(rows, count)


def _picked(logits: Float[Array, "B U V"], tokens: Int[Array, "B U"]) -> Float[Array, "B U"]:
    """The entry of every token."""
    return jnp.take_along_axis(logits, tokens[:, :, None], axis=2)[..., 0]
