"""What is compiled while a server answers: who asks for something new waits for it, nobody else."""

import dataclasses
import gc
import threading
import weakref
from concurrent.futures import CancelledError

import jax
import numpy as np
import pytest
from engines import SMALL, prompts_of

from prompt_jax.serve import DeadlineError, Engine, EngineError, Kind, programs
from prompt_jax.serve.encoding import Inputs
from prompt_jax.tasks import Task

pytestmark = pytest.mark.timeout(180)
OPTIONS = {**SMALL, "rows": (4,)}
TEXT, TWO, MANY = [4, 5], [[7], [8]], [[7], [8], [9]]


class Held:
    """Compiles as a worker does, once it is let go."""

    def __init__(self, monkeypatch, engine):
        self.begun, self.go = threading.Event(), threading.Event()
        self.lanes, self.error = [], None
        compile = engine._worker.compile

        def held(lane):
            self.lanes.append(lane)
            self.begun.set()
            assert self.go.wait(60)
            if self.error is not None:
                raise self.error
            return compile(lane)

        monkeypatch.setattr(engine._worker, "compile", held)


def test_others_are_answered_while_a_program_compiles(tiny, monkeypatch):
    with Engine(tiny, prompts_of(tiny), **OPTIONS) as engine:
        before = engine.score("p0", TEXT, TWO).result(60)
        held = Held(monkeypatch, engine)
        new = engine.score("p0", TEXT, MANY)
        late = engine.score("p1", TEXT, MANY, timeout=0.0)
        gone = engine.score("p2", TEXT, MANY)
        assert held.begun.wait(60) and gone.cancel()
        # One lane is at it, and whatever has its programs goes on.
        for _ in range(3):
            again = engine.score("p0", TEXT, TWO).result(60)
            np.testing.assert_array_equal(again.log_likelihoods, before.log_likelihoods)
        with pytest.raises(DeadlineError, match="no answer within"):
            late.result(60)
        assert not new.done() and engine.stats.waiting >= 1
        held.go.set()
        got = new.result(60)
        assert got.log_likelihoods.shape == (3,)
        np.testing.assert_allclose(got.log_likelihoods[:2], before.log_likelihoods, rtol=1e-5)
        with pytest.raises(CancelledError):
            gone.result(60)
        assert held.lanes[0].kind == Kind("score", 8, 8, 1)


def test_a_program_that_does_not_compile_fails_its_own_requests(tiny, monkeypatch):
    with Engine(tiny, prompts_of(tiny), **OPTIONS) as engine:
        engine.score("p0", TEXT, TWO).result(60)
        held = Held(monkeypatch, engine)
        held.error = MemoryError("too much")
        new = engine.score("p0", TEXT, MANY)
        assert held.begun.wait(60)
        beside = engine.score("p0", TEXT, TWO)
        held.go.set()
        with pytest.raises(EngineError, match="the batch does not compile: MemoryError"):
            new.result(60)
        assert np.isfinite(beside.result(60).log_likelihoods).all()
        # The next one is another try.
        held.error = None
        assert len(engine.score("p0", TEXT, MANY).result(60).log_likelihoods) == 3
        assert len(held.lanes) == 2


def test_an_engine_that_closes_answers_those_who_wait_for_a_program(tiny, monkeypatch):
    engine = Engine(tiny, prompts_of(tiny), **OPTIONS)
    held = Held(monkeypatch, engine)
    new = engine.score("p0", TEXT, TWO)
    assert held.begun.wait(60)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert not new.done()
    held.go.set()
    assert np.isfinite(new.result(60).log_likelihoods).all()
    closing.join(60)
    assert not closing.is_alive()


def test_few_shapes_serve_all_candidates(tiny):
    inputs = Inputs(tiny, (8, 32))

    def shape(count, length):
        kind, _, pieces = inputs.scoring(TEXT, [[5] * length] * count, True)
        assert sum(piece.real.sum() for piece in pieces) == count * length
        assert kind.candidates == 2 or kind.candidates * kind.tokens <= 256
        assert all(len(piece.tokens) <= kind.candidates for piece in pieces)
        return kind.candidates, kind.tokens

    shapes = {shape(count, length) for count in range(1, 65) for length in (1, 2, 3, 8, 9, 32)}
    few = {(count, length) for count in (2, 8) for length in (1, 2, 8, 32)}
    assert shapes == few | {(32, 1), (32, 2), (32, 8), (128, 1), (128, 2)}
    # One that is longer than a text may be is as long as it is.
    assert shape(2, 40) == (2, 40)


def test_a_prompt_that_joins_is_compiled_for_before_it_is_served(tiny_backbone, monkeypatch):
    labels = ("good", "bad", "fine")
    task = Task(name="t", source="{x}", target="{y}", labels=labels, kind="classification")
    prompts = prompts_of(tiny_backbone, 2)
    with Engine(tiny_backbone, prompts, **OPTIONS) as engine:
        joins = dataclasses.replace(prompts["p1"], task=task)
        engine.put("p1", joins)
        # An engine that nobody has warmed up compiles what is asked, when it is asked.
        assert engine.prepare_for(engine.version("p1")) == []
        held = Held(monkeypatch, engine)
        held.go.set()
        assert engine.prepare([]) == []
        for end in engine.prepare_for(engine.version("p1")):
            end.result(60)
        lanes = list(held.lanes)
        assert [lane.kind.candidates for lane in lanes] == [8]
        count = engine.stats.shapes
        engine.score("p1", "a film", labels).result(60)
        assert engine.stats.shapes == count and held.lanes == lanes


def test_kinds_that_requests_bring_give_way_to_others(monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 2)
    forgotten, done = [], []
    kept = programs.Programs(forgotten.append)

    def ask(length, *, stays=False):
        lane = programs.Lane(Kind("embed", length), frozenset())
        kept.of(lane, lambda lane: 3, done.append, stays=stays).result(60)
        return lane

    usual = ask(8, stays=True)
    first, second = ask(1), ask(2)
    ask(1)  # In use again, so that the second is the longest unused.
    third = ask(3)
    assert forgotten == [second.kind] and kept.count == 9
    assert all(map(kept.has, (usual, first, third))) and not kept.has(second)
    ask(2)  # It is compiled anew.
    assert forgotten == [second.kind, first.kind] and done.count(second) == 2
    ask(1, stays=True)
    assert kept.has(second) and kept.has(third) and kept.count == 12
    kept.close()


def test_a_larger_size_is_compiled_where_more_wait(tiny, monkeypatch):
    with Engine(tiny, prompts_of(tiny), **{**OPTIONS, "rows": (1, 4)}) as engine:
        compiled, compile = [], engine._worker.compile
        monkeypatch.setattr(
            engine._worker, "compile", lambda lane: (compiled.append(lane.rows), compile(lane))[1]
        )
        first = engine.score("p0", TEXT, TWO).result(60)
        assert compiled == [1]
        with engine._worker.lock:  # So that they wait together.
            answers = [engine.score("p0", TEXT, TWO) for _ in range(6)]
        for answer in answers:
            np.testing.assert_allclose(
                answer.result(60).log_likelihoods, first.log_likelihoods, rtol=1e-5
            )
        assert compiled == [1, 4]


def test_many_candidates_are_read_in_pieces(tiny, monkeypatch):
    long = [[5 + i % 20] * 9 for i in range(20)]
    read = []
    with Engine(tiny, prompts_of(tiny), **{**OPTIONS, "lengths": (8, 32)}) as engine:
        alone = [engine.score("p1", TEXT, [row]).result(60).log_likelihoods[0] for row in long[:9]]
        engine.score("p1", TEXT, TWO).result(60)
        engine.score("p1", TEXT, long).result(60)
        scorer = engine._worker.scorer.read

        def reading(requests, poison):
            read.append(requests[0].kind)
            scorer(requests, poison)

        monkeypatch.setattr(engine._worker.scorer, "read", reading)
        with engine._worker.lock:
            many = engine.score("p1", TEXT, long)
            few = [engine.score("p1", TEXT, TWO) for _ in range(9)]
        scores = many.result(60).log_likelihoods
        assert scores.shape == (20,) and all(future.result(60).digest for future in few)
        np.testing.assert_allclose(scores[:9], alone, rtol=1e-5)
        # 7, 7 and 6 candidates of at most 32 tokens, and others between them.
        much, little = Kind("score", 8, 8, 32), Kind("score", 8, 2, 1)
        assert read == [much, little, much, little, much, little]
        assert engine.stats.waiting == 0


def test_replaced_prompts_are_let_go(tiny):
    """Without the collector, which looks at nothing that a warm server holds."""
    prompts = prompts_of(tiny, 2)
    with Engine(tiny, prompts, **OPTIONS) as engine:

        def replaced(number):
            tuned = jax.tree.map(lambda leaf: np.asarray(leaf) + number / 100, prompts["p1"].tuned)
            version = dataclasses.replace(prompts["p1"], tuned=tuned)
            digest = engine.put("p1", version)
            assert engine.score("p1", TEXT, TWO).result(60).digest == digest
            return weakref.ref(version)

        replaced(0)
        arrays = len(jax.live_arrays())
        gc.disable()
        try:
            versions = [replaced(number) for number in range(1, 201)]
            left = sum(version() is not None for version in versions)
        finally:
            gc.enable()
        assert left == 1 and engine.stats.loaded > 200
        assert len(jax.live_arrays()) <= arrays
