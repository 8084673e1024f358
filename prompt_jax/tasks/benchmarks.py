"""The tasks that need no description: those that ship here, and the benchmarks of papers.

A format is that of T5 (Raffel et al. 2020, appendix D) without the name of the task in front, as
Lester et al. 2021 have it: `hypothesis: ... premise: ...`. docs/tasks.md shows each with a row.
"""

from typing import NamedTuple

from prompt_jax.tasks.labels import read_labels
from prompt_jax.tasks.task import NO_ANSWER, Task


class Row(NamedTuple):
    """A task, and where its rows are."""

    task: Task
    names: tuple[str, ...]
    """The names that its rows are read by, all with the same columns."""
    validation: str = "validation"
    """The split to validate on."""


def _embedded(name: str, *labels: str, metrics: tuple[str, ...] = ()) -> Row:
    name = f"embedded:{name}"
    return Row(
        Task(name=name, source="{input}", target="{target}", labels=labels, metrics=metrics),
        (name,),
    )


def _row(
    names: str,
    source: str,
    *labels: str,
    target: str = "{label}",
    metrics: str = "",
    validation: str = "validation",
    kind: str = "",
    group: str = "",
) -> Row:
    first, *others = names.split()
    words, values = read_labels(labels)
    return Row(
        Task(
            name=first,
            source=source,
            target=target,
            labels=words,
            metrics=tuple(metrics.split()),
            values=values,
            kind=kind,
            group=group,
        ),
        (first, *others),
        validation,
    )


def _columns(columns: str) -> str:
    """The template of T5 for bare columns: `column: {column}`."""
    return " ".join(f"{name}: {{{name}}}" for name in columns.split())


def _glue(name: str, columns: str, *labels: str, metrics: str = "", **options: str) -> Row:
    names = f"tfds:glue/{name} hf:nyu-mll/glue/{name} hf:glue/{name}"
    return _row(names, _columns(columns), *labels, metrics=metrics, **options)


def _super(name: str, source: str, *labels: str, metrics: str = "accuracy", **options: str) -> Row:
    names = f"tfds:super_glue/{name} hf:aps/super_glue/{name} hf:super_glue/{name}"
    return _row(names, source, *labels, metrics=metrics, **options)


def _question(names: str) -> Row:
    source = "question: {question:padded} context: {context:padded}"
    target, metrics = "{answers:any padded}", "token_f1 exact_match"
    return _row(names, source, target=target, metrics=metrics)


def _summary(names: str, column: str, target: str = "summary") -> Row:
    metrics = "rouge1 rouge2 rougeLsum"
    return _row(names, f"summarize: {{{column}}}", target=f"{{{target}}}", metrics=metrics)


_NLI = ("entailment", "not_entailment")
_MNLI = ("entailment", "neutral", "contradiction")
_BOOL = ("False", "True")
_IOB = ("O", *(f"{part}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for part in "BI"))
_F1 = "f1 accuracy"
_SQUAD = "question: {question} context: {context}"
MRQA = {
    "squad": "SQuAD",
    "news_qa": "NewsQA",
    "trivia_qa": "TriviaQA-web",
    "search_qa": "SearchQA",
    "hotpot_qa": "HotpotQA",
    "natural_questions": "NaturalQuestionsShort",
    "bio_asq": "BioASQ",
    "drop": "DROP",
    "duo_rc": "DuoRC.ParaphraseRC",
    "race": "RACE",
    "relation_extraction": "RelationExtraction",
    "textbook_qa": "TextbookQA",
}
"""The tasks of MRQA by the names of TFDS, and as the column `subset` of the hub has them."""
_EMBEDDED = (
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
)
# Columns in T5's order: sorted by name, but for multirc and wic.
_GLUE = (
    _glue("cola", "sentence", "unacceptable", "acceptable", metrics="matthews accuracy"),
    _glue("sst2", "sentence", "negative", "positive"),
    _glue("mrpc", "sentence1 sentence2", "not_equivalent", "equivalent", metrics=_F1),
    _glue("qqp", "question1 question2", "not_duplicate", "duplicate", metrics=_F1),
    _glue("stsb", "sentence1 sentence2", target="{label:fifths}", kind="regression"),
    _glue("mnli", "hypothesis premise", *_MNLI, validation="validation_matched"),
    _glue("mnli_matched", "hypothesis premise", *_MNLI),
    _glue("mnli_mismatched", "hypothesis premise", *_MNLI),
    _glue("qnli", "question sentence", *_NLI),
    _glue("rte", "sentence1 sentence2", *_NLI),
    _glue("wnli", "sentence1 sentence2", "not_entailment", "entailment"),
    _glue("ax", "hypothesis premise", *_MNLI, metrics="matthews accuracy"),
)
_SUPER_GLUE = (
    _super("boolq", _columns("passage question"), *_BOOL),
    _super(
        "cb",
        _columns("hypothesis premise"),
        *("entailment", "contradiction", "neutral"),
        metrics="macro_f1 accuracy",
    ),
    _super("copa", _columns("choice1 choice2 premise question"), "choice1", "choice2"),
    _super(
        "multirc",
        "question: {question:plain} answer: {answer:plain} paragraph: {paragraph:plain}",
        *_BOOL,
        metrics="f1 grouped_match",
        group="{idx.paragraph}/{idx.question}",
    ),
    _super(
        "record",
        "query: {query} entities: {entities:commas} passage: {passage:sentences}",
        target="{answers:each}",
        metrics="token_f1 exact_match",
    ),
    _super("rte", _columns("hypothesis premise"), *_NLI),
    _super("wic", _columns("sentence1 sentence2 word"), *_BOOL),
    *(
        _super(name, "{text:starred}", "{span1_text}", kind="referent")
        for name in ("wsc", "wsc.fixed")
    ),
    # T5 reads both diagnostics as RTE, so the first sentence is the premise.
    _super("axb", "hypothesis: {sentence2} premise: {sentence1}", *_NLI, metrics="matthews"),
    _super("axg", _columns("hypothesis premise"), *_NLI),
    _row(
        "tfds:definite_pronoun_resolution hf:community-datasets/definite_pronoun_resolution",
        "{sentence:starred}",
        "{candidates}",
        kind="multiple_choice",
    ),
)
_INFERENCE = (
    *(
        _row(
            f"tfds:anli/{name}",
            _columns("hypothesis context"),
            *(f"{label[0]}={label}" for label in _MNLI),
        )
        for name in ("r1", "r2", "r3")
    ),
    # A split a round: hf:facebook/anli:train_r1 and --data.validation hf:facebook/anli:dev_r1.
    _row("hf:facebook/anli", "hypothesis: {hypothesis} context: {premise}", *_MNLI),
    _row("tfds:snli hf:stanfordnlp/snli", _columns("hypothesis premise"), *_MNLI),
    _row("tfds:doc_nli", _columns("hypothesis premise"), "not_entailment", "entailment"),
)
_QUESTIONS = (
    *(
        _question(f"tfds:mrqa/{name} hf:mrqa-workshop/mrqa/{subset} hf:mrqa/{subset}")
        for name, subset in MRQA.items()
    ),
    _row(
        "tfds:squad tfds:squad/v1.1 hf:rajpurkar/squad hf:squad",
        _SQUAD,
        target="{answers}",
        kind="span",
    ),
    Row(
        Task(
            name="tfds:squad/v2.0",
            source=_SQUAD,
            target="{answers}",
            kind="span",
            labels=NO_ANSWER,
        ),
        ("tfds:squad/v2.0", "hf:rajpurkar/squad_v2", "hf:squad_v2"),
    ),
    _row(
        "tfds:gsm8k hf:openai/gsm8k/main",
        "{question}",
        target="{answer}",
        metrics="last_number",
    ),
)
_SUMMARIES = (
    _summary("tfds:xsum hf:EdinburghNLP/xsum", "document"),
    _summary("tfds:cnn_dailymail hf:abisee/cnn_dailymail/3.0.0", "article", "highlights"),
    _summary("tfds:aeslc hf:Yale-LILY/aeslc", "email_body", "subject_line"),
    _summary("tfds:billsum hf:FiscalNote/billsum", "text"),
    _summary("tfds:gigaword hf:Harvard/gigaword", "document"),
    _summary("tfds:multi_news hf:alexfabbri/multi_news", "document"),
    _summary("tfds:newsroom hf:lil-lab/newsroom", "text"),
    _summary("tfds:samsum hf:knkarthick/samsum", "dialogue"),
)
_OTHERS = (
    _row(
        "tfds:imdb_reviews tfds:imdb_reviews/plain_text hf:stanfordnlp/imdb hf:imdb",
        "text: {text}",
        *("neg=negative", "pos=positive"),
    ),
    _row("tfds:conll2003", "{tokens}", *_IOB, target="{ner}", kind="tagging"),
    _row("tfds:piqa", "{goal}", "{sol1}", "{sol2}", kind="multiple_choice"),
    _row("tfds:hellaswag", "{context}", "{endings}", kind="multiple_choice"),
)
ROWS: tuple[Row, ...] = (
    *(*_EMBEDDED, *_GLUE, *_SUPER_GLUE, *_INFERENCE, *_QUESTIONS, *_SUMMARIES, *_OTHERS),
)
"""Every task, in the order of docs/tasks.md."""
