"""Descents from students that the teacher spans, from equal students and from none at all."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
ROWS = np.random.default_rng(3).standard_normal((2, 2))
STARTS = {
    "inside": ([[1.0]], [[0.6, 0.8]], np.eye(2)),
    "at the teacher": ([[1.0]], [[1.0]], np.eye(1)),
    "inside, rounded": (ROWS @ ROWS.T, ROWS, np.eye(2)),
    "one of two inside": ([[1.0, 0.3], [0.3, 1.0]], [[1.0], [0.3]], np.eye(1)),
    "equal": ([[1.0, 1.0], [1.0, 1.0]], [[0.2], [0.2]], np.eye(1)),
    "zero": ([[0.0]], [[0.0]], np.eye(1)),
}


def descent_in_dimension(Q, M, P, d, seed):
    """Three steps of plain gradient descent, from the definition: overlaps at the end."""
    p, rng = M.shape[0], np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(np.block([[Q, M], [M.T, P]]))
    frame = np.linalg.qr(rng.standard_normal((d, values.size)))[0].T * np.sqrt(d)
    rows = vectors * np.sqrt(np.maximum(values, 0.0)) @ frame
    W, W_star = rows[:p].copy(), rows[p:]
    X = rng.standard_normal((2 * d, d))
    y = np.tanh(X @ W_star.T / np.sqrt(d)).mean(axis=1)
    for _ in range(3):
        h = X @ W.T / np.sqrt(d)
        g = (1 - np.tanh(h) ** 2) * (np.tanh(h).mean(axis=1) - y)[:, None] / p
        W -= 0.3 * g.T @ X / np.sqrt(d)
    return W @ W.T / d, W @ W_star.T / d


@pytest.mark.cases(4)
@pytest.mark.parametrize("name", STARTS)
def test_descent_equals_runs_in_finite_dimension(name):
    Q, M, P = (np.array(a) for a in STARTS[name])
    p, k = M.shape
    model = dmft.Model(dmft.Committee(sp.tanh(z), p), dmft.Committee(sp.tanh(z), k))
    equations = dmft.derive(model, dmft.GradientDescent(0.3, samples_per_dim=2))
    run = dmft.solve(equations, dmft.Overlaps(Q, M, P), 3, samples=2**11, scrambles=4)
    assert run.status == "ok", run.message
    runs = [descent_in_dimension(Q, M, P, 300, seed) for seed in range(8)]
    for n, block in enumerate((run.Q[-1], run.M[-1])):
        values = np.array([r[n] for r in runs])
        spread = values.std(axis=0, ddof=1) / np.sqrt(8) + 2 / 300
        assert np.all(np.abs(values.mean(axis=0) - block) < 4 * spread)
    assert run.error["Q"].max() < 5e-3
