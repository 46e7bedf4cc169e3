r"""The constraint of the sphere inside the averages: along h_j is taken out before it is summed.

With b_ji = E[psi_j lambda_i] the printed rates are b_j,p+r - M_jr b_jj + ... . By Stein's identity
b is linear in the covariances of lambda_i, which the constraint makes those of the tangential field
lambda_i - Omega_ij h_j (at Q_jj = 1):

    b_ji - Omega_ij b_jj = b_ji with Omega_iy - Omega_ij Omega_jy in place of Omega_iy.

The two sides are equal symbol by symbol. In floats the left one subtracts a number of order m twice
to find one of order m^(n-1), where n is the information exponent; on the right what cancels is
exactly zero before it is multiplied. The reference and the code both evaluate the right side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import on_nodes
from dmft.equations.definitions import Definition, Together
from dmft.equations.update.overlaps import ON_SPHERE
from dmft.equations.update.rates import LINE_COVARIANCES

# What the constraint makes of the free rate Phi of Q.
CONSTRAINT = (x.Phi[x.j, x.l], *ON_SPHERE.values())


def projected(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    """Rates on the sphere with tangential drifts; other systems stay as they are.

    A drift that is an average on nodes keeps the printed form, and so does what a user's term
    reads, and a constraint that was changed.
    """
    named = {d.name: dict(d.terms) for d in definitions if d.role in ("intermediate", "rate")}
    if "Phi" not in named or "sphere" not in named.get("M", {}):
        return tuple(definitions)
    if sorted(_readers(definitions, x.Phi), key=str) != sorted(CONSTRAINT, key=str):
        return tuple(definitions)
    drifts = (_drift(d, named["Phi"], named["M"]) for d in definitions)
    taken = dict(
        drift for drift in drifts if drift is not None and len(_readers(definitions, drift[1])) == 2
    )
    rest = {name: e for name, e in named["Phi"].items() if name not in taken}
    result = []
    for d in definitions:
        terms = dict(d.terms)
        if d.name == "Phi":
            terms = rest
        elif isinstance(d.target, sp.Indexed) and d.target.base in taken.values():
            terms = {name: _tangential(e) for name, e in terms.items()}
        elif d.role == "rate" and "sphere" in terms:
            if d.name == "Q":
                terms = {name: named["Phi"][name] for name in taken} | terms
            if not rest:
                terms = {n: e for n, e in terms.items() if n not in ("free", "sphere")}
        if terms or d.name != "Phi":
            result.append(replace(d, terms=tuple(terms.items())))
    return tuple(result)


def _readers(definitions: Sequence[Definition], base: sp.IndexedBase) -> list[sp.Expr]:
    """Terms that read an array."""
    moved = [e for d in definitions if d.role in ("intermediate", "rate") for _, e in d.terms]
    return [e for e in moved if base in e.atoms(sp.IndexedBase)]


def _drift(
    d: Definition, free: Mapping[str, sp.Expr], moved: Mapping[str, sp.Expr]
) -> tuple[str, sp.IndexedBase] | None:
    """Name and base of a term of both rates whose average is closed; None for anything else."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    if d.role != "intermediate" or d.indices != (j, x.i) or on_nodes(d.expr):
        return None
    if not all(_is_linear(e) for e in d.expr.atoms(sp.Indexed) if x.i in e.indices):
        return None
    b = d.target.base
    for name, e in moved.items():
        if e == b[j, p + r] and free.get(name) == b[j, l] + b[l, j]:
            return name, b
    return None


def _is_linear(entry: sp.Indexed) -> bool:
    """Whether an entry is linear in the field lambda_i, and known to be so by `_tangential`."""
    of_field = x.is_mean(entry.base) or str(entry.base) in LINE_COVARIANCES
    return entry.base == x.Omega or (of_field and entry.indices == (x.i,))


def _tangential(expr: sp.Expr) -> sp.Expr:
    """E[psi_j lambda_i] of the tangential field, in place of lambda_i.

    It is linear in Omega_iy, in the mean of lambda_i, and in its covariances with what a loss sees
    of linear students.
    """
    assert not any(q.has(x.i) for q in expr.atoms(Expectation)), expr
    along = x.covariance(x.lam[x.i], x.h[x.j])
    entries = {}
    for e in expr.atoms(sp.Indexed):
        if e.base == x.Omega and x.i in e.indices:
            other = next(y for y in e.indices if y != x.i)
            entries[e] = Together(e - along * x.covariance(x.h[x.j], x.lam[other]))
        elif x.i in e.indices and _is_linear(e):
            entries[e] = Together(e - along * e.base[x.j])
    return expr.xreplace(entries)
