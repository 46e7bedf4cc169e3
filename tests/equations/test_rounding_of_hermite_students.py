"""Accuracy that `derive` claims for Hermite students at small overlaps, against the exact drift."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
CLAIMED = {1e-2: {3: 3e-8, 4: 3e-8, 5: 3e-7, 6: 3e-7}, 1e-3: {3: 3e-8, 4: 3e-8, 5: 2e-3, 6: 2e-3}}
CLAIMED[1e-4] = {3: 3e-8, 4: 3e-8}


@pytest.mark.parametrize("degree", [3, 4, 5, 6])
def test_drift_is_right_to_what_is_claimed(degree):
    """E[He_n(x) He_n(y)] = n! m^n, so that dM/dt = n n! m^(n-1) (1 - m^2) on the sphere."""
    hermite = sp.expand(2 ** sp.Rational(-degree, 2) * sp.hermite(degree, z / sp.sqrt(2)))
    network = dmft.Committee(hermite, width=1)
    equations = dmft.derive(dmft.Model(network, network), dmft.GradientFlow(constraint="sphere"))
    problem, one, out = dmft.build(equations), np.ones(1), np.empty(2)
    constants = {"P": np.eye(1), "readout": one, "teacher_readout": one}
    par = problem.pack_parameters(dict.fromkeys(problem.parameters, 0.0), constants)
    for m, claims in CLAIMED.items():
        if degree not in claims:
            continue
        exact = degree * math.factorial(degree) * m ** (degree - 1) * (1 - m * m)
        problem.rhs(0.0, np.array([1.0, m]), np.array([1, 1]), par, out)
        reference = equations.evaluate(dmft.Overlaps([[1.0]], [[m]]))["M"].item()
        assert out[1] == pytest.approx(exact, rel=claims[degree])
        assert reference == pytest.approx(exact, rel=claims[degree])
