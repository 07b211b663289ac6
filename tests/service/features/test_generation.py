"""Plans of generations from plain values, without HTTP, and the choice of a model by quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.catalogue import Catalogue
from service.engine.request import ImageSpec
from service.features.config import ServiceConfig
from service.features.errors import InvalidRequestError
from service.features.generation import (
    ImagesAsked,
    InterpolationAsked,
    RowsAsked,
    by_quality,
    plan,
    plan_interpolation,
    plan_rows,
)
from service.features.service import Service, assemble, open_catalogue

NAME = "tiny/student-008"


@pytest.fixture(scope="module")
def service(tiny_zoo: Path) -> Service:
    """Return a service that is put together and not started: plans need no device."""
    config = ServiceConfig(zoos=(tiny_zoo,), default_model=NAME, max_n=4, provider="CPUExecutionProvider")
    return assemble(config, open_catalogue(config.zoos))


def asked(**changes: Any) -> ImagesAsked:
    fields = {"model": None, "prompt": "", "class_label": None, "size": "auto", "n": 1, "seed": None, "first_index": 0}
    return ImagesAsked(**(fields | changes))


def test_a_plan_of_plain_values(service: Service) -> None:
    generation = plan(asked(prompt="a dog", n=2, seed=7, first_index=3, size="16x16"), service).generation
    assert generation.model.id == NAME
    assert generation.images == (ImageSpec(7, 3, 1), ImageSpec(7, 4, 1))
    assert (generation.scale, generation.size) == (2, "16x16")


def test_without_a_prompt_each_image_has_a_class_of_its_own(service: Service) -> None:
    images = plan(asked(n=3, seed=1), service).generation.images
    assert [spec.class_label for spec in images] == [1, 2, 0]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 5}, "n"),
        ({"size": "9x9"}, "size"),
        ({"class_label": 3}, "class_label"),
        ({"prompt": "cat", "class_label": 1}, "class_label"),
        ({"prompt": "a house"}, "prompt"),
        ({"model": "auto"}, "max_latency_ms"),
    ],
)
def test_a_plan_that_makes_no_sense_names_the_field(service: Service, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        plan(asked(**changes), service)
    assert refused.value.param == param


def test_a_walk_has_both_ends_and_one_class(service: Service) -> None:
    walk = InterpolationAsked(model=NAME, prompt="", class_label=None, size="auto", seeds=(4, 9), frames=3)
    assert plan_interpolation(walk, service).images == tuple(ImageSpec(4, 0, 1, (9, part)) for part in (0.0, 0.5, 1.0))


def test_rows_by_their_seeds(service: Service, tiny_catalogue: Catalogue) -> None:
    model = tiny_catalogue.resolve(NAME)
    generation = plan_rows(RowsAsked(seeds=[5, 6], indices=[1, 0], labels=None), model, service)
    assert list(generation.images) == [ImageSpec(5, 1, 0), ImageSpec(6, 0, 0)]
    with pytest.raises(InvalidRequestError, match="1 values for 2 seeds"):
        plan_rows(RowsAsked(seeds=[5, 6], indices=None, labels=[0]), model, service)


def test_measured_models_are_ordered_best_first(tiny_catalogue: Catalogue) -> None:
    assert [model.id for model in by_quality(tiny_catalogue, "tiny")] == [
        "tiny/teacher",
        "tiny/student-008",
        "tiny/student-004",
    ]
    assert by_quality(tiny_catalogue, "plain") == []
