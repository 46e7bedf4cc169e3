"""Recorded trajectories and step counts of the theory's vectors, by the compiled equations."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft

Z = sp.Symbol("z", real=True)
LOSSES = {"square": "squared", "corr": "correlation"}


@pytest.mark.cases("erf22", "square21_sph")
@pytest.mark.parametrize("name", ["erf22", "square21_sph", "he3_11_sph"])
def test_trajectories(dynamics_vectors, committee_model, name):
    """The fourth, with a trained readout, is in tests/equations/test_batches_and_losses.py."""
    (v,) = (v for v in dynamics_vectors["ode_trajectories"] if v["name"] == name)
    model = committee_model(
        v["act"], v["act"], len(v["Q0"]), len(v["P"]), v["a0"], v["astar"], v["Delta"]
    )
    sgd = dmft.SGD(v["gamma"], constraint="sphere" if v["spherical"] else None)
    start = dmft.Overlaps(v["Q0"], v["M0"], v["P"])
    run = dmft.solve(
        dmft.derive(model, sgd), start, v["t"][-1], save_at=v["t"], rtol=1e-11, atol=1e-13
    )
    for block in ("M", "Q", "risk"):
        np.testing.assert_allclose(run[block], v[block], rtol=1e-8, atol=1e-9)


@pytest.mark.cases("1", "2")  # the other takes a million steps
@pytest.mark.parametrize("number", range(3))
def test_hitting_steps_of_the_projected_map(dynamics_vectors, number):
    """The vectors freeze the noise of the samples at M = 0 and take 1 - 1/n_b for 1.

    That map is put together from the terms that the library derives, each read off by leaving it
    out, and iterated.
    """
    v = dynamics_vectors["projected_map_hitting_steps"][number]
    unit = dmft.Committee(dmft.hermite(v["l"], Z) / sp.sqrt(sp.factorial(v["l"])), 1)
    d, eta, batch = sp.Symbol("d"), sp.Symbol("eta", positive=True), 64
    sgd = dmft.SGD(eta * d, batch_size=batch, loss=LOSSES[v["loss"]])
    steps = dmft.derive(dmft.Model(unit, unit), sgd, dim=d)
    whole = steps.explicit(P=[[1]])
    M, Q = whole.symbols["M_11"], whole.symbols["Q_11"]

    def growth(*dropped):
        kept = steps.without(*dropped) if dropped else steps
        return kept.explicit(P=[[1]]).rhs[Q].subs(Q, 1)

    linear = growth("sgd_noise", "population_gradient")
    gram = growth("sgd_noise") - linear
    noise = (growth() - growth("sgd_noise")).subs(M, 0)
    assert sp.simplify(noise * batch / (eta**2 * d)) == pytest.approx(v["V"])
    squared = 1 + linear + gram / (1 - sp.Rational(1, batch)) + noise * batch / v["nb"]
    new = (M + whole.rhs[M].subs(Q, 1)) / sp.sqrt(squared)
    step = sp.lambdify(M, new.subs({d: v["d"], eta: v["eta"]}), "math")
    m, n = v["m0"], 0
    while m < v["mstop"] and n < 10**7:
        m, n = step(m), n + 1
    assert n == v["steps"]


def test_rates_on_the_sphere_of_both_activations():
    path = Path(__file__).parents[1] / "reference" / "simulation.json"
    vectors = json.loads(path.read_text())["spherical_rhs"]
    assert {v["act"] for v in vectors} == {"erf", "relu"}
    for v in vectors:
        act = {"erf": sp.erf(Z / sp.sqrt(2)), "relu": sp.Max(0, Z)}[v["act"]]
        student = dmft.Committee(act, len(v["a"]), v["a"])
        model = dmft.Model(student, dmft.Committee(act, len(v["P"]), v["astar"]), v["Delta"])
        equations = dmft.derive(model, dmft.SGD(v["gamma"], constraint="sphere"))
        rates = equations.evaluate(dmft.Overlaps(v["Q"], v["M"], v["P"]))
        np.testing.assert_allclose(rates["M"], v["dM"], atol=1e-13)
        np.testing.assert_allclose(rates["Q"], v["dQ"], atol=1e-13)
