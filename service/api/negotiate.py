"""The choice between JSON, an image file and events, by a request's Accept header (RFC 9110, section 12.5.1) and its body.

werkzeug's MIMEAccept makes the same choice for every well-formed header. It has two drawbacks: it drops a range with a
malformed q such as `q=.7`, which this module reads, and its import loads a WSGI development server and a test client.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.api.errors import NotAcceptableError
from service.features.encode import FORMATS, MEDIA_TYPES, ImageFormat
from service.features.errors import InvalidRequestError
from service.schema.images import GenerationRequest, InterpolationRequest

JSON = "application/json"
EVENTS = "text/event-stream"


def requested_file(accept: str, body: GenerationRequest | InterpolationRequest, files: int) -> ImageFormat | None:
    """Return the format of the image file that Accept prefers, or None for JSON. files: images of the request.

    Raises InvalidRequestError: 406 when Accept takes neither, 400 for several files or a contradiction with the body.
    """
    formats = [body.output_format, *(name for name in FORMATS if name != body.output_format)]
    wanted = choose(accept, [JSON, *(MEDIA_TYPES[name] for name in formats)])
    if wanted is None:
        raise _not_acceptable(accept, [JSON, *MEDIA_TYPES.values()])
    if wanted == JSON:
        return None
    image_format = next(name for name in FORMATS if MEDIA_TYPES[name] == wanted)
    if files != 1:
        raise InvalidRequestError(
            f"n: Accept asks for one image file but n is {files}; set n to 1 or accept application/json.", "n"
        )
    if "output_format" in body.model_fields_set and body.output_format != image_format:
        raise InvalidRequestError(
            f"output_format: {body.output_format} contradicts Accept: {accept}; leave one of them out.", "output_format"
        )
    if body.response_format == "url":
        raise InvalidRequestError(
            f"response_format: a url contradicts Accept: {accept}, which asks for the file itself; leave one of them out.",
            "response_format",
        )
    return image_format


def check_stream(accept: str, body: GenerationRequest) -> None:
    """Raise InvalidRequestError unless the answer can be a stream: 406 when Accept takes no events, 400 for a contradiction."""
    # OpenAI's client sends `Accept: application/json` even when it asks for a stream.
    if choose(accept, [EVENTS, JSON]) is None:
        if choose(accept, list(MEDIA_TYPES.values())):
            raise InvalidRequestError(
                f"stream: Accept: {accept} asks for an image file; leave out stream, or accept {EVENTS}.", "stream"
            )
        raise _not_acceptable(accept, [EVENTS, JSON])
    if body.response_format == "url":
        raise InvalidRequestError(
            "response_format: a stream holds its images as b64_json; leave out response_format or stream.", "response_format"
        )


def _not_acceptable(accept: str, offered: Sequence[str]) -> NotAcceptableError:
    message = f"Accept: {accept} excludes what there is; accept one of {', '.join(offered)}."
    return NotAcceptableError(message, None, "not_acceptable")


def choose(accept: str, offered: Sequence[str]) -> str | None:
    """Return the best of `offered` for an Accept header, or None when it excludes all of them.

    A higher q wins, then a more specific range (`image/png` over `*/*`), then the earlier offer. An absent or empty header
    takes the first offer. Parts that cannot be read are ignored.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_parse(part) for part in accept.split(",")]
    scored = [(*_score(offer, ranges), -place) for place, offer in enumerate(offered)]
    best = max(scored)
    return offered[-best[2]] if best[0] > 0 else None


def _parse(part: str) -> tuple[str, float]:
    """Return (media range, q) of one part of the header. q is 1 when it is not given, 0 when it is not a number."""
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media, min(max(0.0, float(value)), 1.0)  # in this order, nan is 0
            except ValueError:
                return media, 0.0
    return media, 1.0


def _score(offer: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """Return (q, specificity) of the most specific range that matches the offer, or (0, 0) when none does."""
    wildcard = offer.partition("/")[0] + "/*"
    for specificity, pattern in ((3, offer), (2, wildcard), (1, "*/*")):
        qualities = [q for media, q in ranges if media == pattern]
        if qualities:
            return max(qualities), specificity
    return 0.0, 0
