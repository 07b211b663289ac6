"""Every sfddm and sfddm-train command in the documentation is valid: its options exist and accept the given values."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from service.cli.main import app as service_app
from training.cli import app as training_app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {"sfddm": typer.main.get_command(service_app), "sfddm-train": typer.main.get_command(training_app)}
COMMAND = re.compile(r"(?:^|[ /])(sfddm-train|sfddm|-m training\.cli) ([a-z]+\b[^\n;#|>]*)", re.M)


def commands(page: Path) -> list[tuple[str, str]]:
    """Return (program, arguments) of each command of a page's shell blocks, with the page's variables filled in."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)
    text = re.sub(r"\$\([^()]*\)", "", "\n".join(blocks).replace("\\\n", " "))
    settings = dict(re.findall(r'^([A-Z])="([^"]*)"', text, re.M) + re.findall(r"^([A-Z])=(\S+)$", text, re.M))
    found = []
    for program, arguments in COMMAND.findall(text):
        filled = re.sub(r"\$([A-Za-z_]+)", lambda name: settings.get(name[1], "1"), arguments)
        filled = re.sub(r"\$([A-Za-z_]+)", lambda name: settings.get(name[1], "1"), filled)  # a variable within one
        found.append(("sfddm-train" if program.startswith("-m") else program, filled))
    return found


def parse(program: str, arguments: str) -> None:
    """Parse a command as its program would. Raises the parser's error, a KeyError for a sub-command that does not exist."""
    name, *rest = shlex.split(arguments)
    subcommand = PROGRAMS[program].commands[name]  # type: ignore[attr-defined]
    with subcommand.make_context(name, rest) as context:
        assert context.params or not subcommand.params, arguments


@pytest.mark.parametrize("page", ["training.md", "training-fashion-mnist.md"])
def test_documented_commands_parse(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # --config names files from here
    found = commands(ROOT / "docs" / page)
    assert len(found) >= 9
    for program, arguments in found:
        parse(program, arguments)


def test_commands_of_every_other_page_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = [(page, *command) for page in PAGES for command in commands(page)]
    assert {page.name for page, *_ in found} >= {"README.md", "tutorial.md", "images.md", "compare.md", "own-teacher.md"}
    for page, program, arguments in found:
        try:
            parse(program, arguments)
        except Exception as error:
            raise AssertionError(f"{page}: {program} {arguments}") from error
