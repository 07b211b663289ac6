"""Training images from IDX files, folders, zips of images, or a Hugging Face data set.

Every source is a map-style data set of (uint8 [C,H,W], label) pairs; the label is -1 when there are none. Images are resized
so that the short side fits, cropped to the centre square, and converted to the number of channels asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from training.errors import DataError

UInt8 = NDArray[np.uint8]
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FASHION_MNIST_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_FASHION_MNIST_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"),)


@dataclass(frozen=True)
class ImageSource(Dataset[tuple[UInt8, int]]):
    """Images by index. `read(i)` returns uint8 [C,H,W]; `labels` is int64 [N] or None; `classes` names the labels."""

    name: str
    shape: tuple[int, int, int]
    read: Callable[[int], UInt8]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return self.size

    def digest(self) -> str:
        """Return twelve hex digits of a sha256 over 32 images, drawn with a fixed seed. Caches use them as a name."""
        picked = np.random.default_rng(0).permutation(self.size)[:32]
        return hashlib.sha256(b"".join(self.read(int(i)).tobytes() for i in picked)).hexdigest()[:12]

    def __getitem__(self, index: int) -> tuple[UInt8, int]:
        return self.read(index), -1 if self.labels is None else int(self.labels[index])


def open_source(spec: str, *, image_size: int | None = None, channels: int | None = None, split: str = "train") -> ImageSource:
    """Open the data set that `spec` names.

    - ``fashion-mnist``: the files of Debian's package dataset-fashion-mnist;
    - a folder with IDX files (``train-images-idx3-ubyte[.gz]``), a folder of images (sub-folders are classes),
      or a ``.zip`` of images (its folders are classes);
    - ``hf:owner/name``: a Hugging Face data set with an image column.

    Raises DataError with what to install or download when it cannot be opened.
    """
    if spec == "fashion-mnist":
        for folder in _FASHION_MNIST_FOLDERS:
            if folder.is_dir():
                return _fit(open_idx(folder, split, name=spec, classes=FASHION_MNIST_CLASSES), image_size, channels)
        raise DataError(
            "Fashion-MNIST is not installed: run `apt-get install dataset-fashion-mnist`, pass the folder that holds its "
            "IDX files, or pass hf:zalando-datasets/fashion_mnist to download it from the Hugging Face hub"
        )
    if spec.startswith("hf:"):
        return open_hub(spec.removeprefix("hf:"), split, image_size, channels)
    path = Path(spec)
    if path.is_dir() and any(path.glob("*-images-idx3-ubyte*")):
        return _fit(open_idx(path, split, name=path.name, classes=()), image_size, channels)
    if path.is_dir():
        return open_files(_folder_files(path), path.name, image_size, channels)
    if path.suffix == ".zip" and path.is_file():
        return open_files(_zip_files(path), path.name, image_size, channels)
    raise DataError(f"no data set at {spec!r}: expected fashion-mnist, a folder, a .zip of images, or hf:owner/name")


# IDX ----------------------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes (LeCun's format: magic 0x0000080D, D big-endian sizes, then the bytes).

    Raises DataError when the file is not whole.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}; download the data set again") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an IDX file of bytes; download the data set again")
    dims = data[3]
    if len(data) < 4 + 4 * dims:
        raise DataError(f"{path} is truncated within its header; download the data set again")
    sizes = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
    body = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dims)
    if body.size != int(np.prod(sizes)):
        raise DataError(f"{path} is truncated: {body.size} of {int(np.prod(sizes))} bytes; download the data set again")
    return body.reshape(sizes)


def open_idx(folder: Path, split: str, *, name: str, classes: tuple[str, ...]) -> ImageSource:
    """Open MNIST-style IDX files: `train-` or `t10k-` images and, if present, labels."""
    prefix = "train" if split == "train" else "t10k"
    found = sorted(folder.glob(f"{prefix}-images-idx3-ubyte*"))
    if not found:
        raise DataError(f"{folder} holds no {prefix}-images-idx3-ubyte[.gz]; download the data set again")
    images = read_idx(found[0])[:, None]
    label_files = sorted(folder.glob(f"{prefix}-labels-idx1-ubyte*"))
    labels = read_idx(label_files[0]).astype(np.int64) if label_files else None
    if labels is not None and len(labels) != len(images):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels; download the data set again")
    if labels is not None and not classes:
        classes = tuple(f"class-{i}" for i in range(int(labels.max()) + 1))
    if labels is not None and int(labels.max()) >= len(classes):
        raise DataError(f"{folder}: label {int(labels.max())} is outside the {len(classes)} classes")
    return ImageSource(name, images.shape[1:], lambda i: images[i], labels, classes, len(images))


# Files --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    name: str
    group: str
    load: Callable[[], bytes]


def _folder_files(root: Path) -> list[_File]:
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return [_File(str(p), p.parent.name if p.parent != root else "", p.read_bytes) for p in paths]


def _zip_files(path: Path) -> list[_File]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in IMAGE_SUFFIXES)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a readable zip: {error}; download it again") from error

    opened: dict[int, zipfile.ZipFile] = {}

    def load(name: str) -> bytes:
        worker = torch.utils.data.get_worker_info()  # a zip handle must not be shared between worker processes
        key = -1 if worker is None else worker.id
        if key not in opened:
            opened[key] = zipfile.ZipFile(path)
        return opened[key].read(name)

    return [_File(f"{path}:{n}", Path(n).parent.name, lambda n=n: load(n)) for n in names]  # type: ignore[misc]


def open_files(files: list[_File], name: str, image_size: int | None, channels: int | None) -> ImageSource:
    """Open image files, which are decoded when read. If they lie in two folders or more, each folder is a class."""
    if not files:
        raise DataError(f"{name} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check the path")
    groups = sorted({f.group for f in files})
    labels = np.array([groups.index(f.group) for f in files], dtype=np.int64) if len(groups) > 1 else None
    first = _decode(files[0])
    size = image_size or min(first.size)
    bands = channels or (1 if first.mode in ("L", "1") else 3)

    def read(index: int) -> UInt8:
        return to_square(_decode(files[index]), size, bands)

    return ImageSource(name, (bands, size, size), read, labels, tuple(groups) if labels is not None else (), len(files))


def _decode(file: _File) -> Image.Image:
    """Decode the image of a file. Reduce 16-bit grey to 8 bits. Raises DataError when the image cannot be read."""
    try:
        image = Image.open(io.BytesIO(file.load()))
        image.load()
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{file.name} is not a readable image ({error}); remove or replace it") from error
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"{file.name} has pixels of 32 bits; convert it to 8 or 16 bits")
    return image


def to_square(image: Image.Image, size: int, channels: int) -> UInt8:
    """Resize the short side to `size` (Lanczos), crop the centre square, convert to 1 or 3 channels: uint8 [C,H,W]."""
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.LANCZOS).crop((left, top, left + size, top + size))
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _fit(source: ImageSource, image_size: int | None, channels: int | None) -> ImageSource:
    """Return the same source at another size or channel count."""
    bands, height, width = source.shape
    size, target_bands = image_size or min(height, width), channels or bands
    if (target_bands, size, size) == source.shape:
        return source

    def read(index: int) -> UInt8:
        pixels = source.read(index)
        image = Image.fromarray(pixels[0] if bands == 1 else pixels.transpose(1, 2, 0))
        return to_square(image, size, target_bands)

    return ImageSource(source.name, (target_bands, size, size), read, source.labels, source.classes, source.size)


# Hugging Face -------------------------------------------------------------------------------------------------------


def held_out_split(name: str) -> str | None:
    """Return the held-out split of a Hugging Face data set: `test`, else `validation`; None when it has neither."""
    import datasets

    if _saved_to_disk(name):
        return None  # such a folder holds one split
    try:
        splits = datasets.get_dataset_split_names(name)
    except Exception:  # datasets raises errors of many kinds; opening the data set will report this one
        return None
    return next((split for split in ("test", "validation") if split in splits), None)


def _saved_to_disk(name: str) -> bool:
    return (Path(name) / "dataset_info.json").is_file()


def open_hub(name: str, split: str, image_size: int | None, channels: int | None) -> ImageSource:
    """Open a Hugging Face data set with an image column: an id, or a local `save_to_disk` or parquet folder.

    Raises DataError when it cannot be loaded, has no images, or has a label outside its classes.
    """
    import datasets

    try:
        if _saved_to_disk(name):
            data = datasets.load_from_disk(name)
        else:
            data = datasets.load_dataset(name, split=split if split == "train" else held_out_split(name) or split)
    except Exception as error:
        raise DataError(
            f"cannot load the Hugging Face data set {name!r} ({type(error).__name__}: {str(error).splitlines()[0]}); check the "
            "name and the network, or download it first and pass its folder"
        ) from error
    image_columns = [c for c, f in data.features.items() if isinstance(f, datasets.Image)]
    if not image_columns:
        raise DataError(f"the data set {name!r} has no image column; its columns are {', '.join(data.features)}")
    label_columns = [c for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)]
    labels = np.asarray(data[label_columns[0]], dtype=np.int64) if label_columns else None
    classes = tuple(data.features[label_columns[0]].names) if label_columns else ()
    if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        bad = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise DataError(
            f"the data set {name!r} has the label {bad}, outside its {len(classes)} classes; choose a labelled split"
        )
    if len(data) == 0:
        raise DataError(f"the data set {name!r} is empty; choose another split")
    column = image_columns[0]
    first: Image.Image = data[0][column]
    size = image_size or min(first.size)
    bands = channels or (1 if first.mode in ("L", "1") else 3)

    def read(index: int) -> UInt8:
        return to_square(data[int(index)][column], size, bands)

    return ImageSource(name, (bands, size, size), read, labels, classes, len(data))
