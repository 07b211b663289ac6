"""Signed urls of images, which expire.

A url describes its image completely: model, seed, index, class, file style. So every replica that shares SFDDM_URL_SECRET
can serve it. A replica keeps the newest files, and makes the image again when it has no file. A url also names the weights
and the runtime that made the image, because others would make other bytes.

The format is that of itsdangerous' URLSafeSerializer: `payload.signature`. URLSafeTimedSerializer does not fit: it stores the
time of signing, and the reader's settings decide when the url expires. Here the url itself holds the time of expiry.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from models.catalogue import Resolved
from service.engine.request import Finished, ImageSpec
from service.features.encode import FileStyle
from service.features.errors import ForbiddenError, GoneError

_MAX_KEPT_BYTES = 64 << 20  # thousands of small images: enough for clients that fetch a url as soon as they get it
_SALT = "image url"  # a signature made with SFDDM_URL_SECRET for another purpose is not valid here


@dataclass(frozen=True)
class Link:
    """The content of a url. made_by: the result of `maker` for its image. expires: Unix seconds."""

    model: str
    spec: ImageSpec
    style: FileStyle
    made_by: str
    expires: int


def maker(model: Resolved, image: Finished) -> str:
    """Describe the weights, the runtime and its precision, which together with the spec decide an image's bytes."""
    return f"{model.entry.manifest.sha256[:16]} {image.device.provider} {image.device.precision}"


class ImageLinks:
    """Signs urls, reads them, and keeps the newest files so that most images are not computed twice."""

    def __init__(self, secret: str | None, expire_s: float) -> None:
        """Start without files. secret: the same on every replica, None: random. expire_s: lifetime of a url."""
        self._serializer = URLSafeSerializer(
            secret or secrets.token_hex(),
            salt=_SALT,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self._expire_s = expire_s
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def link(self, base_url: str, model: Resolved, image: Finished, style: FileStyle, file: bytes) -> str:
        """Return an absolute url of `file`, and keep the file."""
        spec = image.spec
        fields = [model.id, spec.seed, spec.index, spec.class_label, spec.blend]
        fields += [style.image_format, style.scale, style.quality, maker(model, image), int(time.time() + self._expire_s)]
        token = self._serializer.dumps(fields)
        self._keep(token, file)
        return f"{base_url}/v1/images/files/{token}"

    def read(self, token: str) -> Link:
        """Return the content of a url. Raises ForbiddenError unless it was signed here, GoneError when it has expired."""
        try:
            fields = self._serializer.loads(token)
        except BadData as error:
            message = "This url was not signed here, or was altered; request the image again."
            raise ForbiddenError(message, None, "url_invalid") from error
        try:
            model, seed, index, label, blend, image_format, scale, quality, made_by, expires = fields
        except ValueError:  # signed with the same secret by a version that wrote other fields
            expires = 0
        if time.time() >= expires:
            raise GoneError("This url has expired; request the image again.", None, "url_expired")
        spec = ImageSpec(seed, index, label, None if blend is None else (blend[0], blend[1]))
        return Link(model, spec, FileStyle(image_format, scale, quality), made_by, expires)

    def file(self, token: str) -> bytes | None:
        """Return the bytes of the file if they are still kept."""
        return self._files.get(token)

    def _keep(self, token: str, file: bytes) -> None:
        self._bytes += len(file) - len(self._files.pop(token, b""))
        self._files[token] = file
        while self._bytes > _MAX_KEPT_BYTES:
            self._bytes -= len(self._files.popitem(last=False)[1])
