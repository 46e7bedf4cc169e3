"""Functions with exponential branches (ELU, x exp(-x), ...): no cancellation, no overflow.

The judge sums F(u) G(v) over two dimensions in extended precision, on panels that are split at the
kinks of both and graded towards them: the definition, written with NumPy and mpmath alone. Its own
error is measured against integrals in 25 digits.
"""

import itertools
from functools import lru_cache

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.special import erfcx as scipy_erfcx
from scipy.stats import norm

import dmft
from dmft.gaussian.branch_averages import branch_on_arrays, field_formula
from dmft.gaussian.branch_factors import branch_vector, branches
from dmft.gaussian.branch_family import BranchField, BranchGiven
from dmft.gaussian.closed.bivariate import erfcx
from dmft.model import FIELD
from dmft.special.branches import erfcx as compiled_erfcx

x, y = sp.symbols("x y", real=True)
q, m, r = sp.symbols("q m r", real=True)
L = np.longdouble
NODES, WEIGHTS = (a.astype(L) for a in np.polynomial.legendre.leggauss(16))
UNIT = np.arange(-13.0, 13.1, 1.0).astype(L)
ALPHA, LAMBDA = 1.6732632423543772, 1.0507009873554805


def positive(z, value):
    return np.where(z > 0, value(np.maximum(z, 0)), L(0))


def negative(z, value):
    return np.where(z < 0, value(np.minimum(z, 0)), L(0))


def longdouble_erf(z):
    # erf of SciPy is one of doubles: its error, 1e-16, is that of the judge.
    from scipy.special import erf

    return erf(np.asarray(z, dtype=np.float64)).astype(L)


# SymPy function, the same for NumPy, its kinks.
FUNCTIONS = {
    "ELU": (
        lambda z: sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True)),
        lambda z: positive(z, lambda t: t) + negative(z, np.expm1),
        (0.0,),
    ),
    "SELU": (
        lambda z: sp.Piecewise(
            (sp.Float(LAMBDA * ALPHA) * (sp.exp(z) - 1), z < 0), (sp.Float(LAMBDA) * z, True)
        ),
        lambda z: L(LAMBDA) * positive(z, lambda t: t) + L(LAMBDA * ALPHA) * negative(z, np.expm1),
        (0.0,),
    ),
    "x exp(-x)": (
        lambda z: sp.Max(0, z) * sp.exp(-z),
        lambda z: positive(z, lambda t: t * np.exp(-t)),
        (0.0,),
    ),
    "step exp(-x)": (
        lambda z: sp.Heaviside(z) * sp.exp(-z),
        lambda z: positive(z, lambda t: np.exp(-t)),
        (0.0,),
    ),
    "1 - exp(-x)": (
        lambda z: sp.Piecewise((0, z < 0), (1 - sp.exp(-z), True)),
        lambda z: positive(z, lambda t: -np.expm1(-t)),
        (0.0,),
    ),
    "ELU at 1": (
        lambda z: sp.Piecewise((sp.exp(z - 1) - 1, z < 1), (z - 1, True)),
        lambda z: positive(z - 1, lambda t: t) + negative(z - 1, np.expm1),
        (1.0,),
    ),
    "two kinks": (
        lambda z: sp.Piecewise((0, z < -1), (z**2 * sp.exp(2 * z), z < 2), (sp.exp(-z), True)),
        lambda z: np.where(
            z < -1,
            L(0),
            np.where(z < 2, z**2 * np.exp(2 * np.clip(z, -1, 2)), np.exp(-np.maximum(z, 2))),
        ),
        (-1.0, 2.0),
    ),
    "ELU erf": (
        lambda z: sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True)) * sp.erf(z),
        lambda z: (positive(z, lambda t: t) + negative(z, np.expm1)) * longdouble_erf(z),
        (0.0,),
    ),
    "erf": (lambda z: sp.erf(z), longdouble_erf, ()),
    "ReLU": (lambda z: sp.Max(0, z), lambda z: np.maximum(z, L(0)), (0.0,)),
    "sign": (lambda z: sp.sign(z), np.sign, (0.0,)),
    "z": (lambda z: z, lambda z: z, ()),
    "z^2 - 1": (lambda z: z**2 - 1, lambda z: z * z - 1, ()),
    "z^3": (lambda z: z**3, lambda z: z**3, ()),
}
BRANCHED = list(FUNCTIONS)[:8]
# Those of which E[F(u) G(v)] is one integral of closed averages over one of the fields.
PAIRS = [
    (f, g)
    for f, g in itertools.combinations_with_replacement(FUNCTIONS, 2)
    if f in BRANCHED and (f, g) != ("ELU erf", "ELU erf") and (f, g) != ("ELU erf", "erf")
]


def panels(edges):
    """Nodes and weights (of the normal density) of rows of panels."""
    edges = np.sort(edges, axis=-1)
    centre, half = (edges[..., 1:] + edges[..., :-1]) / 2, np.diff(edges, axis=-1) / 2
    z = (centre[..., None] + half[..., None] * NODES).reshape(*edges.shape[:-1], -1)
    w = (half[..., None] * WEIGHTS).reshape(z.shape)
    return z, w * np.exp(-z * z / 2) / np.sqrt(2 * L(np.pi))


def around(centres, finest):
    """Edges that double away from points (n, c), each row with the unit panels: (n, edges)."""
    centres = np.clip(centres, -13, 13)
    depth = int(np.ceil(np.log2(1 / min(1.0, float(finest))))) + 2
    graded = np.concatenate([[0.0], 2.0 ** np.arange(-depth, 1)]).astype(L)
    near = centres[..., None] + np.concatenate([-graded, graded])
    flat = np.clip(near.reshape(centres.shape[0], -1), -13, 13)
    return np.concatenate([flat, np.broadcast_to(UNIT, (len(flat), UNIT.size))], axis=1)


def covariance(first, cross, second):
    """Standard deviation, slope and conditional deviation of doubles, to extended precision."""
    with mpmath.workdps(50):
        a, b, c = map(mpmath.mpf, (first, cross, second))
        numbers = (mpmath.sqrt(a), b / mpmath.sqrt(a), mpmath.sqrt((a * c - b * b) / a))
        return [L(mpmath.nstr(n, 25)) for n in numbers]


def judge(f, g, first, cross, second):
    """E f(u) g(v) with functions of the table, or triples like theirs."""
    (_, F, f_kinks), (_, G, g_kinks) = (FUNCTIONS.get(h, h) for h in (f, g))
    s, slope, sigma = covariance(first, cross, second)
    centres = [k / s for k in f_kinks] or [0.0]
    # Scales: those of the exponentials, up to exp(2 x), and the layer of the inner average.
    finest = min(1 / (2 * s), 1 / (2 * max(abs(slope), L(1e-9))))
    if slope != 0:
        centres += [k / slope for k in g_kinks]
        finest = min(finest, max(sigma / abs(slope), L(1e-12)))
    u, w = panels(around(np.array([centres], dtype=L), finest))
    u, w = u[0], w[0]
    kept = w > 0
    total = L(0)
    for part in np.array_split(np.flatnonzero(kept), max(1, kept.sum() // 64)):
        a = u[part]
        if sigma == 0:
            inner = G(slope * a)
        else:
            kinks = g_kinks or (0.0,)
            middle = np.stack([(L(k) - slope * a) / sigma for k in kinks], axis=1)
            z, v = panels(around(middle, 1 / (2 * sigma)))
            inner = (v * G(slope * a[:, None] + sigma * z)).sum(axis=1)
        total += (w[part] * F(s * a) * inner).sum()
    return total


def judge_one(f, variance):
    """E f(u)."""
    _, F, kinks = FUNCTIONS.get(f, f)
    s = np.sqrt(L(variance))
    z, w = panels(around(np.array([[L(k) / s for k in kinks] or [0.0]], dtype=L), 1 / (2 * s)))
    return (w * F(s * z)).sum()


@lru_cache(maxsize=4096)
def size(f, variance):
    """Root mean square."""
    _, F, kinks = FUNCTIONS[f]
    return np.sqrt(judge_one((None, lambda z: F(z) ** 2, kinks), variance))


@lru_cache(maxsize=256)
def formula(f, g=None):
    """What a user evaluates: the closed form with symbols, on numbers."""
    if g is None:
        law = dmft.Gaussian([x], [[q]])
        return sp.lambdify(q, law.expect(FUNCTIONS[f][0](x)))
    law = dmft.Gaussian([x, y], [[q, m], [m, r]])
    return sp.lambdify((q, m, r), law.expect(FUNCTIONS[f][0](x) * FUNCTIONS[g][0](y)))


def deviation(f, g, first, rho, second):
    cross = float(rho * np.sqrt(first) * np.sqrt(second))
    value = formula(f, g)(first, cross, second)
    truth = judge(f, g, first, cross, second)
    return float(abs(value - truth) / (size(f, first) * size(g, second)))


def test_the_judge_agrees_with_integrals_in_many_digits():
    for first, cross, second in ((1e-4, -5e-3, 1.0), (1e4, 99.0, 1.0)):
        with mpmath.workdps(20):
            a, b, c = map(mpmath.mpf, (first, cross, second))
            slope, left = b / a, mpmath.sqrt(c - b * b / a)

            def inner(u, slope=slope, left=left):  # E of x exp(-x) on x > 0
                mean = slope * u - left**2
                tail = mpmath.ncdf(mean / left)
                density = mpmath.npdf(mean / left)
                return mpmath.exp(left**2 / 2 - slope * u) * (mean * tail + left * density)

            def outer(z, a=a, inner=inner):
                u = mpmath.sqrt(a) * z
                return (mpmath.expm1(u) if u < 0 else u) * inner(u) * mpmath.npdf(z)

            ends = [0, *(mpmath.mpf(2) ** n for n in range(-9, 4)), 13]
            truth = mpmath.quad(outer, [-e for e in ends[::-1]]) + mpmath.quad(outer, ends)
        found = judge("ELU", "x exp(-x)", first, cross, second)
        assert float(abs(found - L(mpmath.nstr(truth, 25)))) <= 1e-14 * float(
            size("ELU", first) * size("x exp(-x)", second)
        )


@pytest.mark.slow
def test_one_field_at_all_variances():
    worst = 0.0
    for f in BRANCHED:
        for variance in 10.0 ** np.arange(-8, 6.5, 2):
            error = abs(formula(f)(variance) - judge_one(f, variance))
            worst = max(worst, float(error / size(f, variance)))
    assert worst <= 1e-12


FAST = [("ELU", "ELU"), ("SELU", "x exp(-x)"), ("step exp(-x)", "erf"), ("1 - exp(-x)", "ReLU")]


@pytest.mark.slow
@pytest.mark.parametrize(("f", "g"), FAST)
def test_two_fields_at_a_few_covariances(f, g):
    cases = [(1e-8, 0.5, 1e-8), (600.0, 1 - 1e-12, 600.0), (1e6, -0.5, 1e-2)]
    assert max(deviation(f, g, *case) for case in cases) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("f", "g"), PAIRS)
def test_two_fields_at_all_variances(f, g):
    variances = (1e-8, 1e-5, 1e-2, 0.3, 2.0, 30.0, 600.0, 1e4, 1e6)
    correlations = (0.0, 0.5, -0.5, 1 - 1e-12, -1 + 1e-12)
    worst = {}
    for first, rho in itertools.product(variances, correlations):
        for second in (first, 1.0):
            worst[first, rho, second] = deviation(f, g, first, rho, second)
    case = max(worst, key=worst.get)
    print(f"{f} on {g}: {worst[case]:.1e} at {case}")
    assert worst[case] <= 1e-12, case


def test_elu_at_variance_2000():
    law = dmft.Gaussian([x], [[2000]])
    value = law.expect(FUNCTIONS["ELU"][0](x))
    assert float(value) == pytest.approx(17.350157328471982, rel=1e-14)
    assert value.has(erfcx)


@pytest.mark.cases("1e+06")
@pytest.mark.parametrize("variance", [1e-8, 600.0, 1e6], ids=lambda v: f"{v:g}")
def test_numbers_go_through_expect(variance):
    law = dmft.Gaussian([x, y], [[variance, 0.5 * variance], [0.5 * variance, variance]])
    for f, g in (("ELU", "ELU"), ("x exp(-x)", "sign")):
        value = float(law.expect(FUNCTIONS[f][0](x) * FUNCTIONS[g][0](y)))
        truth = judge(f, g, variance, 0.5 * variance, variance)
        assert abs(value - truth) <= 1e-14 * size(f, variance) * size(g, variance)


def test_half_a_bell_of_a_wide_field():
    law = dmft.Gaussian([x, y], [[600.0, 300.0], [300.0, 600.0]])
    value = float(law.expect(FUNCTIONS["ELU"][0](x) * sp.Heaviside(y) * sp.exp(-(y**2) / 2)))
    bell = (None, lambda z: positive(z, lambda t: np.exp(-t * t / 2)), (0.0,))
    assert value == pytest.approx(float(judge("ELU", bell, 600.0, 300.0, 600.0)), rel=1e-14)


@pytest.mark.slow
def test_differences_of_nearly_parallel_units_keep_their_digits():
    rho = 1 - 1e-6
    elu = FUNCTIONS["ELU"][0]
    law = dmft.Gaussian([x, y], [[1.0, rho], [rho, 1.0]])
    value = float(law.expect((elu(x) - elu(y)) ** 2))
    # (elu(u) - elu(v))^2 is elu'(u)^2 (u - v)^2, but for terms (u - v)^3.
    slope = judge_one((None, lambda z: np.where(z > 0, L(1), np.exp(2 * z)), (0.0,)), 1.0)
    assert value == pytest.approx(float(slope) * 2 * (1 - rho), rel=1e-2)
    scaled = mpmath.mpf(0)
    with mpmath.workdps(40):
        one = dmft.Gaussian([x], [[1]]).expect(elu(x) ** 2).evalf(25)
        pair = dmft.Gaussian([x, y], [[1, sp.Rational(rho)], [sp.Rational(rho), 1]]).expect(
            elu(x) * elu(y)
        )
        scaled = 2 * one - 2 * pair.evalf(25)
    assert value == pytest.approx(float(scaled), rel=1e-12)


def test_linear_combinations_of_fields():
    elu = FUNCTIONS["ELU"][0]
    law = dmft.Gaussian([x, y], [[1e5, 0.25e5], [0.25e5, 1e5]])
    value = float(law.expect(elu((x + y) / 2)))
    variance = (2e5 + 0.5e5) / 4
    assert value == pytest.approx(float(judge_one("ELU", variance)), rel=1e-14)


def test_derivatives_are_those_of_the_average():
    law = dmft.Gaussian([x, y], [[q, m], [m, r]])
    value = law.expect(FUNCTIONS["ELU"][0](x) * FUNCTIONS["x exp(-x)"][0](y))
    at = {q: sp.Rational(13, 10), m: sp.Rational(2, 5), r: sp.Rational(7, 10)}
    step = sp.Rational(1, 10**6)
    for symbol in (q, m):
        up, down = (value.subs({**at, symbol: at[symbol] + s}).evalf(18) for s in (step, -step))
        slope = value.diff(symbol).subs(at).evalf(12)
        assert float(slope) == pytest.approx(float((up - down) / (2 * step)), rel=1e-9)


def test_erfcx_has_all_digits():
    points = np.concatenate([-np.geomspace(1e-9, 26, 60), [0.0], np.geomspace(1e-9, 1e8, 200)])
    for t in points:
        with mpmath.workdps(40):
            truth = mpmath.exp(mpmath.mpf(t) ** 2) * mpmath.erfc(mpmath.mpf(t))
            assert abs(compiled_erfcx(t) / truth - 1) < 1e-15
            assert abs(mpmath.mpf(str(erfcx(sp.Float(t, 30)).evalf(25))) / truth - 1) < 1e-20
    t = sp.Symbol("t", real=True)
    assert sp.lambdify(t, erfcx(t) + 1)(2.0) == scipy_erfcx(2.0) + 1
    assert sp.lambdify(t, erfcx(t), "mpmath")(2.0) == pytest.approx(scipy_erfcx(2.0), rel=1e-14)
    assert sp.latex(erfcx(t) ** 2) == r"\operatorname{erfcx}^{2}\left(t\right)"
    assert sp.simplify(erfcx(t).diff(t) - 2 * t * erfcx(t)) == -2 / sp.sqrt(sp.pi)


def test_half_lines_may_begin_anywhere():
    """Averages at a mean, of branches that meet away from it, against quadrature.

    By the formula, by compiled code, and as those of one field given another.
    """
    factor = sp.Piecewise((x**2 * sp.exp(2 * x), x < 0.7), (sp.exp(-x / 2) - x, x < 1.9), (x, True))
    mean, variance = 0.4, 1.3
    inner = factor.xreplace({x: FIELD})
    found = field_formula(branches(inner), sp.Float(mean), sp.Float(variance))
    f = sp.lambdify(x, factor, "mpmath")
    ends = [-12, 0.7, 1.9, 14]
    wanted = mpmath.quad(lambda u: f(u) * mpmath.npdf(u, mean, mpmath.sqrt(variance)), ends)
    assert float(found) == pytest.approx(float(wanted), rel=1e-12)
    uu, uv = 2.0, 0.8  # mean = t uv/uu, variance = vv - uv^2/uu
    numbers = [uu, uv, variance + uv**2 / uu, mean * uu / uv]
    given = BranchGiven(inner, *map(sp.Float, numbers))
    for value in (
        sp.lambdify((m, r), BranchField(inner, m, r))(mean, variance),
        sp.lambdify((q, m, r, y), BranchGiven(inner, q, m, r, y))(*numbers),
        given.evalf(),
        given.written_out().evalf(),
    ):
        assert float(value) == pytest.approx(float(wanted), rel=1e-12)


def test_jumps_are_part_of_a_slope():
    """E F(u) G'(v) of a G that jumps at .3, with v nearly and loosely bound to u."""
    f = sp.Piecewise((sp.exp(FIELD) - 1, FIELD < 0), (FIELD, True))
    between = sp.Piecewise((0, FIELD < 0.3), (sp.exp(-FIELD), True))
    steps = [f, FIELD * f, -between, between, FIELD * between]
    vectors = [branch_vector(e) for e in steps]
    elu = sp.lambdify(FIELD, f, "numpy")
    nodes, weights = np.polynomial.legendre.leggauss(400)
    for first, cross, second in [(1.0, 0.95, 1.0), (0.8, 0.3, 0.5), (30.0, -20.0, 40.0)]:
        root, spread = np.sqrt(second), np.sqrt(first - cross**2 / second)

        def given(v, slope=cross / second, spread=spread):
            """E[F(u) | v], split at the kink of F."""
            mean, total = v * slope, 0.0
            for low, high in [
                (np.minimum(mean - 12 * spread, -1.0), 0.0),
                (0.0, mean + 12 * spread),
            ]:
                u = low + (high - low) / 2 * (1 + nodes[:, None])
                total += (high - low) / 2 * (weights @ (elu(u) * norm.pdf(u, mean, spread)))
            return total

        v = 0.3 + 20.0 * (1 + nodes)
        smooth = 20.0 * weights @ (np.exp(-v) * norm.pdf(v, 0, root) * given(v))
        wanted = np.exp(-0.3) * norm.pdf(0.3, 0, root) * given(np.array([0.3])) - smooth
        found = branch_on_arrays(vectors, [first, cross, second])
        assert float(found) == pytest.approx(wanted.item(), rel=1e-10)


def test_one_exponential_on_the_whole_line():
    vector = branch_vector(FIELD * sp.exp(-FIELD))
    for mean, variance in [(0.3, 0.5), (-1.0, 4.0)]:
        wanted = np.exp(-mean + variance / 2) * (mean - variance)
        found = float(branch_on_arrays([vector], [mean, variance]))
        assert found == pytest.approx(wanted, rel=1e-13)
