"""The table of models agrees with the manifests of the models that ship."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from models.catalogue import discover
from service.cli.models_table import models_table
from service.features.models import known_model
from service.schema.models import model_body
from tests.service.api.conftest import serving, tiny_app

ZOO = Path(__file__).parents[3] / "models" / "zoo"


@pytest.mark.anyio
async def test_the_table_leads_with_what_the_readme_leads_with(tiny_zoo: Path) -> None:
    app = tiny_app(tiny_zoo)
    async with serving(app):
        service = app.state.service
        body = model_body(known_model(service, service.catalogue.resolve("tiny/student-004")))
    manifests = [entry.manifest for entry in discover([ZOO]).entries.values()]
    listed = [
        body.model_copy(update={name: getattr(each, name) for name in ("id", "steps", "kind", "sampler", "quality", "ranking")})
        for each in manifests
    ]
    console = Console(file=io.StringIO(), width=90)  # at 80 the longest id would be folded
    console.print(models_table(listed))
    assert isinstance(console.file, io.StringIO)
    rows = {cells[0]: cells for line in console.file.getvalue().splitlines() if len(cells := line.split()) > 5}
    for manifest in manifests:
        row = " ".join(rows[manifest.id])
        metrics = manifest.quality[manifest.plan_name].metrics
        psnr = "-" if manifest.kind == "teacher" else f"{metrics['psnr_db']:.1f}"
        assert row.endswith(f"{psnr} KID {1000 * metrics['kid']:.3g}")
