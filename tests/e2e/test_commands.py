"""`sfddm generate` and `sfddm models` as processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Server, sfddm


def test_models_lists_what_is_trusted_and_why_the_rest_is_not(tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(tiny_zoo, zoo)
    (zoo / "tiny" / "student-008" / "model.onnx").write_bytes(b"broken")
    result = sfddm("models", "--zoo", str(zoo))
    assert result.returncode == 0
    for text in ("tiny/teacher", "tiny/student-004", "plain/teacher", "8x8", "kid 0.03"):
        assert text in result.stdout
    assert "tiny/student-008" not in result.stdout
    assert "Refused: " in result.stderr
    assert "sha256" in result.stderr


def test_generate_writes_the_image_that_the_server_gives(tiny_zoo: Path, tmp_path: Path, server: Server) -> None:
    out = tmp_path / "dog.png"
    result = sfddm("generate", "dog", "--zoo", str(tiny_zoo), "--model", "tiny/student-008", "--seed", "4", "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(out)
    assert "seed 4" in result.stderr
    served = _served(server, {"prompt": "dog", "seed": 4, "model": "tiny/student-008"})
    assert out.read_bytes() == served


def _served(server: Server, body: dict[str, object]) -> bytes:
    response = httpx.post(f"{server.url}/v1/images/generations", json=body, headers={"accept": "image/png"})
    assert response.status_code == 200
    return response.content


def test_generate_writes_a_grid_or_single_files(tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), "--model", "tiny/teacher@dpmpp-004", "--seed", "1", "-n", "3")
    assert sfddm("generate", *options, "--out", str(tmp_path)).returncode == 0
    singles = [tmp_path / f"tiny-teacher@dpmpp-004-1-{index}.png" for index in range(3)]
    first = _pixels(singles[0], "L")
    assert [_pixels(path, "L").shape for path in singles] == [(8, 8)] * 3

    sheet = tmp_path / "sheet.webp"
    assert sfddm("generate", *options, "--scale", "2", "--out", str(sheet)).returncode == 0
    pixels = _pixels(sheet, "L")
    assert pixels.shape == (36, 36)  # two by two images of 8, 2 white pixels apart, twice as large
    assert np.array_equal(pixels[:16, :16], first.repeat(2, 0).repeat(2, 1))
    assert (pixels[16:20] == 255).all()


def _pixels(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a unicorn",), "names no class"),
        (("--label", "9"), "labels 0 to 2"),
        (("--model", "tiny/none"), "does not exist"),
        (("--seed", "-1"), "seed"),
        (("--out", "picture.bmp"), ".png"),
        (("--out", "missing/picture.png"), "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(tiny_zoo: Path, arguments: tuple[str, ...], says: str) -> None:
    result = sfddm("generate", "--zoo", str(tiny_zoo), *arguments, SFDDM_DEFAULT_MODEL="tiny/teacher")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert says in result.stderr


def test_help_names_the_commands() -> None:
    result = sfddm("--help")
    assert result.returncode == 0
    assert "Usage: sfddm" in result.stdout
    for command in ("serve", "generate", "models"):
        assert command in result.stdout
