"""The log lines that a process writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import logging, sys, structlog
from service.observability.logs import configure_logging
configure_logging(sys.argv[1], "info")
with structlog.contextvars.bound_contextvars(request_id="abc"):
    structlog.get_logger("ours").info("said", number=3)
    structlog.get_logger("ours").debug("not said")
    structlog.get_logger("ours").info("request", path="/a\\0\\x1b[2J\\n/b\\u202e/é")
    logging.getLogger("uvicorn.error").info("theirs %d", 4, extra={"color_message": "in colour"})
    try:
        1 / 0
    except ZeroDivisionError:
        structlog.get_logger("ours").exception("failed")
"""


def lines(log_format: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", PROGRAM, log_format], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_json_is_one_object_a_line_whoever_logs() -> None:
    said, request, theirs, failed = [json.loads(line) for line in lines("json")]
    assert (said["event"], said["number"], said["request_id"], said["level"]) == ("said", 3, "abc", "info")
    assert (theirs["event"], theirs["request_id"], theirs["logger"]) == ("theirs 4", "abc", "uvicorn.error")
    assert request["path"] == "/a\0\x1b[2J\n/b\u202e/é"
    assert "color_message" not in theirs
    assert failed["exception"][0]["exc_type"] == "ZeroDivisionError"


@pytest.mark.parametrize("text", ["said", "theirs 4", "ZeroDivisionError", "request_id=abc"])
def test_console_is_for_people(text: str) -> None:
    assert text in "\n".join(lines("console"))


def test_control_characters_reach_no_terminal() -> None:
    text = "\n".join(lines("console"))
    assert r"path=/a\x00\x1b[2J\n/b\u202e/é" in text
    assert not set("\0\x1b\u202e") & set(text)
    assert 'Traceback (most recent call last):\n  File "<string>"' in text  # ours keeps its lines
