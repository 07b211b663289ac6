"""The base classes of the HTTP API's request bodies.

OpenAI's names come first, then ours. Unknown fields are refused by name; null means absent.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.noise import MAX_SEED
from service.features.encode import ImageFormat

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
ModelId = Annotated[str, Field(min_length=1, max_length=200)]


def _null_allowed(schema: dict[str, Any]) -> None:
    """Publish in the schema that null means absent, wherever a field has a default."""
    for name, field in schema.get("properties", {}).items():
        if "default" in field and {"type": "null"} not in field.get("anyOf", []):
            notes = {key: field.pop(key) for key in ("default", "description", "title") if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **notes}


class RequestBody(BaseModel):
    """The base of every body: types are not converted, unknown fields are refused, null means absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, json_schema_extra=_null_allowed)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}


class ImageRequest(RequestBody):
    """The fields that every request for images has: what they show, their size and file format."""

    prompt: str = Field(default="", max_length=1000, description="a class name, a phrase that holds one, or nothing")
    class_label: int | None = Field(default=None, ge=0, description="label of a class, instead of a prompt")
    size: str = Field(default="auto", description="auto is the model's own size; whole multiples of it are upscaled")
    output_format: ImageFormat = "png"
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="quality of webp and jpeg; absent: lossless webp, jpeg of quality 95"
    )
