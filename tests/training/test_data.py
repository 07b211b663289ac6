from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import shapes, write_idx
from training import data
from training.batches import BatchOrder, batches
from training.data import open_source, to_square
from training.errors import DataError


def _picture(width: int, height: int, colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def test_idx_files_plain_and_gzipped(idx_folder: Path) -> None:
    source = open_source(str(idx_folder))
    images, labels = shapes(600, 0)
    assert (len(source), source.shape, source.classes) == (600, (1, 8, 8), ("class-0", "class-1", "class-2"))
    pixels, label = source[7]
    assert np.array_equal(pixels, images[7][None])
    assert label == labels[7]
    assert len(open_source(str(idx_folder), split="test")) == 150


def test_idx_resized(idx_folder: Path) -> None:
    source = open_source(str(idx_folder), image_size=16, channels=3)
    assert source.shape == (3, 16, 16)
    assert source[0][0].shape == (3, 16, 16)


@pytest.mark.parametrize("kind", ["truncated", "cut header", "cut gzip", "not idx", "labels differ", "no images"])
def test_damaged_idx(tmp_path: Path, kind: str) -> None:
    images, labels = shapes(10, 0)
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    elif kind == "cut header":
        path.write_bytes(path.read_bytes()[:6])
    elif kind == "cut gzip":
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
        path.unlink()
    elif kind == "not idx":
        path.write_bytes(b"PNG and so on")
    elif kind == "labels differ":
        write_idx(tmp_path / "train-labels-idx1-ubyte", labels[:-1])
    else:
        path.rename(tmp_path / "t10k-images-idx3-ubyte")
    with pytest.raises(DataError, match="again"):
        open_source(str(tmp_path))


def test_folder_of_classes_resized_and_cropped(tmp_path: Path) -> None:
    for name, colour in (("cats", (255, 0, 0)), ("dogs", (0, 255, 0))):
        (tmp_path / name).mkdir()
        for i in range(3):
            _picture(40, 20 + i, colour).save(tmp_path / name / f"{i}.png")
    source = open_source(str(tmp_path), image_size=16)
    assert (len(source), source.shape, source.classes) == (6, (3, 16, 16), ("cats", "dogs"))
    pixels, label = source[5]
    assert label == 1
    assert np.array_equal(pixels.reshape(3, -1).mean(1), [0, 255, 0])


def test_folder_without_classes_and_grey(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("L", (8, 8), i * 50).save(tmp_path / f"{i}.jpg")
    source = open_source(str(tmp_path))
    assert (source.labels, source.classes, source.shape) == (None, (), (1, 8, 8))
    assert source[2][1] == -1


def test_zip_of_images_read_by_worker_processes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            for i in range(4):
                _picture(8, 8, colour).save(tmp_path / "one.png")
                archive.write(tmp_path / "one.png", f"train/{name}/{i}.png")
    source = open_source(str(tmp_path / "pictures.zip"))
    assert (source.classes, source.shape) == (("blue", "red"), (3, 8, 8))
    for workers in (0, 2):
        images, labels = next(batches(source, BatchOrder(len(source), 8, seed=0), workers=workers))
        assert images[labels == 0].float().mean((0, 2, 3)).tolist() == [0, 0, 255]
        assert images[labels == 1].float().mean((0, 2, 3)).tolist() == [255, 0, 0]


def test_hugging_face_data_set_on_disk(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("L", (10, 8), 20 * i) for i in range(4)], "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    source = open_source(f"hf:{tmp_path / 'set'}")
    assert (len(source), source.shape, source.classes) == (4, (1, 8, 8), ("a", "b"))
    pixels, label = source[3]
    assert (int(pixels[0, 0, 0]), label) == (60, 1)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    _picture(8, 8, (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    source = open_source(str(tmp_path))
    with pytest.raises(DataError, match=r"b\.png is not a readable image"):
        source[1]


def test_a_damaged_member_of_a_zip_and_a_huge_image_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        _picture(8, 8, (1, 2, 3)).save(tmp_path / f"{name}.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(tmp_path / name, name)
    damaged = bytearray((tmp_path / "x.zip").read_bytes())
    damaged[damaged.rindex(b"IDAT") + 6] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(damaged)
    with pytest.raises(DataError, match=r"x\.zip:b\.png is not a readable image"):
        open_source(str(tmp_path / "x.zip"))[1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"a\.png is not a readable image"):
        open_source(str(tmp_path))


def test_sixteen_bits_of_grey_become_eight(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    source = open_source(str(tmp_path))
    assert source.shape == (1, 8, 8)
    assert np.array_equal(source[0][0][0], np.rint(ramp / 257).astype(np.uint8))


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.zip"])
def test_missing_says_what_is_expected(spec: str) -> None:
    with pytest.raises(DataError, match="expected fashion-mnist, a folder"):
        open_source(spec)


def test_missing_fashion_mnist_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_FASHION_MNIST_FOLDERS", ())
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        open_source("fashion-mnist")


def test_empty_folder_and_bad_zip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        open_source(str(tmp_path))
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable zip"):
        open_source(str(tmp_path / "x.zip"))


def test_to_square_crops_the_centre() -> None:
    image = Image.fromarray(np.tile(np.repeat([0, 255, 0], 8).astype(np.uint8), (8, 1)))
    assert to_square(image, 8, 1).min() == 255
