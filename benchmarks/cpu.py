"""Compare the options of ONNX Runtime on a CPU, and OpenVINO in bf16 with ONNX Runtime in float32.

    python -m benchmarks.cpu --out cpu.json        about 8 minutes; run it again to resume after a stop
    python -m benchmarks.cpu --quick               under a minute: check that it runs

Options: the default is one session that evaluates a whole batch with all threads. Each variant changes one setting of it.
One more variant is what the service does: it splits a batch into parts and computes each on one thread. Every round runs
every variant once, in random order, and divides its step time by the default's in the same round. The table has the median
and the range of these ratios; above 1 is slower than the default. OpenVINO is compiled for the batch size, as in the
service. A short sleep precedes each step: threads that spin while they wait slow down the next process, not their own.

With a neighbour: the same beside a process that computes for 4 ms in every 40 ms, which is about what serving takes of a
core at saturation. Threads that share a step evenly wait for the one that was interrupted; a setting that avoids this wait
shows a gain here.

Agreement (not with --quick): 16 images of each model, ONNX Runtime in float32 against OpenVINO in bf16. A model with at most
--steps evaluations uses its own plan, others a strided one. The table also lists the batch sizes, from 1 to 64, at which a
row does not give the same bytes as in the largest batch.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks import common
from benchmarks.common import print_machine, print_table, shown, spread
from models.catalogue import Entry, default_zoo, discover, variant_plan
from models.runtime.base import Network, StepInputs, rows_of
from models.runtime.onnx import CPU, OnnxBackend, OnnxNetwork, open_session, session_options, usable_cores
from models.runtime.probe import ROWS, agreement, probe_inputs, sample
from service.observability.logs import configure_logging

STUDENT = "fashion-mnist/student-016"
DEFAULT, SPLIT, OPENVINO = "default", "rows side by side, as served", "OpenVINO bf16"
_PAUSE_S = 0.002  # before each step, see above
_NEIGHBOUR = """
import time
while True:
    until_s = time.perf_counter() + 0.004
    while time.perf_counter() < until_s:
        pass
    time.sleep(0.036)
"""
_SIZES = (1, 2, 3, 5, 8, 16, 31, 32)  # compared with 64; each takes a compilation


def _extended(options: ort.SessionOptions) -> None:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def _spinning(options: ort.SessionOptions) -> None:
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")


def _no_arena(options: ort.SessionOptions) -> None:
    options.enable_cpu_mem_arena = False


def _no_pattern(options: ort.SessionOptions) -> None:
    options.enable_mem_pattern = False


def _smaller_blocks(options: ort.SessionOptions) -> None:
    options.add_session_config_entry("session.dynamic_block_base", "4")


def _one_more_thread(options: ort.SessionOptions) -> None:
    options.intra_op_num_threads += 1


def _one_thread(options: ort.SessionOptions) -> None:
    options.intra_op_num_threads = 1


OPTIONS: dict[str, Callable[[ort.SessionOptions], None]] = {
    DEFAULT: lambda _: None,
    "graph optimisation: extended": _extended,
    "threads spin while they wait": _spinning,
    "no arena": _no_arena,
    "no memory pattern": _no_pattern,
    "work shared out in smaller blocks": _smaller_blocks,
    "one thread more": _one_more_thread,
    "one thread": _one_thread,
}


def variants(entry: Entry, threads: int) -> dict[str, Network]:
    """Load a network for every variant that can run on this machine."""
    networks: dict[str, Network] = {}
    for name, change in OPTIONS.items():
        options = session_options(threads)
        change(options)
        networks[name] = OnnxNetwork(entry, open_session(entry, str(entry.graph), options, [CPU]))
    networks[SPLIT] = OnnxBackend(threads=threads).load(entry)
    if find_spec("openvino") is not None:
        from models.runtime.openvino import OpenVinoBackend

        networks[OPENVINO] = OpenVinoBackend(threads=threads).load(entry)
    return networks


def step_seconds(network: Network, inputs: StepInputs, steps: int) -> float:
    """Return the median time of a few steps."""
    seconds = []
    for _ in range(steps):
        time.sleep(_PAUSE_S)
        start_s = time.perf_counter()
        network.step(**inputs)
        seconds.append(time.perf_counter() - start_s)
    return float(np.median(seconds))


def one_round(networks: dict[str, Network], entry: Entry, rows: int, steps: int, number: int) -> dict[str, float]:
    """Measure every variant once, in random order; return seconds of a step by variant."""
    inputs = probe_inputs(entry, rows)
    return {
        name: step_seconds(networks[name], inputs, steps)
        for name in random.Random(number).sample(list(networks), len(networks))
    }


@contextmanager
def neighbour() -> Iterator[None]:
    """Run a process beside the measurement that uses a tenth of a core."""
    process = subprocess.Popen([sys.executable, "-c", _NEIGHBOUR])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def openvino_agreement(entry: Entry, threads: int, most_steps: int) -> dict[str, Any]:
    """Compare the images of one model on OpenVINO and ONNX Runtime, and OpenVINO's rows at different batch sizes."""
    from models.runtime.openvino import OpenVinoBackend

    reference, other = OnnxBackend(threads=threads).load(entry), OpenVinoBackend(threads=threads).load(entry)
    steps = min(entry.manifest.steps, most_steps)
    plan = entry.plan() if steps == entry.manifest.steps else variant_plan(entry.manifest, "ddim", steps)
    found = agreement(sample(other, entry, plan, ROWS), sample(reference, entry, plan, ROWS))
    inputs = probe_inputs(entry, 64)
    together = other.step(**inputs)[0]
    differing = []
    for rows in _SIZES:
        part = slice(64 - rows, 64)
        if not np.array_equal(other.step(**rows_of(inputs, part))[0], together[part]):
            differing.append(rows)
    return {"evaluations": steps, **vars(found), "holds": found.holds, "differing_sizes": differing}


def report(result: Mapping[str, Any]) -> None:
    """Print the result as Markdown tables."""
    print_machine(result)
    kept = {rows: rounds[1:] for rows, rounds in result["rounds"].items()}  # the first round is warm-up
    table = []
    for name in (*OPTIONS, SPLIT, OPENVINO):
        if not all(name in rounds[0] for rounds in kept.values()):
            continue
        cells = []
        for rounds in kept.values():
            if name == DEFAULT:
                cells.append(shown(spread([1000 * measured[name] for measured in rounds])) + " ms")
            else:
                cells.append(shown(spread([measured[name] / measured[DEFAULT] for measured in rounds])))
        table.append([name, *cells])
    print_table(["setting", *kept], table)
    if result["agreement"]:
        print()
        columns = ["model", "evaluations", "PSNR dB", "within one level", "largest", "holds", "sizes that differ"]
        print_table(columns, [[model, *cell.values()] for model, cell in result["agreement"].items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write, and to resume from")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=128, help="most evaluations of an agreement; a longer plan is strided")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--quick", action="store_true", help="two rounds at two sizes, no agreement")
    arguments = parser.parse_args()
    configure_logging("console", "warning")
    sizes, repeats = [1, 4, 16, 64], 5
    if arguments.quick:
        sizes, repeats, arguments.rounds = [1, 4], 2, 2
    result = common.resume(arguments.out) or {"machine": common.machine(), "rounds": {}, "agreement": {}}
    catalogue = discover([default_zoo()])
    entry = catalogue.entries[STUDENT]
    networks = variants(entry, arguments.threads)
    for rows, busy in [*((rows, False) for rows in sizes), (sizes[-1], True)]:
        rounds = result["rounds"].setdefault(f"{rows} rows{', with a neighbour' if busy else ''}", [])
        while len(rounds) < arguments.rounds:
            with neighbour() if busy else nullcontext():
                measured = one_round(networks, entry, rows, repeats, len(rounds) - 1)
            rounds.append(measured)
            common.save(arguments.out, result)
    for model, other in catalogue.entries.items():
        if not arguments.quick and OPENVINO in networks and model not in result["agreement"]:
            result["agreement"][model] = openvino_agreement(other, arguments.threads, arguments.steps)
            common.save(arguments.out, result)
    report(result)


if __name__ == "__main__":
    main()
