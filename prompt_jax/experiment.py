"""One experiment from config to saved prompt: what `prompt-jax train` does.

Everything that can be wrong is found before the first step is compiled. The loop itself is
`train.fit`; this file puts disk, evaluation and words around it.
"""

import contextlib
import dataclasses
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from prompt_jax import checkpoints, report
from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, InputError, PromptTuningConfig, to_json
from prompt_jax.data import Batches, load_examples, load_rows, prefetch, splits
from prompt_jax.evaluate import baselines, evaluate
from prompt_jax.losses import Loss, loss_fn
from prompt_jax.methods import init, materialize
from prompt_jax.prompts import Prompt, inspect, load_prompt, prompt_for, save_prompt
from prompt_jax.runs import Metrics, begin_run, check_run
from prompt_jax.tasks import Example, Task, resolve
from prompt_jax.train import DivergedError, State, fit, start
from prompt_jax.weights import load_backbone

Say = Callable[[str], None]
FROZEN, TUNED = "frozen model, no prompt", "tuned prompt"
HASHED = 2**30
"""Frozen trees up to so many bytes are hashed before and after; larger ones take too long."""


class Data(NamedTuple):
    """The examples of an experiment."""

    task: Task
    train: list[Example]
    validation: list[Example]
    tests: dict[str, list[Example]]
    """Test set name -> examples; empty when the dataset has no labelled test split."""


class Best(NamedTuple):
    """The prompt to keep: the best on validation so far."""

    tuned: Any
    score: np.ndarray
    step: np.ndarray
    since: np.ndarray
    """Evaluations since then."""


class Result(NamedTuple):
    """What an experiment ends with."""

    prompt: Prompt | None
    """None when it was stopped before its end."""
    results: dict[str, dict[str, dict[str, float]]]
    """Way to answer -> test set -> metrics."""
    folder: Path


def load_data(config: Config) -> Data:
    """Reads and checks every example of an experiment.

    Raises:
      InputError: see `prompt_jax.data` and `prompt_jax.tasks`.
    """
    name, limit = config.data.task, config.data.max_examples
    found = splits(name)
    own = found[0] if len(found) == 1 else "train"
    columns = load_rows(name, own, 1)[0]
    task = resolve(name, config.task, columns)
    train = load_examples(task, name, own, limit)
    tests = _tests(config, task, found)
    if config.data.validation:
        validation = _examples(task, config.data.validation, "validation")
    elif "validation" in found:
        validation = load_examples(task, name, "validation")
    else:
        train, validation = _hold_out(train, config)
    return Data(task, train, validation, tests)


def _tests(config: Config, task: Task, found: list[str]) -> dict[str, list[Example]]:
    if config.data.test:
        return {"test": _examples(task, config.data.test, "test")}
    tests = {}
    for split in sorted((s for s in found if s.startswith("test")), key=lambda s: (s != "test", s)):
        # GLUE's test labels are secret: such a split is no mistake of the user's.
        with contextlib.suppress(InputError):
            tests[split] = load_examples(task, config.data.task, split)
    return tests


def _examples(task: Task, name: str, split: str) -> list[Example]:
    found = splits(name)
    return load_examples(task, name, split if split in found else found[0])


def _hold_out(train: list[Example], config: Config) -> tuple[list[Example], list[Example]]:
    """Every tenth example, in an order of their own, for a dataset without validation."""
    if len(train) < 10:
        raise InputError(
            f"{config.data.task} has no validation split and {len(train)} rows, too few to hold "
            "10 % out; give --data.validation"
        )
    order = np.random.default_rng(0).permutation(len(train))
    held = set(order[: len(train) // 10].tolist())
    return (
        [example for i, example in enumerate(train) if i not in held],
        [train[i] for i in sorted(held)],
    )


def train(
    config: Config, *, resume: bool = False, overwrite: bool = False, say: Say = print
) -> Result:
    """Trains, evaluates and saves one prompt.

    Args:
      config: the experiment.
      resume: continue the run in `config.out` from its last checkpoint, bit for bit.
      overwrite: replace the run in `config.out`.
      say: receives every line for the user.

    Raises:
      InputError: anything about the config, the data or the backbone that cannot work.
      DivergedError: the loss is no longer a number; the last good checkpoint stays.
    """
    folder = check_run(config, resume=resume, overwrite=overwrite)
    data = load_data(config)
    backbone = load_backbone(
        config.backbone,
        revision=config.frozen.revision,
        dtype=config.frozen.dtype,
        remat=config.frozen.remat,
    )
    method = _with_labels(config.method, data.task)
    tuned = _start(method, backbone, config.train.seed)
    batches = Batches(
        data.train,
        _tokenizer(backbone),
        config.data,
        config.train.batch_size,
        config.train.seed,
        prompt_length=method.num_virtual_tokens,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    begin_run(folder, config, resume=resume)
    _introduce(config, data, backbone, batches, say)
    before = _sha256(backbone.params)
    best = _fit(config, data, backbone, method, tuned, batches, folder, resume, say)
    if best is None:
        return Result(None, {}, folder)
    if before != _sha256(backbone.params):
        raise RuntimeError("the frozen weights changed during training; please report this")
    say(f"backbone bit-identical before and after: sha256 {before[:16]}" if before else "")
    return _conclude(config, data, backbone, method, best, folder, say)


def _tokenizer(backbone: Backbone) -> Any:
    if backbone.tokenizer is None:
        raise InputError(
            f"backbone {backbone.name!r} has no tokenizer; use a folder or hub id that holds one"
        )
    return backbone.tokenizer


def _with_labels(method: PromptTuningConfig, task: Task) -> PromptTuningConfig:
    if method.init == "class_labels" and not method.init_labels:
        return dataclasses.replace(method, init_labels=task.labels)
    return method


def _start(method: PromptTuningConfig, backbone: Backbone, seed: int) -> Any:
    rows = load_prompt(method.init_file).rows if method.init_file else None
    return init(method, backbone, jax.random.key(seed), rows)


def _introduce(config: Config, data: Data, backbone: Backbone, batches: Batches, say: Say) -> None:
    frozen = sum(leaf.size for leaf in jax.tree.leaves(backbone.params))
    virtual = config.method.num_virtual_tokens
    tuned = virtual * backbone.width
    dtype = jax.tree.leaves(backbone.params)[0].dtype
    say(
        f"backbone {backbone.name}: {frozen:,} frozen numbers in {dtype} on "
        f"{jax.device_count()} {jax.default_backend()} device(s)"
    )
    say(f"prompt: {virtual} virtual tokens, {tuned:,} trained numbers ({tuned / frozen:.4%})")
    sizes = f"{len(data.train):,} train, {len(data.validation):,} validation"
    tests = "".join(f", {len(rows):,} {name}" for name, rows in data.tests.items())
    say(f"task {data.task.name}: {sizes}{tests} rows")
    cut = batches.truncated
    if any(cut):
        say(
            f"cut: {cut.sources} inputs at {config.data.max_source_length} tokens, "
            f"{cut.targets} targets at {config.data.max_target_length}"
        )


def _fit(
    config: Config,
    data: Data,
    backbone: Backbone,
    method: PromptTuningConfig,
    tuned: Any,
    batches: Batches,
    folder: Path,
    resume: bool,
    say: Say,
) -> Best | None:
    """Trains to the end and gives the best prompt; None when SIGTERM stopped it."""
    options = config.train
    watched = data.validation[: options.eval_examples]

    def score(tuned: Any) -> dict[str, float]:
        return evaluate(
            backbone,
            materialize(method, tuned),
            watched,
            data.task,
            data=config.data,
            eval=config.eval,
            placement=method.placement,
        ).metrics

    manager = checkpoints.open_checkpoints(folder / "checkpoints")
    fresh = start(tuned, options)
    none = Best(fresh.tuned, np.float32(-np.inf), np.int32(0), np.int32(0))
    restored = checkpoints.restore(manager, (fresh, none)) if resume else None
    first, (state, best) = restored or (0, (fresh, none))
    if resume:
        say(f"resuming after step {first} of {options.steps}")
    metrics = Metrics(folder, step=first, tensorboard=options.tensorboard)
    watch = _Watch(config, manager, metrics, score, best, say)
    if restored is None:
        watch.evaluate(0, state, {"step": 0})
    with _on_sigterm(watch.stop):
        try:
            state = fit(
                _loss(config, method, backbone),
                state,
                backbone.params,
                prefetch(batches, first, max(first, options.steps)),
                options,
                after_step=watch,
            )
        except DivergedError:
            manager.wait_until_finished()
            raise
        finally:
            metrics.close()
    if watch.stopped:
        watch.save(int(state.step), state)
    manager.wait_until_finished()
    manager.close()
    if watch.stopped:
        say(f"stopped by SIGTERM after step {int(state.step)}; continue with --resume")
        return None
    return watch.best


def _loss(config: Config, method: PromptTuningConfig, backbone: Backbone) -> Loss:
    options = config.train
    shape = dataclasses.replace(backbone.config, dropout=options.dropout)
    module = dataclasses.replace(backbone, config=shape).module
    return loss_fn(
        method,
        backbone,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        module=module,
    )


class _Watch:
    """What happens after every step: metrics, evaluation, checkpoints, progress."""

    def __init__(
        self,
        config: Config,
        manager: Any,
        metrics: Metrics,
        score: Callable[[Any], dict[str, float]],
        best: Best,
        say: Say,
    ):
        self.options, self.manager, self.metrics = config.train, manager, metrics
        self.score, self.best, self.say = score, best, say
        self.stopped = False
        self._clock = time.monotonic()
        self._begun: float | None = None
        self._done = 0

    def stop(self) -> None:
        """Ends training after the step that is under way."""
        self.stopped = True

    def __call__(self, step: int, state: State, row: dict[str, float]) -> bool:
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        row = {"step": step, **row, "examples_per_second": self.options.batch_size / seconds}
        ending = step == self.options.steps or self.stopped
        patience = self.options.patience
        if step % self.options.eval_every == 0 or step == self.options.steps:
            self.evaluate(step, state, row)
            ending |= patience is not None and int(self.best.since) >= patience
        else:
            self.metrics.add(row)
        if step % self.options.checkpoint_every == 0 or ending:
            self.save(step, state)
        self._progress(step, row, seconds)
        self._clock = time.monotonic()
        return ending

    def evaluate(self, step: int, state: State, row: dict[str, float]) -> None:
        """Scores the prompt of a step on validation and keeps it when it is the best."""
        scores = self.score(state.tuned)
        deciding = next(iter(scores.values()))
        if deciding > self.best.score:
            tuned = jax.tree.map(lambda leaf: np.array(leaf), state.tuned)
            self.best = Best(tuned, np.float32(deciding), np.int32(step), np.int32(0))
        else:
            self.best = self.best._replace(since=np.int32(self.best.since + 1))
        self.metrics.add({**row, **{f"validation/{name}": v for name, v in scores.items()}})
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.say(f"step {step:>6}  validation {shown}")

    def save(self, step: int, state: State) -> None:
        """Writes a checkpoint unless the step has one."""
        if self.manager.latest_step() != step:
            checkpoints.save(self.manager, step, (state, self.best))

    def _progress(self, step: int, row: dict[str, float], seconds: float) -> None:
        # The first step compiles: it says nothing about the others.
        if self._begun is None:
            self._begun = time.monotonic()
            return
        self._done += 1
        if step % max(self.options.steps // 20, 1) and step != self.options.steps:
            return
        each = (time.monotonic() - self._begun) / self._done
        left = int(each * (self.options.steps - step))
        self.say(
            f"step {step:>6}/{self.options.steps}  loss {row['loss']:.4f}  "
            f"{self.options.batch_size / seconds:.1f} examples/s  {left // 60}:{left % 60:02d} left"
        )


@contextlib.contextmanager
def _on_sigterm(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` instead of dying; only the main thread may set a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, lambda *_: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _conclude(
    config: Config,
    data: Data,
    backbone: Backbone,
    method: PromptTuningConfig,
    best: Best,
    folder: Path,
    say: Say,
) -> Result:
    """Evaluates the best prompt and its rivals, saves it, and writes the report."""
    injection = materialize(method, best.tuned)
    results = compare(config, data, backbone, {FROZEN: None, TUNED: injection})
    metric = next(iter(data.task.metrics))
    scores = {
        f"{name}/{key}": value
        for name, values in results[TUNED].items()
        for key, value in values.items()
    }
    prompt = prompt_for(
        np.asarray(injection.prompt),
        method,
        backbone,
        name=data.task.name.replace(":", "-").replace("/", "-"),
        task=data.task,
        metrics=scores,
        seed=config.train.seed,
        recipe=to_json(config),
    )
    saved = save_prompt(folder / "prompt", prompt, overwrite=True)
    words = inspect(prompt, backbone)
    rows = report.table(results, metric)
    curve = list(Metrics(folder, step=config.train.steps).rows)
    frozen = results[FROZEN]["validation"][metric]
    report.draw_curve(folder / "curve.png", curve, metric, frozen)
    facts = {
        "backbone": f"{backbone.name}, fingerprint {backbone.fingerprint[:16]}",
        "prompt": f"{method.num_virtual_tokens} virtual tokens, digest {prompt.digest[:16]}",
        "best step": f"{int(best.step)} of {config.train.steps}",
    }
    report.write_report(
        folder / "report.md", title=data.task.name, facts=facts, rows=rows, words=words
    )
    say(words)
    say(report.markdown(rows))
    say(f"\nbest step {int(best.step)}; curve {folder / 'curve.png'}; prompt saved in {saved}")
    return Result(prompt, results, folder)


def compare(
    config: Config, data: Data, backbone: Backbone, ways: dict[str, Any]
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of each way to answer on validation and every test set, beside the baselines.

    Args:
      config: its data and eval parts say how.
      data: what to answer; an empty validation is left out.
      backbone: the frozen model.
      ways: name -> injection, None for the plain model.
    """
    results: dict[str, dict[str, dict[str, float]]] = {}
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


def evaluate_prompt(
    config: Config, prompt: Prompt, backbone: Backbone
) -> dict[str, dict[str, dict[str, float]]]:
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


def _sha256(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    if sum(leaf.nbytes for leaf in leaves) > HASHED:
        return ""
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
