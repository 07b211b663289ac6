"""Every sfddm-train command in the documentation is one: its options exist and take the values they are given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from training.cli import app

ROOT = Path(__file__).parents[2]


def commands(page: Path) -> list[str]:
    """Return the commands of a page, one a line, with the values of its shell variables."""
    text = re.sub(r"\$\([^()]*\)", "", page.read_text().replace("\\\n", " "))
    settings = dict(re.findall(r'^    ([A-Z])="([^"]*)"', text, re.M))
    block = "\n".join(re.findall(r"^    .*", text, re.M))
    found = re.findall(r"(?:sfddm-train|-m training\.cli) ([a-z]+ [^\n;#]*)", block)
    return [re.sub(r"\$([A-Za-z]+)", lambda name: settings.get(name[1], "1"), command) for command in found]


@pytest.mark.parametrize("page", ["training.md", "training-fashion-mnist.md"])
def test_documented_commands_parse(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # --config names files from here
    group = typer.main.get_command(app)
    found = commands(ROOT / "docs" / page)
    assert len(found) >= 9
    for command in found:
        name, *arguments = shlex.split(command)
        subcommand = group.commands[name]  # type: ignore[attr-defined]
        with subcommand.make_context(name, arguments) as context:
            assert context.params, command
