"""The choice of a runtime: the GPU where there is one, else the faster CPU runtime whose images agree with float32.

models.runtime.probe says what agreement means. Where two runtimes can serve, the choice is measured once for each model and
remembered beside the calibrations. A restart therefore gives the same bytes as before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime as ort
import structlog

from models.catalogue import Entry
from models.runtime.base import Backend, BackendError, Network
from models.runtime.cuda import CUDA, CudaBackend, find_gpu
from models.runtime.onnx import CPU, OnnxBackend
from models.runtime.probe import ROWS, RuntimeAgreement, agrees, probe_inputs
from models.runtime.remembered import recall, remember

log = structlog.get_logger(__name__)

OPENVINO = "OpenVINO"
PROVIDERS = (CPU, CUDA, OPENVINO)

_KIND = "choice"
_MIN_GAIN = 1.1  # lower precision must be this many times faster to be worth its error
_ROUNDS = 7
_MAX_SPREAD = 2.0  # the largest ratio of the rounds over the smallest; it is larger when the machine is busy


def choose_backend(
    provider: str | None = None,
    *,
    threads: int | None = None,
    gpu_memory: int | None = None,
    cache_dir: Path | None = None,
) -> Backend:
    """Return the backend of a provider, or the best one of this machine when provider is None.

    threads: CPU threads that evaluate. gpu_memory: the most bytes of device memory for one model. cache_dir: folder that keeps
    the choices between runtimes from run to run; None: they are not kept.
    Raises BackendError for a provider that is unknown or not installed.
    """
    if provider is not None:
        return _logged(_configured(provider, threads, gpu_memory), provider, "configured")
    if CUDA in ort.get_available_providers():
        gpu = find_gpu()
        if gpu is not None:
            return _logged(CudaBackend(memory=gpu_memory), CUDA, f"{gpu.name} with {gpu.memory / 2**30:.0f} GiB")
        return _logged(OnnxBackend(threads=threads), CPU, f"the installed ONNX Runtime has {CUDA}, but no GPU is visible")
    try:
        faster = _openvino(threads)
    except BackendError as error:
        return _logged(OnnxBackend(threads=threads), CPU, f"no GPU runtime is installed, and {error}")
    slower = OnnxBackend(threads=threads)
    reason = "no GPU runtime is installed; measured for each model, or remembered"
    return _logged(FasterOf(slower, faster, cache_dir), f"{CPU} or {OPENVINO}", reason)


def _configured(provider: str, threads: int | None, gpu_memory: int | None) -> Backend:
    if provider == CPU:
        return OnnxBackend(threads=threads)
    if provider == OPENVINO:
        return _openvino(threads)
    if provider == CUDA:
        if CUDA not in ort.get_available_providers():
            raise BackendError(f"the installed ONNX Runtime has no {CUDA}; install the extra gpu instead of cpu")
        return CudaBackend(memory=gpu_memory)
    raise BackendError(f"provider: {provider!r} is unknown; choose one of {', '.join(PROVIDERS)}")


def _openvino(threads: int | None) -> Backend:
    if find_spec("openvino") is None:
        raise BackendError("OpenVINO is not installed (the extra openvino)")
    from models.runtime.openvino import OpenVinoBackend

    return OpenVinoBackend(threads=threads)


def _logged(backend: Backend, provider: str, reason: str) -> Backend:
    log.info("provider_chosen", provider=provider, reason=reason)
    return backend


@dataclass(frozen=True)
class Choice:
    """The choice between two runtimes for one model, and the measurements behind it.

    candidate: True where the candidate serves the model.
    times_faster: seconds of a step of the reference over the candidate's, one ratio a round.
    agreement: of the candidate's images with the reference's; None when the candidate was too slow to compare them.
    """

    candidate: bool
    reason: str
    times_faster: list[float]
    agreement: RuntimeAgreement | None = None

    @property
    def steady(self) -> bool:
        """True when the rounds differ little enough to keep the choice for later starts."""
        return max(self.times_faster) <= _MAX_SPREAD * min(self.times_faster)


def times_faster(candidate: Network, reference: Network, entry: Entry) -> list[float]:
    """Return seconds of the reference over the candidate's for one batch, in several rounds of one step each."""
    inputs = probe_inputs(entry, ROWS)

    def seconds(network: Network) -> float:
        start_s = time.perf_counter()
        network.step(**inputs)
        return time.perf_counter() - start_s

    for network in (candidate, reference):  # the first step of a size takes longer
        network.step(**inputs)
    return [seconds(reference) / seconds(candidate) for _ in range(_ROUNDS)]


class FasterOf:
    """A backend that loads a model into the candidate if that is faster and its images agree, else into the reference."""

    def __init__(
        self,
        reference: Backend,
        candidate: Backend,
        cache_dir: Path | None = None,
        measure: Callable[[Network, Network, Entry], list[float]] = times_faster,
    ) -> None:
        """Choose between a reference and a candidate.

        cache_dir: folder that keeps choices; None: measure at each start. measure: returns the ratios of a Choice for the
        candidate, the reference and an entry.
        """
        self._reference, self._candidate, self._cache_dir = reference, candidate, cache_dir
        self._measure = measure

    @property
    def fingerprint(self) -> str:
        return f"{self._reference.fingerprint} or {self._candidate.fingerprint}"

    @property
    def loads_beside_steps(self) -> bool:
        return self._reference.loads_beside_steps and self._candidate.loads_beside_steps

    def load(self, entry: Entry) -> Network:
        """Load the entry into the better backend, by the remembered choice or by measuring.

        A choice measured on a busy machine is not remembered. Where the candidate fails, the reference serves, nothing is
        remembered and the next start tries again. Raises BackendError when the reference cannot run the entry.
        """
        key = {"model": entry.id, "sha256": entry.manifest.sha256, "backends": self.fingerprint}
        choice = recall(self._cache_dir, _KIND, key, _choice_of)
        if choice is not None and not choice.candidate:
            return _chosen(entry, self._reference.load(entry), f"remembered: {choice.reason}")
        try:
            candidate = self._candidate.load(entry)
        except Exception as error:  # of any kind: the reference can still serve the model
            return _chosen(entry, self._reference.load(entry), f"the other runtime failed: {error}")
        if choice is not None:
            return _chosen(entry, candidate, f"remembered: {choice.reason}")
        reference = self._reference.load(entry)
        try:
            ratios = self._measure(candidate, reference, entry)
            choice = _choose(candidate, reference, entry, ratios)
        except Exception as error:
            return _chosen(entry, reference, f"the other runtime failed: {error}")
        if choice.steady:
            remember(self._cache_dir, _KIND, key, asdict(choice))
        else:
            log.warning("choice_not_kept", model=entry.id, reason="the machine is busy", times_faster=choice.times_faster)
        return _chosen(entry, candidate if choice.candidate else reference, choice.reason)


def _choose(candidate: Network, reference: Network, entry: Entry, ratios: list[float]) -> Choice:
    """Choose by the measured ratios of times_faster, and where the candidate is faster, by its images."""
    gain = median(ratios)
    if gain < _MIN_GAIN:
        return Choice(False, f"{candidate.provider} takes {1 / gain:.2f} times as long", ratios)
    found = agrees(candidate, reference, entry)
    if not found.holds:
        return Choice(False, f"images of {candidate.provider} differ: {found}", ratios, found)
    return Choice(True, f"{gain:.2f} times faster in {candidate.precision}; {found}", ratios, found)


def _choice_of(stored: Mapping[str, Any]) -> Choice:
    """Read a choice from remembered fields."""
    agreement = None if stored["agreement"] is None else RuntimeAgreement(**stored["agreement"])
    return Choice(bool(stored["candidate"]), str(stored["reason"]), list(map(float, stored["times_faster"])), agreement)


def _chosen(entry: Entry, network: Network, reason: str) -> Network:
    log.info("model_provider_chosen", model=entry.id, provider=network.provider, reason=reason)
    return network
