"""How XLA compiles tests in half the time, where the installed version can."""

import importlib.metadata

_VERSION = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
# The older emitter of fused loops, and each program in one piece: many are tiny, and cutting them
# up for several cores costs more than it gives. A jaxlib without a flag ends the process at it.
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
QUICK_COMPILE = _FLAGS if _VERSION < (0, 11) else ""
