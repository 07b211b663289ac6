"""Options that several commands share, and the settings that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.settings.model import Settings

Zoo = Annotated[
    list[Path] | None,
    typer.Option(
        "--zoo",
        metavar="FOLDER",
        help="A folder of model folders; repeat for several. Default: the models that ship with sfddm.",
    ),
]
Url = Annotated[str | None, typer.Option(metavar="URL", help="Ask a running server, such as http://127.0.0.1:8000, instead.")]
Scale = Annotated[int, typer.Option(min=1, max=64, help="Enlarge each pixel to this many.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML; default: SFDDM_CONFIG.")]

_UNLIMITED_S = 1e9  # 30 years; these settings take no infinity
_MAX_IMAGES = 1024  # the largest max_n that the settings allow
_MAX_ISOLATED_S = 60.0  # seconds a minute: all the time there is


@dataclass(frozen=True)
class DefaultOf:
    """The default of a field of a request body, which typer calls or shows. Imports the schema, which is slow, only then."""

    module: str
    body: str
    field: str

    def __call__(self) -> Any:
        schema = import_module(f"service.schema.{self.module}")
        return getattr(schema, self.body).model_fields[self.field].default

    def __str__(self) -> str:
        return str(self())


def read_settings(config: Path | None = None, **options: Any) -> Settings:
    """Return the settings: `options` over the environment over the file `config`. Raises ConfigurationError."""
    from service.settings.sources import read_configuration

    return read_configuration(options, config).settings


def settings_for_one_user(zoo: list[Path] | None, n: int) -> Settings:
    """Return the settings for a run on this machine, without the limits that protect the users of a server from each other.

    n: images of the request. Raises ConfigurationError.
    """
    return read_settings(
        zoos=zoo,
        max_n=min(n, _MAX_IMAGES),
        max_backlog_s=_UNLIMITED_S,
        max_comparison_s=_UNLIMITED_S,
        isolated_s=_MAX_ISOLATED_S,
    )


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}
