"""Where an expression is not smooth: zero sets of its switching functions, and break points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import combinations, product

import mpmath
import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from dmft.errors import BadParameter
from dmft.gaussian.closed.switch import SWITCHES

# Digits of the break points: beyond those of any integral that is split at them.
ROOT_DIGITS = 40
# Switching functions that are not polynomials are scanned for sign changes on this many points.
SCAN_POINTS = 4001
# Functions with kinks inside a switching function are replaced by their branches, to this many.
MAX_BRANCHES = 16
# More polynomials than this meet too often to follow: the error of the quadrature judges then.
MAX_PROJECTED = 8


def switches(expr: sp.Expr, fields: tuple[sp.Symbol, ...]) -> list[sp.Expr]:
    """Functions of the fields on whose zero sets the expression, or a derivative, may jump.

    Products are split into factors. Poles and branch points (logarithms, negative and fractional
    powers) count.
    """
    found: set[sp.Expr] = set()
    for atom in sp.preorder_traversal(expr):
        for argument in (b for a in arguments(atom) for b in branches_of(a)):
            for factor in sp.Mul.make_args(sp.factor_terms(argument)):
                base = factor.as_base_exp()[0]
                base = base.args[0] if isinstance(base, sp.Abs | sp.sign) else base
                if base.has_free(*fields):
                    found.add(base)
    return sorted(found, key=sp.default_sort_key)


def arguments(atom: sp.Basic) -> list[sp.Expr]:
    """Switching functions of one node of an expression."""
    if isinstance(atom, sp.Abs | sp.sign | sp.Heaviside | sp.log):
        return [atom.args[0]]
    if isinstance(atom, sp.Max | sp.Min):
        return [a - b for a, b in combinations(atom.args, 2)]
    if isinstance(atom, sp.Piecewise):
        relations = {r for _, condition in atom.args for r in condition.atoms(Relational)}
        return [r.lhs - r.rhs for r in relations]
    if isinstance(atom, sp.floor | sp.ceiling | sp.frac):
        return [sp.sin(sp.pi * atom.args[0])]
    if isinstance(atom, sp.Mod):
        return [sp.sin(sp.pi * atom.args[0] / atom.args[1])]
    if isinstance(atom, sp.Pow) and not (atom.exp.is_Integer and atom.exp > 0):
        return [] if atom.base == sp.E else [atom.base]
    return []


def branches_of(function: sp.Expr) -> list[sp.Expr]:
    """Functions without kinks, one of which is this one wherever it is smooth.

    The zeros of max(a, b) - 1 are among those of a - 1 and b - 1, which are polynomials more often.
    """
    done: list[sp.Expr] = []
    todo = [function]
    while todo and len(todo) + len(done) <= MAX_BRANCHES:
        f = todo.pop()
        kinked = sorted(f.atoms(*SWITCHES), key=sp.default_sort_key)
        if not kinked:
            done.append(f)
            continue
        outer = next(k for k in kinked if not any(o.has(k) for o in kinked if o != k))
        todo += [f.xreplace({outer: value}) for value in values_of(outer)]
    return [function] if todo else list(dict.fromkeys(done))


def values_of(kinked: sp.Expr) -> list[sp.Expr]:
    """What a function with kinks may be."""
    if isinstance(kinked, sp.Abs):
        return [kinked.args[0], -kinked.args[0]]
    if isinstance(kinked, sp.sign):
        return [sp.S.One, sp.S.NegativeOne]
    if isinstance(kinked, sp.Heaviside):
        return [sp.S.One, sp.S.Zero]
    if isinstance(kinked, sp.Piecewise):
        return [value for value, _ in kinked.args]
    return list(kinked.args)


def branch(node: sp.Expr, sign_at: Callable[[sp.Expr], int]) -> sp.Expr:
    """What a function with kinks is where its switching functions have these signs."""
    if isinstance(node, sp.Piecewise):
        for value, condition in node.args:
            # Equations hold on the zero set alone.
            truth = {
                r: sp.true if isinstance(r, sp.Ne) or sign_at(r.gts - r.lts) > 0 else sp.false
                for r in condition.atoms(Relational)
                if not isinstance(r, sp.Eq)
            } | dict.fromkeys(condition.atoms(sp.Eq), sp.false)
            if condition.xreplace(truth) == sp.true:
                return value
        raise BadParameter(f"the pieces of {node} do not cover the line: add a last (value, True)")
    if isinstance(node, sp.Max | sp.Min):
        direction = 1 if isinstance(node, sp.Max) else -1
        return reduce(lambda a, b: b if direction * sign_at(b - a) > 0 else a, node.args)
    side = sign_at(node.args[0])
    if isinstance(node, sp.Abs):
        return side * node.args[0]
    return sp.Integer(side > 0 if isinstance(node, sp.Heaviside) else side)


def exact_zeros(polynomial: sp.Poly) -> list[sp.Expr] | None:
    """Distinct real zeros of a polynomial of one symbol; None where SymPy does not isolate them."""
    if polynomial.domain.is_ZZ or polynomial.domain.is_QQ:
        return list(dict.fromkeys(polynomial.real_roots()))
    if polynomial.degree() != 1:
        return None
    slope, offset = polynomial.all_coeffs()
    return [sp.cancel(-offset / slope)]


def break_points(expr: sp.Expr, x: sp.Symbol, half_width: float) -> list[mpmath.mpf]:
    """Zeros in (-half_width, half_width) of the switching functions of x alone, sorted."""
    return zeros([s for s in switches(expr, (x,)) if s.free_symbols == {x}], x, half_width)


def zeros(functions: Iterable[sp.Expr], x: sp.Symbol, half_width: float) -> list[mpmath.mpf]:
    """All zeros in (-half_width, half_width) of functions of x, sorted."""
    roots: set[mpmath.mpf] = set()
    with mpmath.workdps(ROOT_DIGITS):
        for function in functions:
            finder = _polynomial_roots if function.is_polynomial(x) else _scanned_roots
            roots.update(r for r in finder(function, x, half_width) if abs(r) < half_width)
    return sorted(roots)


def projections(functions: Iterable[sp.Expr], order: Sequence[sp.Symbol]) -> list[list[sp.Expr]]:
    """Functions whose zeros split each axis, when the later axes are integrated out first.

    An integral over x is not smooth in the others where two zeros in x meet, where a pair of them
    appears, and where one leaves to infinity: resultants, discriminants and leading coefficients
    (the projection of cylindrical algebraic decomposition). Entry i holds functions of
    order[0..i] that involve order[i]. What is not polynomial is not projected.
    """
    current = list(functions)
    result: list[list[sp.Expr]] = []
    for x in reversed(order):
        here = [f for f in current if f.has_free(x)]
        result.insert(0, here)
        current = [f for f in current if not f.has_free(x)]
        polynomials = [f for f in here if f.is_polynomial(*order)]
        if len(polynomials) <= MAX_PROJECTED:
            for f in projected(polynomials, polynomials, x):
                if f not in current and -f not in current:
                    current.append(f)
    return result


def projected(
    polynomials: Sequence[sp.Expr], others: Sequence[sp.Expr], x: sp.Symbol
) -> list[sp.Expr]:
    """Irreducible factors of discriminants, leading coefficients and resultants with others in x.

    Where both sequences are the same, each pair counts once.
    """
    same = polynomials is others
    pairs = combinations(polynomials, 2) if same else product(polynomials, others)
    found = [sp.resultant(f, g, x) for f, g in pairs]
    for f in polynomials:
        found.append(sp.LC(f, x))
        if sp.degree(f, x) > 1:
            found.append(sp.discriminant(f, x))
    factors = []
    for f in (sp.numer(sp.together(f)) for f in found):  # irrational numbers stand below, too
        factors += [g for g, _ in sp.factor_list(f)[1]] if f.free_symbols else []
    return factors


def _polynomial_roots(switch: sp.Expr, x: sp.Symbol, half_width: float) -> list[mpmath.mpf]:
    polynomial = sp.Poly(switch, x).sqf_part()
    roots = sp.Poly(sp.N(polynomial.as_expr(), ROOT_DIGITS), x).nroots(n=ROOT_DIGITS, maxsteps=200)
    real = [sp.re(r) for r in roots if abs(sp.im(r)) < 10.0 ** (10 - ROOT_DIGITS)]
    return [mpmath.mpf(str(r)) for r in real]


def _scanned_roots(switch: sp.Expr, x: sp.Symbol, half_width: float) -> list[mpmath.mpf]:
    function = sp.lambdify(x, switch, "mpmath")
    grid = np.linspace(-half_width, half_width, SCAN_POINTS)
    values = [mpmath.re(function(mpmath.mpf(t))) for t in grid]
    roots = [mpmath.mpf(t) for t, v in zip(grid, values, strict=True) if v == 0]
    for i in range(SCAN_POINTS - 1):
        if values[i] * values[i + 1] < 0:
            ends = (mpmath.mpf(grid[i]), mpmath.mpf(grid[i + 1]))
            roots.append(mpmath.findroot(function, ends, solver="anderson", verify=False))
    return roots
