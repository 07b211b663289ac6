"""The command line as a whole; tests/e2e/test_commands.py runs the commands as processes."""

from __future__ import annotations

import sys

import pytest

from service.cli.main import main


def test_without_a_command_the_help_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Typer raises an error without a message here, and has printed the help itself."""
    monkeypatch.setattr(sys, "argv", ["sfddm"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (2, "")
    assert "Usage: sfddm" in printed.out


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sfddm", "config"])
    monkeypatch.setattr("service.settings.sources.read_configuration", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main()
