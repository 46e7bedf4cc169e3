"""Channels of two and three fields and their thresholds against sums that use no library code."""

import numpy as np
import pytest
import sympy as sp
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ive, ndtr, xlogy

import dmft
from dmft.arrays import half_width
from dmft.gaussian.channels.declared import Label, SignedLabel
from dmft.gaussian.channels.several import Several
from dmft.workflow.static.continuation import Lines
from dmft.workflow.static.several_fields import SURE, several_of

z = sp.Symbol("z", real=True)
FIELDS = z1, z2, z3 = sp.symbols("z1 z2 z3", real=True)
TURN = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
LOG = np.concatenate([np.exp(np.linspace(-18, 2.3, 8001)), -np.exp(np.linspace(-18, 2.3, 8001))])


def density(t):
    return np.exp(-t * t / 2) / np.sqrt(2 * np.pi)


def test_a_label_that_only_some_signs_can_write():
    """y = |z1| sign(z2) = .7: z2 > 0, and z1 is one of two points."""
    label = SignedLabel(sp.Abs(z1) * sp.sign(z2), (z1, z2), 0, 0.0, 0.0)
    omega, variance = 0.2, 0.8
    first, second = label.given(*map(np.array, (0.7, omega, variance)))
    points = (np.array([0.7, -0.7]) - omega) / np.sqrt(variance)
    share = density(points) / density(points).sum()
    assert first == pytest.approx([share @ points, np.sqrt(2 / np.pi)], rel=1e-9)
    assert second[0, 1] == pytest.approx(share @ points * np.sqrt(2 / np.pi), rel=1e-9)
    assert second[0, 0] == pytest.approx(share @ points**2 - 1.0, rel=1e-9)


def test_labels_of_which_most_are_flipped_tell_as_much():
    """-y instead of y is another name of the same labels, also where noise is added."""
    q, found = np.diag([0.5, 0.2]), []
    for flip in (0.2, 0.8):
        label = Label(z1 * z2 + z1, (z1, z2), sp.Float(0.3), sp.Float(flip), drawn=False)
        channel = several_of(label)
        found.append(channel.average(q, 2048))
    one, two = (f.information for f in found)
    assert np.abs(one - two).max() < 0.02 * np.abs(one).max()
    assert found[0].entropy == pytest.approx(found[1].entropy, abs=0.01)


def ring(y, omega, s):
    """|z|^2 = y: Z and E[z | y] of a point on a circle, by Bessel functions."""
    r, p = np.sqrt(y), np.linalg.norm(omega)
    k = r * p / s**2
    z = np.exp(-((r - p) ** 2) / 2 / s**2) * ive(0, k) / 2 / s**2
    return z, r * ive(1, k) / ive(0, k) * omega / p


def product(y, omega, s):
    """z1 z2 = y: a sum over log |z1|."""
    mass = np.exp(-((LOG - omega[0]) ** 2 + (y / LOG - omega[1]) ** 2) / 2 / s**2)
    mean = np.array([mass @ LOG, mass @ (y / LOG)]) / mass.sum()
    return mass.sum() * 20.3 / 8000 / (2 * np.pi * s**2), mean


def square(y, omega, s):
    """max(|z1|, |z2|) = y: four sides of a square."""
    total, first = 0.0, np.zeros(2)
    for a in (0, 1):
        low, high = (-y - omega[1 - a]) / s, (y - omega[1 - a]) / s
        chance = ndtr(high) - ndtr(low)
        inner = omega[1 - a] * chance + s * (density(low) - density(high))
        for side in (y, -y):
            at = density((side - omega[a]) / s) / s
            total += at * chance
            first[a] += side * at * chance
            first[1 - a] += at * inner
    return total, first / total


def turned(function, scale):
    """The same of fields turned by 45 degrees, of a label that is `scale` times as large."""

    def of(y, omega, s):
        z, mean = function(y / scale, TURN @ omega, s)
        return z / scale, TURN @ mean

    return of


# Expression, Z and E[z | y].
CASES = {
    "circle": (z1**2 + z2**2, ring),
    "product": (z1 * z2, product),
    "hyperbola": (z1**2 - z2**2, turned(product, 2.0)),
    "square": (sp.Max(sp.Abs(z1), sp.Abs(z2)), square),
    "diamond": (sp.Abs(z1) + sp.Abs(z2), turned(square, np.sqrt(2))),
}


@pytest.mark.parametrize("overlap", [0.1, 0.6, 0.95])
@pytest.mark.parametrize("name", CASES)
def test_scores_on_level_sets(name, overlap):
    expr, exact = CASES[name]
    rng, s, count = np.random.default_rng(3), np.sqrt(1 - overlap), 200
    omega = np.sqrt(overlap) * rng.normal(size=(count, 2))
    y = sp.lambdify(FIELDS[:2], expr, "numpy")(*(omega + s * rng.normal(size=(count, 2))).T)
    wanted = [exact(a, b, s) for a, b in zip(y, omega, strict=True)]
    channel = Several(expr, FIELDS[:2])
    sums = channel.sums(y, omega, s**2 * np.eye(2))
    mean = np.array([m for _, m in wanted])
    np.testing.assert_allclose(sums.mass, [z for z, _ in wanted], rtol=5e-2)
    g, error = (mean - omega) / s**2, (sums.first / sums.mass[:, None] - mean) / s**2
    assert np.sqrt(np.mean(error**2)) < 5e-3 * np.sqrt(np.mean(g**2))


@pytest.mark.slow
def test_average_on_circles_is_within_its_error():
    """m(q) of |z|^2 by a sum over |omega| and |z|; once 6 % off at q = .1."""
    for q in (0.1, 0.7):
        v = 1 - q
        p, r = np.meshgrid(*[(np.arange(1200) + 0.5) * 0.006] * 2, indexing="ij")
        k = r * p / v
        weight = p / q * np.exp(-(p**2) / 2 / q) * r / v * np.exp(-((r - p) ** 2) / 2 / v)
        g = (r * ive(1, k) / ive(0, k) - p) / v
        wanted = np.sum(weight * ive(0, k) * g * g) * 0.006**2 / 2
        found = Several(z1**2 + z2**2, FIELDS[:2]).average(q * np.eye(2))
        each = np.trace(found.tables, axis1=1, axis2=2) / 2
        assert abs(each.mean() - wanted) < 6 * np.std(each, ddof=1) / 2
        assert each.mean() == pytest.approx(wanted, rel=0.02)


@pytest.mark.slow
def test_spinodal_and_entropies_of_the_parity_of_three():
    """alpha(q) and free entropies of sign(z1 z2 z3) on a grid of omega."""
    x = (np.arange(48) + 0.5) * 0.16
    w = 2 * density(x) * 0.16
    rows = w[:, None, None] * w[:, None] * w

    def sums(q):
        t = x * np.sqrt(q / (1 - q))
        e, d = 2 * ndtr(t) - 1, 2 * density(t) / np.sqrt(1 - q)
        mean, slope = (a[:, None, None] * e[:, None] * e for a in (e, d))
        chances = [np.maximum((1 + s * mean) / 2, 1e-14) for s in (1, -1)]
        m = sum((rows * slope**2 / 4 / c).sum() for c in chances)
        return m, sum((rows * c * np.log(c)).sum() for c in chances)

    def samples(q):
        return q / (1 - q) / sums(q)[0]

    least = minimize_scalar(samples, bounds=(0.6, 0.95), method="bounded")
    q = np.linspace(least.x, 0.95, 12)
    upper = CubicSpline([samples(a) for a in q], q)

    def gain(alpha):
        at = float(upper(alpha))
        return 1.5 * (at + np.log(1 - at)) + alpha * (sums(at)[1] + np.log(2))

    equal = brentq(gain, least.fun * 1.001, 11.0)
    lines = Lines(Several(sp.sign(z1 * z2 * z3), FIELDS, nodes=8), np.inf)
    (found,) = lines.extremes
    assert abs(found.alpha - least.fun) < found.error < 0.03
    assert found.overlap == pytest.approx(least.x, abs=0.02)
    entropic = lines.equal_entropy
    assert abs(entropic.alpha - equal) < entropic.error < 0.1
    assert lines.highest.alpha == np.inf


def test_phases_of_two_fields():
    parity = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z1 * z2), [z1, z2]))
    found = dmft.thresholds(parity)
    assert (found.order, found.algorithmic, found.spinodals) == ("second", np.inf, ())
    assert [str(dmft.recovery_phase(parity, a)) for a in (2.4, 2.5)] == ["impossible", "easy"]


@pytest.mark.slow
def test_errors_where_one_field_is_known_and_the_other_is_not():
    """z1^2 + sign(z2): q22 = .632 at alpha = 1.5 is that of signs; the error was 16."""
    label = dmft.MultiIndex(z1**2 + sp.sign(z2), [z1, z2])
    found = dmft.bayes_optimal(dmft.Model(dmft.Committee(z, 1), label), 1.5)
    alone = dmft.MultiIndex(sp.sign(z), [z])
    signs = dmft.bayes_optimal(dmft.Model(dmft.Committee(z, 1), alone), 1.5)
    assert abs(found.q[1, 1] - signs.q) < found.error < 0.1
    assert abs(found.q[0, 0] - 1.0) < found.error


@pytest.mark.parametrize("overlap", [0.5, 0.99])
def test_small_noise_on_two_fields(overlap):
    """z1 z2 + z1 + noise of variance 1e-4: given z1 a line in z2, then sums over z1."""
    noise, rest = sp.Rational(1, 10**4), 1 - overlap
    channel = several_of(Label(z1 * z2 + z1, (z1, z2), noise, sp.S.Zero, False))
    rng, delta = np.random.default_rng(5), 1e-4
    omega = np.sqrt(overlap) * rng.normal(size=(200, 2))
    one, two = (omega + np.sqrt(rest) * rng.normal(size=(200, 2))).T
    y = one * two + one + np.sqrt(delta) * rng.normal(size=200)
    found = channel.score(y, omega, rest * np.eye(2))
    x = omega[:, :1] + np.sqrt(rest) * np.linspace(-8, 8, 40001)
    total = delta + rest * x**2
    gap = y[:, None] - x * (1 + omega[:, 1:])
    p = np.exp(-((x - omega[:, :1]) ** 2) / 2 / rest - gap**2 / 2 / total) / np.sqrt(total)
    p /= p.sum(axis=1, keepdims=True)
    wanted = np.stack(
        [np.sum(p * (x - omega[:, :1]), axis=1) / rest, np.sum(p * x * gap / total, axis=1)], axis=1
    )
    squares = [np.mean(g**2) for g in (found, wanted)]
    assert squares[0] == pytest.approx(squares[1], rel=1e-3)


@pytest.mark.parametrize(("overlap", "part"), [(0.05, 0.5), (0.5, 0.15), (0.98, 0.03)])
def test_average_of_a_rotated_label(overlap, part):
    """|z1 + z2| is |z| in the first field turned: m = E[(y tanh(y w/V) - w)^2]/V^2 on it alone."""
    rest = 1 - overlap
    z, x = np.linspace(-8, 8, 1601)[:, None], np.linspace(-8, 8, 1201)
    omega = overlap * z + np.sqrt(rest * overlap) * x
    g = (np.abs(z) * np.tanh(np.abs(z) * omega / rest) - omega) / rest
    m = float(density(z[:, 0]) @ g**2 @ density(x)) * 0.01 * (x[1] - x[0])
    found = Several(sp.Abs(z1 + z2), (z1, z2)).average(overlap * np.eye(2), 2048)
    values = np.einsum("i,rij,j->r", TURN[0], found.tables, TURN[0])
    assert abs(values.mean() - m) < half_width(values, SURE) < part * m
    assert abs(TURN[1] @ found.information @ TURN[1]) < 1e-8 * m


def majority(radii=160, angles=240):
    """Of three signs, given their mean field: P(+) and E[(r^2/2 - 1) 1_+], r off the diagonal."""
    mean = np.linspace(-4.5, 4.5, 301)
    r = (np.arange(radii) + 0.5) * (7.0 / radii)
    angle = (np.arange(angles) + 0.5) * (2 * np.pi / angles)
    turned = angle[:, None] + 2 * np.pi / 3 * np.arange(3)
    middle = np.sort(np.sqrt(2 / 3) * np.cos(turned), axis=1)[:, 1]  # of the three fields at r = 1
    law = r * np.exp(-r * r / 2)
    law = law / law.sum() / angles
    up = (mean[:, None, None] + r[:, None] * middle > 0).sum(axis=2)
    return mean * np.sqrt(3), up @ law, up @ (law * (r * r / (r * r @ law * angles) - 1))


@pytest.mark.slow
def test_majority_of_three_signs_specialises_at_once():
    """Along (1, 1, 1) until the others destabilise it, which is where AMP leaves it."""
    u, up, square = majority()
    x = np.linspace(-6, 6, 601)
    weight = density(x) * 0.02

    def lines(s):
        at = np.sqrt(s) * x[:, None] + np.sqrt(1 - s) * x
        chance, gain = np.interp(at, u, up) @ weight, np.interp(at, u, square) @ weight
        slope = np.interp(at, u, up) @ (weight * x) / np.sqrt(1 - s)
        free = np.maximum(chance * (1 - chance), 1e-12)
        return s / (1 - s) / (weight @ (slope**2 / free)), 1 / (weight @ (gain**2 / free))

    s = brentq(lambda s: np.subtract(*lines(s)), 0.9, 0.98)
    wanted = lines(s)[1]
    label = dmft.MultiIndex(sp.sign(sp.sign(z1) + sp.sign(z2) + sp.sign(z3)), FIELDS)
    found = dmft.thresholds(dmft.Model(dmft.Committee(z, 1), label))
    step = found.staircase[1]
    assert step.directions.shape == (2, 3)
    assert np.abs(step.directions.sum(axis=1)).max() < 0.01
    assert abs(step.samples_per_dim - wanted) < step.samples_per_dim.error < 0.2
    assert found.algorithmic == step.samples_per_dim  # 15.8 by a spline across the kink
    assert found.order == "first"
    # Equal free entropies by sums over z1 and z2: -.0089 at 11.2 and .0058 at 11.4.
    entropic = found.information_theoretic
    assert abs(entropic - 11.32) < entropic.error < 1.0


def test_sectors_of_alternating_labels_are_learned_in_one_jump():
    """sign(sin 4 phi): phi -> pi/2 - phi maps the label to its negative, which leaves q I.

    Psi_out(q) by blurring the label on a grid; free entropies agree at
    alpha (Psi_out(q) - Psi_out(0)) = -q - log(1 - q).
    """
    x = (np.arange(500) - 249.5) * 0.024
    up = 0.5 + 0.5 * np.sign(x[:, None] * x * (x[:, None] ** 2 - x**2))

    def gain(q):
        chance = gaussian_filter(up, np.sqrt(1 - q) / 0.024, mode="nearest", truncate=6)
        law = np.exp(-x * x / 2 / q)
        law = np.outer(law, law) / law.sum() ** 2
        return np.sum(law * (xlogy(chance, chance) + xlogy(1 - chance, 1 - chance))) + np.log(2)

    wanted = min(-(q + np.log(1 - q)) / gain(q) for q in np.linspace(0.88, 0.98, 21))
    label = dmft.MultiIndex(sp.sign(z1 * z2 * (z1**2 - z2**2)), [z1, z2])
    model = dmft.Model(dmft.Committee(z, 1), label)
    found = dmft.thresholds(model)
    assert (found.weak_recovery, found.algorithmic) == (np.inf, np.inf)
    entropic = found.information_theoretic
    assert abs(entropic - wanted) < min(entropic.error, 0.01)
    nothing, learned = dmft.bayes_optimal(model, 1.05 * entropic, start="all").branches
    assert nothing.stable
    assert learned.stable
    assert np.ptp(np.diag(learned.q)) < 1e-12


@pytest.mark.slow
def test_sum_of_rectified_fields_has_no_loops():
    """Averages of few points made five extremes of alpha(q), and thresholds raised an error."""
    label = dmft.MultiIndex(sp.Max(0, z1) + sp.Max(0, z2), [z1, z2])
    found = dmft.thresholds(dmft.Model(dmft.Committee(z, 1), label, label_noise=0.01))
    assert (found.order, found.spinodals) == ("second", ())


@pytest.mark.slow
def test_line_that_falls_towards_exact_recovery():
    """|z1| - |z2|: alpha(q) is above its limit 2; m from E Cov[z | y] by sums over z1."""
    overlap, rest = 0.95, 0.05
    rng = np.random.default_rng(1)
    omega = np.sqrt(overlap) * rng.normal(size=(4000, 2))
    one, two = (omega + np.sqrt(rest) * rng.normal(size=(4000, 2))).T
    x = omega[:, :1] + np.sqrt(rest) * np.linspace(-6, 6, 601)
    size = np.abs(x) - (np.abs(one) - np.abs(two))[:, None]  # |z2|
    log = [-((x - omega[:, :1]) ** 2 + (s * size - omega[:, 1:]) ** 2) / 2 / rest for s in (1, -1)]
    p = np.where(size > 0, np.exp(log), 0.0)
    p /= p.sum(axis=(0, 2), keepdims=True)
    signed = np.stack([size, -size])
    means = [np.sum(p * v, axis=(0, 2)) for v in (x, signed)]
    squares = [np.sum(p * v**2, axis=(0, 2)) for v in (x, signed)]
    spread = (sum(squares) - means[0] ** 2 - means[1] ** 2) / 2
    alpha = overlap / rest / ((1 - spread / rest) / rest)
    wanted = 1 / np.mean(1 / alpha)
    channel = Several(sp.Abs(z1) - sp.Abs(z2), (z1, z2))
    top = Lines(channel, 0.747).highest
    assert wanted > 2.04
    assert abs(top.alpha - wanted) < top.error + 0.02
    assert top.error < 0.06
