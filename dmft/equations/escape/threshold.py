"""Where an escape ends: thresholds of the risk or of an overlap, as a value of u."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sympy as sp

from dmft.checks import checked
from dmft.equations.escape.laws import Law
from dmft.equations.escape.uninformative import mu, q
from dmft.equations.risk import population_risk
from dmft.errors import BadParameter

Values = Mapping[sp.Symbol, sp.Expr]


@checked
@dataclass(frozen=True)
class Threshold:
    """What a run is watched for: see `EscapeFormula.time`."""

    dim: float
    fraction: float = 0.5
    overlap: float | None = None
    u: float | None = None
    u0: float | None = None
    reference: str = "start"

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction < 1.0:
            raise BadParameter(f"fraction = {self.fraction!r} must lie strictly between 0 and 1")
        if self.overlap is not None and not 0.0 < self.overlap <= 1.0:
            raise BadParameter(f"overlap = {self.overlap!r} is a cosine: it must lie in (0, 1]")
        if self.reference not in ("start", "plateau"):
            raise BadParameter(f'reference must be "start" or "plateau", got {self.reference!r}')
        for name, value in (("u", self.u), ("u0", self.u0), ("dim", self.dim)):
            if value is not None and not value > 0:
                raise BadParameter(f"{name} must be positive, got {value!r}")
        if not math.isfinite(self.dim):  # a formula: it need be no whole number, nor a small one
            raise BadParameter(f"dim must be finite, got {self.dim!r}")


def threshold_overlap(
    law: Law, values: Values, threshold: Threshold, start: float, lengths: tuple[float, float]
) -> float:
    """Value of u at the threshold; `lengths` are q at the start and on the plateau."""
    facts = law.facts
    if threshold.u is not None:
        return float(threshold.u)
    if threshold.overlap is not None:
        return float(facts.widths[1].subs(values)) * lengths[1] * threshold.overlap**2
    if facts.single and facts.sphere:
        return _single(law, values, threshold, start)
    risk = facts.risk.subs(values)
    p = float(facts.widths[0].subs(values))
    before, plateau = (float(risk.coeff(mu, 0).subs(q, length)) for length in lengths)
    fall = -p * float(risk.coeff(mu, 2).subs(q, lengths[1]))
    if threshold.reference == "start":
        before -= fall * start
        target = (1 - threshold.fraction) * before
        if target >= plateau:
            raise BadParameter(
                f"the risk falls by {1 - plateau / before:.3g} of its start while the lengths "
                f"relax, before anything is learned: fraction = {threshold.fraction:g} must be "
                'larger, or use reference="plateau" or overlap='
            )
    else:
        target = (1 - threshold.fraction) * plateau
    return (plateau - target) / fall


def _single(law: Law, values: Values, threshold: Threshold, start: float) -> float:
    """One neuron on the sphere: the whole risk as a function of m."""
    risk = _risk_of(law, values)
    m_0 = start**0.5 if threshold.reference == "start" else 0.0
    target = (1 - threshold.fraction) * risk(m_0)
    polynomial = sp.Poly(law.facts.risk.subs(values), mu)
    powers = [n for (n,) in polynomial.monoms() if n]
    if law.facts.ends and powers == [law.exponent]:
        slope = -float(polynomial.coeff_monomial(mu**law.exponent)) * law.direction**law.exponent
        value = (float(polynomial.coeff_monomial(1)) - target) / slope
        return float(value ** (2 / law.exponent))
    if not risk(1.0) < target:
        raise BadParameter(
            f"the risk never falls by the fraction {threshold.fraction:g}: it is "
            f"{risk(1.0):.6g} at full overlap and {risk(m_0):.6g} at the start"
        )
    from scipy.optimize import brentq

    root = brentq(lambda m: risk(m) - target, m_0, 1.0, xtol=1e-15, rtol=1e-14)
    return float(root) ** 2


def _risk_of(law: Law, values: Values) -> Callable[[float], float]:
    """Population risk at an overlap m in the direction that is learned."""
    facts = law.facts
    if facts.ends:
        polynomial = facts.risk.subs(values)
        return lambda m: float(polynomial.subs(mu, law.direction * m))
    whole = population_risk(facts.model)
    given = {s.name: float(values[s]) for s in facts.model.parameters}
    return lambda m: whole(Q=[[1.0]], M=[[law.direction * m]], P=[[1.0]], **given)
