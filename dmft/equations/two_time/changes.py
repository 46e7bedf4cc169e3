"""What records of equations in two times share: terms by block, their changes, lines of print."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import sympy as sp

from dmft.equations.changeable import Changeable
from dmft.equations.definitions import Definition
from dmft.equations.user_terms import Indices
from dmft.equations.views.latex import EquationPrinter, definition_latex
from dmft.errors import BadParameter
from dmft.record import InLatex
from dmft.typeset.fragment import fitted
from dmft.validation import is_expression, shown

Named = Mapping[str, Mapping[str, sp.Expr]]


@dataclass(frozen=True, repr=False)
class IndicesInTime(Indices):
    """Running indices of equations in two times by name, and those of each block.

    `running` are times, one that integrals run over among them, and neurons; `words` what they are.
    """

    running: tuple[sp.Symbol, ...] = ()
    words: str = ""

    @property
    def names(self) -> dict[str, sp.Symbol]:
        """The indices by name."""
        return {y.name: y for y in self.running}

    def __repr__(self) -> str:
        return self.words


class TwoTimeEquations(InLatex, Changeable):
    """Base of records of definitions in two times, made again from the terms of all blocks."""

    @property
    @abstractmethod
    def stored(self) -> tuple[Definition, ...]:
        """Definitions whose terms can be changed."""

    @abstractmethod
    def _block_of(self, definition: Definition) -> str:
        """Name of the block that a definition moves."""

    @abstractmethod
    def _rebuilt(self, named: Named, swap: Mapping[sp.Basic, sp.Basic]) -> Self:
        """The same record with these terms; `swap` is what was put into them."""

    @abstractmethod
    def _checked(self, block: str, given: object) -> sp.Expr:
        """A user's term of a block, in the symbols of the record."""

    # Symbols that `dmft.solve` is given values for.
    parameters: Any

    @property
    def _scalars(self) -> dict[str, sp.Symbol]:
        """Symbols of the parameters by name."""
        return {y.name: y for y in self.parameters}

    @abstractmethod
    def _value(self, name: str, given: object) -> sp.Expr:
        """What a user puts in place of a parameter."""

    @property
    @abstractmethod
    def _signature(self) -> str:
        """Text of what decides the numbers besides the definitions."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the symbolic content."""
        rows = [
            f"{d.role}{sp.srepr(d.target)}={sp.srepr(e)}" for d in self.stored for _, e in d.terms
        ]
        text = "|".join([*rows, self._signature])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Named terms of each block."""
        return self.all_terms

    @property
    def all_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Terms of every block."""
        return {self._block_of(d): dict(d.terms) for d in self.stored}

    _stored_terms = all_terms

    def _with_changed(self, block: str, name: str, given: object) -> Self:
        terms = dict(self._stored_terms[block])
        if given is None:
            del terms[name]
        else:
            terms[name] = self._checked(block, given)
        return self._rebuilt({**self._stored_terms, block: terms}, {})

    def _without(self, names: tuple[str, ...]) -> Self:
        every = self._stored_terms
        known = {n for terms in every.values() for n in terms}
        for name in names:
            if name not in known:
                raise BadParameter(f"no term is called {name!r}; available: {sorted(known)}")
        kept = {b: {n: e for n, e in y.items() if n not in names} for b, y in every.items()}
        return self._rebuilt(kept, {})

    def _substituted(self, values: Mapping[Any, object]) -> Self:
        known, swap = self._scalars, {}
        for key, given in values.items():
            name = getattr(key, "name", key)
            if name not in known:
                raise BadParameter(
                    f"{shown(name)} is not a parameter; parameters are {sorted(known)}"
                )
            swap[known[name]] = self._value(name, given)
        every = self._stored_terms.items()
        changed = {b: {n: e.xreplace(swap) for n, e in y.items()} for b, y in every}
        return self._rebuilt(changed, swap)

    def _refuse_free(
        self, block: str, expr: sp.Expr, running: Iterable[sp.Symbol], words: tuple[str, str]
    ) -> sp.Expr:
        """A term of a block, unless it holds indices (`words`: what they are) of other blocks."""
        target = self.indices.blocks.get(block, ())
        foreign = sorted((expr.free_symbols & {*running}) - {*target}, key=str)
        if foreign:
            raise BadParameter(
                f"the {words[0]} {foreign[0]} is free in {expr}: a term of {block} has "
                f"{', '.join(map(str, target)) or 'none'}; {words[1]} over it"
            )
        return expr

    def latex(self, *, width: float | None = None) -> str:
        r"""Return the equations as LaTeX, with a line for each named term.

        Parameters
        ----------
        width : float, optional
            Largest width of a line in points. By default lines are not broken.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, h = sp.symbols("x h", real=True)
        >>> eqs = dmft.derive(dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=1.5))
        >>> print(eqs.latex(width=246).splitlines()[6])
        \frac{d x}{d t} &= - x + \eta \\
        """
        text = self._latex()
        return text if width is None else fitted(text, width)

    @abstractmethod
    def _latex(self) -> str:
        """All lines, unbroken."""

    @property
    @abstractmethod
    def _printer(self) -> EquationPrinter:
        """What prints LaTeX."""

    def _lines(self, definition: Definition, front: str = "") -> list[str]:
        """LaTeX of one definition, a line for each term; `front` is its derivative in time."""
        terms = tuple(
            (n, _constants_first(whole_numbers(e))) for n, e in definition.terms if e != 0
        )
        shown_as = Definition(definition.target, terms or definition.terms, "intermediate")
        first, *more = definition_latex(shown_as, self._printer)
        return [f"{front} {first}" if front else first, *more]


def whole_numbers(expr: sp.Expr) -> sp.Expr:
    """An expression with integers for floats that are whole: x for 1.0 x."""
    return expr.xreplace({y: sp.Integer(y) for y in expr.atoms(sp.Float) if float(y).is_integer()})


def _constants_first(expr: sp.Expr) -> sp.Expr:
    """An expression with constants in front of its integrals."""
    integrals = expr.atoms(sp.Integral)
    parts = {y: y.function.as_independent(*y.variables, as_Add=False) for y in integrals}
    return expr.xreplace({y: n * sp.Integral(f, *y.limits) for y, (n, f) in parts.items()})


def as_expression(what: str, given: object) -> sp.Expr:
    """What a user gave as an expression, or a refusal."""
    if not is_expression(given):
        raise BadParameter(
            f"{what} must be a SymPy expression or a finite number, got {shown(given)}"
        )
    return sp.sympify(given, strict=True)
