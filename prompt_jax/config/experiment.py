"""An experiment: how a prompt is trained and scored, and where it goes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from prompt_jax.config.checks import InputError, at_least, choose, finite, refuse_unread
from prompt_jax.config.data import DataConfig, TaskConfig
from prompt_jax.config.distil import DistilConfig
from prompt_jax.config.mesh import MeshConfig
from prompt_jax.config.method import MethodConfig, default_method
from prompt_jax.config.plain import make_plain
from prompt_jax.config.writing import WritingConfig

Optimizer = Literal["adafactor", "adafactor_t5x", "adamw"]
Objective = Literal["tokens", "labels", "perceptron", "distil"]
Schedule = Literal["constant", "linear", "cosine"]
Dtype = Literal["auto", "float32", "bfloat16", "int8", "float8", "int4"]
Remat = Literal["none", "minimal", "full"]
Attention = Literal["einsum", "cudnn", "pallas"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
DTYPES: tuple[str, ...] = get_args(Dtype)
REMATS: tuple[Remat, ...] = get_args(Remat)
ATTENTIONS: tuple[str, ...] = get_args(Attention)
LOGGERS = ("tensorboard", "wandb", "mlflow")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the prompt is trained: Lester et al. 2021, but for few steps and so a falling rate."""

    steps: int = 300
    """Optimizer steps."""
    batch_size: int = 32
    """Rows of one optimizer step, over all processes."""
    accumulate: int = 1
    """Micro-batches of one step; batch_size is split into this many parts."""
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
    ahead of the best other one by `margin`; `distil` is of `prompt-jax distil`."""
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
    """Stop after this many evaluations without a better one; None never stops early."""
    seed: int = 0
    """Seeds the prompt, the order of rows and dropout."""
    loggers: tuple[str, ...] = ()
    """Where metrics go beside metrics.jsonl: `tensorboard`, `wandb`, `mlflow`; each needs the extra
    of its name."""

    @staticmethod
    def renewed(values: Mapping[str, object]) -> dict[str, object]:
        """The fields of a file in which TensorBoard still had a field of its own."""
        board = {"loggers": ["tensorboard"]} if values.get("tensorboard") else {}
        return {name: value for name, value in values.items() if name != "tensorboard"} | board

    def __post_init__(self):
        if self.optimizer is not None:
            choose("optimizer", self.optimizer, get_args(Optimizer))
        choose("schedule", self.schedule, get_args(Schedule))
        choose("objective", self.objective, OBJECTIVES)
        make_plain(self)
        for name in self.loggers:
            choose("logger", name, LOGGERS)
        refuse_unread(self, "train.", {"margin": ("objective", "perceptron")})
        finite(self, "train.", "learning_rate", "head_learning_rate", "weight_decay", "z_loss")
        finite(self, "train.", "pull", "margin")
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
        for name in ("patience", "eval_examples"):
            if getattr(self, name) is not None:
                at_least(f"train.{name}", getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(WritingConfig):
    """How a prompt is scored, and how its answers are written."""

    label = "eval."

    batch_size: int | None = None
    """Rows scored or generated at once; None takes those of a training micro-batch (batch_size /
    accumulate), whose memory is about as large, and 64 where nothing was trained. On a TPU or GPU a
    run halves them until they fit, and says so."""
    length_normalize: bool = True
    """Divide a label's log-likelihood by its number of tokens before ranking."""

    def __post_init__(self):
        make_plain(self)
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
    """What the backward pass recomputes instead of keeping: less memory, mostly more time. auto
    compiles a step with each in turn and takes the fastest that fits by the compiler's estimate,
    or else the first that fits, at the cost of these compilations."""
    remat_beyond: int = 0
    """Positions of an input, virtual tokens among them, up to which remat full is minimal: short
    batches have room for more. auto chooses it where only full fits the longest batches."""
    attention_chunk: int | None = None
    """Queries that attention answers at a time: the memory of long inputs then grows with their
    length, not with its square, at the cost of making scores twice. None answers all at once."""
    attention: Attention | Literal["auto"] = "einsum"
    """What computes attention. cudnn (GPU) and pallas (TPU) are kernels that never hold all scores.
    Where they cannot serve, as in a T5 on a GPU, it is einsum. auto takes the kernel of the device;
    see docs/scale.md for what each serves and what has been tested."""

    def __post_init__(self):
        choose("dtype", self.dtype, DTYPES)
        choose("remat", self.remat, (*REMATS, "auto"))
        at_least("frozen.remat_beyond", self.remat_beyond, 0)
        if self.remat_beyond and self.remat not in ("full", "auto"):
            raise InputError(
                f"frozen.remat_beyond {self.remat_beyond} keeps more for short inputs than remat "
                f"full does, and frozen.remat is {self.remat}; use full or auto, or leave it out"
            )
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
    distil: DistilConfig = DistilConfig()

    def __post_init__(self):
        make_plain(self)
        for method in (self.method, *getattr(self.method, "methods", ())):
            refuse_unread(method, "method.", method.only_with)
        self._check_tasks()
        self._check_distil()
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

    def _check_distil(self) -> None:
        distils, questions = self.train.objective == "distil", self.distil.questions
        if self.distil != DistilConfig() and not distils:
            raise InputError(
                "distil.* say what a prompt is distilled from, and this run learns from the "
                "targets of its rows; use prompt-jax distil, or leave them out"
            )
        if distils and (self.data.mixture or self.data.tasks):
            raise InputError(
                "a prompt is distilled with one set of questions, and data.mixture or data.tasks "
                "names more; put all of them into one file (distil.questions)"
            )
        if questions:
            name = f"file:{questions}"
            if self.data.task not in (DataConfig.task, name):
                raise InputError(
                    f"distil.questions is {questions} and data.task is {self.data.task}; both are "
                    "questions: give one of them"
                )
            # The rest reads questions as rows of a task, wherever they stand.
            object.__setattr__(self, "data", dataclasses.replace(self.data, task=name))

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
