"""Check query parameters by the rule of bodies: unknown ones are refused by name."""

from __future__ import annotations

from fastapi import Request

from service.features.errors import InvalidRequestError, shown_name


async def refuse_unknown(request: Request) -> None:
    """Raise InvalidRequestError, which names the first parameter that the route does not have. A dependency of routes."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            has = f"this one has {', '.join(sorted(known))}" if known else "this one has none"
            raise InvalidRequestError(f"Unknown query parameter {shown_name(name)}; leave it out ({has}).", name)
