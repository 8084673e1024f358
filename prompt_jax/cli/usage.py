"""What `--help` of a command shows first: examples, and the options that people use."""

import textwrap
from collections.abc import Mapping
from typing import NamedTuple

from prompt_jax.config import method_kinds

WIDTH = 96
OPTIONS = {
    "--backbone": "NAME  hub id, folder, .gguf file, T5X checkpoint, or embedded",
    "--data.task": "TASK  file:PATH, hf:ID, tfds:NAME or embedded:NAME",
    "--data.test": "TASK  rows to score at the end",
    "--task.source": 'TEXT  template of the input, such as "{text}"',
    "--task.target": 'TEXT  template of the answer, such as "{label}"',
    "--task.labels": "A B  the label words; by default those of the training rows",
    "--method": "NAME  what to train, see below",
    "--method.num-virtual-tokens": "N  length of the prompt",
    "--train.steps": "N  optimizer steps",
    "--train.learning-rate": "RATE  by default that of the method",
    "--train.batch-size": "N  rows of a step",
    "--frozen.dtype": "TYPE  type of the frozen weights: bfloat16, int8, int4, ...",
    "--out": "FOLDER  the run folder; --resume continues the run in it, --overwrite replaces it",
}
"""What options mean in all commands that name them in `PAGES`, each behind its value."""
SAVED = {
    "--prompt": "FOLDER  a run folder, a prompt folder or a .npy file; needed",
    "--backbone": "NAME  by default the one that the prompt was trained on",
    "--task.source": 'TEXT  template of the input, such as "{text}"; by default that of training',
    "--eval.batch-size": "N  rows that are answered at once",
    "--eval.max-new-tokens": "N  length of a written answer",
    "--frozen.dtype": OPTIONS["--frozen.dtype"],
    "--mesh.fsdp": "N  devices that share the model; or auto",
}
"""The same for commands that run a saved prompt."""


CONFIG = "[CONFIG.py] [OPTIONS]"


class Page(NamedTuple):
    """The help of a command."""

    examples: str
    """Commands to copy, one a line."""
    options: Mapping[str, str] = {}
    """By name, the value and the meaning of those that people use; empty where all are few."""
    arguments: str = "[OPTIONS]"


def _chosen(names: str) -> dict[str, str]:
    return {name: OPTIONS[name] for name in (f"--{name}" for name in names.split())}


PAGES = {
    "init": Page(
        """
        prompt-jax init tickets.csv
        prompt-jax init pairs.jsonl --input premise hypothesis --answer label --out pairs.py
        """
    ),
    "train": Page(
        """
        prompt-jax train
        prompt-jax train --data.task file:a.csv --task.source "{text}" --task.target "{label}"
        prompt-jax train --backbone google/t5-v1_1-base --data.task hf:aps/super_glue/rte
        prompt-jax train configs/sentiment.py --method lora --train.steps 100
        """,
        _chosen(
            "backbone data.task task.source task.target task.labels method "
            "method.num-virtual-tokens train.steps train.learning-rate train.batch-size out"
        ),
        arguments=CONFIG,
    ),
    "compare": Page(
        """
        prompt-jax compare --methods prompt_tuning lora --train.steps 100
        prompt-jax compare configs/sentiment.py --seeds 3 --rivals shots:4 tf_idf
        """,
        {
            "--methods": "A B  the methods to compare, see below",
            "--seeds": "N  prompts of each method; the table has mean and deviation",
            "--rivals": "A B  what else to score: written:FILE, shots:K or tf_idf",
            "--forgetting": "TASK  other text, on which the loss is measured too",
        }
        | _chosen("backbone data.task task.source task.target train.steps out"),
        arguments=CONFIG,
    ),
    "sweep": Page(
        """
        prompt-jax sweep --sweep.learning-rates 0.1 0.3 1.0 --sweep.lengths 10 20
        prompt-jax sweep configs/sentiment.py --sweep.candidates 64 --sweep.how asha
        """,
        {
            "--sweep.learning-rates": "A B  rates to try",
            "--sweep.lengths": "A B  lengths of the prompt to try",
            "--sweep.inits": "A B  starts of the prompt to try: vocab, random, class_labels",
            "--sweep.candidates": "N  prompts to train; at most",
            "--sweep.how": "NAME  which candidates go on: halving, asha, pbt or full",
            "--sweep.budget": "TIME  device-hours to spend at most, such as 8h or 90m",
        }
        | _chosen("backbone data.task task.source task.target train.steps out"),
        arguments=CONFIG,
    ),
    "distil": Page(
        """
        prompt-jax distil --distil.context manual.txt --distil.questions questions.txt
        prompt-jax distil --backbone FOLDER --distil.context rules.txt --data.task file:rows.csv
        """,
        {
            "--distil.context": "FILE  the text that becomes a prompt",
            "--distil.questions": "FILE  questions, one a line; or name them by --data.task",
            "--distil.lengths": "A B  train a prompt of each length, to compare them",
        }
        | _chosen(
            "backbone data.task task.source method.num-virtual-tokens train.steps train.batch-size "
            "out"
        ),
        arguments=CONFIG,
    ),
    "evaluate": Page(
        """
        prompt-jax evaluate --prompt runs/default
        prompt-jax evaluate --prompt runs/x --data.task file:test.csv --rivals shots:4
        """,
        {
            "--prompt": SAVED["--prompt"],
            "--data.task": "TASK  rows to score; by default those that training held out, and test",
            "--rivals": "A B  what else to score: written:FILE, shots:K or tf_idf",
            "--json": "end with one line of JSON",
            **SAVED,
        },
    ),
    "predict": Page(
        """
        prompt-jax predict --prompt runs/default "A film to remember."
        prompt-jax predict --prompt runs/x --input new.csv --output answers.jsonl
        cat lines.txt | prompt-jax predict --prompt runs/x --input - --output -
        """,
        {
            "--prompt": SAVED["--prompt"],
            "--input": "FILE  .txt with an input a line, .csv, .tsv, .jsonl, .parquet; - is stdin",
            "--output": "FILE  a .jsonl; a file that was cut short is continued; - is stdout",
            "--shard": "i/n  answer every n-th input, beginning with input i",
            **SAVED,
        },
        arguments="[TEXT ...] [OPTIONS]",
    ),
    "plan": Page(
        """
        prompt-jax plan --backbone t5_1_1_xxl --topology v5e-4
        prompt-jax plan --backbone t5_1_1_xxl --topology v5e:2x4 --frozen.dtype int8 --search
        """,
        {
            "--topology": "NAME  v5e-4, v5p-8, ... or a kind and its grid, v5e:2x4",
            "--members": "N  prompts that train at once, each on train.batch-size rows",
            "--search": "look for meshes and settings that fit",
            "--experiment": "NAME  superglue: what a run for each of its tasks takes",
            "--plot": "FILE  a .png with a bar for each plan",
            "--json": "end with one line of JSON",
            "--frozen.remat": "HOW  what the backward pass computes again: none, minimal or full",
            "--data.max-source-length": "N  longest input in tokens",
        }
        | _chosen("backbone frozen.dtype method.num-virtual-tokens train.batch-size"),
        arguments=CONFIG,
    ),
    "serve": Page(
        """
        prompt-jax prompts publish runs/default --name films --store prompts
        prompt-jax serve --store prompts
        prompt-jax serve --config serve.toml --host 0.0.0.0 --keys keys.json
        """,
        {
            "--backbone": "NAME  what the prompts were trained on",
            "--store": "FOLDER  of the prompts, as prompts publish writes it",
            "--config": "FILE  options as TOML; PROMPT_JAX_SERVE_PORT and so on work too",
            "--host": "ADDRESS  to listen on; others than this machine need --keys",
            "--port": "N  to listen on",
            "--keys": "FILE  JSON of the clients that may send requests",
            "--max-new-tokens": "N  longest written answer",
            "--slots": "N  prompts on the device at once",
            "--places": "N  answers that are written at once",
            "--frozen.dtype": OPTIONS["--frozen.dtype"],
        },
    ),
    "doctor": Page(
        """
        prompt-jax doctor
        prompt-jax doctor --backbone google/t5-v1_1-base --mesh.fsdp auto
        """,
        {
            "--backbone": "NAME  whose split over devices to show; its weights are not read",
            "--frozen.dtype": OPTIONS["--frozen.dtype"],
            "--mesh.data": "N  groups of devices that share out the rows; or auto",
            "--mesh.fsdp": "N  devices that share rows and weights; or auto",
            "--mesh.tensor": "N  devices that share the heads and the vocabulary; or auto",
        },
    ),
    "runs": Page("prompt-jax runs\nprompt-jax runs runs/a runs/b --plot curves.png"),
    "reproduce": Page("prompt-jax reproduce configs/lester2021/paper.py --table 3 --size base"),
    "pretrain": Page("prompt-jax pretrain my_model.py"),
    "prompts list": Page("prompt-jax prompts list runs"),
    "prompts inspect": Page("prompt-jax prompts inspect runs/default --heat-map map.png"),
    "prompts export": Page(
        "prompt-jax prompts export runs/x peft_folder\nprompt-jax prompts export runs/x rows.npy"
    ),
    "prompts import": Page("prompt-jax prompts import peft_folder prompt --backbone NAME"),
    "prompts similarity": Page("prompt-jax prompts similarity runs/a runs"),
    "prompts compose": Page("prompt-jax prompts compose runs/a runs/b --output both"),
    "prompts attention": Page("prompt-jax prompts attention runs/a runs/b --output mixed"),
    "prompts ensemble": Page("prompt-jax prompts ensemble runs/a runs/b --how vote"),
    "prompts recycle": Page("prompt-jax prompts recycle runs/a --backbone NAME --output start"),
    "prompts prune": Page("prompt-jax prompts prune runs/a --output pruned --curve pruned.png"),
    "prompts project": Page("prompt-jax prompts project runs/a --output words.txt"),
    "prompts publish": Page("prompt-jax prompts publish runs/a --name films --alias stable"),
    "prompts versions": Page("prompt-jax prompts versions films"),
    "prompts alias": Page("prompt-jax prompts alias films@3 stable"),
    "prompts remove": Page("prompt-jax prompts remove films@2"),
    "prompts push": Page("prompt-jax prompts push runs/a owner/films"),
    "prompts pull": Page("prompt-jax prompts pull owner/films films --revision COMMIT"),
}


def examples(name: str) -> list[str]:
    """The block of examples of a command; none where it has no page."""
    page = PAGES.get(name)
    return [textwrap.indent(_lines(page), "  ")] if page else []


def _lines(page: Page) -> str:
    return textwrap.dedent(page.examples).strip()


def short(name: str, about: str) -> str:
    """The short help of a command; empty where its whole help is short.

    Args:
      about: what it does.
    """
    page = PAGES.get(name)
    if page is None or not page.options:
        return ""
    values = {option: text.rpartition("  ")[::2] for option, text in page.options.items()}
    heads = {option: f"{option} {value}".strip() for option, (value, _) in values.items()}
    indent = max(map(len, heads.values())) + 4
    lines = [
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=f"  {heads[option]:<{indent - 2}}",
            subsequent_indent=" " * indent,
        )  # fmt: skip
        for option, (_, text) in values.items()
    ]
    parts = [f"usage: prompt-jax {name} {page.arguments}", about, *examples(name), "\n".join(lines)]
    hint = f"prompt-jax {name} --help-all lists all options"
    if {"--method", "--methods"} & page.options.keys():
        names = ", ".join(method_kinds())
        parts.append(textwrap.fill(f"Methods: {names}.", WIDTH, subsequent_indent="  "))
        hint += "; with --method lora, the options of LoRA too"
    return "\n\n".join([*parts, f"{hint}."])
