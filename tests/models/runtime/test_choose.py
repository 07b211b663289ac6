"""The choice of a runtime, and its reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import onnxruntime as ort
import pytest

from models.catalogue import Catalogue, Entry
from models.runtime.base import BackendError, Float32, Network, Precision, StepInputs
from models.runtime.choose import CUDA, FasterOf, choose_backend, times_faster
from models.runtime.cuda import find_gpu
from models.runtime.onnx import CPU, OnnxBackend


class Candidate:
    """A second runtime: ONNX Runtime under another name, whose x_next is wrong by `error`."""

    fingerprint = "candidate"

    def __init__(self, error: float) -> None:
        self.error = error

    def load(self, entry: Entry) -> Network:
        return _Candidate(OnnxBackend(threads=1).load(entry), self.error)


class _Candidate:
    provider = "Candidate"
    precision: Precision = "bfloat16"

    def __init__(self, inner: Network, error: float) -> None:
        self._inner, self._error = inner, error

    def prepare(self, buckets: Sequence[int]) -> None:
        self._inner.prepare(buckets)

    def padded(self, rows: int) -> int:
        return self._inner.padded(rows)

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        x_next, x0 = self._inner.step(**inputs)
        return x_next + self._error, x0


class Broken:
    fingerprint = "broken"

    def load(self, entry: Entry) -> Network:
        raise BackendError("this runtime has a bad day")


@pytest.mark.parametrize(
    ("candidate", "gain", "provider"),
    [
        (Candidate(0), 1.5, "Candidate"),
        (Candidate(0), 0.7, CPU),
        (Candidate(0.1), 1.5, CPU),
        (Broken(), 1.5, CPU),
    ],
)
def test_the_faster_one_serves_where_its_images_hold_the_bar(
    tiny_catalogue: Catalogue, candidate: Candidate | Broken, gain: float, provider: str
) -> None:
    choice = FasterOf(OnnxBackend(threads=1), candidate, measure=lambda *_: [gain])  # measured times would make this flaky
    assert choice.load(tiny_catalogue.entries["tiny/student-004"]).provider == provider
    assert candidate.fingerprint in choice.fingerprint


class Starts:
    """Starts of a service with one cache folder. Each start measures the gains that the test gives it."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        self.entry, self.folder = entry, folder

    def provider(self, *gains: float, candidate: Candidate | Broken | None = None, threads: int = 1) -> str:
        """Start once and return the chosen provider. `gains` are the rounds it measures; without gains it must not measure."""
        measurements = [list(gains)] if gains else []
        backend = FasterOf(OnnxBackend(threads=threads), candidate or Candidate(0), self.folder, lambda *_: measurements.pop())
        chosen = backend.load(self.entry).provider
        assert not measurements
        return chosen


@pytest.fixture
def starts(tiny_catalogue: Catalogue, tmp_path: Path) -> Starts:
    return Starts(tiny_catalogue.entries["tiny/student-004"], tmp_path)


@pytest.mark.parametrize(("gain", "provider"), [(1.5, "Candidate"), (0.7, CPU)])
def test_a_restart_remembers_the_choice(starts: Starts, gain: float, provider: str) -> None:
    assert starts.provider(gain) == provider
    assert starts.provider() == provider, "nothing is measured"
    (stored,) = starts.folder.glob("choice/*.json")
    told = json.loads(stored.read_text())
    assert told["times_faster"] == [gain]
    assert (told["agreement"] is not None) == (gain > 1)
    assert told["reason"]


def test_another_machine_or_a_forgotten_choice_is_measured_anew(starts: Starts) -> None:
    assert starts.provider(1.5) == "Candidate"
    assert starts.provider(0.7, threads=2) == CPU
    assert starts.provider() == "Candidate"
    shutil.rmtree(starts.folder / "choice")
    assert starts.provider(0.7) == CPU


@pytest.mark.parametrize("damage", ["", "[]", '{"key": KEY}', '{"key": KEY, "candidate": true, "agreement": 1}'])
def test_a_damaged_choice_is_measured_anew(starts: Starts, damage: str) -> None:
    assert starts.provider(1.5) == "Candidate"
    (stored,) = starts.folder.glob("choice/*.json")
    stored.write_text(damage.replace("KEY", json.dumps(json.loads(stored.read_text())["key"])))
    assert starts.provider(0.7) == CPU
    assert starts.provider() == CPU


def test_what_a_busy_machine_measures_is_not_remembered(starts: Starts) -> None:
    assert starts.provider(0.3, 0.9, 1.6) == CPU
    assert starts.provider(1.5) == "Candidate"


def test_two_runtimes_alike_are_about_as_fast(tiny_catalogue: Catalogue) -> None:
    entry = tiny_catalogue.entries["tiny/student-004"]
    network = OnnxBackend(threads=1).load(entry)
    ratios = times_faster(network, network, entry)
    assert len(ratios) > 1
    assert min(ratios) > 0


def test_a_candidate_that_failed_once_is_tried_again(starts: Starts) -> None:
    broken = Broken()
    broken.fingerprint = Candidate.fingerprint
    assert starts.provider(candidate=broken) == CPU
    assert starts.provider(1.5) == "Candidate"
    assert starts.provider(candidate=broken) == CPU, "the reference serves while the chosen one does not load"
    assert starts.provider() == "Candidate"


def test_a_configured_provider_is_taken_or_refused() -> None:
    assert isinstance(choose_backend(CPU, threads=1), OnnxBackend)
    with pytest.raises(BackendError, match="'TPU' is unknown; choose one of CPUExecutionProvider"):
        choose_backend("TPU")


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_cuda_is_refused_where_the_runtime_has_none() -> None:
    with pytest.raises(BackendError, match="install the extra gpu"):
        choose_backend(CUDA)


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_a_runtime_with_cuda_on_a_machine_without_a_gpu_serves_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    assert CPU in choose_backend(threads=1).fingerprint
