r"""Loss of the two-token attention at any alignments, with gradient and Hessian.

Equation    R = 2 E[(s(h) - (1 - omega) s(h*) - omega alpha)^2]; with y = e^2 and x = m^2,
            R = 2 {V(y) + (1-omega)^2 V(0) + omega^2 alpha^2 - 2 (1-omega) C(y, x)
            - 2 omega alpha M(y) + 2 (1-omega) omega alpha M(0)}
Source      theory/sequence D.1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.literature.two_tokens.tables import alpha_of, tables

# Rounding of e^2 + m^2 on the circle.
ROUNDING = 1e-12
# Points treated at once: the powers of m^2 take 1.6 kB each.
CHUNK = 8192


@dataclass(frozen=True)
class TwoTokenRisk:
    r"""Risk 1/2 E ||T - T*||_F^2 of the two-token attention as a function of (e, m).

    Attributes
    ----------
    a, omega : float
        Target T* = (1 - omega) attention + omega A, A = softmax of [[a^2, -a^2], [-a^2, a^2]].

    Examples
    --------
    >>> from dmft.literature import positional_semantic_risk
    >>> risk = positional_semantic_risk(a=1.0, omega=0.5)
    >>> round(float(risk(e=0.0, m=1.0)), 10), round(float(risk(e=1.0, m=0.0)), 10)
    (0.0460471331, 0.1123633747)
    """

    a: float
    omega: float

    def __post_init__(self) -> None:
        alpha_of(self.a)
        check_omega(self.omega)

    def __call__(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Risk at alignments e and m of one shape."""
        return self._combine(e, m, (0, 0))

    def gradient(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Return (R_e, R_m), shape (..., 2)."""
        e, m = check_disc(e, m)
        return np.stack(
            [2 * e * self._combine(e, m, (1, 0)), 2 * m * self._combine(e, m, (0, 1))], axis=-1
        )

    def hessian(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Second derivatives in (e, m), shape (..., 2, 2)."""
        e, m = check_disc(e, m)
        ee = 2 * self._combine(e, m, (1, 0)) + 4 * e**2 * self._combine(e, m, (2, 0))
        mm = 2 * self._combine(e, m, (0, 1)) + 4 * m**2 * self._combine(e, m, (0, 2))
        em = 4 * e * m * self._combine(e, m, (1, 1))
        return np.stack([np.stack([ee, em], axis=-1), np.stack([em, mm], axis=-1)], axis=-2)

    def _combine(self, e: ArrayLike, m: ArrayLike, orders: tuple[int, int]) -> Array:
        """Derivative of the risk of these orders in y = e^2 and x = m^2."""
        e, m = check_disc(e, m)
        y, x = e.ravel() ** 2, m.ravel() ** 2
        parts = [
            self._part(y[i : i + CHUNK], x[i : i + CHUNK], *orders)
            for i in range(0, max(y.size, 1), CHUNK)
        ]
        return np.concatenate(parts).reshape(e.shape)

    def _part(self, y: Array, x: Array, y_order: int, x_order: int) -> Array:
        t, w, alpha = tables(), self.omega, alpha_of(self.a)
        value: Array = -2 * (1 - w) * t.C(y, x, y_order, x_order)
        if x_order == 0:
            value = value + t.V(y, y_order) - 2 * w * alpha * t.M(y, y_order)
        if x_order == y_order == 0:
            value = value + (1 - w) ** 2 * t.V(0.0) + (w * alpha) ** 2
            value = value + 2 * (1 - w) * w * alpha * t.M(0.0)
        return 2 * value


def check_omega(omega: ArrayLike) -> Array:
    """Return omega as an array, or refuse what lies outside [0, 1]."""
    omega = np.asarray(omega, dtype=float)
    bad = ~((omega >= 0.0) & (omega <= 1.0))
    if np.any(bad):
        raise BadParameter(
            f"omega = {omega[bad].ravel()[0]} is the weight of the positional part of the target: "
            "it must lie in [0, 1]"
        )
    return omega


def check_disc(e: ArrayLike, m: ArrayLike) -> tuple[Array, Array]:
    """Return alignments of one shape inside the feasible disc, or refuse them."""
    e, m = np.broadcast_arrays(np.asarray(e, dtype=float), np.asarray(m, dtype=float))
    bad = ~(e**2 + m**2 <= 1.0 + ROUNDING)
    if np.any(bad):
        i = int(np.flatnonzero(bad.ravel())[0])
        raise BadParameter(
            f"(e, m) = ({e.ravel()[i]:g}, {m.ravel()[i]:g}) is not possible: weights on the sphere "
            "have e^2 + m^2 <= 1"
        )
    return e, m
