"""A fault affects nothing else: cancellation, broken rows, broken models, overload, shutdown."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.catalogue import Catalogue, Entry, discover
from models.runtime.base import BackendError, DeviceMemoryError, Float32, Int64, Network
from models.runtime.onnx import OnnxBackend
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.lifecycle import LOAD_S
from service.engine.loop import DEVICE_LOST
from service.engine.request import (
    Failed,
    Finished,
    Generation,
    ImageSpec,
    OverloadedError,
    RequestCancelledError,
    RowFailedError,
    UnavailableError,
)
from service.observability.metrics import Metrics
from tests.service.engine.support import Gate, Watched, reference, running, until, value

pytestmark = pytest.mark.anyio

POISON = 2  # a class label


def images(count: int, *, seed: int = 1, label: int = 0) -> list[ImageSpec]:
    return [ImageSpec(seed, index, label) for index in range(count)]


async def test_cancelled_rows_leave_at_the_next_step_boundary(tiny_catalogue: Catalogue) -> None:
    watched, gate, metrics = Watched(), Gate(), Metrics()
    watched.before = gate
    model = tiny_catalogue.resolve("tiny/student-008")
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        watched.armed = True
        gone, kept = engine.submit(Generation(model, images(3))), None
        await until(lambda: gate.waiting == 1)
        kept = engine.submit(Generation(model, images(1, seed=2)))
        gate.let(2)
        await until(lambda: gate.waiting == 3)
        gone.cancel()
        gone.cancel()
        gate.let(100)
        (image,) = await kept.images()
        with pytest.raises(RequestCancelledError):
            await gone.images()
        assert np.array_equal(image.pixels, reference(model, image.spec))
    assert [len(batch) for batch in watched.batches] == [3, 4, 4, 1, 1, 1, 1, 1, 1]
    assert value(metrics, "sfddm_wasted_steps_total", model=model.id) == 3 * 3
    assert value(metrics, "sfddm_steps_total", model=model.id) == 3 * 3 + 8


async def test_a_reader_that_leaves_frees_its_rows(tiny_catalogue: Catalogue) -> None:
    watched, gate, metrics = Watched(), Gate(), Metrics()
    watched.before = gate
    model = tiny_catalogue.resolve("tiny/teacher")
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        watched.armed = True
        reader = asyncio.create_task(engine.submit(Generation(model, images(2))).images())
        await until(lambda: gate.waiting == 1)
        assert value(metrics, "sfddm_running_rows") == 2
        assert value(metrics, "sfddm_backlog_seconds") > 0
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert value(metrics, "sfddm_running_rows") == value(metrics, "sfddm_backlog_seconds") == 0
        gate.let(1)
    assert len(watched.batches) == 1


async def test_waiting_requests_hold_no_tensors(tiny_catalogue: Catalogue) -> None:
    watched, gate, metrics = Watched(), Gate(), Metrics()
    watched.before = gate
    model = tiny_catalogue.resolve("tiny/student-004")
    async with running(tiny_catalogue, watched, EngineConfig(max_batch=2), metrics) as engine:
        watched.armed = True
        tickets = [engine.submit(Generation(model, images(2, seed=seed))) for seed in range(5)]
        await until(lambda: gate.waiting == 1)
        assert value(metrics, "sfddm_running_rows") == 2
        assert value(metrics, "sfddm_waiting_requests") == 4
        gate.let(100)
        for ticket in tickets:
            await ticket.images()


def _raise(timestep: Int64, class_label: Int64 | None) -> None:
    if class_label is not None and POISON in class_label:
        raise RuntimeError("the device does not like this batch")


def _spoil(x_next: Float32, timestep: Int64, class_label: Int64 | None) -> None:
    if class_label is not None:
        x_next[class_label == POISON] = np.nan


@pytest.mark.parametrize(("fault", "words"), [("raise", "the device reported an error"), ("spoil", "not finite")])
async def test_only_the_faulty_image_fails(tiny_catalogue: Catalogue, fault: str, words: str) -> None:
    watched, gate, metrics = Watched(), Gate(), Metrics()
    model = tiny_catalogue.resolve("tiny/student-004")

    def before(timestep: Int64, class_label: Int64 | None) -> None:
        gate(timestep, class_label)
        if fault == "raise":
            _raise(timestep, class_label)

    watched.before = before
    if fault == "spoil":
        watched.after = _spoil
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        watched.armed = True
        hold = engine.submit(Generation(model, images(1, seed=9)))  # keeps the device busy until the others have queued up
        await until(lambda: gate.waiting == 1)
        healthy = [engine.submit(Generation(model, images(2, seed=seed))) for seed in (3, 4)]
        faulty = engine.submit(Generation(model, [*images(1, seed=6), ImageSpec(7, 0, POISON), *images(1, seed=8)]))
        gate.let(1000)
        events = {event.position: event async for event in faulty.events()}
        failed = events.pop(1)
        assert isinstance(failed, Failed)
        assert words in str(failed.error)
        assert "seed 7, index 0" in str(failed.error)
        for event in events.values():
            assert isinstance(event, Finished)
            assert np.array_equal(event.pixels, reference(model, event.spec))
        for ticket in [hold, *healthy]:
            for image in await ticket.images():
                assert np.array_equal(image.pixels, reference(model, image.spec))
        again = await engine.submit(Generation(model, images(1))).images()
        assert np.array_equal(again[0].pixels, reference(model, again[0].spec))
    assert value(metrics, "sfddm_wasted_steps_total", model=model.id) == 1
    assert value(metrics, "sfddm_running_rows") == 0


async def test_an_answer_that_needs_every_image_stops_at_the_first_failure(tiny_catalogue: Catalogue) -> None:
    watched, metrics = Watched(), Metrics()
    watched.after = _spoil
    model = tiny_catalogue.resolve("tiny/teacher")
    async with running(tiny_catalogue, watched, EngineConfig(max_batch=2), metrics) as engine:
        watched.armed = True
        with pytest.raises(RowFailedError, match="not finite"):
            await engine.submit(Generation(model, [ImageSpec(7, 0, POISON), *images(99)])).images()
        assert value(metrics, "sfddm_running_rows") == value(metrics, "sfddm_waiting_requests") == 0
    assert value(metrics, "sfddm_steps_total", model=model.id) < 99 * 32


async def test_out_of_memory_halves_the_batch(tiny_catalogue: Catalogue) -> None:
    watched, metrics = Watched(), Metrics()
    model = tiny_catalogue.resolve("tiny/student-004")

    def before(timestep: Int64, class_label: Int64 | None) -> None:
        if len(timestep) > 3:
            raise DeviceMemoryError("no memory")

    watched.before = before
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        watched.armed = True
        for image in await engine.submit(Generation(model, images(8))).images():
            assert np.array_equal(image.pixels, reference(model, image.spec))
            assert image.device.largest_batch <= 3
        tried = len(watched.batches)
        await engine.submit(Generation(model, images(8))).images()
        assert max(len(batch) for batch in watched.batches[tried:]) <= 3
    assert value(metrics, "sfddm_wasted_steps_total", model=model.id) == 0


async def test_an_image_that_no_memory_is_enough_for(tiny_catalogue: Catalogue) -> None:
    watched = Watched()
    model = tiny_catalogue.resolve("tiny/student-004")

    def before(timestep: Int64, class_label: Int64 | None) -> None:
        raise DeviceMemoryError("no memory")

    watched.before = before
    async with running(tiny_catalogue, watched) as engine:
        watched.armed = True
        with pytest.raises(RowFailedError, match="failed at step 1: the device is out of memory"):
            await engine.submit(Generation(model, images(2))).images()
        watched.armed = False
        assert len(await engine.submit(Generation(model, images(2))).images()) == 2


async def test_a_device_that_is_lost_stops_the_engine_and_says_so(tiny_catalogue: Catalogue) -> None:
    watched, metrics = Watched(), Metrics()
    model = tiny_catalogue.resolve("tiny/student-004")

    def before(timestep: Int64, class_label: Int64 | None) -> None:
        raise RuntimeError("unspecified launch failure")

    watched.before = before
    async with running(tiny_catalogue, watched, EngineConfig(max_batch=1), metrics) as engine:
        watched.armed = True
        events = engine.submit(Generation(model, images(DEVICE_LOST + 5))).events()
        with pytest.raises(UnavailableError, match="this replica has failed"):
            assert [type(event) async for event in events] == []
        assert engine.failure is not None
        assert f"every row of {DEVICE_LOST} batches" in engine.failure
        assert not engine.ready
        with pytest.raises(UnavailableError, match="this replica has failed"):
            engine.submit(Generation(model, images(1)))
    assert value(metrics, "sfddm_shed_total", reason="failed") == 1
    assert value(metrics, "sfddm_running_rows") == value(metrics, "sfddm_waiting_requests") == 0


async def test_a_bug_of_the_engine_stops_it(tiny_catalogue: Catalogue) -> None:
    watched = Watched()
    model = tiny_catalogue.resolve("tiny/student-004")
    async with running(tiny_catalogue, watched) as engine:
        assert engine.failure is None
        watched.broken = True
        with pytest.raises(UnavailableError, match="this replica has failed"):
            await engine.submit(Generation(model, images(2))).images()
        await until(lambda: engine.failure == "RuntimeError: a bug")
        assert not engine.ready


async def test_a_row_that_fails_at_its_last_step(tiny_catalogue: Catalogue) -> None:
    watched, metrics = Watched(), Metrics()
    model = tiny_catalogue.resolve("tiny/student-004")

    def spoil_last(x_next: Float32, timestep: Int64, class_label: Int64 | None) -> None:
        x_next[timestep == 0] = np.inf

    watched.after = spoil_last
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        watched.armed = True
        with pytest.raises(RowFailedError, match="at step 4"):
            await engine.submit(Generation(model, images(2))).images()
        watched.armed = False
        assert len(await engine.submit(Generation(model, images(2))).images()) == 2
    assert value(metrics, "sfddm_wasted_steps_total", model=model.id) == 8


class _Refusing(OnnxBackend):
    """A real backend that cannot load one of the models."""

    def load(self, entry: Entry) -> Network:  # type: ignore[override]
        if entry.id == "tiny/teacher":
            raise BackendError("no memory for tiny/teacher")
        return super().load(entry)


async def test_a_model_that_does_not_load_stops_no_other(tiny_catalogue: Catalogue) -> None:
    metrics = Metrics()
    async with running(tiny_catalogue, _Refusing(threads=1), metrics=metrics) as engine:
        status = engine.models["tiny/teacher"]
        assert (status.state, status.reason, dict(status.step_ms)) == ("failed", "no memory for tiny/teacher", {})
        with pytest.raises(UnavailableError, match="could not be loaded: no memory"):
            engine.submit(Generation(tiny_catalogue.resolve("tiny/teacher@ddim-004"), images(1)))
        assert len(await engine.submit(Generation(tiny_catalogue.resolve("tiny/student-004"), images(1))).images()) == 1
    assert value(metrics, "sfddm_model_loaded", model="tiny/teacher") == 0
    assert value(metrics, "sfddm_shed_total", reason="model_failed") == 1


async def test_never_ready_without_a_model(tiny_zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_zoo / "tiny" / "teacher", tmp_path / "tiny" / "teacher")
    engine = Engine(discover([tmp_path]), _Refusing(threads=1), EngineConfig(), Metrics())
    engine.start()
    await until(lambda: engine.models["tiny/teacher"].state == "failed")
    assert not engine.ready
    await engine.drain(1)


async def test_overload_is_refused_with_an_honest_time_to_retry(tiny_catalogue: Catalogue) -> None:
    watched, gate, metrics = Watched(), Gate(), Metrics()
    watched.before = gate
    model = tiny_catalogue.resolve("tiny/teacher")
    async with running(tiny_catalogue, watched, EngineConfig(max_batch=2, max_backlog_s=1e-6), metrics) as engine:
        watched.armed = True
        admitted = engine.submit(Generation(model, images(2)))  # nothing is ahead of it
        with pytest.raises(OverloadedError, match="more than the 1e-06 s allowed; try again in") as refused:
            engine.submit(Generation(model, images(1)))
        assert 0 < refused.value.retry_after_s < 120
        other = engine.submit(Generation(tiny_catalogue.resolve("tiny/student-004"), images(1)))
        gate.let(1000)
        assert len(await admitted.images()) == 2
        assert len(await other.images()) == 1
        assert len(await engine.submit(Generation(model, images(1))).images()) == 1
    assert value(metrics, "sfddm_shed_total", reason="overloaded") == 1


async def test_drain_finishes_what_runs_and_refuses_the_rest(tiny_catalogue: Catalogue) -> None:
    watched, gate, metrics = Watched(), Gate(), Metrics()
    watched.before = gate
    model = tiny_catalogue.resolve("tiny/student-004")
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        watched.armed = True
        ticket = engine.submit(Generation(model, images(2)))
        drained = asyncio.create_task(engine.drain(60))
        await until(lambda: not engine.ready)
        with pytest.raises(UnavailableError, match="shutting down"):
            engine.submit(Generation(model, images(1)))
        gate.let(4)
        assert len(await ticket.images()) == 2
        await drained
    assert value(metrics, "sfddm_shed_total", reason="draining") == 1


async def test_drain_fails_what_does_not_finish_in_time(tiny_catalogue: Catalogue) -> None:
    watched, gate = Watched(), Gate()
    watched.before = gate
    model = tiny_catalogue.resolve("tiny/student-008")
    async with running(tiny_catalogue, watched) as engine:
        watched.armed = True
        ticket = engine.submit(Generation(model, images(1)))
        await until(lambda: gate.waiting == 1)
        drained = asyncio.create_task(engine.drain(0))
        await until(lambda: not engine.ready)
        gate.let(1)
        with pytest.raises(UnavailableError, match="shutting down"):
            await ticket.images()
        await drained
        with pytest.raises(UnavailableError):
            engine.submit(Generation(model, images(1)))
    assert len(watched.batches) == 1


async def test_starting_and_never_started(tiny_catalogue: Catalogue) -> None:
    metrics = Metrics()
    engine = Engine(tiny_catalogue, OnnxBackend(threads=1), EngineConfig(), metrics)
    assert not engine.ready
    assert {status.state for status in engine.models.values()} == {"loading"}
    with pytest.raises(UnavailableError, match="still loading") as refused:
        engine.submit(Generation(tiny_catalogue.resolve("tiny/student-004"), images(1)))
    assert refused.value.retry_after_s >= LOAD_S * (len(tiny_catalogue.entries) - 1)
    await engine.drain(1)
    assert value(metrics, "sfddm_shed_total", reason="starting") == 1


class _Slow(OnnxBackend):
    """Takes 10 s for each model by its own clock, and fails. Reads `ready_in_s` before and after each model."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.now_s = 0.0
        self.told: list[float] = []
        self.engine: Engine | None = None

    def load(self, entry: Entry) -> Network:  # type: ignore[override]
        assert self.engine is not None
        self.told.append(self.engine.ready_in_s)
        self.now_s += 10
        self.told.append(self.engine.ready_in_s)
        raise BackendError("there is nothing to load")


async def test_the_time_until_ready_is_told_from_the_models_so_far(tiny_catalogue: Catalogue) -> None:
    """Each model takes 10 s by this clock; the estimate is read as the loading of each begins."""
    backend = _Slow()
    engine = Engine(tiny_catalogue, backend, EngineConfig(), Metrics(), clock=lambda: backend.now_s)
    backend.engine = engine
    engine.start()
    await until(lambda: engine.state == "serving")
    await engine.drain(1)
    told, count = backend.told, len(tiny_catalogue.entries)
    assert told[:2] == [LOAD_S * count, 10.0 * (count - 1) + LOAD_S]
    assert told[3::2] == [10.0 * (left - 1) + LOAD_S for left in range(count - 1, 0, -1)]
    assert told[2::2] == [10.0 * left for left in range(count - 1, 0, -1)]


def test_a_reader_whose_event_loop_is_gone(tiny_catalogue: Catalogue) -> None:
    """Two event loops, as in a script that calls asyncio.run twice. The first one ends without reading."""
    metrics = Metrics()
    engine = Engine(tiny_catalogue, OnnxBackend(threads=1), EngineConfig(), metrics)
    engine.start()
    model = tiny_catalogue.resolve("tiny/teacher")

    async def leave() -> None:
        await until(lambda: engine.ready)
        engine.submit(Generation(model, images(1)))

    async def stay() -> Finished:
        (image,) = await engine.submit(Generation(model, images(1))).images()
        await engine.drain(10)
        return image

    asyncio.run(leave())
    assert np.array_equal(asyncio.run(stay()).pixels, reference(model, images(1)[0]))


@pytest.mark.parametrize(
    "limits",
    [
        lambda: EngineConfig(max_batch=0),
        lambda: EngineConfig(max_step_ms=0),
        lambda: EngineConfig(max_backlog_s=-1),
        lambda: EngineConfig(weights={"tiny/teacher": 0.0}),
    ],
)
def test_limits_without_meaning(limits: Callable[[], EngineConfig]) -> None:
    with pytest.raises(ValueError, match=r"above 0|at least 1"):
        limits()
