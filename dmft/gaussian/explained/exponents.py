r"""Information exponents: the Hermite coefficients that vanish, and the one that decides.

A coefficient is judged where it matters: of fields h' that have the overlap m with h,
E[f(h) He_n(h')] = m^|n| E[f He_n], at two random overlaps (Mehler).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy as sp

from dmft.errors import BadParameter, NotClosed
from dmft.explanation.average import Average, FieldHermite
from dmft.explanation.judge import MOST_FIELDS
from dmft.explanation.paragraphs import Meaning
from dmft.explanation.steps import Explanation, Ledger, explanation
from dmft.gaussian.closed.hermite import hermite
from dmft.gaussian.closed.law import ClosedLaw
from dmft.gaussian.explained.expectation import note_expectation
from dmft.gaussian.exponents.coefficients import Index, indices

if TYPE_CHECKING:
    from dmft.gaussian.exponents.record import Exponent

OVERLAP = sp.Symbol("m", real=True)


def explain_exponent(exponent: Exponent) -> Explanation:
    """Lower orders vanish, the witness does not."""
    if exponent.name != "information exponent" or exponent.witness is None:
        raise BadParameter(
            f"steps are written for information exponents of targets that are not constant, this "
            f"is the {exponent.name} {exponent.value}: print(exponent.explain()) says what decides"
        )
    active = [x for x in exponent.fields if exponent.target.has_free(x)]
    if len(active) > MOST_FIELDS:
        raise BadParameter(f"explanations are judged in up to {MOST_FIELDS} fields, not {active}")
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
    plain = ", ".join(map(str, active))
    names = (*(y.name for y in active), *(f"{y.name}'" for y in active), OVERLAP.name)
    words = "standard normal; a prime marks the field that has the overlap"
    return Meaning(
        names,
        rf"{own}: fields of the target, {words} $m$ with it; $\ell$ is the information exponent",
        f"{plain}: fields of the target, {words} m with it; ell is the information exponent",
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
        product = sp.Mul(*(FieldHermite.of(k, y, sp.S.One) for k, y in zip(n, seen, strict=True)))
        eye = sp.eye(size)
        cov = sp.ImmutableDenseMatrix(
            sp.BlockMatrix([[eye, OVERLAP * eye], [OVERLAP * eye, eye]]).as_explicit()
        )
        laws.append(cov)
        before = Average.of(target * product, [*active, *seen], cov)
        ledger.add("mehler", before, OVERLAP**order * value, note=_words(n, value), bound=error)
    plain = target * sp.Mul(*(hermite(k, x) for k, x in zip(n, active, strict=True)))
    law = ClosedLaw(active, sp.eye(size))
    here = Average.of(
        target * sp.Mul(*(FieldHermite.of(k, x, sp.S.One) for k, x in zip(n, active, strict=True))),
        active,
        sp.eye(size),
    )
    ledger.depth += 1
    begin, depth = len(ledger.steps), ledger.depth
    ledger.add("coefficient", here, value, bound=error)
    ledger.depth += 1
    try:
        note_expectation(ledger, law, plain)
    except NotClosed:
        del ledger.steps[begin + 1 :]
    ledger.depth = depth - 1


def _words(n: Index, value: sp.Expr) -> str:
    name = ", ".join(map(str, n))
    return f"The coefficient of order {name} {'vanishes' if value == 0 else 'decides'}."
