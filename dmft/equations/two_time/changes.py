"""How records of equations in two times store their terms: by block and by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

import sympy as sp

from dmft.equations.changes.changeable import Changeable
from dmft.errors import BadParameter
from dmft.validation import is_expression, shown

Named = Mapping[str, Mapping[str, sp.Expr]]


class ChangesInTwoTimes(Changeable):
    """Changes of records that are made again from the terms of all their blocks."""

    @abstractmethod
    def _rebuilt(self, named: Named) -> Self:
        """The same record with these terms."""

    @abstractmethod
    def _checked(self, block: str, given: object) -> sp.Expr:
        """A user's term of a block, in the symbols of the record."""

    @property
    def all_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Terms of every block."""
        return self._stored_terms

    def _with_changed(self, block: str, name: str, given: object) -> Self:
        terms = dict(self._stored_terms[block])
        if given is None:
            del terms[name]
        else:
            terms[name] = self._checked(block, given)
        return self._rebuilt({**self._stored_terms, block: terms})

    def _without(self, names: tuple[str, ...]) -> Self:
        every = self._stored_terms
        known = {n for terms in every.values() for n in terms}
        for name in names:
            if name not in known:
                raise BadParameter(f"no term is called {name!r}; there are {sorted(known)}")
        return self._rebuilt(
            {b: {n: e for n, e in terms.items() if n not in names} for b, terms in every.items()}
        )


def as_expression(what: str, given: object) -> sp.Expr:
    """What a user gave as an expression, or a refusal."""
    if not is_expression(given):
        raise BadParameter(
            f"{what} must be a SymPy expression or a finite number, got {shown(given)}"
        )
    return sp.sympify(given, strict=True)
