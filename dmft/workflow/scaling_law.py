"""`scaling_law`: the power of the time with which the risk falls, derived or fitted."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.equations.equations import Equations
from dmft.equations.escape.recovery import is_linear_unit
from dmft.errors import BadParameter
from dmft.model import Overlaps, Spectrum
from dmft.model.algorithm import numbers_of
from dmft.names import Status
from dmft.record import Record, Short
from dmft.validation import check_pair, checked

# A fit looks at this factor in time, in windows of this many times.
SPAN, TIMES = 100.0, 41
# Times at which a finite power law is one: below this part of 1/c_d, with d eigenvalues.
BEFORE_THE_END, LATEST = 0.02, 1e5
# A derived law holds where it is this close to the exact risk, for at least this factor in time.
CLOSE, SHORTEST = 0.1, 10.0
# Times at which it is compared, up to where eigenvalues of a symmetric matrix in float64 reach.
COMPARED, LATEST_EXACT = 400, 1e10
# Errors between compared times are larger by less than this factor.
MISSED = 1.01
# A fitted slope this close to zero is a plateau; a change of the slope by this part is reported.
FLAT, STEADY = 0.01, 0.1


@dataclass(frozen=True, eq=False, repr=False)
class ScalingLaw(Short, Record):
    """Power law of the risk, prefactor * t**exponent.

    Attributes
    ----------
    exponent, prefactor : float
    regime : str
        "source" (dominated by the signal), "sgd-noise" (dominated by the noise of the steps),
        "gradient-flow", "noise-floor" (the risk converges to the prefactor), "fitted", or "plateau"
        (a fit to a risk that does not decrease).
    how : "derived" or "fitted"
    error : float
        For a derived law, it agrees with the exact risk up to a factor of 1 + error in the window.
        For a fitted law, the difference of the exponents in the two halves of the window.
    message : str
    window : (float, float)
        Times between which the law holds up to the error, or was fitted.

    Examples
    --------
    >>> law = ScalingLaw(-0.5, 2.0, "source", "derived", 0.0, "", (1.0, 1e4))
    >>> float(law(100.0))
    0.2
    """

    exponent: float
    prefactor: float
    regime: str
    how: str
    error: float
    message: str
    window: tuple[float, float]

    def __call__(self, t: Any) -> Array:
        """Risk at times t."""
        found: Array = self.prefactor * np.asarray(t, dtype=np.float64) ** self.exponent
        return found

    def _in_words(self) -> str:
        return f"{self.how}: risk = {self.prefactor:.4g} t^{self.exponent:.4g}, {self.regime}"


@checked
def scaling_law(
    equations: Equations,
    start: Overlaps | None = None,
    *,
    window: tuple[float, float] | None = None,
    **parameters: Any,
) -> ScalingLaw:
    r"""Compute the power law of the risk for inputs with a power-law spectrum.

    Equation    c_i = i^-alpha and c_i v_i(0) = i^-b, b = 1 + 2 r alpha, of one linear unit:
                R = C_F t^(-(b-1)/alpha)/(1 - K) where (b-1)/alpha < 2 - 1/alpha, else
                C_K t^-(2-1/alpha) int R_GF/(1 - K)^2, K = gamma tr Sigma/(2 d n_b)
    Scaling     t of the equations, steps * gamma/(p d)
    Valid for   alpha > 1, r > 0, a start at zero and no label noise, as t and d -> infinity (the
                law is derived); any other model with a `Spectrum` (it is fitted to a run)
    Source      theory/structured_inputs (11), (12)

    Parameters
    ----------
    equations : Equations
        Equations of a model with ``inputs=dmft.Spectrum.power_law(...)``.
    start : Overlaps, optional
        Initial overlaps; by default all student weights are zero.
    window : (float, float), optional
        Times of a fit; by default the last factor of 100 before the spectrum ends.
    **parameters
        Run-time values.

    Returns
    -------
    ScalingLaw
        Record with `.exponent`, `.prefactor`, `.regime`, and `.how`, which is "derived" or
        "fitted". For a derived law, `.window` is the longest window of time in which it agrees with
        the exact risk of the finite spectrum within 10 %. If no such window spans a factor of 10,
        it is the last factor of 10 before the spectrum ends. `.error` is the error in the window.

    Warns
    -----
    UserWarning
        If a fitted risk does not decrease.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    >>> tail = dmft.Spectrum.power_law(capacity=1.5, source=0.2, dim=10**6)
    >>> eqs = dmft.derive(dmft.Model(line, line, inputs=tail), dmft.SGD(0.3e6))
    >>> law = dmft.scaling_law(eqs)
    >>> round(law.exponent, 12), law.regime, law.how
    (-0.4, 'source', 'derived')
    >>> law.error < 0.1, law.window[1] / law.window[0] > 1e4
    (True, True)
    """
    model = getattr(equations, "model", None)
    spectrum = getattr(model, "spectrum", None)
    if getattr(model, "clusters", None) is not None and spectrum is not None:
        raise BadParameter(
            "scaling_law supports a single spectrum: with clusters, rows also move along the "
            "means, and the risk is not a power of time; solve the equations and read "
            "run.risk"
        )
    if not isinstance(equations, Equations) or equations.kind != "ode" or spectrum is None:
        raise BadParameter(
            "scaling_law takes the ode of a model with a spectrum: "
            "dmft.Model(student, teacher, inputs=dmft.Spectrum.power_law(...))"
        )
    if window is None and _is_derived(equations, start):
        return _derived(equations, spectrum, parameters)
    return _fitted(equations, spectrum, start, window, parameters)


def _is_derived(equations: Equations, start: Overlaps | None) -> bool:
    """Whether (11) and (12) hold: a linear unit that begins at zero, and plain steps."""
    model, algorithm, law = equations.model, equations.algorithm, equations.model.spectrum.law  # type: ignore[union-attr]
    if not is_linear_unit(model):
        return False
    plain = algorithm.one_pass and not numbers_of(algorithm) and algorithm.loss == "squared"
    # Scaled and shortened steps, trained readouts and wrong labels have other laws.
    plain = plain and algorithm.is_plain and not hasattr(algorithm, "scale")
    plain = plain and not (algorithm.trains_readout or model.flips or model.draws_labels)
    if start is not None and (np.any(start.Q) or np.any(start.M)):
        return False
    own = model.spectrum.teacher  # type: ignore[union-attr]
    if start is not None and (own is None or not np.array_equal(start.P, own)):
        return False
    return plain and law is not None and law[0] > 1.0 and law[1] > 0.0


def _derived(equations: Equations, spectrum: Spectrum, parameters: Any) -> ScalingLaw:
    (alpha, source), algorithm = spectrum.law, equations.algorithm  # type: ignore[misc]
    values = equations.values(_at_zero(spectrum), dict(parameters)).scalars
    noise = float(values.get("label_noise", equations.model.label_noise))
    norm, step = 0.0, 0.0
    if not algorithm.is_flow:
        step = float(values["learning_rate"]) / algorithm.batch_size
        norm = step * float(spectrum.noise.sum()) / 2.0
    if norm >= 1.0:
        raise BadParameter(
            f"learning_rate = {values['learning_rate']:g} is unstable, K = {norm:.3g} >= 1: it "
            f"must be below {values['learning_rate'] / norm:g}"
        )
    if noise > 0.0 and norm > 0.0:
        return _floor(spectrum, step, norm / (1.0 - norm) * noise / 2.0)
    exponent, front, regime = _leading(alpha, source, norm, step, spectrum)
    times = _times(spectrum, BEFORE_THE_END)
    far = _distance(front * times**exponent, _exact_risk(spectrum, step, times))
    first, last = _longest(far <= CLOSE)
    said = f"(12) with K = {norm:.4g}"
    if times[last] < SHORTEST * times[first]:
        first, last = int(np.searchsorted(times, times[-1] / SHORTEST)), COMPARED - 1
        said += " is not reached before the spectrum ends: the window is the last before that"
    window, error = (float(times[first]), float(times[last])), float(far[first : last + 1].max())
    return ScalingLaw(exponent, front, regime, "derived", error, said, window)


def _floor(spectrum: Spectrum, step: float, floor: float) -> ScalingLaw:
    """The risk at which label noise ends the fall, from when on it is close."""
    times = _times(spectrum, SHORTEST)
    far = _distance(floor, floor + _exact_risk(spectrum, step, times, 2.0 * floor))
    last = np.flatnonzero(far > CLOSE)
    first = min(int(last[-1]) + 1 if last.size else 0, COMPARED - 1)
    words, window = "(11): label noise limits the risk", (float(times[first]), math.inf)
    return ScalingLaw(0.0, floor, "noise-floor", "derived", float(far[first:].max()), words, window)


def _distance(law: Any, exact: Array) -> Array:
    """Ratio of law and exact risk, whichever is larger, less one, with what compared times miss."""
    found: Array = MISSED * np.expm1(np.abs(np.log(law / exact)))
    return found


def _times(spectrum: Spectrum, part: float) -> Array:
    """Times from one to this part of 1/c_d."""
    last = min(part / float(spectrum.eigenvalues.min()), LATEST_EXACT)
    return np.geomspace(1.0, max(last, SHORTEST), COMPARED)


def _leading(
    alpha: float, source: float, norm: float, step: float, spectrum: Spectrum
) -> tuple[float, float, str]:
    """Exponent, prefactor and regime of (12)."""
    power, steep = 2.0 * source, 2.0 - 1.0 / alpha
    flow = math.gamma(power) * 2.0**-power / (2.0 * alpha) / (1.0 - norm)
    if norm == 0.0 or power < steep:
        return -power, flow, "source" if norm > 0.0 else "gradient-flow"
    kernel = step / spectrum.dim / alpha * math.gamma(steep) * 2.0**-steep  # type: ignore[operator]
    front = kernel * float(spectrum.teacher_blocks(1).sum()) / 4.0 / (1.0 - norm) ** 2
    return -steep, front + flow * (power == steep), "sgd-noise"


def _exact_risk(spectrum: Spectrum, step: float, times: Array, final: float = 0.0) -> Array:
    """Risk of a linear unit that begins at zero, less final/2, to which label noise takes it.

    With v_e = q_e - 2 m_e + rho_e, dv_e/dt = -2 c_e v_e + gamma/n_b c_e phi_e sum c v: over
    sqrt(phi_e) a symmetric matrix.
    """
    c, root = spectrum.eigenvalues, np.sqrt(spectrum.fractions)
    begin = spectrum.teacher_blocks(1)[:, 0, 0] / root
    rates, modes = np.linalg.eigh(step * np.outer(c * root, c * root) - 2.0 * np.diag(c))
    if final:
        # The fixed point: 2 c v = gamma/n_b c phi (sum c v + Delta), the same for all v_e/phi_e.
        begin = begin - final / spectrum.mean * root
    found: Array = np.exp(np.outer(times, rates)) @ ((c * root) @ modes * (begin @ modes)) / 2.0
    return found


def _longest(good: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last place of the longest run of True; (0, 0) without one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
    if not edges.size:
        return 0, 0
    n = 2 * int(np.argmax(edges[1::2] - edges[::2]))
    return int(edges[n]), int(edges[n + 1]) - 1


def _at_zero(spectrum: Spectrum, p: int = 1, k: int = 1) -> Overlaps:
    zeros = np.zeros((spectrum.blocks, p, p)), np.zeros((spectrum.blocks, p, k))
    return Overlaps(*zeros, spectrum.teacher_blocks(k))


def _fitted(
    equations: Equations,
    spectrum: Spectrum,
    start: Overlaps | None,
    window: tuple[float, float] | None,
    parameters: Any,
) -> ScalingLaw:
    """Slope of log R in log t over the later half of the window, against the earlier one."""
    from dmft.workflow.solve import solve

    if start is None:
        p, k = equations.model.student.width, equations.model.teacher.width
        rates = equations.evaluate(_at_zero(spectrum, p, k), **parameters)
        # A velocity is the first to move.
        if any(rate.any() for name, rate in rates.items() if f"_{name}".endswith("_M")):
            start = _at_zero(spectrum, p, k)
        else:
            raise BadParameter(
                "a student at zero does not move: pass a start, for example "
                "dmft.scaling_law(equations, dmft.random_overlaps(model, dim, seed=0))"
            )
    if window is None:
        smallest = float(spectrum.eigenvalues[spectrum.eigenvalues > 0.0].min())
        last = min(BEFORE_THE_END / smallest, LATEST)
        window = (last / SPAN, last)
    low, high = check_pair(window, "window")
    if not 0.0 < low < high < math.inf:
        raise BadParameter(f"window = {window!r} must be two positive times in order")
    times = np.geomspace(low, high, TIMES)
    run = solve(equations, start, high, save_at=times, **parameters)
    if run.status != Status.OK or not np.all(run["risk"] > 0.0):
        raise BadParameter(f"the run ends before t = {high:g}: {run.message}")
    x, y = np.log(times), np.log(run["risk"])
    half = TIMES // 2
    (late, front), (early, _) = (
        np.polyfit(x[part], y[part], 1) for part in (slice(half, None), slice(half + 1))
    )
    error = abs(float(late - early))
    words = f"fitted to t = {times[half]:.3g} .. {high:.3g}; {early:.4g} before"
    if spectrum.law is not None and spectrum.law[0] <= 1.0:
        words += "; capacity <= 1: slopes converge slowly, because the kernel fills at t ~ d^alpha"
    regime = "fitted"
    if late > -FLAT:
        regime, words = "plateau", f"{words}; the risk does not fall here: use an earlier window"
        warnings.warn(f"scaling_law: {words}", stacklevel=4)
    elif error > STEADY * -late:
        words += "; the slope still changes: no power of the time in this window"
    front = float(np.exp(front))
    return ScalingLaw(float(late), front, regime, "fitted", error, words, (low, high))
