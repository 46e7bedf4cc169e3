"""Compiled right-hand sides of switching activations: tables over sets of four fields."""

import numpy as np
import pytest
import sympy as sp

import dmft

Z = sp.Symbol("z", real=True)
RELU, LEAKY = sp.Max(0, Z), sp.Max(Z / 10, Z)
ERF = sp.erf(Z / sp.sqrt(2))
# Activations of student and teacher, and the arrays that the code fills.
MODELS = {
    "ReLU": (RELU, RELU, {"four_signs_moments"}),
    "ReLU student, leaky teacher": (RELU, LEAKY, {"four_signs_moments"}),
    "ReLU student, sign teacher": (
        RELU,
        sp.sign(Z),
        {"four_signs_moments", "four_signs"},
    ),
    "ReLU student, erf teacher": (RELU, ERF, {"four_signs_moments"}),
}


def model_of(student, teacher, p, k):
    return dmft.Model(
        dmft.Committee(student, p, np.linspace(0.5, 1.5, p)),
        dmft.Committee(teacher, k, np.linspace(1.2, 0.4, k)),
        0.2,
    )


def compiled_rates(equations, start):
    """Rates and risk by the compiled functions."""
    problem, values = dmft.build(equations), equations.values(start, {})
    y = problem.pack({"Q": start.Q, "M": start.M})
    par = problem.pack_parameters(values.scalars, values.arrays)
    widths, out, risk = np.array([start.p, start.k]), np.empty_like(y), np.empty(1)
    problem.rhs(0.0, y, widths, par, out)
    problem.observe(0.0, y, widths, par, risk)
    return problem.unpack(out, values.widths), risk[0]


def assert_compiled_equals_reference(equations, start, tolerance=2e-14):
    rates, risk = compiled_rates(equations, start)
    reference = equations.evaluate(start)
    scale = 1 + max(np.abs(v).max() for v in reference.values())
    for block in ("Q", "M"):
        np.testing.assert_allclose(rates[block], reference[block], atol=tolerance * scale)
    assert np.isfinite(risk)
    return rates


SLOW = ("ReLU student, leaky teacher", "ReLU student, erf teacher")


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in MODELS]
)
def test_sets_of_four_fields_are_integrated_once_at_all_widths(name):
    student, teacher, tables = MODELS[name]
    for p, k in [(2, 1), (1, 3), (3, 2)]:
        equations = dmft.derive(model_of(student, teacher, p, k), dmft.SGD(0.4))
        source = dmft.build(equations).source
        for table in ("four_signs_moments", "four_signs"):
            call = f"four_signs_table(Omega, p, {int(table != 'four_signs')}, {table})"
            assert (call in source) == (table in tables)
        start = dmft.random_overlaps(model_of(student, teacher, p, k), 12, seed=p + k)
        assert_compiled_equals_reference(equations, start)


@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-5])
def test_perfect_recovery_is_a_fixed_point_for_parallel_and_antiparallel_fields(tilt):
    model = dmft.Model(dmft.Committee(RELU, 2), dmft.Committee(RELU, 2))
    equations = dmft.derive(model, dmft.SGD(1.5))
    teachers = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])  # |z| as two neurons
    w = teachers + tilt * np.array([[0.0, 1.0, 0.3], [0.0, -0.2, 1.0]])
    start = dmft.Overlaps(w @ w.T, w @ teachers.T, teachers @ teachers.T)
    rates = assert_compiled_equals_reference(equations, start, 1e-8)
    # Residuals are of the order of the tilt, and the rates of M with them.
    assert max(np.abs(v).max() for v in rates.values()) <= 10 * tilt + 1e-14


@pytest.mark.usefixtures("generated_code")
def test_rates_of_nearly_singular_overlaps_equal_those_of_the_samples_definition():
    # Four students in the plane of two teachers: all sets of four are coplanar.
    turn = np.array([0.2, 1.1, 2.5, 4.4])
    w = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    model = dmft.Model(dmft.Committee(RELU, 4), dmft.Committee(RELU, 2))
    equations = dmft.derive(model, dmft.SGD(1.0))
    rates, _ = compiled_rates(equations, dmft.Overlaps(w @ w.T, w, np.eye(2)))
    # In the plane, E over the radius is exact and E over the angle is a mean of smooth pieces.
    edges = np.sort(np.concatenate([turn + np.pi / 2, turn - np.pi / 2, np.arange(4) * np.pi / 2]))
    edges = np.sort(edges % (2 * np.pi))
    x, weight = np.polynomial.legendre.leggauss(20)
    low, high = edges, np.append(edges[1:], edges[0] + 2 * np.pi)
    angle = (0.5 * (low + high)[:, None] + 0.5 * (high - low)[:, None] * x).ravel()
    weight = (0.5 * (high - low)[:, None] * weight).ravel() / (2 * np.pi)
    rays = np.stack([np.cos(angle), np.sin(angle)])
    h = w @ rays
    residual = np.maximum(rays, 0).mean(axis=0) - np.maximum(h, 0).mean(axis=0)
    psi = (h > 0) * residual
    drift = 2 * (psi * weight) @ h.T  # E r^2 = 2
    noise = 2 * (psi * weight) @ psi.T / 4
    np.testing.assert_allclose(rates["Q"], drift + drift.T + noise, atol=1e-13)
    np.testing.assert_allclose(rates["M"], 2 * (psi * weight) @ rays.T, atol=1e-13)
