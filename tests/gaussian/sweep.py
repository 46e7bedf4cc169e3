"""Random covariances and a vectorised witness for closed forms of two fields.

The witness shares nothing with the library: one field is averaged given the other by a formula
of one normal variable, written here in NumPy, and the other by Gauss-Legendre panels that are
graded towards every point where the integrand changes fast.
"""

from typing import NamedTuple

import numpy as np
import sympy as sp
from scipy.special import erf, ndtr

from dmft.gaussian.closed.orthant import PairOfSignsMoment
from dmft.gaussian.closed.product import product_expectation
from dmft.model import FIELD as z
from dmft.special.elementary import bivariate_normal_cdf, two_signs
from dmft.special.orthant import (
    correlation_angle,
    correlation_root,
    four_signs,
    four_signs_moment,
    half_tangent,
    inverse_correlation_root,
)
from dmft.special.signs import moment_of_signs_on_arrays

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
# Distances of panel edges from a centre, in standard deviations.
GRADED = np.concatenate([[0.0], 2.0 ** np.arange(-48, 0), np.arange(1.0, 13.1, 0.5)])
HALF = sp.Rational(1, 2)
# Two of four fields, and the two others.
PAIRS_OF_FOUR = (
    (0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1),
)  # fmt: skip


class Family(NamedTuple):
    """A function, its NumPy twin, its average over N(mu, v), and the variances that make sense."""

    factor: sp.Expr
    value: object
    average: object
    lowest: float = 1e-12
    highest: float = 1e12
    kink: bool = False


def density(mu, v):
    """sqrt(v) phi(mu / sqrt(v)), and Phi(mu / sqrt(v)), for v >= 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mu / np.sqrt(v)
    t = np.where(np.isnan(t), 0.0, t)
    return np.sqrt(v) * np.exp(-t * t / 2) / np.sqrt(2 * np.pi), ndtr(t), erf(t / np.sqrt(2))


def signed(mu, v):
    return density(mu, v)[2]


def folded(mu, v):
    phi, _, e = density(mu, v)
    return 2 * phi + mu * e


def ramp(mu, v):
    phi, cdf, _ = density(mu, v)
    return mu * cdf + phi


def ramp2(mu, v):
    phi, cdf, _ = density(mu, v)
    return (mu * mu + v) * cdf + mu * phi


def ramp3(mu, v):
    phi, cdf, _ = density(mu, v)
    return mu * (mu * mu + 3 * v) * cdf + (mu * mu + 2 * v) * phi


def erf_of(a, c=0.0):
    return lambda mu, v: erf((a * mu + c) / np.sqrt(1 + 2 * a * a * v))


FAMILIES = {
    "sign": Family(sp.sign(z), np.sign, signed, kink=True),
    "heaviside": Family(
        sp.Heaviside(z), lambda u: np.heaviside(u, 0.5), lambda m, v: density(m, v)[1], kink=True
    ),
    "abs": Family(sp.Abs(z), np.abs, folded, kink=True),
    "relu": Family(sp.Max(0, z), lambda u: np.maximum(u, 0), ramp, kink=True),
    "leaky": Family(
        sp.Max(z / 10, z), lambda u: np.maximum(u / 10, u), lambda m, v: 0.9 * ramp(m, v) + 0.1 * m,
        kink=True,
    ),
    "relu2": Family(sp.Max(0, z) ** 2, lambda u: np.maximum(u, 0) ** 2, ramp2, kink=True),
    "relu3": Family(sp.Max(0, z) ** 3, lambda u: np.maximum(u, 0) ** 3, ramp3, kink=True),
    "erf": Family(sp.erf(z / sp.sqrt(2)), lambda u: erf(u / np.sqrt(2)), erf_of(np.sqrt(0.5))),
    "erf3": Family(sp.erf(3 * z), lambda u: erf(3 * u), erf_of(3.0)),
    "cdf": Family(
        (1 + sp.erf(z / sp.sqrt(2))) / 2, ndtr, lambda m, v: ndtr(m / np.sqrt(1 + v))
    ),
    "cdf_shifted": Family(
        (1 + sp.erf((z + HALF) / sp.sqrt(2))) / 2, lambda u: ndtr(u + 0.5),
        lambda m, v: ndtr((m + 0.5) / np.sqrt(1 + v)),
    ),
    "exp": Family(
        sp.exp(z / 2), lambda u: np.exp(u / 2), lambda m, v: np.exp(m / 2 + v / 8), highest=25.0
    ),
    "cosh": Family(
        sp.cosh(z / 2), lambda u: np.cosh(u / 2), lambda m, v: np.exp(v / 8) * np.cosh(m / 2),
        highest=25.0,
    ),
    "sin": Family(sp.sin(z), np.sin, lambda m, v: np.exp(-v / 2) * np.sin(m), highest=50.0),
    "cos": Family(sp.cos(z), np.cos, lambda m, v: np.exp(-v / 2) * np.cos(m), highest=50.0),
    "bump": Family(
        sp.exp(-(z**2)), lambda u: np.exp(-u * u),
        lambda m, v: np.exp(-m * m / (1 + 2 * v)) / np.sqrt(1 + 2 * v),
    ),
    "cubic": Family(
        z**3 - 3 * z, lambda u: u**3 - 3 * u, lambda m, v: m**3 + 3 * m * v - 3 * m
    ),
    "quartic": Family(
        z**4 - z**2, lambda u: u**4 - u**2,
        lambda m, v: m**4 + 6 * m * m * v + 3 * v * v - m * m - v,
    ),
}  # fmt: skip


def random_covariances(rng, count, families, zeros=False):
    """Rows (C11, C12, C22): scales of 24 decades, correlations of every kind up to +-1."""
    columns = []
    for f in families:
        low, high = np.log10(f.lowest), np.log10(f.highest)
        wide = 10.0 ** rng.uniform(low, high, count)
        plain = 10.0 ** rng.uniform(-1, min(1, high), count)
        columns.append(np.where(rng.random(count) < 0.5, plain, wide))
    side = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    kinds = [
        rng.uniform(0, 1, count),
        1 - 10.0 ** rng.uniform(-12, 0, count),
        1 - 1e-12 * rng.uniform(0, 1, count),
        np.ones(count),
        np.zeros(count),
        10.0 ** rng.uniform(-12, 0, count),
    ]
    rho = side * np.choose(rng.choice(6, count, p=[0.4, 0.25, 0.1, 0.1, 0.05, 0.1]), kinds)
    first, second = columns
    if zeros:
        first = np.where(rng.random(count) < 0.05, 0.0, first)
    # The correlation of exactly +-1 is rounded like the overlaps of parallel weights.
    return np.stack([first, rho * np.sqrt(first * second), second], axis=1)


def random_means(rng, rows):
    """Means from 1e-8 deviations to a few: fields that switch at nearly the same point too."""
    size = np.where(rng.random(len(rows)) < 0.5, 1.0, 10.0 ** rng.uniform(-8, 0, len(rows)))
    return rng.standard_normal((len(rows), 2)) * np.sqrt(rows[:, [0, 2]]) * size[:, None]


def conditional(rows):
    """Slope and variance of y given x, in extended precision: their difference cancels."""
    a, b, c = rows.astype(np.longdouble).T
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(a > 0, b / a, 0)
    return slope.astype(float), np.maximum(c - slope * b, 0).astype(float)


def panels(centres):
    """Nodes and normal weights (rows, n) on [-13, 13], graded towards the centres (rows, m)."""
    edges = np.concatenate([GRADED, -GRADED])[None, :, None] + centres[:, None, :]
    edges = np.sort(np.clip(edges.reshape(len(centres), -1), -13.0, 13.0), axis=1)
    low, width = edges[:, :-1, None], np.diff(edges)[:, :, None]
    u = low + 0.5 * width * (1 + NODES)
    weights = 0.5 * width * WEIGHTS * np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
    return u.reshape(len(centres), -1), weights.reshape(len(centres), -1)


def witness(first, second, rows, means=None):
    """E[f(x) g(y)] and sqrt(E f^2 E g^2), row by row."""
    results = [
        _witness(first, second, r, None if means is None else m)
        for r, m in zip(
            np.array_split(rows, max(1, len(rows) // 500)),
            np.array_split(rows if means is None else means, max(1, len(rows) // 500)),
            strict=True,
        )
    ]
    return tuple(np.concatenate(part) for part in zip(*results, strict=True))


def _witness(first, second, rows, means):
    shift = np.zeros((len(rows), 2)) if means is None else means
    roots = np.sqrt(rows[:, [0, 2]])
    slope, v = conditional(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        switch = -shift[:, 0] / roots[:, 0]
        inner = -shift[:, 1] / (slope * roots[:, 0])
    centres = np.nan_to_num(np.stack([switch, inner], axis=1), nan=0.0, posinf=0.0, neginf=0.0)
    u, weights = panels(centres if means is not None else centres[:, :1] * 0)
    x = shift[:, :1] + roots[:, :1] * u
    mu = shift[:, 1:] + slope[:, None] * roots[:, :1] * u
    value = (weights * first.value(x) * second.average(mu, v[:, None])).sum(axis=1)
    squares = (weights * first.value(x) ** 2).sum(axis=1)
    other = np.nan_to_num(-shift[:, 1:] / np.where(roots[:, 1:] > 0, roots[:, 1:], 1.0))
    u, weights = panels(other)
    squares *= (weights * second.value(shift[:, 1:] + roots[:, 1:] * u) ** 2).sum(axis=1)
    return value, np.sqrt(squares)


def witness_one_field(family, variances, means):
    """E[f(x)] and sqrt(E f^2), by panels around the switch."""
    roots = np.sqrt(variances)[:, None]
    u, weights = panels(-means[:, None] / roots)
    values = family.value(means[:, None] + roots * u)
    return (weights * values).sum(axis=1), np.sqrt((weights * values**2).sum(axis=1))


# x f(x) as a family, where it is one: its average over a normal law is written down above.
TIMES_FIELD = {"sign": "abs", "heaviside": "relu", "relu": "relu2", "relu2": "relu3"}


def times_field(family):
    """x f(x) with values only: enough for the first function of a witness."""
    return family._replace(value=lambda u: u * family.value(u))


def beside(rng, rows, count):
    """Slopes of `count` more fields w = b_x x + b_y y + noise, and the (2 + count) covariances."""
    slopes = rng.standard_normal((len(rows), count, 2)) / np.sqrt(rows[:, None, [0, 2]])
    noise = rng.standard_normal((len(rows), count, count))
    pair = np.stack([rows[:, [0, 1]], rows[:, [1, 2]]], axis=1)
    cross = slopes @ pair
    own = noise @ noise.swapaxes(1, 2)
    lower = cross @ slopes.swapaxes(1, 2) + own
    return slopes, own, np.block([[pair, cross.swapaxes(1, 2)], [cross, lower]])


PIECES = {
    "CorrelationRoot": correlation_root,
    "CorrelationAngle": correlation_angle,
    "InverseCorrelationRoot": inverse_correlation_root,
    "HalfTangent": half_tangent,
    "FourSigns": four_signs,
    "FourSignsMoment": four_signs_moment,
    "BivariateNormalCDF": bivariate_normal_cdf,
    "TwoSigns": two_signs,
}


def library(factors, labels, width, means=False):
    """Closed form of E[prod factors_i(x_labels_i)] as a function of rows (upper triangle, means).

    The expression that the equations of motion hold, with the compiled functions that they call.
    """
    upper = [(i, j) for i in range(width) for j in range(i, width)]
    symbols = {p: sp.Symbol(f"C{p[0]}{p[1]}", real=True) for p in upper}
    shifts = [sp.Symbol(f"m{i}", real=True) for i in range(width)] if means else []
    value = product_expectation(
        factors,
        labels,
        lambda a, b: symbols[min(a, b), max(a, b)],
        (lambda a: shifts[a]) if means else None,
        whole=True,
    )
    pairs = value.atoms(PairOfSignsMoment)
    value = value.xreplace({p: p.regular() for p in pairs})
    pieces = {name: np.vectorize(f, otypes=[float]) for name, f in PIECES.items()}
    pieces["SignsMoment"] = moment_of_signs_on_arrays
    function = sp.lambdify([*symbols.values(), *shifts], value, [pieces, "scipy"], cse=True)

    def evaluate(rows):
        with np.errstate(all="ignore"):
            return np.broadcast_to(function(*np.asarray(rows).T), len(rows)).astype(float)

    return evaluate
