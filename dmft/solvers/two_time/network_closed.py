r"""Random networks whose sites are Gaussian: a closed recursion of means and covariances.

x_{k+1} = a x_k + b h_k + c + white noise with constants a, b, c (at a given multiplier): x is
Gaussian as long as the output is linear or nothing of it comes back (no memory). With
D(k, l) = Cov(x_k, eta_l)

D(k+1, l) = a D(k, l) + b (K(k, l) + memory),  Cov(x_{k+1}, x_l) = a Cov(x_k, x_l) + b (D(l, k) +
memory), K the covariance of eta.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmft.arrays import Array
from dmft.names import Status
from dmft.solvers.two_time.network_sweep import LARGEST, Repeated, SiteProblem, constrained
from dmft.special.hermite_line import ORDERS, hermite_line, power_series


@dataclass(frozen=True)
class LinearSite:
    """One population of Gaussian sites: a, b, c and the white noise of a step from t, of (t, nu).

    `output_slope` is that of a linear output, else None; `pair` is the closed form of a row of
    E phi(x_k) phi(x_l), l = 0..k, for centred fields, from the variance of x_k, the variances
    (k + 1,) and the covariances (k + 1,), or None; the output or its slope jumps at `kinks`.
    """

    by_state: Callable[[float, float], float]
    by_field: Callable[[float, float], float]
    constant: Callable[[float, float], float]
    noise: Callable[[float, float], float]
    output_slope: float | None
    pair: Callable[..., Any] | None
    kinks: tuple[float, ...] = ()


class Closed(Repeated):
    """The recursion under way; arrays as those of a `Sweep`."""

    def __init__(
        self,
        problem: SiteProblem,
        sites: Sequence[LinearSite],
        steps: int,
        start: Sequence[tuple[float, float]],
    ) -> None:
        self.problem, self.sites, self.steps = problem, sites, steps
        self.status, self.message, self.done = Status.OK, "", 0
        size, count = steps + 1, problem.populations
        self.corr, self.resp, self.state_corr, self.cov, self.eta, self.D, self.G = (
            np.zeros((count, size, size)) for _ in range(7)
        )
        self.weights = np.zeros((count, size, size))
        self.mean, self.state_mean = np.zeros((count, size)), np.zeros((count, size))
        self.multiplier = np.zeros(size)
        self.lost = 0.0
        self.series = [np.zeros((size, ORDERS + 1)) for _ in range(count)]
        expands = problem.held is not None or any(self._by_series(a) for a in range(count))
        self.line = hermite_line() if expands else None
        for a, (mean, variance) in enumerate(start):
            self.state_mean[a, 0], self.cov[a, 0, 0] = mean, variance
        for a in range(count):
            self._outputs(a)

    def _by_series(self, a: int) -> bool:
        return self.sites[a].output_slope is None

    def _outputs(self, a: int) -> None:
        """Averages of the outputs at the present step with all earlier ones."""
        k, site = self.done, self.sites[a]
        m, c = self.state_mean[a], self.cov[a]
        c[: k + 1, k] = c[k, : k + 1]
        self.state_corr[a, k, : k + 1] = c[k, : k + 1] + m[k] * m[: k + 1]
        self.state_corr[a, : k + 1, k] = self.state_corr[a, k, : k + 1]
        empty = np.empty((0, 1))

        def phi(x: Any) -> Any:
            return self.problem.output[a](x, empty)[0]

        slope = 0.0
        if site.output_slope is not None:
            slope = site.output_slope
            outputs = np.array([float(phi(np.float64(y))) for y in m[: k + 1]])
            row = slope**2 * c[k, : k + 1] + outputs[k] * outputs
            self.mean[a, k] = outputs[k]
        else:
            assert self.line is not None
            own = self.line(phi, m[k], c[k, k], site.kinks)
            self.series[a][k] = own
            self.mean[a, k] = own[0]
            slope = own[1] / np.sqrt(c[k, k]) if c[k, k] > 0.0 else float(
                self.problem.output[a](np.float64(m[k]), empty)[1]
            )  # fmt: skip
            row = self._row(a, k)
        self.corr[a, k, : k + 1] = self.corr[a, : k + 1, k] = row
        if k:
            self.resp[a, k, :k] = slope * self.G[a, k, :k]

    def _row(self, a: int, k: int) -> Array:
        """E phi(x_k) phi(x_l), l = 0..k, by a closed form or the series in the correlation."""
        c, pair = self.cov[a], self.sites[a].pair
        variances = np.diagonal(c)[: k + 1]
        if pair is not None and variances.all() and not self.state_mean[a, : k + 1].any():
            return np.asarray(pair(variances[k], variances, c[k, : k + 1]), dtype=np.float64)
        scale = np.sqrt(np.maximum(variances[k] * variances, 1e-300))
        rho = np.clip(c[k, : k + 1] / scale, -1.0, 1.0)
        table = self.series[a][: k + 1] * self.series[a][k]
        self.lost = max(self.lost, float(table[k, -1]))
        return power_series(table.T, rho)

    def step(self) -> None:
        """Take one step of all populations."""
        k, p = self.done, self.problem
        for a in range(p.populations):
            self._move(a)
        self.done += 1
        for a in range(p.populations):
            self._outputs(a)
        largest = float(np.abs(self.state_corr[:, k + 1, k + 1]).max())
        if not largest < LARGEST**2:
            self.stop(Status.DIVERGED if np.isfinite(largest) else Status.NONFINITE)

    def _move(self, a: int) -> None:
        """Means and covariances of a population after the present step."""
        k, p, site = self.done, self.problem, self.sites[a]
        t, s = k * p.dt, np.arange(k + 1) * p.dt
        K, D, c, G, w = self.eta[a], self.D[a], self.cov[a], self.G[a], self.weights[a]
        row = p.coupled[a] ** 2 * np.asarray(p.covariance[a](self.corr[:, k, : k + 1], t, s))
        K[k, : k + 1] = K[: k + 1, k] = row
        kernel, slope = p.kernel[a], site.output_slope or 0.0
        field = float(p.field[a](t, self.mean[:, k], (), np.empty((0, 1))))
        if kernel is not None and k:
            w[k, :k] = kernel(self.corr[:, k, :k], self.resp[:, k, :k], t, s[:k])
            field += float(w[k, :k] @ self.mean[a, :k])
        back = slope * w
        # Covariances with the latest eta, from the start on; then those of the next state.
        D[0, k] = 0.0
        for j in range(k):
            old = j * p.dt, self.multiplier[j]
            D[j + 1, k] = site.by_state(*old) * D[j, k] + site.by_field(*old) * (
                K[j, k] + back[j, :j] @ D[:j, k]
            )
        # Covariances of the field with the etas, the states and itself.
        with_eta = K[k, : k + 1] + back[k, :k] @ D[:k, : k + 1]
        with_state = D[: k + 1, k] + back[k, :k] @ c[:k, : k + 1]
        variance = with_eta[k] + back[k, :k] @ with_state[:k]

        def moved(nu: float) -> tuple[float, float]:
            alpha, beta = site.by_state(t, nu), site.by_field(t, nu)
            mean = alpha * self.state_mean[a, k] + beta * field + site.constant(t, nu)
            cross = alpha * (alpha * c[k, k] + 2.0 * beta * with_state[k])
            return mean, cross + beta**2 * variance + site.noise(t, nu)

        nu = self.multiplier[k] = self._multiplier(moved)
        alpha, beta = site.by_state(t, nu), site.by_field(t, nu)
        D[k + 1, : k + 1] = alpha * D[k, : k + 1] + beta * with_eta
        c[k + 1, : k + 1] = c[: k + 1, k + 1] = alpha * c[k, : k + 1] + beta * with_state
        self.state_mean[a, k + 1], c[k + 1, k + 1] = moved(nu)
        G[k + 1, :k] = alpha * G[k, :k] + beta * (back[k, :k] @ G[:k, :k])
        G[k + 1, k] = beta

    def _multiplier(self, moved: Callable[[float], tuple[float, float]]) -> float:
        """Value of nu that keeps the constraint of states with the mean and variance `moved`."""
        if self.problem.held is None:
            return 0.0
        function, value = self.problem.held
        line = self.line
        assert line is not None

        def gap(nu: float) -> float:
            mean, variance = moved(nu)
            states = mean + np.sqrt(max(variance, 0.0)) * line.z
            return float(line.weight @ function(states)) - value

        return constrained(gap, self.multiplier[self.done - 1] if self.done else 0.0, value)
