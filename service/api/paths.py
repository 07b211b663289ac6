"""Path parameters for ids with slashes. V2_MODEL is for paths in which a verb follows the id."""

from __future__ import annotations

from typing import Final

from starlette.convertors import Convertor, register_url_convertor

MODEL: Final = "{model_id:id}"
EXPERIMENT: Final = "{experiment_id:id}"
V2_MODEL: Final = "{model_id:v2_id}"

_SEGMENT = r"(?!(?:infer|ready|versions)(?:/|$))[^/]+"


class _Id(Convertor[str]):
    """Matches anything that does not end with a slash, so that /v1/models/ is not taken for the model ''."""

    regex = ".*[^/]"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _InferenceId(_Id):
    """Matches an id without the verbs of the Open Inference Protocol, so that the id in /v2/models/x/infer is x."""

    regex = f"{_SEGMENT}(?:/{_SEGMENT})*"


register_url_convertor("id", _Id())
register_url_convertor("v2_id", _InferenceId())
