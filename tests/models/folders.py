"""Model folders whose graph is a few bytes, because manifest and catalogue never open the graph."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from models.manifest import GRAPH, Manifest, write_manifest
from models.schedule import alpha_bar_table
from models.subsequence import student_alpha_bar, uniform_phi

TEACHER_STEPS = 100


def fields(name: str = "teacher", *, steps: int = TEACHER_STEPS, graph: bytes = b"graph", **changes: Any) -> dict[str, Any]:
    """Return a valid manifest as plain data. `changes` replace or add fields."""
    phi = uniform_phi(TEACHER_STEPS, steps)
    return {
        "manifest_version": 1,
        "family": "tiny",
        "name": name,
        "kind": "teacher" if name.startswith("teacher") else "student",
        "steps": steps,
        "phi": phi.tolist(),
        "alpha_bar": student_alpha_bar(alpha_bar_table("cosine", TEACHER_STEPS), phi).tolist(),
        "labels": list(range(steps)),
        "image": {"channels": 1, "height": 8, "width": 8},
        "classes": ["cat", "dog"],
        "null_label": 2,
        "prediction_type": "v_prediction",
        "clip": [-1.0, 1.0],
        "dtype": "float16",
        "parameters": 1234,
        "provenance": {
            "data": "made up",
            "objective": "diffusion",
            "images": 10,
            "seed": 0,
            "commit": "0" * 40,
            "created": "2025-01-01T00:00:00Z",
        },
        "sha256": hashlib.sha256(graph).hexdigest(),
    } | changes


def write_folder(zoo: Path, name: str = "teacher", *, graph: bytes = b"graph", **changes: Any) -> Path:
    """Write <zoo>/<family>/<name> from fields() and return it."""
    manifest = Manifest.model_validate(fields(name, graph=graph, **changes))
    folder = zoo / manifest.family / manifest.name
    folder.mkdir(parents=True)
    (folder / GRAPH).write_bytes(graph)
    write_manifest(folder, manifest)
    return folder
