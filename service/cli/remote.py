"""Ask a running server instead of this machine, over its public HTTP API. The commands with --url use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import Field, SecretStr, TypeAdapter

from service.cli.failures import CommandError
from service.schema.comparisons import ComparisonEvent, ComparisonRequest
from service.schema.images import GenerationRequest, GenerationResponse
from service.schema.models import ModelBody, ModelList
from service.schema.reload import ReloadBody

_CONNECT_S = 10.0
_EVENT: TypeAdapter[ComparisonEvent] = TypeAdapter(Annotated[ComparisonEvent, Field(discriminator="type")])


class RemoteError(CommandError):
    """A request that failed. The message is the server's own sentence, or says why the server cannot be reached."""


def models(url: str) -> list[ModelBody]:
    """Return the models of GET /v1/models, without experiments. Raises RemoteError."""
    with _client(url) as client:
        listed = ModelList.model_validate(_checked(client.get("v1/models")).json()).data
        return [model for model in listed if isinstance(model, ModelBody)]


def generate(url: str, body: GenerationRequest) -> GenerationResponse:
    """Send POST /v1/images/generations and return its answer. Raises RemoteError."""
    with _client(url) as client:
        response = client.post("v1/images/generations", json=body.model_dump(exclude_unset=True))
        return GenerationResponse.model_validate(_checked(response).json())


def compare(url: str, body: ComparisonRequest) -> Iterator[ComparisonEvent]:
    """Send POST /v1/comparisons and yield its events. Raises RemoteError."""
    request = {**body.model_dump(exclude_unset=True), "stream": True}
    with _client(url) as client, client.stream("POST", "v1/comparisons", json=request) as response:
        if response.is_error:
            response.read()
        _checked(response)
        for event in EventSource(response).iter_sse():
            data = event.json()
            if "error" in data:
                raise RemoteError(data["error"]["message"])
            yield _EVENT.validate_python(data)


def reload(url: str, token: SecretStr | None) -> ReloadBody:
    """Send POST /admin/models/reload and return its answer. Raises RemoteError."""
    if token is None:
        raise RemoteError("Set SFDDM_ADMIN_TOKEN to the server's admin token.")
    headers = {"authorization": f"Bearer {token.get_secret_value()}"}
    with _client(url) as client:
        return ReloadBody.model_validate(_checked(client.post("admin/models/reload", headers=headers)).json())


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise RemoteError(f"--url: write http://host:port, such as http://127.0.0.1:8000, not {url!r}.")
    url = url.rstrip("/").removesuffix("/v1")  # the base url of OpenAI's clients ends with it
    try:
        with httpx.Client(base_url=url, timeout=httpx.Timeout(None, connect=_CONNECT_S)) as client:
            yield client
    except (SSEError, ValueError) as error:  # neither events nor JSON, or JSON of another shape
        raise RemoteError(f"{url} does not answer like sfddm serve; check the url.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RemoteError(f"Cannot reach {url}: {str(error) or type(error).__name__}; is a server running there?") from error


def _checked(response: httpx.Response) -> httpx.Response:
    """Return the response if it is a success. Raises RemoteError with the server's own sentence."""
    if response.is_success:
        return response
    try:
        body: Any = response.json()
        raise RemoteError(str(body["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        raise RemoteError(f"The server answered {response.status_code} {response.reason_phrase}.") from None
