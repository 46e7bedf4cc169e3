"""Answers about typed formulas, each pair of formulas in a process that has a budget of time.

A formula can make a derivation arbitrarily long, and no thread can end it. A process can be killed:
by its own timer, and when the page asks about another formula.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from dmft.errors import BadParameter
from dmft.explorer.page import encoded

# Seconds of one question; simulations and rows of a diagram have more.
BUDGET = {"solve": 60.0, "equations": 60.0, "simulate": 600.0, "diagram": 600.0}
# Processes at a time.
MOST = 3
# How a process ends whose time is up.
LATE = (1, -getattr(signal, "SIGALRM", 0))
Key = tuple[tuple[str, str], ...]


class Answering(Protocol):
    """A session: what answers questions."""

    def reply(self, question: Any, here: bool = False) -> dict[str, Any]:
        """Answer a question, in this process where `here`."""


class Process:
    """A Python process that answers questions about one pair of formulas, one after the other."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.running = subprocess.Popen(
            [sys.executable, "-m", "dmft.explorer.typed"], env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.lock = threading.Lock()
        self.is_ready = self.has_solved = self.is_ended = False

    def sent(self, data: bytes) -> Any:
        """Send bytes and read a line of JSON."""
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        try:
            self.running.stdin.write(data)
            self.running.stdin.flush()
            line = self.running.stdout.readline()
        except OSError as error:
            raise EOFError(str(error)) from error
        if not line:
            raise EOFError("no line")
        return json.loads(line)

    def reply(self, session: Answering, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, computed in this process where the other one cannot read the declaration."""
        with self.lock:
            self.is_ready = self.is_ready or self.sent(pickled(session))
            if not self.is_ready:
                return session.reply(question, here=True)
            timed = [BUDGET[question["kind"]], question]
            answer: dict[str, Any] = self.sent(json.dumps(timed).encode() + b"\n")
            self.has_solved |= question["kind"] == "solve" and "error" not in answer
            return answer

    def end(self) -> None:
        """Kill the process."""
        self.is_ended = True
        self.running.kill()
        self.running.wait()


class Typed:
    """Processes by formulas, at most `MOST`; what took too long is not derived again."""

    def __init__(self, session: Answering) -> None:
        self.session = session
        self.processes: OrderedDict[Key, Process] = OrderedDict()
        self.refused: dict[Key, str] = {}
        self.guard = threading.Lock()

    def reply(self, key: Key, question: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a question of which everything but its formulas was checked."""
        if key in self.refused:
            raise BadParameter(self.refused[key])
        process = self._process(key)
        try:
            return process.reply(self.session, question)
        except EOFError:
            pass
        with self.guard:
            self.processes.pop(key, None)
        if process.is_ended:
            raise BadParameter("cancelled: another formula was typed")
        code, seconds = process.running.wait(), BUDGET[question["kind"]]
        late = f"no answer within {seconds:g} s"
        reason = late if code in LATE else f"its process ended ({code})"
        words = (
            f"{' and '.join(text for _, text in key)}: {reason}, too long for the explorer; use "
            "a simpler formula, or dmft.derive and dmft.solve in Python"
        )
        if not process.has_solved:
            self.refused[key] = words
        raise BadParameter(words)

    def _process(self, key: Key) -> Process:
        with self.guard:
            if key not in self.processes:
                idle = [k for k, process in self.processes.items() if not process.lock.locked()]
                if len(self.processes) >= MOST and not idle:
                    raise BadParameter(
                        f"{MOST} other formulas are being derived: try again in a minute"
                    )
                if len(self.processes) >= MOST:
                    self.processes.pop(idle[0]).end()
                self.processes[key] = Process()
            self.processes.move_to_end(key)
            return self.processes[key]

    def cancel(self, key: Key) -> bool:
        """End a derivation that is not finished; whether there was one."""
        with self.guard:
            process = self.processes.get(key)
            if process is None or process.has_solved or not process.lock.locked():
                return False
            process.end()
            return True

    def end(self) -> None:
        """End all processes."""
        with self.guard:
            for process in self.processes.values():
                process.end()
            self.processes.clear()


def pickled(session: Answering) -> bytes:
    """A session as bytes; None where its declaration cannot be sent."""
    try:
        return pickle.dumps(session)
    except (pickle.PicklingError, AttributeError, TypeError):
        return pickle.dumps(None)


def _end_after(seconds: float) -> None:
    """End this process after some seconds, whatever it computes then; never if zero."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the default action of its signal
    elif seconds:  # reads the frames of a running thread, which can crash
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    """Read a session, then answer a question for each line."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints, prints elsewhere
    try:
        session: Answering | None = pickle.load(sys.stdin.buffer)
    except (AttributeError, ImportError):  # a class of the script that explores
        session = None
    answers.write(b"true\n" if session is not None else b"false\n")
    answers.flush()
    if session is None:
        return
    for line in sys.stdin.buffer:
        seconds, question = json.loads(line)
        _end_after(seconds)
        answer = encoded(session.reply(question, here=True))
        _end_after(0.0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
