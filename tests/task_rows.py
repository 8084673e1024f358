"""A raw row of every task as its source has it, and the texts that a model reads and learns.

The rows are made up; the texts are written by hand after the papers.
`python tests/task_rows.py > docs/tasks.md` writes the page of tasks.
"""

from typing import Any, NamedTuple

from prompt_jax.config import TaskConfig
from prompt_jax.tasks import Task, resolve, taught, to_example
from prompt_jax.tasks.benchmarks import ROWS, Row


class Fixture(NamedTuple):
    """A row, and what becomes of it."""

    row: dict[str, Any]
    source: str
    target: str
    others: tuple[str, ...] = ()
    group: str = ""


def pair(first, second, label, columns="hypothesis premise", idx=0):
    """A row of two texts, the first column in front."""
    names = columns.split()
    row = {names[0]: first, names[1]: second, "label": label, "idx": idx}
    return Fixture(row, f"{names[0]}: {first} {names[1]}: {second}", label)


SENTENCES = "sentence1 sentence2"
WET = ("It is wet.", "It rains in Oslo.")
PASSAGE = (
    "(CNN) Ada Byron met Bo Li in Oslo.\n@highlight\nThe two had written for years\n@highlight\n"
    "Byron flew home"
)
QUERY = "Of Norway, @placeholder said that it was cold"
WINOGRAD = "Mark told Pete many lies , and he should have been truthful."
ASKED = {"question": 'Where did "Ada" live?', "context": "Ada Byron was in Oslo (Norway)."}
SPAN = 'question: Where did "Ada" live? context: Ada lived in Oslo (Norway).'
PADDED = 'question: Where did " Ada " live ? context: Ada Byron was in Oslo ( Norway ) .'


def embedded(text, target):
    return Fixture({"input": text, "target": target}, text, target)


def multirc(answer, label):
    row = {
        "paragraph": "<b>Sent 1: </b>Ada sang.<br><b>Sent 2: </b>Bo slept.",
        "question": "Who sang?",
        "answer": answer,
        "idx": {"paragraph": 4, "question": 17, "answer": 80},
        "label": label,
    }
    source = f"question: Who sang? answer: {answer} paragraph: Sent 1: Ada sang. Sent 2: Bo slept."
    return Fixture(row, source, label, group="4/17")


def wsc(referent, label):
    row = {
        "text": WINOGRAD,
        "span1_index": 0,
        "span1_text": referent,
        "span2_index": 7,
        "span2_text": "he",
        "idx": 3,
        "label": label,
    }
    return Fixture(row, "Mark told Pete many lies , and *he* should have been truthful.", label)


def mrqa(answers, first, *others):
    row = ASKED | {"answers": answers, "qid": "a1", "subset": "SQuAD"}
    return Fixture(row, PADDED, first, others)


def summary(column, target="summary"):
    row = {column: "Ada sang. Bo slept.", target: "A quiet night .", "id": "1"}
    return Fixture(row, "summarize: Ada sang. Bo slept.", "A quiet night .")


def answered(answers, target, *others):
    row = {"question": ASKED["question"], "context": "Ada lived in Oslo (Norway)."}
    return Fixture(row | {"id": "1", "answers": answers}, SPAN, target, others)


FIXTURES: dict[str, tuple[Fixture, ...]] = {
    "embedded:sentiment": (embedded("Fun.", "positive"),),
    "embedded:gloss_category": (embedded("a hot soup", "food"),),
    "embedded:headline_satire": (embedded("local man sleeps", "satire"),),
    "embedded:factbook_topic": (embedded("republic", "government"),),
    "embedded:kjv_to_modern": (embedded("Thou art good.", "You are good."),),
    "tfds:glue/cola": (
        Fixture(
            {"sentence": "Sang she.", "label": "unacceptable", "idx": 0},
            "sentence: Sang she.",
            "unacceptable",
        ),
    ),
    "tfds:glue/sst2": (
        Fixture({"sentence": "Fun.", "label": "positive", "idx": 0}, "sentence: Fun.", "positive"),
    ),
    "tfds:glue/mrpc": (
        pair(*WET, "not_equivalent", SENTENCES),
        pair("A.", "A.", "equivalent", SENTENCES),
    ),
    "tfds:glue/qqp": (pair("Why?", "How?", "not_duplicate", "question1 question2"),),
    "tfds:glue/stsb": (
        Fixture(
            {"sentence1": "A dog.", "sentence2": "A hound.", "label": 4.25, "idx": 0},
            "sentence1: A dog. sentence2: A hound.",
            "4.2",
        ),
        Fixture(
            {"sentence1": "A dog.", "sentence2": "A day.", "label": 0.75, "idx": 1},
            "sentence1: A dog. sentence2: A day.",
            "0.8",
        ),
    ),
    **{
        f"tfds:glue/{name}": (pair(*WET, "neutral"),)
        for name in ("mnli", "mnli_matched", "mnli_mismatched", "ax")
    },
    "tfds:glue/qnli": (pair("Where is Oslo?", "It rains.", "not_entailment", "question sentence"),),
    "tfds:glue/rte": (pair(*WET, "entailment", SENTENCES),),
    "tfds:glue/wnli": (pair(*WET, "not_entailment", SENTENCES),),
    "tfds:super_glue/boolq": (
        Fixture(
            {"question": "is oslo wet", "passage": "Oslo -- It rains.", "idx": 2, "label": "True"},
            "passage: Oslo -- It rains. question: is oslo wet",
            "True",
        ),
    ),
    "tfds:super_glue/cb": (pair(*WET, "contradiction"),),
    "tfds:super_glue/copa": (
        Fixture(
            {
                "premise": "It rained.",
                "choice1": "He got wet.",
                "choice2": "He sang.",
                "question": "effect",
                "idx": 1,
                "label": "choice1",
            },
            "choice1: He got wet. choice2: He sang. premise: It rained. question: effect",
            "choice1",
        ),
    ),
    "tfds:super_glue/multirc": (multirc("Ada", "True"), multirc("Bo", "False")),
    "tfds:super_glue/record": (
        Fixture(
            {
                "passage": PASSAGE,
                "query": QUERY,
                "entities": ["Ada Byron", "Bo Li", "Byron", "Oslo"],
                "answers": ["Ada Byron", "Byron"],
                "idx": {"passage": 1, "query": 5},
            },
            f"query: {QUERY} entities: Ada Byron, Bo Li, Byron, Oslo passage: (CNN) Ada Byron met "
            "Bo Li in Oslo. The two had written for years. Byron flew home",
            "Ada Byron",
            ("Byron",),
        ),
    ),
    "tfds:super_glue/rte": (pair(*WET, "entailment"),),
    "tfds:super_glue/wic": (
        Fixture(
            {
                "word": "bank",
                "sentence1": "A bank of sand.",
                "sentence2": "The bank lends.",
                "start1": 2,
                "idx": 0,
                "label": "False",
            },
            "sentence1: A bank of sand. sentence2: The bank lends. word: bank",
            "False",
        ),
    ),
    "tfds:super_glue/wsc": (wsc("Mark", "True"), wsc("Pete", "False")),
    "tfds:super_glue/wsc.fixed": (wsc("Mark", "True"),),
    "tfds:super_glue/axb": (
        Fixture(
            {"sentence1": "It rains.", "sentence2": "It is wet.", "label": "entailment", "idx": 0},
            "hypothesis: It is wet. premise: It rains.",
            "entailment",
        ),
    ),
    "tfds:super_glue/axg": (pair(*WET, "not_entailment"),),
    "tfds:definite_pronoun_resolution": (
        Fixture(
            {
                "sentence": "Bob asked Tom if he can lend what he has.",
                "pronoun": "he",
                "candidates": ["Bob", "Tom"],
                "label": "1",
            },
            "Bob asked Tom if *he* can lend what he has.",
            "Tom",
        ),
    ),
    **{
        f"tfds:anli/{name}": (
            Fixture(
                {"hypothesis": "It is wet.", "context": "It rains.", "label": "c", "uid": "u"},
                "hypothesis: It is wet. context: It rains.",
                "contradiction",
            ),
        )
        for name in ("r1", "r2", "r3")
    },
    "hf:facebook/anli": (
        Fixture(
            {"hypothesis": "It is wet.", "premise": "It rains.", "label": "neutral", "uid": "u"},
            "hypothesis: It is wet. context: It rains.",
            "neutral",
        ),
    ),
    "tfds:snli": (pair(*WET, "neutral"),),
    "tfds:doc_nli": (pair(*WET, "entailment"),),
    **{
        f"tfds:mrqa/{name}": (mrqa(["Oslo (Norway)", "Oslo"], "Oslo ( Norway )", "Oslo"),)
        for name in (
            *("squad", "news_qa", "trivia_qa", "search_qa", "hotpot_qa", "natural_questions"),
            *("bio_asq", "drop", "duo_rc", "race", "relation_extraction", "textbook_qa"),
        )
    },
    "tfds:squad": (answered({"text": ["Oslo"], "answer_start": [13]}, "Oslo"),),
    "tfds:squad/v2.0": (answered({"text": [], "answer_start": []}, ""),),
    "tfds:gsm8k": (
        Fixture(
            {"question": "Ada has 2 and 3 pens. All?", "answer": "2+3=<<2+3=5>>5\n#### 5"},
            "Ada has 2 and 3 pens. All?",
            "2+3=<<2+3=5>>5\n#### 5",
        ),
    ),
    "tfds:xsum": (summary("document"),),
    "tfds:cnn_dailymail": (summary("article", "highlights"),),
    "tfds:aeslc": (summary("email_body", "subject_line"),),
    "tfds:billsum": (summary("text"),),
    "tfds:gigaword": (summary("document"),),
    "tfds:multi_news": (summary("document"),),
    "tfds:newsroom": (summary("text"),),
    "tfds:samsum": (summary("dialogue"),),
    "tfds:imdb_reviews": (
        Fixture({"text": "A fine film.", "label": "pos"}, "text: A fine film.", "positive"),
    ),
    "tfds:conll2003": (
        Fixture({"tokens": ["Ada", "sang"], "ner": ["B-PER", "O"]}, "Ada sang", "B-PER O"),
    ),
    "tfds:piqa": (
        Fixture(
            {"goal": "Dry a cup.", "sol1": "Use a towel.", "sol2": "Use a rock.", "label": 0},
            "Dry a cup.",
            "Use a towel.",
        ),
    ),
    "tfds:hellaswag": (
        Fixture(
            {"context": "He sings and", "endings": ["bows.", "flies.", "rains."], "label": 0},
            "He sings and",
            "bows.",
        ),
    ),
}


def task_of(name: str, row: dict[str, Any]) -> Task:
    """A task as it is read by a name, from a dataset that has this row."""
    return resolve(name, TaskConfig(), list(row))


SUITES = {
    "Shipped with the package": "embedded:",
    "GLUE": "tfds:glue/",
    "SuperGLUE and its diagnostics, DPR": ("tfds:super_glue/", "tfds:definite"),
    "Inference": ("tfds:anli", "hf:facebook/anli", "tfds:snli", "tfds:doc_nli"),
    "Questions": ("tfds:mrqa", "tfds:squad", "tfds:gsm8k"),
    "Summaries": (
        *(
            "tfds:xsum",
            "tfds:cnn",
            "tfds:aeslc",
            "tfds:billsum",
            "tfds:gigaword",
            "tfds:multi_news",
        ),
        *("tfds:newsroom", "tfds:samsum"),
    ),
    "Others": ("tfds:imdb", "tfds:conll", "tfds:piqa", "tfds:hellaswag"),
}
"""Titles of the page, and how the names of their tasks begin."""
HEAD = """# Tasks that need no description

Train on a benchmark by its name. A name of this page after `--data.task` needs no template: source,
target, label words and metrics are those of its row. Several names are the same task from another
source.

```
prompt-jax train --data.task tfds:super_glue/rte
prompt-jax train --data.task hf:aps/super_glue/rte
prompt-jax train --data.task file:rte.jsonl --task.like tfds:super_glue/rte
```

`tfds:` is read from array records that TFDS has prepared; most of SuperGLUE needs TensorFlow to
prepare, and `hf:` does not (`pip install "prompt-jax[hf]"`). `--task.like` gives the format of a
task to rows from elsewhere, whose columns have the same names.

The formats are those of T5 (Raffel et al. 2020, appendix D) without the name of the task in front,
as Lester et al. 2021 have it; of a dataset that T5 does not have, those of SPoT. The first metric
decides which prompt is the best, and `f1` is of the second label word. `{answers:any}` is a list
of right answers, of which the first is learned; of `{answers:each}` all are. Where no split is
named, a task is validated on `validation`, or on a tenth of the training rows.

* WSC asks whether a pronoun stands for `{span1_text}`. The model writes what it stands for, learns
  it from the rows whose label is True, and is right where it writes `{span1_text}` exactly when the
  label is True. Case, determiners and left out words make no difference, as in T5.
* DPR learns the same texts, and is scored by ranking its two candidates.
* SNLI has rows without a label: `--data.skip-unlabelled`. The test rows of GLUE and SuperGLUE have
  none, and their scores are those of validation.
* MRQA has punctuation apart, in both texts and answers. `--data.task tfds:squad --task.like
  tfds:mrqa/squad` reads SQuAD so, as T5 does; `tfds:squad` alone is a span, for heads too.
* The hub has MRQA in one dataset of 1.5 GB. `hf:mrqa-workshop/mrqa/SQuAD` reads the rows whose
  column `subset` is `SQuAD`. BioASQ, DROP, DuoRC, RACE, RelationExtraction and TextbookQA have the
  split `test` alone: `hf:mrqa-workshop/mrqa/BioASQ:test`.

This page is written by `python tests/task_rows.py > docs/tasks.md`."""


def code(text: str) -> str:
    """A text between backticks in a cell of a table."""
    text = text.replace("|", "\\|").replace("\n", "\\n")
    return f"`{text}`" if text else "(nothing)"


def line(row: Row) -> str:
    """The row of a task in its table."""
    task, fixture = row.task, FIXTURES[row.names[0]][0]
    learned = taught(task, [to_example(task, fixture.row)])[0].target
    labels = ", ".join(map(code, task.labels))
    if task.kind == "span":
        labels = "may be none" if task.labels else ""
    cells = (
        "<br>".join(map(code, row.names)),
        code(task.source),
        f"{code(task.target)}{': ' * bool(labels)}{labels}",
        ", ".join(task.metrics),
        "" if row.validation == "validation" else code(row.validation),
        f"{code(fixture.source)} → {code(learned)}",
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """docs/tasks.md."""
    parts = [HEAD]
    for title, starts in SUITES.items():
        rows = [line(row) for row in ROWS if row.names[0].startswith(starts)]
        head = (
            "| names | source | target | metrics | validation | a row |\n|---|---|---|---|---|---|"
        )
        parts.append(f"## {title}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
