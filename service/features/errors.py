"""Requests that cannot be served as they are. No HTTP here: service.api.errors gives each kind its status code.

InvalidRequestError        a field is wrong
├── NotFoundError          the request names something that does not exist
├── ForbiddenError         the url of the request was not signed by this service
├── GoneError              the request names something that is no longer available
├── ConflictError          the state of the service does not allow the request now
└── UnusableError          the request names something that exists but cannot be used
"""

from __future__ import annotations

_SHOWN_NAME = 100  # characters: enough to recognise a name that a client made up, few enough for one sentence


class InvalidRequestError(Exception):
    """A request that cannot be served as it is.

    The message is one sentence for the caller. param: the field that is wrong. code: what went wrong, for programs.
    """

    def __init__(self, message: str, param: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class NotFoundError(InvalidRequestError):
    """The request names something that does not exist."""


class ForbiddenError(InvalidRequestError):
    """The url of the request was not signed by this service, or was altered."""


class GoneError(InvalidRequestError):
    """The request names something that existed and is no longer available."""


class ConflictError(InvalidRequestError):
    """The state of the service does not allow the request now."""


class UnusableError(InvalidRequestError):
    """The request names something that exists but cannot be used."""


def shown_name(name: str) -> str:
    """Quote a name that the client made up, cut to _SHOWN_NAME characters."""
    return repr(name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}...")
