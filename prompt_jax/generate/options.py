"""Options of `generate`, under the names and with the meanings that they have in Transformers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, at_least, choose
from prompt_jax.generate.rules import Rules, earlier

MAX_NEW_TOKENS = 64
TOP_K = 50
"""Of `do_sample=True` where none is given, as in Transformers."""


class Drawing(NamedTuple):
    """What tokens are drawn from."""

    temperature: float
    top_k: int
    top_p: float


def check_names(unknown: Iterable[str], options: Iterable[str]) -> None:
    """Refuses what is no option.

    Raises:
      InputError: there is something; it names the options.
    """
    for name in unknown:
        choose("option of generate", name, sorted(options))


def drawing(
    do_sample: bool | None, temperature: float | None, top_k: int | None, top_p: float
) -> Drawing | None:
    """What tokens are drawn from; None takes the likeliest.

    Raises:
      InputError: an argument outside its range, or cuts of what is not drawn from.
    """
    at_least("temperature", temperature or 0.0, 0.0, "0 is greedy")
    at_least("top_k", top_k or 0, 0, "0 draws among all tokens")
    if not 0.0 < top_p <= 1.0:
        raise InputError(f"top_p must be in (0, 1], got {top_p}; 1 draws among all tokens")
    if do_sample is False:
        return None
    if do_sample:
        if temperature == 0:
            raise InputError(
                "do_sample=True draws tokens and temperature=0 draws none; set a temperature above "
                "0, or do_sample=False"
            )
        return Drawing(temperature or 1.0, TOP_K if top_k is None else top_k, top_p)
    if not temperature and (top_k or top_p < 1):
        raise InputError(
            f"top_k and top_p cut what is drawn from, and temperature=0 draws nothing: got top_k "
            f"{top_k or 0} and top_p {top_p}; set temperature, e.g. to 1.0"
        )
    return Drawing(temperature, top_k or 0, top_p) if temperature else None


def check_search(
    num_beams: int, early_stopping: bool | str, sequences: int, drawn: Drawing | None
) -> None:
    """Checks what beams and several answers of a row can be.

    Raises:
      InputError: out of range, or they exclude each other.
    """
    at_least("num_beams", num_beams, 1, "1 is greedy")
    at_least("num_return_sequences", sequences, 1)
    if early_stopping not in (True, False, "never"):
        raise InputError(f'early_stopping must be True, False or "never", got {early_stopping!r}')
    if drawn and num_beams > 1:
        raise InputError(
            f"sampling and beam search exclude each other, got temperature {drawn.temperature} and "
            f"num_beams {num_beams}; set temperature=0 (do_sample=False) or num_beams=1"
        )
    if not drawn and sequences > num_beams:
        raise InputError(
            f"num_return_sequences is {sequences}, and greedy or beam search has at most num_beams "
            f"answers, {num_beams}; set num_beams={sequences}, or draw them: do_sample=True"
        )


def new_tokens(
    backbone: Backbone, read: int, max_new_tokens: int | None, max_length: int | None
) -> int:
    """The tokens of an answer at most; max_new_tokens decides where both are given.

    Args:
      read: T, to which the texts are padded: of a decoder, max_length counts them. Of an
        encoder-decoder it counts the start token.

    Raises:
      InputError: no token is left.
    """
    if max_new_tokens is None and max_length is not None:
        before = read if backbone.target_place == "behind" else 1
        if max_length <= before:
            raise InputError(
                f"max_length is {max_length} and counts {before} tokens before the answer; give "
                "more, or max_new_tokens"
            )
        return max_length - before
    length = MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens
    at_least("max_new_tokens", length, 1)
    return length


def rules_of(
    backbone: Backbone,
    tokens: Int[np.ndarray, "B T"],
    mask: Bool[np.ndarray, "B T"],
    *,
    length: int,
    eos_token_id: int | Sequence[int] | None,
    min_new_tokens: int,
    repetition_penalty: float,
    no_repeat_ngram_size: int,
) -> Rules:
    """What each token of an answer must obey.

    Raises:
      InputError: an argument outside its range.
    """
    at_least("min_new_tokens", min_new_tokens, 0)
    at_least("no_repeat_ngram_size", no_repeat_ngram_size, 0, "0 lets everything repeat")
    if min_new_tokens > length:
        raise InputError(
            f"min_new_tokens is {min_new_tokens} and an answer has at most {length}; raise "
            "max_new_tokens"
        )
    if not 0.0 < repetition_penalty < np.inf:
        raise InputError(f"repetition_penalty must be above 0, got {repetition_penalty}; 1 is none")
    config = backbone.config
    ends = np.array(config.eos_token_id if eos_token_id is None else eos_token_id, ndmin=1)
    if ends.dtype.kind not in "iu" or ends.min() < 0 or ends.max() >= config.vocab_size:
        raise InputError(
            f"eos_token_id is a token or a list of them, 0 to {config.vocab_size - 1}, got "
            f"{eos_token_id}"
        )
    rules = Rules(ends.astype(np.int32), np.int32(min_new_tokens))
    if repetition_penalty == 1.0 and not no_repeat_ngram_size:
        return rules
    if backbone.target_place == "apart":  # The decoder has read its start token, and no text.
        tokens = np.full((len(tokens), 1), config.decoder_start_token_id, np.int32)
        mask = np.ones(tokens.shape, bool)
    read, lengths = earlier(tokens, mask)
    penalty = None if repetition_penalty == 1.0 else np.float32(repetition_penalty)
    return rules._replace(repetition_penalty=penalty, read=read, read_lengths=lengths)
