"""Prompts by name and version on a disk that others write to, crash in the middle of, and fill."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from test_disk import full_disk

from prompt_jax import cli
from prompt_jax.config import InputError
from prompt_jax.disk import DiskFullError, InUseError, UnwritableError
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.prompts import Prompt, save_prompt
from prompt_jax.serve import Store, UnknownPromptError, inspection
from prompt_jax.serve import store as store_module


def prompt_of(value):
    method = PromptTuningConfig(num_virtual_tokens=2)
    return Prompt(tuned={"prompt": np.full((2, 8), float(value))}, method=method)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    for value in (1, 2, 3):
        made.put("films", prompt_of(value))
    return made


def value_of(store, reference):
    return store.load(reference).tuned["prompt"][0, 0]


def test_versions_stay_and_aliases_move(store):
    assert value_of(store, "films") == 3 and value_of(store, "films@1") == 1
    assert str(store.put("films", prompt_of(4))) == "films@4"
    store.alias("films", "stable", 2)
    store.alias("films", "default", 3)
    assert value_of(store, "films@stable") == 2 and value_of(store, "films") == 3
    store.alias("films", "stable", 1)
    assert value_of(store, "films@stable") == 1
    assert store.resolve("films@1").aliases == ("stable",)
    with pytest.raises(InputError, match="films@1 is what stable means; give that another"):
        store.remove("films", 1)
    store.remove("films", 2)
    found = Store(store.root).scan()
    assert [str(entry) for entry in found.entries] == ["films@1", "films@3", "films@4"]
    assert not found.problems
    store.alias("films", "default", 3)
    store.remove("films", 4)
    assert str(store.put("films", prompt_of(5))) == "films@5"  # No number is used again.


def test_what_is_not_there(store):
    for reference in ("none", "films@7", "films@gone", "films@0", "films@"):
        with pytest.raises(UnknownPromptError, match="there is no .* in the store; versions and"):
            store.load(reference)
    with pytest.raises(UnknownPromptError, match="versions and aliases of 'films': 1, 2, 3$"):
        store.alias("films", "stable", 9)
    with pytest.raises(UnknownPromptError, match="there is no 'films@9'"):
        store.remove("films", 9)
    (store.root / "file").touch()
    with pytest.raises(InputError, match="is no folder; give one, or a name that is free"):
        Store(store.root / "file")


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../films", "films/../films", "/etc", "a/b", "a\\b", "%2e%2e%2f", "Films",
        "fil\0ms", "films\n", "ﬁlms", "а", "a" * 65, "-films", "c:films", "~", "..%5c",
    ],
)  # fmt: skip
def test_names_that_are_none(name, store, tmp_path):
    before = sorted(map(str, tmp_path.rglob("*")))
    for work in (
        lambda: store.put(name.replace("@1@2", "@"), prompt_of(1)),
        lambda: store.load(name),
    ):
        with pytest.raises(InputError, match="name is 1 to 64 of a-z|there is no"):
            work()
    if name:
        with pytest.raises(InputError, match="an alias is 1 to 64 of a-z"):
            store.alias("films", name if name != "films@1@2" else "7", 1)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_links_are_not_followed(store, tmp_path):
    Store(tmp_path / "other").put("secret", prompt_of(9))
    (store.root / "link").symlink_to(tmp_path / "other" / "secret")
    (store.root / "films" / "7").symlink_to(tmp_path / "other" / "secret" / "1")
    with pytest.raises(InputError, match="'link' is a link, and a store has none"):
        store.load("link")
    with pytest.raises(InputError, match="7 is no folder; a version of a prompt is one"):
        store.load("films@7")
    inner = store.root / "films" / "1" / "README.md"
    inner.unlink()
    inner.symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"README.md is a link or a folder; a prompt has files"):
        store.load("films@1")
    found = store.scan()
    assert [str(entry) for entry in found.entries] == ["films@2", "films@3"]
    assert len(found.problems) == 3 and "link: 'link' is a link" in found.problems[2]


def weights_of(store):
    return next((store.root / "films" / "1").glob("*.safetensors"))


def framed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


TENSOR = {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            struct.pack("<Q", 2**40) + b"{}",
            "header of 1099511627776 bytes, and 1048576",
        ),
        (b"", "header of 0 bytes"),
        (framed(b"[1, 2]"), "a header that is no JSON object; it is damaged"),
        (framed(b"[" * 100_000), "a header that is no JSON object"),
        (framed(b"\xff\xfe{}"), "a header that is no JSON object"),
        (framed({str(i): TENSOR for i in range(10_001)}), "10001 tensors, and 10000 is the most"),
        (framed({"a": {**TENSOR, "dtype": "I64"}}), "'a' of .* is 'I64'; the numbers of a prompt"),
        (framed({"a": 3}), "'a' of .* is 'None'; the numbers of a prompt"),
        (framed({"a": TENSOR}, bytes(10)), "."),  # Cut off.
        (framed({"a": {**TENSOR, "data_offsets": [0, 10**12]}}, bytes(64)), "."),
    ],
)
def test_weights_that_are_not_what_they_say(content, message, store, monkeypatch):
    monkeypatch.setattr(inspection, "HEADER_BYTES", 2**20)
    weights_of(store).write_bytes(content)
    with pytest.raises(InputError, match=message):
        store.load("films@1")
    assert [str(entry) for entry in store.scan().entries] == ["films@2", "films@3"]


def test_files_that_no_prompt_has(store, monkeypatch):
    folder = store.root / "films" / "1"
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="'adapter_model.bin' is no file of a prompt"):
        store.load("films@1")
    (folder / "adapter_model.bin").unlink()
    monkeypatch.setattr(inspection, "FILE_BYTES", 10)
    with pytest.raises(InputError, match=r"safetensors has \d+ bytes, and 10 is the most"):
        store.load("films@1")


def test_numbers_that_are_none_are_refused(store):
    rows = np.ones((2, 8), np.float32)
    rows[1, 3] = np.nan
    header, data = weights_of(store).read_bytes(), rows.tobytes()
    weights_of(store).write_bytes(header[: len(header) - len(data)] + data)
    with pytest.raises(InputError, match="NaN or inf|digest|checksum"):
        store.load("films@1")


def test_two_writers_take_two_numbers(store, monkeypatch):
    numbers = Store._numbers

    def late(self, folder, gone=False):
        return numbers(self, folder, gone=gone) - {3}

    monkeypatch.setattr(Store, "_numbers", late)
    assert str(store.put("films", prompt_of(8))) == "films@4"
    monkeypatch.undo()
    assert value_of(store, "films@3") == 3 and value_of(store, "films@4") == 8


# Children that only write files take nothing of JAX along, and need no import of a second or two.
forking = pytest.mark.filterwarnings("ignore:.*fork:")
FORK = multiprocessing.get_context("fork")


def set_aliases(root, prefix, count):
    store = Store(root)
    for i in range(count):
        store.alias("films", f"{prefix}-{i}", 1 + i % 3)
    for i in range(0, count, 2):
        store.unalias("films", f"{prefix}-{i}")
    for _ in range(count // 5):
        store.put("films", prompt_of(7))


@forking
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_two_processes_lose_nothing(count, store):
    writers = [FORK.Process(target=set_aliases, args=(store.root, n, count)) for n in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    entries = store.entries().entries
    assert [entry.version for entry in entries] == list(range(1, 4 + 2 * (count // 5)))
    aliases = {alias: entry.version for entry in entries for alias in entry.aliases}
    assert aliases == {f"{name}-{i}": 1 + i % 3 for name in "ab" for i in range(1, count, 2)}


def keep(root, ready):
    with Store(root).changing():
        ready.set()
        time.sleep(60)


@forking
def test_a_lock_ends_with_its_process(store, monkeypatch):
    ready = FORK.Event()
    writer = FORK.Process(target=keep, args=(store.root, ready))
    writer.start()
    assert ready.wait(30)
    monkeypatch.setattr(store_module, "PATIENCE", 0.05)
    with pytest.raises(InUseError, match="store is in use by another process; try again later"):
        store.alias("films", "stable", 1)
    assert value_of(store, "films") == 3  # Readers need no lock.
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    store.alias("films", "stable", 1)
    assert value_of(store, "films@stable") == 1


@pytest.fixture
def other_user():
    """A folder in which everybody may write, and a context in which somebody else does."""

    @contextlib.contextmanager
    def somebody_else():
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    if os.geteuid():
        pytest.skip("only root is somebody else")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder), somebody_else


@pytest.mark.parametrize("mode", [None, 0o644])
def test_a_lock_that_another_user_made(other_user, mode):
    folder, somebody_else = other_user
    mask = os.umask(0o022)
    try:
        Store(folder).put("films", prompt_of(1))
        if mode is not None:  # As another program, or an older one, leaves it.
            os.chmod(folder / ".lock", mode)
        with somebody_else():
            entry = Store(folder).put("satire", prompt_of(2))
            with pytest.raises(UnwritableError, match="Permission denied"):
                Store(folder).put("films", prompt_of(2))
    finally:
        os.umask(mask)
    assert str(entry) == "satire@1"
    os.chmod(folder, 0o755)
    with somebody_else(), pytest.raises(UnwritableError, match="Permission denied"):
        Store(folder).alias("films", "stable", 1)


def test_several_changes_are_one(store):
    with pytest.raises(ZeroDivisionError), store.changing():
        entry = store.put("films", prompt_of(4))
        store.alias("films", "default", entry.version)
        raise ZeroDivisionError
    with store.changing(), store.changing():
        store.alias("films", "stable", store.resolve("films").version)
    assert store.resolve("films").aliases == ("default", "stable")


def test_the_newest_version_is_not_rolled_back_unseen(store):
    with pytest.raises(InputError, match="films@3 is what films means; give that another version"):
        store.remove("films", 3)
    store.alias("films", "default", 2)
    store.remove("films", 3)
    assert store.resolve("films").version == 2
    store.unalias("films", "default")
    with pytest.raises(UnknownPromptError, match="there is no 'films@default' in the store"):
        store.unalias("films", "default")
    with pytest.raises(InputError, match="films@2 is what films means"):
        store.remove("films", 2)
    store.remove("films", 1)
    store.remove("films", 2)  # The last one takes the name with it.
    assert not store.entries().entries and store.names() == ["films"]
    assert store.put("films", prompt_of(1)).version == 4


def test_a_full_disk_and_one_that_cannot_be_written(store):
    before = sorted(store.root.rglob("*"))
    store.alias("films", "stable", 1)
    with full_disk():
        for work in (
            lambda: store.put("films", prompt_of(4)),
            lambda: store.put("satire", prompt_of(4)),
            lambda: store.alias("films", "stable", 2),
        ):
            with pytest.raises(DiskFullError, match="File too large; free some space") as error:
                work()
            assert error.value.reason == "File too large"
        assert value_of(store, "films@stable") == 1
        store.remove("films", 2)  # Which makes room, and so needs none.
    gone = {path for path in before if path.match("films/2") or path.match("films/2/*")}
    new = {store.root / "films" / "aliases.json", store.root / "films" / "2.removed"}
    assert set(store.root.rglob("*")) == set(before) - gone | new
    (store.root / ".lock").unlink()
    (store.root / ".lock").mkdir()  # Nobody, root neither, can write it.
    with pytest.raises(UnwritableError, match="cannot write .*store: Is a directory"):
        store.alias("films", "stable", 3)
    assert value_of(store, "films@stable") == 1


def test_what_killed_writers_leave_is_swept(store, tmp_path):
    folder, other = store.root / "films", Store(tmp_path / "other")
    other.put("satire", prompt_of(1))
    unfinished = [folder / ".0123abcd.4", folder / ".0123abce.4"]
    for path in (*unfinished, folder / "3.removed", folder / "7.removed"):
        path.mkdir()
        (path / "README.md").touch()
    (folder / "8.removed").symlink_to(other.root / "satire" / "1")
    os.utime(unfinished[0], (0, 0))
    assert store.put("films", prompt_of(9)).version == 9
    names = {path.name for path in folder.iterdir()}
    assert not unfinished[0].exists() and unfinished[1].exists(), names
    assert not list((folder / "7.removed").iterdir())
    assert value_of(other, "satire@1") == 1


@pytest.mark.parametrize("text", ['{"stable": "1"}', '{"3": 1}', '{"Stable": 1}', "[]", "{", ""])
def test_damaged_aliases(text, store):
    (store.root / "films" / "aliases.json").write_text(text)
    for work in (
        lambda: store.load("films@2"),
        lambda: store.alias("films", "stable", 1),
        lambda: store.put("films", prompt_of(4)),
    ):
        with pytest.raises(InputError, match=r"aliases.json of 'films' is no table of versions by"):
            work()
    assert not store.entries().entries and len(store.entries().problems) == 1


def test_an_alias_of_a_version_that_is_gone(store):
    (store.root / "films" / "aliases.json").write_text('{"default": 9, "stable": 1}')
    assert store.entries().problems == ["films@default: there is no version 9"]
    assert value_of(store, "films@stable") == 1
    with pytest.raises(UnknownPromptError, match="no 'films' in the store; .*: 1, 2, 3, stable$"):
        store.load("films")


def test_versions_on_the_command_line(store, tmp_path, capsys):
    prompt = str(save_prompt(tmp_path / "prompt", prompt_of(4)))
    place = ["--store", str(store.root)]

    def run(*words, code=0):
        assert cli.main(["prompts", *words, *place]) == code, words
        output = capsys.readouterr()
        return output.err if code else output.out

    assert run("publish", prompt, "--name", "films", "--alias", "canary").startswith("films@4 in")
    assert run("alias", "films@canary", "stable") == "films@stable is films@4\n"
    assert run("alias", "films@2", "default") == "films@default is films@2\n"
    assert value_of(store, "films") == 2
    (store.root / "films" / "3" / "prompt_jax_config.json").unlink()
    (store.root / "films" / "3" / "adapter_config.json").unlink()
    cells = [line.split("│")[1:3] for line in run("versions").splitlines()[3:-1]]
    assert {version.strip(): names.strip() for version, names in cells} == {
        "films@1": "", "films@2": "films default", "films@3": "", "films@4": "canary stable",
    }  # fmt: skip
    for number in range(12):
        store.alias("films", f"of-a-long-name-{number:02}", 4)
    names = [f"of-a-long-name-{number:02}" for number in range(12)]
    assert " ".join(["canary", *names, "stable"]) in run("versions")  # In a pipe on one line.
    for name in names:
        store.unalias("films", name)
    assert "films@4 is what canary, stable means" in run("remove", "films@4", code=2)
    assert run("remove", "films@3") == "films@3 is removed\n"
    assert run("remove", "films@default") == "films@default is removed\n"
    assert value_of(store, "films") == 4
    assert "'films' names all versions; give one" in run("remove", "films", code=2)
    assert "there is no 'films@9' in the store" in run("alias", "films@9", "stable", code=2)
    place[1] += "x"
    for words in (("versions",), ("alias", "films@1", "stable"), ("remove", "films@1")):
        assert "there is no store" in run(*words, code=2)
    assert not (tmp_path / "storex").exists()


WRITER = """
import sys
import numpy as np
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.prompts import Prompt
from prompt_jax.serve import Store
store = Store(sys.argv[1])
print("here", flush=True)
for i in range(100):
    method = PromptTuningConfig(num_virtual_tokens=2)
    entry = store.put("films", Prompt(tuned={"prompt": np.full((2, 8), float(i))}, method=method))
    store.alias("films", "stable", entry.version)
    print(entry.version, flush=True)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_versions(tmp_path):
    root, rng = tmp_path / "store", random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(root)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "here\n"
        time.sleep(rng.uniform(0.02, 0.2))
        os.kill(writer.pid, signal.SIGKILL)
        told = [int(line) for line in writer.stdout if line.strip()]
        writer.wait()
        writer.stdout.close()
        found = Store(root).scan()
        assert not found.problems
        assert {entry.version for entry in found.entries} >= set(told)
        if told:
            assert value_of(Store(root), "films@stable") >= 0
    assert len(Store(root).scan().entries) > 4
