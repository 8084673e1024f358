"""Hugging Face's names of a decoder-only model's weights, and where a method may reach inside."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from prompt_jax.backbones.causal.config import CausalConfig, StackConfig
from prompt_jax.backbones.sockets import Attention, Axes, Layers, Norm, Sockets, projection

T = TypeVar("T")
TEXT = "language_model."
"""What stands in the names of a text model beside a vision tower."""
COPIES = ("lm_head.weight",)
"""A second name of the table, which some checkpoints of tied models keep."""
HEADS = {"embed_out.weight": COPIES[0]}
"""What the head over words was called before: in GPT-NeoX."""
OTHERS = ("score.", "classifier.", "qa_outputs.")
"""Heads of other tasks, which a prompt brings itself."""
GPT2 = {
    "attention_norm": "ln_1",
    "attention/qkv": "attn.c_attn",
    "attention/out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp/wi": "mlp.c_fc",
    "mlp/wo": "mlp.c_proj",
}
LLAMA = {
    "attention_norm": "input_layernorm",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp/wi_0": "mlp.gate_proj",
    "mlp/wi_1": "mlp.up_proj",
    "mlp/wo": "mlp.down_proj",
}
GEMMA2 = LLAMA | {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
PHI3 = {path: name for path, name in LLAMA.items() if path.endswith(("norm", "out", "wo"))} | {
    "attention/qkv": "self_attn.qkv_proj",
    "mlp/wi": "mlp.gate_up_proj",
}
NEOX = {
    "attention_norm": "input_layernorm",
    "attention/qkv": "attention.query_key_value",
    "attention/out": "attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp/wi": "mlp.dense_h_to_4h",
    "mlp/wo": "mlp.dense_4h_to_h",
}
T5GEMMA = GEMMA2 | {
    "attention_norm": "pre_self_attn_layernorm",
    "attention_post_norm": "post_self_attn_layernorm",
    "cross_attention_norm": "pre_cross_attn_layernorm",
    "cross_attention/query": "cross_attn.q_proj",
    "cross_attention/key": "cross_attn.k_proj",
    "cross_attention/value": "cross_attn.v_proj",
    "cross_attention/out": "cross_attn.o_proj",
    "cross_attention_post_norm": "post_cross_attn_layernorm",
}
MODERNBERT = {
    "attention_norm": "attn_norm",
    "attention/qkv": "attn.Wqkv",
    "attention/out": "attn.Wo",
    "mlp_norm": "mlp_norm",
    "mlp/wi": "mlp.Wi",
    "mlp/wo": "mlp.Wo",
}
BART = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "cross_attention/query": "encoder_attn.q_proj",
    "cross_attention/key": "encoder_attn.k_proj",
    "cross_attention/value": "encoder_attn.v_proj",
    "cross_attention/out": "encoder_attn.out_proj",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "mlp/wi": "fc1",
    "mlp/wo": "fc2",
    "mlp_norm": "final_layer_norm",
}
QK_NORMS = ("attention/query_norm", "attention/key_norm")


class Names(NamedTuple):
    """What Hugging Face calls the parts of a model."""

    layer: Mapping[str, str]
    """Those of a layer, by path."""
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    final: str = "model.norm"
    positions: str = ""
    scaled: tuple[str, str] = ("key", "value")
    """What of its attentions PEFT trains factors for."""

    @property
    def table(self) -> str:
        """The weight of the embedding table."""
        return f"{self.embedding}.weight"


_LLAMA = Names(LLAMA)
NAMES = {
    "gpt2": Names(
        GPT2, "transformer.wte", "transformer.h", "transformer.ln_f", "transformer.wpe"
    ),
    **dict.fromkeys(("qwen2", "qwen3", "gemma"), Names(LLAMA, scaled=("query", "value"))),
    **dict.fromkeys(("gemma2", "gemma3_text"), Names(GEMMA2, scaled=("query", "value"))),
    "olmo2": Names(GEMMA2),
    "phi3": Names(PHI3),
    "gpt_neox": Names(
        NEOX, "gpt_neox.embed_in", "gpt_neox.layers", "gpt_neox.final_layer_norm"
    ),
    "modernbert": Names(MODERNBERT),
    "bart": Names(BART),
    "opt": Names(
        BART, "model.decoder.embed_tokens", "model.decoder.layers",
        "model.decoder.final_layer_norm", "model.decoder.embed_positions", ("query", "key"),
    ),
    **dict.fromkeys(("t5gemma", "t5gemma2"), Names(T5GEMMA)),
}  # fmt: skip
"""By model type, where they are not Llama's."""
TABLES = tuple(dict.fromkeys(names.table for names in (_LLAMA, *NAMES.values())))
"""What the embedding table is called."""


def _names(model_type: str) -> Names:
    return NAMES.get(model_type, _LLAMA)


def kernel_names(model_type: str) -> dict[str, tuple[str, ...]]:
    """What Hugging Face calls the kernels that methods tune, by their role."""
    layer, scaled = _names(model_type).layer, _names(model_type).scaled
    # Cross-attention has the same names, and its kernels are tuned with the others.
    modules = [name for path, name in layer.items() if not path.startswith("cross_attention")]

    def short(path: str) -> str:
        module = layer.get(path, layer.get("attention/qkv", ""))
        last = module.rpartition(".")[2]
        alone = sum(name.endswith(f".{last}") for name in modules) == 1
        return last if alone else module

    def attention(*roles: str) -> tuple[str, ...]:
        # Each name once: one kernel may make all three.
        return tuple(dict.fromkeys(short(f"attention/{role}") for role in roles))

    names = {role: attention(role) for role in ("query", "value")}
    feedforward = (short("mlp/wo"),)
    return names | {"scaled": attention(*scaled) + feedforward, "feedforward": feedforward}


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """What Hugging Face calls the layers of a trained head."""
    if task_type == "QUESTION_ANS":
        return {"out": "qa_outputs"}
    gpt = model_type in ("gpt2", "gpt_neox")
    return {"out": "classifier" if task_type == "TOKEN_CLS" and gpt else "score"}


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: those of a bare GPT-2 or Llama lack their root.

    Of a Gemma 3 that sees, those of the text model; its writer decides where that hangs.
    """
    if model_type == "gemma3":
        text = {name.replace(TEXT, "", 1): name for name in tensors if TEXT in name}
        text |= {name: name for name in COPIES if name in tensors}
        tensors = {name: tensors[source] for name, source in text.items()} if text else tensors
    weights = {
        HEADS.get(name, name): tensor
        for name, tensor in tensors.items()
        if not name.startswith(OTHERS)
    }
    table = _names(model_type).table
    root = "" if table in weights else table.partition(".")[0] + "."
    return {name if name in COPIES else root + name: tensor for name, tensor in weights.items()}


def hugging_face_names(config: CausalConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    c, names = config, _names(config.model_type)
    weights = {"embedding": [names.table]}
    if c.rope is None:
        weights["positions"] = [f"{names.positions}.weight"]
    if not c.tie_embeddings:
        weights["head/kernel"] = list(COPIES)
    return weights | stack_names(c, "decoder", names.layers, names.final)


def stack_names(config: StackConfig, stack: str, layers: str, final: str) -> dict[str, list[str]]:
    """Names of a stack's weights, by path.

    Args:
      stack: what it is called in our tree.
      layers: what Hugging Face calls its layers.
      final: and the norm behind them, if there is one.
    """
    c = config
    leaves = _norm_leaves(c) if c.final_norm else []
    names = {f"{stack}/final_norm/{leaf}": [f"{final}.{word}"] for leaf, word in leaves}
    for path, module in _modules(c).items():
        for leaf, word in _leaves(c, path):
            names[f"{stack}/layers/{path}/{leaf}"] = [
                f"{layers}.{i}.{module}.{word}" for i in range(c.num_layers)
            ]
    return names


def transposed(config: CausalConfig, path: str) -> bool:
    """Whether a leaf is stored the other way round: matrices [out, in], but inside GPT-2."""
    # GPT-2 is made of Conv1D, which stores [in, out]; its head is a Linear.
    inside_gpt2 = config.model_type == "gpt2" and path != "head/kernel"
    return path.endswith("kernel") and not inside_gpt2


def _modules(c: StackConfig) -> dict[str, str]:
    """The parts of a layer by path, and what Hugging Face calls them."""
    absent = set() if c.qk_norm else set(QK_NORMS)
    if not {"before", "after"} & {*c.norm_places}:
        absent |= {"attention_norm", "mlp_norm"}
    table = _names(c.model_type).layer
    if "behind" not in c.norm_places:
        absent |= {path for path in table if path.endswith("post_norm")}
    if c.cross_width is None:
        absent |= {path for path in table if path.startswith("cross_attention")}
    return {path: name for path, name in table.items() if path not in absent}


def _leaves(c: StackConfig, path: str) -> list[tuple[str, str]]:
    if path.endswith("norm"):
        return _norm_leaves(c)
    bias = c.mlp_bias if path.startswith("mlp") else c.qkv_bias
    bias = c.out_bias if path.endswith("attention/out") else bias
    return [("kernel", "weight"), *([("bias", "bias")] if bias else [])]


def _norm_leaves(c: StackConfig) -> list[tuple[str, str]]:
    biased = c.norm == "layer" and c.norm_bias
    return [("scale", "weight"), *([("bias", "bias")] if biased else [])]


def sockets(config: CausalConfig) -> Sockets:
    """Every place of a decoder-only model where a method may put something."""
    places = Sockets({}, {}, {}, {})
    add_places(places, config, "decoder", hugging_face_names(config))
    return places


def add_places(
    places: Sockets, config: StackConfig, stack: str, names: Mapping[str, list[str]]
) -> None:
    """Adds those of a stack to the places of a model.

    Args:
      stack: `encoder` or `decoder`.
      names: of the model's weights, by path.
    """
    c = config
    inner, mlp, outer = ("embed", c.d_model), ("mlp", c.d_ff), ("heads", c.num_heads)
    few, kv = ("kv_heads", c.num_kv_heads), ("kv", c.d_kv)
    read = ("embed", c.cross_width or 0)
    ends: dict[str, tuple[Axes, Axes]] = {
        "attention/qkv": ((inner,), c.fused_axes),
        **dict.fromkeys(("attention/query", "cross_attention/query"), ((inner,), (outer, kv))),
        **dict.fromkeys(("attention/key", "attention/value"), ((inner,), (few, kv))),
        **dict.fromkeys(("cross_attention/key", "cross_attention/value"), ((read,), (few, kv))),
        **dict.fromkeys(("attention/out", "cross_attention/out"), ((outer, kv), (inner,))),
        **dict.fromkeys(("mlp/wi", "mlp/wi_0", "mlp/wi_1"), ((inner,), (mlp,))),
        "mlp/wo": ((mlp,), (inner,)),
    }
    if c.fused_mlp:
        ends["mlp/wi"] = ((inner,), (("maps", 2), mlp))
    heads = (c.num_heads, c.num_kv_heads) if c.qk_norm == "whole" else (1, 1)
    qk_widths = {path: count * c.d_kv for path, count in zip(QK_NORMS, heads, strict=True)}
    for path in _modules(c):
        place = f"{stack}/layers/{path}"
        if path.endswith("norm"):
            places.norms[place] = Norm(c.num_layers, qk_widths.get(path, c.d_model))
            continue
        places.projections[place] = projection(*ends[path], names[f"{place}/kernel"])
    if c.final_norm:
        places.norms[f"{stack}/final_norm"] = Norm(0, c.d_model)
    sublayers = ("attention", *(("cross_attention",) if c.cross_width else ()), "mlp")
    for sublayer in sublayers[:-1]:
        role = "cross" if sublayer == "cross_attention" else stack
        attention = Attention(c.num_layers, c.num_kv_heads, c.d_kv, role)
        places.attentions[f"{stack}/layers/{sublayer}"] = attention
    places.blocks[f"{stack}/layers"] = Layers(c.num_layers, c.d_model, sublayers, stack)
