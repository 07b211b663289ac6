"""Write the dashboards of deploy/grafana/dashboards with Grafana's own builders (grafana-foundation-sdk).

    python -m deploy.grafana.generate

Change a dashboard in the Python files of this folder, never its JSON.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.engine import engine
from deploy.grafana.latency import latency
from deploy.grafana.overview import overview

FOLDER = Path(__file__).parent / "dashboards"


def render() -> dict[str, str]:
    """Return every dashboard by file name."""
    boards = {"overview": overview(), "ab-latency": latency(), "engine": engine()}
    return {f"{name}.json": JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n" for name, made in boards.items()}


if __name__ == "__main__":
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
