"""An experiment: its data, how it is trained and scored, and where it goes."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from prompt_jax.config.checks import InputError, at_least, choose, refuse_unread
from prompt_jax.config.kinds import KINDS
from prompt_jax.config.mesh import MeshConfig
from prompt_jax.config.method import MethodConfig, default_method
from prompt_jax.config.writing import WritingConfig

Optimizer = Literal["adafactor", "adafactor_t5x", "adamw"]
Objective = Literal["tokens", "labels", "perceptron"]
Schedule = Literal["constant", "linear", "cosine"]
Dtype = Literal["auto", "float32", "bfloat16", "int8", "float8", "int4"]
Chat = Literal["auto", "on", "off"]
Remat = Literal["none", "minimal", "full"]
Attention = Literal["einsum", "cudnn", "splash"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
DTYPES: tuple[str, ...] = get_args(Dtype)
REMATS: tuple[str, ...] = get_args(Remat)
ATTENTIONS: tuple[str, ...] = get_args(Attention)
METRICS = (
    "accuracy",
    "macro_f1",
    "exact_match",
    "contains",
    "last_number",
    "last_label",
    "token_f1",
    "bleu",
    "chrf",
    "rouge1",
    "rouge2",
    "rougeL",
    "matthews",
    "pearson",
    "spearman",
    "entity_f1",
    "tag_accuracy",
)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How a row of a dataset becomes text; empty fields take what the named task declares."""

    source: str | None = None
    """Template of the input, e.g. "premise: {premise} hypothesis: {hypothesis}"."""
    target: str | None = None
    """Template of the target, e.g. "{label}"."""
    kind: str | None = None
    """What an answer is: `classification` (a label word), `generation` (a text), `tagging` (a tag
    for every word of the input), `span` (a part of the input), `regression` (a number) or
    `multiple_choice` (one of the candidates of the row). None is what the named task declares, else
    a classification where labels are given or the targets are few, short and repeat."""
    labels: tuple[str, ...] = ()
    """The label words, or the tags; targets outside them are refused. `0=negative` is a label word
    and what rows write for it; without that, numbers from 0 on are the labels in their order.
    Empty takes them from the training rows. Of a multiple choice, the templates of the candidates:
    "{choice1}" "{choice2}", or "{endings}" for a column of lists."""
    metrics: tuple[str, ...] = ()
    """Names of metrics; the first one decides which prompt is the best."""
    chat: Chat = "auto"
    """Whether a text goes to the model as a user's turn, in the tokenizer's chat template, with its
    answer as the assistant's turn. auto: on for a decoder whose tokenizer has a template."""
    system: str = ""
    """The system turn of a chat, for rows that bring none."""

    def __post_init__(self):
        choose("task.chat", self.chat, get_args(Chat))
        if self.system and self.chat == "off":
            raise InputError("task.system is a turn of a chat; leave it out, or set task.chat on")
        for name in self.metrics:
            choose("metric", name, METRICS)
        if self.kind is not None:
            choose("task.kind", self.kind, KINDS)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where examples come from and how they are cut."""

    task: str = "embedded:sentiment"
    """The training rows: `embedded:NAME`, `tfds:NAME`, `hf:ID` of the hub of Hugging Face, or
    `file:PATH`, a file, a folder or a glob (tsv, csv, jsonl, json, parquet, arrow, txt)."""
    mixture: tuple[str, ...] = ()
    """Tasks to train together with `task`, as often as they have rows. One prompt serves all, but
    `multitask_prompt` gives each task a part of its own."""
    tasks: tuple[str, ...] = ()
    """Tasks in place of `task`: a prompt is trained for each of them, all in one program."""
    validation: str | None = None
    """The same for validation; None takes the task's own validation split, or
    `validation_fraction` of the training rows."""
    validation_fraction: float = 0.1
    """Share of the training rows that is held out for validation where there is no other. Of a
    classification every label keeps its share, and gives one row at least."""
    test: str | None = None
    """The same for test; None takes the task's own test split, or none."""
    max_source_length: int = 256
    """Longest input in tokens. A longer one loses the end of its longest column; the words that the
    template has around the columns stay. Training says how many were cut."""
    max_target_length: int = 64
    """Longest target in tokens."""
    max_total_length: int = 1024
    """Most virtual and text tokens together; the memory of a step grows with its square."""
    first_rows: int | None = None
    """Read only so many rows of every split, from the front; None reads all. `hf:` then streams, so
    that a dataset which does not fit is never fetched whole."""
    max_examples: int | None = None
    """Only so many training rows of a task, drawn at random after validation is held out, every
    label in its share; None takes all."""
    max_test_examples: int | None = None
    """Only so many rows of every test set, drawn the same way; None takes all."""
    seed: int = 0
    """Seeds which rows are held out, which ones max_examples and max_test_examples draw, and which
    validation rows are scored while training."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every task that is trained on."""
        return self.tasks or (self.task, *self.mixture)

    def __post_init__(self):
        if len(set(self.tasks)) < len(self.tasks):
            raise InputError(f"data.tasks names each task once, got {', '.join(self.tasks)}")
        if self.tasks and (self.mixture or self.validation or self.test):
            raise InputError(
                "data.tasks trains a prompt for each task with splits of its own; leave out "
                "data.mixture, data.validation and data.test"
            )
        names = (self.task, *self.mixture)
        if len(set(names)) < len(names):
            raise InputError(f"a mixture names each task once, got {', '.join(names)}")
        if self.mixture and (self.validation or self.test):
            raise InputError(
                "data.validation and data.test are of one task, and data.mixture names "
                f"{len(self.mixture)} more; leave them out, so that each task has its own"
            )
        at_least("max_source_length", self.max_source_length, 1)
        at_least("max_target_length", self.max_target_length, 1)
        for name in ("first_rows", "max_examples", "max_test_examples"):
            count = getattr(self, name)
            if count is not None:
                at_least(name, count, 1)
        at_least("data.seed", self.seed, 0)
        if not 0.0 < self.validation_fraction < 1.0:
            raise InputError(
                "data.validation_fraction must be between 0 and 1, got "
                f"{self.validation_fraction}; e.g. 0.2 holds out a fifth"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the prompt is trained: Lester et al. 2021, but for few steps and so a falling rate."""

    steps: int = 300
    """Optimizer steps."""
    batch_size: int = 32
    """Rows of one optimizer step, over all processes."""
    accumulate: int = 1
    """Micro-batches of one step; batch_size is split into so many parts."""
    optimizer: Optimizer | None = None
    """`adafactor` (Lester et al.), `adafactor_t5x` (as resumed by T5X at step 1.1M), `adamw`; None
    is the one that the method is best trained with (see `resolved`), and Adafactor without one."""
    learning_rate: float | None = None
    """Peak learning rate; None is the method's own on the backbone, which the run's introduction
    says, and 0.3 without a method."""
    head_learning_rate: float = 1e-3
    """Peak rate of AdamW, which trains a head whatever trains the method beside it."""
    schedule: Schedule = "linear"
    """What follows the warm-up: constant (Lester et al.), or decay to zero at the last step."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 1e-5
    """Decoupled weight decay; not multiplied by the learning rate under Adafactor."""
    label_smoothing: float = 0.0
    """Mass moved from the target to all other words."""
    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps logits from drifting."""
    objective: Objective = "tokens"
    """The cross-entropy of the target's tokens, or of the right label word among all; or that word
    ahead of the best other one by `margin`."""
    margin: float = 0.2
    """How far `objective="perceptron"` puts the right word ahead, in nats a token."""
    pull: float = 0.0
    """Weight of the squared distance to the start, a row: L2 to the initialisation, and with
    `method.init="text"` wayward prompting (Khashabi et al. 2022)."""
    dropout: float = 0.0
    """Dropout rate inside the frozen model while training (T5X used 0.1)."""
    eval_every: int = 50
    """Steps between evaluations on validation; the best prompt is kept."""
    eval_examples: int | None = 500
    """Validation rows used while training, drawn at random with every label in its share; None
    takes all."""
    checkpoint_every: int = 50
    """Steps between checkpoints of the training state."""
    patience: int | None = None
    """Stop after so many evaluations without a better one; None never stops early."""
    seed: int = 0
    """Seeds the prompt, the order of rows and dropout."""
    tensorboard: bool = False
    """Also write TensorBoard events; needs the extra `tensorboard`."""

    def __post_init__(self):
        if self.optimizer is not None:
            choose("optimizer", self.optimizer, get_args(Optimizer))
        choose("schedule", self.schedule, get_args(Schedule))
        choose("objective", self.objective, OBJECTIVES)
        refuse_unread(self, "train.", {"margin": ("objective", "perceptron")})
        for name in ("pull", "margin"):
            at_least(f"train.{name}", getattr(self, name), 0.0)
        for name in ("steps", "batch_size", "accumulate", "eval_every", "checkpoint_every"):
            at_least(f"train.{name}", getattr(self, name), 1)
        at_least("train.warmup_steps", self.warmup_steps, 0)
        at_least("train.learning_rate", self.learning_rate or 0.0, 0.0)
        at_least("train.head_learning_rate", self.head_learning_rate, 0.0)
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
class EvalConfig(WritingConfig):
    """How a prompt is scored, and how its answers are written."""

    label = "eval."

    batch_size: int | None = None
    """Rows scored or generated at once; None takes those of a training micro-batch (batch_size /
    accumulate), whose memory is about as large, and 64 where nothing was trained."""
    length_normalize: bool = True
    """Divide a label's log-likelihood by its number of tokens before ranking."""

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size is not None:
            at_least("eval.batch_size", self.batch_size, 1)
        if self.length_penalty != 1.0 and self.num_beams == 1:
            raise InputError(
                f"eval.length_penalty is {self.length_penalty} and only beams read it; set "
                "eval.num_beams to 2 or more, or leave eval.length_penalty out"
            )

    @property
    def rows(self) -> int:
        """Rows of a batch, where no training says another number."""
        return 64 if self.batch_size is None else self.batch_size


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """How the frozen model is loaded and run."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Dtype = "auto"
    """Type of the frozen weights and activations; auto is bfloat16 on TPU and GPU, else float32.
    int8, float8 and int4 are of the weights alone, with a scale an output, or in int4 one for every
    64 inputs of it; activations are then auto."""
    remat: Remat | Literal["auto"] = "none"
    """What the backward pass recomputes instead of keeping: less memory, more time. auto compiles a
    step with each in turn and takes the first that fits, at the cost of these compilations."""
    attention_chunk: int | None = None
    """Queries that attention answers at a time: the memory of long inputs then grows with their
    length, not with its square, at the cost of making scores twice. None answers all at once."""
    attention: Attention | Literal["auto"] = "einsum"
    """What computes attention. cudnn (GPU) and splash (TPU) are kernels that never hold all scores;
    where one cannot serve, as with T5's relative bias or on a mesh, and on a CPU, it is einsum.
    auto takes the kernel of the device; see docs/scale.md for what has been tested."""

    def __post_init__(self):
        choose("dtype", self.dtype, DTYPES)
        choose("remat", self.remat, (*REMATS, "auto"))
        choose("attention", self.attention, (*ATTENTIONS, "auto"))
        if self.attention_chunk is not None:
            at_least("frozen.attention_chunk", self.attention_chunk, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment; with no argument, a prompt for `embedded:sentiment`."""

    backbone: str = "embedded"
    """Hub id, local folder, T5X checkpoint, size preset such as `t5_1_1_small`, or `embedded`."""
    out: str = "runs/default"
    """The run folder; a folder that holds a run is refused unless --resume or --overwrite."""
    frozen: BackboneConfig = BackboneConfig()
    mesh: MeshConfig = MeshConfig()
    method: MethodConfig = dataclasses.field(default_factory=default_method)
    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self):
        for method in (self.method, *getattr(self.method, "methods", ())):
            refuse_unread(method, "method.", method.only_with)
        self._check_tasks()
        virtual, text = self.method.input_tokens, self.data.max_source_length
        limit = self.data.max_total_length
        if virtual + text > limit:
            raise InputError(
                f"prompt and text are {virtual + text} tokens long ({virtual} + {text}), "
                f"{virtual + text - limit} over data.max_total_length {limit}; lower "
                "method.num_virtual_tokens or data.max_source_length, or raise the limit"
            )
        if not self.out:
            raise InputError("out is empty; give a folder, e.g. --out runs/sentiment")

    @property
    def scoring(self) -> EvalConfig:
        """`eval` with the rows of a batch: those of a training micro-batch unless it has its own.

        Scoring keeps the keys and values of its rows in every layer, and a batch that is larger
        than that of training can need more memory than training does.
        """
        rows = self.eval.batch_size or self.train.batch_size // self.train.accumulate
        return dataclasses.replace(self.eval, batch_size=rows)

    def _check_tasks(self) -> None:
        count = 1 + len(self.data.mixture)
        parts = self.method.num_tasks
        if parts not in (None, count):
            raise InputError(
                f"method.num_tasks is {parts} and data.task with data.mixture are {count} task(s); "
                f"set method.num_tasks to {count}, or name other tasks in data.mixture"
            )
        shared = TaskConfig(chat=self.task.chat, system=self.task.system)
        if (self.data.mixture or self.data.tasks) and self.task != shared:
            raise InputError(
                "task.source, target, labels and metrics describe one task, and data.mixture or "
                "data.tasks names more; use tasks that need none of them"
            )
        if self.data.mixture and self.train.objective != "tokens":
            raise InputError(
                f'train.objective="{self.train.objective}" compares the label words of one task; '
                'use objective="tokens" with data.mixture'
            )


def resolved(config: Config, word_size: float | None = None) -> Config:
    """The experiment with the method's own optimizer and rate where none was chosen.

    To be called where a run begins, and nowhere before: until then None means the method's own,
    whatever method replaces the first one.

    Args:
      word_size: of the backbone, see `MethodConfig.rate`; None leaves the rate open until the
        backbone is loaded.
    """
    train = config.train
    optimizer, rate = train.optimizer or next(iter(config.method.rates)), train.learning_rate
    if rate is None and word_size is not None:
        rate = config.method.rate(optimizer, word_size)
    train = dataclasses.replace(train, optimizer=optimizer, learning_rate=rate)
    return dataclasses.replace(config, train=train)
