"""A corpus and a teacher for the tests of pretraining: small, and the same at every run."""

import json

import numpy as np
from safetensors.numpy import save_file

NOUNS = "king ship river garden letter soldier window mountain doctor horse city winter".split()
VERBS = "finds leaves carries watches paints follows breaks keeps opens fears".split()
ADJECTIVES = "old bright quiet broken golden narrow cold gentle strange heavy".split()


def rng(seed=0):
    return np.random.default_rng(seed)


def sentence(draw):
    a, b, n, m, v = (draw.choice(x) for x in (ADJECTIVES, ADJECTIVES, NOUNS, NOUNS, VERBS))
    return f"The {a} {n} {v} you, and the {b} {m} has your bread."


def write(folder):
    """400 sentences, their tokenizer, and a teacher with a word vector for each of their words."""
    from prompt_jax.pretrain.corpus import sentences, train_tokenizer

    draw = rng()
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
