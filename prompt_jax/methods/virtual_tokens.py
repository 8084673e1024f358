"""Virtual tokens in the input: what the configs of such methods have, and where the rows start.

An initialiser is a closure `(key, shape) -> prompt`, so that they compose: class labels fill the
first rows and sampled vocabulary the rest.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.config import PLACEMENTS, InputError, MethodConfig, at_least, choose
from prompt_jax.config.checks import implied
from prompt_jax.config.method import Place
from prompt_jax.methods.method import Stored

Start = Literal["vocab", "text", "class_labels", "random", "file"]
STARTS = {
    "init_text": "text",
    "init_labels": "class_labels",
    "init_file": "file",
    "init_scale": "random",
}
"""Options that say where a prompt starts, where `init` does not."""


@dataclass(frozen=True, kw_only=True)
class VirtualTokens(MethodConfig):
    """What methods with virtual tokens have."""

    num_virtual_tokens: int = 20
    """P, the length of the prompt."""

    def __post_init__(self):
        super().__post_init__()
        remedy = "to evaluate the plain backbone use prompt=None"
        at_least("num_virtual_tokens", self.num_virtual_tokens, 1, remedy)


@dataclass(frozen=True, kw_only=True)
class InputPrompt(VirtualTokens):
    """What methods with virtual tokens in the input have: where those start, and stand."""

    rates = {"adafactor": 0.3, "adafactor_t5x": 0.3, "adamw": 0.03}
    trains_words = True

    init: Start | None = None
    """Where the prompt starts: vocabulary rows, a text, the label words, noise, or a file. None is
    the one that an option is given for, as `file` by init_file, and else `vocab`."""
    init_text: str | None = None
    """The text of `init="text"`; repeated or cut to num_virtual_tokens. Empty takes the task's
    instruction: task.system, or the words of task.source around its columns."""
    init_labels: tuple[str, ...] = ()
    """The words of `init="class_labels"`, a row each; empty takes the label words of the task."""
    init_file: str | None = None
    """The start of `init="file"`: a saved prompt folder, a PEFT folder, or a .npy of [P, D]."""
    init_population: int = 5000
    """`init="vocab"` samples words among so many of the vocabulary's first rows, which are the most
    frequent. Special and added tokens and single bytes are no words."""
    init_scale: float = 0.5
    """`init="random"` is uniform(-init_scale, init_scale)."""
    placement: Place | None = None
    """Where the prompt stands: `prefix` before the text, `after_bos` behind its first token,
    `suffix` behind its last one; in chats also at the head of the system's turn, `system`, or of
    the first user's, `turn`. For `system`, a chat without a system text has an empty such turn.
    None is `prefix`; a run on chats trains it as `turn`, from which few rows teach more."""

    def __post_init__(self):
        super().__post_init__()
        choose("init", self.start, get_args(Start))
        if self.placement is not None:
            choose("placement", self.placement, PLACEMENTS)
        at_least("init_population", self.init_population, 1)
        if self.start == "file" and not self.init_file:
            raise InputError('init="file" needs init_file, a prompt folder or a .npy of [P, D]')

    @property
    def start(self) -> str:
        """Where the prompt starts: `init`, or what stands for None."""
        return self.init or implied(self, STARTS, "vocab")

    @property
    def place(self) -> Place:
        return self.placement or "prefix"

    def in_chats(self) -> MethodConfig:
        return self if self.placement else dataclasses.replace(self, placement="turn")

    @property
    def start_file(self) -> str | None:
        return self.init_file if self.start == "file" else None

    @property
    def input_tokens(self) -> int:
        return self.num_virtual_tokens


Initializer = Callable[[PRNGKeyArray, tuple[int, int]], Array]


def uniform(scale: float = 0.5) -> Initializer:
    """Noise in [-scale, scale); small beside T5's embeddings, and the slowest to train."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=-scale, maxval=scale)


def from_vocab(
    table: Float[Array | np.ndarray, "V D"], words: Int[np.ndarray, " C"], population: int
) -> Initializer:
    """Words among the first `population` rows; without replacement while there are enough.

    Args:
      words: rows of the table that are words; where none of the first rows is one, all are.
    """
    is_word = np.isin(np.arange(min(population, len(table))), words)
    is_word = is_word if is_word.any() else ~is_word

    def init(key: PRNGKeyArray, shape: tuple[int, int]) -> Array:
        if shape[0] > is_word.sum():
            rows = jax.random.choice(key, np.flatnonzero(is_word), shape[:1])
            return _rows(jnp.asarray(table), rows)
        return _rows(jnp.asarray(table), _order(key, is_word)[: shape[0]])

    return init


# Programs, and not an operation after the other: a run waits until each of those is compiled.
@jax.jit
def _order(key: PRNGKeyArray, is_word: Bool[Array, " N"]) -> Int[Array, " N"]:
    """The first N rows in a random order, those that are words in front."""
    order = jax.random.permutation(key, len(is_word))
    # Rows that are no words are passed over, so what they are changes no other draw.
    return order[jnp.argsort(~is_word[order], stable=True)]


@jax.jit
def _rows(table: Float[Array, "V D"], rows: Int[Array, " P"]) -> Float[Array, "P D"]:
    return table[rows].astype(jnp.float32)


def from_rows(rows: Float[Array, "N D"], rest: Initializer) -> Initializer:
    """These rows first, as many as fit; `rest` fills what is left."""

    def init(key: PRNGKeyArray, shape: tuple[int, int]) -> Array:
        first = jnp.asarray(rows, jnp.float32)[: shape[0]]
        return jnp.concatenate([first, rest(key, (shape[0] - len(first), shape[1]))])

    return init


def from_text(embed: Callable[[Any], Array], tokens: Sequence[int]) -> Initializer:
    """The embedded text, repeated or cut to the length of the prompt, as PEFT does."""

    def init(key: PRNGKeyArray, shape: tuple[int, int]) -> Array:
        return embed(np.resize(np.asarray(tokens), shape[0])).astype(jnp.float32)

    return init


def initializer(
    config: InputPrompt, backbone: Backbone, start: np.ndarray | None = None
) -> Initializer:
    """The initialiser that `config.start` names.

    Args:
      start: [P, D], what `config.init_file` holds; read by the caller, since methods open no file.
    """
    vocab = from_vocab(backbone.table, backbone.word_ids, config.init_population)
    if config.start == "vocab":
        return vocab
    if config.start == "random":
        return uniform(config.init_scale)
    if config.start == "file":
        # Checked when it is called, since only then the shape of the prompt is known.
        return lambda key, shape: _checked(start, shape)
    if config.start == "text":
        return from_text(backbone.embed, text_tokens(config.init_text, backbone, "vocab"))
    if backbone.tokenizer is None:
        raise no_tokenizer(config.start, backbone, "vocab")
    if not config.init_labels:
        raise InputError(
            'init="class_labels" needs label words: set task.labels or method.init_labels'
        )
    pieces = backbone.tokenizer(list(config.init_labels), add_special_tokens=False)["input_ids"]
    for piece, label in zip(pieces, config.init_labels, strict=True):
        backbone.check_tokens(piece, f"label word {label!r}")
    return from_rows(jnp.stack([backbone.embed(np.asarray(p)).mean(0) for p in pieces]), vocab)


def text_tokens(text: str | None, backbone: Backbone, remedy: str) -> list[int]:
    """The tokens of the text that virtual tokens start from.

    Args:
      remedy: a start that needs no text.
    """
    if backbone.tokenizer is None:
        raise no_tokenizer("text", backbone, remedy)
    if not text:
        raise InputError(
            'init="text" needs a text, e.g. method.init_text "Classify the sentiment:"; or a task '
            "with an instruction: set task.system, or write words around the columns of task.source"
        )
    tokens = backbone.tokenizer(text)["input_ids"]
    backbone.check_tokens(tokens, "method.init_text")
    return tokens


def no_tokenizer(start: str, backbone: Backbone, remedy: str) -> InputError:
    """The error of a start that reads a text."""
    return InputError(
        f'init="{start}" needs a tokenizer and backbone {backbone.name!r} has none; use '
        f'init="{remedy}"'
    )


def _checked(start: np.ndarray | None, shape: tuple[int, int]) -> Array:
    if start is None:
        raise InputError('init="file" needs the array of init_file; pass start=load_rows(path)')
    if start.shape != shape:
        raise InputError(
            f"the prompt in init_file is {list(start.shape)} and this one is {list(shape)} "
            "(virtual tokens, width); set num_virtual_tokens to match, or use the backbone "
            "that it was trained on"
        )
    return jnp.asarray(start, jnp.float32)


def start_rows(
    config: InputPrompt,
    backbone: Backbone,
    key: PRNGKeyArray,
    start: np.ndarray | None = None,
) -> Float[Array, "P D"]:
    """The rows that a prompt in the input starts from, float32."""
    shape = (config.num_virtual_tokens, backbone.width)
    return initializer(config, backbone, start)(key, shape).astype(jnp.float32)


def unplaced(method: InputPrompt) -> str:
    """Why a prompt in the input stands where PEFT does not place it; empty where it does."""
    if method.place == "prefix":
        return ""
    return (
        f'PEFT only places prompts at the front and this one is "{method.place}"; train with '
        'placement="prefix"'
    )


def peft_fields(method: InputPrompt, rows: Float[np.ndarray, "P D"]) -> dict[str, object]:
    """The fields of adapter_config.json that all prompts in the input have.

    `num_transformer_submodules` is 1, since PEFT reads only the encoder's half of T5's 2. The
    initialisation is called RANDOM, whatever it was: PEFT opens a tokenizer for the others.
    """
    return {
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(rows),
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": rows.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": method.tokenizer_name_or_path,
    }


PEFT_INITS: dict[str, Start] = {"RANDOM": "random", "SAMPLE_VOCAB": "vocab", "TEXT": "text"}


def peft_start(stored: Stored) -> dict[str, Any]:
    """Where the rows of PEFT began; P-tuning does not say: its rows came from an encoder."""
    text = stored.values.get("prompt_tuning_init_text")
    init = PEFT_INITS.get(str(stored.values.get("prompt_tuning_init")), "random")
    return {
        # A config that does not have the text cannot start from it again.
        "init": init if init != "text" or text else "random",
        "init_text": text,
        "tokenizer_name_or_path": stored.values.get("tokenizer_name_or_path"),
    }
