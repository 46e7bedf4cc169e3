"""Floor 2: Gaussian calculus. Closed forms, Hermite expansions and exponents of functions."""

from contextvars import ContextVar
from typing import Any

# A recorder of the steps that the rules of the calculus announce in this context (`dmft.explain`,
# `dmft.gaussian.explained.recorder.Recorder`); nobody listens by default.
LISTENER: ContextVar[Any] = ContextVar("listener", default=None)
