"""The population risk in scalar symbols: an expression that knows its symbols by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from dmft.equations.views.explicit import pairs_of, symbol_named
from dmft.record import InLatex, Short


@dataclass(frozen=True, repr=False, eq=False)
class ExplicitRisk(InLatex, Short):
    """Risk at numeric widths. It behaves like its SymPy expression and has the same methods.

    Attributes
    ----------
    expr : sympy.Expr
    symbols : mapping of names such as ``"Q_11"`` to the symbols used
        That of `Equations.explicit`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> risk = dmft.population_risk(dmft.Model(square, square)).explicit()
    >>> sorted(risk.symbols), risk.subs({"Q_11": 1, "M_11": 0, "P_11": 1})
    (['M_11', 'P_11', 'Q_11'], 2)
    >>> sp.diff(risk, risk.symbols["M_11"])
    -4*M_11
    """

    expr: sp.Expr
    symbols: Mapping[str, sp.Symbol]

    def subs(self, *values: Any, **options: Any) -> sp.Expr | ExplicitRisk:
        """Substitute values for symbols.

        Symbols that differ only in their assumptions are identified.

        Parameters
        ----------
        *values
            A mapping by name or symbol, a list of pairs, or a name and its value.
        **options
            Options of SymPy's `subs`.

        Returns
        -------
        sympy.Expr or ExplicitRisk
            A risk if symbols remain, otherwise an expression.

        Raises
        ------
        BadParameter
            For names that are not in the risk.

        Examples
        --------
        >>> import dmft
        >>> risk = dmft.population_risk(dmft.literature.phase_retrieval(1)).explicit(P=[[1]])
        >>> risk.subs({"Q_11": 1, "M_11": 0}), risk.subs("Q_11", 1).subs("M_11", 1)
        (2, 0)
        """
        pairs = [(self._known(key), value) for key, value in pairs_of(values)]
        found = self.expr.subs(pairs, **options)
        # Names go on to work while symbols of ours are left.
        ours = found.free_symbols & set(self.symbols.values())
        return replace(self, expr=found) if ours else found

    def _known(self, key: Any) -> Any:
        whole = isinstance(key, sp.Expr) and not isinstance(key, sp.Symbol)
        free = self.expr.free_symbols
        gone = self.symbols.get(str(key), key) not in free and str(key) in self.symbols
        return key if whole or gone else symbol_named(key, free, self.symbols, "this risk; its")

    def latex(self) -> str:
        """Return the expression as LaTeX.

        Examples
        --------
        >>> import dmft
        >>> risk = dmft.population_risk(dmft.literature.phase_retrieval(1)).explicit(P=[[1]])
        >>> "M_{11}" in risk.latex()
        True
        """
        return str(sp.latex(self.expr))

    def _in_words(self) -> str:
        return str(self.expr)

    def _repr_latex_(self) -> str:
        return rf"$\displaystyle \mathcal{{R}} = {self.latex()}$"

    __str__ = _in_words

    def _sympy_(self) -> sp.Expr:
        return self.expr

    def __getattr__(self, name: str) -> Any:
        # Copying asks for attributes before the fields exist; underscores are SymPy's own affairs.
        if name.startswith("_") or "expr" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.expr, name)

    def __eq__(self, other: object) -> bool:
        return bool(self.expr == (other.expr if isinstance(other, ExplicitRisk) else other))

    def __hash__(self) -> int:
        return hash(self.expr)

    def __float__(self) -> float:
        return float(self.expr)

    def __add__(self, other: Any) -> sp.Expr:
        return self.expr + other

    def __sub__(self, other: Any) -> sp.Expr:
        return self.expr - other

    def __mul__(self, other: Any) -> sp.Expr:
        return self.expr * other

    def __truediv__(self, other: Any) -> sp.Expr:
        return self.expr / other

    def __pow__(self, other: Any) -> sp.Expr:
        return self.expr**other

    def __neg__(self) -> sp.Expr:
        return -self.expr

    def __rsub__(self, other: Any) -> sp.Expr:
        return other - self.expr

    __radd__, __rmul__ = __add__, __mul__
