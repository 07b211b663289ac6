"""The model card: facts of a model, its origin, its measured quality, and code that runs it with diffusers alone."""

from __future__ import annotations

from models.manifest import Manifest

_UNCONDITIONAL = """```python
import torch
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("PIPELINE_FOLDER")
images = pipeline(
    batch_size=4, num_inference_steps={steps},{exactly}
    generator=torch.Generator().manual_seed(0),
).images
```"""

_CONDITIONAL = """```python
import torch
from diffusers import {scheduler}, UNet2DModel

unet = UNet2DModel.from_pretrained("PIPELINE_FOLDER", subfolder="unet")
scheduler = {scheduler}.from_pretrained("PIPELINE_FOLDER", subfolder="scheduler")
scheduler.set_timesteps({steps})
x = torch.randn(4, {channels}, {height}, {width}, generator=torch.Generator().manual_seed(0))
label = torch.full((4,), {label})  # {label_name}
with torch.inference_mode():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, class_labels=label).sample, t, x{clipped}).prev_sample
pixels = ((x + 1) * 127.5).round().clamp(0, 255).byte()
```"""

_STOCK = {  # diffusers' names for our samplers, and the arguments that make its DDIM clip as ours does
    "ddim": {
        "pipeline": "DDIMPipeline",
        "scheduler": "DDIMScheduler",
        "exactly": " eta=0.0, use_clipped_model_output=True,",
        "clipped": ", use_clipped_model_output=True",
    },
    "dpmpp": {"pipeline": "DDPMPipeline", "scheduler": "DPMSolverMultistepScheduler", "exactly": "", "clipped": ""},
}


def model_card(manifest: Manifest) -> str:
    """Return the README.md of a model folder, from its manifest alone."""
    made = manifest.provenance
    image = manifest.image
    what = "Teacher" if manifest.kind == "teacher" else f"Student distilled from the {manifest.phi[-1]}-step teacher"
    facts = [
        ("kind", f"{what}, {manifest.steps} steps"),
        ("image", f"{image.channels} x {image.height} x {image.width}"),
        ("classes", ", ".join(manifest.classes) or "none (unconditional)"),
        ("prediction", manifest.prediction_type),
        ("parameters", f"{manifest.parameters:,}, stored as {manifest.dtype}"),
        ("data", made.data),
        (
            "objective",
            made.objective + (f", k = {made.k}" if made.k else "") + (f", guidance {made.guidance}" if made.guidance else ""),
        ),
        ("training images seen", f"{made.images:,}"),
        *([("network evaluations spent", f"{made.evaluations:,}")] if made.evaluations is not None else []),
        *([("training time", f"{made.seconds / 60:,.1f} minutes")] if made.seconds is not None else []),
        ("code", f"commit {made.commit}, exported {made.created}"),
    ]
    if made.teacher_sha256:
        facts.append(("teacher", f"model.onnx with sha256 {made.teacher_sha256[:16]}..."))
    lines = [f"# {manifest.id}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts), ""]
    if manifest.quality:
        metrics = sorted({metric for quality in manifest.quality.values() for metric in quality.metrics})
        lines += ["## Measured", "", f"| plan | images | {' | '.join(metrics)} |", "|---|---|" + "---|" * len(metrics)]
        for plan, quality in manifest.quality.items():
            cells = [f"{quality.metrics[m]:.4g}" if m in quality.metrics else "" for m in metrics]
            lines.append(f"| {plan} | {quality.images} | {' | '.join(cells)} |")
        commands = sorted({quality.command for quality in manifest.quality.values()})
        lines += ["", "Measured by " + ", ".join(f"`{command}`" for command in commands) + ".", ""]
    if manifest.sampler not in _STOCK:
        return "\n".join(lines)
    template = _CONDITIONAL if manifest.classes else _UNCONDITIONAL
    label = len(manifest.classes) // 2
    code = template.format(
        steps=manifest.steps,
        channels=image.channels,
        height=image.height,
        width=image.width,
        label=label,
        label_name=manifest.classes[label] if manifest.classes else "",
        **_STOCK[manifest.sampler],
    )
    lines += [
        "## With diffusers alone",
        "",
        "`sfddm-train export ... --pipeline PIPELINE_FOLDER` writes this model as a stock diffusers folder:",
        "",
        code,
        "",
        "Its images agree with the service's from the same noise: at least 99.9 % of 8-bit pixels are within 1.",
        "",
    ]
    return "\n".join(lines)
