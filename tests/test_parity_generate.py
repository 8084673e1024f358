"""Greedy and beam decoding give Hugging Face's tokens, on tiny random models of every kind."""

import jax.numpy as jnp
import numpy as np
import pytest
from make_golden import CASES, torch_model

from prompt_jax.forward import Injection
from prompt_jax.generate import generate
from prompt_jax.generate.sampling import restrict
from prompt_jax.weights import load_backbone

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

LENGTH, NEW = 9, 14
# Encoder and decoder differ in depth and heads*d_kv from d_model in all of them: two that differ in
# all that decoding reads, and one whose rules are compared. The gain makes the layers outshout the
# residual, or a tied model would say its last word again and again.
GAINS = {"t5_1_1": 2.0, "byt5": 2.0, "umt5": 3.0}
PENALTIES = [(1.0, False), (0.0, False), (2.5, False), (1.0, "never")]


def lively(name):
    """A model whose answers vary and now and then end before they must."""
    model = torch_model(*CASES[name])
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if path.endswith((".o.weight", "Attention.v.weight")) or "DenseReluDense" in path:
                weight *= GAINS[name]
        model.get_output_embeddings().weight[1] *= 1.5
    return model


def inputs(vocab_size):
    rng = np.random.RandomState(3)
    mask = np.arange(LENGTH) < np.array([9, 2, 5, 7, 1, 8, 3, 6])[:, None]
    return np.where(mask, rng.randint(2, vocab_size, mask.shape), 0), mask


def theirs(model, mask, **options):
    """Tokens without the start token, padded: Transformers fills beams up with EOS."""
    with torch.no_grad():
        found = model.generate(
            attention_mask=torch.tensor(mask).long(),
            max_new_tokens=NEW,
            do_sample=False,
            # Its cache has a layer for each of the encoder's, too few for a deeper decoder.
            use_cache=False,
            **options,
        ).numpy()[:, 1:]
    found = np.pad(found, ((0, 0), (0, NEW - found.shape[1])))
    after = np.cumsum(found == 1, axis=1) - (found == 1) > 0
    return np.where(after, 0, found)


# One at every run of the tests, the rest with the slow ones.
QUICK = ("byt5",)


@pytest.fixture(
    scope="module",
    params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in GAINS],
)
def pair(request, tmp_path_factory):
    model = lively(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, load_backbone(folder, dtype="float32", scan=True)


def test_greedy(pair):
    model, backbone = pair
    tokens, mask = inputs(model.config.vocab_size)
    expected = theirs(model, mask, input_ids=torch.tensor(tokens))
    found = generate(backbone, None, tokens, mask, max_new_tokens=NEW)
    np.testing.assert_array_equal(found, expected)
    ended = (expected == 1).any(1)
    assert ended.any() and not ended.all() and len(np.unique(expected)) > 5


TIES = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 5}


@pytest.mark.parametrize("pair", ["t5_1_1"], indirect=True)
@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_rules_of_an_encoder_decoder(pair, beams):
    model, backbone = pair
    tokens, mask = inputs(model.config.vocab_size)
    options = {**TIES, "num_beams": beams, "num_return_sequences": beams, "eos_token_id": [1, 9]}
    with torch.no_grad():
        expected = model.generate(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            max_length=NEW + 1,
            do_sample=False,
            use_cache=False,
            **options,
        ).numpy()[:, 1:]
    expected = np.pad(expected, ((0, 0), (0, NEW - expected.shape[1])))
    ended = np.isin(expected, (1, 9))
    expected = np.where(np.cumsum(ended, axis=1) - ended > 0, 0, expected)
    found = generate(backbone, None, tokens, mask, max_length=NEW + 1, **options)
    np.testing.assert_array_equal(found, expected)
    assert len(found) == beams * len(tokens) and not ended[:, :5].any()


@pytest.mark.parametrize("beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_rules_of_a_decoder_count_what_it_has_read(beams, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=1)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    model.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, dtype="float32")
    tokens = np.random.RandomState(0).randint(2, 40, (3, 6))
    mask = np.ones_like(tokens, bool)
    options = {**TIES, "num_beams": beams, "max_length": 6 + NEW}
    with torch.no_grad():
        expected = model.generate(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            pad_token_id=0,
            do_sample=False,
            **options,
        ).numpy()[:, 6:]
    found = generate(backbone, None, tokens, mask, **options)
    found = np.where(np.cumsum(found == 1, axis=1) - (found == 1) > 0, 0, found)
    expected = np.pad(expected, ((0, 0), (0, NEW - expected.shape[1])))
    np.testing.assert_array_equal(found, expected)
    plain = generate(backbone, None, tokens, mask, max_new_tokens=NEW)
    assert (plain != found).any()


@pytest.mark.slow
def test_ends_stop_strings_and_bad_words_of_a_decoder(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters(), eos_token="<|end|>")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = LlamaConfig(vocab_size=len(tokenizer), **shape, bos_token_id=0, eos_token_id=[0, 24])
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, dtype="float32")
    tokens = np.random.RandomState(0).randint(1, len(tokenizer), (8, 5))
    mask = np.ones_like(tokens, bool)
    plain = generate(backbone, None, tokens, mask, max_new_tokens=NEW)
    rules = {
        "stop_strings": [tokenizer.decode(plain[0, 3:5]), tokenizer.decode(plain[4, 6:9])],
        "bad_words_ids": [plain[1, 2:3].tolist(), plain[2, 4:7].tolist(), [0]],
    }
    counts = []
    for options in ({}, {**rules, **TIES, "eos_token_id": [0, int(plain[3, 6])]}):
        ends = options.get("eos_token_id", [0, 24])
        for beams in (1, 3):
            search = {"num_beams": beams, "num_return_sequences": beams, **options}
            with torch.no_grad():
                expected = model.generate(
                    input_ids=torch.tensor(tokens),
                    attention_mask=torch.tensor(mask).long(),
                    max_new_tokens=NEW,
                    do_sample=False,
                    pad_token_id=0,
                    tokenizer=tokenizer,
                    **search,
                ).numpy()[:, 5:]
            found = generate(backbone, None, tokens, mask, max_new_tokens=NEW, **search)
            for row, other in zip(found, expected, strict=True):
                # Transformers fills up with one of the ends.
                length = 1 + max(np.flatnonzero(~np.isin(row, ends)), default=-1)
                np.testing.assert_array_equal(row[:length], other[:length])
                assert np.isin(other[length:], ends).all()
            counts.append(np.isin(found, ends).any(1).sum())
    assert max(counts) > 0 and (plain == 24).any()


def letters():
    """A tokenizer of single letters, and of a few pairs of them."""
    from tokenizers import Tokenizer, decoders, models

    words = ["<|end|>", *map(chr, range(97, 123)), " ", ".", "th", "he", " a", "in", "e."]
    pairs = [(word[0], word[1]) for word in words if len(word) == 2]
    core = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=pairs))
    core.decoder = decoders.Fuse()
    return core


@pytest.mark.slow
def test_beams(pair):
    model, backbone = pair
    tokens, mask = inputs(model.config.vocab_size)
    answers = []
    for penalty, early in PENALTIES:
        options = {"num_beams": 4, "length_penalty": penalty, "early_stopping": early}
        expected = theirs(model, mask, input_ids=torch.tensor(tokens), **options)
        found = generate(backbone, None, tokens, mask, max_new_tokens=NEW, **options)
        np.testing.assert_array_equal(found, expected, err_msg=str(options))
        answers.append(expected)
    assert (np.stack(answers) == 1).any()
    greedy = generate(backbone, None, tokens, mask, max_new_tokens=NEW)
    assert (answers[0] != greedy).any()
    assert len({answer.tobytes() for answer in answers}) > 1


@pytest.mark.parametrize("pair", ["byt5"], indirect=True)
def test_beams_that_stop_early_after_a_prompt(pair):
    model, backbone = pair
    tokens, mask = inputs(model.config.vocab_size)
    prompt = np.random.RandomState(0).standard_normal((3, 12)).astype(np.float32)
    with torch.no_grad():
        words = model.get_input_embeddings()(torch.tensor(tokens))
        rows = torch.tensor(prompt).expand(len(tokens), -1, -1)
        embeddings = torch.cat([rows, words], dim=1)
    joined = np.pad(mask, ((0, 0), (3, 0)), constant_values=True)
    options = {"num_beams": 4, "early_stopping": True}
    expected = theirs(model, joined, inputs_embeds=embeddings, **options)
    found = generate(backbone, Injection(prompt), tokens, mask, max_new_tokens=NEW, **options)
    np.testing.assert_array_equal(found, expected)
    patient = {**options, "early_stopping": False}
    assert (expected != theirs(model, joined, inputs_embeds=embeddings, **patient)).any()


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (30, 0.6), (4, 0.5), (30, 1.0), (7, 0.01)])
def test_restrict_is_their_warpers(top_k, top_p):
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.RandomState(1).standard_normal((6, 30)).astype(np.float32) * 2
    warped = TopPLogitsWarper(top_p)(None, TopKLogitsWarper(top_k)(None, torch.tensor(logits)))
    kept = np.asarray(restrict(*map(jnp.asarray, (logits, np.int32(top_k), np.float32(top_p)))))
    np.testing.assert_array_equal(kept > -1e8, np.isfinite(warped.numpy()))
    np.testing.assert_array_equal(kept[kept > -1e8], logits[kept > -1e8])
