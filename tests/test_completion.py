"""Shell completion, in the shells themselves."""

import re
import shlex
import shutil
import subprocess
import time

import pytest

from prompt_jax import cli
from prompt_jax.cli.completion import SCRIPTS
from prompt_jax.cli.options import options

BASH = """\
. {script}
COMP_LINE={line}
COMP_POINT=${{#COMP_LINE}}
COMP_WORDBREAKS=$' \\t\\n"><=;|&(:'
_prompt_jax
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = "source {script}; complete -C {line}"
CASES = [
    ("prompt-jax tr", {"train"}),
    ("prompt-jax prompts in", {"inspect"}),
    ("prompt-jax prompts inspect --k", {"--k"}),
    ("prompt-jax train --train.st", {"--train.steps"}),
    ("prompt-jax train --method lo", {"lora"}),
    ("prompt-jax train --method=lo", {"--method=lora"}),
    ("prompt-jax train --method lora --method.lora-d", {"--method.lora-dropout"}),
    ("prompt-jax train --method.lora-d", set()),
    ("prompt-jax train --method.num-v", {"--method.num-virtual-tokens"}),
    ("prompt-jax compare --methods lora bi", {"bias"}),
    ("prompt-jax train --data.task embedded:s", {"embedded:sentiment"}),
    ("prompt-jax train a.py --train.optimizer adamw --train.optimizer ", None),
    ("prompt-jax serve --log-level w", {"warning"}),
    ("prompt-jax runs --train", set()),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of every shell, as `prompt-jax` prints it."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SCRIPTS:
        (folder / shell).write_text(cli.completion.script(shell, cli.COMMANDS))
    return folder


def answer(shell: str, code: str) -> set[str]:
    words = [shell, "-c", code]
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert not result.stderr
    return {line.partition("\t")[0] for line in result.stdout.splitlines() if line}


@pytest.mark.parametrize(("line", "words"), CASES)
def test_bash_completes(scripts, line, words):
    begin = time.monotonic()
    found = answer("bash", BASH.format(script=scripts / "bash", line=shlex.quote(line)))
    assert time.monotonic() - begin < 2  # A hundredth of that, on a machine that does nothing else.
    if words is None:
        assert found == {"adafactor", "adafactor_t5x", "adamw"}
    else:  # Readline replaces what is behind a colon or an equals sign.
        assert found == {re.split("[:=]", word)[-1] for word in words}


@pytest.mark.parametrize(("line", "words"), [case for case in CASES if case[1]])
def test_fish_completes(scripts, line, words):
    found = answer("fish", FISH.format(script=scripts / "fish", line=shlex.quote(line)))
    assert words <= found


def test_zsh_completes(scripts):
    # Completion works in a terminal alone; the words come from the same program as in bash.
    code = f". {scripts / 'zsh'}; _prompt_jax_words prompt-jax train --method lo"
    assert answer("zsh", f"compdef() {{ :; }}; {code}") == {"lora"}


@pytest.mark.parametrize("command", ["train", "serve"])
def test_all_options_are_completed(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help-all"])
    shown = set(re.findall(r"(?<=[ │])--[a-z-]+(?:\.[a-z-]+)?(?= |,|$)", capsys.readouterr().out))
    call = cli.COMMANDS[command]([])
    found = {option.flag for option in options(call.function)} - {"--method"}
    assert found <= shown and len(found) > 2


def test_the_shell_is_that_of_the_user(monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert cli.main(["--print-completion"]) == 0
    assert "complete -c prompt-jax" in capsys.readouterr().out
    monkeypatch.delenv("SHELL")
    assert cli.main(["--print-completion"]) == 2
    assert "the shell is not known; name it: bash, zsh, fish" in capsys.readouterr().err
    assert cli.main(["--print-completion", "csh"]) == 2
    assert "unknown shell 'csh'" in capsys.readouterr().err
