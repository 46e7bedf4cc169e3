"""Kernels of equations of motion by tables: 10^3 random covariances for each activation.

The truth is a product of trapezoidal rules of the functions as NumPy writes them, which converges
geometrically and shares nothing with the tables. The claim is 1e-10 of sqrt(E F^2 E G^2).
"""

import numpy as np
import pytest
import sympy as sp
from scipy.special import ndtr

from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.factor_table import factor_table
from dmft.gaussian.tables.tabled import PairTable
from dmft.model import FIELD as z
from dmft.special.averages import pair_average

CLAIM = 1e-10


def logistic(x):
    return 0.5 + 0.5 * np.tanh(x / 2)


def bell(x):
    """1 - tanh^2 without cancellation."""
    return 1 / np.cosh(np.minimum(np.abs(x), 300.0)) ** 2


def phi(x):
    return np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def user_slope(x):
    return bell(x) - 2 * x * np.tanh(x)


# Activation; itself, its slope and its second derivative in NumPy.
ACTIVATIONS = {
    "tanh": (sp.tanh(z), np.tanh, bell, lambda x: -2 * np.tanh(x) * bell(x)),
    "sigmoid": (
        1 / (1 + sp.exp(-z)),
        logistic,
        lambda x: bell(x / 2) / 4,
        lambda x: -bell(x / 2) * np.tanh(x / 2) / 4,
    ),
    "softplus": (
        sp.log(1 + sp.exp(z)),
        lambda x: np.logaddexp(0, x),
        logistic,
        lambda x: bell(x / 2) / 4,
    ),
    "GELU": (
        z * (1 + sp.erf(z / sp.sqrt(2))) / 2,
        lambda x: x * ndtr(x),
        lambda x: ndtr(x) + x * phi(x),
        lambda x: (2 - x * x) * phi(x),
    ),
    "SiLU": (
        z / (1 + sp.exp(-z)),
        lambda x: x * logistic(x),
        lambda x: logistic(x) + x * bell(x / 2) / 4,
        lambda x: bell(x / 2) / 2 - x * bell(x / 2) * np.tanh(x / 2) / 4,
    ),
    "user": (
        sp.tanh(z) * sp.exp(-(z**2)),
        lambda x: np.tanh(x) * np.exp(-x * x),
        lambda x: user_slope(x) * np.exp(-x * x),
        lambda x: (
            -2 * (np.tanh(x) * bell(x) + np.tanh(x) + x * bell(x) + x * user_slope(x))
        ) * np.exp(-x * x),
    ),
}  # fmt: skip
# Kernels of risk and drift: orders of the derivatives at the two fields.
KERNELS = ((0, 0), (1, 1), (2, 0))
# Ranges of log10 of the variances: of order one, tiny, huge, one of each.
RANGES = ((-1, 1), (-12, -2), (1, 3), (-12, 3))
EDGES = (1.0, -1.0, 1 - 1e-12, -1 + 1e-12, 1 - 1e-6, 0.0)


def covariances(seed, count):
    rng = np.random.default_rng(seed)
    for n in range(count):
        c11, c22 = 10 ** rng.uniform(*RANGES[n % 4], 2)
        place = n // 4 % 12
        rho = EDGES[place] if place < len(EDGES) else rng.uniform(-1, 1)
        yield c11, rho * np.sqrt(c11 * c22), c22


def trapezoid(f, g, c11, c12, c22):
    s, slope = np.sqrt(c11), c12 / np.sqrt(c11)
    sigma = np.sqrt(max(c22 - slope**2, 0.0))
    step = min(0.3, 0.2 / np.sqrt(max(c11, c22)))
    x = step * np.arange(-int(9.5 / step), int(9.5 / step) + 1)
    w = step * phi(x)
    outer = w * f(s * x)
    rows = range(0, x.size, 64)
    return sum(
        outer[i : i + 64] @ (g(slope * x[i : i + 64, None] + sigma * x) @ w) for i in rows
    )  # fmt: skip


def root_mean_square(f, c):
    step = min(0.2, 0.1 / np.sqrt(c))
    x = step * np.arange(-int(9 / step), int(9 / step) + 1)
    return np.sqrt((step * phi(x) * f(np.sqrt(c) * x) ** 2).sum())


def worst_error(name, orders, seed, count):
    activation, *functions = ACTIVATIONS[name]
    F, G = (derivative(activation, n) if n else activation for n in orders)
    f, g = (functions[n] for n in orders)
    tables = [factor_table(a).values for a in (F, G)]
    worst = 0.0
    for c11, c12, c22 in covariances(seed, count):
        value = pair_average(*tables, c11, c12, c22)
        size = root_mean_square(f, c11) * root_mean_square(g, c22)
        error = abs(value - trapezoid(f, g, c11, c12, c22)) / size
        assert error <= CLAIM, (c11, c12, c22, error)  # NaN fails too
        worst = max(worst, error)
    assert worst <= PairTable(F, G, *sp.symbols("a b c")).error <= CLAIM
    return worst


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["tanh", "user"])
def test_kernels_of_an_activation(name):
    worst_error(name, (0, 0), 7, 48)


@pytest.mark.slow
@pytest.mark.parametrize("orders", KERNELS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_thousand_covariances(name, orders):
    # 340 for each kernel: more than 10^3 for each activation.
    assert worst_error(name, orders, sum(orders), 340) < 1e-12
