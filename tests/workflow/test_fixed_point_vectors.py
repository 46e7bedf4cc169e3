"""All published fixed points: largest rates of perfect recovery, plateaus, noise floors."""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import brentq

import dmft
from dmft.equations.escape.recovery import recovery

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
ACTIVATIONS = {"erf": ERF, "square": z**2, "relu": sp.Max(z, 0)}
VECTORS = json.loads((Path(__file__).parents[1] / "reference" / "fixed_points.json").read_text())
IDENTICAL = "identical students (Q=C), unstable for gamma>0"


def matched(name, width, noise=0):
    committee = dmft.Committee(ACTIVATIONS[name], width)
    return dmft.Model(committee, committee, noise)


def symmetric(width, Q, C, R, S):
    eye, ones = np.eye(width), np.ones((width, width))
    return dmft.Overlaps(C * ones + (Q - C) * eye, S * ones + (R - S) * eye)


@functools.cache
def largest_rate(name, width):
    return float(dmft.maximal_learning_rate(matched(name, width), dmft.SGD(0.1)))


@pytest.mark.slow
def test_published_largest_rates():
    errors = []
    for v in VECTORS["gamma_max"]:
        found = largest_rate(v["act"], v["K"])
        errors.append(abs(found / v["gamma_max"] - 1))
    assert len(errors) == 15
    assert max(errors) < 1e-14


def slopes(name):
    """E[sigma'^n], n = 1..4, theory/one_pass G.1, by quadrature on nodes."""
    if name == "relu":
        return [0.5] * 4
    x, w = np.polynomial.hermite_e.hermegauss(120)
    slope = {"erf": np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2), "square": 2 * x}[name]
    return [float(w @ slope**n) / math.sqrt(2 * math.pi) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_largest_rates_of_five_widths(name):
    """The matrices of G.1 with moments by quadrature, the root by bisection."""
    s1, s2, s3, s4 = slopes(name)
    for K in (1, 2, 3, 5, 10):
        s11 = s1**2
        drift = -2 / K * np.array([[s2, (K - 1) * s11], [s11, s2 + (K - 2) * s11]])
        off = 2 * s3 * s1 + (K - 2) * s2 * s11
        last = 2 * s2**2 + 4 * (K - 2) * s2 * s11 + (K - 2) * (K - 3) * s11**2
        noise = np.array([[s4 + (K - 1) * s2**2, (K - 1) * off], [off, last]]) / K**3
        size = 1 if K == 1 else 2

        def leading(gamma, drift=drift, noise=noise, size=size):
            return np.linalg.eigvals((drift + gamma * noise)[:size, :size]).real.max()

        expected = brentq(leading, 1e-3, 100.0, xtol=1e-14, rtol=1e-14)
        assert largest_rate(name, K) == pytest.approx(expected, rel=1e-12)


def plateau_cases():
    return [v for v in VECTORS["erf_plateau"] if v["gamma"] > 0]


@pytest.mark.slow
def test_plateaus_of_gradient_flow():
    for v in VECTORS["erf_plateau"]:
        if v["gamma"] == 0:
            equations = dmft.derive(matched("erf", v["K"]), dmft.GradientFlow())
            start = symmetric(v["K"], v["Q"], v["C"], v["R"], v["R"])
            (point,) = dmft.fixed_points(equations, start)
            assert point.residual < 1e-15
            assert point.risk == pytest.approx(v["risk"], abs=1e-15)
            rate = dmft.stability(equations, point).growth_rate
            assert rate == pytest.approx(v["escape_rate_t"], rel=1e-11)


@pytest.mark.slow
def test_plateaus_at_finite_rates():
    equations = {
        K: dmft.derive(matched("erf", K), dmft.SGD(sp.Symbol("g", positive=True))) for K in (2, 3)
    }
    worst = dict.fromkeys(("Q", "C", "R", "risk", "modes"), 0.0)
    for v in plateau_cases():
        K, identical = v["K"], v.get("branch") == IDENTICAL
        # Off the published point, but on its side: identical units stay identical.
        aside = (0.01, 0.01) if identical else (0.01, -0.005)
        start = symmetric(K, v["Q"] + aside[0], v["C"] + aside[1], v["R"], v["R"])
        (point,) = dmft.fixed_points(equations[K], start, learning_rate=v["gamma"])
        assert point.status == "ok", (v, point.message)
        found = {
            "Q": point.overlaps.Q[0, 0], "C": point.overlaps.Q[0, 1],
            "R": point.overlaps.M[0, 0], "risk": point.risk,
        }  # fmt: skip
        modes = dmft.stability(equations[K], point, learning_rate=v["gamma"]).eigenvalues.real
        off = np.abs(modes[:3] - v["eigenvalues_top3"]).max()
        worst["modes"] = max(worst["modes"], off)
        for name, value in found.items():
            worst[name] = max(worst[name], abs(value - v[name]))
    assert len(plateau_cases()) == 8
    assert max(worst[name] for name in ("Q", "C", "R", "risk")) < 1e-12, worst
    assert worst["modes"] < 1e-10, worst


@pytest.mark.slow
def test_noise_floors():
    for v in VECTORS["R_inf"]:
        K, gamma, noise = v["K"], v["gamma"], v["Delta"]
        model = matched("erf", K, noise)
        linear = float(recovery(model, dmft.SGD(gamma)).noise_floor(gamma, noise))
        assert linear == pytest.approx(v["R_linear"], rel=1e-12)
        (point,) = dmft.fixed_points(
            dmft.derive(model, dmft.SGD(gamma)), symmetric(K, 1.0, 0.0, 1.0, 0.0)
        )
        assert point.risk == pytest.approx(v["R_fixed_point"], rel=1e-9)
        Q, M = point.overlaps.Q, point.overlaps.M
        found = [Q[0, 0], M[0, 0]] if K == 1 else [Q[0, 0], Q[0, 1], M[0, 0], M[0, 1]]
        assert found == pytest.approx(v["fixed_point"], abs=1e-12)
        assert dmft.stability(dmft.derive(model, dmft.SGD(gamma)), point).verdict == "stable"
