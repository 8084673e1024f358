"""The memory and time of a run on devices that you do not have: it is compiled for them.

The programs are those of `train`, `evaluate` and `generate`; nothing is run and no weight is read.
"""

from prompt_jax.plan import published as published
from prompt_jax.plan.chips import TOPOLOGIES as TOPOLOGIES
from prompt_jax.plan.fitting import fitted as fitted
from prompt_jax.plan.fitting import plan_remat as plan_remat
from prompt_jax.plan.fitting import planned as planned
from prompt_jax.plan.plan import Plan as Plan
from prompt_jax.plan.plan import plan as plan
from prompt_jax.plan.plan import search as search
from prompt_jax.plan.published import price as price
from prompt_jax.plan.report import as_json as as_json
from prompt_jax.plan.report import draw as draw
from prompt_jax.plan.report import text as text
