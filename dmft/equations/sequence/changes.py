"""Changes of the terms of the equations of sequence models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import sympy as sp

from dmft.checks import shown
from dmft.equations.averages.expectation import Expectation
from dmft.equations.changes.changeable import Changeable
from dmft.equations.changes.user_terms import (
    PARAMETERS,
    Indices,
    TermCheck,
    named_symbols,
    users_of,
)
from dmft.equations.sequence.latex import SequencePrinter
from dmft.errors import BadParameter
from dmft.gaussian.tables.tokens import TokenAverage

if TYPE_CHECKING:
    from dmft.equations.sequence.equations import SequenceEquations, Terms

OF_TOKENS = (TokenAverage, Expectation)


class ChangesOfSequences(Changeable):
    """How `SequenceEquations` store terms: as columns of the components of e and m."""

    family: ClassVar[str] = "sequence"

    @property
    def _sequence(self) -> SequenceEquations:
        return cast("SequenceEquations", self)

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Rates by block and by named term: expressions, or columns of them."""
        return {
            block: {name: column[0] if len(column) == 1 else column for name, column in terms}
            for block, terms in self._sequence.rates
            if self._sequence.blocks[block]
        }

    @property
    def all_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Rates, what they are computed from, and what a run calls its risk."""
        rest = {str(s): {"value": expr} for s, expr in self._sequence.definitions}
        return {**self.terms, **rest, "risk": {"risk": self._sequence.observable}}

    @property
    def described(self) -> dict[str, str]:
        """Kind, scaling and declaration."""
        own = self._sequence
        return {
            "kind": own.kind,
            "scaling": own.scaling,
            "model": str(own.model),
            "algorithm": str(own.algorithm),
        }

    @property
    def as_derived(self) -> Self:
        """The equations before any change."""
        if not self.is_changed:
            return self
        rates, definitions = self._sequence.derived
        new = replace(self._sequence, rates=rates, definitions=definitions, derived=(), extra=())
        return cast(Self, new)

    @property
    def is_changed(self) -> bool:
        """Whether terms were added, dropped or replaced since the equations were derived."""
        return bool(self._sequence.derived)

    @property
    def symbols(self) -> dict[str, Any]:
        """What a term may be written in: alignments, intermediates and parameters by name.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> a = sp.Symbol("a", real=True)
        >>> linear = dmft.SequenceNetwork(a, 1)
        >>> eqs = dmft.derive(dmft.Model(linear, linear), dmft.SGD(0.5))
        >>> eqs.symbols["m"], eqs.symbols["gamma"]
        (m, learning_rate)
        """
        return named_symbols(self._scalars.values(), ())

    @property
    def indices(self) -> Indices:
        """None: the alignments are written out one by one."""
        return Indices(dict.fromkeys(self.terms, ()))

    @property
    def _scalars(self) -> dict[str, sp.Symbol]:
        own = self._sequence
        state = [*own.blocks["e"], *own.blocks["m"], *(s for s, _ in own.definitions)]
        known = {s.name: s for s in (*own.model.parameters, *own.extra)}
        found = {name: PARAMETERS.get(name) or known[name] for name in own.declared}
        return {s.name: s for s in state} | found

    def latex_of(self, expr: Any) -> str:
        """An expression as in `latex`."""
        return str(SequencePrinter().doprint(expr))

    def _with_changed(self, block: str, name: str, given: object) -> Self:
        own, extra, column = self._sequence, self._sequence.extra, None
        if given is not None:
            parts = self._parts(block, given)
            check = TermCheck(
                block, (), {}, self._scalars, frozenset({"e", "m"}), users_of(own.declared)
            )
            averages = {a: sp.Dummy(real=True) for y in parts for a in y.atoms(*OF_TOKENS)}
            back = {dummy: a for a, dummy in averages.items()}
            inside = replace(check, scalars={**self._scalars, **{d.name: d for d in back}})
            found = [inside(y.xreplace(averages)) for y in parts]
            extra = (*extra, *(s for y in found for s in inside.new_parameters(y)))
            column = sp.ImmutableDenseMatrix([y.xreplace(back) for y in found])
        rates = []
        for here, terms in own.rates:
            parts_of = dict(terms)
            if here == block and column is None:
                del parts_of[name]
            elif here == block and column is not None:
                parts_of[name] = column
            rates.append((here, tuple(parts_of.items())))
        return self._rebuilt(rates, extra)

    def _parts(self, block: str, given: Any) -> list[sp.Expr]:
        """Components of a term, one for each alignment of a block."""
        many = isinstance(given, sp.MatrixBase | Sequence) and not isinstance(given, str)
        parts = list(given) if many else [given]
        symbols = self._sequence.blocks[block]
        if len(parts) != len(symbols):
            raise BadParameter(
                f"a term of {block} has {len(symbols)} components, those of "
                f"{', '.join(map(str, symbols))}; got {shown(given)}"
            )
        for part in parts:
            if isinstance(part, str):
                raise BadParameter(f"a term of {block} is a SymPy expression, got {shown(part)}")
        return [sp.sympify(y, strict=True) for y in parts]

    def _without(self, names: tuple[str, ...]) -> Self:
        own = self._sequence
        known = {name for _, terms in own.rates for name, _ in terms}
        for name in names:
            if name not in known:
                raise BadParameter(f"no term is called {name!r}; there are {sorted(known)}")
        rates = [
            (block, tuple((name, column) for name, column in terms if name not in names))
            for block, terms in own.rates
        ]
        return self._rebuilt(rates, own.extra)

    def _substituted(self, values: Mapping[Any, object]) -> Self:
        own, known = self._sequence, self._scalars
        scalars = {n: known[n] for n in own.declared}
        check = TermCheck("a parameter", (), {}, scalars, users=users_of(own.declared))
        swap, extra = {}, own.extra
        free = [n for n in own.parameters if n not in {s.name for s in own.model.parameters}]
        for key, given in values.items():
            name = getattr(key, "name", key)
            if name not in free:
                raise BadParameter(
                    f"{shown(key)} is no parameter that can be replaced; these are {free}"
                )
            swap[known[name]] = check(given)
            extra = (*extra, *check.new_parameters(swap[known[name]]))
        rates = [
            (block, tuple((name, column.xreplace(swap)) for name, column in terms))
            for block, terms in own.rates
        ]
        return self._rebuilt(rates, extra)

    def _rebuilt(self, rates: Sequence[tuple[str, Terms]], extra: tuple[sp.Symbol, ...]) -> Self:
        """The same equations with other rates; definitions that nothing reads go."""
        own = self._sequence
        used = {s for _, terms in rates for _, column in terms for s in column.free_symbols}
        kept = tuple((s, expr) for s, expr in own.definitions if s in used)
        derived = own.derived or (own.rates, own.definitions)
        now = (tuple(rates), kept)
        new = replace(
            own,
            rates=now[0],
            definitions=kept,
            derived=() if now == derived else derived,
            extra=tuple(s for s in dict.fromkeys(extra) if s in used),
        )
        return cast(Self, new)
