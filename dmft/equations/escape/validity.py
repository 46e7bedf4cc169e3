"""What an escape formula holds for, in words and numbers."""

from __future__ import annotations

import sympy as sp

from dmft.equations.escape.laws import Law, q_star
from dmft.equations.escape.uninformative import mu, q
from dmft.equations.symbols import gamma

# The largest gamma that escapes, that with the fewest steps, and the largest one at which the
# perfect solution is stable.
Rates = tuple[sp.Expr, sp.Expr | None, sp.Expr | None]
KINDS = {
    "logistic": "exact in the limit of infinite dimension: the whole equation of the overlap",
    "linear": "leading logarithm: the overlaps grow independently until u is no longer small",
    "transient": "leading logarithm, with the relaxation of the lengths integrated exactly",
    "power": "leading power of the overlap against the noise of the samples",
    "drift": "linear in the overlap: it is pushed from the start on",
}


def validity_text(law: Law, length: sp.Expr, rates: Rates | None) -> str:
    """Sentences, one a line; gradient flow has no rates."""
    lines = [
        "Weak recovery only: the time to leave the uninformative point, not to learn. "
        f"{KINDS[law.kind].capitalize()}; information exponent {law.exponent}.",
        "Deterministic equations from u_0 = k/d; .mean_time and .std average over random starts "
        "and the noise of the samples, which halves the effective dimension at the optimal rate "
        "of one neuron.",
    ]
    if law.kind in ("linear", "transient"):
        small = "u <= 1e-3 or T <= 0.01" if law.kind == "linear" else "u <= 1e-3"
        lines.append(
            f"Small thresholds: within 1 % of the equations for {small} at d >= 1e6 and gamma/p <= "
            "1/12; 1 to 5 % late at T = 0.1, 6 to 25 % at T = 0.5, less as d grows."
        )
    if law.kind == "transient":
        lines.append(
            "Fractions of the plateau, T <= 0.01: within 1 % for p <= 2, 3 % for p <= 32 at "
            "d >= 1e6 and 1 % at d >= 1e9, where a run's plateau is at rest before it is left."
        )
    if rates is not None:
        lines += _rates(*rates)
    if law.kind == "transient":
        lines += _relaxation(law, length)
    if law.kind == "power":
        lines.append(
            "At more than half of the maximal rate the noise decides and times are heavy tailed. "
            "At the optimal one (0.7153 of it), for a matched third Hermite polynomial, the mean "
            "from a fixed m_0 = d^(-1/2) is 1.55 times this time and from random starts 2.3 times "
            "(large d, mean first passage; 1.63 and 2.51 at d = 100, where 400 and 200 overlap "
            "chains gave 1.68 +- 0.09 and 2.51 +- 0.14): use .mean_time or dmft.simulate."
        )
    return "\n".join(lines)


def _rates(maximal: sp.Expr, optimal: sp.Expr | None, perfect: sp.Expr | None) -> list[str]:
    """Both optima: of the escape and of what is learned."""
    lines = [f"Escapes for gamma < {_shown(maximal)}."]
    if optimal is not None:
        lines.append(f"Fastest weak recovery: gamma = {_shown(optimal)}.")
    if perfect is None:
        return lines
    lines.append(
        f"The perfect solution is stable for gamma < {_shown(perfect)} "
        f"(fastest learning near half of it, {_shown(perfect / 2)}): above, students that have "
        "escaped align with each other, and the risk rises again after a small dip."
    )
    if optimal is not None and (optimal - perfect).is_number and optimal > perfect:
        lines.append(
            "Here the fastest weak recovery lies above that limit: it learns nothing in the end."
        )
    return lines


def _relaxation(law: Law, length: sp.Expr) -> list[str]:
    """How far the risk falls before anything is learned, for gradient flow and here."""
    risk = law.facts.risk.coeff(mu, 0)
    plateau = dict(law.where)[q_star]
    flow = _rooted(plateau.subs(gamma, 0))
    start = risk.subs(q, length)
    drop = sp.factor(sp.simplify(1 - risk.subs(q, flow) / start))
    return [
        f"The risk relaxes by the fraction {_shown(drop)} (gamma -> 0) while the lengths settle, "
        'before anything is learned: a fraction of the start must exceed it; reference="plateau" '
        "or overlap= do not."
    ]


def _rooted(expr: sp.Expr) -> sp.Expr:
    """Square roots of squares taken."""
    half = sp.Rational(1, 2)
    return expr.replace(
        lambda e: e.is_Pow and abs(e.exp) == half, lambda e: sp.factor(e.base) ** e.exp
    )


def _shown(value: sp.Expr) -> str:
    """A number to six digits, or the expression."""
    return f"{float(value):.6g}" if value.is_number else str(sp.simplify(value))
