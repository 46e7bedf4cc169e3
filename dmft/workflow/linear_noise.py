"""`linear_noise`: stationary fluctuations around a stable fixed point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.checks import checked_or
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.record import Record
from dmft.workflow.fixed_points import FixedPoint, StationarySystem, unit_of_rates

Array = NDArray[np.float64]
# A mode is stable if it decays by more than this fraction of the fastest rate.
MARGINAL = 1e-8


@dataclass(frozen=True, eq=False)
class LinearNoise(Record):
    """Gaussian law of the overlaps around a stable fixed point, to leading order in 1/d.

    Attributes
    ----------
    covariance : (n, n) array
        Covariance of (Q, M) packed in C order, n = p^2 + p k; trained readouts come behind, and
        add p.
    rates : (n',) complex array
        Decay rates of the modes (eigenvalues of the Jacobian), slowest first.
    p, k : int

    Examples
    --------
    >>> import numpy as np
    >>> noise = LinearNoise(np.diag([4.0, 1.0]), np.array([-1.0 + 0j, -2.0]), 1, 1)
    >>> noise.std["Q"].tolist(), noise.rates[0].real.item()
    ([[2.0]], -1.0)
    """

    covariance: Array
    rates: NDArray[np.complex128]
    p: int
    k: int

    @property
    def std(self) -> dict[str, Array]:
        """Standard deviations, as blocks Q (p, p), M (p, k) and readout (p,) if it is trained."""
        deviation = np.sqrt(np.diag(self.covariance))
        square, overlaps = self.p * self.p, self.p * (self.p + self.k)
        blocks = {
            "Q": deviation[:square].reshape(self.p, self.p),
            "M": deviation[square:overlaps].reshape(self.p, self.k),
        }
        readout = deviation[overlaps:]
        return blocks | ({"readout": readout} if readout.size else {})


@checked_or(equations="derive(..., dim=..., fluctuations=True) gives those with fluctuations")
def linear_noise(
    equations: Equations, point: FixedPoint | Overlaps, **parameters: Any
) -> LinearNoise:
    r"""Covariance of the stationary fluctuations around a stable fixed point.

    Equation    J C + C J^T + gamma/(p d n_b) Sigma = 0, J the Jacobian of the flow (an
                Ornstein-Uhlenbeck process with these J and Sigma)
    Shapes      C (n, n) over (Q, M), and trained readouts, packed in C order
    Scaling     leading order in 1/d: fluctuations of relative size d^(-1/2)
    Valid for   equations of kind "sde"; a fixed point of their flow whose modes all decay
    Source      theory/one_pass E.1; derivations/fluctuations.py

    Parameters
    ----------
    equations : Equations
        Of `derive` with ``fluctuations=True``.
    point : FixedPoint or Overlaps
        A stable stationary point.
    **parameters
        Run-time values.

    Returns
    -------
    LinearNoise
        ``covariance`` (n, n), and standard deviations by block.

    Raises
    ------
    BadParameter
        For equations without fluctuations, or a point that is not stationary or not stable.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> model, sgd = dmft.Model(square, square, label_noise=0.5), dmft.SGD(0.05)
    >>> point, = dmft.fixed_points(dmft.derive(model, sgd), dmft.Overlaps([[1.0]], [[0.95]]))
    >>> noisy = dmft.derive(model, sgd, dim=1000, fluctuations=True)
    >>> dmft.linear_noise(noisy, point).std["M"].round(4).tolist()
    [[0.0046]]
    """
    if not isinstance(equations, Equations) or equations.noise is None:
        raise BadParameter(
            "linear_noise takes equations with fluctuations: derive(..., dim=..., "
            "fluctuations=True)"
        )
    if "linear noise" in equations.space.instead:
        instead = equations.space.instead["linear noise"]
        raise BadParameter(f"linear_noise is of overlaps Q and M; {instead}")
    flow = replace(equations, kind="ode", noise=None, dim=None)
    own = {name: value for name, value in parameters.items() if name in flow.parameters}
    system = StationarySystem(flow, point, own)
    rest = float(np.max(np.abs(system.rates(system.free)), initial=0.0))
    jacobian = system.finite_jacobian(system.free)
    scale = float(np.max(np.abs(np.linalg.eigvals(jacobian)), initial=0.0))
    if rest > STATIONARY * max(scale, unit_of_rates(system)):
        raise BadParameter(
            f"the overlaps still move there (largest rate {rest:.3g}): find the fixed point with "
            "dmft.fixed_points first"
        )
    rates = np.linalg.eigvals(jacobian).astype(complex)
    rates = rates[np.argsort(-rates.real, kind="stable")]
    if rates[0].real > -MARGINAL * scale:
        raise BadParameter(
            f"the fixed point is not stable (growth rate {rates[0].real:.4g}): its fluctuations "
            "do not become stationary"
        )
    noise = equations.evaluate(system.start, **parameters)["covariance"]
    free = _free_places(system)
    from scipy.linalg import solve_continuous_lyapunov

    inner = solve_continuous_lyapunov(jacobian, -noise[np.ix_(free, free)])
    spread = _spread(system, noise.shape[0])
    return LinearNoise(spread @ inner @ spread.T, rates, system.p, system.k)


# Rates below this (of the fastest mode) are those of a fixed point.
STATIONARY = 1e-7


def _free_places(system: StationarySystem) -> list[int]:
    """Place of every free coordinate in the packed state."""
    students = [int(j * system.p + n) for j, n in zip(system.rows, system.columns, strict=True)]
    square = system.p * system.p
    others = system.free.size - len(students)
    return [*students, *range(square, square + others)]


def _spread(system: StationarySystem, size: int) -> Array:
    """Matrix (size, free) from free coordinates to the packed state, both halves of Q."""
    columns = [system.problem.pack(system.blocks(unit)) for unit in np.eye(system.free.size)]
    return np.transpose(columns)[:size]
