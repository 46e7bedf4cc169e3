"""Closed forms of erf and of Hermite products against independent evaluations.

The witness works on a factor A of the covariance C = A A^T in latent normal variables: a
one-dimensional integral after conditioning on one field (composite Gauss-Legendre on panels that
double in width, so that steep error functions are resolved), a joint Cholesky tilt for I4, tensor
Gauss-Hermite for polynomials. It shares no formula with the library: no arcsine, no rank-one
downdate, no Wick diagrams.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
import sympy as sp
from numpy.polynomial.hermite_e import hermegauss, hermeval
from numpy.polynomial.legendre import leggauss
from scipy.special import erf

from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.wick import hermite
from dmft.model import FIELD as z

SIGMA = sp.erf(z / sp.sqrt(2))
SLOPE = sp.diff(SIGMA, z)
ENTRIES = [(i, j) for i in range(4) for j in range(i, 4)]
SYMBOLS = {pair: sp.Symbol(f"C{pair[0]}{pair[1]}") for pair in ENTRIES}
REGULAR, SINGULAR = 1e-10, 1e-7
# Measured on the seeds below: 7e-15, 5e-13, 2e-15, 6e-12 (regular and near-singular alike, since
# 1 + C is never singular) and 7e-15 for Hermite products; a factor ten of slack for other machines.
MEASURED = {"I2": 1e-13, "noise": 5e-12, "I3": 2e-14, "I4": 6e-11, "Hermite": 7e-14}


def cov(i: int, j: int) -> sp.Symbol:
    return SYMBOLS[min(i, j), max(i, j)]


def closed(factors, fields, C):
    """Closed form evaluated on a stack of covariances (N, 4, 4)."""
    expr = product_expectation(factors, fields, cov)
    if expr.is_polynomial(*SYMBOLS.values()):
        return polynomial(expr, C)
    function = sp.lambdify(list(SYMBOLS.values()), expr, "numpy", cse=True)
    return function(*[C[:, i, j] for i, j in ENTRIES]) + np.zeros(len(C))


def polynomial(expr, C):
    total = np.zeros(len(C))
    powers = {pair: [np.ones(len(C))] for pair in ENTRIES}
    for i, j in ENTRIES:
        for _ in range(16):
            powers[i, j].append(powers[i, j][-1] * C[:, i, j])
    for exponents, coefficient in sp.Poly(expr, *SYMBOLS.values()).terms():
        term = np.full(len(C), float(coefficient))
        for pair, n in zip(ENTRIES, exponents, strict=True):
            if n:
                term = term * powers[pair][n]
        total += term
    return total


def random_factors(size, seed):
    """Factors (N, 4, 4) of covariances: plain, scaled over 5 decades, parallel, singular."""
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((size // 5, 4, 4)) / 2
    scaled = plain * 10 ** rng.uniform(-3, 2, (len(plain), 4, 1))
    parallel = rng.standard_normal((len(plain), 1, 4)) * 10 ** rng.uniform(
        -1, 1.5, (len(plain), 1, 1)
    )
    parallel = parallel * rng.choice([-1.0, 1.0], (len(plain), 4, 1))
    parallel = parallel + 10 ** rng.uniform(-9, -1, (len(plain), 1, 1)) * rng.standard_normal(
        plain.shape
    )
    rank = rng.standard_normal((len(plain), 4, 4)) * (
        np.arange(4) < rng.integers(1, 4, (len(plain), 1, 1))
    )
    near = rank + 10 ** rng.uniform(-9, -4, (len(plain), 1, 1)) * rng.standard_normal(plain.shape)
    twin = rng.standard_normal((size - 5 * len(plain) + len(plain) // 10, 4, 4))
    twin[:, 1], twin[:, 3] = twin[:, 0], -twin[:, 2]
    return np.concatenate([plain, scaled, parallel, rank, near, twin])[:size]


def limits(C):
    """Allowed error: 1e-10, or 1e-7 where the covariance is within 1e-8 of singular."""
    eigenvalues = np.linalg.eigvalsh(C)
    return np.where(eigenvalues[:, 0] < 1e-8 * eigenvalues[:, -1], SINGULAR, REGULAR)


def half_line():
    """Nodes and weights of E[f(z)] for even f and standard normal z."""
    nodes, weights = leggauss(16)
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-12, 4), [12.0]])
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = (middle[:, None] + half[:, None] * nodes).ravel()
    w = (half[:, None] * weights).ravel()
    return x, 2 * w * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


Z, W = half_line()


def condition(A, i):
    """Standard deviation of field i, slopes of all fields on it, and what is left of them."""
    scale = np.sqrt(np.einsum("nr,nr->n", A[:, i], A[:, i]))
    unit = A[:, i] / scale[:, None]
    slopes = np.einsum("njr,nr->nj", A, unit)
    return scale, slopes, A - slopes[:, :, None] * unit[:, None, :]


def true_I2(A, i, j):
    scale, slopes, rest = condition(A, i)
    v = np.einsum("nr,nr->n", rest[:, j], rest[:, j])
    inner = erf(np.outer(slopes[:, j] / np.sqrt(2 * (1 + v)), Z))
    return (erf(np.outer(scale / np.sqrt(2), Z)) * inner) @ W


def true_noise(A, i, j):
    scale, slopes, rest = condition(A, i)
    v = np.einsum("nr,nr->n", rest[:, j], rest[:, j])
    exponent = scale**2 / 2 + slopes[:, j] ** 2 / (2 * (1 + v))
    return 2 / np.pi / np.sqrt(1 + v) * (np.exp(-np.outer(exponent, Z**2)) @ W)


def true_I3(A, i, j, m):
    scale, slopes, rest = condition(A, i)
    v = np.einsum("nr,nr->n", rest[:, m], rest[:, m])
    c = np.einsum("nr,nr->n", rest[:, j], rest[:, m])
    damp = np.exp(-np.outer(scale**2 / 2, Z**2))
    steep = slopes[:, m] / np.sqrt(2 * (1 + v))
    first = slopes[:, j, None] * Z * erf(np.outer(steep, Z))
    second = np.sqrt(2 / np.pi) * np.exp(-np.outer(steep**2, Z**2))
    return np.sqrt(2 / np.pi) * (damp * (first + (c / np.sqrt(1 + v))[:, None] * second)) @ W


def tilted(A, fields, strength=1.0):
    """Factor and normalisation under the weight exp(-strength sum x_j^2 / 2), in latent space."""
    J = A[:, fields]
    K = np.eye(A.shape[2]) + strength * np.einsum("njr,njs->nrs", J, J)
    L = np.linalg.cholesky(K)
    factor = np.linalg.solve(L, A.transpose(0, 2, 1)).transpose(0, 2, 1)
    return factor, 1 / np.prod(np.diagonal(L, axis1=1, axis2=2), axis=1)


def true_I4(A, i, j, m, n):
    factor, norm = tilted(A, [i, j])
    return 2 / np.pi * norm * true_I2(factor, m, n)


def slope_moment(A, fields, rest):
    """E[prod s'(fields)^2 s(rest)^2] of one field `rest`, or without it."""
    factor, norm = tilted(A, fields, strength=2.0)
    value = norm * (2 / np.pi) ** len(fields)
    return value if rest is None else value * true_I2(factor, rest, rest)


def erf_cases(A):
    """Name -> (factors, fields, truth, sqrt(E f^2 E g^2))."""
    s, d = SIGMA, SLOPE
    x2s2 = moment_x2_s2(A, 1, 2)
    pairs = [slope_moment(A, [0], m) * slope_moment(A, [1], n) for m, n in [(2, 3), (3, 2)]]
    return {
        "I2": ([s, s], [0, 1], true_I2(A, 0, 1), np.sqrt(true_I2(A, 0, 0) * true_I2(A, 1, 1))),
        "noise": (
            [d, d],
            [0, 1],
            true_noise(A, 0, 1),
            np.sqrt(slope_moment(A, [0], None) * slope_moment(A, [1], None)),
        ),
        "I3": (
            [d, z, s],
            [0, 1, 2],
            true_I3(A, 0, 1, 2),
            np.sqrt(slope_moment(A, [0], None) * x2s2),
        ),
        "I4": ([d, d, s, s], [0, 1, 2, 3], true_I4(A, 0, 1, 2, 3), np.sqrt(np.minimum(*pairs))),
    }


def moment_x2_s2(A, j, m):
    """E[x_j^2 s(x_m)^2] by conditioning on x_m."""
    scale, slopes, rest = condition(A, m)
    v = np.einsum("nr,nr->n", rest[:, j], rest[:, j])
    square = erf(np.outer(scale / np.sqrt(2), Z)) ** 2
    return ((slopes[:, j, None] ** 2 * Z**2 + v[:, None]) * square) @ W


def assert_within(name, value, truth, scale, limit):
    assert np.all(np.isfinite(value)), name
    error = np.abs(value - truth) / scale
    worst = {tol: error[limit == tol].max(initial=0.0) for tol in (REGULAR, SINGULAR)}
    print(f"{name}: {worst[REGULAR]:.1e} regular, {worst[SINGULAR]:.1e} near-singular")
    assert np.all(error <= np.minimum(limit, MEASURED[name])), (name, worst)


def test_the_witness_quadrature_resolves_steep_error_functions():
    slope = np.array([1e-3, 0.3, 1.0, 30.0, 3e3])
    # An elementary integral that is not in the library: E[1 - erf(a |z|)].
    value = 1 - erf(np.outer(slope, Z)) @ W
    np.testing.assert_allclose(value, 2 / np.pi * np.arctan(1 / (slope * np.sqrt(2))), atol=2e-14)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_erf_integrals_on_random_covariances(count):
    A = random_factors(count, seed=1)
    C = A @ A.transpose(0, 2, 1)
    limit = limits(C)
    largest = np.abs(C).max(axis=(1, 2))
    assert 0.2 < np.mean(limit == SINGULAR) < 0.8
    assert largest.min() < 1e-2
    assert largest.max() > 1e4
    for name, (factors, fields, truth, scale) in erf_cases(A).items():
        assert_within(name, closed(factors, fields, C), truth, scale, limit)


def test_repeated_fields_need_no_special_case():
    A = random_factors(500, seed=2)
    C = A @ A.transpose(0, 2, 1)
    for fields in ([0, 0, 2, 3], [0, 1, 0, 1], [0, 0, 0, 0]):
        value = closed([SLOPE, SLOPE, SIGMA, SIGMA], fields, C)
        np.testing.assert_allclose(value, true_I4(A, *fields), rtol=1e-8, atol=1e-10)


def hermite_truth(A):
    """E[He_a He_b He_c He_d] for all a, b, c, d <= 4 on one factor, by exact tensor quadrature."""
    nodes, weights = hermegauss(9)
    grid = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij")).reshape(4, -1)
    weight = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 4, indexing="ij")), axis=0)
    values = hermeval(A @ grid, np.eye(5))  # (order, field, node)
    left = np.einsum("an,bn->abn", values[:, 0], values[:, 1]).reshape(25, -1) * weight.ravel()
    right = np.einsum("cn,dn->cdn", values[:, 2], values[:, 3]).reshape(25, -1)
    norm = np.sqrt(np.outer((left * left / weight.ravel()).sum(1), (right**2 @ weight.ravel())))
    return (left @ right.T).reshape(5, 5, 5, 5), norm.reshape(5, 5, 5, 5)


def check_hermite_products(size, seed):
    A = random_factors(size, seed)
    A = A / np.maximum(1.0, np.sqrt(np.einsum("njr,njr->nj", A, A)))[:, :, None]
    C = A @ A.transpose(0, 2, 1)
    truths = [hermite_truth(a) for a in A]
    values, norms = (np.stack([t[k] for t in truths]) for k in (0, 1))
    polynomials = [hermite(n, z) for n in range(5)]
    worst = 0.0
    for orders in combinations_with_replacement(range(5), 4):
        value = closed([polynomials[n] for n in orders], [0, 1, 2, 3], C)
        index = (slice(None), *orders)
        error = np.abs(value - values[index]) / norms[index]
        worst = max(worst, error.max())
        if sum(orders) % 2:
            assert np.all(value == 0)
    print(f"Hermite products: {worst:.1e}")
    assert worst < MEASURED["Hermite"]


@pytest.mark.slow
def test_hermite_products_to_order_four():
    check_hermite_products(20, seed=3)


@pytest.mark.slow
def test_hermite_products_to_order_four_on_ten_thousand_covariances():
    check_hermite_products(10_000, seed=4)


def check_four_dimensional_quadrature(size, seed):
    rng = np.random.default_rng(seed)
    nodes, weights = hermegauss(24)
    grid = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij")).reshape(4, -1)
    weight = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * 4, indexing="ij")), axis=0)
    A = rng.standard_normal((size, 4, 4))
    # Gauss-Hermite converges as (c/(1+c))^(1.3 n) in the largest eigenvalue c.
    A = A * np.sqrt(0.5) / np.linalg.norm(A, ord=2, axis=(1, 2))[:, None, None]
    value = closed([SLOPE, SLOPE, SIGMA, SIGMA], [0, 1, 2, 3], A @ A.transpose(0, 2, 1))
    for a, v in zip(A, value, strict=True):
        x = a @ grid
        f = 2 / np.pi * np.exp(-(x[0] ** 2 + x[1] ** 2) / 2)
        g = erf(x[2] / np.sqrt(2)) * erf(x[3] / np.sqrt(2))
        scale = np.sqrt((f**2 @ weight.ravel()) * (g**2 @ weight.ravel()))
        assert abs(v - (f * g) @ weight.ravel()) < REGULAR * scale


def test_I4_against_four_dimensional_quadrature():
    check_four_dimensional_quadrature(10, seed=5)


@pytest.mark.slow
def test_I4_against_four_dimensional_quadrature_on_a_hundred():
    check_four_dimensional_quadrature(100, seed=6)
