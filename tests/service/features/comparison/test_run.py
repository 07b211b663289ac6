"""The requests of a comparison: their order, and the time in which they have the device alone."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from models.catalogue import Catalogue
from models.runtime.base import Float32, Int64
from service.engine.request import Generation, ImageSpec, OverloadedError, RowFailedError
from service.features.comparison.run import Arrived, Comparison, ComparisonRun, Measured
from service.features.isolation import Isolation
from tests.service.engine.support import Gate, Watched, running, until

pytestmark = pytest.mark.anyio
MODELS = ("tiny/teacher", "tiny/student-004", "tiny/teacher@ddim-004")


def comparison(catalogue: Catalogue, repeats: int = 3, *, isolated: bool = False, n: int = 2) -> Comparison:
    models = tuple(catalogue.resolve(name) for name in MODELS)
    return Comparison(
        models, tuple(ImageSpec(7, i, i) for i in range(n)), repeats, seed=8, reference=models[0], isolated=isolated
    )


async def test_every_model_makes_every_image_once_and_is_measured_once_a_round(tiny_catalogue: Catalogue) -> None:
    async with running(tiny_catalogue) as engine:
        events = [event async for event in ComparisonRun(engine, comparison(tiny_catalogue), Isolation(0)).events()]
    arrived = [event for event in events if isinstance(event, Arrived)]
    assert Counter((event.model.id, event.image.spec.index) for event in arrived) == Counter(
        (name, index) for name in MODELS for index in range(2)
    )
    measured = [event for event in events if isinstance(event, Measured)]
    assert events == arrived + measured
    for number in range(3):
        mine = [event for event in measured if event.round == number]
        assert sorted(event.model.id for event in mine) == sorted(MODELS)
        assert [event.place for event in mine] == [0, 1, 2]
    assert len({tuple(event.model.id for event in measured if event.round == number) for number in range(3)}) > 1


async def test_isolated_measurements_have_the_device_to_themselves(tiny_catalogue: Catalogue) -> None:
    """Other requests keep the engine busy: no measured batch has rows of theirs, and they go on afterwards."""
    gate = Gate()
    backend = Watched()
    async with running(tiny_catalogue, backend) as engine:
        model = tiny_catalogue.resolve("tiny/teacher")
        backend.armed, backend.before = True, gate
        others = engine.submit(Generation(model, [ImageSpec(1, i, 0) for i in range(3)]))
        await until(lambda: gate.waiting == 1)
        alone = engine.submit(Generation(model, [ImageSpec(2, i, 1) for i in range(2)], exclusive_s=1e6))
        gate.let(1 + len(model.plan))  # the step under way, and every step of the request that is alone
        assert len(await alone.images()) == 2
        await until(lambda: gate.waiting == 2 + len(model.plan))
        gate.let(1000)
        assert len(await others.images()) == 3
    assert [len(batch) for batch in backend.batches[: 1 + len(model.plan)]] == [3] + [2] * len(model.plan)
    assert {len(batch) for batch in backend.batches[1 + len(model.plan) :]} == {3}


async def test_time_alone_is_bounded(tiny_catalogue: Catalogue) -> None:
    """A request shares the device once its device seconds are spent. A comparison leaves out what did not fit."""
    gate = Gate()
    backend = Watched()
    async with running(tiny_catalogue, backend) as engine:
        model = tiny_catalogue.resolve("tiny/teacher")
        backend.armed, backend.before = True, gate
        others = engine.submit(Generation(model, [ImageSpec(1, 0, 0)]))
        await until(lambda: gate.waiting == 1)
        alone = engine.submit(Generation(model, [ImageSpec(2, 0, 1)], exclusive_s=1e-9))
        gate.let(1000)
        await asyncio.gather(others.images(), alone.images())
    assert [len(batch) for batch in backend.batches[:3]] == [1, 1, 2]
    async with running(tiny_catalogue) as engine:
        events = [
            event async for event in ComparisonRun(engine, comparison(tiny_catalogue, isolated=True), Isolation(1e-9)).events()
        ]
    assert not [event for event in events if isinstance(event, Measured)]


async def test_a_failure_while_alone_frees_the_device(tiny_catalogue: Catalogue) -> None:
    def spoil(x_next: Float32, timestep: Int64, class_label: Int64 | None) -> None:
        if class_label is not None:
            x_next[class_label == 1] = np.nan

    backend = Watched()
    async with running(tiny_catalogue, backend) as engine:
        backend.armed, backend.after = True, spoil
        model = tiny_catalogue.resolve("tiny/teacher")
        others = engine.submit(Generation(model, [ImageSpec(1, 0, 0)]))
        failing = engine.submit(Generation(model, [ImageSpec(2, 0, 1)], exclusive_s=60))
        with pytest.raises(RowFailedError):
            await failing.images()
        assert len(await others.images()) == 1


async def test_time_alone_waits_for_promises(tiny_catalogue: Catalogue) -> None:
    gate = Gate()
    backend = Watched()
    async with running(tiny_catalogue, backend) as engine:
        backend.armed, backend.before = True, gate
        teacher = tiny_catalogue.resolve("tiny/teacher")
        busy = engine.submit(Generation(teacher, [ImageSpec(1, 0, 0)], exclusive_s=60))
        with pytest.raises(OverloadedError, match="promised"):
            engine.submit(Generation(teacher, [ImageSpec(2, 0, 0)], exclusive_s=60))
        gate.let(1000)
        assert len(await busy.images()) == 1


async def test_leaving_frees_the_device(tiny_catalogue: Catalogue) -> None:
    async with running(tiny_catalogue) as engine:
        run = ComparisonRun(engine, comparison(tiny_catalogue, n=3), Isolation(0))
        run.cancel()
        assert all(engine.wait_s(tiny_catalogue.resolve(name)) == 0 for name in MODELS)
        alone = engine.submit(Generation(tiny_catalogue.resolve("tiny/teacher"), [ImageSpec(1, 0, 0)], exclusive_s=60))
        alone.cancel()
        assert len(await engine.submit(Generation(tiny_catalogue.resolve("tiny/teacher"), [ImageSpec(1, 0, 0)])).images()) == 1


async def test_turns_alone_begin_a_minute_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("service.features.isolation.asyncio.sleep", sleep)
    isolation = Isolation(5)
    for _ in range(2):
        async with isolation.turn() as seconds:
            assert seconds == 5
    assert waits[0] == 0
    assert 59 < waits[1] <= 60
