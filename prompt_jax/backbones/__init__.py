"""Frozen models: embeddings in, logits out, no word about prompts.

A family is a package that binds what `families.Family` names; `t5`, `causal` and `bert` are there.
"""

from prompt_jax.backbones.backbone import Backbone as Backbone
from prompt_jax.backbones.config import ModelConfig as ModelConfig
from prompt_jax.backbones.families import BACKBONES as BACKBONES
from prompt_jax.backbones.families import FAMILIES as FAMILIES
from prompt_jax.backbones.families import PRESETS as PRESETS
from prompt_jax.backbones.families import Family as Family
from prompt_jax.backbones.families import family_of as family_of
from prompt_jax.backbones.parameters import boxed_shapes as boxed_shapes
from prompt_jax.backbones.parameters import init_params as init_params
from prompt_jax.backbones.parameters import shardings as shardings
