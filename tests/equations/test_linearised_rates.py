"""Linearised equations against finite differences of the NumPy reference."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.codegen.linearised import compiled_tangent
from dmft.equations.noise.derivatives import jacobian

z = sp.Symbol("z", real=True)
CASES = {
    "erf": (sp.erf(z / sp.sqrt(2)), dmft.SGD(0.7)),
    "square on the sphere": (z**2, dmft.SGD(0.3, constraint="sphere")),
    "relu": (sp.Max(z, 0), dmft.GradientFlow()),
    "tanh": (sp.tanh(z), dmft.GradientFlow()),
}


def case(name):
    activation, algorithm = CASES[name]
    committee = dmft.Committee(activation, width=2)
    equations = dmft.derive(dmft.Model(committee, committee, label_noise=0.1), algorithm)
    rng = np.random.default_rng(5)
    factor = rng.normal(size=(4, 6))
    Omega = factor @ factor.T / 6 + 0.3 * np.eye(4)
    direction = rng.normal(size=8)
    direction[1] = direction[2]
    if algorithm.constraint == "sphere":
        size = np.sqrt(np.diag(Omega))
        Omega = Omega / np.outer(size, size)
        direction[[0, 3]] = 0.0
    return equations, dmft.Overlaps(Omega[:2, :2], Omega[:2, 2:], Omega[2:, 2:]), direction


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", CASES)
def test_linearised_rates_are_the_derivative_of_the_rates(name):
    equations, point, direction = case(name)

    def rates(step):
        moved = dmft.Overlaps(
            point.Q + step * direction[:4].reshape(2, 2),
            point.M + step * direction[4:].reshape(2, 2),
            point.P,
        )
        found = equations.evaluate(moved)
        return np.concatenate([found["Q"].ravel(), found["M"].ravel()])

    h = 1e-4
    difference = (8 * (rates(h) - rates(-h)) - (rates(2 * h) - rates(-2 * h))) / (12 * h)
    (derived,) = jacobian(equations, point, direction[None, :])
    assert derived == pytest.approx(difference, abs=1e-10 * max(1, abs(difference).max()))


@pytest.mark.cases("relu")
@pytest.mark.parametrize("name", ["erf", "relu"])
def test_compiled_linearised_rates_are_those_of_the_reference(name):
    equations, point, direction = case(name)
    values = equations.values(point, {})
    scalars = {n: values.scalars[n] for n in equations.parameters}
    par = dmft.build(equations).pack_parameters(scalars, values.arrays)
    state = np.concatenate([point.Q.ravel(), point.M.ravel(), direction])
    out = np.empty(8)
    compiled_tangent(equations)(0.0, state, np.array([2, 2]), par, out)
    (reference,) = jacobian(equations, point, direction[None, :])
    assert out == pytest.approx(reference, rel=1e-13, abs=1e-14)
