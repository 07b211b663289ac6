from __future__ import annotations

import numpy as np
import pytest

from models.noise import slerp
from training.evaluation.paths import smoothness


def test_slerp_keeps_the_norm_of_equally_long_ends() -> None:
    random = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v) for v in random.standard_normal((2, 50)).astype(np.float32))
    for share in (0.0, 0.3, 0.5, 1.0):
        assert np.linalg.norm(slerp(a, b, share)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(slerp(a, b, 0.5), (a + b) / np.linalg.norm(a + b), atol=1e-5)


def test_slerp_of_equal_ends_is_that_end() -> None:
    a = np.ones(4, dtype=np.float32)
    np.testing.assert_allclose(slerp(a, a, 0.4), a)


def test_an_even_path_and_a_jump() -> None:
    """Two paths of five frames along a line of length 4: one in even steps, one in a single jump."""
    even = np.arange(5, dtype=np.float32)[:, None]
    jump = np.array([0, 0, 4, 4, 4], dtype=np.float32)[:, None]
    assert smoothness(even, 5) == pytest.approx({"path_length": 16, "path_max_step": 1})
    assert smoothness(jump, 5) == pytest.approx({"path_length": 64, "path_max_step": 4})
    both = smoothness(np.concatenate([even, jump]), 5)
    assert both == pytest.approx({"path_length": 40, "path_max_step": 2.5})
