"""The limits and choices of the service's features, built once at the edge of the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from service.engine.config import EngineConfig

Arms = Mapping[str, float]  # of an experiment: model id -> weight


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Limits and choices of one service. For fields that are not listed here, see the setting of the same name.

    zoos               folders of model folders; the first that holds an id wins
    experiments        arms by experiment id; the first arm is the reference of the others
    gpu_memory         most bytes of one model's buffers; None: no limit
    redis_url          where jobs, cached images and samples live; None: in this process
    """

    zoos: tuple[Path, ...] = ()
    default_model: str | None = None
    experiments: Mapping[str, Arms] = field(default_factory=lambda: MappingProxyType({}))
    engine: EngineConfig = field(default_factory=EngineConfig)
    provider: str | None = None
    threads: int | None = None
    gpu_memory: int | None = None
    max_n: int = 64
    max_side: int = 1024
    max_comparison_s: float = 600.0
    isolated_s: float = 0.0
    url_secret: str | None = field(default=None, repr=False)
    url_expire_s: float = 3600.0
    redis_url: str | None = field(default=None, repr=False)
    max_job_images: int = 100_000
    max_jobs: int = 100
    job_chunk: int = 32
    job_ttl_s: float = 86_400.0
    job_lease_s: float = 15.0
    job_bytes: int = 1 << 28
    cache_bytes: int = 1 << 26
    cache_ttl_s: float = 86_400.0
