"""A simulated exchange, and the command as a user types it."""

import sys
from collections.abc import Callable

import pytest

from streamforge_assets import cli
from tests.simulated import client, environment, exchange, made, settings

__all__ = ["client", "exchange", "made", "settings"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch, capfd) -> Command:
    """Run the command in this process; gives exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamforge", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def at_exchange(settings, monkeypatch):
    """The settings of the simulated exchange, in this process's environment."""
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    return settings
