"""Measure a GPU through the whole backend: agreement with the CPU, CUDA graphs, layouts, step times and larger images.

    python -m benchmarks.gpu --out gpu.json                 under ten minutes a call; run it again to resume
    python -m benchmarks.gpu --device cpu --quick           a dry run with the same bound buffers on the CPU

- Every model of the zoo: 8-bit images of the same seeds against ONNX Runtime on the CPU, in float32 and float16, and the
  nodes that did not run on the GPU.
- student-16: milliseconds per step at 1 ... 256 rows, with CUDA graphs on and off, channels first and last, in PyTorch eager
  and compiled, and in diffusers' own loop (needs the extra `train`). For comparison also the FLOP/s and bytes/s that the
  card attains, and the operations of a step.
- 64x64 and 128x128 networks with random weights: milliseconds per step, and the batch size at which memory ends.

Each measurement is saved when it is done. Other benchmarks measure a GPU over HTTP and beside other servers as they do a CPU:

    SFDDM_MAX_BATCH=256 python -m benchmarks.efficiency --provider CUDAExecutionProvider --batches 64 128 256 --clients 1024
    python -m benchmarks.peers --provider CUDAExecutionProvider --max-batch 64
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import print_machine, print_table
from models.catalogue import Entry, default_zoo, discover
from models.runtime.base import DeviceMemoryError, Network, Precision
from models.runtime.cuda import CUDA, BoundNetwork, CudaBackend, find_gpu, provider_options
from models.runtime.half import half_graph
from models.runtime.onnx import CPU, OnnxBackend, open_session, session_options, usable_cores
from models.runtime.probe import ROWS, agreement, probe_inputs, sample, short_plan
from service.observability.logs import configure_logging

STUDENT = "fashion-mnist/student-016"
PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
_REPEATS = 20


def load(entry: Entry, device: str, precision: Precision, *, graphs: bool = True, nhwc: bool = False) -> Network:
    """Load a network on the device. On the CPU it uses the same bound buffers, without what only a GPU has."""
    if device == "cuda":
        return CudaBackend(precision=precision, graphs=graphs, nhwc=nhwc).load(entry)
    graph = half_graph(entry.graph) if precision == "float16" else str(entry.graph)
    session = open_session(entry, graph, session_options(usable_cores()), [CPU])
    return BoundNetwork(session, entry, precision, device="cpu")


def agreement_cell(entry: Entry, device: str, precision: Precision) -> dict[str, Any]:
    """Compare the images with those of ONNX Runtime on the CPU in float32."""
    plan = short_plan(entry)
    reference = sample(OnnxBackend().load(entry), entry, plan, ROWS)
    images = sample(load(entry, device, precision), entry, plan, ROWS)
    mean = float(np.abs(images.astype(np.int64) - reference.astype(np.int64)).mean())
    return {**vars(agreement(images, reference)), "mean": mean, "elsewhere": nodes_elsewhere(entry, device, precision)}


def nodes_elsewhere(entry: Entry, device: str, precision: Precision) -> dict[str, int]:
    """Count the nodes, by kind, that did not run on the device, from the runtime's profile of one step."""
    wanted = CUDA if device == "cuda" else CPU
    chosen: list[Any] = [CPU]
    if device == "cuda":
        chosen.insert(0, (CUDA, provider_options(graphs=False, precision=precision, memory=None, nhwc=False)))
    graph = half_graph(entry.graph) if precision == "float16" else str(entry.graph)
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(usable_cores())
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/step"
        session = open_session(entry, graph, options, chosen)
        BoundNetwork(session, entry, precision, device=device).step(**probe_inputs(entry, 2))
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, int] = {}
    for event in events:
        told = event.get("args", {})
        if event.get("cat") == "Node" and told.get("provider", wanted) != wanted:
            found[told["op_name"]] = found.get(told["op_name"], 0) + 1
    return found


def curve_cell(network: Network, entry: Entry, sizes: list[int]) -> dict[str, float | None]:
    """Measure the median milliseconds of a step by rows; None where memory did not suffice."""
    curve: dict[str, float | None] = {}
    for rows in sizes:
        inputs = probe_inputs(entry, rows)
        try:
            for _ in range(3):
                network.step(**inputs)
            seconds = []
            for _ in range(_REPEATS):
                start_s = time.perf_counter()
                network.step(**inputs)
                seconds.append(time.perf_counter() - start_s)
            curve[str(rows)] = 1000 * float(np.median(seconds))
        except DeviceMemoryError:
            curve[str(rows)] = None
    return curve


def torch_cell(entry: Entry, device: str, precision: Precision, compiled: bool, sizes: list[int]) -> dict[str, float | None]:
    """Measure the same as `curve_cell` in PyTorch."""
    from benchmarks.torch_network import TorchNetwork  # torch comes with the extra train

    return curve_cell(TorchNetwork(entry.folder, device, precision, compiled=compiled), entry, sizes)


def diffusers_cell(entry: Entry, device: str, precision: Precision, sizes: list[int]) -> dict[str, float | None]:
    """Measure the median milliseconds of a step of diffusers' own loop, over whole images."""
    from benchmarks.torch_network import DiffusersLoop

    loop, curve = DiffusersLoop(entry.folder, device, precision), {}
    for rows in sizes:
        loop.images(rows)
        seconds = []
        for _ in range(5):
            start_s = time.perf_counter()
            loop.images(rows)
            seconds.append(time.perf_counter() - start_s)
        curve[str(rows)] = 1000 * float(np.median(seconds)) / loop.steps
    return curve


def ceilings_cell(entry: Entry, device: str, side: int) -> dict[str, float]:
    """Measure the FLOP/s and bytes/s that the card attains, and the operations of one row's step."""
    from benchmarks.torch_network import TorchNetwork, ceilings

    eager = TorchNetwork(entry.folder, device, "float32", compiled=False)
    return {**ceilings(device, side), "flops_per_row": eager.flops_per_row(probe_inputs(entry, 2))}


def random_entry(folder: Path, side: int, widths: tuple[int, ...]) -> Entry:
    """Write a model folder of a network with random weights for side x side colour images."""
    import torch

    from models.export import export_step_graph
    from models.manifest import ImageShape
    from models.network import StepGraph, build_unet

    like = discover([default_zoo()]).entries[STUDENT].manifest
    torch.manual_seed(0)
    network = build_unet(
        {
            "sample_size": side,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": list(widths),
            "down_block_types": ["DownBlock2D"] * (len(widths) - 1) + ["AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D"] + ["UpBlock2D"] * (len(widths) - 1),
        }
    )
    folder.mkdir(parents=True)
    graph = StepGraph(network, "v_prediction", (-1.0, 1.0), conditional=False)
    export_step_graph(graph, (3, side, side), folder / "model.onnx")
    image = ImageShape(channels=3, height=side, width=side)
    changed = {"family": "random", "name": folder.name, "image": image, "classes": [], "null_label": None}
    return Entry(folder, like.model_copy(update=changed))


def cells(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Return every measurement by name, in order."""
    catalogue = discover([default_zoo()])
    device = arguments.device
    models = [STUDENT] if arguments.quick else list(catalogue.entries)
    sizes = [1, 2] if arguments.quick else [2**power for power in range(9)]
    for model in models:
        for precision in PRECISIONS:
            yield (
                f"agreement {model} {precision}",
                lambda model=model, precision=precision: agreement_cell(catalogue.entries[model], device, precision),
            )
    student = catalogue.entries[STUDENT]
    for precision in PRECISIONS:
        for graphs, nhwc in ((True, False), (False, False), (True, True)):
            if device == "cuda" or (graphs and not nhwc):
                yield (
                    f"curve {STUDENT} {precision} graphs={graphs} nhwc={nhwc}",
                    lambda precision=precision, graphs=graphs, nhwc=nhwc: curve_cell(
                        load(student, device, precision, graphs=graphs, nhwc=nhwc), student, sizes
                    ),
                )
    for precision in PRECISIONS:
        for compiled in (False, True):
            if device == "cuda" or not (compiled or precision == "float16"):
                yield (
                    f"curve {STUDENT} {precision} PyTorch compiled={compiled}",
                    lambda precision=precision, compiled=compiled: torch_cell(student, device, precision, compiled, sizes),
                )
    for precision in PRECISIONS:
        if device == "cuda" or precision == "float32":
            yield (
                f"curve {STUDENT} {precision} diffusers",
                lambda precision=precision: diffusers_cell(student, device, precision, sizes),
            )
    yield "ceilings", lambda: ceilings_cell(student, device, 64 if arguments.quick else 8192)
    bigger = {8: (32, 32)} if arguments.quick else {64: (128, 256, 256, 512), 128: (128, 128, 256, 256, 512)}
    for side, widths in bigger.items():
        for precision in PRECISIONS:

            def cell(side: int = side, widths: tuple[int, ...] = widths, precision: Precision = precision) -> Any:
                folder = scratch / "random" / f"{side}-{precision}"
                entry = random_entry(folder, side, widths)
                return curve_cell(load(entry, device, precision), entry, sizes)

            yield f"curve random-{side} {precision}", cell


def report(result: Mapping[str, Any]) -> None:
    """Print the result as Markdown tables."""
    print(f"{result['gpu'] or 'no GPU'}; ", end="")
    print_machine(result)
    found = result["cells"]
    agreements = {name.removeprefix("agreement "): cell for name, cell in found.items() if name.startswith("agreement")}
    columns = ["images of", "PSNR dB", "within one level", "largest difference", "mean difference", "nodes elsewhere"]
    fields = ("psnr_db", "within_one", "largest", "mean", "elsewhere")
    print_table(columns, [[name, *(cell[field] for field in fields)] for name, cell in agreements.items()])
    curves = {name.removeprefix("curve "): cell for name, cell in found.items() if name.startswith("curve")}
    sizes = [rows for cell in curves.values() for rows in cell]
    columns = sorted(set(sizes), key=int)
    print("\nMilliseconds of a step by rows; - where memory did not suffice:\n")
    print_table(["network", *columns], [[name, *(cell.get(rows) or "-" for rows in columns)] for name, cell in curves.items()])
    if "ceilings" not in found:
        return
    print("\nShare of the operations a second that the card's matrix products attain in the same precision:\n")
    table = []
    for name, cell in curves.items():
        if name.startswith(STUDENT):
            most = found["ceilings"]["float16_flops" if "float16" in name else "float32_flops"]
            busy = found["ceilings"]["flops_per_row"] / most
            table.append([name, *(1000 * int(rows) * busy / cell[rows] if cell.get(rows) else "-" for rows in columns)])
    print_table(["network", *columns], table)
    print(f"\nA copy moves {found['ceilings']['bytes_per_s'] / 1e9:.0f} GB/s, read and written.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write, and to resume from")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no further measurement after so many minutes")
    parser.add_argument("--quick", action="store_true", help="one model, two sizes, a tiny random network")
    arguments = parser.parse_args()
    configure_logging("console", "warning")
    gpu = find_gpu()
    result = common.resume(arguments.out) or {"machine": common.machine(), "gpu": gpu and vars(gpu), "cells": {}}
    deadline_s = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as scratch:
        for name, cell in cells(arguments, Path(scratch)):
            if name in result["cells"]:
                continue
            if time.monotonic() > deadline_s:
                print("Out of time; run the same command again to go on.", file=sys.stderr)
                break
            print(name, file=sys.stderr, flush=True)
            result["cells"][name] = cell()
            common.save(arguments.out, result)
    report(result)


if __name__ == "__main__":
    main()
