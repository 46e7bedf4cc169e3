"""Finite-dimensional runs on inputs from clusters: both methods, the theory, the risk."""

import numpy as np
import pytest
import sympy as sp

import dmft

z, f, y, u = sp.symbols("z f y u", real=True)
erf = sp.erf(z / sp.sqrt(2))
LOGISTIC = sp.log(1 + sp.exp(-f * y))
START = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.1], [0.3]], [[1.2]])
SCALED = dmft.GaussianMixture([[1.0], [-0.7]], weights=[0.3, 0.7], scales=[1.0, 0.5])
OWN = dmft.GaussianMixture([[1.0], [-0.7]], [u**2, -1], [0.4, 0.6], fields=u, scales=[0.5, 1.5])
CASES = {
    "teacher": (dmft.Committee(erf, 1), SCALED, dmft.SGD(1.0, readout_rate=0.5)),
    "labels, batch": (OWN, None, dmft.SGD(1.0, batch_size=3, weight_decay=0.2)),
    "twice": (OWN, None, dmft.SGD(0.5, repeat=dmft.Repeat(2))),
    "sphere": (OWN, None, dmft.SGD(0.5, constraint="sphere-gradient", batch_size=2)),
}


@pytest.mark.cases(1)
@pytest.mark.parametrize("seeds", [150, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_overlaps_and_weights_have_one_law(name, seeds):
    """A few steps at d = 6, where every term of order 1/d is large: means and variances."""
    teacher, inputs, algorithm = CASES[name]
    if name == "twice":  # batches of one sample: the displacement is that of its own input
        assert algorithm.batch_size == 1
    start = START
    if algorithm.on_sphere:
        start = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], START.M, START.P)
    model = dmft.Model(dmft.Committee(erf, 2), teacher, 0.1, inputs=inputs)
    dim = 6
    t_max = 3 * float(algorithm.learning_rate) / (2 * dim)
    one, two = (
        dmft.simulate(model, algorithm, dim, t_max, seeds, start, method, save_at=[t_max])
        for method in ("weights", "overlaps")
    )
    for key in ("Q", "M", "readout"):
        a, b = one.runs[key][:, -1], two.runs[key][:, -1]
        spread = np.hypot(one.stderr[key][-1], two.stderr[key][-1])
        assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) <= 4.5 * spread + 1e-12), key
        square = np.hypot(*(np.std((c - c.mean(axis=0)) ** 2, axis=0) for c in (a, b)))
        gap = np.abs(a.var(axis=0) - b.var(axis=0))
        assert np.all(gap <= 4.5 * square / np.sqrt(seeds) + 1e-12), key


@pytest.mark.slow
def test_theory_of_logistic_regression_on_clusters():
    """Linear student, d = 600: within the errors of the mean and a bias of order 1/d."""
    twins = dmft.GaussianMixture([[1.0], [-0.7]], [1, -1], [0.4, 0.6], scales=[1.0, 0.5])
    model = dmft.Model(dmft.Committee(z, 1), twins)
    sgd = dmft.SGD(0.5, loss=LOGISTIC, weight_decay=0.1)
    start = dmft.Overlaps([[1.0]], [[-0.2]], [[1.2]])
    theory = dmft.solve(dmft.derive(model, sgd), start, 3.0, save_at=4, quadrature_tol=1e-3)
    truth = dmft.simulate(model, sgd, 600, 3.0, 24, start, save_at=4)
    for key in ("Q", "M", "risk"):
        gap = np.abs(theory[key] - truth.mean[key])
        assert np.all(gap <= 4.5 * truth.stderr[key] + 3.0 / 600), key


@pytest.mark.slow
@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_theory_of_a_teacher_on_clusters(method):
    three = dmft.GaussianMixture([[1.0, 0.2], [-0.5, 0.3], [0, 0]], weights=[0.3, 0.5, 0.2])
    square = dmft.Committee(z**2, 2)
    model, sgd = dmft.Model(square, square, 0.1, inputs=three), dmft.SGD(0.1, batch_size=2)
    start = dmft.Overlaps([[1, 0.2], [0.2, 0.8]], [[0.1, 0.2], [0.3, 0.1]])
    theory = dmft.solve(dmft.derive(model, sgd), start, 3.0, save_at=4)
    truth = dmft.simulate(model, sgd, 600, 3.0, 24, start, method, save_at=4)
    for key in ("Q", "M", "risk"):
        gap = np.abs(theory[key] - truth.mean[key])
        assert np.all(gap <= 4.5 * truth.stderr[key] + 6.0 / 600), key


@pytest.mark.parametrize("name", ["teacher", "labels, batch"])
def test_the_risk_of_a_run_is_that_of_its_overlaps(name):
    teacher, inputs, algorithm = CASES[name]
    model = dmft.Model(dmft.Committee(erf, 2), teacher, inputs=inputs)
    runs = dmft.simulate(model, algorithm, 50, 0.1, 1, START, "overlaps", save_at=2)
    end = runs.mean
    risk = dmft.population_risk(model)(end.Q[-1], end.M[-1], START.P, end.readout[-1])
    assert end.risk[-1] == pytest.approx(risk, abs=1e-9)


def test_first_passage_watches_the_risk_of_clusters():
    model = dmft.Model(dmft.Committee(erf, 2), OWN)
    step = 0.5 / (2 * 25)
    every = step * np.arange(61)
    watch = dmft.FirstPassage("risk", 0.85, relative=True, stop=False)
    runs = dmft.simulate(
        model, dmft.SGD(0.5), 25, every[-1], 2, START, "overlaps", save_at=every,
        first_passage=watch,
    )  # fmt: skip
    below = runs.runs.risk <= 0.85 * runs.runs.risk[:, :1]
    assert below.any(axis=1).all()
    np.testing.assert_allclose(runs.first_passage.times, every[below.argmax(axis=1)])


def test_risks_of_linear_students_of_steep_polynomial_teachers():
    """Teachers of a higher degree than the student took too few nodes: .843 for 1.002."""
    z = sp.Symbol("z", real=True)
    mixture = dmft.GaussianMixture([[-0.6, 0.5], [0.7, 0.8]], weights=[0.55, 0.45], scales=[1, 1])
    model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(z**2, 2), inputs=mixture)
    Q, M, P = [[1.839]], [[0.3, 0.1]], [[0.637, 0.054], [0.054, 0.471]]
    start = dmft.Overlaps(Q, M, P)
    found = dmft.simulate(model, dmft.SGD(0.5), 60, 0.01, 2, start, save_at=2).mean.risk[0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes), -1).reshape(-1, 3)
    mean = np.einsum("i,j,k->ijk", weights, weights, weights).ravel() / (2 * np.pi) ** 1.5
    cov = np.block([[np.array(Q), np.array(M)], [np.array(M).T, np.array(P)]])
    true = 0.0
    for m, weight in zip(mixture.means, (0.55, 0.45), strict=True):
        h, u, v = (grid @ np.linalg.cholesky(cov).T + cov[:, 1:] @ m).T
        true += weight * np.sum(mean * ((u**2 + v**2) / 2 - h) ** 2) / 2
    assert found == pytest.approx(true, rel=1e-12)
