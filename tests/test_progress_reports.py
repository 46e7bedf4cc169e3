"""Progress: only on a terminal, only after two seconds, never when switched off."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
import types

import pytest

from dmft import progress as module
from dmft.progress import CANCELLED, Progress, is_cancelled


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal():
    return Terminal()


def work(clock, option, seconds, screen=None):
    # Set here, not in a fixture: pytest puts its own stderr back before the test's body.
    with contextlib.redirect_stderr(screen or sys.stderr), Progress(option, "solve") as bar:
        for i in range(1, 11):
            clock[0] += seconds / 10
            bar.update(i / 10, f"step {i}")


@pytest.mark.parametrize("tqdm", [True, False])
def test_a_bar_after_two_seconds(clock, terminal, monkeypatch, tqdm):
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    work(clock, None, 10.0, terminal)
    text = terminal.getvalue()
    assert "solve" in text
    assert "100.0 %" in text.replace("100.0%", "100.0 %")
    assert "10.0 %" not in text.replace("100.0 %", "")  # the first second was silent


def test_short_work_shows_nothing(clock, terminal):
    work(clock, None, 1.9, terminal)
    assert terminal.getvalue() == ""


def test_switched_off_or_not_a_terminal_shows_nothing(clock, terminal):
    work(clock, False, 60.0, terminal)
    assert terminal.getvalue() == ""
    log = io.StringIO()
    work(clock, None, 60.0, log)
    work(clock, True, 60.0, log)
    assert log.getvalue() == ""


def test_a_callable_hears_everything(clock):
    heard = []
    work(clock, lambda fraction, message: heard.append((fraction, message)), 0.0)
    assert heard[-1] == (1.0, "step 10")
    assert len(heard) == 10


def test_only_the_parallel_job_itself_draws(clock, terminal):
    flag = threading.Event()
    token = CANCELLED.set(flag)
    try:
        work(clock, None, 60.0, terminal)
        assert terminal.getvalue() == ""
        assert not is_cancelled()
        flag.set()
        assert is_cancelled()
    finally:
        CANCELLED.reset(token)
    assert not is_cancelled()


@pytest.fixture
def notebook():
    """A module that stands for IPython in a kernel of Jupyter's."""
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    return types.SimpleNamespace(get_ipython=lambda: shell)


def test_asked_for_aloud_it_begins_at_once_and_stays(clock, terminal):
    work(clock, True, 0.01, terminal)
    assert "100.0 %" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_notebooks_have_bars_and_logs_in_which_kernels_are_loaded_have_none(
    clock, monkeypatch, notebook
):
    # Text as on a terminal: the widget would need a front end.
    monkeypatch.setitem(sys.modules, "tqdm", None)
    log = io.StringIO()
    monkeypatch.setitem(sys.modules, "ipykernel", module)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    work(clock, True, 60.0, log)
    assert log.getvalue() == ""
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    work(clock, None, 10.0, log)
    assert "solve" in log.getvalue()


def test_people_see_the_innermost_stage_and_how_long_they_wait(terminal, monkeypatch):
    monkeypatch.setattr(module, "SHOW_AFTER_SECONDS", 0.02)
    monkeypatch.setattr(module, "REWRITE_SECONDS", 0.01)
    monkeypatch.setattr(module, "_SHOWN", module._Stages())

    def stages():
        with module.stage("deriving"), module.stage("compiling"):
            time.sleep(0.1)

    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        stages()
    assert log.getvalue() == ""
    with contextlib.redirect_stderr(terminal):
        with module.as_asked(False):
            stages()
        assert terminal.getvalue() == ""
        stages()
    assert "dmft: compiling (0 s)" in terminal.getvalue()
    assert terminal.getvalue().endswith(" \r")  # the line is gone


def test_stages_of_threads_end_in_any_order(terminal, monkeypatch):
    monkeypatch.setattr(module, "SHOW_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(module, "REWRITE_SECONDS", 0.01)
    monkeypatch.setattr(module, "_SHOWN", module._Stages())
    with contextlib.redirect_stderr(terminal):
        first, second = module.stage("deriving"), module.stage("compiling")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        time.sleep(0.1)
        second.__exit__(None, None, None)
    assert "dmft: compiling (0 s)" in terminal.getvalue()
