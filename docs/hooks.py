"""MkDocs hooks: reference pages that are written from the code at each build, so that they cannot be out of date.

reference/http.md           the OpenAPI document of the service
reference/configuration.md  the fields of Settings
reference/sfddm.md, reference/sfddm-train.md    the help of the two commands
reference/metrics.md        metrics.md plus the registry of the service
reference/manifest.md       manifest.md plus the schema of Manifest
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

Schema = dict[str, Any]

_MARK = "<!-- generated -->"  # the place in a handwritten page for its generated part
_FACTORY_DEFAULTS = {"zoos": "the shipped models", "cache_dir": "the user's cache folder"}  # these differ by machine
_SHORT_B64 = 24  # shown characters of an example's base64


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated as a whole."""
    pages: dict[str, Callable[[], str]] = {
        "reference/http.md": http_page,
        "reference/configuration.md": configuration_page,
        "reference/sfddm.md": lambda: command_page("service.cli.main", "sfddm"),
        "reference/sfddm-train.md": lambda: command_page("training.cli", "sfddm-train"),
    }
    for path, write in pages.items():
        files.append(File.generated(config, path, content=write()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the generated part into a page that is otherwise written by hand."""
    parts = {"reference/metrics.md": metrics_table, "reference/manifest.md": manifest_tables}
    write = parts.get(page.file.src_uri)
    return markdown.replace(_MARK, write()) if write else markdown


def http_page() -> str:
    """Return every route, its fields and its answers, from the OpenAPI document with the shipped models."""
    from service.api.app import create_app
    from service.observability.logs import configure_logging
    from service.settings.model import Settings

    configure_logging("console", "error")
    document = create_app(Settings(cache_dir=None, provider="CPUExecutionProvider")).openapi()
    schemas = document["components"]["schemas"]
    by_tag: dict[str, list[str]] = {}
    inline = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = _body_of(operation)
            inline.add(body)
            by_tag.setdefault(operation["tags"][0], []).append(_operation(method, path, operation, schemas.get(body)))
    lines = [
        "# Routes and fields",
        "Written from the OpenAPI document of the code at each build of this site. A server shows its own at `/docs`, and "
        "gives it to machines at `/openapi.json`. [Rules of the API](api.md) says what all routes have in common.",
    ]
    for tag, operations in by_tag.items():
        lines += [f"## {tag.capitalize()}", *operations]
    lines.append("## Bodies")
    for name, schema in schemas.items():
        if name not in inline:
            lines += [f"### {name} {{ #{name.lower()} }}", _prose(schema.get("description", "")), _fields(schema)]
    return "\n\n".join(lines) + "\n"


def configuration_page() -> str:
    """Return the table of all settings."""
    from service.settings.model import Settings

    fields = Settings.model_json_schema()["properties"]
    rows = [
        (
            f"`SFDDM_{name.upper()}`",
            _kind(field, link=str.lower),
            _FACTORY_DEFAULTS.get(name) or _default(field.get("default", {})),
            _prose(field["description"]),
        )
        for name, field in fields.items()
    ]
    head = [
        "# Settings",
        "Written from the code at each build of this site. Each setting is an environment variable, here in the first column, "
        "and a key of the TOML file: `SFDDM_PORT` is `port` there. `sfddm serve` has options for those that change most often "
        "([its reference](sfddm.md#sfddm-serve)). [Configure a server](../how-to/configure.md) says which of them wins.",
    ]
    return "\n\n".join([*head, _table(("Setting", "Values", "Default", "Meaning"), rows)]) + "\n"


def command_page(module: str, name: str) -> str:
    """Return the help of a command and its sub-commands, as typer writes it. Raises CalledProcessError when typer fails."""
    command = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", name, "--title", name]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "".join(line if line.startswith(("```", "$")) else _prose(line) for line in text.splitlines(keepends=True))


def metrics_table() -> str:
    """Return name, kind and meaning of every metric of the service."""
    from service.observability.metrics import Metrics

    families = sorted(Metrics().registry.collect(), key=lambda family: family.name)
    rows = []
    for family in families:
        suffix = "_total" if family.type == "counter" else ""
        if family.name.startswith("sfddm_"):
            rows.append((f"`{family.name}{suffix}`", family.type, _prose(family.documentation)))
    return _table(("Metric", "Kind", "Meaning"), rows)


def manifest_tables() -> str:
    """Return the fields of manifest.json and of the objects inside it."""
    from models.manifest import Manifest

    schema = Manifest.model_json_schema()
    parts = [_fields(schema)]
    for name, part in schema["$defs"].items():
        parts += [f"### {name} {{ #{name.lower()} }}", _prose(part.get("description", "")), _fields(part)]
    return "\n\n".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any], body: Schema | None) -> str:
    lines = [f"### {method.upper()} {path}", f"**{operation['summary']}.** {_prose(operation.get('description', ''))}"]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (f"`{each['name']}`", each["in"], _kind(each["schema"]), _prose(each.get("description", ""))) for each in parameters
        ]
        lines.append(_table(("Parameter", "In", "Values", "Meaning"), rows))
    if body is not None:
        lines += ["Body:", _fields(body)]
        example = operation["requestBody"]["content"]["application/json"].get("example")
        lines += _example("Example of a body", example)
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            lines += _answer(status, answer)
    return "\n\n".join(lines)


def _answer(status: str, answer: dict[str, Any]) -> Iterator[str]:
    media = answer.get("content", {})
    kinds = [
        f"`{name}`" + (f": {_kind(content['schema'])}" if "$ref" in content.get("schema", {}) else "")
        for name, content in media.items()
    ]
    yield f"Answer {status}: {', '.join(kinds) or 'no body'}."
    for content in media.values():
        yield from _example("Example of an answer", content.get("example"))


def _example(title: str, example: object) -> list[str]:
    if not isinstance(example, dict | list):
        return []
    text = json.dumps(_shortened(example), indent=2)
    return ["\n".join([f'??? example "{title}"', "", "    ```json", *(f"    {line}" for line in text.splitlines()), "    ```"])]


def _shortened(value: Any) -> Any:
    """Shorten an example for the page: base64 to its start, lists of objects to the first, other lists to eight items."""
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in (value[:1] if value and isinstance(value[0], dict) else value[:8])]
    if isinstance(value, str) and value.startswith("iVBOR"):
        return value[:_SHORT_B64] + "…"
    return value


def _body_of(operation: dict[str, Any]) -> str | None:
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    return reference.rpartition("/")[2] or None


def _fields(schema: Schema) -> str:
    """Return the properties of an object as a table."""
    required = schema.get("required", [])
    rows = [
        (
            f"`{name}`",
            _kind(field),
            "required" if name in required else _default(field.get("default")),
            _prose(field.get("description", "")),
        )
        for name, field in schema.get("properties", {}).items()
    ]
    return _table(("Field", "Values", "Default", "Meaning"), rows) if rows else ""


def _default(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _anchor(name: str) -> str:
    """Return a link to the table of an object on the same page."""
    return f"[{name}](#{name.lower()})"


def _kind(schema: Schema, link: Callable[[str], str] = _anchor) -> str:
    """Describe the values that a schema allows, in a few words. link: makes the text for an object with a name."""
    if "$ref" in schema:
        return link(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(option, link) for option in schema["anyOf"] if option.get("type") != "null"))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(schema['items'], link)}" if "items" in schema else "list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_kind(schema['additionalProperties'], link)}"
    return kind + _bounds(schema)


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {low:.0f} to {high:.0f}"
    if low is not None:
        return f", {low:.0f} or more"
    if (above := schema.get("exclusiveMinimum")) is not None:
        return f", above {above:.0f}" + (f", {high:.0f} at most" if high is not None else "")
    return ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def _prose(text: str) -> str:
    """Return text of a docstring as Markdown. Outside backticks, characters that would be markup are escaped."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[<{]|(?<=/)\*", lambda found: f"&#{ord(found[0])};", part) for part in parts[::2]]
    return "`".join(parts)
