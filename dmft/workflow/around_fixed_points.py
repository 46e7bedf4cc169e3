"""A stationary point followed in a parameter, and the stationary fluctuations around it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.roots import follow
from dmft.arrays import Array
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.names import Status
from dmft.record import Record
from dmft.validation import as_count, as_positive, checked, checked_or, is_number, shown
from dmft.workflow import fixed_points
from dmft.workflow.stationary_system import StationarySystem


@dataclass(frozen=True, eq=False)
class FixedPointBranch(Record):
    """Branch of fixed points as a function of a parameter.

    Attributes
    ----------
    name : str
        Name of the parameter.
    parameter : (n,) array
        Values of the parameter along the branch; not monotonic at folds.
    Q, M : (n, p, p) and (n, p, k) arrays
    risk : (n,) array
    growth_rate : (n,) array
        Largest real part of the linear modes, per unit of t; positive if the point is unstable.
    folds : array
        Values of the parameter at which the branch turns.
    status : Status
        "ok" if the branch reached the end of the range, "max_steps", or "not_converged".
    message : str
        How the branch ended.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.1))
    >>> plateau = dmft.Overlaps([[1 / 3]], [[0.0]])
    >>> branch = dmft.fixed_point_branch(eqs, plateau, "learning_rate", (0.0, 0.05))
    >>> str(branch.status), bool(branch.growth_rate.min() > 0)
    ('ok', True)
    """

    name: str
    parameter: Array
    Q: Array
    M: Array
    risk: Array
    growth_rate: Array
    folds: Array
    status: Status
    message: str


@checked
def fixed_point_branch(
    equations: Equations,
    point: fixed_points.FixedPoint | Overlaps,
    parameter: str,
    values: tuple[float, float],
    *,
    step: float = 0.02,
    tolerance: float = 1e-12,
    max_points: int = 2000,
    **parameters: Any,
) -> FixedPointBranch:
    r"""Follow a fixed point as a function of a parameter, through folds.

    Equation    dQ/dt = 0, dM/dt = 0 and an arclength condition; derivatives in Q and M are derived
    Shapes      as `point`
    Valid for   isolated fixed points; a continuum of fixed points (due to a symmetry) is not
                followed reliably: break the symmetry first

    Parameters
    ----------
    equations : Equations
    point : FixedPoint or Overlaps
        Fixed point at which the branch begins.
    parameter : str
        Name of a run-time parameter, for example ``"learning_rate"``.
    values : (float, float)
        Value at which `point` is stationary, and value at which the branch ends.
    step : float
        Largest step of arclength, in units of the range of the parameter.
    tolerance : float
        Largest rate at a point of the branch.
    max_points : int
        Maximal number of points.
    **parameters
        Values of the other parameters.

    Returns
    -------
    FixedPointBranch
        Overlaps, risk and growth rate along the branch, and its folds.

    Raises
    ------
    BadParameter
        If the equations have no such parameter, or if `point` is not stationary at its first value.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.1))
    >>> branch = dmft.fixed_point_branch(
    ...     eqs, dmft.Overlaps([[1 / 3]], [[0.0]]), "learning_rate", (0.0, 1.0), max_points=80
    ... )
    >>> print(branch.folds.round(8))   # beyond it the length diverges (theory/one_pass F.3)
    [0.18018981]
    """
    fixed_points.check_equations(equations)
    if parameter not in equations.parameters:
        raise BadParameter(
            f"the equations have no parameter {parameter!r}; their parameters are "
            f"{list(equations.parameters)}"
        )
    values = _ends(values)
    step = as_positive(step, "step")
    fixed_points.check_tolerance(tolerance)
    max_points = as_count(max_points, "max_points")
    system = StationarySystem(equations, point, {**parameters, parameter: values[0]})
    where = system.place[parameter]

    def rates(y: Array, s: float) -> Array:
        system.par[where] = s
        return system.rates(y)

    def jacobian(y: Array, s: float) -> Array:
        system.par[where] = s
        return system.finite_jacobian(y)

    residual = float(np.abs(rates(system.free, values[0])).max(initial=0.0))
    if not residual < 1e-8:
        raise BadParameter(
            f"the point is not stationary: its rate is {residual:.2e} at {parameter} = "
            f"{values[0]}; find a stationary one with dmft.fixed_points first"
        )
    branch = follow(
        rates, jacobian, system.free, values, step=step, tolerance=tolerance, max_points=max_points
    )
    blocks, risk, growth = [], [], []
    for y, s in zip(branch.y, branch.parameter, strict=True):
        values_here = np.linalg.eigvals(jacobian(y, s))
        growth.append(fixed_points.exponents(equations, values_here).real.max())
        risk.append(system.risk(y))
        blocks.append(system.blocks(y, system.start.Q))
    return FixedPointBranch(
        name=parameter,
        parameter=branch.parameter,
        Q=np.array([b["Q"] for b in blocks]),
        M=np.array([b["M"] for b in blocks]),
        risk=np.array(risk),
        growth_rate=np.array(growth),
        folds=branch.folds,
        status=branch.status,
        message=branch.message,
    )


def _ends(values: tuple[float, float]) -> tuple[float, float]:
    """Both ends of the range, as floats: SymPy's numbers would slow the arrays that they enter."""
    given = tuple(values)
    if len(given) == 2 and all(is_number(v) and math.isfinite(float(v)) for v in given):
        first, last = map(float, given)
        if first != last:
            return first, last
    raise BadParameter(f"values = {shown(values)} must be two finite numbers that differ")


# A mode is stable if it decays by more than this fraction of the fastest rate.
MARGINAL = 1e-8
# Rates below this (of the fastest mode) are those of a fixed point.
STATIONARY = 1e-7


@dataclass(frozen=True, eq=False)
class LinearNoise(Record):
    """Gaussian fluctuations of the overlaps around a stable fixed point, to leading order in 1/d.

    Attributes
    ----------
    covariance : (n, n) array
        Covariance of (Q, M) packed in C order, n = p^2 + p k; trained readouts come last, and
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
        """Standard deviations: Q (p, p), M (p, k), and readout (p,) if it is trained."""
        deviation = np.sqrt(np.diag(self.covariance))
        square, overlaps = self.p * self.p, self.p * (self.p + self.k)
        blocks = {
            "Q": deviation[:square].reshape(self.p, self.p),
            "M": deviation[square:overlaps].reshape(self.p, self.k),
        }
        readout = deviation[overlaps:]
        return blocks | ({"readout": readout} if readout.size else {})


@checked_or(equations="derive(..., dim=..., fluctuations=True) gives equations with fluctuations")
def linear_noise(
    equations: Equations, point: fixed_points.FixedPoint | Overlaps, **parameters: Any
) -> LinearNoise:
    r"""Compute the covariance of the stationary fluctuations around a stable fixed point.

    Equation    J C + C J^T + gamma/(p d n_b) Sigma = 0, J the Jacobian of the flow (an
                Ornstein-Uhlenbeck process with these J and Sigma)
    Shapes      C (n, n) over (Q, M), and trained readouts, packed in C order
    Scaling     leading order in 1/d: fluctuations of relative size d^(-1/2)
    Valid for   equations of kind "sde"; a fixed point of their flow at which all modes decay
    Source      theory/one_pass E.1; derivations/fluctuations.py

    Parameters
    ----------
    equations : Equations
        Equations from `derive` with ``fluctuations=True``.
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
    >>> import dmft
    >>> model, sgd = dmft.literature.phase_retrieval(1, label_noise=0.5), dmft.SGD(0.05)
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
        raise BadParameter(f"linear_noise is defined for the overlaps Q and M; {instead}")
    flow = replace(equations, kind="ode", noise=None, dim=None)
    own = {name: value for name, value in parameters.items() if name in flow.parameters}
    system = StationarySystem(flow, point, own)
    jacobian = system.finite_jacobian(system.free)
    rates = np.linalg.eigvals(jacobian).astype(complex)
    moves = fixed_points.motion(system, rates, STATIONARY)
    if moves:
        raise BadParameter(f"{moves}: find the fixed point with dmft.fixed_points first")
    scale = float(np.max(np.abs(rates), initial=0.0))
    rates = rates[np.argsort(-rates.real, kind="stable")]
    if rates[0].real > -MARGINAL * scale:
        raise BadParameter(
            f"the fixed point is not stable (growth rate {rates[0].real:.4g}): its fluctuations "
            "do not become stationary"
        )
    noise = equations.evaluate(system.start, **parameters)["covariance"]
    from scipy.linalg import solve_continuous_lyapunov

    inner = solve_continuous_lyapunov(jacobian, -noise[np.ix_(system.places, system.places)])
    spread = system.units.T[: noise.shape[0]]
    return LinearNoise(spread @ inner @ spread.T, rates, system.p, system.k)
