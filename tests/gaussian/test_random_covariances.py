"""Closed forms at random covariances: 24 decades of variance, correlations up to exactly +-1.

The witness (`sweep.py`) is a graded quadrature that shares nothing with the library. Errors are
relative to sqrt(E f^2 E g^2): below 1e-10 away from parallel fields, below 1e-7 near them.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.special.orthant import four_signs

# tests/ is no package (importlib mode): the helper is loaded from its file.
_SPEC = importlib.util.spec_from_file_location("sweep", Path(__file__).with_name("sweep.py"))
sweep = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sweep)
FAMILIES = sweep.FAMILIES

AWAY, EDGE = 1e-10, 1e-7
# Closer than this to +-1, an error of one rounding of the covariance is magnified by its root.
NEAR = 1e-6
SAME = [(name, name) for name in FAMILIES]
MIXED = [
    ("relu", "erf"), ("sign", "cubic"), ("relu", "sign"), ("heaviside", "relu"), ("abs", "cos"),
    ("bump", "relu"), ("erf", "cubic"), ("relu2", "erf3"), ("exp", "relu"), ("sin", "sign"),
    ("relu3", "quartic"), ("cosh", "bump"), ("cdf", "heaviside"), ("leaky", "abs"),
    ("sign", "bump"), ("cdf_shifted", "relu"), ("cdf_shifted", "heaviside"), ("sin", "exp"),
]  # fmt: skip


def gaps(rows):
    """1 - |rho|, from the floats as they are."""
    a, b, c = rows.astype(np.longdouble).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((1 - np.abs(b) / np.sqrt(a * c)).astype(float), nan=1.0)


def errors(pair, count, seed, shifted=False):
    """Relative errors away from and near parallel fields."""
    first, second = (FAMILIES[name] for name in pair)
    rng = np.random.default_rng(seed)
    rows = sweep.random_covariances(rng, count, (first, second))
    means = sweep.random_means(rng, rows) if shifted else None
    inputs = np.hstack([rows, means]) if shifted else rows
    value = sweep.library([first.factor, second.factor], [0, 1], 2, means=shifted)(inputs)
    truth, scale = sweep.witness(first, second, rows, means)
    error = np.abs(value - truth) / scale
    assert np.all(np.isfinite(value)), inputs[~np.isfinite(value)][:3]
    near = gaps(rows) < NEAR
    assert near.sum() > count / 10
    # Huge nearly parallel fields under a narrow function: what one rounding of the covariance does
    # to the exact value is not an error of the formula.
    hard = near & (error > EDGE)
    if hard.any():
        fixed = means[hard] if shifted else None
        moved = [
            sweep.witness(first, second, rows[hard] * [1, 1 + s * 2.0**-52, 1], fixed)[0]
            for s in (1, -1)
        ]
        effect = np.max([np.abs(m - truth[hard]) for m in moved], axis=0) / scale[hard]
        error[hard] = np.where(error[hard] < 2 * effect, EDGE / 2, error[hard])
    return error[~near].max(), error[near].max(), inputs[error.argmax()]


@pytest.mark.cases(6)
@pytest.mark.parametrize("pair", [*SAME, *MIXED], ids="-".join)
def test_two_hundred_covariances(pair):
    away, near, worst = errors(pair, 200, 0)
    assert away < AWAY, worst
    assert near < EDGE, worst


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*SAME, *MIXED], ids="-".join)
def test_ten_thousand_covariances(pair):
    away, near, worst = errors(pair, 10_000, 1)
    print(f"{'-'.join(pair):24s} away {away:.1e}  near {near:.1e}")
    assert away < AWAY, worst
    assert near < EDGE, worst


# A sine beside an error function under means leaves an error function of a complex argument.
MEANS = [
    (name, other) for name in FAMILIES for other in ("relu", "erf") if name not in ("sin", "cos")
] + [("sin", "exp"), ("cos", "bump"), ("sin", "cubic"), ("bump", "cubic"), ("exp", "quartic")]


@pytest.mark.cases(6)
@pytest.mark.parametrize("pair", MEANS, ids="-".join)
@pytest.mark.parametrize("count", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nonzero_means(pair, count):
    away, near, worst = errors(pair, count, 2, shifted=True)
    print(f"{'-'.join(pair):24s} away {away:.1e}  near {near:.1e}  with means")
    assert away < AWAY, worst
    assert near < EDGE, worst


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("count", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_one_field(name, count):
    family = FAMILIES[name]
    rng = np.random.default_rng(5)
    rows = sweep.random_covariances(rng, count, (family, family))
    means = sweep.random_means(rng, rows)[:, 0]
    variances = rows[:, 0]
    parts = [
        sweep.witness_one_field(family, v, m)
        for v, m in zip(
            np.array_split(variances, max(1, count // 500)),
            np.array_split(means, max(1, count // 500)),
            strict=True,
        )
    ]
    truth, scale = (np.concatenate(p) for p in zip(*parts, strict=True))
    inputs = np.stack([variances, means], axis=1)
    value = sweep.library([family.factor], [0], 1, means=True)(inputs)
    assert np.all(np.isfinite(value))
    error = np.abs(value - truth) / scale
    print(f"{name:24s} away {error.max():.1e}  one field")
    assert error.max() < AWAY, inputs[error.argmax()]


THREE = [
    ("heaviside", "relu"), ("heaviside", "sign"), ("heaviside", "abs"), ("sign", "erf"),
    ("bump", "sign"), ("bump", "relu"), ("bump", "erf"), ("erf", "erf3"), ("relu", "relu2"),
    ("heaviside", "cubic"), ("exp", "erf"), ("leaky", "cdf_shifted"), ("cos", "sin"),
]  # fmt: skip


@pytest.mark.cases(6)
@pytest.mark.parametrize("pair", THREE, ids="-".join)
@pytest.mark.parametrize("count", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_three_fields(pair, count):
    """E[f(x) g(y) w]: the drift integrals; w is regressed on x and y by construction."""
    first, second = (FAMILIES[name] for name in pair)
    rng = np.random.default_rng(6)
    rows = sweep.random_covariances(rng, count, (first, second))
    slopes, _, C = sweep.beside(rng, rows, 1)
    turned = rows[:, ::-1]
    by_x, _ = sweep.witness(sweep.times_field(first), second, rows)
    by_y, _ = sweep.witness(sweep.times_field(second), first, turned)
    _, scale = sweep.witness(first, second, rows)
    truth = slopes[:, 0, 0] * by_x + slopes[:, 0, 1] * by_y
    judge([first.factor, second.factor, sweep.z], pair, rows, C, truth, scale)


FOUR = [("heaviside", "heaviside"), ("sign", "sign"), ("heaviside", "relu"), ("relu", "sign"),
        ("relu", "relu"), ("sign", "relu2")]  # fmt: skip


@pytest.mark.parametrize("pair", FOUR, ids="-".join)
@pytest.mark.parametrize("count", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_four_fields(pair, count):
    """E[f(x) g(y) w v] with kinks in x and y."""
    first, second = (FAMILIES[name] for name in pair)
    rng = np.random.default_rng(7)
    rows = sweep.random_covariances(rng, count, (first, second))
    slopes, own, C = sweep.beside(rng, rows, 2)
    (a, b), (c, d) = slopes[:, 0].T, slopes[:, 1].T
    turned = rows[:, ::-1]
    plain, scale = sweep.witness(first, second, rows)
    raised = FAMILIES[sweep.TIMES_FIELD[pair[1]]]
    squared, other = (sweep.times_field(sweep.times_field(f)) for f in (first, second))
    by_xx, _ = sweep.witness(squared, second, rows)
    by_xy, _ = sweep.witness(sweep.times_field(first), raised, rows)
    by_yy, _ = sweep.witness(other, first, turned)
    truth = a * c * by_xx + (a * d + b * c) * by_xy + b * d * by_yy + own[:, 0, 1] * plain
    judge([first.factor, second.factor, sweep.z, sweep.z], pair, rows, C, truth, scale)


def judge(factors, pair, rows, C, truth, scale):
    """The closed form of factors of fields 0, 1, ... against the truth, near and away."""
    width = len(factors)
    value = sweep.library(factors, list(range(width)), width)(C[:, *np.triu_indices(width)])
    assert np.all(np.isfinite(value)), C[~np.isfinite(value)][:3]
    error = np.abs(value - truth) / scale
    for w in range(2, width):
        error /= np.sqrt(C[:, w, w])
    near = gaps(rows) < NEAR
    away, edge = error[~near].max(), error[near].max()
    print(f"{'-'.join(pair):24s} away {away:.1e}  near {edge:.1e}  {width} fields")
    assert away < AWAY, C[~near][error[~near].argmax()]
    assert edge < EDGE, C[near][error[near].argmax()]


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", ["sign", "relu", "erf", "cdf_shifted", "bump", "sin"])
def test_expect_at_floats(name):
    """The road of a user who calls `Gaussian.expect` with numbers."""
    family = FAMILIES[name]
    rows = sweep.random_covariances(np.random.default_rng(3), 25, (family, family))
    truth, scale = sweep.witness(family, family, rows)
    x, y = sp.symbols("x y", real=True)
    expr = family.factor.xreplace({sweep.z: x}) * family.factor.xreplace({sweep.z: y})
    for (a, b, c), t, s, gap in zip(rows, truth, scale, gaps(rows), strict=True):
        value = float(dmft.Gaussian([x, y], [[a, b], [b, c]]).expect(expr))
        assert abs(value - t) < (EDGE if gap < NEAR else AWAY) * s


def four_fields(rng, count):
    """Factors A (count, 4, 4) of rank 2 to 4: scales of 12 decades, nearly parallel rows."""
    rank = rng.integers(2, 5, count)
    A = rng.standard_normal((count, 4, 4)) * (np.arange(4) < rank[:, None])[:, None, :]
    near = rng.random(count) < 0.4
    side = np.where(rng.random(near.sum()) < 0.5, 1, -1)[:, None]
    A[near, 1] = A[near, 0] * side + 10.0 ** rng.uniform(-12, -1, near.sum())[:, None] * A[near, 1]
    return A * 10.0 ** rng.uniform(-6, 6, (count, 4, 1))


def rejected(v, w):
    """Part of the vectors v that is orthogonal to the unit vectors w."""
    return v - (v * w).sum(axis=-1, keepdims=True) * w


def unit(v):
    size = np.linalg.norm(v, axis=-1, keepdims=True)
    return v / np.where(size > 0, size, 1.0)


def four_signs_witness(A):
    """Price along t C + (1 - t) diag C, all angles from the factor of that matrix.

    The factor (sqrt(t) A, sqrt(1 - t) diag) needs no determinant: what two fields leave of the two
    others is a Gram-Schmidt step. The integral runs over s = sqrt(1 - t), graded towards 0.
    """
    nodes, weights = np.polynomial.legendre.leggauss(12)
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-34, 1)])
    s = (edges[:-1, None] + np.diff(edges)[:, None] * (1 + nodes) / 2).ravel()
    ds = (np.diff(edges)[:, None] * weights / 2).ravel()
    rows = unit(A)
    total = np.zeros(len(A))
    for point, width in zip(s, ds, strict=True):
        t = 1 - point * point
        wide = np.zeros((len(A), 4, 8))
        wide[:, :, :4] = np.sqrt(t) * rows
        wide[:, np.arange(4), 4 + np.arange(4)] = point
        for i, j, k, l in sweep.PAIRS_OF_FOUR:  # noqa: E741
            cosine = (rows[:, i] * rows[:, j]).sum(axis=-1)
            first = wide[:, i]
            rest = rejected(wide[:, j], first)
            sine = np.linalg.norm(rest, axis=-1)
            left = [rejected(rejected(wide[:, n], first), unit(rest)) for n in (k, l)]
            left = [rejected(v, unit(rest)) for v in left]  # once more: rounding of the first
            cross = (left[0] * left[1]).sum(axis=-1)
            beside = np.linalg.norm(rejected(left[1], unit(left[0])), axis=-1)
            angle = np.arctan2(cross, beside * np.linalg.norm(left[0], axis=-1))
            total += width * 2 * point * cosine / sine * angle * (4 / np.pi**2)
    return total


@pytest.mark.parametrize("count", [80, pytest.param(10_000, marks=pytest.mark.slow)])
def test_four_signs(count):
    A = four_fields(np.random.default_rng(4), count)
    C = A @ A.transpose(0, 2, 1)
    upper = np.triu_indices(4)
    value = np.array([four_signs(*c[upper]) for c in C])
    truth = four_signs_witness(A)
    rows = unit(A)
    sines = [
        np.linalg.norm(rejected(rows[:, i], rows[:, j]), axis=-1) ** 2
        for i, j in zip(*np.triu_indices(4, 1), strict=True)
    ]
    near = np.min(sines, axis=0) < NEAR
    error = np.abs(value - truth)
    print(f"four signs: away {error[~near].max():.1e}  near {error[near].max():.1e}")
    assert np.all(np.isfinite(value))
    assert error[~near].max() < AWAY
    assert error[near].max() < EDGE
