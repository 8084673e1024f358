"""Files and functions of the package that one piece of work crosses, counted while it runs.

    python benchmarks/walk.py train          a train step of the embedded backbone: traced and run
    python benchmarks/walk.py classify       a warm request: POST /v1/classify, one text
    python benchmarks/walk.py lora           a LoRA folder of PEFT from disk to logits
    python benchmarks/walk.py train --files  every file and function, in order

Every thread counts, so that a request is followed from the event loop into the engine and back. A
comprehension or a lambda belongs to the function around it; what an import runs is not counted.
"""

import argparse
import asyncio
import collections
import contextlib
import inspect
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np

import prompt_jax as pj

PACKAGE = str(Path(pj.__file__).parent) + "/"
TEXT = "a fine film"


class Walk:
    """Calls of functions of the package while `following`."""

    def __init__(self) -> None:
        self.calls: collections.Counter[tuple[str, str]] = collections.Counter()
        self.hops = 0
        self._following = False
        self._last: dict[int, str] = {}

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """For `sys.setprofile` and `threading.setprofile`."""
        code = frame.f_code
        if event != "call" or not self._following or not code.co_filename.startswith(PACKAGE):
            return
        # The bodies of modules and classes run at import; lambdas and comprehensions have no name.
        if not code.co_flags & inspect.CO_OPTIMIZED or code.co_name.startswith("<"):
            return
        place, name = code.co_filename.removeprefix(PACKAGE), code.co_qualname
        thread = threading.get_ident()
        self.hops += self._last.get(thread) != place
        self._last[thread] = place
        self.calls[place, name] += 1

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Counts calls of this thread, and of those that began after `threading.setprofile`."""
        sys.setprofile(self.profile)
        self._following = True
        try:
            yield
        finally:
            self._following = False
            sys.setprofile(None)


def train(walk: Walk) -> None:
    """A train step as `prompt-jax train` compiles it: traced and run, on a batch that is there."""
    import jax

    from prompt_jax.train import train_step

    backbone = pj.load_backbone("embedded")
    method, config = pj.PromptTuningConfig(num_virtual_tokens=5), pj.TrainConfig()
    loss = pj.loss_fn(method, backbone)
    state = pj.start(pj.init(method, backbone, jax.random.key(0)), config)
    tokens, real = np.ones((2, 8), np.int32), np.ones((2, 8), bool)
    batch = pj.Batch(tokens, real, tokens[:, :2], real[:, :2])
    with walk.following():
        step = jax.jit(lambda state, frozen, batch: train_step(loss, config, state, frozen, batch))
        jax.block_until_ready(step(state, backbone.params, batch))


def classify(walk: Walk) -> None:
    """The second of two equal requests over HTTP, answered without a socket."""
    import httpx
    import jax

    from prompt_jax.prompts import prompt_for
    from prompt_jax.serve import Engine, Store
    from prompt_jax.serve.catalog import Catalog
    from prompt_jax.serve.http import Keys, create_app

    backbone, method = pj.load_backbone("embedded"), pj.PromptTuningConfig(num_virtual_tokens=5)
    prompt = prompt_for(pj.init(method, backbone, jax.random.key(0)), method, backbone)
    body = {"model": "films", "input": TEXT, "labels": ["positive", "negative"]}

    async def ask(app: object) -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            (await client.post("/v1/classify", json=body)).raise_for_status()
            with walk.following():
                (await client.post("/v1/classify", json=body)).raise_for_status()

    threading.setprofile(walk.profile)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.put("films", prompt)
        with Engine(backbone, room=[method], rows=(1,), lengths=(32,)) as engine:
            catalog = Catalog(engine, store)
            catalog.refresh()
            asyncio.run(ask(create_app(catalog, Keys())))
    threading.setprofile(None)


def lora(walk: Walk) -> None:
    """The second of two equal readings, whose program is compiled; the backbone is loaded."""
    import jax

    from prompt_jax.prompts import export_peft, prompt_for

    backbone = pj.load_backbone("embedded")
    method = pj.LoraConfig(r=2, task_type="SEQ_2_SEQ_LM")
    prompt = prompt_for(pj.init(method, backbone, jax.random.key(0)), method, backbone)
    tokens = np.ones((1, 4), np.int32)

    def run(folder: Path) -> None:
        model = pj.PromptTuningModel.from_pretrained(backbone, folder)
        jax.block_until_ready(model(input_ids=tokens, decoder_input_ids=tokens).logits)

    with tempfile.TemporaryDirectory() as place:
        folder = export_peft(Path(place) / "lora", prompt)
        (folder / "prompt_jax_config.json").unlink()  # As PEFT leaves a folder.
        run(folder)
        with walk.following():
            run(folder)


WALKS = {"train": train, "classify": classify, "lora": lora}


def main() -> None:
    """Prints how many files and functions each walk crosses."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("walks", nargs="*", choices=[*WALKS, []], help="all, where none is named")
    parser.add_argument("--files", action="store_true", help="every file and function, in order")
    options = parser.parse_args()
    for name in options.walks or WALKS:
        walk = Walk()
        WALKS[name](walk)
        files = dict.fromkeys(place for place, _ in walk.calls)
        print(f"{name}: {len(files)} files, {len(walk.calls)} functions, {walk.hops} hops")
        for place in files if options.files else ():
            counts = [f"{f} {n}" for (where, f), n in walk.calls.items() if where == place]
            print(f"  {place}: {', '.join(counts)}")


if __name__ == "__main__":
    main()
