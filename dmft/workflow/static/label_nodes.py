"""Nodes of the joint law of a label and its teacher field.

A label with Gaussian noise on an affine teacher is itself a Gaussian field, correlated with the
teacher's; other noise takes nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.gaussian.channels.declared import Label
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.nodes.line import panels
from dmft.gaussian.nodes.rules import tensor_rule

Array = NDArray[np.float64]
# Edges of panels of a standard normal variable; 2e-19 of it lies beyond the last.
EDGES = np.array([-9.0, -5.0, -3.0, -1.5, -0.5, 0.5, 1.5, 3.0, 5.0, 9.0])
# Nodes of the label noise, where it needs some.
NOISE_NODES = 24
# Weights below are left out.
SMALLEST = 1e-18


def halved(edges: Array, times: int) -> Array:
    """Edges with the middles of all panels, so many times."""
    for _ in range(times):
        edges = np.sort(np.concatenate([edges, 0.5 * (edges[1:] + edges[:-1])]))
    return edges


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
    def of(cls, label: Label, points: int, times: int = 0) -> LabelNodes:
        """Gauss panels between the kinks of a label, halved so many times."""
        (z,), channel = label.fields, label.channel()
        u, weight = panels(np.unique([*halved(EDGES, times), *channel.breaks]), points)
        weight = weight * np.exp(-0.5 * u**2) / np.sqrt(2.0 * np.pi)
        weight /= weight.sum()
        noise = float(label.noise)
        clean = np.broadcast_to(array_function([z], label.expr)(u), u.shape).astype(np.float64)
        is_affine = label.expr.is_polynomial(z) and sp.degree(label.expr, z) == 1
        if noise > 0.0 and label.flip == 0 and is_affine:
            slope, offset = (float(label.expr.coeff(z, n)) for n in (1, 0))
            length = np.copysign(np.hypot(slope, np.sqrt(noise)), slope)
            return cls(u, offset + length * u, clean, weight, slope / length)._kept()
        cases = [(clean, weight)]
        if label.drawn:
            cases = [
                (np.full(u.size, s), weight * channel.likelihood.chance(np.array(s), u))
                for s in (1.0, -1.0)
            ]
        elif label.flip != 0:
            flip = float(label.flip)
            cases = [(clean, weight * (1.0 - flip)), (-clean, weight * flip)]
        y, weight = (np.concatenate(each) for each in zip(*cases, strict=True))
        found = cls(np.tile(u, len(cases)), y, np.tile(clean, len(cases)), weight, 1.0)._kept()
        return found if noise == 0.0 else found._with_noise(noise, NOISE_NODES + 8 * times)

    def _kept(self) -> LabelNodes:
        here = self.weight > SMALLEST
        u, y, clean, weight = (e[here] for e in (self.u, self.y, self.clean, self.weight))
        return LabelNodes(u, y, clean, weight, self.share)

    def _with_noise(self, noise: float, count: int) -> LabelNodes:
        rule = tensor_rule(1, count)
        u, clean = (np.repeat(each, rule.weight.size) for each in (self.u, self.clean))
        y = (self.y[:, None] + np.sqrt(noise) * rule.normal[0]).ravel()
        weight = np.outer(self.weight, rule.weight).ravel()
        return LabelNodes(u, y, clean, weight, self.share)._kept()

    @property
    def signs(self) -> bool:
        """Whether all labels are +1 or -1."""
        return bool(np.all(np.abs(self.y) == 1.0))
