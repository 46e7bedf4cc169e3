"""Weights in R^d and the overlap chain are equal in law, degenerate starts included."""

import numpy as np
import pytest
import sympy as sp
from scipy.stats import ks_2samp, kurtosis

from dmft.model import SGD, Committee, Model, MultiIndex, Overlaps
from dmft.simulation.simulate import simulate

z = sp.Symbol("z", real=True)
ERF, SQUARE, HE3 = sp.erf(z / sp.sqrt(2)), z**2, z**3 - 3 * z
PAIR = Overlaps([[0.9, 0.2], [0.2, 0.7]], [[0.3, -0.1], [0.05, 0.4]], [[1.0, 0.15], [0.15, 0.8]])
SPHERE = Overlaps([[1.0, 0.3], [0.3, 1.0]], [[0.4], [-0.2]], [[1.0]])
TWINS = Overlaps(np.ones((2, 2)), [[0.5], [0.5]], [[1.0]])
Z1, Z2 = sp.symbols("z1 z2", real=True)
STAIRCASE = Model(Committee(ERF, 2), MultiIndex(Z1 + Z1 * Z2, [Z1, Z2]), 0.1)
LINE = Overlaps([[1.0]], [[1.0, -1.0]], [[1.0, -1.0], [-1.0, 1.0]])


def model(student, p, teacher, k, a=None, noise=0.1):
    return Model(Committee(student, p, a), Committee(teacher, k), noise)


# model, algorithm, start, d, t_max
CASES = {
    "erf": (model(ERF, 2, ERF, 2, (1.2, -0.7)), SGD(2.0), PAIR, 12, 3.0),
    "erf batch": (model(ERF, 2, ERF, 2), SGD(2.0, batch_size=5), PAIR, 20, 3.0),
    "square sphere": (model(SQUARE, 2, SQUARE, 1), SGD(0.15, constraint="sphere"), SPHERE, 15, 0.4),
    "erf on He3": (model(ERF, 2, HE3, 1), SGD(1.0, batch_size=2), SPHERE, 30, 1.0),
    "twins": (model(ERF, 2, ERF, 1), SGD(1.0, batch_size=3), TWINS, 6, 1.0),
    "teachers on a line": (model(ERF, 1, ERF, 2), SGD(1.0), LINE, 5, 1.0),
    "no room outside": (model(ERF, 2, ERF, 2), SGD(1.0, batch_size=3), PAIR, 4, 1.0),
    "staircase": (STAIRCASE, SGD(1.0, batch_size=2), PAIR, 12, 1.0),
    "staircase on random starts": (STAIRCASE, SGD(1.0), None, 8, 1.0),
    "random start": (model(ERF, 2, ERF, 2), SGD(1.0), None, 10, 1.0),
    "random sphere": (model(SQUARE, 1, SQUARE, 1), SGD(0.1, constraint="sphere"), None, 8, 1.0),
}


def compare(case, seeds, offset):
    """Largest |z| of means and of log std, lowest KS probability, over the final overlaps."""
    system, algorithm, start, dim, t_max = CASES[case]
    samples = []
    for i, method in enumerate(("weights", "overlaps")):
        chosen = range(offset + i * seeds, offset + (i + 1) * seeds)
        runs = simulate(system, algorithm, dim, t_max, chosen, start, method, save_at=[t_max])
        assert runs.status == "ok"
        p = runs.mean.Q.shape[-1]
        upper = runs.runs.Q[:, -1][:, *np.triu_indices(p)]
        samples.append(np.hstack([upper, runs.runs.M[:, -1].reshape(seeds, -1)]))
    spread = np.std(samples, axis=1, ddof=1)
    free = spread[0] > 1e-9  # what the constraint or the symmetry fixes is compared exactly
    one, two = (s[:, free] for s in samples)
    assert np.allclose(samples[0][:, ~free].mean(0), samples[1][:, ~free].mean(0), atol=1e-9)
    error = np.sqrt((spread[0, free] ** 2 + spread[1, free] ** 2) / seeds)
    z_means = np.abs(one.mean(axis=0) - two.mean(axis=0)) / error
    # Error of log std from the fourth moment: some laws have heavy tails.
    excess = sum((kurtosis(x, fisher=False) - 1.0) / (4 * seeds) for x in (one, two))
    z_stds = np.abs(np.log(spread[0, free] / spread[1, free])) / np.sqrt(excess)
    probabilities = [ks_2samp(one[:, i], two[:, i]).pvalue for i in range(one.shape[1])]
    return z_means.max(), z_stds.max(), min(probabilities)


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", CASES)
def test_weights_and_chain_agree_in_law(case):
    z_mean, z_std, probability = compare(case, 150, 0)
    assert z_mean < 4.0
    assert z_std < 4.0
    assert probability > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_weights_and_chain_agree_in_law_over_many_seeds(case):
    z_mean, z_std, probability = compare(case, 4000, 10_000)
    assert z_mean < 4.0
    assert z_std < 4.0
    assert probability > 1e-4


@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_perfect_recovery_without_noise_stays(method):
    start = Overlaps(np.eye(2), np.eye(2))
    runs = simulate(model(ERF, 2, ERF, 2, noise=0), SGD(1.0), 50, 2.0, 3, start, method, save_at=3)
    assert np.allclose(runs.runs.M, np.eye(2), atol=1e-12)
    assert np.abs(runs.mean.risk).max() < 1e-12


@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_identical_students_stay_identical(method):
    runs = simulate(
        model(ERF, 2, ERF, 1), SGD(1.0, batch_size=2), 40, 2.0, 4, TWINS, method, save_at=3
    )
    assert np.allclose(runs.runs.M[..., 0, :], runs.runs.M[..., 1, :], atol=1e-10)
    assert np.allclose(runs.runs.Q, runs.runs.Q[..., :1, :1], atol=1e-10)
    assert runs.std.M[-1].max() > 1e-3
