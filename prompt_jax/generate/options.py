"""Options of `generate`, under the names and with the meanings that they have in Transformers."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, WritingConfig, at_least, check_types, choose
from prompt_jax.config.plain import plain_value
from prompt_jax.generate.rules import ANY, Rules, earlier
from prompt_jax.generate.stops import stop_table
from prompt_jax.trees import Tokenizer

WORDS = 8
"""Bad words are filled up to a multiple of so many, so that few shapes serve all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WritingConfig):
    """How `generate` writes an answer."""

    num_return_sequences: int = 1
    """Answers to every row, side by side: the best beams, or several drawn."""
    early_stopping: bool | str = False
    """When beam search decides a row: True as soon as `num_beams` hypotheses have ended, False when
    a better one is unlikely, "never" when it is impossible."""
    eos_token_id: tuple[int, ...] | None = None
    """The tokens that end an answer; None takes the backbone's."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Words that are never written, as the tokens of each."""

    def __post_init__(self):
        super().__post_init__()
        at_least("num_return_sequences", self.num_return_sequences, 1)
        if self.early_stopping not in (True, False, "never"):
            raise InputError(
                f'early_stopping must be True, False or "never", got {self.early_stopping!r}'
            )
        answers = self.num_return_sequences
        if not self.drawing and answers > self.num_beams:
            raise InputError(
                f"num_return_sequences is {answers}, and greedy or beam search has at most "
                f"num_beams answers, {self.num_beams}; set num_beams={answers}, or draw them: "
                "do_sample=True"
            )


OPTIONS = sorted([*(field.name for field in dataclasses.fields(Options)), "max_length"])
"""What `generate` takes."""


def options_of(backbone: Backbone, read: int, values: Mapping[str, Any]) -> Options:
    """The options of a call; None, as in Transformers, is the default.

    Args:
      read: T, to which the texts are padded: of a decoder, max_length counts them. Of an
        encoder-decoder it counts the start tokens. max_new_tokens decides where both are there.

    Raises:
      InputError: an unknown option, one of another type or outside its range, or no token is left
        to write.
    """
    for name in values:
        choose("option of generate", name, OPTIONS)
    chosen = {name: value for name, value in values.items() if value is not None}
    longest = chosen.pop("max_length", None)
    if longest is not None and "max_new_tokens" not in chosen:
        behind = backbone.target_place == "behind"
        before = read if behind else len(backbone.config.start_tokens)
        if longest <= before:
            raise InputError(
                f"max_length is {longest} and counts {before} tokens before the answer; give "
                "more, or max_new_tokens"
            )
        chosen["max_new_tokens"] = longest - before
    for name in ("eos_token_id", "stop_token_ids", "stop_strings", "bad_words", "bad_words_ids"):
        if name in chosen:
            chosen[name] = _tuple(chosen[name])
    chosen: dict[str, Any] = {name: plain_value(value) for name, value in chosen.items()}
    check_types(Options, chosen)
    return Options(**chosen)


def _tuple(value: Any) -> tuple[Any, ...]:
    """A token or a text as the only one of several, an array as its numbers."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(_tuple(item) if isinstance(item, list | np.ndarray) else item for item in value)


def rules_of(
    backbone: Backbone,
    options: Options,
    tokens: Int[np.ndarray, "B T"],
    mask: Bool[np.ndarray, "B T"],
) -> Rules:
    """What each token of an answer must obey.

    Raises:
      InputError: a token that the backbone has not, or texts and no tokenizer that reads them.
    """
    ends = _ends(backbone, options)
    rules = Rules(np.array(ends, np.int32), np.int32(options.min_new_tokens))
    if backbone.config.final_token_id is not None:
        rules = rules._replace(final=np.int32(backbone.config.final_token_id))
    if options.stop_strings:
        tokenizer = _tokenizer(backbone, "stop_strings")
        table = stop_table(tokenizer, options.stop_strings, backbone.config.vocab_size)
        rules = rules._replace(stops=table)
    # As in Transformers, a bad word that is an end token alone is left out: no answer could end.
    words = [word for word in _bad_words(backbone, options) if word[1:] or word[0] not in ends]
    if words:
        rules = rules._replace(bad_words=_padded(words, backbone.config.vocab_size))
    if options.repetition_penalty != 1.0:
        rules = rules._replace(repetition_penalty=np.float32(options.repetition_penalty))
    # `read` stays None, and the program keeps no history.
    if not words and options.repetition_penalty == 1.0 and not options.no_repeat_ngram_size:
        return rules
    if backbone.target_place == "apart":  # The decoder has read its start tokens, and no text.
        tokens = np.tile(np.array(backbone.config.start_tokens, np.int32), (len(tokens), 1))
        mask = np.ones(tokens.shape, bool)
    read, lengths = earlier(tokens, mask)
    return rules._replace(read=read, read_lengths=lengths)


def _ends(backbone: Backbone, options: Options) -> list[int]:
    """Tokens that end an answer, each once: search looks at more beams, the more there are."""
    ends = backbone.config.eos_token_ids
    if options.eos_token_id is not None:
        ends = options.eos_token_id
        _check(backbone, "eos_token_id", ends)
    _check(backbone, "stop_token_ids", options.stop_token_ids)
    return list(dict.fromkeys((*ends, *options.stop_token_ids)))


def _check(backbone: Backbone, name: str, tokens: Sequence[int]) -> None:
    size = backbone.config.vocab_size
    if not all(0 <= token < size for token in tokens):
        raise InputError(f"{name} are tokens, 0 to {size - 1}, got {list(tokens)}")


def _bad_words(backbone: Backbone, options: Options) -> list[tuple[int, ...]]:
    for word in options.bad_words_ids:
        _check(backbone, "bad_words_ids", word)
        if not word:
            raise InputError("bad_words_ids has a word of no token; leave it out")
    if not options.bad_words:
        return list(options.bad_words_ids)
    tokenizer = _tokenizer(backbone, "bad_words")
    bare = [word.strip() or word for word in options.bad_words]
    # Both, as a tokenizer may have other tokens for a word behind a space.
    texts = [text for word in bare for text in (word, f" {word}")]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return list(dict.fromkeys([*options.bad_words_ids, *map(tuple, rows)]))


def _padded(words: Sequence[Sequence[int]], size: int) -> Int32[np.ndarray, "W K"]:
    """Words of equal length; those that fill up the table end in a token that is none."""
    longest = max(map(len, words))
    rows = np.full((-(-len(words) // WORDS) * WORDS, longest), ANY, np.int32)
    rows[:, -1] = size
    for row, word in zip(rows, words, strict=False):
        row[longest - len(word) :] = word
    return rows


def _tokenizer(backbone: Backbone, option: str) -> Tokenizer:
    if backbone.tokenizer is None:
        raise InputError(
            f"{option} are texts, and backbone {backbone.name!r} has no tokenizer to read them; "
            "give load_backbone(..., tokenizer=FOLDER or hub id), or the ids of tokens"
        )
    return backbone.tokenizer
