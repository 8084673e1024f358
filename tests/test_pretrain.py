"""Pretraining: objectives by hand, tasks by their seeds, the whole on a tiny model."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from prompt_jax.backbones.t5 import T5
from prompt_jax.config import InputError
from prompt_jax.pretrain import PretrainConfig, bank, lookup, pretrain, run
from prompt_jax.pretrain import objectives as obj
from prompt_jax.pretrain.bank import (
    CLASSIFY,
    REWRITE,
    Bank,
    classifier,
    generation,
    kind_of,
    usable,
)
from prompt_jax.pretrain.corpus import (
    EOS,
    load_tokenizer,
    padded,
    read_sentences,
    sentences,
    train_tokenizer,
)
from prompt_jax.pretrain.run import prepare, rows_of
from prompt_jax.pretrain.space import build_space, clusters
from prompt_jax.pretrain.step import adafactor, loss, model_config, prompts_of, rescaled, start
from prompt_jax.pretrain.word_vectors import (
    read_lexicon,
    read_teacher,
    token_table,
    word_pieces,
)
from prompt_jax.weights import load_backbone

NOUNS = "king ship river garden letter soldier window mountain doctor horse city winter".split()
VERBS = "finds leaves carries watches paints follows breaks keeps opens fears".split()
ADJECTIVES = "old bright quiet broken golden narrow cold gentle strange heavy".split()


def rng(seed=0):
    return np.random.default_rng(seed)


def sentence(draw):
    a, b, n, m, v = (draw.choice(x) for x in (ADJECTIVES, ADJECTIVES, NOUNS, NOUNS, VERBS))
    return f"The {a} {n} {v} you, and the {b} {m} has your bread."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of 400 sentences and a teacher with a word vector for each of its words."""
    folder, draw = tmp_path_factory.mktemp("pretrain"), rng()
    lines = [" ".join(sentence(draw) for _ in range(4)) for _ in range(100)]
    (folder / "prose.txt").write_text("\n".join(lines) + "\n")
    words = ["[UNK]", *NOUNS, *VERBS, *ADJECTIVES, "the", "and", "has", "you", "your", "bread"]
    words += [*",.tb", "##s", "##r", "##ead"]
    prefix = "embeddings."
    tensors = {
        "word_embeddings.weight": draw.normal(size=(len(words), 24)),
        "token_type_embeddings.weight": draw.normal(size=(2, 24)),
        "position_embeddings.weight": draw.normal(size=(32, 24)),
        "LayerNorm.weight": np.ones(24),
        "LayerNorm.bias": np.zeros(24),
    }
    teacher = folder / "teacher"
    teacher.mkdir()
    save_file(
        {prefix + name: values.astype(np.float32) for name, values in tensors.items()},
        teacher / "model.safetensors",
    )
    model = {"type": "WordPiece", "vocab": {word: i for i, word in enumerate(words)}}
    (teacher / "tokenizer.json").write_text(json.dumps({"model": model}))
    train_tokenizer(sentences("\n".join(lines).replace("\n", " ")), folder, size=62)
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return PretrainConfig(
        text_folder=str(folder), files=(("prose.txt", 1.0),), output=str(folder / "out"),
        tokenizer=str(folder / "spiece.model"), teacher_folder=str(folder / "teacher"),
        num_layers=1, num_decoder_layers=2, d_model=16, d_ff=16, num_heads=2, slots=4,
        slots_per_step=2, rows_per_slot=2, slot_steps=4, virtual_tokens=3, text_tokens=40,
        pair_tokens=44, steps=6, warmup_steps=2, decay_steps=2, checkpoint_every=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(config):
    return prepare(config, load_tokenizer(config.tokenizer))


def headless(prepared):
    """A head that reads nothing yet."""
    return jnp.zeros((16, prepared[0].space.texts.shape[1]))


def test_sentences_are_cut_at_stops_and_long_ones_at_commas():
    assert sentences("One two three four. Too short. Five six, seven eight?") == [
        "One two three four.",
        "Five six, seven eight?",
    ]
    long = "one two three four five, " + " ".join(["more"] * 10)
    assert sentences(long, most=8) == ["one two three four five,"]
    assert sentences("x = 1 + 2 - 3 * 4 / 5 % 6 == 7") == []


def test_shares_thin_a_file_and_the_seed_decides_how(folder):
    def read(share, seed=0):
        return read_sentences(folder, [("prose.txt", share)], most_per_file=1000, seed=seed)

    assert len(read(1.0)) == 400
    assert 60 < len(read(0.25)) < 140
    assert read(0.25) == read(0.25) != read(0.25, seed=1)
    assert len(read_sentences(folder, [("prose.txt", 1.0)], most_per_file=7)) == 7


def test_missing_text_is_named(folder):
    with pytest.raises(InputError, match="no text file 'poems.txt'.*one paragraph a line"):
        read_sentences(folder, [("poems.txt", 1.0)], most_per_file=5)


def test_text_without_sentences_is_refused(tmp_path):
    (tmp_path / "code.txt").write_text("1 2 3 4 5 6\n")
    with pytest.raises(InputError, match="no sentence of 4 to 36 words in 1 files"):
        read_sentences(tmp_path, [("code.txt", 1.0)], most_per_file=5)


def test_extra_words_get_pieces_of_their_own(tmp_path):
    texts = [sentence(rng(i)) for i in range(200)]
    pieces = load_tokenizer(train_tokenizer(texts, tmp_path, size=70, words=["laptop", "email"]))
    assert len(pieces.encode("laptop")) == 1
    assert pieces.id_to_piece(EOS) == "</s>"


def test_too_large_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(InputError, match="vocabulary of 5000 pieces could not be made.*smaller"):
        train_tokenizer([sentence(rng())], tmp_path, size=5000)
    assert not list(tmp_path.iterdir())


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="no tokenizer at .*spiece.model"):
        load_tokenizer(tmp_path / "spiece.model")


def test_padded_cuts_and_fills():
    assert padded([[5, 6, 7, 8], [9]], 3).tolist() == [[5, 6, 7], [9, 0, 0]]


def test_span_corruption_loses_nothing():
    tokens, sentinels = list(range(10, 60)), [200, 199, 198, 197, 196]
    source, target = obj.span_corruption(tokens, sentinels, rng(), rate=0.2)
    spans, current = {}, None
    for token in target:
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    assert 2 <= len(spans) <= 5
    assert [t for s in source for t in (spans[s] if s in spans else [s])] == tokens


def test_span_corruption_always_has_a_target():
    assert obj.span_corruption([5, 6], [200], rng(), rate=0.0) == ([5, 6], [200])


def test_prefix_lm_cuts_in_the_middle():
    source, target = obj.prefix_lm(list(range(10)), rng())
    assert source + target == list(range(10)) and 3 <= len(source) <= 7
    assert obj.prefix_lm([4, 5], rng()) == ([4], [5])


def test_swapped_tokens_are_the_same_tokens():
    source, target = obj.swap_neighbours(list(range(12)), rng())
    assert target == list(range(12)) != source and sorted(source) == target


def test_only_punctuation_changes():
    tokens = [5, 90, 6, 91, 7, 90] * 5
    source, target = obj.change_punctuation(tokens, [90, 91, 92], rng())
    assert target == tokens != source
    assert [s in (90, 91, 92) for s in source] == [t in (90, 91, 92) for t in tokens]
    assert [s for s in source if s < 90] == [t for t in tokens if t < 90]


def test_the_first_rule_for_a_token_counts():
    assert obj.substitute([1, 2, 3, 2], [(2, 9), (2, 8), (7, 5)]) == ([1, 2, 3, 2], [1, 9, 3, 9])


def test_archaic_words_are_modernised_and_back():
    old = "Thou goeth unto the teeth of death, and he saith: Nay!"
    assert obj.modernised(old) == "You goes to the teeth of death, and he says: No!"
    assert obj.modernised("He teacheth and passeth") == "He teaches and passes"
    changed = obj.archaised("You go to your ship, and he says no.", rng(3))
    assert changed != "You go to your ship, and he says no." and "ship, and he" in changed
    assert obj.modernised(changed) == "You go to your ship, and he says no."


def test_case_and_stops_go():
    assert obj.without_case('He said: "Go, Anna!"') == "he said go anna"


def test_word_pieces_are_longest_first():
    vocabulary = {"un": 0, "##able": 1, "##a": 2, "unab": 3, "##le": 4}
    assert word_pieces("unable", vocabulary) == [3, 4]
    assert word_pieces("able", vocabulary, inside=True) == [1]
    assert word_pieces("xyz", vocabulary) == []


def test_token_table_keeps_the_teachers_neighbours(folder):
    vectors, vocabulary = read_teacher(folder / "teacher")
    vectors = vectors.copy()
    vectors[vocabulary["king"]] = vectors[vocabulary["ship"]] + 0.05
    pieces = ["<pad>", "▁king", "▁ship", "▁King", *(f"▁{word}" for word in (*VERBS, *ADJECTIVES))]
    table = token_table(pieces, 64, 24, (vectors, vocabulary))
    assert table.shape == (64, 24)
    np.testing.assert_allclose(np.sqrt((table**2).mean(-1)), 1.0, rtol=1e-5)
    near = table @ table[1]
    assert near[2] > 0.6 * near[1] > near[4:24].max()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_an_incomplete_teacher_is_refused(folder, tmp_path, name):
    for other in {"model.safetensors", "tokenizer.json"} - {name}:
        (tmp_path / other).write_bytes((folder / "teacher" / other).read_bytes())
    with pytest.raises(InputError, match=f"has no {name}; give a BERT"):
        read_teacher(tmp_path)


def test_a_teacher_that_is_no_bert_is_refused(folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(
        (folder / "teacher" / "model.safetensors").read_bytes()
    )
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    with pytest.raises(InputError, match="holds no BERT with a WordPiece vocabulary"):
        read_teacher(tmp_path)


def test_a_table_wider_than_its_teacher_is_refused(folder):
    with pytest.raises(InputError, match="choose d_model from 9 to 32"):
        token_table(["a"], 64, 40, read_teacher(folder / "teacher"))


def test_a_lexicon_gives_a_coordinate_and_classifiers(folder, config, monkeypatch):
    path = folder / "rated.txt"
    path.write_text("king\t2.5\t0.3\nship\t-1.5\t0.5\n")
    assert read_lexicon(path) == {"king": 2.5, "ship": -1.5}
    pieces = ["▁king", "king", "▁ship", "▁garden", "▁Ship"]
    teacher = read_teacher(folder / "teacher")
    plain, rated = (
        token_table(pieces, 8, 16, teacher, ratings=ratings)
        for ratings in (None, read_lexicon(path))
    )
    rates = (rated[0] > 1) & (rated[2] < -0.5) & (rated[4] < -0.5)
    rates &= np.abs(rated[[1, 3]]).max(0) < 0.6  # no rating but noise: only whole words have one
    assert rates.sum() == 1 and not (plain[0] > 1)[rates] & (plain[2] < -0.5)[rates]
    config = dataclasses.replace(config, lexicon=str(path))
    material = prepare(config, load_tokenizer(config.tokenizer))[0]
    for text, rating in zip(material.strings[:40], material.ratings, strict=False):
        words = text.lower().replace(".", "").replace(",", "").split()
        total = 2.5 * words.count("king") - 1.5 * words.count("ship")
        assert rating == pytest.approx(total / len(words) ** 0.5, abs=1e-5)
    monkeypatch.setattr(bank, "RATED", 1.0)
    pool, signs = usable(material, config), set()
    for seed in range(20):
        asked = classifier(material, pool, 2, np.random.default_rng(seed))
        one, other = (material.ratings[side] for side in asked.sides)
        assert one.max() <= other.min() or other.max() <= one.min()
        signs.add(one.mean() < other.mean())
    assert signs == {True, False}


@pytest.mark.parametrize("content", ["king\n", "king\tgood\n"])
def test_a_damaged_lexicon_is_refused(tmp_path, content):
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(InputError, match="l.txt' line 1 is not a word, a tab and a number"):
        read_lexicon(tmp_path / "l.txt")
    with pytest.raises(InputError, match="no lexicon .*absent"):
        read_lexicon(tmp_path / "absent")


def test_clusters_find_far_apart_heaps():
    heaps = np.repeat(np.eye(3) * 100, 50, axis=0) + rng().normal(size=(150, 3))
    centres = clusters(heaps, 6, rng(1))
    nearest = np.abs(heaps[:, None] - centres[None]).sum(-1).min(1)
    assert nearest.max() < 20


def test_space_stands_texts_at_their_mean(prepared):
    material, params, _ = prepared
    space, table = material.space, np.asarray(params["embedding"])
    means = np.stack([table[row[:-1]].mean(0) for row in material.texts])
    means -= means.mean(0)
    solved = np.linalg.lstsq(means, space.texts, rcond=None)[0]
    np.testing.assert_allclose(means @ solved, space.texts, atol=1e-3)
    assert np.mean(space.texts**2) == pytest.approx(1.0, rel=1e-3)
    assert (np.diff(space.spread) < 1e-3).all()


def test_too_few_texts_for_a_space_are_refused():
    with pytest.raises(InputError, match="3 texts are too few for a space of 8 .*at least 16"):
        build_space(np.ones((10, 8), np.float32), [[4, EOS]] * 3)


def test_too_few_short_texts_are_refused(prepared, config):
    material = prepared[0]._replace(texts=[[5] * 30] * 60)
    with pytest.raises(InputError, match="only 0 texts have 4 to 26 tokens"):
        usable(material, dataclasses.replace(config, text_tokens=26))


def test_sides_of_a_classifier_do_not_meet(prepared, config):
    material, pool = prepared[0], np.arange(400)
    sizes = set()
    for seed in range(30):
        task = classifier(material, pool, 6, rng(seed))
        sizes.add(len(task.sides))
        together = np.concatenate(task.sides)
        assert len(set(together.tolist())) == len(together) and len(task.words) == len(task.sides)
        if len(task.sides) == 2 and min(map(len, task.sides)) > 60:
            ends = [material.space.texts[side].mean(0) for side in task.sides]
            assert np.linalg.norm(ends[0] - ends[1]) > 0.3
    assert 2 in sizes and max(sizes) > 2


def test_slots_are_reborn_one_after_the_other(config):
    born = [[generation(config, slot, step) for slot in range(4)] for step in range(9)]
    assert born[0] == [0, 0, 0, 0]
    assert sum(a != b for a, b in zip(born[4], born[5], strict=True)) == 1
    assert born[8] == [2, 2, 2, 2]


def test_a_batch_is_a_function_of_its_step(prepared, config):
    one, other = Bank(prepared[0], config), Bank(prepared[0], config)
    for step in (7, 2):
        other[step]
    for step in range(6):
        for ours, theirs in zip(one[step], other[step], strict=True):
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_batches_of_both_kinds(prepared, config):
    bank = Bank(prepared[0], config)
    seen = set()
    for step in range(20):
        kind, batch = kind_of(config, step), bank[step]
        seen.add(kind)
        assert (batch.slots // config.slots == kind).all()
        assert batch.tokens.shape == (4, 40 if kind == CLASSIFY else 44)
        assert batch.targets.shape == (4, 4 if kind == CLASSIFY else 44)
        assert ((batch.tokens == EOS).sum(1) == 1).all()
        assert ((batch.targets == EOS).sum(1) == 1).all()
        assert bool(batch.places.any()) == (kind == CLASSIFY)
    assert seen == {CLASSIFY, REWRITE}


def test_every_kind_of_rewriting_appears(prepared, config):
    bank = Bank(prepared[0], dataclasses.replace(config, classify_share=0.0))
    tasks = {bank.task(REWRITE, slot, step).__qualname__ for slot in range(4) for step in range(80)}
    assert len(tasks) == 5


def test_rescaling_changes_no_logit(prepared, config):
    _, params, _ = prepared
    state = start(config, params, headless(prepared))
    module = T5(model_config(config, prepared[2]))
    tokens = jnp.asarray([[5, 6, 7, 1]])

    @jax.jit
    def logits(tree):
        words = module.apply({"params": tree}, tokens, method="embed")
        return module.apply({"params": tree}, words, tokens > 0, tokens)

    big = rescaled(state.weights["model"], 5.0)
    assert jnp.sqrt(jnp.mean(big["embedding"] ** 2)) == pytest.approx(5.0, rel=1e-5)
    np.testing.assert_allclose(logits(big), logits(params), atol=2e-4)


def test_the_encoder_starts_by_carrying_the_text(prepared, config):
    """A linear map reads a text's place from the mean state: nothing has been drowned."""
    material, params, size = prepared
    module = T5(model_config(config, size))
    tokens = jnp.asarray(padded(material.texts[:200], 44))
    words = module.apply({"params": params}, tokens, method="embed")
    states = module.apply({"params": params}, words, tokens > 0, method="encode")
    mask = np.asarray(tokens > 1)[..., None]
    means = (np.asarray(states) * mask).sum(1) / mask.sum(1)
    means -= means.mean(0)
    places = material.space.texts[:200] - material.space.texts[:200].mean(0)
    missed = places - means @ np.linalg.lstsq(means, places, rcond=None)[0]
    assert 1 - (missed**2).sum() / (places**2).sum() > 0.9


def test_pooled_states_are_those_of_the_encoder(prepared, config):
    material, params, size = prepared
    module = T5(model_config(config, size))
    tokens = jnp.asarray(padded(material.texts[:50], 44))
    words = module.apply({"params": params}, tokens, method="embed")
    states = module.apply({"params": params}, words, tokens > 0, method="encode")
    mask = np.asarray(tokens > 1)[..., None]
    means = (np.asarray(states) * mask).sum(1) / mask.sum(1)
    told = lookup.pooled(np.asarray(params["embedding"]), material.texts[:50])
    assert np.corrcoef(means.ravel(), told.ravel())[0, 1] > 0.99


def test_a_text_is_answered_with_the_virtual_token_it_resembles(prepared, config):
    """Before any training: two virtual tokens, each the mean of half the texts plus a word."""
    material, params, size = prepared
    module = T5(model_config(config, size))
    table, texts = np.asarray(params["embedding"]), material.texts[:200]
    stood = lookup.pooled(table, texts)
    side = (stood - stood.mean(0)) @ np.linalg.svd(stood - stood.mean(0))[2][0] > 0
    first, second = size - 1, size - 2  # rows that no text has
    gap = stood[side].mean(0) - stood[~side].mean(0)
    gap *= 12.0 / np.linalg.norm(gap)
    tokens = jnp.asarray(padded(texts, 44))
    words = module.apply({"params": params}, tokens, method="embed")
    mask = jnp.concatenate([jnp.ones((200, 2), bool), tokens > 0], axis=1)

    def lean(one, other):
        prompt = np.stack([table[one] + gap, table[other] - gap])
        prompt[:, 0] = -lookup.SCALE
        before = jnp.broadcast_to(prompt, (200, 2, 16)).astype(words.dtype)
        both = jnp.concatenate([before, words], axis=1)
        begin = jnp.zeros((200, 1), jnp.int32)
        logits, _ = module.apply({"params": params}, begin, *encoded(both), method="decode")
        return np.asarray(logits)[:, 0, first] - np.asarray(logits)[:, 0, second]

    def encoded(both):
        return module.apply({"params": params}, both, mask, method="encode"), mask

    told = lean(first, second) - lean(second, first)  # less what the text says of the words itself
    assert ((told > np.median(told)) == side).mean() > 0.75


def test_prompts_start_from_label_words_or_from_any(prepared, config):
    bank, size = Bank(prepared[0], config), prepared[2]
    step = next(step for step in range(20) if kind_of(config, step) == CLASSIFY)
    batch = bank[step]
    told = rows_of(dataclasses.replace(config, label_starts=1.0), batch, step, size)
    for starts, words in zip(np.asarray(told.starts), batch.answers, strict=True):
        assert len(words) >= 2 and starts.tolist() == (3 * words)[: config.virtual_tokens]
    free = rows_of(dataclasses.replace(config, label_starts=0.0), batch, step, size)
    assert np.asarray(free.starts).min() >= 3
    assert free.starts.tolist() != told.starts.tolist()


def test_prompts_start_again_with_a_new_task(prepared, config):
    _, params, _ = prepared
    state = start(config, params, headless(prepared))
    state = state._replace(prompts=state.prompts + 7.0, births=state.births.at[0].set(0))
    batch = Bank(prepared[0], config)[0]
    rows = rows_of(config, batch, 0, 80)._replace(slots=jnp.asarray([0, 1], jnp.int32))
    rows = rows._replace(births=jnp.zeros(2, jnp.int32))
    prompts, moments, ages = prompts_of(state, rows)
    assert (prompts[0] == 7.0).all()
    np.testing.assert_array_equal(prompts[1], params["embedding"][rows.starts[1]])
    assert not moments.any() and not ages.any()


def test_adafactor_is_the_one_of_prompt_tuning():
    theirs = optax.adafactor(
        0.3, factored=False, multiply_by_parameter_scale=False, clipping_threshold=1.0
    )
    ours = reference = jnp.asarray(rng().normal(size=(1, 3, 4)), jnp.float32)
    moments, opt_state = jnp.zeros_like(ours), theirs.init(reference)
    for age in range(4):
        grads = jnp.asarray(rng(age).normal(size=(1, 3, 4)), jnp.float32)
        ours, moments = adafactor(ours, grads, moments, jnp.asarray([age]), 0.3)
        updates, opt_state = theirs.update(grads, opt_state, reference)
        reference = optax.apply_updates(reference, updates)
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)


def test_padding_and_the_head_weight_count_as_they_should(prepared, config):
    material, params, size = prepared
    module = T5(model_config(config, size))
    state = start(config, params, headless(prepared))
    batch = Bank(material, dataclasses.replace(config, classify_share=1.0))[0]
    rows = rows_of(config, batch, 0, 80)
    prompts = prompts_of(state, rows)[0]
    cost = jax.jit(loss, static_argnums=2)
    plain, metrics = cost(state.weights, prompts, module, rows, 0.0)
    assert float(plain) == pytest.approx(float(metrics["loss"]))
    heavy, _ = cost(state.weights, prompts, module, rows, 2.0)
    assert float(heavy - plain) == pytest.approx(2 * float(np.mean(batch.places**2)), rel=1e-4)
    wider = rows._replace(
        tokens=jnp.pad(rows.tokens, ((0, 0), (0, 5))),
        targets=jnp.pad(rows.targets, ((0, 0), (0, 3))),
    )
    assert float(cost(state.weights, prompts, module, wider, 0.0)[0]) == pytest.approx(
        float(plain), rel=1e-5
    )


@pytest.mark.slow
def test_a_stage_gives_a_backbone_and_resumes_exactly(config, tmp_path):
    whole = pretrain(dataclasses.replace(config, output=str(tmp_path / "whole")))
    backbone = load_backbone(whole)
    assert backbone.tokenizer("the king").input_ids == [
        *load_tokenizer(whole / "spiece.model").encode("the king"),
        EOS,
    ]
    assert backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>") == 161
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]

    broken = tmp_path / "broken"
    stopped = dataclasses.replace(config, output=str(broken))
    with pytest.MonkeyPatch.context() as patch:

        def dies(config, module, state, rows, weight, step=run.train_step):
            if int(state.step) == 4:
                raise KeyboardInterrupt
            return step(config, module, state, rows, weight)

        patch.setattr(run, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            pretrain(stopped)
    assert not (broken / "model.safetensors").exists()
    again = load_backbone(pretrain(stopped))
    jax.tree.map(np.testing.assert_array_equal, again.params, backbone.params)
    assert (broken / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_second_stage_goes_on_from_the_first(config, tmp_path):
    first = pretrain(dataclasses.replace(config, output=str(tmp_path / "1"), embedding_scale=4.0))
    assert np.sqrt((np.asarray(load_backbone(first).params["embedding"]) ** 2).mean()) == (
        pytest.approx(4.0, rel=1e-2)
    )
    later = dataclasses.replace(
        config, output=str(tmp_path / "2"), start=str(first), tokenizer="", steps=1
    )
    second = load_backbone(pretrain(later))
    rescaled_first = rescaled(jax.tree.map(jnp.asarray, load_backbone(first).params), 3.0)
    for ours, theirs in zip(
        jax.tree.leaves(second.params), jax.tree.leaves(rescaled_first), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=0.05)
    with pytest.raises(InputError, match="another architecture than this stage"):
        pretrain(dataclasses.replace(later, output=str(tmp_path / "3"), d_ff=32))


def test_a_vocabulary_is_trained_when_none_is_given(config, tmp_path):
    found = pretrain(
        dataclasses.replace(
            config, output=str(tmp_path / "own"), tokenizer="", vocab_pieces=55, steps=1
        )
    )
    assert load_tokenizer(found / "spiece.model").get_piece_size() == 55


def test_other_options_in_the_same_folder_are_refused(config, tmp_path):
    own = dataclasses.replace(config, output=str(tmp_path), steps=1)
    pretrain(own)
    with pytest.raises(InputError, match="holds a stage with other options"):
        pretrain(dataclasses.replace(own, learning_rate=1e-3))


def test_a_folder_of_something_else_is_refused(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="is not empty; give another output"):
        pretrain(dataclasses.replace(config, output=str(tmp_path)))
    with pytest.raises(InputError, match="is a file; give a folder"):
        pretrain(dataclasses.replace(config, output=str(tmp_path / "thesis.tex")))


def test_a_loss_that_is_no_number_stops_the_stage(config, tmp_path):
    wild = dataclasses.replace(
        config, output=str(tmp_path), learning_rate=1e30, warmup_steps=0, steps=6
    )
    with pytest.raises(InputError, match="is not a number; lower learning_rate"):
        pretrain(wild)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": ()}, "files is empty; name at least one"),
        ({"files": (("a.txt", 1.5),)}, "share of 'a.txt' must be above 0 and at most 1, got 1.5"),
        ({"classify_share": 2.0}, "classify_share must be from 0 to 1, got 2.0"),
        ({"label_starts": -0.1}, "label_starts must be from 0 to 1, got -0.1"),
        ({"num_decoder_layers": 1}, "num_decoder_layers must be at least 2, got 1; one pools"),
        ({"num_heads": 3}, "d_model 16 is not a multiple of num_heads 3; choose a divisor"),
        ({"teacher_folder": ""}, 'needs teacher_folder.*word_vectors="random"'),
        ({"dtype": "float16"}, "unknown dtype 'float16'; allowed: float32, bfloat16"),
        ({"word_vectors": "glove"}, "unknown word_vectors 'glove'; allowed: teacher, random"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be at least 0, got -1.0"),
        ({"most_classes": 1}, "most_classes must be at least 2, got 1; a classifier"),
        ({"d_model": 8}, "d_model must be at least 16, got 8"),
        ({"text_tokens": 4}, "text_tokens must be at least 8, got 4"),
        ({"pair_tokens": 4}, "pair_tokens must be at least 8, got 4"),
        ({"slots": 1}, "slots must be at least 2, got 1; or draw fewer"),
    ],
)
def test_wrong_options_are_answered(config, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, **change)
