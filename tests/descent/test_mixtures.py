"""Gradient descent on inputs from clusters: simulation, exact steps, refusals."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy import stats

import dmft
from dmft.errors import BadParameter, ShapeMismatch

z, f, y, u, v = sp.symbols("z f y u v", real=True)
TWINS = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
LOGISTIC = sp.log(1 + sp.exp(-f * y))
LINE = dmft.Committee(z, 1)


def test_first_step_of_logistic_regression_is_its_integral():
    """M^1 = (1 - eta ridge) m - eta alpha E[g kappa], with kappa = c + N(0, 1) (A.4)."""
    m, q, eta, alpha, ridge = 0.2, 1.3, 0.5, 2.0, 0.1
    model = dmft.MixtureModel(LINE, TWINS)
    descent = dmft.GradientDescent(eta, alpha, ridge=ridge, loss=LOGISTIC)
    run = dmft.solve(dmft.derive(model, descent), dmft.Overlaps([[q]], [[m]]), 1)
    # The trapezoidal rule, which converges exponentially; both clusters give the same.
    r, kappa = np.linspace(-9, 9, 181), np.linspace(-8, 10, 181)[:, None]
    slope = -1.0 / (1.0 + np.exp(m * kappa + r))  # of the loss at h, for the label 1
    density = stats.norm.pdf(r, 0, math.sqrt(q - m * m)) * stats.norm.pdf(kappa, 1, 1)
    wanted = np.sum(slope * kappa * density) * 0.1**2
    exact = (1 - eta * ridge) * m - eta * alpha * wanted
    assert abs(run.M[1, 0, 0] - exact) < 5 * run.error["M"][1, 0, 0] + 1e-9


def test_flipped_labels_are_two_clusters_of_mean_zero():
    """M^1 = (1 - eta ridge) m - eta alpha E[g h*], g = -y / (1 + exp(y h)), y = +-sign(h*)."""
    m, q, eta, alpha, ridge, flip = 0.4, 1.3, 0.5, 2.0, 0.1, 0.15
    gd = dmft.GradientDescent(eta, alpha, ridge=ridge, loss="logistic")
    sign = dmft.Committee(sp.sign(z), 1)
    for use in (dmft.derive, lambda model, gd: dmft.simulate(model, gd, 100, 1, 1)):
        with pytest.raises(BadParameter, match=r"GaussianMixture\(\[\[0\], \[0\]\]"):
            use(dmft.Model(LINE, sign, label_flip=flip), gd)
    clusters = dmft.GaussianMixture(
        [[0], [0]], [sp.sign(z), -sp.sign(z)], [1 - flip, flip], fields=z
    )
    run = dmft.solve(dmft.derive(dmft.Model(LINE, clusters), gd), dmft.Overlaps([[q]], [[m]]), 1)
    star, r = np.linspace(-8, 8, 2000)[:, None], np.linspace(-9, 9, 400)
    h = m * star + math.sqrt(q - m**2) * r
    pull = sum(
        weight * -label / (1.0 + np.exp(label * h))
        for weight, label in ((1 - flip, np.sign(star)), (flip, -np.sign(star)))
    )
    density = stats.norm.pdf(star) * stats.norm.pdf(r) * (16 / 1999) * (18 / 399)
    exact = (1 - eta * ridge) * m - eta * alpha * np.sum(pull * star * density)
    assert abs(run.M[1, 0, 0] - exact) < 5 * run.error["M"][1, 0, 0] + 1e-5


def test_linear_regression_on_clusters_by_moments():
    """Squared loss, linear student: one step needs second moments of the inputs only."""
    mixture = dmft.GaussianMixture([[1.0], [-0.5]], [2, -1], weights=[0.25, 0.75])
    model = dmft.MixtureModel(LINE, mixture, label_noise=0.2)
    m, q, rho, eta, alpha = 0.3, 0.9, 1.5, 0.1, 2.0
    start = dmft.Overlaps([[q]], [[m]], [[rho]])
    run = dmft.solve(dmft.derive(model, dmft.GradientDescent(eta, alpha)), start, 1)
    weights, means = np.array([0.25, 0.75]), rho * np.array([1.0, -0.5])
    squares = means**2 + rho  # of h*
    # h = (m / rho) h* + r, r ~ N(0, q - m^2 / rho)
    pull = m / rho
    gh = weights @ (pull * squares - np.array([2.0, -1.0]) * means)
    assert run.M[1, 0, 0] == pytest.approx(m - eta * alpha * gh, abs=2e-5)
    residual = weights @ (
        pull**2 * squares - 2 * pull * means * np.array([2.0, -1.0]) + np.array([4.0, 1.0])
    )
    loss = 0.5 * (residual + q - m * m / rho)
    error = 6 * run.error["risk"][0]
    assert run.risk[0] == pytest.approx(loss, abs=error)  # without the noise
    assert run.train_loss[0] == pytest.approx(loss + 0.1, abs=6 * run.error["train_loss"][0])


def test_three_clusters_against_weights():
    """Means in two directions, labels that are functions of the fields, general overlaps."""
    labels = [u**2, -1, v]
    mixture = dmft.GaussianMixture(
        [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], labels, [0.5, 0.2, 0.3], fields=[u, v]
    )
    student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, (2, -1))
    model = dmft.MixtureModel(student, mixture, label_noise=0.1)
    descent = dmft.GradientDescent(0.3, 2, ridge=0.05)
    start = dmft.Overlaps(
        [[1.0, 0.2], [0.2, 0.8]], [[0.1, 0.2], [0.0, 0.3]], [[1.2, 0.2], [0.2, 0.9]]
    )
    equations = dmft.derive(model, descent)
    theory = dmft.solve(equations, start, 4, samples=2**12)
    truth = dmft.simulate(model, descent, 400, 4, 12, start)
    for name in ("M", "Q", "train_loss", "corr", "Q2"):
        gap = np.abs(theory[name] - truth.mean[name])
        allowed = 4.5 * np.hypot(truth.stderr[name], theory.error[name]) + 4.0 / 400
        assert np.all(gap < allowed), (name, gap.max())
    rng = np.random.default_rng(1)
    parts = [
        equations.evaluate(start, 2, points=rng.standard_normal((2 + 2 * 2 + 1, 4000)))["M"][2]
        for _ in range(4)
    ]
    spread = np.std(parts, axis=0, ddof=1) / 2.0
    assert np.all(np.abs(np.mean(parts, axis=0) - truth.mean.M[2]) < 5.0 * spread + 5e-3)


def test_one_cluster_at_the_origin_is_the_plain_model():
    target = u**3 - 3 * u
    start, descent = dmft.Overlaps([[1.0]], [[0.3]]), dmft.GradientDescent(0.2, 2)
    student = dmft.Committee(sp.tanh(z), 1)
    plain = dmft.Model(student, dmft.MultiIndex(sp.tanh(target), [u]))
    mixture = dmft.GaussianMixture([[0.0]], [sp.tanh(target)], fields=u)
    one = dmft.solve(dmft.derive(plain, descent), start, 3)
    other = dmft.solve(dmft.derive(dmft.MixtureModel(student, mixture), descent), start, 3)
    for name in ("M", "Q2", "corr", "risk"):
        error = np.hypot(one.error[name], other.error[name])
        assert np.all(np.abs(one[name] - other[name]) < 6 * error + 1e-4), name


def test_latex_names_the_law():
    text = dmft.derive(dmft.MixtureModel(LINE, TWINS), dmft.GradientDescent(0.1, 1)).latex()
    assert r"\mathcal{N}(P \mu_c, P)" in text
    assert "c = 0" in text


def test_refusals():
    with pytest.raises(ShapeMismatch, match="labels"):
        dmft.GaussianMixture([[1.0], [-1.0]], [1])
    with pytest.raises(ShapeMismatch, match="dimensions"):
        dmft.GaussianMixture([1.0, -1.0], [1, -1])
    with pytest.raises(BadParameter, match="add up to one"):
        dmft.GaussianMixture([[1.0], [-1.0]], [1, -1], weights=[0.5, 0.6])
    with pytest.raises(BadParameter, match="finite"):
        dmft.GaussianMixture([[np.nan]], [1])
    with pytest.raises(BadParameter, match="fields="):
        dmft.GaussianMixture([[1.0]], [sp.Symbol("z1", real=True) ** 2])
    with pytest.raises(BadParameter, match="distinct"):
        dmft.GaussianMixture([[1.0, 0.0]], [u], fields=[u, u])
    with pytest.raises(BadParameter, match="2 symbols"):
        dmft.GaussianMixture([[1.0, 0.0]], [u], fields=[u])
    with pytest.raises(BadParameter, match="name of a field"):
        dmft.GaussianMixture([[1.0]], [u * sp.Symbol("z1")], fields=[u])
    with pytest.raises(BadParameter, match="real function"):
        dmft.GaussianMixture([[1.0]], [sp.oo])
    with pytest.raises(BadParameter, match=r"mixture = Comm.* must be a dmft\.GaussianMixture"):
        dmft.MixtureModel(LINE, LINE)
    model = dmft.MixtureModel(LINE, TWINS)
    equations = dmft.derive(model, dmft.GradientDescent(0.1, 1))
    with pytest.raises(BadParameter, match="cubature"):
        dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.0]]), 2, nodes="cubature")
