"""Terms that a user writes: the symbols and indices they are written in, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sympy as sp

from dmft.emit import emit_expression
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import (
    Expectation,
    free_indices,
    is_placed,
    product_average,
)
from dmft.equations.definitions import (
    Definition,
    base_name,
    has_rows_of_readout,
    running_symbol,
    sorted_entries,
    used_bases,
)
from dmft.equations.parameter_values import RESERVED, entry_named
from dmft.errors import BadParameter
from dmft.gaussian.tables.tabled import PlacedAverage
from dmft.model import FIELD
from dmft.validation import is_expression, shown

Axes = tuple[sp.Expr, ...]

# Terms that have a meaning of their own: what a constraint acts on, what it adds, the risk.
OWN_TERMS = frozenset({"free", "sphere", "risk"})
# The letters that are printed, for those who would rather write them.
LETTERS = {
    "a": "readout", "a_star": "teacher_readout", "gamma": "learning_rate", "Delta": "label_noise",
    "rho_a": "readout_rate", "d": "dim", "n_b": "batch_size",
}  # fmt: skip
PARAMETERS = {s.name: s for s in (x.gamma, x.Delta, x.rho_a, x.rho, x.d, x.n_b)} | x.numbers
# Arrays that equations read without defining them.
CONSTANTS: dict[str, Axes] = {
    "P": (x.k, x.k), "readout": (x.p,), "teacher_readout": (x.k,), "P_inverse": (x.k, x.k),
}  # fmt: skip
ALWAYS = ("P", "readout", "teacher_readout")
FIELDS = frozenset({"h", "h_star", "lambda"})
# Functions of overlaps that the reference, the bounds of rounding and compiled code all have.
FUNCTIONS = (sp.asin, sp.exp, sp.erf, sp.tanh)
# Averages that a user takes from the terms of equations.
AVERAGES = (Expectation, PlacedAverage)
WHO = {x.p: "students", x.k: "teachers", x.p + x.k: "all fields"}
RANGES = {x.p: "p", x.k: "k", x.p + x.k: "p + k"}
# Symbols that are not counted over neurons belong to averages.
RUNNING = {s: axis for s, axis in x.AXES.items() if axis in WHO and s != x.row}


@dataclass(frozen=True, repr=False)
class Indices(Mapping[str, sp.Symbol]):
    """Indices of equations, by name and by block.

    Attributes
    ----------
    blocks : mapping from block to tuple of sympy.Symbol

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> indices = dmft.derive(dmft.Model(square, square), dmft.GradientFlow()).indices
    >>> indices["j"], indices.of("Q"), indices.of("M")
    (j, (j, l), (j, r))
    >>> indices
    j, l, u, v = 1..p (students); r, s = 1..k (teachers); i, m, n = 1..p + k (all fields)
    M[j, r], Q[j, l]
    """

    blocks: Mapping[str, tuple[sp.Symbol, ...]] = field(default_factory=dict)

    def of(self, block: str) -> tuple[sp.Symbol, ...]:
        """Return the indices that a term of a block depends on.

        Parameters
        ----------
        block : str
            "Q", "M", "readout" ...

        Returns
        -------
        tuple of sympy.Symbol

        Raises
        ------
        BadParameter
            For a block that the equations do not contain.

        Examples
        --------
        >>> import dmft
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05))
        >>> eqs.indices.of("Q")
        (j, l)
        """
        if block not in self.blocks:
            raise BadParameter(f"no block is called {shown(block)}; available: {list(self.blocks)}")
        return self.blocks[block]

    @property
    def names(self) -> dict[str, sp.Symbol]:
        """All indices, by name."""
        return (
            {s.name: s for s in RUNNING if s not in x.powers} if any(self.blocks.values()) else {}
        )

    def __getitem__(self, name: str) -> sp.Symbol:
        return self.names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        rows = []
        for axis, who in WHO.items():
            own = ", ".join(s.name for s in self.values() if RUNNING[s] == axis)
            rows.append(f"{own} = 1..{RANGES[axis]} ({who})")
        entries = (f"{b}[{', '.join(map(str, i))}]" if i else b for b, i in self.blocks.items())
        return "; ".join(rows if self.names else ["no running indices"]) + "\n" + ", ".join(entries)


def arrays_of(definitions: Sequence[Definition], until: str | None = None) -> dict[str, Axes]:
    """Arrays over neurons that are known where `until` is computed, with their axes."""
    used = {name for d in definitions for name in used_bases(d.expr)}
    found = {d.name: _axes(d) for d in definitions if d.role == "rate" and _has_entries(d)}
    if not found:  # alignments of a sequence, one by one
        return {}
    found |= {n: axes for n, axes in CONSTANTS.items() if n in ALWAYS or n in used}
    if has_rows_of_readout(definitions):
        found["readout"] = (x.outputs, x.p)
    for d in definitions:
        if d.name == until and d.role in ("intermediate", "rate"):
            break
        if d.role in ("block", "intermediate") and _has_entries(d):
            found.setdefault(d.name, _axes(d))
    return {n: axes for n, axes in found.items() if not {x.nodes, x.cosines} & set(axes)}


def _has_entries(d: Definition) -> bool:
    return isinstance(d.target, sp.Indexed)


def _axes(d: Definition) -> Axes:
    if d.role == "block":
        return (x.p + x.k,) * len(d.target.indices)
    running = map(running_symbol, d.target.indices)
    return tuple(sp.S.One if s is None else x.AXES[s] for s in running)


def named_symbols(declared: Iterable[sp.Symbol], arrays: Iterable[str]) -> dict[str, sp.Expr]:
    """Arrays and parameters by name and by letter, and the widths."""
    found: dict[str, sp.Expr] = {name: sp.IndexedBase(name) for name in arrays}
    found |= {s.name: s for s in declared}
    letters = {letter: found[name] for letter, name in LETTERS.items() if name in found}
    return {**letters, **found}


def users_of(declared: Mapping[str, sp.Expr]) -> frozenset[str]:
    """Names of the symbols that parameters were declared with."""
    return frozenset(s.name for value in declared.values() for s in value.free_symbols)


@dataclass(frozen=True)
class TermCheck:
    """What a term may be written in, at one place of a system (`where`, in words).

    `target` are the indices of the block, `arrays` axes by name, `scalars` known parameters,
    `taken` other names of the system, `users` names of symbols that parameters are declared with,
    `widths` declared ones by axis.
    """

    where: str
    target: tuple[sp.Symbol, ...]
    arrays: Mapping[str, Axes]
    scalars: Mapping[str, sp.Symbol]
    taken: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    widths: Mapping[sp.Expr, sp.Expr] = field(default_factory=dict)

    def __call__(self, given: object) -> sp.Expr:
        """The expression in the symbols of the equations."""
        if not is_expression(given):
            raise BadParameter(
                f"a term of {self.where} must be a SymPy expression or a finite number, got "
                f"{shown(given)}"
            )
        expr = self._canonical(sp.sympify(given, strict=True))
        self._check(expr)
        free = [s for s in free_indices(expr) if s not in self.target]
        if free:
            s = free[0]
            own = f"the indices {', '.join(map(str, self.target))}" if self.target else "no index"
            raise BadParameter(
                f"the index {s} is free in {expr}: a term of {self.where} has {own}; sum over it, "
                f"sympy.Sum(..., ({s}, 1, {x.AXES[s]}))"
            )
        return expr

    def new_parameters(self, expr: sp.Expr) -> tuple[sp.Symbol, ...]:
        """Symbols that become run-time parameters."""
        found = sorted((s for s in _scalars(expr) if s.name not in self.scalars), key=str)
        for s in found:
            if s.name not in self.users:
                check_parameter(s, self.taken)
        return tuple(found)

    def _canonical(self, expr: sp.Expr) -> sp.Expr:
        """The user's symbols by those of the equations of the same name."""
        own = {s.name: s for s in (*x.AXES, x.p, x.k)} | dict(self.scalars)
        labels = {b.label for b in expr.atoms(sp.IndexedBase)}
        swap = {
            s: own[s.name]
            for s in expr.atoms(sp.Symbol) - labels
            if s.name in own and s != own[s.name]
        }
        bases = {b: sp.IndexedBase(str(b.label)) for b in expr.atoms(sp.IndexedBase)}
        return sorted_entries(expr.xreplace(bases).xreplace(swap))

    def _check(self, expr: sp.Expr) -> None:
        """Refuse what the equations do not have, or what cannot be compiled."""
        if isinstance(expr, AVERAGES):
            self._check_average(expr)
        elif isinstance(expr, sp.Indexed):
            self._check_entry(expr)
        elif isinstance(expr, sp.KroneckerDelta):
            for index in expr.args:
                self._check_index(index, x.AXES.get(index), expr)
        elif isinstance(expr, sp.Symbol | sp.IndexedBase):
            self._check_symbol(expr)
        elif expr.is_number:
            if not expr.is_real:
                raise BadParameter(f"{expr} in a term of {self.where} is not a real number")
        elif isinstance(expr, sp.Sum):
            self._check_sum(expr)
        elif _is_plain(expr):
            for part in expr.args[: 1 if expr.is_Pow else None]:
                self._check(part)
        elif expr.has(sp.Indexed, sp.Sum, sp.KroneckerDelta, *AVERAGES):
            raise BadParameter(
                f"{expr} in a term of {self.where} has no compiled code: functions of overlaps are "
                "+ - * /, whole and half powers, sums over neurons, KroneckerDelta, "
                f"{', '.join(f.__name__ for f in FUNCTIONS)}"
            )
        else:
            for s in expr.free_symbols:
                self._check_symbol(s)
            emit_expression(expr, {s: s.name for s in expr.free_symbols})  # or it is refused

    def _check_symbol(self, s: sp.Symbol) -> None:
        if s in x.AXES:
            raise BadParameter(
                f"the index {s} is used as a number in a term of {self.where}; equations must "
                "be the same for all neurons"
            )
        if s.name in self.arrays:
            axes = self.arrays[s.name]
            raise BadParameter(f"{s} is an array: write its entries, {_example(s.name, axes)}")

    def _check_sum(self, expr: sp.Sum) -> None:
        for index, *limits in expr.limits:
            if index not in x.AXES or limits != [1, x.AXES[index]]:
                raise BadParameter(
                    f"sums run over all neurons, as (u, 1, p) over students or (s, 1, k) over "
                    f"teachers with u and s of equations.indices; got {(index, *limits)}"
                )
            inner = {i for s in expr.function.atoms(sp.Sum) for i, *_ in s.limits}
            if index in self.target or index in inner:
                others = [s for s in RUNNING if RUNNING[s] == x.AXES[index] and s != index]
                raise BadParameter(
                    f"the sum over {index} in a term of {self.where} hides an index of the same "
                    f"name; sum over another one, for example {others[-1]}"
                )
        self._check(expr.function)

    def _check_entry(self, e: sp.Indexed) -> None:
        name = base_name(e)
        if name in FIELDS:
            raise BadParameter(
                f"{e} is a field of one sample; terms of {self.where} are averages over samples, "
                f"written in overlaps: {', '.join(self.arrays)}"
            )
        if name not in self.arrays:
            raise BadParameter(
                f"{e} is not available in the rate of {self.where}; available are "
                f"{', '.join(self.arrays)}"
            )
        axes = self.arrays[name]
        if len(axes) != len(e.indices):
            raise BadParameter(f"{e} has {len(e.indices)} indices, write {_example(name, axes)}")
        for index, axis in zip(e.indices, axes, strict=True):
            self._check_index(index, axis, e)

    def _check_index(self, index: sp.Expr, axis: sp.Expr | None, e: sp.Expr) -> None:
        """Refuse an index that does not run over this axis, or lies outside."""
        if axis is not None:
            if index.is_Integer:
                width = axis.xreplace(dict(self.widths))
                if width.is_Integer and 1 <= index <= width:
                    return
                raise BadParameter(
                    f"the index {index} of {e} is not known to be one of 1..{width}: fixed indices "
                    "need a model with this width"
                )
            if x.AXES.get(index) == axis:
                return
            if (axis == x.p + x.k and x.AXES.get(index) == x.p) or x.AXES.get(index - x.p) == x.k:
                return
        runs = [s.name for s in RUNNING if RUNNING[s] == axis and s not in x.powers]
        hint = f"one of {', '.join(runs)}" if runs else "one of equations.indices"
        over = f" of {WHO[axis]}" if axis in WHO else ""
        raise BadParameter(f"the index {index} of {e} is not an index{over}: use {hint}")

    def _check_average(self, expr: sp.Expr) -> None:
        """Averages come from the terms of equations: their parameters must be known."""
        labels = {b.label for b in expr.atoms(sp.IndexedBase)}
        found = expr.free_symbols if is_placed(expr) else expr.atoms(sp.Symbol)
        others = found - labels - {FIELD, x.p, x.k, *x.AXES, *x.OF_A_SAMPLE}
        foreign = sorted(s.name for s in others if s.name not in self.scalars)
        if foreign:
            raise BadParameter(f"{expr} is an average of another model: it contains {foreign[0]}")


def _is_plain(expr: sp.Expr) -> bool:
    """Whether an operation on overlaps is compiled."""
    if isinstance(expr, sp.Pow):
        return bool(expr.exp.is_Rational and (2 * expr.exp).is_Integer)
    return isinstance(expr, (sp.Add, sp.Mul, *FUNCTIONS))


def _example(name: str, axes: Axes) -> str:
    unused = [s for s in RUNNING if s not in x.powers]
    places = []
    for axis in axes:
        s = next((s for s in unused if RUNNING[s] == axis), sp.S.One)
        unused = [y for y in unused if y != s]
        places.append(str(s))
    return f"{name}[{', '.join(places)}]"


def _scalars(expr: sp.Expr) -> set[sp.Symbol]:
    """Symbols outside of averages that are neither arrays nor indices nor widths."""
    if isinstance(expr, (*AVERAGES, sp.Indexed, sp.KroneckerDelta)):
        return set()
    if isinstance(expr, sp.Sum):
        return _scalars(expr.function)
    if isinstance(expr, sp.Symbol):
        return set() if expr in x.AXES or expr in (x.p, x.k) else {expr}
    return {s for a in expr.args for s in _scalars(a)}


def check_parameter(symbol: sp.Symbol, taken: Iterable[str]) -> None:
    """Refuse a new parameter whose name means something already."""
    name = symbol.name
    if name in LETTERS:
        raise BadParameter(
            f"the symbol {name} is printed like {LETTERS[name]}: use "
            f'equations.symbols["{name}"] for the quantity of the equations, or rename yours, for '
            f"example to {name}_0"
        )
    if entry := entry_named(name):
        array = entry.partition("[")[0]
        raise BadParameter(
            f"the symbol {name} is printed like the entry {entry}: write an entry of "
            f'equations.symbols["{array}"] at equations.indices, or rename yours, for example to '
            f"{array}_0"
        )
    if name == "t":
        raise BadParameter("the rates do not depend on t; parameters of a run are numbers")
    if name in RESERVED or name in FIELDS or name in set(taken):
        raise BadParameter(
            f"the symbol {name} is reserved here; rename it, for example to {name}_0"
        )
    if not name.isprintable() or not name:
        raise BadParameter(f"the symbol {name!r} has no printable name; rename it")


def symmetrised(expr: sp.Expr, first: sp.Symbol, second: sp.Symbol) -> sp.Expr:
    """Half the sum of an expression and the same with its two indices exchanged."""
    other = expr.xreplace({first: second, second: first})
    found = (q for q in other.atoms(Expectation) if q.is_product)
    other = other.xreplace({q: product_average(q.factors, q.fields, q.law) for q in found})
    other = sorted_entries(other)
    return expr if sp.expand(other - expr) == 0 else (expr + other) / 2
