"""Prompts and the classes that they name."""

from __future__ import annotations

import pytest

from service.features.prompts import classes_named

FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("Sneaker", ["Sneaker"]),
        ("  sneaker ", ["Sneaker"]),
        ("a red SNEAKER, please", ["Sneaker"]),
        ("two sneakers", ["Sneaker"]),
        ("dresses", ["Dress"]),
        ("T-shirt/top", ["T-shirt/top"]),
        ("a t-shirt", ["T-shirt/top"]),
        ("a t shirt", ["T-shirt/top"]),
        ("a shirt", ["Shirt"]),
        ("ankle-boot", ["Ankle boot"]),
        ("boot", ["Ankle boot"]),
        ("red boots", ["Ankle boot"]),
        ("tshirt", ["T-shirt/top"]),
        ("tee shirt", ["T-shirt/top"]),
        ("two tee-shirts", ["T-shirt/top"]),
        ("a teeshirt", ["T-shirt/top"]),
        ("a T - Shirt", ["T-shirt/top"]),
        ("a pull-over", ["Pullover"]),
        ("red pull overs", ["Pullover"]),
        ("ankleboots", ["Ankle boot"]),
        ("a shirt dress", ["Dress", "Shirt"]),
        ("a tee shirt and a shirt", ["T-shirt/top", "Shirt"]),
        ("great shirt", ["Shirt"]),
        ("a coat or bags", ["Coat", "Bag"]),
        ("a shirt and a t-shirt", ["T-shirt/top", "Shirt"]),
        ("reboot", []),
        ("handbag", []),
        ("a coat or a bag", ["Coat", "Bag"]),
        ("laptop", []),
        ("a house", []),
    ],
)
def test_phrases(prompt: str, names: list[str]) -> None:
    assert [FASHION[label] for label in classes_named(prompt, FASHION)] == names


def test_a_name_within_a_longer_name_does_not_count() -> None:
    assert classes_named("my ankle boot", ["boot", "ankle boot"]) == [1]


def test_a_word_that_several_classes_share_names_them_all() -> None:
    classes = ["rain boot", "ankle boot", "class a"]
    assert classes_named("a boot", classes) == [0, 1]
    assert classes_named("a rain boot", classes) == [0]
    assert classes_named("a", classes) == []


def test_names_may_hold_other_signs() -> None:
    assert classes_named("a dr. no", ["Dr. No", "No"]) == [0]


def test_digits_are_whole_words() -> None:
    digits = [str(digit) for digit in range(10)]
    assert classes_named("7", digits) == [7]
    assert classes_named("a 7", digits) == [7]
    assert classes_named("17", digits) == []
    assert classes_named("1 0", ["10", "2"]) == []
