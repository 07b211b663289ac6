"""Pydantic's errors as sentences for the user: the field, the rule it breaks, and its value."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_MAX_ERRORS: Final = 3  # errors named in one sentence; with more it would be hard to read
_MAX_CHARACTERS: Final = 60  # of a quoted value

# Rules by pydantic's error type. Names in braces come from the error's context. Other types keep pydantic's own words.
_MUST: Final[Mapping[str, str]] = {
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be an object of names and values",
    "extra_forbidden": "is unknown; leave it out",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of fewer digits",
    "int_type": "must be an integer",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing; it is required",
    "model_type": "must be an object",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty; fill it in or leave it out",  # no field here has a longer minimum
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "tuple_type": "must be a list",
}
_INPUT_SAYS_NOTHING: Final = frozenset({"extra_forbidden", "missing", "string_too_short", "string_unicode"})


def reason_of(error: ErrorDetails, *, secret: bool = False) -> str:
    """Describe one error of a ValidationError without its field: `must be at least 1, got 0`. secret: leave out the value."""
    kind, context = error["type"], error.get("ctx", {})
    if kind not in _MUST:
        message = error["msg"].removeprefix("Value error, ").removesuffix(".")
        return message[:1].lower() + message[1:] if message[1:2].islower() else message
    must = _MUST[kind].format(**context)
    if isinstance(error["input"], str):
        must = must.replace(" entries", " characters")  # pydantic calls a secret's characters entries
    return must if secret or kind in _INPUT_SAYS_NOTHING else f"{must}, got {_shown(error['input'], kind)}"


def place_of(error: ErrorDetails) -> str:
    """Return the path of the field, names and numbers joined by dots; empty for the whole body."""
    return ".".join(str(part) for part in error["loc"] if part != "[key]")


def describe_error(error: ValidationError, secrets: Collection[str] = ()) -> str:
    """Describe a pydantic error in one sentence, `field: reason; field: reason`, with the first few of many fields.

    secrets: fields whose values are left out.
    """
    parts = []
    for item in error.errors(include_url=False):
        place = place_of(item)
        reason = reason_of(item, secret=place in secrets)
        parts.append(f"{place}: {reason}" if place else reason)
    if len(parts) > _MAX_ERRORS:
        parts[_MAX_ERRORS:] = [f"and {len(parts) - _MAX_ERRORS} more"]
    return "; ".join(parts)


def _shown(value: Any, kind: str) -> str:
    """Return a short, printable form of a value."""
    if isinstance(value, str) and kind == "string_too_long":
        return str(len(value))
    if value is None or isinstance(value, str | int | float):
        text = json.dumps(value if not isinstance(value, str) else value[: _MAX_CHARACTERS + 1])
        return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."
    if isinstance(value, Sequence | Mapping):
        if kind in ("too_long", "too_short"):
            return str(len(value))
        return "an object" if isinstance(value, Mapping) else "a list"
    return f"a {type(value).__name__}"
