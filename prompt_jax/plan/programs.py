"""The programs of a run, lowered from shapes alone."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding
from jax.typing import DTypeLike
from jaxtyping import Array

from prompt_jax.backbones import Backbone, boxed_shapes, shardings
from prompt_jax.backbones.quantised import LIMITS, bytes_of
from prompt_jax.config import IN_CHATS, Config, InputError, MethodConfig, Opening
from prompt_jax.data import Batch
from prompt_jax.forward import Injection, PromptedModel
from prompt_jax.generate.rules import Rules
from prompt_jax.generate.sampling import decode_tokens
from prompt_jax.generate.scoring import score_candidates
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, materialize
from prompt_jax.plan.chips import GIB, limit_of
from prompt_jax.population import (
    compile_population_step,
    filled,
    layout,
    length_of,
    members_of,
)
from prompt_jax.sharding import Device, activation_spec, build_mesh, whole, whole_rows
from prompt_jax.tasks import known
from prompt_jax.train import State, compile_step, start
from prompt_jax.trees import Frozen, Tree, Tuned
from prompt_jax.weights import kernel_on, open_backbone

SHORT = "short train"
"""The step of the longest inputs that `remat_beyond` keeps more of."""
ANYWHERE = tuple(Opening(place, (0,)) for place in IN_CHATS)
"""What no chat template is asked for here: any token gives the same program."""


class Program(NamedTuple):
    """A function and the shapes that it is compiled for."""

    name: str
    function: jax.stages.Wrapped
    """What `jax.jit` gives."""
    arguments: tuple[Tree, ...]
    """Shapes with their shardings; the second one is the frozen tree."""
    rounds: int = 1
    """How often a loop without a known end runs."""


def shape_of_backbone(config: Config, devices: Sequence[Device]) -> Backbone:
    """The backbone of an experiment with shapes for weights, on a mesh to compile for."""
    kind = config.frozen.dtype if config.frozen.dtype in LIMITS else None
    # What `auto` is on the devices that are planned for, whatever this machine has.
    auto = "float32" if devices[0].platform == "cpu" else "bfloat16"
    named = config.frozen.dtype in ("float32", "bfloat16")
    dtype = jnp.dtype(config.frozen.dtype if named else auto)
    frozen = config.frozen
    run = {"remat": frozen.remat, "remat_beyond": frozen.remat_beyond, "dtype": dtype}
    run |= {"attention_chunk": frozen.attention_chunk}
    run |= {"attention": kernel_on(devices[0], frozen.attention)}
    shape, _, _ = open_backbone(config.backbone, config.frozen.revision, None, **run)
    shape = dataclasses.replace(shape, scan=True)  # One layer to compile, whatever the depth.
    boxes = boxed_shapes(shape, kind)
    size = sum(map(bytes_of, jax.tree.leaves(boxes)))
    limit = limit_of(devices[0])
    room = {"devices": devices, "memory": limit and limit * GIB}
    mesh = build_mesh(config.mesh, heads=shape.num_heads, size=size, **room)
    shape = dataclasses.replace(shape, mesh=mesh, openings=ANYWHERE)
    is_box = {"is_leaf": lambda leaf: isinstance(leaf, nn.Partitioned)}
    shapes = jax.tree.map(lambda box: box.value, boxes, **is_box)
    if mesh is None:
        params = _placed(shapes, jax.sharding.SingleDeviceSharding(devices[0]))
    else:
        params = jax.tree.map(
            lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
            *(shapes, shardings(shape, kind)),
        )
    return Backbone(name=config.backbone, config=shape, params=params)


def _everywhere(backbone: Backbone, device: Device) -> Sharding:
    """Whole on every device of the backbone, as a prompt is."""
    if backbone.mesh is None:
        return jax.sharding.SingleDeviceSharding(device)
    return whole(backbone.mesh)


def _placed(tree: Tree, sharding: Sharding) -> Tree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _rows(
    backbone: Backbone, device: Device, rows: int, **shapes: tuple[int, DTypeLike]
) -> list[jax.ShapeDtypeStruct]:
    """Arrays of rows, shared out as those of a batch are; shapes are lengths and types."""
    sharding = _everywhere(backbone, device)
    if backbone.mesh is not None:
        spec = activation_spec(("batch",), (rows,), backbone.mesh)
        sharding = NamedSharding(backbone.mesh, spec)
    return [
        jax.ShapeDtypeStruct((rows, length), dtype, sharding=sharding)
        for length, dtype in shapes.values()
    ]


def method_for(config: Config, backbone: Backbone) -> MethodConfig:
    """The method as it would train, from a start that needs no tokenizer and no file."""
    if backbone.target_place == "within":
        raise InputError(
            f"plan counts models that write, and {backbone.name!r} only reads; plan for a T5 or a "
            "decoder, or measure a step of this one, which is small"
        )
    method = dataclasses.replace(config.method, task_type=backbone.task_types[0])
    if getattr(method, "init", "random") not in ("random", "vocab", "zero"):
        method = dataclasses.replace(method, **{"init": "random"})
    return method


def _tuned(method: MethodConfig, backbone: Backbone) -> Tuned:
    def fresh(params: Frozen) -> Tuned:
        return init(method, dataclasses.replace(backbone, params=params), jax.random.key(0))

    # The shapes of the weights become tracers, which an initialiser may read as it would numbers.
    return jax.eval_shape(fresh, backbone.params)


def train_program(config: Config, backbone: Backbone, device: Device, members: int = 1) -> Program:
    """The step of `prompt-jax train` at its longest input and target.

    Args:
      members: prompts that train together, each on so many rows as a step has.
    """
    method, options, data = method_for(config, backbone), config.train, config.data
    state = jax.eval_shape(lambda tuned: start(tuned, options), _tuned(method, backbone))
    lengths = (data.max_source_length, data.max_target_length)
    tokens, mask, targets, target_mask = _rows(
        *(backbone, device, options.batch_size),
        tokens=(lengths[0], jnp.int32), mask=(lengths[0], jnp.bool_),
        targets=(lengths[1], jnp.int32), target_mask=(lengths[1], jnp.bool_),
    )  # fmt: skip
    batch = Batch(tokens, mask, targets, target_mask)
    if members > 1:
        return _population_program(config, backbone, device, members, (method, state, batch))
    function = compile_step(loss_fn(method, backbone), options, backbone.mesh)
    state = _placed(state, _everywhere(backbone, device))
    return Program("train", function, (state, backbone.params, batch))


def _population_program(
    config: Config,
    backbone: Backbone,
    device: Device,
    members: int,
    alone: tuple[MethodConfig, State, Batch],
) -> Program:
    """The step of a population, from the method, the state and the batch of one member."""
    method, *trees = alone
    mesh, options = backbone.mesh, config.train
    count = filled(members, options.batch_size // options.accumulate, mesh)
    states, batches = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), trees
    )
    rates = members_of([options] * count, [method] * count, length_of(method))
    place = layout(count, mesh) if mesh else [jax.sharding.SingleDeviceSharding(device)] * 2
    states, rates = (_placed(tree, place[0]) for tree in (states, rates))
    function = compile_population_step(loss_fn(method, backbone), options, mesh)
    return Program("train", function, (states, backbone.params, _placed(batches, place[1]), rates))


def decode_program(config: Config, backbone: Backbone, device: Device) -> Program:
    """Greedy answers to a batch of evaluation, as long as they may get."""
    method, eval = method_for(config, backbone), config.eval
    injection, tokens, mask = _read(config, method, backbone, device)
    longest = eval.max_new_tokens
    rules = Rules(np.array(backbone.config.eos_token_ids, np.int32), np.int32(0))

    @jax.jit
    def decode(injection: Injection, frozen: Frozen, tokens: Array, mask: Array) -> Tree:
        # The frozen tree comes as an argument; what the closure holds are shapes without numbers.
        model = PromptedModel.of(dataclasses.replace(backbone, params=frozen), injection)
        return decode_tokens(model, tokens, mask, rules, None, length=longest)

    arguments = (injection, backbone.params, tokens, mask)
    return Program("decode", decode, arguments, rounds=eval.max_new_tokens)


def score_program(config: Config, backbone: Backbone, device: Device) -> Program:
    """How likely every label word is to a batch of evaluation, or the target of every row."""
    method, length = method_for(config, backbone), config.data.max_target_length
    injection, tokens, mask = _read(config, method, backbone, device)
    # As many words as the task with the most has, each as long as a target may be.
    count = max(map(len, label_words(config)))
    shapes = {"tokens": (length, jnp.int32), "mask": (length, jnp.bool_)}
    if count:
        place = _everywhere(backbone, device)
        words = [jax.ShapeDtypeStruct((count, n), t, sharding=place) for n, t in shapes.values()]
    else:
        words = _rows(backbone, device, tokens.shape[0], **shapes)

    @jax.jit
    def score(
        injection: Injection, frozen: Frozen, tokens: Array, mask: Array, words: Array, real: Array
    ) -> Array:
        if not count:
            words, real = words[:, None], real[:, None]
        model = PromptedModel.of(dataclasses.replace(backbone, params=frozen), injection)
        return score_candidates(model, tokens, mask, words, real, real.sum(-1))

    return Program("score", score, (injection, backbone.params, tokens, mask, *words))


def programs_of(config: Config) -> tuple[str, ...]:
    """What a run compiles: its step, and how it scores validation.

    Label words are scored. Where a task may have none, texts are written and targets scored. A step
    that keeps more of short inputs is another program.
    """
    short = for_short_inputs(config).data != config.data
    steps = ("train", SHORT) if short else ("train",)
    return (*steps, "score") if all(label_words(config)) else (*steps, "decode", "score")


def for_short_inputs(config: Config) -> Config:
    """The run whose longest inputs have as many positions as `remat_beyond`, if it says any."""
    beyond, data = config.frozen.remat_beyond, config.data
    text = beyond - config.method.input_tokens
    if not 0 < text < data.max_source_length:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(data, max_source_length=text))


def label_words(config: Config) -> list[tuple[str, ...]]:
    """Label words of every task, as far as its rows need not be read; none where it may write."""
    tasks = [known(name, config.task) for name in config.data.names]
    if config.task.kind not in (None, "classification"):
        return [()] * len(tasks)
    return [config.task.labels or (task.choices if task else ()) for task in tasks]


def _read(
    config: Config, method: MethodConfig, backbone: Backbone, device: Device
) -> tuple[Injection, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """A prompt, and the tokens and mask of a batch of evaluation."""
    injection = jax.eval_shape(lambda t: materialize(method, t), _tuned(method, backbone))
    rows = whole_rows(config.scoring.rows, backbone.mesh)
    length = config.data.max_source_length
    shapes = {"tokens": (length, jnp.int32), "mask": (length, jnp.bool_)}
    placed = _placed(injection, _everywhere(backbone, device))
    tokens, mask = _rows(backbone, device, rows, **shapes)
    return placed, tokens, mask
