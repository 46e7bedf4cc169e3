"""`scaling_law`: the power of the time with which the risk falls, derived or fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.checks import checked
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.gaussian.derivative import derivative
from dmft.model import SGD, Committee, GradientFlow, Overlaps, Spectrum
from dmft.model.algorithm import numbers_of
from dmft.names import Status
from dmft.record import Record, Short

Array = NDArray[np.float64]
# A fit looks at this factor in time, in windows of this many times.
SPAN, TIMES = 100.0, 41
# Times at which a finite power law is one: below this part of 1/c_d, with d eigenvalues.
BEFORE_THE_END, LATEST = 0.02, 1e5


@dataclass(frozen=True, eq=False, repr=False)
class ScalingLaw(Short, Record):
    """The risk as a power of the time, prefactor * t**exponent.

    Attributes
    ----------
    exponent, prefactor : float
    regime : str
        "source" (what is to be learned decides), "sgd-noise" (the noise of the steps does),
        "gradient-flow", "noise-floor" (the risk ends at the prefactor), or "fitted".
    how : "derived" or "fitted"
    error : float
        Of the exponent: 0 where it is derived, the change between windows of a fit else.
    message : str
    window : (float, float)
        Times between which it holds, or was fitted.

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
    r"""Power law of the risk under a power-law spectrum.

    Equation    c_i = i^-alpha and c_i v_i(0) = i^-b, b = 1 + 2 r alpha, of one linear unit:
                R = C_F t^(-(b-1)/alpha)/(1 - K) where (b-1)/alpha < 2 - 1/alpha, else
                C_K t^-(2-1/alpha) int R_GF/(1 - K)^2, K = gamma tr Sigma/(2 d n_b)
    Scaling     t of the equations, steps * gamma/(p d)
    Valid for   derived for alpha > 1, r > 0, a start at zero, no label noise; fitted to a run of
                anything else with a `Spectrum`, which `.how` says
    Source      structured_inputs.md (11), (12)

    Parameters
    ----------
    equations : Equations
        Of a model with ``inputs=dmft.Spectrum.power_law(...)``.
    start : Overlaps, optional
        The student at zero by default.
    window : (float, float), optional
        Times of a fit; by default the last factor of 100 before the spectrum ends.
    **parameters
        Run-time values.

    Returns
    -------
    ScalingLaw
        `.exponent`, `.prefactor`, `.regime`, and `.how`: derived or fitted.

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
    """
    model = getattr(equations, "model", None)
    spectrum = getattr(model, "spectrum", None)
    if getattr(model, "clusters", None) is not None and spectrum is not None:
        raise BadParameter(
            "scaling_law is of one spectrum: clusters move rows along their means besides, whose "
            "risk is no power of the time; solve the equations and read run.risk"
        )
    if not isinstance(equations, Equations) or equations.kind != "ode" or spectrum is None:
        raise BadParameter(
            "scaling_law takes the ode of a model with a spectrum: "
            "dmft.Model(student, teacher, inputs=dmft.Spectrum.power_law(...))"
        )
    if window is None and _is_derived(equations, start, parameters):
        return _derived(equations, spectrum, parameters)
    return _fitted(equations, spectrum, start, window, parameters)


def _is_derived(equations: Equations, start: Overlaps | None, parameters: Any) -> bool:
    """Whether (11) and (12) hold: a linear unit that begins at zero, and plain steps."""
    model, algorithm, law = equations.model, equations.algorithm, equations.model.spectrum.law  # type: ignore[union-attr]
    units = (model.student, model.teacher)
    one = all(isinstance(u, Committee) and u.width == 1 and u.readout is None for u in units)
    if not one or any(derivative(u.activation) != 1 for u in units):  # type: ignore[union-attr]
        return False
    plain = isinstance(algorithm, SGD | GradientFlow) and not numbers_of(algorithm)
    plain = plain and getattr(algorithm, "loss", "squared") == "squared"
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
    power = 2.0 * source
    values = equations.values(_at_zero(spectrum), dict(parameters)).scalars
    noise = float(values.get("label_noise", equations.model.label_noise))
    flow = math.gamma(power) * 2.0**-power / (2.0 * alpha)
    window = (1.0, BEFORE_THE_END / float(spectrum.eigenvalues.min()))
    norm, rate = 0.0, 0.0
    if isinstance(algorithm, SGD):
        step = float(values["learning_rate"]) / algorithm.batch_size
        norm, rate = step * float(spectrum.noise.sum()) / 2.0, step / spectrum.dim  # type: ignore[operator]
    if norm >= 1.0:
        raise BadParameter(
            f"learning_rate = {values['learning_rate']:g} is unstable, K = {norm:.3g} >= 1: it "
            f"must be below {values['learning_rate'] / norm:g}"
        )
    said = f"(12) with K = {norm:.4g}; for 1 << t << 1/c_d"
    if noise > 0.0 and norm > 0.0:
        floor = norm / (1.0 - norm) * noise / 2.0
        words = "(11): label noise ends the fall"
        return ScalingLaw(0.0, floor, "noise-floor", "derived", 0.0, words, (window[1], math.inf))
    steep = 2.0 - 1.0 / alpha
    if norm > 0.0 and power >= steep:
        kernel = rate / alpha * math.gamma(steep) * 2.0**-steep
        whole = float(spectrum.teacher_blocks(1).sum()) / 4.0
        front = kernel * whole / (1.0 - norm) ** 2
        if power == steep:
            front += flow / (1.0 - norm)
        return ScalingLaw(-steep, front, "sgd-noise", "derived", 0.0, said, window)
    regime = "source" if norm > 0.0 else "gradient-flow"
    return ScalingLaw(-power, flow / (1.0 - norm), regime, "derived", 0.0, said, window)


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
        if equations.evaluate(_at_zero(spectrum, p, k), **parameters)["M"].any():
            start = _at_zero(spectrum, p, k)
        else:
            raise BadParameter(
                "a student at zero does not move: give a start, as "
                "dmft.scaling_law(equations, dmft.random_overlaps(model, dim, seed=0))"
            )
    if window is None:
        smallest = float(spectrum.eigenvalues[spectrum.eigenvalues > 0.0].min())
        last = min(BEFORE_THE_END / smallest, LATEST)
        window = (last / SPAN, last)
    low, high = (float(y) for y in window)
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
        words += "; capacity <= 1: the kernel fills up at t ~ d^alpha only, slopes settle slowly"
    return ScalingLaw(
        float(late), float(np.exp(front)), "fitted", "fitted", error, words, (low, high)
    )
