"""`--config FILE`: a command's options from a TOML file. Its keys are the long names of the options.

    data = "hf:uoft-cs/cifar10"      # --data hf:uoft-cs/cifar10
    batch = 128                      # --batch 128
    flip = true                      # --flip

An option on the command line wins over the file. training/configs/ holds ready-made files.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from training.errors import TrainingError


def _load(context: typer.Context, file: Path | None) -> Path | None:
    """Make the entries of `file` the defaults of this command's options.

    Raises TrainingError when the file cannot be read or an entry is no option.
    """
    if file is None:
        return None
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"cannot read the configuration {file}: {error}") from error
    options = {
        option.removeprefix("--"): str(parameter.name)
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--") and option not in ("--config", "--help")
    }
    for key, value in entries.items():
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(sorted(options))}"
            raise TrainingError(f"{file}: {key!r} is no option of `{context.info_name}`; {hint}")
        if isinstance(value, dict | list):
            raise TrainingError(f"{file}: {key!r} must be one value, as on the command line, not a table or a list")
    context.default_map = {options[key]: value for key, value in entries.items()}
    return file


Config = Annotated[
    Path | None,
    typer.Option("--config", is_eager=True, callback=_load, help="TOML file of this command's options; the command line wins."),
]
