"""The runs of Vu et al. 2022 (SPoT): prompts of SuperGLUE that start from a prompt of other tasks.

prompt-jax reproduce configs/spot2022/paper.py --table glue --size small
prompt-jax reproduce configs/spot2022/paper.py --table none --size small

A table is named by what its source prompt was trained on; `none` is prompt tuning alone. Which
source a target is nearest to: prompt-jax prompts similarity. The paper's figures are not here;
--flags "--train.steps 100000" trains longer.
Not run here: it takes the weights and accelerators.
"""

from prompt_jax import PaperConfig, PaperRow, PaperTable

WRITTEN = "--method.init vocab --data.max-target-length"
TARGETS = {
    "BoolQ": "tfds:super_glue/boolq",
    "CB": "tfds:super_glue/cb",
    "COPA": "tfds:super_glue/copa",
    "MultiRC": "tfds:super_glue/multirc",
    "ReCoRD": f"tfds:super_glue/record {WRITTEN} 32",
    "RTE": "tfds:super_glue/rte",
    "WiC": "tfds:super_glue/wic",
    "WSC": f"tfds:super_glue/wsc.fixed {WRITTEN} 16",
}


def mixture(suite, *names, flags=""):
    """Several tasks at once, no more than 2 ** 19 rows of each counted."""
    first, *others = (f"tfds:{suite}{name}" for name in names)
    more = f"--data.mixture {' '.join(others)} --data.mixture-limit 524288"
    return f"{first} {more} --method.init vocab {flags}"


SOURCES = {
    "glue": mixture("glue/", "mnli", "cola", "sst2", "mrpc", "qqp", "stsb", "qnli", "rte"),
    "nli": mixture("", "glue/mnli", "anli/r1", "anli/r2", "anli/r3", "doc_nli", "glue/qnli"),
    "mrqa": mixture(
        *("mrqa/", "squad", "news_qa", "trivia_qa", "search_qa", "hotpot_qa", "natural_questions"),
        flags="--data.max-target-length 32",
    ),
    "summaries": mixture(
        *("", "cnn_dailymail", "aeslc", "billsum", "gigaword", "multi_news", "newsroom", "samsum"),
        flags="--data.max-target-length 128",
    ),
    "mnli": "tfds:glue/mnli",
    "squad": f"tfds:mrqa/squad {WRITTEN} 32",
    "record": f"tfds:super_glue/record {WRITTEN} 32",
    "cnn_dailymail": f"tfds:cnn_dailymail {WRITTEN} 128",
}


def table(source):
    """The targets, each from the prompt of a source."""
    start = "source" if source in SOURCES else ""
    first = [PaperRow("source", f"--data.task {SOURCES[source]}")] if start else []
    rows = [PaperRow(name, f"--data.task {task}", start=start) for name, task in TARGETS.items()]
    return PaperTable(f"SuperGLUE from {source}", (*first, *rows))


config = PaperConfig(
    title="Vu et al. 2022 (SPoT)",
    config="../lester2021/{size}.py",
    sizes=("small", "base", "large", "xl", "xxl"),
    tables={source: table(source) for source in ("none", *SOURCES)},
)
