"""How far runs in d dimensions are from the equations of optimisers that scale their steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dmft.equations.update.adaptive.factors import has_exact_coordinates
from dmft.model import Model, Spectrum
from dmft.model.optimisers.adaptive import LONG

# Coordinates are leading from this share of the variance of the outputs on.
LEADING = 0.02
# Fluctuations of second moments change steps by this times 1 - beta_2.
FLUCTUATION = 2.5


def claims_of(model: Model, algorithm: Any) -> list[str]:
    """Statements on leading coordinates and on second moments, with their relative orders.

    A coordinate that carries a share of psi has other moments of steps than c_e S_jj, by the order
    of this share. That of the outputs is the one at a start of zero.
    """
    spectrum, name, found = model.spectrum, type(algorithm).__name__, []
    if spectrum is None or spectrum.scaled:
        return []
    number, share = _leading(spectrum, model.teacher.width)
    if number:
        effect = f"steps of {name} there are off by the relative order of that share"
        if has_exact_coordinates(model, algorithm):
            effect = "included exactly"
        directions = "direction carries" if number == 1 else "directions carry"
        found.append(f"{number} {directions} {share} of the outputs: {effect}")
    dim, fixed = spectrum.dim, getattr(algorithm, "beta2", None)
    if dim is None or fixed is not None or not hasattr(algorithm, "eps"):
        return found
    text = f"second moments of {name} in runs with d = {dim}"
    forgotten = 1 / (LONG * math.sqrt(dim))
    if algorithm.kept:
        size = FLUCTUATION / dim
        order = f"fluctuate: a relative order of {size:.2g} second_moment_rate learning_rate/p"
    else:
        late = 1 / (forgotten * dim)
        order = (
            f"are averages over {1 / forgotten:.0f} steps: a relative order of "
            f"{FLUCTUATION * forgotten:.2g} + {late:.2g} learning_rate/p"
        )
    return [*found, f"{text} {order}"]


def _leading(spectrum: Spectrum, k: int) -> tuple[int, str]:
    """How many coordinates carry a share of the outputs, and the largest share."""
    alone = spectrum.inverse_counts
    if not alone.any():
        return 0, ""
    if spectrum.teacher is None and np.any(spectrum.fractions == 0.0):
        return int(np.sum(spectrum.fractions == 0.0)), "a share"
    variance = spectrum.eigenvalues * np.einsum("err->e", spectrum.teacher_blocks(k))
    lead = variance * alone > LEADING * variance.sum()
    if not lead.any():
        return 0, ""
    largest = np.max(variance * alone) / variance.sum()
    return round(float(np.sum(1.0 / alone[lead]))), f"up to {largest:.0%} each"
