"""Losses and labels of any kind in one pass: definitions by Monte Carlo, refusals."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from numpy.typing import NDArray
from scipy.special import erf as erf_of
from scipy.special import expit
from scipy.stats import multivariate_normal, norm

import dmft
from dmft.errors import BadParameter
from dmft.model.loss import NAMED, error_expr, loss_expr

z, f, y = sp.symbols("z f y", real=True)
ERF = sp.erf(z / sp.sqrt(2))
LINE, SIGN = dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1)
ROOT = Path(__file__).parents[2]
TWO = dmft.Overlaps([[0.5, 0.1], [0.1, 0.4]], [[0.2], [0.1]], [[1.0]])
Array = NDArray[np.float64]


def fields(seed: int, count: int) -> Array:
    """(h, h*) of TWO, (3, count)."""
    covariance = np.block([[TWO.Q, TWO.M], [TWO.M.T, TWO.P]])
    draw: Array = np.linalg.cholesky(covariance) @ np.random.default_rng(seed).normal(
        size=(3, count)
    )
    return draw


def erf(u: Array) -> Array:
    value: Array = erf_of(u / np.sqrt(2))
    return value


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "logistic": ({"label_flip": 0.1}, {"loss": "logistic"}, None),
    "hinge": ({"label_flip": 0.1}, {"loss": "hinge"}, None),
    "logistic, clipped": ({"label_flip": 0.1}, {"loss": "logistic", "clip": 0.15}, 0.15),
    "squared, clipped": ({"label_noise": 0.3}, {"clip": 0.2}, 0.2),
    "squared, normalised": ({"label_noise": 0.3}, {"normalised": True}, -1.0),
    "squared, clipped, no noise": ({}, {"clip": 0.2}, 0.2),
}


# Students z g(z), which are not linear: activation, values, slope.
PRODUCTS = {
    "silu": (
        z / (1 + sp.exp(-z)), lambda h: h * expit(h), lambda h: expit(h) * (1 + h * expit(-h))
    ),
    "z tanh z": (
        z * sp.tanh(z), lambda h: h * np.tanh(h), lambda h: np.tanh(h) + h / np.cosh(h) ** 2
    ),
    "z exp(-z^2)": (
        z * sp.exp(-(z**2)), lambda h: h * np.exp(-h * h),
        lambda h: (1 - 2 * h * h) * np.exp(-h * h),
    ),
    "z sin z": (
        z * sp.sin(z), lambda h: h * np.sin(h), lambda h: np.sin(h) + h * np.cos(h)
    ),
}  # fmt: skip
# Loss, teacher, -dl/df.
PULLS = {
    "logistic": (SIGN, lambda f, y: y / (1 + np.exp(f * y))),
    "correlation": (LINE, lambda f, y: y),
    "huber": (LINE, lambda f, y: np.clip(y - f, -1, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", PULLS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_students_z_g_of_z_are_not_linear(name: str, loss: str) -> None:
    """Rates by samples of the definition; they run, and no loss sees one Gaussian combination."""
    sigma, value, slope = PRODUCTS[name]
    teacher, pull = PULLS[loss]
    equations = dmft.derive(dmft.Model(dmft.Committee(sigma, 2), teacher), dmft.SGD(1.0, loss=loss))
    rates, error = equations.evaluate(TWO), equations.evaluate_error(TWO)
    count, lam = 60_000, fields(4, 60_000)
    label = np.sign(lam[2]) if teacher is SIGN else lam[2]
    psi = slope(lam[:2]) * pull(value(lam[:2]).mean(axis=0), label)
    Q = np.einsum("in,jn->ijn", psi, lam[:2])
    Q = Q + Q.transpose(1, 0, 2) + np.einsum("in,jn->ijn", psi, psi) / 2
    for block, sample in (("M", psi[:, None] * lam[2:]), ("Q", Q)):
        deviation = sample.std(axis=-1) / np.sqrt(count) + error[block].max()
        assert np.abs((rates[block] - sample.mean(axis=-1)) / deviation).max() < 4.5
    assert "output_covariance" not in {d.name for d in equations.definitions}
    run = dmft.solve(equations, TWO, 1e-3, rtol=1e-3, quadrature_tol=0.1)
    assert str(run.status) == "ok"
    equations.latex()


SHIFTED = {
    "softplus": (sp.log(1 + sp.exp(z)), expit),  # no table holds its mean
    "sin": (sp.sin(z), np.cos),  # its average holds sin and cos of the mean
}


@pytest.mark.cases("sin")
@pytest.mark.parametrize("name", SHIFTED)
def test_labels_of_clusters_that_are_functions(name: str) -> None:
    """Drift of sigma(h + mean) and a label of h*, by samples; a run has the same rate."""
    u = sp.Symbol("u", real=True)
    clusters = dmft.GaussianMixture([[0.5], [-0.3]], [u, 1], [0.4, 0.6], [u])
    model = dmft.Model(dmft.Committee(SHIFTED[name][0], 1), clusters, label_flip=0.1)
    equations = dmft.derive(model, dmft.AdaGradNorm(0.5, 4.0, loss="correlation"))
    start = dmft.Overlaps([[0.5]], [[0.2]], [[1.0]])
    found, error = equations.evaluate(start), equations.evaluate_error(start)
    count, rng = 80_000, np.random.default_rng(1)
    lam = np.linalg.cholesky(start.Omega) @ rng.normal(size=(2, count))
    c = rng.random(count) < 0.6
    lam += start.Omega[:, 1:] * np.where(c, -0.3, 0.5)
    label = np.where(c, 1.0, lam[1]) * np.where(rng.random(count) < 0.1, -1, 1)
    M = label * SHIFTED[name][1](lam[0]) * lam[1] / 2  # over the root of `initial`
    assert abs(found["M"] - M.mean()) < 4.5 * M.std() / np.sqrt(count) + error["M"]
    run = dmft.solve(equations, start, 1e-4, rtol=1e-6)
    assert (run.M[-1] - start.M) / 1e-4 == pytest.approx(found["M"], rel=1e-3)


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", CASES)
def test_rates_of_two_units_by_monte_carlo(name: str) -> None:
    """Definition (4) of all moments by samples: erf students, flips, noise, clipping."""
    data, options, level = CASES[name]
    signs = "loss" in options
    teacher = SIGN if signs else dmft.Committee(ERF, 1, [1.2])
    model = dmft.Model(dmft.Committee(ERF, 2, [1.5, 1.0]), teacher, **data)
    equations = dmft.derive(model, dmft.SGD(1.0, **options))
    rates, error = equations.evaluate(TWO), equations.evaluate_error(TWO)
    count, rng = 60_000, np.random.default_rng(3)
    lam = fields(5, count)
    a = np.array([[1.5], [1.0]])
    out = (a * erf(lam[:2])).sum(axis=0) / 2
    label = np.sign(lam[2]) if signs else 1.2 * erf(lam[2])
    label = label * np.where(rng.random(count) < data.get("label_flip", 0.0), -1, 1)
    label = label + np.sqrt(data.get("label_noise", 0.0)) * rng.normal(size=count)
    pull = label - out
    if options.get("loss") == "logistic":
        pull = label / (1 + np.exp(label * out))
    if options.get("loss") == "hinge":
        pull = label * (label * out < 1)
    psi = a * np.sqrt(2 / np.pi) * np.exp(-(lam[:2] ** 2) / 2) * pull
    if level is not None:
        length = np.sqrt((psi**2).sum(axis=0)) / 2
        psi = psi / length if level < 0 else psi * np.minimum(1, level / length)
    M = psi * lam[2]
    Q = np.einsum("in,jn->ijn", psi, lam[:2])
    Q = Q + Q.transpose(1, 0, 2) + np.einsum("in,jn->ijn", psi, psi) / 2
    for found, sample, own in ((rates["M"][:, 0], M, error["M"]), (rates["Q"], Q, error["Q"])):
        deviation = sample.std(axis=-1) / np.sqrt(count) + own.max()
        assert np.abs((found - sample.mean(axis=-1)) / deviation).max() < 4.0


def over_noise(loss: str, signs: bool, f: Array, g: Array, s: float) -> tuple[Array, Array]:
    """Mean of the error (or of its sign) and of its square over y = g + s xi, at given f and g."""
    u = g - f
    if loss == "abs" or signs:
        return erf(u / s), np.ones_like(u)
    a, b = (-1 - u) / s, (1 - u) / s
    inside, edge = norm.cdf(b) - norm.cdf(a), norm.pdf(a) - norm.pdf(b)
    above, below = norm.sf(b), norm.cdf(a)
    square = u**2 * inside + 2 * u * s * edge
    square += s**2 * (inside + a * norm.pdf(a) - b * norm.pdf(b))
    return u * inside + s * edge + above - below, square + above + below


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("loss", ["abs", "huber"])
def test_kinks_under_label_noise_match_quadrature_given_the_noise(loss: str, signs: bool) -> None:
    """The noise is integrated in closed form: rates of kinked losses on nodes are right to 1e-10.

    With the noise on nodes they were right to 1e-3.
    """
    a, g, noise, rate = 2.5, 1.2, 0.3, 0.5
    Q, M, P = 0.8, 0.3, 1.0
    student, teacher = dmft.Committee(ERF, 1, [a]), dmft.Committee(ERF, 1, [g])
    kind: Any = dmft.SignSGD if signs else dmft.SGD
    algorithm = kind(rate, loss=sp.Abs(f - y) if loss == "abs" else loss)
    equations = dmft.derive(dmft.Model(student, teacher, label_noise=noise), algorithm)
    start = dmft.Overlaps([[Q]], [[M]], [[P]])
    t = np.linspace(-8.0, 8.0, 241)
    weight = np.exp(-(t**2) / 2) / np.exp(-(t**2) / 2).sum()
    u, v = np.meshgrid(t, t, indexing="ij")
    h, k = np.sqrt(Q) * u, M / np.sqrt(Q) * u + np.sqrt(P - M**2 / Q) * v
    mean, square = over_noise(loss, signs, a * erf(h), g * erf(k), np.sqrt(noise))
    slope = np.ones_like(h) if signs else a * 2 * norm.pdf(h)
    alpha = np.sqrt(2 / np.pi) if signs else 1.0

    def average(values: Array) -> float:
        return float(weight @ values @ weight)

    pull = [alpha * average(slope * mean * field) for field in (h, k)]
    true = {"M": pull[1], "Q": 2 * pull[0] + rate * average(slope**2 * square)}
    found, claim = equations.evaluate(start), equations.evaluate_error(start)
    for name, value in true.items():
        assert abs(found[name].item() - value) < 1e-10
        assert claim[name].item() < 1e-10
    # Less noise than nodes resolve: Sobol points, whose claims hold.
    thin = {"label_noise": 1e-4}
    assert "Sobol" in equations.rule(start, thin).label
    assert equations.evaluate_error(start, **thin)["M"].item() < 1e-2


def test_signs_of_a_flat_loss_vanish_beyond_its_margin() -> None:
    """SignSGD of the hinge loss: E psi^2 is the probability of a gradient, P(y f < 1), not one."""
    Q, M, readout = 1.2, 0.4, 2.5
    unit = dmft.Committee(ERF, 1, [readout])
    equations = dmft.derive(dmft.Model(unit, SIGN), dmft.SignSGD(1.0, loss="hinge"))
    start = dmft.Overlaps([[Q]], [[M]], [[1.0]])
    slow, fast = (equations.evaluate(start, learning_rate=g)["Q"].item() for g in (1.0, 2.0))
    edge = norm.ppf((1 + 1 / readout) / 2)  # readout erf(edge/sqrt(2)) = 1
    law = multivariate_normal([0.0, 0.0], [[Q, -M], [-M, 1.0]])
    assert fast - slow == pytest.approx(2 * law.cdf([edge, 0.0]), abs=1e-3)


@pytest.mark.slow
def test_clusters_flips_and_error_rates() -> None:
    """Linear students of clusters: closed hinge moments, and the error rate of their labels."""
    twins = dmft.GaussianMixture(
        [[1.0], [-1.0]], labels=[1, -1], scales=[0.7, 1.3], weights=[0.3, 0.7]
    )
    model = dmft.Model(dmft.Committee(z, 2, [1, 0.5]), twins, label_flip=0.1)
    equations = dmft.derive(model, dmft.SGD(1.0, loss="hinge"))
    assert not equations.averages
    rates = equations.evaluate(TWO)
    count, rng = 60_000, np.random.default_rng(1)
    late = rng.random(count) > 0.3
    mean, scale = np.where(late, -1.0, 1.0), np.where(late, 1.3, 0.7)
    covariance = np.block([[TWO.Q, TWO.M], [TWO.M.T, TWO.P]])
    lam = fields(2, count) * np.sqrt(scale) + mean * covariance[:, 2:]
    label, out = mean * np.where(rng.random(count) < 0.1, -1, 1), (lam[0] + lam[1] / 2) / 2
    psi = np.array([[1.0], [0.5]]) * (label * (label * out < 1))
    sample = psi * lam[2]
    z_score = (rates["M"][:, 0] - sample.mean(axis=1)) / (sample.std(axis=1) / np.sqrt(count))
    assert np.abs(z_score).max() < 4.0
    run = dmft.solve(equations, TWO, 0.1, save_at=[0.0, 0.1])
    at, variance = run.M[:, 0, 0] / 2 + run.M[:, 1, 0] / 4, run.Q[:, 0, 0] / 4 + run.Q[:, 0, 1] / 4
    variance = variance + run.Q[:, 1, 1] / 16
    wrong = sum(w * norm.cdf(-at / np.sqrt(s * variance)) for w, s in ((0.3, 0.7), (0.7, 1.3)))
    assert np.abs(run.error_rate - wrong).max() < 1e-12


def test_error_rate_is_an_angle_and_the_loss_averages_over_flips() -> None:
    """P(sign f != sign h*) = arccos(cosine)/pi, whatever the flips; E loss by its definition."""
    model = dmft.Model(LINE, SIGN, label_flip=0.2)
    for loss in ("squared", "hinge"):
        run = dmft.solve(
            dmft.derive(model, dmft.SGD(0.5, loss=loss)),
            dmft.Overlaps([[1.0]], [[0.3]]), 1.0, save_at=[0.0, 1.0],
        )  # fmt: skip
        cosine = run.M[:, 0, 0] / np.sqrt(run.Q[:, 0, 0])
        assert np.abs(run.error_rate - np.arccos(cosine) / np.pi).max() < 1e-12
        draw = np.random.default_rng(0).normal(size=(2, 1_000_000))
        out, label = draw[0], np.sign(0.3 * draw[0] + np.sqrt(1 - 0.09) * draw[1])
        cost = {s: (s * label - out) ** 2 / 2 for s in (1, -1)}
        if loss == "hinge":
            cost = {s: np.maximum(0, 1 - s * label * out) for s in (1, -1)}
        mean = 0.8 * cost[1].mean() + 0.2 * cost[-1].mean()
        assert abs(run.loss[0] - mean) < 5e-3
        assert run.risk[0] == pytest.approx(
            0.5 * (2 - 2 * 0.3 * np.sqrt(2 / np.pi)), abs=1e-12
        )  # the teacher without flips


def test_linear_students_of_the_sign_of_a_sum() -> None:
    """sign(u + v): Stein's identity, the hinge loss by samples, the angle of the error rate."""
    u, v = sp.symbols("u v", real=True)
    model = dmft.Model(LINE, dmft.MultiIndex(sp.sign(u + v), [u, v]))
    start = dmft.Overlaps([[0.5]], [[0.1, 0.2]])
    rates = dmft.derive(model, dmft.SGD(0.5)).evaluate(start)
    assert rates["M"] == pytest.approx(1 / np.sqrt(np.pi) - start.M, abs=1e-12)
    hinge = dmft.derive(model, dmft.SGD(0.5, loss="hinge"))
    lam = np.linalg.cholesky(start.Omega) @ np.random.default_rng(0).normal(size=(3, 80_000))
    label = np.sign(lam[1] + lam[2])
    sample = label * (label * lam[0] < 1) * lam[1:]
    off = hinge.evaluate(start)["M"][0] - sample.mean(axis=1)
    assert np.all(np.abs(off) < 4.5 * sample.std(axis=1) / np.sqrt(label.size))
    run = dmft.solve(hinge, start, 1e-3, save_at=[0.0])
    assert run.error_rate[0] == pytest.approx(np.arccos(0.3 / np.sqrt(0.5 * 2)) / np.pi, abs=1e-10)


def test_noiseless_signs_run_away() -> None:
    """(17a): V and t^(1/3) of the hinge loss, and what the run says."""
    equations = dmft.derive(dmft.Model(LINE, SIGN), dmft.SGD(1.0, loss="hinge"))
    start = dmft.Overlaps([[1.0]], [[0.3]])
    run = dmft.solve(equations, start, 1e5, save_at=[0.0, 1e4, 6e4, 1e5])
    assert "running away" in run.message
    power = np.log(run.Q[-1, 0, 0] / run.Q[-2, 0, 0]) / np.log(10 / 6) / 2
    assert f"lengths as t^{power:.3f} over the last half" in run.message
    assert run.Q[-1, 0, 0] - run.M[-1, 0, 0] ** 2 == pytest.approx(0.56884, abs=2e-4)
    assert np.log10(run.M[-1, 0, 0] / run.M[1, 0, 0]) == pytest.approx(1 / 3, abs=2e-3)
    for kept in ({"label_flip": 0.1}, {"label_noise": 0.1}):
        model = dmft.Model(LINE, SIGN, **kept)
        loss = "hinge" if "label_flip" in kept else "squared"
        quiet = dmft.solve(dmft.derive(model, dmft.SGD(1.0, loss=loss)), start, 1.0)
        assert "running away" not in quiet.message


LOGISTIC = "logistic"


@pytest.mark.slow
def test_logistic_labels_without_flips_end_where_their_tables_do() -> None:
    """Told as running away, never as a divergence; (17a) has the constant of M^3/t."""
    equations = dmft.derive(dmft.Model(LINE, SIGN), dmft.SGD(1.0, loss=LOGISTIC))
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 1e6)
    assert (str(run.status), run.t[-1] < 1e6) == ("event", True)
    assert "running away" in run.message
    assert "it does not diverge" in run.message
    V = run.Q[-1, 0, 0] - run.M[-1, 0, 0] ** 2
    assert pytest.approx(0.21995, abs=5e-4) == V
    constant = 3 / np.sqrt(2 * np.pi) * (V / 2 + np.pi**2 / 6)
    assert run.M[-1, 0, 0] ** 3 / run.t[-1] == pytest.approx(constant, rel=0.02)


@pytest.mark.cases("at once")
@pytest.mark.parametrize("start", [[[0.5]], [[2000.0]]], ids=["on the way", "at once"])
def test_other_runs_that_leave_their_tables_say_so(start) -> None:
    """Rare flips leave best weights beyond the tables; no divergence, and no numbers from there."""
    line, sign = dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1)
    model = dmft.Model(line, sign, label_flip=1e-6)
    equations = dmft.derive(model, dmft.SGD(1.0, loss="logistic"))
    run = dmft.solve(equations, dmft.Overlaps(start, [[0.2]]), 1e6, save_at=[0.0, 1e6])
    assert str(run.status) == "left_domain"
    assert "tabulated up to 32" in run.message
    assert "running away" not in run.message
    assert np.isfinite(run.Q).all()
    assert run.Q[-1, 0, 0] > 31.9**2


@pytest.mark.slow
def test_logistic_labels_with_flips_have_a_fixed_point() -> None:
    """That of a long run; the modes by differences of the reference rates."""
    equations = dmft.derive(dmft.Model(LINE, SIGN, label_flip=0.1), dmft.SGD(1.0, loss=LOGISTIC))
    point, *_ = dmft.fixed_points(equations, dmft.Overlaps([[1.0]], [[0.1]]))
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 600.0)
    assert np.allclose(point.overlaps.Q, run.Q[-1], rtol=1e-7)
    Q, M = point.overlaps.Q[0, 0], point.overlaps.M[0, 0]
    rates = [
        [
            (up[n].item() - down[n].item()) / 2e-4
            for up, down in [
                [
                    equations.evaluate(dmft.Overlaps([[Q + s * a]], [[M + s * b]]))
                    for s in (1e-4, -1e-4)
                ]
            ]
            for n in ("Q", "M")
        ]
        for a, b in ((1.0, 0.0), (0.0, 1.0))
    ]
    modes = np.sort(np.linalg.eigvals(np.transpose(rates)).real)[::-1]
    found = dmft.stability(equations, point)
    assert found.verdict == "stable"
    assert found.eigenvalues.real == pytest.approx(modes, rel=1e-4)


def test_refusals() -> None:
    """Each in words, with the value and what to do instead."""
    relu = dmft.Model(dmft.Committee(sp.Max(0, z), 1), LINE)
    for words, call in {
        "leave one of them out": lambda: dmft.SGD(1.0, clip=0.1, normalised=True),
        "several outputs": lambda: dmft.derive(relu, dmft.SGD(1.0, loss="cross-entropy")),
        "fixed readouts": lambda: dmft.SGD(1.0, clip=0.1, readout_rate=1.0),
        "another update": lambda: dmft.SGD(1.0, clip=0.1, repeat=dmft.Lookahead(0.1)),
        "must be positive": lambda: dmft.SGD(1.0, clip=0),
        "batch_size = 4": lambda: dmft.derive(relu, dmft.SGD(1.0, clip=0.1, batch_size=4)),
        "probability": lambda: dmft.Model(LINE, SIGN, label_flip=1.5),
        "sequence models": lambda: dmft.Model(dmft.Attention(2), dmft.Attention(2), label_flip=0.1),
    }.items():
        with pytest.raises(BadParameter, match=words):
            call()


# What it shows is checked above and in `test_several_outputs.py`, on models of these files.
@pytest.mark.slow
def test_page() -> None:
    """docs/losses.md runs."""
    assert doctest.testfile(str(ROOT / "docs/losses.md"), module_relative=False).failed == 0


# Runs -----------------------------------------------------------------------------------------

AGREEMENT: dict[str, tuple[Any, dict[str, Any], float]] = {
    "hinge": (dmft.Model(LINE, SIGN, label_flip=0.1), {"loss": "hinge"}, 1.0),
    "logistic": (dmft.Model(LINE, SIGN, label_flip=0.1), {"loss": "logistic"}, 2.0),
    "huber": (dmft.Model(LINE, LINE, label_noise=0.5), {"loss": "huber"}, 0.8),
    "clip of three": (
        dmft.Model(LINE, LINE, label_noise=0.3), {"clip": 0.3, "batch_size": 3}, 1.0,
    ),
    "normalised pair": (
        dmft.Model(LINE, LINE, label_noise=0.3), {"normalised": True, "batch_size": 2}, 0.5,
    ),
    "erf, clipped": (
        dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), label_noise=0.1),
        {"clip": 0.2}, 1.0,
    ),
}  # fmt: skip


def agrees(name: str, method: str, dim: int, seeds: int) -> float:
    """Largest distance of theory and simulation in standard errors, 3/d added to these."""
    model, options, rate = AGREEMENT[name]
    algorithm = dmft.SGD(rate, **options)
    start = TWO if int(model.student.width) == 2 else dmft.Overlaps([[0.5]], [[0.2]])
    run = dmft.solve(dmft.derive(model, algorithm), start, 2.0, save_at=3)
    truth = dmft.simulate(model, algorithm, dim, 2.0, seeds, start, method, save_at=3)
    return max(
        float(np.max(np.abs(truth.mean[n] - run[n])[1:] / (truth.stderr[n][1:] + 3 / dim)))
        for n in ("Q", "M")
    )


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
@pytest.mark.parametrize("name", ["hinge", "clip of three"])
def test_simulation_of_a_small_system(name: str, method: str) -> None:
    """Steps of their own, on weights and by the chain of overlaps."""
    assert agrees(name, method, 200, 24) < 4.0


@pytest.mark.slow
@pytest.mark.parametrize("dim", [300, 1200])
@pytest.mark.parametrize("method", ["weights", "overlaps"])
@pytest.mark.parametrize("name", AGREEMENT)
def test_simulations_at_two_dimensions(name: str, method: str, dim: int) -> None:
    """All kinds of losses and shortened steps."""
    if method == "overlaps" and name == "erf, clipped" and dim == 300:
        pytest.skip("its weights are run at this dimension")
    assert agrees(name, method, dim, 24) < 4.0


@pytest.mark.parametrize("option", [{"clip": 1.0}, {"normalised": True}])
def test_lengths_are_unknown_where_steps_are_preconditioned(option):
    law = dmft.Spectrum.preconditioned(np.diag([2.0, 0.5]), np.diag([0.5, 1.0]))
    line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    model = dmft.Model(line, line, inputs=law)
    with pytest.raises(BadParameter, match="does not contain"):
        dmft.derive(model, dmft.SGD(0.5, **option))


NAMES = ("squared", "correlation", "logistic", "hinge", "huber")


@pytest.mark.cases("logistic", "hinge")
@pytest.mark.parametrize("name", NAMES)
def test_descents_of_every_loss_have_a_risk_and_an_error_rate(name):
    """Of a linear student and a sign teacher both are known from the overlaps."""
    model, start = dmft.Model(LINE, SIGN), dmft.Overlaps([[1.0]], [[0.2]])
    descent = dmft.GradientDescent(0.5, samples_per_dim=3, loss=name, ridge=0.1)
    run = dmft.solve(dmft.derive(model, descent), start, 4, samples=4096)
    M, Q = run.M[:, 0, 0], run.Q[:, 0, 0]
    risk = (Q + 1 - 2 * np.sqrt(2 / np.pi) * M) / 2
    np.testing.assert_allclose(run.risk, risk, rtol=1e-12)
    wrong = np.arccos(M / np.sqrt(Q)) / np.pi
    assert (np.abs(run.error_rate - wrong) < 4 * run.error["error_rate"] + 1e-4).all()
    assert run.error["error_rate"].max() < 2e-3
    seen = dmft.simulate(model, descent, 300, 4, 8, start)
    off = np.abs(seen.mean.M[:, 0, 0] - M) / (seen.stderr.M[:, 0, 0] + 0.5 / np.sqrt(300))
    assert (off < 3).all()


def test_risks_of_curved_students_are_those_of_fresh_samples():
    """Without a closed form: tanh on two units, against a Monte Carlo of the definition."""
    model = dmft.Model(dmft.Committee(sp.tanh(z), 2), SIGN)
    descent = dmft.GradientDescent(0.5, samples_per_dim=2, loss="logistic")
    start = dmft.Overlaps(np.eye(2), [[0.3], [0.1]])
    run = dmft.solve(dmft.derive(model, descent), start, 2, samples=4096)
    rng = np.random.default_rng(0)
    gram = np.block([[run.Q[-1], run.M[-1]], [run.M[-1].T, np.eye(1)]])
    fields = np.linalg.cholesky(gram) @ rng.standard_normal((3, 400_000))
    f, y = np.tanh(fields[:2]).mean(axis=0), np.sign(fields[2])
    for name, value in (("risk", (y - f) ** 2 / 2), ("error_rate", f * y < 0)):
        error = value.std() / np.sqrt(value.size) + run.error[name][-1]
        assert abs(value.mean() - run.arrays[name][-1]) < 4 * error, name


@pytest.mark.parametrize("name", NAMES)
def test_all_algorithms_read_one_table_of_losses(name):
    made = [
        dmft.SGD(0.1, loss=name), dmft.SignSGD(0.1, loss=name), dmft.Adam(0.1, loss=name),
        dmft.AdaGradNorm(0.1, 1.0, loss=name), dmft.GradientDescent(0.1, 2, loss=name),
    ]  # fmt: skip
    for algorithm in made:
        assert sp.simplify(loss_expr(algorithm.loss) - NAMED[name]) == 0
    with pytest.raises(dmft.errors.BadParameter, match='"hinge"'):
        dmft.GradientDescent(0.1, 2, loss="logistical")


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        (sp.erf(z / sp.sqrt(2)), (1 - f * y) ** 2 / 2),
        (z**2, (f - y) ** 3 / 6 + (f - y) ** 2 / 2),
    ],
)
def test_squares_of_a_sign_teacher_with_a_readout_are_finite(activation, loss):
    """y^2 = 1 holds two signs of one field; truth by quadrature over z and the side of h*."""
    readout = -1.02
    model = dmft.Model(dmft.Committee(activation, 1, [readout]), dmft.Committee(sp.sign(z), 1, [1]))
    start = dmft.Overlaps([[0.98]], [[0.064]], [[0.325]])
    equations = dmft.derive(model, dmft.SGD(1e-18, loss=loss))
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    h, weights = np.sqrt(0.98) * points, weights / np.sqrt(2 * np.pi)
    # h* given h: its mean, its deviation, P(h* > 0), and E[h* 1(h* > 0)].
    mean, deviation = 0.064 / 0.98 * h, np.sqrt(0.325 - 0.064**2 / 0.98)
    above = norm.cdf(mean / deviation)
    half = mean * above + deviation * norm.pdf(mean / deviation)
    unit, slope = (sp.lambdify(z, e, "scipy") for e in (activation, activation.diff(z)))
    error = sp.lambdify((f, y), -loss.diff(f))
    plus, minus = (readout * slope(h) * error(readout * unit(h), y) for y in (1.0, -1.0))
    M = weights @ (plus * half + minus * (mean - half))
    Q = 2 * weights @ (h * (plus * above + minus * (1 - above)))
    for name, truth in {"M": M, "Q": Q}.items():
        assert abs(rates[name].item() - truth) < claims[name].item() + 1e-13 < 1e-6


@pytest.mark.parametrize(
    ("loss", "truth"),
    [
        (1 / (1 + sp.exp(f * y)) ** 2, lambda v: 2 * expit(v) * expit(-v) ** 2),
        (sp.log(1 + sp.exp(-2 * f * y)), lambda v: 2 * expit(-2 * v)),
        (sp.log(sp.cosh(f - 2 * y)), lambda v: -np.tanh(v - 2)),
        (sp.exp(-((f - y) ** 2)), lambda v: 2 * (v - 1) * np.exp(-((v - 1) ** 2))),
    ],
)
def test_slopes_of_losses_do_not_overflow(loss, truth):
    """-dl/df at y = 1, where exp(f) has overflown too."""
    outputs = np.array([-800.0, -30.0, -1.0, 0.5, 30.0, 800.0])
    with np.errstate(over="ignore"):
        slopes = sp.lambdify((f, y), error_expr(loss), "numpy")(outputs, 1.0)
    np.testing.assert_allclose(slopes, truth(outputs), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("variance", [1.0, 0.278])  # .278**2/.278 rounds to more than .278
def test_cubic_losses_of_one_relu_unit_are_finite(variance):
    """Its fields coincide with themselves; truth by quadrature of the half line h > 0."""
    u, v = sp.symbols("u v", real=True)
    model = dmft.Model(dmft.Committee(sp.Max(0, z), 1), dmft.MultiIndex(u + u * v, [u, v]))
    loss = (f - y) ** 3 / 6 + (f - y) ** 2 / 2
    start = dmft.Overlaps([[variance]], [[-0.15, 0.05]], [[1.7, 0.0], [0.0, 0.2]])
    equations = dmft.derive(model, dmft.SGD(1e-18, loss=loss))
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    half, weights = np.polynomial.legendre.leggauss(80)
    h, weights = 6.5 * (half + 1), 6.5 * weights
    weights, h = weights * norm.pdf(h), np.sqrt(variance) * h
    points, own = np.polynomial.hermite_e.hermegauss(12)
    M, P = start.M[0], start.P
    root = np.linalg.cholesky(P - np.outer(M, M) / variance)
    pair = np.stack(np.meshgrid(points, points), axis=-1) @ root.T
    pair = pair + h[:, None, None, None] * M / variance
    label = pair[..., 0] * (1 + pair[..., 1])
    error = h[:, None, None] - label
    psi = -(error**2 / 2 + error)
    share = weights[:, None, None] * np.outer(own, own) / (2 * np.pi)
    truth = {
        "M": [[(share * psi * pair[..., r]).sum() for r in range(2)]],
        "Q": [[(share * psi * 2 * h[:, None, None]).sum()]],
    }
    for name, value in truth.items():
        assert (np.abs(rates[name] - value) < claims[name]).all()
        assert (claims[name] < 1e-3).all()


@pytest.mark.parametrize("constraint", ["sphere", "sphere-gradient"])
def test_linear_students_on_the_sphere_keep_their_length(constraint):
    """The drift along a row was taken out of one of two readers: dQ/dt = -6.7 at Q = 1."""
    f, y, h = sp.symbols("f y z", real=True)
    unit = dmft.Committee(h, 1)
    gamma, m, rho, a = 0.42, -0.153, 0.323, 0.51
    model = dmft.Model(dmft.Committee(h, 1, [a]), unit)
    algorithm = dmft.SGD(gamma, loss=(f - y) ** 2 / 2 + (f - y) ** 4, constraint=constraint)
    start = dmft.Overlaps([[1.0]], [[m]], [[rho]])
    rates = dmft.derive(model, algorithm).evaluate(start)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    u, v = np.meshgrid(nodes, nodes)
    mean = np.outer(weights, weights) / (2 * np.pi)
    target = m * u + np.sqrt(rho - m * m) * v
    error = target - a * u
    psi = a * (error + 4 * error**3)
    free = 2 * np.sum(mean * psi * u) + gamma * np.sum(mean * psi**2)
    assert rates["M"].item() == pytest.approx(np.sum(mean * psi * target) - m * free / 2, abs=1e-12)
    assert rates["Q"].item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "teacher", [dmft.MultiIndex(sp.Heaviside(z), [z]), dmft.Committee(sp.Heaviside(z), 1)]
)
def test_losses_of_labels_zero_and_one_are_those_of_two_signs(teacher):
    """The loss of labels 0 and 1, log(1 + e^f) - y f, has psi = y - 1/(1 + e^-f)."""
    start = dmft.Overlaps([[1.4]], [[0.3]], [[1.2]])
    equations = dmft.derive(
        dmft.Model(LINE, teacher), dmft.SGD(0.1, loss=sp.log(1 + sp.exp(f)) - y * f)
    )
    x, weight = np.polynomial.legendre.leggauss(80)
    u, w_u = np.concatenate([4.5 * (x - 1), 4.5 * (x + 1)]), 4.5 * np.tile(weight, 2)
    v, w_v = np.polynomial.hermite_e.hermegauss(80)
    w = (w_u * norm.pdf(u))[:, None] * w_v / np.sqrt(2 * np.pi)
    star, h = np.sqrt(1.2) * u[:, None], 0.3 / np.sqrt(1.2) * u[:, None] + np.sqrt(1.325) * v
    psi = (star > 0) - expit(h)
    true = {"M": np.sum(w * psi * star), "Q": np.sum(w * psi * (2 * h + 0.1 * psi))}
    found, claim = equations.evaluate(start), equations.evaluate_error(start)
    for name, value in true.items():
        assert found[name].item() == pytest.approx(value, abs=1e-10)
        assert claim[name].item() < 1e-10


def test_hinge_loss_of_labels_zero_and_one_is_half_that_of_signs():
    """A label 0 has no gradient, and by symmetry those of +1 and -1 are equal."""
    start, hinge = dmft.Overlaps([[1.4]], [[0.3]], [[1.2]]), dmft.SGD(0.1, loss="hinge")
    rates = [
        dmft.derive(dmft.Model(LINE, dmft.MultiIndex(label, [z])), hinge).evaluate(start)
        for label in (SIGN.activation, sp.Piecewise((0, z < 0), (1, True)))
    ]
    for name in ("M", "Q"):
        assert rates[1][name].item() == pytest.approx(rates[0][name].item() / 2, rel=1e-12)
