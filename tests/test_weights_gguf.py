"""A .gguf file, written with the gguf library: the config, the weights and the tokenizer in it."""

import base64
import dataclasses
import json
import sys

import numpy as np
import pytest

from prompt_jax.backbones.causal import Rope
from prompt_jax.config import InputError
from prompt_jax.testing.models import CONFIGS
from prompt_jax.weights import load_backbone, load_tokenizer, save_hugging_face
from prompt_jax.weights.gguf import open_gguf
from prompt_jax.weights.gguf_architectures import ARCHITECTURES
from prompt_jax.weights.mapping import disassemble, hugging_face_shapes

gguf = pytest.importorskip("gguf", reason='pip install "prompt-jax[gguf]"')
KINDS = gguf.GGMLQuantizationType
LLAMA = dataclasses.replace(CONFIGS["llama"], rope=Rope(5000.0))
MODELS = {
    "llama": LLAMA,
    "tied": dataclasses.replace(LLAMA, tie_embeddings=True, qkv_bias=True, out_bias=True),
    "stretched": dataclasses.replace(LLAMA, rope=Rope(5e5, "llama3", 8.0)),
    "linear": dataclasses.replace(LLAMA, rope=Rope(1e4, "linear", 2.0)),
    "qwen2": dataclasses.replace(LLAMA, model_type="qwen2", qkv_bias=True),
    "qwen3": dataclasses.replace(LLAMA, model_type="qwen3", qk_norm="heads"),
    "gemma2": dataclasses.replace(CONFIGS["gemma2"], query_scale=None),
    "gemma3": dataclasses.replace(
        CONFIGS["gemma3"], query_scale=None, num_layers=6, full_layers=(5,)
    ),
    "olmo2": CONFIGS["olmo2"],
    # No key of the format tells which layers turn no position: each fourth one.
    "smollm3": dataclasses.replace(LLAMA, model_type="smollm3", num_layers=4, nope_layers=(3,)),
    "granite": CONFIGS["granite"],
    "phi3": dataclasses.replace(CONFIGS["phi3"], sliding_window=4),
    "longrope": dataclasses.replace(
        CONFIGS["phi3"],
        max_positions=16,
        rope=Rope(
            1e4,
            "longrope",
            4.0,
            original=16,
            attention=1.25,
            short=(1.0, 1.5, 1.25, 2.0),
            long=(2.0, 4.0, 3.0, 8.0),
        ),
    ),
    "gpt_neox": CONFIGS["gpt_neox"],
    "gpt2": CONFIGS["gpt2"],
    "t5": CONFIGS["t5"],
}


def gguf_name(config):
    return config.model_type.removesuffix("_text").replace("gpt_neox", "gptneox")


def interleaved(rows, config):
    """Llama's rows as its converter to GGUF writes them: the halves of a head turn by turn."""
    halves = rows.reshape(-1, 2, config.d_kv // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def writer_of(file, config, tokenizer=()):
    """A writer with the metadata of a model."""
    c, writer = config, gguf.GGUFWriter(file, gguf_name(config))
    writer.add_embedding_length(c.d_model)
    writer.add_block_count(c.num_layers)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_head_count(c.num_heads)
    writer.add_eos_token_id(c.eos_token_ids[0])
    if c.pad_token_id is not None:
        writer.add_pad_token_id(c.pad_token_id)
    if c.max_positions:
        longer = 4 if getattr(c, "rope", None) and c.rope.kind == "longrope" else 1
        writer.add_context_length(longer * c.max_positions)
    if c.model_type == "gpt2":
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
        return writer
    if c.model_type == "gpt_neox":
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
        writer.add_parallel_residual(c.parallel_residual)
        writer.add_rope_dimension_count(c.rope.turning(c.d_kv))
        return writer
    writer.add_layer_norm_rms_eps(c.layer_norm_epsilon)
    writer.add_key_length(c.d_kv)
    if c.model_type == "t5":
        writer.add_decoder_block_count(c.num_decoder_layers)
        writer.add_relative_attn_buckets_count(c.relative_attention_num_buckets)
        writer.add_decoder_start_token_id(0)
        return writer
    writer.add_head_count_kv(c.num_kv_heads)
    writer.add_rope_freq_base(c.rope.theta)
    writer.add_rope_dimension_count(c.rope.turning(c.d_kv))
    if c.sliding_window:
        writer.add_sliding_window(c.sliding_window)
    if c.model_type == "gemma2":
        writer.add_attn_logit_softcapping(c.attention_cap)
        writer.add_final_logit_softcapping(c.logit_cap)
    if c.model_type == "granite":
        writer.add_embedding_scale(c.input_scale)
        writer.add_attention_scale(c.query_scale)
        writer.add_residual_scale(c.residual_scale)
        writer.add_logit_scale(c.logits_scaling)
    if c.rope.kind == "longrope":
        # The file says how long texts may be that turn as those which are read here do not.
        writer.add_rope_scaling_orig_ctx_len(c.rope.original)
        writer.add_rope_scaling_attn_factors(c.rope.attention)
        writer.add_tensor("rope_factors_short.weight", np.float32(c.rope.short))
        writer.add_tensor("rope_factors_long.weight", np.float32(c.rope.long))
    if c.rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(c.rope.factor)
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(file, config, tensors):
    """A model as llama.cpp's converter writes it."""
    writer, name = writer_of(file, config), gguf_name(config)
    architecture = next(key for key, word in gguf.MODEL_ARCH_NAMES.items() if word == name)
    names = gguf.get_tensor_name_map(architecture, 8)
    for weight, values in tensors.items():
        module, _, leaf = weight.rpartition(".")
        if ARCHITECTURES[name].interleaved and module.endswith(("q_proj", "k_proj")):
            values = interleaved(values, config)
        if config.model_type.startswith("gemma") and module.endswith("norm"):
            values = values + 1
        if "query_key_value" in module:  # All queries, all keys, all values.
            heads = values.reshape(config.num_heads, 3, config.d_kv, *values.shape[1:])
            values = heads.swapaxes(0, 1).reshape(values.shape)
        if ".h." in weight and leaf == "weight" and values.ndim == 2:
            values = values.T
        writer.add_tensor(f"{names.get_name(module)}.{leaf}", np.ascontiguousarray(values))
    if config.model_type == "llama" and config.rope.kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config.rope, config.d_kv))
    finish(writer)


def llama3_factors(rope, width):
    """What llama.cpp's converter makes of the rope of Llama 3.1."""
    turns = rope.original * rope.theta ** (-np.arange(0, width, 2) / width) / (2 * np.pi)
    smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
    return np.float32(1 / ((1 - smooth) / rope.factor + smooth))


def weights_of(config, seed=0):
    rng = np.random.default_rng(seed)
    shapes = hugging_face_shapes(config)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_config_and_weights_are_those_that_were_converted(name, tmp_path):
    config = MODELS[name]
    tensors = weights_of(config)
    write(tmp_path / "model.gguf", config, tensors)
    backbone = load_backbone(tmp_path / "model.gguf")
    changed = {"scan": backbone.config.scan, "dtype": backbone.config.dtype}
    changed["layer_norm_epsilon"] = pytest.approx(config.layer_norm_epsilon)
    assert dataclasses.replace(config, **changed) == backbone.config
    for weight, values in disassemble(backbone.params, backbone.config).items():
        # What Gemma's norms lose where one is added is all that is lost.
        added = 5e-7 if weight.endswith("norm.weight") and "gemma" in name else 0
        np.testing.assert_allclose(values, tensors[weight], rtol=0, atol=added, err_msg=weight)
    if name == "tied":  # A folder that holds the file, and a folder made of it, are the same model.
        assert load_backbone(tmp_path).fingerprint == backbone.fingerprint
        folder = save_hugging_face(tmp_path / "folder", backbone)
        assert load_backbone(folder).fingerprint == backbone.fingerprint


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A file with two rows of random bytes of every kind, and the bytes."""
    file, rng = tmp_path_factory.mktemp("kinds") / "kinds.gguf", np.random.default_rng(0)
    writer, rows = gguf.GGUFWriter(file, "llama"), {}
    for kind in KINDS:
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = rng.integers(0, 255, (2, 3 * size), np.uint8)
        try:
            gguf.dequantize(data, kind)
        except NotImplementedError:
            continue
        rows[kind] = data
        dtype = {KINDS.F32: np.float32, KINDS.F16: np.float16}.get(kind, np.uint8)
        writer.add_tensor(f"{kind.name}.weight", data.view(dtype), raw_dtype=kind)
    finish(writer)
    return file, rows


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Random bytes are NaN here and there.
def test_every_quantisation_is_the_library_s_to_the_bit(quantised):
    file, rows = quantised
    tensors = open_gguf(file).tensors
    assert {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"} <= {
        kind.name for kind in rows
    }
    for kind, data in rows.items():
        values = gguf.dequantize(data, kind)
        tensor = tensors[f"{kind.name}.weight"]
        assert tensor.shape == values.shape
        np.testing.assert_array_equal(tensor.read(), values, kind.name)
        np.testing.assert_array_equal(tensor.read_rows(1, 2), values[1:], kind.name)


def test_a_quantisation_that_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "model.gguf"
    writer = writer_of(file, LLAMA)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, 32), np.int32))
    finish(writer)
    with pytest.raises(InputError, match="type I32, which .* cannot dequantise; allowed: .*Q4_K"):
        open_gguf(file)


def test_what_is_not_a_model_of_ours_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    finish(gguf.GGUFWriter(file, "mamba"))
    with pytest.raises(InputError, match="architecture in .*'mamba'; allowed: llama, qwen2"):
        load_backbone(file)
    tensors = weights_of(LLAMA)
    name = "model.layers.{}.mlp.gate_proj.weight"
    write(file, LLAMA, {**tensors, name.format(7): tensors[name.format(0)]})
    with pytest.raises(InputError, match="blk.7.ffn_gate.weight not part of this model"):
        load_backbone(file)
    write(tmp_path / "second.gguf", LLAMA, tensors)
    with pytest.raises(InputError, match=r"several \.gguf files \(model.gguf, second.gguf\)"):
        load_backbone(tmp_path)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError, match="model.gguf is truncated or damaged"):
        load_backbone(file)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r'pip install "prompt-jax\[gguf\]"'):
        load_backbone(tmp_path / "second.gguf")


def test_factors_of_an_unknown_rope_are_refused(tmp_path, monkeypatch):
    factors = np.linspace(1, 8, 4, dtype=np.float32)
    monkeypatch.setitem(globals(), "llama3_factors", lambda rope, width: factors)
    write(tmp_path / "model.gguf", MODELS["stretched"], weights_of(LLAMA))
    with pytest.raises(InputError, match="stretch the positions as no Llama 3 does"):
        load_backbone(tmp_path / "model.gguf")


TEXTS = ["a dull film", "In 1984  it's 3 x 27", "  née 東京 🙂", "<|end|>a film<|end|>\n\nb"]


def byte_level(split):
    """A byte-level BPE tokenizer that was trained on a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([part for part in parts if part])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>", "<|begin|>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(["a dull film  of 1984", "a dull film in  198"] * 9, trainer)
    return tokenizer


@pytest.mark.parametrize(("kind", "add_bos"), [("gpt-2", False), ("smollm", True)])
def test_a_byte_level_tokenizer_is_the_one_that_was_converted(tmp_path, kind, add_bos):
    from tokenizers.pre_tokenizers import Digits

    original = byte_level(Digits(individual_digits=True) if kind == "smollm" else None)
    file, model = tmp_path / "model.gguf", json.loads(original.to_str())["model"]
    words = [original.id_to_token(i) for i in range(original.get_vocab_size())]
    writer = writer_of(file, LLAMA)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(words)
    writer.add_token_types([3, 3] + [1] * (len(words) - 2))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template("{{ messages[0].content }}<|end|>")
    finish(writer)
    tokenizer = load_tokenizer(str(file))
    first = [1] if add_bos else []
    for text in TEXTS:
        assert tokenizer(text).input_ids == first + original.encode(text).ids
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin|>", words[1])
    assert tokenizer.apply_chat_template([{"content": "x"}], tokenize=False) == "x<|end|>"
    tokenizer.save_pretrained(tmp_path / "folder")
    assert load_tokenizer(str(tmp_path / "folder"))(TEXTS).input_ids == tokenizer(TEXTS).input_ids


@pytest.mark.parametrize("space", [True, False])
def test_a_sentencepiece_tokenizer_begins_with_bos_and_falls_back_to_bytes(tmp_path, space):
    file, space_char = tmp_path / "model.gguf", "\u2581"
    pieces = [space_char, "a", "b", "ab", f"{space_char}a", f"{space_char}ab"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    writer = writer_of(file, LLAMA)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * 262 + [-1.0, -2.0, -3.0])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 6])
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(space)
    finish(writer)
    tokenizer = load_tokenizer(str(file))
    front = [f"{space_char}ab"] if space else ["ab"]
    for text, tokens in {
        "ab a": [*front, f"{space_char}a"],
        "ab\u00e9": [*front, "<0xC3>", "<0xA9>"],
    }.items():
        assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == ["<s>", *tokens]
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_a_split_that_is_not_known_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    writer = writer_of(file, LLAMA)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("someone-elses")
    writer.add_token_list(["a", "b"])
    writer.add_token_merges([])
    finish(writer)
    with pytest.raises(InputError, match="splits texts as 'someone-elses'; allowed: .*smollm.*tok"):
        load_tokenizer(str(file))


@pytest.mark.slow
def test_the_tokenizer_of_a_t5_is_the_one_that_was_converted(embedded, tmp_path):
    file, backend = (
        tmp_path / "model.gguf",
        json.loads(embedded.tokenizer.backend_tokenizer.to_str()),
    )
    pieces = backend["model"]["vocab"]
    kinds = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    writer = writer_of(file, CONFIGS["t5"])
    writer.add_tokenizer_model("t5")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types([kinds.get(piece, 1) for piece, _ in pieces])
    writer.add_unk_token_id(2)
    writer.add_add_eos_token(True)
    writer.add_precompiled_charsmap(base64.b64decode(backend["normalizer"]["precompiled_charsmap"]))
    finish(writer)
    tokenizer = load_tokenizer(str(file))
    for text in ["The film was a delight.", "  na\u00efve \ufb01ne \u2167  1984", "<extra_id_0> x"]:
        assert tokenizer(text).input_ids == embedded.tokenizer(text).input_ids
