"""Legacy T5X checkpoints, written here as T5X writes them: a msgpack and a zarr a large weight."""

import dataclasses
import shutil

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import pytest
import tensorstore as ts

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.t5 import T5Config
from prompt_jax.config import InputError
from prompt_jax.weights import load_backbone, save_hugging_face, t5x
from prompt_jax.weights.mapping import shapes


def t5x_names(backbone):
    """The weights under T5X's paths, in T5X's shapes: kernels are [in, out] matrices."""
    leaves = {}

    def attention(path, tree, i):
        for name in ("query", "key", "value"):
            kernel = tree[name]["kernel"][i]
            leaves[f"{path}/{name}/kernel"] = kernel.reshape(kernel.shape[0], -1)
        kernel = tree["out"]["kernel"][i]
        leaves[f"{path}/out/kernel"] = kernel.reshape(-1, kernel.shape[-1])

    params = jax.tree.map(np.asarray, backbone.params)
    leaves["token_embedder/embedding"] = params["embedding"]
    if "head" in params:
        leaves["decoder/logits_dense/kernel"] = params["head"]["kernel"]
    for stack in ("encoder", "decoder"):
        tree, layers = params[stack], params[stack]["layers"]
        leaves[f"{stack}/{stack}_norm/scale"] = tree["final_norm"]["scale"]
        leaves[f"{stack}/relpos_bias/rel_embedding"] = tree["relative_bias"]["embedding"].T
        for i in range(len(layers["attention_norm"]["scale"])):
            path, own = (
                f"{stack}/layers_{i}",
                "attention" if stack == "encoder" else "self_attention",
            )
            attention(f"{path}/{own}", layers["attention"], i)
            leaves[f"{path}/pre_{own}_layer_norm/scale"] = layers["attention_norm"]["scale"][i]
            leaves[f"{path}/pre_mlp_layer_norm/scale"] = layers["mlp_norm"]["scale"][i]
            for name, kernel in layers["mlp"].items():
                leaves[f"{path}/mlp/{name}/kernel"] = kernel["kernel"][i]
            if stack == "decoder":
                attention(f"{path}/encoder_decoder_attention", layers["cross_attention"], i)
                norm = layers["cross_attention_norm"]["scale"][i]
                leaves[f"{path}/pre_cross_attention_layer_norm/scale"] = norm
    return leaves


def save_t5x(folder, leaves, *, dtype="float32", driver="gfile", top_level_path=False):
    """Matrices go to zarrs of four chunks, vectors into the msgpack."""
    target = {}
    for path, values in leaves.items():
        if values.ndim < 2 or "rel_embedding" in path:
            target[path] = values.astype(ts.dtype(dtype).numpy_dtype)
            continue
        name = f"target.{path.replace('/', '.')}"
        metadata = {
            "shape": values.shape,
            "chunks": [-(-size // 2) for size in values.shape],
            "dtype": "<f4" if dtype == "float32" else dtype,
            "compressor": {"id": "gzip", "level": 1},
        }
        store = {"driver": "file", "path": f"{folder}/{name}"}
        spec = {"driver": "zarr", "kvstore": store, "metadata": metadata, "create": True}
        ts.open(spec).result().write(values.astype(ts.dtype(dtype).numpy_dtype)).result()
        place = {"driver": driver} if top_level_path else {"driver": driver, "path": name}
        target[path] = {"driver": "zarr", "kvstore": place, "metadata": {"dtype": dtype}}
        if top_level_path:
            target[path]["path"] = f"/old/place/checkpoint_3/{name}/"
    state = {
        "version": 3,
        "optimizer": {
            "state": {"step": np.int64(1_100_000), "param_states": {"x": None}},
            "target": flax.traverse_util.unflatten_dict(target, sep="/"),
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(state))
    return folder


@pytest.fixture
def leaves(tiny):
    return t5x_names(tiny)


@pytest.fixture
def folder(leaves, tmp_path):
    return save_t5x(tmp_path / "checkpoint_3", leaves)


def assert_same_params(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_t5x_checkpoint_is_the_same_model(tiny, folder, tmp_path):
    backbone = load_backbone(folder, dtype="float32")
    assert_same_params(backbone.params, tiny.params)
    assert dataclasses.replace(backbone.config, scan=True) == tiny.config
    assert backbone.tokenizer is None
    theirs = load_backbone(save_hugging_face(tmp_path / "hf", tiny), dtype="float32")
    assert backbone.fingerprint == theirs.fingerprint


def test_bfloat16_zarrs_with_paths_of_another_place(tiny, leaves, tmp_path):
    folder = save_t5x(tmp_path / "c", leaves, dtype="bfloat16", driver="gcs", top_level_path=True)
    rounded = jax.tree.map(lambda a: a.astype("bfloat16"), tiny.params)
    assert_same_params(load_backbone(folder, dtype="bfloat16").params, rounded)


def test_a_relu_model_is_t5_1_0(tmp_path):
    config = T5Config(
        vocab_size=16,
        d_model=8,
        d_kv=4,
        d_ff=12,
        num_heads=2,
        num_layers=1,
        num_decoder_layers=2,
        activation="relu",
        gated=False,
        tie_embeddings=True,
        scale_logits=True,
    )
    rng = np.random.default_rng(0)
    leaves = {path: rng.normal(size=s).astype(np.float32) for path, s in shapes(config).items()}
    params = flax.traverse_util.unflatten_dict(leaves, sep="/")
    backbone = Backbone(name="x", config=config, params=params)
    loaded = load_backbone(save_t5x(tmp_path / "c", t5x_names(backbone)), scan=True)
    assert loaded.config == config
    assert_same_params(loaded.params, backbone.params)


def test_the_tokenizer_is_an_argument(folder):
    from importlib.resources import files

    tokenizer = str(files("prompt_jax") / "assets" / "t5")
    assert load_backbone(folder, tokenizer=tokenizer).tokenizer("a film").input_ids


def test_a_bucket_is_a_store():
    place = {"driver": "gcs", "bucket": "b", "path": "models/checkpoint_1/"}
    assert place.items() <= t5x._store("gs://b/models/checkpoint_1/").items()


def test_a_bucket_that_cannot_be_read(monkeypatch):
    monkeypatch.setattr(t5x, "PATIENCE", {"max_retries": 1, "max_delay": "1ms"})
    with pytest.raises(InputError, match="gs://no-such-bucket-of-prompt-jax/x"):
        load_backbone("gs://no-such-bucket-of-prompt-jax/x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("decoder/decoder_norm/scale"), "decoder.final_layer_norm.weight missing"),
        (
            lambda v: v.update({"encoder/prompt/prompt": v["encoder/encoder_norm/scale"]}),
            "encoder/prompt/prompt not part of this model",
        ),
        (
            lambda v: v.update({"encoder/encoder_norm/scale": np.full(16, np.inf)}),
            "encoder.final_layer_norm.weight holds NaN or inf",
        ),
        (lambda v: v.pop("token_embedder/embedding"), "not a T5"),
        (
            lambda v: v.pop("encoder/layers_0/attention/query/kernel"),
            "only T5X models with unscanned layers are read",
        ),
    ],
)
def test_a_leaf_that_does_not_fit_names_itself(leaves, tmp_path, change, message):
    change(leaves)
    folder = save_t5x(tmp_path / "c", leaves)
    with pytest.raises(InputError, match=message):
        load_backbone(folder)


def test_a_leaf_of_integers(folder):
    tree = flax.serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    tree["optimizer"]["target"]["encoder"]["encoder_norm"]["scale"] = np.arange(16)
    (folder / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(tree))
    with pytest.raises(InputError, match="encoder/encoder_norm/scale is int64; allowed"):
        load_backbone(folder)


def test_a_damaged_zarr(folder):
    query = folder / "target.encoder.layers_0.attention.query.kernel"
    data = (query / "1.0").read_bytes()
    (query / "1.0").write_bytes(data[:-20])
    with pytest.raises(
        InputError, match=r"layers_0.attention.query.kernel is truncated or damaged"
    ):
        load_backbone(folder)
    (query / "1.0").unlink()
    with pytest.raises(InputError, match=r"chunk \{1, 0\} .* is missing"):
        load_backbone(folder)
    (query / ".zarray").write_text("{")
    with pytest.raises(InputError, match=r"layers_0.attention.query.kernel .* not a zarr"):
        load_backbone(folder)
    shutil.rmtree(query)
    with pytest.raises(InputError, match=r"layers_0.attention.query.kernel .* not a zarr"):
        load_backbone(folder)


def test_a_damaged_msgpack(folder):
    file = folder / "checkpoint"
    data = file.read_bytes()
    for broken in (b"", data[:100], data[:-5], b"\x81\xa6target\x03"):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"checkpoint is truncated or damaged: not a T5X"):
            load_backbone(folder)
    pathless = {"a": {"kvstore": 3}}
    file.write_bytes(flax.serialization.msgpack_serialize({"target": pathless}))
    with pytest.raises(InputError, match="not clear about where a is"):
        load_backbone(folder)
    lying = {"target": {"a": np.zeros(3, np.float32)}}
    packed = flax.serialization.msgpack_serialize(lying)
    file.write_bytes(packed.replace(b"\x91\x03", b"\x91\x04"))
    with pytest.raises(InputError, match="not whole: a lies outside of it"):
        load_backbone(folder)


def test_a_newer_t5x_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no file 'checkpoint'.*newer ones \(Orbax\)"):
        t5x.read_t5x(str(tmp_path))
