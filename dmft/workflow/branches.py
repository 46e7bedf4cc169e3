"""`fixed_point_branch`: a stationary point followed in a parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.boundaries.continuation import follow
from dmft.checks import checked, is_number, shown
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.names import Status
from dmft.record import Record
from dmft.workflow.fixed_points import (
    FixedPoint,
    StationarySystem,
    check_equations,
    check_tolerance,
    exponents,
)

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FixedPointBranch(Record):
    """Stationary points over a parameter.

    Attributes
    ----------
    name : str
        The parameter.
    parameter : (n,) array
        Along the branch; not monotonic where it folds.
    Q, M : (n, p, p) and (n, p, k) arrays
    risk : (n,) array
    growth_rate : (n,) array
        Largest real part of the linear modes, per unit t: positive where unstable.
    folds : array
        Values of the parameter where the branch turns.
    status : Status
        "ok" where the branch left the range, "max_steps", or "not_converged".
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
    point: FixedPoint | Overlaps,
    parameter: str,
    values: tuple[float, float],
    *,
    step: float = 0.02,
    tolerance: float = 1e-12,
    max_points: int = 2000,
    **parameters: Any,
) -> FixedPointBranch:
    r"""Follow a fixed point in a parameter, through folds.

    Equation    dQ/dt = 0, dM/dt = 0 and an arclength condition; derivatives in Q and M are derived
    Shapes      as `point`
    Valid for   isolated fixed points of closed equations; a continuum of them (a symmetry) is
                followed along its flattest direction only by chance: break the symmetry first

    Parameters
    ----------
    equations : Equations
        Closed ones.
    point : FixedPoint or Overlaps
        Where to begin.
    parameter : str
        Name of a run-time parameter, ``"learning_rate"`` for instance.
    values : (float, float)
        Where `point` is stationary, and where to stop.
    step : float
        Largest step of arclength, the range of the parameter counted as 1.
    tolerance : float
        Largest rate at a point of the branch.
    max_points : int
        Where to give up.
    **parameters
        Values of the other parameters.

    Returns
    -------
    FixedPointBranch
        Overlaps, risk and growth rate along the branch, and its folds.

    Raises
    ------
    BadParameter
        When the equations have no such parameter, or `point` is not stationary at its first value.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    >>> branch = dmft.fixed_point_branch(
    ...     eqs, dmft.Overlaps([[1 / 3]], [[0.0]]), "learning_rate", (0.0, 1.0), max_points=80
    ... )
    >>> print(branch.folds.round(8))   # beyond it the length diverges (theory/one_pass F.3)
    [0.18018981]
    """
    check_equations(equations)
    if parameter not in equations.parameters:
        raise BadParameter(
            f"the equations have no parameter {parameter!r}; they read {list(equations.parameters)}"
        )
    values = _ends(values)
    step = _positive("step", step)
    check_tolerance(tolerance)
    if max_points < 1:
        raise BadParameter(f"max_points = {max_points} must be at least 1")
    max_points = int(max_points)
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
            f"the point moves at a rate of {residual:.2e} at {parameter} = {values[0]}; "
            "find a stationary one with dmft.fixed_points first"
        )
    branch = follow(
        rates,
        jacobian,
        system.free,
        values,
        step=step,
        tolerance=tolerance,
        max_points=max_points,
    )
    blocks, risk, growth = [], [], []
    for y, s in zip(branch.y, branch.parameter, strict=True):
        values_here = np.linalg.eigvals(jacobian(y, s))
        growth.append(exponents(equations, values_here).real.max())
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


def _positive(name: str, value: float) -> float:
    """A positive finite number, as a float."""
    if not 0.0 < float(value) < math.inf:
        raise BadParameter(f"{name} = {shown(value)} must be positive and finite")
    return float(value)
