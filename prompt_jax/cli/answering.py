"""`prompt-jax evaluate` and `predict`: what a saved prompt answers."""

import sys
from typing import Annotated

import tyro
from tyro.conf import Positional

from prompt_jax.cli.arguments import Answering, as_json, aside, trained_on
from prompt_jax.cli.calls import Call
from prompt_jax.config import Config, DistributedConfig, InputError
from prompt_jax.lines import Pace
from prompt_jax.runtime import prepare


def evaluate(arguments: list[str]) -> Call:
    """Scores a saved prompt."""
    default = trained_on(arguments)

    def run(
        saved: Annotated[Answering, tyro.conf.arg(name="")] = default,
        *,
        distributed: DistributedConfig = DistributedConfig(),  # noqa: B008 (frozen)
        rivals: tuple[str, ...] = (),
        json: bool = False,
    ) -> None:
        """Scores a saved prompt beside the frozen model and a baseline.

        Without --data.task it is scored on what training held out or validated on, and on the test
        rows; another file or split is scored whole.

        Args:
          saved: the prompt.
          distributed: the processes whose devices these are, where there are several.
          rivals: what else to score: written:FILE, an instruction in front of each text; shots:K,
            K training rows in front; written:FILE+shots:K; tf_idf, words and a logistic regression.
          json: end with one line of JSON.
        """
        prepare(distributed)
        from prompt_jax import experiment, report
        from prompt_jax.processes import is_first

        prompt, backbone = saved.load()
        config = Config(backbone=backbone.name, data=saved.data, task=saved.task, eval=saved.eval)
        say = aside if is_first() else lambda _: None
        results = experiment.evaluate_prompt(config, prompt, backbone, rivals=rivals, say=say)
        if not is_first():
            return
        print(report.markdown(report.table(results)))
        if json:
            print(as_json({"prompt": prompt.digest, "task": saved.data.task, "results": results}))

    return Call("evaluate", run, arguments)


def predict(arguments: list[str]) -> Call:
    """Answers a file."""
    default = trained_on(arguments)

    def run(
        saved: Annotated[Answering, tyro.conf.arg(name="")] = default,
        texts: Positional[tuple[str, ...]] = (),
        *,
        input: str = "",
        output: str = "",
        shard: str = "0/1",
        overwrite: bool = False,
    ) -> None:
        """Answers texts, or every input of a file; continues a file that was cut short.

        Args:
          saved: the prompt.
          texts: inputs to answer, each in quotes.
          input: .txt with an input a line, .csv, .tsv, .jsonl, .parquet, or - for standard input.
          output: a .jsonl, in the order of the inputs, or - for standard output, where answers to
            texts go by default.
          shard: i/n answers every n-th input, beginning with input i.
          overwrite: replace an existing output.
        """
        from prompt_jax import predict as prediction

        part = prediction.parse_shard(shard)
        if bool(texts) == bool(input):
            raise InputError(
                "give what to answer, a text in quotes or --input FILE"
                + (", and not both" if texts else "")
            )
        if input and not output:
            raise InputError("give --output FILE for the answers, or - for standard output")
        output = output or prediction.STREAM
        prepare()
        from prompt_jax.tasks import Task, chat_of, read_labels

        prompt, backbone = saved.load()
        task = Task(
            name=saved.data.task,
            source=saved.task.source or "{input}",
            target=saved.task.target or "{target}",
            kind=saved.task.kind or "",
            labels=read_labels(saved.task.labels)[0],
            chat=saved.task.chat == "on",
            system=saved.task.system,
        )
        way = {"auto": saved.task.chat == "auto", "placement": prompt.method.place}
        task = chat_of(task, backbone.tokenizer, backbone.target_place, **way)
        count = prediction.predict(
            backbone,
            prompt.injection(),
            task,
            texts or input,
            output,
            data=saved.data,
            eval=saved.eval,
            shard=part,
            overwrite=overwrite,
            progress=Pace(aside, "answering"),
        )
        place = "standard output" if output == prediction.STREAM else output
        print(f"{count:,} answer{'s' * (count != 1)} written to {place}", file=sys.stderr)

    return Call("predict", run, arguments)
