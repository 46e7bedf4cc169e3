r"""Growth of a small perturbation of a network, by a sweep over sites and their perturbations.

The couplings act on psi = phi'(x) y of a perturbation y. (x, y) is a process whose fields have the
covariances of the outputs phi and psi, and the same memory; the exponent is that of E y^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dmft.arrays import Array
from dmft.solvers.network.kernels import add_rows, correlate, factor_row
from dmft.solvers.network.sweep import SiteProblem, Sweep

# Size of a perturbation at which all of its past is scaled down.
TOO_LARGE = 1e60


class Perturbed(Sweep):
    """A sweep over sites and perturbations of one population; `growth` is log(E y^2) / 2.

    Outputs and perturbations of outputs alternate as rows of one process, so that one triangular
    factor holds the covariances within and between both fields.
    """

    def __init__(
        self, problem: SiteProblem, steps: int, paths: int, start: Sequence[Array],
        sites: Sequence[Array], generator: np.random.Generator,
    ) -> None:  # fmt: skip
        size = 2 * (steps + 1)
        self.rows = np.zeros((size, paths))
        self.joint, self.table = np.zeros((size, size)), np.zeros(size)
        self.fresh = generator.standard_normal((size, paths))
        self.y = generator.standard_normal(paths)
        self.y /= math.sqrt(float(np.mean(self.y**2)))
        self.scale, self.growth = 0.0, np.zeros(steps + 1)
        super().__init__(problem, steps, paths, start, sites, generator)

    def step(self) -> None:
        """Take one step of the sites and of the perturbations."""
        k, p, y = self.done, self.problem, self.y
        slope = np.broadcast_to(p.output[0](self.states[0, k], self.sites[0])[1], y.shape)
        self.rows[2 * k], self.rows[2 * k + 1] = self.outputs[0, k], slope * y
        self.fresh[2 * k] = self.innovations[0][k]
        strength = p.coupled[0] * math.sqrt(self._strength(k))
        zeta = np.zeros(self.paths)
        for row in (2 * k, 2 * k + 1):
            correlate(self.rows, row, self.table)
            factor_row(self.joint, self.table, row)
        add_rows(self.fresh, strength * self.joint[2 * k + 1], 2 * k + 2, zeta)
        kernel = p.kernel[0]
        if kernel is not None and k:
            s = np.arange(k) * p.dt
            weight = np.zeros(2 * k)
            weight[1::2] = kernel(self.corr[:, k, :k], self.resp[:, k, :k], k * p.dt, s)
            add_rows(self.rows, weight, 2 * k, zeta)
        super().step()
        by_state, by_field = self.derivatives
        self.y = by_state * y + by_field * zeta
        size = float(np.mean(self.y**2))
        self.growth[k + 1] = self.scale + 0.5 * math.log(size) if size > 0.0 else -math.inf
        if size > TOO_LARGE or 0.0 < size < 1.0 / TOO_LARGE:
            factor = 1.0 / math.sqrt(size)
            self.scale -= math.log(factor)
            self.y *= factor
            self.rows[1::2] *= factor
            self.joint[1::2] *= factor

    def _strength(self, k: int) -> float:
        """Variance of the couplings: covariance of the field per that of the outputs."""
        ones = np.ones((1, 1))
        return float(
            np.ravel(self.problem.covariance[0](ones, k * self.problem.dt, np.zeros(1)))[0]
        )
