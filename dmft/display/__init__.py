"""Floor 5: figures, LaTeX documents and bibliography of the records of lower floors."""

from dmft.display.plots import plot

__all__ = ["plot"]
