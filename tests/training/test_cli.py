"""The commands in the order a user runs them: teacher, export, distill, export, evaluate, sample. Some run as processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.catalogue import discover
from training.cli import main

TINY = ("--widths", "8,16", "--layers", "1", "--attention", "0,1", "--head-dim", "8", "--groups", "4", "--precision", "no")


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run sfddm-train as a process with `arguments`: one thread, no GPU, no hub, this checkout on the Python path."""
    ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "160", "ACCELERATE_USE_CPU": "1"}
    ours |= {"HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **ours}
    command = [sys.executable, "-m", "training.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def run_here(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run sfddm-train with `arguments` in this process, which saves the seconds that a process takes to load torch."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["sfddm-train", *map(str, arguments)])
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read once, at import
        with pytest.raises(SystemExit) as stopped:
            main()
    assert isinstance(stopped.value.code, int)
    return subprocess.CompletedProcess(sys.argv, stopped.value.code, out.getvalue(), err.getvalue())


def succeed_here(*arguments: str | Path, cwd: Path) -> None:
    result = run_here(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr


def succeed(*arguments: str | Path, cwd: Path) -> str:
    result = run(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def workshop(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder after teacher, export, distill, export."""
    here = tmp_path_factory.mktemp("workshop")
    data = ("--data", idx_folder, "--batch", "16")
    output = succeed("teacher", "--out", "teacher", *data, "--images", "1600", "--steps", "32", *TINY, cwd=here)
    assert "1,600/1,600 images" in output
    assert "loss" in output
    succeed_here("export", "teacher", "--zoo", "zoo", "--family", "shapes", "--name", "teacher", cwd=here)
    student = ("--teacher", "zoo/shapes/teacher", "--steps", "4", "--images", "320")
    succeed_here("distill", "--out", "student", *data, *student, cwd=here)
    succeed_here("export", "student", "--zoo", "zoo", "--family", "shapes", "--name", "student-004", cwd=here)
    return here


@pytest.fixture(scope="module")
def evaluation(idx_folder: Path) -> tuple[str | Path, ...]:
    """Return the command that measures the workshop's models and writes results/main.json."""
    return ("evaluate", "zoo", "--family", "shapes", "--data", idx_folder, "--images", "66", "--teacher-images", "60",
            "--seeds", "12", "--data-images", "20", "--paths", "2", "--frames", "3", "--reconstruct",
            f"{idx_folder}:rotated", "--reconstruct-images", "6", "--cache", "cache", "--out", "results/main.json",
            "--record", "--figure", "figure.png", "--path-figure", "paths.png")  # fmt: skip


@pytest.fixture(scope="module")
def measured(workshop: Path, evaluation: tuple[str | Path, ...]) -> str:
    """Measure the workshop's models once, and return what the command printed."""
    return succeed(*evaluation, cwd=workshop)


def test_evaluate_measures_records_and_resumes(workshop: Path, evaluation: tuple[str | Path, ...], measured: str) -> None:
    assert any(line.startswith("| shapes/teacher@dpmpp-004 ") and len(line) > 100 for line in measured.splitlines())  # not cut
    report = json.loads((workshop / "results/main.json").read_text())
    rows = {row["model"]: row for row in report["rows"]}
    models = {"shapes/teacher", "shapes/student-004", "shapes/teacher@ddim-004", "shapes/teacher@dpmpp-004"}
    assert set(rows) == {*models, "test images"}
    assert report["facts"]["classifier_accuracy"] > 0.9
    student = rows["shapes/student-004"]
    assert (student["images"], student["evaluations"], student["method"]) == (66, 4, "student")
    assert 0 <= student["metrics"]["class_agreement"] <= 1
    assert student["metrics"]["kid_low"] < student["metrics"]["kid"] < student["metrics"]["kid_high"]
    assert "psnr_db" not in rows["shapes/teacher"]["metrics"]
    assert 5 < rows["shapes/teacher@ddim-004"]["metrics"]["psnr_db"] < 58
    assert student["metrics"]["path_max_step"] >= 1
    noised = {name.partition("-rotated-6_")[2]: value for name, value in student["metrics"].items() if "-rotated-6_" in name}
    assert (noised["step"], noised["steps_left"]) == (16, 2)  # of 32 and of 4
    assert 5 < noised["original_db"] < 58
    assert 5 < noised["reference_original_db"] < 58
    assert noised["psnr_db"] > noised["original_db"]  # the result is nearer to the teacher's result than to the original
    assert "from_" in "".join(rows["shapes/teacher@dpmpp-004"]["metrics"])  # a multistep plan too can start in the middle
    with Image.open(workshop / "figure.png") as figure:
        assert figure.height == 4 * (2 * 8 + 4) + 4  # one row a model
    second = succeed(*evaluation, cwd=workshop)
    assert "shapes/student-004: " in measured  # progress of what was computed
    assert "shapes/student-004: " not in second  # nothing was computed again
    again = json.loads((workshop / "results/main.json").read_text())["rows"]
    assert [quality_of(row) for row in again] == [quality_of(row) for row in report["rows"]]

    catalogue = discover([workshop / "zoo"])
    assert not catalogue.refusals
    quality = catalogue.entries["shapes/student-004"].manifest.quality["ddim-004"]
    assert quality.metrics["kid"] == pytest.approx(student["metrics"]["kid"], rel=1e-4)
    ranking = catalogue.entries["shapes/student-004"].manifest.ranking
    assert ranking is not None
    assert (ranking.metric, ranking.better) == ("kid", "lower")
    assert quality.command.startswith("sfddm-train evaluate zoo")
    assert set(catalogue.entries["shapes/teacher"].manifest.quality) == {"ddim-004", "dpmpp-004", "ddim-032"}
    assert "| ddim-004 | 66 |" in (workshop / "zoo/shapes/student-004/README.md").read_text()


@pytest.mark.usefixtures("measured")
def test_report_renders_what_was_measured(workshop: Path) -> None:
    succeed_here("report", "results", "--out", "docs/results.md", cwd=workshop)
    text = (workshop / "docs/results.md").read_text()
    row = next(r for r in json.loads((workshop / "results/main.json").read_text())["rows"] if r["method"] == "student")
    assert f"{1000 * row['metrics']['kid']:.2f} [" in text
    assert "mostly bias" in text
    assert "could not be tested" in text
    assert "FID is left out" in text
    with Image.open(workshop / "docs/results-shapes.png") as curves:
        assert curves.width > 600
    refused = run_here("report", "zoo", "--out", "x.md", cwd=workshop)
    assert (refused.returncode, "holds no reports" in refused.stderr) == (1, True)


def quality_of(row: dict[str, Any]) -> dict[str, float]:
    """Return a row's metrics without its times."""
    return {name: v for name, v in row["metrics"].items() if not name.startswith(("ms_", "wall", "best_batch"))}


def test_evaluated_images_are_the_services_own(workshop: Path) -> None:
    """The images that evaluate measured equal the images that the engine serves, byte for byte."""
    import asyncio

    from models.catalogue import Catalogue
    from models.runtime.onnx import OnnxBackend
    from service.engine.config import EngineConfig
    from service.engine.engine import Engine
    from service.engine.request import Generation, ImageSpec
    from service.observability.metrics import Metrics
    from training.evaluation.family import Family
    from training.evaluation.images import ImageCache, NoiseStarts

    resolved = discover([workshop / "zoo"]).resolve("shapes/student-004")
    candidate = Family(workshop / "zoo", "shapes").candidate("student-004")
    measured = ImageCache(workshop / "cache-2").first(candidate, NoiseStarts(7), 12)

    async def serve() -> np.ndarray:
        engine = Engine(Catalogue({resolved.entry.id: resolved.entry}), OnnxBackend(), EngineConfig(), Metrics())
        engine.start()
        while not engine.ready:
            await asyncio.sleep(0.01)
        try:
            images = await engine.submit(Generation(resolved, [ImageSpec(7, i, i % 3) for i in range(12)])).images()
            return np.stack([image.pixels for image in images])
        finally:
            await engine.drain(1)

    assert np.array_equal(asyncio.run(serve()), measured)


@pytest.mark.parametrize("model", ["teacher", "zoo/shapes/student-004"])
def test_sample_draws_a_grid(workshop: Path, model: str) -> None:
    succeed_here("sample", model, "--out", "grid.png", "-n", "6", "--columns", "3", "--seed", "3", cwd=workshop)
    with Image.open(workshop / "grid.png") as image:
        assert image.size == (3 * 10 + 2, 2 * 10 + 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("teacher", "--out", "x", "--data", "nowhere"), "no data set at 'nowhere'"),
        (("teacher", "--out", "x", "--schedule", "square"), "schedule: must be 'linear', 'cosine' or 'sigmoid', got"),
        (("teacher", "--out", "teacher", "--data", "DATA"), "pass --resume"),
        (("distill", "--out", "x", "--teacher", "zoo/shapes", "--steps", "4"), "neither a run folder"),
        (
            ("distill", "--out", "x", "--teacher", "teacher", "--data", "DATA", "--steps", "99"),
            "between 1 and the teacher's 32",
        ),
        (
            ("distill", "--out", "x", "--teacher", "teacher", "--data", "DATA"),
            "either the student's number of steps or its phi",
        ),
        (
            ("distill", "--out", "x", "--teacher", "teacher", "--objective", "released", "--k", "4"),
            "--k needs --objective rollout; leave it out for released",
        ),
        (("export", "nowhere", "--family", "f", "--name", "n"), "cannot load 'nowhere'"),
        (("export", "teacher", "--family", "F F", "--name", "n"), "family"),
        (("evaluate", "zoo", "--family", "other"), "needs exactly one teacher"),
        (("evaluate", "zoo", "--family", "shapes", "--model", "student-009"), "neither a model of shapes"),
        (("evaluate", "zoo", "--family", "shapes", "--model", "teacher@euler-4"), "no solver variant"),
        (("evaluate", "zoo", "--family", "shapes", "--model", "teacher", "--reconstruct", "DATA:upside"), "DATA:clean|rotated"),
        (("evaluate", "zoo", "--family", "shapes", "--data", "DATA", "--images", "59"), "at least 60 images"),
        (("report", "nowhere"), "holds no reports"),
        (("sample", "teacher", "--sampler", "euler"), "unknown sampler 'euler'"),
        (("sample", "teacher", "--label", "7"), "label must be below 3"),
    ],
)
def test_mistakes_are_one_sentence(workshop: Path, idx_folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    given = (str(idx_folder) if a == "DATA" else a for a in arguments)
    check_mistake(run_here(*given, cwd=workshop), sentence)


def test_a_mistake_is_one_sentence_of_a_process_too(workshop: Path, idx_folder: Path) -> None:
    """It runs in its own process, which sees no GPU."""
    check_mistake(run("teacher", "--out", "x", "--data", idx_folder, "--precision", "fp16", cwd=workshop), "fp16 needs a GPU")


def check_mistake(result: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("sfddm-train: ")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("evaluate", "zoo"), "Missing option '--family'"),
        (("evaluate",), "Missing argument 'zoo'"),
        (("distill", "--out", "x", "--teacher", "teacher", "--k", "none"), "Invalid value for '--k'"),
        (
            ("distill", "--out", "x", "--teacher", "teacher", "--steps", "8", "--concentrate", "0.6"),
            "--concentrate takes two numbers between 0 and 1, such as 0.6,1; got '0.6'",
        ),
        (("evaluate", "zoo", "--family", "shapes", "--evaluations", "a"), "--evaluations takes whole numbers"),
        (("evaluate", "zoo", "--family", "shapes", "--figure", "a.jpeg"), "'--figure': a.jpeg is not a PNG"),
        (("sample", "teacher", "--out", "grid.xyz"), "'--out': grid.xyz is not a PNG; let its name end in .png"),
        (
            ("evaluate", "zoo", "--family", "shapes", "--first-index", "50", "--record"),
            "belong to the whole; leave out --first-",
        ),
        (("evaluate", "zoo", "--family", "shapes", "--out", "x.txt"), "let its name end in .json"),
        (("teach",), "No such command 'teach'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = run_here(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("sfddm-train: ")
    assert len(result.stderr.splitlines()) == 1
    assert sentence in result.stderr


def test_help_names_the_commands(workshop: Path) -> None:
    text = succeed("--help", cwd=workshop)
    assert all(name in text for name in ("teacher", "distill", "export", "evaluate", "report", "sample"))
