"""Prefix tuning: trained keys and values before those of every layer (Li and Liang 2021).

P-tuning v2 is the same with another choice of attentions. A prefix that starts from a text takes
the keys and values which the frozen model makes of it, PEFT's best start for a prompt method.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from prompt_jax.backbones import Backbone
from prompt_jax.backbones.sockets import Attention
from prompt_jax.config import InputError, at_least, choose
from prompt_jax.config.checks import implied
from prompt_jax.forward import Injection
from prompt_jax.methods.kernels import by_place
from prompt_jax.methods.method import (
    FIXED,
    KEY,
    Leaves,
    PeftFormat,
    Shapes,
    Stored,
    matrix,
    register_method,
)
from prompt_jax.methods.p_tuning import apply_linear, linear
from prompt_jax.methods.virtual_tokens import VirtualTokens, text_tokens
from prompt_jax.trees import Tuned

Start = Literal["random", "zero", "text"]


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(VirtualTokens):
    """Trained keys and values before those of every layer (Li and Liang 2021)."""

    kind = "prefix_tuning"
    rates = {"adamw": 0.1}
    only_with = {"encoder_hidden_size": ("prefix_projection", True)}

    encoder: bool = True
    """Whether the encoder's self-attention has a prefix."""
    decoder: bool = True
    """Whether the decoder's self-attention has one; PEFT trains this one only."""
    cross: bool = True
    """Whether the decoder's attention to the encoder has one."""
    prefix_projection: bool = False
    """Whether an MLP writes the keys and values from one embedding a virtual token."""
    encoder_hidden_size: int = 256
    """Width inside that MLP."""
    init: Start | None = None
    """Where the prefix starts: small noise, zeros, or what the frozen model makes of a text. None
    is a text where init_text is given, and else noise."""
    init_text: str | None = None
    """The text of `init="text"`; repeated or cut to num_virtual_tokens. Empty takes the task's
    instruction: task.system, or the words of task.source around its columns."""
    num_frozen_tokens: int = 0
    """How many of the first virtual tokens stay as they start. With `init="text"`, 1 keeps the
    token that all others look at, an attention sink (Eyuboglu et al. 2025). PEFT's CARTRIDGE."""

    def __post_init__(self):
        super().__post_init__()
        at_least("num_frozen_tokens", self.num_frozen_tokens, 0)
        if self.num_frozen_tokens >= self.num_virtual_tokens:
            raise InputError(
                f"num_frozen_tokens is {self.num_frozen_tokens} of {self.num_virtual_tokens} "
                "virtual tokens, and none is left to train; freeze fewer, or raise "
                "num_virtual_tokens"
            )
        if self.num_frozen_tokens and self.prefix_projection:
            raise InputError(
                "num_frozen_tokens keeps keys and values, and prefix_projection computes them; use "
                "one"
            )
        choose("init", self.start, get_args(Start))
        at_least("encoder_hidden_size", self.encoder_hidden_size, 1, "as wide as the prefix's MLP")
        if not (self.encoder or self.decoder or self.cross):
            raise InputError("no attention has a prefix; set encoder, decoder or cross")
        if self.start == "text" and self.prefix_projection:
            raise InputError(
                'init="text" sets keys and values, and prefix_projection computes them; use one'
            )

    @property
    def start(self) -> str:
        """Where the prefix starts: `init`, or what stands for None."""
        return self.init or implied(self, {"init_text": "text"}, "random")

    @property
    def virtual_axis(self) -> int | None:
        # Padding on the left would stand between virtual tokens that are fixed and others.
        return None if self.prefix_projection or self.num_frozen_tokens else -3


@dataclass(frozen=True, kw_only=True)
class PTuningV2Config(PrefixTuningConfig):
    """Deep prompts in every layer (Liu et al. 2022): a prefix without one for cross-attention."""

    kind = "p_tuning_v2"
    rates = {"adamw": 0.3}

    cross: bool = False


NOISE = 0.02


def init(
    config: PrefixTuningConfig,
    backbone: Backbone,
    key: PRNGKeyArray,
) -> Tuned:
    """A fresh tree: by attention, `key` and `value` [L, P, H, K]; or an MLP that writes them.

    Of `num_frozen_tokens`, the first so many are in a branch `fixed`.
    """
    places = _places(config, backbone)
    if config.start == "text":
        return _apart(config, _of_text(config, backbone, places))
    keys = jax.random.split(key, 2 + len(places))
    zero = 0.0 if config.start == "zero" else 1.0
    if not config.prefix_projection:
        return _apart(
            config,
            {
                path: _noise(k, (2, p.layers, config.num_virtual_tokens, p.heads, p.width), zero)
                for k, (path, p) in zip(keys[2:], places.items(), strict=True)
            },
        )
    width, hidden = backbone.width, config.encoder_hidden_size
    outputs = {
        path: {
            "kernel": zero
            * linear(k, hidden, 2 * p.layers * p.heads * p.width)["kernel"].reshape(
                hidden, 2, p.layers, p.heads, p.width
            )
        }
        for k, (path, p) in zip(keys[2:], places.items(), strict=True)
    }
    return {
        "embedding": jax.random.normal(keys[0], (config.num_virtual_tokens, width)),
        "inner": linear(keys[1], width, hidden),
        "outer": _unflatten(outputs),
    }


def _places(config: PrefixTuningConfig, backbone: Backbone) -> dict[str, Attention]:
    attentions = backbone.sockets.attentions
    places = {path: place for path, place in attentions.items() if getattr(config, place.role)}
    if not places:
        roles = sorted({place.role for place in attentions.values()})
        raise InputError(
            f"backbone {backbone.name!r} has none of the attentions asked for; it has: "
            f"{', '.join(roles)}; set these fields"
        )
    return places


def _noise(key: PRNGKeyArray, shape: tuple[int, ...], scale: float) -> Tuned:
    return dict(zip(("key", "value"), scale * NOISE * jax.random.normal(key, shape), strict=True))


def _of_text(config: PrefixTuningConfig, backbone: Backbone, places: dict[str, Attention]) -> Tuned:
    tokens = text_tokens(config.init_text, backbone, "random")
    tokens = np.resize(np.asarray(tokens), config.num_virtual_tokens)
    states = backbone.keys_and_values(tokens)
    # What is trained is float32, whatever the backbone computes in.
    return {path: jax.tree.map(lambda v: v.astype(jnp.float32), states[path]) for path in places}


def _apart(config: PrefixTuningConfig, prefixes: Tuned) -> Tuned:
    """The tree of prefixes by path, the first rows of each where nothing trains them."""
    count = config.num_frozen_tokens
    if not count:
        return _unflatten(prefixes)
    first, rest = (
        _unflatten(jax.tree.map(lambda leaf, part=part: leaf[:, part], dict(prefixes)))
        for part in (slice(count), slice(count, None))
    )
    return {FIXED: first, **rest}


def _unflatten(leaves: Tuned) -> Tuned:
    return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def keys_and_values(config: PrefixTuningConfig, tuned: Tuned) -> Tuned:
    """The prefix of every attention by path, whether it is trained itself or written."""
    if not config.prefix_projection:
        trained = {name: branch for name, branch in tuned.items() if name != FIXED}
        if FIXED in tuned:
            fixed = jax.lax.stop_gradient(tuned[FIXED])
            join = lambda first, rest: jnp.concatenate([first, rest], axis=1)  # noqa: E731
            trained = jax.tree.map(join, fixed, trained)
        return {"/".join(path): leaves for path, leaves in by_place(trained).items()}
    # PEFT's prefix encoder also has tanh between its two maps.
    hidden = jnp.tanh(apply_linear(tuned["inner"], tuned["embedding"]))
    return {
        "/".join(path): dict(
            zip(
                ("key", "value"),
                jnp.einsum("pi,ijlhk->jlphk", hidden, layer["kernel"]),
                strict=True,
            )
        )
        for path, layer in by_place(tuned["outer"]).items()
    }


def materialize(
    config: PrefixTuningConfig, tuned: Tuned, key: PRNGKeyArray | None = None
) -> Injection:
    """The prefixes, in their attentions' sockets."""
    prefixes = keys_and_values(config, tuned)
    sockets = _unflatten({f"{path}/prefix": leaves for path, leaves in prefixes.items()})
    return Injection(sockets=dict(sockets))


def simplify(config: PrefixTuningConfig, tuned: Tuned) -> tuple[PrefixTuningConfig, Tuned]:
    """The same prefix without the MLP that wrote it."""
    if not config.prefix_projection:
        return config, tuned
    plain = dataclasses.replace(config, prefix_projection=False)
    return plain, _unflatten(keys_and_values(config, tuned))


CARTRIDGE = "CARTRIDGE"
"""What PEFT calls a prefix whose first virtual tokens are not trained."""
WITHOUT_CACHE = ("deberta-v2", "distilbert", "modernbert")
"""Models that take no keys and values from outside in Transformers."""


def obstacle(config: PrefixTuningConfig, leaves: Leaves, model_type: str) -> str:
    """Why PEFT would run this prefix differently, and what to do."""
    if model_type in WITHOUT_CACHE:
        return f"PEFT has no prefixes for {model_type}, whose attentions read no other keys there"
    if config.prefix_projection:
        return "its keys and values are not computed yet; make the prompt with prompt_for"
    if config.task_type != "SEQ_2_SEQ_LM":
        return ""  # One attention, and PEFT puts it there.
    elsewhere = [role for role in ("encoder", "cross") if getattr(config, role)]
    if elsewhere:
        return (
            "PEFT puts a prefix into the decoder's self-attention alone and this one has "
            f"{' and '.join(f'{role}=True' for role in elsewhere)}; train with encoder=False and "
            "cross=False"
        )
    return ""


def write(
    config: PrefixTuningConfig, leaves: Leaves, model_type: str
) -> tuple[dict[str, object], Leaves]:
    """PEFT's fields, and the tensor [P, 2 * L * H * K], twice as wide for T5.

    With virtual tokens that are fixed it is PEFT's CARTRIDGE, and else its PREFIX_TUNING.

    In a model of one stack, a row is a key and a value a layer. On T5 they are the decoder's, and
    PEFT cuts a row into `2 * num_layers` parts, repeats them for the second stack, and deals them
    out by four: a key and a value for self-attention, and two for cross-attention that it then
    drops. So the second half of the layers gets what the first half has. Saying twice as many
    layers as there are, with zeros in the dropped places, gives every layer its own.
    """
    first = sorted(path for path in leaves if path.startswith(f"{FIXED}/"))
    rest = sorted(set(leaves) - set(first))
    key, value = (
        np.concatenate([leaves[path] for path in paths], axis=1)
        for paths in zip(*([first] if first else []), rest, strict=True)
    )
    layers, virtual, heads, width = key.shape
    stacks = 1 + (config.task_type == "SEQ_2_SEQ_LM")
    parts = np.zeros((virtual, 2 * stacks * layers, heads, width), np.float32)
    parts[:, 0 :: 2 * stacks] = np.moveaxis(key, 0, 1)
    parts[:, 1 :: 2 * stacks] = np.moveaxis(value, 0, 1)
    fields: dict[str, object] = {
        "num_attention_heads": heads,
        "num_layers": stacks * layers,
        "num_transformer_submodules": stacks,
        "num_virtual_tokens": virtual,
        "token_dim": heads * width,
    }
    if config.num_frozen_tokens:
        fields |= {"peft_type": CARTRIDGE, "num_frozen_tokens": config.num_frozen_tokens}
    else:
        fields |= {"encoder_hidden_size": heads * width, "prefix_projection": False}
    return fields, {KEY: parts.reshape(virtual, -1)}


def read(stored: Stored, model_type: str) -> tuple[PrefixTuningConfig, Leaves]:
    """The method, and `key` and `value` for as many layers as PEFT would have some for."""
    stored.expect([KEY])
    both = stored.task_type == "SEQ_2_SEQ_LM"
    if both and stored.submodules != 2:
        raise InputError(
            f"{stored.config} has num_transformer_submodules {stored.submodules}, with which PEFT "
            "runs no prefix on T5; allowed: 2; train with that"
        )
    rows = matrix(stored.weights, stored.tensors[KEY])
    virtual = stored.whole("num_virtual_tokens", len(rows))
    layers, heads = stored.whole("num_layers"), stored.whole("num_attention_heads")
    inner = stored.whole("token_dim")
    if rows.shape != (virtual, 2 * layers * inner) or inner % heads:
        raise stored.mismatch(
            f"{virtual} virtual tokens, {layers} layers, token_dim {inner} and {heads} heads make "
            f"a tensor {[virtual, 2 * layers * inner]}, and {KEY} is {list(rows.shape)}"
        )
    parts = rows.reshape(virtual, 2 * layers, heads, inner // heads).swapaxes(0, 1)
    method = PrefixTuningConfig(
        num_virtual_tokens=virtual,
        num_frozen_tokens=_frozen_tokens(stored, virtual),
        encoder=not both,
        cross=not both,
    )
    if not both:
        return method, {"key": parts[0::2], "value": parts[1::2]}
    # PEFT repeats the parts for the second stack, see `write`.
    parts = np.concatenate([parts, parts])
    return method, {"key": parts[0::4], "value": parts[1::4]}


def _frozen_tokens(stored: Stored, virtual: int) -> int:
    """How many of the first virtual tokens of a cartridge are fixed; of a prefix, none."""
    if stored.values.get("peft_type") != CARTRIDGE or stored.values.get("num_frozen_tokens") == 0:
        return 0
    frozen = stored.whole("num_frozen_tokens", 1)
    # One of which PEFT trained nothing runs as any other, and there is nothing to go on with.
    return frozen if frozen < virtual else 0


def fit(leaves: Leaves, shapes: Shapes) -> Leaves:
    """The keys and values in the only attention that has a prefix.

    Which one that is, and how many layers it has, the backbone says. A decoder with fewer layers
    takes the first ones, as in PEFT, which leaves out the rest.
    """
    fitted = {}
    for path, shape in shapes.items():
        leaf = leaves.get(path.rpartition("/")[2])
        if leaf is not None:
            layers, rows, *rest = shape
            if list(leaf.shape[2:]) == rest:
                # The first rows are those that are fixed.
                first = 0 if path.startswith(f"{FIXED}/") else leaf.shape[1] - rows
                leaf = leaf[:layers, first : first + rows]
            fitted[path] = leaf
    return fitted


PEFT = PeftFormat("PREFIX_TUNING", read, write, obstacle, fit, kin=(CARTRIDGE,))
for kind in (PrefixTuningConfig, PTuningV2Config):
    register_method(kind, init=init, materialize=materialize, simplify=simplify, peft=PEFT)
