"""The manifest: its values come back from the disk unchanged, and each refusal is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.manifest import MANIFEST, Manifest, ManifestError, read_manifest, write_manifest
from tests.models.folders import fields


def read(folder: Path, content: object) -> Manifest:
    """Put content into manifest.json, as JSON unless it is bytes already, and read it."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / MANIFEST).write_bytes(data)
    return read_manifest(folder)


def refusal(folder: Path, content: object) -> str:
    with pytest.raises(ManifestError) as caught:
        read(folder, content)
    return str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(
        fields(
            "student-016",
            steps=16,
            classes=["Köln", "東京"],
            quality={"ddim-016": {"images": 200, "metrics": {"psnr_db": 39.4}, "command": "sfddm-train evaluate"}},
            ranking={"metric": "psnr_db", "better": "higher"},
        )
    )
    write_manifest(tmp_path, manifest)
    again = read_manifest(tmp_path)
    assert again == manifest
    assert again.id == "tiny/student-016"
    assert "東京" in (tmp_path / MANIFEST).read_text(encoding="utf-8")


def test_tables_keep_every_bit(tmp_path: Path) -> None:
    """alpha_bar is float64 on disk too: the served plan is the trained one."""
    given = fields()
    manifest = read(tmp_path, given)
    np.testing.assert_array_equal(manifest.alpha_bar_table, np.array(given["alpha_bar"]))
    assert manifest.alpha_bar_table.dtype == np.float64
    assert manifest.label_table.dtype == np.int64
    assert manifest.label_table.tolist() == given["labels"]
    assert manifest.image.chw == (1, 8, 8)


def test_a_manifest_cannot_be_changed() -> None:
    manifest = Manifest.model_validate(fields())
    with pytest.raises(ValidationError, match="frozen"):
        manifest.steps = 5  # type: ignore[misc]


@pytest.mark.parametrize("clip", [None, [0.0, 1.0]])
def test_other_clip_ranges(tmp_path: Path, clip: list[float] | None) -> None:
    assert read(tmp_path, fields(clip=clip)).clip == (None if clip is None else tuple(clip))


def test_unconditional(tmp_path: Path) -> None:
    manifest = read(tmp_path, fields(classes=[], null_label=None))
    assert manifest.classes == []
    assert manifest.null_label is None


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps: "),
    ({"phi": list(range(100))}, "phi must hold steps + 1 = 101 strictly increasing entries"),
    ({"phi": [*range(100), 99]}, "phi must hold steps + 1 = 101 strictly increasing entries"),
    ({"phi": list(range(1, 102))}, "start at 0"),
    ({"phi": [*range(100), 200]}, "phi of a teacher must keep all of its steps"),
    ({"phi": [*range(100), 10**30]}, "phi.100: "),
    ({"alpha_bar": [1.0, 0.5]}, "alpha_bar must hold steps + 1 = 101 entries that start at 1"),
    ({"alpha_bar": np.linspace(0.9, 0.1, 101).tolist()}, "start at 1"),
    ({"alpha_bar": [1.0] * 101}, "alpha_bar must be strictly decreasing and positive"),
    ({"alpha_bar": np.linspace(1, 0, 101).tolist()}, "alpha_bar must be strictly decreasing and positive"),
    ({"labels": list(range(99))}, "labels must hold steps = 100 entries"),
    ({"labels": [-1, *range(99)]}, "labels.0: "),
    ({"labels": [2**31, *range(99)]}, "labels.0: "),
    ({"null_label": 1}, "null_label must lie beyond the classes"),
    ({"classes": []}, "null_label needs classes"),
    ({"classes": ["cat", "cat"]}, "classes must be distinct"),
    ({"clip": [1.0, -1.0]}, "clip must be a range [low, high]"),
    ({"clip": [1.0]}, "clip"),
    ({"kind": "cousin"}, "kind: must be 'teacher' or 'student', got"),
    ({"prediction_type": "sample"}, "prediction_type: "),
    ({"dtype": "bfloat16"}, "dtype: "),
    ({"image": {"channels": 0, "height": 8, "width": 8}}, "image.channels: "),
    ({"image": {"channels": 1, "height": 8, "width": 10**6}}, "image.width: "),
    ({"parameters": 0}, "parameters: "),
    ({"sha256": "AB" * 32}, "sha256: "),
    ({"sha256": "ab"}, "sha256: "),
    ({"provenance": {}}, "provenance.data: is missing"),
    ({"quality": {"ddim-016": {"images": 0, "metrics": {}, "command": ""}}}, "quality.ddim-016.images: "),
    ({"ranking": {"metric": "kid", "better": "brighter"}}, "ranking.better: "),
]


@pytest.mark.parametrize(
    ("change", "reason"), BROKEN, ids=[f"{next(iter(change))}-{i}" for i, (change, _) in enumerate(BROKEN)]
)
def test_broken_fields_are_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    message = refusal(tmp_path, fields() | change)
    assert message.startswith(f"{tmp_path / MANIFEST} is not a valid manifest: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("field", sorted(fields().keys() - {"manifest_version", "classes", "null_label", "clip"}))
def test_missing_fields_are_named(tmp_path: Path, field: str) -> None:
    given = fields()
    del given[field]
    assert f"{field}: is missing" in refusal(tmp_path, given)


@pytest.mark.parametrize("place", [(), ("image",), ("provenance",)])
def test_unknown_fields_are_refused_by_name(tmp_path: Path, place: tuple[str, ...]) -> None:
    given = fields()
    target = given
    for key in place:
        target = target[key]
    target["flavour"] = "vanilla"
    assert f"{'.'.join([*place, 'flavour'])}: is unknown; leave it out" in refusal(tmp_path, given)


@pytest.mark.parametrize("version", [2, 0, "2", None, "1"])
def test_unknown_version_says_what_to_do(tmp_path: Path, version: object) -> None:
    """The error names the version alone, although a newer manifest has new fields too."""
    message = refusal(tmp_path, fields(manifest_version=version, flavour="vanilla"))
    assert f"manifest_version {version!r} is not the version 1 that this program reads" in message
    assert "export it again" in message
    assert "flavour" not in message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("field", ["alpha_bar", "clip", "metric"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, field: str, number: str) -> None:
    given = fields(quality={"ddim-100": {"images": 1, "metrics": {"kid": 0.125}, "command": "x"}})
    if field == "metric":
        text = json.dumps(given).replace("0.125", number)
    else:
        text = json.dumps(given | {field: [*given[field][:-1], 0.125]}).replace("0.125", number)
    assert "finite number" in refusal(tmp_path, text.encode())


@pytest.mark.parametrize("field", ["family", "name"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../evil",
        "a/b",
        "/etc",
        "a\\b",
        ".hidden",
        "-flag",
        "Upper",
        "a b",
        "a@ddim-016",
        "a\n",
        "a\0b",
        "é",
        "x" * 65,
    ],
)
def test_names_cannot_leave_their_folder(tmp_path: Path, field: str, value: str) -> None:
    assert f"{field}: " in refusal(tmp_path, fields(**{field: value}))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 10_000], ids=["empty", "cut", "bytes", "list", "null", "deep"]
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "is not a valid manifest" in refusal(tmp_path, content)


def test_a_wholly_wrong_table_is_told_briefly(tmp_path: Path) -> None:
    message = refusal(tmp_path, fields(labels=["x"] * 100))
    assert message.endswith("; and 97 more")
    assert len(message) < 1000


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read .*manifest\.json: No such file"):
        read_manifest(tmp_path)
