"""Compare the training throughput of our loops with a plain diffusers script that trains the same network.

    python -m benchmarks.training_speed             28 x 28 grey, the shipped teacher's network without classes
    python -m benchmarks.training_speed --quick     a few updates of a small network
    python -m benchmarks.training_speed --size 32 --channels 3 --widths 128,256,256,256 --batch 128 \\
        --precision bf16 --compile

The plain script is the loop of diffusers' examples/unconditional_image_generation/train_unconditional.py: DDPMScheduler, mean
squared error of the noise, AdamW, cosine schedule and EMAModel with the example's own settings, under accelerate. All loops
read the same random images from memory, so no figure includes decoding.

Distillation is also compared per network evaluation: an image takes k teacher evaluations and a student update, which is
k + 3 evaluations, where a teacher's update takes 3.

Every round runs each loop once, in random order. Ratios are taken within a round, so that slow moments of the machine affect
both sides. Prints a Markdown table of medians with the range of the rounds; --out writes JSON.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from benchmarks.common import print_table, save, spread
from models.network import build_unet
from models.schedule import alpha_bar_table
from models.subsequence import uniform_phi
from training.accelerator import make_accelerator
from training.config import LoopConfig, TeacherConfig
from training.data import ImageSource
from training.loop import fit
from training.loss import Loss
from training.noising import Noising
from training.objective_config import RolloutConfig
from training.objectives.rollout import rollout
from training.run_facts import ModelFacts, ModelProvenance, RunFacts, RunProvenance
from training.teacher import teacher_loss
from training.torch_model import TorchModel
from training.unet import UNetShape

STEPS = 1024


class Clock:
    """Marks the start of every update. The first ones are not counted: they compile, allocate and fill caches."""

    WARM_UP = 3

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())

    def seconds(self) -> float:
        """Return the mean seconds of one update."""
        kept = self.marks[self.WARM_UP :]
        return (kept[-1] - kept[0]) / (len(kept) - 1)


def timed(loss: Loss, clock: Clock) -> Loss:
    """Return `loss` as a function that marks each call."""

    def marked(*arguments: Any) -> torch.Tensor:
        clock.mark()
        return loss(*arguments)

    return marked


class Bench:
    """One network shape and batch, and the loops that train it for a number of updates."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        widths = tuple(int(width) for width in arguments.widths.split(","))
        attention = (*(False for _ in widths[:-1]), True)
        shape = UNetShape(
            channels=widths, layers=arguments.layers, attention=attention, groups=min(16, *widths), head_dim=min(widths)
        )
        self.image = (arguments.channels, arguments.size, arguments.size)
        self.config = shape.unet_config(self.image, classes=0)
        pixels = np.random.default_rng(0).integers(0, 256, (1024, *self.image), dtype=np.uint8)
        self.source = ImageSource("random", self.image, lambda index: pixels[index], None, (), len(pixels))
        self.phi, self.alpha_bar = uniform_phi(STEPS, 16), alpha_bar_table("cosine", STEPS)

    def network(self) -> UNet2DModel:
        torch.manual_seed(0)
        return build_unet(self.config)

    def loop(self, updates: int) -> LoopConfig:
        given = self.arguments
        return LoopConfig(
            images=updates * given.batch, batch=given.batch, precision=given.precision, compile=given.compile,
            checkpoint_images=10**12, sample_images=10**12,
        )  # fmt: skip

    def facts(self, loop: LoopConfig) -> RunFacts:
        """Return the facts of the network that a checkpoint would record."""
        model = ModelFacts(
            kind="teacher", unet=self.config, alpha_bar=self.alpha_bar.tolist(), phi=list(range(STEPS + 1)),
            labels=list(range(STEPS)), shape=self.image, prediction_type="v_prediction",
        )  # fmt: skip
        return RunFacts(model=model, provenance=RunProvenance(data="random", objective="diffusion"), loop=loop)

    def teacher(self, updates: int, clock: Clock) -> None:
        """Run our teacher loop."""
        loop = self.loop(updates)
        loss = teacher_loss(TeacherConfig(steps=STEPS, loop=loop), self.alpha_bar, None)
        with tempfile.TemporaryDirectory() as run:
            fit(
                self.network(), timed(loss, clock), self.source, self.facts(loop), Path(run),
                resume=False, accelerator=make_accelerator(loop.precision),
            )  # fmt: skip

    def distill(self, updates: int, clock: Clock) -> None:
        """Run our distillation loop."""
        loop, accelerator = self.loop(updates), make_accelerator(self.arguments.precision)
        network = self.network().to(accelerator.device, memory_format=torch.channels_last).requires_grad_(False).eval()
        steps = np.arange(STEPS)
        made = ModelProvenance(data="random", objective="diffusion")
        teacher = TorchModel(network, "teacher", self.alpha_bar, np.arange(STEPS + 1), steps, self.image, "v_prediction", made)
        noising = Noising(teacher, self.phi, batch=loop.batch, flip=False)
        objective = rollout(teacher, self.phi, noising, RolloutConfig(k=self.arguments.k))
        with tempfile.TemporaryDirectory() as run:
            fit(
                self.network(), timed(objective.loss, clock), self.source, self.facts(loop), Path(run),
                resume=False, accelerator=accelerator,
            )  # fmt: skip

    def diffusers(self, updates: int, clock: Clock) -> None:
        """Run the loop of the diffusers example on the same network, batch and precision, with the example's own defaults."""
        accelerator = make_accelerator(self.arguments.precision)
        dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.arguments.precision]
        model, scheduler = self.network(), DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="linear")
        average = EMAModel(
            model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75,
            model_cls=UNet2DModel, model_config=model.config,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        loader = torch.utils.data.DataLoader(self.source, batch_size=self.arguments.batch, shuffle=True, drop_last=True)
        rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=10_000)
        model, optimizer, loader, rate = accelerator.prepare(model, optimizer, loader, rate)
        average.to(accelerator.device)
        if self.arguments.compile:
            model = torch.compile(model)
        done = 0
        while done < updates:
            for pixels, _ in loader:
                clock.mark()
                clean = (pixels.float() / 127.5 - 1).to(dtype)
                noise = torch.randn(clean.shape, dtype=dtype, device=clean.device)
                t = torch.randint(0, STEPS, (len(clean),), device=clean.device)
                with accelerator.accumulate(model):
                    prediction = model(scheduler.add_noise(clean, noise, t), t).sample
                    loss = torch.nn.functional.mse_loss(prediction.float(), noise.float())
                    accelerator.backward(loss)
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    rate.step()
                    optimizer.zero_grad()
                average.step(model.parameters())
                loss.detach().item()  # for its progress bar
                done += 1
                if done == updates:
                    break


def summary(rates: dict[str, list[float]], evaluations: dict[str, int]) -> list[dict[str, Any]]:
    """Return a row for each loop: images/s of its rounds, and its ratios to the first loop, each taken within a round."""
    plain, *_ = rates
    rows = []
    for name, seen in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(seen, rates[plain], strict=True)]
        share = evaluations[name] / evaluations[plain]
        rows.append({
            "loop": name,
            "images_per_s": spread(seen),
            "ratio": spread(ratios),
            "ratio_per_evaluation": spread([ratio * share for ratio in ratios]),
        })  # fmt: skip
    return rows


def _shown(values: dict[str, float]) -> str:
    """Format a spread as `median (low - high)` with separators for thousands."""
    return "{median:,.2f} ({low:,.2f} - {high:,.2f})".format(**values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--widths", default="32,64,96")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--k", type=int, default=4, help="teacher sub-steps of the distillation")
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--updates", type=int, default=20, help="timed updates a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small network, two updates, one round")
    parser.add_argument("--out", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.size, arguments.widths, arguments.layers = 8, "16,32", 1
        arguments.batch, arguments.updates, arguments.rounds = 8, 2, 1
    bench = Bench(arguments)
    loops = {"diffusers script": bench.diffusers, "teacher": bench.teacher, f"distill, k = {arguments.k}": bench.distill}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(arguments.rounds):
        for name in random.Random(round_).sample(list(loops), len(loops)):
            clock = Clock()
            loops[name](Clock.WARM_UP + 1 + arguments.updates, clock)
            rates[name].append(arguments.batch / clock.seconds())
    rows = summary(rates, dict(zip(loops, (3, 3, 3 + arguments.k), strict=True)))
    keys = ("images_per_s", "ratio", "ratio_per_evaluation")
    columns = ("loop", "images/s", "to the diffusers script", "the same, per network evaluation")
    print_table(columns, [[row["loop"], *(_shown(row[key]) for key in keys)] for row in rows])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = {name: version(name) for name in ("torch", "diffusers", "accelerate")}
    machine = {"device": device, "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    save(arguments.out, {**machine, **settings, "rates": rates, "rows": rows})


if __name__ == "__main__":
    main()
