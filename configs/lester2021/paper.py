"""The runs of Lester et al. 2021, a row each: domain shift, ensembles, ablations.

prompt-jax reproduce configs/lester2021/paper.py --table 2 --size small
prompt-jax reproduce configs/lester2021/paper.py --table 3 --size base --show

Published figures are those of T5 1.1 XXL; figure 3 prints none.
Not run here: it takes the weights and accelerators.
"""

from prompt_jax import PaperConfig, PaperRow, PaperTable


def shifted(name, dataset, average):
    """The prompt of SQuAD on another domain."""
    flags = f"--data.task tfds:mrqa/{dataset}"
    return PaperRow(name, prompt="SQuAD", evaluate=flags, published={"average": average})


def paraphrase(source, target, columns, labels, accuracy, f1):
    """A prompt of one paraphrase task, and its accuracy and F1 on the rows of the other."""
    name = f"tfds:glue/{target.lower()}"
    template = " ".join(f"{column}: {{{column}}}" for column in columns)
    flags = (
        f"--data.task {name} --task.like {name} --task.source '{template}' --task.labels {labels}"
    )
    yield PaperRow(source, train=f"--data.task tfds:glue/{source.lower()}", seeds=3)
    for metric, figure in (("accuracy", accuracy), ("f1", f1)):
        title = f"{source} to {target}, {metric}"
        published = {"average": figure}
        yield PaperRow(title, prompt=source, evaluate=flags, metric=metric, published=published)


def five(name, task, *figures, flags="", prompt="", metric=""):
    """Five prompts of a task of SuperGLUE: on average, the best, and all of them as they vote."""
    train = "" if prompt else f"--data.task tfds:super_glue/{task} {flags}"
    published = dict(zip(("average", "best", "ensemble"), figures, strict=True))
    return PaperRow(name, train, prompt, metric=metric, seeds=5, published=published)


# ReCoRD and WSC have no label words for the first rows of a prompt.
RECORD = (
    "--method.init-labels commonsense reasoning reading comprehension --data.max-target-length 32"
)
WSC = "--method.init-labels commonsense pronoun resolution"
SENTINEL = (
    "--backbone google/t5-v1_1-{size} --method.init-labels False True "
    "--task.labels 'False=<extra_id_0> False' 'True=<extra_id_0> True'"
)
config = PaperConfig(
    title="Lester et al. 2021",
    config="{size}.py",
    sizes=("small", "base", "large", "xl", "xxl"),
    published_size="xxl",
    tables={
        "1": PaperTable(
            "SQuAD to the other domains of MRQA, with no row of theirs (F1)",
            (
                PaperRow(
                    "SQuAD",
                    train="--data.task tfds:squad/v1.1 --task.like tfds:mrqa/squad "
                    "--method.init vocab --data.max-target-length 32",
                    seeds=3,
                    published={"average": 94.8},
                ),
                shifted("TextbookQA", "textbook_qa", 66.8),
                shifted("BioASQ", "bio_asq", 79.1),
                shifted("RACE", "race", 60.7),
                shifted("RE", "relation_extraction", 88.8),
                shifted("DuoRC", "duo_rc", 67.7),
                shifted("DROP", "drop", 67.1),
            ),
        ),
        "2": PaperTable(
            "From one paraphrase task to the other, with no row of it",
            (
                *paraphrase(
                    *("QQP", "MRPC", ("sentence1", "sentence2")),
                    *("not_equivalent=not_duplicate equivalent=duplicate", 76.3, 84.3),
                ),
                *paraphrase(
                    *("MRPC", "QQP", ("question1", "question2")),
                    *("not_duplicate=not_equivalent duplicate=equivalent", 75.4, 69.7),
                ),
            ),
        ),
        "3": PaperTable(
            "SuperGLUE on validation: five prompts, the best of them, and their vote",
            (
                five("BoolQ", "boolq", 91.1, 91.3, 91.7),
                five("CB, F1", "cb", 99.0, 100.0, 100.0),
                five("CB, accuracy", "cb", 99.3, 100.0, 100.0, prompt="CB, F1", metric="accuracy"),
                five("COPA", "copa", 98.8, 100.0, 100.0),
                five("MultiRC, F1a", "multirc", 88.7, 89.0, 89.4),
                five(
                    *("MultiRC, EM", "multirc", 65.7, 66.3, 67.1),
                    prompt="MultiRC, F1a",
                    metric="grouped_match",
                ),
                five("ReCoRD, F1", "record", 93.4, 93.5, 93.9, flags=RECORD),
                five(
                    *("ReCoRD, EM", "record", 92.7, 92.9, 93.2),
                    prompt="ReCoRD, F1",
                    metric="exact_match",
                ),
                five("RTE", "rte", 92.6, 93.5, 93.5),
                five("WiC", "wic", 76.2, 76.6, 77.4),
                five("WSC", "wsc.fixed", 95.8, 96.2, 96.2, flags=WSC),
            ),
        ),
        "length": PaperTable(
            "Figure 3 (a): how many virtual tokens (BoolQ)",
            tuple(
                PaperRow(f"{length} tokens", f"--method.num-virtual-tokens {length}")
                for length in (1, 5, 20, 100, 150)
            ),
        ),
        "init": PaperTable(
            "Figure 3 (b): where a prompt starts (BoolQ)",
            tuple(
                PaperRow(init, f"--method.init {init}")
                for init in ("random", "vocab", "class_labels")
            ),
        ),
        "objective": PaperTable(
            "Figure 3 (c): what the backbone learned before (BoolQ)",
            (
                PaperRow("span corruption", "--backbone google/t5-v1_1-{size}"),
                PaperRow("span corruption, a sentinel before targets", SENTINEL),
                PaperRow("LM adaptation", "--backbone google/t5-{size}-lm-adapt"),
            ),
        ),
    },
)
