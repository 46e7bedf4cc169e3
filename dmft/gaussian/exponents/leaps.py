"""Order in which directions of a multi-index target can be learned: steps, exact for polynomials.

A step finds the smallest k at which E[T(y) phi(U h) H_k(V h)] does not vanish for all phi (and T),
U the directions learned so far and V those orthogonal to them, and adds the span of that tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import perm

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.exponents.coefficients import Index, indices

# Orders that are tried.
MAX_ORDER = 10


@dataclass(frozen=True)
class LeapStep:
    """Step of learning, with its order, new directions and largest coefficient.

    Attributes
    ----------
    order : int
        Order k of the tensor that the step overcomes.
    directions : (n, k) ndarray
        New directions, as orthonormal rows.
    index : tuple of int
        Multi-index, over the directions not yet learned, of the largest coefficient.
    strength : sympy.Expr
        Value of this coefficient (for functions of unit norm, if it is numerical).
    transformation : sympy.Expr
        Function T(y) of this coefficient; y for leap exponents without transformation.
    error : float
        Error of the quadrature; 0 if the value is exact.
    largest_zero : float
        Largest coefficient that is treated as zero.
    basis : (m, k) ndarray
        Directions to which the indices refer.
    coefficients : tuple
        Nonzero entries of the tensor: (index, largest value over phi and T, T).
    feature : sympy.Expr or None
        Function phi of the value, if it is known in closed form.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z1, z2 = sp.symbols("z1 z2", real=True)
    >>> step = dmft.leap_exponent(z1 + z2**3 - 3*z2, [z1, z2]).steps[1]
    >>> step.order, step.directions.tolist()
    (3, [[0.0, 1.0]])
    """

    order: int
    directions: Array
    index: Index
    strength: sp.Expr
    transformation: sp.Expr
    error: float = 0.0
    largest_zero: float = 0.0
    basis: Array = field(default_factory=lambda: np.ones((1, 1)))
    coefficients: tuple[tuple[Index, sp.Expr, sp.Expr], ...] = ()
    feature: sp.Expr | None = None

    def names(self, fields: Sequence[sp.Symbol]) -> list[sp.Expr]:
        """Return the directions to which the indices refer, as combinations of the fields.

        Parameters
        ----------
        fields : sequence of sympy.Symbol
            Of the target.

        Returns
        -------
        list of sympy.Expr
            One for each row of `basis`.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z1, z2 = sp.symbols("z1 z2", real=True)
        >>> step = dmft.leap_exponent(z1 + z2**3 - 3*z2, [z1, z2]).steps[1]
        >>> step.names([z1, z2])
        [z2]
        """
        return [as_combination(v, fields) for v in self.basis]


Y = sp.Symbol("y", real=True)


def polynomial_steps(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[LeapStep]:
    """Steps of a polynomial with rational coefficients, in rational arithmetic.

    Equation    E[phi(U h) H_k(V h) y] vanishes for all phi iff E[d_V^k y | U h] is the zero
                polynomial (Stein)
    Source      theory/batch_reuse D.4
    """
    polynomial = sp.Poly(expr, *fields)
    width = len(fields)
    learned: list[sp.Matrix] = []
    steps: list[LeapStep] = []
    while True:
        rest = _orthogonal_complement(learned, width)
        conditional = conditional_derivatives(polynomial, learned, rest)
        if not conditional:
            return steps
        order = min(sum(alpha) for alpha in conditional)
        tensor = {a: p for a, p in conditional.items() if sum(a) == order}
        rows = [
            sum((w * b / b.dot(b) for w, b in zip(column, rest, strict=True)), sp.zeros(width, 1))
            for column in _unfolded(tensor, len(rest), order)
        ]
        new = _gram_schmidt([sp.Matrix(v) for v in sp.Matrix.hstack(*rows).columnspace()])
        entries = [(a, max(p.values(), key=abs), Y) for a, p in tensor.items()]
        index, strength, _ = max(entries, key=lambda entry: abs(entry[1]))
        directions = canonical(_unit_rows(new))
        step = LeapStep(order, directions, index, strength, Y, basis=_unit_rows(rest))
        steps.append(replace(step, coefficients=tuple(entries)))
        learned = learned + new


def _unit_rows(vectors: Sequence[sp.Matrix]) -> Array:
    rows = np.array([np.array(v.T, dtype=float)[0] for v in vectors])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _gram_schmidt(vectors: Sequence[sp.Matrix]) -> list[sp.Matrix]:
    """Orthogonal, not normalised: entries stay rational."""
    return [sp.Matrix(v) for v in sp.GramSchmidt(list(vectors))]


def _orthogonal_complement(learned: Sequence[sp.Matrix], width: int) -> list[sp.Matrix]:
    if not learned:
        return [sp.eye(width).col(i) for i in range(width)]
    return _gram_schmidt(sp.Matrix.hstack(*learned).T.nullspace())


def conditional_derivatives(
    polynomial: sp.Poly, learned: Sequence[sp.Matrix], rest: Sequence[sp.Matrix]
) -> dict[Index, dict[Index, sp.Expr]]:
    """E[d_v^alpha y | u] for |alpha| >= 1 as {alpha: {monomial of u: coefficient}}, zeros dropped.

    h = sum_i u_i a_i + sum_i v_i b_i with orthogonal a, b: v_i ~ N(0, 1/|b_i|^2) independent.
    """
    if not rest:
        return {}
    basis = [*learned, *rest]
    coordinates = [sp.Dummy() for _ in basis]
    image = sp.Matrix.hstack(*basis) * sp.Matrix(coordinates)
    rotated = sp.Poly(
        polynomial.as_expr().xreplace(dict(zip(polynomial.gens, image, strict=True))), *coordinates
    )
    variances = [1 / b.dot(b) for b in rest]
    result: dict[Index, dict[Index, sp.Expr]] = {}
    for powers, coefficient in rotated.terms():
        u, v = powers[: len(learned)], powers[len(learned) :]
        for alpha in _even_gaps(v):
            if not any(alpha):
                continue
            weight = coefficient
            for m, a, s in zip(v, alpha, variances, strict=True):
                weight *= perm(m, a) * sp.factorial2(m - a - 1) * s ** ((m - a) // 2)
            table = result.setdefault(alpha, {})
            table[u] = table.get(u, sp.S.Zero) + weight
    cleaned = {a: {u: c for u, c in t.items() if c != 0} for a, t in result.items()}
    return {a: t for a, t in cleaned.items() if t}


def _even_gaps(powers: Index) -> list[Index]:
    """All alpha <= powers with powers - alpha even in each entry."""
    if not powers:
        return [()]
    return [(a, *rest) for a in range(powers[0], -1, -2) for rest in _even_gaps(powers[1:])]


def _unfolded(
    tensor: dict[Index, dict[Index, sp.Expr]], width: int, order: int
) -> list[list[sp.Expr]]:
    """Columns of the tensor's first unfolding, over monomials of u and the other slots."""
    monomials = sorted({u for table in tensor.values() for u in table})
    columns = []
    for others in indices(width, order - 1):
        for u in monomials:
            raised = [tuple(o + (i == j) for j, o in enumerate(others)) for i in range(width)]
            column = [tensor.get(a, {}).get(u, sp.S.Zero) for a in raised]
            if any(column):
                columns.append(column)
    return columns


def as_combination(vector: Array, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """A direction as a combination of fields, its largest entry one."""
    scaled = vector / vector[np.argmax(np.round(np.abs(vector), 9))]
    terms = [_number(float(a)) * x for a, x in zip(scaled, fields, strict=True) if abs(a) > 1e-8]
    return sp.Add(*terms)


def _number(a: float) -> sp.Expr:
    """A fraction of small denominator where one fits, otherwise four digits."""
    fraction = Fraction(a).limit_denominator(12)
    return sp.Rational(fraction) if abs(a - fraction) < 1e-8 else sp.Float(a, 4)


def canonical(directions: Array) -> Array:
    """Orthonormal basis of the same span that names coordinates where it can; signs fixed."""
    projector = directions.T @ directions
    basis: list[Array] = []
    for _ in range(len(directions)):
        # Pivot on the coordinate that lies most within what is left of the span.
        pivot = int(np.argmax(np.round(np.diag(projector), 9)))
        vector = projector[pivot] / np.sqrt(projector[pivot, pivot])
        basis.append(vector)
        projector = projector - np.outer(vector, vector)
    clean = np.array(basis)
    clean[np.abs(clean) < 1e-9] = 0.0
    return clean
