"""Compare this server with LitServe, Ray Serve, BentoML and a plain FastAPI handler on the same ONNX files.

    python -m benchmarks.peers --out peers.json          25 minutes at most; run it again to resume after a stop
    python -m benchmarks.peers --quick                   ours and the plain handler for a few seconds: check that it runs

The peers run the usual request-level sampling loop (benchmarks/servers) with as many threads as ours; LitServe, Ray Serve
and BentoML batch whole requests, at most 16 together (--max-batch). Each framework is installed once into its own
environment under --environments, because their requirements conflict. One server runs at a time. The order of the servers
is shuffled for every load, so that slow moments of the machine affect all servers alike.

Loads, in this order:

    saturating    64 clients, student-16 only: throughput, which is the capacity that the next loads refer to
    poisson-50    student-16 and student-4 in equal numbers, open loop, at 50 % of our capacity for that mix
    poisson-80    the same at 80 %, poisson-120 at 120 %
    teacher       student-16 at 20 % of capacity beside one client that always has a teacher's request running

Goodput counts the student requests that are answered within 1 s. A second table shows how good our server's estimates were.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort

from benchmarks import common
from benchmarks.common import Server, free_port, print_machine, print_table, serving, serving_ours
from benchmarks.load import Arrival, Load, closed_loop, open_loop, poisson, print_promises, summary
from models.runtime.cuda import CUDA
from models.runtime.onnx import CPU

FAMILY = "fashion-mnist"
STUDENT, FAST, TEACHER = f"{FAMILY}/student-016", f"{FAMILY}/student-004", f"{FAMILY}/teacher"
OBJECTIVE_S = 1.0
# Evaluations of the mix's mean request over those of student-16: (16 + 4) / 2 / 16.
_MIX_WORK = 0.625


@dataclass(frozen=True)
class Peer:
    """A server to measure: the package to install, its command, its readiness path and the form of its requests.

    command: made from the interpreter and the port; None for this project's own server.
    target: (server url, model, seed) -> url and body of a request.
    """

    package: str | None
    command: Callable[[Path, int], list[str]] | None
    ready: str
    target: Callable[[str, str, int], tuple[str, dict[str, Any]]]


def _generate(url: str, model: str, seed: int) -> tuple[str, dict[str, Any]]:
    return f"{url}/generate/{model.rpartition('/')[2]}", {"seed": seed, "class_label": seed % 10}


def _in_list(url: str, model: str, seed: int) -> tuple[str, dict[str, Any]]:
    target, body = _generate(url, model, seed)
    return target, {"requests": [body]}


def _openai(url: str, model: str, seed: int) -> tuple[str, dict[str, Any]]:
    return f"{url}/v1/images/generations", {"model": model, "prompt": "", "seed": seed, "class_label": seed % 10}


def _module(name: str) -> Callable[[Path, int], list[str]]:
    return lambda python, port: [str(python), "-m", f"benchmarks.servers.{name}", str(port)]


def _bento(python: Path, port: int) -> list[str]:
    return [
        str(python.parent / "bentoml"),
        "serve",
        "benchmarks.servers.bento:Sampling",
        "--host",
        "127.0.0.1",
        "-p",
        str(port),
    ]


PEERS = {
    "ours": Peer(None, None, "/readyz", _openai),
    "plain": Peer(None, _module("plain"), "/ready", _generate),
    "litserve": Peer("litserve", _module("lit"), "/health", _generate),
    "ray": Peer("ray[serve]", _module("rayserve"), "/ready", _generate),
    "bentoml": Peer("bentoml", _bento, "/readyz", _in_list),
}


def python_of(peer: Peer, environments: Path, provider: str) -> Path:
    """Return the interpreter with the peer's framework and the runtime version installed here; install both on first use."""
    if peer.package is None:
        return Path(sys.executable)
    folder = environments / (peer.package.partition("[")[0] + ("-cuda" if provider == CUDA else ""))
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Installing {peer.package} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        runtime = "onnxruntime-gpu[cuda,cudnn]" if provider == CUDA else "onnxruntime"
        pins = [f"{runtime}=={ort.__version__}", f"numpy=={np.__version__}", "pydantic", "pillow"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", peer.package, *pins], check=True)
    return python


def arrivals(peer: Peer, url: str, rates: Mapping[str, float], seconds: float, seed: int) -> list[Arrival]:
    """Draw Poisson arrivals in the form of one peer's requests. All peers get the same times, models and seeds."""
    drawn = poisson(rates, seconds, seed)
    return [Arrival(at_s, model, *peer.target(url, model, number)) for number, (at_s, model) in enumerate(drawn)]


def saturate(peer: Peer, server: Server, seconds: float) -> dict[str, Any]:
    """Measure the throughput of 64 clients. Only answers after the first quarter count: batches are full then."""
    url, _ = peer.target(server.url, STUDENT, 0)
    bodies = [peer.target(server.url, STUDENT, seed)[1] for seed in range(1000)]
    load = closed_loop(url, bodies, 64, seconds, STUDENT)
    ramp_s = seconds / 4
    late = [o for o in load.outcomes if ramp_s <= o.at_s + o.latency_s <= seconds]
    return {"client_cpu_s": load.client_cpu_s, STUDENT: summary(late, seconds - ramp_s, OBJECTIVE_S)}


def mixed(peer: Peer, server: Server, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Measure students only, in equal numbers, at `rate` requests a second."""
    load = open_loop(arrivals(peer, server.url, {STUDENT: rate / 2, FAST: rate / 2}, seconds, seed))
    return _by_model(load, (STUDENT, FAST))


def beside_teacher(peer: Peer, server: Server, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Measure students at `rate` requests a second while one client always has a teacher's request running."""
    url, body = peer.target(server.url, TEACHER, 0)
    teacher: list[Load] = []
    client = threading.Thread(target=lambda: teacher.append(closed_loop(url, [body], 1, seconds, TEACHER)))
    client.start()
    load = open_loop(arrivals(peer, server.url, {STUDENT: rate}, seconds, seed))
    client.join()
    finished = teacher[0].outcomes if teacher else []
    return {**_by_model(load, (STUDENT,)), TEACHER: summary(finished, teacher[0].wall_s if teacher else seconds, 1e9)}


def _by_model(load: Load, models: tuple[str, ...]) -> dict[str, Any]:
    told: dict[str, Any] = {"client_cpu_s": load.client_cpu_s, "wall_s": load.wall_s}
    for model in models:
        told[model] = summary(load.of(model), load.wall_s, OBJECTIVE_S)
    return told


@contextlib.contextmanager
def running(peer: Peer, arguments: argparse.Namespace) -> Iterator[Server]:
    """Run the peer's server with both students and the teacher."""
    if peer.command is None:
        with serving_ours((STUDENT, FAST, TEACHER), arguments.threads, arguments.provider) as server:
            yield server
        return
    port = free_port()
    environment = {
        "BENCH_MODELS": ",".join((STUDENT, FAST, TEACHER)),
        "BENCH_THREADS": str(arguments.threads),
        "BENCH_MAX_BATCH": str(arguments.max_batch),
        "BENCH_PROVIDER": arguments.provider,
    }
    command = peer.command(python_of(peer, arguments.environments, arguments.provider), port)
    with serving(command, port, peer.ready, environment) as server:
        yield server


def measure(name: str, load: str, capacity: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Start one server and measure it under one load."""
    peer, seconds = PEERS[name], arguments.seconds
    with running(peer, arguments) as server:
        for model in (STUDENT, FAST):  # warm-up; a server that cannot answer must fail here, not be measured as fast
            url, body = peer.target(server.url, model, 0)
            httpx.post(url, json=body, timeout=600).raise_for_status()
        if load == "saturating":
            return saturate(peer, server, seconds)
        if load == "teacher":
            return beside_teacher(peer, server, 0.2 * capacity, seconds, arguments.seed)
        share = int(load.removeprefix("poisson-")) / 100
        return mixed(peer, server, share * capacity / _MIX_WORK, seconds, arguments.seed)


def report(result: Mapping[str, Any]) -> None:
    """Print the result as Markdown tables."""
    print_machine(result)
    columns = ["load", "server", "model", "offered/s", "answered/s", "goodput/s", "p50 s", "p95 s", "p99 s", "failed"]
    wanted = ("offered", "throughput", "goodput", "p50_s", "p95_s", "p99_s", "failed")
    cells = {
        (load, name, model.rpartition("/")[2]): cell[model]
        for load, servers in result["loads"].items()
        for name, cell in servers.items()
        for model in (STUDENT, FAST, TEACHER)
        if model in cell
    }
    print_table(columns, [[*names, *(cell[key] for key in wanted)] for names, cell in cells.items()])
    print()
    print_promises({f"{model} under {load}": cell for (load, name, model), cell in cells.items() if name == "ours"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write, and to resume from")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--environments", type=Path, default=common.ROOT / ".venv-bench", help="where frameworks are installed")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each load")
    parser.add_argument("--threads", type=int, default=common.usable_cores())
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--provider", choices=[CPU, CUDA], default=CPU, help="ONNX Runtime's provider, for all servers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="ours and plain, 3 s a load, two loads")
    arguments = parser.parse_args()
    loads = ["saturating", "poisson-50", "poisson-80", "poisson-120", "teacher"]
    if arguments.quick:
        arguments.peers, arguments.seconds, loads = ["ours", "plain"], 3.0, ["saturating", "poisson-50"]
    result = common.resume(arguments.out) or {"machine": common.machine(), "loads": {}}
    for load in loads:
        cells = result["loads"].setdefault(load, {})
        for name in random.Random(load).sample(arguments.peers, len(arguments.peers)):
            if name not in cells:
                capacity = 0.0
                if load != "saturating":
                    capacity = result["loads"]["saturating"][arguments.peers[0]][STUDENT]["throughput"]
                print(f"{load}: {name}", file=sys.stderr, flush=True)
                cells[name] = measure(name, load, capacity, arguments)
                common.save(arguments.out, result)
    report(result)


if __name__ == "__main__":
    main()
