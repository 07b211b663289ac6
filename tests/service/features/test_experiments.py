"""Assignment to arms, and how experiments are configured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.features.experiments import Experiment, assign
from service.settings.model import Settings

EVEN = Experiment(arms={"a": 1, "b": 1})


def share(experiment: Experiment, arm: str, users: int = 4000) -> float:
    return Counter(assign("e", experiment, f"user {number}", None).arm for number in range(users))[arm] / users


@given(st.text(min_size=1), st.integers(0, 2**53 - 1))
def test_replicas_agree(user: str, seed: int) -> None:
    assert assign("e", EVEN, user, seed) == assign("e", EVEN, user, None)
    assert assign("e", EVEN, None, seed) == assign("e", EVEN, None, seed)


def test_assignment_does_not_change_with_a_release() -> None:
    assert [assign("e", EVEN, f"user {number}", None).arm for number in range(8)] == list("aaaabaaa")


def test_arms_get_their_share() -> None:
    assert share(EVEN, "a") == pytest.approx(0.5, abs=0.03)
    assert share(Experiment(arms={"a": 9, "b": 1}), "b") == pytest.approx(0.1, abs=0.02)


def test_a_larger_share_takes_users_and_moves_no_others() -> None:
    more = Experiment(arms={"a": 1, "b": 3, "c": 1})
    before = Experiment(arms={"a": 1, "b": 1, "c": 1})
    for number in range(500):
        user = f"user {number}"
        new, old = assign("e", more, user, None).arm, assign("e", before, user, None).arm
        assert new in (old, "b")


def test_experiments_are_independent_of_each_other() -> None:
    agree = sum(assign("e", EVEN, f"{n}", None).arm == assign("f", EVEN, f"{n}", None).arm for n in range(2000))
    assert agree / 2000 == pytest.approx(0.5, abs=0.05)


def test_chance_is_not_the_same_twice() -> None:
    assert len({assign("e", EVEN, None, None).unit for _ in range(10)}) == 10


def test_the_environment_holds_them_or_names_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arms = {"m/a": 1, "m/b": 2.5}
    as_json = json.dumps({"one/two": {"arms": arms}})
    (tmp_path / "e.json").write_text(as_json)
    (tmp_path / "e.toml").write_text('["one/two".arms]\n"m/a" = 1\n"m/b" = 2.5\n')
    for value in (as_json, str(tmp_path / "e.json"), str(tmp_path / "e.toml")):
        monkeypatch.setenv("SFDDM_EXPERIMENTS", value)
        assert Settings().experiments == {"one/two": Experiment(arms=arms)}


@pytest.mark.parametrize(
    "value",
    [
        '{"e": {"arms": {"a": 1}}}',
        '{"e": {"arms": {"a": 1, "b": 0}}}',
        '{"e": {"arms": {"a": 1, "b": 1}, "salt": 1}}',
        '{"E e": {"arms": {"a": 1, "b": 1}}}',
        "{not json",
        "no/such/file.toml",
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SFDDM_EXPERIMENTS", value)
    with pytest.raises(ValidationError, match="experiments"):
        Settings()
