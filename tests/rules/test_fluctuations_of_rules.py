"""Fluctuations (18) of rules: one step of the chain, models under SGD, paths, fixed points."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft import laws
from dmft.errors import BadParameter
from dmft.literature import rules as lit
from dmft.rules import Random, Rows, View, fixed, mean, views

z = sp.Symbol("z", real=True)
FAR, SEEDS = 10**6, 20_000


def sigma(y):
    return sp.erf(y / sp.sqrt(2))


def subspace():
    w, u = Rows("w", 2), fixed("u", 2)
    spikes = {u[r]: Random(f"c{r}", laws.Normal(variance=v)) for r, v in ((0, 3), (1, 2))}
    x = View("x", replaces=spikes)
    steps = {row: (row @ x) * x for row in w}
    return dmft.UpdateField(steps, learning_rate=0.4, constraint="orthonormal")


def two_views():
    w, u = Rows("w"), fixed("u")
    c, m = Random("c", laws.Rademacher()), Random("m", laws.Bernoulli(0.4))
    x, y = views("x y", cov=[[1, 0.5], [0.5, 1.3]], adds={u: 0.7 * c})
    step = sp.tanh(w @ x) * x + m * (u @ x) * y - 0.3 * (w @ y) ** 2 * w
    return dmft.UpdateField({w: step}, learning_rate=0.8)


CASES = {
    "adatron": (lambda: lit.perceptron_rule("adatron"),
                dmft.Overlaps([[1.0]], [[0.3]], [[1.2]])),
    "generated": (lambda: lit.contrastive_divergence(1.1),
                  dmft.Overlaps([[0.3]], [[0.1]], [[1.5]], scalars={"b": 0.2})),
    "sphere": (lambda: lit.independent_component(laws.Laplace(0.5**0.5), None, 0.05),
               dmft.Overlaps([[1.0]], [[0.6]])),
    "orthonormal": (subspace, dmft.Overlaps(np.eye(2), [[0.4, 0.1], [-0.1, 0.3]])),
    "views": (two_views, dmft.Overlaps([[0.8]], [[0.3]], [[1.1]])),
    "blocks": (lambda: lit.curriculum(1.0, 0.5),
               dmft.Overlaps([[[0.5]], [[0.7]]], [[[0.2]], [[0.1]]], [[[0.5]], [[0.5]]])),
}  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", CASES)
def test_covariance_of_one_step(name):
    """The exact chain at d = 10^6: increments in units of g/d over 20 000 seeds."""
    make, start = CASES[name]
    rule = make()
    eqs = dmft.derive(rule, dim=FAR, fluctuations=True)
    found, g = eqs.evaluate(start, nodes=2**14), float(rule.learning_rate)
    unit = g / FAR
    runs = dmft.simulate(
        rule, dim=FAR, t_max=unit, seeds=SEEDS, start=start, method="overlaps", save_at=2
    ).runs
    names = ["Q", "M", *(s.name for s in rule.learned)]
    moved = [(runs[n][:, -1] - runs[n][:, 0]).reshape(SEEDS, -1) / unit for n in names]
    v = np.concatenate(moved, axis=1)
    S = found["Sigma"]
    if start.blocks:  # runs hold totals
        add = np.kron(np.eye(2), np.ones((1, 2)))
        S = add @ S @ add.T
    wanted = np.cov(v.T)
    centred = v - v.mean(axis=0)
    error = np.std(centred[:, :, None] * centred[:, None, :], axis=0) / SEEDS**0.5
    assert np.all(abs(wanted - S) < 4.5 * error + 6e-3 * abs(S).max() + 1e-12)
    np.testing.assert_allclose(found["covariance"], unit * found["Sigma"], rtol=1e-12)


def test_one_orthonormal_row_fluctuates_as_one_on_the_sphere():
    w, u = Rows("w"), fixed("u")
    x = View("x", replaces={u: Random("c", laws.Rademacher())})
    start, found = dmft.Overlaps([[1.0]], [[0.4]]), []
    for constraint in ("sphere", "orthonormal"):
        rule = dmft.UpdateField({w: (w @ x) * x}, learning_rate=0.4, constraint=constraint)
        eqs = dmft.derive(rule, dim=FAR, fluctuations=True)
        found.append(eqs.evaluate(start, nodes=2**15)["Sigma"])
    # x = c u + (1 - u u^T) n, h = w . x: in units of g/d, M moves by h c, |w| by h^2 + g h^2/2.
    g = M = 0.4
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    c, h = np.repeat([1.0, -1.0], 20), np.tile((1 - M**2) ** 0.5 * nodes, 2)
    h, weight = M * c + h, np.tile(weights, 2) / (2 * weights.sum())
    v = h * (c - M * (1 + g / 2) * h)
    wanted = weight @ v**2 - (weight @ v) ** 2
    for one in found:
        np.testing.assert_allclose(one[1, 1], wanted, rtol=1e-3)
    np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.slow
def test_a_model_under_sgd_has_the_same_fluctuations():
    model = dmft.Model(
        dmft.Committee(sigma(z), 2), dmft.Committee(sigma(z), 1), label_noise=0.3
    )  # fmt: skip
    start = dmft.Overlaps([[0.8, 0.2], [0.2, 0.5]], [[0.3], [0.1]], [[1.1]])
    w, B, x = Rows("w", 2), fixed("B"), View("x")
    xi = Random("xi", laws.Normal(variance=0.3))
    e = sigma(B @ x) - sum(sigma(row @ x) for row in w) / 2 + xi
    steps = {row: sp.diff(sigma(row @ x), row @ x) * e * x for row in w}
    rule = dmft.UpdateField(steps, learning_rate=0.35)
    ours = dmft.derive(rule, dim=400, fluctuations=True).evaluate(start, nodes=2**15)
    sgd = dmft.derive(model, dmft.SGD(0.7), dim=400, fluctuations=True)
    wanted = sgd.evaluate(start, nodes=2**15)
    np.testing.assert_allclose(ours["Sigma"], wanted["Sigma"], atol=6e-4)
    np.testing.assert_allclose(ours["covariance"], wanted["covariance"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.compiled
def test_paths_have_the_covariance_of_the_reference():
    """Compiled Sigma at one state; a short run from a start, whose variance grows with it."""
    rule, start = two_views(), CASES["views"][1]
    eqs = dmft.derive(rule, dim=2000, fluctuations=True)
    nodes = 2**10
    t, paths = 0.02, 4000
    run = dmft.solve(eqs, start, t, paths=paths, dt=t / 4, save_at=2, seed=3, nodes=nodes)
    found = eqs.evaluate(start, nodes=nodes)["covariance"]
    wanted = t * np.array([found[0, 0], found[1, 1]])
    variance = np.array([run.std.Q[-1, 0, 0], run.std.M[-1, 0, 0]]) ** 2
    np.testing.assert_allclose(variance, wanted, rtol=0.15)
    drift = dmft.solve(dmft.derive(rule), start, t, save_at=2, nodes=48)
    assert abs(run.mean.M[-1, 0, 0] - drift.M[-1, 0, 0]) < 5 * (wanted[1] / paths) ** 0.5 + 1e-5


def test_stationary_fluctuations_of_temporal_differences():
    """M is an Ornstein-Uhlenbeck process of rate 1 - gamma tau."""
    rule = lit.temporal_difference(0.5, 0.6, 0.3, 0.2)
    (point,) = dmft.fixed_points(dmft.derive(rule), dmft.Overlaps([[2.0]], [[1.4]]))
    eqs = dmft.derive(rule, dim=500, fluctuations=True)
    noise = dmft.linear_noise(eqs, point)
    found = eqs.evaluate(point.overlaps)["covariance"]
    M = list(map(str, eqs.noise.alignments)).index("M_1_1")
    assert noise.covariance[M, M] == pytest.approx(found[M, M] / (2 * (1 - 0.3)), rel=1e-6)
    np.testing.assert_allclose(sorted(noise.rates.real)[-1], -(1 - 0.3), rtol=1e-8)


def test_fluctuations_are_printed_and_refused():
    rule = lit.perceptron_rule()
    eqs = dmft.derive(rule, dim=100, fluctuations=True)
    assert "Cov[v]" in str(eqs)
    assert r"\mathrm{Cov}[v]" in eqs.latex()
    with pytest.raises(BadParameter, match="pass dim="):
        dmft.derive(rule, fluctuations=True)
    with pytest.raises(BadParameter, match="its own model"):
        dmft.derive(rule, dim=100)
    with pytest.raises(BadParameter, match="paths of a rule need start="):
        dmft.solve(eqs, None, 1.0, paths=2, dt=0.1)
    w, B, x = Rows("w"), fixed("B"), View("x")
    h, k = w @ x, B @ x
    averaged = dmft.UpdateField({w: (h * k - mean(h * k)) * x}, learning_rate=0.5)
    with pytest.raises(BadParameter, match="averages as coefficients"):
        dmft.derive(averaged, dim=100, fluctuations=True)


def test_fluctuations_of_polynomial_rules_with_masks_are_exact():
    """A masked Oja rule with a spike c and a scalar: Sigma by a sum over m and a product rule."""
    w, u, v, g = Rows("w"), fixed("u"), sp.Symbol("v", real=True), 0.4
    m, c = Random("m", laws.Discrete({1: 0.3, 0: 0.7})), Random("c", laws.Normal(variance=2.5))
    x = View("x", replaces={u: c})
    h = w @ x
    rule = dmft.UpdateField(
        {w: m * (h * x - h**2 * w)}, scalars={v: (u @ x) ** 2 - v}, learning_rate=g
    )
    eqs = dmft.derive(rule, dim=500, fluctuations=True)
    Q, M = 1.3, 0.8
    start = dmft.Overlaps([[Q]], [[M]], scalars={v: 2.0})
    found = eqs.evaluate(start)["Sigma"]
    z, weight = np.polynomial.hermite_e.hermegauss(16)
    weight = np.outer(weight, weight).ravel() / weight.sum() ** 2
    c, rest = np.sqrt([[2.5], [Q - M**2]]) * np.reshape(np.meshgrid(z, z), (2, -1))
    h = M * c + rest
    moved = np.array([2 * h**2 * (1 - Q) + g * h**2, h * c - h**2 * M, 0 * h])
    still = np.array([0 * h, 0 * h, c**2 - 2.0])
    first = sum(p * (k * moved + still) @ weight for k, p in ((1, 0.3), (0, 0.7)))
    second = sum(
        p * ((k * moved + still) * weight) @ (k * moved + still).T for k, p in ((1, 0.3), (0, 0.7))
    )
    np.testing.assert_allclose(found, second - np.outer(first, first), rtol=1e-12, atol=1e-12)
    assert eqs.evaluate_error(start)["Sigma"].max() < 1e-11
    assert "exact" in str(eqs)
    (point,) = dmft.fixed_points(dmft.derive(rule), start)
    noise = dmft.linear_noise(eqs, point)
    assert noise.std["readout"] == pytest.approx(np.sqrt(g / 500 * 12.5 / 2), rel=1e-9)


def test_paths_have_the_drift_and_measures_of_their_law():
    """Split axes and exact nodes of increments are no nodes of the averages; quadrature in R^2."""
    w, B, x = Rows("w"), fixed("B"), View("x")
    act = Random(
        "a", laws.Discrete({1: 1 / (1 + sp.exp(-2 * (w @ x))), -1: 1 / (1 + sp.exp(2 * (w @ x)))})
    )
    reward = sp.Heaviside(act * (B @ x))
    policy = {w: reward * (act - sp.tanh(w @ x)) * x}
    linear = {w: (B @ x - w @ x) * x}
    z, weight = np.polynomial.legendre.leggauss(80)
    z, weight = np.r_[4 * z - 4, 4 * z + 4], np.r_[weight, weight] * 4  # split at B @ x = 0
    k, n = np.meshgrid(z, z)
    mass = np.outer(weight, weight) * np.exp(-(k**2 + n**2) / 2) / (2 * np.pi)
    h = 0.3 * k + np.sqrt(0.91) * n
    p, t = 1 / (1 + np.exp(-2 * h)), np.tanh(h)
    drift = np.sum(mass * np.where(k > 0, p * (1 - t), (1 - p) * (-1 - t)) * k)
    exact = {"square": np.sum(mass * t**2), "sign": np.sum(mass * t * np.sign(k))}
    measures = {"square": sp.tanh(w @ x) ** 2, "sign": sp.tanh(w @ x) * sp.sign(B @ x)}
    start, step = dmft.Overlaps([[1.0]], [[0.3]]), 1e-6
    for steps, rate in ((policy, drift), (linear, 0.7)):
        rule = dmft.UpdateField(steps, learning_rate=0.8, measures=measures)
        paths = dmft.solve(
            dmft.derive(rule, dim=10**15, fluctuations=True),
            start,
            step,
            paths=4,
            dt=step,
            save_at=2,
        )
        assert abs((paths.mean.M[-1, 0, 0] - 0.3) / step - rate) < 2e-3
        for name, value in exact.items():
            assert abs(np.ravel(paths.mean[name])[0] - value) < 2e-3


def test_paths_of_a_rule_that_depends_on_time():
    """psi = e^t n k with noise n, k = u.x: M has no drift, and its noise has E k^4 = 3 P^2."""
    w, u, x = Rows("w"), fixed("u"), View("x")
    n = Random("n", laws.Normal())
    rule = dmft.UpdateField({w: sp.exp(dmft.t) * n * (u @ x) * x}, learning_rate=0.5)
    eqs = dmft.derive(rule, dim=1000, fluctuations=True)
    start, paths = dmft.Overlaps([[1.0]], [[0.0]], [[1.2]]), 4000
    run = dmft.solve(eqs, start, 1.0, paths=paths, dt=0.02, save_at=2, seed=4)
    wanted = 0.5 / 1000 * 3 * 1.2**2 * (np.exp(2.0) - 1.0) / 2.0
    assert run.std.M[-1, 0, 0] ** 2 == pytest.approx(wanted, rel=5 * (2 / paths) ** 0.5 + 0.02)
