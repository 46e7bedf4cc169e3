"""Stationary points and their modes: the plateau of erf committees, phase retrieval, refusals."""

import math
import pickle
import re

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import root

import dmft
from dmft.errors import BadParameter, NotClosed

z = sp.Symbol("z", real=True)
ERF = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=2)
SQUARE = dmft.Committee(z**2, width=1)
# theory/one_pass G.3, K = 2, no label noise: gamma -> Q, C, R, risk, escape rate.
PLATEAU = {
    0.5: (0.34028209, 0.33168830, 0.40949622, 0.0030530371, 0.0326015),
    1.0: (0.34816503, 0.32985184, 0.41090877, 0.0032259127, 0.0323050),
    2.0: (0.36771970, 0.32538555, 0.41439415, 0.0036612124, 0.0316182),
    4.0: (0.43508495, 0.31021282, 0.42613831, 0.0051641332, 0.0295702),
}


def symmetric(width, diagonal, off, overlap):
    Q = np.full((width, width), off) + (diagonal - off) * np.eye(width)
    return dmft.Overlaps(Q, np.full((width, width), overlap))


@pytest.mark.slow
def test_plateau_of_two_erf_units_at_the_published_rates():
    equations = dmft.derive(dmft.Model(ERF, ERF), dmft.SGD(sp.Symbol("g", positive=True)))
    # Near Q = C lies a second one, of identical units: the starts are on the plateau's side.
    for gamma, (Q, C, R, risk, rate) in PLATEAU.items():
        (point,) = dmft.fixed_points(
            equations, symmetric(2, Q + 0.02, C - 0.01, R), learning_rate=gamma
        )
        assert point.status == "ok"
        assert point.residual < 1e-13
        np.testing.assert_allclose(point.overlaps.Q, [[Q, C], [C, Q]], atol=1e-8)
        np.testing.assert_allclose(point.overlaps.M, R, atol=1e-8)
        assert point.risk == pytest.approx(risk, abs=1e-10)
        modes = dmft.stability(equations, point, learning_rate=gamma)
        assert modes.growth_rate == pytest.approx(rate, abs=6e-8)
        assert modes.verdict == "unstable"
        # Specialisation: the two units move apart along the two teachers.
        leading = modes.M[0].real / modes.M[0].real[0, 0]
        assert leading == pytest.approx(np.array([[1, -1], [-1, 1]]), abs=1e-6)


@pytest.mark.parametrize("K", [2, 3, pytest.param(10, marks=pytest.mark.slow)])
def test_escape_rate_of_identical_units_under_gradient_flow(K):
    # G.3: eigenvalue 2/pi (2K-1)^(-1/2) (2K+1)^(-3/2), (K-1)^2 times; exact start.
    committee = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=K)
    equations = dmft.derive(dmft.Model(committee, committee), dmft.GradientFlow())
    exact = symmetric(K, 1 / (2 * K - 1), 1 / (2 * K - 1), 1 / math.sqrt(K * (2 * K - 1)))
    (point,) = dmft.fixed_points(equations, exact)
    assert point.residual < 1e-15
    risk = (math.pi / 6 - K * math.asin(1 / (2 * K))) / (K * math.pi)
    assert point.risk == pytest.approx(risk, abs=1e-15)
    rates = dmft.stability(equations, point).eigenvalues.real
    expected = 2 / math.pi * (2 * K - 1) ** -0.5 * (2 * K + 1) ** -1.5
    assert rates[: (K - 1) ** 2] == pytest.approx(np.full((K - 1) ** 2, expected), rel=1e-11)
    # Beside them only modes that pull identical units apart, neutral or falling.
    assert np.all(rates[(K - 1) ** 2 :] < 1e-6)


def test_phase_retrieval_on_the_sphere():
    # F.1: dm/dt = m [A (1 - m^2) - B], A = 4 - 24 gamma, B = 2 gamma Delta.
    gamma, noise = 0.05, 0.5
    model = dmft.Model(SQUARE, SQUARE, label_noise=noise)
    equations = dmft.derive(model, dmft.SGD(gamma, constraint="sphere"))
    A, B = 4 - 24 * gamma, 2 * gamma * noise
    points = dmft.fixed_points(
        equations, [dmft.Overlaps([[1.0]], [[m]]) for m in (0.0, 0.8, 0.9, -0.8)]
    )
    found = sorted(float(point.overlaps.M[0, 0]) for point in points)
    top = math.sqrt(1 - B / A)
    assert found == pytest.approx([-top, 0.0, top], abs=1e-13)
    rates = {
        round(float(p.overlaps.M[0, 0]), 3): dmft.stability(equations, p).growth_rate
        for p in points
    }
    assert rates[0.0] == pytest.approx(A - B, rel=1e-12)
    assert rates[round(top, 3)] == pytest.approx(-2 * (A - B), rel=1e-12)


def test_perfect_recovery_of_squares_is_marginal_by_rotation():
    committee = dmft.Committee(z**2, width=2)
    equations = dmft.derive(dmft.Model(committee, committee), dmft.GradientFlow())
    modes = dmft.stability(equations, dmft.Overlaps(np.eye(2), np.eye(2)))
    assert modes.verdict == "marginal"


def test_branch_of_phase_retrieval_folds_where_the_length_diverges():
    # F.3 at p = 1: the stationary length exists up to 3 / (2 (2 + sqrt(40 + 15 Delta))).
    for noise in (0.0, 1.0):
        model = dmft.Model(SQUARE, SQUARE, label_noise=noise)
        branch = dmft.fixed_point_branch(
            dmft.derive(model, dmft.SGD(0.1)),
            dmft.Overlaps([[1 / 3]], [[0.0]]),
            "learning_rate",
            (0.0, 1.0),
            max_points=80,
        )
        assert branch.folds == pytest.approx(
            [3 / (2 * (2 + math.sqrt(40 + 15 * noise)))], abs=1e-10
        )
        # The lower branch is the one that learns, the upper one is unstable in its length.
        assert np.all(branch.growth_rate > 0)
        assert branch.status == "max_steps"


def test_plateau_is_followed_from_rate_to_rate():
    equations = dmft.derive(dmft.Model(ERF, ERF), dmft.SGD(1.0))
    Q, C, R, *_ = PLATEAU[0.5]
    (point,) = dmft.fixed_points(equations, symmetric(2, Q, C, R), learning_rate=0.5)
    branch = dmft.fixed_point_branch(equations, point, "learning_rate", (0.5, 4.0), step=0.05)
    assert branch.status == "ok"
    assert branch.folds.size == 0
    assert branch.parameter[-1] == 4.0
    assert branch.Q[-1, 0, 0] == pytest.approx(PLATEAU[4.0][0], rel=1e-6)
    for gamma, (Q, _, _, risk, rate) in PLATEAU.items():
        if gamma < 4.0:
            at = [np.interp(gamma, branch.parameter, y) for y in (branch.Q[:, 0, 0], branch.risk)]
            assert at == pytest.approx([Q, risk], rel=2e-3)
            growth = np.interp(gamma, branch.parameter, branch.growth_rate)
            assert growth == pytest.approx(rate, rel=1e-3)
    with pytest.raises(BadParameter, match="no parameter"):
        dmft.fixed_point_branch(equations, point, "batch", (0.5, 4.0))
    with pytest.raises(BadParameter, match="not stationary: its rate is"):
        dmft.fixed_point_branch(equations, point, "learning_rate", (2.0, 4.0))


def test_a_search_without_starts_finds_all_points_of_phase_retrieval():
    """Of z^2 under gradient flow the polynomials dQ/dt = dM/dt = 0 have four roots."""
    flow = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.GradientFlow())
    found = dmft.fixed_points(flow)
    q, m = sp.symbols("q m", real=True)
    # E[(h*^2 - h^2) 2 h h*] and 2 E[(h*^2 - h^2) 2 h^2] by Wick's theorem, with P = 1.
    rates = [6 * m - 6 * q * m, 4 * (q + 2 * m**2) - 12 * q**2]
    roots = sorted((float(r[q]), float(r[m])) for r in sp.solve(rates, [q, m], dict=True))
    points = sorted((p.overlaps.Q[0, 0], p.overlaps.M[0, 0]) for p in found)
    np.testing.assert_allclose(points, roots, atol=1e-12)
    assert found.message == "4 points from 14 starts"
    assert len(found.starts) == len(found.tried) == 14
    assert sum(int(p.message.split("from ")[1].split()[0]) for p in found) == 14
    again = pickle.loads(pickle.dumps(found))
    assert (again, again.tried, again.starts) == (found, found.tried, found.starts)
    one = dmft.fixed_points(flow, dmft.Overlaps([[0.5]], [[0.0]]))
    assert (one.message, len(one)) == ("1 point from 1 start", 1)


def test_a_search_without_starts_finds_where_runs_end():
    """Three units on two teachers: two share one; Newton's method alone meets saddles only."""
    model = dmft.Model(dmft.Committee(ERF.activation, 3), ERF, 0.05)
    equations = dmft.derive(model, dmft.SGD(0.2))
    found = dmft.fixed_points(equations)
    run = dmft.solve(equations, dmft.random_overlaps(model, 50, 7), 3000.0, save_at=2)
    best = min(found, key=lambda point: point.risk)
    assert best.risk == pytest.approx(run.risk[-1], rel=1e-6)
    assert dmft.stability(equations, best).verdict == "stable"
    with pytest.warns(UserWarning, match="still move there"):
        dmft.stability(equations, dmft.random_overlaps(model, 50, 7))


def test_a_search_without_starts_finds_the_plateau_and_the_solution():
    """Newton's method from one start finds one of them; far away rates decay and do not vanish."""
    equations = dmft.derive(dmft.Model(ERF, ERF), dmft.SGD(1.0))
    found = dmft.fixed_points(equations)
    assert all(p.status == "ok" for p in found)
    risks = sorted({round(p.risk, 8) for p in found})
    assert risks[0] == pytest.approx(0.0, abs=1e-8)
    assert PLATEAU[1.0][3] == pytest.approx(risks[1], abs=1e-8)
    assert max(abs(p.overlaps.Q).max() for p in found) < 2.0
    far = [p for p in found.tried if p.overlaps.Q.max() > 1e3]
    assert all(p.status == "not_converged" and "decay towards zero" in p.message for p in far)


def test_the_plateau_of_a_flow_is_listed_once():
    """Its modes without a rate left copies 4e-7 apart; Q = 1/3, M = 1/sqrt(6) [saad_solla_1995]."""
    flow = dmft.derive(dmft.literature.saad_solla(2), dmft.GradientFlow())
    found = dmft.fixed_points(flow)
    plateau = [y for y in found if y.risk > 1e-6]
    assert len(found) == 3
    assert len(plateau) == 1
    np.testing.assert_allclose(plateau[0].overlaps.Q, np.full((2, 2), 1 / 3), atol=2e-6)
    np.testing.assert_allclose(plateau[0].overlaps.M, np.full((2, 2), 6**-0.5), atol=2e-6)


@pytest.mark.parametrize("tolerance", [7, 1e-3, 0.0, -1e-9])
def test_tolerances_that_motions_meet_are_refused(tolerance):
    """With 7 a point at rate .2 was "ok"."""
    flow = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.GradientFlow())
    start = dmft.Overlaps([[0.5]], [[0.2]])
    with pytest.raises(BadParameter, match=r"must lie in \(0, 0.0001\]: overlaps with larger"):
        dmft.fixed_points(flow, start, tolerance=tolerance)
    sgd = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.SGD(sp.Symbol("g", positive=True)))
    with pytest.raises(BadParameter, match="must lie in"):
        dmft.fixed_point_branch(sgd, start, "learning_rate", (0.1, 0.2), tolerance=tolerance)


def test_what_does_not_converge_says_so():
    equations = dmft.derive(dmft.Model(ERF, ERF), dmft.SGD(1.0))
    (point,) = dmft.fixed_points(equations, symmetric(2, 0.5, 0.1, 0.3), max_steps=2)
    assert point.status == "not_converged"
    assert "2 steps" in point.message
    assert "no covariance" in point.message  # two steps from here overshoot
    assert math.isnan(point.risk)


@pytest.mark.parametrize("size", [1e-7, 1.0, pytest.param(100.0, marks=pytest.mark.slow)])
def test_zero_rates_are_measured_by_the_equations_own(size):
    """Activations of any size have the same fixed points: rates grow as its square."""
    unit = dmft.Committee(sp.nsimplify(size) * sp.erf(z / sp.sqrt(2)), width=2)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.GradientFlow())
    (point,) = dmft.fixed_points(equations, dmft.Overlaps(np.eye(2), 0.9 * np.eye(2)))
    assert point.status == "ok", point.message
    np.testing.assert_allclose(point.overlaps.M, np.eye(2), atol=1e-9)


@pytest.mark.parametrize("activation", [z, pytest.param(sp.erf(z), marks=pytest.mark.slow)])
def test_slow_equations_do_not_rest_everywhere(activation):
    unit = dmft.Committee(activation / 10**6, width=1)
    noisy = dmft.derive(
        dmft.Model(unit, unit, label_noise=0.1), dmft.SGD(0.1), dim=100, fluctuations=True
    )
    with pytest.raises(BadParameter, match="still move"):
        dmft.linear_noise(noisy, dmft.Overlaps([[1.0]], [[0.3]]))


def test_refusals():
    equations = dmft.derive(dmft.Model(ERF, ERF), dmft.SGD(1.0))
    with pytest.raises(BadParameter, match="at least one start"):
        dmft.fixed_points(equations, [])
    with pytest.raises(BadParameter, match="Equations"):
        dmft.stability(dmft.Model(ERF, ERF), symmetric(2, 0.5, 0.1, 0.3))


# Step, and variance of the noise of labels.
RATE, NOISE = 0.3, 0.1


def rates_of_tanh(state):
    """dQ/dt and dM/dt of one tanh unit, by Gauss-Hermite quadrature of the definition."""
    Q, M = state
    x, w = np.polynomial.hermite_e.hermegauss(120)
    w = np.outer(w, w) / (2 * np.pi)
    teacher = x[:, None]
    own = M * teacher + np.sqrt(Q - M * M) * x[None, :]
    slope, error = 1 / np.cosh(own) ** 2, np.tanh(teacher) - np.tanh(own)
    push = error * slope
    square = RATE * (error**2 + NOISE) * slope**2
    return np.array([np.sum(w * (2 * push * own + square)), np.sum(w * push * teacher)])


def test_averages_on_nodes_have_fixed_points_and_modes():
    unit = dmft.Committee(sp.tanh(z), width=1)
    equations = dmft.derive(dmft.Model(unit, unit, NOISE), dmft.SGD(RATE))
    (point,) = dmft.fixed_points(equations)
    exact = root(rates_of_tanh, [1.1, 1.0], tol=1e-14).x
    found = np.array([point.overlaps.Q[0, 0], point.overlaps.M[0, 0]])
    claim = float(re.search(r"averages on nodes move it by up to (\S+),", point.message).group(1))
    assert np.abs(found - exact).max() <= claim < 1e-7
    step = 1e-4 * np.eye(2)
    slopes = [(rates_of_tanh(exact + h) - rates_of_tanh(exact - h)) / 2e-4 for h in step]
    modes = np.sort(np.linalg.eigvals(np.transpose(slopes)).real)[::-1]
    np.testing.assert_allclose(dmft.stability(equations, point).eigenvalues, modes, atol=1e-5)


def test_perfect_recovery_is_on_the_border_of_covariances():
    unit = dmft.Committee(sp.Max(0, z), width=2)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.SGD(RATE))
    start = dmft.Overlaps([[1.1, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.0, 0.9]])
    (point,) = dmft.fixed_points(equations, start)
    assert point.status == "ok"
    assert point.risk < 1e-12
    np.testing.assert_allclose(point.overlaps.M, np.eye(2), atol=1e-6)
    with pytest.raises(NotClosed, match="covariance is singular"):
        dmft.stability(equations, dmft.Overlaps(np.eye(2), np.eye(2)))


@pytest.mark.slow
def test_the_plateau_of_relu_units_is_where_runs_rest():
    unit = dmft.Committee(sp.Max(0, z), width=2)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.SGD(RATE))
    start = dmft.Overlaps([[0.8, 0.3], [0.3, 0.8]], 0.4 * np.ones((2, 2)))
    (point,) = dmft.fixed_points(equations, start)
    run = dmft.solve(equations, start, 4e4, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.Q[-1], point.overlaps.Q, atol=1e-7)
    kick = np.array([[1e-6, -1e-6], [-1e-6, 1e-6]])
    grown = dmft.solve(equations, dmft.Overlaps(point.overlaps.Q, point.overlaps.M + kick), 40.0,
                       rtol=1e-12, atol=1e-14, save_at=[20.0, 40.0])  # fmt: skip
    gap = grown.M[:, 0, 0] - grown.M[:, 0, 1]
    growth = np.log(gap[-1] / gap[-2]) / 20.0
    assert dmft.stability(equations, point).growth_rate == pytest.approx(growth, rel=1e-3)


def test_hinge_losses_have_modes():
    """Averages of kinks off zero: their numbers of powers do not move."""
    z = sp.Symbol("z", real=True)
    model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1), label_flip=0.1)
    equations = dmft.derive(model, dmft.SGD(0.5, loss="hinge"))
    (point,) = dmft.fixed_points(equations, dmft.Overlaps([[2.0]], [[1.0]]))
    # Sums over 200 Gauss nodes between the kinks of the output, and their differences.
    assert point.overlaps.Q[0, 0] == pytest.approx(5.88295, abs=1e-5)
    assert point.overlaps.M[0, 0] == pytest.approx(2.34592, abs=1e-5)
    modes = dmft.stability(equations, point).eigenvalues.real
    assert modes == pytest.approx([-0.05954617, -0.45578513], abs=1e-7)


@pytest.mark.slow
def test_points_hold_velocities_and_second_moments():
    """Equations with further rows are at rest there; linear modes are those of the end of a run."""
    line = dmft.Committee(z, 1)
    model, start = dmft.Model(line, line, label_noise=0.3), dmft.Overlaps([[0.5]], [[0.1]])
    for algorithm in (
        dmft.SGD(0.3, weight_decay=0.3, momentum=dmft.Momentum(2.0), average=1.0),
        dmft.Adam(0.5, second_moment_rate=3.0, initial=0.8, eps=0.1, weight_decay=0.3),
    ):
        equations = dmft.derive(model, algorithm)
        (point,) = dmft.fixed_points(equations, start)
        assert max(np.abs(y).max() for y in equations.evaluate(point.overlaps).values()) < 1e-9
        end = dmft.solve(equations, start, 60.0, save_at=2).final
        np.testing.assert_allclose(point.overlaps.Q, end.Q, rtol=1e-7)
        modes = [dmft.stability(equations, y).eigenvalues for y in (point, end)]
        np.testing.assert_allclose(*(np.sort_complex(y) for y in modes), rtol=1e-4, atol=1e-4)
