"""One experiment from config to saved prompt: what `prompt-jax train` does.

Everything that can be wrong is found before the first step is compiled. The loop itself is
`train.fit`; this file puts disk, evaluation and words around it.
"""

import contextlib
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prompt_jax import checkpoints
from prompt_jax.backbones import Backbone
from prompt_jax.config import (
    Config,
    MethodConfig,
    resolved,
    to_json,
)
from prompt_jax.data import Batches, prefetch
from prompt_jax.evaluate import evaluate
from prompt_jax.experiment.answering import (
    batches_of,
    check_blanks,
    check_texts,
    for_tasks_of,
    loss_of,
)
from prompt_jax.experiment.choice import Best, Judgement, judge, unjudged, warnings_of
from prompt_jax.experiment.conclude import Result, conclude
from prompt_jax.experiment.data import Data, digest, load_mixture
from prompt_jax.experiment.watch import Say, Watch
from prompt_jax.forward import for_tasks
from prompt_jax.methods import materialize
from prompt_jax.plan import plan_remat
from prompt_jax.processes import (
    check_alike,
    code,
    elsewhere,
    from_first,
    is_first,
    together,
)
from prompt_jax.prompts import fresh
from prompt_jax.runs import Metrics, begin_run, claim
from prompt_jax.sharding import check_rows, describe, on_host
from prompt_jax.signals import stopping
from prompt_jax.tasks import remarks
from prompt_jax.train import fit, start
from prompt_jax.weights import load_backbone

HASHED = 2**30
"""Frozen trees up to so many bytes are hashed before and after; larger ones take too long."""


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
    config = resolved(config)
    check_alike({**code(), **to_json(config)})
    with elsewhere() as own, contextlib.ExitStack() as stack:
        claimed = claim(config, resume=resume, overwrite=overwrite)
        folder = together(lambda: own or stack.enter_context(claimed))
        return _train(config, folder, resume, say if is_first() else _silent)


def _silent(line: str) -> None:
    """What processes beside the first one say."""


def _train(config: Config, folder: Path, resume: bool, say: Say) -> Result:
    tasks = together(lambda: load_mixture(config))
    check_alike({f"the data of {data.task.name}": _digest(data) for data in tasks})
    backbone = load(config, say)
    check_rows(config.train.batch_size // config.train.accumulate, backbone.mesh)
    method = for_tasks_of(config, backbone, [data.task for data in tasks])
    check_texts(config, method, backbone, tasks)
    tuned = on_host(fresh(method, backbone, config.train.seed))
    examples = [example for data in tasks for example in data.train]
    batches = batches_of(
        config,
        method,
        backbone,
        examples,
        tasks[0].task,
        task_ids=np.repeat(np.arange(len(tasks)), [len(data.train) for data in tasks]),
    )
    injected = jax.eval_shape(lambda tree: materialize(method, tree), tuned)
    headed = method.num_labels is not None  # Its targets take no positions.
    written = 0 if headed else batches.target_length
    backbone.check_context(injected.positions, batches.source_lengths[-1], written)
    check_blanks(method, backbone, batches, examples)
    together(lambda: begin_run(folder, config, resume=resume))
    _introduce(config, tasks, backbone, tuned, batches, say)
    before = _sha256(backbone.params)
    best = _fit(config, tasks, backbone, method, tuned, batches, folder, resume, say)
    if best is None:
        return Result(None, {}, folder)
    if before != _sha256(backbone.params):
        raise RuntimeError("the frozen weights changed during training; please report this")
    say(f"backbone bit-identical before and after: sha256 {before[:16]}" if before else "")
    return conclude(config, tasks, backbone, method, best, folder, say)


def load(config: Config, say: Say | None = None) -> Backbone:
    """The backbone of an experiment, on its mesh."""
    frozen = config.frozen
    remat = frozen.remat
    if remat == "auto":
        remat = plan_remat(config, say=say or _silent).config.frozen.remat
    return load_backbone(
        config.backbone,
        revision=frozen.revision,
        dtype=frozen.dtype,
        remat=remat,
        attention_chunk=frozen.attention_chunk,
        mesh=config.mesh,
        say=say,
    )


def _introduce(
    config: Config,
    tasks: Sequence[Data],
    backbone: Backbone,
    tuned: Any,
    batches: Batches,
    say: Say,
) -> None:
    frozen, trained = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (backbone.params, tuned)
    )
    dtype = jax.tree.leaves(backbone.params)[0].dtype
    say(
        f"backbone {backbone.name}: {frozen:,} frozen numbers in {dtype} on "
        f"{describe(backbone.mesh)}"
    )
    options = config.train
    say(f"{config.method.kind}: {trained:,} trained numbers ({trained / frozen:.4%})")
    say(f"{options.optimizer} at {options.learning_rate:g}, {options.steps} steps")
    for data in tasks:
        sizes = f"{len(data.train):,} train, {len(data.validation):,} validation"
        tests = "".join(f", {len(rows):,} {name}" for name, rows in data.tests.items())
        say(f"task {data.task.name}: {sizes}{tests} rows")
        for line in (*remarks(data.task, config.task), *warnings_of(data, config)):
            say(line)
    cut = batches.truncated
    if any(cut):
        say(
            f"cut: {cut.sources} inputs at {config.data.max_source_length} tokens, from their "
            f"longest column; {cut.targets} targets at {config.data.max_target_length}"
        )


def _fit(
    config: Config,
    tasks: Sequence[Data],
    backbone: Backbone,
    method: MethodConfig,
    tuned: Any,
    batches: Batches,
    folder: Path,
    resume: bool,
    say: Say,
) -> Best | None:
    """Trains to the end and gives the best prompt; None when a signal stopped it."""
    options = config.train

    score = functools.partial(_score, config, tasks, backbone, method)
    fresh = start(tuned, options)
    none = unjudged(fresh.tuned)
    with contextlib.ExitStack() as stack:
        # The first process keeps the state of all, which is whole in each.
        writing = checkpoints.writing(folder / "checkpoints") if is_first() else None
        manager = writing and stack.enter_context(writing)
        restored = together(
            lambda: checkpoints.restore(manager, (fresh, none)) if manager and resume else None
        )
        first, (state, best) = from_first(on_host(restored or (0, (fresh, none))))
        first = int(first)
        if resume:
            say(f"resuming after step {first} of {options.steps}")
        metrics = Metrics(folder, step=first, tensorboard=options.tensorboard)
        stack.enter_context(metrics)
        watch = Watch(config, manager, metrics, score, best, say)
        if not first:
            watch.evaluate(0, state, {"step": 0})
        last = max(first, options.steps) if watch.patient else first
        stack.enter_context(stopping(watch.stop))
        state = fit(
            loss_of(config, method, backbone, tasks[0].task, tuned),
            state,
            backbone.unstacked(),
            prefetch(batches, first, last),
            options,
            after_step=watch,
            due=watch.due,
            mesh=backbone.mesh,
        )
        if watch.stopped:
            watch.save(int(state.step), state)
    if watch.stopped:
        say(f"stopped after step {int(state.step)}; continue with --resume")
        return None
    return watch.best


def _score(
    config: Config, tasks: Sequence[Data], backbone: Backbone, method: MethodConfig, tuned: Any
) -> Judgement:
    """A tuned tree on the validation rows of every task."""
    injection = materialize(method, tuned)
    return judge(
        {
            data.task.name: evaluate(
                backbone,
                for_tasks(injection, i),
                data.watched(config),
                data.task,
                data=config.data,
                eval=config.scoring,
                likelihood=True,
            )
            for i, data in enumerate(tasks)
        }
    )


def _sha256(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    if sum(leaf.nbytes for leaf in leaves) > HASHED:
        return ""
    digest = hashlib.sha256()
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            digest.update(np.asarray(shard.data).tobytes())
    return digest.hexdigest()


def _digest(data: Data) -> str:
    """Of all examples of a task."""
    parts = (data.train, data.validation, *data.tests.values())
    return digest([example for part in parts for example in part])
