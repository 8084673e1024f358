"""A prompt with its identity, and whether it fits a backbone."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from prompt_jax.backbones import Backbone
from prompt_jax.config import InputError, PromptTuningConfig
from prompt_jax.methods.injection import Injection
from prompt_jax.tasks import Task


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("prompt_jax", "jax", "flax", "numpy"):
        # A checkout that was never installed has no version to tell.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Trained virtual tokens and all that is needed to use them elsewhere.

    An empty string is what is not known: a `.npy` names no backbone.

    Raises:
      InputError: the rows are not [P, D], not finite, or not as many as the method says.
    """

    rows: np.ndarray
    """[P, D], float32 and read-only, so that the digest stays true."""
    method: PromptTuningConfig
    """How the rows were made and where they stand."""
    name: str = ""
    backbone: str = ""
    """Name of the backbone it was trained on."""
    fingerprint: str = ""
    """That backbone's fingerprint."""
    tokenizer_hash: str = ""
    """`tokenizer_hash` of that backbone's tokenizer."""
    num_layers: int | None = None
    num_attention_heads: int | None = None
    """With `num_layers` in PEFT's config, whose readers may want them without the model."""
    task: Task | None = None
    """Templates, label words and metrics it was trained with."""
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Scores, the deciding one first."""
    seed: int | None = None
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The config that trained it; plain JSON."""
    versions: dict[str, str] = dataclasses.field(default_factory=_versions)

    def __post_init__(self):
        rows = np.array(self.rows, np.float32, order="C")
        if rows.ndim != 2 or 0 in rows.shape:
            raise InputError(
                f"a prompt is an array [virtual tokens, width], got shape {list(rows.shape)}"
            )
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            raise InputError(
                f"the prompt holds NaN or inf in {bad.size} of {len(rows)} rows, first in row "
                f"{bad[0]}; take an earlier checkpoint or train with a lower learning rate"
            )
        if self.method.num_virtual_tokens != len(rows):
            raise InputError(
                f"the method says {self.method.num_virtual_tokens} virtual tokens and the prompt "
                f"holds {len(rows)}; set num_virtual_tokens={len(rows)}"
            )
        rows.setflags(write=False)
        object.__setattr__(self, "rows", rows)
        # As they will be read from a file: no NumPy scalars, no tuples.
        for name in ("metrics", "recipe"):
            plain = json.loads(json.dumps(getattr(self, name), default=_plain))
            object.__setattr__(self, name, plain)

    @property
    def digest(self) -> str:
        """sha256 of the shape and the numbers: the same for the same prompt, whatever its file."""
        numbers = self.rows.astype("<f4").tobytes()
        return hashlib.sha256(f"{self.rows.shape}".encode() + numbers).hexdigest()

    def injection(self) -> Injection:
        """What the prompt puts into the frozen model."""
        return Injection(jnp.asarray(self.rows))


def prompt_for(
    rows: Float[Any, "P D"], method: PromptTuningConfig, backbone: Backbone, **about: Any
) -> Prompt:
    """The prompt of `rows` trained on `backbone`, with the backbone's identity filled in.

    Args:
      rows: [P, D], numpy or jax, of any float type.
      method: how they were made.
      backbone: what they were trained on.
      about: other fields of `Prompt`: name, task, metrics, seed, recipe.

    Raises:
      InputError: the rows are no prompt, see `Prompt`.
    """
    return Prompt(rows=np.asarray(rows), method=method, **{**_identity(backbone), **about})


def _identity(backbone: Backbone) -> dict[str, Any]:
    return {
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "tokenizer_hash": tokenizer_hash(backbone.tokenizer),
        "num_layers": backbone.config.num_layers,
        "num_attention_heads": backbone.config.num_heads,
    }


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over the sorted vocabulary; empty without a tokenizer.

    Neither paths nor file formats go in, so copies of one tokenizer agree.
    """
    if tokenizer is None:
        return ""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def check_fits(prompt: Prompt, backbone: Backbone, *, allow_mismatch: bool = False) -> None:
    """Checks that the prompt was trained on this backbone, as far as its file tells.

    A prompt on other weights of the same width runs and means nothing, so it is refused.

    Args:
      prompt: what is not known about it (an empty fingerprint) is not checked.
      backbone: what it shall run on.
      allow_mismatch: lets another fingerprint or tokenizer pass; another width never does.

    Raises:
      InputError: width, fingerprint or tokenizer differ.
    """
    names = f"prompt {prompt.name or prompt.digest[:12]!r}", f"backbone {backbone.name!r}"
    width = prompt.rows.shape[1]
    if width != backbone.width:
        raise InputError(
            f"{names[0]} is {width} wide and {names[1]} is {backbone.width}; use the backbone that "
            f"it was trained on{f' ({prompt.backbone})' if prompt.backbone else ''}"
        )
    if allow_mismatch:
        return
    theirs = prompt.fingerprint, prompt.tokenizer_hash
    for what, ours, its in zip(
        ("weights", "tokenizer"),
        (backbone.fingerprint, tokenizer_hash(backbone.tokenizer)),
        theirs,
        strict=True,
    ):
        if ours and its and ours != its:
            raise InputError(
                f"{names[0]} was trained on other {what} ({prompt.backbone or 'unnamed'}, sha256 "
                f"{its[:12]}) than {names[1]} has (sha256 {ours[:12]}); use that backbone, or pass "
                "allow_mismatch=True (--allow-mismatch) to run it all the same"
            )


def adopt(prompt: Prompt, backbone: Backbone) -> Prompt:
    """The prompt with the backbone's identity where its own is unknown."""
    unknown = {k: v for k, v in _identity(backbone).items() if not getattr(prompt, k)}
    return dataclasses.replace(prompt, **unknown)
