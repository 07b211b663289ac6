"""/admin: load, reload and unload models while the service runs.

Requests need SFDDM_ADMIN_TOKEN as a bearer token, or get 401. Where the setting is missing every path is a 404.
"""

from __future__ import annotations

import hmac

import structlog
from fastapi import APIRouter, Depends, Request
from pydantic import SecretStr

from service.api.dependencies import ReloaderOf
from service.api.errors import UnauthorizedError
from service.api.query import refuse_unknown
from service.features.errors import NotFoundError
from service.schema.reload import ReloadBody, reload_body

_BEARER = "bearer "
_log = structlog.get_logger("service.api")


def admin_router(token: SecretStr | None) -> APIRouter:
    """Return the routes for holders of this token. Without a token, return a route that answers 404 and says why."""
    if token is None:
        return _off()
    expected = token.get_secret_value().encode()

    def authorise(request: Request) -> None:
        given = request.headers.get("authorization", "")
        scheme, secret = given[: len(_BEARER)], given[len(_BEARER) :]
        if not (hmac.compare_digest(secret.encode("latin-1"), expected) and scheme.lower() == _BEARER):
            _log.warning("admin_refused", path=request.url.path)
            message = "Authorization: send the server's SFDDM_ADMIN_TOKEN as a bearer token."
            raise UnauthorizedError(message, "Authorization", "invalid_admin_token")

    router = APIRouter(tags=["admin"], prefix="/admin/models", dependencies=[Depends(authorise), Depends(refuse_unknown)])

    @router.post("/reload", summary="Reload every zoo")
    async def reload(reloader: ReloaderOf) -> ReloadBody:
        """Make what is served what the zoos hold: load new folders, replace changed ones, unload those that are gone.

        Requests go on: admitted ones finish on the weights that they began with. What cannot be loaded is among `failed`, and
        the version loaded before is served on. The answer comes when all is done.
        """
        return reload_body(await reloader.reload())

    @router.put("/{model_id:path}", summary="Load or reload a model")
    async def load(model_id: str, reloader: ReloaderOf) -> ReloadBody:
        """Serve what the model's folder holds. 404 when no zoo has it, 422 when it cannot be loaded."""
        return reload_body(await reloader.load(model_id))

    @router.delete("/{model_id:path}", summary="Unload a model")
    async def unload(model_id: str, reloader: ReloaderOf) -> ReloadBody:
        """Refuse new requests for a model (404), finish those admitted, and free its memory; a reload brings it back.

        409 for a model that the default or an experiment needs, and for the last one.
        """
        return reload_body(await reloader.unload(model_id))

    return router


def _off() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.api_route("/admin/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def off() -> None:
        raise NotFoundError("/admin is off here; SFDDM_ADMIN_TOKEN switches it on.", None, "admin_off")

    return router
