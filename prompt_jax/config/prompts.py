"""Configs of the methods that train virtual tokens, in the input or in every layer."""

from dataclasses import dataclass
from typing import Literal

from prompt_jax.config.checks import InputError, at_least, choose, implied
from prompt_jax.config.method import MethodConfig, each_at_least_one

INITS = ("vocab", "text", "class_labels", "random", "file")
STARTS = {
    "init_text": "text",
    "init_labels": "class_labels",
    "init_file": "file",
    "init_scale": "random",
}
"""Options that say where a prompt starts, where `init` does not."""
PLACEMENTS = ("prefix", "after_bos", "suffix")


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

    init: Literal["vocab", "text", "class_labels", "random", "file"] | None = None
    """Where the prompt starts: vocabulary rows, a text, the label words, noise, or a file. None is
    the one that an option is given for, as `file` by init_file, and else `vocab`."""
    init_text: str | None = None
    """The text of `init="text"`; repeated or cut to num_virtual_tokens."""
    init_labels: tuple[str, ...] = ()
    """The words of `init="class_labels"`, a row each; empty takes the label words of the task."""
    init_file: str | None = None
    """The start of `init="file"`: a saved prompt folder, a PEFT folder, or a .npy of [P, D]."""
    init_population: int = 5000
    """`init="vocab"` samples among the first so many rows: the most frequent words."""
    init_scale: float = 0.5
    """`init="random"` is uniform(-init_scale, init_scale)."""
    placement: Literal["prefix", "after_bos", "suffix"] = "prefix"
    """Where the prompt stands: before the text, after its first token, or after its last one."""

    def __post_init__(self):
        super().__post_init__()
        choose("init", self.start, INITS)
        choose("placement", self.placement, PLACEMENTS)
        at_least("init_population", self.init_population, 1)
        if self.start == "text" and not self.init_text:
            raise InputError(
                'init="text" needs init_text, e.g. init_text="Classify the sentiment:"'
            )
        if self.start == "file" and not self.init_file:
            raise InputError('init="file" needs init_file, a prompt folder or a .npy of [P, D]')

    @property
    def start(self) -> str:
        """Where the prompt starts: `init`, or what stands for None."""
        return self.init or implied(self, STARTS, "vocab")

    @property
    def input_tokens(self) -> int:
        return self.num_virtual_tokens


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(InputPrompt):
    """A soft prompt before the frozen token embeddings (Lester et al. 2021)."""

    kind = "prompt_tuning"

    stack: Literal["encoder", "decoder", "both"] = "encoder"
    """Whose input the prompt stands in."""

    def __post_init__(self):
        super().__post_init__()
        choose("stack", self.stack, ("encoder", "decoder", "both"))
        if self.stack != "encoder" and self.placement != "prefix":
            raise InputError(
                f'placement="{self.placement}" is for the encoder\'s input, and stack is '
                f'"{self.stack}"; a decoder reads its prompt first: use placement="prefix"'
            )

    @property
    def input_tokens(self) -> int:
        return 0 if self.stack == "decoder" else self.num_virtual_tokens


@dataclass(frozen=True, kw_only=True)
class PTuningConfig(InputPrompt):
    """A soft prompt that an MLP or a biLSTM writes (Liu et al. 2021, GPT understands, too)."""

    kind = "p_tuning"
    rates = {"adamw": 5e-3}
    only_with = {
        "encoder_num_layers": ("encoder_reparameterization_type", "LSTM"),
        "encoder_dropout": ("encoder_reparameterization_type", "LSTM"),
    }

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """What writes the prompt."""
    encoder_hidden_size: int = 256
    """Width inside it."""
    encoder_num_layers: int = 2
    """Layers of the LSTM; an MLP always has three."""
    encoder_dropout: float = 0.0
    """Dropout between the layers of the LSTM."""

    def __post_init__(self):
        super().__post_init__()
        kinds = ("MLP", "LSTM")
        choose("encoder_reparameterization_type", self.encoder_reparameterization_type, kinds)
        each_at_least_one(self, "encoder_hidden_size", "encoder_num_layers")
        if not 0.0 <= self.encoder_dropout < 1.0:
            raise InputError(f"encoder_dropout must be in [0, 1), got {self.encoder_dropout}")


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(VirtualTokens):
    """Trained keys and values before those of every layer (Li and Liang 2021)."""

    kind = "prefix_tuning"
    rates = {"adamw": 0.1}
    only_with = {"encoder_hidden_size": ("prefix_projection", True)}

    encoder: bool = True
    """Whether the encoder's self-attention has a prefix."""
    decoder: bool = True
    """Whether the decoder's self-attention has one; PEFT trains this one only."""
    cross: bool = True
    """Whether the decoder's attention to the encoder has one."""
    prefix_projection: bool = False
    """Whether an MLP writes the keys and values from one embedding a virtual token."""
    encoder_hidden_size: int = 256
    """Width inside that MLP."""
    init: Literal["random", "zero", "text"] | None = None
    """Where the prefix starts: small noise, zeros, or what the frozen model makes of a text. None
    is a text where init_text is given, and else noise."""
    init_text: str | None = None
    """The text of `init="text"`; repeated or cut to num_virtual_tokens."""

    def __post_init__(self):
        super().__post_init__()
        choose("init", self.start, ("random", "zero", "text"))
        at_least("encoder_hidden_size", self.encoder_hidden_size, 1, "as wide as the prefix's MLP")
        if not (self.encoder or self.decoder or self.cross):
            raise InputError("no attention has a prefix; set encoder, decoder or cross")
        if self.start == "text" and not self.init_text:
            raise InputError('init="text" needs init_text, e.g. "Classify the sentiment:"')
        if self.start == "text" and self.prefix_projection:
            raise InputError(
                'init="text" sets keys and values, and prefix_projection computes them; use one'
            )

    @property
    def start(self) -> str:
        """Where the prefix starts: `init`, or what stands for None."""
        return self.init or implied(self, {"init_text": "text"}, "random")


@dataclass(frozen=True, kw_only=True)
class PTuningV2Config(PrefixTuningConfig):
    """Deep prompts in every layer (Liu et al. 2022): a prefix without one for cross-attention."""

    kind = "p_tuning_v2"
    rates = {"adamw": 0.3}

    cross: bool = False


@dataclass(frozen=True, kw_only=True)
class DeepPromptConfig(InputPrompt):
    """Virtual tokens of its own for every encoder layer (per-layer prompts of Google's library)."""

    kind = "deep_prompt"

    how: Literal["replace", "add"] = "replace"
    """Whether a layer's rows replace the states of the virtual tokens or are added to them."""

    def __post_init__(self):
        super().__post_init__()
        choose("how", self.how, ("replace", "add"))
        if self.placement != "prefix":
            raise InputError(
                f'per-layer prompts are the first states, and placement is "{self.placement}"; '
                'use placement="prefix"'
            )


@dataclass(frozen=True, kw_only=True)
class ResidualPromptConfig(InputPrompt):
    """A soft prompt plus a shared bottleneck MLP of it (Razdaibiedina et al. 2023)."""

    kind = "residual_prompt"

    bottleneck_size: int = 64
    """Width inside the MLP."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "bottleneck_size")


@dataclass(frozen=True, kw_only=True)
class DecomposedPromptConfig(InputPrompt):
    """A short prompt and a low-rank update of the text's embeddings (DePT, Shi and Lipani 2024)."""

    kind = "decomposed_prompt"

    r: int = 8
    """R, the rank of the update."""
    max_length: int = 256
    """T, how many text positions are updated; later ones are not."""
    shift_scale: float = 0.01
    """What the update is multiplied by, so that at one rate it moves so much slower than the
    prompt; the paper has a second, smaller rate."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "r", "max_length")


@dataclass(frozen=True, kw_only=True)
class MultitaskPromptConfig(InputPrompt):
    """One prompt for several tasks, and what each task makes of it.

    `multiply` is MPT (Wang et al. 2023); the others are those of Google's library.
    """

    kind = "multitask_prompt"
    only_with = {"num_ranks": ("combine", "multiply")}

    num_tasks: int = 1
    """N, how many tasks; rows of a batch name theirs in `task_ids`."""
    num_ranks: int = 1
    """R, the rank of a task's factor, of `multiply`."""
    combine: Literal["multiply", "add", "concat", "concat_features", "project"] = "multiply"
    """How a task's own part meets the shared prompt."""

    def __post_init__(self):
        super().__post_init__()
        each_at_least_one(self, "num_tasks", "num_ranks")
        ways = ("multiply", "add", "concat", "concat_features", "project")
        choose("combine", self.combine, ways)
        if self.combine == "concat" and self.num_virtual_tokens < 2:
            raise InputError('combine="concat" needs num_virtual_tokens of at least 2, half each')
