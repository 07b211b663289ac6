"""The web page at /, the description of the API at /docs, and their parts. Nothing comes from another host."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = {part.name: part.read_bytes() for part in (files("service") / "page").iterdir() if part.name.split(".")[-1] in _TYPES}
_HEADERS = {
    "cache-control": "no-cache",  # so that a new release is seen at once
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@router.get("/")
async def index() -> Response:
    """Return the page."""
    return _file("index.html")


@router.get("/docs")
async def docs() -> Response:
    """Return the description of the API, which renders /openapi.json."""
    return _file("docs.html")


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """Return a style sheet, script or picture."""
    if name not in _FILES:
        raise HTTPException(404)
    return _file(name)


def _file(name: str) -> Response:
    return Response(_FILES[name], media_type=_TYPES[name.split(".")[-1]], headers=_HEADERS)
