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


def test_polynomials_go_side_by_side_where_they_are_narrow():
    for p, k in ((1, 1), (2, 2)):
        problem, states, parameters, widths = columns(
            Z**2, dmft.SGD(0.1, constraint="sphere"), p, k
        )
        assert problem.lanes.takes(widths)
        assert not problem.lanes.takes((3, 2))
        out = np.empty((states.shape[1], LANES))
        y, par = (np.ascontiguousarray(x.T) for x in (states, parameters))
        problem.lanes.function(0.0, y, widths, par, out)
        for lane in range(LANES):
            alone, judge = np.empty((2, states.shape[1]))
            problem.rhs(0.0, states[lane].copy(), widths, parameters[lane].copy(), alone)
            # Python itself runs the same text.
            problem.rhs.py_func(0.0, states[lane].copy(), widths, parameters[lane].copy(), judge)
            assert np.array_equal(alone, out[:, lane])
            assert np.array_equal(alone, judge)


def test_wide_polynomials_agree_with_their_text():
    problem, states, parameters, widths = columns(Z**3 - 3 * Z, dmft.SGD(0.1), 4, 2)
    alone, judge = np.empty((2, states.shape[1]))
    problem.rhs(0.0, states[0].copy(), widths, parameters[0].copy(), alone)
    problem.rhs.py_func(0.0, states[0].copy(), widths, parameters[0].copy(), judge)
    np.testing.assert_allclose(alone, judge, rtol=1e-11, atol=1e-12 * np.max(np.abs(judge)))


def test_kernels_by_nodes_and_of_four_signs_take_one_state():
    relu = dmft.Committee(sp.Max(0, Z), width=2)
    problem = dmft.build(dmft.derive(dmft.Model(relu, relu), dmft.SGD(0.5)))
    assert problem.lanes is None
    assert "@njit(RHS, **OPTIONS)\ndef rhs" in problem.source
