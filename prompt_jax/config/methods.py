"""A config for every method; field names are PEFT's wherever PEFT has the idea."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from prompt_jax.config.checks import InputError, at_least, choose

TASK_TYPES = (
    "SEQ_2_SEQ_LM",
    "CAUSAL_LM",
    "SEQ_CLS",
    "TOKEN_CLS",
    "QUESTION_ANS",
    "FEATURE_EXTRACTION",
)
INITS = ("vocab", "text", "class_labels", "random", "file")
PLACEMENTS = ("prefix", "after_bos", "suffix")
METHOD_KINDS: dict[str, type["MethodConfig"]] = {}
"""The name of a method, as files and the command line have it, and its config."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What all methods have; a subclass that binds `kind` is a method."""

    kind: ClassVar[str]
    rates: ClassVar[dict[str, float]] = {"adamw": 1e-3, "adafactor": 1e-3}
    """Peak learning rates that serve the method, by optimizer; the first is the default."""
    placement: ClassVar[str] = "prefix"
    """Where virtual tokens stand, for methods that have some in the input."""

    task_type: str = "SEQ_2_SEQ_LM"
    """What the frozen model is asked to do; PEFT's names, in any case."""
    tokenizer_name_or_path: str | None = None
    """Accepted for PEFT's sake and written into the saved prompt; the backbone's is always used."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            METHOD_KINDS[cls.kind] = cls

    def __post_init__(self):
        if not self.task_type:
            raise InputError(
                f"task_type is empty; give one of {', '.join(TASK_TYPES)}: without it PEFT would "
                "load this prompt and ignore it"
            )
        object.__setattr__(self, "task_type", self.task_type.upper())
        choose("task_type", self.task_type, TASK_TYPES)

    @property
    def input_tokens(self) -> int:
        """P, how many positions the method adds to the input."""
        return 0


def _at_least_one(config: MethodConfig, *names: str) -> None:
    for name in names:
        at_least(name, getattr(config, name), 1)


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

    init: Literal["vocab", "text", "class_labels", "random", "file"] = "vocab"
    """Where the prompt starts: vocabulary rows, a text, the label words, noise, or a file."""
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
        choose("init", self.init, INITS)
        choose("placement", self.placement, PLACEMENTS)
        at_least("init_population", self.init_population, 1)
        if self.init == "text" and not self.init_text:
            raise InputError(
                'init="text" needs init_text, e.g. init_text="Classify the sentiment:"'
            )
        if self.init == "file" and not self.init_file:
            raise InputError('init="file" needs init_file, a prompt folder or a .npy of [P, D]')

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
        _at_least_one(self, "encoder_hidden_size", "encoder_num_layers")
        if not 0.0 <= self.encoder_dropout < 1.0:
            raise InputError(f"encoder_dropout must be in [0, 1), got {self.encoder_dropout}")


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(VirtualTokens):
    """Trained keys and values before those of every layer (Li and Liang 2021)."""

    kind = "prefix_tuning"
    rates = {"adamw": 0.1}

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
    init: Literal["random", "zero", "text"] = "random"
    """Where the prefix starts: small noise, zeros, or what the frozen model makes of a text."""
    init_text: str | None = None
    """The text of `init="text"`; repeated or cut to num_virtual_tokens."""

    def __post_init__(self):
        super().__post_init__()
        choose("init", self.init, ("random", "zero", "text"))
        at_least("encoder_hidden_size", self.encoder_hidden_size, 1, "as wide as the prefix's MLP")
        if not (self.encoder or self.decoder or self.cross):
            raise InputError("no attention has a prefix; set encoder, decoder or cross")
        if self.init == "text" and not self.init_text:
            raise InputError('init="text" needs init_text, e.g. "Classify the sentiment:"')
        if self.init == "text" and self.prefix_projection:
            raise InputError(
                'init="text" sets keys and values, and prefix_projection computes them; use one'
            )


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
        _at_least_one(self, "bottleneck_size")


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
        _at_least_one(self, "r", "max_length")


@dataclass(frozen=True, kw_only=True)
class MultitaskPromptConfig(InputPrompt):
    """One prompt for several tasks, and what each task makes of it.

    `multiply` is MPT (Wang et al. 2023); the others are those of Google's library.
    """

    kind = "multitask_prompt"

    num_tasks: int = 1
    """N, how many tasks; rows of a batch name theirs in `task_ids`."""
    num_ranks: int = 1
    """R, the rank of a task's factor, of `multiply`."""
    combine: Literal["multiply", "add", "concat", "concat_features", "project"] = "multiply"
    """How a task's own part meets the shared prompt."""

    def __post_init__(self):
        super().__post_init__()
        _at_least_one(self, "num_tasks", "num_ranks")
        ways = ("multiply", "add", "concat", "concat_features", "project")
        choose("combine", self.combine, ways)
        if self.combine == "concat" and self.num_virtual_tokens < 2:
            raise InputError('combine="concat" needs num_virtual_tokens of at least 2, half each')


@dataclass(frozen=True, kw_only=True)
class LoraConfig(MethodConfig):
    """Low-rank updates of frozen kernels (Hu et al. 2021); rsLoRA and DoRA by field."""

    kind = "lora"
    rates = {"adamw": 5e-3}

    r: int = 8
    """R, the rank."""
    lora_alpha: int = 8
    """The update is scaled by lora_alpha / r."""
    lora_dropout: float = 0.0
    """Dropout of the update's input while training."""
    target_modules: tuple[str, ...] = ("q", "v")
    """Which kernels: names or their last parts, as Hugging Face has them."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) (Kalajdzievski 2023)."""
    use_dora: bool = False
    """Train each output's magnitude apart from its direction (Liu et al. 2024)."""

    def __post_init__(self):
        super().__post_init__()
        at_least("r", self.r, 1, "a rank of 0 trains nothing")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise InputError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")
        if not self.target_modules:
            raise InputError('target_modules is empty; name kernels, e.g. ("q", "v")')

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)


@dataclass(frozen=True, kw_only=True)
class IA3Config(MethodConfig):
    """Trained factors on keys, values and the feed-forward's inner states (Liu et al. 2022)."""

    kind = "ia3"
    rates = {"adamw": 3e-2}

    target_modules: tuple[str, ...] = ("k", "v", "wo")
    """Which kernels: names or their last parts, as Hugging Face has them."""
    feedforward_modules: tuple[str, ...] = ("wo",)
    """Which of them are scaled at their input."""

    def __post_init__(self):
        super().__post_init__()
        if not self.target_modules:
            raise InputError('target_modules is empty; name kernels, e.g. ("k", "v", "wo")')


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(MethodConfig):
    """Bottleneck layers beside or behind sublayers (Houlsby et al. 2019, Pfeiffer et al. 2021)."""

    kind = "adapter"

    bottleneck_size: int = 16
    """R, the width of the bottleneck."""
    style: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """Behind every sublayer, behind the feed-forward, or beside it (He et al. 2022)."""
    scaling: float = 1.0
    """What the adapter's answer is multiplied by."""

    def __post_init__(self):
        super().__post_init__()
        _at_least_one(self, "bottleneck_size")
        choose("style", self.style, ("houlsby", "pfeiffer", "parallel"))


@dataclass(frozen=True, kw_only=True)
class PromptAdapterConfig(VirtualTokens):
    """A branch beside every feed-forward that is fed by virtual tokens, as LoRA is by its factors.

    Virtual tokens are shared by all layers: as keys they meet the layer's input, as values they
    answer; each layer only has a gate on either side.
    """

    kind = "prompt_adapter"
    rates = {"adamw": 1e-2}

    init_population: int = 5000
    """Virtual tokens start from rows among so many of the vocabulary's first."""


@dataclass(frozen=True, kw_only=True)
class BiasConfig(MethodConfig):
    """A trained bias behind every kernel (BitFit, Ben Zaken et al. 2022); T5 has no own ones."""

    kind = "bias"
    rates = {"adamw": 1e-2}


@dataclass(frozen=True, kw_only=True)
class NormConfig(MethodConfig):
    """A trained factor on every norm."""

    kind = "norm"
    rates = {"adamw": 1e-2}


@dataclass(frozen=True, kw_only=True)
class FullConfig(MethodConfig):
    """The whole model, tuned: what all other methods are compared with."""

    kind = "full"
    rates = {"adamw": 1e-4, "adafactor": 1e-4}


@dataclass(frozen=True, kw_only=True)
class UnionConfig(MethodConfig):
    """Several methods in one tuned tree."""

    kind = "union"

    methods: tuple[MethodConfig, ...] = ()
    """At least two, which put nothing into the same place."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.methods) < 2:
            raise InputError(
                f"a union has at least two methods, got {len(self.methods)}; use the method itself"
            )
        prompts = [m for m in self.methods if m.input_tokens]
        if any(m.placement != prompts[0].placement for m in prompts[1:]):
            raise InputError("the prompts of a union need one placement")

    @property
    def placement(self) -> str:
        return next((m.placement for m in self.methods if m.input_tokens), "prefix")

    @property
    def input_tokens(self) -> int:
        return sum(method.input_tokens for method in self.methods)
