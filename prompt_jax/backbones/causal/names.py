"""Hugging Face's names of a decoder-only model's weights, and where a method may reach inside."""

from collections.abc import Mapping
from typing import TypeVar

from prompt_jax.backbones.causal.config import CausalConfig
from prompt_jax.backbones.sockets import Attention, Axes, Layers, Norm, Sockets, projection

T = TypeVar("T")
TABLES = ("transformer.wte.weight", "model.embed_tokens.weight")
"""What the embedding table is called, in GPT-2 and in the others."""
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
    """Weights under the names that we read: those of a bare GPT-2 or Llama lack their root."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(OTHERS)}
    root = "" if TABLES[0] in weights or TABLES[1] in weights else _root(model_type) + "."
    return {name if name in COPIES else root + name: tensor for name, tensor in weights.items()}


def _root(model_type: str) -> str:
    return "transformer" if model_type == "gpt2" else "model"


def hugging_face_names(config: CausalConfig) -> dict[str, list[str]]:
    """Paths of our tree to Hugging Face's names: one, or one a layer for stacked leaves."""
    c, gpt2 = config, config.model_type == "gpt2"
    root, (layers, final) = _root(c.model_type), ("h", "ln_f") if gpt2 else ("layers", "norm")
    names = {"embedding": [f"{root}.{'wte' if gpt2 else 'embed_tokens'}.weight"]}
    if c.rope is None:
        names["positions"] = [f"{root}.wpe.weight"]
    if not c.tie_embeddings:
        names["head/kernel"] = ["lm_head.weight"]
    for leaf, word in _norm_leaves(c):
        names[f"decoder/final_norm/{leaf}"] = [f"{root}.{final}.{word}"]
    for path, module in _modules(c).items():
        for leaf, word in _leaves(c, path):
            names[f"decoder/layers/{path}/{leaf}"] = [
                f"{root}.{layers}.{i}.{module}.{word}" for i in range(c.num_layers)
            ]
    return names


def transposed(config: CausalConfig, path: str) -> bool:
    """Whether a leaf is stored the other way round: matrices [out, in], but inside GPT-2."""
    inside_gpt2 = config.model_type == "gpt2" and path != "head/kernel"
    return path.endswith("kernel") and not inside_gpt2


def _modules(c: CausalConfig) -> dict[str, str]:
    """The parts of a layer by path, and what Hugging Face calls them."""
    table = GPT2 if c.model_type == "gpt2" else LLAMA
    return {path: name for path, name in table.items() if c.qk_norm or path not in QK_NORMS}


def _leaves(c: CausalConfig, path: str) -> list[tuple[str, str]]:
    if path.endswith("norm"):
        return _norm_leaves(c)
    bias = c.mlp_bias if path.startswith("mlp") else c.qkv_bias
    bias = c.out_bias if path == "attention/out" else bias
    return [("kernel", "weight"), *([("bias", "bias")] if bias else [])]


def _norm_leaves(c: CausalConfig) -> list[tuple[str, str]]:
    return [("scale", "weight"), *([("bias", "bias")] if c.norm == "layer" else [])]


def sockets(config: CausalConfig) -> Sockets:
    """Every place of a decoder-only model where a method may put something."""
    c = config
    inner, mlp, outer = ("embed", c.d_model), ("mlp", c.d_ff), ("heads", c.num_heads)
    few, kv = ("kv_heads", c.num_kv_heads), ("kv", c.d_kv)
    ends: dict[str, tuple[Axes, Axes]] = {
        "attention/qkv": ((inner,), (("qkv", 3), outer, kv)),
        "attention/query": ((inner,), (outer, kv)),
        "attention/key": ((inner,), (few, kv)),
        "attention/value": ((inner,), (few, kv)),
        "attention/out": ((outer, kv), (inner,)),
        "mlp/wo": ((mlp,), (inner,)),
        **dict.fromkeys(("mlp/wi", "mlp/wi_0", "mlp/wi_1"), ((inner,), (mlp,))),
    }
    places = Sockets({}, {}, {}, {})
    names = hugging_face_names(c)
    for path in _modules(c):
        place = f"decoder/layers/{path}"
        if path.endswith("norm"):
            width = c.d_kv if path in QK_NORMS else c.d_model
            places.norms[place] = Norm(c.num_layers, width)
            continue
        places.projections[place] = projection(*ends[path], names[f"{place}/kernel"])
    places.norms["decoder/final_norm"] = Norm(0, c.d_model)
    attention = Attention(c.num_layers, c.num_kv_heads, c.d_kv, "decoder")
    places.attentions["decoder/layers/attention"] = attention
    places.blocks["decoder/layers"] = Layers(
        c.num_layers, c.d_model, ("attention", "mlp"), "decoder"
    )
    return places
