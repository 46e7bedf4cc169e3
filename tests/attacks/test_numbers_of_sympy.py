"""SymPy numbers wherever numbers are: the same results as with floats, or a refusal in words."""

from __future__ import annotations

import importlib.util
import re
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance, NotClosed

_spec = importlib.util.spec_from_file_location("calls", Path(__file__).with_name("calls.py"))
calls = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(calls)
# Numbers in a repr: 0.1, 1/10, 1.e-3.
NUMBER = re.compile(r"(?<![\w.])\d+\.?\d*(?:e[+-]?\d+)?(?:/\d+)?")


def exact(number):
    """A Rational or an Integer."""
    return sp.Integer(number) if isinstance(number, int) else sp.Rational(str(number))


def replaced(value, by):
    """The value with all numbers in it replaced."""
    if isinstance(value, list | tuple):
        return type(value)(replaced(each, by) for each in value)
    if isinstance(value, dict):
        return {name: replaced(each, by) for name, each in value.items()}
    return by(value) if type(value) in (int, float) else value


def call(function, given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(dmft, function)(**given)


def digest(result):
    """What a result shows, with numbers to nine digits."""
    if isinstance(result, dmft.Certificate):
        return f"{result.mid:.9g}"
    short = re.sub(r"\s+", "", repr(result))
    return NUMBER.sub(lambda m: f"{float(Fraction(m[0].rstrip('.'))):.9g}", short)


def numbered(function):
    """Arguments of the good call that hold numbers."""
    given = calls.good_calls()[function]
    return {a: v for a, v in given.items() if digest(replaced(v, str)) != digest(v)}


FUNCTIONS = sorted(set(calls.good_calls()) - {"plot"})


@pytest.mark.cases(27)
@pytest.mark.parametrize("kind", [exact, pytest.param(sp.Float, marks=pytest.mark.slow)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_same_results(function, kind):
    if function.startswith("certify"):
        pytest.importorskip("flint")
    given = calls.good_calls()[function]
    found = numbered(function)
    if not found:
        return
    good = digest(call(function, given))
    for argument, value in found.items():
        try:
            result = call(function, {**given, argument: replaced(value, kind)})
        except BadParameter:
            # A count is no Float, as it is no float.
            with pytest.raises(BadParameter):
                call(function, {**given, argument: replaced(value, float)})
            assert kind is sp.Float
            continue
        assert digest(result) == good, argument


@pytest.mark.parametrize(
    "level",
    [sp.Rational(1, 3), sp.Float(1, 40) / 3, np.float32(1 / 3), np.array(1 / 3), Fraction(1, 3)],
)
def test_a_float_is_one_of_python(level):
    held = dmft.FirstPassage("risk", level).level
    assert type(held) is float
    assert held == float(level)


@pytest.mark.parametrize("times", [sp.Integer(3), sp.Float(3), 3.0, np.int8(3), np.array(3)])
def test_a_whole_number_is_one_of_python(times):
    held = dmft.Repeat(times).times
    assert type(held) is int
    assert held == 3


def test_constants_are_numbers():
    assert dmft.Event("risk", sp.pi).threshold == float(sp.pi)
    assert dmft.Event("risk", 10**300).threshold == 1e300
    assert type(dmft.Event("risk", 10**300).threshold) is float


@pytest.mark.parametrize(
    "large", [10**400, -(10**400), sp.Integer(10) ** 400, sp.Float("1e400"), sp.exp(10**4)]
)
def test_what_no_float_holds_is_refused(large):
    with pytest.raises(BadParameter, match=r"threshold = .* it is too large for a float"):
        dmft.Event("risk", large)
    with pytest.raises(BadParameter, match="times = "):
        dmft.Repeat(large)


@pytest.mark.parametrize("none", [sp.I, sp.zoo, sp.nan, sp.Symbol("w"), sp.true, sp.Matrix([1])])
def test_what_is_no_real_number_is_refused(none):
    with pytest.raises(BadParameter, match="must be a number"):
        dmft.Event("risk", none)


@pytest.mark.parametrize("seed", [2**53 + 1, 2**127 + 1])
def test_seeds_of_many_bits(seed):
    """Beyond 2**53 floats do not tell whole numbers apart; 2**53 + 1 was "no whole number"."""
    model = calls.parts()["model"]
    drawn = [dmft.random_overlaps(model, 20, s).M[0, 0] for s in (seed, sp.Integer(seed), seed - 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_certificates_beyond_floats():
    """Were an OverflowError of int() and one of a quotient."""
    pytest.importorskip("flint")
    model = calls.parts()["model"]
    with pytest.raises(NotClosed, match="larger than any float"):
        dmft.certify(model, Q=[[10**300]], M=[[0]])
    with pytest.raises(InvalidCovariance, match="pivot -1"):
        dmft.certify(model, Q=[[1]], M=[[10**300]])


def test_a_squared_length_of_one():
    sphere = dmft.SGD(0.05, constraint="sphere")
    model = calls.parts()["model"]
    formulas = [
        dmft.escape_formula(model, sphere, length=length) for length in (1, 1.0, sp.Float(1))
    ]
    assert formulas[0] == formulas[1] == formulas[2]


def test_grids_of_boundaries_are_bounded():
    given = calls.good_calls()["boundary"]
    with pytest.raises(BadParameter, match=r"grid = .* more than 10,000,000 points"):
        dmft.boundary(**{**given, "grid": (10**300, 3)})
