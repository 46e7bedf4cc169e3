"""Averages of signs: of four, which is the one integral here that is not elementary, and moments.

Moments are kept in one piece for code that meets coinciding fields.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import mpmath
import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.closed.bivariate import mpmath_numbers
from dmft.gaussian.closed.pair import CorrelationAngle, CorrelationRoot, Formula, HalfTangent
from dmft.gaussian.closed.wick import times
from dmft.gaussian.law import Law

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


# Covariances of four fields; densities of two of them on the border of the positive orthant, and
# the correlation of the others there; its probability, and the mean of the four signs.
C, F, RHO = (sp.IndexedBase(name, real=True) for name in ("C", "F", r"\rho"))
ORTHANT = sp.Symbol("P_4", real=True)


def orthant_moment(a: int, b: int) -> tuple[sp.Expr, dict[sp.Expr, sp.Expr]]:
    """E[x_a x_b] over the positive orthant of four centred fields, and the terms that it holds.

    Equation    Stein's identity twice; F_qq = 0, and rho_qs is of the fields other than q and s
    Source      theory/one_pass A.3
    """
    q, s = sp.symbols("q s", integer=True, positive=True)
    root = sp.sqrt(C[q, q] * C[s, s] - C[q, s] ** 2)
    across = C[a, q] * (C[b, s] - C[b, q] * C[q, s] / C[q, q]) * F[q, s]
    return C[a, b] * ORTHANT + sp.Sum(across, (q, 1, 4), (s, 1, 4)), {
        F[q, s]: (sp.pi + 2 * sp.asin(RHO[q, s])) / (8 * sp.pi**2 * root)
    }


# Signs that are left where no Gaussian field is: more have no closed form.
MOST_SIGNS = 4
Entries = dict[tuple[int, int], sp.Expr]


class SignsMoment(Formula):
    """E[prod_m x_m^{n_m} prod_a sign(u_a)] of centred fields (u, x), for compiled code.

    Arguments are the numbers of signs and of powers, the powers n_m, and the upper triangle of the
    covariance of (u, x) row by row. The elementary form, by Stein's identity, is 0/0 where fields
    of signs coincide; `dmft.special.signs` cancels such signs at run time.
    """

    def formula(self) -> sp.Expr:
        """The same in angles of conditional covariances."""
        signs, count = int(self.args[0]), int(self.args[1])
        powers = tuple(int(n) for n in self.args[2 : 2 + count])
        rows = signs + count
        upper = [(i, j) for i in range(rows) for j in range(i, rows)]
        C = dict(zip(upper, self.args[2 + count :], strict=True))
        C |= {(j, i): value for (i, j), value in C.items()}
        return _moment(C, tuple(range(signs)), powers, signs)


def _moment(C: Entries, live: tuple[int, ...], powers: tuple[int, ...], first: int) -> sp.Expr:
    """Stein's identity; the fields of powers begin at row `first`."""
    if (sum(powers) + len(live)) % 2:
        return sp.S.Zero
    x = next((m for m, n in enumerate(powers) if n), None)
    if x is None:
        return _signs(C, live)
    left = tuple(n - (m == x) for m, n in enumerate(powers))
    row = first + x
    total = [
        times(sp.Integer(n), C[row, first + m], _moment(C, live, _lowered(left, m), first))
        for m, n in enumerate(left)
        if n
    ]
    for a in live:
        rest = tuple(b for b in live if b != a)
        D = {(i, j): c - C[i, a] * C[a, j] / C[a, a] for (i, j), c in C.items() if a not in (i, j)}
        weight = sp.sqrt(2 / sp.pi) * C[row, a] / sp.sqrt(C[a, a])
        total.append(times(weight, _moment(D, rest, left, first)))
    return sp.Add(*total)


def _lowered(powers: tuple[int, ...], m: int) -> tuple[int, ...]:
    return tuple(n - (i == m) for i, n in enumerate(powers))


def _signs(C: Entries, live: tuple[int, ...]) -> sp.Expr:
    if not live:
        return sp.S.One
    if len(live) == 2:
        a, b = live
        return 2 / sp.pi * CorrelationAngle(C[a, a], C[b, b], C[a, b])
    return FourSigns(*(C[live[i], live[j]] for i in range(4) for j in range(i, 4)))


def signs_moment(
    law: Law, polynomials: dict[Any, dict[int, sp.Expr]], erfs: tuple[Any, ...]
) -> sp.Expr | None:
    """E[prod p_x(x) prod sign] in pieces that stay whole, None where Stein's form is regular.

    An error function is the sign of its field with independent noise added.
    """
    pure = [x for x, a, _ in erfs if a is sp.oo]
    labels = [*(x for x, *_ in erfs), *polynomials]
    shifted = any(c != 0 for *_, c in erfs) or any(law.m(x) != 0 for x in labels)
    if len(pure) < 2 or shifted or all(map(_fixed, pure)):
        return None
    if any(law.C(x, x).is_number for x in labels):
        return None
    # |x y| times powers of x and y, and x y sign(x) sign(u): the divisions cancel.
    bilinear = sum(max(p) for p in polynomials.values()) == 2
    covered = [x in polynomials for x in pure]
    alone = all(covered) and set(polynomials) <= set(pure)
    if len(erfs) == 2 and (alone or (bilinear and any(covered))):
        return None
    side = sp.Mul(*(sp.sign(a) for _, a, _ in erfs if a is not sp.oo))
    noise = [0 if a is sp.oo else 1 / (2 * a**2) for _, a, _ in erfs]
    upper = [
        law.C(labels[i], labels[j]) + (noise[i] if i == j and i < len(noise) else 0)
        for i in range(len(labels))
        for j in range(i, len(labels))
    ]
    monomials: list[tuple[tuple[int, ...], sp.Expr]] = [((), side)]
    for powers in polynomials.values():
        monomials = [((*n, m), c * e) for n, c in monomials for m, e in powers.items()]
    return sp.Add(*(times(c, _piece(len(erfs), n, upper)) for n, c in monomials))


def _fixed(label: Any) -> bool:
    """Whether a field has a constant index: two of those never coincide in a loop."""
    fields = label.atoms(sp.Indexed) if isinstance(label, sp.Basic) else set()
    return bool(fields) and not any(i.free_symbols for e in fields for i in e.indices)


def _piece(signs: int, powers: tuple[int, ...], upper: list[sp.Expr]) -> sp.Expr:
    if (sum(powers) + signs) % 2:
        return sp.S.Zero
    # An odd number of powers takes at least one sign away.
    if signs > MOST_SIGNS + sum(powers) % 2:
        raise NotClosed(f"it leaves a product of {signs} sign functions")
    return SignsMoment(signs, len(powers), *powers, *upper)
