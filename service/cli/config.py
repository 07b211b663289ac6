"""`sfddm config`: print the settings in force."""

from __future__ import annotations

from service.cli.options import Config


def show_config(config: Config = None) -> None:
    """Print the effective settings as TOML, and where each came from: option, environment, file or default."""
    from service.settings.sources import read_configuration

    print(read_configuration({}, config).to_toml(), end="")
