"""Explanations of expectations of a law and of information exponents, judged step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.errors import BadParameter, DmftError, NotClosed
from dmft.explanation.average import Average, FieldHermite
from dmft.explanation.both_sides import MOST_FIELDS, draw, number, unknowns
from dmft.explanation.paragraphs import Meaning
from dmft.explanation.steps import CASES, Explanation, Ledger, explanation
from dmft.gaussian.closed.law import ClosedLaw
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.exponents.coefficients import Index, indices
from dmft.gaussian.recorder import Recorder, listening

if TYPE_CHECKING:
    from dmft.gaussian.exponents.record import Exponent
    from dmft.gaussian.nodes.quadrature import Quadrature
    from dmft.gaussian.nodes.series import GaussianSeries

    # The series of an average to an order, and its value at numbers for symbols.
    Series = Callable[[sp.Expr, int], GaussianSeries]
    Quad = Callable[[sp.Expr, Mapping[str, float]], Quadrature]

TITLE = "An average over Gaussian fields"
# Order of the series of what is not closed.
ORDER = 8


def explain_expectation(law: ClosedLaw, expr: sp.Expr, series: Series, quad: Quad) -> Explanation:
    """Steps from E[expr] to its closed form; to a series or a number where there is none."""
    ledger = Ledger()
    begin = len(ledger.steps)
    try:
        value = note_expectation(ledger, law, expr)
    except NotClosed as refusal:
        del ledger.steps[begin:]
        ledger.depth = 0
        return _not_closed(law, expr, refusal, series, quad)
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


def _not_closed(
    law: ClosedLaw, expr: sp.Expr, refusal: NotClosed, series: Series, quad: Quad
) -> Explanation:
    """A series in the correlation with its bound, else numbers with the error they claim."""
    before = Average.of(expr, law.fields, law.cov, law.mean)
    reason = refusal.because
    ledger = Ledger()
    try:
        found = series(expr, ORDER)
    except DmftError:
        return _by_nodes(law, quad, expr, before, reason)
    claim = f"series to order {ORDER}"
    ledger.add("series", before, found.expr, note=reason, bound=found.bound)
    return explanation(TITLE, ledger, (before, found.expr), [law.cov], claim=claim)


def _by_nodes(
    law: ClosedLaw, quad: Quad, expr: sp.Expr, before: sp.Expr, reason: str
) -> Explanation:
    symbols = unknowns(before)
    cases = [draw([law.cov] if unknowns(law.cov) else [], symbols, seed) for seed in CASES]
    found = [quad(expr, {str(s): v for s, v in at.items()}) for at in cases]
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


OVERLAP = sp.Symbol("m", real=True)


def explain_exponent(exponent: Exponent) -> Explanation:
    """Lower orders vanish, the witness does not."""
    if exponent.name != "information exponent" or exponent.witness is None:
        raise BadParameter(
            "steps are written for information exponents of targets that are not constant, "
            f"this is the {exponent.name} {exponent.value}: print(exponent.explain()) gives "
            "the reason"
        )
    active = [x for x in exponent.fields if exponent.target.has_free(x)]
    if len(active) > MOST_FIELDS:
        raise BadParameter(f"explanations are checked in up to {MOST_FIELDS} fields, not {active}")
    ledger = Ledger()
    laws: list[sp.ImmutableDenseMatrix] = []
    for order in range(1, int(exponent) + 1):
        for n in indices(len(active), order):
            found = tuple(dict(zip(active, n, strict=True)).get(x, 0) for x in exponent.fields)
            if order < int(exponent):
                _coefficient(ledger, exponent, active, n, sp.S.Zero, laws)
            elif found == exponent.witness.index:
                _coefficient(ledger, exponent, active, n, exponent.witness.value, laws)
    before = sp.Function("ell")(exponent.target)
    claim = "exact" if exponent.proof == "symbolic" else f"{exponent.proof} coefficients"
    sides = (before, exponent.value)
    return explanation(
        "Information exponent", ledger, sides, laws, claim=claim, whole=False,
        notation=(_notation(active),),
    )  # fmt: skip


def _notation(active: list[sp.Symbol]) -> Meaning:
    """What fields and overlaps are."""
    own = ", ".join(f"${sp.latex(y)}$" for y in active)
    names = (*(y.name for y in active), *(f"{y.name}'" for y in active), OVERLAP.name)
    words = "standard normal; a prime marks the field that has the overlap"
    return Meaning(
        names,
        rf"{own}: fields of the target, {words} $m$ with it; $\ell$ is the information exponent",
    )


def _coefficient(
    ledger: Ledger,
    exponent: Exponent,
    active: list[sp.Symbol],
    n: Index,
    value: sp.Expr,
    laws: list[sp.ImmutableDenseMatrix],
) -> None:
    """One coefficient at an overlap, and its value by the calculus one level deeper."""
    size, order = len(active), sum(n)
    seen = [sp.Symbol(f"{x.name}'", real=True) for x in active]
    target = exponent.target
    assert exponent.witness is not None
    known = value == 0 or exponent.witness.error == 0
    error = sp.S.Zero if known else sp.Float(exponent.witness.error, 2)
    if 2 * size <= MOST_FIELDS:
        eye = sp.eye(size)
        cov = sp.ImmutableDenseMatrix(
            sp.BlockMatrix([[eye, OVERLAP * eye], [OVERLAP * eye, eye]]).as_explicit()
        )
        laws.append(cov)
        before = Average.of(target * _product(n, seen), [*active, *seen], cov)
        ledger.add("mehler", before, OVERLAP**order * value, note=_words(n, value), bound=error)
    plain = target * sp.Mul(*(hermite(k, x) for k, x in zip(n, active, strict=True)))
    law = ClosedLaw(active, sp.eye(size))
    here = Average.of(target * _product(n, active), active, sp.eye(size))
    ledger.depth += 1
    begin, depth = len(ledger.steps), ledger.depth
    ledger.add("coefficient", here, value, bound=error)
    ledger.depth += 1
    try:
        note_expectation(ledger, law, plain)
    except NotClosed:
        del ledger.steps[begin + 1 :]
    ledger.depth = depth - 1


def _product(n: Index, fields: list[sp.Symbol]) -> sp.Expr:
    """Hermite polynomials of standard normal fields."""
    return sp.Mul(*(FieldHermite.of(k, x, sp.S.One) for k, x in zip(n, fields, strict=True)))


def _words(n: Index, value: sp.Expr) -> str:
    name = ", ".join(map(str, n))
    return f"The coefficient of order {name} {'vanishes' if value == 0 else 'decides'}."
