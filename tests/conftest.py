"""Shape checks, strict ranks and a tiny backbone for every test."""

import atexit
import gc
import json
import os
import shutil
import signal
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Commands that tests start compile as the tests do, see `pytest_runtest_setup`.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import beartype
import jaxtyping

# An int is a good float, as PEP 484 says and beartype by itself does not.
_check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def typechecked(checked):
    """Everything but configs: those answer wrong values themselves, which is tested."""
    is_config = (
        checked.__module__.startswith("prompt_jax.config") or "Config." in checked.__qualname__
    )
    return checked if is_config else _check(checked)


jaxtyping.install_import_hook("prompt_jax", "conftest.typechecked")

import jax
import numpy as np
import pytest
from jax._src.lru_cache import LRUCache
from xla import QUICK_COMPILE

from prompt_jax import runtime, testing

# XLA reads its flags at the first program; libtpu, which reads them later, knows others.
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILE}".strip())
    jax.jit(lambda: 0)()

jax.config.update("jax_numpy_rank_promotion", "raise")
# Processes compile the same programs, and so does the next run.
runtime.keep_programs()
# For each program that it keeps, JAX looks at all that are there, for the oldest to give way: with
# the thousands of these tests a tenth of a second, in which the other process waits.
LRUCache._evict_if_needed = lambda self, *, additional_size=0: None

# What is imported stays, and tracing makes objects by the million: looking through all of them at
# the usual pace takes a tenth of the tests' time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

# A process that has traced thousands of programs would take itself apart for a minute. Nobody reads
# the exit status of a worker, and what is registered later than this is still done.
if "PYTEST_XDIST_WORKER" in os.environ:
    atexit.register(os._exit, 0)


def pytest_sessionfinish():
    """Pytest looks through all objects five times more, for exceptions that nobody has seen."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def own_process():
    """Commands run in this process leave its settings alone.

    What these do, `test_runtime` shows in processes of its own.

    Ctrl-C is what it is in a terminal: a shell ignores it for what it runs in the background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("quiet", "keep_memory", "keep_programs"):
            patch.setattr(runtime, name, lambda: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def compiled_programs():
    """Modules share compiled programs until the process nears its limit of memory maps.

    XLA on CPU maps every program into memory by itself, and Linux lets a process hold 65,530 such
    pieces by default: the next program that is compiled then crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture
def quick_commands(monkeypatch):
    """Commands that a test starts compile as quickly as it does. None may compile for a TPU."""
    monkeypatch.setenv("XLA_FLAGS", QUICK_COMPILE)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Programs that run once or twice: compiling them well costs more than it gives.

    A module that binds OPTIMIZED has its programs as users have them. Before any fixture: those of
    the session are made by whichever module comes first.
    """
    jax.config.update("jax_disable_most_optimizations", not hasattr(item.module, "OPTIMIZED"))


@pytest.fixture(scope="session")
def tiny():
    """A random T5 1.1 of 2 encoder and 3 decoder layers, with heads*d_kv != d_model."""
    return testing.tiny("t5")


@pytest.fixture(scope="session")
def tiny_gpt2():
    """A random GPT-2 of two layers."""
    return testing.tiny("gpt2")


@pytest.fixture(scope="session")
def tiny_llama():
    """A random Llama of two layers, with two heads of queries for each of keys."""
    return testing.tiny("llama")


@pytest.fixture(scope="session")
def tiny_bert():
    """A random BERT of two layers, with a pooler and a head that fills masks."""
    return testing.tiny("bert")


@pytest.fixture(scope="session")
def instruct():
    """A random Llama with a tokenizer of bytes that has a chat template."""
    import dataclasses

    from prompt_jax.tasks import openings
    from prompt_jax.testing.chats import TEMPLATES, byte_tokenizer
    from prompt_jax.testing.models import CONFIGS

    tokenizer = byte_tokenizer(TEMPLATES["smollm2"])
    config = dataclasses.replace(
        CONFIGS["llama"], vocab_size=272, max_positions=256, openings=openings(tokenizer)
    )
    return testing.random_backbone(config, name="instruct", tokenizer=tokenizer)


@pytest.fixture(scope="session")
def embedded():
    """The backbone that ships with the package, with its tokenizer."""
    from prompt_jax.weights import load_backbone

    return load_backbone("embedded")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, embedded):
    """A random one-layer model of width 16 in Hugging Face's format, with the real tokenizer."""
    from prompt_jax.backbones.t5 import T5Config
    from prompt_jax.weights import save_hugging_face

    folder = tmp_path_factory.mktemp("tiny")
    config = T5Config(
        vocab_size=embedded.config.vocab_size, d_model=16, d_kv=8, d_ff=16, num_heads=2,
        num_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    save_hugging_face(folder, testing.random_backbone(config, name="tiny"))
    embedded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder):
    """The model of `tiny_folder`, with its tokenizer."""
    from prompt_jax.weights import load_backbone

    return load_backbone(str(tiny_folder))


@pytest.fixture(scope="session")
def served(tmp_path_factory, tiny_backbone):
    """A server on loopback that tests may add prompts to; see `serving.Served`."""
    pytest.importorskip("fastapi")
    from serving import open_server

    with open_server(tiny_backbone, tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def catalog(tiny_backbone, tmp_path):
    """An engine and a store of a test's own, see `serving.open_catalog`."""
    pytest.importorskip("fastapi")
    from serving import open_catalog

    with open_catalog(tiny_backbone, tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A random BERT of one layer with a tokenizer of a few words."""
    from prompt_jax.backbones.bert import BertConfig
    from prompt_jax.weights import save_hugging_face

    tokenizer = testing.word_tokenizer("good bad film number yes no".split())
    config = BertConfig(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_heads=2, num_layers=1,
        max_positions=40,
    )  # fmt: skip
    backbone = testing.random_backbone(config, name="tiny", tokenizer=tokenizer)
    return save_hugging_face(tmp_path_factory.mktemp("bert"), backbone)


@pytest.fixture
def task_file(tmp_path):
    """Forty rows of a task that a bag of words decides."""
    rows = ["input\ttarget"]
    rows += [
        f"{'good' if i % 2 else 'bad'} film number {i}\t{'positive' if i % 2 else 'negative'}"
        for i in range(40)
    ]
    path = tmp_path / "task.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_folder):
    """A finished run of a few steps, which tests leave as it is."""
    from prompt_jax import cli

    folder = tmp_path_factory.mktemp("runs")
    task = folder / "task.tsv"
    rows = [f"{'good' if i % 2 else 'bad'} film {i}\t{'yes' if i % 2 else 'no'}" for i in range(40)]
    task.write_text("\n".join(["input\ttarget", *rows]) + "\n")
    config = folder / "config.py"
    config.write_text(
        "from prompt_jax.config import Config, DataConfig, TaskConfig, TrainConfig\n"
        f"config = Config(backbone={str(tiny_folder)!r},\n"
        f"  data=DataConfig(task='file:{task}'), task=TaskConfig(labels=('no', 'yes')),\n"
        "  train=TrainConfig(\n"
        "    steps=50, batch_size=8, eval_every=50, seed=7, schedule='constant'))\n"
    )
    out = folder / "first"
    assert cli.main(["train", str(config), "--out", str(out), "--train.steps", "2"]) == 0
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory, finished_run):
    """A copy of a finished run and of its files, for a module to change."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(finished_run.parent, folder, dirs_exist_ok=True)
    return folder / finished_run.name


@pytest.fixture
def prompt(tiny):
    """A prompt of random rows for `tiny`, with everything that may be known of one."""
    from prompt_jax.methods import PromptTuningConfig
    from prompt_jax.prompts import prompt_for
    from prompt_jax.tasks import Task

    rows = np.random.default_rng(0).normal(size=(5, tiny.width)).astype(np.float32)
    return prompt_for(
        {"prompt": rows},
        PromptTuningConfig(num_virtual_tokens=5),
        tiny,
        name="reviews",
        task=Task(
            name="file:x.tsv",
            source="review: {input}",
            target="{target}",
            labels=("bad", "good"),
        ),
        metrics={"validation": {"macro_f1": np.float32(0.5), "accuracy": 0.75}},
        seed=3,
        recipe={"train": {"steps": 7}},
    )


@pytest.fixture
def compilations():
    """A list that grows with every program that is compiled."""
    found = []

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of a corpus, its tokenizer and a teacher, see `make_corpus`."""
    import make_corpus

    return make_corpus.write(tmp_path_factory.mktemp("pretrain"))


@pytest.fixture(scope="session")
def stage(corpus):
    """The config of a stage of pretraining that is over in no time."""
    from prompt_jax.pretrain import PretrainConfig

    return PretrainConfig(
        text_folder=str(corpus), files=(("prose.txt", 1.0),), output=str(corpus / "out"),
        tokenizer=str(corpus / "spiece.model"), teacher_folder=str(corpus / "teacher"),
        num_layers=1, num_decoder_layers=2, d_model=16, d_ff=16, num_heads=2, slots=4,
        slots_per_step=2, rows_per_slot=2, slot_steps=4, virtual_tokens=3, text_tokens=40,
        pair_tokens=44, steps=6, warmup_steps=2, decay_steps=2, checkpoint_every=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def prepared(stage):
    """What that stage learns from, and the weights that it starts with."""
    from prompt_jax.pretrain.corpus import load_tokenizer
    from prompt_jax.pretrain.run import prepare

    return prepare(stage, load_tokenizer(stage.tokenizer))


@pytest.fixture(scope="session")
def shard():
    """Splits weights over three files and an index."""

    def split(folder, tensors, name, save):
        places = {}
        for i in range(3):
            part = dict(list(tensors.items())[i::3])
            stem, suffix = name.split(".")
            file = f"{stem}-{i + 1:05d}-of-00003.{suffix}"
            save(part, folder / file)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": places}
        (folder / f"{name}.index.json").write_text(json.dumps(index))

    return split
