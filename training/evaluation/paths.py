"""Interpolation: images along the spherical path between two noises, and the smoothness of that path.

Frame f of F on path p starts from slerp(z_a, z_b; f/(F - 1)) (models.noise), where z_a and z_b are the noises of (seed, 2p)
and (seed, 2p + 1). All frames of a path have one class, so that only the noise changes along it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.noise import initial_noise, slerp
from models.runtime.base import Float32
from models.schedule import Float64
from training.evaluation.candidates import Candidate
from training.evaluation.images import Start, labels_for


@dataclass(frozen=True)
class PathStarts:
    """Starts on paths: image number p F + f is frame f of path p."""

    seed: int
    frames: int

    @property
    def key(self) -> str:
        return f"paths{self.frames}-seed{self.seed}"

    def at(self, candidate: Candidate, numbers: range) -> Start:
        """Return the starting points of these images."""
        paths = np.asarray(numbers) // self.frames
        x = np.stack([self._noise(candidate.shape, *divmod(number, self.frames)) for number in numbers])
        # All frames of a path have one key, so that a stochastic plan draws the same fresh noise for them.
        return Start(x, [(self.seed, 2 * int(path)) for path in paths], labels_for(paths, candidate.classes))

    def _noise(self, shape: tuple[int, int, int], path: int, frame: int) -> Float32:
        a, b = (initial_noise(self.seed, 2 * path + end, shape) for end in (0, 1))
        return slerp(a, b, frame / (self.frames - 1))


def smoothness(features: Float32, frames: int) -> dict[str, float]:
    """Measure the smoothness of P paths from the features v [P F, D] of their F frames.

    With d_f = |v_{f+1} - v_f|:

    path_length    (F - 1)^2 mean of d^2: the perceptual path length of Karras et al. 2019 (arXiv 1812.04948, section 4.1) with
                   steps of 1/(F - 1) of the path, because 8-bit images cannot resolve the paper's 1e-4, and with our features
                   in place of VGG's
    path_max_step  mean over paths of max d / mean d: 1 is perfectly even, F - 1 is a single jump
    """
    points = features.astype(np.float64).reshape(-1, frames, features.shape[1])
    steps: Float64 = np.linalg.norm(np.diff(points, axis=1), axis=2)
    mean = np.maximum(steps.mean(axis=1), np.finfo(np.float64).tiny)
    return {
        "path_length": float((steps**2).mean() * (frames - 1) ** 2),
        "path_max_step": float((steps.max(axis=1) / mean).mean()),
    }
