"""The tokenizer of a backbone, through transformers."""

from pathlib import Path

from prompt_jax.config import InputError
from prompt_jax.trees import Tokenizer
from prompt_jax.weights.gguf import is_gguf
from prompt_jax.weights.gguf_tokenizer import has_words, read_tokenizer

FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json")


def has_tokenizer(source: Path) -> bool:
    """Whether a folder or a .gguf file holds a tokenizer; if so, it must be a working one."""
    if is_gguf(source):
        return has_words(source)
    return any((source / name).exists() for name in FILES)


def load_tokenizer(
    name: str, *, revision: str | None = None, token: str | None = None
) -> Tokenizer:
    """The tokenizer of a folder, a .gguf file or a hub id; never runs code that comes with it.

    Raises:
      InputError: there is none, or it is incomplete, damaged, or needs code of its own.
    """
    from transformers import AutoTokenizer

    if Path(name).is_dir() and not has_tokenizer(Path(name)):
        raise InputError(
            f"{name} has no tokenizer; add {' or '.join(FILES[:2])}, or give tokenizer=, the "
            f"folder or hub id of one"
        )
    if is_gguf(Path(name)):
        return read_tokenizer(Path(name))
    try:
        return AutoTokenizer.from_pretrained(
            name, revision=revision or "main", token=token, trust_remote_code=False
        )
    except Exception as error:  # The tokenizers library raises bare Exceptions.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"the tokenizer of {name} cannot be loaded ({reason}); download its files again, or "
            f"give tokenizer=, the folder or hub id of another"
        ) from error
