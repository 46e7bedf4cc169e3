"""Equations as LaTeX, as text, and unrolled into scalars."""
