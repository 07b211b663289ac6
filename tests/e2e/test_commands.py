"""The sfddm command as a process, without `serve`."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version
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
    for text in ("tiny/teacher", "tiny/student-004", "plain/teacher", "8x8", "KID 30"):
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
        (("-n", "0"), "n:"),
        (("-n", "many"), "'-n'"),
        (("--sead", "1"), "--sead"),
        (("--url", "http://127.0.0.1:1"), "Cannot reach"),
        (("--url", "foo"), "write http://host:port"),
        (("--url", "localhost:8000"), "write http://host:port"),
        (("--out", "picture.bmp"), ".png"),
        (("--out", "missing/picture.png"), "does not exist"),
    ],
)
def test_mistakes_are_one_sentence(tiny_zoo: Path, arguments: tuple[str, ...], says: str) -> None:
    result = sfddm("generate", "--zoo", str(tiny_zoo), *arguments, SFDDM_DEFAULT_MODEL="tiny/teacher")
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert says in result.stderr


def test_a_server_gives_the_same_image(tiny_zoo: Path, tmp_path: Path, server: Server) -> None:
    for name, where in (("here", ("--zoo", str(tiny_zoo))), ("there", ("--url", server.url))):
        out = tmp_path / f"{name}.png"
        options = ("--model", "tiny/student-008", "--seed", "4", "-n", "3", "--scale", "2", "--out", str(out))
        result = sfddm("generate", "dog", *where, *options)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()
    refused = sfddm("generate", "a unicorn", "--url", server.url, "--out", str(tmp_path / "x.png"))
    assert refused.returncode == 1
    assert "names no class" in refused.stderr
    listed = sfddm("models", "--url", f"{server.url}/v1/", COLUMNS="80")  # as OpenAI's clients are told
    assert all(text in listed.stdout for text in ("tiny/teacher", "KID 30", " ms"))
    assert "…" not in listed.stdout


@pytest.mark.parametrize(("remote", "rounds"), [(False, 6), (True, 1)])
def test_compare_writes_a_table_a_grid_and_a_report(
    tiny_zoo: Path, tmp_path: Path, server: Server, remote: bool, rounds: int
) -> None:
    png, html = tmp_path / "grid.png", tmp_path / "report.html"
    where = ("--url", server.url) if remote else ("--zoo", str(tiny_zoo))
    models = ("tiny/student-004", "tiny/teacher", "tiny/teacher@dpmpp-004")
    options = ("--seed", "4", "-n", "2", "--repeats", str(rounds), "--png", str(png), "--html", str(html))
    result = sfddm("compare", *models, *where, *options)
    assert result.returncode == 0, result.stderr
    assert all(text in result.stdout for text in (*models, "reference", "PSNR", str(png), str(html)))
    assert _pixels(png, "L").shape == (28, 18)  # three rows of two images of 8, 2 white pixels apart
    page = html.read_text()
    assert all(model in page for model in models)
    assert page.count("data:image/png;base64,") == 6
    assert page.count("<circle") == 3 * rounds
    for text in (result.stderr, page):  # one measurement has no interval, and both say so
        assert ("too few for an interval" in text) == (rounds == 1)
    assert bool(re.search(r"\d\.\d+x \(\d+\.\d+-\d+\.\d+\)", result.stdout)) == (rounds == 6)
    assert "http" not in page.replace("http-equiv", "")
    mistake = sfddm("compare", models[0], *where)
    assert mistake.returncode == 1
    assert mistake.stderr.startswith("Error: models:")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("compare",), "Missing argument 'MODEL...'"),
        (("generate", "-n", "many"), "Invalid value for '-n'"),
        (("comparison",), "No such command 'comparison'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = sfddm(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


def test_help_names_the_commands() -> None:
    result = sfddm("--help")
    assert result.returncode == 0
    assert "Usage: sfddm" in result.stdout
    for command in ("serve", "generate", "compare", "models", "reload", "config"):
        assert command in result.stdout


def test_the_version() -> None:
    result = sfddm("--version")
    assert (result.returncode, result.stdout) == (0, f"sfddm {version('sfddm-serve')}\n")
