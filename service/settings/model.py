"""The settings of the service: one typed object, made once at the start and passed down. sources.py reads its values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_cache_path
from pydantic import Field, RedisDsn, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.catalogue import default_zoo
from service.engine.config import EngineConfig
from service.features.config import ServiceConfig
from service.settings.experiments import Experiment, ExperimentId, read_experiments

_HTTP_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[^\s?#]*)?", re.IGNORECASE)


class Settings(BaseSettings):
    """Everything that an operator can set. `SFDDM_PORT=9000` in the environment sets `port`.

    Raises pydantic.ValidationError for values out of range. sources.py also reads a file, and refuses unknown names.
    """

    model_config = SettingsConfigDict(env_prefix="SFDDM_", frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all interfaces")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose")
    zoos: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda: (default_zoo(),),
        description="folders that contain model folders, separated by commas; the first that has a model id wins",
    )
    default_model: str | None = Field(
        default=None,
        description="model of requests that name none; default: the first student of 16 steps, else the first model",
    )
    max_n: int = Field(default=ServiceConfig.max_n, ge=1, le=1024, description="most images in one request")
    max_side: int = Field(
        default=ServiceConfig.max_side,
        ge=1,
        le=8192,
        description="largest width or height of an upscaled image, pixels",
    )
    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="largest request body")
    max_batch: int = Field(default=EngineConfig.max_batch, ge=1, le=4096, description="most rows in one network evaluation")
    max_step_ms: float = Field(default=EngineConfig.max_step_ms, gt=0, description="longest network evaluation, milliseconds")
    max_backlog_s: float = Field(
        default=EngineConfig.max_backlog_s, gt=0, description="seconds of work waiting for a model above which requests get 429"
    )
    model_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description='relative shares of the device as JSON, such as {"cats/teacher": 0.5}; 1 for models that are not named',
    )
    deterministic: bool = Field(
        default=False, description="fill every batch up to max_batch on devices where its size changes the bytes of images"
    )
    cache_dir: Path | None = Field(
        default_factory=lambda: user_cache_path("sfddm"),
        description="folder that remembers calibrations and the choice of a runtime; empty: remember nothing",
    )
    max_comparison_s: float = Field(
        default=ServiceConfig.max_comparison_s,
        gt=0,
        description="most device seconds of one comparison, estimated from the calibrated costs of its models",
    )
    isolated_s: float = Field(
        default=ServiceConfig.isolated_s,
        ge=0,
        le=60,
        description="device seconds per minute that isolated comparisons may use alone; 0: they are off",
    )
    public_url: str | None = Field(
        default=None,
        description="http(s) url where clients reach this service, for urls in answers; default: the Host of each request",
    )
    url_secret: str | None = Field(
        default=None, description="key that signs image urls, the same on every replica; default: random at each start"
    )
    url_expire_s: float = Field(default=ServiceConfig.url_expire_s, gt=0, description="seconds until an image url expires")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads for network evaluations; default: every usable core"
    )
    provider: str | None = Field(
        default=None,
        description="CPUExecutionProvider, OpenVINO or CUDAExecutionProvider; default: the best one that this machine offers",
    )
    gpu_memory_mb: int | None = Field(default=None, ge=64, description="most GPU memory of one model's buffers, MiB")
    drain_s: float = Field(default=30.0, ge=0, description="seconds that running requests get to finish at shutdown")
    body_timeout_s: float = Field(default=30.0, gt=0, description="seconds that a client gets to send the body of a request")
    admin_token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="bearer token of /admin, which loads and unloads models; default: /admin is off",
    )
    redis_url: RedisDsn | None = Field(
        default=None, description="Redis for jobs, cached images and answers; default: this process keeps them until it ends"
    )
    max_job_images: int = Field(default=ServiceConfig.max_job_images, ge=1, le=1_000_000, description="most images in one job")
    max_jobs: int = Field(default=ServiceConfig.max_jobs, ge=1, description="most jobs stored at once")
    job_chunk: int = Field(
        default=ServiceConfig.job_chunk,
        ge=1,
        le=1024,
        description="images of a job that a worker takes at once",
    )
    job_ttl_s: float = Field(
        default=ServiceConfig.job_ttl_s,
        gt=0,
        description="seconds that a job is kept after its last progress",
    )
    job_lease_s: float = Field(
        default=ServiceConfig.job_lease_s,
        ge=3,
        description="seconds without a sign of life after which another replica takes over a chunk",
    )
    job_bytes: int = Field(
        default=ServiceConfig.job_bytes,
        ge=1,
        description="most bytes of job images held in this process (without Redis)",
    )
    cache_bytes: int = Field(
        default=ServiceConfig.cache_bytes,
        ge=0,
        description="most bytes of cached images; 0 switches the cache off",
    )
    cache_ttl_s: float = Field(default=ServiceConfig.cache_ttl_s, gt=0, description="seconds that an image stays cached")
    idempotency_bytes: int = Field(default=1 << 26, ge=0, description="most bytes of answers kept for an Idempotency-Key")
    idempotency_ttl_s: float = Field(
        default=86_400.0, gt=0, description="seconds that an answer is kept for an Idempotency-Key"
    )
    experiments: Annotated[dict[ExperimentId, Experiment], NoDecode] = Field(
        default_factory=dict, description="experiments as JSON, or the path of a .toml or .json file with them"
    )
    log_format: Literal["console", "json"] = Field(default="console", description="how log lines are written to stderr")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="lowest level that is logged")

    def service_config(self) -> ServiceConfig:
        """Return the part of these settings that the features need."""
        return ServiceConfig(
            zoos=self.zoos,
            default_model=self.default_model,
            experiments={name: experiment.arms for name, experiment in self.experiments.items()},
            engine=EngineConfig(
                max_batch=self.max_batch,
                max_step_ms=self.max_step_ms,
                max_backlog_s=self.max_backlog_s,
                weights=self.model_weights,
                deterministic=self.deterministic,
                cache_dir=self.cache_dir,
            ),
            provider=self.provider,
            threads=self.threads,
            gpu_memory=None if self.gpu_memory_mb is None else self.gpu_memory_mb << 20,
            max_n=self.max_n,
            max_side=self.max_side,
            max_comparison_s=self.max_comparison_s,
            isolated_s=self.isolated_s,
            url_secret=self.url_secret,
            url_expire_s=self.url_expire_s,
            redis_url=None if self.redis_url is None else str(self.redis_url),
            max_job_images=self.max_job_images,
            max_jobs=self.max_jobs,
            job_chunk=self.job_chunk,
            job_ttl_s=self.job_ttl_s,
            job_lease_s=self.job_lease_s,
            job_bytes=self.job_bytes,
            cache_bytes=self.cache_bytes,
            cache_ttl_s=self.cache_ttl_s,
        )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false for other types: Python would take `port = true` for port 1."""
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is no value for it")
        return value

    @field_validator("cache_dir", mode="before")
    @classmethod
    def _nowhere(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("zoos", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Split a comma-separated list, so that one environment variable can name several folders."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("zoos")
    @classmethod
    def _some_zoo(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if not value:
            raise ValueError("names no folder; name one, or leave it out for the models that ship with sfddm")
        return value

    @field_validator("public_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        """Refuse a url with a query, because paths are appended to it, and one with a user or password."""
        if value is not None and not _HTTP_URL.fullmatch(value):
            got = "" if "@" in value or "?" in value else f", got {value!r}"  # it may contain a password
            raise ValueError(f"must be an http or https url such as https://images.example.com, without user or query{got}")
        return value

    @field_validator("url_secret")
    @classmethod
    def _some_secret(cls, value: str | None) -> str | None:
        """Refuse an empty secret: usually a variable was not filled in, and every replica would draw its own key."""
        if value is not None and not value.strip():
            raise ValueError("is empty; set it to the same random string on every replica, or leave it out for one replica")
        return value

    @field_validator("experiments", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return read_experiments(value) if isinstance(value, str) else value
