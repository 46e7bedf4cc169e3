"""Code for several states side by side has the bits of the code for one state."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.compiled.vectors import LANES

Z = sp.Symbol("z", real=True)
ERF = sp.erf(Z / sp.sqrt(2))
NOISE = 0.3


MODELS = {
    "erf": (ERF, dmft.SGD(0.5)),
    "erf on the sphere": (ERF, dmft.SGD(0.1, constraint="sphere")),
}


def columns(activation, algorithm, p, k):
    """States and parameters of all lanes, a row each, and widths."""
    model = dmft.Model(*(dmft.Committee(activation, width) for width in (p, k)), NOISE)
    found = dmft.derive(model, algorithm)
    problem = dmft.build(found)
    states, parameters = [], []
    for lane in range(LANES):
        start = dmft.random_overlaps(model, 50, seed=lane, normalised=True)
        values = found.values(start, {})
        blocks = {"Q": start.Q, "M": start.M, "readout": np.full(p, 1.0 + 0.1 * lane)}
        states.append(problem.pack({b.name: blocks[b.name] for b in problem.state}))
        scalars = {name: value * (1 + lane) for name, value in values.scalars.items()}
        parameters.append(problem.pack_parameters(scalars, values.arrays))
    return problem, np.array(states), np.array(parameters), np.array([p, k])


@pytest.mark.parametrize("name", MODELS)
def test_a_state_has_the_same_bits_in_every_lane(name):
    for p, k in ((1, 1), (2, 1), (3, 2), (5, 4)):
        problem, states, parameters, widths = columns(*MODELS[name], p, k)
        out = np.empty((states.shape[1], LANES))
        turned = (np.ascontiguousarray(x.T) for x in (states, parameters))
        y, par = turned
        problem.lanes.function(0.0, y, widths, par, out)
        for lane in range(LANES):
            alone = np.empty(states.shape[1])
            problem.rhs(0.0, states[lane].copy(), widths, parameters[lane].copy(), alone)
            assert np.array_equal(alone, out[:, lane]), (p, k, lane)


def test_polynomials_add_as_is_fastest():
    square = dmft.Committee(Z**2, width=1)
    problem = dmft.build(dmft.derive(dmft.Model(square, square), dmft.SGD(0.5)))
    assert problem.lanes is None


def test_kernels_by_nodes_and_of_four_signs_take_one_state():
    relu = dmft.Committee(sp.Max(0, Z), width=2)
    problem = dmft.build(dmft.derive(dmft.Model(relu, relu), dmft.SGD(0.5)))
    assert problem.lanes is None
    assert "@njit(RHS, **OPTIONS)\ndef rhs" in problem.source
