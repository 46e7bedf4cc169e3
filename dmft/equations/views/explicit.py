"""Unrolling a small system into scalar symbols, for analysis by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, expanded, over_neurons
from dmft.equations.averages.passes import needs_nodes, value_of
from dmft.equations.definitions import Definition
from dmft.errors import BadParameter, DmftError, InvalidCovariance, ShapeMismatch
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.closed.polynomial import polynomial_expectation
from dmft.gaussian.expectation import Gaussian
from dmft.record import Short
from dmft.validation import check_covariance, is_number

if TYPE_CHECKING:
    from dmft.equations.views.printer import Notation

# Above this many fields the unrolled erf system has tens of thousands of operations.
MAX_FIELDS = 5
# Averages of polynomials of a higher degree in the fields are not written out.
MAX_DEGREE = 24


@dataclass(frozen=True, repr=False)
class ExplicitEquations(Short, Mapping[sp.Symbol, sp.Expr]):
    """Scalar equations d symbol / dt = expression, a mapping from symbols to rates.

    Attributes
    ----------
    rhs : mapping of overlap symbols to their rates
    risk : population risk in the same symbols
    symbols : mapping of names such as ``"Q_11"`` to the symbols used
    covariance : sympy.Matrix or None
        Sigma of an sde in the order of `rhs`. The covariance per unit of t is Sigma gamma/(p d
        n_b).
    kind : "ode", "map" or "sde"

    Examples
    --------
    >>> import dmft
    >>> model = dmft.literature.phase_retrieval(1)
    >>> flow = dmft.derive(model, dmft.GradientFlow(constraint="sphere")).explicit(P=[[1]])
    >>> flow.subs({"Q_11": 1}).rhs[flow.symbols["M_11"]]
    -4*M_11**3 + 4*M_11
    """

    rhs: Mapping[sp.Symbol, sp.Expr]
    risk: sp.Expr
    symbols: Mapping[str, sp.Symbol]
    covariance: sp.Matrix | None = None
    kind: str = "ode"

    def __getitem__(self, symbol: sp.Symbol) -> sp.Expr:
        return self.rhs[symbol]

    def __iter__(self) -> Iterator[sp.Symbol]:
        return iter(self.rhs)

    def __len__(self) -> int:
        return len(self.rhs)

    def jacobian(self) -> sp.Matrix:
        """Return the matrix of derivatives of the rates, in the order of `rhs`.

        Returns
        -------
        sympy.Matrix
            Matrix (n, n); rows are rates, columns are overlaps.

        Examples
        --------
        >>> import dmft
        >>> flow = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow()).explicit()
        >>> flow.jacobian().shape
        (2, 2)
        """
        return sp.Matrix(list(self.rhs.values())).jacobian(list(self.rhs))

    def subs(self, *values: Any) -> ExplicitEquations:
        """Substitute overlaps and parameters, given as symbols or by their names.

        Parameters
        ----------
        *values
            A mapping, a list of pairs, or a symbol and its value, as in SymPy. Keys are symbols,
            names such as ``"M_11"``, or names of parameters. Symbols that differ only in their
            assumptions are identified. Values are SymPy expressions or numbers.

        Returns
        -------
        ExplicitEquations
            New equations.

        Raises
        ------
        BadParameter
            For names that do not occur.

        Examples
        --------
        >>> import dmft
        >>> flow = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow()).explicit()
        >>> flow.subs({"Q_11": 1, "M_11": 0, "P_11": 1}).risk
        2
        """
        exprs = [*self.rhs.values(), self.risk, *(self.covariance or ())]
        free = set(self.rhs).union(*(e.free_symbols for e in exprs))
        named = partial(symbol_named, free=free, known=self.symbols, where="these equations; their")
        return self.put({named(s): sp.sympify(v, strict=True) for s, v in pairs_of(values)})

    def put(self, values: Mapping[sp.Symbol, sp.Expr]) -> ExplicitEquations:
        """Substitute expressions for symbols.

        Parameters
        ----------
        values : mapping
            Expressions by symbol of these equations; `subs` also accepts names.

        Returns
        -------
        ExplicitEquations
            New equations.

        Examples
        --------
        >>> import dmft
        >>> flow = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow()).explicit()
        >>> flow.put({flow.symbols["Q_11"]: 1}).rhs[flow.symbols["M_11"]]
        6*M_11*P_11 - 6*M_11
        """
        return self._mapped(lambda e: e.xreplace(values))

    def _mapped(self, change: Callable[[sp.Expr], sp.Expr]) -> ExplicitEquations:
        """The same with changed rates, risk and covariance."""
        noise = None if self.covariance is None else self.covariance.applyfunc(change)
        rhs = {s: change(e) for s, e in self.rhs.items()}
        return replace(self, rhs=rhs, risk=change(self.risk), covariance=noise)

    def simplify(self) -> ExplicitEquations:
        """Merge the roots and exponentials of each term.

        Returns
        -------
        ExplicitEquations
            New equations.

        Examples
        --------
        >>> import dmft
        >>> flow = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow()).explicit()
        >>> flow.simplify().rhs.keys() == flow.rhs.keys()
        True
        """
        from dmft.equations.views.explicit_latex import simplified
        from dmft.explanation.print_forms import written

        return self._mapped(lambda e: written(simplified(e)))

    def latex(self, *, width: float = 246.0, notation: Notation = None) -> str:
        """Return the simplified equations and the risk as LaTeX; long repeated parts are named.

        Parameters
        ----------
        width : float
            Line width in points.
        notation : "saad-solla", "scalar", "krzakala", mapping or None
            Letters, as in `Equations.latex`.

        Returns
        -------
        str

        Examples
        --------
        >>> import dmft
        >>> flow = dmft.derive(dmft.literature.phase_retrieval(1), dmft.GradientFlow()).explicit()
        >>> "M_{11}" in flow.latex()
        True
        """
        from dmft.equations.views.explicit_latex import explicit_latex

        return explicit_latex(self.rhs, self.risk, self.covariance, self.kind, width, notation)

    def _in_words(self) -> str:
        return (
            f"rates of {', '.join(s.name for s in self.rhs)}; .rhs, .risk, print(...), .subs(...)"
        )

    def _repr_latex_(self) -> str:
        return self.latex(width=560.0)

    def __str__(self) -> str:
        return "\n".join(f"d{s}/dt = {e}" for s, e in self.rhs.items())


class Unroller:
    """Replaces indices by numbers and sums by their terms."""

    def __init__(self, widths: Mapping[str, int], constants: Mapping[str, Any]) -> None:
        self.numbers = {x.p: sp.Integer(widths["p"]), x.k: sp.Integer(widths["k"])}
        self.constants = constants
        self.entries: dict[tuple[str, tuple[int, ...]], sp.Expr] = {}
        self.symbols: dict[str, sp.Symbol] = {}
        # Fields of one sample, in the order of Omega, and what is defined by them.
        self.fields = [
            *(sp.Dummy(f"h_{j}", real=True) for j in range(1, widths["p"] + 1)),
            *(sp.Dummy(f"h^*_{r}", real=True) for r in range(1, widths["k"] + 1)),
        ]
        self.sample: dict[sp.Expr, sp.Expr] = {}
        for place, field in enumerate(self.fields, start=1):
            self.entries["lambda", (place,)] = field
            base, number = ("h", place) if place <= widths["p"] else ("h_star", place - widths["p"])
            self.entries[base, (number,)] = field

    def entry(self, base: str, indices: tuple[Any, ...]) -> sp.Expr:
        """Value of an entry: known, constant or a scalar symbol."""
        if (base, indices) in self.entries:
            return self.entries[base, indices]
        if base in self.constants and self.constants[base] is not None:
            value = self.constants[base]
            for index in indices:
                value = value[index - 1]
            return sp.sympify(value, strict=True)
        if base == str(x.coordinate.label):
            raise BadParameter(
                "explicit() writes maps out for losses that are quadratic in f and y; latex() and "
                "evaluate(...) support this one"
            )
        if base in x.SYMMETRIC:
            indices = tuple(sorted(indices))
        label = x.BASE_LATEX.get(base, base)
        name = f"{base}_{''.join(map(str, indices))}"
        positive = base in ("Q", "P") and len(set(indices)) == 1
        plain = base if label == base else label
        symbol = sp.Symbol(
            f"{plain}_{''.join(map(str, indices))}", positive=positive or None, real=True
        )
        self.symbols[name] = symbol
        return symbol

    def __call__(self, expr: sp.Expr, at: Mapping[sp.Symbol, int]) -> sp.Expr:
        """Value of an expression at index values (counted from 1)."""
        return expanded(expr, at, self.numbers, self.entry, self.others)

    @property
    def others(self) -> dict[type, Callable[..., sp.Expr]]:
        """Values of averages."""
        return {Expectation: self.average}

    def average(self, expr: Expectation, at: Mapping[sp.Symbol, int]) -> sp.Expr:
        """Value that stands for an average; on paper where code takes nodes."""
        if not needs_nodes(expr):
            value = elementary(self(value_of(expr), at))
            if not value.has(sp.nan, sp.zoo):
                return value
            # 0/0 where fields coincide: their functions are multiplied first.
            return self.gaussian(sp.Mul(*(self(a.expr, at) for a in expr.parts)), expr)
        degree = expr.law.degree
        if 0 <= degree <= MAX_DEGREE:
            return self.expectation(sp.expand(self(expr.integrand, at)))
        if MAX_DEGREE < degree < sp.oo:
            raise _no_closed_form(expr)
        return self.gaussian(self(expr.integrand, at).xreplace(self.sample), expr)

    def gaussian(self, integrand: sp.Expr, expr: Expectation) -> sp.Expr:
        """Closed form of an average over the fields."""
        size = len(self.fields)
        try:
            return Gaussian(self.fields, self.covariance_of_fields[:size, :size]).expect(integrand)
        except DmftError as error:
            raise _no_closed_form(expr) from error

    @cached_property
    def covariance_of_fields(self) -> sp.ImmutableDenseMatrix:
        """Omega, and the variance of the label noise in units of its own."""
        size = len(self.fields)
        Omega = sp.Matrix(size, size, lambda i, n: self.entries["Omega", (i + 1, n + 1)])
        return sp.ImmutableDenseMatrix(sp.diag(Omega, 1))

    def expectation(self, expr: sp.Expr) -> sp.Expr:
        """Expectation of a polynomial in the fields and the label noise."""
        fields = [*self.fields, x.xi]
        value = polynomial_expectation(
            expr, fields, self.covariance_of_fields, [sp.S.Zero] * len(fields)
        )
        assert value is not None, expr
        return sp.expand(value)

    def define_sample(self, definition: Definition) -> None:
        """Remember a random field of one sample as an expression in the Gaussian fields."""
        for place, value in self.define(definition).items():
            plain = value.xreplace(self.sample)
            if place:
                self.entries[definition.name, place] = plain
            else:
                self.sample[definition.target] = plain

    def define(self, definition: Definition) -> dict[tuple[Any, ...], sp.Expr]:
        """Every entry of a definition."""
        target = definition.target
        if not isinstance(target, sp.Indexed):
            return {(): self(definition.expr, {})}
        limits = [(i, 1, x.AXES[i]) for i in definition.indices]  # of those that run
        return {
            tuple(self(i, at) for i in target.indices): self(definition.expr, at)
            for at in over_neurons(limits, {}, self.numbers)
        }


def _no_closed_form(average: Expectation) -> BadParameter:
    return BadParameter(
        f"explicit() needs closed forms, and the average {average} has none. The equations "
        "themselves compute it on nodes: use latex(), evaluate(...), dmft.build and dmft.solve, "
        "or leave out its term (`.without`)"
    )


def pairs_of(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """What `subs` was given: a mapping, a list of pairs, or a key and its value."""
    if len(values) == 2:
        return [(values[0], values[1])]
    if len(values) != 1:
        raise BadParameter(
            'subs takes {"M_11": 0.5, ...}, a list of pairs, or a name and its value; got '
            f"{len(values)} arguments"
        )
    (given,) = values
    pairs = list(given.items()) if isinstance(given, Mapping) else list(given)
    return [(key, value) for key, value in pairs]


def symbol_named(
    key: Any, free: Collection[sp.Symbol], known: Mapping[str, sp.Symbol], where: str
) -> sp.Symbol:
    """The symbol that a key of `subs` means, by itself, by its name or by that of an entry."""
    if key in free:
        return key
    named = {s.name: s for s in free} | {n: s for n, s in known.items() if s in free}
    if str(key) not in named:
        raise BadParameter(f"{key} is not in {where} symbols are {', '.join(sorted(named))}")
    return named[str(key)]


def _check_constants(widths: Mapping[str, int], constants: Mapping[str, Any]) -> None:
    p, k = widths["p"], widths["k"]
    for name, shape in (("readout", (p,)), ("teacher_readout", (k,)), ("P", (k, k))):
        value = constants.get(name)
        if value is not None and np.shape(value) != shape:
            raise ShapeMismatch(f"{name} has shape {np.shape(value)}, expected {shape}")
    P = constants.get("P")
    if P is not None and any(P[r][s] != P[s][r] for r in range(k) for s in range(r)):
        raise InvalidCovariance(f"P is not symmetric: {P}")
    if P is not None and all(is_number(entry) for row in P for entry in row):
        check_covariance(P, "P")


def unroll(
    definitions: Sequence[Definition], widths: Mapping[str, int], constants: Mapping[str, Any]
) -> ExplicitEquations:
    """Scalar equations at numeric widths; `constants` may fix P and the readouts."""
    if widths["p"] + widths["k"] > MAX_FIELDS:
        raise BadParameter(
            f"explicit() writes out at most p + k = {MAX_FIELDS} units, got {dict(widths)}: use "
            f"smaller widths, for example explicit({MAX_FIELDS - 2}, 2). latex() and print(...) "
            "show the equations at any width; evaluate(start), dmft.solve and a call of the risk "
            "return numbers at any width"
        )
    # Matrices of SymPy's have entries by two indices.
    constants = {n: v.tolist() if isinstance(v, sp.MatrixBase) else v for n, v in constants.items()}
    _check_constants(widths, constants)
    unroller = Unroller(widths, constants)
    rhs: dict[sp.Symbol, sp.Expr] = {}
    risk = sp.Integer(0)
    for definition in definitions:
        if definition.role == "sample":
            unroller.define_sample(definition)
            continue
        values = unroller.define(definition)
        if definition.role == "observable":
            risk = values[()] if definition.name == "risk" else risk
        elif definition.role == "rate":
            for place, value in values.items():
                symbol = unroller.entry(definition.name, place) if place else definition.target
                tidy = sp.expand(value) if value.is_polynomial() else value
                if definition.name not in x.SYMMETRIC or place == tuple(sorted(place)):
                    rhs[symbol] = tidy
        elif isinstance(definition.target, sp.Symbol):
            unroller.numbers[definition.target] = values[()]
        else:
            for place, value in values.items():
                unroller.entries[definition.name, place] = value
    return ExplicitEquations(rhs, risk, dict(unroller.symbols))
