"""Coefficients of the explicit Runge-Kutta pairs, as data that one compiled loop reads.

Source      order 5: Dormand and Prince, J. Comput. Appl. Math. 6 (1980) 19, with the free
            fourth-order interpolant of Shampine, Math. Comp. 46 (1986) 135;
            order 8: the code DOP853 of Hairer, Norsett and Wanner, Solving Ordinary Differential
            Equations I (2nd edition, 1993), II.5 and II.6, with their seventh-order interpolant.

The order conditions are tested: exactly, in fractions, for order 5, to rounding for order 8.

Backward differentiation reads of a tableau only how its dense output is nested.

Both interpolants are one order below their solution, and over the long steps at the border of
stability far less accurate than it: they have an error estimate of their own, the defect
u' - f(u) at one point (Enright and others, ACM Trans. Math. Softw. 12 (1986) 193), which
controls the steps in which they are read.
"""

from __future__ import annotations

from fractions import Fraction
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

EIGHT_C = (
    0.0,
    0.05260015195876773,
    0.0789002279381516,
    0.1183503419072274,
    0.2816496580927726,
    0.3333333333333333,
    0.25,
    0.3076923076923077,
    0.6512820512820513,
    0.6,
    0.8571428571428571,
    1.0,
    1.0,
    0.1,
    0.2,
    0.7777777777777778,
)
EIGHT_A: dict[int, dict[int, float]] = {
    1: {0: 0.05260015195876773},
    2: {0: 0.0197250569845379, 1: 0.0591751709536137},
    3: {0: 0.02958758547680685, 2: 0.08876275643042054},
    4: {0: 0.2413651341592667, 2: -0.8845494793282861, 3: 0.924834003261792},
    5: {0: 0.037037037037037035, 3: 0.17082860872947386, 4: 0.12546768756682242},
    6: {0: 0.037109375, 3: 0.17025221101954405, 4: 0.06021653898045596, 5: -0.017578125},
    7: {
        0: 0.03709200011850479,
        3: 0.17038392571223998,
        4: 0.10726203044637328,
        5: -0.015319437748624402,
        6: 0.008273789163814023,
    },
    8: {
        0: 0.6241109587160757,
        3: -3.3608926294469414,
        4: -0.868219346841726,
        5: 27.59209969944671,
        6: 20.154067550477894,
        7: -43.48988418106996,
    },
    9: {
        0: 0.47766253643826434,
        3: -2.4881146199716677,
        4: -0.590290826836843,
        5: 21.230051448181193,
        6: 15.279233632882423,
        7: -33.28821096898486,
        8: -0.020331201708508627,
    },
    10: {
        0: -0.9371424300859873,
        3: 5.186372428844064,
        4: 1.0914373489967295,
        5: -8.149787010746927,
        6: -18.52006565999696,
        7: 22.739487099350505,
        8: 2.4936055526796523,
        9: -3.0467644718982196,
    },
    11: {
        0: 2.273310147516538,
        3: -10.53449546673725,
        4: -2.0008720582248625,
        5: -17.9589318631188,
        6: 27.94888452941996,
        7: -2.8589982771350235,
        8: -8.87285693353063,
        9: 12.360567175794303,
        10: 0.6433927460157636,
    },
    12: {
        0: 0.054293734116568765,
        5: 4.450312892752409,
        6: 1.8915178993145003,
        7: -5.801203960010585,
        8: 0.3111643669578199,
        9: -0.1521609496625161,
        10: 0.20136540080403034,
        11: 0.04471061572777259,
    },
    13: {
        0: 0.056167502283047954,
        6: 0.25350021021662483,
        7: -0.2462390374708025,
        8: -0.12419142326381637,
        9: 0.15329179827876568,
        10: 0.00820105229563469,
        11: 0.007567897660545699,
        12: -0.008298,
    },
    14: {
        0: 0.03183464816350214,
        5: 0.028300909672366776,
        6: 0.053541988307438566,
        7: -0.05492374857139099,
        10: -0.00010834732869724932,
        11: 0.0003825710908356584,
        12: -0.00034046500868740456,
        13: 0.1413124436746325,
    },
    15: {
        0: -0.42889630158379194,
        5: -4.697621415361164,
        6: 7.683421196062599,
        7: 4.06898981839711,
        8: 0.3567271874552811,
        12: -0.0013990241651590145,
        13: 2.9475147891527724,
        14: -9.15095847217987,
    },
}
EIGHT_ERROR_5: dict[int, float] = {
    0: 0.01312004499419488,
    5: -1.2251564463762044,
    6: -0.4957589496572502,
    7: 1.6643771824549864,
    8: -0.35032884874997366,
    9: 0.3341791187130175,
    10: 0.08192320648511571,
    11: -0.022355307863886294,
}
EIGHT_DENSE: dict[int, dict[int, float]] = {
    0: {
        0: -8.428938276109013,
        5: 0.5667149535193777,
        6: -3.0689499459498917,
        7: 2.38466765651207,
        8: 2.117034582445028,
        9: -0.871391583777973,
        10: 2.2404374302607883,
        11: 0.6315787787694688,
        12: -0.08899033645133331,
        13: 18.148505520854727,
        14: -9.194632392478356,
        15: -4.436036387594894,
    },
    1: {
        0: 10.427508642579134,
        5: 242.28349177525817,
        6: 165.20045171727028,
        7: -374.5467547226902,
        8: -22.113666853125306,
        9: 7.733432668472264,
        10: -30.674084731089398,
        11: -9.332130526430229,
        12: 15.697238121770845,
        13: -31.139403219565178,
        14: -9.35292435884448,
        15: 35.81684148639408,
    },
    2: {
        0: 19.985053242002433,
        5: -387.0373087493518,
        6: -189.17813819516758,
        7: 527.8081592054236,
        8: -11.57390253995963,
        9: 6.8812326946963,
        10: -1.0006050966910838,
        11: 0.7777137798053443,
        12: -2.778205752353508,
        13: -60.19669523126412,
        14: 84.32040550667716,
        15: 11.99229113618279,
    },
    3: {
        0: -25.69393346270375,
        5: -154.18974869023643,
        6: -231.5293791760455,
        7: 357.6391179106141,
        8: 93.40532418362432,
        9: -37.45832313645163,
        10: 104.0996495089623,
        11: 29.8402934266605,
        12: -43.53345659001114,
        13: 96.32455395918828,
        14: -39.17726167561544,
        15: -149.72683625798564,
    },
}

# The lower estimate compares with a third-order formula on stages 0, 8 and 11.
EIGHT_THIRD: dict[int, float] = {
    0: 0.244094488188976377952755905512,
    8: 0.733846688281611857341361741547,
    11: 0.0220588235294117647058823529412,
}

# Where the defect is read, and the largest error of the interpolant in units of the defect there.
# Errors of leading order are theta^2 (1 - theta)^2 times a polynomial of degree 1 (order 5) or 4
# (order 8). Of random combinations of its trees nine in ten have at most this ratio; the places
# are those at which it is smallest.
DEFECT_FIVE, DEFECT_EIGHT = (0.55, 0.5), (0.7, 0.3)
# Errors of the interpolant that are taken, in tolerances: as large as those that steps sum up to.
DENSE_TOLERANCES = 2.0

# The controller's constants are Hairer's: PI for order 5, plain for order 8.
MEMORY_FIVE = 0.04


def _filled(rows: dict[int, dict[int, float]], shape: tuple[int, int]) -> NDArray[np.float64]:
    array = np.zeros(shape)
    for i, row in rows.items():
        for j, value in row.items():
            array[i, j] = value
    return array


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
    a = _filled(EIGHT_A, (16, 16))
    low = a[12, :13].copy()
    for j, value in EIGHT_THIRD.items():
        low[j] -= value
    bare = Tableau(
        stages=13, total=16, order=8, a=a, c=np.array(EIGHT_C),
        error=_filled({0: EIGHT_ERROR_5}, (1, 13))[0], error_low=low,
        dense=_with_ends(a, 13, _filled(EIGHT_DENSE, (4, 16))), defect=np.empty(0),
        exponent=0.125, memory=0.0,
    )  # fmt: skip
    return _with_defect(bare, *DEFECT_EIGHT)


TABLEAUX: dict[str, Tableau] = {"rk5": _order_five(), "rk8": _order_eight()}


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
