"""What `prompt-jax doctor` tells of one device; eight_devices_commands.py asks it about a mesh."""

import importlib.metadata

import jax

from prompt_jax import cli, doctor
from prompt_jax.weights import read_config


def test_doctor_tells_versions_devices_and_weights(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert importlib.metadata.version("jax") in said and "1 x cpu" in said
    assert "mesh\n  1 cpu device\n" in said
    assert "embedding" in said and "whole on each" in said
    assert said.rstrip().endswith("to look at\n  nothing")


def test_doctor_tells_what_is_missing_and_on(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(doctor, "ACCELERATORS", {str(tmp_path): "a GPU: install it"})
    monkeypatch.setattr(doctor, "ROOM", 0.0)
    with jax.enable_x64(True), jax.disable_jit():
        said = doctor.examine(read_config("t5_1_1_small", dtype="bfloat16"))
    assert "no-such-package   not installed" in said
    assert "JAX sees no a GPU: install it" in said
    assert "jax_enable_x64 is on" in said and "jax_disable_jit is on" in said
    assert "weights take 0.2 of 17.2 GB of a device: take more devices" in said
