"""Tokens as people read them, and which of them are words."""

import jax
import numpy as np
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from prompt_jax.backbones.vocabulary import readable, word_ids
from prompt_jax.methods.virtual_tokens import from_vocab


def byte_level():
    """GPT-2's kind: a mark, all bytes, three words and a mark that was added."""
    tokens = [
        "<|end|>",
        *sorted(ByteLevel.alphabet()),
        "\u0120film",
        "\u0120caf\u00c3\u00a9",
        "dull",
    ]
    words = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    words.decoder = Decoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>")
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def test_tokens_of_bytes_are_shown_as_text():
    tokenizer = byte_level()
    assert readable(tokenizer, [257, 258, 259, 0]) == [" film", " caf\u00e9", "dull", "<|end|>"]
    half = tokenizer.convert_tokens_to_ids("\u00c3")
    assert readable(tokenizer, [half]) == ["\u00c3"]


def test_pieces_are_shown_with_their_space(embedded):
    king = embedded.tokenizer.convert_tokens_to_ids("\u2581king")
    assert readable(embedded.tokenizer, [king, 1]) == [" king", "</s>"]


def test_words_are_no_marks_and_no_bytes(embedded):
    assert word_ids(byte_level(), 261).tolist() == [257, 258, 259]
    assert word_ids(byte_level(), 258).tolist() == [257]
    assert word_ids(None, 3).tolist() == [0, 1, 2]
    tokens = embedded.tokenizer.convert_ids_to_tokens(embedded.word_ids.tolist())
    assert not {"<pad>", "</s>", "<unk>"} & set(tokens) and "\u2581the" in tokens


def test_a_prompt_is_drawn_from_words_alone():
    table = np.arange(261.0)[:, None]
    draw = from_vocab(table, word_ids(byte_level(), 261)[:2])
    assert set(np.asarray(draw(jax.random.key(0), (9, 1))).ravel()) == {257.0, 258.0}
