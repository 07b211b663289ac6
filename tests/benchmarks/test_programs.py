"""Tests of the parts of the benchmarks on which all their numbers rest."""

from __future__ import annotations

import asyncio
import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.common import resume, save, spread, zoo_of
from benchmarks.efficiency import bare_loop, own_step_seconds
from benchmarks.scaling import resident_bytes
from benchmarks.servers.sampling_loop import SamplingLoop
from models.catalogue import default_zoo, discover
from service.engine.request import ImageSpec
from tests.service.engine.support import reference

MODEL = "fashion-mnist/student-004"


def test_the_peers_make_the_images_that_the_service_makes() -> None:
    answers = SamplingLoop(MODEL)([{"seed": 5, "class_label": 7}, {"seed": 6, "class_label": 2}])
    model = discover([default_zoo()]).resolve(MODEL)
    for answer, spec in zip(answers, (ImageSpec(5, 0, 7), ImageSpec(6, 0, 2)), strict=True):
        pixels = np.asarray(Image.open(BytesIO(base64.b64decode(answer["b64_json"]))))
        np.testing.assert_array_equal(pixels, reference(model, spec)[0])


def test_a_zoo_of_links_holds_the_models_asked_for() -> None:
    with zoo_of([MODEL]) as zoo:
        assert list(discover([zoo]).entries) == [MODEL]


def test_the_engine_runs_on_an_idle_device() -> None:
    assert asyncio.run(own_step_seconds(3)) > 0


def test_the_bare_loop_counts_images() -> None:
    entry = discover([default_zoo()]).entries[MODEL]
    told = bare_loop(entry, 2, 0.01, threads=1, provider="CPUExecutionProvider")
    assert told["images_per_s"] > 0
    assert told["cpu_s_per_image"] > 0


def test_requests_are_queued_while_the_device_is_held() -> None:
    assert asyncio.run(resident_bytes([0, 50])).keys() == {0, 50}


def test_a_result_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    assert resume(out) == {}
    save(out, {"cells": {"a": 1}})
    assert resume(out) == {"cells": {"a": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert spread([3.0, 1.0, 2.0]) == pytest.approx({"median": 2.0, "low": 1.0, "high": 3.0})
