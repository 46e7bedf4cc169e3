"""Floor 0: symbolic work of several threads, one after the other.

SymPy completes what it knows of a symbol when it is asked, in a dictionary that all expressions
with that symbol share; a thread that compares two symbols meanwhile finds "dictionary changed size
during iteration". What derives, builds or integrates therefore takes turns; what runs compiled code
does not.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

TURN = threading.RLock()


def in_turn(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run by one thread at a time; it may call others of its kind."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with TURN:
            return function(*args, **kwargs)

    return alone


class _Key:
    """Equations as a key: their hash, which takes longer than a short run, is not made again."""

    def __init__(self, equations: Any) -> None:
        self.equations, self.fingerprint = equations, equations.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key) or self.fingerprint != other.fingerprint:
            return False
        return self.equations is other.equations or bool(self.equations == other.equations)


def once(build: Callable[..., R]) -> Callable[..., R]:
    """The function in turn, and once in a process for equal equations, its first argument."""

    @in_turn
    @functools.lru_cache(maxsize=64)
    def kept(key: _Key, *others: Any) -> R:
        return build(key.equations, *others)

    return functools.wraps(build)(lambda equations, *others: kept(_Key(equations), *others))


def _begin_anew() -> None:
    """A child has the thread that forked only, not the one whose turn it may have been."""
    global TURN
    TURN = threading.RLock()


os.register_at_fork(after_in_child=_begin_anew)
