"""What is learned: where rows come from, how they become text, and how answers are judged."""

from dataclasses import dataclass
from typing import Literal, get_args

from prompt_jax.config.checks import InputError, at_least, choose
from prompt_jax.config.kinds import KINDS
from prompt_jax.config.plain import make_plain

Chat = Literal["auto", "on", "off"]
NO_CACHE = "off"
"""The `cache` of those who want none."""
METRICS = (
    "accuracy",
    "f1",
    "grouped_match",
    "macro_f1",
    "micro_f1",
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
    "rougeLsum",
    "matthews",
    "pearson",
    "spearman",
    "entity_f1",
    "tag_accuracy",
)


def file_name(task: str) -> str:
    """The name of a task as that of a file or a folder."""
    return task.replace(":", "-").replace("/", "-")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How a row of a dataset becomes text; empty fields take what the named task declares."""

    like: str = ""
    """A task of docs/tasks.md whose format, labels and metrics the rows have, wherever they come
    from: `tfds:super_glue/boolq` for a copy of BoolQ in `file:boolq.jsonl`."""
    source: str | None = None
    """Template of the input, e.g. "premise: {premise} hypothesis: {hypothesis}". `{premise!cut}` is
    the column that a text which is too long loses from."""
    target: str | None = None
    """Template of the target, e.g. "{label}"."""
    kind: str | None = None
    """What an answer is: `classification` (a label word), `multi_label` (several of them, or none),
    `generation` (a text), `tagging` (a tag for every word of the input), `span` (a part of the
    input), `regression` (a number), `multiple_choice` (one of the candidates of the row) or
    `referent` (what a pronoun stands for). None is what the named task declares, else a
    classification where labels are given or the targets are few, short and repeat."""
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
        make_plain(self)
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
    """Tasks to train together with `task`. One prompt serves all, but `multitask_prompt` gives each
    task a part of its own."""
    mixture_temperature: float = 1.0
    """How often a task of a mixture comes: as rows ** (1 / temperature). 1 is in proportion to its
    rows, 2 by their root, and `inf` the same for every task."""
    mixture_limit: int | None = None
    """Rows of a task that count for how often it comes, at most, as in T5; None has no limit."""
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
    """Longest input in tokens. A longer one loses the end of its longest column, or of those that
    the template marks with `!cut`; the words around the columns stay. Training says how many were
    cut."""
    max_target_length: int = 64
    """Longest target in tokens."""
    max_total_length: int = 1024
    """Most virtual and text tokens together; the memory of a step grows with its square."""
    padded_lengths: int = 4
    """Most lengths that texts are padded to. Each takes a program to compile; more pad less."""
    first_rows: int | None = None
    """Rows of every split to read, from the front; None reads all. `hf:` then streams, so
    that a dataset which does not fit is never fetched whole."""
    max_examples: int | None = None
    """Training rows of a task to use, drawn at random after validation is held out, every
    label in its share; None takes all."""
    shots: int | None = None
    """Training rows of every label to use, drawn at random, and as many to validate on where
    those are held out of the training rows. Another `data.seed` draws others."""
    balanced: bool = False
    """Train on every label equally often: rows of rarer labels come again."""
    skip_unlabelled: bool = False
    """Leave out rows without a target; they are refused otherwise."""
    max_test_examples: int | None = None
    """Rows of every test set to score, drawn the same way; None takes all."""
    cache: str | None = None
    """Folder in which the tokens of more than 10,000 rows are kept for the next run, by the content
    of the rows, the task and the tokenizer; `off` keeps none. None is ~/.cache/prompt_jax/rows, or
    prompt_jax/rows in XDG_CACHE_HOME. Folders in it may be removed at any time."""
    seed: int = 0
    """Seeds which rows are held out, which ones max_examples, shots and max_test_examples draw, and
    which validation rows are scored while training."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every task that is trained on."""
        return self.tasks or (self.task, *self.mixture)

    def __post_init__(self):
        make_plain(self)
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
        folders = {file_name(name): name for name in self.names}
        for name in self.names:
            if (other := folders[file_name(name)]) != name:
                raise InputError(
                    f"the prompts of {name} and {other} would share one folder, "
                    f"{file_name(name)}; rename one of the two"
                )
        if self.mixture and (self.validation or self.test):
            raise InputError(
                "data.validation and data.test are of one task, and data.mixture names "
                f"{len(self.mixture)} more; leave them out, so that each task has its own"
            )
        mixing = (self.mixture_temperature, self.mixture_limit)
        if mixing != (1.0, None) and not self.mixture:
            raise InputError(
                "data.mixture_temperature and data.mixture_limit are of a mixture; name its tasks "
                "in data.mixture, or leave them out"
            )
        at_least("data.mixture_temperature", self.mixture_temperature, 1.0)
        at_least("max_source_length", self.max_source_length, 1)
        at_least("max_target_length", self.max_target_length, 1)
        at_least("data.padded_lengths", self.padded_lengths, 1)
        for name in (
            *("mixture_limit", "first_rows", "max_examples", "shots", "max_test_examples"),
        ):
            count = getattr(self, name)
            if count is not None:
                at_least(name, count, 1)
        if self.shots is not None and self.max_examples is not None:
            raise InputError(
                "data.shots and data.max_examples both say how many rows to train on; leave one out"
            )
        at_least("data.seed", self.seed, 0)
        if not 0.0 < self.validation_fraction < 1.0:
            raise InputError(
                "data.validation_fraction must be between 0 and 1, got "
                f"{self.validation_fraction}; e.g. 0.2 holds out a fifth"
            )
