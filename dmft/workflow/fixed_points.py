"""`fixed_points` and `stability`: stationary overlaps and their linear modes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.roots import Root
from dmft.arrays import Array
from dmft.equations.equations import Equations
from dmft.errors import BadParameter, DmftError, InvalidCovariance
from dmft.model import Overlaps, random_overlaps
from dmft.names import ACCUMULATED, KEPT, Status
from dmft.record import Record, Shown
from dmft.summary import Summary, figures, table_of
from dmft.validation import checked
from dmft.workflow.stationary_system import StationarySystem, plain_name

if TYPE_CHECKING:
    from dmft.equations.two_time.network import NetworkEquations
    from dmft.model.random_network import RandomNetwork
    from dmft.workflow.networks.rest import NetworkFixedPoint

# Eigenvalues within this fraction of the largest |eigenvalue| count as zero.
ZERO_MODE = 1e-8
# Modes, and overlaps of each, that a table shows.
SHOWN_MODES = 8
# Overlaps of students that have no length: Newton's method leaves a little of either sign.
NO_LENGTH = 1e-14


@dataclass(frozen=True, eq=False)
class FixedPoint(Record):
    """Fixed point of the equations of motion.

    Attributes
    ----------
    overlaps : Overlaps
    risk : float
        Population risk at the fixed point.
    residual : float
        Largest rate |dQ/dt|, |dM/dt|.
    steps : int
        Number of Newton steps.
    status : Status
        "ok", "not_converged", "nonfinite", or "left_domain" if the root is not a valid covariance.
    message : str
    measures : mapping of str to float
        Values of the observables: the measures of a rule, or the risk of a model.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow())
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
    measures: Mapping[str, float] = field(default_factory=dict)


class FixedPoints(Shown, tuple[FixedPoint, ...]):
    """Fixed points, each once; the `starts` of the searches, and where Newton's method ended.

    `tried` has the end of each search, with its status.
    """

    starts: tuple[Overlaps, ...]
    tried: tuple[FixedPoint, ...]

    @property
    def message(self) -> str:
        """How many points were found, and from how many starts."""
        good = sum(point.status == Status.OK for point in self)
        failed = sum(point.status != Status.OK for point in self.tried)
        points, starts = (f"{n} {w}s"[: None if n != 1 else -1] for n, w in
                          ((good, "point"), (len(self.starts), "start")))  # fmt: skip
        return f"{points} from {starts}" + (f", {failed} of which led to none" if failed else "")

    def _summary(self) -> Summary:
        risks = ", ".join(figures(y.risk) for y in self if y.risk == y.risk)  # rules may have none
        columns = (*["risk"] * bool(risks), "overlaps.M", "overlaps.Q", "residual", "status")
        return replace(
            table_of(f"Fixed points of the equations of motion: {self.message}", self, columns),
            notes=("`dmft.stability(equations, points[0])` gives the modes around a point.",),
            brief=self.message + f"; risk {risks}" * bool(risks),
        )


@dataclass(frozen=True, eq=False)
class Stability(Record):
    """Linear modes around a fixed point, in order of decreasing growth rate.

    Attributes
    ----------
    eigenvalues : (n,) complex array
        Eigenvalues per unit of t, the largest real part first.
    Q, M : (n, p, p) and (n, p, k) complex arrays
        Displacement of the overlaps in each mode; with a `Spectrum` (n, B, p, p) and (n, B, p, k).
    scalars : mapping of str to (n,) complex array
        Displacement of the scalars of a rule.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow())
    >>> modes = dmft.stability(eqs, dmft.Overlaps([[1 / 3]], [[0.0]]))
    >>> modes.eigenvalues.real.round(9).tolist(), modes.verdict
    ([4.0, -4.0], 'unstable')
    """

    eigenvalues: NDArray[np.complex128]
    Q: NDArray[np.complex128]
    M: NDArray[np.complex128]
    scalars: Mapping[str, NDArray[np.complex128]] = field(default_factory=dict)

    @property
    def growth_rate(self) -> float:
        """Largest real part of the eigenvalues, per unit of t."""
        return float(self.eigenvalues.real.max())

    @property
    def verdict(self) -> str:
        """One of "stable", "unstable" and "marginal" (a zero mode, for example by symmetry)."""
        band = ZERO_MODE * float(np.abs(self.eigenvalues).max())
        if self.growth_rate > band:
            return "unstable"
        return "stable" if self.growth_rate < -band else "marginal"

    def _summary(self) -> Summary:
        rows = []
        for n, rate in enumerate(self.eigenvalues[:SHOWN_MODES]):
            moved = {f"{a}{[*i]}": abs(y[n][i]) for a, y in (("M", self.M), ("Q", self.Q))
                     for i in np.ndindex(y.shape[1:])}  # fmt: skip
            moved |= {name: abs(y[n]) for name, y in self.scalars.items()}
            most = max(moved.values(), default=0.0)
            main = [name for name, size in moved.items() if size > most / 2]
            time = figures(1 / abs(rate.real), digits=4) if abs(rate.real) > ZERO_MODE else "∞"
            rows.append((str(n), figures(rate), time, ", ".join(main[:SHOWN_MODES])))
        left = len(self.eigenvalues) - len(rows)
        return Summary(
            f"Linear modes around a fixed point: {self.verdict}",
            tuple(rows),
            ("mode", "eigenvalue", "time scale", "largest displacements"),
            ("Eigenvalues per unit of t; positive real parts grow.",)
            + (f"{left} modes that decay faster are left out.",) * bool(left),
            f"{self.verdict}, largest growth rate {figures(self.growth_rate)} per unit of t",
        )


@overload
def fixed_points(
    equations: NetworkEquations | RandomNetwork, starts: float | None = None, **parameters: Any
) -> list[NetworkFixedPoint]: ...
@overload
def fixed_points(
    equations: Equations,
    starts: Overlaps | Sequence[Overlaps] | None = None,
    *,
    tolerance: float = 1e-13,
    max_steps: int = 100,
    **parameters: Any,
) -> FixedPoints: ...
@checked
def fixed_points(
    equations: Equations | NetworkEquations | RandomNetwork,
    starts: Overlaps | Sequence[Overlaps] | float | None = None,
    *,
    tolerance: float = 1e-13,
    max_steps: int = 100,
    **parameters: Any,
) -> FixedPoints | list[NetworkFixedPoint]:
    r"""Compute fixed points of the equations of motion by Newton's method from several starts.

    Equation    dQ/dt = 0, dM/dt = 0; the Jacobian is derived from the same symbols, or computed by
                differences where the derivative of an average has no closed form
    Shapes      as the starts: Q (p, p), M (p, k)
    Valid for   all activations; equal points are returned once; searches that did not converge
                come last with their status. Where averages are on nodes, `message` states
                how far their errors move the point

    Parameters
    ----------
    equations : Equations, RandomNetwork or NetworkEquations
        For a random network, fixed points of its sites are computed.
    starts : Overlaps or sequence of them, optional
        Starts of the search, each of which leads to at most one fixed point. A symmetric start
        leads to a symmetric point, for example equal units to the plateau. The default starts are
        six draws of random rows in p + k dimensions (overlaps of order one), six in 10^4 dimensions
        (nearly orthogonal), for p > 1 the first six averaged over the units, and the ends of runs
        to t = 300 from the first two draws. Other fixed points may exist.
    tolerance : float
        Largest absolute rate at a fixed point, between 0 and 1e-4. If the largest entry of the
        Jacobian at the start is above 1 or below 0.01, the rate is divided by it first.
    max_steps : int
        Maximal number of Newton steps.
    **parameters
        Run-time values, such as ``learning_rate=`` and ``label_noise=``.

    Returns
    -------
    FixedPoints
        A tuple of distinct `FixedPoint` records, with the starts (`starts`), the result of each
        start (`tried`) and a summary (`message`). Failed searches come last; for default starts
        they are only in `tried`. For a random network, a list of `NetworkFixedPoint` records.

    Raises
    ------
    BadParameter
        For an empty list of starts, a tolerance that is too large, or an object that is not
        `Equations`.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow())
    >>> point, = dmft.fixed_points(eqs, dmft.Overlaps([[0.5]], [[0.0]]))
    >>> print(f"{point.overlaps.Q[0, 0]:.12f} {point.risk:.12f}")
    0.333333333333 1.333333333333
    """
    if getattr(equations, "family", "") == "network":
        return _of_network(equations, starts, parameters)
    equations, starts = cast("Equations", equations), cast("Sequence[Overlaps]", starts)
    check_equations(equations)
    check_tolerance(tolerance)
    given = [starts] if isinstance(starts, Overlaps) else list(starts or ())
    if starts is None:
        given = default_starts(equations)
        given += _ends_of_runs(equations, given[:RUNS], parameters)
    if not given:
        raise BadParameter("fixed_points needs at least one start; leave starts= out for a search")
    tried: list[FixedPoint] = []
    ends: list[tuple[StationarySystem, Root]] = []
    for start in given:
        system = StationarySystem(equations, start, parameters)
        least = tolerance * unit_of_rates(system)
        root = system.root(least, int(max_steps))
        point = point_of(system, start, root)
        if root.status == Status.OK and _at_infinity(system, root, tolerance):
            message = f"{point.message}, where rates decay towards zero without reaching it"
            point = replace(point, status=Status.NOT_CONVERGED, message=message)
        tried.append(point)
        ends.append((system, root))
    first = [next(n for n, y in enumerate(tried) if _same(point, y)) for point in tried]
    found = []
    for n in sorted(set(first), key=lambda n: (tried[n].status != Status.OK, n)):
        if starts is None and tried[n].status != Status.OK:
            continue
        message = tried[n].message + _error_of_nodes(*ends[n], tried[n])
        if len(given) > 1:
            message += f", from {first.count(n)} of {len(given)} starts"
        found.append(replace(tried[n], message=message))
    result = FixedPoints(found)
    result.starts, result.tried = tuple(given), tuple(tried)
    return result


def _error_of_nodes(system: StationarySystem, root: Root, point: FixedPoint) -> str:
    """What is said of averages on nodes, whose errors are those of the point."""
    if system.linear is not None or point.status != Status.OK:
        return ""
    error = system.displacement(root.y, point.overlaps)
    return f"; averages on nodes move it by up to {error:.1e}" if error > TOLD else ""


# Errors of overlaps that are said.
TOLD = 1e-9
# Rates above this part of the Jacobian are motions.
LARGEST_TOLERANCE = 1e-4
# Default starts of each kind, and the dimension of rows that hardly overlap.
STARTS, MANY = 6, 10_000
# Runs whose ends are default starts, and their time.
RUNS, LONG = 2, 300.0


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that overlaps under way would meet."""
    if not 0.0 < tolerance <= LARGEST_TOLERANCE:
        raise BadParameter(
            f"tolerance = {tolerance!r} must lie in (0, {LARGEST_TOLERANCE:g}]: overlaps with "
            "larger rates are not stationary; if Newton's method fails, use other starts"
        )


def default_starts(equations: Equations) -> list[Overlaps]:
    """Random overlaps of order one, random ones that are small, and ones of equal units."""
    model, sphere = equations.model, equations.algorithm.on_sphere
    if equations.family == "rule":
        return list(equations.space.random_starts())
    widths = model.student.width, model.teacher.width
    if not all(width.is_Integer for width in widths):
        raise BadParameter(f"the model has the widths {widths}: pass starts= with numerical widths")
    known = model.spectrum.dim if model.spectrum is not None else None
    dims = [int(known or dim) for dim in (sum(widths), MANY)]
    found = [random_overlaps(model, dim, n, sphere) for dim in dims for n in range(STARTS)]
    return found if widths[0] == 1 else [*found, *map(_of_equal_units, found[:STARTS])]


def _ends_of_runs(
    equations: Equations, starts: Sequence[Overlaps], parameters: Mapping[str, Any]
) -> list[Overlaps]:
    """Where runs end: Newton's method alone meets more saddles than stable points."""
    from dmft.equations.averages.conditioned import smooth
    from dmft.workflow.solve import solve

    ends: list[Overlaps] = []
    if equations.kind == "ode" and (not equations.averages or smooth(equations.averages)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for start in starts:
                with suppress(DmftError):
                    run: Any = solve(equations, start, LONG, save_at=2, **parameters)
                    ends += [run.final] if run.status == Status.OK else []
    return ends


def _of_equal_units(start: Overlaps) -> Overlaps:
    """The mean over orders of the units, and of the teachers where these are alike."""
    p, k = start.p, start.k
    one = np.eye(p)
    diagonal = np.trace(start.Q, axis1=-2, axis2=-1)[..., None, None] / p
    others = (start.Q.sum(axis=(-2, -1), keepdims=True) - p * diagonal) / (p * (p - 1))
    alike = np.allclose(start.P, start.P[..., :1, :1] * np.eye(k))
    M = start.M.mean(axis=(-2, -1) if alike else -2, keepdims=True)
    M = np.broadcast_to(M, start.M.shape)
    return Overlaps(diagonal * one + others * (1.0 - one), M, start.P, start.readout)


# Rates of this size and smaller are slow: what counts as none is measured by them.
SLOW = 1e-2
# Overlaps this many times those of the start are far away.
FAR = 1e3


def _at_infinity(system: StationarySystem, root: Root, tolerance: float) -> bool:
    """Whether rates have decayed far away from the start, not vanished: with their Jacobian."""
    is_far = np.abs(root.y).max() > FAR * max(1.0, np.abs(system.free).max())
    return bool(is_far and root.residual > tolerance * unit_of_rates(system, root.y))


def unit_of_rates(system: StationarySystem, at: Array | None = None) -> float:
    """What rates of zero are compared with: one, but for equations that are fast or very slow.

    Rates are sums of terms as large as the Jacobian: below 1e-16 of it they are rounding.
    """
    here = system.free if at is None else at
    scale = float(np.abs(system.jacobian(here)).max(initial=0.0))
    if scale == 0.0 or not np.isfinite(scale):
        return 1.0
    return max(scale, 1.0) * min(scale / SLOW, 1.0)


@overload
def stability(
    equations: NetworkEquations | RandomNetwork, point: float | None = None, **parameters: Any
) -> NetworkFixedPoint: ...
@overload
def stability(
    equations: Equations, point: FixedPoint | Overlaps, **parameters: Any
) -> Stability: ...
@checked
def stability(
    equations: Equations | NetworkEquations | RandomNetwork,
    point: FixedPoint | Overlaps | float | None = None,
    **parameters: Any,
) -> Stability | NetworkFixedPoint:
    r"""Compute the linear modes of the equations of motion around a fixed point.

    Equation    d(Q', M')/dt = J (Q', M'), J as in `fixed_points`
    Scaling     eigenvalues per unit t; for a map log(1 + J), per step
    Valid for   all activations; on the sphere the lengths stay fixed. Modes that lead out of
                the cone of covariances (for example of Q - M P^-1 M^T for identical students) are
                also listed. A `UserWarning` is issued if the overlaps still move

    Parameters
    ----------
    equations : Equations
    point : FixedPoint or Overlaps
        Fixed point at which the equations are linearised.
    **parameters
        Run-time values: ``learning_rate=``, ``label_noise=``.

    Returns
    -------
    Stability
        Eigenvalues (n,) with their modes in Q (n, p, p) and M (n, p, k), in order of decreasing
        growth rate. For a random network, the `NetworkFixedPoint` of the largest output, whose
        `replicon` and `stable` describe its stability.

    Raises
    ------
    NotClosed
        If the Jacobian is computed by differences and these do not converge: at perfect recovery,
        for example, where the overlaps are a singular covariance.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow())
    >>> modes = dmft.stability(eqs, dmft.Overlaps([[1 / 3]], [[0.0]]))
    >>> round(modes.growth_rate, 12), modes.verdict
    (4.0, 'unstable')
    """
    if getattr(equations, "family", "") == "network":
        points = _of_network(equations, point, parameters)
        return max(points, key=lambda found: float(np.max(found.output_second_moment)))
    if not isinstance(point, FixedPoint | Overlaps):
        raise BadParameter(f"stability needs a point: a FixedPoint or Overlaps, got {point!r}")
    check_equations(equations)
    equations = cast("Equations", equations)
    system = StationarySystem(equations, point, parameters)
    values, vectors = np.linalg.eig(system.finite_jacobian(system.free))
    moves = motion(system, values, LARGEST_TOLERANCE)
    if moves:
        text = f"{moves}: these are the modes of the equations there, not of a fixed point"
        warnings.warn(text, stacklevel=3)
    values = exponents(equations, values)
    order = np.argsort(-values.real, kind="stable")
    moved = [system.blocks(vectors[:, n].astype(complex)) for n in order]
    return Stability(
        eigenvalues=values[order].astype(complex),
        Q=np.array([m["Q"] for m in moved]),
        M=np.array([m["M"] for m in moved]),
        scalars={name: np.array([m[name] for m in moved]) for name in system.start.scalars or ()},
    )


def motion(system: StationarySystem, eigenvalues: Array, part: float) -> str:
    """Say that overlaps move, at a rate above this part of those of their modes; "" otherwise."""
    rest = float(np.max(np.abs(system.rates(system.free)), initial=0.0))
    scale = float(np.max(np.abs(eigenvalues), initial=0.0))
    least = part * max(scale, unit_of_rates(system))
    return "" if rest <= least else f"the overlaps still move there (largest rate {rest:.3g})"


def _of_network(network: Any, start: Any, parameters: Mapping[str, Any]) -> list[NetworkFixedPoint]:
    """Fixed points of a random network whose sites start from a number."""
    from dmft.workflow.networks.rest import rest_points
    from dmft.workflow.networks.sites import at_values

    if start is not None and not isinstance(start, int | float):
        raise BadParameter(f"sites of a random network start from a number, got {start!r}")
    found = rest_points(at_values(network, parameters), start)
    if not found:
        raise BadParameter(
            "no fixed point was found from any guess: solve for a long time to check whether the "
            "network comes to rest"
        )
    return found


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
    moved = {plain_name(name) for name in equations.terms}
    if not {"Q", "M"} <= moved and not (equations.family == "rule" and "Q" in moved):
        instead = equations.space.instead.get(
            "fixed points",
            f"these equations move {sorted(equations.terms)}: leave "
            f"scaling={equations.scaling!r} out",
        )
        raise BadParameter(f"fixed points and their modes are defined for Q and M; {instead}")
    if equations.noise is not None:
        raise BadParameter(
            "fixed points and their stability belong to the flow: derive without fluctuations "
            "(dmft.linear_noise gives the fluctuations around a fixed point)"
        )


def point_of(system: StationarySystem, start: Overlaps, root: Root) -> FixedPoint:
    """Record of a root; a root that is no covariance keeps the start's overlaps."""
    status, message = root.status, f"residual {root.residual:.2e} after {root.steps} steps"
    if status != Status.OK:
        from dmft.workflow.solving.limits import RUNS_AWAY, runs_away

        numbers = dict(zip(system.place, system.par, strict=False))
        message += RUNS_AWAY if runs_away(system.equations, numbers) else ""
    state = system.blocks(root.y, start.Q)
    try:
        readout = state.get("readout", start.readout)
        scalars = {n: float(state[n]) for n in start.scalars or ()}
        Q = state["Q"] if np.abs(state["Q"]).max() > NO_LENGTH else 0.0 * state["Q"]
        memory = {name: state[name] for name in (*KEPT, *ACCUMULATED) if name in state}
        overlaps = Overlaps(Q, state["M"], start.P, readout, memory=memory, scalars=scalars)
        measures = system.observed(root.y)
    except InvalidCovariance as error:
        if status == Status.OK:
            status = Status.LEFT_DOMAIN
        message += f"; no covariance: {error}"
        overlaps, measures = start, {}
    risk = measures.get("risk", float("nan"))
    return FixedPoint(overlaps, risk, root.residual, root.steps, status, message, measures)


def _same(a: FixedPoint, b: FixedPoint) -> bool:
    if a.status != b.status or a.overlaps.Q.shape != b.overlaps.Q.shape:
        return False
    pairs = [(a.overlaps.Q, b.overlaps.Q), (a.overlaps.M, b.overlaps.M)]
    one, other = (list((y.overlaps.scalars or {}).values()) for y in (a, b))
    pairs.append((np.array(one), np.array(other)))
    if a.overlaps.readout is not None and b.overlaps.readout is not None:
        pairs.append((a.overlaps.readout, b.overlaps.readout))
    # Where a mode has no rate, Newton's method ends at the square root of rounding.
    return all(np.allclose(u, v, rtol=1e-6, atol=1e-6) for u, v in pairs)
