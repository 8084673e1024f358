"""`prompt-jax serve` as a process: published to, asked, and told to end."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from serving import prompt_of  # noqa: E402

from prompt_jax import cli  # noqa: E402
from prompt_jax.methods import PromptTuningConfig  # noqa: E402
from prompt_jax.prompts import save_prompt  # noqa: E402


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sigterm_completes_what_was_taken(tiny_folder, tmp_path, capsys):
    from prompt_jax.weights import load_backbone

    backbone = load_backbone(str(tiny_folder))
    prompt = prompt_of(backbone, PromptTuningConfig(num_virtual_tokens=3), 1)
    save_prompt(tmp_path / "films", prompt)
    store = tmp_path / "store"
    publish = ["prompts", "publish", str(tmp_path / "films"), "--name", "films"]
    assert cli.main([*publish, "--store", str(store), "--alias", "live"]) == 0
    assert f"films@1 in {store}" in capsys.readouterr().out
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prompt_jax", "serve", "--backbone", str(tiny_folder)]
    command += ["--store", str(store)]
    command += ["--port", str(port), "--rows", "4", "--lengths", "32", "--num-virtual-tokens", "8"]
    server = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert server.stdout is not None
    said = []
    while "ready on" not in (line := server.stdout.readline()):
        assert line, said
        said.append(line)
    body = {"model": "films@live", "prompt": ["a fine film"] * 4, "n": 4, "temperature": 1.0}
    found = []

    def ask():
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            found.append(client.post("/v1/completions", json={**body, "max_tokens": 60}))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    taken, end = 0.0, time.monotonic() + 60
    while taken < 7 * 16 and time.monotonic() < end:
        numbers = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        taken = sum(map(float, re.findall(r"num_requests_(?:waiting|running) (\d\S*)", numbers)))
    server.send_signal(signal.SIGTERM)
    rest, _ = server.communicate(timeout=300)
    for thread in threads:
        thread.join()
    assert server.returncode == 0 and "all that was taken is answered" in rest, rest
    assert taken >= 7 * 16 and [each.status_code for each in found] == [200] * 8
    for each in found:
        assert len(each.json()["choices"]) == 16
        assert each.json()["prompt_digest"] == prompt.digest
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/livez")


def test_a_server_for_others_needs_keys(tmp_path, capsys):
    assert cli.main(["serve", "--host", "0.0.0.0", "--store", str(tmp_path / "s")]) == 2
    assert "can be reached by others and has no keys" in capsys.readouterr().err
