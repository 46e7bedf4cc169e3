"""Averages whose explanations the tests read, and the steps of a record that do not hold."""

import sympy as sp

import dmft
from dmft.errors import UnprovenStep
from dmft.explanation.steps import Ledger, random_cases
from dmft.gaussian.explanations import note_expectation

x, y, m = sp.symbols("x y m", real=True)
q, rho = sp.symbols("q rho", positive=True)
GENERAL = dmft.Gaussian([x, y], [[q, m], [m, rho]])
UNIT = dmft.Gaussian([x, y], [[1, m], [m, 1]])
SHIFTED = dmft.Gaussian([x, y], [[q, m], [m, rho]], [sp.Symbol("a", real=True), sp.Rational(1, 3)])
FOUR = dmft.Gaussian(
    sp.symbols("x1:5", real=True),
    [[1, m, 0, sp.Rational(1, 9)], [m, 1, sp.Rational(1, 5), 0],
     [0, sp.Rational(1, 5), 1, sp.Rational(1, 3)], [sp.Rational(1, 9), 0, sp.Rational(1, 3), 1]],
)  # fmt: skip


def erf(z):
    return sp.erf(z / sp.sqrt(2))


def failing(law, expr):
    """Rules of the steps that do not hold, as the engine records them now."""
    ledger = Ledger()
    note_expectation(ledger, law, expr)
    cases, found = random_cases(ledger, [law.cov]), []
    for step in ledger.steps:
        try:
            step.judged(cases)
        except UnprovenStep:
            found.append(step.rule)
    return found
