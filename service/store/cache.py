"""Images made before: the same model, plan, seed, index and class give the same pixels, so they need not be made again.

Only where that holds: on a CPU one row's pixels depend on nothing else. Elsewhere (a GPU picks its kernels by batch size)
the cache is passed by. Pixels are kept, not files: encoding them is a pure function, so one entry serves every format.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, replace

import numpy as np
import onnxruntime as ort

from models.catalogue import Resolved
from service.engine.request import Device, Finished, ImageSpec, Timing
from service.observability.metrics import Metrics
from service.store.base import Blobs, Room, StoreUnavailableError

_NOT_COMPUTED = Timing(queue_s=0.0, compute_s=0.0, total_s=0.0, mean_batch=0.0, estimated_s=0.0)
_RODE_IN_NO_BATCH = Device(provider="CPUExecutionProvider", precision="float32", smallest_batch=0, largest_batch=0)


def _machine() -> str:
    """What else may decide how numbers are rounded: replicas that share a store need not be alike."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line for line in file if line.startswith(("flags", "Features"))), "")
    return platform.machine()


_MADE_BY = f"{_RODE_IN_NO_BATCH.provider} {_RODE_IN_NO_BATCH.precision}"  # what `serves` lets through
_ROUNDING = f"{_MADE_BY} {ort.__version__} {np.__version__} {_machine()}"

Compute = Callable[[Sequence[ImageSpec]], Awaitable[list[Finished]]]


class ResultCache:
    """Recalls images from the store, and computes and remembers the others."""

    def __init__(self, blobs: Blobs, metrics: Metrics, *, max_bytes: int, ttl_s: float) -> None:
        """max_bytes: what all images together may take; 0 switches the cache off."""
        self._blobs = blobs
        self._metrics = metrics
        self._room = Room("images", max_bytes)
        self._ttl_s = ttl_s

    def serves(self, provider: str | None) -> bool:
        """Whether images computed by this provider may be recalled."""
        return self._room.max_bytes > 0 and provider == _RODE_IN_NO_BATCH.provider

    async def images(self, model: Resolved, specs: Sequence[ImageSpec], compute: Compute) -> list[Finished]:
        """The images in order. Recalled ones are `cached` and have no timing: nothing was computed.

        Raises what `compute` raises; a store that is away only means that everything is computed.
        """
        keys = _keys(model, specs)
        found: Sequence[bytes | None] = [None] * len(keys)
        with suppress(StoreUnavailableError):
            found = await self._blobs.get(self._room, keys)
        missing = [position for position, pixels in enumerate(found) if pixels is None]
        self._metrics.cache_images_total.labels("hit").inc(len(keys) - len(missing))
        self._metrics.cache_images_total.labels("miss").inc(len(missing))
        made = await compute([specs[position] for position in missing]) if missing else []
        images = {position: replace(image, position=position) for position, image in zip(missing, made, strict=True)}
        with suppress(StoreUnavailableError):
            for position, image in images.items():
                await self._blobs.put(self._room, keys[position], image.pixels.tobytes(), self._ttl_s)
        shape = model.entry.manifest.image.chw
        for position, raw in enumerate(found):
            if raw is not None:
                pixels = np.frombuffer(raw, dtype=np.uint8).reshape(shape)
                images[position] = Finished(position, specs[position], pixels, _NOT_COMPUTED, _RODE_IN_NO_BATCH, cached=True)
        return [images[position] for position in range(len(specs))]


def _keys(model: Resolved, specs: Sequence[ImageSpec]) -> list[str]:
    """Everything that decides an image's pixels, hashed."""
    plan = model.plan
    common = hashlib.sha256(f"{_ROUNDING} {model.entry.manifest.sha256} {len(plan)} ".encode())
    for table in (plan.label, plan.coefficients, plan.s):
        common.update(np.ascontiguousarray(table).tobytes())
    return [hashlib.sha256(common.digest() + repr(astuple(spec)).encode()).hexdigest() for spec in specs]
