"""The catalogue: it serves folders that verify, gives the reason when it refuses one, and resolves ids without guessing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import models
from models.catalogue import Catalogue, UnknownModelError, default_zoo, discover, sha256_of, verify
from models.manifest import GRAPH, MANIFEST, ManifestError
from models.plan import SAMPLERS, ddim
from models.subsequence import uniform_phi
from tests.models.folders import TEACHER_STEPS, fields, write_folder


def only_reason(catalogue: Catalogue, folder: Path) -> str:
    """Return the reason of the only refusal, which must be of `folder`."""
    assert [refusal.folder for refusal in catalogue.refusals] == [folder]
    return catalogue.refusals[0].reason


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Write tiny/teacher (100 steps) and tiny/student-016."""
    write_folder(tmp_path, "teacher")
    write_folder(tmp_path, "student-016", steps=16)
    return tmp_path


def test_finds_every_model_folder(zoo: Path) -> None:
    (zoo / "README.md").write_text("not a model")
    (zoo / "tiny" / "notes").mkdir()
    catalogue = discover([zoo])
    assert list(catalogue.entries) == ["tiny/student-016", "tiny/teacher"]
    assert catalogue.refusals == ()
    entry = catalogue.entries["tiny/student-016"]
    assert entry.id == "tiny/student-016"
    assert entry.graph == zoo / "tiny" / "student-016" / GRAPH
    assert entry.graph.read_bytes() == b"graph"


def test_several_zoos(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_folder(other, "teacher", family="mine")
    catalogue = discover([zoo, other])
    assert list(catalogue.entries) == ["tiny/student-016", "tiny/teacher", "mine/teacher"]
    assert catalogue.refusals == ()


def test_the_first_zoo_wins_a_duplicate(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    folder = write_folder(other, "teacher", graph=b"another graph")
    catalogue = discover([zoo, other])
    assert catalogue.entries["tiny/teacher"].folder == zoo / "tiny" / "teacher"
    assert only_reason(catalogue, folder) == f"tiny/teacher is already served from {zoo / 'tiny' / 'teacher'}"


def test_requests_for_one_id_share_its_plan(zoo: Path) -> None:
    catalogue = discover([zoo])
    own = catalogue.resolve("tiny/teacher")
    assert catalogue.resolve("tiny/teacher") is own
    assert catalogue.resolve("tiny/teacher@ddim-7") is catalogue.resolve("tiny/teacher@ddim-007")
    for sampler in SAMPLERS:
        for steps in range(1, TEACHER_STEPS + 1):
            catalogue.resolve(f"tiny/teacher@{sampler}-{steps}")
    assert catalogue.resolve("tiny/teacher") is not own, "those not used for long are built again"
    assert np.array_equal(catalogue.resolve("tiny/teacher").plan.coefficients, own.plan.coefficients)


def test_a_missing_zoo_is_reported_and_the_rest_served(zoo: Path) -> None:
    missing = zoo / "nowhere"
    catalogue = discover([missing, zoo])
    assert len(catalogue.entries) == 2
    assert only_reason(catalogue, missing) == f"the zoo {missing} is not a folder"


def test_no_zoo_at_all() -> None:
    assert discover([]) == Catalogue({}, ())


@pytest.mark.parametrize("damage", [b"grapH", b"graph ", b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_graph_is_refused(zoo: Path, damage: bytes) -> None:
    folder = zoo / "tiny" / "teacher"
    (folder / GRAPH).write_bytes(damage)
    catalogue = discover([zoo])
    assert list(catalogue.entries) == ["tiny/student-016"]
    assert "model.onnx does not match its manifest: sha256 is " in only_reason(catalogue, folder)


@pytest.mark.parametrize(("name", "other"), [(GRAPH, MANIFEST), (MANIFEST, GRAPH)])
def test_half_a_model_folder_is_refused(zoo: Path, name: str, other: str) -> None:
    """A folder without its manifest or without its graph is reported."""
    folder = zoo / "tiny" / "teacher"
    (folder / name).unlink()
    catalogue = discover([zoo])
    assert list(catalogue.entries) == ["tiny/student-016"]
    assert name in only_reason(catalogue, folder)
    assert other not in only_reason(catalogue, folder)


def test_a_graph_that_is_a_folder_is_refused(zoo: Path) -> None:
    folder = zoo / "tiny" / "teacher"
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()
    assert "has no model.onnx" in only_reason(discover([zoo]), folder)


@pytest.mark.parametrize("place", ["tiny/renamed", "other/teacher"])
def test_a_folder_under_another_name_is_refused(zoo: Path, place: str) -> None:
    (zoo / place).parent.mkdir(exist_ok=True)
    (zoo / "tiny" / "teacher").rename(zoo / place)
    reason = only_reason(discover([zoo]), zoo / place)
    assert reason == f"{zoo / place} calls itself tiny/teacher; a model folder is <zoo>/<family>/<name>"


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_unreadable_manifests_are_refused(zoo: Path, text: str) -> None:
    folder = zoo / "tiny" / "teacher"
    (folder / MANIFEST).write_text(text)
    assert "is not a valid manifest" in only_reason(discover([zoo]), folder)


def test_a_manifest_that_is_a_folder_is_refused(zoo: Path) -> None:
    folder = zoo / "tiny" / "teacher"
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    assert "cannot read" in only_reason(discover([zoo]), folder)


@pytest.mark.parametrize("field", ["family", "name"])
def test_a_manifest_cannot_point_elsewhere(zoo: Path, tmp_path_factory: pytest.TempPathFactory, field: str) -> None:
    """A name that leads out of the zoo is refused before any file there is opened."""
    target = write_folder(tmp_path_factory.mktemp("elsewhere"), "teacher")
    folder = zoo / "tiny" / "teacher"
    walk = "/".join([*[".."] * 8, *target.parts[1:]])
    (folder / MANIFEST).write_text(json.dumps(fields(**{field: walk})))
    assert f"{field}: " in only_reason(discover([zoo]), folder)


def test_everything_wrong_at_once_leaves_the_good_model(zoo: Path) -> None:
    for index, text in enumerate(["", "{}", "nonsense"]):
        broken = zoo / "tiny" / f"broken-{index}"
        shutil.copytree(zoo / "tiny" / "teacher", broken)
        (broken / MANIFEST).write_text(text)
    catalogue = discover([zoo])
    assert list(catalogue.entries) == ["tiny/student-016", "tiny/teacher"]
    assert len(catalogue.refusals) == 3


def test_verify_takes_relative_folders(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(zoo / "tiny" / "teacher")
    assert verify(Path()).id == "tiny/teacher"
    monkeypatch.chdir(zoo)
    assert list(discover([Path()]).entries) == ["tiny/student-016", "tiny/teacher"]


def test_verify_raises_for_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read .*manifest\.json"):
        verify(tmp_path)


def test_sha256(tmp_path: Path) -> None:
    """The expected value is from FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_resolve_a_model(zoo: Path) -> None:
    catalogue = discover([zoo])
    resolved = catalogue.resolve("tiny/student-016")
    assert (resolved.id, resolved.sampler) == ("tiny/student-016", "ddim")
    assert resolved.entry is catalogue.entries["tiny/student-016"]
    assert resolved.plan.deterministic
    assert resolved.plan.label.tolist() == list(range(15, -1, -1))
    assert len(catalogue.resolve("tiny/teacher").plan) == TEACHER_STEPS


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "ddpm"])
@pytest.mark.parametrize("steps", [1, 7, 16, TEACHER_STEPS])
def test_resolve_a_variant(zoo: Path, sampler: str, steps: int) -> None:
    """A variant runs the teacher's weights by its sampler, on a uniform sub-sequence of the teacher's own steps."""
    catalogue = discover([zoo])
    resolved = catalogue.resolve(f"tiny/teacher@{sampler}-{steps:03d}")
    teacher = catalogue.entries["tiny/teacher"]
    expected = SAMPLERS[sampler](teacher.manifest.alpha_bar_table, uniform_phi(TEACHER_STEPS, steps))
    assert resolved.id == f"tiny/teacher@{sampler}-{steps:03d}"
    assert resolved.sampler == sampler
    assert resolved.entry is teacher
    np.testing.assert_array_equal(resolved.plan.label, expected.label)
    np.testing.assert_array_equal(resolved.plan.coefficients, expected.coefficients)
    np.testing.assert_array_equal(resolved.plan.s, expected.s)


@pytest.mark.parametrize("written", ["ddim-16", "ddim-016", "ddim-0016", "ddim-000016"])
def test_ids_become_canonical(zoo: Path, written: str) -> None:
    assert discover([zoo]).resolve(f"tiny/teacher@{written}").id == "tiny/teacher@ddim-016"


def test_a_students_plan_is_the_teachers_strided_plan(zoo: Path) -> None:
    """Student and teacher differ in weights and labels, never in coefficients."""
    catalogue = discover([zoo])
    student, strided = catalogue.resolve("tiny/student-016").plan, catalogue.resolve("tiny/teacher@ddim-016").plan
    np.testing.assert_allclose(student.coefficients, strided.coefficients, rtol=1e-12, atol=1e-15)


def test_labels_of_the_manifest_reach_every_plan(tmp_path: Path) -> None:
    """A network with other labels (here shifted) keeps them in its own plan and in its variants."""
    write_folder(tmp_path, "teacher", labels=[t + 7 for t in range(TEACHER_STEPS)])
    catalogue = discover([tmp_path])
    table = catalogue.entries["tiny/teacher"].manifest.alpha_bar_table
    assert catalogue.resolve("tiny/teacher").plan.label.tolist() == [t + 7 for t in reversed(range(TEACHER_STEPS))]
    expected = ddim(table, uniform_phi(TEACHER_STEPS, 16)).label + 7
    assert catalogue.resolve("tiny/teacher@ddim-016").plan.label.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("model_id", "reason"),
    [
        ("tiny/student-017", "'tiny/student-017' does not exist. Models here: tiny/student-016, tiny/teacher."),
        ("", "'' does not exist"),
        ("teacher", "'teacher' does not exist"),
        ("tiny/Teacher", "does not exist"),
        ("tiny/teacher/", "does not exist"),
        ("../tiny/teacher", "does not exist"),
        ("nobody@ddim-016", "'nobody@ddim-016' does not exist"),
        ("tiny/student-016@ddim-008", "'tiny/student-016' is a student; solver variants"),
        ("tiny/teacher@", "'' is no solver variant; write one as @ddim-016, @ddpm-016, @dpmpp-016."),
        ("tiny/teacher@euler-016", "'euler-016' is no solver variant"),
        ("tiny/teacher@ddim", "'ddim' is no solver variant"),
        ("tiny/teacher@ddim-", "'ddim-' is no solver variant"),
        ("tiny/teacher@ddim--16", "is no solver variant"),
        ("tiny/teacher@ddim-1.5", "is no solver variant"),
        ("tiny/teacher@ddim-016\n", "is no solver variant"),
        ("tiny/teacher@ddim-016@ddim-016", "is no solver variant"),
        ("tiny/teacher@ddim-٠١٦", "is no solver variant"),
        ("tiny/teacher@ddim-" + "9" * 5000, "is no solver variant"),
        ("tiny/teacher@ddim-000", "the steps must be between 1 and 100."),
        ("tiny/teacher@ddim-101", "the steps must be between 1 and 100."),
    ],
)
def test_what_does_not_exist_is_never_substituted(zoo: Path, model_id: str, reason: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        discover([zoo]).resolve(model_id)
    assert reason in str(caught.value)


def test_an_empty_catalogue_says_so() -> None:
    with pytest.raises(UnknownModelError, match="Models here: none"):
        Catalogue().resolve("tiny/teacher")


def test_the_default_zoo_is_in_the_package() -> None:
    assert default_zoo() == Path(models.__file__).parent / "zoo"
