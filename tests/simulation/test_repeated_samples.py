"""Algorithms that use a sample more than once: weights against NumPy, chain against weights."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.model import FIELD as z
from dmft.simulation.plan import START_STREAM, WEIGHTS_STREAM, weights_with_overlaps
from dmft.special.sampling import random_stream

RELU = sp.Max(0, z)
ERF = sp.erf(z / sp.sqrt(2))
TARGET = sp.symbols("z1 z2", real=True)
DIM = 40


def plain_steps(model, algorithm, start, steps, seed=0):
    """The algorithms of theory/batch_reuse D.1 as they are written there, on displaced weights."""
    sigma = sp.lambdify(z, model.student.activation, "scipy")
    slope = sp.lambdify(
        z, sp.diff(model.student.activation, z), ["scipy", {"Heaviside": np.heaviside}]
    )
    label = sp.lambdify(model.teacher.fields, model.teacher.expr, "numpy")
    a = np.array(model.student.readout or [1.0] * start.p, dtype=float)
    gamma, batch = float(algorithm.learning_rate), algorithm.batch_size
    W, teacher = weights_with_overlaps(start, DIM, random_stream(seed, START_STREAM))
    rng = random_stream(seed, WEIGHTS_STREAM)

    def gradients(weights, X, y):
        """Updates psi (n_b, p) of these weights."""
        h = X @ weights.T / np.sqrt(DIM)
        own = sigma(h) @ a / start.p if algorithm.loss == "squared" else 0.0
        return a * slope(h) * (y - own)[:, None]

    def step(weights, psi, X):
        new = weights + gamma / (start.p * batch) * psi.T @ X / np.sqrt(DIM)
        if algorithm.constraint == "sphere-gradient":
            move = new - weights
            new = weights + move - (move * weights).sum(1)[:, None] / DIM * weights
        if algorithm.constraint is not None:
            new *= np.sqrt(DIM) / np.linalg.norm(new, axis=1, keepdims=True)
        return new

    for _ in range(steps):
        X, noise = np.empty((batch, DIM)), np.zeros(batch)
        for mu in range(batch):
            X[mu] = rng.standard_normal(DIM)
            if model.label_noise != 0:
                noise[mu] = np.sqrt(float(model.label_noise)) * rng.standard_normal()
        y = label(*(X @ teacher.T / np.sqrt(DIM)).T) + noise
        repeat = algorithm.repeat
        if isinstance(repeat, dmft.Repeat):
            for _ in range(repeat.times):
                W = step(W, gradients(W, X, y), X)
            continue
        psi = np.empty((batch, start.p))
        for mu in range(batch):
            x = X[mu : mu + 1]
            first = gradients(W, x, y[mu : mu + 1])
            rho = float(repeat.rho)
            move = first.T @ x / np.sqrt(DIM)
            if isinstance(repeat, dmft.Lookahead):
                displaced = W + rho * move
            elif repeat.normalised:
                # A ball of radius rho where the gradient is |psi| |x| / sqrt(d) long.
                size = np.linalg.norm(move)
                displaced = W - rho * move / size if size > 0 else W
            else:
                displaced = W - rho * move
            psi[mu] = gradients(displaced, x, y[mu : mu + 1])[0]
        W = step(W, psi, X)
    return W @ W.T / DIM, W @ teacher.T / DIM


def a_model(activation, noise=0.3):
    target = dmft.MultiIndex(TARGET[0] ** 3 - 3 * TARGET[0] + TARGET[0] * TARGET[1], TARGET)
    return dmft.Model(dmft.Committee(activation, 2, [1.0, -0.5]), target, noise)


START = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3, 0.0], [0.1, -0.2]])
REPETITIONS = [
    dmft.Lookahead(0.3),
    dmft.SharpnessAware(0.4),
    dmft.SharpnessAware(0.5, normalised=True),
    dmft.Repeat(3),
]


@pytest.mark.cases(6)
@pytest.mark.parametrize("repeat", REPETITIONS, ids=str)
@pytest.mark.parametrize(
    ("activation", "batch", "constraint", "loss"),
    [
        (ERF, 1, None, "squared"),
        (RELU, 1, "sphere", "squared"),
        (ERF, 3, "sphere-gradient", "squared"),
        (ERF, 2, "sphere", "correlation"),
    ],
)
def test_weights_equal_the_plain_algorithm(repeat, activation, batch, constraint, loss):
    sgd = dmft.SGD(0.5, batch, loss=loss, constraint=constraint, repeat=repeat)
    model = a_model(activation)
    steps = 7
    runs = dmft.simulate(model, sgd, DIM, steps * 0.25 / DIM, 1, START, save_at=2)
    Q, M = plain_steps(model, sgd, START, steps)
    np.testing.assert_allclose(runs.mean.Q[-1], Q, rtol=0, atol=1e-12)
    np.testing.assert_allclose(runs.mean.M[-1], M, rtol=0, atol=1e-12)
    assert np.abs(M - START.M).max() > 1e-3


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("repeat", "constraint", "seeds"),
    [
        (REPETITIONS[0], None, 250),
        (REPETITIONS[3], "sphere-gradient", 250),
        *(
            pytest.param(repeat, constraint, 2000, marks=pytest.mark.slow)
            for repeat, constraint in [
                (REPETITIONS[0], None), (REPETITIONS[3], "sphere-gradient"),
                (REPETITIONS[0], "sphere"), (REPETITIONS[1], None), (REPETITIONS[2], None),
                (REPETITIONS[2], "sphere-gradient"), (REPETITIONS[3], None),
                (REPETITIONS[3], "sphere"),
            ]
        ),
    ],
    ids=str,
)  # fmt: skip
def test_chain_has_the_law_of_the_weights(repeat, constraint, seeds):
    """Means and spreads of the overlaps after a few steps in six dimensions, where 1/d is large."""
    sgd = dmft.SGD(0.8, constraint=constraint, repeat=repeat)
    model = a_model(ERF)
    options = {"start": START, "t_max": 5 * 0.4 / 6, "dim": 6, "seeds": seeds}
    options["save_at"] = [options["t_max"]]
    found = {}
    for method in ("weights", "overlaps"):
        runs = dmft.simulate(model, sgd, method=method, **options)
        parts = [runs.runs.M[:, -1].reshape(seeds, -1), runs.runs.Q[:, -1].reshape(seeds, -1)]
        values = np.concatenate(parts, axis=1)
        found[method] = np.concatenate([values, values**2], axis=1)
    mean = {name: v.mean(0) for name, v in found.items()}
    spread = np.sqrt(sum(v.var(0) for v in found.values()) / seeds)
    score = (mean["weights"] - mean["overlaps"])[spread > 1e-9] / spread[spread > 1e-9]
    assert np.abs(score).max() < 4.2
    assert np.sqrt(np.mean(score**2)) < 1.7


def test_one_pass_over_a_sample_is_sgd():
    model = a_model(RELU)
    plain = dmft.simulate(model, dmft.SGD(0.5), DIM, 0.2, 2, START, save_at=2)
    once = dmft.simulate(model, dmft.SGD(0.5, repeat=dmft.Repeat(1)), DIM, 0.2, 2, START, save_at=2)
    np.testing.assert_allclose(once.mean.M, plain.mean.M, rtol=0, atol=1e-13)


def test_displacement_is_a_run_time_value():
    model, rho = a_model(ERF, 0.0), sp.Symbol("rho_0", positive=True)
    fixed = dmft.SGD(0.5, repeat=dmft.Lookahead(0.3))
    free = dmft.SGD(0.5, repeat=dmft.Lookahead(rho))
    options = {"dim": DIM, "t_max": 0.2, "seeds": 1, "start": START, "save_at": 2}
    wanted = dmft.simulate(model, fixed, method="overlaps", **options).mean.M
    for algorithm, values in ((free, {"rho_0": 0.3}), (free, {"rho": 0.3})):
        runs = dmft.simulate(model, algorithm, method="overlaps", **options, **values)
        np.testing.assert_array_equal(runs.mean.M, wanted)
    with pytest.raises(BadParameter, match="rho_0"):
        dmft.simulate(model, free, **options)
    with pytest.raises(BadParameter, match="positive"):
        dmft.simulate(model, free, rho=-0.1, **options)
    assert (runs.provenance["update"], runs.provenance["scalars"]) == ("ahead", {"rho": 0.3})


def test_refusals():
    for wrong in (0, 0.0, -0.1, "0.1", sp.oo, sp.I):
        with pytest.raises(BadParameter, match="rho"):
            dmft.Lookahead(wrong)
    with pytest.raises(BadParameter, match="SharpnessAware"):
        dmft.Lookahead(-0.1)
    with pytest.raises(BadParameter, match="Lookahead"):
        dmft.SharpnessAware(-0.1)
    with pytest.raises(BadParameter, match="normalised"):
        dmft.SharpnessAware(0.1, normalised=1)
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(BadParameter, match="times"):
            dmft.Repeat(wrong)
    with pytest.raises(BadParameter, match="Lookahead"):
        dmft.SGD(0.1, repeat=2)
    batches = dmft.SGD(0.5, 2, repeat=dmft.Lookahead(0.1))
    with pytest.raises(BadParameter, match="weights"):
        dmft.simulate(a_model(ERF), batches, DIM, 0.2, 1, START, "overlaps")
