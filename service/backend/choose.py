"""Which runtime serves here: a GPU where there is one, else the fastest on this CPU whose images hold the bar."""

from __future__ import annotations

import time
from importlib.util import find_spec

import onnxruntime as ort
import structlog

from models.catalogue import Entry
from service.backend.base import Backend, BackendError, Network
from service.backend.cuda import CUDA, CudaBackend, find_gpu
from service.backend.onnx import CPU, OnnxBackend
from service.backend.probe import ROWS, agrees, probe_inputs

log = structlog.get_logger(__name__)

OPENVINO = "OpenVINO"
PROVIDERS = (CPU, CUDA, OPENVINO)

_WORTH_IT = 1.1  # how many times faster the lower precision must be
_ROUNDS = 5


def choose_backend(provider: str | None = None, *, threads: int | None = None, gpu_memory: int | None = None) -> Backend:
    """The backend of a provider, or the best one that this machine offers when provider is None.

    threads: CPU threads that evaluate; gpu_memory: most bytes of device memory for one model.
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
    return _logged(FasterOf(slower, faster), f"{CPU} or {OPENVINO}", "no GPU runtime is installed; measured for each model")


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
    from service.backend.openvino import OpenVinoBackend

    return OpenVinoBackend(threads=threads)


def _logged(backend: Backend, provider: str, reason: str) -> Backend:
    log.info("provider_chosen", provider=provider, reason=reason)
    return backend


class FasterOf:
    """Of two backends, the second for each model where it is faster and its images agree with the first's."""

    def __init__(self, reference: Backend, candidate: Backend) -> None:
        self._reference, self._candidate = reference, candidate

    @property
    def fingerprint(self) -> str:
        return f"{self._reference.fingerprint} or {self._candidate.fingerprint}"

    @property
    def loads_beside_steps(self) -> bool:
        return self._reference.loads_beside_steps and self._candidate.loads_beside_steps

    def load(self, entry: Entry) -> Network:
        """The better network. Raises BackendError when the reference cannot run the entry."""
        reference = self._reference.load(entry)
        try:
            candidate = self._candidate.load(entry)
            gain = _times_faster(candidate, reference, entry)
            if gain < _WORTH_IT:
                return _chosen(entry, reference, f"{candidate.provider} takes {1 / gain:.2f} times as long")
            found = agrees(candidate, reference, entry)
        except Exception as error:  # whatever the candidate raises, the reference serves
            return _chosen(entry, reference, f"the other runtime failed: {error}")
        if not found.holds:
            return _chosen(entry, reference, f"images of {candidate.provider} differ: {found}")
        return _chosen(entry, candidate, f"{gain:.2f} times faster in {candidate.precision}; {found}")


def _chosen(entry: Entry, network: Network, reason: str) -> Network:
    log.info("model_provider_chosen", model=entry.id, provider=network.provider, reason=reason)
    return network


def _times_faster(candidate: Network, reference: Network, entry: Entry) -> float:
    """Seconds of the reference over the candidate's for one batch, each the shortest of a few interleaved steps."""
    inputs = probe_inputs(entry, ROWS)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(_ROUNDS):
        for is_candidate, network in ((True, candidate), (False, reference)):
            start = time.perf_counter()
            network.step(*inputs)
            seconds[is_candidate].append(time.perf_counter() - start)
    return min(seconds[False]) / min(seconds[True])
