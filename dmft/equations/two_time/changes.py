"""Terms of two-time equations that a user adds, drops, replaces and compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

import sympy as sp

from dmft.checks import is_expression, shown
from dmft.equations import symbols as x
from dmft.equations.changes.changeable import Changeable
from dmft.equations.changes.user_terms import Indices, check_parameter, users_of
from dmft.equations.definitions import Definition, base_name
from dmft.equations.two_time.descent_process import (
    BLOCKS,
    EVERY_ARRAY,
    FREE,
    PARAMETERS,
    chosen,
    label,
    loss,
    m,
    output,
    q,
    s,
    t,
    u,
    zeta,
)
from dmft.errors import BadParameter

if TYPE_CHECKING:
    from dmft.equations.two_time.descent import DescentEquations
    from dmft.equations.two_time.descent_flow import DescentFlow

RUNNING = (t, s, u, x.j, x.l, m, x.r, q)
OF_A_SAMPLE = (output, label, loss, zeta, chosen)


@dataclass(frozen=True, repr=False)
class TimesAndNeurons(Indices):
    """Running indices of two-time equations by name, and those of each block."""

    @property
    def names(self) -> dict[str, sp.Symbol]:
        """Times t, s, u from 0; students j, l, m from 1 to p; teachers r, q from 1 to k."""
        return {y.name: y for y in RUNNING}

    def __repr__(self) -> str:
        return "t, s, u = 0, 1, ... (times); j, l, m = 1..p (students); r, q = 1..k (teachers)"


class ChangesInTwoTimes(Changeable):
    """How `DescentEquations` store terms: in the process, and in what a sample computes."""

    scaling = "repeated data"

    @property
    def _own(self) -> DescentEquations:
        return cast("DescentEquations", self)

    @property
    def _arrays(self) -> tuple[str, ...]:
        """Names of what has entries."""
        left_out = () if self._own.algorithm.on_sphere else FREE
        return tuple(name for name in EVERY_ARRAY if name not in left_out)

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Named terms of each definition of the process, then of a sample."""
        every = (*self._own.process, *self._own.sample)
        return {BLOCKS.get(d.name, d.name): dict(d.terms) for d in every}

    @property
    def all_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """The same."""
        return self.terms

    @property
    def described(self) -> dict[str, str]:
        """Model and algorithm."""
        return {"model": str(self.model), "algorithm": str(self.algorithm)}

    @property
    def approximation(self) -> str:
        """How averages are computed, in words."""
        return "averages over samples of the effective process"

    @property
    def is_changed(self) -> bool:
        """Whether terms were added, dropped or replaced since the equations were derived."""
        own, old = self._own, self.as_derived
        return (own.sample, own.process) != (old._own.sample, old._own.process)

    @property
    def symbols(self) -> dict[str, Any]:
        """What a term may be written in, by name: arrays, parameters, scalars of a sample.

        "h" and "a" are the fields and the readouts that a sample computes with, "h_at" and
        "readout" those over time.
        """
        arrays = {name: sp.IndexedBase(name) for name in self._arrays}
        short = {BLOCKS[name]: arrays[name] for name in ("M_at", "Q_at", "readout_at")}
        scalars = {name: PARAMETERS.get(name, sp.Symbol(name)) for name in self._own.parameters}
        scalars |= {y.name: y for y in (*self.model.parameters, *OF_A_SAMPLE)}
        return {**arrays, **short, "a": x.a, **scalars, "p": x.p, "k": x.k}

    @property
    def indices(self) -> TimesAndNeurons:
        """Running indices by name (times t, s, u; students j, l, m; teachers r, q)."""
        blocks = {}
        for d in self._own.definitions:
            free = {y for i in getattr(d.target, "indices", ()) for y in i.free_symbols}
            blocks[BLOCKS.get(d.name, d.name)] = tuple(y for y in RUNNING if y in free)
        return TimesAndNeurons(blocks)

    def _with_changed(self, block: str, name: str, given: object) -> Self:
        new = None if given is None else self._checked(block, given)

        def changed(d: Definition) -> Definition:
            if BLOCKS.get(d.name, d.name) != block:
                return d
            terms = {**dict(d.terms), name: new}
            return replace(d, terms=tuple((n, e) for n, e in terms.items() if e is not None))

        return self._each(changed)

    def _without(self, names: tuple[str, ...]) -> Self:
        known = {n for terms in self.terms.values() for n in terms}
        for name in names:
            if name not in known:
                raise BadParameter(f"no term is called {name!r}; there are {sorted(known)}")

        def left(d: Definition) -> Definition:
            return replace(d, terms=tuple((n, e) for n, e in d.terms if n not in names))

        return self._each(left)

    def _substituted(self, values: Mapping[Any, object]) -> Self:
        table, swap = self.symbols, {}
        for key, given in values.items():
            name = getattr(key, "name", key)
            if name not in self._own.parameters:
                known = sorted(self._own.parameters)
                raise BadParameter(f"{shown(key)} is no parameter; parameters are {known}")
            swap[table[name]] = self._checked("a parameter", given)

        def other(d: Definition) -> Definition:
            return replace(d, terms=tuple((n, e.xreplace(swap)) for n, e in d.terms))

        return self._each(other)

    def _each(self, change: Any) -> Self:
        own = self._own
        sample, process = (tuple(map(change, y)) for y in (own.sample, own.process))
        return cast(Self, replace(own, sample=sample, process=process))

    def _checked(self, block: str, given: object) -> sp.Expr:
        """A user's expression in the symbols of the equations."""
        if not is_expression(given):
            raise BadParameter(
                f"a term of {block} must be a SymPy expression or a finite number, got "
                f"{shown(given)}"
            )
        expr, known = sp.sympify(given, strict=True), self.symbols
        labels = {y.label for y in expr.atoms(sp.IndexedBase)}
        scalars = {n: y for n, y in known.items() if isinstance(y, sp.Symbol)}
        scalars |= self.indices.names
        free = {y for y in expr.free_symbols if isinstance(y, sp.Symbol)} - labels
        expr = expr.xreplace({y: scalars[y.name] for y in free if y.name in scalars})
        for entry in expr.atoms(sp.Indexed):
            if base_name(entry) not in self._arrays:
                raise BadParameter(
                    f"{entry} in a term of {block} is no array of these equations: "
                    f"{', '.join(self._arrays)}"
                )
        target = self.indices.blocks.get(block, ())
        foreign = sorted((expr.free_symbols & {*RUNNING}) - {*target}, key=str)
        if foreign:
            raise BadParameter(
                f"the index {foreign[0]} is free in {expr}: a term of {block} has "
                f"{', '.join(map(str, target)) or 'none'}; sum over it"
            )
        for y in sorted(free, key=str):
            if y.name not in scalars and y.name not in users_of(self._own.parameters):
                check_parameter(y, known)
        return expr


class ChangesOfLimit:
    """Terms of a flow are those of the descents that step through it."""

    def with_term(self, block: str, name: str, expr: Any) -> Self:
        """As `DescentEquations.with_term`: the flow is the limit of the changed descents.

        Parameters
        ----------
        block : str
            A block of the descents, "M" for example.
        name : str
            Of the term, one word.
        expr : sympy.Expr or number
            In the symbols and indices of the descents.

        Returns
        -------
        DescentFlow
            A new flow; this one stays as it is.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
        >>> flow = dmft.derive(dmft.Model(line, line), descent, scaling="gradient-flow")
        >>> pushed = flow.with_term("M", "push", flow.symbols["learning_rate"] / 10)
        >>> "push" in pushed.terms["M"]
        True
        """
        return self._of(self._own.equations.with_term(block, name, expr))

    def replace(self, target: Any, name: str | None = None, expr: Any = None) -> Self:
        """As `DescentEquations.replace`.

        Parameters
        ----------
        target : str or mapping
            A block, or values by the name or symbol of a parameter.
        name : str, optional
            Of a term of the block.
        expr : sympy.Expr or number, optional
            What it becomes.

        Returns
        -------
        DescentFlow
            A new flow; this one stays as it is.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
        >>> flow = dmft.derive(dmft.Model(line, line), descent, scaling="gradient-flow")
        >>> sorted(flow.replace({"ridge": 0}).terms["M"])
        ['learning']
        """
        return self._of(self._own.equations.replace(target, name, expr))

    def without(self, *names: str, block: str | None = None) -> Self:
        """As `DescentEquations.without`.

        Parameters
        ----------
        *names : str
            Terms that are left out.
        block : str, optional
            Leave them out of this block alone.

        Returns
        -------
        DescentFlow
            A new flow; this one stays as it is.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
        >>> flow = dmft.derive(dmft.Model(line, line), descent, scaling="gradient-flow")
        >>> names = list(flow.terms["M"])
        >>> len(flow.without(names[-1]).terms["M"]) == len(names) - 1
        True
        """
        return self._of(self._own.equations.without(*names, block=block))

    def diff(self, other: Any) -> Any:
        """Terms of the descents that differ.

        Parameters
        ----------
        other : DescentFlow or DescentEquations
            With which they are compared.

        Returns
        -------
        Difference
            `added`, `dropped` and `changed` terms, by block.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
        >>> descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.1)
        >>> flow = dmft.derive(dmft.Model(line, line), descent, scaling="gradient-flow")
        >>> bool(flow.diff(flow))
        False
        """
        return self._own.equations.diff(getattr(other, "equations", other))

    @property
    def changes(self) -> Any:
        """What was changed since the flow was derived."""
        return self._own.equations.changes

    @property
    def symbols(self) -> dict[str, Any]:
        """As `DescentEquations.symbols`."""
        return self._own.equations.symbols

    @property
    def indices(self) -> TimesAndNeurons:
        """As `DescentEquations.indices`."""
        return self._own.equations.indices

    @property
    def _own(self) -> DescentFlow:
        return cast("DescentFlow", self)

    def _of(self, equations: DescentEquations) -> Self:
        found = replace(self._own, equations=equations)
        _ = found.definitions  # refuses steps that have no limit
        return cast(Self, found)
