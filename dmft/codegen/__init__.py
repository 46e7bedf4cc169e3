"""Floor 4: the bridge from `Equations` through loops to a compiled `Problem`."""

from dmft.codegen.build import build

__all__ = ["build"]
