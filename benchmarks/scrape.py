"""Measure what a scrape of /metrics costs a server: latency and processor time, while the server is idle and under load.

    python -m benchmarks.scrape

Starts a server with every shipped model and asks the models and their variants for images in many batch sizes, so that the
server has as many series as it will ever have. The load comes from clients in a separate process that always have a request
under way. Processor time is that of the main thread, which answers scrapes: the time of periods with scrapes minus that of
periods without.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx
import psutil

from benchmarks.common import machine, print_table, save, serving_ours
from models.catalogue import default_zoo, discover

_URL = "/v1/images/generations"
_CLIENTS = 8
_TIMEOUT_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each period")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two scrapes")
    parser.add_argument("--threads", type=int, default=2, help="threads of the server for one evaluation")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    models = list(discover([default_zoo()]).entries)
    columns = ["server", "scrapes", "bytes", "median ms", "p95 ms", "worst ms", "processor ms a scrape"]
    about, rows = machine(), []
    with serving_ours(models, arguments.threads) as server, httpx.Client(base_url=server.url, timeout=_TIMEOUT_S) as client:
        _fill(client, models)
        for name, busy in (("idle", False), ("loaded", True)):
            with _load(server.url, models) if busy else nullcontext():
                rows.append([name, *_measure(client, server.pid, arguments)])
    print_table(columns, rows)
    save(arguments.json, {"machine": about, "columns": columns, "rows": rows})


def _fill(client: httpx.Client, models: list[str]) -> None:
    """Ask for images of every model and of solvers with few evaluations, in batches of many sizes."""
    teachers = [model for model in models if model.endswith("/teacher")]
    variants = [f"{teacher}@{sampler}-{steps:03d}" for teacher in teachers for sampler in ("ddim", "dpmpp") for steps in (4, 8)]
    for model in models:
        for n in (1,) if model in teachers else (1, 2, 4, 8, 16, 32):
            client.post(_URL, json={"model": model, "n": n}).raise_for_status()
    for variant in variants:
        client.post(_URL, json={"model": variant}).raise_for_status()


def _measure(client: httpx.Client, pid: int, arguments: argparse.Namespace) -> list[object]:
    """Return the columns of one table row, from `rounds` periods with scrapes and as many without."""
    milliseconds: list[float] = []
    with_s = without_s = 0.0
    size = 0
    for _ in range(arguments.rounds):
        before_s = _main_thread_s(pid)
        end_s = time.perf_counter() + arguments.seconds
        while (start_s := time.perf_counter()) < end_s:
            size = len(client.get("/metrics").raise_for_status().content)
            milliseconds.append(1000 * (time.perf_counter() - start_s))
            time.sleep(arguments.pause)
        between_s = _main_thread_s(pid)
        time.sleep(arguments.seconds)
        with_s, without_s = with_s + between_s - before_s, without_s + _main_thread_s(pid) - between_s
    milliseconds.sort()
    p95 = milliseconds[int(0.95 * len(milliseconds))]
    spent = 1000 * (with_s - without_s) / len(milliseconds)
    return [len(milliseconds), size, statistics.median(milliseconds), p95, milliseconds[-1], spent]


def _main_thread_s(pid: int) -> float:
    """Return the processor seconds of the thread that runs the event loop."""
    return next(thread.user_time + thread.system_time for thread in psutil.Process(pid).threads() if thread.id == pid)


@contextmanager
def _load(url: str, models: list[str]) -> Iterator[None]:
    """Run clients that always have a request under way, each for a different student."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_ask, args=(url, [model for model in models if not model.endswith("/teacher")]), daemon=True)
    process.start()
    try:
        time.sleep(3)
        yield
    finally:
        process.terminate()
        process.join()


def _ask(url: str, models: list[str]) -> None:
    def loop(model: str) -> None:
        with httpx.Client(base_url=url, timeout=_TIMEOUT_S) as client:
            while True:
                client.post(_URL, json={"model": model, "n": 4})

    for number in range(_CLIENTS):
        threading.Thread(target=loop, args=(models[number % len(models)],), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
