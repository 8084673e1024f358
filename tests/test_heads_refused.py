"""What a head, a cloze and an encoder are not asked for."""

import dataclasses

import jax
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.answers import Candidates, classify
from prompt_jax.config import InputError
from prompt_jax.generate import generate, score
from prompt_jax.losses import loss_fn
from prompt_jax.methods import init, materialize
from prompt_jax.prompts import compose, prompt_for

HEAD = {"num_labels": 3, "task_type": "SEQ_CLS"}
LORA = pj.LoraConfig(r=2, **HEAD)
PROMPT = pj.PromptTuningConfig(num_virtual_tokens=4, **HEAD)
WORDS = Candidates(np.array([[40], [41], [42]]), np.ones((3, 1), bool))


def _model(backbone, task_type, labels=3):
    config = dataclasses.replace(PROMPT, task_type=task_type, num_labels=labels)
    return pj.PromptTuningModel.from_pretrained(backbone, config)


BAD = {
    "labels": (lambda b: pj.HeadConfig(num_labels=1), "num_labels must be at least 2, got 1"),
    "a writer": (
        lambda b: pj.LoraConfig(num_labels=2),
        "unknown task_type with num_labels 'SEQ_2_SEQ_LM'; allowed: SEQ_CLS, TOKEN_CLS",
    ),
    "tags": (lambda b: pj.LoraConfig(task_type="TOKEN_CLS"), "TOKEN_CLS has a trained head"),
    "pooling": (lambda b: pj.LoraConfig(pooling="mean"), "unknown pooling 'mean'; allowed: cls"),
    "a head within a union": (
        lambda b: pj.UnionConfig(methods=(LORA, pj.PrefixTuningConfig())),
        "a union has one head beside all its methods",
    ),
    "nothing": (
        lambda b: init(pj.HeadConfig(task_type="SEQ_CLS"), b, jax.random.key(0)),
        "trains a head and nothing else, and none is set: give num_labels",
    ),
    "no words": (lambda b: loss_fn(LORA, b), "a head of 3 classes needs the label words"),
    "writing": (
        lambda b: generate(b, None, np.ones((1, 2), int), np.ones((1, 2), bool)),
        "only reads and writes no answers",
    ),
    "no mask": (
        lambda b: score(b, None, np.ones((1, 2), int), np.ones((1, 2), bool), *WORDS),
        "input 0 has 0 masks and backbone 'tiny_bert' fills one",
    ),
    "long words": (
        lambda b: score(
            b,
            None,
            np.full((1, 2), 63),
            np.ones((1, 2), bool),
            np.ones((1, 2), int),
            np.ones((1, 2), bool),
        ),
        "a label word of 2 tokens cannot stand in place of one mask",
    ),
    "a causal task": (
        lambda b: prompt_for({}, pj.HeadConfig(task_type="CAUSAL_LM"), b),
        "task_type is \"CAUSAL_LM\" and backbone 'tiny_bert' does SEQ_CLS, TOKEN_CLS",
    ),
    "no head for masks": (
        lambda b: score(
            dataclasses.replace(b, config=dataclasses.replace(b.config, word_head=False)),
            *(None, np.full((1, 2), 63), np.ones((1, 2), bool), *WORDS),
        ),
        "has no head that fills masks",
    ),
    "tags of another shape": (
        lambda b: _model(b, "TOKEN_CLS")(np.ones((2, 3), int), labels=np.ones((2, 4), int)),
        r"labels must be integers of shape \[2, 3\], got int64 of shape \[2, 4\]",
    ),
    "a span outside": (
        lambda b: _model(b, "QUESTION_ANS", None)(np.ones((1, 3), int), labels=np.array([[0, 3]])),
        "labels hold 3; allowed: 0 to 2 and -100",
    ),
    "labels without a head": (
        lambda b: pj.PromptTuningModel.from_pretrained(b, None)(
            np.ones((1, 3), int), labels=np.ones(1, int)
        ),
        "labels need a head, and this model has none",
    ),
    "a decoder's input": (
        lambda b: _model(b, "SEQ_CLS")(np.ones((1, 3), int), None, np.ones((1, 3), int)),
        "has one stack and takes no decoder_input_ids",
    ),
    "overflow": (
        lambda b: classify(
            b,
            materialize(PROMPT, init(PROMPT, b, jax.random.key(0))),
            *(np.ones((1, 61), int), np.ones((1, 61), bool)),
        ),
        "prompt, input and target are 65 tokens long .*, 1 over the 64 of 'tiny_bert'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, tiny_bert):
    run, message = BAD[case]
    with pytest.raises(InputError, match=message):
        run(tiny_bert)


def test_a_t5_takes_no_head(tiny):
    with pytest.raises(InputError, match="takes no head for SEQ_CLS; it does SEQ_2_SEQ_LM"):
        init(LORA, tiny, jax.random.key(0))


def test_prompts_with_heads_are_not_combined(tiny_bert):
    tuned = init(PROMPT, tiny_bert, jax.random.key(0))
    prompt = prompt_for(tuned, PROMPT, tiny_bert, name="one")
    with pytest.raises(InputError, match="'one' has a trained head, which a prompt computed from"):
        compose([prompt, prompt], how="concat")
