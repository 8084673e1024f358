"""A tuned prompt beside the plain frozen model, a baseline that knows nothing, and rivals."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from prompt_jax.answers import ask_each, check_words, combine, fit_weights
from prompt_jax.answers.ensemble import WAYS
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, choose
from prompt_jax.evaluate import baselines, evaluate
from prompt_jax.experiment.rivals import Rival, parse_rivals
from prompt_jax.experiment.scored import scored
from prompt_jax.experiment.splits import Data, for_backbone
from prompt_jax.forward import Injection
from prompt_jax.lines import Pace, Say
from prompt_jax.metrics import Scores, measure
from prompt_jax.prompts import Prompt, of_task
from prompt_jax.tasks import remarks

FROZEN, TUNED = "frozen model, no prompt", "tuned prompt"
Results = dict[str, dict[str, Scores]]
"""Way to answer -> test set -> metrics."""


def reference(results: Results) -> str:
    """What a prompt has to beat: the frozen model, or knowing nothing where it cannot answer."""
    return FROZEN if FROZEN in results else next(way for way in results if way != TUNED)


def score_ways(
    config: Config,
    data: Data,
    backbone: Backbone,
    ways: Mapping[str, Injection | None],
    rivals: Sequence[Rival] = (),
    *,
    say: Say = print,
) -> Results:
    """Metrics of each way to answer on validation and every test set, beside the baselines.

    Args:
      config: its data and eval parts say how.
      data: what to answer; an empty validation is left out.
      ways: name -> injection, None for the plain model.
      rivals: what else answers the same rows; `data.seed` draws the rows that they show.
    """
    results: Results = {}
    sets = {"validation": data.validation, **data.tests}
    sources = [example.source for examples in sets.values() for example in examples]
    # Before the first set is answered, which may take an hour.
    check_words(backbone, config.data, sources)
    pace, before, total = Pace(say, "scoring"), 0, len(ways) * len(sources)
    for name, examples in sets.items():
        if not examples:
            continue
        for way, scores in baselines(data.train, examples, data.task).items():
            results.setdefault(way, {})[name] = scores
        for rival in rivals:
            scores = rival.scores(config, data, backbone, examples, config.data.seed)
            results.setdefault(rival.name, {})[name] = scores
        for way, injection in ways.items():
            results.setdefault(way, {})[name] = evaluate(
                backbone,
                injection,
                examples,
                data.task,
                data=config.data,
                eval=config.scoring,
                progress=lambda done, _, before=before: pace(before + done, total),
            ).metrics
            before += len(examples)
    return results


def evaluate_prompt(
    config: Config,
    prompt: Prompt,
    backbone: Backbone,
    *,
    rivals: Sequence[str] = (),
    say: Say = print,
) -> Results:
    """Metrics of a saved prompt and its rivals on what `scored` takes of `config.data.task`.

    Args:
      rivals: their names, see `parse_rival`.

    Raises:
      InputError: as `load_data`, or as `parse_rivals`.
    """
    prompt = of_task(prompt)
    injection = prompt.injection()
    config = dataclasses.replace(config, method=prompt.method)
    plain = {} if injection.head else {FROZEN: None}
    selection = scored(config, [prompt], say)
    selection = selection._replace(data=for_backbone(selection.data, config, backbone))
    for line in (*selection.data.remarks, *remarks(selection.data.task, config.task)):
        say(line)
    ways = {**plain, TUNED: injection}
    others = parse_rivals(rivals, selection.data, backbone)
    return selection.named(score_ways(config, selection.data, backbone, ways, others, say=say))


def evaluate_ensemble(
    config: Config,
    prompts: Sequence[Prompt],
    backbone: Backbone,
    how: str = "average",
    *,
    say: Say = print,
) -> Results:
    """Metrics of each of several prompts, and of all of them together, as `evaluate_prompt`.

    Args:
      how: as `ensemble` has it; `weighted` fits the weights on validation, where its score then is
        that of the rows that it was fitted to.
    """
    choose("way to ensemble prompts", how, WAYS)
    config = dataclasses.replace(config, method=prompts[0].method)
    selection = scored(config, prompts, say)
    data = for_backbone(selection.data, config, backbone)
    alone = {
        f"{i}: {prompt.label}": of_task(prompt).injection() for i, prompt in enumerate(prompts, 1)
    }
    options = {"data": config.data, "eval": config.scoring}
    labels, weights = data.task.labels, None
    together: dict[str, Scores] = {}
    for name, examples in {"validation": data.validation, **data.tests}.items():
        references = [example.target for example in examples]
        groups = [example.group for example in examples]
        if how == "weighted" and weights is None and not examples:
            raise InputError(
                "weights are fitted on validation, and there are no such rows; give some "
                '(data.validation), or take how="average"'
            )
        if not examples:
            continue
        sources = [example.source for example in examples]
        scores = ask_each(backbone, list(alone.values()), sources, data.task, **options)
        if how == "weighted" and weights is None:
            right = np.array([labels.index(reference) for reference in references])
            weights = fit_weights(scores, right).tolist()
        best, _ = combine(scores, how, weights)
        answers = [labels[label] for label in best]
        together[name] = measure(data.task.metrics, answers, references, labels, groups)
    shares = "" if weights is None else ": " + ", ".join(f"{weight:.2f}" for weight in weights)
    results = score_ways(config, data, backbone, alone, say=say)
    results[f"together ({how}{shares})"] = together
    return selection.named(results)
