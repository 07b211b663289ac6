from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from training.errors import DataError
from training.evaluation.classifier import has_test_split, load_classifier, train_and_test


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write sixty pictures of noise with random classes. A classifier can only learn them by heart."""
    random = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "pictures" / ("a", "b")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8)).astype(np.uint8)).save(path)
    return tmp_path / "pictures"


def test_a_folder_is_judged_on_images_held_out(folder: Path) -> None:
    train, test = train_and_test(str(folder), image_size=8, channels=1)
    assert (len(train), len(test)) == (54, 6)
    seen = {train.read(i).tobytes() for i in range(len(train))}
    assert not any(test.read(i).tobytes() in seen for i in range(len(test)))
    assert test.labels is not None
    assert train.labels is not None
    assert sorted([*train.labels, *test.labels]) == [0] * 30 + [1] * 30


def test_a_data_sets_own_split_is_used(idx_folder: Path) -> None:
    assert has_test_split(str(idx_folder))
    train, test = train_and_test(str(idx_folder), image_size=8, channels=1)
    assert (len(train), len(test)) == (600, 150)


def test_a_hub_set_without_test_images_lends_its_validation_images(tmp_path: Path) -> None:
    """The CelebA-HQ of the shipped configurations has such a split. A set without test and validation images is cut in two."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, count in (("train", 20), ("validation", 6)):
        rows = {"image": [Image.new("L", (8, 8), value) for value in range(count)], "label": [0, 1] * (count // 2)}
        table = datasets.Dataset.from_dict(rows, features=features)
        for folder in ("both", "one")[: 1 + (split == "train")]:
            (tmp_path / folder).mkdir(exist_ok=True)
            table.to_parquet(str(tmp_path / folder / f"{split}-00000-of-00001.parquet"))
        table.save_to_disk(str(tmp_path / f"saved-{split}"))
    sizes = {name: [len(part) for part in train_and_test(f"hf:{tmp_path / name}", image_size=8, channels=1)]
             for name in ("both", "one", "saved-train")}  # fmt: skip
    assert sizes == {"both": [20, 6], "one": [18, 2], "saved-train": [18, 2]}


def test_meaningless_classes_are_not_recognised(folder: Path, tmp_path: Path) -> None:
    """On its own training images the judge would be right most of the time, so its accuracy is measured on others."""
    judge = load_classifier(str(folder), tmp_path / "cache", image_size=8, channels=1, classes=2, epochs=100)
    train, _ = train_and_test(str(folder), image_size=8, channels=1)
    learnt = np.stack([train.read(i) for i in range(len(train))])
    assert train.labels is not None
    assert (judge.predict(learnt) == train.labels).mean() > judge.accuracy
    again = load_classifier(str(folder), tmp_path / "cache", image_size=8, channels=1, classes=2, epochs=100)
    assert again.accuracy == judge.accuracy


def test_data_without_labels_cannot_judge(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no labels"):
        load_classifier(str(folder / "a"), tmp_path, image_size=8, channels=1, classes=2)


def test_the_judge_is_the_same_wherever_it_is_trained(idx_folder: Path, tmp_path: Path) -> None:
    one, other = (
        load_classifier(str(idx_folder), tmp_path / name, image_size=8, channels=1, classes=3) for name in ("one", "other")
    )
    assert one.accuracy == other.accuracy > 0.9
    (kept,) = (tmp_path / "one").iterdir()  # and no draft beside it
    assert kept.name.startswith("classifier-")
    for name, weight in one.network.state_dict().items():
        assert torch.equal(weight, other.network.state_dict()[name]), name
