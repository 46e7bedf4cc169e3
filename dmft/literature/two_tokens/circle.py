r"""The loss along the circle e^2 + m^2 = 1, where all of its minima lie (theory/sequence D.5).

With y = e^2: R / 2 = A(y) + 2 omega C(y) - 2 omega alpha M(y) + const, A = V - 2 C, so that the
stationary points solve A'(y) + 2 omega C'(y) = 2 omega alpha M'(y): linear in omega and in
omega alpha, hence explicit in y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter
from dmft.literature.two_tokens.tables import tables

Array = NDArray[np.float64]
# The functions are smooth but not analytic at m = 1; on these nodes they are at 1e-15.
NODES = 64
LARGEST = 2  # derivatives


@dataclass(frozen=True, eq=False)
class Circle:
    """Chebyshev coefficients in y of A and C and of their derivatives, each fitted by itself."""

    a: tuple[Array, ...]
    c: tuple[Array, ...]

    def A(self, y: ArrayLike, order: int = 0) -> Array:
        """V - 2 C on the circle, or a derivative in y up to the second."""
        return _value(self.a[order], y)

    def C(self, y: ArrayLike, order: int = 0) -> Array:
        """E s(h) s(h*) on the circle, or a derivative in y up to the second."""
        return _value(self.c[order], y)

    def M(self, y: ArrayLike, order: int = 0) -> Array:
        """E s(h), or its derivative in y."""
        return tables().M(y, order)


@cache
def circle() -> Circle:
    """Return the functions of the circle, computed at the first call."""
    table, nodes = tables(), chebyshev.chebpts1(NODES)
    y = (1.0 + nodes) / 2.0
    x = 1.0 - y
    c = [
        table.C(y, x),
        table.C(y, x, 1, 0) - table.C(y, x, 0, 1),
        table.C(y, x, 2, 0) - 2.0 * table.C(y, x, 1, 1) + table.C(y, x, 0, 2),
    ]
    a = [table.V(y, order) - 2.0 * c[order] for order in range(LARGEST + 1)]

    def fit(values: Array) -> Array:
        return np.asarray(chebyshev.chebfit(nodes, values, NODES - 1), dtype=np.float64)

    return Circle(tuple(fit(v) for v in a), tuple(fit(v) for v in c))


def alpha_of(a: ArrayLike) -> Array:
    """Weight alpha = sigmoid(2 a^2) that the positional target gives to a token itself.

    Examples
    --------
    >>> float(alpha_of(0.0))
    0.5
    """
    a = np.asarray(a, dtype=float)
    if not np.all(np.isfinite(a)):
        raise BadParameter(f"a must be finite, got {a[~np.isfinite(a)].ravel()[0]}")
    with np.errstate(over="ignore"):  # a^2 = inf: alpha = 1
        alpha: Array = 1.0 / (1.0 + np.exp(-2.0 * a * a))
    return alpha


def a_of(alpha: ArrayLike) -> Array:
    """Return a >= 0 of alpha in [1/2, 1]; nan outside."""
    alpha = np.asarray(alpha, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        a: Array = np.sqrt(0.5 * np.log(alpha / (1.0 - alpha)))
    return a


def _value(coefficients: Array, y: ArrayLike) -> Array:
    value = chebyshev.chebval(2.0 * np.asarray(y, dtype=float) - 1.0, coefficients)
    return np.asarray(value, dtype=np.float64)
