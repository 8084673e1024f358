"""`prompt-jax evaluate` and `predict`: what a saved prompt answers."""

import sys

from prompt_jax.cli.arguments import as_json, aside, load, parse, trained_on
from prompt_jax.config import (
    BackboneConfig,
    Config,
    DataConfig,
    DistributedConfig,
    EvalConfig,
    MeshConfig,
    TaskConfig,
)
from prompt_jax.runtime import prepare


def evaluate(arguments: list[str]) -> None:
    """Scores a saved prompt."""
    data, task, eval = trained_on(arguments)

    def run(
        *,
        prompt: str,
        task_id: str = "",
        backbone: str = "",
        frozen: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        data: DataConfig = data,
        task: TaskConfig = task,
        eval: EvalConfig = eval,
        mesh: MeshConfig = MeshConfig(),  # noqa: B008
        distributed: DistributedConfig = DistributedConfig(),  # noqa: B008
        allow_mismatch: bool = False,
        json: bool = False,
    ) -> None:
        """Scores a saved prompt beside the frozen model and a baseline.

        Args:
          prompt: a prompt folder, a run folder, or a .npy.
          task_id: the task of a multitask prompt, by its number from 0 or its name.
          backbone: empty takes the one that the prompt was trained on.
          frozen: how it is loaded and run, e.g. --frozen.dtype int8.
          data: what to score it on. Without --data.task, what training held out or validated on,
            and the test rows; another file or split is scored whole. The rest as in training.
          task: templates and label words, as in training unless given.
          eval: how, as in training unless given.
          mesh: the devices that share the model.
          distributed: the processes whose devices these are, where there are several.
          allow_mismatch: use a backbone whose fingerprint is not the one it was trained on.
          json: end with one line of JSON.
        """
        prepare(distributed)
        from prompt_jax import experiment, report
        from prompt_jax.processes import is_first

        loaded, model = load(prompt, backbone, allow_mismatch, mesh, frozen, task_id=task_id)
        config = Config(backbone=model.name, data=data, task=task, eval=eval)
        say = aside if is_first() else lambda _: None
        results = experiment.evaluate_prompt(config, loaded, model, say=say)
        if not is_first():
            return
        print(report.markdown(report.table(results)))
        if json:
            print(as_json({"prompt": loaded.digest, "task": data.task, "results": results}))

    parse(run, "evaluate", arguments)


def predict(arguments: list[str]) -> None:
    """Answers a file."""
    data, task, eval = trained_on(arguments)

    def run(
        *,
        prompt: str,
        input: str,
        output: str,
        task_id: str = "",
        backbone: str = "",
        frozen: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        shard: str = "0/1",
        data: DataConfig = data,
        task: TaskConfig = task,
        eval: EvalConfig = eval,
        mesh: MeshConfig = MeshConfig(),  # noqa: B008
        allow_mismatch: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Answers every input of a file; continues an output that was cut short.

        Args:
          prompt: a prompt folder, a run folder, or a .npy.
          task_id: the task of a multitask prompt, by its number from 0 or its name.
          input: .txt with an input a line, .csv, .tsv, .jsonl, .parquet, or - for standard input.
          output: a .jsonl, in the order of the inputs, or - for standard output.
          backbone: empty takes the one that the prompt was trained on.
          frozen: how it is loaded and run, e.g. --frozen.dtype int8.
          shard: i/n answers every n-th input, beginning with input i.
          data: lengths, as in training unless given.
          task: templates and label words, as in training unless given.
          eval: how to rank or generate, as in training unless given.
          mesh: the devices that share the model.
          allow_mismatch: use a backbone whose fingerprint is not the one it was trained on.
          overwrite: replace an existing output.
        """
        from prompt_jax.predict import parse_shard

        part = parse_shard(shard)
        prepare()
        from prompt_jax import predict as prediction
        from prompt_jax.tasks import Task, chat_of, read_labels

        loaded, model = load(prompt, backbone, allow_mismatch, mesh, frozen, task_id=task_id)
        named = Task(
            name=data.task,
            source=task.source or "{input}",
            target=task.target or "{target}",
            kind=task.kind or "",
            labels=read_labels(task.labels)[0],
            chat=task.chat == "on",
            system=task.system,
        )
        auto = task.chat == "auto"
        named = chat_of(named, model.tokenizer, model.target_place, auto=auto)
        count = prediction.predict(
            model,
            loaded.injection(),
            named,
            input,
            output,
            data=data,
            eval=eval,
            shard=part,
            overwrite=overwrite,
        )
        place = "standard output" if output == prediction.STREAM else output
        print(f"{count} answers written to {place}", file=sys.stderr)

    parse(run, "predict", arguments)
