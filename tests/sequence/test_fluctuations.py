"""Fluctuations of sequence models: one step drawn in its law, and the spread of many runs."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import dmft
from dmft.errors import BadParameter

A, B = sp.symbols("a b", real=True)
PRODUCT = dmft.SequenceTarget(A * B, [A, B])
SUM = dmft.SequenceTarget((A + B) / sp.sqrt(2) + A * B / 2, [A, B])
RELU = sp.Max(0, A)
SIZE = 50_000


def step_of_a_pair(e, m, d, gamma, noise, batch, loss, rng):
    """One step of w from (e, m) in d dimensions, student h1 h2, p1 = -p2; new (e, m)."""
    axes = np.array([m, e, np.sqrt(1 - e**2 - m**2)])  # w along w*, p and the rest
    total, square = np.zeros((SIZE, 3)), np.zeros(SIZE)
    for _ in range(batch):
        x = rng.standard_normal((SIZE, 2, 3))
        star = x[:, :, 0].copy()
        x[:, :, 1] += [1.0, -1.0]
        h = x @ axes
        y = star.sum(axis=1) / np.sqrt(2) + star[:, 0] * star[:, 1] / 2
        gap = h[:, 0] * h[:, 1] - y - np.sqrt(noise) * rng.standard_normal(SIZE)
        g = (gap if loss == "squared" else np.sign(gap))[:, None] * h[:, ::-1] / batch
        total += np.einsum("nt,nta->na", g, x)
        square += (g**2).sum(axis=1)
    w = axes - gamma / d * total
    # Outside of the three axes the sum of the tokens is Gaussian with d - 3 components.
    rest = (gamma / d) ** 2 * square * rng.chisquare(d - 3, SIZE)
    length = np.sqrt((w**2).sum(axis=1) + rest)
    return (w[:, :2] / length[:, None])[:, ::-1]


def step_of_untied(m, d, gamma, noise, rng):
    """One step of an untied ReLU network of two tokens; new m_l."""
    v = np.array([*m]) / np.sqrt(2)
    axes = np.array([*v, np.sqrt(1 - v @ v)])
    x = rng.standard_normal((SIZE, 3))
    u = x @ axes
    y = (x[:, 0] + x[:, 1]) / np.sqrt(2) + x[:, 0] * x[:, 1] / 2
    gap = np.maximum(u, 0) - y - np.sqrt(noise) * rng.standard_normal(SIZE)
    g = gap * (u > 0)
    w = axes - gamma / (2 * d) * g[:, None] * x
    rest = (gamma / (2 * d)) ** 2 * g**2 * rng.chisquare(2 * d - 3, SIZE)
    length = np.sqrt((w**2).sum(axis=1) + rest)
    return np.sqrt(2) * w[:, :2] / length[:, None]


CASES = {
    "pair": (1, "squared"),
    "pair, batch": (3, "squared"),
    "pair, norm": (1, "frobenius"),
    "untied": (1, "squared"),
}


# Of larger batches the terms at order 1/d are left out.
@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("name", "d"), [(n, d) for n in CASES for d in (60, 20_000) if (n, d) != ("pair, batch", 60)]
)
def test_mean_and_covariance_of_one_step(name, d):
    """Sigma is that of large d; in 60 dimensions the mean shows the terms at order 1/d."""
    batch, loss = CASES[name]
    rng, gamma = np.random.default_rng(1), 0.4
    algorithm = dmft.SGD(gamma, batch_size=batch, loss=loss)
    if name == "untied":
        model = dmft.Model(dmft.SequenceNetwork(RELU, 2, False), SUM, 0.3)
        start, here = dmft.Alignment(m=[0.5, 0.3]), np.array([0.5, 0.3])
        moved, unit = step_of_untied(here, d, gamma, 0.3, rng), gamma / (2 * d)
    else:
        noise = 0 if loss == "frobenius" else 0.3
        model = dmft.Model(PRODUCT, SUM, noise, encoding=1)
        start, here = dmft.Alignment(0.3, 0.4), np.array([0.3, 0.4])
        moved, unit = step_of_a_pair(*here, d, gamma, noise, batch, loss, rng), gamma / d
    equations = dmft.derive(model, algorithm, dim=d, fluctuations=True)
    found, claimed = (f(start, nodes=8192) for f in (equations.evaluate, equations.evaluate_error))
    drift, allowed = (np.hstack([y["e"], y["m"]])[-2:] for y in (found, claimed))
    step = (moved - here) / unit
    spread = step.std(axis=0) / np.sqrt(SIZE)
    assert np.all(np.abs(step.mean(axis=0) - drift) < 4.5 * spread + allowed + 4 / d**2)
    if d > 1000:
        parts = step - step.mean(axis=0)
        products = np.einsum("ni,nj->nij", parts, parts)
        spread = products.std(axis=0) / np.sqrt(SIZE) * unit
        gap = np.abs(products.mean(axis=0) * unit - found["covariance"])
        assert np.all(gap < 4.5 * spread + claimed["covariance"])
        assert np.all(claimed["covariance"] < 0.15 * found["covariance"].max())


# As `test_paths_follow_a_schedule`, whose mean and spread are of chains of its own.
@pytest.mark.slow
def test_paths_have_the_spread_of_runs():
    model, d = dmft.Model(dmft.SequenceNetwork(RELU, 2), dmft.SequenceTarget(A + B, [A, B])), 400
    algorithm, start = dmft.SGD(0.8), dmft.Alignment(m=0.2)
    equations = dmft.derive(model, algorithm, dim=d, fluctuations=True)
    paths = dmft.solve(equations, start, 2.0, paths=400, dt=0.05, save_at=3, nodes=64, threads=1)
    runs = dmft.simulate(model, algorithm, d, 2.0, 400, start, "overlaps", save_at=3)
    for n in (1, 2):
        both = np.hypot(paths.stderr.m[n], runs.stderr.m[n])
        assert abs(paths.mean.m[n] - runs.mean.m[n]) < 4.5 * both
        spread = runs.runs.m[:, n].std()
        assert paths.std.m[n] == pytest.approx(spread, rel=4.5 / np.sqrt(400))


@pytest.mark.slow
def test_paths_follow_a_schedule():
    """Against chains of their own: a tied ReLU network of the sum is one unit on the mean token."""
    d, count, rng = 400, 1000, np.random.default_rng(3)
    m, time = np.full(count, 0.2), 0.0
    while time < 1.5:
        gamma = 0.9 / (1 + time)
        a, c = rng.standard_normal((2, count))
        rest = np.sqrt(1 - m**2)
        field = m * a + rest * c
        g = gamma / d * np.where(field > 0, field - a, 0.0)
        along, across = m - g * a, rest - g * c
        m = along / np.sqrt(along**2 + across**2 + g**2 * rng.chisquare(d - 2, count))
        time += gamma / d
    target = dmft.SequenceTarget((A + B) / sp.sqrt(2), [A, B])
    model = dmft.Model(dmft.SequenceNetwork(RELU, 2), target)
    equations = dmft.derive(model, dmft.SGD(1), dim=d, fluctuations=True)
    paths = dmft.solve(
        equations, dmft.Alignment(m=0.2), 1.5, paths=200, dt=0.05, save_at=2, nodes=64,
        learning_rate=0.9 / (1 + sp.Symbol("t", real=True)),
    )  # fmt: skip
    error = np.hypot(paths.stderr.m[-1], m.std() / np.sqrt(count))
    assert abs(paths.mean.m[-1] - m.mean()) < 4.5 * error
    assert paths.std.m[-1] == pytest.approx(m.std(), rel=4.5 / np.sqrt(2 * 200))


def test_compiled_code_and_printed_text_are_of_the_same_definitions():
    model = dmft.Model(PRODUCT, SUM, 0.3, encoding=1)
    equations = dmft.derive(model, dmft.SGD(0.4), dim=sp.Symbol("d"), fluctuations=True)
    start = dmft.Alignment(0.3, 0.4)
    problem, rule = dmft.build(equations), equations.rule(start, {"nodes": 64})
    values = equations.values(start, {"d": 50, "nodes": 64})
    par = problem.pack_parameters(
        {name: values.scalars[name] for name in problem.parameters}, rule.arrays
    )
    widths = np.array([values.widths[name] for name in problem.widths])
    y, drift, Sigma = np.array([0.3, 0.4]), np.empty(2), np.empty((2, 2))
    problem.rhs(0.0, y, widths, par, drift)
    problem.diffusion(0.0, y, widths, par, Sigma)
    found = equations.evaluate(start, d=50, nodes=64)
    np.testing.assert_allclose(drift, [found["e"], found["m"]], rtol=1e-12)
    np.testing.assert_allclose(Sigma, found["Sigma"], rtol=1e-12)
    text = equations.latex(width=455)
    assert r"\delta_{m} &= m \left(" in text
    assert r"\Sigma = \mathrm{Cov}" in text
    plain = equations.without("finite_dimension")
    assert "finite_dimension" in plain.dropped
    ode = dmft.derive(model, dmft.SGD(0.4)).evaluate(start)
    np.testing.assert_allclose(plain.evaluate(start, d=50)["m"], ode["m"], rtol=1e-13)
    with pytest.raises(BadParameter, match="is too small for the target"):
        equations.evaluate(start, d=2)
    with pytest.raises(BadParameter, match=r"dmft\.Alignment"):
        dmft.solve(equations, dmft.Overlaps([[1]], [[0.1]]), 1.0, paths=2, dt=0.1, d=50)
    run = dmft.solve(equations, None, 0.1, paths=200, dt=0.1, d=50, nodes=64)
    for block in ("e", "m"):  # w is uniform on the sphere
        assert run.std[block][0] ** 2 * 50 == pytest.approx(1, rel=5 * np.sqrt(2 / 200))


@pytest.mark.parametrize("tied", [True, False])
def test_learning_rates_that_follow_time_and_risk(tied):
    model = dmft.Model(
        dmft.SequenceNetwork(RELU, 2, tied), dmft.SequenceTarget((A + B) / sp.sqrt(2), [A, B])
    )
    equations = dmft.derive(model, dmft.SGD(sp.Symbol("gamma", positive=True)))
    t, risk = sp.symbols("t risk", real=True)
    start = dmft.Alignment(m=0.1 if tied else [0.1, 0.1])

    def motion(s, y):
        m = y[0]
        gamma = (0.5 + (1 - m)) / (1 + s)  # risk is 3/4 - m/2 of this network
        # dm/dt = (1 - m)(1 + m - gamma m)/2 (theory/sequence C.4), and steps by dt / gamma
        return [(1 - m) * (1 + m - gamma * m) / 2, (1 if tied else 2) / gamma]

    wanted = solve_ivp(motion, (0, 1.5), [0.1, 0.0], rtol=1e-10, atol=1e-12).y[:, -1]
    schedule = (2 * (risk - sp.Rational(1, 4)) + sp.Rational(1, 2)) / (1 + t)
    run = dmft.solve(equations, start, 1.5, learning_rate=schedule, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.m[-1], wanted[0], rtol=1e-8)
    assert run.steps(1000)[-1] == pytest.approx(1000 * wanted[1], rel=1e-7)
    assert "learning_rate_schedule" in run.provenance
