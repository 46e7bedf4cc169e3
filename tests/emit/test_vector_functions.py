"""Several expressions at once: values against SymPy, shared parts, refusals."""

import numpy as np
import pytest
import sympy as sp

from dmft.emit.expression import emit_vector_function, vector_function
from dmft.errors import BadParameter

x, y, a = sp.symbols("x y a", real=True)
EXPRS = [sp.exp(x * y) / (1 + sp.exp(x * y)), sp.Max(0, x - a), sp.tanh(a * y) * sp.exp(x * y)]


@pytest.mark.parametrize("point", [(0.3, -1.2, 0.7), (2.0, 0.5, -1.0), (0.0, 0.0, 0.0)])
def test_values(point):
    out = np.empty(3)
    vector_function(EXPRS, [x, y], [a])(np.array(point[:2]), np.array(point[2:]), out)
    exact = [float(e.subs({x: point[0], y: point[1], a: point[2]})) for e in EXPRS]
    np.testing.assert_allclose(out, exact, rtol=1e-14, atol=1e-16)


def test_common_parts_are_computed_once():
    assert emit_vector_function(EXPRS, [x, y], [a]).count("math.exp") == 1


def test_unknown_symbols_are_refused():
    with pytest.raises(BadParameter, match="b"):
        vector_function([x + sp.Symbol("b")], [x])
