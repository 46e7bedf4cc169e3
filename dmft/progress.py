"""Progress of long work: one small protocol for solvers, simulations and diagrams.

A bar appears when the work has lasted for two seconds, or at once and to stay with
`progress=True`; on a terminal and in a notebook, never in a log, and never when the caller says
`progress=False`. A callable is told at once and everywhere. `CANCELLED` lets an
interrupted parallel job ask the runs in its threads to stop: threads receive no Ctrl-C themselves.

Work of which no fraction is known (equations that are derived, code that is compiled) is a `stage`:
from two seconds on, a terminal and a notebook say what it is and how long the wait has lasted.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cached_property
from types import TracebackType
from typing import Any

ProgressOption = bool | Callable[[float, str], None] | None

# Work shorter than this shows nothing: a flash of a bar is noise.
SHOW_AFTER_SECONDS = 2.0
# The plain line is rewritten at most this often.
REWRITE_SECONDS = 0.5

CANCELLED: ContextVar[threading.Event | None] = ContextVar("dmft_cancelled", default=None)
# How many points the parallel job has in all: what is worth compiling depends on that.
EXPECTED: ContextVar[int] = ContextVar("dmft_expected", default=0)
# Whether the caller wants to be told nothing, as `progress=False` says.
SILENT: ContextVar[bool] = ContextVar("dmft_silent", default=False)


def is_cancelled() -> bool:
    """True when the parallel job that this thread works for was interrupted."""
    flag = CANCELLED.get()
    return flag is not None and flag.is_set()


@contextlib.contextmanager
def stage(message: str) -> Iterator[None]:
    """While it lasts, people see what is being done; of stages within others, the innermost.

    Parallel jobs show nothing: they have a bar of their own.
    """
    if SILENT.get() or CANCELLED.get() is not None or not is_watched():
        yield
        return
    _SHOWN.begin(message)
    try:
        yield
    finally:
        _SHOWN.end(message)


class _Stages:
    """What is being done, and the line that says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[str] = []
        self._screen: Any = None
        self._since: float | None = None
        self._width = 0

    def begin(self, message: str) -> None:
        with self._lock:
            self._running.append(message)
            self._screen = sys.stderr
            if self._since is None:
                self._since = time.monotonic()
                threading.Thread(target=self._watch, args=(self._since,), daemon=True).start()

    def end(self, message: str) -> None:
        with self._lock:
            self._running.remove(message)
            if not self._running:
                self._write("")

    def _watch(self, since: float) -> None:
        """Rewrite the line; stages that follow each other closely are one wait."""
        while True:
            time.sleep(REWRITE_SECONDS)
            with self._lock:
                if not self._running:
                    self._since = None
                    return
                waited = time.monotonic() - since
                if waited >= SHOW_AFTER_SECONDS:
                    self._write(f"dmft: {self._running[-1]} ({waited:.0f} s)")

    def _write(self, text: str) -> None:
        if text or self._width:
            end = "" if text else "\r"
            self._screen.write(f"\r{text:<{self._width}}{end}")
            self._screen.flush()
            self._width = max(self._width, len(text)) if text else 0


_SHOWN = _Stages()


def _configuration() -> Any:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return () if shell is None else shell.config


def is_watched() -> bool:
    """Whether people see what is written while the work goes on."""
    return sys.stderr.isatty() or ("ipykernel" in sys.modules and "IPKernelApp" in _configuration())


@contextlib.contextmanager
def as_asked(option: ProgressOption) -> Iterator[None]:
    """Show no stages while the caller wants silence."""
    token = SILENT.set(SILENT.get() or option is False)
    try:
        yield
    finally:
        SILENT.reset(token)


class Progress:
    """Reports the fraction of a piece of work that is done; use as a context manager.

    `option` is None (a bar after two seconds), True (a bar at once), False (silent), or a callable
    of (fraction, message). Bars are drawn on terminals and in notebooks, after the `label`.
    """

    def __init__(self, option: ProgressOption, label: str) -> None:
        self._call = option if callable(option) else None
        # Inside a parallel job only the job itself draws.
        alone = CANCELLED.get() is None
        self._wanted = self._call is None and option is not False and alone
        self._at_once = option is True
        self._label = label
        self._start = time.monotonic()
        self._last = 0.0
        self._bar: Any = None
        self._line = False
        self._latest = (0.0, "")

    @cached_property
    def _shown(self) -> bool:
        """Whether a bar is drawn: looked at when it is time to, not by each short run."""
        return self._wanted and is_watched()

    def update(self, fraction: float, message: str = "") -> None:
        """Say that this fraction (0 to 1) is done."""
        if self._call is not None:
            self._call(fraction, message)
            return
        now = time.monotonic()
        self._latest = (fraction, message)
        if now - self._start < SHOW_AFTER_SECONDS and not self._at_once:
            return
        if not self._shown:
            return
        if now - self._last >= REWRITE_SECONDS:
            self._last = now
            self._draw(min(max(fraction, 0.0), 1.0), message)

    def _draw(self, fraction: float, message: str) -> None:
        if self._bar is None and not self._line:
            self._bar = _tqdm_bar(self._label, self._at_once)
            self._line = self._bar is None
        if self._line:
            sys.stderr.write(f"\r{self._label}: {100 * fraction:5.1f} %  {message:<40.40}")
            sys.stderr.flush()
            return
        self._bar.n = round(100 * fraction, 1)
        self._bar.set_postfix_str(message)

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self._at_once and self._shown:
            self._draw(min(max(self._latest[0], 0.0), 1.0), self._latest[1])
        if self._bar is not None:
            self._bar.close()
        elif self._line:
            sys.stderr.write("\n")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._latest = (1.0, self._latest[1])
        self.close()


def _tqdm_bar(label: str, stays: bool) -> Any:
    """Return a tqdm bar from 0 to 100, or None when tqdm is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a line of text
            from tqdm.auto import tqdm
    except ImportError:
        return None
    form = "{desc}: {percentage:5.1f} %|{bar}| {elapsed}<{remaining} {postfix}"
    return tqdm(total=100.0, desc=label, bar_format=form, file=sys.stderr, leave=stays)
