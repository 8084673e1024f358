"""The tokenizer in a .gguf file, as transformers builds it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from prompt_jax.config import InputError
from prompt_jax.trees import Tokenizer
from prompt_jax.weights.gguf import Metadata, open_gguf
from prompt_jax.weights.stored import parsing

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Words
else:
    Words: TypeAlias = Any

PARTS = {
    "tokenizer_type": "model",
    "pre_tokenizer_type": "pre",
    **{name: name for name in ("tokens", "scores", "token_type", "merges")},
}
"""What transformers calls the parts of `tokenizer.ggml`."""
SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
AS_GPT2 = ("default", "gpt-2", "mpt", "olmo", "phi-2")
"""Splits of texts into words, before merges, that are GPT-2's."""
DIGIT_BY_DIGIT = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""Splits that are GPT-2's but take every digit as a word."""


def has_words(file: Path) -> bool:
    """Whether a .gguf file has a tokenizer."""
    return "tokenizer.ggml.tokens" in open_gguf(file).metadata


def read_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer of a .gguf file, with its special tokens and its chat template.

    Raises:
      InputError: it splits texts in a way that is not known here, or transformers is too old.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        from transformers.integrations.gguf import convert_gguf_tokenizer
    except ImportError as error:
        raise InputError(
            'the tokenizer of a .gguf file needs a newer transformers: pip install "transformers>='
            "5.23\", or give tokenizer=, the folder or hub id of the model's own"
        ) from error

    metadata = open_gguf(file).metadata
    parts = {
        part: metadata[f"tokenizer.ggml.{key}"]
        for part, key in PARTS.items()
        if f"tokenizer.ggml.{key}" in metadata
    }
    _check_split(file, metadata)
    with parsing(file, "a tokenizer that transformers knows"):
        words, _ = convert_gguf_tokenizer(metadata["general.architecture"], parts)
    _complete(words, metadata)
    options = {
        token: parts["tokens"][metadata[f"tokenizer.ggml.{key}"]]
        for token, key in SPECIAL.items()
        if f"tokenizer.ggml.{key}" in metadata
    }
    for flag in ("add_bos_token", "add_eos_token"):
        # As llama.cpp does: a SentencePiece model without the flag begins its texts with BOS.
        default = flag == "add_bos_token" and parts["tokenizer_type"] == "llama"
        options[flag] = metadata.get(f"tokenizer.ggml.{flag}", default)
    template = metadata.get("tokenizer.chat_template")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, **options)
    return cast(Tokenizer, tokenizer)


def _check_split(file: Path, metadata: Metadata) -> None:
    """Checks that we know how the file's words are split, where bytes are merged to words.

    Raises:
      InputError: we do not.
    """
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    allowed = sorted({*AS_GPT2, *DIGIT_BY_DIGIT, *GGUF_PRE_TOKENIZER_SPLITS})
    split = metadata.get("tokenizer.ggml.pre", AS_GPT2[0])
    if metadata["tokenizer.ggml.model"] == "gpt2" and split not in allowed:
        raise InputError(
            f"the tokenizer of {file} splits texts as {split!r}; allowed: {', '.join(allowed)}; "
            "give tokenizer=, the folder or hub id of the model's own"
        )


def _complete(words: Words, metadata: Metadata) -> None:
    """Puts in what transformers leaves out of the file's `tokenizers` tokenizer."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    if metadata.get("tokenizer.ggml.pre") in DIGIT_BY_DIGIT:
        words.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    bare = metadata.get("tokenizer.ggml.add_space_prefix") is False
    if bare and isinstance(words.pre_tokenizer, pre_tokenizers.Metaspace):
        words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        words.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    table = metadata.get("tokenizer.ggml.precompiled_charsmap")
    if table:
        # The table may be read as signed bytes, and `bytes` takes 0 to 255 alone.
        words.normalizer = normalizers.Precompiled(bytes(value & 0xFF for value in table))
