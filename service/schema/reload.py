"""Bodies of /admin/models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from service.features.reload import ReloadReport


class FailedModel(BaseModel):
    """A model that is not as its folder is."""

    model: str
    reason: str
    serving: bool = Field(description="whether what was loaded before is still served")


class ReloadBody(BaseModel):
    """What became of each model, by id."""

    object: Literal["reload"] = "reload"
    loaded: list[str] = Field(default_factory=list, description="new ones")
    replaced: list[str] = Field(default_factory=list, description="those whose folder has changed")
    removed: list[str] = Field(default_factory=list, description="those whose folder is gone, or that were unloaded")
    kept: list[str] = Field(default_factory=list, description="those whose folder says what it said")
    failed: list[FailedModel] = Field(default_factory=list, description="those that are not as their folders are")


def reload_body(report: ReloadReport) -> ReloadBody:
    """Return the body of a reload's report."""
    return ReloadBody(
        loaded=report.loaded,
        replaced=report.replaced,
        removed=report.removed,
        kept=report.kept,
        failed=[FailedModel(model=each.model, reason=each.reason, serving=each.serving) for each in report.failed],
    )
