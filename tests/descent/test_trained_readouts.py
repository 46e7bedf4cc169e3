"""Readouts that are trained on batches move by the mean over the batch of the step."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
ETA, ALPHA, RATE, PARTS, STEPS = 0.35, 1.5, 0.6, 3, 7


@cache
def by_definition(seeds, dim, batched=True):
    """Readouts (seeds, STEPS + 1) of a linear student: weights in R^d, from the definition."""
    n = int(ALPHA * dim)
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        w, target = rng.standard_normal((2, dim))
        w -= target * (w @ target) / (target @ target)
        w, target = (v * np.sqrt(dim) / np.linalg.norm(v) for v in (w, target))
        X = rng.standard_normal((n, dim)) / np.sqrt(dim)
        y, a, readouts = X @ target, 1.0, [1.0]
        for t in range(STEPS):
            if t % PARTS == 0:
                parts = np.array_split(rng.permutation(n), PARTS)
            weight = np.zeros(n)
            weight[parts[t % PARTS]] = PARTS
            pull = a * (X @ w) - y
            gradient = (pull * weight) @ X
            mean = np.mean(pull * (X @ w) * (weight if batched else 1.0))
            w, a = w - ETA * a * gradient, a - RATE * mean
            readouts.append(a)
        rows.append(readouts)
    return np.array(rows)


@pytest.mark.parametrize("who", ["theory", "simulation"])
def test_readouts_of_reshuffled_batches_move_by_their_batch(who):
    """Once in an epoch a sample is new: the mean over all samples is another number."""
    line = dmft.Committee(z, 1)
    algorithm = dmft.GradientDescent(
        ETA, ALPHA, batch="reshuffle", batch_fraction=1 / PARTS, readout_rate=RATE
    )
    model, start = dmft.Model(line, line), dmft.Overlaps([[1.0]], [[0.0]])
    truth = by_definition(20, 400)
    mean, error = truth.mean(axis=0), truth.std(axis=0, ddof=1) / np.sqrt(len(truth))
    if who == "theory":
        run = dmft.solve(dmft.derive(model, algorithm), start, STEPS, samples=2**13)
        found, own = run.readout[:, 0], np.asarray(run.error["readout"])[:, 0]
    else:
        ensemble = dmft.simulate(model, algorithm, 400, STEPS, range(20), start=start)
        found, own = ensemble.mean.readout[:, 0], ensemble.stderr.readout[:, 0]
    assert np.all(np.abs(found - mean) < 4.5 * np.hypot(error, own) + 2e-3)
    other = by_definition(20, 400, batched=False).mean(axis=0)
    assert np.max(np.abs(other - mean)) > 0.03  # the mean over all samples would be seen


def test_the_equations_say_which_samples_move_the_readout():
    line = dmft.Committee(z, 1)
    algorithm = dmft.GradientDescent(ETA, ALPHA, batch="bernoulli", batch_fraction=0.5)
    trained = dmft.GradientDescent(
        ETA, ALPHA, batch="bernoulli", batch_fraction=0.5, readout_rate=RATE
    )
    plain, both = (dmft.derive(dmft.Model(line, line), a).latex() for a in (algorithm, trained))
    own = r"(\ell' \sigma)^{t} &= \frac{\chi^{t}"
    assert own in both
    assert own not in plain
    assert r"f^{t} &= a^{t} h^{t}" in both
