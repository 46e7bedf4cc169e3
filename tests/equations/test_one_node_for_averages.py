"""One node for averages, and passes in order: a value, nodes, or a refusal that says why."""

import ast
import math
from pathlib import Path

import pytest
import sympy as sp

import dmft
from dmft.equations.averages.expectation import (
    At,
    Covariances,
    Expectation,
    OneSample,
    product_average,
)
from dmft.equations.averages.passes import lower, needs_nodes, value_of
from dmft.equations.symbols import Omega, Q_perp, h, j, l, lam, m, psi
from dmft.errors import NotClosed
from dmft.model import FIELD

TANH = sp.tanh(FIELD)
# What else stands in equations: a function at a field, a sum over the samples of a batch, matrices
# that are computed as one, products and differences of averages, a definition with its rest, slopes
# along paths; in statements that explanations print, what stands on nodes and what a step adds; in
# output channels, densities and the tail of the normal law.
OTHERS = {
    "At",
    "Alignment",
    "Lengths",
    "NormalDensity",
    "OverSamples",
    "PathSlope",
    "StandardDensity",
    "Together",
    "UpperTail",
    "Whole",
    "Marked",
}


def test_no_other_class_of_the_equations_is_an_average():
    folder = Path(dmft.__file__).parent / "equations"
    found = {
        node.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base) in ("sp.Expr", "sp.Function") for base in node.bases)
    }
    assert found == OTHERS | {"Expectation"}


@pytest.mark.parametrize(
    ("factors", "fields", "how", "refusal"),
    [
        ([FIELD**2 - 1, FIELD**2 - 1], [h[j], h[l]], "value", ""),
        ([TANH, TANH], [h[j], h[l]], "value", ""),
        ([TANH, TANH, TANH], [h[j], h[l], lam[m]], "nodes", "tanh"),
        (
            [sp.tanh(sp.Symbol("b") * FIELD), TANH],
            [h[j], h[l]],
            "nodes",
            "substitute a number for b",
        ),
        ([2 * sp.zoo * sp.DiracDelta(FIELD) + 1 / FIELD, TANH], [h[j], h[l]], "open", "infinite"),
        ([sp.DiracDelta(FIELD), TANH, TANH], [h[j], h[l], lam[m]], "open", "tanh"),
    ],
)
def test_the_first_pass_that_takes_an_average_lowers_it(factors, fields, how, refusal):
    average = product_average(factors, fields)
    found = lower(average)
    assert found.how == how
    assert refusal in found.refusal
    assert needs_nodes(average) == (how == "nodes")
    if how != "value":
        with pytest.raises(NotClosed):
            value_of(average)


def test_claims_are_those_of_the_pass():
    closed = lower(product_average([FIELD**2 - 1, FIELD**2 - 1], [h[j], h[l]]))
    unit = {Omega[j, j]: 1, Omega[l, l]: 1}
    assert closed.value.subs(unit) == 2 * Omega[j, l] ** 2  # Hermite polynomials: 2! C^2
    assert closed.error == 0
    assert 0 < lower(product_average([TANH, TANH], [h[j], h[l]])).error < 1e-10
    jump = product_average([sp.DiracDelta(FIELD), TANH, TANH], [h[j], h[l], lam[m]])
    assert lower(jump).error == math.inf


def test_a_law_of_its_own_gives_the_covariances():
    local = Expectation(At(FIELD**2, h[j]), Covariances(sp.Tuple(h[j], h[j], Q_perp[j])))
    assert value_of(local) == Q_perp[j]
    assert local != Expectation(At(FIELD**2, h[j]))
    three = [sp.Tuple(a, b, 1) for a in (h[j], h[l], lam[m]) for b in (h[j], h[l], lam[m])]
    cubic = product_average([TANH] * 3, [h[j], h[l], lam[m]], Covariances(*three))
    assert lower(cubic).how == "open"  # it has no nodes


def test_the_law_of_one_sample_is_part_of_the_average():
    integrand = psi[j] * lam[m]
    linear, kinked = (Expectation(integrand, OneSample(sp.Integer(d), sp.S.Zero)) for d in (4, -1))
    assert linear != kinked
    assert linear.integrand == kinked.integrand
    assert linear.func(*linear.args) == linear
    assert needs_nodes(linear)
