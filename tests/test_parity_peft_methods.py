"""PEFT and the methods beyond prompt tuning: each loads what the other saved, and gives its logits.

The tiny T5 has 12 inputs a kernel and 2 heads of 5, and more decoder than encoder layers.
"""

import contextlib
import copy
import functools
import io

import jax
import numpy as np
import pytest
from make_golden_peft import CONFIG, inputs, numbers, torch_logits
from make_prompts import DEEPER, EVERYWHERE, OURS, TASKS, P, edited, tensors, trained
from parity import MARKS, difference, load_in_peft, padded_to, shaken

from prompt_jax.config import InputError
from prompt_jax.forward import PromptedModel
from prompt_jax.methods import init
from prompt_jax.model import PromptTuningModel
from prompt_jax.prompts import export_peft, load_prompt, prompt_for, save_prompt
from prompt_jax.weights import load_backbone

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = MARKS

PREFIX = dict(num_virtual_tokens=P, token_dim=10)
THEIRS = {
    "lora": lambda: peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=list(EVERYWHERE), init_lora_weights=False
    ),
    "rslora": lambda: peft.LoraConfig(
        r=4, use_rslora=True, init_lora_weights=False, target_modules=r".*\.(q|v)"
    ),
    "dora": lambda: peft.LoraConfig(
        r=2, use_dora=True, target_modules=["q", "SelfAttention.o"], init_lora_weights=False
    ),
    "ia3": lambda: peft.IA3Config(),
    "prefix": lambda: peft.PrefixTuningConfig(**PREFIX),
    "prefix_mlp": lambda: peft.PrefixTuningConfig(**PREFIX, prefix_projection=True),
    "multitask": lambda: peft.MultitaskPromptTuningConfig(
        num_virtual_tokens=P, num_tasks=TASKS, num_ranks=2, num_transformer_submodules=1
    ),
}

# PEFT gives no prefix to a decoder with more layers than the encoder has.
SHALLOW = ("prefix", "prefix_mlp")
# Two names of one method's options are written with the slow tests, and read at every run.
LATER = ("rslora", "ia3_out")
written = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LATER else n for n in OURS]
)
read = pytest.mark.parametrize("name", THEIRS)


@functools.cache
def _torch_model(deeper):
    config = DEEPER if deeper else CONFIG
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**config))
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.tensor(numbers(name, tuple(weight.shape))))
    return model.eval()


def torch_model(deeper=True):
    """A copy, since PEFT puts its layers into the model that it is given."""
    return copy.deepcopy(_torch_model(deeper))


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """By whether the decoder is deeper than the encoder."""
    found = {}
    for deeper in (True, False):
        folder = tmp_path_factory.mktemp("t5")
        torch_model(deeper).save_pretrained(folder)
        found[deeper] = load_backbone(folder, dtype="float32")
    return found


@pytest.fixture(scope="module")
def backbone(backbones):
    return backbones[True]


_logits = jax.jit(PromptedModel.seq2seq_logits)


def our_logits(backbone, prompt, tasks=None):
    tokens, mask, decoder_tokens = inputs()
    injection = prompt.injection(tasks)
    arrays = tokens.astype(np.int32), mask, decoder_tokens.astype(np.int32)
    model = PromptedModel(backbone.module, backbone.params, injection)
    return np.asarray(_logits(model, *arrays))


def their_logits(model, tasks=None):
    tokens, mask, decoder_tokens = inputs()
    if tasks is None:
        return torch_logits(model, tokens, mask, decoder_tokens)
    # PEFT gives a multitask prompt no decoder inputs but those that it makes of labels.
    labels = np.pad(decoder_tokens[:, 1:], ((0, 0), (0, 1)), constant_values=2)
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            labels=torch.tensor(labels),
            task_ids=torch.tensor(tasks),
        ).logits.numpy()


def tasks_of(name):
    return np.array([2, 1]) if name == "multitask" else None


def saved_by_peft(name, folder, deeper=True):
    torch.manual_seed(1)
    config = THEIRS[name]()
    config.task_type = "SEQ_2_SEQ_LM"
    model = peft.get_peft_model(torch_model(deeper), config).eval()
    shaken(model, 0.3, trained_only=True)
    model.save_pretrained(folder)
    return model


class TestPeftLoadsOurs:
    @written
    def test_logits_no_warning_and_the_tensors_that_peft_saves_again(
        self, backbone, tmp_path, caplog, name, capsys
    ):
        prompt, tasks = trained(name, backbone), tasks_of(name)
        folder = export_peft(tmp_path / "ours", prompt)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            model = load_in_peft(torch_model(), folder)
        assert caplog.messages == [] and said.getvalue() == ""
        theirs = their_logits(model, tasks)
        apart = difference(our_logits(backbone, prompt, tasks), theirs)
        with capsys.disabled():
            print(f"\n{name}: PEFT's logits of ours differ by {apart:.1e}")
        assert apart < 1e-4
        assert difference(their_logits(_torch_model(True)), theirs) > 0.01
        model.save_pretrained(tmp_path / "theirs")
        again = tensors(tmp_path / "theirs")
        assert again.keys() == tensors(folder).keys()
        for key, tensor in tensors(folder).items():
            np.testing.assert_array_equal(again[key], tensor)
        back = load_prompt(tmp_path / "theirs", backbone)
        assert back.digest == prompt.digest

    @written
    def test_ours_is_read_as_it_was(self, backbone, tmp_path, name):
        prompt = trained(name, backbone)
        folder = save_prompt(tmp_path / "a", prompt)
        again = load_prompt(folder)
        assert again.digest == prompt.digest and again.method == prompt.method
        assert {k: v.shape for k, v in again.arrays.items()} == {
            k: v.shape for k, v in prompt.arrays.items()
        }
        second = save_prompt(tmp_path / "b", again)
        for path in folder.iterdir():
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name
        card = (folder / "README.md").read_text()
        assert "library_name: peft" in card and "PeftModel.from_pretrained" in card

    @pytest.mark.parametrize(
        "name",
        [
            "prefix",
            *(pytest.param(n, marks=pytest.mark.slow) for n in ("lora", "ia3", "multitask")),
        ],
    )
    def test_greedy_tokens(self, backbones, tmp_path, name):
        # Transformers makes a cache for as many layers as the encoder has, unless PEFT brings one.
        backbone, (tokens, mask, _) = backbones[name == "prefix"], inputs()
        folder = save_prompt(tmp_path / "p", trained(name, backbone))
        model = PromptTuningModel.from_pretrained(backbone, folder)
        tasks = [2, 1] if name == "multitask" else None
        ours = model.generate(tokens, mask, max_new_tokens=10, task_ids=tasks)
        model = load_in_peft(torch_model(name == "prefix"), folder)
        theirs = model.generate(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            max_new_tokens=10,
            do_sample=False,
            **({"task_ids": torch.tensor(tasks)} if tasks else {}),
        )
        np.testing.assert_array_equal(ours, padded_to(theirs[:, 1:].numpy(), 10))


class TestWeLoadPefts:
    @read
    def test_logits_and_saved_again(self, backbones, tmp_path, name, capsys):
        deeper = name not in SHALLOW
        backbone = backbones[deeper]
        theirs, tasks = saved_by_peft(name, tmp_path / "theirs", deeper), tasks_of(name)
        prompt = load_prompt(tmp_path / "theirs", backbone)
        logits = their_logits(theirs, tasks)
        apart = difference(our_logits(backbone, prompt, tasks), logits)
        with capsys.disabled():
            print(f"\n{name}: our logits of PEFT's differ by {apart:.1e}")
        assert apart < 1e-4
        folder = save_prompt(tmp_path / "ours", prompt)
        assert load_prompt(folder).digest == prompt.digest
        assert (
            difference(their_logits(load_in_peft(torch_model(deeper), folder), tasks), logits)
            < 1e-4
        )
        if name in SHALLOW:
            # Layers that PEFT ties are written apart, so only what comes after is the same.
            return
        stored, again = tensors(tmp_path / "theirs"), tensors(folder)
        assert stored.keys() == again.keys()
        for key, tensor in stored.items():
            np.testing.assert_array_equal(again[key], tensor)

    def test_through_the_model(self, backbone, tmp_path):
        theirs = saved_by_peft("lora", tmp_path / "theirs")
        model = PromptTuningModel.from_pretrained(backbone, tmp_path / "theirs")
        assert difference(np.asarray(model(*inputs()).logits), their_logits(theirs)) < 1e-4
        assert model.prompt.num_attention_heads == CONFIG["num_heads"]

    def test_saved_before_a_backbone_is_known(self, backbone, tmp_path):
        saved_by_peft("lora", tmp_path / "theirs")
        loose = load_prompt(tmp_path / "theirs")
        folder = save_prompt(tmp_path / "ours", loose)
        assert load_prompt(folder).digest == loose.digest
        ours, theirs = (load_prompt(tmp_path / n, backbone) for n in ("ours", "theirs"))
        assert ours.digest == theirs.digest != loose.digest
        for key, tensor in tensors(tmp_path / "theirs").items():
            np.testing.assert_array_equal(tensors(folder)[key], tensor)

    def test_without_a_task_type(self, backbone, tmp_path):
        """PEFT would run the plain model here; we take the task of the backbone."""
        prompt = trained("lora", backbone)
        folder = edited(save_prompt(tmp_path / "p", prompt), task_type=None)
        (folder / "prompt_jax_config.json").unlink()
        back = load_prompt(folder, backbone)
        assert back.method.task_type == "SEQ_2_SEQ_LM" and back.digest == prompt.digest

    def test_a_prefix_of_another_head_width(self, backbone, tmp_path):
        prompt = trained("prefix", backbone)
        folder = save_prompt(tmp_path / "p", prompt)
        (folder / "prompt_jax_config.json").unlink()
        edited(folder, num_attention_heads=5)
        with pytest.raises(InputError, match=r"key is \(6, 3, 5, 2\) and must be \(3, 3, 2, 5\)"):
            load_prompt(folder, backbone)

    def test_another_width(self, backbone, tiny, tmp_path):
        saved_by_peft("lora", tmp_path / "p")
        with pytest.raises(InputError, match="does not fit backbone 'tiny'"):
            load_prompt(tmp_path / "p", tiny)


def test_zero_update_is_the_plain_model(backbone, tmp_path):
    """A fresh LoRA changes nothing on either side."""
    config = OURS["lora"]
    prompt = prompt_for(init(config, backbone, jax.random.key(0)), config, backbone)
    plain = their_logits(_torch_model(True))
    assert (
        difference(
            their_logits(load_in_peft(torch_model(), save_prompt(tmp_path / "p", prompt))), plain
        )
        < 1e-5
    )
    assert difference(our_logits(backbone, prompt), plain) < 1e-4
