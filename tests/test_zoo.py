"""The shipped models: all of them load, are what they should be, and keep their bars."""

from __future__ import annotations

import numpy as np
import pytest

from models.catalogue import Catalogue, default_zoo, discover
from training.data import FASHION_MNIST_CLASSES

STEPS = {"teacher": 1024, "student-004": 4, "student-008": 8, "student-016": 16, "student-032": 32, "student-064": 64,
         "student-128": 128}  # fmt: skip


@pytest.fixture(scope="module")
def zoo() -> Catalogue:
    return discover([default_zoo()])


def test_every_folder_is_trusted_and_complete(zoo: Catalogue) -> None:
    assert zoo.refusals == ()
    assert {entry.manifest.name: entry.manifest.steps for entry in zoo.entries.values()} == STEPS
    for entry in zoo.entries.values():
        manifest = entry.manifest
        assert tuple(manifest.classes) == FASHION_MNIST_CLASSES
        assert (manifest.image.chw, manifest.dtype, manifest.null_label) == ((1, 28, 28), "float16", 10)
        assert manifest.phi[-1] == 1024
        assert (entry.folder / "README.md").is_file()


def test_sizes(zoo: Catalogue) -> None:
    sizes = [entry.graph.stat().st_size for entry in zoo.entries.values()]
    assert max(sizes) <= 7_000_000
    assert sum(sizes) <= 50_000_000


def test_students_come_from_the_shipped_teacher(zoo: Catalogue) -> None:
    teacher = zoo.entries["fashion-mnist/teacher"].manifest
    for entry in zoo.entries.values():
        if entry.manifest.kind == "student":
            assert entry.manifest.provenance.teacher_sha256 == teacher.sha256
            assert entry.manifest.provenance.objective == "rollout"
            assert np.allclose(entry.manifest.alpha_bar, [teacher.alpha_bar[t] for t in entry.manifest.phi])


def test_measured_quality_is_recorded(zoo: Catalogue) -> None:
    for entry in zoo.entries.values():
        own = entry.manifest.quality[f"ddim-{entry.manifest.steps:03d}"]
        assert own.metrics["class_agreement"] >= 0.85
        assert entry.manifest.ranking is not None
        assert entry.manifest.ranking.metric in own.metrics
