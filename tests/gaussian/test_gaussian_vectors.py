"""Reference values of Gaussian integrals, computed elsewhere by quadrature, to the digits given."""

import json
from pathlib import Path

import pytest
import sympy as sp

from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.expectation import Gaussian

VECTORS = json.loads(
    (Path(__file__).parents[1] / "reference" / "gaussian_integrals.json").read_text()
)
X = sp.symbols("x1:5", real=True)


def sigma(u):
    return sp.erf(u / sp.sqrt(2))


def relu(u):
    return sp.Max(0, u)


def slope(f, u):
    return sp.diff(f(u), u)


def he(n):
    return lambda u: hermite(n, u)


X1, X2, X3, X4 = X
SWITCHED = {
    "erf_sign_I2": sigma(X1) * sp.sign(X2),
    "erf_student_sign_teacher_I3": slope(sigma, X1) * X2 * sp.sign(X3),
    "erf_student_relu_teacher_I3": slope(sigma, X1) * X2 * relu(X3),
    "erf_student_relu_teacher_I4_st": slope(sigma, X1) * slope(sigma, X2) * sigma(X3) * relu(X4),
    "relu_I3": sp.Heaviside(X1) * X2 * relu(X3),
    "relu_Inoise": sp.Heaviside(X1) * sp.Heaviside(X2),
    "relu_theta1_theta2_relu2_relu3": sp.Heaviside(X1) * relu(X2) * relu(X3),
    "erf_relu_I2": sigma(X1) * relu(X2),
    "relu_fourth_I2": relu(X1) * X2**4,
    "orthant4": sp.Mul(*map(sp.Heaviside, X)),
    "relu_student_erf_teacher_I4_tt": sp.Heaviside(X1) * sp.Heaviside(X2) * sigma(X3) * sigma(X4),
    "relu_I2_mean": relu(X1) * relu(X2),
}


def integrand(name):
    if name in SWITCHED:
        return SWITCHED[name]
    if name.startswith("hermite_product"):
        orders = [int(c) for c in name.rsplit("_", 1)[1]]
        return sp.Mul(*[hermite(n, x) for n, x in zip(orders, X, strict=False)])
    family, kind = name.split("_")[:2]
    f = sigma if family == "erf" else he(int(family[2:]))
    if kind == "I2":
        return f(X[0]) * f(X[1])
    return slope(f, X[0]) * slope(f, X[1]) * f(X[2]) * f(X[3])


@pytest.mark.cases(16)
@pytest.mark.parametrize(
    "entry",
    VECTORS["integrals"] + VECTORS["integrals_nonzero_mean"],
    ids=lambda entry: entry["name"],
)
def test_integral_equals_its_reference_value(entry):
    law = Gaussian(X[: len(entry["C"])], entry["C"], entry.get("mean"))
    value = float(law.expect(integrand(entry["name"])))
    assert value == pytest.approx(entry["value"], rel=1e-13, abs=1e-15)
