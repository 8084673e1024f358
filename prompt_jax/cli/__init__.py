"""The command line: tyro over the same dataclasses that Python callers use.

Nothing heavy is imported until a command needs it, so `prompt-jax --help` answers at once.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from tyro.conf import Positional

import prompt_jax
from prompt_jax.cli import (
    answering,
    completion,
    distil,
    init,
    prompts,
    reproduce,
    runs,
    serving,
    sweep,
)
from prompt_jax.cli.arguments import Experiment, as_json, aside, bound, starting_config
from prompt_jax.cli.calls import Call, parse
from prompt_jax.cli.output import Output, Printed
from prompt_jax.config import (
    BackboneConfig,
    DistributedConfig,
    InputError,
    MeshConfig,
    check_place,
    choose,
    method_kinds,
)
from prompt_jax.runtime import prepare

USAGE = """\
usage: prompt-jax COMMAND ...

  init       look at a file of rows and write a config that train runs
  train      tune a prompt; without arguments, on the embedded sentiment task
  evaluate   score a saved prompt beside the frozen model and a baseline
  predict    answer texts, or a file of inputs, with a saved prompt
  serve      answer over HTTP, each request with its own prompt

  sweep      tune many prompts at once, drop those that lose, keep the best
  compare    train several methods on one budget; show what each reaches and costs
  distil     turn a long text into a prompt, without labels
  reproduce  run a table of a paper and write it beside the paper's figures
  runs       list training runs with their scores, and draw their curves

  prompts    inspect, export, compose, ensemble, recycle saved prompts, and more
  plan       show the memory and time that a run needs on a TPU you do not have
  pretrain   train a backbone from text files
  doctor     show versions, devices and how a model lies on them; find mistakes

Run prompt-jax COMMAND --help for the options of a command, prompt-jax --version for the version,
and prompt-jax --print-completion bash, zsh or fish for a script that completes words with TAB."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 when it is done, 2 for bad input, 1 for anything else."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command == "--version":
        print(prompt_jax.__version__)
        return 0
    try:
        if command == "--print-completion":
            print(completion.script(rest[0] if rest else "", COMMANDS))
            return 0
        choose("command", command, COMMANDS)
        with _ending_at_once():
            call = COMMANDS[command](rest)
            if call is not None:
                parse(call)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Who read the output has gone, as `head` does. Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RuntimeError as error:
        from prompt_jax.train import DivergedError

        if not isinstance(error, DivergedError):
            raise
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Ctrl-C ends a command as it ends other programs; files are whole whenever that is."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _train(arguments: list[str]) -> Call:
    default, arguments = starting_config(arguments)

    def train(
        config: Experiment = default,
        *,
        distributed: DistributedConfig = DistributedConfig(),  # noqa: B008 (frozen)
        output: Printed = Output(),  # noqa: B008 (frozen)
        resume: bool = False,
        overwrite: bool = False,
        profile: int = 0,
    ) -> None:
        """Tunes a soft prompt, or one for each of --data.tasks, evaluates it and saves it.

        A first argument that ends in .py is a config file; flags go over what it says. --method
        NAME takes another method, and --method.OPTION then are its options.

        Args:
          config: the experiment.
          distributed: the processes that train together, where there are several.
          output: what is printed.
          resume: continue the run in --out from its last checkpoint.
          overwrite: replace the run in --out.
          profile: write a profile of this many steps, after the first one, into --out.
        """
        prepare(distributed)
        from prompt_jax import experiment

        run = experiment.train_tasks if config.data.tasks else experiment.train
        run(config, resume=resume, overwrite=overwrite, profile=profile, say=output.say)

    return Call("train", train, arguments)


COMPARED = ("prompt_tuning", "p_tuning", "prefix_tuning", "lora", "ia3", "adapter", "full")


def _compare(arguments: list[str]) -> Call:
    default, arguments = starting_config(arguments, out="runs/compare")

    def compare(
        config: Experiment = default,
        *,
        methods: tuple[str, ...] = COMPARED,
        seeds: int = 1,
        rivals: tuple[str, ...] = (),
        forgetting: str = "",
        distributed: DistributedConfig = DistributedConfig(),  # noqa: B008 (frozen)
        output: Printed = Output(),  # noqa: B008 (frozen)
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Trains several methods on the same data and budget, and measures what each costs.

        Args:
          config: the experiment; each method runs in a folder of its own within --out.
          methods: their names; each has its defaults, or the options of --method where it is that
            one.
          seeds: prompts of each method, trained together; the table has their mean and deviation.
          rivals: what else to score: written:FILE, an instruction in front of each text; shots:K,
            K training rows in front; written:FILE+shots:K; tf_idf, words and a logistic regression.
          forgetting: a file or a dataset with other text; the table has the loss on it, over that
            of the frozen model.
          distributed: the processes that train together, where there are several.
          output: what is printed.
          resume: go on in --out where it was stopped.
          overwrite: replace their runs.
        """
        for name in methods:
            choose("method", name, method_kinds())
        prepare(distributed)
        from prompt_jax import experiment

        chosen = [
            config.method if name == config.method.kind else method_kinds()[name]()
            for name in methods
        ]
        options = experiment.CompareOptions(seeds, rivals, forgetting)
        way = {"resume": resume, "overwrite": overwrite}
        experiment.compare_methods(config, chosen, options, **way, say=output.say)

    return Call("compare", compare, arguments)


def _plan(arguments: list[str]) -> Call:
    default, arguments = starting_config(arguments)
    if default.mesh == MeshConfig():
        mesh = MeshConfig(data="auto", fsdp="auto", tensor="auto")
        default = dataclasses.replace(default, mesh=mesh)

    def plan(
        config: Experiment = default,
        *,
        topology: str | None = None,
        programs: tuple[str, ...] = (),
        members: int | None = None,
        search: bool = False,
        experiment: str = "",
        plot: str = "",
        json: bool = False,
    ) -> None:
        """Compiles a run for TPUs that you do not have, and shows the memory and time it needs.

        Exit code 0 also where it does not fit; three changes that make it fit are then looked for.

        Args:
          config: the experiment, as train takes it; its longest input and target are planned for.
          topology: v5e-4, v5p-8, v6e-8, ... or a kind and its grid, v5e:2x4; else local devices.
          programs: of train, score and decode; none takes the training step and what scores
            validation: score for label words, else decode and score.
          members: prompts that train at once, each on train.batch_size rows, as with sweep.slots,
            data.tasks or seeds; none takes one for each of data.tasks.
          search: also look for other meshes and settings that fit, where these do.
          experiment: superglue adds up a run for each of its tasks, at their usual lengths.
          plot: a .png with a bar for every plan.
          json: end with one line of JSON.
        """
        for name in programs:
            choose("program", name, ("train", "score", "decode"))
        if plot:
            check_place(plot)
        prepare()
        from prompt_jax import plan as planning

        if experiment:
            if programs or search or plot or members is not None:
                raise InputError(
                    "--experiment compiles the programs of its runs and prints a table; leave out "
                    "--programs, --members, --search and --plot"
                )
            priced = planning.price(config, topology, experiment, say=aside)
            print(planning.published.text(priced))
            if json:
                print(as_json(planning.published.as_json(priced)))
            return
        count = len(config.data.tasks) or 1 if members is None else members
        first = planning.planned(config, topology, programs=programs, members=count, say=aside)
        others = planning.search(first, say=aside) if search or not first.fits else []
        print(planning.text(first, others))
        if plot:
            print(f"drawn in {planning.draw(plot, [first, *others])}")
        if json:
            plans = [planning.as_json(alternative) for alternative in others]
            print(as_json({**planning.as_json(first), "others": plans}))

    return Call("plan", plan, arguments)


def _pretrain(arguments: list[str]) -> Call:
    def pretrain(config: Positional[str]) -> None:
        """Trains a backbone from text files, or continues where it stopped.

        Args:
          config: a .py file that binds `config = PretrainConfig(...)`.
        """
        from prompt_jax.pretrain import PretrainConfig
        from prompt_jax.pretrain import pretrain as run

        chosen = bound(config, PretrainConfig)
        prepare()
        if run(chosen) is None:
            print("stopped; run the command again to go on")

    return Call("pretrain", pretrain, arguments)


def _doctor(arguments: list[str]) -> Call:
    def doctor(
        *,
        backbone: str = "embedded",
        frozen: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        mesh: MeshConfig = MeshConfig(),  # noqa: B008
    ) -> None:
        """Tells versions, devices, the mesh, how every weight is split, and common mistakes.

        Args:
          backbone: as in training; its config is read, and none of its weights.
          frozen: how it would be loaded.
          mesh: the devices that would share it; try `--mesh.fsdp auto --mesh.tensor auto`.
        """
        prepare()
        from prompt_jax.doctor import draw, examine
        from prompt_jax.weights import read_config

        config = read_config(backbone, revision=frozen.revision, dtype=frozen.dtype, mesh=mesh)
        print(examine(config))
        draw(config)

    return Call("doctor", doctor, arguments)


COMMANDS: dict[str, Callable[[list[str]], Call | None]] = {
    "init": init.run,
    "train": _train,
    "compare": _compare,
    "sweep": sweep.run,
    "distil": distil.run,
    "reproduce": reproduce.run,
    "runs": runs.run,
    "serve": serving.run,
    "evaluate": answering.evaluate,
    "predict": answering.predict,
    "plan": _plan,
    "prompts": prompts.run,
    "pretrain": _pretrain,
    "doctor": _doctor,
}
