"""The judge of class agreement: a small convolutional classifier, trained on the real training images."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from training import checkpoint
from training.batches import BatchOrder, batches, to_unit
from training.data import ImageSource, held_out_split, open_source
from training.errors import DataError, TrainingError
from training.progress import Progress

EPOCHS = 3
BATCH = 128


def build_classifier(channels: int, classes: int) -> nn.Sequential:
    """Build five 3x3 convolutions, 32 to 128 channels wide, over three resolutions, with global pooling and a linear layer."""
    layers: list[nn.Module] = []
    for width_in, width, pool in ((channels, 32, True), (32, 64, False), (64, 64, True), (64, 128, False), (128, 128, False)):
        layers += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, classes))


class Classifier:
    """A trained judge and its accuracy on real held-out images."""

    def __init__(self, network: nn.Module, accuracy: float) -> None:
        self.network, self.accuracy = network.eval(), accuracy

    @torch.inference_mode()
    def predict(self, images: NDArray[np.uint8], batch: int = 500) -> NDArray[np.int64]:
        """Predict the class of each image: uint8 [N,C,H,W] -> int64 [N]."""
        parts = [self.network(to_unit(torch.from_numpy(images[i : i + batch]))).argmax(1) for i in range(0, len(images), batch)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.int64)


def load_classifier(
    data: str, cache: Path, *, image_size: int, channels: int, classes: int, epochs: int = EPOCHS
) -> Classifier:
    """Return the judge for a labelled data set. It is trained once and cached under `cache`, keyed by the images themselves.

    Its accuracy is measured on images that it was not trained on. Raises DataError when the data have no labels, or another
    number of classes.
    """
    source, test = train_and_test(data, image_size=image_size, channels=channels)
    if source.labels is None or test.labels is None:
        raise DataError(f"{data} has no labels, so class agreement cannot be measured; give labelled --data")
    if len(source.classes) != classes:
        raise DataError(
            f"{data} has {len(source.classes)} classes, the models have {classes}; give the --data they were made from"
        )
    torch.manual_seed(0)
    network = build_classifier(channels, len(source.classes))
    held_out = "" if has_test_split(data) else "-held-out"
    what = f"{source.digest()}-{zlib.crc32(source.labels.tobytes()):08x}"
    path = cache / f"classifier-{source.name.replace('/', '-')}{held_out}-{what}-{image_size}x{channels}-{epochs}.safetensors"
    if path.exists():
        parts, facts = checkpoint.load(path)
        network.load_state_dict(parts["model"])
        return Classifier(network, facts["accuracy"])
    _train(network, source, epochs)
    judge = Classifier(network, 0.0)
    right = sum(
        int((judge.predict(np.stack([test.read(i) for i in part])) == test.labels[part]).sum())
        for part in np.array_split(np.arange(len(test)), -(-len(test) // 1000))
    )
    judge.accuracy = right / len(test)
    try:
        checkpoint.write(path, {"model": network.state_dict()}, {"accuracy": judge.accuracy, "data": data, "epochs": epochs})
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"cannot write {path}: {error}; free some space or choose another --cache") from error
    return judge


def has_test_split(data: str) -> bool:
    """Return True when a data set has its own test images. A folder or zip of images has none."""
    if data.startswith("hf:"):
        return held_out_split(data.removeprefix("hf:")) is not None
    path = Path(data)
    return path.suffix != ".zip" and not (path.is_dir() and not any(path.glob("t10k-images-idx3-ubyte*")))


def train_and_test(data: str, *, image_size: int, channels: int) -> tuple[ImageSource, ImageSource]:
    """Return training and test images: the data set's own splits, else 9/10 and 1/10 of its images by a fixed seed."""
    source = open_source(data, image_size=image_size, channels=channels)
    if has_test_split(data):
        return source, open_source(data, image_size=image_size, channels=channels, split="test")
    order = np.random.default_rng(0).permutation(len(source))
    cut = max(1, len(source) // 10)
    return _part(source, order[cut:]), _part(source, order[:cut])


def _part(source: ImageSource, chosen: NDArray[np.int64]) -> ImageSource:
    labels = None if source.labels is None else source.labels[chosen]
    return replace(source, read=lambda i: source.read(int(chosen[i])), labels=labels, size=len(chosen))


def _train(network: nn.Module, source: ImageSource, epochs: int) -> None:
    steps = max(1, epochs * len(source) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps + 1)
    stream = batches(source, BatchOrder(len(source), BATCH, seed=1))
    network.train()
    with Progress("classifier", steps * BATCH) as progress:
        for _ in range(steps):
            images, label = next(stream)
            loss: Tensor = functional.cross_entropy(network(to_unit(images)), label, label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            progress.advance(BATCH)
            progress.report(loss=float(loss.detach()))
