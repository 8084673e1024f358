"""`prompt-jax serve`: the prompts of a store over HTTP."""

import signal
from pathlib import Path

from prompt_jax.cli.arguments import parse
from prompt_jax.config import BackboneConfig, InputError, MeshConfig
from prompt_jax.runtime import prepare

FROZEN, MESH = BackboneConfig(), MeshConfig()


def run(arguments: list[str]) -> None:
    """Runs the command."""
    parse(_serve, "serve", arguments)


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
    slots: int = 64,
    rows: tuple[int, ...] = (1, 8, 32),
    lengths: tuple[int, ...] = (32, 128),
    max_new_tokens: int = 64,
    queue: int = 1024,
    timeout: float = 60.0,
    drain_seconds: float = 0.0,
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
      slots: prompts on the device at once.
      rows: sizes of batches.
      lengths: tokens that texts are padded to; the last is the longest.
      max_new_tokens: of an answer at most.
      queue: requests that may wait.
      timeout: seconds that a request has.
      drain_seconds: from SIGTERM on in which /readyz says 503 and requests are still taken, so that
        a load balancer can turn to others; then what was taken is answered.
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
    from prompt_jax.serve.http.run import check_open, listen, server_of
    from prompt_jax.weights import load_backbone

    allowed = read_keys(keys) if keys else Keys()
    check_open(host, allowed)
    prompts, listener = Store(Path(store)), listen(host, port)
    prepare(keep_programs=True)
    loaded = load_backbone(
        backbone, revision=frozen.revision, dtype=frozen.dtype, mesh=mesh,
        attention_chunk=frozen.attention_chunk, attention=frozen.attention,
    )  # fmt: skip
    room = [PromptTuningConfig(num_virtual_tokens=num_virtual_tokens)]
    room += [LoraConfig(r=lora_rank)] if lora_rank else []
    sizes = {"slots": slots, "rows": rows, "lengths": lengths, "queue": queue}
    catalog, problems = open_catalog(loaded, prompts, room, max_new_tokens=max_new_tokens, **sizes)
    for problem in problems:
        print(f"not served: {problem}")
    print(f"{len(catalog.served)} prompts of {store} on {backbone}; compiling", flush=True)
    with catalog.engine:
        address = f"http://{host}:{listener.getsockname()[1]}"
        app = create_app(
            catalog, allowed, hosts=hosts, timeout=timeout,
            on_ready=lambda: print(f"ready on {address}", flush=True),
        )  # fmt: skip
        server = server_of(app, host, port, timeout=timeout, drain=drain_seconds)
        # uvicorn ends by these signals and then raises them again, for the handlers set here: after
        # SIGTERM the engine still answers what it took, and a second Ctrl-C ends at once.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, lambda number, _: signal.signal(number, signal.SIG_DFL))
        server.run([listener])
    print("all that was taken is answered")
