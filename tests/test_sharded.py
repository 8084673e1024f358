"""Everything on a mesh equals one device: eight_devices*.py, in a process that has eight.

XLA counts its devices once, before anything else, and with eight every other test would have them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = "--xla_force_host_platform_device_count=8"


def run_on_eight_devices(marker, processes="0"):
    here = Path(__file__).parent
    files = map(str, here.glob("eight_devices*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-n", processes, "-m", marker, *files]
    done = subprocess.run(
        command,
        env={**os.environ, "XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"},
        cwd=here.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_on_eight_devices():
    run_on_eight_devices("not slow")


@pytest.mark.slow
def test_every_backbone_method_and_mesh_on_eight_devices():
    run_on_eight_devices("slow", processes="2")
