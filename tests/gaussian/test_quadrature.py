"""`Gaussian.quad`: the claimed error holds, at kinks and at the edges of the covariances."""

import pickle
import warnings

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.special import gamma

import dmft
from dmft import AccuracyWarning
from dmft.errors import BadParameter, InvalidCovariance, NotClosed
from dmft.gaussian.nodes.grid import evaluator, gaussian_nodes

x, y, w, v = sp.symbols("x y w v", real=True)
q, m, a = sp.symbols("q m a", real=True)
PAIR = dmft.Gaussian([x, y], [[1, 0.5], [0.5, 1.2]])
ONE = dmft.Gaussian([x], [[1]])
RHO = 0.5 / np.sqrt(1.2)


def holds(result, truth, factor=1.0):
    """The truth lies within the claimed error, and a little rounding of the truth itself."""
    return abs(result - truth) <= factor * result.error + 4e-16 * abs(truth)


def polar_angle(name, angle):
    """Share of the circle where two half planes overlap, as an independent truth of jumps."""
    return {"both": (np.pi - angle) / (2 * np.pi), "one": angle / (2 * np.pi)}[name]


@pytest.mark.parametrize(
    ("expr", "truth"),
    [
        (sp.sign(x) * sp.sign(y), 2 / np.pi * np.arcsin(RHO)),
        (sp.Heaviside(x) * sp.Heaviside(y), polar_angle("both", np.arccos(RHO))),
        (sp.Heaviside(x) * sp.Heaviside(-y), polar_angle("one", np.arccos(RHO))),
        # Kinks along lines: the derived field x - y has variance 1.2, x + 2 y has 7.8.
        (sp.Abs(x - y), np.sqrt(2 * 1.2 / np.pi)),
        (sp.Max(x + 2 * y, 0), np.sqrt(7.8 / (2 * np.pi))),
        (sp.Max(x, y), np.sqrt(1.2 / (2 * np.pi))),
        (sp.Piecewise((x**2, x > 0), (0, True)), 0.5),
        (sp.Min(x, 0) * sp.exp(y), None),
        (sp.exp(-100 * x**2), 1 / np.sqrt(201)),
        (sp.cosh(30 * x), np.exp(450.0)),
        (sp.exp(x**2 / 4) * y**2, None),
        (sp.log(sp.Abs(x)), -(np.euler_gamma + np.log(2)) / 2),
        (sp.Abs(x) ** sp.Rational(1, 2), 2**0.25 * gamma(0.75) / np.sqrt(np.pi)),
        (sp.sin(x) / x, None),
        (sp.tanh(x) * 0 + 3, 3.0),
    ],
)
def test_known_values(expr, truth):
    if truth is None:
        truth = {
            sp.Min(x, 0) * sp.exp(y): float(PAIR.expect(sp.Min(x, 0) * sp.exp(y))),
            sp.exp(x**2 / 4) * y**2: np.sqrt(2) * (1.2 - 0.25 + 0.25 * 2),
            # E sin(x)/x is the integral of E cos(k x) over k in (0, 1).
            sp.sin(x) / x: float(sp.sqrt(sp.pi / 2) * sp.erf(1 / sp.sqrt(2))),
        }[expr]
    result = PAIR.quad(expr)
    assert result.status == "ok"
    assert holds(result, truth)
    assert result.error <= 1e-10 * abs(truth)


def test_curved_kinks_are_split_or_admitted():
    standard = dmft.Gaussian([x, y], sp.eye(2))
    result = standard.quad(sp.sign(x * y - 1))
    # P(x y > 1) = int_0^oo phi(x) erfc(1 / (x sqrt 2)) dx.
    tail = mpmath.quad(lambda t: mpmath.npdf(t) * mpmath.erfc(1 / (t * mpmath.sqrt(2))), [0, 1, 9])
    assert holds(result, 2 * float(tail) - 1)
    circle = standard.quad(sp.Heaviside(x**2 + y**2 - 2))
    assert holds(circle, np.exp(-1.0))
    wave = standard.quad(sp.Heaviside(y - sp.sin(3 * x)) * sp.Heaviside(y))
    assert wave.error < 1e-8


def test_kinks_inside_functions():
    # max of independent fields has the distribution function of the product.
    law = dmft.Gaussian([x, y, w], sp.eye(3))
    largest = sp.Max(x, y + sp.Rational(1, 2), w / 2)
    ends = [-12, -3, -0.5, 0.5, 1, 3, 12]

    def density(t):
        parts = [(t, 1), (t - 0.5, 1), (2 * t, 2)]
        cdf = [mpmath.ncdf(u) for u, _ in parts]
        return sum(
            s * mpmath.npdf(u) * mpmath.fprod(c for j, c in enumerate(cdf) if j != i)
            for i, (u, s) in enumerate(parts)
        )

    above = mpmath.quad(density, [1, 3, 12])
    assert holds(law.quad(sp.Heaviside(largest - 1)), float(above))
    mean = mpmath.quad(lambda t: mpmath.tanh(t) * density(t), ends)
    assert holds(law.quad(sp.tanh(largest)), float(mean))
    # E floor(x + y) y = Cov(floor(s), s) / 2, s of variance 2: half the sum of 2 phi_s(n).
    stairs = law.quad(sp.floor(x + y) * y)
    assert holds(stairs, sum(np.exp(-(n**2) / 4) / np.sqrt(4 * np.pi) for n in range(-40, 41)))
    assert law.quad(sp.tanh(sp.Mod(x, 1))).status == "ok"


def test_steps_of_sums_of_steps_are_evaluated():
    """As of two steps of gradient descent of ReLU units; NumPy's own functions are the truth."""
    inner = x + sp.Max(0, y) * sp.Heaviside(y) - sp.Max(0, w) * sp.Heaviside(w)
    points = np.random.default_rng(0).normal(size=(3, 50))
    points[:, 0] = 0.0
    field = points[0] + np.maximum(0, points[1]) - np.maximum(0, points[2])
    values = evaluator(sp.Heaviside(inner) * sp.Max(0, inner), [x, y, w])(points)
    np.testing.assert_allclose(values, np.maximum(0, field), rtol=0, atol=1e-15)


def test_structure_leaves_few_dimensions():
    cov = np.full((4, 4), 0.3) + 0.7 * np.eye(4)
    law = dmft.Gaussian([x, y, w, v], cov)
    # Polynomial fields and exponentials go, independent factors part, sums are split.
    assert law.quad(sp.tanh(x) * y * w * v).dimension == 1
    assert law.quad(sp.tanh(x) * sp.exp(y + w)).dimension == 1
    assert law.quad(sp.tanh(x + y - w)).dimension <= 1
    assert law.quad((sp.tanh(x) + sp.Max(0, y) - sp.tanh(w) - v) ** 2).dimension == 2
    apart = dmft.Gaussian([x, y, w, v], np.kron(np.eye(2), [[1, 0.4], [0.4, 1]]))
    both = apart.quad(sp.tanh(x) * sp.tanh(y) * sp.Max(w, 0) * sp.Max(v, 0))
    alone = PAIR_OF_ONES.quad(sp.tanh(x) * sp.tanh(y))
    relu = (np.sqrt(1 - 0.16) + 0.4 * (np.pi - np.arccos(0.4))) / (2 * np.pi)
    assert both.dimension == 2
    assert holds(both, float(alone) * relu, 2)


PAIR_OF_ONES = dmft.Gaussian([x, y], [[1, 0.4], [0.4, 1]])


def test_independent_moments_count_wherever_they_stand():
    """E[a^4] beside a factor that is integrated first; an odd one makes everything vanish."""
    law = dmft.Gaussian([x, y], sp.eye(2))
    half = 1 / np.sqrt(2 * np.pi)
    for first, second in ((x, y), (y, x)):
        kink = first * sp.Heaviside(first)
        assert law.quad(second * kink) == 0
        assert holds(law.quad(second**4 * kink), 3 * half)
        assert holds(law.quad((second**2 + second) * kink), half)


def test_linear_forms_may_hold_a_float_zero():
    law = dmft.Gaussian([x, y], sp.eye(2))
    form = sp.Add(sp.Mul(sp.Float(0.0), x, evaluate=False), 2 * y, evaluate=False)
    assert holds(law.quad(sp.Max(0, form)), 2 / np.sqrt(2 * np.pi))


def test_degenerate_covariances_lose_dimensions():
    vectors = np.array([[1.0, 2.0], [0.5, -1.0], [1.5, 1.0]])
    law = dmft.Gaussian([x, y, w], vectors @ vectors.T)
    result = law.quad(sp.sign(x) * sp.Max(y, 0) * sp.Abs(w) + sp.sign(x) * sp.sign(y))
    assert result.dimension == 2
    same = dmft.Gaussian([x, y], [[1, 1], [1, 1]])
    assert same.quad(sp.sign(x - y + 1) * sp.Max(0, y)).dimension == 1
    fixed = dmft.Gaussian([x, y], [[0, 0], [0, 1]], mean=[2, 0])
    assert fixed.quad(sp.tanh(x)) == pytest.approx(np.tanh(2), abs=1e-15)


@pytest.mark.cases(3)
@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-12, 1e-15])
@pytest.mark.parametrize("sign", [1, -1])
def test_nearly_parallel_fields(gap, sign):
    rho = sign * (1 - gap)
    law = dmft.Gaussian([x, y], [[1, rho], [rho, 1]])
    with mpmath.workdps(40):
        turn = mpmath.acos(mpmath.mpf(rho))
        angle = float(turn)
        relu = float((mpmath.sin(turn) + rho * (mpmath.pi - turn)) / (2 * mpmath.pi))
        signs = float(1 - 2 * turn / mpmath.pi)
    assert holds(law.quad(sp.sign(x) * sp.sign(y)), signs)
    assert holds(law.quad(sp.Abs(x - sign * y)), np.sqrt(4 * (1 - abs(rho)) / np.pi), 2)
    assert holds(law.quad(sp.Max(0, x) * sp.Max(0, y)), relu)
    # Within the stripe between two close steps.
    assert holds(law.quad(sp.Heaviside(x) * sp.Heaviside(-y)), angle / (2 * np.pi), 3)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_scales(scale):
    law = dmft.Gaussian([x, y], [[scale, 0.3 * scale], [0.3 * scale, scale]])
    erf = 2 / np.pi * np.arcsin(0.3 * scale / (0.5 + scale))
    assert holds(law.quad(sp.erf(x) * sp.erf(y)), erf)
    assert holds(law.quad(sp.sign(y) * sp.Max(0, x)), 0.15 * np.sqrt(2 * scale / np.pi))
    # Cancellation inside the function: in one dimension it is evaluated in more digits.
    assert holds(law.quad(sp.cos(x) - 1), float(sp.exp(-sp.Rational(scale) / 2) - 1), 1)
    # Written so that the exponential overflows alone.
    sigmoid = law.quad(sp.exp(x) / (1 + sp.exp(x)))
    assert holds(sigmoid, 0.5)
    softplus = law.quad(sp.log(1 + sp.exp(x)))
    if scale == 1e6:
        # E log(1 + e^x) = E max(x, 0) + pi^2 / (6 sigma sqrt(2 pi)) + ...
        truth = np.sqrt(scale / (2 * np.pi)) + np.pi**2 / 6 / np.sqrt(2 * np.pi * scale)
        assert abs(softplus - truth) < softplus.error + 1e-8


def test_steep_functions():
    steep = ONE.quad(sp.tanh(50 * x) * x)
    # Stein: E[x f] = E f', a density of width 1/50 whose moments are known.
    inside = np.sqrt(2 / np.pi) * (1 - (np.pi**2 / 12) / 50**2 / 2 + 7 * np.pi**4 / 240 / 50**4 / 8)
    assert abs(steep - inside) < 1e-8
    assert steep.error < 1e-10
    hidden = ONE.quad(sp.exp(-(10**6) * (x - sp.Rational(1, 7)) ** 4))
    peak = 2 * gamma(1.25) * 10**-1.5 * np.exp(-1 / 98) / np.sqrt(2 * np.pi)
    assert hidden == pytest.approx(peak, rel=2e-3)
    spike = ONE.quad(1 / (1 + 10**8 * (x - sp.Rational(1, 3)) ** 2))
    assert spike == pytest.approx(np.pi * 1e-4 * np.exp(-1 / 18) / np.sqrt(2 * np.pi), rel=1e-3)
    assert spike.error < 1e-9 * spike


def test_large_functions_are_compared_with_the_density_by_their_own_size():
    """On the rim f times the density is 4e-5, which is nothing next to its maximum of 3e9."""
    nodes = gaussian_nodes(10**6 * sp.exp(4 * x), [x], level=2)
    assert nodes.weights @ nodes.values == pytest.approx(1e6 * np.exp(8), rel=1e-12)
    with pytest.raises(BadParameter, match="not integrable"):
        gaussian_nodes(10**6 * sp.exp(x**2 / 2), [x], level=0)
    with pytest.raises(BadParameter, match="grows too fast"):
        gaussian_nodes(10**6 * sp.exp(9 * x**2 / 20), [x], level=0)


def test_rare_events():
    for height in (8, 20, 28):
        result = ONE.quad(sp.Heaviside(x - height))
        with mpmath.workdps(30):
            truth = float(mpmath.erfc(height / mpmath.sqrt(2)) / 2)
        assert holds(result, truth)
        assert 0 < result.error < 1e-10 * result


def test_values_of_symbols_by_name_and_by_symbol():
    law = dmft.Gaussian([x, y], [[q, m], [m, 1]], mean=[a, 0])
    expr = sp.Max(0, a * x) * sp.tanh(y)
    by_name = law.quad(expr, {"q": 1.5, "m": 0.3, "a": 0.7})
    by_symbol = law.quad(expr, {q: sp.Rational(3, 2), m: 0.3, a: 0.7})
    assert by_name == by_symbol
    numeric = dmft.Gaussian([x, y], [[1.5, 0.3], [0.3, 1]], mean=[0.7, 0])
    assert numeric.quad(sp.Max(0, 0.7 * x) * sp.tanh(y)) == pytest.approx(by_name, abs=1e-12)


@pytest.mark.parametrize(
    ("expr", "values", "error", "words"),
    [
        (sp.exp(x**2), {}, BadParameter, "not integrable"),
        (sp.exp(x**2 / 2), {}, BadParameter, "not integrable"),
        (sp.exp(x**4 / 10**4), {}, BadParameter, "not integrable"),
        (1 / x, {}, BadParameter, "pole"),
        (1 / (x - 1) ** 2, {}, BadParameter, "pole"),
        (sp.tan(x), {}, BadParameter, "pole"),
        (1 / (x - 2 * y), {}, BadParameter, "pole"),
        (1 / (x**2 + y**2), {}, BadParameter, "pole"),
        (sp.sqrt(x), {}, BadParameter, "complex or undefined at x"),
        (sp.log(y), {}, BadParameter, "complex or undefined at y"),
        (a * x, {}, BadParameter, "a: no field"),
        (a * x, {"a": sp.I}, BadParameter, "not a real number"),
        (x, {"x": 1}, BadParameter, "other than the fields"),
        (sp.DiracDelta(x), {}, BadParameter, "Dirac"),
        (sp.Function("g")(x), {}, BadParameter, "no numerical value"),
        (sp.Symbol("x") * y, {}, BadParameter, "same name"),
        (sp.exp(40 * x), {}, BadParameter, "overflows"),
    ],
)
def test_refusals(expr, values, error, words):
    with pytest.raises(error, match=words):
        PAIR.quad(expr, values)


def test_an_indefinite_covariance_of_values_is_refused_with_its_eigenvalue():
    law = dmft.Gaussian([x, y], [[1, m], [m, 1]])
    with pytest.raises(InvalidCovariance, match=r"smallest eigenvalue -0\.25"):
        law.quad(x * y, {"m": 1.25})
    with pytest.raises(BadParameter, match="rtol"):
        law.quad(x * y, {"m": 0.25}, rtol=0)


def test_what_is_not_reached_is_said():
    law = dmft.Gaussian([x, y, w, v], np.full((4, 4), 0.4) + 0.6 * np.eye(4))
    five = dmft.Gaussian([x, y, w, v, a], np.full((5, 5), 0.5) + 0.5 * np.eye(5))
    with pytest.warns(AccuracyWarning, match="is known to"):
        result = five.quad(sp.Heaviside(sp.Min(x, y, w, v, a)), rtol=1e-9)
    assert result.status == "tolerance_not_met"
    assert result.method == "quasi-Monte Carlo"
    # Five equicorrelated fields at 1/2 are all positive with probability 1/6.
    assert holds(result, 1 / 6)
    assert result.error < 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smooth = law.quad(sp.cos(x * y + w * v), rtol=1e-6)
    assert smooth.method == "lattice"
    # E exp(i x'Bx/2) = det(1 - i B C)^(-1/2), here with the pairs (x, y) and (w, v) coupled.
    pairing = np.kron(np.eye(2), [[0, 1], [1, 0]])
    factor = np.eye(4) - 1j * pairing @ (np.full((4, 4), 0.4) + 0.6 * np.eye(4))
    truth = np.prod(1 / np.sqrt(np.linalg.eigvals(factor))).real
    assert holds(smooth, truth)
    assert smooth.error <= 1e-6 * abs(truth)


def test_a_factor_of_one_form_is_averaged_first():
    # Four equicorrelated fields at 1/2 are all positive with probability 1/5, three with 1/4.
    four = dmft.Gaussian([x, y, w, v], np.full((4, 4), 0.5) + 0.5 * np.eye(4))
    step = sp.Heaviside
    three = four.quad(step(x) * step(y) * step(w))
    assert holds(three, 0.25)
    assert "averaged" in three.method
    assert three.error < 1e-11


@pytest.mark.slow
def test_four_dimensions_with_kinks():
    four = dmft.Gaussian([x, y, w, v], np.full((4, 4), 0.5) + 0.5 * np.eye(4))
    step = sp.Heaviside
    result = four.quad(step(x) * step(y) * step(w) * step(v))
    assert holds(result, 0.2)
    assert result.error < 1e-10
    product = step(x) * sp.Max(0, y) * sp.Max(0, w) * step(v)
    assert holds(four.quad(product), float(four.expect(product)))


def test_results_pickle_and_print():
    result = PAIR.quad(sp.tanh(x) ** 2)
    again = pickle.loads(pickle.dumps(result))
    assert (again, again.error, again.status) == (result, result.error, result.status)
    assert "error=" in repr(result)
    assert float(str(result)) == result
    assert r"\pm" in result.latex()


def test_refusals_of_closed_forms_point_here():
    with pytest.raises(NotClosed, match=r"Gaussian\.quad.*Gaussian\.series"):
        ONE.expect(sp.tanh(x))


# name: (expression of a field, needs a closed form to be judged).
FAMILIES = {
    "sign": sp.sign, "relu": lambda u: sp.Max(0, u), "abs": sp.Abs, "step": sp.Heaviside,
    "erf": sp.erf, "bump": lambda u: sp.exp(-(u**2) / 3), "cubic": lambda u: u**3 - u,
    "sine": lambda u: sp.sin(u + 1), "exp": lambda u: sp.exp(u / 3),
    "leaky": lambda u: sp.Max(u, u / 10), "sharp": lambda u: sp.erf(30 * u),
    "piece": lambda u: sp.Piecewise((u, u > 1), (0, True)),
}  # fmt: skip


def random_laws(count, seed):
    """Expressions in one to three fields and covariances, from singular to huge."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = int(rng.integers(1, 4))
        rank = int(rng.integers(1, n + 1)) if rng.random() < 0.3 else n
        # Few bits, so that the products are exact and a singular covariance is singular.
        factor = np.round(64 * rng.standard_normal((n, rank))) / 64 * 2.0 ** rng.integers(-7, 5)
        cov = factor @ factor.T
        names = [str(s) for s in rng.choice(list(FAMILIES), n)]
        fields = [x, y, w][:n]
        arguments = list(fields)
        if n > 1 and rng.random() < 0.3:
            arguments[0] = fields[0] - fields[1]
        expr = sp.Mul(*[FAMILIES[s](u) for s, u in zip(names, arguments, strict=True)])
        yield names, expr, dmft.Gaussian(fields, cov)


def judge(count, seed):
    """(in error, judged, median milliseconds) of random expressions with closed forms."""
    import time

    wrong, times, judged = [], [], 0
    for names, expr, law in random_laws(count, seed):
        try:
            truth = float(law.expect(expr))
        except NotClosed:
            continue
        if not np.isfinite(truth):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccuracyWarning)
            begin = time.perf_counter()
            result = law.quad(expr)
            times.append(time.perf_counter() - begin)
        judged += 1
        # Closed forms are differences of numbers of order one: their own rounding is no error.
        if not holds(result, truth) and abs(result - truth) > 1e-13 * abs(truth) + 1e-16:
            wrong.append((names, law.cov, float(result), result.error, truth))
    return wrong, judged, 1e3 * float(np.median(times))


@pytest.mark.parametrize("count", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_claimed_errors_hold_on_random_expressions(count):
    wrong, judged, _ = judge(count, seed=3)
    assert judged > count / 2
    assert not wrong


@pytest.mark.slow
def test_claimed_errors_hold_on_three_hundred_random_expressions():
    wrong, judged, _ = judge(450, seed=4)
    assert judged >= 300
    assert len(wrong) <= 0.01 * judged, wrong


@pytest.mark.filterwarnings("ignore::dmft.AccuracyWarning")
@pytest.mark.parametrize("power", [3, 5, pytest.param(7, marks=pytest.mark.slow)])
def test_claims_of_peaks_far_narrower_than_their_place(power):
    """Nodes are rounded to doubles, which a peak of width 10^-power sees: Voigt's profile."""
    sharp = 10**power
    value = dmft.Gaussian([x], [[1]]).quad(1 / (1 + (sharp * (x - sp.Rational(3, 10))) ** 2))
    with mpmath.workdps(40):
        z = (mpmath.mpf(3) / 10 + mpmath.mpc(0, 1) / sharp) / mpmath.sqrt(2)
        faddeeva = mpmath.exp(-(z**2)) * mpmath.erfc(mpmath.mpc(0, -1) * z)
        exact = mpmath.sqrt(mpmath.pi / 2) / sharp * mpmath.re(faddeeva)
        assert abs(mpmath.mpf(float(value)) - exact) <= value.error < 1e-6 * exact
