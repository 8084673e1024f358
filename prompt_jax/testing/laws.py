"""What must hold for every method on every backbone; each law raises AssertionError where not.

`LAWS` are about a method on a backbone. `BACKBONE_LAWS` are about a backbone with soft prompts, for
a new family. Nothing of this imports torch: parity with the original is a test of its own.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from prompt_jax.backbones import Backbone
from prompt_jax.config import IN_CHATS, PLACEMENTS, Opening, TrainConfig
from prompt_jax.data import Batch
from prompt_jax.forward import Injection, Placement, PromptedModel, for_tasks
from prompt_jax.methods import FIXED, PromptTuningConfig, simplify
from prompt_jax.prompts import load_prompt, prompt_for, save_prompt
from prompt_jax.testing.subject import TRAINING, Subject
from prompt_jax.train import fit, start

PROMPT = PromptTuningConfig(num_virtual_tokens=4)
OPENINGS = (Opening("system", (30,), (31,)), Opening("turn", (32, 33)))
"""Of a chat template, with tokens that no random batch has."""
# Compiled once for all subjects of a shape.
_prefill = jax.jit(PromptedModel.prefill, static_argnames="length")
_decode = jax.jit(PromptedModel.decode)


def _close(tree: PyTree, reference: PyTree, atol: float = 2e-5, rtol: float = 1e-4) -> None:
    """Two trees are equal up to rounding."""
    # Programs of other shapes add in another order, which float32 shows.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=rtol), tree, reference
    )


def _equal(tree: PyTree, reference: PyTree) -> None:
    """Two trees are equal to the bit."""
    jax.tree.map(np.testing.assert_array_equal, tree, reference)


def _changed(backbone: Backbone, **fields: object) -> Backbone:
    config = dataclasses.replace(backbone.config, **fields)
    return dataclasses.replace(backbone, config=config)


def gradient_is_the_tuned_tree(subject: Subject) -> None:
    """A gradient has the tuned tree's structure and float32 leaves; only what is fixed has none."""
    tuned = subject.trained()
    gradient = subject.gradient(tuned, subject.backbone.params, subject.batch())[1]
    assert jax.tree.structure(gradient) == jax.tree.structure(tuned)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tuned))
    if not subject.head:
        gradient.pop("pooler", None)  # Of a BERT tuned whole: a head reads it, a cloze does not.
    for path, leaf in jax.tree.leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        trained = f"['{FIXED}']" not in name
        assert np.isfinite(leaf).all(), f"no finite gradient at {name}"
        assert (np.abs(leaf) > 0).any() == trained, f"{'no' if trained else 'a'} gradient at {name}"


def optimizer_holds_the_tuned_tree_alone(subject: Subject) -> None:
    """No leaf of an optimizer's state is larger than the largest of the tuned tree."""
    tuned = subject.fresh()
    largest = max(leaf.size for leaf in jax.tree.leaves(tuned))
    for name in ("adafactor", "adafactor_t5x", "adamw"):
        state = start(tuned, TrainConfig(optimizer=name))
        assert max(leaf.size for leaf in jax.tree.leaves(state.opt_state)) <= largest
        assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))


def training_lowers_the_loss_and_leaves_the_frozen_tree(subject: Subject) -> None:
    """Sixteen steps on one batch lower its loss; what is frozen or fixed stays to the bit."""
    # Copies on the host: a tree that was changed in place would equal itself.
    before = jax.tree.map(np.array, subject.backbone.params)
    tuned, batch, losses = subject.fresh(), subject.batch(), []
    for _ in range(8):
        state = start(tuned, TRAINING)  # The schedule ends after three steps.
        for _ in range(2):
            state, metrics = subject.step(state, subject.backbone.params, batch)
            losses.append(float(metrics["loss"]))
        tuned = jax.tree.map(jnp.array, state.tuned)
    assert losses[-1] < losses[0] - 0.01
    _equal(before, jax.tree.map(np.array, subject.backbone.params))
    _equal(tuned.get(FIXED), subject.fresh().get(FIXED))


def fresh_tree_is_neutral_where_it_claims_to_be(subject: Subject) -> None:
    """A neutral method starts at the plain backbone's logits, any other one does not."""
    batch = subject.batch()
    plain = subject.logits(None, batch)
    logits = subject.logits(subject.injection(subject.fresh()), batch)
    if subject.tolerance:
        np.testing.assert_allclose(logits, plain, atol=subject.tolerance)
    elif subject.neutral:
        np.testing.assert_array_equal(logits, plain)
    else:
        assert logits.shape != plain.shape or not np.array_equal(logits, plain)


def trees_by_vmap_equal_separate_runs(subject: Subject) -> None:
    """The gradients of two trees in one program are those of each alone."""
    batch, params = subject.batch(), subject.backbone.params
    trees = [subject.trained(seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    # The frozen weights have no axis N, as when a population trains.
    both = jax.jit(jax.vmap(subject.gradient, in_axes=(0, None, None)))(stacked, params, batch)[1]
    for member, tuned in enumerate(trees):
        alone = subject.gradient(tuned, params, batch)[1]
        _close(jax.tree.map(lambda leaf, n=member: leaf[n], both), alone)


def unrolled_layers_equal_scanned(subject: Subject) -> None:
    """Layers one by one, their weights stacked or apart, give the gradient of scanned layers."""
    tuned, batch = subject.trained(), subject.batch()
    reference = subject.gradient(tuned, subject.backbone.params, batch)[1]
    unrolled = _changed(subject.backbone, scan=False)
    gradient = dataclasses.replace(subject, backbone=unrolled).gradient
    _close(gradient(tuned, unrolled.unstacked(), batch)[1], reference)


def padding_changes_no_logit(subject: Subject) -> None:
    """Padding behind the text changes no logit."""
    batch, injection = subject.batch(), subject.injection(subject.trained())
    wide = batch._replace(
        tokens=np.pad(batch.tokens, ((0, 0), (0, 5))), mask=np.pad(batch.mask, ((0, 0), (0, 5)))
    )
    _close(subject.logits(injection, wide), subject.logits(injection, batch))


def row_alone_equals_row_in_batch(subject: Subject) -> None:
    """A row by itself has the logits that it has among others."""
    batch, injection = subject.batch(), subject.injection(subject.trained())
    together = subject.logits(injection, batch)
    alone = jax.tree.map(lambda leaf: leaf[1:2], batch)
    _close(subject.logits(injection, alone), together[1:2])


def saved_equals_loaded(subject: Subject) -> None:
    """A prompt that was saved and loaded gives the same logits, and holds the trained tree."""
    tuned, batch = subject.trained(), subject.batch()
    with tempfile.TemporaryDirectory() as folder:
        saved = prompt_for(tuned, subject.config, subject.backbone)
        prompt = load_prompt(save_prompt(Path(folder) / "prompt", saved), subject.backbone)
    logits = subject.logits(prompt.injection(batch.task_ids), batch)
    _close(logits, subject.logits(subject.injection(tuned), batch))
    tree, method = prompt.training, prompt.trained_as
    if tree is None:
        tree, method = prompt.tuned, prompt.method
    assert method == subject.config
    _equal(tree, jax.tree.map(np.asarray, tuned))


def simplified_equals_trained(subject: Subject) -> None:
    """What is served gives the logits of what was trained, and is as simple as can be."""
    tuned, batch = subject.trained(), subject.batch()
    method, tree = simplify(subject.config, tuned)
    assert simplify(method, tree)[0] == method
    simple = dataclasses.replace(subject, method=method)
    logits = simple.logits(simple.injection(tree), batch)
    _close(logits, subject.logits(subject.injection(tuned), batch))


def cached_decoding_equals_uncached(subject: Subject) -> None:
    """Token by token with a cache gives the logits of all targets at once."""
    batch, backbone = subject.batch(target=5), subject.backbone
    injection = for_tasks(subject.injection(subject.trained()), 0)
    targets = jnp.asarray(batch.targets)
    reference = subject.logits(injection, batch)
    model = PromptedModel(backbone.module, backbone.params, injection)
    first = _prefill(model, jnp.asarray(batch.tokens), jnp.asarray(batch.mask), length=5)
    logits, cache = first.logits, first.cache
    for position in range(5):
        _close(logits, reference[:, position], atol=1e-4)
        if position < 4:
            token = targets[:, position : position + 1]
            logits, cache = _decode(model, token, first.mask, cache, jnp.int32(position + 1))
            logits = logits[:, 0]


def resumed_equals_uninterrupted(subject: Subject) -> None:
    """A run stopped after two steps and resumed from its arrays ends at the same bits."""
    batches = [subject.batch(step) for step in range(4)]
    frozen, fresh = subject.backbone.params, start(subject.fresh(), TRAINING)

    def run(state, part):
        return fit(subject.loss, state, frozen, part, TRAINING, step_fn=subject.step)

    # A copy, because the first step takes the state by donation and `fresh` runs again below.
    uninterrupted = run(jax.tree.map(jnp.copy, fresh), batches)
    # Through numpy, as a checkpoint would: nothing but arrays survives.
    stored = jax.tree.map(np.array, run(fresh, batches[:2]))
    _equal(run(jax.tree.map(jnp.asarray, stored), batches[2:]), uninterrupted)


LAWS: dict[str, Callable[[Subject], None]] = {
    law.__name__: law
    for law in (
        gradient_is_the_tuned_tree,
        optimizer_holds_the_tuned_tree_alone,
        training_lowers_the_loss_and_leaves_the_frozen_tree,
        fresh_tree_is_neutral_where_it_claims_to_be,
        trees_by_vmap_equal_separate_runs,
        unrolled_layers_equal_scanned,
        padding_changes_no_logit,
        row_alone_equals_row_in_batch,
        saved_equals_loaded,
        simplified_equals_trained,
        cached_decoding_equals_uncached,
        resumed_equals_uninterrupted,
    )
}
"""Laws of a method on a backbone, by name. An encoder does not decode, a head neither."""


def _placements(backbone: Backbone) -> tuple[str, ...]:
    """Where a prompt may stand; only models that write behind their input have chats."""
    chats = backbone.target_place == "behind"
    return tuple(name for name in PLACEMENTS if chats or name not in IN_CHATS)


def _with_chats(backbone: Backbone) -> tuple[Subject, Batch]:
    """A prompt on the backbone with a chat template, and a batch of chats, if it has any."""
    chats = _changed(backbone, openings=OPENINGS) if "turn" in _placements(backbone) else backbone
    subject = Subject(chats, PROMPT)
    batch = subject.batch()
    opened = np.array([(*o.tokens, *o.tail) for o in chats.config.openings], np.int32).ravel()
    opened = np.tile(opened, (len(batch.tokens), 1))
    tokens, mask = (
        np.concatenate(parts, axis=1)
        for parts in ((opened, batch.tokens), (opened > 0, batch.mask))
    )
    return subject, batch._replace(tokens=tokens, mask=mask)


def empty_prompt_is_the_plain_backbone(backbone: Backbone) -> None:
    """A prompt of no tokens changes no bit, wherever it stands."""
    subject, batch = _with_chats(backbone)
    plain = subject.logits(None, batch)
    for placement in _placements(backbone):
        empty = Injection(jnp.zeros((0, backbone.width)), placement=Placement(placement))
        np.testing.assert_array_equal(subject.logits(empty, batch), plain)


def prompt_of_embedded_words_is_those_words(backbone: Backbone) -> None:
    """Embedded words as a prompt give the logits of the same words in the input, at each place."""
    (subject, batch), words = _with_chats(backbone), [7, 9, 11]
    prompt = backbone.embed(np.array(words))
    for placement in _placements(backbone):
        spelled = np.zeros((len(batch.tokens), batch.tokens.shape[1] + len(words)), np.int32)
        for row, tokens, mask in zip(spelled, batch.tokens, batch.mask, strict=True):
            before = {"prefix": 0, "after_bos": 1, "suffix": mask.sum(), "system": 2, "turn": 4}
            text = np.insert(tokens[mask], before[placement], words)
            row[: len(text)] = text
        logits = subject.logits(Injection(prompt, placement=Placement(placement)), batch)
        # Neither `words` nor a random batch has token 0, so that it is padding here.
        reference = subject.logits(None, batch._replace(tokens=spelled, mask=spelled > 0))
        _close(logits, reference)


def padding_of_a_prompt_changes_no_logit(backbone: Backbone) -> None:
    """A shorter prompt is padded on the left: text and prompt keep their distances."""
    subject = Subject(backbone, PROMPT)
    batch, prompt = subject.batch(), subject.fresh()["prompt"]
    # Large numbers, as zeros would hide a mask that is not applied.
    padded = jnp.pad(prompt, ((3, 0), (0, 0)), constant_values=9.0)
    padded = Injection(padded, jnp.arange(len(padded)) >= 3)
    _close(subject.logits(padded, batch), subject.logits(Injection(prompt), batch))


def rows_with_prompts_of_their_own_equal_the_rows_alone(backbone: Backbone) -> None:
    """One batch, a prompt for each row [B, P, D]: every row has its own prompt's logits."""
    subject = Subject(backbone, PROMPT)
    batch = subject.batch()
    prompts = jnp.stack([subject.fresh(seed)["prompt"] for seed in range(len(batch.tokens))])
    together = subject.logits(Injection(prompts), batch)
    for row in range(len(prompts)):
        alone = jax.tree.map(lambda leaf, n=row: leaf[n : n + 1], batch)
        _close(together[row : row + 1], subject.logits(Injection(prompts[row]), alone))


def rematerialised_layers_equal_stored(backbone: Backbone) -> None:
    """Activations computed again in the backward pass give the same loss and gradient."""
    subject = Subject(backbone, PROMPT)
    tuned, batch = subject.fresh(), subject.batch()
    (loss, _), gradient = subject.gradient(tuned, backbone.params, batch)
    for remat in ("minimal", "full"):
        remat_subject = dataclasses.replace(subject, backbone=_changed(backbone, remat=remat))
        (remat_loss, _), remat_gradient = remat_subject.gradient(tuned, backbone.params, batch)
        np.testing.assert_allclose(remat_loss, loss, rtol=1e-6)
        _close(remat_gradient, gradient, atol=1e-6)


def dropout_needs_a_key(backbone: Backbone) -> None:
    """A loss without a key drops nothing; the same key drops the same, another one other parts."""
    subject = Subject(backbone, PROMPT)
    dropping = dataclasses.replace(subject, backbone=_changed(backbone, dropout=0.3))
    tuned, batch, params = subject.fresh(), subject.batch(), backbone.params
    plain, loss = jax.jit(subject.loss), jax.jit(dropping.loss)
    without = plain(tuned, params, batch)[0]
    assert loss(tuned, params, batch)[0] == without
    first, again, second = (loss(tuned, params, batch, jax.random.key(k))[0] for k in (0, 0, 1))
    assert first == again and first != second and first != without


BACKBONE_LAWS: dict[str, Callable[[Backbone], None]] = {
    law.__name__: law
    for law in (
        empty_prompt_is_the_plain_backbone,
        prompt_of_embedded_words_is_those_words,
        padding_of_a_prompt_changes_no_logit,
        rows_with_prompts_of_their_own_equal_the_rows_alone,
        rematerialised_layers_equal_stored,
        dropout_needs_a_key,
    )
}
"""Laws of a backbone with soft prompts, by name; `LAWS` of a prompt on it belong to it too."""
