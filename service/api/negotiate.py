"""Which of several media types a client wants: the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

JSON = "application/json"


def choose(accept: str, offered: Sequence[str]) -> str | None:
    """The best of `offered` for an Accept header, None when it excludes them all.

    A higher q wins, then a more specific range (`image/png` over `*/*`), then the earlier offer. An absent or empty header
    takes the first; a part that cannot be read is passed over.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_parse(part) for part in accept.split(",")]
    scored = [(*_score(offer, ranges), -place) for place, offer in enumerate(offered)]
    best = max(scored)
    return offered[-best[2]] if best[0] > 0 else None


def _parse(part: str) -> tuple[str, float]:
    """(media range, q) of one part of the header; q is 1 when it is not given and 0 for what cannot be read."""
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return media, 0.0
    return media, 1.0


def _score(offer: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """(q, specificity) of the most specific range that matches; (0, 0) when none does."""
    wildcard = offer.partition("/")[0] + "/*"
    for specificity, pattern in ((3, offer), (2, wildcard), (1, "*/*")):
        qualities = [q for media, q in ranges if media == pattern]
        if qualities:
            return max(qualities), specificity
    return 0.0, 0
