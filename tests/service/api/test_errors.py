"""The status of each kind of refusal."""

from __future__ import annotations

import pytest

from service.api.errors import NotAcceptableError, UnauthorizedError, problem_of
from service.features.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    UnusableError,
)


@pytest.mark.parametrize(
    ("kind", "status", "headers"),
    [
        (InvalidRequestError, 400, {}),
        (UnauthorizedError, 401, {"www-authenticate": "Bearer"}),
        (ForbiddenError, 403, {}),
        (NotFoundError, 404, {}),
        (NotAcceptableError, 406, {}),
        (ConflictError, 409, {}),
        (GoneError, 410, {}),
        (UnusableError, 422, {}),
    ],
)
def test_each_kind_has_its_status(kind: type[InvalidRequestError], status: int, headers: dict[str, str]) -> None:
    problem = problem_of(kind("why", "field", "code"))
    assert (problem.status, problem.message, problem.param, problem.code) == (status, "why", "field", "code")
    assert problem.headers == headers
