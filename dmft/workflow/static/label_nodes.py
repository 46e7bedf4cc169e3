"""Nodes of the joint law of a label and its teacher field.

A label with Gaussian noise on an affine teacher is itself a Gaussian field, correlated with the
teacher's; other noise takes nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.declared import Label
from dmft.gaussian.nodes.grid import array_function

Array = NDArray[np.float64]
# Edges of panels of a standard normal variable; 2e-19 of it lies beyond the last.
EDGES = np.array([-9.0, -5.0, -3.0, -1.5, -0.5, 0.5, 1.5, 3.0, 5.0, 9.0])
# Weights below are left out.
SMALLEST = 1e-18


@dataclass(frozen=True, eq=False)
class LabelNodes:
    """Nodes of a standard normal field u, of the label, and their weights (n,).

    `share` is the correlation of u with the teacher's field, which is u where it is 1; `clean` is
    the label before noise and flips at the teacher's field.
    """

    u: Array
    y: Array
    clean: Array
    weight: Array
    share: float

    @classmethod
    def of(cls, label: Label, points: int) -> LabelNodes:
        """Gauss panels between the kinks of a label, so many points in each."""
        (z,), noise, channel = label.fields, float(label.noise), label.channel()
        is_affine = label.expr.is_polynomial(z) and sp.degree(label.expr, z) == 1
        is_gaussian = noise > 0.0 and label.flip == 0 and is_affine
        if is_gaussian or not (noise or label.flip or label.drawn):
            channel = Channel(label.expr, z, mixture=((1.0, label.expr),))  # the label's values
        u, y, weight = (each[0] for each in channel.rule_z(np.zeros(1), 1.0, points))
        kept = weight > SMALLEST
        u, y, weight = u[kept], y[kept], weight[kept] / weight.sum()
        clean = np.array(np.broadcast_to(array_function([z], label.expr)(u), u.shape), dtype=float)
        if not is_gaussian:
            return cls(u, y, clean, weight, 1.0)
        slope, offset = (float(label.expr.coeff(z, n)) for n in (1, 0))
        length = np.copysign(np.hypot(slope, np.sqrt(noise)), slope)
        return cls(u, offset + length * u, clean, weight, slope / length)

    @property
    def signs(self) -> bool:
        """Whether all labels are +1 or -1."""
        return bool(np.all(np.abs(self.y) == 1.0))
