"""examples/README.md lists every program, and every program explains itself in the same way."""

from __future__ import annotations

import re

from tests.examples.conftest import EXAMPLES

PROGRAMS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in {".py", ".sh", ".html"})


def test_the_table_lists_every_program_once() -> None:
    listed = re.findall(r"^\| \[`(\S+)`\]\((\S+)\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert all(name == link for name, link in listed)
    assert sorted(name for name, _ in listed) == [path.name for path in PROGRAMS]


def test_every_program_is_short_and_says_how_to_run_it_and_what_it_prints() -> None:
    for path in PROGRAMS:
        text = path.read_text()
        assert len(text.splitlines()) < 40, path.name
        for part in (r"\bRun: +\S", r"\bPrints: +\S"):
            assert re.search(part, text), f"{path.name} lacks {part}"
