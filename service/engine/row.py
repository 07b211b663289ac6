"""A row: one image on its way through its plan, and the arithmetic that is not in the step graph."""

from __future__ import annotations

from collections.abc import Callable
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
    """The result of one row's step. computed_rows: rows of the evaluation, with padding."""

    x_next: Float32  # [C,H,W]
    x0: Float32  # [C,H,W]
    computed_rows: int


class Row:
    """One image. Its tensors exist only from its first step on, so a queued row costs few bytes."""

    __slots__ = (
        "_batch_rows",
        "_compute_s",
        "_largest",
        "_smallest",
        "_started_s",
        "number",
        "position",
        "started",
        "step",
        "ticket",
        "x",
        "x0_prev",
    )

    def __init__(self, number: int, ticket: Ticket, position: int) -> None:
        """ticket: the request. number: the row's number in the scheduler. position: the image's place in its request."""
        self.number = number
        self.ticket = ticket
        self.position = position
        self.started = False  # written by the ledger: the row has been in a batch
        self.step = 0  # evaluations done; also the index of the next step in the plan's tables
        self.x: Float32 | None = None
        self.x0_prev: Float32 | None = None
        self._started_s = 0.0
        self._compute_s = 0.0
        self._batch_rows = 0  # sum over the steps
        self._smallest = 0
        self._largest = 0

    @property
    def spec(self) -> ImageSpec:
        """The image's seed, index and class."""
        return self.ticket.generation.images[self.position]

    @property
    def model(self) -> Resolved:
        """The model and its plan."""
        return self.ticket.generation.model

    @property
    def plan(self) -> Plan:
        """The plan that the row follows."""
        return self.model.plan

    @property
    def finished(self) -> bool:
        """True after the last step."""
        return self.step == len(self.plan)

    def start(self, now_s: float) -> None:
        """Draw x_T and set x0_prev to zero, before the first step. Before later steps this does nothing."""
        if self.x is not None:
            return
        shape = self.model.entry.manifest.image.chw
        self.x = self._noise(lambda seed: initial_noise(seed, self.spec.index, shape))
        self.x0_prev = np.zeros_like(self.x)
        self._started_s = now_s

    def take(
        self, output: Output | RowFailedError, *, seconds: float, batch_rows: int, now_s: float, network: Network
    ) -> Event | None:
        """Take the output of one step. Return the finished image, a preview that is due, a failure, or None.

        seconds: time of the batch. batch_rows: rows in it. network: made the output.
        """
        if isinstance(output, RowFailedError):
            return Failed(self.position, self.spec, output)
        self.advance(output, seconds=seconds, batch_rows=batch_rows)
        return self.finish(now_s, network) if self.finished else self.preview()

    def advance(self, output: Output, *, seconds: float, batch_rows: int) -> None:
        """Move on by one step: x = x_next + s z, with z only where the plan is stochastic (s > 0)."""
        x_next, computed_rows = output.x_next, output.computed_rows
        s = self.plan.s[self.step]
        if s:
            z = self._noise(lambda seed: step_noise(seed, self.spec.index, self.step, x_next.shape))
            x_next = x_next + np.float32(s) * z
        self.x, self.x0_prev = x_next, output.x0
        self.step += 1
        self._compute_s += seconds
        # Written after every step, since the request may be cancelled at any time.
        self.ticket.compute_s = max(self.ticket.compute_s, self._compute_s)
        self._batch_rows += batch_rows
        self._smallest = min(self._smallest or computed_rows, computed_rows)
        self._largest = max(self._largest, computed_rows)

    def _noise(self, draw: Callable[[int], Float32]) -> Float32:
        """Draw noise for the image's seed. With a blend, move it along the arc towards the other seed's noise."""
        noise = draw(self.spec.seed)
        if self.spec.blend is None:
            return noise
        other, fraction = self.spec.blend
        return slerp(noise, draw(other), fraction)

    def preview(self) -> Preview | None:
        """Return the preview that is due after the step just taken, or None."""
        due = self.ticket.generation.preview_steps
        if self.step not in due:
            return None
        assert self.x0_prev is not None
        number = due.index(self.step)
        return Preview(self.position, self.spec, to_uint8(self.x0_prev), number, self.step, len(self.plan))

    def finish(self, now_s: float, network: Network) -> Finished:
        """Return the finished image. Call it after the last step. network: made the image."""
        assert self.x is not None
        timing = Timing(
            queue_s=self._started_s - self.ticket.submitted_s,
            compute_s=self._compute_s,
            total_s=now_s - self.ticket.submitted_s,
            mean_batch=self._batch_rows / self.step,
            estimated_s=self.ticket.estimated_s,
        )
        device = Device(network.provider, network.precision, self._smallest, self._largest)
        return Finished(self.position, self.spec, to_uint8(self.x), timing, device)
