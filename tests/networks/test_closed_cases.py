"""Gaussian sites: the record of a network is that of a two-time problem, in symbols and numbers."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.averages.expectation import Expectation
from dmft.laws import Normal
from dmft.literature.two_time import COVARIANCE, VARIANCES, pair_average

X, H, z = sp.symbols("x h z", real=True)
t, s, u = sp.symbols("t s u")
C, R = sp.symbols("C R", cls=sp.Function)
ERF = sp.erf(sp.sqrt(sp.pi) * z / 2)


def two_time(network, variance):
    """Rates of C and R of leaky sites, from the terms of the record alone."""
    eqs = dmft.derive(network)
    f, terms = eqs.functions(0), eqs.terms
    assert terms["x"]["rate"] == f.field(dmft.t) - f.state(dmft.t)
    later = next(y for y in eqs.block(f.sigma).atoms(sp.Symbol) if y.name == "s")
    output, a, b = f.output, *VARIANCES
    average = eqs.block(f.corr)
    assert average == Expectation(output * output.xreplace({dmft.t: later}))
    pair = pair_average(output.xreplace({f.state(dmft.t): z}))
    pair = pair.subs({COVARIANCE: C(t, u), a: C(t, t), b: C(u, u)}, simultaneous=True)
    drive = eqs.block(f.sigma) / f.corr(dmft.t, later) * pair
    rates = {
        C(t, s): {"leak": -C(t, s), "drive": sp.Integral(drive * R(s, u), (u, 0, s))},
        R(t, s): {"leak": -R(t, s)},
        C(t, t): {"leak": -2 * C(t, t), "drive": 2 * sp.Integral(drive * R(t, u), (u, 0, t))},
    }
    if "memory" in terms["h"]:
        inside = terms["h"]["memory"].function / output.xreplace({dmft.t: later})
        kernel = inside / f.resp(dmft.t, later) * R(t, u)
        rates[C(t, s)]["memory"] = sp.Integral(kernel * C(u, s), (u, 0, t))
        rates[R(t, s)]["memory"] = sp.Integral(kernel * R(u, s), (u, s, t))
        rates[C(t, t)]["memory"] = 2 * sp.Integral(kernel * C(u, t), (u, 0, t))
    noise = terms["x"].get("noise", 0) / f.white(dmft.t)
    if noise:
        rates[C(t, t)]["noise"] = noise**2
    return dmft.TwoTime(rates, {R(t, t): {"kick": 1}}, {C(0, 0): variance}, [R])


def test_the_symbols_of_an_erf_network_are_those_of_the_literature():
    network = dmft.RandomNetwork(-X + H, X, H, output=ERF.subs(z, X), std=2)
    named, wanted = two_time(network, 1).named, dmft.literature.random_network(ERF, 2, 1).named
    assert all(str(named[key]) == str(wanted[key]) for key in wanted)


LINEAR = dmft.RandomNetwork(
    -X + H, X, H, std=sp.Rational(2, 5), symmetry=sp.Rational(1, 2), noise=sp.Rational(1, 10)
)
G = sp.Rational(4, 25)
WRITTEN = dmft.TwoTime(
    {
        C(t, s): sp.Integral(G / 2 * R(t, u) * C(u, s), (u, 0, t)) - C(t, s)
        + sp.Integral(G * C(t, u) * R(s, u), (u, 0, s)),
        R(t, s): sp.Integral(G / 2 * R(t, u) * R(u, s), (u, s, t)) - R(t, s),
        C(t, t): 2 * sp.Integral(G / 2 * R(t, u) * C(u, t), (u, 0, t)) - 2 * C(t, t)
        + 2 * sp.Integral(G * C(t, u) * R(t, u), (u, 0, t)) + sp.Rational(1, 5),
    },
    {R(t, t): 1}, {C(0, 0): 1}, [R],
)  # fmt: skip


def test_the_symbols_of_a_linear_network_are_those_of_a_two_time_problem():
    made = two_time(LINEAR, 1)
    for key, wanted in WRITTEN.rates.items():
        assert str(sp.expand(made.rates[key] - wanted).doit()) == "0", key


@pytest.mark.parametrize(("network", "g"), [(LINEAR, None), (None, 2)], ids=["linear", "erf"])
def test_closed_runs_are_extrapolated_to_the_two_time_solution(network, g):
    network = network or dmft.RandomNetwork(-X + H, X, H, output=ERF.subs(z, X), std=g)
    problem = WRITTEN if g is None else dmft.literature.random_network(ERF, g)
    exact = dmft.solve(problem, None, 4.0, tol=1e-8).C_diagonal[-1]
    run = dmft.solve(dmft.derive(network), Normal(), 4.0, dt=0.2, extrapolate=3)
    assert run.provenance["method"] == "closed"
    assert run.corr[-1, -1] == pytest.approx(exact, abs=1e-6)


@pytest.mark.slow
def test_sweeps_of_linear_sites_have_no_sampling_error():
    """Innovations are matched: one stepper gives the closed recursion, extrapolated or not."""
    eqs, options = dmft.derive(LINEAR), {"method": "sweep", "paths": 400, "sweeps": 2}
    for stages in (0, 2):
        closed = dmft.solve(eqs, Normal(), 4.0, dt=0.2, extrapolate=stages)
        run = dmft.solve(eqs, Normal(), 4.0, dt=0.2, extrapolate=stages, **options)
        np.testing.assert_allclose(run.corr, closed.corr, atol=1e-7)
        np.testing.assert_allclose(run.resp, closed.resp, atol=1e-6)
