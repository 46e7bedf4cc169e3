"""`fixed_points` and `stability`: stationary overlaps and their linear modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.boundaries.roots import Root, newton
from dmft.checks import checked
from dmft.codegen.linearised import compiled_tangent
from dmft.equations.equations import Equations
from dmft.equations.values import Values
from dmft.errors import BadParameter, InvalidCovariance
from dmft.model import SGD, GradientFlow, Overlaps
from dmft.names import Status
from dmft.record import Record
from dmft.workflow.solving.inputs import problem_of

Array = NDArray[np.float64]
# Eigenvalues within this fraction of the largest |eigenvalue| count as zero.
ZERO_MODE = 1e-8


@dataclass(frozen=True, eq=False)
class FixedPoint(Record):
    """Stationary overlaps.

    Attributes
    ----------
    overlaps : Overlaps
    risk : float
        Population risk there.
    residual : float
        Largest rate |dQ/dt|, |dM/dt|.
    steps : int
        Newton steps.
    status : Status
        "ok", "not_converged", "nonfinite", or "left_domain" where the root is no covariance.
    message : str

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.GradientFlow())
    >>> point, = dmft.fixed_points(eqs, dmft.Overlaps([[1.1]], [[0.9]]))
    >>> print(point.status, point.residual < 1e-13)
    ok True
    """

    overlaps: Overlaps
    risk: float
    residual: float
    steps: int
    status: Status
    message: str


@dataclass(frozen=True, eq=False)
class Stability(Record):
    """Linear modes around a point, sorted by growth rate.

    Attributes
    ----------
    eigenvalues : (n,) complex array
        Per unit t of the equations, largest real part first.
    Q, M : (n, p, p) and (n, p, k) complex arrays
        Displacement of the overlaps in each mode.
    """

    eigenvalues: NDArray[np.complex128]
    Q: NDArray[np.complex128]
    M: NDArray[np.complex128]

    @property
    def growth_rate(self) -> float:
        """Largest real part: how fast a run escapes, per unit t."""
        return float(self.eigenvalues.real.max())

    @property
    def verdict(self) -> str:
        """One of "stable", "unstable" and "marginal": a zero mode on top, by a symmetry, say."""
        band = ZERO_MODE * float(np.abs(self.eigenvalues).max())
        if self.growth_rate > band:
            return "unstable"
        return "stable" if self.growth_rate < -band else "marginal"


class StationarySystem:
    """Compiled rates and Jacobian of equations in free coordinates around a start."""

    def __init__(
        self, equations: Equations, start: Overlaps, parameters: Mapping[str, Any]
    ) -> None:
        self.linear = compiled_tangent(equations)
        self.equations, self.problem = equations, problem_of(equations)
        self.start = start
        self.place = {name: n for n, name in enumerate(equations.parameters)}
        values = equations.values(start, dict(parameters))
        self.par = self.packed_parameters(values)
        self.widths = np.array([values.widths[w] for w in self.problem.widths], dtype=np.int64)
        self.p, self.k = start.p, start.k
        sphere = equations.algorithm.on_sphere
        self.rows, self.columns = np.tril_indices(self.p, -1 if sphere else 0)
        state = {"Q": start.Q, "M": start.M, "readout": values.arrays["readout"]}
        self.trained = equations.algorithm.trains_readout
        self.free = self.flat(self.problem.pack(state))

    def packed_parameters(self, values: Values) -> Array:
        """Scalars and constant arrays as the compiled functions read them."""
        scalars = {name: values.scalars[name] for name in self.equations.parameters}
        return self.problem.pack_parameters(scalars, values.arrays)

    def flat(self, packed: Array) -> Array:
        """Free coordinates of a packed state or of its rates."""
        square = self.p * self.p
        Q = packed[:square].reshape(self.p, self.p)
        return np.concatenate([Q[self.rows, self.columns], packed[square:]])

    def blocks(self, y: NDArray[Any], base: Array | None = None) -> dict[str, NDArray[Any]]:
        """State blocks at free coordinates; what is not free comes from `base` (zero if None)."""
        Q = np.zeros((self.p, self.p), dtype=y.dtype) if base is None else base.copy()
        count, size = self.rows.size, self.p * self.k
        Q[self.rows, self.columns] = Q[self.columns, self.rows] = y[:count]
        blocks = {"Q": Q, "M": y[count : count + size].reshape(self.p, self.k)}
        return blocks | ({"readout": y[count + size :]} if self.trained else {})

    def packed(self, y: Array) -> Array:
        """State at free coordinates, lengths on a sphere as at the start."""
        return self.problem.pack(self.blocks(y, self.start.Q))

    def rates(self, y: Array) -> Array:
        """Rates of the free coordinates."""
        state = self.packed(y)
        out = np.empty_like(state)
        self.problem.rhs(0.0, state, self.widths, self.par, out)
        return self.flat(out)

    def jacobian(self, y: Array) -> Array:
        """Derivatives of the rates, by the derived tangent equations."""
        state = self.packed(y)
        out = np.empty_like(state)
        columns = []
        for unit in np.eye(y.size):
            both = np.concatenate([state, self.problem.pack(self.blocks(unit))])
            self.linear(0.0, both, self.widths, self.par, out)
            columns.append(self.flat(out))
        return np.transpose(columns)

    def finite_jacobian(self, y: Array) -> Array:
        """`jacobian`, refused where the rates leave the floats."""
        found = self.jacobian(y)
        if not np.all(np.isfinite(found)):
            raise BadParameter(
                "the rates there are not finite: take smaller parameters or overlaps"
            )
        return found

    def risk(self, y: Array) -> float:
        """Population risk."""
        out = np.empty(len(self.problem.observables))
        self.problem.observe(0.0, self.packed(y), self.widths, self.par, out)
        return float(out[self.problem.observables.index("risk")])


@checked
def fixed_points(
    equations: Equations,
    starts: Overlaps | Sequence[Overlaps],
    *,
    tolerance: float = 1e-13,
    max_steps: int = 100,
    **parameters: Any,
) -> tuple[FixedPoint, ...]:
    r"""Stationary points of the equations of motion, by Newton's method from each start.

    Equation    dQ/dt = 0, dM/dt = 0; the Jacobian is derived from the same symbols
    Shapes      as the starts: Q (p, p), M (p, k)
    Valid for   closed equations (averages by tables included); points that are the same are
                given once, those that did not converge come last with their status

    Parameters
    ----------
    equations : Equations
    starts : Overlaps or sequence of them
        A start with a symmetry leads to a point with it: the plateau from equal units.
    tolerance : float
        Largest rate at a fixed point; in units of the Jacobian at the start where that is above
        one or below a hundredth.
    max_steps : int
    **parameters
        Run-time values: ``learning_rate=``, ``label_noise=``.

    Raises
    ------
    BadParameter
        For no start, or something that is not `Equations`.
    NotClosed
        When the equations hold averages on nodes.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.GradientFlow())
    >>> point, = dmft.fixed_points(eqs, dmft.Overlaps([[0.5]], [[0.0]]))
    >>> print(f"{point.overlaps.Q[0, 0]:.12f} {point.risk:.12f}")
    0.333333333333 1.333333333333
    """
    check_equations(equations)
    given = [starts] if isinstance(starts, Overlaps) else list(starts)
    if not given:
        raise BadParameter("fixed_points needs at least one start")
    found: list[FixedPoint] = []
    for start in given:
        system = StationarySystem(equations, start, parameters)
        least = tolerance * unit_of_rates(system)
        root = newton(
            system.rates, system.jacobian, system.free, tolerance=least, max_steps=int(max_steps)
        )
        point = point_of(system, start, root)
        if not any(_same(point, other) for other in found):
            found.append(point)
    return tuple(sorted(found, key=lambda point: point.status != Status.OK))


# Rates of this size and smaller are slow: what counts as none is measured by them.
SLOW = 1e-2


def unit_of_rates(system: StationarySystem) -> float:
    """What rates of zero are compared with: one, but for equations that are fast or very slow.

    Rates are sums of terms as large as the Jacobian: below 1e-16 of it they are rounding.
    """
    scale = float(np.abs(system.jacobian(system.free)).max(initial=0.0))
    if scale == 0.0 or not np.isfinite(scale):
        return 1.0
    return max(scale, 1.0) * min(scale / SLOW, 1.0)


@checked
def stability(equations: Equations, point: FixedPoint | Overlaps, **parameters: Any) -> Stability:
    r"""Linear modes of the equations of motion around a point.

    Equation    d(Q', M')/dt = J (Q', M'), J derived from the symbols of the equations
    Scaling     eigenvalues per unit t; for a map log(1 + J), per step
    Valid for   closed equations; on the sphere the lengths stay fixed. Modes that lead out of
                the cone of covariances (Q - M P^-1 M^T of identical students, say) are listed too

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.GradientFlow())
    >>> modes = dmft.stability(eqs, dmft.Overlaps([[1 / 3]], [[0.0]]))
    >>> round(modes.growth_rate, 12), modes.verdict
    (4.0, 'unstable')
    """
    check_equations(equations)
    overlaps = point.overlaps if isinstance(point, FixedPoint) else point
    system = StationarySystem(equations, overlaps, parameters)
    values, vectors = np.linalg.eig(system.finite_jacobian(system.free))
    values = exponents(equations, values)
    order = np.argsort(-values.real, kind="stable")
    moved = [system.blocks(vectors[:, n].astype(complex)) for n in order]
    return Stability(
        eigenvalues=values[order].astype(complex),
        Q=np.array([m["Q"] for m in moved]),
        M=np.array([m["M"] for m in moved]),
    )


def exponents(equations: Equations, values: NDArray[Any]) -> NDArray[Any]:
    """Growth per unit t of modes with these eigenvalues; a step of a map multiplies by 1 + them."""
    if equations.kind != "map":
        return values
    with np.errstate(divide="ignore"):
        result: NDArray[Any] = np.log(1.0 + values.astype(complex))
    return result


def check_equations(equations: object) -> None:
    """Refuse what has no equations of motion."""
    if not isinstance(equations, Equations):
        raise BadParameter(f"expected dmft.Equations, got {type(equations).__name__}")
    if not {"Q", "M"} <= set(equations.terms):
        instead = equations.instead.get(
            "fixed points",
            f"these equations move {sorted(equations.terms)}: leave "
            f"scaling={equations.scaling!r} out",
        )
        raise BadParameter(f"fixed points and their modes are those of Q and M; {instead}")
    if equations.noise is not None:
        raise BadParameter(
            "fixed points and their stability belong to the flow: derive without fluctuations "
            "(dmft.linear_noise gives the fluctuations around a fixed point)"
        )
    if not isinstance(equations.algorithm, SGD | GradientFlow):
        raise BadParameter(f"no fixed points for {type(equations.algorithm).__name__}")


def point_of(system: StationarySystem, start: Overlaps, root: Root) -> FixedPoint:
    """Record of a root; a root that is no covariance keeps the start's overlaps."""
    status, message = root.status, f"residual {root.residual:.2e} after {root.steps} steps"
    state = system.blocks(root.y, start.Q)
    try:
        readout = state.get("readout", start.readout)
        overlaps = Overlaps(state["Q"], state["M"], start.P, readout)
        risk = system.risk(root.y)
    except InvalidCovariance as error:
        if status == Status.OK:
            status = Status.LEFT_DOMAIN
        message += f"; no covariance: {error}"
        overlaps, risk = start, float("nan")
    return FixedPoint(overlaps, risk, root.residual, root.steps, status, message)


def _same(a: FixedPoint, b: FixedPoint) -> bool:
    if a.status != b.status or a.overlaps.Q.shape != b.overlaps.Q.shape:
        return False
    pairs = [(a.overlaps.Q, b.overlaps.Q), (a.overlaps.M, b.overlaps.M)]
    if a.overlaps.readout is not None and b.overlaps.readout is not None:
        pairs.append((a.overlaps.readout, b.overlaps.readout))
    return all(np.allclose(u, v, rtol=1e-7, atol=1e-9) for u, v in pairs)
