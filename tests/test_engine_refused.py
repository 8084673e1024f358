"""What an engine refuses, and who is told: a caller is, its neighbours are answered."""

import contextvars
import dataclasses
import threading
import time

import jax
import numpy as np
import pytest
from engines import SMALL, prompt_of, prompts_of

from prompt_jax.config import InputError
from prompt_jax.generate import score
from prompt_jax.methods import LoraConfig, MultitaskPromptConfig, PromptTuningConfig
from prompt_jax.prompts import Prompt
from prompt_jax.serve import (
    DeadlineError,
    Engine,
    EngineError,
    PoisonedPromptError,
    PromptRefusedError,
    QueueFullError,
    TooLongError,
    UnknownPromptError,
)
from prompt_jax.serve.requests import CALLER, Caller

pytestmark = pytest.mark.timeout(180)


def test_callers_that_leave_and_those_that_are_late(tiny):
    with Engine(tiny, prompts_of(tiny), **SMALL) as engine:
        with engine._worker.lock:
            late = engine.score("p0", [4, 5], [[7], [8]], timeout=0.0)
            gone = engine.score("p0", [4, 5], [[7], [8]])
            stays = engine.score("p0", [4, 5], [[7], [8]])
            assert gone.cancel()
        with pytest.raises(DeadlineError, match=r"no answer within 0\.\d+ s; give it more time"):
            late.result()
        assert np.isfinite(stays.result().log_likelihoods).all()
        assert engine.stats.rows == 1
        first = threading.Event()
        writing = engine.generate(
            "p1", [4, 5], max_new_tokens=6, stream=lambda _: (first.set(), time.sleep(0.05))
        )
        first.wait()
        writing.cancel()
        end = time.monotonic() + 10
        while engine.stats.writing and time.monotonic() < end:
            time.sleep(0.01)
        assert engine.stats.writing == 0


def test_a_full_queue_and_a_closed_engine(tiny):
    engine = Engine(tiny, prompts_of(tiny), **{**SMALL, "rows": (4,), "window": 5.0}, queue=2)
    flooding = contextvars.copy_context()
    flooding.run(CALLER.set, Caller("flooding"))
    kept = [flooding.run(engine.score, "p0", [4, 5], [[7], [8]])]
    with pytest.raises(QueueFullError, match="1 requests of this key wait and 1 may, half"):
        flooding.run(engine.score, "p0", [4, 5], [[7], [8]])
    kept.append(engine.score("p0", [4, 5], [[7], [8]]))
    with pytest.raises(QueueFullError, match="2 requests wait and 2 may; try again in a moment"):
        engine.score("p0", [4, 5], [[7], [8]])
    assert engine.alive
    engine.close()  # What was taken is answered.
    assert all(np.isfinite(future.result().log_likelihoods).all() for future in kept)
    assert not engine.alive
    with pytest.raises(EngineError, match="the engine is closed; make a new one"):
        engine.score("p0", [4, 5], [[7], [8]])
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.warm_up()


def test_prompts_that_are_refused(tiny, tiny_gpt2):
    prompts = prompts_of(tiny)
    with Engine(tiny, prompts, **SMALL) as engine:
        wide = Prompt(
            tuned={"prompt": np.ones((2, 8))}, method=PromptTuningConfig(num_virtual_tokens=2)
        )
        with pytest.raises(PromptRefusedError, match="8 .* 16"):
            engine.put("x", wide)
        other = dataclasses.replace(prompts["p0"], fingerprint="0" * 64)
        foreign = dataclasses.replace(tiny, fingerprint="1" * 64)
        with Engine(foreign, **SMALL, room=[PromptTuningConfig(num_virtual_tokens=5)]) as strict:
            with pytest.raises(PromptRefusedError, match="was trained on other weights"):
                strict.put("x", other)
            assert strict.put("x", other, allow_mismatch=True) == other.digest
        long = prompt_of(tiny, PromptTuningConfig(num_virtual_tokens=6), 0)
        with pytest.raises(
            PromptRefusedError, match=r"prompt is \[6, 16\] and a slot has \[5, 16\]"
        ):
            engine.put("x", long)
        behind = prompt_of(tiny, PromptTuningConfig(num_virtual_tokens=2, placement="suffix"), 0)
        with pytest.raises(PromptRefusedError, match='it stands at "suffix"'):
            engine.put("x", behind)
        with pytest.raises(PromptRefusedError, match='it stands at "suffix"'):
            Engine(tiny, {"x": behind}, **SMALL)
        several = MultitaskPromptConfig(num_virtual_tokens=2, num_tasks=2, init="random")
        with pytest.raises(PromptRefusedError, match="for each of 2 tasks, and none is named"):
            engine.put("x", prompt_of(tiny, several, 0))
        with pytest.raises(InputError, match="a prompt needs a name, got an empty one"):
            engine.put("", prompts["p0"])
        with pytest.raises(UnknownPromptError, match="no prompt 'x'; known: p0, p1, p2, p3, p4"):
            engine.score("x", [4], [[7]])
        with pytest.raises(UnknownPromptError, match="no prompt 'x'"):
            engine.remove("x")
        engine.remove("p3")
        assert engine.names == ["p0", "p1", "p2", "p4"]


def test_the_same_numbers_with_other_settings_are_another_prompt(tiny):
    """And a caller of a batch whose counting fails has an answer."""
    prompt = prompt_of(tiny, LoraConfig(r=2, lora_alpha=1), 5)
    other = dataclasses.replace(prompt, method=LoraConfig(r=2, lora_alpha=32))
    assert other.digest == prompt.digest
    with Engine(tiny, {"a": prompt, "b": other, "again": prompt}, **SMALL) as engine:
        assert engine.version("again").content == engine.version("a").content

        def fail(requests):
            raise ValueError("a mistake of who counts")

        engine.on_batch = fail
        for name, alone in (("a", prompt), ("b", other)):
            tokens = np.array([[4, 5]])
            words = np.array([[7], [8]])
            wanted = score(
                tiny, alone.injection(), tokens, tokens > 0, words, np.ones_like(words, bool)
            )
            got = engine.score(name, [4, 5], words.tolist()).result(60).log_likelihoods
            np.testing.assert_allclose(got, wanted[0], rtol=1e-4)


def test_a_prompt_whose_answers_are_no_numbers(tiny):
    """Finite, but too large to multiply: its callers are told, its neighbours untouched."""
    prompts = prompts_of(tiny, 2)
    lora = prompt_of(tiny, LoraConfig(r=2), 5)
    huge = dataclasses.replace(lora, tuned=jax.tree.map(lambda leaf: 1e30 * leaf, lora.tuned))
    options = {**SMALL, "rows": (4,)}
    with Engine(tiny, {**prompts, "huge": huge, "lora": lora}, **options) as engine:

        def ask(*names):
            with engine._worker.lock:
                return [engine.score(name, [4, 5], [[7], [8]]) for name in names]

        before = ask("p1", "lora")[0].result()
        asked = ask("p1", "huge", "p0", "huge")
        got = asked[0].result()
        np.testing.assert_array_equal(got.log_likelihoods, before.log_likelihoods)
        for bad in (asked[1], asked[3]):
            with pytest.raises(PoisonedPromptError, match="prompt 'huge' .* are no numbers"):
                bad.result()
        with pytest.raises(PoisonedPromptError, match="put a sound one in its place"):
            engine.generate("huge", [4, 5], max_new_tokens=2)
        engine.put("huge", prompts["p0"])
        assert np.isfinite(engine.score("huge", [4], [[7]]).result().log_likelihoods).all()
        engine.put("huge", huge)
        beside = engine.generate("p1", [4, 5], max_new_tokens=6)
        with pytest.raises(PoisonedPromptError, match="are no numbers"):
            engine.generate("huge", [4, 5], max_new_tokens=6).result()
        assert np.isfinite(beside.result().log_probs).all()
        spoilt = dataclasses.replace(prompts["p0"])
        object.__setattr__(spoilt, "tuned", {"prompt": np.full((1, 16), np.nan)})
        with pytest.raises(PoisonedPromptError, match="prompt 'x' holds NaN or inf"):
            engine.put("x", spoilt)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda e: e.score("p0", list(range(2, 11)), [[7]]), TooLongError, "9 tokens and 8 is the"),
        (lambda e: e.generate("p0", [4], max_new_tokens=7), TooLongError, "is 7 and 6 is the most"),
        (lambda e: e.score("p0", [], [[7]]), InputError, "a text has no tokens; give at least one"),
        (lambda e: e.score("p0", [64], [[7]]), InputError, "tokens are 0 to 63, got 64 to 64"),
        (lambda e: e.score("p0", "word", [[7]]), InputError, "give the tokens of a text"),
        (lambda e: e.score("p0", [4], ["word"]), InputError, "give the tokens of a candidate"),
        (lambda e: e.score("p0", [4], []), InputError, "no candidates; give words, or lists"),
        (lambda e: e.score("p0", [4], [[]]), InputError, "a candidate has no tokens"),
        (lambda e: e.score("p0", [4], [[99]]), InputError, "got 99 to 99 in a candidate"),
        (lambda e: e.generate("p0", [4], max_new_tokens=0), InputError, "max_new_tokens"),
        (lambda e: e.generate("p0", [4], temperature=-1.0), InputError, "temperature"),
        (lambda e: e.generate("p0", [4], top_k=-1), InputError, "top_k"),
        (lambda e: e.generate("p0", [4], top_p=0.0), InputError, r"top_p must be in \(0, 1\]"),
        (lambda e: e.generate("p0", [4], seed=-1), InputError, "seed must be from 0 to 4294967295"),
    ],
)  # fmt: skip
def test_requests_that_are_refused(ask, error, message, tiny):
    with (
        Engine(tiny, prompts_of(tiny, 1), **SMALL) as engine,
        pytest.raises(error, match=message),
    ):
        ask(engine)


def test_what_a_model_that_reads_refuses(tiny_bert):
    with Engine(tiny_bert, prompts_of(tiny_bert), **SMALL) as engine:
        with pytest.raises(InputError, match="only reads and writes no answers"):
            engine.generate("p0", [63, 5])
        with pytest.raises(
            InputError, match="one mask with one token, got 0 masks and a candidate"
        ):
            engine.score("p0", [4, 5], [[7]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": ()}, r"rows are sizes from 1 on that grow, got \[\]"),
        ({"lengths": (8, 4)}, r"lengths are sizes from 1 on that grow, got \[8, 4\]"),
        ({"slots": 1}, "slots must be at least 2.*while others are written"),
        ({"places": 0}, "places must be at least 1"),
        ({"window": -1.0}, "window must be at least 0"),
    ],
)
def test_engines_that_cannot_be(wrong, message, tiny):
    with pytest.raises(InputError, match=message):
        Engine(tiny, **{**SMALL, **wrong})


def test_a_batch_that_fails_ends_its_callers_alone(tiny, monkeypatch):
    with Engine(tiny, prompts_of(tiny), **SMALL) as engine:
        read = engine._worker.scorer.read

        def broken(rows, poison):
            if rows[0].served.reference == "p0":
                raise MemoryError("too much")
            read(rows, poison)

        monkeypatch.setattr(engine._worker.scorer, "read", broken)
        with pytest.raises(EngineError, match="the batch failed: MemoryError.*too much"):
            engine.score("p0", [4], [[7]]).result()
        assert np.isfinite(engine.score("p1", [4], [[7]]).result().log_likelihoods).all()

        def ended(rows, poison):
            raise SystemExit

        monkeypatch.setattr(engine._worker.scorer, "read", ended)
        monkeypatch.setattr(threading, "excepthook", lambda *_: None)
        with pytest.raises(EngineError, match="the batch failed: SystemExit"):
            engine.score("p1", [4], [[7]]).result()
        engine._worker._thread.join()
        assert not engine.alive
        with pytest.raises(EngineError, match="the engine came to an end"):
            engine.score("p1", [4], [[7]])
        engine.restart()
        assert engine.alive and engine.score("p1", [4], [[7]]).result().digest
        with pytest.raises(EngineError, match="only an engine that came to an end by itself"):
            engine.restart()
