"""Metrics of the GPU, read through NVML at each scrape. There are none where NVML or a GPU is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class GpuCollector(Collector):
    """Metrics of the first visible GPU, on which the engine runs."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the readings. Leave out those that the driver refuses: a MIG slice has no utilisation."""
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
    """Return the collector of the first GPU. None when the extra `gpu` is not installed or no driver answers."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return GpuCollector(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        return None
