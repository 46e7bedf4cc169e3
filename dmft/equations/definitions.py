"""Ordered definitions, each an indexed target as a sum of named terms, and what stands in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.symbols import IN_CLUSTER, SYMMETRIC

# Weights and scales of a mixture of error functions.
Role = Literal["block", "sample", "intermediate", "rate", "observable"]

# A field of variance zero (a unit of length zero) is one of this variance: what is computed is the
# limit of small variances, to its square root, and its inverse powers do not overflow.
LEAST_VARIANCE = 2.0**-200


# Names of Gaussian combinations of fields (`dmft.equations.symbols.LINES`).
LINES = frozenset({"output", "residual"})


@dataclass(frozen=True)
class Definition:
    """Equation `target = sum of terms`, for all values of the indices of `target`.

    Attributes
    ----------
    target : sympy.Indexed or sympy.Symbol
    terms : tuple of (name, expression)
    role : "block" (assembles c or Omega), "sample" (a random field of one sample), "intermediate",
        "rate" (d target / dt) or "observable"
    factor : sympy.Symbol or None
        Nonnegative parameter at whose value 0 the definition vanishes. Code then skips it.

    Examples
    --------
    >>> import dmft
    >>> sgd = dmft.SGD(0.05, constraint="sphere")
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
    >>> rate = next(d for d in eqs.definitions if d.role == "rate")
    >>> rate.target, [name for name, _ in rate.terms]
    (M[j, r], ['learning', 'interaction', 'sphere'])
    """

    target: sp.Expr
    terms: tuple[tuple[str, sp.Expr], ...]
    role: Role
    factor: sp.Symbol | None = None

    @property
    def name(self) -> str:
        """Name of the base that is defined."""
        return base_name(self.target)

    @property
    def expr(self) -> sp.Expr:
        """Sum of all terms."""
        return sp.Add(*(e for _, e in self.terms))

    @property
    def indices(self) -> tuple[sp.Symbol, ...]:
        """Free index symbols of the target, outermost first."""
        if not isinstance(self.target, sp.Indexed):
            return ()
        running = (running_symbol(x) for x in self.target.indices)
        return tuple(symbol for symbol in running if symbol is not None)

    @property
    def holds_variances(self) -> bool:
        """Whether it defines a diagonal block of the covariance of the fields."""
        if self.role != "block" or not is_covariance(self.name):
            return False
        first, second = (index - index_symbol(index) for index in self.target.indices)
        return bool(first == second)

    def without(self, name: str) -> Definition:
        """Return the definition without one named term.

        Parameters
        ----------
        name : str
            Name of the term. If there is no such term, nothing changes.

        Returns
        -------
        Definition
            New definition.

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> rate = next(d for d in eqs.definitions if d.role == "rate")
        >>> [name for name, _ in rate.without("sphere").terms]
        ['learning', 'interaction']
        """
        return replace(self, terms=tuple((t, e) for t, e in self.terms if t != name))


def mapped(
    d: Definition, change: Callable[[sp.Expr], sp.Expr] | Mapping[Any, sp.Expr]
) -> Definition:
    """A definition with changed terms, by a function or a table, without those that vanish."""
    made = change if callable(change) else lambda e: e.xreplace(change)
    terms = ((name, made(e)) for name, e in d.terms)
    return replace(d, terms=tuple((name, e) for name, e in terms if e != 0))


def base_name(target: sp.Expr) -> str:
    """Name of an indexed base or of a symbol."""
    label = target.base.label if isinstance(target, sp.Indexed) else target
    return label.name if isinstance(label, sp.Symbol) else str(label)


def sorted_entries(expr: sp.Expr) -> sp.Expr:
    """An expression with the indices of symmetric arrays in one order."""
    found = (e for e in expr.atoms(sp.Indexed) if base_name(e) in SYMMETRIC)
    order = {e: e.base[tuple(sorted(e.indices, key=sp.default_sort_key))] for e in found}
    return expr.xreplace(order)


def is_covariance(name: str) -> bool:
    """Whether an array is the covariance of the fields, in a cluster or not."""
    return name.partition(IN_CLUSTER)[0] == "Omega"


def index_symbol(index: sp.Expr) -> sp.Symbol:
    """The running symbol of an index expression: r for p + r, j for j."""
    symbol = running_symbol(index)
    assert symbol is not None, f"{index} does not run"
    return symbol


def running_symbol(index: sp.Expr) -> sp.Symbol | None:
    """The running symbol of an index expression, None for a fixed one such as p + 1."""
    names = {s.name: s for s in index.free_symbols if s.name not in ("p", "k", "nodes", "blocks")}
    return names[min(names)] if names else None


def define(target: sp.Expr, terms: Mapping[str, sp.Expr], role: Role) -> Definition:
    """Build a definition, leaving out the terms that vanish."""
    return Definition(target, tuple((t, e) for t, e in terms.items() if e != 0), role)


def used_bases(expr: sp.Expr) -> set[str]:
    """Names of all indexed bases and symbols that an expression reads, kernels included."""
    return set(_used_bases(expr))


@lru_cache(maxsize=1024)
def _used_bases(expr: sp.Expr) -> frozenset[str]:
    names = {str(b.label) for b in expr.atoms(sp.IndexedBase)}
    names |= {str(x) for x in expr.free_symbols}
    # Averages over what a loss sees of linear students read its variance and covariances.
    seen = names & LINES
    more = {f"{line}_{what}" for line in seen for what in ("variance", "covariance")}
    return frozenset(names | more)


def has_rows_of_readout(definitions: Iterable[Definition]) -> bool:
    """Whether readouts have a row for each of several outputs."""
    read = (y for d in definitions for e in (d.target, d.expr) for y in e.atoms(sp.Indexed))
    return any(base_name(y) == "readout" and len(y.indices) > 1 for y in read)


def is_asked_for(d: Definition) -> bool:
    """Whether a definition stays where nothing reads it: a rate, an observable, a covariance."""
    return d.role in ("rate", "observable") or is_covariance(d.name)


def live(
    definitions: Iterable[Definition], stays: Callable[[Definition], bool] = is_asked_for
) -> tuple[Definition, ...]:
    """Leave out the definitions that nothing reads, unless they stay anyway."""
    kept: list[Definition] = []
    needed: set[str] = set()
    for d in reversed(tuple(definitions)):
        if d.name in needed or stays(d):
            kept.append(d)
            needed |= used_bases(d.expr)
    return tuple(reversed(kept))


# What stands whole in definitions: code and the reference have a rule for each -----------------


class Together(sp.Expr):
    """A sum whose terms may cancel: what multiplies it is never distributed over them."""

    is_commutative = True
    is_real = True

    def __new__(cls, total: sp.Expr) -> sp.Expr:
        """Keep a sum; other expressions have nothing that cancels."""
        return sp.Expr.__new__(cls, total) if total.is_Add else total

    @property
    def total(self) -> sp.Expr:
        """The sum."""
        return self.args[0]

    def doit(self, **hints: Any) -> sp.Expr:
        """The sum, free to be expanded."""
        return self.total.doit(**hints)

    def _eval_derivative(self, symbol: sp.Expr) -> sp.Expr:
        return Together(sp.diff(self.total, symbol))

    def _sympystr(self, printer: Any) -> str:
        return f"({printer.doprint(self.total)})"


class Whole(sp.Expr):
    """Entry of a matrix that is computed as one, by a call in code."""

    is_commutative = True
    is_real = True

    def call(self, name: str) -> str:
        """Call that fills the array of this name."""
        raise NotImplementedError

    def matrix(self, arrays: Mapping[str, Array], p: int) -> Array:
        """The matrix of arrays by name, for the NumPy reference."""
        raise NotImplementedError


class FieldRoot(Whole):
    """Entry of the lower root of a covariance, teacher fields first (`dmft.special.matrices`).

    With a second argument those of the students are first, in the order of the matrix.
    """

    def __new__(cls, covariance: sp.Indexed, *students: sp.Basic) -> FieldRoot:
        """Root of the matrix that `covariance` is the general entry of."""
        return sp.Expr.__new__(cls, covariance, *students)

    @property
    def students(self) -> bool:
        """Whether the fields of the students are first."""
        return len(self.args) > 1

    def call(self, name: str) -> str:
        """Call of `dmft.special.matrices.field_root`."""
        first = 0 if self.students else "p"
        return f"field_root({base_name(self.args[0])}, {first}, {name})"

    def matrix(self, arrays: Mapping[str, Array], p: int) -> Array:
        """Root of the covariance."""
        from dmft.special.matrices import field_root

        covariance = arrays[base_name(self.args[0])]
        root = np.empty_like(covariance)
        field_root(covariance, 0 if self.students else p, root)
        return root

    def _sympystr(self, printer: object) -> str:
        first = "student" if self.students else "teacher"
        return f"root of {base_name(self.args[0])}, {first} fields first"


class MeanSlope(Whole):
    """Entry of the mean slopes D, D root = pull with pull_jn = E[psi_j z_n] and lambda = root z.

    Computed by `dmft.special.matrices`.
    """

    def __new__(cls, pull: sp.Indexed, root: sp.Indexed) -> MeanSlope:
        """Slopes of the matrices that `pull` and `root` are the general entries of."""
        return sp.Expr.__new__(cls, pull, root)

    def call(self, name: str) -> str:
        """Call of `dmft.special.matrices.mean_slopes`."""
        return f"mean_slopes({', '.join(map(base_name, self.args))}, p, {name})"

    def matrix(self, arrays: Mapping[str, Array], p: int) -> Array:
        """Pull times the pseudo-inverse of the root."""
        pull, root = (arrays[base_name(y)] for y in self.args)
        slopes: Array = pull @ np.linalg.pinv(root)
        return slopes

    def _sympystr(self, printer: object) -> str:
        return f"{base_name(self.args[0])} {base_name(self.args[1])}^+"


class ErfSquare(Whole):
    """E[s(h_j) s(h_l) (sum_m c_m sigma_m)^2] of committees of erf mixtures, in closed form.

    Compiled by `dmft.special.elementary`; `matrix` is the NumPy reference.
    """

    def __new__(cls, *args: sp.Basic) -> ErfSquare:
        """Keep Omega, c and the array of the mixtures (`dmft.gaussian.nodes.rules.Mixture`)."""
        return sp.Expr.__new__(cls, *args)

    def _sympystr(self, printer: object) -> str:
        return "quadratic term of error functions near the activations, in closed form"

    def call(self, name: str) -> str:
        """Call of `dmft.special.elementary.erf_mixture_square`."""
        mixture = "par[mixture_at : mixture_at + terms]"
        return f"erf_mixture_square(Omega, c, {mixture}, p, {name})"

    def matrix(self, arrays: Mapping[str, Array], p: int) -> Array:
        """Value for all pairs of students: conditioning on both slopes at once."""
        covariance, c = arrays["Omega"], arrays["c"]
        students, teachers = arrays["mixture"].reshape(2, 2, -1)
        size = len(c)
        slopes = len(students[0]) - 1
        fields, weights, scales, constant = [], [], [], 0.0
        for m in range(size):
            rows = students if m < p else teachers
            constant += c[m] * rows[0][0]
            for w, s in zip(rows[0][1:], rows[1][1:], strict=True):
                fields.append(m)
                weights.append(c[m] * w)
                scales.append(s)
        where, weight, scale = np.array(fields), np.array(weights), np.array(scales)
        result = np.zeros((p, p))
        for j, i in np.ndindex(p, p):
            for one, two in np.ndindex(slopes, slopes):
                both = np.array([students[1][one + 1], students[1][two + 1]])
                pair = np.array([j, i])
                # Both Gaussians at once: precision 1 / s^2 added to the two fields.
                gain = np.diag(both**2) + covariance[np.ix_(pair, pair)]
                cross = covariance[:, pair]
                law = covariance - cross @ np.linalg.solve(gain, cross.T)
                mass = both.prod() / math.sqrt(np.linalg.det(gain))
                inside = law[np.ix_(where, where)]
                size_of = np.sqrt(scale**2 + np.diag(inside))
                angles = np.arcsin(inside / np.outer(size_of, size_of))
                square = constant**2 + 2 / math.pi * weight @ angles @ weight
                height = 2 / math.pi / both.prod()
                height *= students[0][one + 1] * students[0][two + 1]
                result[j, i] += height * mass * square
        return result
