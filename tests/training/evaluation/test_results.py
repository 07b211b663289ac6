"""JSON, manifests, tables and verdicts, from made-up results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.catalogue import discover
from models.manifest import Manifest
from training.errors import TrainingError
from training.evaluation import tables
from training.evaluation.distances import mean_interval
from training.evaluation.record import read_run, record, write_run
from training.evaluation.result import Measurements, Report, Result, TableFacts
from training.evaluation.results import merged, write_results
from training.evaluation.verdicts import Verdict, aims, difference, verdicts

FACTS = {"reference": "tiny/teacher", "machine": "m", "cores": 2, "load": 1.0, "accelerator": "none"}
NAMES = {"student": "student", "DDIM": "teacher@ddim", "DPM-Solver++(2M)": "teacher@dpmpp"}


def result(method: str, evaluations: int, kid: float, *, psnr: float | None = None, **facts: Any) -> Result:
    """Return a result whose KID estimates scatter alike for every result, so that differences are sharp."""
    subsets = kid + 0.002 * np.linspace(-1, 1, 10)
    mean, low, high = mean_interval(subsets)
    metrics = {"kid": mean, "kid_low": low, "kid_high": high, "same_noise": 0.99}
    if psnr is not None:
        metrics["psnr_db"] = psnr
    name = f"tiny/{NAMES.get(method, method)}-{evaluations:03d}" if method != "teacher" else "tiny/teacher"
    known = TableFacts.model_validate({"kind": "student", "teacher_steps": 1024, "phi": "uniform", **facts})
    reference = "" if method == "teacher" else "tiny/teacher"
    each = [] if psnr is None else (psnr + np.linspace(-5, 5, 50)).tolist()
    return Result(
        name, method, f"ddim-{evaluations:03d}", evaluations, 200, 50, metrics, subsets.tolist(), known, reference, each
    )


def find(found: list[Verdict], start: str) -> Verdict:
    return next(v for v in found if v.claim.startswith(start))


def test_a_run_survives_its_json(tmp_path: Path) -> None:
    report = Report([result("student", 4, 0.01, psnr=30.0)], FACTS)
    write_run(tmp_path / "r" / "a.json", "tiny", report, Measurements(), "sfddm-train evaluate zoo", "k")
    run = read_run(tmp_path / "r" / "a.json")
    assert run.results == report.results
    assert (run.family, run.ablation, run.measurements["seeds"]) == ("tiny", "k", 200)


@pytest.mark.parametrize("change", [{"kid_subsets": [0.1]}, {"first_index": "100"}, {"facts": []}, {"unknown": 1}])
def test_a_row_that_cannot_be_trusted_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "x.json"
    write_run(path, "tiny", Report([result("student", 4, 0.01)], FACTS), Measurements(), "command")
    data = json.loads(path.read_text())
    data["rows"][0].update(change)
    path.write_text(json.dumps(data))
    with pytest.raises(TrainingError, match=r"x\.json is no report of this"):
        read_run(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"model": 1}]}', '{"command": "old", "rows": []}'])
def test_a_file_that_is_no_report_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match="is no report of this"):
        read_run(path)


def manifest_of(zoo: Path, name: str) -> Manifest:
    catalogue = discover([zoo])
    assert not catalogue.refusals
    return catalogue.entries[f"tiny/{name}"].manifest


def metric(zoo: Path, name: str) -> str:
    ranking = manifest_of(zoo, name).ranking
    assert ranking is not None
    return ranking.metric


def test_a_family_is_ranked_by_kid_once_all_of_it_has_one(tiny_zoo: Path, tmp_path: Path) -> None:
    """KID and RMSE are never sorted together."""
    zoo = shutil.copytree(tiny_zoo, tmp_path / "zoo")
    record(
        zoo, [result("student", 4, 0.0123456789), result("DDIM", 4, 0.2), result("elsewhere", 4, 0.1)], "sfddm-train evaluate"
    )
    assert {metric(zoo, name) for name in ("teacher", "student-004", "student-008")} == {"kid"}
    assert manifest_of(zoo, "student-004").quality["ddim-004"].metrics["kid"] == 0.0123457
    assert set(manifest_of(zoo, "teacher").quality) == {"ddim-004", "ddim-032"}  # what was measured before stays
    assert "kid" in (zoo / "tiny/student-004/README.md").read_text()
    path = zoo / "tiny/student-008/manifest.json"
    path.write_text(path.read_text().replace('"kid"', '"rmse"'))  # now one model has no KID
    record(zoo, [result("student", 4, 0.01)], "again")
    assert {metric(zoo, name) for name in ("teacher", "student-004", "student-008")} == {"rmse"}


def test_measurements_add_up_in_a_manifest(tiny_zoo: Path, tmp_path: Path) -> None:
    """A KID of 200 images stays when only agreement is measured on fewer images. Measuring everything replaces everything."""
    zoo = shutil.copytree(tiny_zoo, tmp_path / "zoo")
    whole = result("student", 4, 0.01, psnr=30.0)
    whole.metrics["class_agreement"] = 0.9
    record(zoo, [whole], "first")
    part = Result("tiny/student-004", "student", "ddim-004", 4, 50, 50, {"psnr_db": 31.0, "class_agreement": 0.5})
    record(zoo, [part], "second")
    quality = manifest_of(zoo, "student-004").quality["ddim-004"]
    assert (quality.images, quality.command) == (200, "first && second")
    assert {n: quality.metrics[n] for n in ("kid", "class_agreement", "psnr_db", "same_noise")} == {
        "kid": 0.01, "class_agreement": 0.9, "psnr_db": 31.0, "same_noise": 0.99
    }  # fmt: skip
    record(zoo, [part], "second")
    assert manifest_of(zoo, "student-004").quality["ddim-004"] == quality
    record(zoo, [replace(whole, images=400)], "third")
    quality = manifest_of(zoo, "student-004").quality["ddim-004"]
    assert (quality.images, quality.command, quality.metrics["class_agreement"]) == (400, "third", 0.9)


def test_agreement_in_a_manifest_is_with_the_plain_teacher(tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = shutil.copytree(tiny_zoo, tmp_path / "zoo")
    record(zoo, [replace(result("student", 4, 0.01, psnr=40.0), reference="tiny/guided:2")], "guided")
    assert manifest_of(zoo, "student-004").quality["ddim-004"].metrics.keys() == {"kid", "kid_low", "kid_high"}


def test_the_difference_of_paired_rows_is_sharper_than_that_of_others() -> None:
    a, b = result("student", 8, 0.010), result("DDIM", 8, 0.011)
    mean, low, high = difference(a, b)
    assert (mean, low, high) == pytest.approx((-0.001, -0.001, -0.001))
    other = Result(**{**b.__dict__, "images": 100})
    mean, low, high = difference(a, other)
    assert low < -0.001 < 0 < high


def test_verdicts_follow_the_numbers() -> None:
    good = [result("student", n, 0.010, psnr=40) for n in (4, 8, 16, 32)]
    ddim = [result("DDIM", n, kid, psnr=30) for n, kid in ((4, 0.03), (8, 0.02), (16, 0.02), (32, 0.009))]
    found = verdicts([*good, *ddim], [*good, *ddim, result("student", 50, 0.010)])
    against = find(found, "The student is closer to the data (KID) than strided")
    assert against.verdict == "holds in part"  # at 16, not at 32
    assert "16: -10.0 [-10.0, -10.0] against DDIM" in against.evidence
    assert find(found, "The student is closer to the data (KID) than progressive").verdict == "could not be tested"
    assert find(found, "Semantic").verdict == "holds"
    assert find(found, "Meaningful").verdict == "could not be tested"
    assert find(found, "Flexible").verdict == "holds"
    worse = [result("student", 32, 0.01, psnr=40), result("student", 50, 0.02)]
    assert find(verdicts(worse[:1], worse), "Flexible").verdict == "does not hold"


def test_agreement_is_compared_seed_by_seed() -> None:
    """A difference of 0.2 dB in every image is significant, although the images differ from each other by 10 dB."""
    results = [result("student", 32, 0.01, psnr=40.2), result("DDIM", 32, 0.01, psnr=40.0)]
    found = find(aims(results), "At 16, 32")
    assert (found.verdict, found.evidence) == ("holds where measured", "32: +0.2 dB [+0.2, +0.2] over DDIM")
    shuffled = replace(results[1], psnr=results[1].psnr[::-1])
    assert find(aims([results[0], shuffled]), "At 16, 32").verdict == "does not hold"
    assert find(aims([results[0], replace(results[1], psnr=[])]), "At 16, 32").verdict == "could not be tested"


def test_a_claim_measured_in_part_holds_there_only() -> None:
    results = [result("student", 128, 0.01, psnr=31.0), result("DDIM", 128, 0.02, psnr=25.0)]
    assert find(aims(results), "At 16, 32").verdict == "holds where measured"
    assert (
        find(verdicts(results, results), "The student is closer to the data (KID) than strided").verdict
        == "holds where measured"
    )
    elsewhere = replace(results[0], reference="tiny/another")
    assert find(aims([elsewhere, results[1]]), "At 16, 32").verdict == "could not be tested"
    few = [replace(r, psnr=r.psnr[:1]) for r in results]
    assert find(aims(few), "At 16, 32").verdict == "could not be tested"


def test_aims_follow_the_numbers() -> None:
    teacher = result("teacher", 1024, 0.010)
    results = [teacher, result("student", 4, 0.02), result("student", 8, 0.010), result("student, guided", 16, 0.005)]
    found = aims(results)
    assert find(found, "The smallest").verdict == "T' = 8"
    assert find(aims([*results, result("student", 16, 0.02)]), "The smallest").verdict == "none"  # 16 does not meet it
    assert find(found, "A guided").verdict == "holds"
    assert find(found, "At 4, 8 and 16 a guided").verdict == "could not be tested"
    assert find(found, "Single fold").verdict == "could not be tested"
    assert find(aims([*results[:2], result("student, guided", 16, 0.02)]), "A guided").verdict == "does not hold"


def test_guided_students_are_compared_with_the_guided_teacher_at_equal_evaluations() -> None:
    results = [
        result("student, guided", 8, 0.01),
        result("DPM-Solver++(2M)", 8, 0.02),
        result("DPM-Solver++(2M), guided", 8, 0.01),
    ]
    every, teachers = (v for v in aims(results) if v.claim.startswith("At 4, 8 and 16 a guided"))
    assert (every.verdict, every.evidence) == ("holds where measured", "8: -10.0 [-10.0, -10.0] against DPM-Solver++(2M)")
    assert teachers.verdict == "does not hold"
    assert teachers.evidence == "8: +0.0 [+0.0, +0.0] against DPM-Solver++(2M), guided"


@pytest.mark.parametrize(("cost", "verdict"), [(30, "holds"), (40, "does not hold")])
def test_single_fold_is_compared_at_equal_quality(cost: int, verdict: str) -> None:
    results = [result("student", 16, 0.01, training_cost=cost), result("progressive distillation", 16, 0.01, training_cost=100)]
    assert find(aims(results), "Single fold").verdict == verdict
    worse = [result("student", 16, 0.02, training_cost=cost), results[1]]
    assert find(aims(worse), "Single fold").verdict == "does not hold"
    cheap = result("progressive distillation", 16, 0.03, training_cost=cost)  # worse, so that nothing is equal about it
    assert find(aims([*results, cheap]), "Single fold").verdict == verdict


def test_an_ablation_shows_what_differs_and_no_more() -> None:
    results = [result("student", 8, 0.01, k=1, init="teacher"), result("student", 8, 0.02, k=4, init="teacher")]
    header = tables.ablation(results).splitlines()[0]
    assert " k " in header
    assert "init" not in header
    assert "FID" not in header  # not measured


def test_tables_are_markdown_of_equal_width() -> None:
    lines = tables.markdown(["model", "x"], [["a", "1"], ["longer", "22"]]).splitlines()
    assert lines == ["| model  |   x |", "|:-------|----:|", "| a      |   1 |", "| longer |  22 |"]
    pivot = tables.pivot([result("student", 4, 0.01), result("DDIM", 8, 0.02)], tables.kid).splitlines()
    assert [cell.strip() for cell in pivot[0].split("|")[1:-1]] == ["evaluations", "student", "DDIM"]
    assert [cell.strip()[:5] for cell in pivot[2].split("|")[1:-1]] == ["4", "10.00", ""]


def test_series_of_one_method_are_told_apart() -> None:
    names = ["tiny/progressive-112k-004", "tiny/progressive-112k-008", "tiny/progressive-449k-004", "tiny/student-016-guided"]
    methods = [*["progressive distillation"] * 3, "student, guided"]
    results = [
        replace(result(m, int(n[-3:]) if m[0] == "p" else 16, 0.01), model=n) for m, n in zip(methods, names, strict=True)
    ]
    found = {label: [r.evaluations for r in points] for label, _, points in tables.series(results)}
    label = "progressive distillation (progressive-{}k)"
    assert found == {label.format(112): [4, 8], label.format(449): [4], "student, guided": [16]}


def test_runs_of_other_noises_do_not_share_a_table(tmp_path: Path) -> None:
    """Runs with one ablation heading share one table."""
    report = Report([result("student", 4, 0.01)], FACTS)
    write_run(tmp_path / "runs/a.json", "tiny", report, Measurements(), "a")
    basis = {"features": "F", "resize": "R", "fid": "none"}
    write_run(tmp_path / "runs/b.json", "tiny", Report(report.results, {**FACTS, **basis, "data": "D"}), Measurements(), "b")
    write_results(tmp_path / "runs", tmp_path / "results.md", "r")  # one has no distances
    write_run(tmp_path / "runs/a.json", "tiny", Report(report.results, {**FACTS, **basis, "data": "E"}), Measurements(), "a")
    with pytest.raises(TrainingError, match="data or features, so that they cannot share"):
        write_results(tmp_path / "runs", tmp_path / "results.md", "r")
    write_run(tmp_path / "runs/a.json", "tiny", report, Measurements(), "a")
    write_run(tmp_path / "runs/b.json", "tiny", report, Measurements(seed=7), "b")
    with pytest.raises(TrainingError, match="differ in --seed"):
        write_results(tmp_path / "runs", tmp_path / "results.md", "r")
    for name in "bc":
        write_run(tmp_path / f"runs/{name}.json", "tiny", report, Measurements(seed=7), name, "scale")
    write_results(tmp_path / "runs", tmp_path / "results.md", "r")
    assert (tmp_path / "results.md").read_text().count("### Ablation: scale") == 1


def test_of_a_model_measured_twice_the_larger_measurement_stands(tmp_path: Path) -> None:
    """The result takes metrics that it lacks from the others, unless they depend on its N."""
    large = result("student", 4, 0.01)
    small = replace(large, images=10, metrics={**result("student", 4, 0.5).metrics, "path_length": 3.0, "ms_alone": 2.0})
    most = replace(large, images=999, metrics={"psnr_db": 1.0})  # without a KID, which is what rankings rest on
    elsewhere = replace(small, reference="tiny/guided:2", metrics={"path_psnr_db": 9.0})
    for name, one in zip("abcd", (large, small, most, elsewhere), strict=True):
        write_run(tmp_path / f"{name}.json", "tiny", Report([one], FACTS), Measurements(), "command")
    (found,) = merged([read_run(tmp_path / f"{name}.json") for name in "abcd"])
    assert found == replace(large, metrics={**large.metrics, "path_length": 3.0, "ms_alone": 2.0})


def test_a_guided_student_is_shown_with_its_guided_teacher(tmp_path: Path) -> None:
    """The order of reading does not matter, although the main run measures the model too, against the plain teacher."""
    alone = replace(result("student, guided", 16, 0.01, psnr=35.0), reference="tiny/guided:2")
    plain = result("student", 16, 0.01, psnr=40.0)
    write_run(
        tmp_path / "guided.json", "tiny", Report([alone, replace(plain, reference="tiny/guided:2")], FACTS), Measurements(), "g"
    )
    among = replace(alone, reference="tiny/teacher", images=900)
    write_run(tmp_path / "main.json", "tiny", Report([among, plain], FACTS), Measurements(), "m")
    found = merged([read_run(tmp_path / f"{name}.json") for name in ("main", "guided")])
    assert {r.method: r.reference for r in found} == {"student": "tiny/teacher", "student, guided": "tiny/guided:2"}
    assert merged([read_run(tmp_path / f"{name}.json") for name in ("guided", "main")]) == found


def test_reports_from_before_rows_told_their_reference_still_read(tmp_path: Path) -> None:
    write_run(tmp_path / "a.json", "tiny", Report([result("student", 4, 0.01, psnr=30.0)], FACTS), Measurements(), "command")
    data = json.loads((tmp_path / "a.json").read_text())
    del data["rows"][0]["reference"]
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_run(tmp_path / "a.json").results[0].reference == "tiny/teacher"


def test_guided_and_plain_rows_are_not_compared_in_agreement(tmp_path: Path) -> None:
    """Each table has one reference. The verdict on agreement uses only results against the plain teacher."""
    plain = [
        result(name, 16, 0.01, psnr=psnr) for name, psnr in (("student", 40.0), ("DDIM", 30.0), ("DPM-Solver++(2M)", 30.0))
    ]
    guided = [
        replace(result(f"{name}, guided", 16, 0.01, psnr=psnr), reference="tiny/guided:2")
        for name, psnr in (("student", 50.0), ("DDIM", 20.0))
    ]
    write_run(tmp_path / "runs/a.json", "tiny", Report([*plain, *guided], FACTS), Measurements(), "command")
    write_results(tmp_path / "runs", tmp_path / "results.md", "sfddm-train report")
    text = (tmp_path / "results.md").read_text()
    parts = {
        title: text.split(f"### Agreement with {title} by")[1].split("###")[0] for title in ("tiny/teacher", "tiny/guided:2")
    }
    assert "40.0" in parts["tiny/teacher"]
    assert "50.0" not in parts["tiny/teacher"]
    assert "50.0" in parts["tiny/guided:2"]
    assert "reference |" in text  # a column of the whole table, as there are two
    assert find(aims([*plain, *guided]), "At 16, 32").verdict == "holds where measured"
    assert find(aims(guided), "At 16, 32").verdict == "could not be tested"


def test_the_page_holds_every_run(tmp_path: Path) -> None:
    main = [result("student", 8, 0.01, psnr=31.5, training_cost=10), result("DDIM", 8, 0.02, psnr=25.0)]
    main.append(result("progressive distillation", 8, 0.015, training_cost=100))
    main[0].metrics["from_cifar-clean-10_psnr_db"] = 22.5
    write_run(tmp_path / "runs/main.json", "tiny", Report(main, FACTS), Measurements(), "sfddm-train evaluate main")
    part = [result("student", 8, 0.01, k=1), result("student", 8, 0.03, k=8)]
    write_run(tmp_path / "runs/k.json", "tiny", Report(part, FACTS), Measurements(), "sfddm-train evaluate k", "sub-steps k")
    (tmp_path / "runs/notes.md").write_text("## What this says\n\nBy hand.\n")
    write_results(tmp_path / "runs", tmp_path / "results.md", "sfddm-train report")
    text = (tmp_path / "results.md").read_text()
    for wanted in ("### Ablation: sub-steps k", "31.5", "10.00 [", "From noised images (cifar-clean-10)", "22.5",
                   "### Single fold against progressive distillation", "sfddm-train evaluate main", "![Quality"):  # fmt: skip
        assert wanted in text
    assert text.index("By hand.") < text.index("## How to read the tables")
    folds = text.split("### Single fold against progressive distillation")[1].split("###")[0]
    assert [cell.strip() for cell in folds.splitlines()[2].split("|")[1:-1]] == [
        "model", "evaluations", "training evaluations", "KID", "PSNR dB"
    ]  # fmt: skip
    assert (tmp_path / "results-tiny.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "runs/main.json").read_text())["rows"][0]["metrics"]["psnr_db"] == 31.5
