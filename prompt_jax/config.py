"""Every option of the library, as frozen dataclasses that check themselves.

A config is data: plain types, one docstring a field, no callables. All validation lives here, so
a wrong value is answered before a model is loaded or a step is compiled.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

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
OPTIMIZERS = ("adafactor", "adafactor_t5x", "adamw")
SCHEDULES = ("constant", "linear", "cosine")
DTYPES = ("auto", "float32", "bfloat16")
REMATS = ("none", "minimal", "full")
METRICS = (
    "accuracy",
    "macro_f1",
    "exact_match",
    "token_f1",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
)


class InputError(ValueError):
    """Bad input: says what was got, what is allowed and what to do; the command line exits 2."""


def choose(kind: str, value: Any, allowed: Iterable[str]) -> None:
    """Checks that `value` is one of `allowed`, and names the nearest one when it is not.

    Raises:
      InputError: `value` is not in `allowed`.
    """
    allowed = list(allowed)
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f" Perhaps you meant {near[0]!r}?" if near else ""
    raise InputError(f"unknown {kind} {value!r}; allowed: {', '.join(allowed)}.{hint}")


def at_least(name: str, value: float, low: float, remedy: str = "") -> None:
    """Checks a lower bound.

    Raises:
      InputError: `value` is below `low`.
    """
    if value < low:
        hint = f"; {remedy}" if remedy else ""
        raise InputError(f"{name} must be at least {low}, got {value}{hint}")


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig:
    """A soft prompt before the frozen token embeddings (Lester et al. 2021)."""

    task_type: str = "SEQ_2_SEQ_LM"
    """What the frozen model is asked to do; PEFT's names, in any case."""
    num_virtual_tokens: int = 20
    """P, the length of the prompt."""
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
    tokenizer_name_or_path: str | None = None
    """Accepted for PEFT's sake and written into the saved prompt; the backbone's is always used."""

    def __post_init__(self):
        object.__setattr__(self, "task_type", self.task_type.upper())
        choose("task_type", self.task_type, TASK_TYPES)
        choose("init", self.init, INITS)
        choose("placement", self.placement, PLACEMENTS)
        at_least(
            "num_virtual_tokens",
            self.num_virtual_tokens,
            1,
            "to evaluate the plain backbone use prompt=None",
        )
        at_least("init_population", self.init_population, 1)
        if self.init == "text" and not self.init_text:
            raise InputError(
                'init="text" needs init_text, e.g. init_text="Classify the sentiment:"'
            )
        if self.init == "file" and not self.init_file:
            raise InputError('init="file" needs init_file, a prompt folder or a .npy of [P, D]')


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How a row of a dataset becomes text; empty fields take what the named task declares."""

    source: str | None = None
    """Template of the input, e.g. "premise: {premise} hypothesis: {hypothesis}"."""
    target: str | None = None
    """Template of the target, e.g. "{label}"."""
    labels: tuple[str, ...] = ()
    """The label words; set, the task is classification and targets outside them are refused."""
    metrics: tuple[str, ...] = ()
    """Names of metrics; the first one decides which prompt is the best."""

    def __post_init__(self):
        for name in self.metrics:
            choose("metric", name, METRICS)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where examples come from and how they are cut."""

    task: str = "embedded:sentiment"
    """`embedded:NAME`, `tfds:NAME`, `file:PATH` (tsv, csv, jsonl, parquet): the training rows."""
    validation: str | None = None
    """The same for validation; None takes the task's own validation split, or 10 % of train."""
    test: str | None = None
    """The same for test; None takes the task's own test split, or none."""
    max_source_length: int = 256
    """Longest input in tokens; longer ones are cut, and counted in the report."""
    max_target_length: int = 64
    """Longest target in tokens."""
    max_total_length: int = 1024
    """Most virtual and text tokens together; the memory of a step grows with its square."""
    max_examples: int | None = None
    """Only so many training rows, from the front; None takes all."""

    def __post_init__(self):
        at_least("max_source_length", self.max_source_length, 1)
        at_least("max_target_length", self.max_target_length, 1)
        if self.max_examples is not None:
            at_least("max_examples", self.max_examples, 1)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the prompt is trained: Lester et al. 2021, but for few steps and so a falling rate."""

    steps: int = 300
    """Optimizer steps."""
    batch_size: int = 32
    """Rows of one optimizer step, over all processes."""
    accumulate: int = 1
    """Micro-batches of one step; batch_size is split into so many parts."""
    optimizer: Literal["adafactor", "adafactor_t5x", "adamw"] = "adafactor"
    """`adafactor` (Lester et al.), `adafactor_t5x` (as resumed by T5X at step 1.1M), `adamw`."""
    learning_rate: float = 0.3
    """Peak learning rate; about 0.3 for Adafactor, 1e-3 to 1e-1 for AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """What follows the warm-up: constant (Lester et al.), or decay to zero at the last step."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 1e-5
    """Decoupled weight decay; not multiplied by the learning rate under Adafactor."""
    label_smoothing: float = 0.0
    """Mass moved from the target to all other words."""
    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps logits from drifting."""
    dropout: float = 0.0
    """Dropout rate inside the frozen model while training (T5X used 0.1)."""
    eval_every: int = 50
    """Steps between evaluations on validation; the best prompt is kept."""
    eval_examples: int | None = 500
    """Validation rows used while training, from the front; None takes all."""
    checkpoint_every: int = 50
    """Steps between checkpoints of the training state."""
    patience: int | None = None
    """Stop after so many evaluations without a better one; None never stops early."""
    seed: int = 0
    """Seeds the prompt, the order of rows and dropout."""
    tensorboard: bool = False
    """Also write TensorBoard events; needs the extra `tensorboard`."""

    def __post_init__(self):
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("schedule", self.schedule, SCHEDULES)
        for name in ("steps", "batch_size", "accumulate", "eval_every", "checkpoint_every"):
            at_least(f"train.{name}", getattr(self, name), 1)
        at_least("train.warmup_steps", self.warmup_steps, 0)
        at_least("train.learning_rate", self.learning_rate, 0.0)
        if self.batch_size % self.accumulate:
            raise InputError(
                f"train.batch_size must be a multiple of train.accumulate, got "
                f"{self.batch_size} and {self.accumulate}"
            )
        for name in ("dropout", "label_smoothing"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"train.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.patience is not None:
            at_least("train.patience", self.patience, 1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a prompt is scored."""

    batch_size: int = 64
    """Rows scored or generated at once."""
    length_normalize: bool = True
    """Divide a label's log-likelihood by its number of tokens before ranking."""
    num_beams: int = 1
    """Beams of generation; 1 is greedy."""
    length_penalty: float = 1.0
    """Beam scores are divided by length ** length_penalty."""
    max_new_tokens: int = 64
    """Longest generated answer in tokens."""

    def __post_init__(self):
        at_least("eval.batch_size", self.batch_size, 1)
        at_least("eval.num_beams", self.num_beams, 1)
        at_least("eval.max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """How the frozen model is loaded and run."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights and activations; auto is bfloat16 on TPU and GPU, else float32."""
    remat: Literal["none", "minimal", "full"] = "none"
    """What the backward pass recomputes instead of keeping: less memory, more time."""

    def __post_init__(self):
        choose("dtype", self.dtype, DTYPES)
        choose("remat", self.remat, REMATS)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment; with no argument, a prompt for `embedded:sentiment`."""

    backbone: str = "embedded"
    """Hub id, local folder, T5X checkpoint, size preset such as `t5_1_1_small`, or `embedded`."""
    out: str = "runs/default"
    """The run folder; a folder that holds a run is refused unless --resume or --overwrite."""
    frozen: BackboneConfig = BackboneConfig()
    method: PromptTuningConfig = PromptTuningConfig()
    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self):
        virtual, text = self.method.num_virtual_tokens, self.data.max_source_length
        limit = self.data.max_total_length
        if virtual + text > limit:
            raise InputError(
                f"prompt and text are {virtual + text} tokens long ({virtual} + {text}), "
                f"{virtual + text - limit} over data.max_total_length {limit}; lower "
                "method.num_virtual_tokens or data.max_source_length, or raise the limit"
            )
        if not self.out:
            raise InputError("out is empty; give a folder, e.g. --out runs/sentiment")


def to_json(config: Any) -> dict[str, Any]:
    """The config as plain JSON types; tuples become lists."""
    return {
        f.name: to_json(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
    }


def from_json(kind: type, values: dict[str, Any]) -> Any:
    """The reverse of `to_json`.

    Raises:
      InputError: a field that `kind` does not have.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        choose(f"field of {kind.__name__}", name, fields)
    parts = {}
    for name, value in values.items():
        default = fields[name].default
        if dataclasses.is_dataclass(default):
            value = from_json(type(default), value)
        parts[name] = tuple(value) if isinstance(value, list) else value
    return kind(**parts)


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines `field: old -> new`, for every field in which two configs differ."""
    lines = []
    for f in dataclasses.fields(old):
        a, b = getattr(old, f.name), getattr(new, f.name)
        if dataclasses.is_dataclass(a) and type(a) is type(b):
            lines += differences(a, b, f"{prefix}{f.name}.")
        elif a != b:
            lines.append(f"{prefix}{f.name}: {a!r} -> {b!r}")
    return lines
