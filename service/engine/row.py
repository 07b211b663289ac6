"""A row: one image on its way through its plan, and the small arithmetic that is not in the step graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.catalogue import Resolved
from models.noise import initial_noise, slerp, step_noise
from models.pictures import to_uint8
from models.plan import Plan
from models.runtime.base import Float32, Network
from service.engine.request import Device, Event, Failed, Finished, ImageSpec, Preview, RowFailedError, Timing
from service.engine.ticket import Ticket


@dataclass(frozen=True)
class Output:
    """One row's result of a step: x_next and x0, float32 [C,H,W] each, from an evaluation that computed so many rows."""

    x_next: Float32
    x0: Float32
    computed_rows: int


class Row:
    """One image. Its tensors exist only from its first step on, so a queued row costs bytes."""

    __slots__ = (
        "_batch_rows",
        "_compute_s",
        "_largest",
        "_preview_steps",
        "_smallest",
        "_started_s",
        "_submitted_s",
        "model",
        "number",
        "position",
        "spec",
        "started",
        "step",
        "ticket",
        "x",
        "x0_prev",
    )

    def __init__(
        self,
        number: int,
        ticket: Ticket,
        position: int,
        spec: ImageSpec,
        model: Resolved,
        preview_steps: Sequence[int],
        submitted_s: float,
    ) -> None:
        """number: the engine's name for it; position: its place in the request; submitted_s: clock reading."""
        self.number = number
        self.ticket = ticket
        self.position = position
        self.spec = spec
        self.model = model
        self.started = False  # the engine's: whether it has been in a batch
        self.step = 0  # evaluations done; the plan row to run next
        self.x: Float32 | None = None
        self.x0_prev: Float32 | None = None
        self._preview_steps = preview_steps
        self._submitted_s = submitted_s
        self._started_s = 0.0
        self._compute_s = 0.0
        self._batch_rows = 0
        self._smallest = 0
        self._largest = 0

    @property
    def plan(self) -> Plan:
        return self.model.plan

    @property
    def finished(self) -> bool:
        return self.step == len(self.plan)

    def start(self, now_s: float) -> None:
        """Draw x_T at the first step and set x0_prev to zero; later steps change nothing."""
        if self.x is not None:
            return
        shape = self.model.entry.manifest.image.chw
        self.x = self._noise(lambda seed: initial_noise(seed, self.spec.index, shape))
        self.x0_prev = np.zeros_like(self.x)
        self._started_s = now_s

    def take(
        self, output: Output | RowFailedError, *, seconds: float, batch_rows: int, now_s: float, network: Network
    ) -> Event | None:
        """What one step made of the row: a finished image, a preview that is due, a failure, or nothing to tell yet."""
        if isinstance(output, RowFailedError):
            return Failed(self.position, self.spec, output)
        self.advance(output, seconds=seconds, batch_rows=batch_rows)
        return self.finish(now_s, network) if self.finished else self.preview()

    def advance(self, output: Output, *, seconds: float, batch_rows: int) -> None:
        """Take one step's result, adding s z where the plan is stochastic; batch_rows: images that shared the step."""
        x_next, computed_rows = output.x_next, output.computed_rows
        s = self.plan.s[self.step]
        if s:
            z = self._noise(lambda seed: step_noise(seed, self.spec.index, self.step, x_next.shape))
            x_next = x_next + np.float32(s) * z
        self.x, self.x0_prev = x_next, output.x0
        self.step += 1
        self._compute_s += seconds
        self.ticket.compute_s = max(self.ticket.compute_s, self._compute_s)  # now, as the request may be given up
        self._batch_rows += batch_rows
        self._smallest = min(self._smallest or computed_rows, computed_rows)
        self._largest = max(self._largest, computed_rows)

    def _noise(self, draw: Callable[[int], Float32]) -> Float32:
        """What `draw` gives for the image's seed, or between its two seeds."""
        noise = draw(self.spec.seed)
        if self.spec.blend is None:
            return noise
        other, fraction = self.spec.blend
        return slerp(noise, draw(other), fraction)

    def preview(self) -> Preview | None:
        """The preview that is due after the step just taken, if one is."""
        if self.step not in self._preview_steps:
            return None
        assert self.x0_prev is not None
        number = self._preview_steps.index(self.step)
        return Preview(self.position, self.spec, to_uint8(self.x0_prev), number, self.step, len(self.plan))

    def finish(self, now_s: float, network: Network) -> Finished:
        """The finished image, made by this network; call it after the last step."""
        assert self.x is not None
        timing = Timing(
            queue_s=self._started_s - self._submitted_s,
            compute_s=self._compute_s,
            total_s=now_s - self._submitted_s,
            mean_batch=self._batch_rows / self.step,
            estimated_s=self.ticket.estimated_s,
        )
        device = Device(network.provider, network.precision, self._smallest, self._largest)
        return Finished(self.position, self.spec, to_uint8(self.x), timing, device)


def preview_steps(steps: int, previews: int) -> tuple[int, ...]:
    """After which of `steps` evaluations `previews` previews are due: evenly spaced, strictly between 0 and `steps`.

    A plan shorter than that gives a preview after every evaluation but the last.
    """
    previews = min(previews, steps - 1)
    return tuple(round(steps * (number + 1) / (previews + 1)) for number in range(previews))
