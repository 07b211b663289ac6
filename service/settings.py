"""Settings of the service: one typed object, read once from the environment (SFDDM_*) and handed down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.catalogue import default_zoo
from service.engine.config import EngineConfig


class Settings(BaseSettings):
    """Everything an operator can set; `SFDDM_PORT=9000` sets `port`. Unknown SFDDM_* variables are left alone.

    Raises pydantic.ValidationError for values out of range.
    """

    model_config = SettingsConfigDict(env_prefix="SFDDM_", frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all interfaces")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose")
    zoos: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda: (default_zoo(),),
        description="folders of model folders, separated by commas; the first that holds an id wins",
    )
    default_model: str | None = Field(default=None, description="model of requests that name none; default: student-016")
    max_n: int = Field(default=64, ge=1, le=1024, description="most images in one request")
    max_side: int = Field(default=1024, ge=1, le=8192, description="largest width or height of an upscaled image, pixels")
    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="largest request body")
    max_batch: int = Field(default=EngineConfig.max_batch, ge=1, le=4096, description="most rows in one network evaluation")
    max_step_ms: float = Field(default=EngineConfig.max_step_ms, gt=0, description="longest network evaluation, milliseconds")
    max_backlog_s: float = Field(
        default=EngineConfig.max_backlog_s, gt=0, description="seconds of queued work above which requests get 429"
    )
    isolated_s: float = Field(
        default=0.0, ge=0, le=60, description="device seconds a minute that isolated comparisons may have alone; 0: none"
    )
    public_url: str | None = Field(
        default=None, description="where clients reach this service, for absolute urls; default: the Host they asked for"
    )
    url_secret: str | None = Field(
        default=None, description="key that signs image urls, the same on every replica; default: random at each start"
    )
    url_expire_s: float = Field(default=3600.0, gt=0, description="seconds that an image url is good for")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of one evaluation; default: every usable core")
    provider: str | None = Field(default=None, description="ONNX Runtime provider; default: CUDA where there is one, else CPU")
    drain_s: float = Field(default=30.0, ge=0, description="seconds that running requests get to finish at shutdown")
    log_format: Literal["console", "json"] = Field(default="console", description="how log lines are written to stderr")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("zoos", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A comma-separated list is what fits in one environment variable."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
