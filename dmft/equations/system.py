"""`System`: equations of motion as ordered definitions, and changes of their terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import Lowered, lowered
from dmft.equations.changeable import Changeable
from dmft.equations.definitions import Definition, base_name, live, mapped, used_bases
from dmft.equations.parameter_values import declared_parameters
from dmft.equations.states import Grams, StateSpace
from dmft.equations.user_terms import (
    PARAMETERS,
    Indices,
    TermCheck,
    arrays_of,
    named_symbols,
    symmetrised,
    users_of,
)
from dmft.errors import BadParameter
from dmft.model import SGD, GradientFlow, Model
from dmft.model.algorithm import numbers_of
from dmft.record import in_full
from dmft.symbolic_lock import in_turn
from dmft.validation import shown

if TYPE_CHECKING:
    from dmft.equations.noise.record import Fluctuations

# Set where equations are derived: other things depend on them.
FIXED_BY_DERIVE = ("dim", "batch_size")


@dataclass(frozen=True, repr=False)
class System(Changeable):
    """What `Equations` hold: definitions, what they were derived from, and what follows from both.

    Terms are stored in the rates, and in the free rates that a constraint reads.
    """

    kind: str
    definitions: tuple[Definition, ...]
    model: Model
    algorithm: SGD | GradientFlow
    scaling: str
    time_unit: str
    dim: sp.Expr | None = None
    noise: Fluctuations | None = None
    derived: tuple[Definition, ...] = field(default=(), repr=False)
    extra: tuple[sp.Symbol, ...] = ()

    @property
    def family(self) -> str:  # type: ignore[override]
        """Kind of state: "overlaps", the alignments of a "sequence", or those of a "rule"."""
        return self.model.family

    @property
    def all_symbols(self) -> set[sp.Symbol]:
        """Symbols in the definitions."""
        return {s for d in self.definitions for s in d.expr.free_symbols}

    @property
    def is_written_out(self) -> bool:
        """Whether definitions contain single numbers instead of arrays."""
        return self.family in ("sequence", "rule")

    @cached_property
    def space(self) -> StateSpace:
        """State space of a run: Gram matrices, their wide limit, or alignments."""
        if self.model.reads_sequences:
            from dmft.equations.sequence.alignments import Alignments

            return Alignments(self.model, self.algorithm)
        if self.family == "rule":
            from dmft.equations.rules.space import RuleSpace

            return RuleSpace(self.model, self.algorithm)
        if self.scaling in ("mean-field", "wide-high-dimensional"):
            from dmft.equations.restrict.wide import InfiniteWidth, MeanField

            if self.scaling == "mean-field":
                return MeanField(self.model, self.algorithm, self.dim is not None)
            return InfiniteWidth(self.model, self.algorithm)
        return Grams(self.model, self.algorithm)

    # What they hold --------------------------------------------------------------------------

    @cached_property
    def declared(self) -> dict[str, sp.Expr]:
        """All parameters with their declared values, those of a user's terms as their symbols."""
        declared = declared_parameters(self.model, self.algorithm, self.dim)
        return declared | {s.name: s for s in self.extra}

    @cached_property
    def parameters(self) -> dict[str, sp.Expr]:
        """Scalar parameters that the equations read, with their declared values."""
        declared = self.declared
        used = {n for d in self.definitions for n in used_bases(d.expr)}
        used |= set(numbers_of(self.algorithm))  # they set the clock, too
        if "cosine" in used:  # its nodes are those of the dimension
            used.add("dim")
        if self.noise:  # the covariance reads them all
            used |= set(declared) - self.noise.unread - {s.name for s in self.extra}
        return {name: value for name, value in declared.items() if name in used}

    @cached_property
    def open_kernels(self) -> tuple[str, ...]:
        """Messages of the expectations without closed form; empty when the system is closed."""
        return tuple(a.refusal for a in self.lowered if a.how == "open")

    @cached_property
    @in_turn
    def lowered(self) -> tuple[Lowered, ...]:
        """Method of each average: a value, nodes, or an error."""
        return lowered(self.definitions)

    @cached_property
    def averages(self) -> tuple[Expectation, ...]:
        """Averages without closed form or table, which are computed by quadrature on nodes."""
        return tuple(a.average for a in self.lowered if a.how == "nodes")

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Rates by block and by named term, in terms of the symbols of intermediate quantities.

        Rates of the alignments of a sequence model are columns of their components.
        """
        single, blocks = self.rate_terms, self.space.blocks
        if not blocks:
            return single
        return {b: _columns([single[str(s)] for s in row]) for b, row in blocks.items() if row}

    @property
    def rate_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Terms of the definitions of the rates, by their names."""
        free = {d.name: dict(d.terms) for d in self.definitions}
        result = {}
        for d in self.definitions:
            if d.role == "rate":
                parts = dict(d.terms)
                whole = parts.pop("free", None)
                if whole is not None:
                    parts = {**free.get(base_name(whole), {}), **parts}
                result[d.name] = parts
        return result

    @property
    def all_terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Rates, the quantities that they depend on, and the risk."""
        terms, defined = self.terms, self.definitions
        homes = {_home(defined, d.name) for d in defined if d.role == "rate"}
        rest = {
            d.name: dict(d.terms)
            for d in defined
            if d.role in ("intermediate", "sample", "observable") and d.name not in homes
        }
        return {**terms, **rest}

    @property
    def described(self) -> dict[str, str]:
        """Kind, scaling, declaration, and the terms at order 1/d of an sde."""
        return {
            "kind": self.kind,
            "scaling": self.scaling,
            "model": in_full(self.model),
            "algorithm": str(self.algorithm),
            "dim": str(self.dim),
            "terms at order 1/d": ", ".join(self.noise.terms if self.noise else ()) or "none",
        }

    @property
    def as_derived(self) -> Self:
        """The equations before any change."""
        if not self.is_changed:
            return self
        noise = replace(self.noise, dropped=()) if self.noise else None
        found = self.derived or self.definitions
        return replace(self, definitions=found, noise=noise, derived=(), extra=())

    @property
    def is_changed(self) -> bool:
        """Whether terms were added, dropped or replaced since the equations were derived."""
        return bool(self.derived or (self.noise and self.noise.dropped))

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the terms that were removed."""
        return (*super().dropped, *(self.noise.dropped if self.noise else ()))

    @property
    def symbols(self) -> dict[str, Any]:
        """Symbols that a term may contain: arrays and parameters by name and by letter.

        Arrays are the state, the constants (P, readouts) and the quantities from which the rates
        are computed; "a", "gamma", "Delta" ... denote "readout", "learning_rate", "label_noise".
        `indices` contains the indices of their entries.
        """
        arrays = arrays_of(self.definitions)
        found = named_symbols(self._known.values(), arrays)
        return {**found, "p": x.p, "k": x.k} if arrays else found

    @property
    def indices(self) -> Indices:
        """Indices by name (j, l for student units, r, s for teacher units) and by block."""
        if self.space.blocks:  # the alignments are written out one by one
            return Indices(dict.fromkeys(self.terms, ()))
        rates = [d for d in self.definitions if d.role == "rate"]
        return Indices({d.name: d.indices for d in rates})

    @property
    def _known(self) -> dict[str, sp.Symbol]:
        """Symbols of the parameters and of what is defined as one number, by name."""
        known = (d.target for d in self.definitions if d.role in ("intermediate", "rate"))
        return {s.name: s for s in known if isinstance(s, sp.Symbol)} | self._scalars

    @property
    def _scalars(self) -> dict[str, sp.Symbol]:
        """Symbols of the parameters by name."""
        known = {s.name: s for s in (*self.model.parameters, *self.extra)}
        return {name: PARAMETERS.get(name) or known[name] for name in self.declared}

    @property
    def _own_names(self) -> frozenset[str]:
        named = {t for terms in self.terms.values() for t in terms}
        inner = {t for d in self.definitions for t, _ in d.terms if d.role != "block"}
        return frozenset(inner - named) | frozenset(self.noise.terms if self.noise else ())

    def text_of(self, expr: Any) -> str:
        """An expression as in `str(equations)`."""
        from dmft.typeset.plain import plain

        return plain(self.latex_of(expr))

    def latex_of(self, expr: Any) -> str:
        """An expression as in `latex`."""
        from dmft.equations.views.printer import EquationPrinter
        from dmft.equations.views.text import model_names

        names = model_names(self.model)
        return str(EquationPrinter(names).doprint(expr))

    def block_latex(self, block: str) -> str:
        """A block with its indices."""
        if block in self.space.blocks:
            return block
        target = next(d.target for d in reversed(self.definitions) if d.name == block)
        return self.latex_of(target)

    # Changes ---------------------------------------------------------------------------------

    def _places(self, block: str, expr: sp.Expr) -> dict[str, sp.Expr]:
        """Definitions that a term of a block adds to, with what it adds; its own comes first."""
        definitions = self.definitions
        found = {_home(definitions, block): expr}
        # On the sphere a term of a wide limit adds to Phi_jj = dQ_jj/dt, which scales the rows.
        if any(d.name == x.growth.name for d in definitions):
            inside = 2 * sp.Sum(x.along[x.j, x.r] * expr, (x.r, 1, x.k)) if expr != 0 else expr
            found[x.growth.name] = {"M": inside, "Q_perp": expr}.get(block, sp.S.Zero)
        return found

    def _with_changed(self, block: str, name: str, given: object) -> Self:
        symbols = self.space.blocks.get(block)
        if symbols is None:
            return self._with_entry(block, name, given)
        found = self
        for s, part in zip(symbols, _components(block, symbols, given), strict=True):
            found = found._with_entry(str(s), name, part)
        return found

    def _with_entry(self, block: str, name: str, given: object) -> Self:
        """Set the term of one definition of a rate."""
        definitions = self.definitions
        rate = next(d for d in definitions if d.role == "rate" and d.name == block)
        first = next(iter(self._places(block, sp.S.Zero)))
        # What a constraint adds stands outside of the free rate.
        own = name == "sphere" or (first != block and name in dict(rate.terms))
        first = block if own else first
        new: sp.Expr | None = None
        extra = self.extra
        if given is not None:
            self._check_free(rate, first)
            check = self._check(block, first)
            new = check(given)
            extra = (*extra, *check.new_parameters(new))
            if block in x.SYMMETRIC:
                new = symmetrised(new, *rate.indices)
        old = self.rate_terms[block].get(name, sp.S.Zero)
        moved = {first: (old, new)}
        if not own:
            after = self._places(block, sp.S.Zero if new is None else new)
            before = self._places(block, old)
            moved |= {d: (before[d], after[d]) for d in after if d != first}
        changed = [
            _with_term(d, name, *moved[d.name], whole=d.name == first)
            if d.name in moved and d.role in ("rate", "intermediate")
            else d
            for d in definitions
        ]
        return self._rebuilt(changed, extra)

    def _check_free(self, rate: Definition, first: str) -> None:
        """Refuse to add to a free rate that is gone: the constraint would not act on the term."""
        whole = dict(rate.terms).get("free")
        if whole is not None and first == rate.name:
            raise BadParameter(
                f"all terms of the unconstrained rate of {rate.name} were removed, so the "
                "constraint has nothing to act on; add the new term before removing the "
                "others"
            )

    def _check(self, block: str, first: str) -> TermCheck:
        until = {first, *self._places(block, sp.S.Zero)}
        definitions, blocks = self.definitions, self.space.blocks
        rate = next(d for d in definitions if d.role == "rate" and d.name == block)
        before = next(d.name for d in definitions if d.name in until)
        where = block + (f"[{', '.join(map(str, rate.indices))}]" if rate.indices else "")
        axes = {}
        if not blocks:
            axes = {x.p: self.model.student.width, x.k: self.model.teacher.width}
        taken = frozenset((*blocks, *(d.name for d in definitions)))
        arrays, users = arrays_of(definitions, before), users_of(self.declared)
        return TermCheck(where, rate.indices, arrays, self._known, taken, users, axes)

    def _without(self, names: tuple[str, ...]) -> Self:
        known = {t for d in self.definitions if d.role != "block" for t, _ in d.terms}
        known -= {"free", "risk"}
        known |= set(self.noise.terms if self.noise else ())
        kept: Sequence[Definition] = self.definitions
        for name in names:
            if name not in known:
                raise BadParameter(f"no term is called {name!r}; available: {sorted(known)}")
            kept = [d if d.role in ("block", "observable") else d.without(name) for d in kept]
        noise = self.noise.without(*names) if self.noise else None
        return replace(self._rebuilt(kept, self.extra), noise=noise)

    def _substituted(self, values: Mapping[Any, object]) -> Self:
        known = self._scalars
        if self.noise:
            raise BadParameter(
                "replace parameters of an sde in the declaration of the model or the algorithm: "
                "here the covariance of the increments would keep the old ones"
            )
        taken = frozenset(d.name for d in self.definitions)
        check = TermCheck("a parameter", (), {}, known, taken, users_of(self.declared))
        swap, extra = {}, self.extra
        for key, given in values.items():
            name = getattr(key, "name", key)
            fixed = [s.name for s in self.model.parameters]
            if name in (*FIXED_BY_DERIVE, *fixed) or name not in self.parameters:
                free = [n for n in self.parameters if n not in (*FIXED_BY_DERIVE, *fixed)]
                raise BadParameter(
                    f"{shown(key)} is not a parameter that can be replaced; these are {free}"
                )
            swap[known[name]] = check(given)
            extra = (*extra, *check.new_parameters(swap[known[name]]))
        put = (mapped(d, swap) for d in self.definitions)
        kept = [replace(d, factor=None) if d.factor in swap else d for d in put]
        return self._rebuilt(kept, extra)

    def _rebuilt(self, changed: Iterable[Definition], extra: tuple[sp.Symbol, ...]) -> Self:
        """The same equations with other definitions: empty ones are zero, unused ones go."""
        kept = list(changed)
        empty = {d.name for d in kept if d.role == "intermediate" and not d.terms}
        kept = [
            replace(d, terms=tuple((t, _zeroed(e, empty)) for t, e in d.terms))
            for d in kept
            if d.name not in empty or d.role != "intermediate"
        ]
        definitions = live(kept)
        derived = self.derived or self.definitions
        used = {s.name for d in definitions for s in d.expr.free_symbols}
        return replace(
            self,
            definitions=definitions,
            derived=() if definitions == derived else derived,
            extra=tuple(s for s in dict.fromkeys(extra) if s.name in used),
        )


def _home(definitions: Sequence[Definition], block: str) -> str:
    """Definition of the terms of a block: the free rate, where a constraint reads one."""
    rate = next(d for d in definitions if d.role == "rate" and d.name == block)
    whole = dict(rate.terms).get("free")
    return base_name(whole) if isinstance(whole, sp.Indexed) else block


def _with_term(
    d: Definition, name: str, old: sp.Expr, new: sp.Expr | None, *, whole: bool
) -> Definition:
    """A definition with another term of this name; `whole` where nothing else is part of it."""
    terms = dict(d.terms)
    rest = sp.S.Zero if whole else terms.get(name, sp.S.Zero) - old
    value = rest if new is None else rest + new
    if value == 0:
        terms.pop(name, None)
    else:
        terms[name] = value
    return replace(d, terms=tuple(terms.items()))


def _zeroed(expr: sp.Expr, empty: set[str]) -> sp.Expr:
    """Replace entries of intermediates that lost all their terms by zero."""
    rest = expr.replace(
        lambda e: isinstance(e, sp.Indexed) and str(e.base.label) in empty, lambda _: sp.Integer(0)
    )
    return rest.xreplace({s: sp.S.Zero for s in rest.free_symbols if str(s) in empty})


def _columns(rows: Sequence[Mapping[str, sp.Expr]]) -> dict[str, sp.Expr]:
    """Terms by name: columns of their components, expressions where there is one of them."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        parts = [row.get(name, sp.S.Zero) for row in rows]
        found[name] = parts[0] if len(parts) == 1 else sp.ImmutableDenseMatrix(parts)
    return found


def _components(block: str, symbols: Sequence[sp.Symbol], given: object) -> list[object]:
    """Components of a term, one for each alignment of a block; nothing for None."""
    if given is None:
        return [None] * len(symbols)
    many = isinstance(given, sp.MatrixBase | Sequence) and not isinstance(given, str)
    parts = list(given) if many else [given]  # type: ignore[call-overload]
    if len(parts) != len(symbols):
        raise BadParameter(
            f"a term of {block} has {len(symbols)} components "
            f"({', '.join(map(str, symbols))}); got {shown(given)}"
        )
    return parts
