"""Issue 13, item 14: formulas of bounded cost, numbers that are none, budgets that are kept."""

from __future__ import annotations

import contextlib
import random
import time
import warnings

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.emit.formula import _FUNCTIONS, parse_expression
from dmft.errors import BadParameter, DmftError, ExpressionRefused

z = sp.Symbol("z", real=True)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "text",
    [
        "sqrt(sinh(erfc(log(z))**32))",
        "cosh((1 + log(z))**20)",
        "tanh(sqrt(z)**9*log(z))",
        "log(z)**5",
    ],
)
def test_formulas_that_took_ten_seconds(text):
    began = time.thread_time()
    with pytest.raises(ExpressionRefused, match="in parts that may not be real"):
        parse_expression(text, {"z": z})
    assert time.thread_time() - began < 2.0


@pytest.mark.parametrize(
    "text",
    [
        "log(1 + exp(z))",
        "log(cosh(z))**8",
        "sqrt(1 + z**2)**15",
        "sqrt(Abs(z))**9",
        "exp(-z**2)**16",
    ],
)
def test_real_formulas_keep_their_powers(text):
    assert parse_expression(text, {"z": z}).free_symbols == {z}


def formula(rng, depth):
    """A random formula."""
    draw = rng.random()
    if depth == 0 or draw < 0.12:
        return rng.choice(["z", "z", "z", "2", "z**2", "-z", "0.5"])
    if draw < 0.6:
        return f"{rng.choice([*_FUNCTIONS])}({formula(rng, depth - 1)})"
    if draw < 0.75:
        power = rng.choice(["32", "16", "2", "3", "-1", "1/2", "-32", "7/3", "4"])
        return f"({formula(rng, depth - 1)})**{power}"
    return f"({formula(rng, depth - 1)}{rng.choice('+-*/')}{formula(rng, depth - 1)})"


def check_costs(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        text = formula(rng, rng.randint(2, 5))
        began = time.process_time()
        with contextlib.suppress(DmftError):
            dmft.Committee(parse_expression(text, {"z": z}), 1)
        assert time.process_time() - began < 5.0, text


def test_costs_of_random_formulas():
    check_costs(14, 120)


@pytest.mark.slow
def test_costs_of_many_random_formulas():
    check_costs(15, 3000)


@pytest.mark.parametrize("kind", [dmft.SharpnessAware, dmft.Lookahead])
@pytest.mark.parametrize(
    "bad", [NAN, INF, -INF, True, "x", 10**400, sp.nan, sp.zoo, 1j, None, [0.1]]
)
def test_displacements_are_finite_numbers(kind, bad):
    with pytest.raises(BadParameter, match="rho"):
        kind(bad)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dmft.Alignment([], 0.1), "must contain a number"),
        (lambda: dmft.Alignment(0.1, True), "m = True"),
        (lambda: dmft.SGD(True), "learning_rate = True"),
        (lambda: dmft.SGD(10**400), "learning_rate = 1000"),
        (lambda: dmft.Committee(z**2, True), "width"),
        (lambda: dmft.Overlaps([[True]], [[0.1]]), "Q = "),
        (lambda: dmft.Overlaps([[1.0]], np.ma.masked_array([[0.1]], [[True]])), "masked"),
        (lambda: dmft.GradientDescent(0.1, True), "samples_per_dim = True"),
        (lambda: dmft.hermite(3, "x"), "x = 'x'"),
        (lambda: dmft.hermite(10**9, z), "n = 1000000000|order"),
        (lambda: dmft.hermite(True, z), "n = True"),
        (lambda: dmft.hermite_expansion(z, z, 10**9), "order"),
        (lambda: dmft.information_exponent(z ** sp.Integer(10**30), z), "powers at most"),
        (lambda: dmft.information_exponent(z * sp.Float("1e400"), z), "finite floats"),
    ],
)
def test_what_is_no_number_is_refused(call, words):
    with pytest.raises(DmftError, match=words):
        call()


@pytest.fixture(scope="module")
def run():
    square = dmft.Committee(z**2, width=1)
    eqs = dmft.derive(dmft.Model(square, square, 0.1), dmft.SGD(0.05, constraint="sphere"))
    start = dmft.Overlaps([[1.0]], [[0.1]], [[1.0]])

    def solve(t_max=1.0, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return dmft.solve(eqs, start, t_max, **options)

    return solve


@pytest.mark.parametrize(
    "bad",
    [
        10**9, 10**400, 2**63, True, 1, -3, 2.5, NAN, "x", ["a"], [0.0, NAN], [0.0, 1j], [[0.0]],
        [], np.ma.masked_array([0.0, 1.0], [False, True]), np.array([0.5 + 0j]), [1.0, 0.5],
        {0.0: 1}, object(), [object()],
    ],
    ids=lambda bad: str(bad).partition(" object")[0],
)  # fmt: skip
def test_save_at_is_refused_in_words(run, bad):
    with pytest.raises(BadParameter, match="save_at"):
        run(save_at=bad)


def test_whole_floats_and_masked_arrays_without_a_hole(run):
    assert run(save_at=5.0) == run(save_at=5) or len(run(save_at=5.0)) == 5
    np.testing.assert_array_equal(run(save_at=(0.0, 0.5, 1.0)).t, [0.0, 0.5, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("t_max", [1e308, 1e100, 1e15])
def test_a_horizon_beyond_all_bounds_ends_by_the_budget(run, t_max):
    found = run(t_max, max_steps=2000)
    assert found.status in ("ok", "max_steps")
    assert np.all(np.isfinite(found.t))


@pytest.mark.parametrize("name", ["max_steps", "rtol", "atol", "timeout", "label_noise"])
@pytest.mark.parametrize("bad", [NAN, "x", True, 10**400, 1j, [1.0, 2.0]])
def test_options_are_numbers(run, name, bad):
    with pytest.raises(BadParameter, match=name):
        run(**{name: bad})
