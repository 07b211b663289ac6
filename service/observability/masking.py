"""Secrets stay out of what is printed: of a url the user, the password, and the values of its query."""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "**********"

_URL = re.compile(r"(?<=://)[^\s\"'<>]+")
_USERINFO = re.compile(r"^.*@")  # to the last @: a password that was not encoded may hold one, or a slash
_QUERY_VALUE = re.compile(r"(?<==)[^&#]+")


def mask_credentials(text: str) -> str:
    """The text with the credentials of every url in it masked: `redis://**********@store:6379/0?password=**********`."""
    return _URL.sub(lambda found: _masked(found[0]), text)


def _masked(url: str) -> str:
    """url: what follows `://`."""
    place, mark, query = _USERINFO.sub(f"{MASK}@", url).partition("?")
    return place + mark + _QUERY_VALUE.sub(MASK, query)
