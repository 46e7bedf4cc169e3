"""Labels that are drawn given the teacher: rates by samples, limits, runs, refusals."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import sympy as sp
from numpy.typing import NDArray
from scipy.special import erf

import dmft
from dmft.errors import BadParameter

z, f = sp.symbols("z f", real=True)
LINE, SIGN = dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1)
ERF = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, [1.5, 1.0])
LOGIT, PROBIT = 1 / (1 + sp.exp(-2 * f)), (1 + sp.erf(f / sp.sqrt(2))) / 2
TWO = dmft.Overlaps([[0.5, 0.1], [0.1, 0.4]], [[0.2], [0.1]], [[1.0]])
ONE = dmft.Overlaps([[2.0]], [[-0.4]], [[1.5]])
Array = NDArray[np.float64]


@pytest.mark.cases(2)
@pytest.mark.parametrize("loss", ["hinge", "logistic", "squared", "correlation", "huber"])
@pytest.mark.parametrize("channel", [(1 + sp.Rational(4, 5) * f) / 2, LOGIT])
def test_a_channel_of_signs_is_a_flip(loss: str, channel: sp.Expr) -> None:
    """P(y = 1) by the teacher's sign: rates and loss of flips, in closed form, whatever P is."""
    flips = dmft.Model(LINE, SIGN, label_flip=float(channel.subs(f, -1)))
    drawn = dmft.Model(LINE, SIGN, label_channel=channel)
    pair = [dmft.derive(model, dmft.SGD(1.0, loss=loss)) for model in (flips, drawn)]
    assert not pair[1].averages
    one, other = (equations.evaluate(ONE) for equations in pair)
    for block in ("Q", "M"):
        np.testing.assert_allclose(other[block], one[block], rtol=1e-12)


def samples(start: dmft.Overlaps, probability: Any, count: int) -> tuple[Array, Array]:
    """Fields (p + 1, count) and labels."""
    rng = np.random.default_rng(0)
    covariance = np.block([[start.Q, start.M], [start.M.T, start.P]])
    lam = np.linalg.cholesky(covariance) @ rng.normal(size=(start.p + 1, count))
    return lam, np.where(rng.random(count) < probability(lam[-1]), 1.0, -1.0)


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("student", "loss", "channel"),
    [
        *product([LINE, ERF], ["hinge", "logistic", "squared"], [LOGIT, PROBIT]),
        (ERF, "huber", LOGIT),
        # Its tables take 20 s; what they are of is `test_many_kinks_are_split` of `gaussian`.
        pytest.param(LINE, "huber", LOGIT, marks=pytest.mark.slow),
    ],
)
def test_rates_by_monte_carlo(student: dmft.Committee, loss: str, channel: sp.Expr) -> None:
    """b = E[psi lambda] and S = E[psi psi] of drawn labels, by samples of the definition."""
    start, count = ONE if student is LINE else TWO, 80_000
    equations = dmft.derive(
        dmft.Model(student, LINE, label_channel=channel), dmft.SGD(1.0, loss=loss)
    )
    found, error = equations.evaluate(start), equations.evaluate_error(start)
    assert student is ERF or not equations.averages  # of one line closed forms and tables
    lam, y = samples(start, sp.lambdify(f, channel, ["scipy", "numpy"]), count)
    h, p = lam[:-1], start.p
    a = np.ones((p, 1)) if student is LINE else np.array([[1.5], [1.0]])
    out = (a * (h if student is LINE else erf(h / np.sqrt(2)))).mean(axis=0)
    slope = 1.0 if student is LINE else np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
    pull = {
        "hinge": y * (y * out < 1),
        "logistic": y / (1 + np.exp(y * out)),
        "squared": y - out,
        "huber": np.clip(y - out, -1, 1),
    }
    psi = a * slope * pull[loss]
    Q = np.einsum("in,jn->ijn", psi, h)
    Q = Q + Q.transpose(1, 0, 2) + np.einsum("in,jn->ijn", psi, psi) / p
    for block, sample in (("M", (psi * lam[-1])[:, None]), ("Q", Q)):
        deviation = sample.std(axis=-1) / np.sqrt(count) + error[block].max()
        assert np.abs((found[block] - sample.mean(axis=-1)) / deviation).max() < 4.5, block


def test_clusters_draw_labels() -> None:
    """The label of a cluster is drawn, too; the mean label is 2 P - 1 there."""
    twins = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    model = dmft.Model(LINE, twins, label_channel=LOGIT)
    assert model.inputs is model.teacher
    flip = 1 / (1 + np.exp(2.0))
    one, other = (
        dmft.derive(m, dmft.SGD(1.0, loss="hinge")).evaluate(ONE)
        for m in (model, dmft.Model(LINE, twins, label_flip=flip))
    )
    np.testing.assert_allclose(one["M"], other["M"], rtol=1e-10)
    np.testing.assert_allclose(one["Q"], other["Q"], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hinge", "squared"])
def test_clusters_draw_labels_that_are_functions(loss: str) -> None:
    """Rates and error rate of a linear student by samples: no table holds tanh of u + mean."""
    u = sp.Symbol("u", real=True)
    clusters = dmft.GaussianMixture([[0.5], [-0.3]], [u, u**2], [0.4, 0.6], [u])
    model = dmft.Model(LINE, clusters, label_channel=LOGIT)
    equations = dmft.derive(model, dmft.SGD(1.0, loss=loss))
    found, error = equations.evaluate(ONE), equations.evaluate_error(ONE)
    count, rng = 80_000, np.random.default_rng(2)
    c = rng.random(count) < 0.6
    lam = np.linalg.cholesky(ONE.Omega) @ rng.normal(size=(2, count))
    lam += ONE.Omega[:, 1:] * np.where(c, -0.3, 0.5)
    mean = np.tanh(np.where(c, lam[1] ** 2, lam[1]))
    label = np.where(rng.random(count) < (1 + mean) / 2, 1.0, -1.0)
    psi = label * (label * lam[0] < 1) if loss == "hinge" else label - lam[0]
    for block, sample in (("M", psi * lam[1]), ("Q", 2 * psi * lam[0] + psi**2)):
        assert abs(found[block] - sample.mean()) < 4.5 * sample.std() / count**0.5 + error[block]
    run = dmft.solve(equations, ONE, 1e-3, save_at=[0.0], quadrature_tol=0.01)
    wrong = np.sign(lam[0]) != label
    assert abs(run.error_rate[0] - wrong.mean()) < 4.5 * wrong.std() / count**0.5
    assert abs(run.risk[0] - ((mean - lam[0]) ** 2).mean() / 2) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize("dim", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_simulations_draw_labels(method: Any, dim: int) -> None:
    """Runs in R^d against the equations, integrated from their NumPy reference."""
    model, sgd = dmft.Model(LINE, LINE, label_channel=LOGIT), dmft.SGD(1.0, loss="logistic")
    equations, end, steps = dmft.derive(model, sgd), 1.0, 10
    start = dmft.Overlaps([[0.5]], [[0.2]])
    Q, M = start.Q, start.M
    for _ in range(steps):  # the midpoint rule
        half = equations.evaluate(dmft.Overlaps(Q, M))
        at = dmft.Overlaps(Q + end / steps / 2 * half["Q"], M + end / steps / 2 * half["M"])
        rate = equations.evaluate(at)
        Q, M = Q + end / steps * rate["Q"], M + end / steps * rate["M"]
    runs = dmft.simulate(model, sgd, dim, end, 24, start, method, save_at=2)
    for block, value in (("Q", Q), ("M", M)):
        off = np.abs(runs.mean[block][-1] - value)
        assert np.all(off < 4.0 * runs.stderr[block][-1] + 3.0 / dim), block


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [LINE, SIGN])
def test_runs_of_kinked_losses_on_drawn_labels(teacher: dmft.Committee) -> None:
    """Huber on tables, and in closed form on signs, against weights in two dimensions."""
    model = dmft.Model(LINE, teacher, label_channel=LOGIT)
    huber = dmft.SGD(1.0, loss="huber")
    for dim in (300, 1200):
        start = dmft.random_overlaps(model, dim, 0)
        runs = dmft.simulate(model, huber, dim, 2.0, 24, start, "weights", save_at=3)
        run = dmft.solve(dmft.derive(model, huber), start, runs.t[-1], save_at=runs.t)
        for block in ("Q", "M", "risk", "loss"):
            off = np.abs(getattr(run, block) - runs.mean[block])[1:]
            error = np.hypot(runs.stderr[block][1:], 3.0 / dim)
            assert np.all(off < 4.5 * error), (dim, block)


@pytest.mark.slow
def test_measures_along_a_run() -> None:
    """Loss and error rate are of drawn labels; the risk is the distance to their mean."""
    equations = dmft.derive(
        dmft.Model(LINE, LINE, label_channel=LOGIT), dmft.SGD(1.0, loss="logistic")
    )
    run = dmft.solve(equations, ONE, 1e-3, save_at=[0.0])
    lam, y = samples(ONE, lambda u: 1 / (1 + np.exp(-2 * u)), 200_000)
    for value, sample in (
        (run.loss[0], np.log1p(np.exp(-y * lam[0]))),
        (run.error_rate[0], np.sign(lam[0]) != y),
        (run.risk[0], (np.tanh(lam[1]) - lam[0]) ** 2 / 2),
    ):
        assert abs(value - sample.mean()) < 4.5 * sample.std() / np.sqrt(y.size)
    assert r"\mathcal{E}" in equations.latex()


@pytest.mark.cases(1)
@pytest.mark.parametrize("random", [{"label_flip": 0.1}, {"label_channel": LOGIT}])
def test_explanations_of_random_labels(random: dict[str, Any]) -> None:
    """Of the squared loss, whose steps check out; of other losses of a linear student in words."""
    model = dmft.Model(LINE, SIGN if "label_flip" in random else LINE, **random)
    told = dmft.explain(dmft.derive(model, dmft.SGD(1.0)))
    assert len(told.steps) > 3
    for step in told.steps:
        np.testing.assert_allclose(step.check[:, 0], step.check[:, 1], rtol=2e-2, atol=1e-9)
    with pytest.raises(BadParameter, match="of random labels depends on one combination"):
        dmft.explain(dmft.derive(model, dmft.SGD(1.0, loss="logistic")))


def test_refusals() -> None:
    """Each in words, with what to do instead."""
    model = dmft.Model(LINE, LINE, label_channel=LOGIT)
    start = dmft.Overlaps([[1.0]], [[0.1]])
    for words, call in {
        "must lie in": lambda: dmft.Model(LINE, LINE, label_channel=(1 + f) / 2),
        "teacher's output f": lambda: dmft.Model(LINE, LINE, label_channel=0.9),
        "leave it out": lambda: dmft.Model(LINE, LINE, label_channel=LOGIT, label_flip=0.1),
        "sequence models": lambda: dmft.Model(
            dmft.Attention(2), dmft.Attention(2), label_channel=LOGIT
        ),
        "numeric teacher width": lambda: dmft.Model(
            LINE, dmft.Committee(z, sp.Symbol("k", integer=True)), label_channel=LOGIT
        ),
        "maps": lambda: dmft.derive(model, dmft.SGD(1.0, 100), dim=100),
        "other updates": lambda: dmft.derive(model, dmft.SGD(1.0, clip=0.1)),
        "repeated data": lambda: dmft.derive(model, dmft.GradientDescent(0.1, 2)),
        "are simulated": lambda: dmft.simulate(
            model, dmft.GradientDescent(0.1, 2), 50, 3, 1, start
        ),
        "escape": lambda: dmft.escape_formula(model, dmft.SGD(0.1)),
    }.items():
        with pytest.raises(BadParameter, match=words):
            call()


@pytest.mark.parametrize("step", [sp.sign, sp.Heaviside])
def test_labels_of_clusters_by_a_step_are_signs(step):
    from dmft.equations.update.overlaps import has_signs

    u, z = sp.symbols("u z", real=True)
    label = step(u) if step is sp.sign else 2 * step(u) - 1
    inputs = dmft.GaussianMixture([[1.0], [-1.0]], labels=[label, label], fields=[u])
    assert has_signs(dmft.Model(dmft.Committee(z, 1), inputs))
