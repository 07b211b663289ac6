"""The result cache: images that were made before are read from the store and not made again.

The same model, plan, seed, index and class give the same pixels on a CPU, where a row's pixels depend on nothing else. On
other devices the cache is not used: a GPU picks its kernels by batch size. The cache keeps pixels and not files: encoding is a
pure function of them, so that one entry serves every format.
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
from service.store.base import BlobGroup, Blobs, StoreUnavailableError

_NO_TIMING = Timing(queue_s=0.0, compute_s=0.0, total_s=0.0, mean_batch=0.0, estimated_s=0.0)
_CPU = Device(provider="CPUExecutionProvider", precision="float32", smallest_batch=0, largest_batch=0)


def _machine() -> str:
    """Describe the processor, since rounding may depend on it and replicas that share a store may have different ones."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line for line in file if line.startswith(("flags", "Features"))), "")
    return platform.machine()


_MADE_BY = f"{_CPU.provider} {_CPU.precision}"  # `serves` accepts no other provider
_ROUNDING = f"{_MADE_BY} {ort.__version__} {np.__version__} {_machine()}"

Compute = Callable[[Sequence[ImageSpec]], Awaitable[list[Finished]]]


class ResultCache:
    """Reads images from the store. Computes the others and stores them."""

    def __init__(self, blobs: Blobs, metrics: Metrics, *, max_bytes: int, ttl_s: float) -> None:
        """max_bytes: limit of all images together; 0 switches the cache off. ttl_s: seconds until an image expires."""
        self._blobs = blobs
        self._metrics = metrics
        self._group = BlobGroup("images", max_bytes)
        self._ttl_s = ttl_s

    def serves(self, provider: str | None) -> bool:
        """Return True if images computed by this provider may be cached."""
        return self._group.max_bytes > 0 and provider == _CPU.provider

    async def images(self, model: Resolved, specs: Sequence[ImageSpec], compute: Compute) -> list[Finished]:
        """Return the images in order. Those from the store are `cached`, and their times are 0: nothing was computed.

        Computes everything while the store cannot be reached. Raises what `compute` raises.
        """
        keys = _keys(model, specs)
        found: Sequence[bytes | None] = [None] * len(keys)
        with suppress(StoreUnavailableError):
            found = await self._blobs.get(self._group, keys)
        missing = [position for position, pixels in enumerate(found) if pixels is None]
        self._metrics.cache_images_total.labels("hit").inc(len(keys) - len(missing))
        self._metrics.cache_images_total.labels("miss").inc(len(missing))
        made = await compute([specs[position] for position in missing]) if missing else []
        images = {position: replace(image, position=position) for position, image in zip(missing, made, strict=True)}
        with suppress(StoreUnavailableError):
            for position, image in images.items():
                await self._blobs.put(self._group, keys[position], image.pixels.tobytes(), self._ttl_s)
        shape = model.entry.manifest.image.chw
        for position, raw in enumerate(found):
            if raw is not None:
                pixels = np.frombuffer(raw, dtype=np.uint8).reshape(shape)
                images[position] = Finished(position, specs[position], pixels, _NO_TIMING, _CPU, cached=True)
        return [images[position] for position in range(len(specs))]


def _keys(model: Resolved, specs: Sequence[ImageSpec]) -> list[str]:
    """Return a key for each image: a hash of everything that decides its pixels."""
    plan = model.plan
    common = hashlib.sha256(f"{_ROUNDING} {model.entry.manifest.sha256} {len(plan)} ".encode())
    for table in (plan.label, plan.coefficients, plan.s):
        common.update(np.ascontiguousarray(table).tobytes())
    return [hashlib.sha256(common.digest() + repr(astuple(spec)).encode()).hexdigest() for spec in specs]
