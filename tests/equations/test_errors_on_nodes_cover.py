"""The error that an average on nodes claims, over random states, against a much finer rule."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.model import FIELD as z

SILU = z / (1 + sp.exp(-z))
MODELS = {
    "tanh": (sp.tanh(z), sp.tanh(z)),
    "SiLU, softplus": (SILU, sp.log(1 + sp.exp(z))),
    "kink": (sp.Max(z, sp.Rational(1, 2)), sp.tanh(z)),
}


def covered(name, states, truth_nodes):
    """Share of entries of dQ/dt whose claimed error (99 %) covers the true one, at 256 nodes."""
    student, teacher = MODELS[name]
    model = dmft.Model(dmft.Committee(student, 3), dmft.Committee(teacher, 2), 0.1)
    # The quadratic term alone: the drift has tables and closed forms.
    equations = dmft.derive(model, dmft.SGD(0.8))
    equations = equations.without("learning", "interaction", "label_noise")
    hits = []
    for seed in range(states):
        start = dmft.random_overlaps(model, dim=8 + seed, seed=seed)
        truth = equations.evaluate(start, nodes=truth_nodes, seed=1000 + seed)["Q"]
        value = equations.evaluate(start, nodes=256, seed=seed)["Q"]
        error = equations.evaluate_error(start, nodes=256, seed=seed)["Q"]
        hits += (np.abs(value - truth) <= error)[np.triu_indices(3)].tolist()
    return np.mean(hits)


def test_claims_cover_in_a_few_states():
    assert covered("tanh", 5, 2048) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_claims_cover_in_forty_eight_states(name):
    assert covered(name, 48, 16384) >= 0.95
