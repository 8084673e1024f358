"""Everything on a mesh equals one device: eight_devices*.py, in a process that has eight.

XLA counts its devices once, before anything else, and with eight every other test would have them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = "--xla_force_host_platform_device_count=8"


@pytest.mark.slow
def test_on_eight_devices():
    here = Path(__file__).parent
    files = map(str, here.glob("eight_devices*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "--dist", "worksteal", "-m", "", *files]
    done = subprocess.run(
        command,
        env={**os.environ, "XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"},
        cwd=here.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
