"""PEFT itself: it loads what we save and gives our numbers, the reverse, and trains as we do."""

import contextlib
import functools
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from make_golden_peft import VIRTUAL, inputs, peft_model, torch_logits, torch_model
from parity import MARKS, difference, load_in_peft, padded_to

import prompt_jax
from prompt_jax.data import Batch
from prompt_jax.losses import loss_fn
from prompt_jax.methods import PromptTuningConfig, init
from prompt_jax.model import PromptTuningModel
from prompt_jax.prompts import export_prompt, load_prompt, prompt_for, save_prompt
from prompt_jax.weights import load_backbone

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
pytestmark = MARKS

WEIGHTS = "adapter_model.safetensors"
EMBEDDED = Path(prompt_jax.__file__).parent / "assets" / "t5"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    torch_model().save_pretrained(folder)
    return load_backbone(folder, dtype="float32")


@pytest.fixture
def model(backbone):
    config = PromptTuningConfig(num_virtual_tokens=5, init="random", init_scale=2.0)
    return PromptTuningModel.from_pretrained(backbone, config, seed=4)


def greedy(model, tokens, mask, length):
    """PEFT's answer without the start token, padded to `length`."""
    written = model.generate(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(mask).long(),
        max_new_tokens=length,
        do_sample=False,
    )[:, 1:].numpy()
    return padded_to(written, length)


class TestPeftLoadsOurs:
    def test_without_a_warning(self, model, tmp_path, caplog):
        folder = model.save_pretrained(tmp_path / "p")
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            load_in_peft(torch_model(), folder)
        assert caplog.messages == [] and said.getvalue() == ""

    def test_logits(self, model, tmp_path):
        theirs = torch_logits(
            load_in_peft(torch_model(), model.save_pretrained(tmp_path / "p")), *inputs()
        )
        assert difference(model(*inputs()).logits, theirs) < 1e-4
        assert difference(torch_logits(torch_model(), *inputs()), theirs) > 0.01

    def test_greedy_tokens(self, model, tmp_path):
        tokens, mask, _ = inputs()
        theirs = greedy(
            load_in_peft(torch_model(), model.save_pretrained(tmp_path / "p")), tokens, mask, 12
        )
        np.testing.assert_array_equal(model.generate(tokens, mask, max_new_tokens=12), theirs)

    def test_saved_again_by_peft(self, model, tmp_path):
        ours = model.save_pretrained(tmp_path / "ours")
        load_in_peft(torch_model(), ours).save_pretrained(tmp_path / "theirs")
        assert (ours / WEIGHTS).read_bytes() == (tmp_path / "theirs" / WEIGHTS).read_bytes()
        assert load_prompt(tmp_path / "theirs").digest == model.prompt.digest

    def test_auto_class_finds_the_backbone(self, backbone, model, tmp_path):
        folder = model.save_pretrained(tmp_path / "p")
        auto = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(str(folder)).eval()
        assert auto.peft_config["default"].base_model_name_or_path == backbone.name
        assert difference(model(*inputs()).logits, torch_logits(auto, *inputs())) < 1e-4

    def test_another_placement_is_refused_by_peft(self, backbone, tmp_path):
        config = PromptTuningConfig(num_virtual_tokens=5, placement="suffix")
        folder = PromptTuningModel.from_pretrained(backbone, config).save_pretrained(tmp_path / "p")
        with pytest.raises(ValueError, match="adapter_config.json"):
            load_in_peft(torch_model(), folder)


class TestWeLoadPefts:
    @pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning"])
    def test_logits_and_tokens(self, backbone, tmp_path, kind):
        torch.manual_seed(1)
        theirs = peft_model(kind)
        theirs.save_pretrained(tmp_path / "theirs")
        stored = safetensors.numpy.load_file(tmp_path / "theirs" / WEIGHTS)["prompt_embeddings"]
        assert len(stored) == 2 * VIRTUAL
        ours = PromptTuningModel.from_pretrained(backbone, tmp_path / "theirs")
        assert difference(ours(*inputs()).logits, torch_logits(theirs, *inputs())) < 1e-4
        tokens, mask, _ = inputs()
        written = ours.generate(tokens, mask, max_new_tokens=12)
        np.testing.assert_array_equal(written, greedy(theirs, tokens, mask, 12))

    def test_second_save_has_equal_bytes(self, backbone, tmp_path):
        peft_model("prompt_tuning").save_pretrained(tmp_path / "theirs")
        first = save_prompt(tmp_path / "a", load_prompt(tmp_path / "theirs"))
        second = save_prompt(tmp_path / "b", load_prompt(first))
        assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()

    def test_bin(self, tmp_path):
        theirs = peft_model("prompt_tuning")
        theirs.save_pretrained(tmp_path / "st")
        theirs.save_pretrained(tmp_path / "bin", safe_serialization=False)
        assert (tmp_path / "bin" / "adapter_model.bin").is_file()
        assert load_prompt(tmp_path / "bin").digest == load_prompt(tmp_path / "st").digest

    def test_text_init(self, tmp_path):
        config = peft.PromptTuningConfig(
            task_type="SEQ_2_SEQ_LM",
            num_virtual_tokens=4,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text="good or bad",
            tokenizer_name_or_path=str(EMBEDDED),
        )
        base = torch_embedded()
        peft.get_peft_model(base, config).save_pretrained(tmp_path / "theirs")
        prompt = load_prompt(tmp_path / "theirs")
        ours = init(prompt.method, load_backbone("embedded"), jax.random.key(0))
        assert prompt.method.init == "text"
        np.testing.assert_array_equal(prompt.rows, ours["prompt"])


def test_npy_both_ways(backbone, model, tmp_path):
    """Rows leave as .npy, go through PEFT, come back as .npy, and are the same numbers."""
    rows = np.load(export_prompt(model.prompt, tmp_path / "out.npy"))
    config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=len(rows), num_transformer_submodules=1
    )
    theirs = peft.get_peft_model(torch_model(), config).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(torch.tensor(rows))
    assert difference(model(*inputs()).logits, torch_logits(theirs, *inputs())) < 1e-4
    np.save(tmp_path / "in.npy", theirs.get_prompt_embedding_to_save("default").numpy())
    back = PromptTuningModel.from_pretrained(backbone, tmp_path / "in.npy")
    assert back.prompt.digest == model.prompt.digest


@functools.cache
def torch_embedded():
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    model.config.dropout_rate = 0.0
    return model


def batches(steps, vocab_size):
    """Random rows with padding on both sides of the model."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        lengths, target_lengths = rng.integers(5, 17, (4, 1)), rng.integers(2, 5, (4, 1))
        mask, target_mask = np.arange(16) < lengths, np.arange(4) < target_lengths
        yield Batch(
            tokens=jnp.asarray(np.where(mask, rng.integers(2, vocab_size, mask.shape), 0)),
            mask=jnp.asarray(mask),
            targets=jnp.asarray(np.where(target_mask, rng.integers(2, 30, (4, 4)), 0)),
            target_mask=jnp.asarray(target_mask),
        )


def our_curve(backbone, prompt, steps, learning_rate):
    optimizer = optax.adamw(learning_rate, eps=1e-8, weight_decay=0.01)
    tuned = {"prompt": jnp.asarray(prompt.rows)}
    state = optimizer.init(tuned)
    gradient = jax.value_and_grad(loss_fn(prompt.method, backbone), has_aux=True)

    @jax.jit
    def step(tuned, state, frozen, batch):
        (loss, _), gradients = gradient(tuned, frozen, batch)
        updates, state = optimizer.update(gradients, state, tuned)
        return optax.apply_updates(tuned, updates), state, loss

    for batch in steps:
        tuned, state, loss = step(tuned, state, backbone.params, batch)
        yield loss.item()


def peft_curve(folder, steps, learning_rate):
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=len(weights["prompt_embeddings"]),
        num_transformer_submodules=1,
    )
    model = peft.get_peft_model(torch_embedded(), config).train()
    peft.set_peft_model_state_dict(model, {k: torch.tensor(v) for k, v in weights.items()})
    trained = [p for p in model.parameters() if p.requires_grad]
    assert [p.numel() for p in trained] == [weights["prompt_embeddings"].size]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate)
    for batch in steps:
        arrays = {
            name: torch.tensor(np.array(a)).long()
            for name, a in batch._asdict().items()
            if a is not None
        }
        loss = model(
            input_ids=arrays["tokens"],
            attention_mask=arrays["mask"],
            labels=torch.where(arrays["target_mask"].bool(), arrays["targets"], -100),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


@pytest.mark.slow
def test_loss_curve(tmp_path, capsys):
    """30 steps of AdamW from the same prompt on the same batches: the same loss at every step."""
    backbone = load_backbone("embedded", dtype="float32", scan=True)
    method = PromptTuningConfig(num_virtual_tokens=8)
    prompt = prompt_for(init(method, backbone, jax.random.key(0)), method, backbone)
    folder = save_prompt(tmp_path / "p", prompt)
    data = 10 * list(batches(3, backbone.config.vocab_size))
    ours = np.array(list(our_curve(backbone, prompt, data, 0.03)))
    theirs = np.array(list(peft_curve(folder, data, 0.03)))
    worst = np.abs(ours / theirs - 1).max()
    with capsys.disabled():
        print(f"\nloss {theirs[0]:.3f} -> {theirs[-1]:.3f}, largest difference {worst:.1e}")
    # The three batches repeat, so that what is learned shows.
    assert theirs[-3:].mean() < 0.8 * theirs[:3].mean()
    assert worst < 1e-3
