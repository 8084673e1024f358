"""Broken uploads and broken requests, by the thousand: refused, and nothing else.

FUZZ_SECONDS says how long each of the two goes on; ten minutes before a release.
"""

import dataclasses
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

from serving import KEYS, SIZES, prompt_of, serving  # noqa: E402

from prompt_jax.config import InputError  # noqa: E402
from prompt_jax.methods import LoraConfig, PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import Prompt, save_prompt  # noqa: E402
from prompt_jax.prompts.folder import checksum  # noqa: E402
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import create_app
from prompt_jax.serve.http.prompts import packed, unpacked
from prompt_jax.tasks import Task  # noqa: E402

SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))
pytestmark = pytest.mark.timeout(SECONDS + 280)
CHECKS = ",".join((
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance",
))  # fmt: skip
"""What schemathesis holds every answer against."""
ODD = (
    None, True, -1, 0, 2**63, 1e308, float("nan"), "", "../x", "\0", "x" * 5000, [], {}, [[[]]],
    {"a": None}, "SEQ_2_SEQ_LM", "float32", ["F32"], {"kind": "lora"}, "NaN",
)  # fmt: skip


def flipped(rng, data):
    """Some bytes changed, cut off, doubled or put in."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(0, max(len(data), 1)))
        match rng.integers(0, 4):
            case 0 if data:
                data[place % len(data)] = int(rng.integers(0, 256))
            case 1:
                del data[place:]
            case 2:
                del data[place : place + int(rng.integers(1, 64))]
            case _:
                data[place:place] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(data)


def bent(rng, value):
    """A JSON value with something odd in one of its places."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[rng.integers(0, len(value))]
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: bent(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = int(rng.integers(0, len(value)))
        return [*value[:place], bent(rng, value[place]), *value[place + 1 :]]
    return ODD[rng.integers(0, len(ODD))]


def bent_weights(rng, data):
    """Safetensors whose header says something odd."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    text = json.dumps(bent(rng, header)).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def zipped(files):
    """An archive of files."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return body.getvalue()


def broken(rng, files):
    """An archive in which something is wrong."""
    files = dict(files)
    name = sorted(files)[rng.integers(0, len(files))]
    match rng.integers(0, 6):
        case 0:
            del files[name]
        case 1:
            files[name] = flipped(rng, files[name])
        case 2:
            files[str(rng.choice(["../x", "a/b", "x.py", "aliases.json", "\u00e9"]))] = b"{}"
        case 3 if name.endswith(".safetensors"):
            files[name] = bent_weights(rng, files[name])
        case _ if name.endswith(".json"):
            values = bent(rng, json.loads(files[name]))
            if isinstance(values, dict) and rng.random() < 0.8:
                values["checksum"] = checksum(values)
            files[name] = json.dumps(values).encode()
    body = zipped(files)
    return flipped(rng, body) if rng.random() < 0.2 else body


@pytest.fixture(scope="module")
def uploads(tiny, tmp_path_factory):
    """The files of sound prompts, by name."""
    place, task = (
        tmp_path_factory.mktemp("uploads"),
        Task(name="films", source="{a}", target="{b}", labels=("x", "y")),
    )
    files = []
    for i, method in enumerate((PromptTuningConfig(num_virtual_tokens=3), LoraConfig(r=2))):
        prompt = dataclasses.replace(prompt_of(tiny, method, i), task=task)
        with zipfile.ZipFile(io.BytesIO(packed(save_prompt(place / str(i), prompt)))) as archive:
            files.append({name: archive.read(name) for name in archive.namelist()})
    return files


def refused_of(uploads, rng, goes_on):
    """How many broken archives are refused, and of how many."""
    count = refused = 0
    while goes_on(count):
        began = time.monotonic()
        try:
            assert isinstance(unpacked(broken(rng, uploads[count % 2])), Prompt)
        except InputError:
            refused += 1
        count += 1
        assert time.monotonic() - began < 5
    return refused, count


def test_some_broken_archives(uploads):
    refused, count = refused_of(uploads, np.random.default_rng(1), lambda count: count < 40)
    assert count / 4 < refused < count


def test_what_would_not_be_read_again_is_refused(uploads):
    """Values of another type than a prompt has there, whose checksum is right."""
    for fields, message in (
        ({"num_layers": []}, "Prompt has num_layers as"),
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1"),
        ({"metrics": 3}, "Prompt has metrics as"),
        ({"seed": True}, "Prompt has seed as"),
        ({"task": {"labels": ["bad", ["good"]]}}, "labels"),
        ({"task": {"values": [["0", 1]]}}, "values"),
        ({"method": {"init_scale": "1"}}, "init_scale"),
    ):
        values = json.loads(uploads[0]["prompt_jax_config.json"])
        for name, value in fields.items():
            values[name] = {**values[name], **value} if isinstance(value, dict) else value
        values["checksum"] = checksum(values)
        files = {**uploads[0], "prompt_jax_config.json": json.dumps(values).encode()}
        with pytest.raises(InputError, match=message) as error:
            unpacked(zipped(files))
        assert tempfile.gettempdir() not in str(error.value)


@pytest.mark.slow
def test_broken_archives(uploads):
    end = time.monotonic() + SECONDS
    refused, count = refused_of(uploads, np.random.default_rng(0), lambda _: time.monotonic() < end)
    print(f"{count} archives, {refused} refused")
    assert count > 100 and refused > count / 4


@pytest.mark.slow
def test_requests_that_the_description_allows_and_others(tiny_folder, tmp_path):
    command = Path(sys.executable).with_name("schemathesis")
    if not command.exists():
        pytest.skip("schemathesis is not installed")
    from prompt_jax.weights import load_backbone

    backbone = load_backbone(str(tiny_folder))
    store = Store(tmp_path / "store")
    store.put("films", prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=3), 1))
    with Engine(backbone, room=[PromptTuningConfig(num_virtual_tokens=8)], **SIZES) as engine:
        catalog = Catalog(engine, store)
        assert catalog.refresh() == []
        engine.warm_up()
        with serving(create_app(catalog, KEYS)) as address:
            given = [str(command), "run", f"{address}/openapi.json", "--no-color"]
            given += ["--header", "Authorization: Bearer admin", "--checks", CHECKS]
            given += ["--max-time", str(int(SECONDS)), "--continue-on-failure"]
            given += ["--request-timeout", "60"]  # A label of a new length is compiled for.
            done = subprocess.run(given, capture_output=True, text=True, cwd=tmp_path)
        assert engine.alive and done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        print(done.stdout[-1500:])
    shutil.rmtree(store.root)
