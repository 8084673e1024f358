"""Prompts on vLLM and SGLang: what is exported, what a client sends, what a server makes of it."""

import base64
import dataclasses
import io
import json

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import prompt_jax as pj
from prompt_jax import cli
from prompt_jax.config import IN_CHATS, PLACEMENTS, InputError
from prompt_jax.forward import PromptedModel
from prompt_jax.generate import generate
from prompt_jax.integrations.vllm import SoftPrompt
from prompt_jax.prompts import compose, export_to_engine, load_prompt, prompt_for, serving_line
from prompt_jax.tasks import Task, openings
from prompt_jax.testing.chats import TEMPLATES, byte_tokenizer
from prompt_jax.weights import load_words, save_hugging_face
from prompt_jax.weights.pickle import tensor_bytes

torch = pytest.importorskip("torch")

P = 3
TEXT = "a fine film"
CHAT = [{"role": "system", "content": "Judge."}, {"role": "user", "content": TEXT}]
CHATS = Task(name="films", source="{text}", target="{label}", chat=True, system_turn=True)


@pytest.fixture(scope="module")
def backbone(instruct, tmp_path_factory):
    """A random Llama with a chat template, whose name is the folder that holds it."""
    folder = save_hugging_face(tmp_path_factory.mktemp("llama"), instruct)
    return dataclasses.replace(instruct, name=str(folder))


def prompt_of(backbone, method=None, **about):
    config = method or pj.PromptTuningConfig(num_virtual_tokens=P, init="random")
    return prompt_for(pj.init(config, backbone, jax.random.key(0)), config, backbone, **about)


def soft_prompt(folder, prompt, engine="vllm", **options):
    return SoftPrompt.load(export_to_engine(prompt, folder / "exported", engine), **options)


def read_as_vllm(payload, width):
    """The tensor of a request, with the checks of vLLM's `renderers/embed_utils.py`."""
    data = io.BytesIO(base64.b64decode(payload, validate=True))
    tensor = torch.load(data, weights_only=True, map_location=torch.device("cpu"))
    assert isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    assert tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
    assert tensor.to_dense().dim() == 2 and tensor.shape[1] == width
    return tensor


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_torch_reads_a_tensor_that_torch_did_not_write(dtype):
    array = np.random.default_rng(0).normal(size=(5, 4)).astype(dtype)
    tensor = torch.load(io.BytesIO(tensor_bytes(array.T)), weights_only=True)
    assert tensor.is_contiguous() and str(tensor.dtype) == f"torch.{array.dtype.name}"
    np.testing.assert_array_equal(tensor.float().numpy(), array.T.astype(np.float32))
    assert tensor_bytes(array) == tensor_bytes(array.copy())


OTHERS = [pytest.param(place, marks=pytest.mark.slow) for place in PLACEMENTS if place != "turn"]


@pytest.mark.parametrize("placement", ["turn", *OTHERS])
def test_a_text_is_sent_as_the_model_reads_it(placement, backbone, tmp_path):
    # The one that also changes the embeddings of the text itself.
    kind = pj.DecomposedPromptConfig if placement == "suffix" else pj.PromptTuningConfig
    config = kind(num_virtual_tokens=P, init="random", placement=placement)
    task = CHATS if placement in IN_CHATS else None
    prompt = prompt_of(backbone, config, task=task)
    shaken = {name: leaf + 0.5 for name, leaf in prompt.tuned.items()}
    prompt = dataclasses.replace(prompt, tuned=shaken)
    soft = soft_prompt(tmp_path, prompt)
    tokenizer = backbone.tokenizer
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": TEXT}]
    words = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(words if task else TEXT)["input_ids"]
    tokens = jnp.asarray([ids])
    model = PromptedModel.of(backbone, prompt.injection())
    expected = model.read(tokens, jnp.ones_like(tokens, bool))[0][0]
    np.testing.assert_array_equal(soft.embeddings(TEXT), expected)
    body = soft.completion(TEXT, top_k=5)["extra_body"]
    tensor = read_as_vllm(body["prompt_embeds"], backbone.width)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert body["top_k"] == 5
    sent = json.loads(json.dumps(soft.generate(TEXT, max_new_tokens=4)))
    np.testing.assert_array_equal(np.asarray(sent["input_embeds"], np.float32), expected)
    assert sent["sampling_params"]["max_new_tokens"] == 4


@pytest.mark.parity
def test_the_payload_writes_what_we_write(backbone, tmp_path):
    """By OpenAI's own client, to a server that does with the request what vLLM says it does."""
    openai, httpx = pytest.importorskip("openai"), pytest.importorskip("httpx")
    import transformers

    config = pj.PromptTuningConfig(num_virtual_tokens=P, init="random", placement="turn")
    prompt = prompt_of(backbone, config, task=CHATS)
    soft = soft_prompt(tmp_path, prompt, model="films")
    model = transformers.AutoModelForCausalLM.from_pretrained(backbone.name).eval()
    written = []

    def serve(request):
        body = json.loads(request.content)
        assert body["model"] == "films" and body["prompt"] is None
        rows = read_as_vllm(body["prompt_embeds"], model.config.hidden_size)
        ends, length = body["stop_token_ids"], body["max_tokens"]
        with torch.no_grad():
            ids = model.generate(
                inputs_embeds=rows[None], max_new_tokens=length, do_sample=False, eos_token_id=ends
            )
        written.extend(ids[0].tolist())
        return httpx.Response(200, json={"id": "1", "object": "text_completion", "choices": []})

    http = httpx.Client(transport=httpx.MockTransport(serve))
    client = openai.OpenAI(base_url="http://engine/v1", api_key="none", http_client=http)
    client.completions.create(**soft.completion(CHAT), max_tokens=6)
    ids = backbone.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    mask = np.ones((1, len(ids)), bool)
    ours = generate(backbone, prompt.injection(), np.asarray([ids]), mask, max_new_tokens=6)
    assert written == ours[0].tolist()
    with torch.no_grad():
        plain = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)
    assert written != plain[0, len(ids) :].tolist()


@pytest.mark.parametrize("placement", IN_CHATS)
def test_a_part_of_a_chat_stands_where_the_prompt_does(placement, backbone, tmp_path):
    """The server writes its template around a placeholder, and puts the rows in its place."""
    config = pj.PromptTuningConfig(num_virtual_tokens=P, init="random", placement=placement)
    soft = soft_prompt(tmp_path, prompt_of(backbone, config, task=CHATS))
    messages = soft.chat(CHAT)["messages"]
    (turn,) = (message for message in messages if not isinstance(message["content"], str))
    (part,) = turn["content"]
    assert turn["role"] == {"system": "system", "turn": "user"}[placement]
    tokenizer = byte_tokenizer(backbone.tokenizer.chat_template)
    tokenizer.add_tokens(["<rows>"], special_tokens=True)
    shown = [{**m, "content": "<rows>"} if m is turn else m for m in messages]
    ids = tokenizer.apply_chat_template(shown, add_generation_prompt=True)["input_ids"]
    place = ids.index(tokenizer.convert_tokens_to_ids("<rows>"))
    front, behind = (
        np.asarray(backbone.embed(np.asarray(part))) for part in (ids[:place], ids[place + 1 :])
    )
    sent = read_as_vllm(part["data"], backbone.width).numpy()
    np.testing.assert_array_equal(np.concatenate([front, sent, behind]), soft.embeddings(CHAT))


def test_what_is_no_part_of_a_chat(backbone, tmp_path):
    config = pj.PromptTuningConfig(num_virtual_tokens=P, init="random", placement="turn")
    soft = soft_prompt(tmp_path, prompt_of(backbone, config, task=CHATS))
    apart = dataclasses.replace(soft, prompt=prompt_of(backbone))
    with pytest.raises(InputError, match='of placement "prefix", .* use completion'):
        apart.chat(CHAT)
    with pytest.raises(InputError, match="has no message of user; add one"):
        soft.chat(CHAT[:1])
    # Ends a turn by plain words, which no token tells from those of the text.
    tokenizer = byte_tokenizer(TEMPLATES["mistral"])
    llama = dataclasses.replace(soft.words.backbone, tokenizer=tokenizer)
    opened = dataclasses.replace(llama.config, openings=openings(tokenizer))
    llama = dataclasses.replace(llama, config=opened)
    mistral = dataclasses.replace(soft, words=dataclasses.replace(soft.words, backbone=llama))
    with pytest.raises(
        InputError, match=r"are those of '.*a fine film \[/INST\]', and the text is"
    ):
        mistral.chat(CHAT[1:])


def test_only_rows_of_the_table_are_read(backbone, tmp_path):
    """All other weights of this copy are damaged, and no client notices."""
    folder = save_hugging_face(tmp_path / "damaged", backbone)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name, tensor in header.items():
        if name not in ("__metadata__", "model.embed_tokens.weight"):
            first, last = tensor["data_offsets"]
            data[start + first : start + last] = b"\xff" * (last - first)
    file.write_bytes(data)
    with pytest.raises(InputError, match="NaN"):
        pj.load_backbone(folder)
    soft = soft_prompt(tmp_path, prompt_of(backbone), backbone=folder, dtype="bfloat16")
    ids = backbone.tokenizer(TEXT)["input_ids"]
    expected = np.asarray(backbone.embed(np.asarray(ids))).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(soft.embeddings(TEXT)[P:], expected)
    np.testing.assert_array_equal(soft.embeddings("")[:P], soft.embeddings(TEXT)[:P])
    assert len(soft.embeddings("")) == P


def test_the_shard_of_the_table_is_enough(backbone, shard, tmp_path, monkeypatch):
    """On disk, and of what is on the hub, whose client is the one thing replaced here."""
    folder = save_hugging_face(tmp_path / "sharded", backbone)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    shard(folder, tensors, "model.safetensors", safetensors.numpy.save_file)
    (folder / "model.safetensors").unlink()
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    table = index["model.embed_tokens.weight"]
    for name in {*index.values()} - {table}:
        (folder / name).unlink()
    patterns = []

    def snapshot_download(name, *, revision, token, allow_patterns):
        patterns.append(allow_patterns[-1])
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    tokens = np.asarray([3, 5, 3])
    for name in (folder, "someone/llama"):
        words = load_words(name)
        np.testing.assert_array_equal(words.embed(tokens), backbone.embed(tokens))
    assert patterns == ["model.safetensors.index.json", table]
    with pytest.raises(InputError, match="which is not there; download it as well"):
        pj.load_backbone(folder)


def test_words_are_scaled_where_the_model_scales_them(backbone):
    """As those of a Gemma."""
    config = dataclasses.replace(backbone.config, embedding_scale=3.5)
    gemma = dataclasses.replace(backbone, config=config)
    words, tokens = load_words(backbone.name), np.asarray([3, 5, 3])
    scaled = dataclasses.replace(words, backbone=gemma)
    np.testing.assert_array_equal(scaled.embed(tokens), gemma.embed(tokens))
    assert not np.array_equal(scaled.embed(tokens), words.embed(tokens))


def test_what_training_goes_on_from_is_not_exported(backbone, tmp_path, capsys):
    """Rows that an MLP wrote are rows, and composed prompts are as good as trained ones."""
    config = pj.ResidualPromptConfig(num_virtual_tokens=P, bottleneck_size=8)
    prompt = prompt_of(backbone, config, name="films")
    source = pj.save_prompt(tmp_path / "films", prompt)
    line = f"vllm serve {backbone.name} --enable-prompt-embeds"
    assert (source / "training.safetensors").exists()
    target = tmp_path / "out"
    assert cli.main(["prompts", "export", str(source), str(target), "--to", "vllm"]) == 0
    assert line in capsys.readouterr().out and line in (target / "README.md").read_text()
    again = load_prompt(target)
    assert again.digest == prompt.digest and again.training is None
    assert not (target / "training.safetensors").exists()
    both = soft_prompt(tmp_path, compose([prompt, prompt]))
    assert len(both.embeddings(TEXT)) == len(SoftPrompt.load(target).embeddings(TEXT)) + P


@pytest.mark.parity
def test_a_lora_is_the_folder_of_an_adapter(backbone, tmp_path):
    import transformers
    from parity import load_in_peft

    prompt = prompt_of(backbone, pj.LoraConfig(r=20), name="films")
    folder = export_to_engine(prompt, tmp_path / "lora", "vllm")
    line = serving_line(prompt, "vllm", folder)
    assert line.endswith(f"--enable-lora --lora-modules films={folder} --max-lora-rank 32")
    assert f"--enable-lora --lora-paths films={folder}" in serving_line(prompt, "sglang", folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(backbone.name)
    assert load_in_peft(model, folder).peft_config["default"].r == 20
    with pytest.raises(InputError, match="is a LoRA, which the server loads itself"):
        SoftPrompt.load(folder)


LORA = pj.LoraConfig(r=2)
T5 = pj.PromptTuningConfig(num_virtual_tokens=P, task_type="SEQ_2_SEQ_LM")
REFUSED = {
    "prefix": (pj.PrefixTuningConfig(num_virtual_tokens=P), {}, "vllm", "inside the layers"),
    "ia3": (pj.IA3Config(), {}, "sglang", "inside the layers, and SGLang is sent inputs alone"),
    "dora": (pj.LoraConfig(r=2, use_dora=True), {}, "vllm", "vLLM has no DoRA"),
    "rank": (
        LORA,
        {"method": pj.LoraConfig(r=600, task_type="CAUSAL_LM")},
        "vllm",
        "its rank is 600, .* 512 at most",
    ),
    "rslora": (pj.LoraConfig(r=2, use_rslora=True), {}, "sglang", "this one is an rsLoRA"),
    "gpt2": (LORA, {"model_type": "gpt2"}, "vllm", "vLLM takes no LoRA for a gpt2"),
    "gemma2": (None, {"model_type": "gemma2"}, "sglang", "scales the embeddings of a gemma2"),
    "t5": (None, {"method": T5}, "vllm", "only decoders .* task_type is SEQ_2_SEQ_LM"),
    "nowhere": (None, {"backbone": ""}, "vllm", "which backbone it belongs to"),
    "engine": (None, {}, "vlm", "Perhaps you meant 'vllm'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_engine_cannot_hold(case, backbone, tmp_path):
    method, about, engine, reason = REFUSED[case]
    prompt = dataclasses.replace(prompt_of(backbone, method), **about)
    with pytest.raises(InputError, match=reason) as error:
        export_to_engine(prompt, tmp_path / "p", engine)
    assert case == "engine" or "serve it with prompt-jax serve" in str(error.value)
    assert not list(tmp_path.iterdir())
