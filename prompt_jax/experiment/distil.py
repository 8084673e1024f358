"""A long text becomes a prompt: what `prompt-jax distil` does.

    config = Config(
        train=TrainConfig(objective="distil"),
        distil=DistilConfig(context="instruction.txt", questions="questions.txt"),
    )
    result = distil(config)

The teacher answers once; the student is trained by the loop of every other experiment.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from prompt_jax import report
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, MethodConfig, from_json, resolved, to_json
from prompt_jax.experiment.choice import lesson
from prompt_jax.experiment.conclude import Result, best_step, ending, prompt_of
from prompt_jax.experiment.evaluation import TUNED
from prompt_jax.experiment.loop import Loop
from prompt_jax.experiment.members import Population, Single, Trained
from prompt_jax.experiment.questions import check_bare, load_questions, read_context
from prompt_jax.experiment.resemblance import (
    TEACHER,
    WITHOUT,
    Resemblance,
    Way,
    plain_ways,
    questions,
    resemblance,
    short_ways,
    table,
)
from prompt_jax.experiment.splits import Data, digest, for_backbone
from prompt_jax.experiment.study import studied, study_sources, summaries
from prompt_jax.experiment.teacher import Teacher, folder_of, taught
from prompt_jax.experiment.training import check_losses, introduce_model, load
from prompt_jax.forward import for_tasks
from prompt_jax.lines import Say
from prompt_jax.losses import check_writes
from prompt_jax.methods import materialize, resolve
from prompt_jax.population import length_of
from prompt_jax.prompts import Prompt, fresh, inspect, save_prompt
from prompt_jax.runs import begin_run, claim, read_metrics
from prompt_jax.tasks import digest_of

UNTRAINED = "the prompt, untrained"


def distil(
    config: Config, *, resume: bool = False, overwrite: bool = False, say: Say = print
) -> Result:
    """Trains a prompt to answer as the frozen model does with a text in its context.

    Args:
      resume: continue the run in `config.out`: the teacher's answers from the file that is not
        there yet, training from its last checkpoint.

    Raises:
      InputError: anything about the config, the text, the questions or the backbone that cannot
        work.
      DivergedError: the loss is no longer a number; the last good checkpoint stays.
    """
    config = _begin(config)
    with claim(config, resume=resume, overwrite=overwrite) as folder:
        teacher, (student,), data = _prepare(config, [config], folder, resume, say)
        single = Single(student, teacher.backbone, [data])
        introduce_model(single, say)
        loop = Loop(single, [folder], config.train, say)
        loop.watch()
        loop.run(folder / "checkpoints", resume=resume)
        if loop.stopped:
            return Result(None, {}, folder)
        plain = resemblance(teacher, data, plain_ways(teacher), timed=(TEACHER, WITHOUT))
        return _conclude(teacher, single.trained(), plain, folder, say)


def distil_lengths(
    config: Config, *, resume: bool = False, overwrite: bool = False, say: Say = print
) -> list[Result]:
    """Trains a prompt of each of `config.distil.lengths`, all in one program with one teacher.

    Each has a run folder of its own in lengths/ within `config.out`, where lengths.png shows KL
    over length.

    Raises:
      InputError: a method whose prompts have one length, or as `distil`.
      DivergedError: as `distil`.
    """
    config = _begin(config)
    with claim(config, resume=resume, overwrite=overwrite) as folder:
        places = [folder / "lengths" / str(length) for length in config.distil.lengths]
        alone = [
            dataclasses.replace(
                config,
                out=str(place),
                method=_of_length(config.method, length),
                distil=dataclasses.replace(config.distil, lengths=(), cache=str(folder_of(config))),
            )
            for place, length in zip(places, config.distil.lengths, strict=True)
        ]
        teacher, students, data = _prepare(config, alone, folder, resume, say)
        for place, student in zip(places, students, strict=True):
            place.mkdir(parents=True, exist_ok=True)
            begin_run(place, student, resume=resume)
        members = Lengths(students, teacher.backbone, [data] * len(students))
        loop = Loop(members, places, config.train, say)
        # Before the hooks of `watch`, so that there is no checkpoint of a run that has diverged.
        loop.every(1, check_losses, reads=False)
        loop.watch()
        loop.run(folder / "checkpoints", resume=resume)
        if loop.stopped:
            return [Result(None, {}, place) for place in places]
        # Of all lengths alike, and so answered once.
        plain = resemblance(teacher, data, plain_ways(teacher), timed=(TEACHER, WITHOUT))
        results = [
            _conclude(teacher, members.trained(i), plain, place, say)
            for i, place in enumerate(places)
        ]
    _draw_lengths(folder / "lengths.png", config.distil.lengths, results)
    say(f"KL over length: {folder / 'lengths.png'}")
    return results


class Lengths(Population):
    """Prompts of several lengths."""

    def title(self, index: int) -> str:
        return f"{length_of(self.methods[index])} tokens: "


def _of_length(method: MethodConfig, length: int) -> MethodConfig:
    """The method with so many virtual tokens."""
    if not length_of(method):
        raise InputError(
            f"distil.lengths are of virtual tokens, and {method.kind} has none; leave it out, or "
            "take prompt_tuning or prefix_tuning"
        )
    return from_json(MethodConfig, {**to_json(method), "num_virtual_tokens": length})


def _begin(config: Config) -> Config:
    """The config with the objective of a distillation, and the method's optimizer."""
    if jax.process_count() > 1:
        raise InputError(
            f"a prompt is distilled in one process, and there are {jax.process_count()}; start "
            "one (distributed.detect False)"
        )
    train = dataclasses.replace(config.train, objective="distil")
    return resolved(dataclasses.replace(config, train=train))


def _prepare(
    config: Config, alone: Sequence[Config], folder: Path, resume: bool, say: Say
) -> tuple[Teacher, list[Config], Data]:
    """The teacher, the students' configs, and the questions with its answers.

    Args:
      alone: the config of each student.
    """
    context = read_context(config)
    unanswered = None if config.distil.write else load_questions(config)
    backbone = load(config, say)
    config = resolved(config, backbone.word_size)
    check_writes(resolve(config.method, backbone), backbone)
    teacher = Teacher(config, backbone, context, folder_of(config))
    inputs = {"the model": backbone.fingerprint, config.distil.context: digest_of(context)}
    if unanswered is None:
        teacher.rows(study_sources(teacher))
        begin_run(folder, config, resume=resume, inputs=inputs)
        resume = True  # The folder is this run's from here on.
        unanswered = studied(teacher, say)
    alone = [resolved(student, backbone.word_size) for student in alone]
    pairs = [student_of(student, backbone, unanswered, context) for student in alone]
    students, data = [student for student, _ in pairs], pairs[0][1]
    sets = (data.train, data.validation, *data.tests.values())
    examples = [example for part in sets for example in part]
    check_bare(data.task, examples, backbone.tokenizer)
    teacher.rows(teacher.sources(examples))
    # Nothing is cleared before all that can be wrong with the new run has been checked.
    inputs |= {"the questions": digest(examples)}
    begin_run(folder, config, resume=resume, inputs=inputs)
    say(
        f"{len(data.train):,} questions to learn from, {len(data.validation):,} held out, scored "
        f"every {config.train.eval_every} steps"
    )
    return teacher, students, taught(teacher, data, say)


def student_of(config: Config, backbone: Backbone, data: Data, context: str) -> tuple[Config, Data]:
    """The student's config, and the questions as it is asked them.

    Where nothing else is chosen, the prompt begins as the beginning of the text, and in chats it
    stands where the teacher has the text: in the system's turn.
    """
    method = config.method
    changes = {}
    start = getattr(method, "start", "")
    unset = getattr(method, "init", "") is None and start in ("vocab", "random")
    of_text = start == "text" and not getattr(method, "init_text", "")
    # An MLP writes such a prefix, so that no text can.
    if (unset and not getattr(method, "prefix_projection", False)) or of_text:
        tokens = backbone.tokenizer(context, add_special_tokens=False)["input_ids"]
        first = backbone.tokenizer.decode(tokens[: length_of(method)])
        changes |= {"init": "text", "init_text": first}
    chats = for_backbone(data, config, backbone).task.chat
    placeable = method.in_chats() != method
    if chats and placeable and backbone.config.opens("system"):
        changes |= {"placement": "system"}
    student = dataclasses.replace(config, method=dataclasses.replace(method, **changes))
    return student, for_backbone(data, student, backbone)


def _conclude(
    teacher: Teacher, trained: Trained, plain: Resemblance, folder: Path, say: Say
) -> Result:
    """Compares the best prompt with the teacher, saves it, and writes the report.

    Args:
      plain: the frozen model with the text and without.
    """
    config, (data,), backbone, method, best = trained
    length = length_of(method)
    shortened = short_ways(teacher, length, summaries(teacher, length, say))
    rivals = resemblance(teacher, data, shortened)
    fresh_tree = fresh(method, backbone, config.train.seed)
    prompts = {
        name: Way(for_tasks(materialize(method, tuned), None), questions)
        for name, tuned in {UNTRAINED: fresh_tree, TUNED: best.tuned}.items()
    }
    every = plain.beside(rivals).beside(resemblance(teacher, data, prompts, timed=(TUNED,)))
    results = every.results
    scores, lineage = results[TUNED], {"best_step": int(best.step)}
    prompt = prompt_of(config, data, backbone, method, best.tuned, scores, config.data, lineage)
    save_prompt(folder / "prompt", prompt, overwrite=True)
    curve = read_metrics(folder)
    # What a prompt has to beat: no text, or the best of as many of its tokens.
    levels = {way: results[way]["validation"]["kl"] for way in (WITHOUT, *rivals.results)}
    rival = min(levels, key=levels.__getitem__)
    report.draw_curve(folder / "curve.png", curve, "kl", (rival, levels[rival]))
    facts = _facts(teacher, trained, prompt, every, best_step(best, curve))
    words, rows = inspect(prompt, backbone), table(every)
    title = f"{config.distil.context}, distilled"
    report.write_report(folder / "report.md", title=title, facts=facts, rows=rows, words=words)
    say("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    if int(best.step) == 0:
        say(lesson(best, curve, "kl"))
    say(ending(prompt, results, rows, folder, facts["best step"]))
    return Result(prompt, results, folder)


def _facts(
    teacher: Teacher, trained: Trained, prompt: Prompt, every: Resemblance, step: str
) -> dict[str, str]:
    """What the report says beside its table."""
    config, backbone, (results, costs) = trained.config, trained.backbone, every
    long, short = costs[TEACHER], costs[TUNED]
    before, behind = (results[way]["validation"]["kl"] for way in (WITHOUT, TUNED))
    return {
        "backbone": f"{backbone.name}, fingerprint {backbone.fingerprint[:16]}",
        "text": f"{config.distil.context}, {len(teacher.context):,} characters",
        "prompt": f"{trained.method.kind}, {prompt.size:,} numbers, digest {prompt.digest[:16]}",
        "a request": f"{long.tokens - short.tokens:.0f} tokens and "
        f"{long.memory - short.memory:,.0f} bytes of keys and values fewer than with the text",
        "best step": step,
        "KL": f"{before:.3f} without the text, {behind:.3f} with the prompt, nats a token",
    }


def _draw_lengths(path: Path, lengths: Sequence[int], results: Sequence[Result]) -> None:
    """KL on held-out questions over the numbers of each length, beside that of no text."""
    points = [
        (f"{length} tokens", result.prompt.size, result.results[TUNED]["validation"]["kl"])
        for length, result in zip(lengths, results, strict=True)
        if result.prompt is not None
    ]
    plain = results[0].results[WITHOUT]["validation"]["kl"]
    report.draw_methods(path, points, "KL to the teacher, nats a token", {WITHOUT: plain})
