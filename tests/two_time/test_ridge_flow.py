"""Ridge regression by gradient flow: the two-time equations against Marchenko-Pastur."""

import json
from pathlib import Path

import numpy as np
import pytest

import dmft

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "two_time.json").read_text(encoding="utf-8")
)["ridge_flow"]


def marchenko_pastur(alpha, lam, q, m, rho, noise, t, s):
    """M(t), Q(t, s) and training loss at t: averages over the spectrum of X^T X / d."""
    low, high = (1 - np.sqrt(alpha)) ** 2, (1 + np.sqrt(alpha)) ** 2
    angle = (np.arange(4000) + 0.5) * np.pi / 4000
    mu = (high + low) / 2 - (high - low) / 2 * np.cos(angle)
    weight = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * mu) * np.pi / 4000
    if alpha < 1:
        mu, weight = np.append(mu, 0.0), np.append(weight, 1 - alpha)
    a, b = (np.exp(-(mu + lam) * y) for y in (t, s))
    with np.errstate(invalid="ignore"):
        A, B = (np.where(mu + lam > 0, (1 - y) / (mu + lam), x) for y, x in ((a, t), (b, s)))
    M = weight @ (a * m + A * mu * rho)
    Q = weight @ (a * b * q + (a * B + A * b) * mu * m + A * B * (mu**2 * rho + mu * noise))
    c = 1 - mu * A
    train = weight @ (mu * (a**2 * q - 2 * a * c * m + c**2 * rho) + noise * c**2)
    return M, Q, (train + (alpha - 1) * noise) / (2 * alpha)


def test_vectors():
    v = REFERENCE
    problem = dmft.literature.ridge_flow(
        v["alpha"], v["lam"], (v["q0"], v["m0"], v["rho"]), v["Delta"]
    )
    times = [t for t in v["times"] if t <= 5]
    v = v | {name: v[name][: len(times)] for name in ("M", "Q", "train", "pop")}
    run = dmft.solve(problem, None, 5.0, tol=1e-7, save_at=times)
    assert run.status == "ok"
    now = [int(np.argmin(abs(run.t - t))) for t in times]
    M, C, train = run.M[now], run.C_diagonal[now], run.D_diagonal[now] / 2
    Q = C + M**2 / v["rho"]
    np.testing.assert_allclose(M, v["M"], atol=5e-9)
    np.testing.assert_allclose(Q, v["Q"], atol=2e-8)
    np.testing.assert_allclose(train, v["train"], atol=2e-8)
    np.testing.assert_allclose((Q - 2 * M + v["rho"] + v["Delta"]) / 2, v["pop"], atol=2e-8)
    assert np.all(np.abs(M - v["M"]) <= run.error.M[now] + 1e-12)
    assert np.all(np.abs(2 * train - 2 * np.array(v["train"])) <= run.error.D_diagonal[now] + 1e-12)


@pytest.mark.cases(1)
@pytest.mark.parametrize("case", [(0.6, 0.2, 1.0, 0.3, 1.2, 0.3), (3.0, 0.0, 0.5, -0.2, 2.0, 0.0)])
def test_overlaps_of_two_times_equal_marchenko_pastur(case):
    """Fewer and more samples than dimensions; the two-time overlap within its claimed error."""
    alpha, lam, q, m, rho, noise = case
    problem = dmft.literature.ridge_flow(alpha, lam, (q, m, rho), noise)
    times = [0.5, 2.0, 5.0]
    run = dmft.solve(problem, None, 5.0, tol=1e-6, save_at=times)
    for n, t in enumerate(times):
        M, _, train = marchenko_pastur(*case, t, t)
        here = int(np.argmin(abs(run.t - t)))
        assert run.M[here] == pytest.approx(M, abs=1e-6)
        assert run.D_diagonal[here] / 2 == pytest.approx(train, abs=3e-6)
        for s in (0.0, 0.2, t / 2, t):
            earlier = marchenko_pastur(*case, s, s)[0]
            exact = marchenko_pastur(*case, t, s)[1] - M * earlier / rho
            gap = abs(run.at("C", t, s) - exact)
            assert gap < min(3e-6, run.error.C[n] + 1e-9), (t, s)
