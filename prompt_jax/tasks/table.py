"""The tasks that need no description, and how tasks are named."""

import re
from dataclasses import replace
from typing import NamedTuple

from prompt_jax.config import choose
from prompt_jax.tasks.task import NO_ANSWER, Task


class TaskName(NamedTuple):
    """The parts of a name such as `tfds:glue/sst2@train`."""

    prefix: str
    path: str
    split: str | None

    @property
    def dataset(self) -> str:
        """The name without its split."""
        return f"{self.prefix}:{self.path}"

    @property
    def key(self) -> str:
        """The name under which `TASKS` knows it: no version, no split."""
        return f"{self.prefix}:{re.sub(r':[0-9.*]+$', '', self.path)}"


def _embedded(name: str, *labels: str, metrics: tuple[str, ...] = ()) -> Task:
    return Task(
        name=f"embedded:{name}",
        source="{input}",
        target="{target}",
        labels=labels,
        metrics=metrics,
    )


def _tfds(
    name: str,
    source: str,
    *labels: str,
    target: str = "{label}",
    metrics: tuple[str, ...] = (),
    kind: str = "",
) -> Task:
    # A template of bare columns is written `column: {column}`, the taskless format of T5.
    columns = source.split()
    return Task(
        name=f"tfds:{name}",
        source=" ".join(f"{c.partition(':')[0]}: {{{c}}}" for c in columns),
        target=target,
        labels=labels,
        metrics=metrics,
        kind=kind,
    )


_NLI = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")
_BOOL = ("False", "True")
_IOB = ("O", *(f"{part}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for part in "BI"))
_SQUAD = Task(
    name="tfds:squad",
    source="question: {question} context: {context}",
    target="{answers}",
    kind="span",
)

# Columns in T5's order: sorted by name, but for multirc and wic. Left out are record and wsc,
# whose rows need more than a template.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _embedded("sentiment", "negative", "positive"),
        _embedded(
            "gloss_category",
            *("act", "animal", "artifact", "body", "communication"),
            *("food", "location", "person", "plant", "substance"),
        ),
        _embedded("headline_satire", "news", "satire"),
        _embedded(
            "factbook_topic",
            *("economy", "environment", "geography", "government", "military", "society"),
        ),
        _embedded("kjv_to_modern", metrics=("chrf", "bleu")),
        _tfds(
            *("glue/cola", "sentence", "unacceptable", "acceptable"),
            metrics=("matthews", "accuracy"),
        ),
        _tfds("glue/sst2", "sentence", "negative", "positive"),
        _tfds("glue/mrpc", "sentence1 sentence2", "not_equivalent", "equivalent"),
        _tfds("glue/qqp", "question1 question2", "not_duplicate", "duplicate"),
        _tfds("glue/stsb", "sentence1 sentence2", target="{label:fifths}", kind="regression"),
        _tfds("glue/mnli", "hypothesis premise", *_MNLI),
        _tfds("glue/mnli_matched", "hypothesis premise", *_MNLI),
        _tfds("glue/mnli_mismatched", "hypothesis premise", *_MNLI),
        _tfds("glue/qnli", "question sentence", *_NLI),
        _tfds("glue/rte", "sentence1 sentence2", *_NLI),
        _tfds("glue/wnli", "sentence1 sentence2", "not_entailment", "entailment"),
        _tfds("glue/ax", "hypothesis premise", *_MNLI),
        _tfds("super_glue/boolq", "passage question", *_BOOL),
        _tfds("super_glue/cb", "hypothesis premise", "entailment", "contradiction", "neutral"),
        _tfds("super_glue/copa", "choice1 choice2 premise question", "choice1", "choice2"),
        _tfds("super_glue/multirc", "question:plain answer:plain paragraph:plain", *_BOOL),
        _tfds("super_glue/rte", "hypothesis premise", *_NLI),
        _tfds("super_glue/wic", "sentence1 sentence2 word", *_BOOL),
        _tfds("super_glue/axb", "sentence1 sentence2", *_NLI),
        _tfds("super_glue/axg", "hypothesis premise", *_NLI),
        Task(
            name="tfds:conll2003",
            source="{tokens}",
            target="{ner}",
            kind="tagging",
            labels=_IOB,
        ),
        *(
            Task(
                name=f"tfds:{name}",
                source=source,
                target="{label}",
                kind="multiple_choice",
                labels=candidates,
            )
            for name, source, candidates in (
                ("piqa", "{goal}", ("{sol1}", "{sol2}")),
                ("hellaswag", "{context}", ("{endings}",)),
            )
        ),
        _SQUAD,
        replace(_SQUAD, name="tfds:squad/v1.1"),
        replace(_SQUAD, name="tfds:squad/v2.0", labels=NO_ANSWER),
    )
}
SPLIT_MARKS = {"embedded": "/", "tfds": "@", "hf": ":", "file": ""}
"""By prefix, what a split stands behind in a name."""
EMBEDDED = tuple(name for name in TASKS if name.startswith("embedded:"))


def parse_name(name: str) -> TaskName:
    """The parts of a task name.

    Args:
      name: `embedded:NAME[/SPLIT]`, `tfds:NAME[/CONFIG][:VERSION][@SPLIT]`,
        `hf:ID[/CONFIG][@REVISION][:SPLIT]` or `file:PATH`. `huggingface:`, `hub:` and
        `tfds:huggingface:` are `hf:`.

    Raises:
      InputError: no such prefix, or no such embedded task.
    """
    prefix, colon, path = name.partition(":")
    if not colon:
        choose("task", name, [*EMBEDDED, "tfds:NAME", "hf:ID", "file:PATH"])
    if name.startswith("tfds:huggingface:"):
        # TFDS writes two underscores for the slash behind an owner.
        prefix, path = "hf", path.partition(":")[2].replace("__", "/", 1)
    prefix = {"huggingface": "hf", "hub": "hf"}.get(prefix, prefix)
    choose("task prefix", prefix, SPLIT_MARKS)
    if prefix == "file":
        return TaskName(prefix, path, None)
    path, _, split = path.partition(SPLIT_MARKS[prefix])
    if prefix == "embedded":
        choose("task", f"embedded:{path}", EMBEDDED)
    return TaskName(prefix, path, split or None)
