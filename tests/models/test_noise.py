"""Noise depends on all of (seed, index, step), and on nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.noise import MAX_SEED, initial_noise, slerp, step_noise

SHAPE = (3, 32, 32)
seeds = st.integers(0, MAX_SEED)
indices = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("seed", "index", "expected"),
    [
        (0, 0, [0.059911035001277924, 0.015559634193778038, -1.1644384860992432, -0.13264712691307068]),
        (MAX_SEED, 3, [0.632381796836853, -0.6061885952949524, 0.9250133633613586, 1.217125415802002]),
    ],
)
def test_initial_noise_has_known_values(seed: int, index: int, expected: list[float]) -> None:
    """Clients rely on seeds. If a numpy release changes these values, images change, and this test fails."""
    np.testing.assert_array_equal(initial_noise(seed, index, (1, 2, 2)).ravel(), np.float32(expected))


def test_step_noise_has_known_values() -> None:
    expected = [-0.7269567251205444, -0.7818339467048645, 0.6707907319068909, 1.3744615316390991]
    np.testing.assert_array_equal(step_noise(42, 1, 0, (4,)), np.float32(expected))


@given(seeds, indices)
def test_same_key_same_noise(seed: int, index: int) -> None:
    first, again = initial_noise(seed, index, SHAPE), initial_noise(seed, index, SHAPE)
    assert first.dtype == np.float32
    assert first.shape == SHAPE
    np.testing.assert_array_equal(first, again)


def test_what_was_drawn_before_does_not_matter() -> None:
    alone = step_noise(5, 6, 7, SHAPE)
    for other in range(20):
        initial_noise(other, 6, SHAPE)
        step_noise(5, other, 7, SHAPE)
    np.testing.assert_array_equal(step_noise(5, 6, 7, SHAPE), alone)


@given(seeds, seeds, indices, indices)
def test_another_seed_or_index_is_another_noise(seed: int, other_seed: int, index: int, other_index: int) -> None:
    same = np.array_equal(initial_noise(seed, index, (16,)), initial_noise(other_seed, other_index, (16,)))
    assert same == ((seed, index) == (other_seed, other_index))


def test_seed_and_index_are_not_interchangeable() -> None:
    assert not np.array_equal(initial_noise(1, 2, (16,)), initial_noise(2, 1, (16,)))


def test_neighbouring_seeds_at_the_far_end_differ() -> None:
    """Seeds are never floats, which would round at 2^53."""
    assert not np.array_equal(initial_noise(MAX_SEED, 0, (16,)), initial_noise(MAX_SEED - 1, 0, (16,)))


def test_streams_do_not_overlap_or_correlate() -> None:
    """The noises of neighbouring keys share no run of values, and their correlations are no larger than chance."""
    keys = list(itertools.product((0, 1, MAX_SEED), (0, 1), range(3)))
    streams = [initial_noise(s, i, (4096,)) if step == 0 else step_noise(s, i, step - 1, (4096,)) for s, i, step in keys]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 5 / np.sqrt(4096)
    shared = [len(np.intersect1d(a, b)) for a, b in itertools.combinations(streams, 2)]
    assert max(shared) < 20  # float32 normals coincide by chance now and then; an overlap would share thousands


def test_moments_are_those_of_the_standard_normal() -> None:
    """Over 786,432 draws the standard errors are about 1.1e-3 (mean), 1.6e-3 (variance), 2.8e-3 (skew), 5.5e-3 (kurtosis)."""
    z = np.stack([initial_noise(seed, index, SHAPE) for seed in range(16) for index in range(16)]).astype(np.float64)
    assert abs(z.mean()) < 5e-3
    assert abs(z.var() - 1) < 8e-3
    assert abs((z**3).mean()) < 1.5e-2
    assert abs((z**4).mean() - 3) < 6e-2


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_outside_the_range_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed must be between 0 and {MAX_SEED}, got {seed}"):
        initial_noise(seed, 0, SHAPE)


def test_negative_index_and_row_are_refused() -> None:
    with pytest.raises(ValueError, match="index must be between 0"):
        initial_noise(0, -1, SHAPE)
    with pytest.raises(ValueError, match="row must not be negative, got -1"):
        step_noise(0, 0, -1, SHAPE)


@given(seeds, seeds, st.floats(0, 1))
def test_slerp_stays_on_the_sphere(seed: int, other: int, fraction: float) -> None:
    """Song et al. 2021, eq. 67: a point between two noises has their length and the right angle to each."""
    a, b = initial_noise(seed, 0, SHAPE), initial_noise(other, 0, SHAPE)
    between = slerp(a, b, fraction)
    assert between.dtype == np.float32
    lengths = [np.linalg.norm(a), np.linalg.norm(b)]
    assert min(lengths) * 0.999 <= np.linalg.norm(between) <= max(lengths) * 1.001


def test_slerp_is_exact_at_its_ends_and_symmetric() -> None:
    a, b = initial_noise(1, 0, SHAPE), initial_noise(2, 0, SHAPE)
    assert slerp(a, b, 0).tobytes() == a.tobytes()
    assert slerp(a, b, 1).tobytes() == b.tobytes()
    assert slerp(a, a, 0.3).tobytes() == a.tobytes()
    np.testing.assert_allclose(slerp(a, b, 0.25), slerp(b, a, 0.75), atol=1e-6)
    with pytest.raises(ValueError, match="fraction"):
        slerp(a, b, 1.5)
