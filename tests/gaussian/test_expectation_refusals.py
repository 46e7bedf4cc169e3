"""Integrands that would be read as something else than they look like."""

import pytest
import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.expectation import Gaussian

X = sp.Symbol("x", real=True)
LAW = Gaussian([X], [[1]])


def test_a_symbol_that_only_has_the_name_of_a_field():
    with pytest.raises(BadParameter, match="same name but other assumptions"):
        LAW.expect(sp.Symbol("x") ** 2)
    assert LAW.expect(X**2) == 1


@pytest.mark.parametrize("expr", [sp.nan, sp.oo * X, sp.erf(sp.I * X), sp.zoo])
def test_what_is_not_real_and_finite(expr):
    with pytest.raises(BadParameter, match="real and finite"):
        LAW.expect(expr)
