"""Explanations of expectations of a law: recorded by the calculus, judged step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.errors import DmftError, NotClosed
from dmft.explanation.average import Average
from dmft.explanation.steps import CASES, Explanation, Ledger, explanation
from dmft.explanation.values import draw, number, unknowns
from dmft.gaussian.closed.law import ClosedLaw
from dmft.gaussian.explained.recorder import Recorder, listening

if TYPE_CHECKING:
    from dmft.gaussian.expectation import Gaussian

TITLE = "An average over Gaussian fields"
# Order of the series of what is not closed.
ORDER = 8


def explain_expectation(law: Gaussian, expr: sp.Expr) -> Explanation:
    """Steps from E[expr] to its closed form; to a series or a number where there is none."""
    ledger = Ledger()
    begin = len(ledger.steps)
    try:
        value = note_expectation(ledger, law, expr)
    except NotClosed as refusal:
        del ledger.steps[begin:]
        ledger.depth = 0
        return _not_closed(law, expr, refusal)
    before = Average.of(sp.sympify(expr, strict=True), law.fields, law.cov, law.mean)
    return explanation(TITLE, ledger, (before, value), [law.cov])


def note_expectation(ledger: Ledger, law: ClosedLaw, expr: sp.Expr) -> sp.Expr:
    """The closed form of E[expr], its steps noted."""
    derived: dict[Any, sp.Symbol] = {}

    def symbol(label: Any) -> sp.Expr:
        if isinstance(label, sp.Expr):
            return label
        if len(label) == 1 and label[0][1] == 1:
            return law.fields[label[0][0]]
        return derived.setdefault(label, sp.Symbol(f"u_{len(derived) + 1}", real=True))

    with listening(Recorder(ledger, symbol)):
        return law.expect(expr)


def _not_closed(law: Gaussian, expr: sp.Expr, refusal: NotClosed) -> Explanation:
    """A series in the correlation with its bound, else numbers with the error they claim."""
    before = Average.of(expr, law.fields, law.cov, law.mean)
    reason = f"There is no closed form: {refusal.reason}." if refusal.reason else ""
    ledger = Ledger()
    try:
        series = law.series(expr, ORDER)
    except DmftError:
        return _by_nodes(law, expr, before, reason)
    claim = f"series to order {ORDER}"
    ledger.add("series", before, series.expr, note=reason, bound=series.bound)
    return explanation(TITLE, ledger, (before, series.expr), [law.cov], claim=claim)


def _by_nodes(law: Gaussian, expr: sp.Expr, before: sp.Expr, reason: str) -> Explanation:
    symbols = unknowns(before)
    cases = [draw([law.cov] if unknowns(law.cov) else [], symbols, seed) for seed in CASES]
    found = [law.quad(expr, {str(s): v for s, v in at.items()}) for at in cases]
    errors = [float(q.error) for q in found]

    def judge(row: int) -> tuple[float, float, float]:
        value = number(before, cases[row])
        return value.value, float(found[row]), errors[row] + 2e-7 * value.size

    after = sp.Function("quad")(*symbols) if symbols else sp.Float(float(found[0]), 15)
    claimed = f"Claimed errors {errors[0]:.1e} and {errors[1]:.1e}."
    ledger = Ledger()
    ledger.add("nodes", before, after, note=f"{reason} {claimed}".strip(), judge=judge)
    claim = f"by quadrature, error {max(errors):.0e}"
    return explanation(TITLE, ledger, (before, after), [], claim=claim, cases=cases)
