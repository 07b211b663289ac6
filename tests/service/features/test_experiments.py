"""Assignment of requests to arms."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.features.config import Arms
from service.features.experiments import assign

EVEN: Arms = {"a": 1, "b": 1}


def share(arms: Arms, arm: str, users: int = 4000) -> float:
    return Counter(assign("e", arms, f"user {number}", None).arm for number in range(users))[arm] / users


@given(st.text(min_size=1), st.integers(0, 2**53 - 1))
def test_replicas_agree(user: str, seed: int) -> None:
    assert assign("e", EVEN, user, seed) == assign("e", EVEN, user, None)
    assert assign("e", EVEN, None, seed) == assign("e", EVEN, None, seed)


def test_assignment_does_not_change_with_a_release() -> None:
    assert [assign("e", EVEN, f"user {number}", None).arm for number in range(8)] == list("aaaabaaa")


def test_arms_get_their_share() -> None:
    assert share(EVEN, "a") == pytest.approx(0.5, abs=0.03)
    assert share({"a": 9, "b": 1}, "b") == pytest.approx(0.1, abs=0.02)


def test_a_larger_share_takes_users_and_moves_no_others() -> None:
    more: Arms = {"a": 1, "b": 3, "c": 1}
    before: Arms = {"a": 1, "b": 1, "c": 1}
    for number in range(500):
        user = f"user {number}"
        new, old = assign("e", more, user, None).arm, assign("e", before, user, None).arm
        assert new in (old, "b")


def test_experiments_are_independent_of_each_other() -> None:
    agree = sum(assign("e", EVEN, f"{n}", None).arm == assign("f", EVEN, f"{n}", None).arm for n in range(2000))
    assert agree / 2000 == pytest.approx(0.5, abs=0.05)


def test_chance_is_not_the_same_twice() -> None:
    assert len({assign("e", EVEN, None, None).unit for _ in range(10)}) == 10
