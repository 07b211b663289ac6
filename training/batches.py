"""Batches of a data set: their order, which a resumed run repeats, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from training.data import ImageSource, UInt8
from training.errors import DataError


class BatchOrder(Sampler[list[int]]):
    """Yields batches of indices from step `first` on, without end. Epoch e is the permutation seeded by (seed, e).

    A batch depends on (seed, step) alone, so resumed and multi-process runs see the same data. `share` is the part of the
    global batch that this process takes.
    """

    def __init__(self, size: int, batch: int, *, seed: int, first: int = 0, share: slice = slice(None)) -> None:
        self.size, self.batch, self.seed, self.first, self.share = size, batch, seed, first, share

    def __iter__(self) -> Iterator[list[int]]:
        position = self.first * self.batch
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while True:
            picked: list[int] = []
            for offset in range(position, position + self.batch):
                if offset // self.size != epoch:
                    epoch = offset // self.size
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
                picked.append(int(order[offset % self.size]))
            position += self.batch
            yield picked[self.share]


def _collate(batch: list[tuple[UInt8, int]]) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.stack([image for image, _ in batch]))
    return images, torch.tensor([label for _, label in batch], dtype=torch.int64)


def batches(source: ImageSource, order: BatchOrder, *, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end: (uint8 [B,C,H,W], int64 [B])."""
    stream = iter(DataLoader(source, batch_sampler=order, num_workers=workers, collate_fn=_collate))
    while True:
        try:
            yield next(stream)
        except DataError as error:
            # The error of a worker process arrives with its whole traceback. The sentence is its last line.
            raise DataError(str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]) from None


def to_unit(images: Tensor) -> Tensor:
    """Convert uint8 0 ... 255 to float32 -1 ... 1."""
    return images.float() / 127.5 - 1
