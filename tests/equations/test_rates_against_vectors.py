"""Rates and risk of the NumPy reference against the theory's vectors (checked by quadrature)."""

import numpy as np
import pytest

import dmft

CASES = range(3)


@pytest.mark.parametrize("number", CASES)
def test_free_rates_and_risk(dynamics_vectors, committee_model, number):
    v = dynamics_vectors["moments_and_free_rhs"][number]
    model = committee_model(
        v["act"], v["act"], len(v["a"]), len(v["astar"]), v["a"], v["astar"], v["Delta"]
    )
    equations = dmft.derive(model, dmft.SGD(v["gamma"], batch_size=v["nb"]))
    rates = equations.evaluate(dmft.Overlaps(v["Q"], v["M"], v["P"]))
    np.testing.assert_allclose(rates["M"], v["dM"], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(rates["Q"], v["dQ"], rtol=1e-13, atol=1e-14)
    risk = dmft.population_risk(model)(Q=v["Q"], M=v["M"], P=v["P"])
    assert risk == pytest.approx(v["risk"], rel=1e-13)


def test_spherical_rates(dynamics_vectors, committee_model):
    for v in dynamics_vectors["spherical_rhs"]:
        p, k = len(v["a"]), len(v["astar"])
        model = committee_model(v["act"], v["act"], p, k, v["a"], v["astar"], v["Delta"])
        equations = dmft.derive(model, dmft.SGD(v["gamma"], constraint="sphere"))
        rates = equations.evaluate(dmft.Overlaps(v["Q"], v["M"], v["P"]))
        np.testing.assert_allclose(rates["M"], v["dM"], rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(rates["Q"], v["dQ"], rtol=1e-13, atol=1e-14)


def test_vectors_cover_what_is_claimed(dynamics_vectors):
    assert len(dynamics_vectors["moments_and_free_rhs"]) == len(CASES)
    assert len(dynamics_vectors["spherical_rhs"]) >= 1
