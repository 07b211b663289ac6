"""Urls of images that expire.

A url describes its image completely (model, seed, index, class, file style), so every replica that shares SFDDM_URL_SECRET
can serve it: from the newest files, which are kept, or by making the image again. It also tells what made the image, since
other weights or another runtime would make other bytes. The signature is what makes it expire.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from models.catalogue import Resolved
from service.engine.request import Finished, ImageSpec
from service.features.encode import FileStyle
from service.features.errors import ForbiddenError, GoneError

_KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Link:
    """What a url says; made_by is `maker` of its image, expires in Unix seconds."""

    model: str
    spec: ImageSpec
    style: FileStyle
    made_by: str
    expires: int


def maker(model: Resolved, image: Finished) -> str:
    """What decides an image's bytes beside its spec: the weights, the runtime and its precision."""
    return f"{model.entry.manifest.sha256[:16]} {image.device.provider} {image.device.precision}"


class ImageLinks:
    """Signs urls, reads them, and keeps the newest files so that most images are not computed twice."""

    def __init__(self, secret: str | None, expire_s: float) -> None:
        """secret: the same on every replica, None: random; expire_s: how long a url is good for."""
        self._key = (secret or secrets.token_hex()).encode()
        self._expire_s = expire_s
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def link(self, base_url: str, model: Resolved, image: Finished, style: FileStyle, file: bytes) -> str:
        """An absolute url of `file`."""
        spec = image.spec
        fields = [model.id, spec.seed, spec.index, spec.class_label, spec.blend]
        fields += [style.image_format, style.scale, style.quality, maker(model, image), int(time.time() + self._expire_s)]
        payload = _text(json.dumps(fields, separators=(",", ":")).encode())
        token = f"{payload}.{self._signature(payload)}"
        self._keep(token, file)
        return f"{base_url}/v1/images/files/{token}"

    def read(self, token: str) -> Link:
        """What a url says. Raises ForbiddenError when it is not one of ours, GoneError when it has expired."""
        payload, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._signature(payload).encode()):
            message = "This url was not signed here, or was altered; request the image again."
            raise ForbiddenError(message, None, "url_invalid")
        fields = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        try:
            model, seed, index, label, blend, image_format, scale, quality, made_by, expires = fields
        except ValueError:  # signed with the same secret by a version that wrote other fields
            expires = 0
        if time.time() >= expires:
            raise GoneError("This url has expired; request the image again.", None, "url_expired")
        spec = ImageSpec(seed, index, label, None if blend is None else (blend[0], blend[1]))
        return Link(model, spec, FileStyle(image_format, scale, quality), made_by, expires)

    def file(self, token: str) -> bytes | None:
        """The bytes, if they are still kept."""
        return self._files.get(token)

    def _keep(self, token: str, file: bytes) -> None:
        self._bytes += len(file) - len(self._files.pop(token, b""))
        self._files[token] = file
        while self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._files.popitem(last=False)[1])

    def _signature(self, payload: str) -> str:
        return _text(hmac.digest(self._key, payload.encode("utf-8", "replace"), hashlib.sha256))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
