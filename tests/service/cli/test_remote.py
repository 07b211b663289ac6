"""The command reads what a server answers, and explains what it cannot read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import httpx
import pytest

from service.cli import remote
from service.schema.comparisons import ComparisonRequest, RequestMeasured

BODY = ComparisonRequest(models=["a/one", "a/two"])
EVENT = RequestMeasured.model_validate(
    {
        "model": "a/one",
        "round": 0,
        "place": 1,
        "timing": {"queue_s": 0, "compute_s": 0.1, "total_s": 0.1, "estimated_s": 0.1, "mean_batch": 1},
        "done": 3,
        "total": 4,
    }
)
Answer = Callable[[httpx.Response], None]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Return a function that sets the response to every request of the command."""

    def set_response(response: httpx.Response) -> None:
        transport = httpx.MockTransport(lambda _: response)
        monkeypatch.setattr(remote.httpx, "Client", partial(httpx.Client, transport=transport))

    return set_response


def events(*data: str) -> httpx.Response:
    """Return a stream of events. Before each is a comment, which servers send so that proxies keep the connection open."""
    text = "".join(f": ping\n\nevent: any\ndata: {item}\n\n" for item in data)
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, text=text)


def test_a_comparison_is_read_event_by_event(answer: Answer) -> None:
    answer(events(EVENT.model_dump_json(), EVENT.model_dump_json()))
    assert list(remote.compare("http://server", BODY)) == [EVENT, EVENT]


def test_an_error_on_the_stream_is_the_servers_sentence(answer: Answer) -> None:
    answer(events(EVENT.model_dump_json(), '{"error": {"message": "The service is shutting down."}}'))
    arriving = remote.compare("http://server", BODY)
    assert next(arriving) == EVENT
    with pytest.raises(remote.RemoteError, match=r"^The service is shutting down\.$"):
        next(arriving)


@pytest.mark.parametrize(
    "response", [httpx.Response(200, json={}), httpx.Response(200, text="hello"), events("hello"), events('{"type": "other"}')]
)
def test_a_server_that_is_none_of_ours(answer: Answer, response: httpx.Response) -> None:
    answer(response)
    with pytest.raises(remote.RemoteError, match=r"http://server does not answer like sfddm serve; check the url\."):
        list(remote.compare("http://server", BODY))


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (httpx.Response(404, json={"error": {"message": "The model does not exist."}}), "The model does not exist."),
        (httpx.Response(502, text="Bad gateway"), "The server answered 502 Bad Gateway."),
    ],
)
def test_a_refusal(answer: Answer, response: httpx.Response, says: str) -> None:
    answer(response)
    with pytest.raises(remote.RemoteError) as refused:
        list(remote.compare("http://server", BODY))
    assert str(refused.value) == says
