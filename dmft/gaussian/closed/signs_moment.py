"""Moments of products of signs in one piece, for code that meets coinciding fields."""

from __future__ import annotations

from typing import Any

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.closed.orthant import FourSigns
from dmft.gaussian.closed.pair import CorrelationAngle, Formula
from dmft.gaussian.closed.wick import times
from dmft.gaussian.law import Law

# Signs that are left where no Gaussian field is: more have no closed form.
MOST_SIGNS = 4
Matrix = dict[tuple[int, int], sp.Expr]


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


def _moment(C: Matrix, live: tuple[int, ...], powers: tuple[int, ...], first: int) -> sp.Expr:
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


def _signs(C: Matrix, live: tuple[int, ...]) -> sp.Expr:
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
    return sp.Add(*(times(c, _piece(law, labels, len(erfs), n, upper)) for n, c in monomials))


def _fixed(label: Any) -> bool:
    """Whether a field has a constant index: two of those never coincide in a loop."""
    fields = label.atoms(sp.Indexed) if isinstance(label, sp.Basic) else set()
    return bool(fields) and not any(i.free_symbols for e in fields for i in e.indices)


def _piece(
    law: Law, labels: list[Any], signs: int, powers: tuple[int, ...], upper: list[sp.Expr]
) -> sp.Expr:
    if (sum(powers) + signs) % 2:
        return sp.S.Zero
    # An odd number of powers takes at least one sign away.
    if signs > MOST_SIGNS + sum(powers) % 2:
        raise NotClosed(f"it leaves a product of {signs} sign functions")
    return SignsMoment(signs, len(powers), *powers, *upper)
