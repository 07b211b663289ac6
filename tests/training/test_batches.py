from __future__ import annotations

from itertools import islice

from training.batches import BatchOrder


def test_order_visits_everything_once_an_epoch_and_resumes() -> None:
    whole = list(islice(BatchOrder(10, 4, seed=3), 10))
    flat = [index for batch in whole for index in batch]
    assert all(sorted(flat[epoch * 10 : (epoch + 1) * 10]) == list(range(10)) for epoch in range(4))
    assert flat[:10] != flat[10:20]
    assert list(islice(BatchOrder(10, 4, seed=3, first=6), 4)) == whole[6:]
    halves = [list(islice(BatchOrder(10, 4, seed=3, share=part), 10)) for part in (slice(0, 2), slice(2, 4))]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
