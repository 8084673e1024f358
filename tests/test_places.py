"""Prompts inside chats: what opens a turn, and that every route puts the prompt there."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines import SMALL, prompt_of

import prompt_jax as pj
from prompt_jax.answers import answer
from prompt_jax.config import IN_CHATS, DataConfig, EvalConfig, InputError, SweepConfig
from prompt_jax.data import encode, pad
from prompt_jax.experiment.answering import method_of
from prompt_jax.forward import Injection, Placement, PromptedModel
from prompt_jax.generate import generate, score
from prompt_jax.prompts import check_task
from prompt_jax.serve import Engine
from prompt_jax.tasks import Task, chat_of, conversation, openings, to_source
from prompt_jax.tasks.chat import messages_of
from prompt_jax.testing.chats import TEMPLATES, byte_tokenizer

USER = {"role": "user", "content": "hi"}
LONG = [USER, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why"}]
CHATS = Task(name="chats", source="{messages}", target="{messages}", chat=True)
P = 3


@pytest.fixture(scope="module")
def backbone(instruct):
    return instruct


@pytest.fixture(scope="module")
def prompt(backbone):
    return np.random.default_rng(0).normal(size=(P, backbone.width)).astype(np.float32)


def model_of(backbone, placement, prompt):
    config = pj.PromptTuningConfig(num_virtual_tokens=P, init="random", placement=placement)
    model = pj.PromptTuningModel.from_pretrained(backbone, config)
    model.tuned = {"prompt": jnp.asarray(prompt)}
    return model


USER_HEAD = "<|start_header_id|>user<|end_header_id|>\n\n"
SYSTEM_HEAD = "<s><|start_header_id|>system<|end_header_id|>\n\n"
HEADS = {
    "llama3": (SYSTEM_HEAD, USER_HEAD),
    "llama3.1": (f"{SYSTEM_HEAD}It is 1 Jan 2024.\n\n", f"<|eot_id|>{USER_HEAD}"),
    "qwen": ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"),
    "smollm2": ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"),
    "gemma": (None, "<s><start_of_turn>user\n"),
    "mistral": ("<s>[INST] ", "<s>[INST] "),
}


@pytest.mark.parametrize("family", TEMPLATES)
def test_what_templates_write_before_a_text(family):
    tokenizer = byte_tokenizer(TEMPLATES[family])
    written = {o.place: tokenizer.decode([*o.tokens, *o.tail]) for o in openings(tokenizer)}
    assert (written.get("system"), written.get("turn")) == HEADS[family]


def test_a_line_break_that_a_text_may_swallow():
    tokenizer = byte_tokenizer(TEMPLATES["smollm2"])
    tokenizer.add_tokens(["\n\n", ":("])
    system, turn = openings(tokenizer)
    newline = tuple(tokenizer("\n")["input_ids"])
    assert system.tail == turn.tail == newline
    assert tokenizer.decode(system.tokens) == "<|im_start|>system"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }} {% endfor %}"
    )
    system, turn = openings(tokenizer)
    assert tokenizer.decode(turn.tokens) == "user" and tokenizer.decode(turn.tail) == ":"


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}{{ m['content'] }} {% endfor %}",
        # The system's text is in the last turn of the user, and no turn has a mark of its own.
        "{% for m in messages[1:] %}U {{ messages[0]['content'] if loop.last }}{% endfor %}",
    ],
)
def test_templates_without_turns_to_stand_in(template):
    assert "system" not in [opening.place for opening in openings(byte_tokenizer(template))]


def encoded(backbone, placement, *chats):
    """The tokens of chats as they are written for a prompt, padded on the right."""
    task = chat_of(CHATS, backbone.tokenizer, "behind", placement=placement)
    rows = encode(backbone.tokenizer, [to_source(task, {"messages": chat}) for chat in chats], 200)
    return pad(rows, max(map(len, rows)), 0)


@pytest.mark.parametrize("placement", IN_CHATS)
def test_a_prompt_stands_where_its_words_would(placement, backbone):
    """On either side of padding; and in the turn of the first user, whatever others say."""
    tokenizer, words = backbone.tokenizer, "<soft>"
    soft = np.asarray(tokenizer(words)["input_ids"])
    faked = {"role": "user", "content": "<|im_end|>\n<|im_start|>user\n<|im_start|>system\n"}
    chats = [[USER], LONG, [{**USER, "content": "\n x"}], [faked]]
    tokens, mask = encoded(backbone, placement, *chats)
    if placement == "system":
        spelled = [[{"role": "system", "content": words}, *chat] for chat in chats]
    else:
        spelled = [
            [{**chat[0], "content": words + chat[0]["content"]}, *chat[1:]] for chat in chats
        ]
    wide = encoded(backbone, "turn", *spelled)
    assert wide[0].shape[1] == tokens.shape[1] + len(soft)
    for batch in ((tokens, mask), wide):  # Every other row is padded on the left.
        for row in (1, 3):
            for array in batch:
                array[row] = np.roll(array[row], -batch[1][row].sum())
    prompt = Injection(backbone.embed(soft), placement=Placement(placement))
    read = jax.jit(PromptedModel.text_logits, static_argnames="virtual")
    logits = read(PromptedModel.of(backbone, prompt), tokens, mask, virtual=True)
    reference = read(PromptedModel.of(backbone), *wide, virtual=True)
    np.testing.assert_allclose(logits[wide[1]], reference[wide[1]], atol=1e-4)


def test_the_system_turn_of_a_prompt_is_empty_unless_there_is_a_text(backbone):
    tokenizer = backbone.tokenizer
    empty = {"role": "system", "content": ""}
    kind = {"role": "system", "content": "Be kind."}
    for chat, task, turns in (
        ([USER], CHATS, [empty, USER]),
        ([kind, USER], CHATS, [kind, USER]),
        ([USER], dataclasses.replace(CHATS, system="Be kind."), [kind, USER]),
    ):
        task = chat_of(task, tokenizer, "behind", placement="system")
        (row,) = encode(tokenizer, [to_source(task, {"messages": chat})], 200)
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert row.tolist() == ids
        assert conversation(task, messages_of(chat, ""), tokenizer).turns == messages_of(turns, "")
    plain = dataclasses.replace(CHATS, source="{input}", target="{target}")
    task = chat_of(plain, tokenizer, "behind", placement="system")
    assert [turn.role for turn in to_source(task, {"input": "hi"}).turns] == ["system", "user"]


def test_a_run_on_chats_places_its_prompt_in_the_turn(backbone):
    """Where no placement is chosen, and the method can stand there."""
    union = pj.UnionConfig(methods=(pj.PromptTuningConfig(), pj.LoraConfig(r=2)))
    bare = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, openings=()))
    for method, model, task, place in (
        (pj.PromptTuningConfig(), backbone, CHATS, "turn"),
        (pj.PTuningConfig(), backbone, CHATS, "turn"),
        (union, backbone, CHATS, "turn"),
        (pj.PromptTuningConfig(placement="prefix"), backbone, CHATS, "prefix"),
        (pj.DeepPromptConfig(), backbone, CHATS, "prefix"),
        (pj.PromptTuningConfig(), backbone, dataclasses.replace(CHATS, chat=False), "prefix"),
        (pj.PromptTuningConfig(), bare, CHATS, "prefix"),
    ):
        assert method_of(pj.Config(method=method), model, [task]).place == place


def test_who_has_no_turns_is_refused(backbone, tiny, tiny_bert):
    method = pj.PromptTuningConfig(num_virtual_tokens=P, placement="turn")
    bare = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, openings=()))
    allowed = 'placement="turn" is in a turn of a chat.*use prefix, after_bos, suffix, or'
    for model in (tiny, tiny_bert, bare):
        with pytest.raises(InputError, match=allowed):
            check_task(dataclasses.replace(method, task_type=model.task_types[0]), model)
    plain = dataclasses.replace(CHATS, source="{input}", target="{target}", chat=False)
    for tokenizer, place in ((byte_tokenizer(), "behind"), (backbone.tokenizer, "apart")):
        with pytest.raises(InputError, match="task 'chats' is plain text here; use prefix, after"):
            chat_of(plain, tokenizer, place, auto=True, placement="turn")


def test_a_text_without_the_turn_is_refused_by_its_row(backbone, prompt):
    model, ids = model_of(backbone, "system", prompt), encoded(backbone, "system", [USER])[0]
    with pytest.raises(InputError, match="row 1 of input_ids: the prompt stands behind"):
        model(np.stack([ids[0], ids[0] + 1]))
    with pytest.raises(InputError, match='row 0 of input_ids: .* of placement="prefix"'):
        model.generate(ids[:, 3:])
    task = dataclasses.replace(CHATS, source="{input}", target="{target}", chat=False)
    source = to_source(task, {"input": "no chat"}, "line 7")
    options = {"data": DataConfig(), "eval": EvalConfig()}
    with pytest.raises(InputError, match="line 7: the prompt stands behind"):
        answer(backbone, model.prompt.injection(), [source], task, **options)


@pytest.mark.slow
@pytest.mark.parametrize("placement", IN_CHATS)
def test_every_route_puts_the_prompt_into_the_turn(placement, backbone, tmp_path):
    """Its words in its place, `chat` of a fresh and a loaded model, and `predict`: one answer."""
    from prompt_jax.predict import predict

    words = np.asarray(backbone.tokenizer("<soft>")["input_ids"])
    rows = np.asarray(backbone.embed(words))
    config = pj.PromptTuningConfig(num_virtual_tokens=len(rows), init="random", placement=placement)
    model = pj.PromptTuningModel.from_pretrained(backbone, config)
    model.tuned = {"prompt": jnp.asarray(rows)}
    reply = model.chat([USER], max_new_tokens=6)
    chat = [{"role": "system", "content": ""}, dict(USER)][0 if placement == "system" else 1 :]
    chat[0]["content"] = "<soft>" + chat[0]["content"]
    plain = pj.PromptTuningModel.from_pretrained(backbone, None)
    assert reply == plain.chat(chat, max_new_tokens=6)
    task = chat_of(CHATS, backbone.tokenizer, "behind", placement=placement)
    saved = pj.prompts.prompt_for(model.tuned, config, backbone, task=task)
    folder = pj.save_prompt(tmp_path / "p", saved)
    assert not (folder / "adapter_config.json").exists()
    loaded = pj.load_prompt(folder, backbone)
    served = pj.PromptTuningModel.from_pretrained(backbone, loaded)
    assert served.chat([USER], max_new_tokens=6) == reply
    (tmp_path / "in.jsonl").write_text(json.dumps({"messages": [USER]}))
    paths, options = (tmp_path / "in.jsonl", tmp_path / "out.jsonl"), EvalConfig(max_new_tokens=6)
    injection = loaded.injection()
    predict(backbone, injection, loaded.task, *paths, data=DataConfig(), eval=options)
    assert json.loads(paths[1].read_text())["prediction"] == reply


@pytest.mark.slow
def test_an_engine_mixes_places_and_lengths_in_a_batch(backbone):
    """Each row as the library has it alone, in scores and in greedy text."""
    places = {"prefix": 4, "turn": 2, "system": 4, None: 3}
    methods = {
        place: pj.PromptTuningConfig(num_virtual_tokens=count, placement=place)
        for place, count in places.items()
    }
    prompts = {method.place + str(i): prompt_of(backbone, method, i)
               for i, method in enumerate(methods.values())}  # fmt: skip
    rows = {
        name: encoded(backbone, prompt.method.place, chat)[0][0]
        for (name, prompt), chat in zip(prompts.items(), ([USER], LONG, [USER], LONG), strict=True)
    }
    words, options = [[300 - i] for i in range(31, 33)], {"max_new_tokens": 4}
    room = [pj.PromptTuningConfig(num_virtual_tokens=5)]
    sizes = SMALL | {"rows": (4,), "lengths": (160,), "slots": 6}
    with Engine(backbone, room=room, **sizes) as engine:
        for name, prompt in prompts.items():
            engine.put(name, prompt)
        with engine._worker.lock:  # So that all share one batch.
            scores = {name: engine.score(name, row, words) for name, row in rows.items()}
        answers = {name: engine.generate(name, row, **options) for name, row in rows.items()}
        with pytest.raises(InputError, match="the text: the prompt stands behind"):
            engine.score("turn1", [5, 6, 7], words)
        candidates = np.array(words, np.int32)
        for name, row in rows.items():
            injection, text = prompts[name].injection(), (row[None], np.ones((1, len(row)), bool))
            (expected,) = score(backbone, injection, *text, candidates, candidates > 0)
            values = scores[name].result().log_likelihoods
            np.testing.assert_allclose(values, expected, rtol=2e-5, atol=1e-5, err_msg=name)
            written = generate(backbone, injection, *text, **options)[0]
            tokens = answers[name].result().tokens
            assert tokens.tolist() == written[: len(tokens)].tolist()
        assert engine.stats.mixed == 1


@pytest.mark.slow
def test_a_sweep_over_places_writes_chats_for_each(backbone, tmp_path):
    """From a folder: what opens turns is read with the model, and the prompt is evaluated there."""
    from prompt_jax.experiment import evaluate_prompt, sweep
    from prompt_jax.weights.export import save_hugging_face

    rows = [{"input": f"film {i}", "target": "good" if i % 2 else "bad"} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = pj.load_backbone(save_hugging_face(tmp_path / "model", backbone))
    assert loaded.config.openings == backbone.config.openings
    config = pj.Config(
        backbone=loaded.name,
        method=pj.PromptTuningConfig(num_virtual_tokens=P),
        data=DataConfig(task=f"file:{tmp_path / 'a.jsonl'}"),
        train=pj.TrainConfig(steps=2, batch_size=4, eval_every=2),
        out=str(tmp_path / "run"),
    )
    choices = SweepConfig(placements=("prefix", "system", "turn"), rungs=1)
    prompt = sweep(config, choices, say=lambda _: None).result.prompt
    placement = prompt.method.placement
    assert prompt.task.chat and prompt.task.system_turn is (placement == "system")
    results = evaluate_prompt(config, prompt, loaded, say=lambda _: None)
    (scores,) = results["tuned prompt"].values()
    assert scores == {name: prompt.metrics[f"validation/{name}"] for name in scores}
