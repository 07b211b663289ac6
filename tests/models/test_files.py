"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.files import remove_drafts, write_atomically


def test_a_file_appears_whole_in_a_folder_that_was_missing(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file.json"
    with write_atomically(path) as draft:
        draft.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


def test_an_error_keeps_the_old_file_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")

    def fail() -> None:
        with write_atomically(path) as draft:
            draft.write_text("ne")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file.json"]


def test_drafts_of_killed_processes_are_removed_and_no_other_file(tmp_path: Path) -> None:
    for name in (".file.json.77.tmp", ".file.json.78.tmp", ".other.json.77.tmp", "file.json"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path / "file.json")
    assert sorted(found.name for found in tmp_path.iterdir()) == [".other.json.77.tmp", "file.json"]
