"""Terms of hand-written two-time problems that are added, dropped, replaced and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import sympy as sp
from sympy.core.function import AppliedUndef

from dmft.checks import is_expression, shown
from dmft.equations.changes.changeable import Changeable
from dmft.equations.changes.user_terms import Indices
from dmft.equations.two_time.written.declaration import Key, Terms, block_name
from dmft.errors import BadParameter

if TYPE_CHECKING:
    from dmft.equations.two_time.written.problem import TwoTime


@dataclass(frozen=True, repr=False)
class Times(Indices):
    """Times of a problem by name, and those of each block.

    Attributes
    ----------
    times : tuple of sympy.Symbol
        Both times of the equations, and one that integrals run over.
    """

    times: tuple[sp.Symbol, ...] = ()

    @property
    def names(self) -> dict[str, sp.Symbol]:
        """The times by name."""
        return {y.name: y for y in self.times}

    def __repr__(self) -> str:
        t, s, u = self.times
        rows = (f"{block}({', '.join(map(str, own))})" for block, own in self.blocks.items())
        return f"0 <= {s} <= {t} (times); {u} (under integrals)\n" + ", ".join(rows)


class ChangesOfProblem(Changeable):
    """How `TwoTime` stores terms: in rates and in values, by the functions that they move."""

    scaling = "two times"
    algorithm = ""

    @property
    def _own(self) -> TwoTime:
        return cast("TwoTime", self)

    @property
    def _keys(self) -> dict[str, Key]:
        """Functions of times by the names of their blocks."""
        return {block_name(key): key for key in self._own.named}

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Named terms of each equation: "C" of C(t, s), "C_diagonal" of C(t, t), "mu" of mu(t)."""
        return {block_name(key): dict(terms) for key, terms in self._own.named.items()}

    @property
    def all_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """The same."""
        return self.terms

    @property
    def described(self) -> dict[str, str]:
        """Which equations are rates, which functions are causal, and the start."""
        own = self._own
        return {
            "rates": ", ".join(map(str, own.rates)),
            "causal": ", ".join(map(str, own.causal)),
            "start": ", ".join(f"{key} = {expr}" for key, expr in own.start.items()),
        }

    @property
    def model(self) -> str:
        """What it is called."""
        return self._own.name

    @property
    def approximation(self) -> str:
        """How averages are computed, in words."""
        return "as the equations stand"

    @property
    def as_derived(self) -> Self:
        """The problem before any change."""
        return cast(Self, self._own.derived or self)

    @property
    def is_changed(self) -> bool:
        """Whether terms were added, dropped or replaced since the problem was written."""
        return self._own.derived is not None

    @property
    def symbols(self) -> dict[str, Any]:
        """What a term may be written in, by name: functions of times, and parameters."""
        own = self._own
        functions = {str(f): f for f in (*own.pairs, *own.signals)}
        return {**functions, **{y.name: y for y in own.parameters}}

    @property
    def indices(self) -> Times:
        """Times by name (those of the equations, and one for integrals), and of each block."""
        t, s = self._own.times
        inner = next(sp.Symbol(n) for n in ("u", "v", "w") if n not in (t.name, s.name))
        blocks = {name: tuple(dict.fromkeys(key.args)) for name, key in self._keys.items()}
        return Times(blocks, (t, s, inner))

    def with_term(self, block: str, name: str, expr: Any) -> Self:
        r"""The problem with one more term in the equation of a block.

        Scaling     per unit t where the block has a rate; of the function itself where it has a
                    value
        Valid for   what equations may hold: local terms, and integrals of A(t, u) * B(u, s).
                    X(t, s) and its diagonal X(t, t) are blocks of their own: what moves a function
                    that has a total rate on the diagonal is added to both

        Parameters
        ----------
        block : str
            "X" for X(t, s), "X_diagonal" for X(t, t), "m" for m(t).
        name : str
            Of the term, one word.
        expr : sympy.Expr or number
            In the functions of `symbols` at the times of `indices`. Other symbols become run-time
            parameters of `evaluate` and `solve`.

        Returns
        -------
        TwoTime
            A new problem; this one stays as it is.

        Raises
        ------
        BadParameter
            For an unknown block, a name that is taken, functions without an equation, and what is
            not causal.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> glass = dmft.literature.spherical_p_spin(3)
        >>> C, (t, s) = glass.symbols["C"], glass.indices.of("C")
        >>> leaking = glass.with_term("C", "leak", -sp.Symbol("rate") * C(t, s))
        >>> leaking.parameters, glass.diff(leaking)
        ((rate,), C  added    leak: -rate*C(t, s))
        """
        return super().with_term(block, name, expr)

    def _with_changed(self, block: str, name: str, given: object) -> Self:
        key = self._keys[block]
        terms = dict(self._own.named[key])
        if given is None:
            del terms[name]
        else:
            terms[name] = self._checked(block, given)
        return self._rebuilt({**self._own.named, key: terms})

    def _without(self, names: tuple[str, ...]) -> Self:
        known = {n for terms in self.terms.values() for n in terms}
        for name in names:
            if name not in known:
                raise BadParameter(f"no term is called {name!r}; there are {sorted(known)}")
        every = self._own.named.items()
        kept = {key: {n: e for n, e in y.items() if n not in names} for key, y in every}
        return self._rebuilt(kept)

    def _substituted(self, values: Mapping[Any, object]) -> Self:
        """Expressions may hold the time t: what varies under an integral over u is a signal."""
        own = self._own
        named, t = {y.name: y for y in own.parameters}, own.times[0]
        swap = {}
        for key, given in values.items():
            name = getattr(key, "name", key)
            if name not in named:
                raise BadParameter(f"{shown(name)} is no parameter; parameters are {sorted(named)}")
            expr = self._formula(f"the parameter {name}", given)
            # A time of the same name is that of the equations, whatever its assumptions.
            swap[named[name]] = expr.xreplace({y: t for y in expr.free_symbols if y.name == t.name})
        every = own.named.items()
        changed = {key: {n: e.xreplace(swap) for n, e in y.items()} for key, y in every}
        zero = {t: sp.S.Zero}
        return self._rebuilt(changed, {k: e.xreplace(swap).xreplace(zero)
                                       for k, e in own.start.items()})  # fmt: skip

    def _rebuilt(
        self, named: Mapping[Key, Terms], start: Mapping[Key, sp.Expr] | None = None
    ) -> Self:
        """The same problem with other terms; what its solver could not take is refused now."""
        from dmft.equations.two_time.written.normal_form import normal_form

        own = self._own
        rates, values = (
            {key: terms for key, terms in named.items() if key in group}
            for group in (own.rates, own.values)
        )
        begun = own.start if start is None else start
        found = type(own)(rates, values, begun, own.causal, own.name, own.source)
        normal_form(found)
        before = own.derived or own
        same = found.named == before.named and found.start == before.start
        object.__setattr__(found, "derived", None if same else before)
        return cast(Self, found)

    def _formula(self, what: str, given: object) -> sp.Expr:
        if not is_expression(given):
            raise BadParameter(
                f"{what} must be a SymPy expression or a finite number, got {shown(given)}"
            )
        return sp.sympify(given, strict=True)

    def _checked(self, block: str, given: object) -> sp.Expr:
        """A user's expression in the functions and symbols of the equations."""
        own, known = self._own, self.symbols
        expr = self._formula(f"a term of {block}", given)
        scalars = {y.name: y for y in (*own.times, *own.parameters)}
        inner = {y.name for i in expr.atoms(sp.Integral) for y in i.variables}
        swap: dict[sp.Basic, sp.Basic] = {
            y: scalars[y.name]
            for y in expr.free_symbols
            if y.name in scalars and y.name not in inner
        }
        counts = {str(f): n for n, group in ((2, own.pairs), (1, own.signals)) for f in group}
        for f in expr.atoms(AppliedUndef):
            if counts.get(str(f.func)) != len(f.args):
                names = ", ".join([*(f"{y}(t, s)" for y in own.pairs),
                                   *(f"{y}(t)" for y in own.signals)])  # fmt: skip
                raise BadParameter(
                    f"{f} in a term of {block} has no equation: the problem moves {names}"
                )
            swap[f] = known[str(f.func)](*(y.xreplace(swap) for y in f.args))
        expr = expr.xreplace(swap)
        target = self.indices.of(block)
        foreign = sorted((expr.free_symbols & {*own.times}) - {*target}, key=str)
        if foreign:
            raise BadParameter(
                f"the time {foreign[0]} is free in {expr}: a term of {block} has "
                f"{', '.join(map(str, target))}; integrate over it"
            )
        return expr
