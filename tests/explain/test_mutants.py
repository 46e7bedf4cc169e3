"""Mutants of the engine fail at exactly the step that they are in."""

import functools

import pytest
import sympy as sp

import dmft
from dmft.gaussian.closed import (
    factor,
    polynomial,
    product,
    switch,
    wick,
)
from dmft.gaussian.closed import law as closed_law
from dmft.gaussian.closed.bivariate import TwoSigns
from dmft.gaussian.law import Law
from tests.explain.averages import FOUR, GENERAL, SHIFTED, UNIT, erf, failing, m, x, y

He = dmft.hermite


def heavier(function):
    """Diagrams with weights that are one too large."""
    return lambda degrees: tuple((links, weight + 1) for links, weight in function(degrees))


def scaled(function, by):
    return lambda *args, **kwargs: by * function(*args, **kwargs)


def first_scaled(function, by):
    """Prefactors of laws."""

    def mutant(*args):
        prefactor, law = function(*args)
        return by * prefactor, law

    return mutant


def tilted_law(function, sign):
    def mutant(self, q, b, slope):
        prefactor, law = function(self, q, b, slope)
        return prefactor, Law(lambda u, v: self.C(u, v) + sign * law.C(u, v), None, law._fields)

    return mutant


def conditional(function):
    def mutant(self, q, value):
        law = function(self, q, value)
        return Law(lambda u, v: self.C(u, v) if q not in (u, v) else sp.S.Zero, law._mean, [])

    return mutant


def more_successors(function, by):
    def mutant(*args):
        (parts, state), *rest = function(*args)
        return [((by, *parts), state), *rest]

    return mutant


def without_last(function):
    return lambda *args: function(*args)[:-1]


def swapped(function):
    def mutant(erfs):
        found = function(erfs)
        return found if found is None else [(-k, rest) for k, rest in found]

    return mutant


def side_scaled(function):
    def mutant(law, erfs):
        side, rest = function(law, erfs)
        return NINE * side, rest

    return mutant


def terms_scaled(function):
    def mutant(expr):
        first, *rest = function(expr)
        powers = tuple((n, c * sp.Rational(9, 10)) for n, c in first.powers)
        return (factor.Term(powers, first.curvature, first.slope, first.erfs, first.deltas), *rest)

    return mutant


def split_scaled(function):
    def mutant(summand, fields):
        coefficient, factors, labels = function(summand, fields)
        return 2 * coefficient, factors, labels

    return mutant


def ways_plus_one(function):
    return lambda *args: tuple((r, key, ways + (r == 0)) for r, key, ways in function(*args))


def branches_scaled(function):
    def mutant(*args):
        whole, rest = function(*args)
        return whole * sp.Rational(11, 10), rest

    return mutant


NINE = sp.Rational(9, 10)
RELU = sp.Max(0, x) * sp.Max(0, y)
a, b, c, d = FOUR.fields
PARALLEL = dmft.Gaussian([a, b, c], [[1, 2, m], [2, 4, 2 * m], [m, 2 * m, 1]])
MUTANTS = {
    "weight of a diagram": (polynomial, "diagrams", heavier, UNIT, He(3, x) * He(3, y), "diagrams"),
    "weight of a diagram, beside a tilt": (
        wick, "diagrams", heavier, GENERAL, sp.exp(-(x**2) / 2) * y * x, "diagrams"),
    "contractions of a field": (
        polynomial, "power_in_hermite", ways_plus_one, GENERAL, x**4 * y**2, "hermite"),
    "prefactor of a tilt": (
        Law, "_tilt", lambda f: first_scaled(f, NINE), GENERAL, sp.exp(-(x**2) / 2), "tilt"),
    "covariance of a tilt": (
        Law, "_tilt", lambda f: tilted_law(f, 1), GENERAL, sp.exp(-(x**2) / 2) * y**2, "tilt"),
    "law given a field": (
        Law, "_condition", conditional, GENERAL, sp.DiracDelta(x) * y**2, "condition"),
    "density": (
        Law, "density", lambda f: scaled(f, NINE), GENERAL, sp.DiracDelta(x - 1) * y**2,
        "condition"),
    "arcsine": (
        product, "error_function_product", lambda f: scaled(f, NINE), GENERAL, erf(x) * erf(y),
        "arcsine"),
    "arcsine without its bound": (
        product, "_arcsine", lambda f: lambda rho: rho, GENERAL, erf(x) * erf(y), "arcsine"),
    "two signs": (
        TwoSigns, "formula", lambda f: lambda self: f(self) + 1, SHIFTED, erf(x) * erf(y),
        "two_signs"),
    "one error function": (
        product, "error_function_product", lambda f: scaled(f, NINE), SHIFTED, erf(x),
        "smoothing"),
    "Stein, first term": (
        product, "_stein", lambda f: more_successors(f, sp.Integer(2)), GENERAL,
        x * y * sp.sign(y) * sp.sign(x),
        "stein"),
    "Stein, last term": (product, "_stein", without_last, GENERAL, x * erf(y), "stein"),
    "Stein, ratio": (
        product, "_ratio", lambda f: scaled(f, NINE), GENERAL, x * sp.sign(y), "stein"),
    "Stein, derivative": (
        product, "_derivative",
        lambda f: lambda p: (f(p)[0] / 2, f(p)[1]), GENERAL, x**2 * y * erf(y), "stein"),
    "fixed fields": (
        product, "_fixed", lambda f: more_successors(f, NINE), GENERAL,
        sp.DiracDelta(x - 1) * sp.sign(y) * erf(x), "fixed"),
    "two jumps": (
        product, "ordered_steps", swapped, GENERAL, sp.sign(x - 1) * sp.sign(x - 2) * y,
        "two_jumps"),
    "parallel signs": (
        product, "without_parallel_signs", side_scaled, PARALLEL,
        sp.sign(a) * sp.sign(b) * erf(c) * sp.erf(c), "parallel_signs"),
    "parsed terms": (
        product, "parse_factor", terms_scaled, GENERAL, erf(x) * erf(y), "linearity"),
    "split products": (
        closed_law, "split_product", split_scaled, GENERAL, erf(x) * erf(y), "linearity"),
    "kinks": (switch, "_extreme", lambda f: scaled(f, NINE), GENERAL, RELU, "kinks"),
    "branches": (
        closed_law, "branch_sums", branches_scaled, GENERAL, sp.exp(-x) * sp.Heaviside(x) * y,
        "branches"),
    "last fraction": (
        closed_law, "_tidy", lambda f: scaled(f, NINE), GENERAL, x * erf(y), "collect"),
    "waves": (
        product, "in_real_form", lambda f: scaled(f, NINE), GENERAL, sp.cos(x) * y**2, "waves"),
}  # fmt: skip

# Last lines of the proofs of entries.
PROOFS = {"arcsine": {"integrate"}, "two_signs": {"integrate"}, "smoothing": {"probability"}}


@functools.cache
def holds(law, expr):
    """Whether all steps hold, with the engine as it is: several mutants share an average."""
    return failing(law, expr) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_fail_at_their_step(name, monkeypatch):
    place, function, mutate, law, expr, rule = MUTANTS[name]
    assert holds(law, expr)
    monkeypatch.setattr(place, function, mutate(getattr(place, function)))
    found = failing(law, expr)
    # The last line of a proof says again what it proves.
    assert found[:1] == [rule]
    assert set(found) <= {rule} | ({"integrate", "probability"} & PROOFS.get(rule, set()))


@pytest.mark.slow
def test_four_signs_mutant(monkeypatch):
    expr = sp.sign(a) * sp.sign(b) * sp.sign(c) * sp.sign(d)
    true = product._four
    monkeypatch.setattr(product, "_four", lambda *args: NINE * true(*args))
    assert failing(FOUR, expr) == ["four_signs", "integrate"]


def test_there_are_twenty():
    assert len(MUTANTS) >= 20
