"""The march of equations in two times: steps, interruption, checkpoints.

A stepper says what a step is and what is kept of the past: unit steps over sampled paths
(`dmft.solvers.two_time.descent_sweep`), or steps of fourth order on a thinned grid
(`dmft.solvers.two_time.thinned`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.names import Status
from dmft.solvers.checkpoint import load_arrays, save_arrays
from dmft.solvers.jobs import Job


class Stepper(ABC):
    """A march under way; at the end the message describes the status."""

    status: Status
    message: str

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all steps are done."""

    @abstractmethod
    def step(self) -> None:
        """Take one step, or a chunk of them; a step that fails sets the status."""

    @abstractmethod
    def where(self, status: Status) -> str:
        """The message of a march that was stopped here."""

    @abstractmethod
    def stored(self) -> dict[str, Any]:
        """Everything that the march needs to go on."""

    @abstractmethod
    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over what `stored` gave."""

    def stop(self, status: Status) -> None:
        """End here."""
        self.status, self.message = status, self.where(status)


Run = TypeVar("Run", bound=Stepper)


def march(run: Run, after: Callable[[Run], Status] = lambda run: Status.OK) -> Run:
    """Take the steps that are left.

    `after` is asked between steps; what it returns other than "ok" stops the march.
    """
    while not run.finished and run.status == Status.OK:
        run.step()
        if run.status == Status.OK:
            status = after(run)
            if status != Status.OK and not run.finished:
                run.stop(status)
    return run


def asked(job: Job) -> Status:
    """Whether a job lets its marches go on."""
    if not job.cancelled():
        return Status.OK
    return Status.TIMEOUT if job.late else Status.INTERRUPTED


class StepFile:
    """Checkpoint of one march, written every so many seconds; without a path nothing is kept."""

    def __init__(self, path: Path | None, every: float) -> None:
        self.path, self.every = path, every
        self._last = time.monotonic()

    def restore(self, run: Run) -> Run:
        """The march as it was left, or unchanged where there is no readable file."""
        data = None if self.path is None else load_arrays(self.path)
        if data is not None:
            run.restore(data)
        return run

    def save(self, run: Stepper, at_once: bool = False) -> None:
        """Write a march that is whole, when it is time for it."""
        if self.path is None or run.status == Status.NONFINITE:
            return
        now = time.monotonic()
        if at_once or now - self._last > self.every:
            save_arrays(self.path, run.stored())
            self._last = now


def array_in(path: Path, shape: tuple[int, ...], fresh: bool) -> NDArray[np.float64]:
    """An array that lives in a file."""
    try:
        file = np.lib.format.open_memmap(
            path, mode="w+" if fresh else "r+", dtype=np.float64, shape=shape
        )
    except OSError as error:
        raise BadParameter(f"cannot keep gradients in {str(path)!r}: {error}") from error
    return np.asarray(file)
