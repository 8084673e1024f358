"""What a server is given by its operator and by those who upload: keys, hosts and archives."""

import dataclasses
import io
import json
import tempfile
import zipfile
from datetime import UTC, date, datetime, timedelta

import pytest

pytest.importorskip("fastapi")

from serving import SIZES, digest, prompt_of  # noqa: E402

from prompt_jax.config import InputError  # noqa: E402
from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http import create_app
from prompt_jax.serve.http.budgets import Limits
from prompt_jax.serve.http.errors import Refused
from prompt_jax.serve.http.keys import Key, Keys, read_keys
from prompt_jax.serve.http.prompts import packed, unpacked
from prompt_jax.serve.http.run import check_open


def test_keys_of_a_file(tmp_path):
    file = tmp_path / "keys.json"
    rows = [{"name": "a", "sha256": digest("one").upper(), "prompts": ["films-*"]}]
    rows += [{"name": "b", "sha256": digest("two"), "scopes": ["infer", "admin"]}]
    rows[1] |= {"expires": "2027-01-31", "requests_per_minute": 60, "tokens_per_day": 1000}
    file.write_text(json.dumps(rows))
    keys = read_keys(file)
    a, b = keys.find("Bearer one"), keys.find("bearer two")
    assert a == Key("a", digest("one"), ("infer",), ("films-*",)) and b.scopes == ("infer", "admin")
    assert b.expires == date(2027, 1, 31) and b.limits == Limits(60, None, 1000)
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
    assert Keys().find(None).scopes == ("infer", "admin", "metrics")


def test_a_last_day():
    today = datetime.now(UTC).date()
    for days, expired in [(-1, True), (0, False), (1, False)]:
        assert Key("a", "", expires=today + timedelta(days=days)).expired is expired


ROW = {"name": "a", "sha256": "0" * 64}
ROWS = {
    '"prompts": "films*"': 'prompts of row 1 of .* is a list .* as \\["films.*, got "films',
    '"prompts": {"films": 1}': "prompts of row 1 of",
    '"prompts": [1, null]': "prompts of row 1 of",
    '"prompts": null': "prompts of row 1 of .*, got null",
    '"prompts": ["films, satire"]': "prompts of row 1 of",
    '"prompts": ["!films"]': "prompts of row 1 of",
    '"prompts": ["Films*"]': "prompts of row 1 of",
    '"scopes": "infer"': 'scopes of row 1 of .* of infer, admin, metrics, got "infer"',
    '"scopes": {"infer": 1}': "scopes of row 1 of",
    '"scopes": [["infer"]]': "scopes of row 1 of",
    '"scopes": []': "scopes of row 1 of",
    '"name": 7': "name of row 1 of .*, got 7",
    '"name": "a\\nb"': "name of row 1 of",
    '"sha256": "x"': "sha256 of row 1 of .* is the 64 hex digits .* not empty$",
    f'"sha256": "{digest("")}"': "sha256 of row 1 of .* of a KEY not empty",
    '"key": "films"': "row 1 of .* has no field key; the fields are name, sha256,",
    '"expires": 20270131': 'expires of row 1 of .* such as "2027-01-31", got 20270131',
    '"expires": "2027-02-30"': "expires of row 1 of",
    '"expires": "20270131"': "expires of row 1 of",
    '"requests_per_minute": 0': "requests_per_minute of row 1 of .* a whole number above 0, got 0",
    '"tokens_per_day": true': "tokens_per_day of row 1 of",
    '"concurrent_requests": 1.5': "concurrent_requests of row 1 of",
}
"""A field of the first row -> the error that it is."""


@pytest.mark.parametrize("field", ROWS)
def test_a_row_that_is_no_key(field, tmp_path):
    row = json.dumps({name: value for name, value in ROW.items() if f'"{name}"' not in field})
    (tmp_path / "keys.json").write_text(f"[{row[:-1]}, {field}}}]")
    with pytest.raises(InputError, match=ROWS[field]):
        read_keys(tmp_path / "keys.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("{}", "is no list of keys; write"),
        ("[]", "is no list of keys; write"),
        ("[7]", "row 1 of .* is no key such as"),
        ('[{"name": "a"}]', "row 1 of .* lacks sha256; the fields are"),
        (json.dumps([ROW, {**ROW, "scopes": ["admin"]}]), "rows 1 and 2 of .* are one key"),
        ('[{"name": "a", "name": "b"}]', "cannot be read: 'name' stands twice"),
    ],
)
def test_files_of_no_keys(text, message, tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_keys_change_with_their_file(tmp_path):
    file = tmp_path / "keys.json"
    limited = {"name": "web", "sha256": digest("one"), "requests_per_minute": 1}
    file.write_text(json.dumps([limited]))
    keys = read_keys(file)
    web = keys.find("Bearer one")
    with keys.budget(web).request():
        pass
    file.write_text(json.dumps([{**limited, "prompts": ["films"]}, {**ROW, "sha256": digest("b")}]))
    assert keys.refresh() == [] and keys.find("Bearer b").name == "a"
    web = keys.find("Bearer one")
    assert web.prompts == ("films",)
    # A new pattern gives back nothing of what was used up.
    with pytest.raises(Refused, match="1 requests a minute; ask again in 60 s"):
        with keys.budget(web).request():
            pass
    file.write_text('[{"name": "web", "prompts": "films"}]')
    (problem,) = keys.refresh()
    assert "row 1 of" in problem and keys.find("Bearer one") == web
    file.write_text(json.dumps([limited]))
    assert keys.refresh() == [] and keys.find("Bearer b") is None


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
