"""Hugging Face's names of a decoder-only model's weights, and where a method may reach inside."""

from collections.abc import Mapping
from typing import TypeVar

from prompt_jax.backbones.causal.config import CausalConfig, StackConfig
from prompt_jax.backbones.sockets import Attention, Axes, Layers, Norm, Sockets, projection

T = TypeVar("T")
TABLES = ("transformer.wte.weight", "model.embed_tokens.weight")
"""What the embedding table is called, in GPT-2 and in the others."""
TEXT = "language_model."
"""What stands in the names of a text model beside a vision tower."""
COPIES = ("lm_head.weight",)
"""A second name of the table, which some checkpoints of tied models keep."""
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
MODULES = {
    **{"gpt2": GPT2, "gemma2": GEMMA2, "gemma3_text": GEMMA2, "t5gemma": T5GEMMA},
    **{"modernbert": MODERNBERT, "bart": BART},
}
"""The parts of a layer by model type, where they are not Llama's."""
QK_NORMS = ("attention/query_norm", "attention/key_norm")


def kernel_names(model_type: str) -> dict[str, str]:
    """What Hugging Face calls the kernels that methods tune by their role."""
    if model_type == "gpt2":
        return dict.fromkeys(("query", "key", "value"), "c_attn") | {"feedforward": "mlp.c_proj"}
    return {"query": "q_proj", "key": "k_proj", "value": "v_proj", "feedforward": "down_proj"}


def head_names(task_type: str, model_type: str) -> dict[str, str]:
    """What Hugging Face calls the layers of a trained head."""
    if task_type == "QUESTION_ANS":
        return {"out": "qa_outputs"}
    return {"out": "classifier" if task_type == "TOKEN_CLS" and model_type == "gpt2" else "score"}


def canonical(tensors: Mapping[str, T], model_type: str) -> dict[str, T]:
    """Weights under the names that we read: those of a bare GPT-2 or Llama lack their root.

    Of a Gemma 3 that sees, those of the text model; its writer decides where that hangs.
    """
    if model_type == "gemma3":
        text = {name.replace(TEXT, "", 1): name for name in tensors if TEXT in name}
        text |= {name: name for name in COPIES if name in tensors}
        tensors = {name: tensors[source] for name, source in text.items()} if text else tensors
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(OTHERS)}
    root = "" if TABLES[0] in weights or TABLES[1] in weights else _root(model_type) + "."
    return {name if name in COPIES else root + name: tensor for name, tensor in weights.items()}


def _root(model_type: str) -> str:
    return "transformer" if model_type == "gpt2" else "model"


def hugging_face_names(config: CausalConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    c, gpt2, root = config, config.model_type == "gpt2", _root(config.model_type)
    names = {"embedding": [f"{root}.{'wte' if gpt2 else 'embed_tokens'}.weight"]}
    if c.rope is None:
        names["positions"] = [f"{root}.wpe.weight"]
    if not c.tie_embeddings:
        names["head/kernel"] = ["lm_head.weight"]
    layers, final = ("h", "ln_f") if gpt2 else ("layers", "norm")
    return names | stack_names(c, "decoder", f"{root}.{layers}", f"{root}.{final}")


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
    table = MODULES.get(c.model_type, LLAMA)
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
        "attention/qkv": ((inner,), (("qkv", 3), outer, kv)),
        **dict.fromkeys(("attention/query", "cross_attention/query"), ((inner,), (outer, kv))),
        **dict.fromkeys(("attention/key", "attention/value"), ((inner,), (few, kv))),
        **dict.fromkeys(("cross_attention/key", "cross_attention/value"), ((read,), (few, kv))),
        **dict.fromkeys(("attention/out", "cross_attention/out"), ((outer, kv), (inner,))),
        **dict.fromkeys(("mlp/wi", "mlp/wi_0", "mlp/wi_1"), ((inner,), (mlp,))),
        "mlp/wo": ((mlp,), (inner,)),
    }
    if c.fused_mlp:
        ends["mlp/wi"] = ((inner,), (("maps", 2), mlp))
    for path in _modules(c):
        place = f"{stack}/layers/{path}"
        if path.endswith("norm"):
            width = c.d_kv if path in QK_NORMS else c.d_model
            places.norms[place] = Norm(c.num_layers, width)
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
