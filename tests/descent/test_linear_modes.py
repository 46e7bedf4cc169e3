"""Linear students, mode by mode (theory/batch_reuse B.5): on the sphere and under schedules."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import dmft

z, TIME = sp.symbols("z t", real=True)
LINE = dmft.Committee(z, 1)
NOISE, M0 = 0.3, 0.2
MODEL = dmft.Model(LINE, LINE, label_noise=NOISE)
START = dmft.Overlaps([[1.0]], [[M0]])
PLAIN = {"learning_rate": 0.3, "ridge": 0.1, "momentum": 0.3, "temperature": 0.2}
SCHEDULES = {
    "learning_rate": 0.6 / (1 + TIME / 3),
    "ridge": 0.1 * TIME,
    "momentum": TIME / (3 + TIME),
    "temperature": sp.Piecewise((sp.Rational(1, 5), TIME < 3), (0, True)),
}


def marchenko_pastur(alpha, points=400):
    """Eigenvalues of X^T X / d and their weights, by Gauss and Legendre in an angle."""
    low, high = (1 - np.sqrt(alpha)) ** 2, (1 + np.sqrt(alpha)) ** 2
    x, w = np.polynomial.legendre.leggauss(points)
    angle, w = np.pi * (x + 1) / 2, w * np.pi / 2
    mu = (high + low) / 2 - (high - low) / 2 * np.cos(angle)
    weight = w * ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * mu)
    return np.append(mu, 0.0), np.append(weight, max(0.0, 1 - alpha))


def exact(steps, at, alpha, sphere):
    """M and Q2 of a linear student, a step after the other.

    Weights are a w^0 + b (mu w* + sqrt(mu noise) xi) + the kicks of the heat, each coefficient a
    function of the eigenvalue mu. On the sphere all are divided by one number after a step.
    """
    mu, weight = marchenko_pastur(alpha)
    zero = np.zeros_like(mu)
    rows = [[zero + 1, zero, *[zero] * steps]]
    for t in range(steps):
        eta, ridge, beta, heat = (at(t)[name] for name in PLAIN)
        now, before = rows[-1], rows[max(t - 1, 0)]
        new = [(1 - eta * (mu + ridge)) * c + beta * (c - b)
               for c, b in zip(now, before, strict=True)]  # fmt: skip
        new[1] = new[1] + eta
        new[2 + t] = new[2 + t] + np.sqrt(2 * eta * heat)
        length = np.sqrt(overlap(new, new, mu, weight)) if sphere else 1.0
        rows.append([c / length for c in new])
    M = [weight @ (row[0] * M0 + row[1] * mu) for row in rows]
    Q2 = [[overlap(u, v, mu, weight) for v in rows] for u in rows]
    return np.array(M), np.array(Q2)


def overlap(u, v, mu, weight):
    """Of two rows, both of length one at the start as the teacher is."""
    a, b, *kicks = u
    c, d, *others = v
    square = a * c + (a * d + b * c) * mu * M0 + b * d * (mu**2 + mu * NOISE)
    return weight @ (square + sum(x * y for x, y in zip(kicks, others, strict=True)))


@pytest.mark.cases(2)
@pytest.mark.parametrize("alpha", [0.6, 2.0])
@pytest.mark.parametrize("constraint", [None, "sphere"])
@pytest.mark.parametrize("given", [{}, SCHEDULES], ids=["constant", "schedules"])
def test_runs_equal_marchenko_pastur(alpha, constraint, given):
    equations = dmft.derive(
        MODEL, dmft.GradientDescent(samples_per_dim=alpha, constraint=constraint, **PLAIN)
    )
    run = dmft.solve(equations, START, 9, **given)

    def at(t):
        return PLAIN | {name: float(y.subs(TIME, t)) for name, y in given.items()}

    M, Q2 = exact(9, at, alpha, constraint)
    assert run.status == "ok"
    np.testing.assert_allclose(run.M[:, 0, 0], M, atol=1e-11)
    np.testing.assert_allclose(run.Q2[:, :, 0, 0], Q2, atol=1e-11)
    if constraint:
        np.testing.assert_allclose(run.Q[:, 0, 0], 1.0, atol=1e-13)
    assert np.ptp(M) > 0.2
    if given:
        assert run.provenance["ridge_schedule"] == "0.1*t"
        assert run.parameters["learning_rate"] == 0.6


def test_a_flow_follows_its_time():
    """The penalty t of the flow's time t: modes fall like exp(-mu t - t^2 / 2)."""
    flow = dmft.derive(MODEL, dmft.GradientDescent(1, 2, ridge=0.1), scaling="gradient-flow")
    run = dmft.solve(flow, START, 1.0, points=4, levels=5, ridge=TIME)
    mu, weight = marchenko_pastur(2)
    x, w = np.polynomial.legendre.leggauss(40)
    s, w = (x + 1) / 2, w / 2
    a = np.exp(-mu - 0.5)
    b = np.exp(-np.outer(1 - s, mu) - (1 - s[:, None] ** 2) / 2).T @ w
    assert run.status == "ok"
    assert abs(run.M[-1, 0, 0] - weight @ (a * M0 + b * mu)) < 1e-5
    assert run.provenance["ridge_schedule"] == "t"


@pytest.mark.cases(1)
@pytest.mark.parametrize("alpha", [0.6, 2.0])
def test_first_steps_on_the_sphere(alpha):
    """The first two steps in closed form."""
    given = {"learning_rate": 0.3, "ridge": 0.1, "momentum": 0.3}
    descent = dmft.GradientDescent(samples_per_dim=alpha, constraint="sphere", **given)
    run = dmft.short_times(dmft.derive(MODEL, descent)).evaluate(START)
    M, Q2 = exact(2, lambda t: {**given, "temperature": 0.0}, alpha, True)
    np.testing.assert_allclose(run.M[:, 0, 0], M, atol=1e-12)
    np.testing.assert_allclose(run.Q2[:, :, 0, 0], Q2, atol=1e-12)


@pytest.mark.cases(1)
@pytest.mark.parametrize("alpha", [0.6, 2.0])
def test_a_flow_on_the_sphere_keeps_the_length(alpha):
    """Modes fall as those of ridge regression whose penalty is what keeps the length at each time.

    As equations in two times with closed averages, and as descents whose steps go to zero.
    """
    mu, weight = marchenko_pastur(alpha, 100)

    def rates(_, y):
        a, b = y.reshape(2, -1)
        free = np.array([-mu * a, 1 - mu * b])
        return (free - overlap(free, (a, b), mu, weight) * y.reshape(2, -1)).ravel()

    begun = np.concatenate([np.ones_like(mu), np.zeros_like(mu)])
    times = [0.25, 0.5, 1.0]
    a, b = solve_ivp(rates, (0, 1), begun, t_eval=times, rtol=1e-10, atol=1e-12).y.reshape(
        2, mu.size, -1
    )
    M = weight @ (a * M0 + b * mu[:, None])
    descent = dmft.GradientDescent(1, alpha, ridge=0.1, constraint="sphere")
    flow = dmft.derive(MODEL, descent, scaling="gradient-flow")
    closed = dmft.solve(flow.closed(START), None, 1.0, tol=1e-7, measure_error=False)
    assert closed.status == "ok"
    np.testing.assert_allclose(np.interp(times, closed.t, closed.M), M, atol=1e-5)
    np.testing.assert_allclose(closed.C_diagonal + closed.M**2, 1.0, atol=1e-6)
    assert abs(closed.at("C", 1.0, 0.25) + M[-1] * M[0] - overlap(
        (a[:, -1], b[:, -1]), (a[:, 0], b[:, 0]), mu, weight
    )) < 1e-5  # fmt: skip
    run = dmft.solve(flow, START, 1.0, points=8, levels=4)
    assert run.status == "ok"
    np.testing.assert_allclose(run.M[[2, 4, 8], 0, 0], M, atol=1e-5)
    np.testing.assert_allclose(run.Q[:, 0, 0], 1.0, atol=1e-9)
