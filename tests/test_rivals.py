"""What answers the same rows without tuning, and what a method costs on other text."""

import dataclasses

import jax
import numpy as np
import pytest

import prompt_jax as pj
from prompt_jax.config import Config, DataConfig, InputError, TrainConfig
from prompt_jax.data import encode
from prompt_jax.data.texts import tokenized
from prompt_jax.evaluate import evaluate
from prompt_jax.experiment.forgetting import OtherText
from prompt_jax.experiment.rivals import InContext, TfIdf, parse_rival, parse_rivals
from prompt_jax.experiment.splits import Data, for_backbone
from prompt_jax.experiment.training import train, train_seeds
from prompt_jax.methods import materialize
from prompt_jax.prompts import fresh
from prompt_jax.tasks import Example, Task, to_example

TASK = Task(name="films", source="Film: {input}\nGood?", target="{target}", labels=("no", "yes"))
ROWS = [
    to_example(TASK, {"input": f"{'fine' if i % 2 else 'poor'} {i}", "target": TASK.labels[i % 2]})
    for i in range(8)
]
CHAT = dataclasses.replace(TASK, chat=True)


def example(task):
    return to_example(task, {"input": "a long one", "target": "yes"})


def test_rows_and_instruction_stand_in_front_of_plain_text():
    rival = InContext("both", "Judge.", 1)
    text = rival.in_front(TASK, ROWS[1:2], example(TASK)).source
    assert text == "Judge.\n\nFilm: fine 1\nGood? yes\n\nFilm: a long one\nGood?"
    assert [text[a:b] for a, b in text.cuts] == ["a long one"]
    ended = dataclasses.replace(TASK, source="{input}: ")
    assert InContext("shots:1", "", 1).in_front(ended, ROWS[:1], example(ended)).source == (
        "Film: poor 0\nGood?no\n\na long one: "
    )


def test_rows_are_earlier_turns_of_a_chat(instruct):
    source = example(dataclasses.replace(CHAT, system="Be kind.")).source
    rival = InContext("both", "Judge.", 1)
    text = rival.in_front(CHAT, ROWS[1:2], Example(source, "yes")).source
    assert [tuple(turn) for turn in text.turns] == [
        ("system", "Be kind."),
        ("user", "Judge.\n\nFilm: fine 1\nGood?"),
        ("assistant", "yes"),
        ("user", "Film: a long one\nGood?"),
    ]
    text = rival.in_front(CHAT, [], Example(source, "yes")).source
    assert text.turns[1].content == "Judge.\n\nFilm: a long one\nGood?"
    # What may be cut is still the column, and neither the instruction nor the template.
    length = len(tokenized(instruct.tokenizer, [text])[0][0])
    (cut,) = encode(instruct.tokenizer, [text], length - 5)
    assert "Judge.\n\nFilm: a lon\nGood?<|im_end|>" in instruct.tokenizer.decode(cut).replace(
        "a lo\n", "a lon\n"
    )


@pytest.fixture(scope="module")
def films(tiny_backbone):
    config = Config(data=DataConfig(max_source_length=24))
    return config, for_backbone(Data(TASK, ROWS, [], {"test": ROWS}), config, tiny_backbone)


def test_nothing_in_front_is_the_frozen_model(films, tiny_backbone, tmp_path):
    config, data = films
    path = tmp_path / "empty.txt"
    path.write_text("\n")
    way = {"data": config.data, "eval": config.scoring}
    frozen = evaluate(tiny_backbone, None, ROWS, data.task, **way).metrics
    for name in ("shots:0", f"written:{path}", f"written:{path}+shots:0"):
        assert parse_rival(name).scores(config, data, tiny_backbone, ROWS, 0) == frozen
    longer = parse_rival("shots:2").scores(config, data, tiny_backbone, ROWS, 0)
    assert longer.keys() == frozen.keys()


def test_words_are_counted(films, tiny_backbone):
    config, data = films
    assert TfIdf().scores(config, data, tiny_backbone, ROWS, 0)["accuracy"] == 1.0


BAD = {
    "shots": "unknown rival 'shots'; allowed: written:FILE, shots:K",
    "shots:": "unknown rival 'shots:'",
    "written:": "unknown rival 'written:'",
    "shots:-1": "shots is a number of training rows, 0 or more, got '-1'",
    "shots:9": "shots:9 shows 9 training rows, and films has 8; lower it",
    "written:nowhere.txt": "there is no file nowhere.txt",
    "tf-idf": "unknown rival 'tf-idf'.*tf_idf",
}


@pytest.mark.parametrize("name", BAD)
def test_rivals_that_cannot_be(name, films, tiny_backbone):
    with pytest.raises(InputError, match=BAD[name]):
        parse_rivals([name], films[1], tiny_backbone)


def test_rivals_that_do_not_fit_the_task(films, tiny_backbone, tiny_bert):
    data = films[1]
    with pytest.raises(InputError, match="name each rival once, got shots:1, shots:1"):
        parse_rivals(["shots:1", "shots:1"], data, tiny_backbone)
    with pytest.raises(InputError, match="shots:1: .* answers a classification by marking"):
        parse_rivals(["shots:1"], data, tiny_bert)
    written = data._replace(task=Task(name="w", source="{input}", target="{target}"))
    with pytest.raises(InputError, match="chooses among label words, and w is a generation"):
        parse_rivals(["tf_idf"], written, tiny_backbone)
    with pytest.raises(InputError, match="rows of two labels or more, and films has 0 rows"):
        parse_rivals(["tf_idf"], data._replace(train=[]), tiny_backbone)


def test_a_fresh_lora_forgets_nothing(films, tiny_backbone, tmp_path):
    config, _ = films
    path = tmp_path / "book.txt"
    path.write_text("one two three four\n\nword\nsome more of it here\n")
    text = OtherText(f"file:{path}", config, tiny_backbone)
    method = pj.LoraConfig(r=2)
    tuned = fresh(method, tiny_backbone, 0)
    loss = text.loss(None)
    assert np.isfinite(loss) and text.loss(materialize(method, tuned)) == loss
    trained = jax.tree.map(lambda leaf: leaf + 0.3, tuned)
    assert text.loss(materialize(method, trained)) != loss
    path.write_text("word\n\n")
    with pytest.raises(InputError, match="has no text of two words or more to halve"):
        OtherText(f"file:{path}", config, tiny_backbone)
    (tmp_path / "x.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="has the columns a, b, and a text to halve is looked"):
        OtherText(f"file:{tmp_path / 'x.tsv'}", config, tiny_backbone)


@pytest.mark.slow
def test_seeds_train_together_as_each_alone(tiny_folder, task_file, tmp_path):
    config = Config(
        backbone=str(tiny_folder),
        out=str(tmp_path / "run"),
        data=DataConfig(task=f"file:{task_file}"),
        train=TrainConfig(steps=2, batch_size=4, eval_every=2),
    )
    results = train_seeds(config, [3, 4], say=lambda _: None)
    lone = dataclasses.replace(config.train, seed=4)
    lone = train(
        dataclasses.replace(config, out=str(tmp_path / "lone"), train=lone), say=lambda _: None
    )
    assert [result.folder.name for result in results] == ["3", "4"]
    rows = [result.prompt.rows for result in results]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    np.testing.assert_allclose(rows[1], lone.prompt.rows, rtol=1e-5, atol=1e-6)
