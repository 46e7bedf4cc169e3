"""Mean-field theory of learning: declare, derive, build, solve, measure, show.

Public names load at first use, so that `import dmft` is light.
"""

from __future__ import annotations

import importlib
from typing import Any

from dmft.names import VERSION

__version__ = VERSION

# Where each public name lives.
PUBLIC = {
    "SGD": "dmft.model",
    "Committee": "dmft.model",
    "Equations": "dmft.equations",
    "Event": "dmft.solvers.events",
    "Gaussian": "dmft.gaussian",
    "GradientFlow": "dmft.model",
    "Model": "dmft.model",
    "Overlaps": "dmft.model",
    "build": "dmft.codegen",
    "derive": "dmft.equations",
    "hermite": "dmft.gaussian",
    "population_risk": "dmft.equations",
    "random_overlaps": "dmft.model",
    "solve": "dmft.workflow",
}

__all__ = sorted([*PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'dmft' has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
