"""Rotary position embeddings (Su et al. 2021), plain and stretched to longer texts."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.config import ConfigJson
from prompt_jax.config import InputError, choose

ROPE_TYPES = ("default", "linear", "llama3", "yarn")


class Rope(NamedTuple):
    """How fast positions turn, and how that is stretched."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    """For `llama3` and `yarn`: what turns `high` times or more within so many positions stays, what
    turns `low` times or less is stretched by `factor`, and what lies between partly."""
    attention: float = 1.0
    """What `yarn` multiplies queries and keys with, as stretched scores are flatter."""
    truncate: bool = True
    """Whether, for `yarn`, what lies between begins and ends at whole pairs of a head."""

    @property
    def reach(self) -> int:
        """Positions that yarn stretches to; configs that use it may still say `original`."""
        return int(self.factor * self.original) if self.kind == "yarn" else 0


def read_rope(values: ConfigJson, limit: int) -> Rope:
    """What a config.json says: in `rope_parameters`, or in two fields before Transformers 5.

    Args:
      limit: positions of the model, what was not stretched where nothing else is said.
    """
    fields = values.get("rope_parameters") or values.get("rope_scaling") or {}
    part = fields.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    if part not in (None, 1) or any(isinstance(value, Mapping) for value in fields.values()):
        raise InputError(
            f"config.json has rope_parameters {dict(fields)} and partial_rotary_factor {part}, "
            "which is not supported; allowed: the same for all layers, for whole heads; use "
            "another checkpoint of the family"
        )
    kind = fields.get("rope_type", fields.get("type", "default"))
    choose("rope_type", kind, ROPE_TYPES)
    rope = Rope(fields.get("rope_theta", values.get("rope_theta", 10000.0)), kind)
    if kind == "default":
        return rope
    original = fields.get("original_max_position_embeddings") or limit
    factor = fields.get("factor") or limit / original
    if kind == "linear":
        return rope._replace(factor=factor)
    rope = rope._replace(factor=factor, original=original)
    if kind == "llama3":
        low, high = fields.get("low_freq_factor", 1.0), fields.get("high_freq_factor", 4.0)
        return rope._replace(low=low, high=high)
    return rope._replace(
        low=fields.get("beta_slow") or 1.0,
        high=fields.get("beta_fast") or 32.0,
        attention=_attention(factor, fields),
        truncate=fields.get("truncate", True),
    )


def _attention(factor: float, fields: ConfigJson) -> float:
    """What yarn multiplies queries and keys with (Peng et al. 2023, section 3.4)."""
    if fields.get("attention_factor") is not None:
        return fields["attention_factor"]
    scale, all_dim = fields.get("mscale"), fields.get("mscale_all_dim")
    longer = 0.1 * math.log(max(factor, 1.0))
    return (longer * scale + 1) / (longer * all_dim + 1) if scale and all_dim else longer + 1


def write_rope(rope: Rope) -> ConfigJson:
    """`rope_parameters` of a config.json; the reverse of `read_rope`."""
    fields = {"rope_theta": rope.theta, "rope_type": rope.kind}
    if rope.kind == "default":
        return fields
    fields["factor"] = rope.factor
    if rope.kind == "linear":
        return fields
    fields["original_max_position_embeddings"] = rope.original
    if rope.kind == "llama3":
        return fields | {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
    names = {"beta_slow": "low", "beta_fast": "high", "attention_factor": "attention"}
    fields |= {name: getattr(rope, field) for name, field in names.items()}
    return fields | {"truncate": rope.truncate}


def rotations(
    rope: Rope | None, positions: Int[Array, "B T"], width: int
) -> Float[Array, "2 B T K"]:
    """Cosine and sine of every position's angles, K = `width`; float32.

    Without a rope all angles are zero, which turns nothing, to the bit.
    """
    if rope is None:
        still = jnp.zeros((*positions.shape, width))
        return jnp.stack([still + 1, still])
    rates = rope.theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    kept = _kept(rope, rates, width)
    rates = rates * kept + rates / rope.factor * (1 - kept)
    # In float32: bfloat16 has no digits left for the angle of a far position.
    angles = positions[..., None].astype(jnp.float32) * rates[None, None, :]
    # Checkpoints of Hugging Face pair number i of a head with i + K/2, not with its neighbour.
    angles = jnp.concatenate([angles, angles], axis=-1)
    # Queries and keys both have it, so that scores grow by its square, as in Transformers.
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)]) * rope.attention


def _kept(rope: Rope, rates: Float[Array, " R"], width: int) -> Float[Array, " R"] | float:
    """How far every rate stays what it was, from 1 to 0 for one that is stretched by the factor."""
    if rope.kind in ("default", "linear"):
        return float(rope.kind == "default")
    if rope.kind == "llama3":
        turns = rope.original * rates / (2 * math.pi)
        return jnp.clip((turns - rope.low) / (rope.high - rope.low), 0.0, 1.0)
    # Yarn goes evenly from pair to pair of a head, from the one that turns `high` times on.
    ends = [rope.original / (turns * 2 * math.pi) for turns in (rope.high, rope.low)]
    first, last = (width * math.log(end) / (2 * math.log(rope.theta)) for end in ends)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    pairs = jnp.arange(len(rates), dtype=jnp.float32)
    # Both ends may be the same pair, and Transformers has the same 0.001 then.
    return 1 - jnp.clip((pairs - first) / (last - first or 0.001), 0.0, 1.0)


def rotate(x: Float[Array, "B T H K"], turn: Float[Array, "2 B T K"]) -> Float[Array, "B T H K"]:
    """Each half of every head turned against the other."""
    # Rounded to the type of the states before the product, as in Transformers.
    cos, sin = (part[:, :, None, :].astype(x.dtype) for part in turn)
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * jnp.broadcast_to(cos, x.shape) + turned * jnp.broadcast_to(sin, x.shape)
