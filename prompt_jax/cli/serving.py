"""`prompt-jax serve`: the prompts of a store over HTTP."""

import contextlib
import inspect
import json
import logging
import os
import signal
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Literal

from prompt_jax.cli.arguments import value_of
from prompt_jax.cli.calls import Call, split
from prompt_jax.config import (
    BackboneConfig,
    InputError,
    MeshConfig,
    MethodConfig,
    choose,
    from_json,
)
from prompt_jax.runtime import compile_later, prepare

LOG = logging.getLogger(__name__)
FROZEN, MESH = BackboneConfig(), MeshConfig()
ENVIRONMENT = "PROMPT_JAX_SERVE_"


def run(arguments: list[str]) -> Call:
    """Runs the command; flags come before variables of the environment, and those before a file."""
    path = value_of(arguments, "--config") or os.environ.get(f"{ENVIRONMENT}CONFIG", "")
    values = file_values(path) if path else {}
    return Call("serve", _serve, [*flags_of(values), *flags_of(variables(os.environ)), *arguments])


def defaults() -> dict[str, object]:
    """The default of every option by its name, such as `port` or `frozen.dtype`."""
    parameters = inspect.signature(_serve).parameters
    values = {name: parameter.default for name, parameter in parameters.items()}
    groups = {name: vars(value) for name, value in values.items() if is_dataclass(value)}
    return _flat(values | groups)


def _flat(table: Mapping[str, object]) -> dict[str, object]:
    """The values of a table, those of tables in it as `name.key`."""
    values: dict[str, object] = {}
    for name, value in table.items():
        inner = value if isinstance(value, dict) else {}
        values |= {f"{name}.{key}": option for key, option in inner.items()} or {name: value}
    return values


def variables(environment: Mapping[str, str]) -> dict[str, object]:
    """The options that variables set: PROMPT_JAX_SERVE_MAX_NEW_TOKENS=128, and the like."""
    values: dict[str, object] = {}
    for name, default in defaults().items():
        value = environment.get(ENVIRONMENT + name.replace(".", "_").upper())
        if value is not None:
            values[name] = split(value.split()) if isinstance(default, tuple) else value
    return values


def file_values(path: str) -> dict[str, object]:
    """The options that a TOML file sets, `max_new_tokens = 128` and the like.

    Raises:
      InputError: there is no such file, or it has an option that the command has not.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--config is a TOML file, and {path} cannot be read: {error}") from error
    values = _flat(table)
    names = [name for name in defaults() if name != "config"]
    for name in values:
        choose(f"option in {path}", name, names)
    return values


def flags_of(values: Mapping[str, object]) -> list[str]:
    """Options as flags of the command line.

    Args:
      values: by the name of an option, a plain value or a list.
    """
    flags: list[str] = []
    usual = defaults()
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(usual[name], bool):
            truth = str(value).lower()
            if truth not in ("true", "false"):
                raise InputError(f"{name} is true or false, got {value!r}")
            flags.append(f"--{flag}" if truth == "true" else f"--no-{flag}")
        elif isinstance(value, list):
            # Commas part the values of a flag.
            flags += [f"--{flag}", *(str(item).replace(",", r"\,") for item in value)]
        else:
            flags.append(f"--{flag}={value}")
    return flags


def methods_of(words: Sequence[str]) -> list[MethodConfig]:
    """Methods, each followed by its fields: `prefix_tuning num_virtual_tokens=20 ia3`."""
    methods: list[dict[str, object]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            methods.append({"kind": name})
            continue
        if not methods:
            raise InputError(f"--room begins with a method such as prefix_tuning, got {word!r}")
        try:
            methods[-1][name] = json.loads(value)
        except ValueError:  # A word, which JSON would have in quotes.
            methods[-1][name] = value
    return [from_json(MethodConfig, method) for method in methods]


def _serve(
    backbone: str = "embedded",
    store: str = "prompts",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: str = "",
    hosts: tuple[str, ...] = (),
    num_virtual_tokens: int = 20,
    lora_rank: int = 0,
    room: tuple[str, ...] = (),
    upload_mib: int = 64,
    slots: int = 64,
    rows: tuple[int, ...] = (1, 8, 32),
    lengths: tuple[int, ...] = (32, 128),
    max_new_tokens: int = 64,
    places: int = 16,
    window: float = 0.002,
    queue: int = 1024,
    timeout: float = 60.0,
    drain_seconds: float = 0.0,
    refresh: float = 5.0,
    metrics_port: int = 0,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
    log_json: bool = False,
    config: str = "",
    frozen: BackboneConfig = FROZEN,
    mesh: MeshConfig = MESH,
) -> None:
    """Serves the prompts of a store over one frozen model, until SIGTERM or Ctrl-C.

    Args:
      backbone: what the prompts were trained on.
      store: folder of the prompts, created where there is none.
      host: address to listen on; one that others reach needs keys.
      port: port to listen on.
      keys: JSON file of those who may ask; empty lets everybody on this machine.
      hosts: names by which the server may be asked, such as my.laptop, beside localhost,
        127.0.0.1 and [::1]; with keys, empty allows all names.
      num_virtual_tokens: of the longest prompt that may come later; those in the store always
        fit. A longer one costs every row of every batch its room.
      lora_rank: of the highest LoRA that may come; 0 has room for none but those in the store.
      room: other methods that may come, each followed by its fields, such as
        --room prefix_tuning num_virtual_tokens=20 adapter bottleneck_size=32 ia3; those in the
        store always fit.
      upload_mib: MiB of an uploaded prompt at most.
      slots: prompts on the device at once.
      rows: sizes of batches.
      lengths: tokens that texts are padded to; the last is the longest.
      max_new_tokens: of an answer at most.
      places: answers that are written at once.
      window: seconds that a request waits for others to share its batch; more of them answer more
        requests a second, and each of them later.
      queue: requests that may wait.
      timeout: seconds that a request has.
      drain_seconds: from SIGTERM on in which /readyz says 503 and requests are still taken, so that
        a load balancer can turn to others; then what was taken is answered.
      refresh: seconds between two looks at the store and at the keys.
      metrics_port: port on which /metrics needs no key; 0 serves it on --port alone, to keys with
        the scope `metrics`.
      log_level: of the log, which goes to stderr; info has a line a request.
      log_json: write the log as JSON, an object a line.
      config: TOML file of these options, such as `max_new_tokens = 128` or `[frozen]` and
        `dtype = "int8"`; variables and flags come before it.
      frozen: how the model is loaded.
      mesh: the devices that share it.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError('the server needs more: pip install "prompt-jax[serve]"') from error
    from prompt_jax.methods import LoraConfig, PromptTuningConfig
    from prompt_jax.serve import Store
    from prompt_jax.serve.catalog import open_catalog
    from prompt_jax.serve.http import create_app
    from prompt_jax.serve.http.keys import Keys, read_keys
    from prompt_jax.serve.http.logs import write_log
    from prompt_jax.serve.http.run import check_open, listen, server_of, share_interpreter
    from prompt_jax.serve.http.traces import open_traces
    from prompt_jax.weights import load_backbone

    others, allowed = methods_of(room), read_keys(keys) if keys else Keys()
    write_log(log_level, as_json=log_json)
    check_open(host, allowed)
    traces = open_traces()
    prompts, listener = Store(Path(store)), listen(host, port)
    prepare()
    compile_later()
    loaded = load_backbone(
        backbone, revision=frozen.revision, dtype=frozen.dtype, mesh=mesh,
        attention_chunk=frozen.attention_chunk, attention=frozen.attention,
    )  # fmt: skip
    methods = [PromptTuningConfig(num_virtual_tokens=num_virtual_tokens), *others]
    methods += [LoraConfig(r=lora_rank)] if lora_rank else []
    catalog, problems = open_catalog(
        loaded, prompts, methods, slots=slots, rows=rows, lengths=lengths, places=places,
        max_new_tokens=max_new_tokens, window=window, queue=queue,
    )  # fmt: skip
    for problem in problems:
        LOG.warning("not served: %s", problem)
    LOG.info("%d prompts of %s on %s; compiling", len(catalog.served), store, backbone)
    if not catalog.served:
        LOG.warning(
            "%s has no prompt to serve; prompt-jax prompts publish RUN --name NAME --store %s adds "
            "one, also while the server runs", store, store,
        )  # fmt: skip
    with catalog.engine, contextlib.ExitStack() as ending:
        address = f"http://{host}:{listener.getsockname()[1]}"

        def on_ready() -> None:
            share_interpreter()
            LOG.info("ready on %s", address)

        app = create_app(
            catalog, allowed, hosts=hosts, timeout=timeout, upload_bytes=upload_mib * 2**20,
            refresh=refresh, on_ready=on_ready, traces=traces,
        )  # fmt: skip
        if traces is not None:
            ending.callback(traces.close)
        if metrics_port:
            ending.callback(app.state.metrics.listen(host, metrics_port))
        server = server_of(app, host, port, timeout=timeout, drain=drain_seconds)
        # uvicorn ends by these signals and then raises them again, for the handlers set here: after
        # SIGTERM the engine still answers what it took, and a second Ctrl-C ends at once.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, lambda number, _: signal.signal(number, signal.SIG_DFL))
        server.run([listener])
    LOG.info("all that was taken is answered")
