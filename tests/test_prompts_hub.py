"""Prompts to the hub and back, by its own client, against a server that keeps what it is sent."""

import base64
import hashlib
import http.server
import json
import threading
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from prompt_jax import cli
from prompt_jax.config import InputError
from prompt_jax.methods import PromptTuningConfig
from prompt_jax.prompts import Prompt, load_prompt, pull_prompt, push_prompt, save_prompt


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a prompt needs: commits of small files, and reading them."""

    def say(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass

    def do_POST(self):
        commits, path = self.server.commits, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.tokens.append(self.headers["Authorization"])
        if path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            if not commits:
                commits.append(("0" * 40, {".gitattributes": b""}))
            self.say({"url": "https://huggingface.co/someone/films"})
        elif path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---")[1]
            self.say({"errors": [], "warnings": []} if yaml.safe_load(front) else {}, 200)
        elif path.endswith("/preupload/main"):
            files = [each["path"] for each in json.loads(body)["files"]]
            told = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]
            self.say({"files": told})
        elif path.endswith("/commit/main"):
            files = dict(commits[-1][1])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    files.pop(line["value"]["path"], None)
            oid = hashlib.sha1(body).hexdigest()
            commits.append((oid, files))
            self.say(
                {
                    "commitOid": oid,
                    "commitUrl": f"https://huggingface.co/someone/films/commit/{oid}",
                }
            )
        else:
            self.say({"error": f"no {path}"}, 404)

    def do_GET(self):
        commits, path = self.server.commits, self.path.split("?")[0]
        parts = path.strip("/").split("/")
        if commits and path.startswith("/api/models/someone/films"):
            wanted = parts[5] if len(parts) > 5 else "main"
            found = [c for c in commits if wanted in ("main", c[0])]
            if not found:
                self.say({"error": "no revision"}, 404, X_Error_Code="RevisionNotFound")
                return
            oid, files = found[-1]
            if parts[4:5] == ["tree"]:
                self.say([{"type": "file", "path": p, "size": len(d), "oid": oid}
                          for p, d in files.items()])  # fmt: skip
            else:
                about = {"id": "someone/films", "sha": oid, "tags": [], "private": True}
                self.say({**about, "siblings": [{"rfilename": p} for p in files]})
        elif parts[2:3] == ["resolve"]:
            oid, files = next(c for c in commits if c[0] == parts[3])
            data = files["/".join(parts[4:])]
            etag = hashlib.sha1(data).hexdigest()
            self.say(data, ETag=f'"{etag}"', X_Repo_Commit=oid)
        else:
            self.say({"error": "no repository"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, and a client that knows no other."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.commits, server.made, server.tokens = [], [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def prompt_of(seed):
    rows = np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32)
    method = PromptTuningConfig(num_virtual_tokens=3, init="random")
    return Prompt(tuned={"prompt": rows}, method=method, name="films", backbone="someone/tiny")


def test_a_prompt_goes_to_the_hub_and_comes_back(hub):
    first = push_prompt(prompt_of(1), "someone/films", token="secret")
    second = push_prompt(prompt_of(2), "someone/films", token="secret")
    made = hub.made[0]  # Of one version of the client and of another.
    assert made["name"] == "films"
    assert made.get("visibility") == "private" or made.get("private") is True
    assert set(hub.tokens) == {"Bearer secret"}
    assert "# films" in hub.commits[1][1]["README.md"].decode()
    assert pull_prompt("someone/films", first).digest == prompt_of(1).digest
    assert pull_prompt("someone/films", second).digest == prompt_of(2).digest
    assert pull_prompt("someone/films", "main").digest == prompt_of(2).digest


def test_on_the_command_line(hub, tmp_path, capsys):
    save_prompt(tmp_path / "films", prompt_of(1))
    assert cli.main(["prompts", "push", str(tmp_path / "films"), "someone/films"]) == 0
    commit = capsys.readouterr().out.split()[-1]
    assert commit == hub.commits[1][0]
    out = tmp_path / "back"
    pull = ["prompts", "pull", "someone/films", str(out), "--revision", commit]
    assert cli.main(pull) == 0
    assert load_prompt(out).digest == prompt_of(1).digest


def test_nothing_but_data_is_asked_for(hub):
    commit = push_prompt(prompt_of(1), "someone/films")
    oid, files = hub.commits[1]
    files |= {"adapter_model.bin": b"pickle", "run.py": b"x", "model.safetensors": b"y"}
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    assert pull_prompt("someone/films", commit).digest == prompt_of(1).digest
    got = {path.name for path in folder.rglob("snapshots/*/*")}
    assert "prompt_jax_config.json" in got and not got & {"adapter_model.bin", "run.py"}
    assert "model.safetensors" not in got


def test_what_the_hub_has_not(hub):
    with pytest.raises(InputError, match="a repository of the hub is owner/name, got 'films'"):
        pull_prompt("films", "main")
    with pytest.raises(InputError, match="a repository of the hub is owner/name, got '../x'"):
        push_prompt(prompt_of(1), "../x")
    with pytest.raises(InputError, match="pulling wants a revision"):
        pull_prompt("someone/films", "")
    with pytest.raises(InputError, match="someone/films at 'main' is not to be had: "):
        pull_prompt("someone/films", "main")
    push_prompt(prompt_of(1), "someone/films")
    with pytest.raises(InputError, match="someone/films at 'v9' is not to be had: "):
        pull_prompt("someone/films", "v9")


def test_a_hub_that_is_not_reached(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="someone/films cannot be written: "):
        push_prompt(prompt_of(1), "someone/films")
