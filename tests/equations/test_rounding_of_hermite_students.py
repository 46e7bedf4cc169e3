"""Rates on the sphere at small overlaps, where m^(n-1) must be a factor and not a difference.

Judged by the definition, E[psi_j (lambda_i - Omega_ij h_j)], with Gauss-Hermite rules that are
exact for polynomials, at 140 digits.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import dmft
from dmft.equations.definitions import Together, live
from dmft.equations.noise.derivatives import jacobian
from dmft.equations.noise.projection import projected
from dmft.equations.views.explicit import Unroller

z = sp.Symbol("z", real=True)
mp = mpmath.MPContext()
mp.dps = 140
RATE, NOISE = 0.3, 0.2
OVERLAPS = [10.0**-n for n in range(1, 9)]
FEW = OVERLAPS[::3]


def he(n):
    return sp.expand(2 ** sp.Rational(-n, 2) * sp.hermite(n, z / sp.sqrt(2)))


@cache
def rule(size):
    """Nodes and weights that are exact to the degree 2 size - 1, by Newton's method."""

    def both(y):
        values = [mp.one, y]
        for n in range(1, size):
            values.append(y * values[n] - n * values[n - 1])
        return values[size], values[size - 1]

    nodes = []
    for node in np.polynomial.hermite_e.hermegauss(size)[0]:
        y = mp.mpf(node)
        for _ in range(8):
            top, below = both(y)
            y -= top / (size * below)
        nodes.append((y, mp.factorial(size) / (size * both(y)[1]) ** 2))
    return nodes


def lower_root(cov):
    """Cholesky factor; a field that depends on those before it has a pivot of zero."""
    root = [[mp.zero] * len(cov) for _ in cov]
    for i, row in enumerate(cov):
        for j in range(i + 1):
            left = row[j] - sum(root[i][n] * root[j][n] for n in range(j))
            if i == j:
                root[i][i] = mp.sqrt(left) if left > mp.mpf(10) ** -100 else mp.zero
            elif root[j][j]:
                root[i][j] = left / root[j][j]
    return root


def average(function, cov, degree, dims=None):
    """E[function(fields)] of a polynomial; linear in the fields that stand behind `dims`."""
    root = lower_root(cov)
    total = mp.zero
    for points in itertools.product(rule(degree // 2 + 1), repeat=dims or len(cov)):
        fields = [sum(c * y for c, (y, _) in zip(row, points, strict=False)) for row in root]
        total += mp.fprod(w for _, w in points) * function(*fields)
    return total


def numbers(poly):
    """Function of a polynomial at 140 digits."""
    coefficients = [mp.mpf(str(sp.N(c, 150))) for c in sp.Poly(poly, z).all_coeffs()]
    return lambda y: mp.polyval(coefficients, y)


def truth(student, teacher, start, algorithm):
    """dM/dt, dQ/dt and the risk of two committees of polynomials on the sphere."""
    p, k = start.M.shape
    Omega = [[mp.mpf(float(y)) for y in row] for row in start.Omega]
    slope = numbers(sp.diff(student, z))
    functions = [numbers(student)] * p + [numbers(teacher)] * k
    weights = [-mp.mpf(1) / p] * p + [mp.mpf(1) / k] * k
    degree = max(sp.degree(student, z), sp.degree(teacher, z))

    def tangential(j, i):
        """E[psi_j (lambda_i - Omega_ij h_j)]."""
        total = mp.zero
        for n, (f, weight) in enumerate(zip(functions, weights, strict=True)):
            along = [Omega[i][y] - Omega[i][j] * Omega[j][y] for y in (j, n)]
            own = Omega[i][i] - 2 * Omega[i][j] ** 2 + Omega[i][j] ** 2 * Omega[j][j]
            cov = [
                [Omega[j][j], Omega[j][n], along[0]],
                [Omega[n][j], Omega[n][n], along[1]],
                [*along, own],
            ]
            total += weight * average(lambda a, b, t, f=f: slope(a) * f(b) * t, cov, 2 * degree, 2)
        return total

    def square(j, n):
        """E[psi_j psi_n] with the label noise."""

        def integrand(*fields):
            error = sum(w * f(y) for w, f, y in zip(weights, functions, fields, strict=True))
            return slope(fields[j]) * slope(fields[n]) * (error**2 + mp.mpf(NOISE))

        return average(integrand, Omega, 4 * degree - 2)

    sgd = isinstance(algorithm, dmft.SGD)
    S = {(j, n): square(j, n) if sgd else mp.zero for j in range(p) for n in range(p)}
    step = mp.mpf(RATE) / p
    dM = [
        [tangential(j, p + r) - start.M[j, r] * step * S[j, j] / 2 for r in range(k)]
        for j in range(p)
    ]
    dQ = [
        [
            tangential(j, n)
            + tangential(n, j)
            + step * (S[j, n] - Omega[j][n] * (S[j, j] + S[n, n]) / 2)
            for n in range(p)
        ]
        for j in range(p)
    ]
    risk = mp.zero
    for m, n in itertools.product(range(p + k), repeat=2):
        cov = [[Omega[a][b] for b in (m, n)] for a in (m, n)]
        pair = average(lambda a, b, m=m, n=n: functions[m](a) * functions[n](b), cov, 2 * degree)
        risk += weights[m] * weights[n] * pair / 2
    return {"M": dM, "Q": dQ, "risk": [[risk]]}


def deviation(found, exact):
    """Largest relative deviation; what is zero must be zero."""
    pairs = zip(np.ravel(found), itertools.chain(*exact), strict=True)
    gaps = [(abs(mp.mpf(float(y)) - e), abs(e)) for y, e in pairs]
    return float(max(gap / size if size > 1e-100 else 1e100 * gap for gap, size in gaps))


def state(m, p, k):
    """Overlaps of order m between all different rows, teachers of unlike lengths."""
    if (p, k) == (1, 1):
        return dmft.Overlaps([[1.0]], [[m]])
    M = m * np.array([[1.0, -0.7], [0.4, 0.9]])
    return dmft.Overlaps([[1.0, 0.5 * m], [0.5 * m, 1.0]], M)


def worst(student, teacher, algorithm, width, overlaps, compiled=True):
    """Largest relative deviation of the reference, the code and the risk."""
    networks = (dmft.Committee(f, width) for f in (student, teacher))
    model = dmft.Model(*networks, NOISE)
    equations, risk = dmft.derive(model, algorithm), dmft.population_risk(model)
    largest = 0.0
    for m in overlaps:
        start = state(m, width, width)
        exact = truth(student, teacher, start, algorithm)
        found = [equations.evaluate(start)]
        if compiled:
            found.append(compiled_rates(equations, start))
        rates = [deviation(rate[name], exact[name]) for rate in found for name in ("M", "Q")]
        value = risk(Q=start.Q, M=start.M, P=start.P)
        largest = max(largest, *rates, deviation([value], exact["risk"]))
    return largest


def compiled_rates(equations, start):
    problem, values = dmft.build(equations), equations.values(start, {})
    y = problem.pack({"Q": start.Q, "M": start.M})
    scalars = {name: values.scalars[name] for name in problem.parameters}
    par, out = problem.pack_parameters(scalars, values.arrays), np.empty_like(y)
    problem.rhs(0.0, y, np.array([start.p, start.k]), par, out)
    return problem.unpack(out, values.widths)


FLOW = dmft.GradientFlow(constraint="sphere")
STEPS = dmft.SGD(RATE, constraint="sphere")
SUM = he(3) + he(5)
NORMALISED = sp.expand(he(3) / sp.sqrt(6) + he(5) / sp.sqrt(120))
PAIRS = {
    "He5 on He3": (he(5), he(3)),
    "He3 on He5": (he(3), he(5)),
    "He6 on He2": (he(6), he(2)),
    "He3 + He5 on itself": (SUM, SUM),
    "He3 + He5 on He5": (SUM, he(5)),
    "He5 on He3 + He5": (he(5), SUM),
    "He3 and He5 of unit length": (NORMALISED, NORMALISED),
}


@pytest.mark.cases(4)
@pytest.mark.parametrize("degree", range(1, 9))
def test_reference_of_one_hermite_unit(degree):
    """dM/dt = n n! m^(n-1) (1 - m^2): an error of 2e-3 at 1e-3 for n = 5, 6, all at 1e-4."""
    network = dmft.Committee(he(degree), width=1)
    equations = dmft.derive(dmft.Model(network, network), FLOW)
    for m in OVERLAPS:
        exact = degree * math.factorial(degree) * m ** (degree - 1) * (1 - m * m)
        rate = equations.evaluate(dmft.Overlaps([[1.0]], [[m]]))["M"].item()
        assert rate == pytest.approx(exact, rel=1e-14, abs=0)


@pytest.mark.parametrize("degree", [pytest.param(3, marks=pytest.mark.slow), 8])
def test_linearised_rates_of_one_hermite_unit(degree):
    network = dmft.Committee(he(degree), width=1)
    equations = dmft.derive(dmft.Model(network, network), FLOW)
    for m in FEW:
        powers = (degree - 1) * m ** (degree - 2) - (degree + 1) * m**degree
        slope = jacobian(equations, dmft.Overlaps([[1.0]], [[m]]), np.array([[0.0, 1.0]]))[0, 1]
        assert slope == pytest.approx(degree * math.factorial(degree) * powers, rel=1e-13, abs=0)


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize("degree", [pytest.param(6, marks=pytest.mark.slow), 8])
def test_code_of_hermite_units(degree):
    assert worst(he(degree), he(degree), FLOW, 1, FEW) < 1e-13
    assert worst(he(degree), he(degree), FLOW, 2, [1e-8]) < 1e-12


@pytest.mark.usefixtures("generated_code")
def test_code_of_steps():
    assert worst(he(3), he(3), STEPS, 1, FEW) < 1e-13
    assert worst(he(3), he(3), STEPS, 2, [1e-6]) < 1e-12


@pytest.mark.cases("He6 on He2")
@pytest.mark.parametrize("name", list(PAIRS))
def test_reference_of_unlike_degrees(name):
    """Zero where no degree is shared."""
    assert worst(*PAIRS[name], FLOW, 1, FEW, compiled=False) < 1e-13
    assert worst(*PAIRS[name], FLOW, 2, [1e-8], compiled=False) < 1e-12


@pytest.mark.parametrize("expanded", [False, True])
def test_reference_of_a_product_of_hermites(expanded):
    """E[He5(h) He3(z1) He2(z2)] = 5! m1^3 m2^2, written as a product or in powers."""
    z1, z2 = sp.symbols("z1 z2", real=True)
    target = he(3).subs(z, z1) * he(2).subs(z, z2)
    target = dmft.MultiIndex(sp.expand(target) if expanded else target, [z1, z2])
    equations = dmft.derive(dmft.Model(dmft.Committee(he(5), width=1), target), FLOW)
    for m in OVERLAPS:
        one, two = m, 0.7 * m
        rate = equations.evaluate(dmft.Overlaps([[1.0]], [[one, two]]))["M"][0]
        exact = 120 * one**3 * two**2 * np.array([3 / one - 5 * one, 2 / two - 5 * two])
        np.testing.assert_allclose(rate, exact, rtol=1e-13, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*range(1, 9), *PAIRS])
def test_all_flows(name):
    pair = PAIRS.get(name) or (he(name),) * 2
    assert worst(*pair, FLOW, 1, OVERLAPS) < 1e-12
    assert worst(*pair, FLOW, 2, OVERLAPS) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("degree", range(1, 9))
def test_all_steps(degree):
    """Code up to the degree 5, where it compiles within minutes."""
    pair = (he(degree),) * 2
    assert worst(*pair, STEPS, 1, OVERLAPS, compiled=degree < 6) < 1e-12
    assert degree > 3 or worst(*pair, STEPS, 2, OVERLAPS) < 1e-11


@pytest.mark.cases(1)
@pytest.mark.parametrize("algorithm", [FLOW, STEPS], ids=str)
@pytest.mark.parametrize("dropped", [(), ("interaction",), ("learning",)])
def test_what_is_computed_is_what_is_printed(algorithm, dropped):
    """Symbol by symbol, lengths of the students included, at two students and a teacher."""
    teacher = dmft.MultiIndex(z**2 - 1, [z]) if dropped else dmft.Committee(he(3), width=1)
    model = dmft.Model(dmft.Committee(he(2), width=2), teacher, NOISE)
    equations = dmft.derive(model, algorithm).without(*dropped)
    values = []
    for definitions in (equations.definitions, projected(equations.definitions)):
        work, rates = Unroller({"p": 2, "k": 1}, {}), {}
        for d in live(definitions):
            entries = work.define(d)
            plain = {y: e.replace(Together, lambda e: e) for y, e in entries.items()}
            if d.role == "rate":
                rates |= {(d.name, y): sp.expand(e) for y, e in plain.items()}
            else:
                work.entries |= {(d.name, y): e for y, e in plain.items()}
        values.append(rates)
    assert len(values[0]) == 6
    assert values[0] == values[1]
    assert projected(equations.definitions) != tuple(equations.definitions)


def test_escape_of_he6_from_small_overlaps():
    """solve follows dm/dt = 6 6! m^5 (1 - m^2) from 1e-4, SciPy and the exact solution."""
    network = dmft.Committee(he(6), width=1)
    equations = dmft.derive(dmft.Model(network, network), FLOW)

    def clock(m):
        return (np.log(m) - np.log1p(-m * m) / 2 - 1 / (2 * m**2) - 1 / (4 * m**4)) / 4320

    overlaps = np.array([2e-4, 5e-4, 1e-3])
    times = clock(overlaps) - clock(1e-4)  # of 6e11; an error at the start grows as m^4
    exact = solve_ivp(
        lambda _, m: 4320 * m**5 * (1 - m * m), (0, times[-1]), [1e-4], "DOP853",
        rtol=1e-12, atol=1e-30, t_eval=times,
    )  # fmt: skip
    start = dmft.Overlaps([[1.0]], [[1e-4]])
    run = dmft.solve(equations, start, times[-1], rtol=1e-11, atol=1e-18, save_at=times)
    assert run.status == "ok"
    np.testing.assert_allclose(run.M[:, 0, 0], overlaps, rtol=1e-6)
    np.testing.assert_allclose(run.M[:, 0, 0], exact.y[0], rtol=1e-6)
