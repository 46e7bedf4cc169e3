"""Coefficients of the explicit Runge-Kutta pairs, as data that one compiled loop reads.

Source      order 5: Dormand and Prince, J. Comput. Appl. Math. 6 (1980) 19, with the free
            fourth-order interpolant of Shampine, Math. Comp. 46 (1986) 135;
            order 8: the code DOP853 of Hairer, Norsett and Wanner, Solving Ordinary Differential
            Equations I (2nd edition, 1993), II.5 and II.6, with their seventh-order interpolant,
            whose coefficients SciPy has.

The order conditions are tested: exactly, in fractions, for order 5, to rounding for order 8.

Backward differentiation reads of a tableau only how its dense output is nested.

Both interpolants are one order below their solution, and over the long steps at the border of
stability far less accurate than it: they have an error estimate of their own, the defect
u' - f(u) at one point (Enright and others, ACM Trans. Math. Softw. 12 (1986) 193), which
controls the steps in which they are read.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmft.solvers.runge_kutta.layout import Matrix, Vector

F = Fraction
# Of backward differentiation: its highest order, and the row of `Work.k` where its matrices begin.
HIGHEST, MATRIX_ROWS = 5, 20


class Tableau(NamedTuple):
    """One pair; stage `stages - 1` is the derivative at the new point (first same as last).

    Attributes
    ----------
    stages, total : int
        Stages of a step; the same with those that only dense output needs. The last one is the
        slope at the interpolant, by which its error is estimated.
    order : int
        Order of the solution.
    a : (total, total)
        Row `stages - 1` holds the weights of the solution.
    c : (total,)
    error, error_low : (stages,)
        Weights of the error estimate, and of the lower one that DOP853 combines with it (or 0).
    dense : (degree, total)
        y(theta) = y_0 + h theta (F_0 + (1 - theta) (F_1 + theta (F_2 + ...))), F = dense @ k.
    defect : (total,)
        Weights of the error estimate of the interpolant; it may be `DENSE_TOLERANCES` large.
    exponent, memory : float
        Step controller: factor = 0.9 error^-exponent (previous error)^memory.
    """

    stages: int
    total: int
    order: int
    a: Matrix
    c: Vector
    error: Vector
    error_low: Vector
    dense: Matrix
    defect: Vector
    exponent: float
    memory: float


FIVE_A = (
    (),
    (F(1, 5),),
    (F(3, 40), F(9, 40)),
    (F(44, 45), F(-56, 15), F(32, 9)),
    (F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)),
    (F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)),
    (F(35, 384), F(0), F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84)),
)
# Weights of the fourth-order solution.
FIVE_LOW = (
    F(5179, 57600), F(0), F(7571, 16695), F(393, 640), F(-92097, 339200), F(187, 2100), F(1, 40),
)  # fmt: skip
# The last column of the interpolant; the others follow from values and slopes at both ends.
FIVE_DENSE = (
    F(-12715105075, 11282082432), F(0), F(87487479700, 32700410799),
    F(-10690763975, 1880347072), F(701980252875, 199316789632),
    F(-1453857185, 822651844), F(69997945, 29380423),
)  # fmt: skip

# Where the defect is read, and the largest error of the interpolant in units of the defect there.
# Errors of leading order are theta^2 (1 - theta)^2 times a polynomial of degree 1 (order 5) or 4
# (order 8). Of random combinations of its trees nine in ten have at most this ratio; the places
# are those at which it is smallest.
DEFECT_FIVE, DEFECT_EIGHT = (0.55, 0.5), (0.7, 0.3)
# Errors of the interpolant that are taken, in tolerances: as large as those that steps sum up to.
DENSE_TOLERANCES = 2.0

# The controller's constants are Hairer's: PI for order 5, plain for order 8.
MEMORY_FIVE = 0.04


def _with_ends(
    a: NDArray[np.float64], stages: int, own: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Prepend the three Hermite columns (value and slopes at both ends) to `own`."""
    weights = a[stages - 1].copy()
    first, last = np.zeros_like(weights), np.zeros_like(weights)
    first[0], last[stages - 1] = 1.0, 1.0
    hermite = np.stack([weights, first - weights, 2.0 * weights - first - last])
    return np.concatenate([hermite, own])


def interpolant_weights(
    dense: NDArray[np.float64], theta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the stages in (y(theta) - y_0)/h, and their derivatives in theta."""
    value, slope = np.zeros(dense.shape[1]), np.zeros(dense.shape[1])
    for d in reversed(range(dense.shape[0])):
        factor, sign = (theta, 1.0) if d % 2 == 0 else (1.0 - theta, -1.0)
        slope = factor * slope + sign * (value + dense[d])
        value = factor * (value + dense[d])
    return value, slope


def _with_defect(tableau: Tableau, theta: float, ratio: float) -> Tableau:
    """Add the slope at y(theta) as the last stage, and the error estimate that it gives."""
    value, slope = interpolant_weights(tableau.dense, theta)
    total = tableau.total + 1
    a = np.zeros((total, total))
    a[:-1, :-1], a[-1, :-1] = tableau.a, value
    return tableau._replace(
        total=total, a=a, c=np.append(tableau.c, theta),
        dense=np.pad(tableau.dense, ((0, 0), (0, 1))),
        defect=np.append(slope, -1.0) * ratio / DENSE_TOLERANCES,
    )  # fmt: skip


def _order_five() -> Tableau:
    a = np.zeros((7, 7))
    for i, row in enumerate(FIVE_A):
        a[i, : len(row)] = [float(x) for x in row]
    error = a[6] - np.array([float(x) for x in FIVE_LOW])
    own = np.array([[float(x) for x in FIVE_DENSE]])
    bare = Tableau(
        stages=7, total=7, order=5, a=a, c=a.sum(axis=1), error=error,
        error_low=np.zeros(7), dense=_with_ends(a, 7, own), defect=np.empty(0),
        exponent=0.2 - 0.75 * MEMORY_FIVE, memory=MEMORY_FIVE,
    )  # fmt: skip
    return _with_defect(bare, *DEFECT_FIVE)


def _order_eight() -> Tableau:
    from scipy.integrate import DOP853

    a = np.zeros((16, 16))
    a[:12, :12], a[12, :12], a[13:] = DOP853.A, DOP853.B, DOP853.A_EXTRA
    bare = Tableau(
        stages=13, total=16, order=8, a=a, c=np.array([*DOP853.C, 1.0, *DOP853.C_EXTRA]),
        error=DOP853.E5, error_low=DOP853.E3, dense=_with_ends(a, 13, DOP853.D),
        defect=np.empty(0), exponent=0.125, memory=0.0,
    )  # fmt: skip
    return _with_defect(bare, *DEFECT_EIGHT)


# Names of the pairs, the default first.
PAIRS = ("rk5", "rk8")


@cache
def pair_of(name: str) -> Tableau:
    """The pair of a name, made by the first run that uses it."""
    return _order_five() if name == "rk5" else _order_eight()


def _nested() -> NDArray[np.float64]:
    """Polynomials of the differences as `Tableau.dense` nests them, row by row of the nest.

    The polynomial of difference j is prod_m (theta - 1 + m)/(m + 1), m < j, less its value at
    theta = 0, where the step begins.
    """
    points = [Fraction(n + 1, HIGHEST + 1) for n in range(HIGHEST)]
    rows = []
    for x in points:
        nest, here = Fraction(1), []
        for d in range(HIGHEST):
            nest *= x if d % 2 == 0 else 1 - x
            here.append(nest)
        rows.append(here)
    values = []
    for x in points:
        product, here = Fraction(1), []
        for j in range(HIGHEST):
            product *= (x - 1 + j) / (j + 1)
            here.append(product + (1 if j == 0 else 0))
        values.append(here)
    nests = np.array(rows, dtype=float)
    return np.linalg.solve(nests, np.array(values, dtype=float))


def backward_tableau(size: int) -> Tableau:
    """What the loop reads of a tableau: rows of `work.k` for `size` entries, and the nest."""
    none = np.empty(0)
    return Tableau(
        stages=3, total=MATRIX_ROWS + 2 * size, order=1, a=np.empty((0, 0)), c=none, error=none,
        error_low=none, dense=_nested(), defect=none, exponent=1.0, memory=0.0,
    )  # fmt: skip
