"""Loss and error rate of simulations, against fresh samples and against the equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
from numpy.typing import NDArray
from scipy.special import erf, expit

import dmft

Array = NDArray[np.float64]
z, f, y, a, b = sp.symbols("z f y a b", real=True)
LINE, SIGN = dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1)
PAIR = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, [1.5, 1.0])
ROWS = [[2.0, 0.3], [-0.5, 1.0], [1.0, -1.5]]
CLASSES = dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, ROWS)
ONE = dmft.Overlaps([[0.5, 0.1], [0.1, 0.4]], [[0.2], [0.1]], [[1.0]])
TWO = dmft.Overlaps(ONE.Q, [[0.2, 0.1], [-0.1, 0.3]], [[1.0, 0.2], [0.2, 0.8]])
COUNT = 100_000
LOSSES: dict[str, Any] = {
    "squared": lambda f, y: (f - y) ** 2 / 2,
    "correlation": lambda f, y: 1 - f * y,
    "logistic": lambda f, y: np.log1p(np.exp(-f * y)),
    "hinge": lambda f, y: np.maximum(0, 1 - f * y),
    "huber": lambda f, y: np.where(np.abs(f - y) < 1, (f - y) ** 2 / 2, np.abs(f - y) - 0.5),
    "quartic": lambda f, y: (f - y) ** 4,
}
TWINS = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1], weights=[0.3, 0.7], scales=[0.5, 2.0])
XOR = dmft.MultiIndex(sp.sign(a * b), [a, b])
# Model, loss, and the label before flips and noise, from fields h* (k, N), cluster and uniforms.
CASES: dict[str, tuple[dmft.Model, str, Any]] = {
    "flips": (dmft.Model(PAIR, SIGN, label_flip=0.1), "logistic", lambda h, c, u: np.sign(h[0])),
    "squares": (dmft.Model(PAIR, SIGN, label_flip=0.1), "squared", lambda h, c, u: np.sign(h[0])),
    "noise": (dmft.Model(PAIR, SIGN, 0.3), "hinge", lambda h, c, u: np.sign(h[0])),
    "values": (dmft.Model(PAIR, LINE, 0.3), "huber", lambda h, c, u: h[0]),
    "own": (dmft.Model(PAIR, LINE, 0.3), "quartic", lambda h, c, u: h[0]),
    "drawn": (
        dmft.Model(PAIR, LINE, label_channel=1 / (1 + sp.exp(-2 * f))),
        "huber",
        lambda h, c, u: np.where(u < expit(2 * h[0]), 1.0, -1.0),
    ),
    "clusters": (dmft.Model(PAIR, TWINS), "correlation", lambda h, c, u: 1.0 - 2 * c),
    "two fields": (dmft.Model(PAIR, XOR), "logistic", lambda h, c, u: np.sign(h[0] * h[1])),
}


def sample(model: dmft.Model, start: dmft.Overlaps) -> tuple[Array, Array, Array]:
    """Student fields, teacher fields, clusters."""
    rng = np.random.default_rng(3)
    lam = np.linalg.cholesky(start.Omega) @ rng.standard_normal((start.p + start.k, COUNT))
    c = np.zeros(COUNT, dtype=int)
    if model.clusters is not None:
        c = rng.choice(len(model.clusters.weights), COUNT, p=model.clusters.weights)
        lam *= np.sqrt(model.clusters.scales)[c]
        lam += start.Omega[:, start.p :] @ np.asarray(model.clusters.means, dtype=float).T[:, c]
    return lam[: start.p], lam[start.p :], c


def agrees(runs: Any, name: str, values: Array) -> None:
    off = abs(runs.mean[name][0] - values.mean())
    claimed = 4 * runs.provenance[f"{name}_quadrature_error"] + 5e-4
    assert off < 4 * values.std() / np.sqrt(COUNT) + claimed, (name, off)


@pytest.mark.parametrize("case", CASES)
def test_population_measures_by_monte_carlo(case: str) -> None:
    """Of every loss and kind of label, at the first overlaps of a run."""
    model, loss, write = CASES[case]
    start = TWO if case == "two fields" else ONE
    written = (f - y) ** 4 if loss == "quartic" else loss
    sgd = dmft.SGD(0.1, loss=written)
    method: Any = "weights" if case in ("flips", "two fields") else "overlaps"
    runs = dmft.simulate(model, sgd, 60, 0.01, 1, start, method, save_at=[0.0])
    h, h_star, c = sample(model, start)
    rng = np.random.default_rng(4)
    out = np.array([0.75, 0.5]) @ erf(h / np.sqrt(2))
    clean = write(h_star, c, rng.random(COUNT))
    label = clean * np.where(rng.random(COUNT) < float(model.label_flip), -1, 1)
    label = label + np.sqrt(float(model.label_noise)) * rng.standard_normal(COUNT)
    agrees(runs, "loss", LOSSES[loss](out, label))
    if case in ("values", "own"):
        assert "error_rate" not in runs.mean
    else:
        agrees(runs, "error_rate", np.sign(out) != clean)


def test_classes_by_monte_carlo() -> None:
    """Cross-entropy, and how often the largest output is another one's."""
    mixture = dmft.GaussianMixture(np.eye(3), weights=[0.3, 0.3, 0.4], scales=[0.6, 1.0, 1.6])
    model = dmft.Model(CLASSES, mixture)
    start = dmft.Overlaps(ONE.Q, [[0.2, 0.1, 0.0], [-0.1, 0.3, 0.2]], np.eye(3))
    sgd = dmft.SGD(0.1, loss="cross-entropy")
    runs = dmft.simulate(model, sgd, 60, 0.01, 1, start, save_at=[0.0])
    h, _, c = sample(model, start)
    out = np.array(ROWS) @ erf(h / np.sqrt(2)) / 2
    agrees(runs, "loss", np.log(np.exp(out).sum(axis=0)) - out[c, np.arange(COUNT)])
    agrees(runs, "error_rate", out.argmax(axis=0) != c)


def test_clusters_by_block() -> None:
    """Two equal blocks are the plain clusters in halves."""
    twice = dmft.GaussianMixture(
        TWINS.means.tolist(), [1, -1], [0.3, 0.7],
        scales=[[0.5, 0.5], [2.0, 2.0]], fractions=[0.5, 0.5],
    )  # fmt: skip
    halves = dmft.Overlaps(*(np.stack([x / 2, x / 2]) for x in (ONE.Q, ONE.M, ONE.P)))
    sgd = dmft.SGD(0.1, loss="logistic")
    pair = [
        dmft.simulate(dmft.Model(PAIR, inputs), sgd, 60, 0.01, 1, start, save_at=[0.0])
        for inputs, start in ((TWINS, ONE), (twice, halves))
    ]
    assert pair[1].loss[0] == pytest.approx(pair[0].loss[0], rel=1e-12)
    assert pair[1].error_rate[0] == pytest.approx(pair[0].error_rate[0], rel=1e-12)


def test_along_a_run(tmp_path: Any) -> None:
    """Beside the equations, d = 400; the record keeps what it has measured."""
    model, sgd = dmft.Model(LINE, SIGN, label_flip=0.1), dmft.SGD(0.5, loss="hinge")
    start = dmft.Overlaps([[0.5]], [[0.2]])
    run = dmft.solve(dmft.derive(model, sgd), start, 2.0, save_at=3)
    runs = dmft.simulate(model, sgd, 400, 2.0, 12, start, "overlaps", save_at=3)
    for name in ("loss", "error_rate"):
        off = np.abs(runs[name] - run[name])
        assert np.all(off < 4 * runs.stderr[name] + 2e-3), name
    assert run.loss[-1] < run.loss[0] - 0.1
    runs.save(tmp_path / "runs.nc")
    again = dmft.load(tmp_path / "runs.nc")
    np.testing.assert_array_equal(again.error_rate, runs.error_rate)
    assert "error_rate_mean" in runs.to_pandas().columns
