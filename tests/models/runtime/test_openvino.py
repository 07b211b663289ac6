"""OpenVINO behind the narrow interface: independent rows, and images that agree with float32."""

from __future__ import annotations

import numpy as np
import pytest

from models.catalogue import Catalogue
from models.runtime.base import BackendError, rows_of
from models.runtime.onnx import OnnxBackend
from models.runtime.probe import agrees, probe_inputs

pytest.importorskip("openvino", reason="install the extra openvino")

from models.runtime.openvino import OpenVinoBackend


def backend() -> OpenVinoBackend:
    try:
        return OpenVinoBackend(threads=1)
    except BackendError:  # a CPU without bf16 units: the rest of the path is the same
        return OpenVinoBackend(threads=1, precision="float32")


@pytest.mark.parametrize("model", ["tiny/teacher", "plain/teacher"])
def test_every_batch_size_gives_the_same_bytes(tiny_catalogue: Catalogue, model: str) -> None:
    entry = tiny_catalogue.entries[model]
    network = backend().load(entry)
    rows = 9
    inputs = probe_inputs(entry, rows)
    together = network.step(**inputs)[0]
    network.prepare([2, 4, 8])
    for size in range(1, rows):
        for start in range(rows - size + 1):
            part = slice(start, start + size)
            alone = network.step(**rows_of(inputs, part))[0]
            assert alone.tobytes() == together[part].tobytes(), (size, start)


def test_images_agree_with_float32(tiny_catalogue: Catalogue) -> None:
    entry = tiny_catalogue.entries["tiny/student-008"]
    found = agrees(backend().load(entry), OnnxBackend(threads=1).load(entry), entry)
    assert found.holds, found


def test_a_prepared_network_fills_batches_up(tiny_catalogue: Catalogue) -> None:
    entry = tiny_catalogue.entries["tiny/teacher"]
    network = backend().load(entry)
    assert network.padded(3) == 3
    network.prepare([4, 2])
    assert [network.padded(rows) for rows in (1, 2, 3, 4, 5)] == [2, 2, 4, 4, 5]
    inputs = probe_inputs(entry, 3)
    x_next, x0 = network.step(**inputs)
    assert x_next.shape == x0.shape == inputs["x"].shape
    kept = x_next.copy()
    network.step(**{**inputs, "x": -inputs["x"]})
    np.testing.assert_array_equal(x_next, kept)


def test_a_precision_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(BackendError, match="float16"):
        OpenVinoBackend(precision="float16")
