"""Hugging Face's names of a T5's weights, and the places where a method may reach inside one."""

from collections.abc import Mapping
from typing import TypeVar

from prompt_jax.backbones.sockets import Attention, Axes, Layers, Norm, Sockets, projection
from prompt_jax.backbones.t5.config import T5Config

T = TypeVar("T")
TABLES = ("shared.weight",)
"""What the embedding table is called."""
COPIES = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Second names of the table that some checkpoints keep; the first one is the head's."""
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
"""A weight of old T5 1.0 checkpoints that no T5 has ever read."""
ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}


def kernel_names(model_type: str) -> dict[str, tuple[str, ...]]:
    """What Hugging Face calls the kernels that methods tune, by their role."""
    names = {"query": ("q",), "value": ("v",)}
    if model_type == "mt5":  # PEFT scales what comes out of a kernel of its feed-forward.
        return names | {"scaled": ("k", "v", "wi_1"), "feedforward": ()}
    return names | {"scaled": ("k", "v", "wo"), "feedforward": ("wo",)}


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """Layers of a head, and what PEFT calls them: T5 takes none."""
    return {}


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: some writers keep only a second name of the table."""
    weights = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
    copies = [weights[name] for name in COPIES[1:] if name in weights]
    return {TABLES[0]: copies[0], **weights} if copies else weights


def hugging_face_names(config: T5Config) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    names = {"embedding": ["shared.weight"]}
    if not config.tie_embeddings:
        names["head/kernel"] = ["lm_head.weight"]
    for stack, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        names[f"{stack}/final_norm/scale"] = [f"{stack}.final_layer_norm.weight"]
        for leaf, module in _block(config, stack).items():
            layers = [f"{stack}.block.{i}.layer.{module}.weight" for i in range(depth)]
            names[f"{stack}/layers/{leaf}"] = layers
        bias = "layer.0.SelfAttention.relative_attention_bias.weight"
        if config.bias_per_layer:
            layers = [f"{stack}.block.{i}.{bias}" for i in range(depth)]
            names[f"{stack}/layers/relative_bias/embedding"] = layers
        else:
            names[f"{stack}/relative_bias/embedding"] = [f"{stack}.block.0.{bias}"]
    return names


def transposed(config: T5Config, path: str) -> bool:
    """Whether a leaf is stored the other way round: matrices [out, in]."""
    return path.endswith("kernel")


def _block(config: T5Config, stack: str) -> dict[str, str]:
    """The leaves of one layer; Hugging Face numbers the sublayers where we name them."""
    mlp = {name: name for name in (("wi_0", "wi_1", "wo") if config.gated else ("wi", "wo"))}
    sublayers = [
        ("attention", "SelfAttention", ATTENTION),
        ("cross_attention", "EncDecAttention", ATTENTION),
        ("mlp", "DenseReluDense", mlp),
    ]
    if stack == "encoder":
        del sublayers[1]
    names = {}
    for i, (sublayer, module, kernels) in enumerate(sublayers):
        names[f"{sublayer}_norm/scale"] = f"{i}.layer_norm"
        for kernel, letter in kernels.items():
            names[f"{sublayer}/{kernel}/kernel"] = f"{i}.{module}.{letter}"
    return names


def sockets(config: T5Config) -> Sockets:
    """Every place of a T5 where a method may put something."""
    c = config
    places = Sockets({}, {}, {}, {})
    inner, outer = (("embed", c.d_model),), (("heads", c.num_heads), ("kv", c.d_kv))
    mlp = (("mlp", c.d_ff),)
    ends: dict[str, tuple[Axes, Axes]] = {
        **dict.fromkeys(("query", "key", "value"), (inner, outer)),
        "out": (outer, inner),
    }
    ends |= {**dict.fromkeys(("wi", "wi_0", "wi_1"), (inner, mlp)), "wo": (mlp, inner)}
    for path, weights in hugging_face_names(config).items():
        *place, leaf = path.split("/")
        layers = len(weights) if "layers" in place else 0
        if leaf == "kernel" and layers:
            places.projections["/".join(place)] = projection(*ends[place[-1]], weights)
        elif leaf == "scale":
            places.norms["/".join(place)] = Norm(layers, c.d_model)
    for stack, depth, sublayers in (
        ("encoder", c.num_layers, ("attention", "mlp")),
        ("decoder", c.num_decoder_layers, ("attention", "cross_attention", "mlp")),
    ):
        places.blocks[f"{stack}/layers"] = Layers(depth, c.d_model, sublayers, stack)
        for sublayer in sublayers[:-1]:
            role = "cross" if sublayer == "cross_attention" else stack
            attention = Attention(depth, c.num_heads, c.d_kv, role)
            places.attentions[f"{stack}/layers/{sublayer}"] = attention
    return places
