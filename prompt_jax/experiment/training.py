"""From config to saved prompt: what `prompt-jax train` does, for one prompt or several at once.

Everything that can be wrong is found before the first step is compiled.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import optax

from prompt_jax.backbones import Backbone
from prompt_jax.config import Config, MethodConfig, at_least, file_name, resolved, to_json
from prompt_jax.data import Batches
from prompt_jax.experiment.choice import FEW, warnings_of
from prompt_jax.experiment.conclude import Result, conclude
from prompt_jax.experiment.forecast import forecast, scored_rows
from prompt_jax.experiment.loop import Loop, Rows
from prompt_jax.experiment.members import Population, Single
from prompt_jax.experiment.profiling import profiling
from prompt_jax.experiment.splits import Data, digest, for_backbone, load_data, load_mixture
from prompt_jax.lines import Say, silent
from prompt_jax.plan import fitted
from prompt_jax.processes import check_alike, code, elsewhere, is_first, together
from prompt_jax.runs import FEW_ROWS, Inputs, begin_run, claim
from prompt_jax.sharding import check_rows, describe
from prompt_jax.tasks import Series, answer_turn, joined, remarks
from prompt_jax.train import DivergedError
from prompt_jax.trees import Frozen
from prompt_jax.weights import load_backbone

SPARED = 0.03
"""The share of positions from which on a run says what more lengths would spare."""
HASHED = 2**30
"""Frozen trees up to so many bytes are hashed before and after; larger ones take too long."""


def train(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    profile: int = 0,
    say: Say = print,
) -> Result:
    """Trains, evaluates and saves one prompt.

    Args:
      resume: continue the run in `config.out` from its last checkpoint, bit for bit.
      profile: steps whose profile is written into profile/ of the run.

    Raises:
      InputError: anything about the config, the data or the backbone that cannot work.
      DivergedError: the loss is no longer a number; the last good checkpoint stays.
    """
    at_least("profile", profile, 0)
    config = resolved(config)
    with run_folder(config, resume=resume, overwrite=overwrite) as folder:
        return _train(config, folder, resume, profile, say if is_first() else silent)


@contextlib.contextmanager
def run_folder(
    config: Config,
    *,
    resume: bool,
    overwrite: bool,
    options: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[Path]:
    """The folder of a run in the first process, and a temporary one in the others.

    Args:
      options: beside the config, what must not differ between processes.
    """
    # First of all: processes that differ would compile different programs and wait for each other.
    check_alike({**code(), **to_json(config), **options})
    with elsewhere() as scratch, contextlib.ExitStack() as stack:
        claimed = claim(config, resume=resume, overwrite=overwrite)
        yield together(lambda: scratch or stack.enter_context(claimed))


def check_data(tasks: Iterable[Data]) -> None:
    """Checks that all processes have the same rows."""
    check_alike({f"the data of {data.task.name}": _digest(data) for data in tasks})


def _train(config: Config, folder: Path, resume: bool, profile: int, say: Say) -> Result:
    # A mistake in one process is raised in all: the others would wait for it forever.
    tasks = together(lambda: load_mixture(config))
    check_data(tasks)
    running = fitted(config, say=say)
    backbone = load(running, say)
    config, running = (resolved(c, backbone.word_size) for c in (config, running))
    tasks = [for_backbone(data, config, backbone) for data in tasks]
    check_rows(config.train.batch_size // config.train.accumulate, backbone.mesh)
    single = Single(running, backbone, tasks)
    _introduce(single, say)
    inputs = inputs_of(config, backbone, tasks)
    # Nothing is cleared before all that can be wrong with the new run has been checked. The config
    # as it was asked for, so that other devices can resume it.
    together(lambda: begin_run(folder, config, resume=resume, inputs=inputs))
    hours = forecast(running, backbone, [single.batches], scored_rows(config, tasks))
    if hours:
        say(str(hours))
    before = _sha256(backbone.params)
    loop = Loop(single, [folder], config.train, say)
    loop.watch()
    with profiling(loop, folder / "profile", profile):
        loop.run(folder / "checkpoints", resume=resume)
    if loop.stopped:
        return Result(None, {}, folder)
    if before != _sha256(backbone.params):
        raise RuntimeError("the frozen weights changed during training; please report this")
    if before:
        say(f"backbone bit-identical before and after: sha256 {before[:16]}")
    return conclude(single.trained(), folder, say)


def train_tasks(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    profile: int = 0,
    say: Say = print,
) -> list[Result]:
    """Trains one prompt for each task of `config.data.tasks` over one frozen model.

    Every task has a run folder of its own in tasks/ within `config.out`, as if it had been trained
    alone, but for the checkpoints, which hold all of them.

    Raises:
      InputError: tasks that cannot share a program, or as `train`.
      DivergedError: no prompt has a loss that is a number.
    """
    at_least("profile", profile, 0)
    config = resolved(config)

    def members(config: Config) -> list[tuple[Config, Data]]:
        tasks = [load_data(config, name) for name in config.data.tasks]
        return [(_of_task(config, data), data) for data in tasks]

    headline = f"{len(config.data.tasks)} tasks at once: {', '.join(config.data.tasks)}"
    with run_folder(config, resume=resume, overwrite=overwrite) as folder:
        return _train_together(config, members, headline, folder, resume, profile, say)


def train_seeds(
    config: Config,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = print,
) -> list[Result]:
    """Trains one prompt for each seed over one frozen model, on the same rows.

    A seed decides how a prompt starts, the order of the rows and dropout. Every seed has a run
    folder of its own in seeds/ within `config.out`, as the tasks of `train_tasks` have.

    Raises:
      InputError: as `train_tasks`.
      DivergedError: no prompt has a loss that is a number.
    """
    config = resolved(config)

    def members(config: Config) -> list[tuple[Config, Data]]:
        data = load_data(config)
        return [(_of_seed(config, seed), data) for seed in seeds]

    headline = f"{len(seeds)} seeds at once: {', '.join(map(str, seeds))}"
    with run_folder(config, resume=resume, overwrite=overwrite) as folder:
        return _train_together(config, members, headline, folder, resume, 0, say)


def _of_task(config: Config, data: Data) -> Config:
    """The experiment of one of several tasks, in its own folder."""
    folder = Path(config.out) / "tasks" / file_name(data.task.name)
    options = dataclasses.replace(config.data, task=data.task.name, tasks=())
    return dataclasses.replace(config, out=str(folder), data=options)


def _of_seed(config: Config, seed: int) -> Config:
    """The experiment of one of several seeds, in its own folder."""
    options = dataclasses.replace(config.train, seed=seed)
    return dataclasses.replace(
        config, out=str(Path(config.out) / "seeds" / f"{seed}"), train=options
    )


def _train_together(
    config: Config,
    members: Callable[[Config], list[tuple[Config, Data]]],
    headline: str,
    folder: Path,
    resume: bool,
    profile: int,
    say: Say,
) -> list[Result]:
    """Trains experiments that share a program, each in a folder of its own within that of all."""
    say = say if is_first() else silent
    pairs = together(lambda: members(config))
    check_data(rows for _, rows in pairs)
    running = fitted(config, members=len(pairs), say=say)
    backbone = load(running, say)
    config = resolved(config, backbone.word_size)
    configs = [resolved(member, backbone.word_size) for member, _ in pairs]
    data = [for_backbone(rows, config, backbone) for _, rows in pairs]
    folders = [folder / Path(member.out).relative_to(config.out) for member in configs]
    at_once = [dataclasses.replace(member, eval=running.eval) for member in configs]
    population = Population(at_once, backbone, data)

    def begin() -> None:
        begin_run(folder, config, resume=resume, inputs=inputs_of(config, backbone, data))
        for place, member, rows in zip(folders, configs, data, strict=True):
            place.mkdir(parents=True, exist_ok=True)
            inputs = inputs_of(member, backbone, [rows])
            begin_run(place, member, resume=resume, inputs=inputs)

    say(headline)
    for name, rows in {rows.task.name: rows for rows in data}.items():
        for line in remarks(rows.task, config.task):
            say(f"{name}: {line}")
        for line in warnings_of(rows, config):
            say(line)
    together(begin)
    rows = scored_rows(config, data)
    hours = forecast(running, backbone, population.batches, rows)
    if hours:
        say(str(hours))
    loop = Loop(population, folders, config.train, say)
    # Before the hooks of `watch`, so that there is no checkpoint of a run that has diverged.
    loop.every(1, check_losses, reads=False)
    loop.watch()
    with profiling(loop, folder / "profile", profile):
        loop.run(folder / "checkpoints", resume=resume)
    if loop.stopped:
        return [Result(None, {}, place) for place in folders]
    return [conclude(population.trained(i), place, say) for i, place in enumerate(folders)]


def inputs_of(config: Config, backbone: Backbone, tasks: Sequence[Data]) -> Inputs:
    """What must be the same where a run is resumed, beside its config."""
    few = any(len(data.watched(config)) < FEW for data in tasks)
    digests = {f"the data of {data.task.name}": _digest(data) for data in tasks}
    return {"the model": backbone.fingerprint, **digests, FEW_ROWS: few}


def check_losses(clock: int, rows: Rows) -> None:
    """Ends a run of several prompts once none can go on; one that diverges harms no other."""
    if not np.isfinite([row["loss"] for row in rows.values()]).any():
        raise DivergedError(
            f"no prompt has a loss that is a number after step {clock}; the last good "
            "checkpoint is kept. Try a lower train.learning_rate"
        )


def load(config: Config, say: Say | None = None) -> Backbone:
    """The backbone of an experiment that is `fitted`, on its mesh."""
    frozen = config.frozen
    return load_backbone(
        config.backbone,
        revision=frozen.revision,
        dtype=frozen.dtype,
        remat=frozen.remat,
        remat_beyond=frozen.remat_beyond,
        attention_chunk=frozen.attention_chunk,
        attention=frozen.attention,
        mesh=config.mesh,
        say=say,
    )


def introduce_model(single: Single, say: Say) -> None:
    """Says what is frozen, and what is trained how."""
    config, backbone, tuned = single.config, single.backbone, single.state.tuned
    frozen, trained = optax.tree.size(backbone.params), optax.tree.size(tuned)
    dtype = jax.tree.leaves(backbone.params)[0].dtype
    say(
        f"backbone {backbone.name}: {frozen:,} frozen parameters in {dtype} on "
        f"{describe(backbone.mesh)}"
    )
    options = config.train
    say(f"{config.method.kind}: {trained:,} trained parameters ({trained / frozen:.4%})")
    say(f"{options.optimizer} at {options.learning_rate:g}, {options.steps} steps")


def _introduce(single: Single, say: Say) -> None:
    config, backbone = single.config, single.backbone
    introduce_model(single, say)
    for data in single.tasks:
        sizes = f"{len(data.train):,} train, {len(data.validation):,} validation"
        tests = "".join(f", {len(rows):,} {name}" for name, rows in data.tests.items())
        say(f"task {data.task.name}: {sizes}{tests} rows")
        for line in (*remarks(data.task, config.task), *warnings_of(data, config)):
            say(line)
        if data.task.chat:
            say(_chat_line(data, backbone, single.method))
    watched = sum(len(data.watched(config)) for data in single.tasks)
    parts = [part for data in single.tasks for part in (data.validation, *data.tests.values())]
    say(
        f"scoring: {watched:,} validation rows every {config.train.eval_every} steps, "
        f"{sum(map(len, parts)):,} rows at the end; for fewer, --train.eval-examples and "
        "--data.max-test-examples"
    )
    for line in single.batches.remarks:
        say(line)
    say(_padding_line(single.batches, config))
    cut = single.batches.truncated
    if any(cut):
        say(
            f"cut: {cut.sources} inputs at {config.data.max_source_length} tokens, from the "
            f"longest column or from !cut; {cut.targets} targets at {config.data.max_target_length}"
        )


def _padding_line(batches: Batches, config: Config) -> str:
    """How much of a step goes into padding, and what more lengths would spare."""
    padding = batches.padding(batches.source_lengths)
    lengths = ", ".join(map(str, batches.source_lengths))
    line = f"padding: {padding:.1%} of all positions, at lengths of {lengths} tokens"
    count = 2 * config.data.padded_lengths
    less = batches.padding(batches.ladder(count))
    worth = padding - less >= SPARED
    return f"{line}; {less:.1%} with --data.padded-lengths {count}" if worth else line


def _chat_line(data: Data, backbone: Backbone, method: MethodConfig) -> str:
    """How a row is asked, by the chat template of the tokenizer."""
    end = answer_turn(backbone.tokenizer, "").end or "the end of the text"
    system = f", after the system text {data.task.system!r:.60}" if data.task.system else ""
    turn = {"system": "system's", "turn": "user's"}.get(method.place)
    line = (
        f"chat: a row is a user's turn in the tokenizer's chat template{system}, its answer the "
        f"assistant's turn up to {end}; --task.chat off for plain text"
    )
    if not turn:
        return line
    return (
        f"{line}\nthe soft prompt stands at the head of the {turn} turn; --method.placement prefix "
        "for one that PEFT loads"
    )


def _sha256(tree: Frozen) -> str:
    leaves = jax.tree.leaves(tree)
    if sum(leaf.nbytes for leaf in leaves) > HASHED:
        return ""
    digest = hashlib.sha256()
    for leaf in leaves:
        # Of several processes each has only its own shards of a leaf.
        for shard in leaf.addressable_shards:
            digest.update(np.asarray(shard.data).tobytes())
    return digest.hexdigest()


def _digest(data: Data) -> str:
    """The digest of all examples of a task; of many that of their source, which takes no time."""
    examples = joined([data.train, data.validation, *data.tests.values()])
    return (isinstance(examples, Series) and examples.digest) or digest(examples)
