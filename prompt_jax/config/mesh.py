"""How many devices there are along each axis of a mesh."""

from dataclasses import dataclass
from typing import Literal

from prompt_jax.config.checks import InputError

Size = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The devices as a grid; by default every device has the whole model and part of a batch."""

    data: Size = "auto"
    """Groups of devices that share out the rows of a batch, each with a whole model; auto is all
    devices that the other two leave, and so 1 on one device."""
    fsdp: Size = 1
    """Devices that share out rows and weights, and gather the weights of a layer as they come to
    it; auto is what a model too large for `tensor` devices needs."""
    tensor: Size = 1
    """Devices that share out the heads, the feed-forward and the vocabulary; auto is what a model
    too large for one device needs, of those on one host."""

    def __post_init__(self):
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            if size != "auto" and (not isinstance(size, int) or size < 1):
                raise InputError(f'mesh.{name} must be at least 1, or "auto", got {size!r}')
