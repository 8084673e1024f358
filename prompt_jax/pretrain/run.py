"""From text files to a folder that `load_backbone` reads."""

import dataclasses
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prompt_jax import checkpoints, disk
from prompt_jax.backbones import Backbone, init_params
from prompt_jax.backbones.t5 import T5
from prompt_jax.config import InputError
from prompt_jax.pretrain import lookup
from prompt_jax.pretrain.bank import Bank, Batch, Material, generation
from prompt_jax.pretrain.config import PretrainConfig
from prompt_jax.pretrain.corpus import (
    EOS,
    NUM_SENTINELS,
    Pieces,
    load_tokenizer,
    read_sentences,
    train_tokenizer,
)
from prompt_jax.pretrain.space import build_space
from prompt_jax.pretrain.step import Rows, State, model_config, quieted, rescaled, start, train_step
from prompt_jax.pretrain.word_vectors import read_lexicon, read_teacher, token_table
from prompt_jax.runs import LOCK, Metrics, hold
from prompt_jax.signals import stopping
from prompt_jax.train import is_finite, run_steps
from prompt_jax.trees import Frozen, Tokenizer
from prompt_jax.weights import load_backbone, save_hugging_face
from prompt_jax.weights import load_tokenizer as load_hugging_face_tokenizer

RECORD = "pretrain_config.json"


def pretrain(config: PretrainConfig) -> Path | None:
    """Runs a stage, or goes on with it where it stopped; gives the folder of the model.

    The model is written at the end, in bfloat16; checkpoints in `output/checkpoints` on the way.
    Where SIGTERM or Ctrl-C stops it there is only a checkpoint, and None is given.

    Raises:
      InputError: text, tokenizer, teacher or earlier stage is missing or too small, or `output`
        holds a stage with other options or belongs to one that is under way.
    """
    output = _claim(config)
    with hold(output):
        return _run(config, output)


def _run(config: PretrainConfig, output: Path) -> Path | None:
    pieces = _tokenizer(config, output)
    material, params, vocabulary = prepare(config, pieces)
    module = T5(model_config(config, vocabulary))
    state = start(config, params, _head(params, material))
    with checkpoints.writing(output / "checkpoints") as manager:
        state = _restored(manager, state)
        with Metrics(output, step=int(state.step)) as metrics:
            state = _train(config, module, state, Bank(material, config), manager, metrics)
    if int(state.step) < config.steps:
        return None
    params = rescaled(state.weights["model"], config.embedding_scale)
    tokenizer = _hugging_face_tokenizer(output)
    model = Backbone(
        name=str(output), config=module.config, params=jax.device_get(params), tokenizer=tokenizer
    )
    return save_hugging_face(output, model, dtype="bfloat16")


def prepare(config: PretrainConfig, pieces: Pieces) -> tuple[Material, Frozen, int]:
    """Texts and their space, the parameters to start from, and the vocabulary size."""
    strings = read_sentences(
        config.text_folder,
        config.files,
        most_per_file=config.sentences_per_file,
        seed=config.seed,
    )
    texts = [[*row, EOS] for row in pieces.encode(strings)]
    # Multiples of 64 keep the table's products aligned on accelerators.
    vocabulary = -(-(pieces.get_piece_size() + NUM_SENTINELS) // 64) * 64
    params = _initial(config, pieces, texts, vocabulary)
    counts = Counter(w for s in strings for w in re.findall(r"[a-z]{3,}", s.lower()))
    words = pieces.encode([word for word, _ in counts.most_common(20_000)])
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    marks = [i for i in range(3, len(names)) if not any(c.isalnum() for c in names[i].strip("▁"))]
    space = build_space(np.asarray(params["embedding"]), texts, seed=config.seed)
    short_words = [word for word in words if len(word) <= 3]
    material = Material(
        texts,
        strings,
        space,
        short_words,
        marks[:40],
        pieces.encode,
        pieces.get_piece_size(),
        _ratings(config, strings),
    )
    return material, params, vocabulary


def _ratings(config: PretrainConfig, strings: list[str]) -> Float[np.ndarray, " N"] | None:
    if not config.lexicon:
        return None
    rated = read_lexicon(config.lexicon)
    words = [re.findall(r"[a-z']+", text.lower()) for text in strings]
    sums = [sum(rated.get(w, 0.0) for w in row) / max(len(row), 1) ** 0.5 for row in words]
    return np.array(sums, np.float32)


def rows_of(config: PretrainConfig, batch: Batch, step: int, population: int) -> Rows:
    """A batch with what its slots need to start a prompt: words among the first `population`."""
    slots = batch.slots[:: config.rows_per_slot]
    births = [generation(config, int(slot) % config.slots, step) for slot in slots]
    starts = []
    for slot, born, words in zip(slots, births, batch.answers, strict=True):
        rng = np.random.default_rng((config.seed, 4, int(slot), born))
        sampled = rng.integers(3, population, config.virtual_tokens)
        labelled = words and rng.random() < config.label_starts
        starts.append(np.resize(words, config.virtual_tokens) if labelled else sampled)
    return Rows(
        jnp.asarray(batch.tokens),
        jnp.asarray(batch.targets),
        jnp.asarray(batch.places),
        jnp.asarray(slots),
        jnp.asarray(births, jnp.int32),
        jnp.asarray(np.stack(starts), jnp.int32),
    )


def _train(
    config: PretrainConfig, module: T5, state: State, bank: Bank, manager: Any, metrics: Metrics
) -> State:
    # Where files are is no part of a compiled step: without them two runs share one.
    compiled = dataclasses.replace(config, output="", start="-" if config.start else "")
    population = min(5000, module.config.vocab_size - NUM_SENTINELS)
    first, stop = int(state.step), threading.Event()

    def one(state: State, step: int) -> tuple[State, dict[str, Array]]:
        batch = bank[step]
        classifies = bool(batch.slots[0] < config.slots)
        weight = config.head_weight if classifies else 0.0
        rows = rows_of(config, batch, step, population)
        state, numbers = train_step(compiled, module, state, rows, weight)
        kind = "classify" if classifies else "rewrite"
        return state, {f"{kind}_{name}": value for name, value in numbers.items()}

    def report(step: int, state: State | None, numbers: dict[str, Array]) -> bool:
        row = {name: float(value) for name, value in jax.device_get(numbers).items()}
        metrics.add({"step": step, **row})
        finite = all(np.isfinite(value) for name, value in row.items() if name.endswith("_loss"))
        if not finite or (state is not None and not is_finite(state.weights)):
            raise InputError(
                f"the loss at step {step} is not a number; lower learning_rate, which is "
                f"{config.learning_rate}, and begin again in another output folder"
            )
        if state is not None:
            # Rows first: a checkpoint must not be ahead of the metrics on the disk.
            metrics.sync()
            checkpoints.save(manager, step, state)
        return stop.is_set()

    def due(step: int) -> bool:
        return stop.is_set() or step % config.checkpoint_every == 0 or step == config.steps

    with stopping(stop.set):
        return run_steps(one, state, range(first, config.steps), report, due, first)


def _claim(config: PretrainConfig) -> Path:
    """The output folder, with the config written into it; the same stage may be claimed again."""
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise InputError(f"output {config.output!r} is a file; give a folder")
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    record = output / RECORD
    if record.is_file() and json.loads(record.read_text()) != json.loads(text):
        raise InputError(
            f"{config.output!r} holds a stage with other options; give another output, or the "
            f"options in {record} to go on with it"
        )
    if (
        not record.is_file()
        and output.is_dir()
        and any(path.name != LOCK for path in output.iterdir())
    ):
        raise InputError(f"output {config.output!r} is not empty; give another output")
    with disk.writing(output):
        output.mkdir(parents=True, exist_ok=True)
    disk.write(record, text)
    return output


def _tokenizer(config: PretrainConfig, output: Path) -> Pieces:
    """The SentencePiece of the stage, copied or trained into its folder once."""
    target = output / "spiece.model"
    if not target.is_file():
        source = config.tokenizer or (config.start and str(Path(config.start) / "spiece.model"))
        if source:
            load_tokenizer(source)
            disk.write(target, Path(source).read_bytes())
        else:
            strings = read_sentences(
                config.text_folder,
                config.files,
                most_per_file=config.sentences_per_file,
                seed=config.seed,
            )
            train_tokenizer(strings, output, size=config.vocab_pieces, words=_teacher_words(config))
    return load_tokenizer(target)


def _teacher_words(config: PretrainConfig) -> list[str]:
    if config.word_vectors != "teacher":
        return []
    _, vocabulary = read_teacher(config.teacher_folder)
    ranked = sorted(vocabulary, key=lambda word: vocabulary[word])
    return [word for word in ranked if re.fullmatch("[a-z]{3,}", word)]


def _initial(
    config: PretrainConfig, pieces: Pieces, texts: list[list[int]], vocabulary: int
) -> Frozen:
    """The parameters of an earlier stage, or quiet ones that look prompts up."""
    shape = model_config(config, vocabulary)
    like = jax.eval_shape(lambda key: init_params(shape, key), jax.random.key(0))
    if config.start:
        params = load_backbone(config.start, dtype="float32").params
        sizes, expected = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (params, like))
        if sizes != expected:
            raise InputError(
                f"the model in {config.start!r} has another architecture than this stage; "
                "give both stages the same sizes"
            )
        return rescaled(jax.tree.map(jnp.asarray, params), lookup.SCALE)
    # Trained weights are float32, whatever type the module computes in.
    float32 = dataclasses.replace(shape, dtype=jnp.float32)
    params = quieted(init_params(float32, jax.random.key(config.seed)), lookup.QUIET)
    if config.word_vectors == "random":
        return params
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    teacher = read_teacher(config.teacher_folder)
    ratings = read_lexicon(config.lexicon) if config.lexicon else None
    table = token_table(
        names, vocabulary, config.d_model, teacher, ratings=ratings, seed=config.seed
    )
    words = np.concatenate([np.asarray(row[:-1]) for row in texts])
    table = lookup.centred(table, np.bincount(words, minlength=len(names)))
    params = {**params, "embedding": jnp.asarray(table)}
    states = lookup.pooled(table, texts[: lookup.SAMPLE])
    return lookup.with_lookup(params, states, config.num_heads, config.seed)


def _head(params: Frozen, material: Material) -> Float[Array, "D Z"]:
    """Reads places from the mean states of an encoder that is still quiet."""
    table, count = np.asarray(params["embedding"]), lookup.SAMPLE
    states = lookup.pooled(table, material.texts[:count])
    return jnp.asarray(lookup.readout(states, material.space.texts[:count]))


def _restored(manager: Any, state: State) -> State:
    saved = checkpoints.restore(manager, jax.device_get(state))
    return state if saved is None else jax.tree.map(jnp.asarray, saved[1])


def _hugging_face_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder with a spiece.model, in Hugging Face's form."""
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": NUM_SENTINELS}
    if not (folder / "tokenizer_config.json").is_file():
        disk.write(folder / "tokenizer_config.json", json.dumps(settings) + "\n")
        # Transformers reads the type of the tokenizer there; the model's own config replaces it.
        disk.write(folder / "config.json", json.dumps({"model_type": "t5"}) + "\n")
    return load_hugging_face_tokenizer(str(folder))
