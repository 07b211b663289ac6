"""Models come and go while the engine runs. Admitted rows finish on the weights that they began with."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.catalogue import Catalogue, Entry, Resolved, discover
from service.engine.engine import Engine
from service.engine.load import Loaded, ModelStatus
from service.engine.request import Generation, ImageSpec, UnavailableError
from service.observability.metrics import Metrics
from tests.service.engine.support import Gate, Watched, reference, running, until, value
from tests.tiny import CLASSES, make_model

pytestmark = pytest.mark.anyio

NAME = "tiny/student-004"
IMAGES = [ImageSpec(5, index, 0) for index in range(3)]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    """Another student-004, with other weights and half the steps."""
    zoo = tmp_path_factory.mktemp("other")
    make_model(zoo, "tiny", "student-004", teacher_steps=32, steps=2, schedule="cosine", classes=CLASSES, seed=99)
    return resolved(replace(discover([zoo]).entries[NAME], version=2))


def resolved(entry: Entry) -> Resolved:
    return Catalogue({entry.id: entry}).resolve(entry.id)


async def replaced(engine: Engine, new: Resolved) -> Loaded:
    found = await engine.load(new.entry)
    assert isinstance(found, Loaded)
    engine.serve(new.entry, found)
    return found


async def pixels(engine: Engine, model: Resolved) -> np.ndarray:
    return np.stack([image.pixels for image in await engine.submit(Generation(model, IMAGES)).images()])


def expected(model: Resolved) -> np.ndarray:
    return np.stack([reference(model, spec) for spec in IMAGES])


async def test_rows_finish_on_the_weights_that_they_began_with(tiny_catalogue: Catalogue, other: Resolved) -> None:
    watched, gate, old = Watched(), Gate(), tiny_catalogue.resolve(NAME)
    async with running(tiny_catalogue, watched) as engine:
        assert NAME in watched.networks
        watched.before = gate
        watched.armed = True
        running_rows, queued = engine.submit(Generation(old, IMAGES)), engine.submit(Generation(old, IMAGES))
        await until(lambda: gate.waiting == 1)
        loading = asyncio.create_task(replaced(engine, other))
        while not loading.done():  # each step of the old rows lets one measurement of the new version pass
            gate.let(1)
            await asyncio.sleep(0.001)
        gate.let(10_000)
        assert np.array_equal(await pixels(engine, other), expected(other))
        for ticket in (running_rows, queued):
            assert np.array_equal(np.stack([image.pixels for image in await ticket.images()]), expected(old))
        await until(lambda: engine.wait_s(old) is None)
        assert engine.wait_s(old) is None
        with pytest.raises(UnavailableError, match="was replaced or unloaded"):
            engine.submit(Generation(old, IMAGES))
        gc.collect()
        assert NAME not in watched.networks, "its memory is free"
        assert np.array_equal(await pixels(engine, other), expected(other))


async def test_a_measurement_of_a_new_model_waits_for_a_step_and_a_step_for_no_more_than_one(
    tiny_catalogue: Catalogue, other: Resolved
) -> None:
    watched, model = Watched(), tiny_catalogue.resolve("tiny/teacher")
    async with running(tiny_catalogue, watched) as engine:
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                await engine.submit(Generation(model, [ImageSpec(1, 0, 2)])).images()

        clients = asyncio.create_task(client())
        await asyncio.sleep(0)
        turns: list[str] = []
        watched.before = lambda timestep, class_label: turns.append(
            "served" if class_label is not None and class_label[0] == 2 else "measured"
        )
        watched.armed = True
        await replaced(engine, other)
        stop.set()
        await clients
    text = "".join("s" if turn == "served" else "m" for turn in turns)
    first, last = text.index("m"), text.rindex("m")
    assert text[first:last].count("m") > 10
    # Two in a row are possible only between two requests of the client, while no row is admitted.
    assert text[first:last].count("mm") <= text.count("s") / 32 + 1


async def test_a_held_model_is_served_until_its_holder_is_done(tiny_catalogue: Catalogue, other: Resolved) -> None:
    old = tiny_catalogue.resolve(NAME)
    async with running(tiny_catalogue) as engine:
        with engine.hold([old]):
            await replaced(engine, other)
            assert np.array_equal(await pixels(engine, old), expected(old))
            assert np.array_equal(await pixels(engine, other), expected(other))
        await until(lambda: engine.wait_s(old) is None)


async def test_an_unloaded_model_finishes_and_leaves_nothing(tiny_catalogue: Catalogue) -> None:
    metrics, watched, gate, old = Metrics(models=tiny_catalogue.entries), Watched(), Gate(), tiny_catalogue.resolve(NAME)
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        watched.before = gate
        watched.armed = True
        ticket = engine.submit(Generation(old, IMAGES))
        await until(lambda: gate.waiting == 1)
        engine.unload(NAME)
        assert NAME not in engine.models
        gate.let(100)
        assert np.array_equal(np.stack([image.pixels for image in await ticket.images()]), expected(old))
        await until(lambda: engine.wait_s(old) is None)
        await until(lambda: f'"{NAME}"' not in metrics.exposition().decode())
        assert metrics.model_label(NAME) == "unloaded"
        assert value(metrics, "sfddm_backlog_seconds") == 0
        metrics.serve([NAME], [])
        assert metrics.model_label(NAME) == NAME


async def test_a_model_that_does_not_load_changes_nothing(tiny_catalogue: Catalogue, tiny_zoo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "student-004"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"no graph")
    broken = replace(tiny_catalogue.entries[NAME], folder=folder, version=2)
    old = tiny_catalogue.resolve(NAME)
    async with running(tiny_catalogue) as engine:
        found = await engine.load(broken)
        assert isinstance(found, ModelStatus)
        assert found.reason is not None
        assert "cannot load" in found.reason
        assert np.array_equal(await pixels(engine, old), expected(old))


async def test_a_load_does_not_outlive_the_engine(tiny_catalogue: Catalogue, other: Resolved) -> None:
    watched, gate = Watched(), Gate()
    async with running(tiny_catalogue, watched) as engine:
        watched.before = gate
        watched.armed = True
        loading = asyncio.create_task(engine.load(other.entry))
        await until(lambda: gate.waiting == 1)
        draining = asyncio.create_task(engine.drain(0))
        await until(lambda: engine.state == "stopped")
        gate.let(10_000)
        await draining
        found = await loading
    assert isinstance(found, ModelStatus)
    assert found.reason == "the service is shutting down"
