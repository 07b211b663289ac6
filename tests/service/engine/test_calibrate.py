"""Calibration: choose the batch sizes worth having, measure them once and remember them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import pytest

from models.catalogue import Catalogue, Entry
from models.runtime.base import BackendError, DeviceMemoryError, Float32, Precision, StepInputs
from models.runtime.onnx import OnnxBackend
from service.engine.calibrate import BATCH_INVARIANT, calibrate, choose_buckets, sweep
from service.engine.config import EngineConfig
from service.engine.costs import StepCosts


@pytest.fixture
def entry(tiny_catalogue: Catalogue) -> Entry:
    return tiny_catalogue.entries["plain/teacher"]


class Counting:
    """A device without arithmetic that counts its steps, pads to its buckets if told to, and has memory for some rows."""

    def __init__(self, provider: str = "GpuProvider", *, pads: bool = False, memory_rows: int = 10**6) -> None:
        self.provider = provider
        self.precision: Precision = "float16"
        self.pads = pads
        self.memory_rows = memory_rows
        self.prepared: list[list[int]] = []
        self.rows: list[int] = []

    def prepare(self, buckets: Sequence[int]) -> None:
        self.prepared.append(list(buckets))

    def padded(self, rows: int) -> int:
        return min(size for size in self.prepared[-1] if size >= rows) if self.pads and self.prepared else rows

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        x = inputs["x"]
        if len(x) > self.memory_rows:
            raise DeviceMemoryError(f"no memory for {len(x)} rows")
        self.rows.append(len(x))
        return x, x


def ticking(network: Counting, per_step_s: float, per_row_s: float) -> Callable[[], float]:
    """Return a clock by which each step takes the given seconds. It reads the device's record of its steps."""
    return lambda: sum(per_step_s + per_row_s * rows for rows in network.rows)


def calibrated(network: Counting, entry: Entry, config: EngineConfig, fingerprint: str = "device") -> StepCosts:
    """Calibrate on an idle machine, where all steps of one size take equally long."""
    return calibrate(network, entry, fingerprint, config, ticking(network, 0.001, 0.0001))


@pytest.mark.parametrize(
    ("curve", "buckets"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, [1]),  # no size has a better throughput, so short steps win
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, [8]),  # one row costs as much as eight
        ({1: 1.0, 2: 1.05, 3: 1.9, 4: 2.0, 8: 3.0}, [2, 4, 8]),
        ({1: 1.0, 2: 1.5, 4: 2.5, 8: 4.95, 16: 9.95}, [1, 2, 4]),  # 4 rows reach 99 % of the best throughput
        ({1: 9.5, 2: 10.0, 4: 11.0}, [2]),  # 4 rows take too long
        ({1: 20.0, 2: 21.0}, [1]),  # and one row may always run
    ],
)
def test_buckets_come_from_the_curve(curve: dict[int, float], buckets: list[int]) -> None:
    assert choose_buckets(curve, max_step_s=10.0) == buckets


def test_sizes_are_measured_up_to_the_first_that_takes_too_long(entry: Entry) -> None:
    network = Counting()
    curve = sweep(network, entry, EngineConfig(max_batch=64, max_step_ms=20), ticking(network, 0.0, 0.001)).curve
    assert list(curve) == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert network.rows.count(24) > 1, "not for one slow step"
    assert curve[8] == pytest.approx(0.008)


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, [1]), (2, [1, 2]), (7, [1, 2, 3, 4, 6, 7]), (8, [1, 2, 3, 4, 6, 8])])
def test_the_limit_is_a_size(entry: Entry, max_batch: int, sizes: list[int]) -> None:
    network = Counting()
    assert list(sweep(network, entry, EngineConfig(max_batch=max_batch), ticking(network, 0.001, 0.0)).curve) == sizes


def test_sizes_without_memory_are_left_out(entry: Entry) -> None:
    network = Counting(memory_rows=5)
    assert calibrate(network, entry, "device", EngineConfig()).largest <= 5
    with pytest.raises(DeviceMemoryError):
        calibrate(Counting(memory_rows=0), entry, "device", EngineConfig())


def test_a_real_network(tiny_catalogue: Catalogue) -> None:
    backend, entry = OnnxBackend(threads=1), tiny_catalogue.entries["tiny/teacher"]
    costs = calibrate(backend.load(entry), entry, backend.fingerprint, EngineConfig(max_batch=4))
    assert set(costs.buckets) <= {1, 2, 3, 4}
    assert min(costs.curve.values()) > 0


def test_a_deterministic_device_has_one_bucket(entry: Entry) -> None:
    network = Counting(pads=True)
    costs = calibrate(network, entry, "device", EngineConfig(max_batch=16, deterministic=True))
    assert network.prepared == [[16]]
    assert costs.buckets == (16,)
    assert costs.seconds(1) == costs.seconds(16)
    with pytest.raises(BackendError, match="cannot fill up batches to 16 rows"):
        calibrate(Counting(pads=False), entry, "device", EngineConfig(max_batch=16, deterministic=True))
    same_anyway = Counting("CPUExecutionProvider")
    calibrate(same_anyway, entry, "device", EngineConfig(max_batch=16, deterministic=True))
    assert min(same_anyway.rows) == 1, "the CPU gives the same bytes at any size"


def noisy(network: Counting, disturbed: Callable[[int], float]) -> Callable[[], float]:
    """Return a clock by which a step takes 5 ms plus 1 ms for each row, times `disturbed` of the step's number."""
    return lambda: sum((0.005 + 0.001 * rows) * disturbed(number) for number, rows in enumerate(network.rows))


def test_noise_that_comes_and_goes_does_not_change_the_curve(entry: Entry, tmp_path: Path) -> None:
    """A third of all steps take up to eight times as long, including the first step of some sizes."""
    config = EngineConfig(max_batch=16, max_step_ms=30, cache_dir=tmp_path)
    quiet, disturbed = Counting(), Counting()
    chance = random.Random(1)
    factors = [chance.choice([1, 1, chance.uniform(2, 8)]) for _ in range(10_000)]
    expected = calibrate(quiet, entry, "quiet", config, noisy(quiet, lambda _: 1.0))
    costs = calibrate(disturbed, entry, "busy", config, noisy(disturbed, factors.__getitem__))
    assert costs.buckets == expected.buckets
    assert costs.curve == pytest.approx(expected.curve)


def test_more_rows_never_seem_to_take_less_time(entry: Entry) -> None:
    chance, network = random.Random(2), Counting()
    factors = [chance.uniform(1, 20) for _ in range(10_000)]
    curve = sweep(network, entry, EngineConfig(max_batch=32, max_step_ms=1e6), noisy(network, factors.__getitem__)).curve
    assert list(curve.values()) == sorted(curve.values())


def test_what_a_busy_machine_gave_is_used_but_not_kept(entry: Entry, tmp_path: Path) -> None:
    config = EngineConfig(max_batch=8, cache_dir=tmp_path)
    network = Counting()
    costs = calibrate(network, entry, "device", config, noisy(network, lambda number: 1.0 + 4 * (number // 6 % 2)))
    assert costs.largest > 1
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("pads", [False, True])
def test_a_single_row_has_a_bucket_unless_the_device_pads(entry: Entry, pads: bool) -> None:
    """All sizes cost the same here, so that the largest is the only one worth having."""
    network = Counting(pads=pads)
    costs = calibrate(network, entry, "device", EngineConfig(max_batch=8), ticking(network, 0.001, 0.0))
    assert costs.buckets == ((8,) if pads else (1, 8))


def test_what_serving_corrects_is_remembered(entry: Entry, tmp_path: Path) -> None:
    config = EngineConfig(max_batch=8, cache_dir=tmp_path)
    first = calibrated(Counting(), entry, config)
    seconds = {rows: cost * (2 if rows == 8 else 1) for rows, cost in first.curve.items()}
    for _ in range(2000):
        for rows in (1, 8):
            first.observe(rows, seconds[rows])
    again = calibrated(Counting(), entry, config)
    assert again.curve == first.curve
    assert again.curve[8] / again.curve[1] == pytest.approx(seconds[8] / seconds[1], rel=0.3)


def test_a_restart_recalls_the_curve(entry: Entry, tmp_path: Path) -> None:
    config = EngineConfig(max_batch=8, cache_dir=tmp_path)
    first = calibrated(Counting(), entry, config)
    assert len(list(tmp_path.glob("calibration/*.json"))) == 1
    (stored,) = tmp_path.glob("calibration/*.json")
    stored.write_text(stored.read_text().replace(stored.read_text(), _with_seconds(stored, {1: 0.001, 8: 0.0015})))
    again = Counting()
    costs = calibrated(again, entry, config)
    assert costs.buckets == (1, 8)
    assert set(again.rows) == {8}, "only the largest bucket is checked"
    assert first.largest <= 8
    for fingerprint, other in (("other device", config), ("device", EngineConfig(max_batch=4, cache_dir=tmp_path))):
        fresh = Counting()
        calibrated(fresh, entry, other, fingerprint)
        assert len(set(fresh.rows)) > 1


def _with_seconds(path: Path, seconds: dict[int, float]) -> str:
    return json.dumps(json.loads(path.read_text()) | {"seconds": seconds})


def test_a_curve_from_a_busy_machine_is_measured_again(entry: Entry, tmp_path: Path) -> None:
    config = EngineConfig(max_batch=8, cache_dir=tmp_path)
    calibrated(Counting(), entry, config)
    (stored,) = tmp_path.glob("calibration/*.json")
    stored.write_text(_with_seconds(stored, {1: 3600.0}))
    costs = calibrated(Counting(), entry, config)
    assert costs.largest > 1
    assert json.loads(stored.read_text())["seconds"] == {str(rows): s for rows, s in costs.curve.items()}


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"key": 1}', '{"seconds": {"1": 1}}', '{"key": KEY, "seconds": {"1": 0}}']
)
def test_a_damaged_cache_is_ignored_and_repaired(entry: Entry, tmp_path: Path, damage: str) -> None:
    config = EngineConfig(max_batch=2, cache_dir=tmp_path)
    calibrated(Counting(), entry, config)
    (stored,) = tmp_path.glob("calibration/*.json")
    good = json.loads(stored.read_text())
    stored.write_text(damage.replace("KEY", json.dumps(good["key"])))
    calibrated(Counting(), entry, config)
    assert json.loads(stored.read_text())["key"] == good["key"]


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    costs = calibrated(Counting(), entry, EngineConfig(max_batch=2, cache_dir=tmp_path / "file"))
    assert costs.largest <= 2


def test_what_counts_as_invariant_is_a_provider_the_runtime_knows() -> None:
    import onnxruntime as ort

    assert BATCH_INVARIANT in ort.get_all_providers()
