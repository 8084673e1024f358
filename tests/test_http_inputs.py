"""What a server is given by its operator and by those who upload: keys, hosts and archives."""

import dataclasses
import io
import json
import tempfile
import zipfile

import pytest

pytest.importorskip("fastapi")

from serving import SIZES, digest, prompt_of  # noqa: E402

from prompt_jax.config import InputError  # noqa: E402
from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import create_app
from prompt_jax.serve.http.auth import Key, Keys, read_keys
from prompt_jax.serve.http.prompts import packed, unpacked
from prompt_jax.serve.http.run import check_open


def test_keys_of_a_file(tmp_path):
    file = tmp_path / "keys.json"
    rows = [{"name": "a", "sha256": digest("one").upper(), "prompts": ["films-*"]}]
    rows += [{"name": "b", "sha256": digest("two"), "scopes": ["infer", "admin"]}]
    file.write_text(json.dumps(rows))
    keys = read_keys(file)
    a, b = keys.find("Bearer one"), keys.find("bearer two")
    assert a == Key("a", digest("one"), ("infer",), ("films-*",)) and b.scopes == ("infer", "admin")
    assert a.sees("films-1") and not a.sees("films") and b.sees("films")
    for header in (
        None,
        "",
        "one",
        "Basic one",
        "Bearer",
        "Bearer ",
        "Bearer One",
        "Bearer \ud800",
    ):
        assert keys.find(header) is None
    assert Keys().find(None).scopes == ("infer", "admin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("{}", "is a JSON list of keys, at least one"),
        ("[]", "is a JSON list of keys, at least one"),
        ('[{"name": "a"}]', "key 0 of .* has name, prompts, scopes, sha256, got"),
        ('[{"name": "a", "sha256": "x", "key": 1}]', "key 0 of .* has name"),
        ('[{"name": "a", "sha256": "x"}]', "sha256 of key 0 of .* is 64 hex digits"),
        (
            json.dumps([{"name": "a", "sha256": "0" * 64, "scopes": ["all"]}]),
            "scopes of key 0 of .* are of .*'infer', 'admin'.*, got",
        ),
    ],
)
def test_no_keys(text, message, tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_a_model_without_a_tokenizer_is_not_served(tiny, tmp_path):
    bare = dataclasses.replace(tiny, tokenizer=None)
    with Engine(bare, **SIZES) as engine, pytest.raises(InputError, match="has no tokenizer, and"):
        create_app(Catalog(engine, Store(tmp_path)), Keys())


def test_without_keys_a_server_is_for_its_own_machine():
    for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1"):
        check_open(host, Keys())
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        with pytest.raises(InputError, match="can be reached by others and has no keys"):
            check_open(host, Keys())
        check_open(host, Keys((Key("a", "0" * 64),)))


def archive(files, **how):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **how) as written:
        for name, data in files.items():
            written.writestr(name, data)
    return made.getvalue()


@pytest.fixture
def good(tiny, tmp_path):
    prompt = prompt_of(tiny, PromptTuningConfig(num_virtual_tokens=3), 1)
    return prompt, packed(save_prompt(tmp_path / "good", prompt))


def test_an_archive_is_a_prompt(good):
    prompt, body = good
    assert unpacked(body).digest == prompt.digest


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is a zip of a prompt's folder"),
        (b"PK\x05\x06" + b"\x00" * 18, "a prompt has 1 to 8 files, got 0"),
        (archive({f"{i}.json": b"" for i in range(9)}), "a prompt has 1 to 8 files, got 9"),
        (archive({"../x": b""}), r"'../x' is no file name; the zip has no folders"),
        (archive({"/etc/x": b""}), r"'/etc/x' is no file name"),
        (archive({"a\\b": b""}), "is no file name"),
        (archive({"d/": b""}), "'d/' is no file name"),
        (archive({"..": b""}), r"'\.\.' is no file"),
        (archive({"a" * 300: b""}), f"'{'a' * 80}' is no file of a prompt"),
        (archive({"weights.bin": b""}), "'weights.bin' is no file of a prompt"),
        (
            archive({"a.json": b"{}"}, compression=zipfile.ZIP_BZIP2),
            "in another way than by deflate",
        ),
        (
            archive({"prompt.safetensors": b"\0" * 10**6}, compression=zipfile.ZIP_DEFLATED),
            "the zip grows more than 64 times",
        ),
    ],
)
def test_archives_that_are_none(body, message):
    with pytest.raises(InputError, match=message):
        unpacked(body)


def test_where_an_archive_is_read_is_not_told(good):
    with zipfile.ZipFile(io.BytesIO(good[1])) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    weights = next(name for name in files if name.endswith(".safetensors"))
    header = files[weights][: int.from_bytes(files[weights][:8], "little") + 8]
    for name, content in [(n, b"{}") for n in files if n.endswith(".json")] + [(weights, header)]:
        for changed in (
            {**files, name: content},
            {n: data for n, data in files.items() if n != name},
        ):
            try:
                unpacked(archive(changed))
            except InputError as error:
                assert not {"/tmp", "upload/", "/upload"} & set(str(error).split()), error
                assert tempfile.gettempdir() not in str(error), error


def test_a_damaged_archive(good):
    body = bytearray(good[1])
    body[body.index(b"\x93NUMPY") if b"\x93NUMPY" in body else 120] ^= 0xFF
    with pytest.raises(InputError, match="cannot be unpacked|is no zip|a zip of a prompt"):
        unpacked(bytes(body))
