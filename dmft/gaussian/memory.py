"""What a session has computed, remembered by content: the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import sympy as sp

from dmft.gaussian import LISTENER

# Kept results; the largest of ordinary use (3355 terms) takes about 3 MB.
SIZE = 512


class Memory:
    """Results by key; SymPy tells floats of different precision apart."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._known: OrderedDict[Hashable, sp.Expr] = OrderedDict()
        self._lock = Lock()

    def recall(self, key: Hashable, compute: Callable[[], sp.Expr]) -> sp.Expr:
        """The remembered value, or a computed one that is remembered from now on.

        While someone listens, computed anew and not remembered.
        """
        if LISTENER.get() is not None:
            return compute()
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        value = compute()
        with self._lock:
            self._known[key] = value
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
