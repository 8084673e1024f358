"""PEFT on decoders and encoders, heads included: each loads what the other saved."""

import copy
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from parity import (
    BERT,
    DEBERTA,
    DISTILBERT,
    GEMMA,
    GPT2,
    LLAMA,
    MARKS,
    MODERNBERT,
    close,
    difference,
    load_in_peft,
    shaken,
)
from parity import texts as padded_texts
from parity import torch_model as random_model

import prompt_jax as pj
from prompt_jax import testing
from prompt_jax.backbones.families import BACKBONES
from prompt_jax.config import InputError
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, resolve
from prompt_jax.methods.cpt import near, radii
from prompt_jax.prompts import export_peft, load_prompt, prompt_for, save_prompt
from prompt_jax.prompts.peft import obstacle
from prompt_jax.weights import load_backbone

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = MARKS

P, LABELS = 3, 3
KINDS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
KINDS |= {"QUESTION_ANS": "ForQuestionAnswering", "CAUSAL_LM": "ForCausalLM"}
FAMILIES = {
    "gpt2": ("GPT2", GPT2 | {"n_positions": 40}),
    "llama": ("Llama", LLAMA),
    "mistral": ("Mistral", LLAMA),
    "gemma2": ("Gemma2", GEMMA),
    "gemma3_text": ("Gemma3Text", GEMMA),
    "phi3": ("Phi3", LLAMA),
    "opt": ("OPT", BERT | {"ffn_dim": 24, "eos_token_id": 1, "bos_token_id": 1}),
    "gpt_neox": ("GPTNeoX", BERT | {"eos_token_id": 1}),
    "granite": ("Granite", LLAMA | {"embedding_multiplier": 3.0, "residual_multiplier": 0.4}),
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", BERT | {"pad_token_id": 1, "max_position_embeddings": 42}),
    "distilbert": ("DistilBert", DISTILBERT),
    "deberta-v2": ("DebertaV2", DEBERTA),
    "modernbert": ("ModernBert", MODERNBERT | {"classifier_pooling": "mean"}),
}
# PEFT has no kernels of its own choice for them.
UNKNOWN = ("phi3", "granite", "modernbert")
OURS = {
    "prompt": pj.PromptTuningConfig(num_virtual_tokens=P),
    "p_tuning": pj.PTuningConfig(num_virtual_tokens=P, encoder_hidden_size=8),
    "prefix": pj.PrefixTuningConfig(num_virtual_tokens=P),
    "cartridge": pj.PrefixTuningConfig(num_virtual_tokens=P, num_frozen_tokens=1),
    "cpt": pj.CPTConfig(
        cpt_token_ids=(7, 9, 11, 13),
        cpt_tokens_type_mask=(1, 2, 3, 4),
        opt_projection_epsilon=9.0,
        opt_projection_format_epsilon=4.0,
    ),
    "adaption": pj.AdaptionPromptConfig(adapter_len=P, adapter_layers=1),
    "lora": pj.LoraConfig(r=2, lora_alpha=3),
    "dora": pj.LoraConfig(r=2, use_dora=True),
    "ia3": pj.IA3Config(),
}
CPT = {
    **{"cpt_token_ids": [7, 9, 11, 13, 8], "cpt_tokens_type_mask": [1, 2, 3, 4, 0]},
    **{"opt_weighted_loss_type": "decay", "opt_loss_decay_factor": 0.5},
    **{"opt_projection_epsilon": 9.0, "opt_projection_format_epsilon": 4.0},
}
THEIRS = {
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=P),
    "p_tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=P, encoder_hidden_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=P),
    "cartridge": lambda: peft.CartridgeConfig(num_virtual_tokens=P, num_frozen_tokens=2),
    "cpt": lambda: peft.CPTConfig(task_type="CAUSAL_LM", **CPT),
    "adaption": lambda: peft.AdaptionPromptConfig(adapter_len=P, adapter_layers=2),
    "lora": lambda: peft.LoraConfig(r=2, lora_alpha=3),
    "dora": lambda: peft.LoraConfig(r=2, use_dora=True),
    "ia3": lambda: peft.IA3Config(),
}
RARE = ("cartridge", "cpt", "adaption")
EVERY = [(family, task) for family, task in
         (("gpt2", "CAUSAL_LM"), ("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS"))]  # fmt: skip
CASES = [(*model, name) for model in EVERY for name in OURS if name not in RARE]
CASES += [("llama", "CAUSAL_LM", "cartridge")]
CASES += [(family, "CAUSAL_LM", "adaption") for family in ("gpt2", "llama", "mistral")]
CASES += [("llama", "CAUSAL_LM", "cpt")]
CASES += [
    *[("bert", "TOKEN_CLS", name) for name in ("prompt", "lora")],
    *[("bert", "QUESTION_ANS", name) for name in ("prompt", "prefix", "lora")],
    *[("gpt2", "SEQ_CLS", name) for name in ("prompt", "lora")],
    *[("llama", "SEQ_CLS", "ia3"), ("gpt2", "TOKEN_CLS", "lora"), ("llama", "TOKEN_CLS", "lora")],
    *[("gemma2", "CAUSAL_LM", name) for name in ("prompt", "prefix", "lora", "ia3")],
    *[("gemma3_text", "CAUSAL_LM", name) for name in ("prompt", "prefix", "lora")],
    ("gemma2", "SEQ_CLS", "lora"),
    *[("phi3", "CAUSAL_LM", name) for name in ("prefix", "lora", "ia3")],
    *[("gpt_neox", "CAUSAL_LM", name) for name in ("prompt", "prefix", "lora", "dora", "ia3")],
    *[("gpt_neox", "SEQ_CLS", "lora"), ("gpt_neox", "TOKEN_CLS", "lora")],
    *[("opt", "CAUSAL_LM", name) for name in ("prompt", "prefix", "lora", "ia3")],
    ("opt", "SEQ_CLS", "lora"),
    *[("granite", "CAUSAL_LM", name) for name in ("prompt", "lora")],
    *[("roberta", "SEQ_CLS", name) for name in ("prompt", "lora")],
    *[("deberta-v2", "SEQ_CLS", name) for name in ("prompt", "lora", "ia3")],
    *[("deberta-v2", "TOKEN_CLS", name) for name in ("prompt", "lora")],
    *[("deberta-v2", "QUESTION_ANS", name) for name in ("prompt", "lora")],
    *[("modernbert", "SEQ_CLS", name) for name in ("prompt", "lora", "ia3")],
    *[("modernbert", "TOKEN_CLS", name) for name in ("prompt", "lora")],
    ("modernbert", "QUESTION_ANS", "lora"),
]
QUICK = {
    ("gpt2", "CAUSAL_LM", "lora"),
    ("bert", "SEQ_CLS", "prompt"),
    ("bert", "QUESTION_ANS", "prefix"),
}
cases = pytest.mark.parametrize(
    ("family", "task", "name"),
    [
        pytest.param(*case, id="-".join(case), marks=() if case in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)


@functools.cache
def _torch_model(family, task):
    labels = 2 if task == "QUESTION_ANS" else LABELS
    return random_model(*FAMILIES[family], KINDS[task], num_labels=labels)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    @functools.cache
    def load(family, task):
        folder = tmp_path_factory.mktemp(f"{family}-{task}")
        _torch_model(family, task).save_pretrained(folder)
        return load_backbone(folder, dtype="float32")

    return load


def torch_model(family, task):
    """A copy, since PEFT puts its layers into the model that it is given."""
    return copy.deepcopy(_torch_model(family, task))


def texts(family):
    # A decoder's head in PEFT reads the last position, so that texts are of one length there.
    lengths = (7, 7) if family == "gpt2" else (7, 4)
    return padded_texts(lengths, pad=FAMILIES[family][1]["pad_token_id"])


def their_logits(model, family, task):
    tokens, mask = texts(family)
    with torch.no_grad():
        found = model(torch.tensor(tokens), attention_mask=torch.tensor(mask).long())
    if task == "SEQ_CLS":
        return found.logits.numpy()
    if task == "QUESTION_ANS":
        logits = np.stack([found.start_logits.numpy(), found.end_logits.numpy()], axis=-1)
    else:
        logits = found.logits.numpy()
    return logits[:, -tokens.shape[1] :][mask]


def our_logits(model, family, task):
    tokens, mask = texts(family)
    logits = np.asarray(model(tokens, mask).logits)
    return logits if task == "SEQ_CLS" else logits[mask]


def config_for(name, task):
    """Ours for a task; PEFT's heads read virtual tokens."""
    labels = {"SEQ_CLS": LABELS, "TOKEN_CLS": LABELS}.get(task)
    return dataclasses.replace(OURS[name], task_type=task, num_labels=labels, pooling="peft")


def trained(backbone, name, task):
    """A prompt that has left its start, so that each of its numbers matters."""
    config = config_for(name, task)
    tuned = init(config, backbone, jax.random.key(1))
    return prompt_for(testing.shaken(tuned, 2), config, backbone, name=name)


@cases
def test_peft_loads_ours(backbones, tmp_path, family, task, name):
    backbone = backbones(family, task)
    prompt = trained(backbone, name, task)
    folder = export_peft(tmp_path / "ours", prompt)
    model = load_in_peft(torch_model(family, task), folder)
    theirs = their_logits(model, family, task)
    ours = pj.PromptTuningModel.from_pretrained(backbone, prompt)
    close(our_logits(ours, family, task), theirs)
    plain = their_logits(_torch_model(family, task), family, task)
    assert difference(plain, theirs) > 0.01
    model.save_pretrained(tmp_path / "theirs")
    again = safetensors.numpy.load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    for key, tensor in safetensors.numpy.load_file(folder / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(again[key], tensor)
    assert load_prompt(tmp_path / "theirs", backbone).digest == prompt.digest


@cases
def test_we_load_pefts(backbones, tmp_path, family, task, name):
    backbone = backbones(family, task)
    torch.manual_seed(1)
    config = THEIRS[name]()
    config.task_type = task
    if family == "gpt2" and name in ("lora", "dora", "ia3"):
        config.fan_in_fan_out = True  # Or PEFT sets it with a warning.
    if family in UNKNOWN and hasattr(config, "target_modules"):
        names = resolve(config_for(name, task), backbone)
        config.target_modules = list(names.target_modules)
        if name == "ia3":
            config.feedforward_modules = list(names.feedforward_modules)
    if (family, task) == ("modernbert", "QUESTION_ANS"):
        config.modules_to_save = ["classifier"]
    model = peft.get_peft_model(torch_model(family, task), config).eval()
    shaken(model, 0.3, trained_only=True)
    model.save_pretrained(tmp_path / "theirs")
    ours = pj.PromptTuningModel.from_pretrained(backbone, tmp_path / "theirs")
    theirs = their_logits(model, family, task)
    close(our_logits(ours, family, task), theirs)
    second = export_peft(tmp_path / "ours", load_prompt(tmp_path / "theirs", backbone))
    first = safetensors.numpy.load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    again = safetensors.numpy.load_file(second / "adapter_model.safetensors")
    if name in RARE:
        read, written = (
            peft.PeftConfig.from_pretrained(folder) for folder in (tmp_path / "theirs", second)
        )
        assert dataclasses.replace(written, base_model_name_or_path=None) == read
    assert first.keys() == again.keys()
    for key, tensor in first.items():
        np.testing.assert_array_equal(again[key], tensor)


@pytest.mark.parametrize("case", [("bert", "SEQ_CLS", "prompt"), ("gpt2", "CAUSAL_LM", "prefix")])
def test_a_saved_folder_is_read_as_it_was(backbones, tmp_path, case):
    family, task, name = case
    prompt = trained(backbones(family, task), name, task)
    again = load_prompt(save_prompt(tmp_path / "p", prompt))
    assert again.digest == prompt.digest and again.method == prompt.method
    assert again.model_type == family
    assert "PeftModel.from_pretrained" in (tmp_path / "p" / "README.md").read_text()


def test_a_distilbert_head_has_two_layers(backbones, tmp_path):
    """PEFT trains the first one only when it is told."""
    backbone = backbones("distilbert", "SEQ_CLS")
    prompt = trained(backbone, "lora", "SEQ_CLS")
    folder = export_peft(tmp_path / "ours", prompt)
    model = load_in_peft(torch_model("distilbert", "SEQ_CLS"), folder)
    ours = pj.PromptTuningModel.from_pretrained(backbone, prompt)
    theirs = their_logits(model, "distilbert", "SEQ_CLS")
    close(our_logits(ours, "distilbert", "SEQ_CLS"), theirs)


def test_kernels_that_nobody_names_are_those_of_peft():
    """Of every model type that PEFT has a choice for."""
    from peft.utils import constants

    compared = 0
    for kind, roles in (
        ("LORA_TARGET", ("query", "value")),
        ("IA3_TARGET", ("scaled",)),
        ("IA3_FEEDFORWARD", ("feedforward",)),
    ):
        choice = getattr(constants, f"TRANSFORMERS_MODELS_TO_{kind}_MODULES_MAPPING")
        for model_type in BACKBONES.keys() & choice.keys():
            names = BACKBONES[model_type].kernel_names(model_type)
            unnamed = dict.fromkeys(name for role in roles for name in names[role])
            assert list(unnamed) == choice[model_type], (kind, model_type)
            compared += 1
    assert compared > 30


def test_what_peft_would_run_differently_is_told(backbones):
    backbone = backbones("bert", "SEQ_CLS")
    own = dataclasses.replace(config_for("prompt", "SEQ_CLS"), pooling="cls")
    cloze = dataclasses.replace(config_for("lora", "SEQ_CLS"), num_labels=None)
    features = pj.LoraConfig(task_type="FEATURE_EXTRACTION")
    bare = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, pooler=False))
    modern = testing.tiny("modernbert")
    for config, model, message in (
        (own, backbone, "PEFT's head reads the first position, a virtual token"),
        (cloze, backbone, "PEFT wants a trained head beside a SEQ_CLS prompt"),
        (features, backbone, "PEFT has other names for the modules of a model without a head"),
        (config_for("lora", "SEQ_CLS"), bare, "PEFT does not train the layer that its head has"),
        (config_for("prefix", "SEQ_CLS"), modern, "PEFT has no prefixes for modernbert"),
    ):
        tuned = init(config, model, jax.random.key(0))
        assert message in obstacle(prompt_for(tuned, config, model))


def test_a_folder_without_its_head(backbones, tmp_path):
    folder = export_peft(tmp_path / "p", trained(backbones("bert", "SEQ_CLS"), "lora", "SEQ_CLS"))
    file = folder / "adapter_model.safetensors"
    kept = {k: v for k, v in safetensors.numpy.load_file(file).items() if "classifier" not in k}
    safetensors.numpy.save_file(kept, file)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    with pytest.raises(InputError, match="has no tensors of a head and .* task_type SEQ_CLS"):
        load_prompt(folder)


@pytest.mark.slow
def test_a_pooler_that_lora_tunes_is_refused_with_a_remedy(backbones, tmp_path):
    backbone, case = backbones("bert", "SEQ_CLS"), ("bert", "SEQ_CLS")
    for excluded in (None, ["bert.pooler.dense"]):
        config = peft.LoraConfig(
            r=2, task_type="SEQ_CLS", target_modules="all-linear", exclude_modules=excluded
        )
        model = peft.get_peft_model(torch_model(*case), config).eval()
        shaken(model, 0.3, trained_only=True)
        model.save_pretrained(tmp_path)
        if not excluded:
            with pytest.raises(InputError, match="tunes bert.pooler.dense, .* in exclude_modules"):
                load_prompt(tmp_path, backbone)
    ours = pj.PromptTuningModel.from_pretrained(backbone, tmp_path)
    close(our_logits(ours, *case), their_logits(model, *case))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prompt", "p_tuning"])
def test_prompts_for_two_stacks_on_one(backbones, tmp_path, name):
    """PEFT's mask is as long as one stack's virtual tokens, and masks the end of the text."""
    config = THEIRS[name]()
    config.task_type, config.num_transformer_submodules = "CAUSAL_LM", 2
    model = peft.get_peft_model(torch_model("gpt2", "CAUSAL_LM"), config).eval()
    tokens, mask = (torch.tensor(array) for array in padded_texts((7, 7)))
    with torch.no_grad():
        masked, whole = (model(tokens, attention_mask=m).logits for m in (mask.long(), None))
    assert masked.shape[1] == 2 * P + 7
    assert difference(masked[:, -1].numpy(), whole[:, -1].numpy()) > 0.01
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="num_transformer_submodules 2, with which PEFT masks the"):
        load_prompt(tmp_path, backbones("gpt2", "CAUSAL_LM"))


@pytest.mark.slow
def test_the_loss_of_cpt_and_its_gradient_are_those_of_peft(backbones):
    """Changes that leave their ball are projected; labels of the context count, and decay."""
    backbone, config = backbones("llama", "CAUSAL_LM"), THEIRS["cpt"]()
    model = peft.get_peft_model(torch_model("llama", "CAUSAL_LM"), config)
    method = pj.CPTConfig(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in CPT.items()}
    )
    tuned = init(method, backbone, jax.random.key(0))
    tuned["delta"] = testing.shaken(tuned, scale=0.5)["delta"]
    weight = model.prompt_encoder["default"].delta_embedding.weight
    weight.data = torch.tensor(np.asarray(tuned["delta"]))
    tokens, mask = padded_texts((6, 6))
    loss = model(torch.tensor(tokens), torch.tensor(mask).long(), labels=torch.tensor(
        np.where(np.arange(6) < 4, -100, tokens)
    )).loss  # fmt: skip
    loss.backward()
    batch = Batch(tokens[:, :4], mask[:, :4], tokens[:, 4:], mask[:, 4:])
    gradient = jax.jit(jax.value_and_grad(loss_fn(method, backbone), has_aux=True))
    (ours, _), changes = gradient(tuned, backbone.params, batch)
    assert ours == pytest.approx(loss.item(), rel=1e-4)
    close(changes["delta"], weight.grad)
    assert np.isclose(np.linalg.norm(near(method, tuned["delta"]), axis=1), radii(method, 16)).any()
