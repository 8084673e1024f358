"""One step of pretraining: the model by Adam, the prompts of its slots as prompt tuning does it."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from prompt_jax.answers import cross_entropy
from prompt_jax.backbones.encoder_decoder import shift_right
from prompt_jax.backbones.t5 import T5, T5Config
from prompt_jax.pretrain.config import PretrainConfig
from prompt_jax.trees import Frozen, Tree, Tuned


class State(NamedTuple):
    """All that pretraining changes."""

    step: Int[Array, ""]
    weights: Tuned
    """`model`, the T5's parameters, and `head`, which reads places and is dropped at the end."""
    opt_state: Tree
    prompts: Float[Array, "N P D"]
    moments: Float[Array, "N P D"]
    ages: Int[Array, " N"]
    births: Int[Array, " N"]
    """The generation of the task that a slot's prompt was trained for; -1 before the first."""


class Rows(NamedTuple):
    """A batch on the device."""

    tokens: Int[Array, "B T"]
    targets: Int[Array, "B U"]
    places: Float[Array, "B Z"]
    slots: Int[Array, " G"]
    births: Int[Array, " G"]
    starts: Int[Array, "G P"]
    """Words whose rows a new slot's prompt starts from, as prompt tuning does."""


def model_config(config: PretrainConfig, vocab_size: int) -> T5Config:
    """The T5 of a config: gated gelu, tied embeddings."""
    return T5Config(
        vocab_size=vocab_size,
        d_model=config.d_model,
        d_kv=config.d_model // config.num_heads,
        d_ff=config.d_ff,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        num_decoder_layers=config.num_decoder_layers,
        tie_embeddings=True,
        scale_logits=True,
        dtype=jnp.dtype(config.dtype),
    )


def quieted(params: Frozen, gain: float) -> Frozen:
    """The same tree with every branch's last kernel times `gain`.

    Full-size branches drown what the token table knows of a text before a step is taken, and Adam
    then finds it easier to ignore the text; the residual must carry it from the start.
    """
    return _scale_branches(params, gain)


def rescaled(params: Frozen, scale: float) -> Frozen:
    """The same function with a token table of root mean square `scale`.

    The residual stream of a pre-norm model may be scaled as a whole: the table and every branch's
    last kernel by a factor, and the last norm before the tied head by its inverse.
    """
    factor = scale / jnp.sqrt(jnp.mean(jnp.square(params["embedding"])))
    params = dict(_scale_branches(params, factor))
    params["embedding"] = params["embedding"] * factor
    last = {"scale": params["decoder"]["final_norm"]["scale"] / factor}
    params["decoder"] = {**params["decoder"], "final_norm": last}
    return params


def _scale_branches(params: Frozen, factor: Float[ArrayLike, ""]) -> Frozen:
    def scaled(path: Sequence[Any], leaf: Array) -> Array:
        return leaf * factor if path[-2].key in ("out", "wo") else leaf

    return {
        name: jax.tree_util.tree_map_with_path(scaled, tree) if name != "embedding" else tree
        for name, tree in params.items()
    }


def optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    """Adam with clipped gradients: a linear rise, a constant rate, a linear fall to zero."""
    rise = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    fall = optax.linear_schedule(config.learning_rate, 0.0, config.decay_steps)
    turn = max(config.steps - config.decay_steps, config.warmup_steps)
    constant = optax.constant_schedule(config.learning_rate)
    rate = optax.join_schedules([rise, constant, fall], [config.warmup_steps, turn])
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.98))


def start(config: PretrainConfig, params: Frozen, head: Float[Array, "D Z"]) -> State:
    """The state before the first step; `head` reads places from mean encoder states."""
    weights = {"model": params, "head": jnp.asarray(head)}
    # Slots of classifiers first, slots of rewriting after them.
    count = 2 * config.slots
    empty = jnp.zeros((count, config.virtual_tokens, config.d_model))
    return State(
        jnp.zeros((), jnp.int32),
        weights,
        optimizer(config).init(weights),
        empty,
        # Not `empty` again: the state is donated, and a buffer can be given away only once.
        jnp.zeros_like(empty),
        jnp.zeros(count, jnp.int32),
        jnp.full(count, -1, jnp.int32),
    )


def loss(
    weights: Tuned,
    prompts: Float[Array, "G P D"],
    module: T5,
    rows: Rows,
    head_weight: Float[ArrayLike, ""],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy of the targets, plus how far the encoder is from knowing the text's place."""
    variables = {"params": weights["model"]}
    words: Tree = module.apply(variables, rows.tokens, method="embed")
    before = jnp.repeat(prompts, len(rows.tokens) // len(prompts), axis=0).astype(words.dtype)
    seen = rows.tokens > 0
    mask = jnp.concatenate([jnp.ones(before.shape[:2], bool), seen], axis=1)
    encoded: Tree = module.apply(
        variables, jnp.concatenate([before, words], axis=1), mask, method="encode"
    )
    inputs = shift_right(rows.targets, module.config.start_tokens)
    logits: Tree
    logits, _ = module.apply(variables, inputs, encoded, mask, method="decode")
    real = rows.targets > 0
    nll = jnp.where(real, cross_entropy(logits, rows.targets), 0.0).sum() / real.sum()
    # Without padding and EOS, ids 0 and 1, as `space` takes the means of texts.
    guess = _mean(encoded[:, before.shape[1] :], rows.tokens > 1) @ weights["head"]
    miss = jnp.mean(jnp.square(guess - rows.places))
    first = (logits[:, 0].argmax(-1) == rows.targets[:, 0]).mean()
    return nll + head_weight * miss, {"loss": nll, "miss": miss, "first_token": first}


def _mean(states: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    weight = mask.astype(jnp.float32)[..., None]
    return (states.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)


def prompts_of(state: State, rows: Rows) -> tuple[Array, Array, Array]:
    """Prompts, second moments and ages of the batch's slots, new where a new task was born."""
    new = state.births[rows.slots] != rows.births
    table = state.weights["model"]["embedding"]
    wide = new[:, None, None]
    prompts = jnp.where(wide, table[rows.starts], state.prompts[rows.slots])
    moments = jnp.where(wide, 0.0, state.moments[rows.slots])
    return prompts, moments, jnp.where(new, 0, state.ages[rows.slots])


def adafactor(
    prompts: Array, grads: Array, moments: Array, ages: Array, rate: float
) -> tuple[Array, Array]:
    """Unfactored Adafactor, a slot at a time, since slots have ages of their own."""
    # This decay, the epsilon and the clipping at one are those of Shazeer and Stern 2018.
    decay = (1.0 - (ages + 1.0) ** -0.8)[:, None, None]
    moments = decay * moments + (1.0 - decay) * (jnp.square(grads) + 1e-30)
    update = grads * jax.lax.rsqrt(moments)
    size = jnp.sqrt(jnp.mean(jnp.square(update), axis=(1, 2), keepdims=True))
    return prompts - rate * update / jnp.maximum(size, 1.0), moments


# Donated, or the weights and Adam's moments would stand in memory twice.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(
    config: PretrainConfig, module: T5, state: State, rows: Rows, head_weight: Float[ArrayLike, ""]
) -> tuple[State, dict[str, Array]]:
    """A step on the model and on the prompts that the batch used."""
    prompts, moments, ages = prompts_of(state, rows)
    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (grads, prompt_grads), metrics = gradient(state.weights, prompts, module, rows, head_weight)
    updates: Tree
    weights: Tree
    updates, opt_state = optimizer(config).update(grads, state.opt_state, state.weights)
    # Rare words are seen a few times only and should keep the meaning that they came with.
    model = {**updates["model"], "embedding": updates["model"]["embedding"] / 3}
    weights = optax.apply_updates(state.weights, {**updates, "model": model})
    prompts, moments = adafactor(prompts, prompt_grads, moments, ages, config.prompt_learning_rate)
    used = rows.slots
    return State(
        state.step + 1,
        weights,
        opt_state,
        state.prompts.at[used].set(prompts),
        state.moments.at[used].set(moments),
        state.ages.at[used].set(ages + 1),
        state.births.at[used].set(rows.births),
    ), {**metrics, "grad_norm": optax.tree.norm(grads)}
