"""Reading prompts: our folders, PEFT's, other tools', and `.npy` files; nothing is trusted."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import numpy as np

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, MethodConfig, check_types, from_json
from prompt_jax.config.checks import refuse_unread
from prompt_jax.methods import PromptTuningConfig, init
from prompt_jax.methods.method import matrix, method_of
from prompt_jax.prompts import foreign, peft
from prompt_jax.prompts.card import flat
from prompt_jax.prompts.peft import PeftFolder, fitted
from prompt_jax.prompts.prompt import Prompt, from_paths
from prompt_jax.tasks import Task
from prompt_jax.trees import Tuned
from prompt_jax.weights.safetensors import open_safetensors
from prompt_jax.weights.stored import damaged, read_json

PROMPT_CONFIG = "prompt_jax_config.json"
OWN_WEIGHTS = "prompt.safetensors"
"""The weights of a prompt that PEFT cannot represent: under a name that PEFT does not look for."""
TRAINING_WEIGHTS = "training.safetensors"
"""What training ended with, where that is more than what is served."""
FORMAT = 1
PEFT_WEIGHTS = (peft.ADAPTER_WEIGHTS, peft.ADAPTER_PICKLE)
NUMPY_MAGIC = b"\x93NUMPY"
WRONG = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@overload
def load_prompt(path: str | Path) -> Prompt | PeftFolder: ...
@overload
def load_prompt(
    path: str | Path, backbone: Backbone, *, allow_mismatch: bool = False
) -> Prompt: ...
def load_prompt(
    path: str | Path, backbone: Backbone | None = None, *, allow_mismatch: bool = False
) -> Prompt | PeftFolder:
    """The prompt at a path, checked against the digest it was saved with.

    Args:
      path: a folder of `save_prompt`, a PEFT folder (prompt, P-, prefix or multitask prompt
        tuning, LoRA, IA3), a folder of AdapterHub's prompt tuning, one of TGIS or caikit with
        `decoder.pt` or `encoder.pt`, a run folder that holds `prompt/`, a NumPy file of [P, D],
        with or without the ending `.npy`, or such a tensor in a `.pt`.
      backbone: what it shall run on, from which is taken what the file does not know. Without it,
        what PEFT saved of LoRA, IA3 and prefix tuning is a `PeftFolder`: it has no shapes yet.
      allow_mismatch: as for `Prompt.on`.

    Raises:
      InputError: nothing there, or it is damaged, or no prompt, or does not fit the backbone.
    """
    prompt = _read(Path(path))
    return prompt if backbone is None else prompt.on(backbone, allow_mismatch=allow_mismatch)


def load_shaped(path: str | Path, backbone: Backbone | None = None) -> Prompt:
    """The prompt at a path, whatever backbone it is of; a `PeftFolder` gets its shapes.

    Args:
      backbone: what a `PeftFolder` takes its shapes from.

    Raises:
      InputError: as `load_prompt`, or it is a `PeftFolder` and there is no backbone.
    """
    prompt = load_prompt(path)
    if isinstance(prompt, PeftFolder):
        if backbone is not None:
            return prompt.on(backbone)
        raise InputError(
            f"{path} is PEFT's {prompt.peft_type}, which has neither rows before the input nor "
            "shapes without its backbone; import it first (prompt-jax prompts import)"
        )
    return prompt


def _read(path: Path) -> Prompt | PeftFolder:
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
        if "peft_type" not in values and foreign.is_adapterhub(values):
            about = foreign.read_adapterhub(path, values)
            return _prompt(path, name=_name(path), versions={}, **about)
        return _load_peft(path)
    except InputError:
        raise
    except WRONG as error:  # A value of a kind that nobody writes there, deep in some reader.
        raise damaged(config, f"it says what no prompt does ({error!r})") from error


def fresh(method: MethodConfig, backbone: Backbone, seed: int) -> Tuned:
    """`methods.init`, with the rows of `init_file` read where the method starts from a file.

    Raises:
      InputError: as `methods.init` and `load_prompt`, or an option that another one switches off.
    """
    refuse_unread(method, "", method.only_with)
    rows = load_shaped(method.start_file).rows if method.start_file else None
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
    if isinstance(prompt, PeftFolder):
        kind, digest = prompt.peft_type.lower(), prompt.digest[:12]
        return Listed(path.name, kind, prompt.size, prompt.backbone, "", digest)
    best = next(flat(prompt.metrics), None)
    value = best and (f"{best[1]:.4f}" if isinstance(best[1], float) else best[1])
    metric = f"{best[0]} {value}" if best else ""
    return Listed(
        path.name, prompt.method.kind, prompt.size, prompt.backbone, metric, prompt.digest[:12]
    )


def _prompt_folder(path: Path) -> Path | None:
    folders = (path, path / "prompt")
    return next((f for f in folders if is_prompt(f) or foreign.has_tensors(f)), None)


def is_prompt(folder: Path) -> bool:
    """Whether the folder itself holds a prompt, ours or PEFT's."""
    return any((folder / name).is_file() for name in (PROMPT_CONFIG, peft.ADAPTER_CONFIG))


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
    near = [str(path.parent / name) for name in near]
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
        # An array of objects is a pickle, which could run code.
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); copy it again, or save it as a plain array"
        ) from error
    rows = matrix(path, array)
    method = PromptTuningConfig(num_virtual_tokens=len(rows), init="random")
    return _prompt(path, tuned={"prompt": rows}, method=method, name=path.stem, versions={})


def _load_own(folder: Path) -> Prompt | PeftFolder:
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
    built = ("method", "trained_as", "task", "tasks")
    check_types(Prompt, {name: value for name, value in fields.items() if name not in built})
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
        stored, format = peft.open_adapter(folder, weights), method_of(fields["method"]).peft
        if format and format.fit and values["num_attention_heads"] is None:
            # Versions before `PeftFolder` saved one so, in shapes that are no backbone's.
            return PeftFolder(stored, fields["name"])
        leaves = peft.read_adapter(stored, values.get("model_type", ""))["leaves"]
        shapes = {path: tuple(shape) for path, shape in values.get("shapes", {}).items()}
        tuned = from_paths(dict(fitted(format, leaves, shapes)))
    prompt = _prompt(weights, tuned=tuned, **fields)
    if prompt.digest != values["digest"]:
        raise damaged(weights, f"its numbers have not the digest that {PROMPT_CONFIG} says")
    return prompt


def checksum(fields: Mapping[str, object]) -> str:
    """sha256 of the fields in canonical form, since JSON hides a flipped bit in a score."""
    fields = {name: value for name, value in fields.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _load_peft(folder: Path) -> Prompt | PeftFolder:
    weights = _weights_of(folder, *PEFT_WEIGHTS)
    loose = PeftFolder(peft.open_adapter(folder, weights), _name(folder))
    if loose.format.fit is not None:
        return loose
    fields = peft.read_adapter(loose.stored, "")
    tuned = from_paths(fields.pop("leaves"))
    return _prompt(weights, tuned=tuned, name=loose.name, versions={}, **fields)


def _tree(path: Path) -> Tuned:
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
