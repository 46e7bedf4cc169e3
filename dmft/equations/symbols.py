"""Indices, bases and parameters that every equation is written in.

Students are numbered by j, l = 1..p, teachers by r, s = 1..k, and all local fields
lambda = (h, h*) by i, m, n = 1..p+k; teacher r sits at position p + r.
"""

from __future__ import annotations

import sympy as sp

p, k = sp.symbols("p k", integer=True, positive=True)
j, l, r, s, i, m, n = sp.symbols("j l r s i m n", integer=True)  # noqa: E741
# Student indices of sums that stand inside expressions with free j and l.
u, v = sp.symbols("u v", integer=True)
# Nodes of an average that has no closed form, and their number.
node = sp.Symbol("node", integer=True)
nodes = sp.Symbol("nodes", integer=True, positive=True)
gamma = sp.Symbol("learning_rate", positive=True)
Delta = sp.Symbol("label_noise", nonnegative=True)

Q, M, P, Omega = (sp.IndexedBase(name) for name in ("Q", "M", "P", "Omega"))
a, a_star, c = (sp.IndexedBase(name) for name in ("readout", "teacher_readout", "c"))
h, h_star, lam = (sp.IndexedBase(name) for name in ("h", "h_star", "lambda"))
learning, interaction, Phi = (sp.IndexedBase(x) for x in ("b_learning", "b_interaction", "Phi"))
# Averages on nodes: standard normal points and weights, a root of Omega, the fields at the nodes.
normal, weight, root = (sp.IndexedBase(y) for y in ("normal", "weight", "root"))
lam_at = sp.IndexedBase("lambda_at")
# Quadratic term on nodes, that of its closed-form neighbour on the same nodes and in closed form.
S, S_near, S_closed = (sp.IndexedBase(y) for y in ("S", "S_near", "S_closed"))
risk = sp.Symbol("risk", real=True)

SYMMETRIC = frozenset({"Q", "P", "Omega", "Phi", "S", "S_near", "S_closed"})
# Displacements around a state (`dmft.equations.tangent`) are symmetric where the arrays are.
SYMMETRIC |= {f"{name}_moved" for name in SYMMETRIC}
# Axis of each index symbol; the sums and the loops run over it.
AXES: dict[sp.Symbol, sp.Expr] = {
    **dict.fromkeys((j, l, u, v), p),
    **dict.fromkeys((r, s), k),
    **dict.fromkeys((i, m, n), p + k),
    node: nodes,
}
SYMBOL_LATEX = {
    gamma: r"\gamma",
    Delta: r"\Delta",
    risk: r"\mathcal{R}",
}
BASE_LATEX = {
    "Omega": r"\Omega",
    "readout": "a",
    "teacher_readout": "a^*",
    "h_star": "h^*",
    "lambda": r"\lambda",
    "b_learning": r"b^{\mathrm{lrn}}",
    "b_interaction": r"b^{\mathrm{int}}",
    "Phi": r"\Phi",
}
BASE_TEXT = {
    "Omega": "Ω",
    "readout": "a",
    "teacher_readout": "a*",
    "h_star": "h*",
    "lambda": "λ",
    "b_learning": "bᴸ",
    "b_interaction": "bᴵ",
    "Phi": "Φ",
}
SYMBOL_TEXT = {gamma: "γ", Delta: "Δ", risk: "R"}


def position(field: sp.Indexed) -> sp.Expr:
    """Position of a local field in lambda = (h, h*)."""
    index = field.indices[0]
    return p + index if field.base == h_star else index


def covariance(x: sp.Expr, y: sp.Expr) -> sp.Expr:
    """Covariance of two local fields: an entry of Omega, indices in one canonical order.

    Linear combinations of local fields give the combination of entries.
    """
    if not (isinstance(x, sp.Indexed) and isinstance(y, sp.Indexed)):
        parts = [[(u, e.coeff(u)) for u in e.atoms(sp.Indexed)] for e in (x, y)]
        return sp.Add(*(c * e * covariance(u, v) for u, c in parts[0] for v, e in parts[1]))
    first, second = sorted((position(x), position(y)), key=sp.default_sort_key)
    return Omega[first, second]
