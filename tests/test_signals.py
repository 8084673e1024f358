"""SIGTERM and Ctrl-C stop a run after a step; Ctrl-C once more ends it."""

import signal

import pytest

from prompt_jax import cli
from prompt_jax.signals import stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_wish(number):
    before, wishes = signal.getsignal(number), []
    with stopping(lambda: wishes.append(number)):
        signal.raise_signal(number)
    assert wishes == [number] and signal.getsignal(number) is before


def test_the_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), stopping(lambda: None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_the_background_of_a_shell_ctrl_c_is_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping(lambda: pytest.fail("was not meant for it")):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_a_command_as_other_programs(monkeypatch):
    handlers = []
    monkeypatch.setitem(
        cli.COMMANDS, "doctor", lambda _: handlers.append(signal.getsignal(signal.SIGINT))
    )
    assert cli.main(["doctor"]) == 0
    assert handlers == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
