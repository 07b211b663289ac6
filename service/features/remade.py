"""Images of urls whose file is no longer kept: they are made again from what the url says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from models.catalogue import Resolved
from service.engine.request import Finished, Generation
from service.features.encode import encode_all
from service.features.errors import GoneError
from service.features.links import Link, maker


async def remade_file(
    link: Link,
    model: Resolved,
    images_of: Callable[[Generation], Awaitable[list[Finished]]],
    encoding: Callable[[], AbstractContextManager[None]],
) -> bytes:
    """Make the image of a url again, and return its file.

    images_of: computes or recalls the images of a generation. encoding: a context in which the file is encoded, so that the
    caller can measure it. Raises what `images_of` raises, and GoneError when the file would have other bytes than the url
    promised, because the weights or the runtime have changed.
    """
    finished = await images_of(Generation(model, [link.spec]))
    if maker(model, finished[0]) != link.made_by:
        message = "The model or the runtime behind this url has changed; request the image again."
        raise GoneError(message, None, "url_expired")
    with encoding():
        (file,) = await encode_all(finished, link.style)
    return file
