"""A text in the context becomes a prompt: the loss, the teacher, the command."""

import dataclasses
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.answers.distilled import divergence, fidelity, in_classes, likeliest
from prompt_jax.answers.readout import LossOptions
from prompt_jax.config import Config, DataConfig, DistilConfig, EvalConfig, InputError, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.experiment.questions import (
    check_bare,
    nearest_parts,
    parts_of,
    read_context,
    with_context,
    without_context,
)
from prompt_jax.experiment.resemblance import lessons_of
from prompt_jax.experiment.splits import Data
from prompt_jax.experiment.study import of_texts, study_sources, summaries
from prompt_jax.experiment.teacher import Teacher, _check_answers, _read, behind
from prompt_jax.experiment.teacher import taught as taught_data
from prompt_jax.forward import PromptedModel
from prompt_jax.methods import HeadConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig
from prompt_jax.prompts import load_prompt
from prompt_jax.runs import read_metrics
from prompt_jax.tasks import Example, Lesson, Likely, Message, Task, Text
from prompt_jax.tasks.templates import fill
from prompt_jax.weights import save_hugging_face

CONTEXT = "Answer as a pirate."


def taught(backbone, context):
    """Questions, and lessons of a teacher that reads a context before each."""
    rng = np.random.default_rng(0)
    questions = rng.integers(3, 60, (3, 6), np.int32)
    targets = rng.integers(3, 60, (3, 4), np.int32)
    read = np.concatenate([np.tile(context, (3, 1)), questions], axis=1)
    model = PromptedModel.of(backbone)
    there = jnp.ones(read.shape, bool)
    likely = likeliest(model, jnp.asarray(read), there, jnp.asarray(targets), top=8)
    return questions, targets, jax.tree.map(np.asarray, likely)


@pytest.mark.parametrize(
    ("fixture", "method"),
    [
        ("instruct", PrefixTuningConfig),
        pytest.param("instruct", PromptTuningConfig, marks=pytest.mark.slow),
        # An encoder reads both ways: rows in its input stand in for a text, and no fixed keys do.
        ("tiny_backbone", PromptTuningConfig),
    ],
)
def test_a_prompt_as_long_as_the_context_says_what_the_teacher_says(fixture, method, request):
    backbone = request.getfixturevalue(fixture)
    context = np.asarray(backbone.tokenizer(CONTEXT)["input_ids"], np.int32)
    questions, targets, likely = taught(backbone, context)
    there, all_targets = np.ones(questions.shape, bool), np.ones(targets.shape, bool)
    batch = Batch(questions, there, targets, all_targets, likely=likely)

    def loss_at(length):
        student = method(init="text", init_text=CONTEXT, num_virtual_tokens=length)
        tuned = pj.init(student, backbone, jax.random.key(0))
        return jax.jit(pj.distil_loss(student, backbone))(tuned, backbone.params, batch)

    mean, aux = loss_at(len(context))
    assert abs(float(mean)) < 1e-5 and aux["tokens"] == 12
    assert float(loss_at(len(context) - 1)[0]) > 1e-5


def test_divergences_are_those_of_the_classes():
    """Against scipy's, of the four likeliest words and all others as one."""
    from scipy.special import log_softmax, rel_entr

    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 1, 3, 9)).astype(np.float32)
    words = np.argsort(-teacher, axis=-1)[..., :4].astype(np.int32)

    def classes(logits):
        picked = np.take_along_axis(np.exp(log_softmax(logits, axis=-1)), words, -1)
        return np.concatenate([picked, 1 - picked.sum(-1, keepdims=True)], -1)

    p, q = classes(teacher), classes(student)
    likely = Likely(words, np.log(p[..., :4]).astype(np.float32))
    np.testing.assert_allclose(np.exp(in_classes(jnp.asarray(likely.log_probs))), p, atol=1e-6)

    def measured(**options):
        likely_on_device = jax.tree.map(jnp.asarray, likely)
        return divergence(jnp.asarray(student), likely_on_device, LossOptions(**options))

    np.testing.assert_allclose(measured(), rel_entr(p, q).sum(-1), atol=1e-5)
    reverse = rel_entr(q, p).sum(-1)
    np.testing.assert_allclose(measured(divergence="reverse"), reverse, atol=1e-5)
    np.testing.assert_allclose(measured(divergence="cross_entropy"), -np.log(q[..., 0]), atol=1e-5)
    warm = [x**0.5 / (x**0.5).sum(-1, keepdims=True) for x in (p, q)]
    np.testing.assert_allclose(measured(temperature=2.0), 4 * rel_entr(*warm).sum(-1), atol=1e-5)


def test_a_teacher_is_faithful_to_itself(instruct):
    context = np.asarray(instruct.tokenizer(CONTEXT)["input_ids"], np.int32)
    questions, targets, likely = taught(instruct, context)
    pairs = zip(targets, *likely, strict=True)
    lessons = [Lesson(row, Likely(words, log_probs)) for row, words, log_probs in pairs]
    read = [np.concatenate([context, question]) for question in questions]
    scores = fidelity(instruct, None, read, lessons, EvalConfig(batch_size=2))
    assert abs(scores["kl"]) < 1e-5 and scores["agreement"] == 1.0
    without = fidelity(instruct, None, list(questions), lessons, EvalConfig(batch_size=2))
    assert without["kl"] > 1e-3 and without.score == -without["kl"]


def test_what_cannot_stand_in_for_a_text(tiny_bert, tiny):
    with pytest.raises(InputError, match="only reads"):
        pj.distil_loss(PromptTuningConfig(), tiny_bert)
    with pytest.raises(InputError, match="head with a head.*take one of .*lora"):
        pj.distil_loss(HeadConfig(task_type="SEQ_CLS", num_labels=2), tiny)
    with pytest.raises(InputError, match="unknown divergence 'forwards'"):
        pj.distil_loss(LoraConfig(), tiny, divergence="forwards")


def chat(*turns):
    return Text(turns[-1][1], turns=tuple(Message(*turn) for turn in turns))


def test_the_text_stands_before_the_question():
    assert with_context("Why?", "Be brief.", in_system=True) == "Be brief.\n\nWhy?"
    asked = with_context(chat(("system", "Be kind."), ("user", "Why?")), "Rules.", in_system=True)
    assert asked.turns == (("system", "Rules.\n\nBe kind."), ("user", "Why?"))
    # Where a prompt stands in an empty turn, the rival without a text has none.
    empty = chat(("system", ""), ("user", "Why?"))
    assert with_context(empty, "Rules.", in_system=True).turns[0] == ("system", "Rules.")
    assert without_context(empty).turns == (("user", "Why?"),)
    # Of a template without a system's turn.
    asked = with_context(chat(("user", "Why?")), "Rules.", in_system=False)
    assert asked.turns == (("user", "Rules.\n\nWhy?"),)


def test_a_question_is_put_to_the_part_that_speaks_of_it():
    parts = ("the cook boils the fish", "the captain reads the chart", "the parrot talks")
    questions = ["Who reads the chart?", "Where is the fish?", "What does the parrot say?"]
    assert nearest_parts(questions, parts) == [1, 0, 2]


def test_parts_of_a_text_are_all_of_it(instruct):
    parts = parts_of("one two three four", instruct.tokenizer, 8)
    assert len(parts) == 3 and "".join(parts).replace(" ", "") == "onetwothreefour"
    assert parts_of("one two", instruct.tokenizer, None) == ("one two",)


def test_questions_are_bare(instruct):
    task = Task(name="q", source="Question: {text}\nAnswer:", target="{target}")
    text = fill(task.source, {"text": "Why? Answer: so"}, "q.txt line 3", "source")
    with pytest.raises(InputError, match="q.txt line 3 has 'Answer:' in it, which the template"):
        check_bare(task, [Example(text, "")], instruct.tokenizer)
    check_bare(task, [Example(fill(task.source, {"text": "Why?"}, "", "source"), "")], None)
    rendered = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(InputError, match="question 1 has '<|im_start|>assistant' in it"):
        chats = dataclasses.replace(task, source="{text}", chat=True)
        check_bare(chats, [Example(rendered, "")], instruct.tokenizer)


def teacher_of(backbone, tmp_path, context=CONTEXT, **distil):
    path = tmp_path / "context.txt"
    path.write_text(context)
    config = Config(
        train=TrainConfig(objective="distil"),
        distil=DistilConfig(context=str(path), top=4, **distil),
        eval=EvalConfig(batch_size=2, max_new_tokens=3),
    )
    return Teacher(config, backbone, read_context(config), tmp_path / "answers")


def test_a_text_that_does_not_fit_is_refused_with_a_size_that_does(instruct, tmp_path):
    long, questions = "Obey the captain. " * 20, [Example("Why?", "")]
    teacher = teacher_of(instruct, tmp_path, long)
    message = r"359 tokens long, .*112 over the 256 of 'instruct'; read it in parts .*chunk (\d+)"
    with pytest.raises(InputError, match=message) as caught:
        teacher.rows(teacher.sources(questions))
    size = int(re.search(message, str(caught.value))[1])
    chunked = teacher_of(instruct, tmp_path, long, chunk=size)
    assert len(chunked.rows(chunked.sources(questions))) == 1
    # A request for a summary is longer than the question, and the report goes on without it.
    lines = []
    assert summaries(chunked, 3, lines.append) == {}
    assert "no row for a summary" in lines[0] and "over the 256" in lines[0]


@pytest.mark.slow
def test_a_teacher_answers_once(instruct, tmp_path, monkeypatch):
    """What was answered is read again; damaged answers and those of other words are refused."""
    teacher = teacher_of(instruct, tmp_path)
    questions = [Example(text, "") for text in ("Why?", "Who are you?", "A ship!", "No")]
    task = Task(name="q", source="{text}", target="{target}")
    data = Data(task, questions[:3], questions[3:], {})
    first = taught_data(teacher, data, lambda line: None)
    monkeypatch.setattr("prompt_jax.experiment.teacher.teach", None)
    again = taught_data(teacher, data, lambda line: None)
    assert [example.target for example in first.train] == [e.target for e in again.train]
    jax.tree.map(np.testing.assert_array_equal, lessons_of(first.train), lessons_of(again.train))
    lesson = lessons_of(first.validation)[0]
    assert lesson.likely.words.shape == (len(lesson.tokens), 4)
    # Greedy: each token is the likeliest.
    np.testing.assert_array_equal(lesson.tokens, lesson.likely.words[:, 0])
    smaller = dataclasses.replace(instruct.config, vocab_size=int(lesson.tokens.max()))
    (path,) = (tmp_path / "answers").iterdir()
    with pytest.raises(InputError, match="another tokenizer"):
        _read(path, smaller.vocab_size)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="is damaged .* delete it"):
        taught_data(teacher, data, lambda line: None)


def test_a_model_is_asked_for_questions_of_every_kind_about_every_part(instruct, tmp_path):
    teacher = teacher_of(instruct, tmp_path, "The captain reads the chart. ", write=10, chunk=16)
    sources = study_sources(teacher)
    assert len(set(sources)) == 10
    systems = [source.turns[0] for source in sources]
    assert systems[:5] == [("system", "The captain read")] * 5
    assert systems[5:] == [("system", "s the chart.")] * 5
    lines = ["Why?\nBecause.", "", "Who?", "Why? \n", "Where?"]
    data = of_texts(teacher.config, lines)
    questions = {example.source for example in (*data.train, *data.validation)}
    assert questions == {"Why?", "Who?", "Where?"} and len(data.validation) == 1
    with pytest.raises(InputError, match="writes 1 different question.* in 2 tries"):
        of_texts(teacher.config, ["Why?", "Why?"])


def test_a_student_learns_what_stands_behind_the_thoughts(instruct):
    tokens = np.asarray(instruct.tokenizer("Six and one. Answer: 7")["input_ids"], np.int32)
    words = np.stack([tokens, tokens + 1], axis=1)
    lesson = Lesson(tokens, Likely(words, np.zeros(words.shape, np.float32)))
    end = behind(lesson, "Answer:", instruct.tokenizer)
    assert instruct.tokenizer.decode(end.tokens) == " 7"
    np.testing.assert_array_equal(end.likely.words[:, 0], end.tokens)
    assert not len(behind(lesson, "Result:", instruct.tokenizer).tokens)


@pytest.mark.parametrize(
    ("answers", "message"), [(["", ""], "all 2 questions are empty"), (["a", "a"], "'a' to all 2")]
)
def test_a_teacher_that_teaches_nothing(answers, message, instruct, tmp_path):
    with pytest.raises(InputError, match=message):
        _check_answers(answers, teacher_of(instruct, tmp_path), print)


def test_configs_that_cannot_be():
    with pytest.raises(InputError, match="use prompt-jax distil"):
        Config(distil=DistilConfig(context="a.txt"))
    with pytest.raises(InputError, match="both are questions: give one"):
        Config(
            train=TrainConfig(objective="distil"),
            distil=DistilConfig(context="a.txt", questions="q.txt"),
            data=DataConfig(task="embedded:quotes"),
        )
    with pytest.raises(InputError, match="no text to distil.*--distil.context"):
        read_context(Config(train=TrainConfig(objective="distil")))


def arguments_of_run(backbone, folder):
    """The arguments of a run of a few steps in a folder."""
    (folder / "context.txt").write_text(CONTEXT)
    words = ("good", "bad", "old", "new")
    (folder / "q.txt").write_text("\n".join(f"{words[i % 4]} film {i}" for i in range(20)))
    options = {
        "backbone": backbone, "out": folder / "run", "train.steps": 4, "train.batch-size": 4,
        "train.eval-every": 2, "train.checkpoint-every": 2, "eval.max-new-tokens": 4,
        "distil.context": folder / "context.txt", "distil.questions": folder / "q.txt",
        "distil.top": 8, "method.num-virtual-tokens": 3,
    }  # fmt: skip
    return [
        "distil",
        *(str(word) for pair in options.items() for word in (f"--{pair[0]}", pair[1])),
    ]


@pytest.fixture
def distil_run(tiny_folder, tmp_path):
    return arguments_of_run(tiny_folder, tmp_path)


@pytest.fixture(scope="module")
def pirate(instruct, tmp_path_factory):
    """A model that chats, and the run of a prompt in its system turn."""
    folder = tmp_path_factory.mktemp("pirate")
    model = save_hugging_face(folder / "model", instruct)
    assert cli.main(arguments_of_run(model, folder)) == 0
    return model, folder / "run"


@pytest.mark.slow
def test_a_text_becomes_a_saved_prompt(distil_run, tmp_path, capsys):
    assert cli.main(distil_run) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    for way in (
        "frozen model, with the text",
        "frozen model, no text",
        "its first 3 tokens",
        "its last 3 tokens",
        "its summary of 3 tokens",
        "tuned prompt",
    ):
        assert f"| {way} |" in report
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "validation/kl" in row] == [0, 2, 4]
    assert load_prompt(tmp_path / "run").task.kind == "generation"
    # As after `kill -9` behind the second step: the same prompt, and the teacher is not asked.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    assert cli.main([*distil_run, "--resume"]) == 0
    assert "resuming after step 2 of 4" in capsys.readouterr().out
    again = (tmp_path / "run" / "report.md").read_text()
    # But for the last column, the seconds of a request.
    first, second = (re.sub(r" [\d.]* \|\n", "\n", text) for text in (report, again))
    assert first == second
    teacher, bare, tuned = (
        re.search(rf"\| {way} \|.* ([\d,]+) \| ([\d.]+) \|\n", report).groups()
        for way in ("frozen model, with the text", "frozen model, no text", "tuned prompt")
    )
    memory = [int(cells[0].replace(",", "")) for cells in (teacher, bare, tuned)]
    # Of the decoder's only layer, keys and values of 2 heads of 8 numbers for each token.
    assert memory[2] - memory[1] == 3 * 2 * 2 * 8 * 4 and memory[0] > memory[2]
    assert all(float(cells[1]) > 0 for cells in (teacher, bare, tuned))
    at = distil_run.index("--distil.questions")
    studying = [*distil_run[:at], "--distil.write", "12", *distil_run[at + 2 :]]
    assert cli.main([*studying, "--overwrite", "--distil.lengths", "2", "4"]) == 0
    assert (tmp_path / "run" / "lengths.png").is_file()
    assert load_prompt(tmp_path / "run" / "lengths" / "4").rows.shape == (4, 16)


KILLED = """
import os, signal, sys
from prompt_jax import cli
from prompt_jax.experiment import members, teacher

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def teach(*arguments, files=[]):
    files.append(real_teach(*arguments))
    if len(files) == 3:
        die()
    return files[-1]

def prefetch(batches, first, last):
    for step, batch in enumerate(real_prefetch(batches, first, last), first):
        if step == 3:
            die()
        yield batch

teacher.ROWS = 4
real_teach, real_prefetch = teacher.teach, members.prefetch
if sys.argv[1] == "teacher":
    teacher.teach = teach
else:
    members.prefetch = prefetch
cli.main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_kill_9_of_teacher_and_student_changes_no_bit(distil_run, tmp_path, monkeypatch):
    """Killed behind its second file of answers, and again behind the first checkpoint."""
    resumed = distil_run
    for moment in ("teacher", "student"):
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, moment, *resumed],
            capture_output=True,
            text=True,
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        resumed = [*distil_run, "--resume"]
        if moment == "teacher":
            answers = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/teacher/*")}
            assert len(answers) == 2
    monkeypatch.setattr("prompt_jax.experiment.teacher.ROWS", 4)
    assert cli.main(resumed) == 0
    assert all(path.stat().st_mtime_ns == moment for path, moment in answers.items())
    whole = [str(tmp_path / "whole") if w == str(tmp_path / "run") else w for w in distil_run]
    assert cli.main(whole) == 0
    killed, never = (load_prompt(tmp_path / name) for name in ("run", "whole"))
    assert killed.digest == never.digest and killed.metrics == never.metrics


@pytest.mark.slow
def test_a_server_counts_the_tokens_that_a_distilled_prompt_saves(pirate, tmp_path):
    """A chat with the text in its system's turn, and the same question put to the prompt."""
    pytest.importorskip("fastapi")
    import httpx
    from serving import ADMIN, KEYS, SIZES, serving

    from prompt_jax.serve import Engine, Store
    from prompt_jax.serve.catalog import Catalog
    from prompt_jax.serve.http import create_app

    (model, run), store = pirate, str(tmp_path / "store")
    publish = ["prompts", "publish", str(run), "--store", store, "--name", "pirate"]
    assert cli.main(publish) == 0
    backbone, method = pj.load_backbone(str(model)), load_prompt(run).method
    system, user = {"role": "system", "content": CONTEXT}, {"role": "user", "content": "Why?"}
    bodies = [{"messages": [system, user]}, {"model": "pirate", "messages": [user]}]
    with Engine(backbone, room=[method], **{**SIZES, "lengths": (128,)}) as engine:
        catalog = Catalog(engine, Store(store))
        assert catalog.refresh() == []
        with (
            serving(create_app(catalog, KEYS)) as address,
            httpx.Client(base_url=address, headers=ADMIN, timeout=60) as client,
        ):
            replies = [client.post("/v1/chat/completions", json=body).json() for body in bodies]
            numbers = client.get("/metrics").text

    def number(name, prompt):
        line = rf'^prompt_jax:{name}_total{{.*prompt="{prompt}".*}} (\S+)$'
        return float(re.search(line, numbers, re.MULTILINE)[1])

    (base, tuned), names = replies, (catalog.base, "pirate")
    assert [number("request_success", name) for name in names] == [1, 1]
    assert [number("virtual_tokens", name) for name in names] == [0, 3]
    assert [number("prompt_tokens", name) for name in names] == [
        base["usage"]["prompt_tokens"], tuned["usage"]["prompt_tokens"],
    ]  # fmt: skip
    # The turn of the system stays, empty of words: the virtual tokens stand in it.
    assert number("prompt_tokens", names[0]) - number("prompt_tokens", "pirate") == len(CONTEXT)


@pytest.mark.slow
def test_a_distilled_prompt_is_pruned_and_put_into_words(pirate, tmp_path, capsys, monkeypatch):
    """Both compare with the teacher's answers, which are those of the run."""
    monkeypatch.setattr("prompt_jax.experiment.teacher.teach", None)
    run, few = str(pirate[1]), tmp_path / "few"
    prune = ["prompts", "prune", run, "--output", str(few), "--batches", "1", "--tolerance", "9"]
    assert cli.main(prune) == 0
    printed = capsys.readouterr().out
    assert "| virtual tokens kept | minus KL |" in printed and "| kept | -" in printed
    pruned = load_prompt(few)
    assert len(pruned.rows) == 1 and pruned.method.placement == "system"
    assert cli.main(["prompts", "project", run, "--steps", "2", "--every", "1"]) == 0
    printed = capsys.readouterr()
    assert "| soft prompt | -" in printed.out and "| the text | -" in printed.out
    assert len(re.findall(r"step \d of 2: minus KL -", printed.err)) == 3
