"""Work that is shared out to threads: progress, interruption, time limits."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from dmft.progress import CANCELLED, Progress, ProgressOption
from dmft.validation import as_count

# Progress is shown about this often.
SECONDS = 0.2
Result = TypeVar("Result")


class Job:
    """Progress and interruption, shared between threads."""

    def __init__(self, total: int, timeout: float = math.inf) -> None:
        """Expect `total` steps within `timeout` seconds."""
        self.stop = threading.Event()  # set when all threads are to end
        self.late = False  # whether that is because no time is left
        self.total, self.done = total, 0
        self._outer, self._lock = CANCELLED.get(), threading.Lock()
        self._began = time.monotonic()
        self._deadline = self._began + timeout

    def cancelled(self) -> bool:
        """Whether to end here: an interrupt, here or outside, or no time left."""
        if time.monotonic() > self._deadline:
            self.late = True
            self.stop.set()
        return self.stop.is_set() or (self._outer is not None and self._outer.is_set())

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def add(self, steps: int) -> None:
        """Count steps that were done."""
        with self._lock:
            self.done += steps


def thread_count(threads: int | None, name: str = "threads") -> int:
    """Number of threads or processes asked for; one a core when not asked."""
    if threads is None:
        return int(getattr(os, "process_cpu_count", os.cpu_count)() or 1)
    return as_count(threads, name)


def run_tasks(
    tasks: Iterable[Callable[[], Result]],
    job: Job,
    threads: int,
    progress: ProgressOption,
    label: str,
) -> list[Result]:
    """Run all tasks in threads; Ctrl-C asks them to end early and keeps what they return.

    An exception of one of them, or of the caller's progress function, ends the others and is
    raised.
    """
    waiting = list(tasks)
    workers = min(threads, len(waiting))
    with ThreadPoolExecutor(workers) as pool, Progress(progress, label) as bar:
        futures = [pool.submit(task) for task in waiting]
        try:
            _watch(futures, job, bar)
        except KeyboardInterrupt:
            job.stop.set()
        except BaseException:
            job.stop.set()
            raise
        return [future.result() for future in futures]


def _watch(futures: list[Future[Any]], job: Job, bar: Progress) -> None:
    """Show progress until all have ended; an exception of one is raised at once."""
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, timeout=SECONDS)
        for future in finished:
            future.result()
        bar.update(job.done / max(job.total, 1), f"{len(futures) - len(pending)}/{len(futures)}")
