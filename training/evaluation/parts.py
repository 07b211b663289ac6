"""Models measured in parts: results over disjoint images of one seed, from several machines or runs, pooled into one.

Subset i of every part is compared with subset i of the training images (training.evaluation.distances). The mean over the
parts of their estimates i, weighted by images, is therefore an estimate for subset i of all images. The interval is computed
from these means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from training.errors import TrainingError
from training.evaluation.distances import mean_interval
from training.evaluation.record import OF_IMAGES
from training.evaluation.result import Result


def check_one_model(results: Sequence[Result]) -> None:
    """Raise TrainingError unless results of one name belong to one model: same plan, same method, equal known facts."""
    first = results[0]
    for result in results[1:]:
        known = first.facts.known
        other = [name for name, fact in result.facts.known.items() if fact != known.get(name, fact)]
        if (result.plan, result.method) != (first.plan, first.method):
            other.append("plan")
        if other and first.facts.kind != "data":  # real images are described by their number
            raise TrainingError(
                f"the reports have several models by the name {first.model}, with another {', another '.join(other)}; "
                "measure the older one again, or rename one"
            )


def pooled(result: Result, parts: Sequence[Result]) -> Result:
    """Pool `result` with the parts whose images follow its own without a gap. A result without a KID stays as it is.

    Class agreement is weighted by images too. FD, FID, precision and recall are left out, because they cannot be computed from
    the numbers of the parts. Agreement with the reference is that of `result`, because parts have none.
    Raises TrainingError where images are missing between two parts.
    """
    if "kid" not in result.metrics:
        return result
    parts = [part for part in parts if "kid" in part.metrics]
    chain, end = [result], result.first_index + result.images
    while following := [part for part in parts if part.first_index == end]:
        chain.append(max(following, key=lambda part: part.images))
        end += chain[-1].images
    if beyond := [part.first_index for part in parts if part.first_index > end]:
        raise TrainingError(
            f"images {end} to {min(beyond) - 1} of {result.model} are in no report; measure them with --first-index {end}"
        )
    if len(chain) == 1:
        return result
    images = [part.images for part in chain]
    kid, low, high = mean_interval(subsets := np.average([part.kid_subsets for part in chain], axis=0, weights=images))
    metrics = {name: value for name, value in result.metrics.items() if name not in (*OF_IMAGES, "neighbourhood")}
    metrics |= {"kid": kid, "kid_low": low, "kid_high": high}
    if all("class_agreement" in part.metrics for part in chain):
        metrics["class_agreement"] = float(np.average([part.metrics["class_agreement"] for part in chain], weights=images))
    return replace(result, images=sum(images), metrics=metrics, kid_subsets=subsets.tolist(), parts=images)
