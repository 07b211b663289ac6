"""The engine on real ONNX Runtime: one seed gives the same bytes in any batch, and rows come and go at step boundaries."""

from __future__ import annotations

import asyncio
import random
from typing import Unpack

import numpy as np
import pytest

from models.catalogue import Catalogue, Resolved
from models.runtime.base import Float32, StepInputs
from models.runtime.onnx import OnnxBackend, OnnxNetwork
from service.engine.config import EngineConfig
from service.engine.request import Device, Finished, Generation, ImageSpec, LatencyError, Preview
from service.engine.ticket import Ticket
from service.observability.metrics import Metrics
from tests.service.engine.support import Gate, Watched, reference, running, until, value

pytestmark = pytest.mark.anyio

MODELS = [
    "tiny/teacher",
    "tiny/student-004",
    "tiny/student-008",
    "tiny/teacher@ddim-007",
    "tiny/teacher@dpmpp-006",
    "tiny/teacher@ddpm-009",
    "plain/teacher",
    "plain/teacher@ddpm-005",
]


def specs(model: Resolved, seed: int, count: int, first: int = 0) -> list[ImageSpec]:
    classes = len(model.entry.manifest.classes)
    return [ImageSpec(seed, first + i, (seed + i) % (classes + 1) if classes else None) for i in range(count)]


def assert_reference(model: Resolved, images: list[Finished], asked: list[ImageSpec]) -> None:
    assert [image.spec for image in images] == asked
    assert [image.position for image in images] == list(range(len(asked)))
    for image in images:
        assert np.array_equal(image.pixels, reference(model, image.spec)), (model.id, image.spec)


@pytest.mark.parametrize("model_id", MODELS)
async def test_an_image_is_the_one_a_plain_loop_makes(tiny_catalogue: Catalogue, model_id: str) -> None:
    model = tiny_catalogue.resolve(model_id)
    asked = specs(model, seed=3, count=2)
    async with running(tiny_catalogue) as engine:
        assert_reference(model, await engine.submit(Generation(model, asked)).images(), asked)


@pytest.mark.parametrize(("max_batch", "seed", "threads"), [(1, 0, 1), (5, 1, 3), (64, 2, 2)])
async def test_same_bytes_beside_random_other_requests(
    tiny_catalogue: Catalogue, seed: int, max_batch: int, threads: int
) -> None:
    chance = random.Random(seed)

    async def client(number: int) -> None:
        await asyncio.sleep(chance.random() * 0.02)
        model = tiny_catalogue.resolve(chance.choice(MODELS))
        asked = specs(model, seed=number, count=chance.randint(1, 7), first=chance.randint(0, 3))
        latency_s, flex = chance.choice([None, 30.0, 50.0]), chance.random() < 0.3
        ticket = engine.submit(Generation(model, asked, previews=chance.randint(0, 2), max_latency_s=latency_s, flex=flex))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.01)
            ticket.cancel()
        else:
            assert_reference(model, await ticket.images(), asked)

    metrics = Metrics()
    config = EngineConfig(max_batch=max_batch)
    async with running(tiny_catalogue, OnnxBackend(threads=threads), config, metrics) as engine:
        await asyncio.gather(*(client(number) for number in range(25)))
        assert [value(metrics, f"sfddm_{name}") for name in ("running_rows", "waiting_requests", "backlog_seconds")] == [
            0,
            0,
            0,
        ]


class _Abreast(OnnxNetwork):
    """Counts the rows that ran beside those of another model."""

    rows = 0

    def step_abreast(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        _Abreast.rows += len(inputs["x"])
        return super().step_abreast(**inputs)


async def test_images_of_two_models_step_side_by_side_on_two_threads(
    tiny_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.runtime.onnx.OnnxNetwork", _Abreast)
    models = [tiny_catalogue.resolve(model_id) for model_id in ("tiny/teacher", "tiny/student-008")]
    asked = specs(models[0], seed=5, count=1)
    async with running(tiny_catalogue, OnnxBackend(threads=2)) as engine:
        tickets = [engine.submit(Generation(model, asked)) for model in models]
        for model, ticket in zip(models, tickets, strict=True):
            assert_reference(model, await ticket.images(), asked)
    assert _Abreast.rows >= 2 * (len(models[1].plan) - 1), "all steps of the shorter plan except those before both were queued"


async def test_rows_join_a_running_batch_and_leave_when_their_plan_ends(tiny_catalogue: Catalogue) -> None:
    watched, gate = Watched(), Gate()
    watched.before = gate
    own, variant = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/teacher@ddpm-004")
    async with running(tiny_catalogue, watched) as engine:
        watched.armed = True
        long, short = specs(own, 1, 1), specs(variant, 2, 2)
        first = engine.submit(Generation(own, long))
        await until(lambda: gate.waiting == 1)
        second = engine.submit(Generation(variant, short))
        gate.let(40)
        assert_reference(variant, await second.images(), short)
        images = await first.images()
        assert_reference(own, images, long)
    labels = variant.plan.label.tolist()
    assert watched.batches[0] == [31]
    assert watched.batches[1:5] == [[30 - i, labels[i], labels[i]] for i in range(4)]
    assert watched.batches[5:] == [[label] for label in range(26, -1, -1)]
    assert images[0].timing.mean_batch == pytest.approx((32 + 2 * 4) / 32)


async def test_models_take_turns(tiny_catalogue: Catalogue) -> None:
    """Use a clock on which all steps take equally long. On a real clock, a busy machine would change the order."""
    watched, gate = Watched(), Gate()
    watched.before = gate
    teacher, student = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/student-004")
    async with running(tiny_catalogue, watched, clock=watched.ticks_s) as engine:
        watched.armed = True
        slow = engine.submit(Generation(teacher, specs(teacher, 1, 1)))
        await until(lambda: gate.waiting == 1)
        fast = engine.submit(Generation(student, specs(student, 2, 1)))
        order: list[str] = []

        async def read(name: str, ticket: Ticket) -> None:
            await ticket.images()
            order.append(name)

        readers = [asyncio.create_task(read(name, ticket)) for name, ticket in (("teacher", slow), ("student", fast))]
        await asyncio.sleep(0)  # both wait from here on: a reader that comes later finds its image in any order
        gate.let(100)
        await asyncio.gather(*readers)
    assert order == ["student", "teacher"]


async def test_timing_and_metrics(tiny_catalogue: Catalogue) -> None:
    metrics = Metrics()
    model = tiny_catalogue.resolve("tiny/student-008")
    async with running(tiny_catalogue, metrics=metrics) as engine:
        images = await engine.submit(Generation(model, specs(model, 1, 3))).images()
        assert value(metrics, "sfddm_running_rows") == value(metrics, "sfddm_waiting_requests") == 0
    for image in images:
        assert image.timing.mean_batch == 3
        assert 0 < image.timing.compute_s <= image.timing.total_s
        assert image.timing.estimated_s > 0
        assert image.device == Device("CPUExecutionProvider", "float32", 3, 3)
        assert 0 <= image.timing.queue_s <= image.timing.total_s - image.timing.compute_s + 1e-9
    name = {"model": "tiny/student-008"}
    assert value(metrics, "sfddm_steps_total", **name) == 24
    assert value(metrics, "sfddm_batch_rows_sum", **name) == 24
    assert value(metrics, "sfddm_batch_rows_count", **name) == 8
    steps = [
        sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "sfddm_step_seconds_count" and sample.labels["model"] == "tiny/student-008"
    ]
    assert sum(steps) == 8
    assert value(metrics, "sfddm_estimate_ratio_count", **name) == 1
    assert value(metrics, "sfddm_queue_seconds_count", **name) == 3
    assert value(metrics, "sfddm_wasted_steps_total", **name) == 0
    assert value(metrics, "sfddm_model_loaded", **name) == 1
    assert value(metrics, "sfddm_model_image_seconds", **name) > 0


async def test_promises_and_their_outcomes(tiny_catalogue: Catalogue) -> None:
    metrics, watched, gate = Metrics(), Watched(), Gate()
    watched.before = gate
    teacher, student = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/student-004")
    async with running(tiny_catalogue, watched, metrics=metrics) as engine:
        assert engine.choose([teacher, student], images=2, max_latency_s=60.0) is teacher
        await engine.submit(Generation(teacher, specs(teacher, 1, 2), max_latency_s=60.0)).images()
        for refuses in (
            lambda: engine.choose([teacher, student], images=1, max_latency_s=1e-9),
            lambda: engine.submit(Generation(student, specs(student, 1, 1), max_latency_s=1e-9)),
        ):
            with pytest.raises(LatencyError, match="more than the 1e-06 ms allowed"):
                refuses()
        watched.armed = True
        held_up = engine.submit(Generation(student, specs(student, 1, 2), max_latency_s=0.5))
        await until(lambda: gate.waiting == 1)
        await asyncio.sleep(0.5)
        gate.let(100)
        await held_up.images()
    assert value(metrics, "sfddm_deadlines_total", model="tiny/teacher", outcome="met") == 1
    assert value(metrics, "sfddm_deadlines_total", model="tiny/student-004", outcome="missed") == 1
    assert value(metrics, "sfddm_shed_total", reason="latency") == 2


async def test_weights_are_the_operators(tiny_catalogue: Catalogue) -> None:
    """The teacher's weight is a thousandth: a long student request is done before the teacher has taken many steps."""
    watched, gate = Watched(), Gate()
    watched.before = gate
    config = EngineConfig(max_batch=1, weights={"tiny/teacher": 0.001})
    slow, quick = tiny_catalogue.resolve("tiny/teacher"), tiny_catalogue.resolve("tiny/student-008")
    async with running(tiny_catalogue, watched, config) as engine:
        watched.armed = True
        beside = engine.submit(Generation(slow, specs(slow, 1, 1)))
        await until(lambda: gate.waiting == 1)
        asked = engine.submit(Generation(quick, specs(quick, 2, 4)))
        gate.let(1000)
        await asked.images()
        await beside.images()
    ahead = [label for (label,) in watched.batches[:33] if label > 7]
    assert len(ahead) <= 2


async def test_many_queued_images(tiny_catalogue: Catalogue) -> None:
    """20,000 images are admitted and cancelled while one step is on the device."""
    watched, gate, metrics = Watched(), Gate(), Metrics()
    watched.before = gate
    model = tiny_catalogue.resolve("tiny/student-004")
    config = EngineConfig(max_batch=2, max_backlog_s=1e9)
    async with running(tiny_catalogue, watched, config, metrics) as engine:
        watched.armed = True
        first = engine.submit(Generation(model, specs(model, 0, 1)))
        await until(lambda: gate.waiting == 1)
        tickets = [engine.submit(Generation(model, [ImageSpec(seed, 0, 0)])) for seed in range(20_000)]
        assert value(metrics, "sfddm_waiting_requests") == 20_000
        assert value(metrics, "sfddm_running_rows") == 1
        for ticket in tickets:
            ticket.cancel()
        assert value(metrics, "sfddm_waiting_requests") == 0
        gate.let(100)
        assert len(await first.images()) == 1
    assert len(watched.batches) == 4
    assert value(metrics, "sfddm_wasted_steps_total", model=model.id) == 0


async def test_previews_are_the_predictions_on_the_way(tiny_catalogue: Catalogue) -> None:
    model = tiny_catalogue.resolve("tiny/student-008")
    async with running(tiny_catalogue) as engine:
        events = [event async for event in engine.submit(Generation(model, specs(model, 5, 2), previews=3)).events()]
    for position in (0, 1):
        mine = [event for event in events if event.position == position]
        previews = [event for event in mine if isinstance(event, Preview)]
        assert [(p.number, p.step, p.steps) for p in previews] == [(0, 2, 8), (1, 4, 8), (2, 6, 8)]
        assert isinstance(mine[-1], Finished)
        assert all(p.pixels.shape == (1, 8, 8) and p.pixels.dtype == np.uint8 for p in previews)
        assert len({p.pixels.tobytes() for p in previews} | {mine[-1].pixels.tobytes()}) == 4


async def test_status_of_the_models(tiny_catalogue: Catalogue) -> None:
    engine_config = EngineConfig(max_batch=6)
    async with running(tiny_catalogue, config=engine_config) as engine:
        assert set(engine.models) == set(tiny_catalogue.entries)
        for status in engine.models.values():
            assert status.state == "loaded"
            assert status.provider == "CPUExecutionProvider"
            assert status.precision == "float32"
            assert max(status.step_ms) <= 6
            assert all(ms > 0 for ms in status.step_ms.values())


@pytest.mark.parametrize(
    ("model_id", "spec", "previews", "reason"),
    [
        ("tiny/teacher", ImageSpec(1, 0, None), 0, "class_label None does not exist in tiny/teacher"),
        ("tiny/teacher", ImageSpec(1, 0, 4), 0, "class_label 4 does not exist"),
        ("plain/teacher", ImageSpec(1, 0, 0), 0, "class_label 0 does not exist"),
        ("plain/teacher", ImageSpec(2**53, 0, None), 0, "seed must be"),
        ("plain/teacher", ImageSpec(1, -1, None), 0, "index not negative"),
        ("plain/teacher", ImageSpec(1, 0, None), -1, "previews"),
        ("plain/teacher", None, 0, "at least one image"),
    ],
)
async def test_requests_that_make_no_sense(
    tiny_catalogue: Catalogue, model_id: str, spec: ImageSpec | None, previews: int, reason: str
) -> None:
    async with running(tiny_catalogue) as engine:
        with pytest.raises(ValueError, match=reason):
            engine.submit(Generation(tiny_catalogue.resolve(model_id), [spec] if spec else [], previews=previews))
