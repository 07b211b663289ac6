"""What the benchmarks share: a description of the machine, tables, JSON, and servers in processes of their own."""

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
_START_S = 300.0


@dataclass(frozen=True)
class Server:
    """A server that answers; pid is the process that was started, whose children belong to it."""

    url: str
    pid: int


def machine() -> dict[str, Any]:
    """What a number depends on: processor, cores, versions, and how busy the machine was when the program started."""
    return {
        "processor": cpu_name(),
        "cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(map(_cell, row)) + " |", flush=True)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def save(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write the result as JSON, if a path was given; atomically, so that a stopped program leaves what it had."""
    if path is not None:
        with write_atomically(path) as draft:
            draft.write_text(json.dumps(result, indent=1))


def resume(path: Path | None) -> dict[str, Any]:
    """What an earlier run of the same command left, or nothing."""
    return dict(json.loads(path.read_text())) if path is not None and path.exists() else {}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of the rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(values: Mapping[str, float]) -> str:
    """`median (low - high)`."""
    return f"{values['median']:.3g} ({values['low']:.3g} - {values['high']:.3g})"


def free_port() -> int:
    """A port that the system says is free; a server should bind it soon."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def print_machine(result: Mapping[str, Any]) -> None:
    """One line on where and when a result was measured."""
    at = result["machine"]
    print(
        f"{at['processor']}, {at['cores']} cores, load average {at['load_average']:.2f} at the start; Python {at['python']}, "
        f"ONNX Runtime {at['onnxruntime']}; {at['started'][:10]}\n"
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its living children, seconds."""
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
    """A zoo of links to these shipped models, so that a server loads and calibrates no others."""
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            link = Path(folder) / model
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(default_zoo() / model, target_is_directory=True)
        yield Path(folder)


@contextmanager
def serving_ours(models: Sequence[str], threads: int, provider: str = CPU) -> Iterator[Server]:
    """This project's server with these models, on the runtime that is compared, admitting whatever comes."""
    port = free_port()
    call = "from service.cli.main import main; main()"
    with zoo_of(models) as zoo:
        command = [sys.executable, "-c", call, "serve", "--port", str(port), "--zoo", str(zoo), "--max-backlog-s", "1e9"]
        environment = {
            "SFDDM_THREADS": str(threads),
            "SFDDM_LOG_LEVEL": "warning",
            "SFDDM_PROVIDER": provider,
            "SFDDM_CACHE_BYTES": "0",  # every image is computed, though clients of several rounds repeat their seeds
        }
        with serving(command, port, "/readyz", environment) as server:
            yield server
