"""Many threads, many prompts, one frozen model: every row as if it were alone."""

import contextvars
import dataclasses
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines import SMALL, prompt_of, prompts_of

from prompt_jax.answers import classify, combine
from prompt_jax.backbones import init_params
from prompt_jax.config import (
    HeadConfig,
    IA3Config,
    InputError,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
)
from prompt_jax.forward import PromptedModel
from prompt_jax.generate import generate, score
from prompt_jax.serve import DeadlineError, Engine, Kind, TooManyPromptsError, UnknownPromptError
from prompt_jax.serve.prompts import Served
from prompt_jax.serve.requests import CALLER, WRITE, Caller, Queue, Request
from prompt_jax.testing import shaken
from prompt_jax.testing import tiny as tiny_of

pytestmark = pytest.mark.timeout(180)


def with_positions(backbone, count=160):
    """The same kind of model, that reads longer texts."""
    if not hasattr(backbone.config, "max_positions"):
        return backbone
    config = dataclasses.replace(backbone.config, max_positions=count)
    params = init_params(config, jax.random.key(3))
    return dataclasses.replace(backbone, config=config, params=shaken(params, 4))


def text_for(backbone, seed, longest=6):
    """Some tokens, with a mask among them where the model fills masks."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 60, rng.integers(2, longest + 1))
    mask = getattr(backbone.config, "mask_token_id", None)
    return [mask, *tokens[1:].tolist()] if mask is not None else tokens.tolist()


def words_for(backbone, seed):
    rng = np.random.default_rng(1000 + seed)
    return [[int(rng.integers(2, 60))] for _ in range(rng.integers(2, 5))]


def alone(backbone, prompt, text, words):
    """What the library says of one row."""
    candidates = np.array(words, np.int32)
    injection = None if prompt is None else prompt.injection()
    rows = np.array([text], np.int32), np.ones((1, len(text)), bool)
    return np.asarray(score(backbone, injection, *rows, candidates, np.ones_like(candidates) > 0))[
        0
    ]


@pytest.fixture(
    params=["tiny", *(pytest.param(f"tiny_{n}", marks=pytest.mark.slow) for n in ("gpt2", "bert"))]
)
def roomy(request):
    return with_positions(request.getfixturevalue(request.param))


@pytest.mark.slow
def test_any_row_of_64_prompts_is_the_row_alone(tiny):
    """Lengths of 1 to 100 and three methods: to the bit at one shape, to rounding across shapes.

    Every family has rows of its own in test_bank.py.
    """
    roomy = with_positions(tiny)
    rng = np.random.default_rng(7)
    lengths = [1, 100, *rng.choice([2, 7, 20, 33, 64, 91], 42)]
    methods = [PromptTuningConfig(num_virtual_tokens=int(n)) for n in lengths]
    methods += [LoraConfig(r=int(r)) for r in rng.integers(1, 5, 8)]
    methods += [PrefixTuningConfig(num_virtual_tokens=int(n)) for n in rng.integers(1, 9, 8)]
    methods += [IA3Config()] * 4
    prompts = {f"p{i}": prompt_of(roomy, method, i) for i, method in enumerate(methods)}
    assert len({prompt.digest for prompt in prompts.values()}) == len(prompts) == 64
    texts = {name: text_for(roomy, i) for i, name in enumerate(prompts)}
    words = {name: words_for(roomy, i) for i, name in enumerate(prompts)}
    options = {"rows": (64,), "lengths": (8,), "window": 0, "max_new_tokens": 2}
    with Engine(roomy, prompts, slots=64, **options) as engine:
        # Before: those whose program is there would not wait for the others.
        engine.warm_up([Kind("score", 8, count, 1) for count in (2, 8)])

        def ask(names):
            with engine._worker.lock:  # Nothing is taken before all wait.
                found = [engine.score(name, texts[name], words[name]) for name in names]
            return {n: f.result().log_likelihoods for n, f in zip(names, found, strict=True)}

        crowd = {}
        # All candidates of a batch are padded to one count, so rows of one count stand together.
        for count in (2, 8):
            crowd |= ask([n for n in prompts if engine_count(words[n]) == count])
        assert engine.stats.mixed == 2
        names = list(prompts)
        # What all prompts together need, two rows that need less have compiled otherwise.
        kinds = [names[44], names[52], names[60]]
        for _ in range(4):
            pair = [names[i] for i in rng.choice(44, 2, replace=False)]
            for name, values in ask([*pair, *kinds]).items():
                if engine_count(words[name]) == 8:
                    np.testing.assert_array_equal(values, crowd[name])
    for name in rng.choice(names, 6, replace=False):
        wanted = alone(roomy, prompts[name], texts[name], words[name])
        np.testing.assert_allclose(crowd[name], wanted, rtol=2e-5, atol=1e-5, err_msg=name)


def engine_count(words):
    return 2 if len(words) <= 2 else 8


def test_plain_rows_have_the_plain_model(roomy):
    with Engine(roomy, prompts_of(roomy), **SMALL) as engine:
        text, words = text_for(roomy, 0), words_for(roomy, 0)
        got = engine.score(None, text, words).result()
    np.testing.assert_allclose(got.log_likelihoods, alone(roomy, None, text, words), rtol=1e-5)
    assert got.digest == ""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "gpt2", "llama", "bart"])
def test_rows_come_and_go_while_others_are_written(family):
    """More rows than places, greedy and drawn, each what `generate` writes."""
    backbone = tiny_of(family)
    prompts = prompts_of(backbone)
    with Engine(backbone, prompts, **SMALL) as engine:
        asked = []
        for i in range(14):
            name = [*prompts, None][i % 6]
            options = {"max_new_tokens": 1 + i % 6}
            if i % 3 == 1:
                options |= {"temperature": 0.7, "seed": i, "top_k": 5 * (i % 2), "top_p": 0.9}
            if i % 4 == 3:
                options |= {"repetition_penalty": 3.0, "stop_token_ids": [i]}
                options |= {"min_new_tokens": options["max_new_tokens"] // 2}
            text = text_for(backbone, i)
            asked.append((name, text, options, engine.generate(name, text, **options)))
        for name, text, options, future in asked:
            written = future.result()
            injection = None if name is None else prompts[name].injection()
            # The first tokens of a longer answer: one program for all lengths.
            rows = np.pad([text], ((0, 0), (0, 8 - len(text)))), np.arange(8)[None] < len(text)
            count = options.pop("max_new_tokens")
            wanted = generate(backbone, injection, *rows, max_new_tokens=6, **options)[0, :count]
            ends = (*backbone.config.eos_token_ids, *options.get("stop_token_ids", ()))
            if count < 6 and backbone.config.final_token_id is not None:
                wanted[-1] = backbone.config.final_token_id
            ended = np.flatnonzero(np.isin(wanted, ends))
            wanted = wanted[: ended[0] + 1] if len(ended) else wanted
            np.testing.assert_array_equal(written.tokens, wanted)
            assert written.log_probs.shape == wanted.shape and (written.log_probs <= 0).all()
            assert written.digest == (prompts[name].digest if name else "")
        assert engine.stats.writing == 0


def test_answers_come_as_they_are_written(tiny):
    with Engine(tiny, prompts_of(tiny), **SMALL, burst=2) as engine:
        pieces = []
        whole = engine.generate("p1", [5, 6], max_new_tokens=6, stream=pieces.append).result()
        # The first token comes alone, as soon as it is there; then two at a time.
        assert [len(piece.tokens) for piece in pieces][:2] == [1, 2]
        for rows, whole_rows in ((0, whole.tokens), (1, whole.log_probs)):
            np.testing.assert_array_equal(np.concatenate([p[rows] for p in pieces]), whole_rows)

        def broken(tokens):
            raise ZeroDivisionError

        spoilt = engine.generate("p1", [5, 6], max_new_tokens=6, stream=broken)
        other = engine.generate("p1", [5, 6], max_new_tokens=6)
        with pytest.raises(ZeroDivisionError):
            spoilt.result()
        np.testing.assert_array_equal(other.result().tokens, whole.tokens)


@pytest.mark.slow
def test_the_likeliest_tokens_of_what_is_written_and_read(tiny_llama):
    prompts = prompts_of(tiny_llama)
    with Engine(tiny_llama, prompts, **SMALL) as engine:
        text = np.array([5, 6, 7, 8])
        futures = [engine.generate("p1", text, max_new_tokens=4, top_logprobs=k) for k in (0, 3)]
        few, told = (future.result() for future in futures)
        np.testing.assert_array_equal(few.tokens, told.tokens)
        assert few.likeliest.tokens.shape == (len(few.tokens), 0)
        np.testing.assert_array_equal(told.likeliest.tokens[:, 0], told.tokens)  # Greedy.
        np.testing.assert_array_equal(told.likeliest.log_probs[:, 0], told.log_probs)
        # Text and answer, read as one text: what a decoder says of its own answer.
        read = engine.read("p1", np.concatenate([text, told.tokens])[:8], top_logprobs=3).result()
        assert np.isnan(read.log_probs[0]) and read.digest == prompts["p1"].digest
        count = len(read.tokens) - len(text)
        np.testing.assert_allclose(read.log_probs[4:], told.log_probs[:count], atol=1e-5)
        np.testing.assert_array_equal(read.likeliest.tokens[4:], told.likeliest.tokens[:count])
        model = PromptedModel.of(tiny_llama, prompts["p1"].injection())
        rows = jnp.asarray(read.tokens)[None]
        logits = model.text_logits(rows, jnp.ones(rows.shape, bool))[0]
        wanted = jax.nn.log_softmax(logits)[np.arange(len(logits) - 1), read.tokens[1:]]
        np.testing.assert_allclose(read.log_probs[1:], wanted, atol=1e-5)
        with pytest.raises(InputError, match="top_logprobs is 0 to 20, got 21"):
            engine.read("p1", text, top_logprobs=21)


@pytest.mark.slow
def test_heads_of_other_numbers_of_classes(tiny_bert):
    methods = [HeadConfig(num_labels=n, task_type="SEQ_CLS") for n in (2, 5)]
    prompted = PromptTuningConfig(num_virtual_tokens=3, num_labels=3, task_type="SEQ_CLS")
    prompts = {f"p{i}": prompt_of(tiny_bert, m, i) for i, m in enumerate([*methods, prompted])}
    prompts["words"] = prompt_of(tiny_bert, PromptTuningConfig(num_virtual_tokens=2), 9)
    with Engine(tiny_bert, prompts, **{**SMALL, "rows": (3,)}) as engine:
        text = text_for(tiny_bert, 1)
        with engine._worker.lock:
            found = {name: engine.classify(name, text) for name in ("p0", "p1", "p2")}
        for name, future in found.items():
            rows = np.array([text], np.int32), np.ones((1, len(text)), bool)
            wanted = classify(tiny_bert, prompts[name].injection(), *rows)[0]
            got = future.result()
            np.testing.assert_allclose(got.log_probs, wanted, rtol=1e-5, atol=1e-5)
            assert got.digest == prompts[name].digest
        assert engine.stats.batches == 1
        with pytest.raises(InputError, match="prompt 'words' has no head; ask for the scores"):
            engine.classify("words", text)


def test_a_text_as_a_vector(roomy):
    prompts = prompts_of(roomy)
    with Engine(roomy, prompts, **SMALL) as engine:
        one = engine.embed("p1", [5, 6, 7]).result()
        other = engine.embed("p2", [5, 6, 7]).result()
        plain = engine.embed(None, [5, 6, 7]).result()
    assert one.vector.shape == (roomy.width,) and np.isfinite(one.vector).all()
    assert np.abs(one.vector - other.vector).max() > 1e-3
    tokens = jnp.array([[5, 6, 7]], jnp.int32)
    model = PromptedModel(roomy.module, roomy.params)
    wanted = model.text_states(tokens, tokens > 0)[0].mean(0)
    np.testing.assert_allclose(plain.vector, wanted, rtol=1e-5, atol=1e-5)


def test_several_prompts_answer_one_request(tiny):
    prompts = prompts_of(tiny, 6)
    text, words = [4, 5, 6], [[7], [8], [9]]
    with Engine(tiny, prompts, **SMALL) as engine:
        names = ["p0", "p3", "p4"]
        each = [engine.score(name, text, words).result() for name in names]
        said = np.stack([np.asarray(jax.nn.log_softmax(s.log_likelihoods)) for s in each])[None]
        for how, weights in [("average", None), ("vote", None), ("weighted", [1, 0, 2])]:
            got = engine.ensemble(names, text, words, how=how, weights=weights).result()
            best, scores = combine(said, how, weights)
            assert got.best == best[0] and got.digests == tuple(s.digest for s in each)
            np.testing.assert_allclose(got.scores, scores[0], rtol=1e-5)
        with pytest.raises(TooManyPromptsError, match="names 5 prompts and 4 can be had at once"):
            engine.ensemble([f"p{i}" for i in range(5)], text, words)
        with pytest.raises(InputError, match="weights are 2 numbers"):
            engine.ensemble(["p0", "p1"], text, words, how="weighted", weights=[1])
        late = engine.ensemble(["p0", "p1"], text, words, timeout=0.0)
        with pytest.raises(DeadlineError, match="no answer within"):
            late.result()


@pytest.mark.slow
def test_more_prompts_than_slots_take_turns(tiny):
    prompts = prompts_of(tiny, 10)
    texts = {name: text_for(tiny, i) for i, name in enumerate(prompts)}
    with Engine(tiny, prompts, **{**SMALL, "slots": 2}) as engine:
        for _ in range(2):
            asked = {n: engine.score(n, texts[n], [[3], [4]]) for n in prompts}
            written = {n: engine.generate(n, texts[n], max_new_tokens=3) for n in prompts}
            for name, future in asked.items():
                wanted = alone(tiny, prompts[name], texts[name], [[3], [4]])
                np.testing.assert_allclose(future.result().log_likelihoods, wanted, rtol=1e-5)
            assert all(future.result().digest == prompts[n].digest for n, future in written.items())
        assert engine.stats.loaded > 10


def test_swaps_under_load_compile_nothing(tiny):
    """Every answer is exactly that of the version whose digest it names."""
    methods = [PromptTuningConfig(num_virtual_tokens=n) for n in (2, 5)]
    versions = [prompt_of(tiny, methods[i % 2], i) for i in range(6)]
    text, words = [4, 5, 6], [[7], [8]]
    others = prompts_of(tiny)
    compiled = []

    def listen(name, *_, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    with Engine(tiny, {**others, "x": versions[0]}, **SMALL) as engine:
        # The largest board, and that of one row.
        engine.warm_up([Kind("score", 8, 2, 1), WRITE, Kind("write", 8, 1)])
        known = {}
        for version in versions:
            digest = engine.put("x", version)
            got = engine.score("x", text, words).result()
            assert got.digest == digest == version.digest
            known[digest] = got.log_likelihoods
        shapes = engine.stats.shapes
        jax.monitoring.register_event_duration_secs_listener(listen)
        stop, found, failed = threading.Event(), [], []

        def ask(name):
            while not stop.is_set():
                try:
                    found.append((name, engine.score(name, text, words).result()))
                    engine.generate(name, text, max_new_tokens=2).result()
                except UnknownPromptError:
                    found.append((name, None))
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("x", "x", "p0", "p3")]
        for thread in threads:
            thread.start()
        rng = np.random.default_rng(0)
        for turn in range(60):
            engine.put("x", versions[rng.integers(6)])
            time.sleep(0.002)
            if turn % 10 == 9:
                engine.remove("x")
                time.sleep(0.002)
        stop.set()
        for thread in threads:
            thread.join()
        jax.monitoring.unregister_event_duration_listener(listen)
        assert not failed and engine.stats.shapes == shapes and not compiled
    answers = [got for name, got in found if name == "x" and got is not None]
    assert len({got.digest for got in answers}) > 2
    for got in answers:
        # The window is open, so the rows beside this one were others: another shape may round.
        np.testing.assert_allclose(got.log_likelihoods, known[got.digest], rtol=1e-5)
    assert {got.digest for name, got in found if name == "p0"} == {others["p0"].digest}


def test_a_record_stays_what_it_was(tiny):
    """Whoever holds one is answered by it, whatever its name means or if it means nothing."""
    prompts = prompts_of(tiny, 2)
    with Engine(tiny, prompts, **SMALL) as engine:
        record = engine.version("p0")
        assert engine.version(record) is record and engine.version(None).digest == ""
        before = engine.score("p0", [4, 5], [[7], [8]]).result()
        engine.put("p0", prompts["p1"])
        engine.remove("p1")
        assert engine.score("p0", [4, 5], [[7], [8]]).result().digest == prompts["p1"].digest
        after = engine.score(record, [4, 5], [[7], [8]]).result()
        assert after.digest == before.digest == record.digest
        np.testing.assert_array_equal(after.log_likelihoods, before.log_likelihoods)


@pytest.mark.parametrize("turn", ["key", "prompt"])
def test_one_keeps_out_no_other(tiny, turn):
    """Twenty requests of one key or prompt, then one of another: it is in the first batch."""
    order, context = [], contextvars.copy_context()
    context.run(CALLER.set, Caller("other" if turn == "key" else ""))
    prompts = prompts_of(tiny)
    with Engine(tiny, prompts, **{**SMALL, "rows": (4,)}) as engine:
        with engine._worker.lock:
            many = [engine.score("p0", [4, 5], [[7], [8]]) for _ in range(20)]
            name = "p0" if turn == "key" else "p1"
            one = context.run(engine.score, name, [4, 5], [[7], [8]])
        for name, future in [("one", one), *(("many", future) for future in many)]:
            future.add_done_callback(lambda _, name=name: order.append(name))
        for future in [one, *many]:
            future.result()
        assert order.index("one") < 4 and engine.stats.batches == 6


@pytest.mark.slow
def test_warm_up_compiles_what_is_asked(tiny):
    with Engine(tiny, prompts_of(tiny), **SMALL) as engine:
        # Two parts of a slot; embeddings and scores at two sizes; inputs of 1 and 4 rows, tokens.
        assert engine.warm_up() == 2 * (2 + 2 + 3)
        assert engine.warm_up([Kind("score", 8, 8, 1)]) == 2 * (2 + 2 + 3) + 2 * 2
        assert engine.stats.rows == 0


def test_label_words_are_ranked_as_the_prompt_was_evaluated(tiny):
    prompt = prompt_of(tiny, PromptTuningConfig(num_virtual_tokens=1), 0)
    by_sum = dataclasses.replace(prompt, recipe={"eval": {"length_normalize": False}})
    with Engine(tiny, {"mean": prompt, "sum": by_sum}, **SMALL) as engine:
        words = [4, 5], [[7], [8, 9]]
        mean, total = (engine.score(name, *words).result()[0] for name in ("mean", "sum"))
        np.testing.assert_allclose(total, mean * [1, 2], rtol=1e-6)
        asked = engine.score("sum", *words, length_normalize=True).result()[0]
        np.testing.assert_array_equal(asked, mean)
        both = ["mean", "sum"], *words
        joint, sums = engine.ensemble(*both), engine.ensemble(*both, length_normalize=False)
        np.testing.assert_array_equal(joint.result().scores, sums.result().scores)


def test_callers_take_turns():
    """One who asks often keeps out no other, whatever prompts they name."""
    kind = Kind("score", 8, 2, 1)

    def request(key, prompt):
        served = Served(reference=prompt, digest=prompt, content=prompt)
        return Request(served, kind, np.zeros(1, np.int32), caller=Caller(key))

    def take(size, capacity=64, held=(), waits=()):
        batch = queue.take(kind, size, capacity, held, lambda r: r.served.digest in waits)
        return [(request.caller.key, request.served.digest) for request in batch]

    queue = Queue(100)
    flood = [request("a", f"p{number}") for number in range(8)]
    queue.put([*flood, request("b", "p0"), request("b", "p0"), request("", "x")])
    assert take(5) == [("a", "p0"), ("b", "p0"), ("", "x"), ("a", "p1"), ("b", "p0")]
    flood[2].future.cancel()
    assert take(2, waits=("p3",)) == [("a", "p4"), ("a", "p5")] and queue.count == 3
    assert take(9, capacity=2, held=("p6",)) == [("a", "p3"), ("a", "p6")]
    assert take(9, capacity=1, held=("p6",)) == [] and queue.count == 1
    assert take(9) == [("a", "p7")] and not queue.waiting and not queue.count
