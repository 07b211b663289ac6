"""The result cache: which images may be cached, how they are marked, and that their bytes stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from models.catalogue import Catalogue
from service.engine.request import Finished, Generation, ImageSpec
from service.observability.metrics import Metrics
from service.store.base import Store
from service.store.cache import ResultCache
from service.store.redis import RedisStore
from tests.service.engine.support import reference, running, value

pytestmark = pytest.mark.anyio
SPECS = [ImageSpec(5, index, index % 3) for index in range(4)]


def hits(metrics: Metrics) -> tuple[float, float]:
    return value(metrics, "sfddm_cache_images_total", outcome="hit"), value(metrics, "sfddm_cache_images_total", outcome="miss")


async def test_recalled_images_have_the_same_bytes(store: Store, tiny_catalogue: Catalogue) -> None:
    metrics = Metrics()
    cache = ResultCache(store.blobs, metrics, max_bytes=1 << 20, ttl_s=60)
    model = tiny_catalogue.resolve("tiny/teacher@ddpm-004")
    asked: list[list[ImageSpec]] = []
    async with running(tiny_catalogue) as engine:

        async def compute(specs: Sequence[ImageSpec]) -> list[Finished]:
            asked.append(list(specs))
            return await engine.submit(Generation(model, specs)).images()

        await cache.images(model, SPECS[1:3], compute)
        assert hits(metrics) == (0, 2)
        images = await cache.images(model, SPECS, compute)
        assert hits(metrics) == (2, 4)
        again = await cache.images(model, SPECS, compute)
    assert asked == [SPECS[1:3], [SPECS[0], SPECS[3]]]
    assert [image.cached for image in images] == [False, True, True, False]
    assert all(image.cached and image.timing.total_s == 0 for image in again)
    for made in (images, again):
        assert [(image.position, image.spec) for image in made] == list(enumerate(SPECS))
        for image in made:
            assert np.array_equal(image.pixels, reference(model, image.spec))


async def test_whatever_decides_an_image_is_part_of_its_key(store: Store, tiny_catalogue: Catalogue) -> None:
    cache = ResultCache(store.blobs, Metrics(), max_bytes=1 << 20, ttl_s=60)
    teacher = tiny_catalogue.resolve("tiny/teacher@ddim-004")
    other_weights = replace(
        teacher,
        entry=replace(teacher.entry, manifest=teacher.entry.manifest.model_copy(update={"sha256": "0" * 64})),
    )
    spec = SPECS[0]
    cases = [
        (teacher, spec),
        (tiny_catalogue.resolve("tiny/teacher@ddim-008"), spec),
        (tiny_catalogue.resolve("tiny/teacher@dpmpp-004"), spec),
        (tiny_catalogue.resolve("tiny/teacher@ddpm-004"), spec),
        (other_weights, spec),
        (teacher, replace(spec, seed=6)),
        (teacher, replace(spec, index=9)),
        (teacher, replace(spec, class_label=2)),
    ]
    for number, (model, one) in enumerate(cases):

        async def compute(specs: Sequence[ImageSpec], number: int = number) -> list[Finished]:
            pixels = np.full((1, 8, 8), number, dtype=np.uint8)
            return [Finished(0, specs[0], pixels, timing=None, device=None, cached=False)]  # type: ignore[arg-type]

        (image,) = await cache.images(model, [one], compute)
        assert (image.cached, image.pixels.max()) == (False, number)


def test_only_a_cpu_gives_the_same_bytes_each_time(tiny_catalogue: Catalogue) -> None:
    def cache(max_bytes: int) -> ResultCache:
        return ResultCache(None, Metrics(), max_bytes=max_bytes, ttl_s=60)  # type: ignore[arg-type] - not reached

    assert cache(1).serves("CPUExecutionProvider")
    assert not cache(1).serves("CUDAExecutionProvider")
    assert not cache(1).serves(None)
    assert not cache(0).serves("CPUExecutionProvider")


async def test_without_the_store_everything_is_computed(tiny_catalogue: Catalogue) -> None:
    nowhere = RedisStore("redis://127.0.0.1:1/0", max_jobs=1, job_ttl_s=1, lease_s=1)  # nothing listens on port 1
    cache = ResultCache(nowhere.blobs, Metrics(), max_bytes=1 << 20, ttl_s=60)
    model = tiny_catalogue.resolve("tiny/student-004")
    async with running(tiny_catalogue) as engine:
        images = await cache.images(model, SPECS, lambda specs: engine.submit(Generation(model, specs)).images())
    assert [image.cached for image in images] == [False] * 4
    await nowhere.close()
