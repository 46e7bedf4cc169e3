"""Averages of four signs, the one integral of this calculus that is not elementary."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import mpmath
import sympy as sp

from dmft.gaussian.closed.bivariate import mpmath_numbers
from dmft.gaussian.closed.pair import CorrelationAngle, CorrelationRoot, HalfTangent

# Upper triangle of a (4, 4) covariance, row by row: the order of the arguments.
UPPER = tuple((i, j) for i in range(4) for j in range(i, 4))
Matrix = list[list[Any]]


def _matrix(entries: tuple[Any, ...]) -> Matrix:
    table = dict(zip(UPPER, entries, strict=True))
    return [[table[min(i, j), max(i, j)] for j in range(4)] for i in range(4)]


class FourSigns(sp.Function):
    """E[sign(x1) sign(x2) sign(x3) sign(x4)] of centred fields, from C11, C12, C13, ... C44.

    Equation    (4/pi^2) sum_{i<j} int_0^1 dt R_ij (1 - t^2 R_ij^2)^{-1/2} asin rho_{kl|ij}(t R)
    Valid for   positive semi-definite C with positive variances; exact, evalf to any precision
    Source      theory/one_pass A.3 (P_4 = (1 + sum_{i<j} E[sign_i sign_j] + this) / 16)
    """

    nargs = 10
    is_real = True

    @classmethod
    def eval(cls, *entries: sp.Expr) -> sp.Expr | None:
        """Exact where two fields are parallel or nothing is correlated with a field."""
        C = _matrix(entries)
        if any(all(C[i][j] == 0 for j in range(4) if j != i) for i in range(4)):
            return sp.S.Zero
        for i, j in combinations(range(4), 2):
            angle = CorrelationAngle(C[i][i], C[j][j], C[i][j])
            if angle in (sp.pi / 2, -sp.pi / 2):
                k, l = (n for n in range(4) if n not in (i, j))  # noqa: E741
                rest = CorrelationAngle(C[k][k], C[l][l], C[k][l])
                return sp.sign(angle) * 2 / sp.pi * rest
        return None

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        numbers = mpmath_numbers(self.args, prec, 2 * prec + 20)
        if numbers is None:
            return None
        with mpmath.workprec(2 * prec + 20):
            return sp.Float._new(_four_signs(_matrix(tuple(numbers)))._mpf_, prec)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"S_4{power}\left({', '.join(printer._print(a) for a in self.args)}\right)"


def _four_signs(C: Matrix) -> Any:
    """Integrate Plackett's identity at the working precision of mpmath."""
    mp = mpmath.mp
    R = [[C[i][j] / mp.sqrt(C[i][i] * C[j][j]) for j in range(4)] for i in range(4)]

    pairs = [(*pair, *(n for n in range(4) if n not in pair)) for pair in combinations(range(4), 2)]

    def density(t: Any) -> Any:
        total = mp.mpf(0)
        moved = [[t * r for r in row] for row in R]
        for i, j, k, l in pairs:  # noqa: E741
            # Covariances of j, k, l given that field i vanishes.
            a, b, c = (moved[i][n] for n in (j, k, l))
            jj, kk, ll = 1 - a * a, 1 - b * b, 1 - c * c
            jk, jl, kl = moved[j][k] - a * b, moved[j][l] - a * c, moved[k][l] - b * c
            cross = kl - jk * jl / jj
            first, second = kk - jk**2 / jj, ll - jl**2 / jj
            root = mp.sqrt(max(first * second - cross**2, mp.mpf(0)))
            total += R[i][j] / mp.sqrt(jj) * mp.atan2(cross, root)
        return total

    return 4 / mp.pi**2 * mp.quad(density, [0, 1])


class PairOfSignsMoment(sp.Function):
    """E[x y sign(u) sign(v)] from C_uu, C_vv, C_uv, C_xu, C_xv, C_yu, C_yv, C_xy.

    Kept in one piece, because its elementary form is 0/0 where u and v coincide; code takes the
    regular form, whose sums over x and y factor.
    """

    nargs = 8
    is_real = True

    def formula(self) -> sp.Expr:
        """The same with angle and root."""
        uu, vv, uv, xu, xv, yu, yv, xy = self.args
        terms = xu * (yv - yu * uv / uu) + xv * (yu - yv * uv / vv)
        return 2 / sp.pi * (xy * CorrelationAngle(uu, vv, uv) + terms / CorrelationRoot(uu, vv, uv))

    def regular(self) -> sp.Expr:
        """The same, accurate where u and v are nearly parallel and finite where they are."""
        uu, vv, uv, xu, xv, yu, yv, xy = self.args
        (a, b), (c, d) = ((u / sp.sqrt(uu), v / sp.sqrt(vv)) for u, v in ((xu, xv), (yu, yv)))
        terms = (a + b) * (c + d) * HalfTangent(uu, vv, uv)
        terms -= (a - b) * (c - d) * HalfTangent(uu, vv, -uv)
        return 2 / sp.pi * (xy * CorrelationAngle(uu, vv, uv) + terms / 2)


class FourSignsMoment(sp.Function):
    """E[|x3| |x4| sign(x1) sign(x2)] from the ten covariances C11, C12, C13, ... C44.

    Kept in one piece for compiled code, because the expanded form is 0/0 where fields coincide.
    """

    nargs = 10
    is_real = True

    def formula(self) -> sp.Expr:
        """The same by Stein's identity, with angles and roots of conditional covariances."""
        C = _matrix(self.args)
        total = C[2][3] * FourSigns(*self.args)
        for j in range(4):
            rest = [n for n in range(4) if n != j]
            D = {(a, b): C[a][b] - C[a][j] * C[j][b] / C[j][j] for a in range(4) for b in rest}
            for k in rest:
                l, m = (n for n in rest if n != k)  # noqa: E741
                E = [D[a, b] - D[a, k] * D[b, k] / D[k, k] for a, b in ((l, l), (m, m), (l, m))]
                weight = C[2][j] / sp.sqrt(C[j][j]) * D[3, k] / sp.sqrt(D[k, k])
                total += 4 / sp.pi**2 * weight * CorrelationAngle(*E)
        return total
