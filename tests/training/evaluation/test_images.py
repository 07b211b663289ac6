from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.catalogue import discover
from models.pictures import to_uint8
from models.plan import dpmpp_2m
from models.runtime.denoise import denoise
from training.errors import TrainingError
from training.evaluation import images
from training.evaluation.candidates import Candidate
from training.evaluation.family import Family
from training.evaluation.images import CHUNK, ImageCache, NoisedStarts, NoiseStarts
from training.evaluation.paths import PathStarts


@pytest.fixture
def candidate(tiny_zoo: Path) -> Candidate:
    return Family(tiny_zoo, "tiny").candidate("student-004")


def test_what_was_computed_is_not_computed_again(candidate: Candidate, tmp_path: Path) -> None:
    cache, starts = ImageCache(tmp_path), NoiseStarts(0)
    whole = cache.first(candidate, starts, 2 * CHUNK + 10)
    assert whole.shape == (2 * CHUNK + 10, 1, 8, 8)
    folder = cache.folder(candidate, starts)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / f"{CHUNK:06d}.npy").unlink()  # as after a stopped run
    assert np.array_equal(ImageCache(tmp_path).first(candidate, starts, len(whole)), whole)
    changed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {f"{CHUNK:06d}.npy"}


def test_a_short_chunk_is_completed_and_a_long_one_cut(candidate: Candidate, tmp_path: Path) -> None:
    cache, starts = ImageCache(tmp_path), NoiseStarts(0)
    few = cache.first(candidate, starts, 5)
    more = cache.first(candidate, starts, 8)
    assert np.array_equal(more[:5], few)
    assert np.array_equal(cache.first(candidate, starts, 3), few[:3])


def test_a_part_is_what_the_whole_has_there(candidate: Candidate, tmp_path: Path) -> None:
    """A later request for all images takes this part from the cache."""
    cache, starts = ImageCache(tmp_path / "parts"), NoiseStarts(0)
    part = np.concatenate(list(cache.chunks(candidate, starts, CHUNK + 7, CHUNK)))
    folder = cache.folder(candidate, starts)
    assert {path.name for path in folder.iterdir()} == {f"{CHUNK:06d}.npy", f"{2 * CHUNK:06d}.npy"}
    whole = ImageCache(tmp_path / "whole").first(candidate, starts, 2 * CHUNK + 7)
    assert np.array_equal(part, whole[CHUNK:])
    kept = (folder / f"{CHUNK:06d}.npy").stat().st_mtime_ns
    assert np.array_equal(cache.first(candidate, starts, len(whole)), whole)
    assert (folder / f"{CHUNK:06d}.npy").stat().st_mtime_ns == kept


@pytest.mark.parametrize("left", [0, 60, 200])
def test_a_damaged_chunk_is_computed_again(candidate: Candidate, tmp_path: Path, left: int) -> None:
    """A power cut may leave a chunk empty, cut in its header or cut in its images."""
    cache, starts = ImageCache(tmp_path), NoiseStarts(0)
    whole = cache.first(candidate, starts, 8)
    path = cache.folder(candidate, starts) / "000000.npy"
    path.write_bytes(path.read_bytes()[:left])
    assert np.array_equal(cache.first(candidate, starts, 8), whole)


def test_images_come_in_chunks(candidate: Candidate, tmp_path: Path) -> None:
    sizes = [len(part) for part in ImageCache(tmp_path).chunks(candidate, NoiseStarts(1), CHUNK + 1)]
    assert sizes == [CHUNK, 1]


def test_a_full_disk_is_one_sentence_and_leaves_no_half_chunk(
    candidate: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, array: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    cache, starts = ImageCache(tmp_path), NoiseStarts(0)
    monkeypatch.setattr(images.np, "save", full)
    with pytest.raises(TrainingError, match=r"No space left.*choose another --cache"):
        cache.first(candidate, starts, 2)
    assert not any(cache.folder(candidate, starts).iterdir())
    shutil.rmtree(tmp_path)


def test_noised_starts_are_the_forward_process(candidate: Candidate, tmp_path: Path) -> None:
    """The start is sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps at a kept teacher step, before the step that starts there."""
    x0 = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8)).astype(np.uint8)
    start = NoisedStarts("x", x0, np.array([2, 2, 1, 0]), 16, seed=5).at(candidate, range(1, 3))
    assert start.first_step == 2  # of steps at 32, 24, 16, 8
    noise = NoiseStarts(5).at(candidate, range(1, 3)).x
    alpha_bar = candidate.plan.coefficients[2, 0] ** 2
    expected = np.sqrt(alpha_bar) * (x0[1:3] / 127.5 - 1) + np.sqrt(1 - alpha_bar) * noise
    np.testing.assert_allclose(start.x, expected, atol=1e-5)
    assert start.label is not None
    assert start.label.tolist() == [2, 1]


def test_almost_clean_starts_come_back_as_they_were(tiny_zoo: Path, tmp_path: Path) -> None:
    """At teacher step 1 there is hardly any noise, so even an untrained network returns almost the given images."""
    teacher = Family(tiny_zoo, "tiny").candidate("teacher")
    x0 = np.random.default_rng(1).integers(60, 190, (3, 1, 8, 8)).astype(np.uint8)
    back = ImageCache(tmp_path).first(teacher, NoisedStarts("x", x0, None, 1, seed=0), 3)
    assert np.abs(back.astype(int) - x0).mean() < 12


def test_a_multistep_plan_starts_anew_from_a_noised_image(tiny_zoo: Path, tmp_path: Path) -> None:
    """The images are those of DPM-Solver++ on the remaining steps, whose first step is of first order."""
    teacher = Family(tiny_zoo, "tiny").candidate("teacher@dpmpp-008")
    starts = NoisedStarts("x", np.full((2, 1, 8, 8), 90, dtype=np.uint8), None, int(teacher.phi[5]), seed=0)
    alpha_bar = discover([tiny_zoo]).entries["tiny/teacher"].manifest.alpha_bar_table
    left = dpmpp_2m(alpha_bar[: starts.step + 1], teacher.phi[:6])
    start = starts.at(teacher, range(2))
    assert (start.first_step, len(left)) == (3, 5)
    anew = denoise(teacher.load(), left, start.x, keys=start.keys, class_label=start.label)
    assert np.array_equal(ImageCache(tmp_path).first(teacher, starts, 2), to_uint8(anew))


def test_a_step_that_is_not_kept_is_refused(candidate: Candidate) -> None:
    starts = NoisedStarts("x", np.zeros((1, 1, 8, 8), dtype=np.uint8), None, 15, seed=0)
    with pytest.raises(TrainingError, match="cannot start at teacher step 15"):
        starts.at(candidate, range(1))


def test_path_ends_are_the_images_of_their_seeds(candidate: Candidate, tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    frames = cache.first(candidate, PathStarts(0, 5), 10)
    noise = NoiseStarts(0).at(candidate, range(4))
    start = PathStarts(0, 5).at(candidate, range(10))
    np.testing.assert_allclose(start.x[[0, 4, 5, 9]], noise.x, atol=1e-6)
    assert start.label is not None
    assert start.label.tolist() == [0] * 5 + [1] * 5
    assert len(np.unique(frames, axis=0)) == 10
