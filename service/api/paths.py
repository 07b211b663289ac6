"""Ids with slashes in paths, as path parameters; V2_MODEL where a verb follows the id."""

from __future__ import annotations

from typing import Final

from starlette.convertors import Convertor, register_url_convertor

MODEL: Final = "{model_id:id}"
EXPERIMENT: Final = "{experiment_id:id}"
V2_MODEL: Final = "{model_id:v2_id}"

_SEGMENT = r"(?!(?:infer|ready|versions)(?:/|$))[^/]+"


class _Id(Convertor[str]):
    """Anything that does not end with a slash, so that a list's path with a slash too many is not the entry ''."""

    regex = ".*[^/]"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _InferenceId(_Id):
    """The same without the words of the Open Inference Protocol, so that /v2/models/x/infer is about x, known or not."""

    regex = f"{_SEGMENT}(?:/{_SEGMENT})*"


register_url_convertor("id", _Id())
register_url_convertor("v2_id", _InferenceId())
