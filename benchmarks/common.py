"""Helpers of all benchmarks: a description of the machine, tables, JSON files, and servers as separate processes."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnxruntime as ort
import psutil

from models.catalogue import default_zoo
from models.files import write_atomically
from models.runtime.onnx import CPU, cpu_name, usable_cores

ROOT = Path(__file__).resolve().parents[1]
_START_S = 300.0  # loading and calibrating all models takes minutes on a slow machine


@dataclass(frozen=True)
class Server:
    """A server that answers. pid: the process that was started; its children belong to the server too."""

    url: str
    pid: int


def machine() -> dict[str, Any]:
    """Describe what a measurement depends on: processor, cores, versions, and how busy the machine was at the start."""
    return {
        "processor": cpu_name(),
        "cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(map(_cell, row)) + " |", flush=True)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def save(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write the result as JSON if a path was given. The write is atomic: a program that is stopped leaves the last result."""
    if path is not None:
        with write_atomically(path) as draft:
            draft.write_text(json.dumps(result, indent=1))


def resume(path: Path | None) -> dict[str, Any]:
    """Return the result that an earlier run of the same command saved; empty when there is none."""
    return dict(json.loads(path.read_text())) if path is not None and path.exists() else {}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest value of the rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(values: Mapping[str, float]) -> str:
    """Format a spread as `median (low - high)`."""
    return f"{values['median']:.3g} ({values['low']:.3g} - {values['high']:.3g})"


def free_port() -> int:
    """Return a free port. Bind it soon: another process may take it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def print_machine(result: Mapping[str, Any]) -> None:
    """Print one line that says where and when a result was measured."""
    at = result["machine"]
    print(
        f"{at['processor']}, {at['cores']} cores, load average {at['load_average']:.2f} at the start; Python {at['python']}, "
        f"ONNX Runtime {at['onnxruntime']}; {at['started'][:10]}\n"
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and of its children that still run."""
    process = psutil.Process(pid)
    times = [p.cpu_times() for p in [process, *process.children(recursive=True)]]
    return sum(t.user + t.system for t in times)


@contextmanager
def serving(command: Sequence[str], port: int, ready: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server and wait until `ready` answers 200; stop it and its children at the end.

    Raises RuntimeError with the end of its output when it stops early or takes longer than five minutes.
    """
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + _START_S
            while not _answers(url + ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(f"{' '.join(command)} did not start:\n{output.read()[-3000:].decode(errors='replace')}")
                time.sleep(0.2)
            yield Server(url, process.pid)
        finally:
            _stop(process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    family = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
    for member in family:
        if member.is_running():
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=20)
    for member in alive:
        member.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


@contextmanager
def zoo_of(models: Sequence[str]) -> Iterator[Path]:
    """Make a zoo of links to the named shipped models, so that a server loads and calibrates no others."""
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            link = Path(folder) / model
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(default_zoo() / model, target_is_directory=True)
        yield Path(folder)


@contextmanager
def serving_ours(models: Sequence[str], threads: int, provider: str = CPU) -> Iterator[Server]:
    """Run this project's server with these models on one ONNX Runtime provider. It admits every request and caches no image."""
    port = free_port()
    call = "from service.cli.main import main; main()"
    with zoo_of(models) as zoo:
        command = [sys.executable, "-c", call, "serve", "--port", str(port), "--zoo", str(zoo), "--max-backlog-s", "1e9"]
        environment = {
            "SFDDM_THREADS": str(threads),
            "SFDDM_LOG_LEVEL": "warning",
            "SFDDM_PROVIDER": provider,
            "SFDDM_CACHE_BYTES": "0",  # clients repeat their seeds in every round, and each image must be computed
        }
        with serving(command, port, "/readyz", environment) as server:
            yield server
