"""Formulas of output channels: table 2.3 of theory/static_limits, from declarations only."""

import numpy as np
import pytest
import sympy as sp
from scipy.stats import multivariate_normal, norm

import dmft
from dmft.equations.output_channel import OMEGA, V, Y, output_channel
from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel

z, f = sp.symbols("z f", real=True)
z1, z2 = FIELDS = sp.symbols("z1 z2", real=True)
DELTA = sp.Symbol("Delta", positive=True)


def channel(expr, fields=(z,), **options):
    return output_channel(
        dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(expr, list(fields)), **options)
    )


def phi(t):
    return sp.exp(-(t**2) / 2) / sp.sqrt(2 * sp.pi)


def cdf(t):
    return (1 + sp.erf(t / sp.sqrt(2))) / 2


def density(x, mean, variance):
    return phi((x - mean) / sp.sqrt(variance)) / sp.sqrt(variance)


ROOT = sp.sqrt(V)
SCALE = sp.sqrt(V + sp.Rational(1, 4))
PROBIT = {"label_channel": (1 + sp.erf(f * sp.sqrt(2))) / 2}
# Label, options, y; Z and g as the table prints them.
TABLE = {
    "linear": (z, {"label_noise": DELTA}, 0.3, density(0.3, OMEGA, V + DELTA),
               (0.3 - OMEGA) / (V + DELTA)),
    "sign": (sp.sign(z), {}, 1, cdf(OMEGA / ROOT), phi(OMEGA / ROOT) / (ROOT * cdf(OMEGA / ROOT))),
    "probit": (z, PROBIT, 1, cdf(OMEGA / SCALE), phi(OMEGA / SCALE) / (SCALE * cdf(OMEGA / SCALE))),
    "relu": (sp.Max(0, z), {}, 1.3, density(1.3, OMEGA, V), (1.3 - OMEGA) / V),
    "relu at zero": (sp.Max(0, z), {}, 0, cdf(-OMEGA / ROOT),
                     -phi(OMEGA / ROOT) / (ROOT * cdf(-OMEGA / ROOT))),
    "abs": (sp.Abs(z), {}, 0.7, density(0.7, OMEGA, V) + density(-0.7, OMEGA, V),
            (0.7 * sp.tanh(0.7 * OMEGA / V) - OMEGA) / V),
    "square": (z**2, {}, 0.49, (density(0.7, OMEGA, V) + density(-0.7, OMEGA, V)) / 1.4,
               (0.7 * sp.tanh(0.7 * OMEGA / V) - OMEGA) / V),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_formulas_are_those_of_the_table(name):
    expr, options, y, z_out, score = TABLE[name]
    found = channel(expr, **options)
    at = {OMEGA: -0.4, V: 0.7, DELTA: 0.1}
    for formula, wanted in (
        (found.Z, z_out),
        (found.g, score),
        (found.slope, sp.diff(score, OMEGA)),
    ):
        value = sp.sympify(formula).subs(Y, y).subs(at)
        assert float(value) == pytest.approx(
            float(sp.sympify(wanted).subs(Y, y).subs(at)), rel=1e-12
        )
    assert found.closed


def test_two_signs_are_bivariate_normal_probabilities():
    found = channel(sp.sign(z1 * z2), FIELDS)
    mean, cov = np.array([0.3, -0.2]), np.array([[0.5, 0.1], [0.1, 0.6]])
    wanted = sum(
        multivariate_normal(s @ mean, s @ cov @ s.T).cdf([0, 0]) for s in (np.eye(2), -np.eye(2))
    )
    plus = found.evaluate(1.0, mean, cov)
    assert float(np.exp(plus["log_Z"][0])) == pytest.approx(wanted, rel=1e-7)
    minus = found.evaluate(-1.0, mean, cov)
    assert float(np.exp(minus["log_Z"][0])) == pytest.approx(1 - wanted, rel=1e-7)
    names = dict(zip(sp.symbols("omega_1 omega_2", real=True), mean, strict=True))
    names |= {sp.Symbol("V_11", positive=True): 0.5, sp.Symbol("V_22", positive=True): 0.6,
              sp.Symbol("V_12", real=True): 0.1}  # fmt: skip
    assert float(found.Z.subs(Y, 1).subs(names)) == pytest.approx(wanted, rel=1e-7)
    numbers = [float(e) for e in found.g.subs(Y, 1).subs(names)]
    np.testing.assert_allclose(numbers, plus["g"][0], rtol=1e-6)


def test_outer_functions_are_stripped_and_shown():
    found = channel(3 * sp.tanh(z**3) + 1)
    assert (found.inner, found.closed) == (z1, True)
    assert found.outer == 3 * sp.tanh(sp.Symbol("u", real=True) ** 3) + 1


def test_explanations_compare_formulas_with_integrals():
    for found in (channel(sp.Max(0, z)), channel(sp.sign(z)), channel(sp.Abs(z), label_noise=0.1)):
        steps = found.explain().steps
        assert len(steps) == 3
        for step in steps:
            np.testing.assert_allclose(step.check[:, 0], step.check[:, 1], rtol=1e-4, atol=1e-6)


def test_labels_without_formula_have_integrals_and_numbers():
    found = channel(z**3 - 3 * z)
    assert not found.closed
    assert found.Z.has(sp.Integral)
    assert "DiracDelta" in str(found.Z)
    assert np.isfinite(found.evaluate(0.3, 0.1, 0.5)["g"])
    with pytest.raises(BadParameter, match="closed forms"):
        found.explain()


def test_the_integral_of_two_fields_is_the_density_of_the_label():
    """The printed integrand against the normal densities of fields and noise."""
    u, v = sp.symbols("u v", real=True)
    model = dmft.Model(
        dmft.Committee(z, 1), dmft.MultiIndex(u * v, [u, v]), label_noise=sp.Rational(3, 10)
    )
    found = dmft.output_channel(model).Z
    one, two = (limit[0] for limit in found.limits)
    numbers = {"y": 0.4, "omega_1": 0.2, "omega_2": -0.3}
    cov = np.array([[1.1, 0.4], [0.4, 0.7]])
    V = next(iter(found.atoms(sp.MatrixSymbol)))
    integrand = found.function.xreplace({s: numbers[s.name] for s in found.free_symbols
                                         if s.name in numbers})  # fmt: skip
    integrand = integrand.subs(V, sp.Matrix(cov)).doit()
    for at in ((0.3, -0.8), (-1.2, 0.5)):
        value = float(integrand.subs({one: at[0], two: at[1]}).doit())
        fields = multivariate_normal([0.2, -0.3], cov).pdf(at)
        assert value == pytest.approx(fields * norm(at[0] * at[1], np.sqrt(0.3)).pdf(0.4), rel=1e-9)


PRINTED = {  # label, options, y, and the most characters that the formulas take
    "sign": (sp.sign(z), {}, -1, 500),
    "sign flipped": (sp.sign(z), {"label_flip": sp.Rational(1, 10)}, -1, 550),
    "sign noisy": (sp.sign(z), {"label_noise": 0.1}, 0.4, 750),
    "three values": (sp.sign(z - 1) + sp.sign(z + 1), {}, 0, 1500),
    "two values": (sp.sign(z - 1) + sp.sign(z + 1), {}, -2, 1500),
    "relu noisy": (sp.Max(0, z), {"label_noise": 0.1}, 0.4, 1600),
    "abs": (sp.Abs(z), {}, 0.7, 500),
    "abs noisy": (sp.Abs(z), {"label_noise": 0.1}, 0.4, 2100),
    "square": (z**2, {}, 0.6, 600),
    "probit": (z, PROBIT, -1, 600),
    "two slopes": (sp.Max(2 * z, -z), {}, 0.6, 700),
    "three roots": (sp.Max(sp.Abs(z), 2 - sp.Abs(z)), {}, 1.4, 4000),
    "two ranges": (sp.Piecewise((z + 1, z > 0), (z**2, True)), {}, 1.3, 4000),
}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_formulas_are_the_numbers(name):
    """Score and slope by H, phi and N, against differences of log Z of the numeric channel."""
    expr, options, y, most = PRINTED[name]
    found = channel(expr, **options)
    at, h = {Y: y, OMEGA: -0.4, V: 0.7}, 1e-3
    logs = [found.evaluate(y, -0.4 + n * h, 0.7)["log_Z"] for n in range(-2, 3)]
    slope, curvature = np.dot([[1, -8, 0, 8, -1], [-1, 16, -30, 16, -1]], logs) / 12
    wanted = (logs[2], slope / h, curvature / h**2)
    formulas = (sp.log(found.Z), found.g, found.slope)
    for formula, value in zip(formulas, wanted, strict=True):
        assert float(formula.subs(at)) == pytest.approx(float(value), rel=1e-7, abs=1e-7)
    text = found.latex()
    assert len(text) < most
    assert text.count("erf") <= 1
    assert "NaN" not in text


def test_formulas_are_latex():
    text = channel(sp.Max(0, z)).latex()
    assert text.startswith(r"Z_{\mathrm{out}}(y; \omega, V)")
    assert r"\begin{cases}" in text


@pytest.mark.parametrize("variance", [-0.5, 0.0, [0.3, -0.1]])
def test_variances_of_one_field_are_positive(variance):
    with pytest.raises(BadParameter, match=r"variance = .* must be positive"):
        channel(sp.sign(z)).evaluate(1, 0.3, variance)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((1, [0.3, 0.1], [[-0.5, 0.0], [0.0, 0.3]]), r"-0.5.*must be positive definite"),
        ((1, [0.3, 0.1], [[0.1, 0.3], [0.3, 0.3]]), "must be positive definite"),
        ((1, [0.3, 0.1], [[0.5, 0.3], [0.1, 0.3]]), "variance must be a symmetric"),
        ((1, [0.3, 0.1], 0.5), "variance must be a symmetric"),
        ((1, [0.3, 0.1, 0.2], np.eye(2)), "omega must have the shape .*0.2"),
        (([1, 1], [0.3, 0.1], np.eye(2)), "omega must have the shape"),
        ((1, [0.3, np.nan], np.eye(2)), "must be finite"),
    ],
)
def test_wrong_arguments_of_several_fields_are_shown(given, text):
    with pytest.raises(BadParameter, match=text):
        channel(sp.sign(z1 * z2), FIELDS).evaluate(*given)


def test_labels_and_means_of_one_field_broadcast():
    found = channel(sp.sign(z))
    with pytest.raises(BadParameter, match=r"omega = \[0.3, 1, 2\].* must broadcast"):
        found.evaluate([1, -1], [0.3, 1, 2], 0.5)
    wanted = norm.logcdf(np.array([[0.3], [-1.0]]) / np.sqrt([0.5, 2.0]))
    np.testing.assert_allclose(found.evaluate(1, [[0.3], [-1.0]], [0.5, 2.0])["log_Z"], wanted)


@pytest.mark.parametrize("q", [0.9, 0.999])
def test_labels_with_many_roots_match_sums_over_their_roots(q):
    """y = sin(3z): all roots have slopes of one size, so that their weights are Gaussian."""
    variance, turn = 1.0 - q, 2 * np.pi / 3 * np.arange(-8, 9)
    h, x = np.linspace(-8.5, 8.5, 801 if q < 0.99 else 4001)[:, None], np.linspace(-8.5, 8.5, 161)
    weight = np.exp(-0.5 * (h * h + x * x))
    omega, total, first = q * h + np.sqrt(variance * q) * x, 0.0, 0.0
    for shift in turn[np.abs(turn) < 18.0 * np.sqrt(variance) + 3.0]:
        for root in (h + shift, np.pi / 3 - h + np.round(h / (np.pi / 3)) * 2 * np.pi / 3 + shift):
            share = np.exp(0.5 * ((h - omega) ** 2 - (root - omega) ** 2) / variance)
            total, first = total + share, first + share * root
    score = (first / total - omega) / variance
    expected = np.sum(weight * score**2) / weight.sum()
    assert Channel(sp.sin(3 * z), z).information(q) == pytest.approx(expected, rel=3e-9)
