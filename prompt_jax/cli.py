"""The command line: tyro over the same dataclasses that Python callers use.

Nothing heavy is imported until a command needs it, so `prompt-jax --help` answers at once.
"""

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from prompt_jax.config import Config, DataConfig, EvalConfig, InputError, TaskConfig, choose
from prompt_jax.runtime import prepare

USAGE = """\
usage: prompt-jax COMMAND ...

  train      tune a prompt; with no argument, on the embedded sentiment task
  evaluate   score a saved prompt, beside the frozen model and a baseline
  predict    answer a file of inputs with a saved prompt
  prompts    list, inspect, export and import saved prompts
  pretrain   train a backbone from text files

prompt-jax COMMAND --help tells the options of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 when it is done, 2 for bad input, 1 for anything else."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    try:
        choose("command", command, COMMANDS)
        COMMANDS[command](rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from prompt_jax.train import DivergedError

        if not isinstance(error, DivergedError):
            raise
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    return 0


def _train(arguments: list[str]) -> None:
    default, arguments = _starting_config(arguments)

    def train(
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Tunes a soft prompt, evaluates it and saves it.

        A first argument that ends in .py is a config file; flags go over what it says.

        Args:
          config: the experiment.
          resume: continue the run in --out from its last checkpoint.
          overwrite: replace the run in --out.
        """
        prepare()
        from prompt_jax import experiment

        experiment.train(config, resume=resume, overwrite=overwrite, say=_say)

    _parse(train, "train", arguments)


def _evaluate(arguments: list[str]) -> None:
    data, task = _trained_on(arguments)

    def evaluate(
        *,
        prompt: str,
        backbone: str = "",
        data: DataConfig = data,
        task: TaskConfig = task,
        eval: EvalConfig = EvalConfig(),  # noqa: B008 (frozen)
        allow_mismatch: bool = False,
        json: bool = False,
    ) -> None:
        """Scores a saved prompt beside the frozen model and a baseline.

        Args:
          prompt: a prompt folder, a run folder, or a .npy.
          backbone: empty takes the one that the prompt was trained on.
          data: what to score it on; the rest as in training.
          task: templates and label words, as in training unless given.
          eval: how.
          allow_mismatch: use a backbone whose fingerprint is not the one it was trained on.
          json: end with one line of JSON.
        """
        prepare()
        from prompt_jax import experiment, report

        loaded, model = _load(prompt, backbone, allow_mismatch)
        config = Config(backbone=model.name, data=data, task=task, eval=eval)
        results = experiment.evaluate_prompt(config, loaded, model)
        metric = next(iter(next(iter(results[experiment.TUNED].values()))))
        print(report.markdown(report.table(results, metric)))
        if json:
            print(_json({"prompt": loaded.digest, "task": data.task, "results": results}))

    _parse(evaluate, "evaluate", arguments)


def _predict(arguments: list[str]) -> None:
    data, task = _trained_on(arguments)

    def predict(
        *,
        prompt: str,
        input: str,
        output: str,
        backbone: str = "",
        shard: str = "0/1",
        data: DataConfig = data,
        task: TaskConfig = task,
        eval: EvalConfig = EvalConfig(),  # noqa: B008 (frozen)
        allow_mismatch: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Answers every input of a file; continues an output that was cut short.

        Args:
          prompt: a prompt folder, a run folder, or a .npy.
          input: .txt with an input a line, .csv, .tsv, .jsonl, .parquet, or - for standard input.
          output: a .jsonl, in the order of the inputs.
          backbone: empty takes the one that the prompt was trained on.
          shard: i/n answers every n-th input, beginning with input i.
          data: lengths, as in training unless given.
          task: templates and label words, as in training unless given.
          eval: how to rank or generate.
          allow_mismatch: use a backbone whose fingerprint is not the one it was trained on.
          overwrite: replace an existing output.
        """
        from prompt_jax.predict import parse_shard

        part = parse_shard(shard)
        prepare()
        from prompt_jax import predict as prediction
        from prompt_jax.tasks import Task

        loaded, model = _load(prompt, backbone, allow_mismatch)
        asked = Task(
            name=data.task,
            source=task.source or "{input}",
            target=task.target or "{target}",
            labels=task.labels,
        )
        count = prediction.predict(
            model,
            loaded.injection(),
            asked,
            input,
            output,
            data=data,
            eval=eval,
            placement=loaded.method.placement,
            shard=part,
            overwrite=overwrite,
        )
        print(f"{count} answers written to {output}", file=sys.stderr)

    _parse(predict, "predict", arguments)


def _prompts(arguments: list[str]) -> None:
    actions = {"list": _list, "inspect": _inspect, "export": _export, "import": _import}
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(f"usage: prompt-jax prompts {{{','.join(actions)}}} ...")
        return
    choose("prompts command", action, actions)
    _parse(actions[action], f"prompts {action}", rest)


def _list(folder: Positional[str] = "runs") -> None:
    """Lists the prompts in a folder of runs or saved prompts.

    Args:
      folder: where to look.
    """
    from rich.console import Console
    from rich.table import Table

    from prompt_jax.prompts import list_prompts

    table = Table("name", "virtual tokens", "width", "backbone", "metric", "digest", "problem")
    for row in list_prompts(folder):
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)


def _inspect(
    prompt: Positional[str],
    backbone: str = "",
    k: int = 3,
    heat_map: str = "",
    allow_mismatch: bool = False,
) -> None:
    """Prints identity, metrics and the nearest words of every virtual token.

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      backbone: empty takes the one that the prompt was trained on.
      k: neighbours of a virtual token.
      heat_map: also draw the similarity of the virtual tokens into this PNG.
      allow_mismatch: use a backbone whose fingerprint is not the one it was trained on.
    """
    from prompt_jax.prompts import draw_similarity, inspect

    loaded, model = _load(prompt, backbone, allow_mismatch)
    print(inspect(loaded, model, k=k, allow_mismatch=allow_mismatch))
    if heat_map:
        print(f"heat map in {draw_similarity(loaded, heat_map)}")


def _export(prompt: Positional[str], output: Positional[str], overwrite: bool = False) -> None:
    """Writes a prompt for other tools: a PEFT folder, or a .npy of [P, D].

    Args:
      prompt: a prompt folder, a run folder, or a .npy.
      output: ends in .npy, or names a folder.
      overwrite: replace what is there.
    """
    from prompt_jax.prompts import export_prompt, load_prompt

    print(f"written: {export_prompt(load_prompt(prompt), output, overwrite=overwrite)}")


def _import(
    path: Positional[str],
    output: Positional[str],
    backbone: str,
    allow_mismatch: bool = False,
    overwrite: bool = False,
) -> None:
    """Makes a prompt of ours from a PEFT folder or a .npy.

    Args:
      path: what to read.
      output: the folder to write.
      backbone: the model it was trained on.
      allow_mismatch: take it although it names another backbone.
      overwrite: replace the prompt in output.
    """
    from prompt_jax.prompts import import_prompt, save_prompt
    from prompt_jax.weights import load_backbone

    prompt = import_prompt(path, load_backbone(backbone), allow_mismatch=allow_mismatch)
    print(f"written: {save_prompt(output, prompt, overwrite=overwrite)}")


def _pretrain(arguments: list[str]) -> None:
    def pretrain(config: Positional[str]) -> None:
        """Trains a backbone from text files, or continues where it stopped.

        Args:
          config: a .py file that binds `config = PretrainConfig(...)`.
        """
        from prompt_jax.pretrain import PretrainConfig
        from prompt_jax.pretrain import pretrain as run

        chosen = _bound(config, PretrainConfig)
        prepare()
        run(chosen)

    _parse(pretrain, "pretrain", arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "prompts": _prompts,
    "pretrain": _pretrain,
}


def _parse(function: Callable[..., None], prog: str, arguments: list[str]) -> None:
    tyro.cli(function, prog=f"prompt-jax {prog}", args=arguments)


def _starting_config(arguments: list[str]) -> tuple[Config, list[str]]:
    """What flags go over: a config file, the run to resume, or the defaults."""
    if arguments and arguments[0].endswith(".py"):
        return _bound(arguments[0], Config), arguments[1:]
    if "--resume" in arguments:
        from prompt_jax.runs import read_config

        return read_config(Path(_value(arguments, "--out") or Config.out)), arguments
    return Config(), arguments


def _trained_on(arguments: list[str]) -> tuple[DataConfig, TaskConfig]:
    """Data and task of the prompt that the arguments name; flags go over them."""
    path = _value(arguments, "--prompt")
    if path is None:
        return DataConfig(), TaskConfig()
    from prompt_jax.config import from_json
    from prompt_jax.prompts import load_prompt

    prompt = load_prompt(path)
    data = from_json(DataConfig, prompt.recipe.get("data", {}))
    if prompt.task is None:
        return data, TaskConfig()
    names = [field.name for field in dataclasses.fields(TaskConfig)]
    return data, TaskConfig(**{name: getattr(prompt.task, name) for name in names})


def _value(arguments: list[str], flag: str) -> str | None:
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else next(iter(arguments[i + 1 : i + 2]), None)
    return None


def _bound(path: str, kind: type) -> Any:
    """The name `config` of a Python file."""
    if not Path(path).is_file():
        raise InputError(f"no config file {path}; give a .py file that binds `config`")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file; give a .py file that binds `config`")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = getattr(module, "config", None)
    if not isinstance(config, kind):
        raise InputError(
            f"{path} must bind `config` to a {kind.__name__}, got {type(config).__name__}"
        )
    return config


def _load(prompt: str, backbone: str, allow_mismatch: bool) -> tuple[Any, Any]:
    from prompt_jax.prompts import check_fits, load_prompt
    from prompt_jax.weights import load_backbone

    loaded = load_prompt(prompt)
    if not (backbone or loaded.backbone):
        raise InputError(f"{prompt} does not say which backbone it belongs to; give --backbone")
    model = load_backbone(backbone or loaded.backbone)
    check_fits(loaded, model, allow_mismatch=allow_mismatch)
    return loaded, model


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
