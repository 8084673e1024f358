"""Prompts for servers of others: what vLLM and SGLang can hold, and the line that starts each.

Source: vLLM's docs `features/prompt_embeds.md`, `features/lora.md`, `models/supported_models.md`,
its `vllm/config/lora.py` and `vllm/lora/peft_helper.py`; SGLang's docs `basic_usage/native_api`
and `advanced_features/lora`, its `srt/managers/tokenizer_manager.py`, `srt/lora/lora.py` and
`srt/models/gemma2.py`.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import NamedTuple

from prompt_jax.config import InputError, choose
from prompt_jax.methods.lora import LoraConfig
from prompt_jax.prompts.folder import save_prompt
from prompt_jax.prompts.peft import obstacle
from prompt_jax.prompts.prompt import Prompt

HERE = "PATH OF THIS FOLDER"


class Server(NamedTuple):
    """What a server of others is called, starts with, and does not do."""

    name: str
    start: str
    """Comes before the model."""
    embeddings: str
    """The flag without which it takes no embeddings."""
    adapters: str
    """The flag that takes name=folder of a LoRA."""
    ranks: tuple[int, ...] = ()
    """What it takes as `--max-lora-rank`, which is 16 without the flag; empty of one that takes the
    rank from the adapters."""
    without_lora: tuple[str, ...] = ()
    """Model types that take no adapters."""
    scaling: tuple[str, ...] = ()
    """Model types whose embeddings it scales once more, also those that it is sent."""
    rslora: bool = True
    """Whether it scales an adapter as rsLoRA does, where the adapter says so."""


SERVERS = {
    "vllm": Server(
        "vLLM",
        "vllm serve",
        "--enable-prompt-embeds",
        "--enable-lora --lora-modules",
        ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512),
        without_lora=("gpt2", "gpt_neox"),
    ),
    "sglang": Server(
        "SGLang",
        "python -m sglang.launch_server --model-path",
        # Its cache goes by token ids, which embeddings do not have.
        "--disable-radix-cache",
        "--enable-lora --lora-paths",
        scaling=("gemma", "gemma2"),
        rslora=False,
    ),
}
"""By what `--to` calls them."""


def export_to_engine(
    prompt: Prompt, folder: str | Path, engine: str, *, overwrite: bool = False
) -> Path:
    """Writes a prompt for vLLM or SGLang: a folder that `integrations.vllm.SoftPrompt` reads.

    Rows and what they came from are apart: of a P-tuning, only the rows that are served are
    written. A LoRA becomes PEFT's folder, which the engine itself reads.

    Args:
      prompt: of a decoder: it changes the input alone, or is a LoRA.
      folder: appears whole or not at all; its README.md says how to start the engine.
      engine: one of `SERVERS`.

    Raises:
      InputError: as `check_engine` or `save_prompt`.
    """
    check_engine(prompt, engine)
    # SGLang reads every .safetensors in the folder of an adapter: what training goes on from
    # must not lie there.
    served = dataclasses.replace(prompt, training=None, trained_as=None)
    line = serving_line(served, engine, HERE)
    section = f"\n## Serve with {server_of(engine).name}\n\n```\n{line}\n```\n"
    return save_prompt(folder, served, overwrite=overwrite, section=section)


def server_of(engine: str) -> Server:
    """The facts about an engine.

    Raises:
      InputError: there is none of this name.
    """
    choose("engine", engine, SERVERS)
    return SERVERS[engine]


def serving_line(prompt: Prompt, engine: str, folder: str | Path) -> str:
    """The command that starts an engine for a prompt that was written to a folder."""
    server = server_of(engine)
    words = f"{server.start} {shlex.quote(prompt.backbone)}"
    if not isinstance(prompt.method, LoraConfig):
        return f"{words} {server.embeddings}"
    name = prompt.name or Path(folder).name
    line = f"{words} {server.adapters} {shlex.quote(f'{name}={folder}')}"
    rank = next((rank for rank in server.ranks if rank >= prompt.method.r), 0)
    return f"{line} --max-lora-rank {rank}" if rank > 16 else line


def check_engine(prompt: Prompt, engine: str) -> None:
    """Checks that an engine can serve a prompt.

    Raises:
      InputError: it cannot.
    """
    server = server_of(engine)
    reason = _obstacle(prompt, server)
    if reason:
        raise InputError(
            f"prompt {prompt.label!r} cannot be served by {server.name}: {reason}; serve it with "
            "prompt-jax serve, which holds prompts of all methods"
        )


def _obstacle(prompt: Prompt, server: Server) -> str:
    """Why a server cannot hold this prompt; empty where it can."""
    method, kind = prompt.method, prompt.model_type
    if not (kind and prompt.backbone):
        return "it does not say which backbone it belongs to (prompt-jax prompts import adds that)"
    if method.task_type != "CAUSAL_LM":
        return f"only decoders that write are served there, and its task_type is {method.task_type}"
    if isinstance(method, LoraConfig):
        return _lora_obstacle(prompt, method, server)
    injection = prompt.injection()
    if injection.sockets or injection.params is not None:
        return f"{method.kind} reaches inside the layers, and {server.name} is sent inputs alone"
    if kind in server.scaling:
        return f"{server.name} scales the embeddings of a {kind} that it is sent once more"
    return ""


def _lora_obstacle(prompt: Prompt, method: LoraConfig, server: Server) -> str:
    kind = prompt.model_type
    if kind in server.without_lora:
        return f"{server.name} takes no LoRA for a {kind}"
    if method.use_dora:
        return f"{server.name} has no DoRA"
    if method.use_rslora and not server.rslora:
        return f"{server.name} scales a LoRA by lora_alpha / r, and this one is an rsLoRA"
    if server.ranks and method.r > server.ranks[-1]:
        return f"its rank is {method.r}, and {server.name} takes {server.ranks[-1]} at most"
    return obstacle(prompt)
