"""Rotary position embeddings (Su et al. 2021), plain and stretched to longer texts."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_jax.backbones.causal.model_types import PARTIAL
from prompt_jax.backbones.config import ConfigJson
from prompt_jax.config import InputError, choose

ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")


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
    part: float = 1.0
    """How much of a head turns, from its front."""
    short: tuple[float, ...] = ()
    """For `longrope`: by how much every pair turns slower in texts of at most `original` positions.
    Longer ones turn at other rates from their first position on, and are not read here."""
    long: tuple[float, ...] = ()
    """The same for those, kept for the file."""

    def reach(self, limit: int) -> int:
        """Positions of a model whose config says `limit`: yarn's may still say `original`."""
        if self.kind == "yarn":
            return max(limit, int(self.factor * self.original))
        return min(limit, self.original) if self.kind == "longrope" else limit

    def turning(self, width: int) -> int:
        """How many numbers of a head turn, of `width`."""
        return int(width * self.part)

    def check(self, width: int) -> None:
        """Checks that a head of this width can turn so.

        Raises:
          InputError: it cannot.
        """
        pairs = self.turning(width) // 2
        if self.kind == "longrope" and len(self.short) != pairs:
            raise InputError(
                f"short_factor must have {pairs} numbers, one for each pair of a head that turns, "
                f"got {len(self.short)}; use the config.json that belongs to the weights"
            )


def read_rope(values: ConfigJson, limit: int) -> Rope:
    """What a config.json says: in `rope_parameters`, or in two fields before Transformers 5.

    Args:
      limit: positions of the model, what was not stretched where nothing else is said.
    """
    fields = values.get("rope_parameters") or values.get("rope_scaling") or {}
    part = fields.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    part, model_type = 1.0 if part is None else part, values.get("model_type")
    refused = part != 1 and model_type not in PARTIAL
    if refused or any(isinstance(value, Mapping) for value in fields.values()):
        raise InputError(
            f"config.json has rope_parameters {dict(fields)} and partial_rotary_factor {part}, "
            "which is not supported; allowed: the same for all layers, for whole heads; use "
            "another checkpoint of the family"
        )
    kind = fields.get("rope_type", fields.get("type", "default"))
    if model_type == "phi3" and kind in ("su", "yarn"):  # As its first files call it.
        kind = "longrope"
    choose("rope_type", kind, ROPE_TYPES)
    rope = Rope(fields.get("rope_theta", values.get("rope_theta", 10000.0)), kind, part=part)
    if kind == "default":
        return rope
    word = "original_max_position_embeddings"
    original = values.get(word) or fields.get(word) or limit
    factor = fields.get("factor") or limit / original
    if kind == "linear":
        return rope._replace(factor=factor)
    rope = rope._replace(factor=factor, original=original)
    if kind == "longrope":
        grown = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        return rope._replace(
            attention=fields.get("attention_factor") or grown,
            short=tuple(fields.get("short_factor", ())),
            long=tuple(fields.get("long_factor", ())),
        )
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
    """`rope_parameters` of a config.json; the reverse of `read_rope`.

    The part that turns is not in it, as most families know none.
    """
    fields = {"rope_theta": rope.theta, "rope_type": rope.kind}
    if rope.kind == "default":
        return fields
    fields["factor"] = rope.factor
    if rope.kind == "linear":
        return fields
    fields["original_max_position_embeddings"] = rope.original
    if rope.kind == "longrope":
        factors = {"short_factor": list(rope.short), "long_factor": list(rope.long)}
        return fields | factors | {"attention_factor": rope.attention}
    if rope.kind == "llama3":
        return fields | {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
    names = {"beta_slow": "low", "beta_fast": "high", "attention_factor": "attention"}
    fields |= {name: getattr(rope, field) for name, field in names.items()}
    return fields | {"truncate": rope.truncate}


def rotations(
    rope: Rope | None, positions: Int[Array, "B T"], width: int
) -> Float[Array, "2 B T K"]:
    """Cosine and sine of every position's angles, for as much of `width` as turns; float32.

    Without a rope all angles are zero, which turns nothing, to the bit.
    """
    if rope is None:
        still = jnp.zeros((*positions.shape, width))
        return jnp.stack([still + 1, still])
    width = rope.turning(width)
    rates = rope.theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    rates = rates / jnp.array(rope.short) if rope.short else rates
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
    if rope.kind in ("default", "linear", "longrope"):
        return float(rope.kind != "linear")
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


def rotate(x: Float[Array, "B T H K"], turn: Float[Array, "2 B T R"]) -> Float[Array, "B T H K"]:
    """Each half of every head turned against the other; of a head only as much as `turn` has."""
    width = turn.shape[-1]
    if width < x.shape[-1]:
        return jnp.concatenate([rotate(x[..., :width], turn), x[..., width:]], axis=-1)
    # Rounded to the type of the states before the product, as in Transformers.
    cos, sin = (part[:, :, None, :].astype(x.dtype) for part in turn)
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * jnp.broadcast_to(cos, x.shape) + turned * jnp.broadcast_to(sin, x.shape)
