"""A tuned prompt beside its rivals: the plain frozen model, and knowing nothing."""

import dataclasses
from typing import Any

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config
from prompt_jax.data import load_examples, load_rows, splits
from prompt_jax.evaluate import baselines, evaluate
from prompt_jax.experiment.data import Data, load_data
from prompt_jax.prompts import Prompt
from prompt_jax.tasks import resolve

FROZEN, TUNED = "frozen model, no prompt", "tuned prompt"
Results = dict[str, dict[str, dict[str, float]]]
"""Way to answer -> test set -> metrics."""


def compare(config: Config, data: Data, backbone: Backbone, ways: dict[str, Any]) -> Results:
    """Metrics of each way to answer on validation and every test set, beside the baselines.

    Args:
      config: its data and eval parts say how.
      data: what to answer; an empty validation is left out.
      backbone: the frozen model.
      ways: name -> injection, None for the plain model.
    """
    results: Results = {}
    sets = {"validation": data.validation, **data.tests}
    for name, examples in sets.items():
        if not examples:
            continue
        for way, scores in baselines(data.train, examples, data.task).items():
            results.setdefault(way, {})[name] = scores
        for way, injection in ways.items():
            results.setdefault(way, {})[name] = evaluate(
                backbone,
                injection,
                examples,
                data.task,
                data=config.data,
                eval=config.eval,
                placement=config.method.placement,
            ).metrics
    return results


def evaluate_prompt(config: Config, prompt: Prompt, backbone: Backbone) -> Results:
    """What `compare` gives for a saved prompt on `config.data.task`.

    A name with a split, or a file, is scored whole; a dataset on validation and its test splits.
    """
    name = config.data.task
    found = splits(name)
    if len(found) == 1:
        task = resolve(name, config.task, load_rows(name, found[0], 1)[0])
        examples = load_examples(task, name, found[0], config.data.max_examples)
        data = Data(task, examples, [], {found[0]: examples})
    else:
        data = load_data(config)
    config = dataclasses.replace(config, method=prompt.method)
    return compare(config, data, backbone, {FROZEN: None, TUNED: prompt.injection()})
