"""What the commands have in common: their arguments, the config these go over, saved prompts."""

import dataclasses
import importlib.util
import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from prompt_jax.config import (
    BackboneConfig,
    Config,
    DataConfig,
    EvalConfig,
    InputError,
    MeshConfig,
    TaskConfig,
    choose,
    method_kinds,
)

if TYPE_CHECKING:
    from rich.table import Table

    from prompt_jax.backbones import Backbone
    from prompt_jax.prompts import PeftFolder, Prompt
else:  # `--help` answers at once: nothing heavy is imported before a command runs.
    Backbone = PeftFolder = Prompt = Table = object

T = TypeVar("T")
Experiment = tyro.conf.AvoidSubcommands[Annotated[Config, tyro.conf.arg(name="")]]
"""A config whose fields are flags of the command itself."""


def starting_config(arguments: list[str], out: str = Config.out) -> tuple[Config, list[str]]:
    """What flags go over: a config file, the run to resume, or the defaults; then the method.

    Args:
      out: the folder of a run of this command where none is named.
    """
    config, arguments = _starting_point(arguments, out)
    if config.out == Config.out:
        config = dataclasses.replace(config, out=out)
    name = value_of(arguments, "--method")
    if name is None:
        return config, arguments
    choose("method", name, method_kinds())
    at = next(i for i, word in enumerate(arguments) if word.partition("=")[0] == "--method")
    rest = arguments[:at] + arguments[at + (1 if "=" in arguments[at] else 2) :]
    if name == config.method.kind:
        return config, rest
    return dataclasses.replace(config, method=method_kinds()[name]()), rest


def _starting_point(arguments: list[str], out: str) -> tuple[Config, list[str]]:
    if arguments and arguments[0].endswith(".py"):
        return bound(arguments[0], Config), arguments[1:]
    for word in arguments:
        if word.endswith(".py") and Path(word).is_file():
            raise InputError(f"the config file {word} comes first, before all options")
    if "--resume" in arguments:
        from prompt_jax.runs import read_config

        return read_config(Path(value_of(arguments, "--out") or out)), arguments
    return Config(), arguments


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
    """A saved prompt, and how it answers."""

    prompt: str = tyro.MISSING
    """A prompt folder, a run folder, or a .npy."""
    task_id: str = ""
    """The task of a multitask prompt, by its number from 0 or its name."""
    backbone: str = ""
    """Empty takes the one that the prompt was trained on."""
    frozen: BackboneConfig = BackboneConfig()
    """How it is loaded and run, e.g. --frozen.dtype int8."""
    data: DataConfig = DataConfig()
    """Rows and lengths, as in training unless given."""
    task: TaskConfig = TaskConfig()
    """Templates and label words, as in training unless given."""
    eval: EvalConfig = EvalConfig()
    """How to rank or generate, as in training unless given."""
    mesh: MeshConfig = MeshConfig()
    """The devices that share the model."""
    allow_mismatch: bool = False
    """Use a backbone whose fingerprint is not the one it was trained on."""

    def load(self) -> tuple[Prompt, Backbone]:
        """The prompt and its backbone, as `load`."""
        mismatch, task = self.allow_mismatch, self.task_id
        return load(self.prompt, self.backbone, mismatch, self.mesh, self.frozen, task_id=task)


def trained_on(arguments: list[str]) -> Answering:
    """As the prompt that the arguments name was trained and scored; flags go over it."""
    path = value_of(arguments, "--prompt")
    if path is None:
        return Answering()
    from prompt_jax.prompts import PeftFolder, load_prompt, of_task

    prompt, task_id = load_prompt(path), value_of(arguments, "--task-id")
    if isinstance(prompt, PeftFolder):  # PEFT says nothing of its data.
        return Answering()
    prompt = of_task(prompt, task_id) if task_id else prompt
    data, task = task_of(prompt)
    # Metrics are of a kind of answer, and give way with it.
    if value_of(arguments, "--task.kind") not in (None, task.kind or "classification"):
        task = dataclasses.replace(task, metrics=())
    elif value_of(arguments, "--task.labels") is not None and task.kind == "generation":
        task = dataclasses.replace(task, kind=None, metrics=())
    return Answering(data=data, task=task, eval=_scoring(prompt))


def _scoring(prompt: Prompt) -> EvalConfig:
    """How the run of a prompt scored it, at its batch size; lengths and memory are known to fit."""
    from prompt_jax.config import TrainConfig, from_json

    eval = from_json(EvalConfig, prompt.recipe.get("eval", {}))
    train = from_json(TrainConfig, prompt.recipe.get("train", {}))
    if eval.batch_size is None and "train" in prompt.recipe:
        eval = dataclasses.replace(eval, batch_size=train.batch_size // train.accumulate)
    return eval


def task_of(prompt: Prompt) -> tuple[DataConfig, TaskConfig]:
    """Data and task of a prompt as far as it tells, the first task of a mixture."""
    from prompt_jax.config import from_json
    from prompt_jax.tasks import write_labels

    data = from_json(DataConfig, prompt.recipe.get("data", {}))
    data = dataclasses.replace(data, mixture=())
    if prompt.task is None:
        return data, TaskConfig()
    names = [field.name for field in dataclasses.fields(TaskConfig)]
    fields = {name: getattr(prompt.task, name) for name in names}
    fields["labels"] = write_labels(prompt.task)
    fields["chat"] = "on" if prompt.task.chat else "off"
    if fields["kind"] == "classification":  # As the label words then say.
        fields["kind"] = None
    return data, TaskConfig(**fields)


def training_of(prompt: Prompt, task: str) -> Config:
    """The config that a prompt was trained with, as far as it tells.

    Args:
      task: data in place of that of training; empty takes that.

    Raises:
      InputError: no task is given, and the prompt does not say what it was trained on.
    """
    from prompt_jax.config import DistilConfig, TrainConfig, from_json

    if not task and "data" not in prompt.recipe:
        raise InputError(
            f"{prompt.label} does not say what it was trained on; give --task, e.g. "
            "--task file:train.tsv"
        )
    data, texts = task_of(prompt)
    distil = from_json(DistilConfig, prompt.recipe.get("distil", {}))
    if task:
        data, texts = DataConfig(task=task), TaskConfig()
        distil = dataclasses.replace(distil, questions="", write=0)
    train = from_json(TrainConfig, prompt.recipe.get("train", {}))
    return Config(
        backbone=prompt.backbone,
        data=data,
        task=texts,
        train=train,
        distil=distil,
        eval=_scoring(prompt),
        out=prompt.recipe.get("out", Config.out),
    )


def value_of(arguments: list[str], flag: str) -> str | None:
    """What a flag is followed by; None where it is missing."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else next(iter(arguments[i + 1 : i + 2]), None)
    return None


def bound(path: str, kind: type[T]) -> T:
    """The name `config` of a Python file."""
    if not Path(path).is_file():
        raise InputError(f"no config file {path}; give a .py file that binds `config`")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file; give a .py file that binds `config`")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:  # A mistake in the user's file, whatever it is, is bad input.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == Path(path).resolve()]
        place = f"{path} line {lines[-1]}" if lines else path
        raise InputError(f"{place}: {type(error).__name__}: {error}") from error
    config = getattr(module, "config", None)
    if not isinstance(config, kind):
        raise InputError(
            f"{path} must bind `config` to a {kind.__name__}, got {type(config).__name__}"
        )
    return config


def load(
    prompt: str,
    backbone: str,
    allow_mismatch: bool,
    mesh: MeshConfig | None = None,
    frozen: BackboneConfig | None = None,
    *,
    task_id: str | None = "",
) -> tuple[Prompt, Backbone]:
    """The prompt at a path and the backbone it runs on: the named one, or else its own.

    Args:
      task_id: the task of a multitask prompt; empty where it has one only; None keeps all.
    """
    from prompt_jax.prompts import load_prompt

    loaded = load_prompt(prompt) if task_id is None else prompt_at(prompt, task_id)
    if not (backbone or loaded.backbone):
        raise InputError(
            f"{prompt} does not say which backbone it belongs to, as rows alone (.npy, decoder.pt) "
            "never do; give --backbone"
        )
    return on_backbone(loaded, backbone or loaded.backbone, allow_mismatch, mesh, frozen)


def on_backbone(
    prompt: Prompt | PeftFolder,
    backbone: str,
    allow_mismatch: bool = False,
    mesh: MeshConfig | None = None,
    frozen: BackboneConfig | None = None,
) -> tuple[Prompt, Backbone]:
    """A prompt as it runs on the backbone of a name, and that backbone."""
    from prompt_jax.weights import load_backbone

    # Nothing goes backward.
    nothing = {"remat": "none", "remat_beyond": 0}
    way = {} if frozen is None else {**dataclasses.asdict(frozen), **nothing}
    model = load_backbone(backbone, mesh=mesh, **way)
    return prompt.on(model, allow_mismatch=allow_mismatch), model


def prompt_at(path: str, task_id: str) -> Prompt | PeftFolder:
    """The prompt at a path, of one task where it has those of several."""
    from prompt_jax.prompts import PeftFolder, load_prompt, of_task

    prompt = load_prompt(path)
    return prompt if isinstance(prompt, PeftFolder) else of_task(prompt, task_id or None)


def print_table(table: Table) -> None:
    """Prints a table: into a pipe or a file as wide as it is, for what reads it by lines."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def as_json(values: dict[str, object]) -> str:
    """One line for programs that read the output."""
    return json.dumps(values, ensure_ascii=False)


def aside(line: str) -> None:
    """Says something to the user that is no result."""
    print(line, file=sys.stderr, flush=True)
