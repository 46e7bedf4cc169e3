"""Exponents whose deciding value has no closed form: proven by symmetries and a certificate."""

import numpy as np
import pytest
import sympy as sp

import dmft

pytestmark = pytest.mark.certify
pytest.importorskip("flint", reason="python-flint is not installed (extra certify)")

z1, z2 = sp.symbols("z1 z2", real=True)
TARGETS = [
    (sp.tanh(z1), 1, 1, 1),
    (sp.tanh(dmft.hermite(3, z1)), 1, 1, 1),
    (sp.tanh(z1) ** 2, 2, 2, 2),
    (z1 * sp.tanh(z2), 2, 2, 2),
    (sp.tanh(z1) * z2**2, 1, 2, 2),
]


@pytest.mark.parametrize(("target", "info", "leap", "generative"), TARGETS, ids=str)
def test_values_without_closed_form_are_certified(target, info, leap, generative):
    fields = sorted(target.free_symbols, key=str)
    results = (
        dmft.information_exponent(target, fields),
        dmft.leap_exponent(target, fields),
        dmft.generative_exponent(target, fields, leap=True),
    )
    assert [int(r) for r in results] == [info, leap, generative]
    h = dict(zip(fields, np.random.default_rng(2).standard_normal((2, 100_000)), strict=False))
    for result in results:
        assert result.proof == "certified"
        assert result.threshold is None
        witness = result.witness
        assert abs(witness.value) > 10 * witness.error > 0
        assert "certified" in result.explain()
    first = results[0].witness
    product = sp.lambdify(fields, target, "numpy")(*h.values())
    for n, x in zip(first.index, h.values(), strict=False):
        product = product * np.polynomial.hermite_e.hermeval(x, [0] * n + [1])
    error = product.std() / np.sqrt(product.size)
    assert abs(product.mean() - float(first.value)) < 5 * error


def test_zeros_without_a_symmetry_stay_numerical():
    # E[y He_2] of this target vanishes by no symmetry of the fields.
    hard = dmft.generative_exponent(z1**2 * sp.exp(-(z1**2)), z1)
    assert hard == 4
    assert hard.proof == "numerical"
    rounded = dmft.information_exponent(0.1 * z1**3 - 0.3 * z1, z1)
    assert (rounded, rounded.proof) == (3, "numerical")
    tilted = sp.tanh(z1) - dmft.hermite_expansion(sp.tanh(z1), z1, 1)[1] * z1
    cubic = dmft.information_exponent(tilted, z1)
    assert cubic == 3
    assert cubic.proof == "numerical"
