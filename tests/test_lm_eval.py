"""lm-evaluation-harness on a server finds the accuracy that `prompt-jax evaluate` finds."""

import json

import numpy as np
import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("fastapi")

from serving import KEYS, serving  # noqa: E402

from prompt_jax import cli, testing  # noqa: E402
from prompt_jax.prompts import load_prompt  # noqa: E402
from prompt_jax.serve import Engine, Store  # noqa: E402
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import create_app
from prompt_jax.testing.chats import byte_tokenizer  # noqa: E402
from prompt_jax.testing.models import CONFIGS  # noqa: E402
from prompt_jax.weights import load_backbone, save_hugging_face  # noqa: E402

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.filterwarnings("ignore"),
]  # fmt: skip
LABELS = ("dull", "fine")
"""Of as many tokens each: the harness does not divide by their number."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a decoder, a file of rows, and a run of a few steps on them."""
    import dataclasses

    folder, tokenizer = tmp_path_factory.mktemp("harness"), byte_tokenizer()
    config = dataclasses.replace(CONFIGS["llama"], vocab_size=len(tokenizer), max_positions=64)
    backbone = testing.random_backbone(config, name="decoder", tokenizer=tokenizer)
    save_hugging_face(folder / "model", backbone)
    tokenizer.save_pretrained(folder / "model")
    rows = [f"a film {mark * 8}\t{LABELS[mark in '+*']}" for mark in "-+_*" for _ in range(6)]
    (folder / "rows.tsv").write_text("\n".join(["input\ttarget", *rows]) + "\n")
    # Every third row says the other label, so that no answers are right throughout.
    swapped = dict(zip(LABELS, reversed(LABELS), strict=True))
    rows = [row if i % 3 else row[:-4] + swapped[row[-4:]] for i, row in enumerate(rows)]
    (folder / "judged.tsv").write_text("\n".join(["input\ttarget", *rows]) + "\n")
    command = ["train", "--backbone", str(folder / "model"), "--out", str(folder / "run")]
    command += ["--data.task", f"file:{folder / 'rows.tsv'}", "--task.labels", *LABELS]
    command += [
        "--method.num-virtual-tokens",
        "4",
        "--train.steps",
        "30",
        "--train.batch-size",
        "8",
    ]
    assert cli.main([*command, "--train.eval-every", "30"]) == 0
    return folder


def test_the_accuracy_is_that_of_evaluate(trained, capsys):
    import lm_eval
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    flags = ["--prompt", str(trained / "run"), "--data.task", f"file:{trained / 'judged.tsv'}"]
    capsys.readouterr()
    assert cli.main(["evaluate", *flags, "--json"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    lines = (trained / "judged.tsv").read_text().splitlines()[1:]
    documents = [dict(zip(("input", "target"), line.split("\t"), strict=True)) for line in lines]
    backbone, prompt = load_backbone(str(trained / "model")), load_prompt(trained / "run")
    # Training taught it to end behind a label, so the end is a part of the answer.
    end = backbone.tokenizer.eos_token
    task = ConfigurableTask(
        config={
            "task": "films", "custom_dataset": lambda **_: {"test": Dataset.from_list(documents)},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{input}}",
            "doc_to_choice": [label + end for label in LABELS],
            "doc_to_target": lambda document: LABELS.index(document["target"]),
        }
    )  # fmt: skip
    store = Store(trained / "store")
    store.put("films", prompt)
    sizes = {"rows": (4,), "lengths": (32,), "max_new_tokens": 4}
    with Engine(backbone, {"films": prompt}, **sizes) as engine:
        catalog = Catalog(engine, store)
        assert catalog.refresh() == []
        with serving(create_app(catalog, KEYS)) as address:
            report = lm_eval.simple_evaluate(
                model="local-completions", tasks=[task], log_samples=True,
                model_args={
                    "model": "films", "base_url": f"{address}/v1/completions",
                    "tokenizer": str(trained / "model"), "num_concurrent": 4,
                    "header": {"Authorization": "Bearer user"},
                },
            )  # fmt: skip
        own = [engine.score("films", d["input"], LABELS).result() for d in documents]
    told = [[reply[0][0] for reply in s["resps"]] for s in report["samples"]["films"]]
    tokens = len(backbone.tokenizer(f" {LABELS[0]}{end}")["input_ids"])
    np.testing.assert_allclose(
        np.array(told) / tokens, [score.log_likelihoods for score in own], rtol=1e-3, atol=1e-4
    )
    assert len({int(np.argmax(row)) for row in told}) == 2
    (scores,) = results["tuned prompt"].values()
    assert report["results"]["films"]["acc,none"] == pytest.approx(scores["accuracy"])
    assert 0 < scores["accuracy"] < 1
