"""Every row of a batch with its own prompt has the numbers that it would have alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.config import InputError
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.methods import (
    AdapterConfig,
    AdaptionPromptConfig,
    BiasConfig,
    DecomposedPromptConfig,
    DeepPromptConfig,
    FullConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    init,
    materialize,
)
from prompt_jax.serve.bank import Bank, rows_of
from prompt_jax.serve.slots import layout_of, leaves_of
from prompt_jax.testing import shaken
from prompt_jax.testing import tiny as tiny_of

METHODS = [
    PromptTuningConfig(num_virtual_tokens=1),
    PromptTuningConfig(num_virtual_tokens=7),
    PrefixTuningConfig(num_virtual_tokens=2),
    PrefixTuningConfig(num_virtual_tokens=5),
    LoraConfig(r=1),
    LoraConfig(r=3),
    IA3Config(),
    AdapterConfig(),
    BiasConfig(),
]
BEHIND = ("after_bos", "suffix")


@pytest.fixture(params=["t5", "gpt2", "llama", "bert", "deberta", "modernbert", "bart"])
def backbone(request):
    return tiny_of(request.param)


def injections(backbone):
    made, methods = [], METHODS
    if backbone.target_place == "behind":
        methods = [
            *METHODS,
            *(PromptTuningConfig(num_virtual_tokens=2, placement=p) for p in BEHIND),
            *(AdaptionPromptConfig(adapter_len=length) for length in (2, 3)),
        ]
    for i, method in enumerate(methods):
        tuned = shaken(init(method, backbone, jax.random.key(i)), 100 + i)
        made.append(materialize(method, tuned))
    return made


def batch(backbone, rows):
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 60, (rows, 6)).astype(np.int32)
    mask = np.arange(6)[None] < rng.integers(2, 7, (rows, 1))
    tokens[:, 0] = getattr(backbone.config, "mask_token_id", None) or tokens[:, 0]
    targets = rng.integers(2, 60, (rows, 2)).astype(np.int32)
    return jnp.asarray(tokens), jnp.asarray(mask), jnp.asarray(targets)


cloze_logits = jax.jit(PromptedModel.cloze_logits, static_argnums=3)
target_logits = jax.jit(PromptedModel.target_logits)


def logits_of(backbone, injection, tokens, mask, targets):
    model = PromptedModel(backbone.module, backbone.params, injection)
    if backbone.target_place == "within":
        return cloze_logits(model, tokens, mask, 1)
    return target_logits(model, tokens, mask, targets)


@pytest.mark.slow
def test_a_row_in_a_crowd_is_the_row_alone(backbone):
    own = injections(backbone)
    bank = Bank(layout_of(own), len(own) + 1)
    for slot, injection in enumerate(own):
        bank.put(slot, leaves_of(injection))
    order = np.random.default_rng(1).permutation(len(own) + 1)
    tokens, mask, targets = batch(backbone, len(order))
    crowd = logits_of(backbone, rows_of(bank.leaves, jnp.asarray(order)), tokens, mask, targets)
    for row, slot in enumerate(order):
        alone = own[slot] if slot < len(own) else None
        part = slice(row, row + 1)
        wanted = logits_of(backbone, alone, tokens[part], mask[part], targets[part])
        np.testing.assert_allclose(crowd[row], wanted[0], atol=2e-5, rtol=2e-5)


@pytest.mark.slow
def test_neighbours_change_no_bit(backbone):
    """At the same padded shape, whoever they are."""
    own = injections(backbone)
    bank = Bank(layout_of(own), len(own))
    for slot, injection in enumerate(own):
        bank.put(slot, leaves_of(injection))
    tokens, mask, targets = batch(backbone, 4)
    program = jax.jit(
        lambda slots: logits_of(backbone, rows_of(bank.leaves, slots), tokens, mask, targets)
    )
    rng = np.random.default_rng(2)
    for slot in range(len(own)):
        first, second = (
            program(np.array([slot, *rng.integers(0, len(own), 3)], np.int32)) for _ in range(2)
        )
        np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.slow
def test_slots_change_and_nothing_is_compiled(tiny):
    own = injections(tiny)
    bank = Bank(layout_of(own), 2)
    bank.put(0, leaves_of(own[1]))
    compiled = bank_programs()
    tokens, mask, targets = batch(tiny, 1)
    for injection in own:
        bank.put(1, leaves_of(injection))
        got = logits_of(tiny, rows_of(bank.leaves, np.array([1])), tokens, mask, targets)
        wanted = logits_of(tiny, injection, tokens, mask, targets)
        np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=2e-5)
    bank.clear(1)
    got = logits_of(tiny, rows_of(bank.leaves, np.array([1])), tokens, mask, targets)
    np.testing.assert_allclose(got, logits_of(tiny, None, tokens, mask, targets), atol=1e-5)
    assert bank_programs() == compiled


def bank_programs():
    from prompt_jax.serve import bank

    return bank._put._cache_size()


def test_prompts_that_rows_cannot_have_for_themselves(tiny):
    def made(method):
        return materialize(method, init(method, tiny, jax.random.key(0)))

    whole = FullConfig()
    for injection, what in [
        (made(whole), "weights of its own"),
        (made(PromptTuningConfig(num_virtual_tokens=2, stack="decoder")), "before the target"),
        (made(LoraConfig(r=1, use_dora=True)), "the norms of DoRA"),
        (Injection(prompt=jnp.zeros((2, 3, 16))), "a prompt for each row"),
        (Injection(pool_prompt=jnp.asarray(True)), "a head that reads virtual tokens"),
    ]:
        with pytest.raises(InputError, match=f"{what}.*answer with it alone"):
            layout_of([injection])
    with pytest.raises(InputError, match="states that replace"):
        layout_of([made(DeepPromptConfig(num_virtual_tokens=2))])
    with pytest.raises(InputError, match="the prompt holds NaN or inf"):
        layout_of([Injection(prompt=jnp.full((2, 16), jnp.nan))])


def test_a_slot_that_is_too_small(tiny):
    small = Injection(prompt=jnp.zeros((2, 16)))
    bank = Bank(layout_of([small]), 1)
    with pytest.raises(
        InputError,
        match=r"prompt is \[3, 16\] and a slot has \[2, 16\]; serve with --num-virtual-tokens 3,",
    ):
        bank.put(0, leaves_of(Injection(prompt=jnp.zeros((3, 16)))))
    with pytest.raises(InputError, match="shift is .* and a slot has no room for it"):
        bank.put(0, leaves_of(Injection(shift=jnp.zeros((3, 16)))))
    with pytest.raises(InputError, match="prompts of one bank are of one backbone"):
        layout_of([small, Injection(prompt=jnp.zeros(4))])
    assert DecomposedPromptConfig().kind == "decomposed_prompt"
