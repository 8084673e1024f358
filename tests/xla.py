"""How XLA compiles tests in half the time, where the installed version can."""

import importlib.metadata

_VERSION = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
# The older emitter of fused loops. A jaxlib without it ends the process at an unknown flag.
QUICK_COMPILE = "--xla_cpu_use_fusion_emitters=false" if _VERSION < (0, 11) else ""
