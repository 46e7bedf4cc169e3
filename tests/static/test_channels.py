"""Output channels of one field: shared vectors, and integrals of the definition by SciPy."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.special import erf

import dmft
from dmft.gaussian.channels.branches import Branch
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.pieces import pieces
from dmft.gaussian.channels.sweeps import Pieces, interval_sums

FILE = Path(__file__).parents[1] / "reference" / "static_limits.json"
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
z = sp.Symbol("z", real=True)
NAMED = {
    "linear": z,
    "relu": sp.Max(0, z),
    "abs": sp.Abs(z),
    "sign": sp.sign(z),
    "hardtanh": sp.Max(-1, sp.Min(1, z)),
}


def of_kind(*kinds):
    return [v for v in VECTORS if v["kind"] in kinds]


@pytest.mark.parametrize("vector", of_kind("output_channel"), ids=lambda v: v["input"]["label"])
def test_closed_channels_agree_with_vectors(vector):
    given, wanted = vector["input"], vector["output"]
    channel = Channel(NAMED[given["label"]], z, noise=given["noise"])
    at = given["y"], given["omega"], given["V"]
    found = channel.log_z(*at), channel.score(*at), channel.score_slope(*at)
    names = "log_Zout", "gout", "dgout"
    np.testing.assert_allclose(found, [wanted[n] for n in names], rtol=vector["rtol"])


@pytest.mark.parametrize("vector", of_kind("channel"), ids=lambda v: str(v["input"]))
def test_averages_agree_with_vectors(vector):
    given, wanted = vector["input"], vector["output"]
    channel = Channel(sp.sympify(given["label"], {"z": z}), z)
    q, rtol = given["q"], vector["rtol"]
    assert channel.information(q) == pytest.approx(wanted["E_gout_squared"], rel=rtol)
    assert channel.entropy(q) == pytest.approx(wanted["Psi_out"], rel=rtol)


def normal(x, variance):
    return np.exp(-x * x / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def logistic(x):
    return 1 / (1 + np.exp(-x))


# A channel, its P(y | z) from the definition, labels, and places where the latter is not smooth.
DEFINED = {
    "square with noise": (
        Channel(z**2, z, noise=0.1), lambda y, x: normal(y - x * x, 0.1), (0.3, 2.0, -0.2), ()),
    "He3 with noise": (
        Channel(z**3 - 3 * z, z, noise=0.5),
        lambda y, x: normal(y - x**3 + 3 * x, 0.5), (0.3, 2.0, -2.5), ()),
    "probit": (
        Channel(sp.erf(z), z, drawn=True), lambda y, x: (1 + y * erf(x)) / 2, (1, -1), ()),
    "logit": (
        Channel(sp.expand_mul(2 / (1 + sp.exp(-5 * z)) - 1), z, drawn=True),
        lambda y, x: logistic(5 * y * x), (1, -1), ()),
    "flips and noise": (
        Channel(sp.Abs(z) - 1, z, noise=0.3, flip=0.1),
        lambda y, x: 0.9 * normal(y - abs(x) + 1, 0.3) + 0.1 * normal(y + abs(x) - 1, 0.3),
        (0.4, -1.2), (0,)),
    "flipped signs": (
        Channel(sp.sign(z), z, flip=0.1),
        lambda y, x: 0.9 * (np.sign(x) == y) + 0.1 * (np.sign(x) == -y), (1, -1), (0,)),
}  # fmt: skip


def moments_of(likelihood, omega, s, places):
    def integrand(u, n):
        return likelihood(omega + s * u) * u**n * normal(u, 1.0)

    options = {"points": places, "epsabs": 1e-14, "epsrel": 1e-10, "limit": 400}
    return [quad(integrand, -10, 10, args=(n,), **options)[0] for n in range(3)]


@pytest.mark.parametrize("name", DEFINED)
def test_channels_are_integrals_of_their_definition(name):
    channel, likelihood, labels, kinks = DEFINED[name]
    for y in labels:
        for omega, v in ((-0.4, 0.7), (1.3, 0.05), (2.5, 0.3)):
            s = np.sqrt(v)
            places = [(k - omega) / s for k in kinks if abs(k - omega) < 9 * s] or None
            moments = moments_of(lambda u, y=y: likelihood(y, u), omega, s, places)
            mean, square = moments[1] / moments[0], moments[2] / moments[0]
            wanted = np.log(moments[0]), mean / s, (square - mean**2 - 1) / v
            at = y, omega, v
            found = channel.log_z(*at), channel.score(*at), channel.score_slope(*at)
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


AVERAGED = {
    "atom and branch": Channel(sp.Max(sp.Abs(z), 1), z),
    "two roots with noise": Channel(sp.Abs(z), z, noise=0.1),
    "flipped branch": Channel(sp.Max(0, z), z, flip=0.2),
    "logit": Channel(sp.tanh(3 * z), z, drawn=True),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_slope_of_the_entropy_is_the_information(name):
    channel = AVERAGED[name]
    slope = (channel.entropy(0.4004) - channel.entropy(0.3996)) / 0.0008
    assert 2 * slope == pytest.approx(channel.information(0.4), rel=3e-6)


@pytest.mark.parametrize("name", AVERAGED)
def test_rules_of_labels_have_the_moments_of_their_law(name):
    channel, means = AVERAGED[name], np.array([0.3, 1.0])
    z_too, _, weight = channel.rule_z(means, 0.4, 24)
    np.testing.assert_allclose(weight.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose((weight * z_too).sum(axis=1), means, rtol=1e-12)
    _, y, weight = (a[0] for a in channel.rule_z(np.zeros(1), 1.0, 24))
    square = channel.average(lambda _, v, y, omega: y**2 + 0 * omega, 0.4)
    np.testing.assert_allclose(square, weight @ y**2, rtol=1e-10)


def test_monotone_functions_of_a_label_change_nothing():
    cubic = z**3 - 3 * z
    plain, outer = Channel(cubic, z), Channel(2 * sp.tanh(cubic) - 1, z)
    assert outer.inner == cubic
    assert outer.information(0.5) == plain.information(0.5)
    assert Channel(sp.erf(z), z).inner == z
    noisy = Channel(sp.tanh(cubic), z, noise=0.1)
    assert noisy.inner == noisy.expr  # the noise is added outside


def test_functions_are_split_at_kinks_and_critical_points():
    parts = [b.piece for b in Channel(sp.Max(sp.Abs(z), 1), z).branches]
    assert [(p.low, p.high, p.kind) for p in parts] == [
        (-sp.oo, -1, "affine"), (-1, 1, "flat"), (1, sp.oo, "affine")]  # fmt: skip
    channel = Channel(z**4 - 6 * z**2 + 3, z)
    assert [b.piece.low for b in channel.branches] == [-sp.oo, -sp.sqrt(3), 0, sp.sqrt(3)]
    # Preimages of the local maximum y = 3 split averages too.
    np.testing.assert_allclose(channel.breaks[[0, -1]], [-np.sqrt(6), np.sqrt(6)], rtol=1e-14)


@pytest.mark.parametrize(
    ("expr", "noise", "values"),
    [
        (z**2 + z, 0.0, (0.4, 2.0)),
        (3 * z**2 - 2 * z + sp.Rational(1, 2), 0.0, (0.4, 2.0)),
        (sp.Max(0, 2 * z - sp.Rational(3, 10)), 0.3, (0.4, -0.2)),
        (sp.Abs(3 * z + sp.Rational(1, 2)), 0.2, (0.7, 0.0)),
    ],
)
def test_printed_channels_are_densities(expr, noise, values):
    """Z(y) is the slope of P(label < y), by sums over a fine grid of the normal field."""
    line = dmft.Committee(z, 1)
    found = dmft.output_channel(dmft.Model(line, dmft.MultiIndex(expr, (z,)), label_noise=noise))
    omega, V, step = 0.3, 0.7, 2e-2
    grid = omega + np.sqrt(V) * np.linspace(-9, 9, 2_000_001)
    weight = np.exp(-((grid - omega) ** 2) / (2 * V))
    weight /= weight.sum()
    label = np.broadcast_to(sp.lambdify(z, expr, "numpy")(grid), grid.shape)
    symbols = {s.name: s for s in found.Z.free_symbols}
    at = {symbols["omega"]: omega, symbols["V"]: V}
    for y in values:
        if noise:
            density = np.exp(-((y - label) ** 2) / (2 * noise)) / np.sqrt(2 * np.pi * noise)
            truth, tolerance = weight @ density, 1e-9
        else:
            below = [weight[label < end].sum() for end in (y - step, y + step)]
            truth, tolerance = (below[1] - below[0]) / (2 * step), 2e-3
        assert float(found.Z.subs({**at, symbols["y"]: y})) == pytest.approx(truth, rel=tolerance)


@pytest.mark.parametrize(
    "label", ["3*z**2 - z + 1", "-2*z**2 + 4*z", "z**3 - 3*z", "Max(2*z, -z)", "exp(-z**2)"]
)
def test_inverses_of_pieces(label):
    z = sp.Symbol("z", real=True)
    expr = sp.sympify(label, {"z": z})
    value = sp.lambdify(z, expr, ["numpy", {"Max": np.maximum}])
    found = [Branch(piece, z, 8.0) for piece in pieces(expr, z)]
    assert len(found) >= 2
    for branch in found:
        low, high = (np.clip(end, -3.0, 3.0) for end in branch.ends)
        places = np.linspace(low, high, 23)[1:-1]
        np.testing.assert_allclose(branch.inverse(value(places)), places, atol=1e-9)


def test_sums_over_intervals_are_integrals():
    low, high = np.array([-np.inf, -0.4, 1.3]), np.array([-0.4, 1.3, np.inf])
    zero = np.zeros(3)
    found = interval_sums(Pieces(low, high, (zero, zero, zero)), np.full(3, 0.3), 0.7)
    for n, (a, b) in enumerate(zip(low, high, strict=True)):
        for power in range(3):
            wanted = quad(
                lambda t, power=power: t**power * np.exp(-((t - 0.3) ** 2) / 0.98)
                / np.sqrt(0.98 * np.pi), a, b, epsabs=1e-12,
            )[0]  # fmt: skip
            assert found[power][n] == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("variance", [0.3, 1e-3, 1e-6])
def test_flipped_labels_where_both_signs_have_the_same_field(variance):
    """y = +-(z^2 - 1): the roots sqrt(1 + y), sqrt(1 - y) meet at z = 1; posterior written out."""
    flip, scale = 0.3, np.sqrt(variance)
    near = np.concatenate([s + scale * np.linspace(-12, 12, 4001) for s in (0.0, 1.0, np.sqrt(2))])
    near = np.unique([*np.linspace(0.0, 8.0, 16001), *near[(near > 0) & (near < 8)]])
    h, width = 0.5 * (near[1:] + near[:-1]), np.diff(near)
    t, x = h[:, None], np.linspace(-7, 7, 141)
    omega = (1 - variance) * t + np.sqrt(variance * (1 - variance)) * x
    turned = np.sqrt(np.maximum(2 - t * t, 0.0))  # z with -(z^2 - 1) = h^2 - 1

    def score(own, other, share):
        z = np.stack([own, -own, other, -other])
        weight = np.stack([share / own] * 2 + [(1 - share) * (t < np.sqrt(2)) / other] * 2)
        log = -((z - omega) ** 2) / 2 / variance
        p = weight * np.exp(log - log.max(axis=0))
        return ((p * z).sum(axis=0) / p.sum(axis=0) - omega) / variance

    law = 2 * width * np.exp(-h * h / 2) / np.sqrt(2 * np.pi)
    inner = (x[1] - x[0]) * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    other = np.maximum(turned, 1e-9)
    squares = [p * score(t, other, p) ** 2 for p in (1 - flip, flip)]
    wanted = float(law @ (squares[0] + squares[1]) @ inner)
    channel = Channel(z**2 - 1, z, flip=flip)
    assert channel.information(1 - variance, variance) == pytest.approx(wanted, rel=2e-4)


@pytest.mark.parametrize("variance", [0.5, 0.05])
def test_noisy_label_of_many_branches(variance):
    """cos(3 z) with noise against sums on one grid of z, y and omega."""
    noise = 0.01
    at, omega = np.linspace(-8, 8, 4001)[:, None], np.linspace(-6.5, 6.5, 261)
    omega = np.sqrt(1 - variance) * omega
    y = np.arange(-1.7, 1.7, 0.04)[:, None]
    u = (at - omega) / np.sqrt(variance)
    law = np.exp(-u * u / 2) / np.sqrt(2 * np.pi * variance) * 0.004
    seen = np.exp(-((y - np.cos(3 * at.T)) ** 2) / 2 / noise) / np.sqrt(2 * np.pi * noise)
    mass, first = seen @ law, seen @ (law * u)
    outer = np.exp(-(omega**2) / 2 / (1 - variance)) / np.sqrt(2 * np.pi * (1 - variance))
    inner = np.sum(first**2 / np.maximum(mass, 1e-200), axis=0) / variance * 0.04
    wanted = float(inner @ outer) * (omega[1] - omega[0])
    found = Channel(sp.cos(3 * z), z, noise).information(1 - variance, variance)
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("slope", "at"), [(2, (0.3, -0.4, 0.7)), (4, (0.9, -3.0, 0.3))])
def test_saturating_labels_with_noise(slope, at):
    """Against sums over 40,000 places; 1 - tanh^2 vanishes in floating point."""
    model = dmft.Model(
        dmft.Committee(z, 1), dmft.MultiIndex(sp.tanh(slope * z), [z]), label_noise=0.07
    )
    y, omega, variance = at
    x = omega + np.linspace(-12, 12, 40_001) * np.sqrt(variance)
    density = np.exp(-((x - omega) ** 2) / (2 * variance) - (y - np.tanh(slope * x)) ** 2 / 0.14)
    total = density.sum() * (x[1] - x[0]) / (2 * np.pi * np.sqrt(0.07 * variance))
    mean = density @ (x - omega) / density.sum()
    found = dmft.output_channel(model).evaluate(*at)
    assert found["log_Z"] == pytest.approx(np.log(total), abs=1e-8)
    assert found["g"] == pytest.approx(mean / variance, rel=1e-8)
