"""The frozen tree of any family: fresh, its shapes, its layout on a mesh, and what it computes."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, PRNGKeyArray

from prompt_jax.backbones.config import ModelConfig
from prompt_jax.backbones.families import family_of
from prompt_jax.backbones.quantised import quantised_shapes
from prompt_jax.sharding import parameter_spec
from prompt_jax.trees import Frozen, Tree, Tuned, by_path


# Jitted, as it compiles four times as long eagerly.
@functools.partial(jax.jit, static_argnums=0, static_argnames="boxed")
def init_params(config: ModelConfig, key: PRNGKeyArray, *, boxed: bool = False) -> Frozen:
    """Random parameters; under `jax.eval_shape` their shapes, for models of any size.

    Args:
      config: of any family.
      key: of the random numbers.
      boxed: keeps the names of every leaf's axes beside it.
    """
    # One token of one row: no parameter's shape depends on either.
    embeddings, mask = jnp.zeros((1, 1, config.d_model), config.dtype), jnp.ones((1, 1), bool)
    targets = [jnp.zeros((1, 1), jnp.int32)] if config.target_place == "apart" else []
    module = family_of(config).Module(config)
    params = module.init(key, embeddings, mask, *targets)["params"]
    return params if boxed else nn.unbox(params)


def boxed_shapes(config: ModelConfig, kind: str | None = None) -> Frozen:
    """Shape and type of every frozen leaf with the names of its axes, as `LogicallyPartitioned`.

    Args:
      config: of any family.
      kind: of weights in few bits, which have scales beside them; None of whole ones.
    """
    # Of stacked layers, as weights are held however they are run; a mesh would constrain shapes.
    plain = dataclasses.replace(config, scan=True, remat="none", mesh=None)
    shapes = jax.eval_shape(lambda: init_params(plain, jax.random.key(0), boxed=True))
    # Initialisers give float32 whatever the config says; weights are held in its dtype.
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, config.dtype), shapes)
    return shapes if kind is None else quantised_shapes(shapes, kind)


def shardings(config: ModelConfig, kind: str | None = None) -> Frozen:
    """How `config.mesh` holds every frozen leaf; arguments as for `boxed_shapes`."""
    mesh = config.mesh
    assert isinstance(mesh, Mesh)

    def place(leaf: nn.Partitioned) -> NamedSharding:
        return NamedSharding(mesh, parameter_spec(leaf.names, leaf.value.shape, mesh))

    shapes = boxed_shapes(config, kind)
    return jax.tree.map(place, shapes, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def unstack(params: Tree) -> Tree:
    """Frozen parameters with a tuple of layers for every stacked leaf.

    A program whose layers are apart would copy each one out of a stacked leaf at every call.
    """
    if not isinstance(params, dict):
        return params
    return {
        name: jax.tree.map(_layers, tree) if name == "layers" else unstack(tree)
        for name, tree in params.items()
    }


def _layers(leaf: Array) -> tuple[Array, ...]:
    """The layers of a stacked leaf; on a CPU they share its memory, and no program is compiled."""
    if next(iter(leaf.sharding.device_set)).platform != "cpu":
        return tuple(leaf)
    return tuple(jax.device_put(layer, leaf.sharding) for layer in np.asarray(leaf))


@functools.partial(jax.jit, static_argnums=0)
def keys_and_values(
    config: ModelConfig,
    params: Frozen,
    text: Int[Array, " T"] | Float[Array, "T D"],
    sockets: Tuned | None = None,
) -> dict[str, dict[str, Float[Array, "L T H K"]]]:
    """What every attention makes of a text at the first positions, H being heads of keys.

    Args:
      config: of any family.
      params: the frozen tree.
      text: tokens, or their embeddings; tokens where there is a decoder, which reads them too.
      sockets: what a method put into the model; the text stands behind a prefix among them.

    Returns:
      By path, `key` and `value`.
    """
    family = family_of(config)
    # Blocks that run one by one collect nothing that is sown; a scan stacks it with L in front.
    module = family.Module(dataclasses.replace(config, scan=True))
    frozen = {"params": params}
    embeddings = jnp.asarray(text if text.ndim == 2 else module.apply(frozen, text, method="embed"))
    inputs, method = [embeddings[None], jnp.ones((1, len(text)), bool)], "encode"
    if config.target_place == "apart":
        inputs, method = [*inputs, text[None]], "predict"
    variables = frozen | ({"tuned": sockets} if sockets else {})
    sown: Tree = module.apply(variables, *inputs, method=method, mutable=["intermediates"])[1]
    leaves = by_path(sown["intermediates"])
    return {
        # What is sown is a tuple with an entry a call; behind L stands the only row.
        # Where a decoder has several start tokens, it reads more than the text.
        path: {name: leaves[f"{path}/{name}s"][0][:, 0, : len(text)] for name in ("key", "value")}
        for path in family.sockets(config).attentions
    }
