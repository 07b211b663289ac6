"""Mask the secrets of urls before text is printed: the user, the password and the values of the query."""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "**********"

_URL = re.compile(r"(?<=://)[^\s\"'<>]+")
_USERINFO = re.compile(r"^.*@")  # to the last @: a password that is not encoded may contain @ or a slash
_QUERY_VALUE = re.compile(r"(?<==)[^&#]+")


def mask_credentials(text: str) -> str:
    """Mask the credentials of every url in a text: `redis://**********@store:6379/0?password=**********`."""
    return _URL.sub(lambda found: _masked(found[0]), text)


def _masked(url: str) -> str:
    """Mask one url, given without its scheme: the part after `://`."""
    place, mark, query = _USERINFO.sub(f"{MASK}@", url).partition("?")
    return place + mark + _QUERY_VALUE.sub(MASK, query)
