"""Exact recovery of two fields: as many labels as unknowns, in the channel and in states."""

import warnings

import numpy as np
import pytest
import sympy as sp
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

import dmft
from dmft.gaussian.channels.several import Several
from dmft.workflow.static.continuation import Extreme, Fixed, Line, _amount, resolved
from dmft.workflow.static.several_fields import iterated, posterior_overlap
from dmft.workflow.static.thresholds import thresholds

z = sp.Symbol("z", real=True)
FIELDS = z1, z2 = sp.symbols("z1 z2", real=True)


def model(label, **options):
    return dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(label, FIELDS), **options)


@pytest.mark.parametrize("label", [z1 * z2, z1 + z1 * z2, sp.Max(0, z1 * z2)], ids=str)
def test_each_label_measures_one_direction(label):
    """tr V m = P(label is no atom) as V -> 0, whatever the direction of the gradient."""
    share = 0.5 if label.has(sp.Max) else 1.0
    for variance in (1e-3, 1e-5):
        found = Several(label, FIELDS).average((1 - variance) * np.eye(2))
        assert variance * np.trace(found.information) == pytest.approx(
            share, rel=0.05 * (2 - share)
        )


def test_information_of_a_product_agrees_with_sums_over_one_field():
    """E[g g^T] of z1 z2 at V = .1 by sums over z1 on a fine grid, on random labels."""
    variance, count = 0.1, 4000
    rng = np.random.default_rng(1)
    omega = rng.normal(size=(count, 2)) * np.sqrt(1 - variance)
    y = np.prod(omega + rng.normal(size=(count, 2)) * np.sqrt(variance), axis=1)
    log = np.linspace(-14.0, 2.2, 3001)
    x = np.concatenate([np.exp(log), -np.exp(log)])
    total = []
    for label, at in zip(y, omega, strict=True):
        # N(z1) N(y/z1) dz1/|z1|, and dz1/|z1| is the step of log |z1|
        gap = (x - at[0]) ** 2 + (label / x - at[1]) ** 2
        mass = np.exp(-gap / 2 / variance)
        g = (np.array([mass @ x, mass @ (label / x)]) / mass.sum() - at) / variance
        total.append(g**2)
    mean, error = np.mean(total, axis=0), np.std(total, axis=0) / np.sqrt(count)
    found = Several(z1 * z2, FIELDS).average((1 - variance) * np.eye(2))
    assert (np.abs(np.diag(found.information) - mean) < 4 * error).all()
    assert found.information[0, 0] == pytest.approx(found.information[1, 1], rel=0.02)


def turned(label):
    """The label of rotated fields, the same model."""
    images = {z1: (4 * z1 - 3 * z2) / 5, z2: (3 * z1 + 4 * z2) / 5}
    return sp.expand(label.xreplace(images))


def test_information_of_a_quadratic_form_agrees_with_sums_over_its_hyperbolas():
    """E[g g^T] of c1 a^2 - c2 b^2 = y at small overlap q of a, on grids of y, u and omega.

    On a = sqrt(y/c1) cosh u, b = sqrt(y/c2) sinh u (y > 0) da db is proportional to dy du.
    """
    q, root = 0.15, np.sqrt(2)
    size = np.exp(np.arange(-24.0, 4.6, 0.1))[:, None, None]
    nodes, weight = np.polynomial.hermite_e.hermegauss(12)
    omega = np.sqrt(q) * nodes[:, None]
    total = np.zeros(2)  # mass and E[g_a^2]
    for sign, c1, c2 in ((1, 1 + root, root - 1), (-1, root - 1, 1 + root)):
        one, two = np.sqrt(2 * size / c1), np.sqrt(2 * size / c2)
        u, sums = np.arcsinh(10 / two) * np.linspace(-1, 1, 301), np.zeros((2, len(size), 12))
        for side in (1, -1):
            a, b = side * one * np.cosh(u), two * np.sinh(u)
            a, b = (a, b) if sign > 0 else (b, a)
            law = np.exp(-((a - omega) ** 2) / (1 - q) / 2 - b**2 / 2) * (u[..., 1:2] - u[..., :1])
            sums += [law.sum(-1), ((a - omega) * law).sum(-1)]
        share = size[..., 0] * weight
        total += [np.sum(share * sums[0]), np.sum(share * sums[1] ** 2 / sums[0]) / (1 - q) ** 2]
    axis = np.linalg.eigh([[1.0, 0.5], [0.5, 0.0]])[1][:, 1]
    label = z1**2 + z1 * z2
    for declared, turn in ((label, np.eye(2)), (turned(label), np.array([[4, -3], [3, 4]]) / 5)):
        at = turn.T @ axis
        found = Several(declared, FIELDS).average(q * np.outer(at, at), 1024).information
        assert at @ found @ at == pytest.approx(total[1] / total[0], rel=0.04)


def test_overlaps_of_a_trace_have_it():
    """Without antisymmetric rounding, and of estimated averages that are not positive."""
    for m in (np.diag([600.0, 20.0]), np.diag([5.0, -0.1])):
        m[0, 1] += 0.1
        q = posterior_overlap(np.exp(_amount(m, 0.9)) * m)
        assert np.array_equal(q, q.T)
        assert np.trace(q) == pytest.approx(0.9, rel=1e-10)
        assert np.linalg.eigvalsh(q)[0] > -1e-15


@pytest.mark.slow  # fast: the two tests above
@pytest.mark.parametrize("label", [z1**2 + z1 * z2, z1 + z1 * z2, z1 * z2], ids=str)
def test_thresholds_do_not_depend_on_the_choice_of_fields(label):
    """alpha(t) rises to 2 in all fields; of the first label its values are sums over hyperbolas."""
    for declared in (label, turned(label)):
        found = thresholds(model(declared))
        assert (float(found.algorithmic), found.order, found.spinodals) == (2.0, "second", ())
        if label.has(z1**2):
            at = [np.interp(t, found.overlap, found.samples) for t in (0.5, 0.7685, 0.9526, 0.9852)]
            assert at == pytest.approx([1.316, 1.705, 1.941, 1.982], rel=0.025)


@pytest.mark.slow
def test_products_are_recovered_from_two_labels_per_dimension():
    found = thresholds(model(z1 * z2)).information_theoretic
    assert (float(found), found.proof) == (2.0, "closed form")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        below, above = (dmft.bayes_optimal(model(z1 * z2), a, start="all") for a in (1.5, 2.3))
    assert below.mmse > 0.3
    assert (above.mmse, above.error, above.free_entropy) == (0.0, 0.0, np.inf)
    np.testing.assert_array_equal(above.qhat, np.diag([np.inf, np.inf]))


def test_discrete_labels_are_never_recovered_exactly():
    assert thresholds(model(sp.sign(z1 * z2))).information_theoretic == np.inf


@pytest.mark.slow
def test_noisy_labels_are_never_recovered_exactly_and_flat_ones_late():
    assert thresholds(model(z1 * z2, label_noise=0.1)).information_theoretic == np.inf
    # The line of fixed points rises to k/p; what its averages lose makes no spinodals.
    flat = thresholds(model(sp.Max(0, z1 * z2)))
    for found in (flat.algorithmic, flat.information_theoretic, flat.perfect):
        assert found == pytest.approx(4.0, abs=1e-6)
    assert (flat.order, flat.spinodals) == ("second", ())


def test_wells_within_their_errors_are_no_spinodals():
    high, low = Extreme(3.52, 0.03, 0.989, True), Extreme(3.56, 0.03, 0.992, False)
    first, deep = Extreme(2.0, 0.01, 0.3, True), Extreme(1.9, 0.01, 0.6, False)
    assert resolved([high, low]) == ()
    assert resolved([first, deep, high, low]) == (first, deep)
    assert resolved([first, deep]) == (first, deep)
    assert resolved([first]) == (first,)


def test_small_remaining_variances_converge_beside_large_ones():
    """1 - q falls by 0.9 a step towards 1e-4 in one direction, and is one half in the other."""
    end = np.diag([1e-4, 0.5])
    start = np.diag([1 - 1e-3, 0.5])
    found = iterated(lambda q: q + 0.1 * (np.eye(2) - end - q), start, 1e-4, False)
    assert 1 - found[0, 0] == pytest.approx(1e-4, rel=0.03)


def test_a_kink_takes_the_place_of_the_maximum_beside_it(monkeypatch):
    """Extremes of log alpha = sin(logit), where the line is known to turn near pi/2."""

    class Sine(Line):
        fixed = np.linspace(-6, 3, 91), [Fixed(0.0, np.eye(2), None)] * 91
        spline = CubicSpline(fixed[0], np.sin(fixed[0]))

        def at(self, logit, start, points):
            return Fixed(float(self.spline(logit)), np.eye(2) / (1 + np.exp(-logit)), None)

        def _relative(self, here):
            return 1e-6

    monkeypatch.setattr("dmft.workflow.static.continuation.with_finer_nodes", lambda y: y)
    turn = Extreme(2.6, 1e-6, 1 / (1 + np.exp(-np.pi / 2 - 0.1)), True)
    places = np.array([-3, -1]) * np.pi / 2
    one, two, three = Sine(Several(z1 * z2, FIELDS), True, turn).extremes(0.1)
    assert three is turn
    for found, place, value in zip((one, two), places, np.exp([1.0, -1.0]), strict=True):
        assert found.alpha == pytest.approx(value, rel=1e-4)
        assert found.overlap == pytest.approx(1 / (1 + np.exp(-place)), rel=1e-3)


def test_gradients_along_one_direction_identify_no_other():
    assert not Several((z1 + z2) ** 2, FIELDS).identifies
    assert not Several(z1 * sp.sign(z2), FIELDS).identifies
    assert Several(sp.Max(z1, z2), FIELDS).identifies


@pytest.mark.cases("3.2")
@pytest.mark.parametrize("samples", [2.0, 3.2])
def test_overlaps_of_parities_grow_continuously(samples):
    """One state from both ends on either side of pi^2/4, as (2) iterated on a grid of omega."""
    x = np.linspace(-8.0, 8.0, 321)
    weight = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    ends = []
    for q in (0.02, 0.98):
        for _ in range(400):
            t = x * np.sqrt(q / (1 - q))
            up, down = ndtr(t), ndtr(-t)
            density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi * (1 - q))
            # P(y | omega) of both labels; their slopes by omega_1 differ by a sign
            chances = (np.outer(up, s) + np.outer(down, r) for s, r in ((up, down), (down, up)))
            inverse = sum(1 / np.maximum(chance, 1e-300) for chance in chances)
            m = weight @ (np.outer(density, up - down) ** 2 * inverse) @ weight
            q = samples * m / (1 + samples * m)
        ends.append(q)
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)
    found = dmft.bayes_optimal(model(sp.sign(z1 * z2)), samples)
    assert len(found.branches) == 1
    assert found.q[0, 0] == pytest.approx(ends[0], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("flip", [0, 0.1, 1])
def test_a_direction_is_recovered_exactly_before_the_other(flip):
    """|y| = z1^2 fixes z1, and sign(y) is a label of z2 alone: a perceptron with flips."""
    grid = np.linspace(-9.0, 9.0, 4001)
    weight = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    keep, q = abs(1 - 2 * flip), 0.5
    for _ in range(300):
        t = grid * np.sqrt(q / (1 - q))
        slope = keep * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi * (1 - q))
        up, down = ((1 - keep) / 2 + keep * ndtr(s) for s in (t, -t))
        m = weight @ (slope**2 / np.maximum(up * down, 1e-300))
        q = 3.5 * m / (1 + 3.5 * m)
    found = dmft.bayes_optimal(model(z1**2 * sp.sign(z2), label_flip=flip), 3.5)
    (branch,) = found.branches
    assert branch.stable
    assert (found.q[0, 0], found.qhat[0, 0], found.free_entropy) == (1.0, np.inf, np.inf)
    assert abs(found.q[1, 1] - q) < found.error < 4e-3
    assert found.qhat[1, 1] == pytest.approx(q / (1 - q), rel=0.03)


def test_symmetries_of_labels_are_signed_permutations():
    assert len(Several(z1 * z2, FIELDS).symmetries) == 8
    found = Several(z1 + z1 * z2, FIELDS).symmetries
    assert sorted((matrix.tolist(), sign) for matrix, sign in found) == [
        ([[-1.0, 0.0], [0.0, 1.0]], -1),
        ([[1.0, 0.0], [0.0, 1.0]], 1),
    ]


def test_fields_that_a_label_does_not_contain_change_nothing():
    """As the label of one field; the search along the trace ended with an error of NumPy."""
    z1, z2 = sp.symbols("z1 z2", real=True)
    line = dmft.Committee(z1, 1)
    two, one = (
        dmft.Model(line, dmft.MultiIndex(sp.sign(z1), fields), label_flip=0.1)
        for fields in ([z1, z2], [z1])
    )
    found = dmft.thresholds(two)
    assert found.trivial.tolist() == [[1.0, 0.0]]
    assert float(found.weak_recovery) == float(dmft.thresholds(one).weak_recovery) == 0.0
    assert str(dmft.sample_complexity(two)) == str(dmft.sample_complexity(one))


def test_at_the_threshold_of_exact_recovery_the_last_fixed_point_is_selected():
    """Half of the labels of a ReLU determine their field: exact recovery from alpha = 2 on."""
    z = sp.Symbol("z", real=True)
    model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.Max(0, z), 1))
    below, at, above = (dmft.bayes_optimal(model, alpha) for alpha in (1.999, 2.0, 2.001))
    assert 0.999 < below.q < 1.0
    assert at.q == above.q == 1.0
    assert at.mmse == 0.0
