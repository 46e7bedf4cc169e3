"""Starts of simulated runs, checked against their model."""

from __future__ import annotations

import numpy as np

from dmft.errors import BadParameter, ShapeMismatch
from dmft.model import Model, Overlaps, check_readout

# A start declared on the sphere may carry the rounding of its user's own normalisation.
SPHERE_TOLERANCE = 1e-10


def check_start(start: Overlaps, model: Model, constraint: str | None) -> None:
    """Refuse a start with other widths than the model, or off the sphere."""
    if not isinstance(start, Overlaps):
        raise BadParameter(f"start must be dmft.Overlaps or None, got {start!r}")
    if start.blocks != model.blocks:
        raise ShapeMismatch(f"M is {start.M.shape}, expected {model.blocks or 'no'} blocks first")
    widths = (model.student.width, model.teacher.width)
    for width, given in zip(widths, (start.p, start.k), strict=True):
        if width.is_Integer and int(width) != given:
            raise ShapeMismatch(
                f"start holds widths p, k = {start.p}, {start.k}; the model has {widths}"
            )
    check_readout(model, start)
    if constraint is None:
        return
    off = np.abs(np.diag(start.Q) - 1.0)
    if float(off.max()) > SPHERE_TOLERANCE:
        j = int(off.argmax())
        raise BadParameter(
            f"the sphere constraint needs Q_jj = 1, but Q[{j},{j}] = {float(start.Q[j, j])!r}; "
            "normalise the start, or drop the constraint"
        )
