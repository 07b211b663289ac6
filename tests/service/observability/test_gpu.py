"""GPU metrics, read from a fake driver, since the machines that run the tests have no GPU."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from service.observability.gpu import GpuCollector


class Driver:
    """A fake pynvml with one GPU. refuses: a call that it does not support, as on a MIG slice."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, refuses: str = "") -> None:
        self._refuses = refuses

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> SimpleNamespace:  # noqa: N802 - NVML's names
        if self._refuses == "utilization":
            raise self.NVMLError
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=2 << 30, total=80 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802
        return 412_500  # milliwatts

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:  # noqa: N802
        return 61


def gpu_registry(driver: Driver) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GpuCollector(driver, object()))
    return registry


def test_readings_are_in_base_units() -> None:
    registry = gpu_registry(Driver())
    expected = {
        "sfddm_gpu_utilization_ratio": 0.37,
        "sfddm_gpu_memory_used_bytes": 2 << 30,
        "sfddm_gpu_memory_total_bytes": 80 << 30,
        "sfddm_gpu_power_watts": 412.5,
        "sfddm_gpu_temperature_celsius": 61,
    }
    assert {name: registry.get_sample_value(name) for name in expected} == expected
    assert all(family.documentation for family in registry.collect())


def test_a_reading_that_the_driver_refuses_is_left_out() -> None:
    registry = gpu_registry(Driver(refuses="utilization"))
    assert registry.get_sample_value("sfddm_gpu_utilization_ratio") is None
    assert registry.get_sample_value("sfddm_gpu_power_watts") == 412.5
