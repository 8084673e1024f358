"""A prompt that stands before all texts is read once, and rows behind it have the same numbers."""

import jax
import numpy as np
import pytest
from engines import prompt_of

from prompt_jax.config import DeepPromptConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig
from prompt_jax.forward import PromptedModel
from prompt_jax.serve.bank import Bank
from prompt_jax.serve.board import draws_of
from prompt_jax.serve.decoding import read
from prompt_jax.serve.prompts import PLAIN, injection_for, served_as
from prompt_jax.serve.read_prompts import ReadPrompts
from prompt_jax.serve.sampling import Sampling
from prompt_jax.serve.slots import layout_of
from prompt_jax.testing import tiny as tiny_of

ROOM = 2
METHODS = {
    "input": [PromptTuningConfig(num_virtual_tokens=n) for n in (1, 4)],
    # In the layers too, each with its own keys, states or kernels.
    "layers": [
        DeepPromptConfig(num_virtual_tokens=2, how="add"),
        PrefixTuningConfig(num_virtual_tokens=3),
        LoraConfig(r=2),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "methods"), [("llama", "input"), ("gemma2", "input"), ("gpt2", "layers")]
)
def test_a_row_behind_a_prompt_is_the_row_with_it(family, methods):
    """Padding stands on the right, nowhere, and on the left."""
    backbone = tiny_of(family)
    prompts = [prompt_of(backbone, method, i) for i, method in enumerate(METHODS[methods])]
    layout = layout_of(injection_for(backbone, prompt, False) for prompt in prompts)
    bank, model = Bank(layout, len(prompts) + 1), PromptedModel.of(backbone)
    versions = [PLAIN, *(served_as("p", p, backbone, layout, False) for p in prompts)]
    slots = np.array([bank.place(version) for version in versions], np.int32)
    reads = ReadPrompts(model, bank, most=len(versions))
    assert reads.ways == (True,) and all(map(reads.have, versions))
    rows = zip(versions, slots.tolist(), strict=True)
    behind = tuple(reads.of(*row, bank.leaves) for row in rows)
    tokens = np.random.default_rng(0).integers(2, 60, (len(slots), 4)).astype(np.int32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 0]], bool)[: len(slots)]
    texts = slots, tokens, mask, draws_of([Sampling(ROOM)] * len(slots), backbone.config)
    board, expected = (read(model, bank.leaves, parts, *texts, room=ROOM) for parts in (behind, ()))
    np.testing.assert_array_equal(board.mask, expected.mask)
    np.testing.assert_array_equal(board.tokens, expected.tokens)
    np.testing.assert_allclose(board.log_probs, expected.log_probs, atol=2e-5, rtol=2e-5)
    # What padding has made is seen by nobody, and so may differ.
    real = np.pad(expected.mask, ((0, 0), (0, ROOM)))[None, :, None, :, None]
    for keys, expected_keys in zip(board.cache[:2], expected.cache[:2], strict=True):
        np.testing.assert_allclose(keys * real, expected_keys * real, atol=2e-5, rtol=2e-5)


def test_the_latest_prompts_are_kept(tiny_llama):
    """One that is asked for again is not read again, until others have taken its place."""
    prompts = [prompt_of(tiny_llama, PromptTuningConfig(num_virtual_tokens=4), i) for i in range(3)]
    layout = layout_of(prompt.injection() for prompt in prompts)
    bank = Bank(layout, 4)
    reads = ReadPrompts(PromptedModel.of(tiny_llama), bank, most=2)
    first, second, third = (served_as("p", p, tiny_llama, layout, False) for p in prompts)

    def read_one(version):
        return reads.of(version, bank.place(version), bank.leaves)

    kept = read_one(first)
    read_one(second)
    assert read_one(first) is kept
    read_one(third)
    assert read_one(first) is kept  # It was the second that had to go.
    read_one(second)
    assert read_one(third) is not kept
    again = read_one(first)
    assert again is not kept
    jax.tree.map(np.testing.assert_array_equal, again, kept)


@pytest.mark.parametrize("family", ["t5", "bert", "llama"])
def test_what_cannot_be_read_before_its_text(family):
    """A prompt of a model that reads it with the text, or that stands behind some of it."""
    backbone = tiny_of(family)
    prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=2), 0)
    layout = layout_of([prompt.injection()])
    version = served_as("p", prompt, backbone, layout, False)
    reads = ReadPrompts(PromptedModel.of(backbone), Bank(layout, 2), most=1)
    assert reads.ways == (family == "llama",) == (reads.have(version),)
    if family == "llama":
        behind = prompt_of(
            backbone, PromptTuningConfig(num_virtual_tokens=2, placement="suffix"), 1
        )
        layout = layout_of([prompt.injection(), behind.injection()])
        reads = ReadPrompts(PromptedModel.of(backbone), Bank(layout, 2), most=1)
        assert reads.ways == (True, False) and reads.have(version)
        assert not reads.have(served_as("q", behind, backbone, layout, False))
