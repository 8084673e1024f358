"""Reading prompts: our folders, PEFT's, other tools', and `.npy` files; nothing is trusted."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig, PromptTuningConfig, from_json
from prompt_jax.config.checks import refuse_unread
from prompt_jax.methods import init
from prompt_jax.prompts import foreign, peft
from prompt_jax.prompts.card import flat
from prompt_jax.prompts.fits import adopt
from prompt_jax.prompts.folder import (
    FORMAT,
    OWN_WEIGHTS,
    PROMPT_CONFIG,
    TRAINING_WEIGHTS,
    checksum,
    is_prompt,
)
from prompt_jax.prompts.peft_shapes import fitted
from prompt_jax.prompts.prompt import Prompt, from_paths
from prompt_jax.tasks import Task
from prompt_jax.weights.safetensors import open_safetensors
from prompt_jax.weights.stored import damaged, read_json

PEFT_WEIGHTS = (peft.ADAPTER_WEIGHTS, peft.ADAPTER_PICKLE)
NUMPY_MAGIC = b"\x93NUMPY"
WRONG = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def load_prompt(path: str | Path) -> Prompt:
    """The prompt at a path, checked against the digest it was saved with.

    Args:
      path: a folder of `save_prompt`, a PEFT folder (prompt, P-, prefix or multitask prompt
        tuning, LoRA, IA3), a folder of AdapterHub's prompt tuning, one of TGIS or caikit with
        `decoder.pt` or `encoder.pt`, a run folder that holds `prompt/`, a NumPy file of [P, D],
        with or without the ending `.npy`, or such a tensor in a `.pt`. What PEFT saved of LoRA, IA3
        and prefix tuning still lacks the shapes of its backbone: `import_prompt` takes them from
        there.

    Raises:
      InputError: nothing there, or it is damaged, or no prompt.
    """
    return _read(Path(path), "")


def import_prompt(path: str | Path, backbone: Backbone, *, allow_mismatch: bool = False) -> Prompt:
    """`load_prompt` for a backbone: what the file does not know is taken from there.

    Raises:
      InputError: as `load_prompt` and `check_fits`.
    """
    prompt = _read(Path(path), backbone.model_type)
    return adopt(prompt, backbone, allow_mismatch=allow_mismatch)


def _read(path: Path, model_type: str) -> Prompt:
    """What is at a path; the model's type, if known, tells whose names PEFT's tensors have."""
    path = _locate(path)
    if path.is_file():
        return _load_file(path)
    config = path / (PROMPT_CONFIG if (path / PROMPT_CONFIG).is_file() else peft.ADAPTER_CONFIG)
    try:
        if config.name == PROMPT_CONFIG:
            return _load_own(path)
        if not config.is_file():
            return _prompt(path, name=_name(path), versions={}, **foreign.read_tensors(path))
        values = read_json(config)
        if foreign.is_adapterhub(values):
            about = foreign.read_adapterhub(path, values)
            return _prompt(path, name=_name(path), versions={}, **about)
        return _load_peft(path, model_type)
    except InputError:
        raise
    except WRONG as error:  # A value of a kind that nobody writes there, deep in some reader.
        raise damaged(config, f"it says what no prompt does ({error!r})") from error


def fresh(method: MethodConfig, backbone: Backbone, seed: int) -> Any:
    """`methods.init`, with the rows of `init_file` read where the method starts from a file.

    Raises:
      InputError: as `methods.init` and `load_prompt`, or an option that another one switches off.
    """
    refuse_unread(method, "", method.only_with)
    file = method.init_file if getattr(method, "start", None) == "file" else None
    rows = load_prompt(file).rows if file else None
    return init(method, backbone, jax.random.key(seed), rows)


class Listed(NamedTuple):
    """A row of `list_prompts`."""

    name: str
    """Path within the listed folder."""
    method: str
    size: int | None
    """How many numbers it is."""
    backbone: str
    metric: str
    """The deciding score, `name value`; empty when there is none."""
    digest: str
    """The first 12 characters."""
    problem: str = ""
    """Why the prompt cannot be read; then the other fields are empty."""


def list_prompts(folder: str | Path) -> list[Listed]:
    """The prompts in a folder, by name; damaged ones are listed with their problem.

    Raises:
      InputError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give the one that holds runs or saved prompts")
    entries = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    return [_listed(p) for p in entries if p.suffix == ".npy" or _prompt_folder(p) is not None]


def _listed(path: Path) -> Listed:
    try:
        prompt = load_prompt(path)
    except InputError as error:
        return Listed(path.name, "", None, "", "", "", str(error))
    best = next(flat(prompt.metrics), None)
    value = best and (f"{best[1]:.4f}" if isinstance(best[1], float) else best[1])
    metric = f"{best[0]} {value}" if best else ""
    return Listed(
        path.name, prompt.method.kind, prompt.size, prompt.backbone, metric, prompt.digest[:12]
    )


def _prompt_folder(path: Path) -> Path | None:
    folders = (path, path / "prompt")
    return next((f for f in folders if is_prompt(f) or foreign.has_tensors(f)), None)


def _locate(path: Path) -> Path:
    if path.is_file():
        return path
    folder = _prompt_folder(path)
    if folder is not None:
        return folder
    if path.is_dir():
        inside = [p.name for p in sorted(path.iterdir()) if p.is_dir() and _prompt_folder(p)]
        hint = f"; prompts inside it: {', '.join(inside)}" if inside else ""
        raise InputError(
            f"{path} holds no prompt: neither {PROMPT_CONFIG} nor {peft.ADAPTER_CONFIG}, nor a "
            f"{' or '.join(foreign.TENSORS)}, is in it or in its prompt/{hint}"
        )
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    names = [p.name for p in siblings if p.suffix == ".npy" or _prompt_folder(p)]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
    hint = f"perhaps you meant {', '.join(near)}" if near else "prompt-jax prompts list shows them"
    raise InputError(f"no prompt at {path}; {hint}")


def _load_file(path: Path) -> Prompt:
    with path.open("rb") as file:
        magic = file.read(len(NUMPY_MAGIC))
    if magic != NUMPY_MAGIC:
        if path.suffix in (".pt", ".pth", ".bin"):
            return _prompt(path, name=path.stem, versions={}, **foreign.read_tensor(path))
        raise InputError(
            f"{path} is no NumPy file; give a prompt folder, or a .npy or .pt of [virtual tokens, "
            "width]"
        )
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); copy it again, or save it as a plain array"
        ) from error
    rows = peft.matrix(path, array)
    method = PromptTuningConfig(num_virtual_tokens=len(rows), init="random")
    return _prompt(path, tuned={"prompt": rows}, method=method, name=path.stem, versions={})


def _load_own(folder: Path) -> Prompt:
    path = folder / PROMPT_CONFIG
    values = read_json(path)
    if values.get("checksum") != checksum(values):
        raise damaged(path, "its checksum is not that of its content")
    if values["format"] != FORMAT:
        raise InputError(
            f"{path} has format {values['format']} and this version reads {FORMAT}; "
            "update prompt_jax"
        )
    weights = _weights_of(folder, OWN_WEIGHTS, *PEFT_WEIGHTS)
    fields = {f.name: values[f.name] for f in dataclasses.fields(Prompt) if f.name in values}
    fields["method"] = from_json(MethodConfig, fields["method"])
    if fields["trained_as"]:
        fields["trained_as"] = from_json(MethodConfig, fields["trained_as"])
        fields["training"] = _tree(_weights_of(folder, TRAINING_WEIGHTS))
    fields["task"] = fields["task"] and from_json(Task, fields["task"])
    fields["tasks"] = tuple(from_json(Task, task) for task in fields.get("tasks", ()))
    fields["name"] = fields["name"] or _name(folder)
    if weights.name == OWN_WEIGHTS:
        tuned = _tree(weights)
    else:
        adapter = _adapter(folder, weights, values.get("model_type", ""))
        tuned = from_paths(fitted(adapter.arrays, values.get("shapes", {})))
    prompt = _prompt(weights, tuned=tuned, **fields)
    if prompt.digest != values["digest"]:
        raise damaged(weights, f"its numbers have not the digest that {PROMPT_CONFIG} says")
    return prompt


def _load_peft(folder: Path, model_type: str) -> Prompt:
    weights = _weights_of(folder, *PEFT_WEIGHTS)
    about = _adapter(folder, weights, model_type)._asdict()
    tuned = from_paths(about.pop("arrays"))
    return _prompt(weights, tuned=tuned, name=_name(folder), versions={}, **about)


def _adapter(folder: Path, weights: Path, model_type: str) -> peft.Adapter:
    path = folder / peft.ADAPTER_CONFIG
    if not path.is_file():
        raise InputError(f"{folder} holds no {peft.ADAPTER_CONFIG}; copy it again")
    stored = peft.Stored(path, weights, read_json(path), peft.read_weights(weights), model_type)
    return peft.read_adapter(stored)


def _tree(path: Path) -> Any:
    return from_paths({name: tensor.read() for name, tensor in open_safetensors(path).items()})


def _prompt(path: Path, **fields: Any) -> Prompt:
    try:
        return Prompt(**fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _name(folder: Path) -> str:
    folder = folder.absolute()
    return folder.parent.name if folder.name == "prompt" else folder.name


def _weights_of(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} holds no weights, neither {' nor '.join(names)}; copy it again")
