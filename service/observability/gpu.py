"""The GPU's metrics, read through NVML at each scrape; where there is no NVML or no GPU there are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class GpuCollector(Collector):
    """Metrics of the first visible GPU, the one that the engine runs on."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A reading that the driver refuses (a MIG slice has no utilisation) is left out."""
        nvml, handle = self._nvml, self._handle
        readings = (
            (
                "sfddm_gpu_utilization_ratio",
                "Share of time in which the GPU ran a kernel",
                lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            ),
            (
                "sfddm_gpu_memory_used_bytes",
                "GPU memory in use, by every process",
                lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            ),
            ("sfddm_gpu_memory_total_bytes", "GPU memory there is", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total),
            ("sfddm_gpu_power_watts", "Power drawn", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            (
                "sfddm_gpu_temperature_celsius",
                "Temperature of the GPU",
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            ),
        )
        for name, text, read in readings:
            try:
                value: float = read()  # type: ignore[no-untyped-call]
            except nvml.NVMLError:
                continue
            yield GaugeMetricFamily(name, text, value=value)


def find_gpu() -> GpuCollector | None:
    """A collector, where the extra gpu is installed and a driver answers."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return GpuCollector(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        return None
