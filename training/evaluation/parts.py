"""A model measured in parts: rows over disjoint images of one seed, from several machines or sittings, as one row.

Subset i of every part is compared with subset i of the training images (training.evaluation.distances), so the mean of the
parts' estimates, weighted by images, is an estimate as each of them is, and the interval comes from these means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from training.errors import TrainingError
from training.evaluation.distances import interval
from training.evaluation.measure import Row
from training.evaluation.record import OF_IMAGES


def check_one_model(rows: Sequence[Row]) -> None:
    """Raises TrainingError where rows of one name are of several models: another plan, or facts that contradict each other."""
    first = rows[0]
    for row in rows[1:]:
        other = [name for name in row.facts if row.facts[name] != first.facts.get(name, row.facts[name])]
        if (row.plan, row.method) != (first.plan, first.method):
            other.append("plan")
        if other and first.facts.get("kind") != "data":  # real images are described by their number
            raise TrainingError(
                f"the reports have several models by the name {first.model}, with another {', another '.join(other)}; "
                "measure the older one again, or rename one"
            )


def pooled(row: Row, parts: Sequence[Row]) -> Row:
    """`row` with those of `parts` that follow it one after the other, as one row. Without a KID nothing follows.

    Class agreement is weighted like KID. FD, FID, precision and recall cannot be had from the parts' numbers and are left out.
    Agreement stays that of `row`, since parts have none.
    Raises TrainingError where images are missing between two parts.
    """
    if "kid" not in row.metrics:
        return row
    parts = [part for part in parts if "kid" in part.metrics]
    chain, end = [row], row.first_index + row.images
    while following := [part for part in parts if part.first_index == end]:
        chain.append(max(following, key=lambda part: part.images))
        end += chain[-1].images
    if beyond := [part.first_index for part in parts if part.first_index > end]:
        raise TrainingError(
            f"images {end} to {min(beyond) - 1} of {row.model} are in no report; measure them with --first-index {end}"
        )
    if len(chain) == 1:
        return row
    images = [part.images for part in chain]
    kid, low, high = interval(subsets := np.average([part.kid_subsets for part in chain], axis=0, weights=images))
    metrics = {name: value for name, value in row.metrics.items() if name not in (*OF_IMAGES, "neighbourhood")}
    metrics |= {"kid": kid, "kid_low": low, "kid_high": high}
    if all("class_agreement" in part.metrics for part in chain):
        metrics["class_agreement"] = float(np.average([part.metrics["class_agreement"] for part in chain], weights=images))
    return replace(row, images=sum(images), metrics=metrics, kid_subsets=subsets.tolist(), parts=images)
