"""Tasks of pretraining: made from their seeds, and batches from their steps."""

import dataclasses

import jax
import numpy as np
import pytest
from make_corpus import rng

from prompt_jax.config import InputError
from prompt_jax.pretrain.bank import (
    CLASSIFY,
    REWRITE,
    Bank,
    classifier,
    generation,
    kind_of,
    usable,
)
from prompt_jax.pretrain.corpus import EOS


def test_too_few_short_texts_are_refused(prepared, stage):
    material = prepared[0]._replace(texts=[[5] * 30] * 60)
    with pytest.raises(InputError, match="only 0 texts have 4 to 26 tokens"):
        usable(material, dataclasses.replace(stage, text_tokens=26))


def test_sides_of_a_classifier_do_not_meet(prepared, stage):
    material, pool = prepared[0], np.arange(400)
    sizes = set()
    for seed in range(30):
        task = classifier(material, pool, 6, rng(seed))
        sizes.add(len(task.sides))
        together = np.concatenate(task.sides)
        assert len(set(together.tolist())) == len(together) and len(task.words) == len(task.sides)
        if len(task.sides) == 2 and min(map(len, task.sides)) > 60:
            ends = [material.space.texts[side].mean(0) for side in task.sides]
            assert np.linalg.norm(ends[0] - ends[1]) > 0.3
    assert 2 in sizes and max(sizes) > 2


def test_slots_are_reborn_one_after_the_other(stage):
    born = [[generation(stage, slot, step) for slot in range(4)] for step in range(9)]
    assert born[0] == [0, 0, 0, 0]
    assert sum(a != b for a, b in zip(born[4], born[5], strict=True)) == 1
    assert born[8] == [2, 2, 2, 2]


def test_a_batch_is_a_function_of_its_step(prepared, stage):
    one, other = Bank(prepared[0], stage), Bank(prepared[0], stage)
    for step in (7, 2):
        other[step]
    for step in range(6):
        for ours, theirs in zip(one[step], other[step], strict=True):
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_batches_of_both_kinds(prepared, stage):
    bank = Bank(prepared[0], stage)
    seen = set()
    for step in range(20):
        kind, batch = kind_of(stage, step), bank[step]
        seen.add(kind)
        assert (batch.slots // stage.slots == kind).all()
        assert batch.tokens.shape == (4, 40 if kind == CLASSIFY else 44)
        assert batch.targets.shape == (4, 4 if kind == CLASSIFY else 44)
        assert ((batch.tokens == EOS).sum(1) == 1).all()
        assert ((batch.targets == EOS).sum(1) == 1).all()
        assert bool(batch.places.any()) == (kind == CLASSIFY)
    assert seen == {CLASSIFY, REWRITE}


def test_every_kind_of_rewriting_appears(prepared, stage):
    bank = Bank(prepared[0], dataclasses.replace(stage, classify_share=0.0))
    tasks = {bank.task(REWRITE, slot, step).__qualname__ for slot in range(4) for step in range(80)}
    assert len(tasks) == 5
