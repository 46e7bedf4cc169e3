"""`run.loss` is the loss itself: of wide limits, of paths, of norms, of simulations."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.model import FIELD as z

f, y = sp.symbols("f y", real=True)
ERF = sp.erf(z / sp.sqrt(2))
# Quadratic in output and label, with all its terms.
QUADRATIC = (f - y) ** 2 / 2 + 0.3 * f * y - 0.4 * f + 0.2 * y**2 + 0.1 * y
NOISE = 0.2


@pytest.mark.cases("erf-quadratic")
@pytest.mark.parametrize("loss", ["correlation", QUADRATIC], ids=["correlation", "quadratic"])
@pytest.mark.parametrize("teacher", [ERF, z**2 - 1 + z], ids=["erf", "polynomial"])
def test_losses_of_the_mean_field(loss, teacher):
    """At rows that meet within the span of the teachers alone, by samples of their fields."""
    M, P = np.array([[0.4, 0.1], [-0.2, 0.5], [0.3, 0.3]]), np.array([[1.0, 0.2], [0.2, 1.0]])
    Q = M @ np.linalg.inv(P) @ M.T + np.diag([0.7, 0.6, 0.9])
    start = dmft.Overlaps(Q, M, P)
    model = dmft.Model(dmft.Committee(ERF + 0.3, 3), dmft.Committee(teacher, 2), NOISE)
    equations = dmft.derive(model, dmft.SGD(0.5, loss=loss), scaling="mean-field")
    run = dmft.solve(equations, start, 0.01, save_at=[0.0])
    rng, many = np.random.default_rng(0), 100_000
    fields = rng.standard_normal((many, 5)) @ np.linalg.cholesky(start.Omega).T
    student, target = (sp.lambdify(z, e, "scipy") for e in (ERF + 0.3, teacher))
    output = student(fields[:, :3]).mean(1)
    label = target(fields[:, 3:]).mean(1) + np.sqrt(NOISE) * rng.standard_normal(many)
    written = 1 - y * f if loss == "correlation" else loss
    sample = sp.lambdify([f, y], written, "numpy")(output, label)
    assert run.loss[0] == pytest.approx(sample.mean(), abs=4.5 * sample.std() / np.sqrt(many))


def test_losses_of_infinitely_wide_students():
    """E[h^2 h*^2] = 1 + 2 M^2 on the sphere; the squared loss, written out, is risk and noise."""
    model = dmft.Model(dmft.Committee(z**2, 50), dmft.Committee(z**2, 1), NOISE)
    start = dmft.random_overlaps(model, 400, 0, normalised=True)
    written = {}
    for loss in ("correlation", (f - y) ** 2 / 2):
        sgd = dmft.SGD(2.0, loss=loss, constraint="sphere")
        equations = dmft.derive(model, sgd, scaling="wide-high-dimensional")
        written[loss] = dmft.solve(equations, start, 2.0, save_at=5)
    along, squared = written.values()
    assert along.loss[0] == pytest.approx(-2 * np.mean(start.M**2), rel=1e-9)
    np.testing.assert_allclose(squared.loss, squared.risk + NOISE / 2, rtol=0, atol=1e-12)
    assert squared.loss[-1] < squared.loss[0]


@pytest.mark.cases(1)
@pytest.mark.parametrize("loss", ["squared", "correlation"])
def test_losses_of_paths_and_simulations(loss):
    """Linear students: 1/2 E(f* - f)^2 and E[y f] are written out for each path."""
    linear = dmft.Committee(z, 2)
    model = dmft.Model(linear, dmft.Committee(z, 1), NOISE)
    start = dmft.Overlaps([[1.0, 0.1], [0.1, 0.8]], [[0.3], [-0.2]])
    sgd = dmft.SGD(0.5, loss=loss)
    equations = dmft.derive(model, sgd, dim=200, fluctuations=True)
    run = dmft.solve(equations, start, 0.5, paths=20, dt=0.05, seed=1, save_at=3, keep_paths=True)
    M, Q = run.paths.M, run.paths.Q
    overlap, square = M.mean((2, 3)), Q.mean((2, 3))
    wanted = 1 - overlap if loss == "correlation" else (1 + square + NOISE) / 2 - overlap
    np.testing.assert_allclose(run.loss, wanted.mean(0), rtol=0, atol=1e-12)
    if loss == "squared":
        runs = dmft.simulate(model, sgd, 200, 0.5, 3, start, save_at=3)
        wanted = (1 + runs.runs.Q.mean((2, 3)) + NOISE) / 2 - runs.runs.M.mean((2, 3))
        np.testing.assert_allclose(runs.loss, wanted.mean(0), rtol=0, atol=1e-9)


def test_the_norm_of_matrices_is_its_own_loss():
    """E |f - y| of two tokens, by samples of the fields: e and m of a student, m* of its target."""
    model = dmft.literature.positional_semantic(1.0, 0.3)
    equations = dmft.derive(model, dmft.SGD(0.1, loss="frobenius"))
    start = dmft.Alignment(0.3, 0.5)
    run = dmft.solve(equations, start, 0.05, save_at=[0.0])
    rng, many = np.random.default_rng(1), 100_000
    star = rng.standard_normal((many, 2))
    own = 0.5 * star + np.sqrt(1 - 0.25) * rng.standard_normal((many, 2)) + [0.3, -0.3]
    tokens = dmft.model.token_fields(2)

    def outputs(network, fields):
        parts = [sp.lambdify(tokens, e, "numpy")(*fields.T) for e in network.outputs]
        return np.stack([np.broadcast_to(p, many) for p in parts])

    gap = outputs(model.student, own) - outputs(model.teacher, star)
    sample = np.linalg.norm(gap, axis=0)
    claimed, spread = run.error["risk"][0], sample.std() / np.sqrt(many)
    assert 0 < claimed < 0.01
    assert run.loss[0] == pytest.approx(sample.mean(), abs=4.5 * spread + claimed)
