"""Read what a batch left on the device while the device runs the next batch: a stream of its own, one batch behind.

The host hands a batch over once its forward pass is in the device's queue, and then works on the batch before it. What it
waits for is then already computed, or is computed beside the pass that runs; the device never waits for the host.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Batch = TypeVar("Batch")


class SideStream(Generic[Batch]):
    """At most two batches are held: the one that runs and the one that is worked on.

    `work` must have waited for its results when it returns: what it read is given back to the device then.
    """

    def __init__(self, device: torch.device, work: Callable[[Batch], None]) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's stub
        self._work = work
        self._waiting: deque[tuple[Batch, torch.cuda.Event | None]] = deque()

    def hand_over(self, batch: Batch) -> None:
        """Queue a batch behind what the device was asked for until now, and work on the one before it."""
        # of the batch's device, which need not be the current one: cuda:1
        ready = None if self._stream is None else torch.cuda.current_stream(self._device).record_event()
        self._waiting.append((batch, ready))
        if len(self._waiting) > 1:
            self._work_on_oldest()

    def finish(self) -> None:
        """Work on everything that is left."""
        while self._waiting:
            self._work_on_oldest()

    def _work_on_oldest(self) -> None:
        batch, ready = self._waiting.popleft()
        with self._after(ready):
            self._work(batch)

    @contextmanager
    def _after(self, ready: "torch.cuda.Event | None") -> Iterator[None]:
        if self._stream is None or ready is None:
            yield
            return
        self._stream.wait_event(ready)
        with torch.cuda.stream(self._stream):
            yield
