"""Equations without averages: closed in the overlaps, at the declared values, simplified.

For print alone. Fields that coincide at the declared widths are one field before an average is
taken; on the sphere Q_jj = 1. What has no closed form, or none that is short, is left to the
structured form (`dmft.equations.views.networks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import FIELDS, At, Expectation
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import Definition, Role, base_name
from dmft.equations.symbols import ONLY
from dmft.equations.views.collected import (
    ANGLE,
    PI,
    SUPPLEMENT,
    collected,
    is_parameter,
    rank,
    turned,
    with_angle,
)
from dmft.equations.views.declared import declared_definitions
from dmft.equations.views.paper_units import Subject
from dmft.equations.views.printer import EquationPrinter, KernelPrinter
from dmft.equations.views.text import printed_definitions
from dmft.equations.views.unit_sums import over_neurons
from dmft.errors import DmftError, NotClosed
from dmft.explanation.print_forms import named_parts
from dmft.gaussian.closed.bivariate import BivariateNormalCDF, NormalCDF, normal_cdf
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.closed.polynomial import polynomial_expectation
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.tables.tabled import TableAverage
from dmft.names import BLOCK

# Closed systems of more operations are printed in averages, unless they are asked for.
LONGEST = 420
ROLES: tuple[Role, ...] = ("rate", "intermediate", "observable")


@dataclass(frozen=True)
class ClosedSystem:
    """Scalar equations, or equations of polynomial units for all widths, without averages.

    `rows` are (target, expression, role); `values` of overlaps that the constraint fixes; `totals`
    sums over the blocks of a spectrum; `angle` the cosine of the angle between student and teacher,
    where the rows hold it; `notes` declared values that were put in (`declared_definitions`);
    `scalar` is true if the rows hold no sums over neurons.
    """

    rows: tuple[tuple[sp.Expr, sp.Expr, Role], ...]
    values: Mapping[sp.Expr, sp.Expr] = field(default_factory=dict)
    totals: Mapping[sp.Expr, sp.Expr] = field(default_factory=dict)
    angle: sp.Expr | None = None
    notes: tuple[str, ...] = ()
    scalar: bool = False

    @property
    def operations(self) -> int:
        """Length of the system."""
        return int(sum(sp.count_ops(expr) for _, expr, _ in self.rows))

    def __getitem__(self, name: str) -> sp.Expr:
        """Right-hand side, by the name of its left-hand side, in symbols such as M."""
        expr = next(e for target, e, _ in self.rows if base_name(target) == name)
        at = {} if self.angle is None else {SUPPLEMENT: sp.pi - sp.acos(self.angle)}
        at |= {} if self.angle is None else {ANGLE: sp.acos(self.angle)}
        inner = {target: e for target, e, role in self.rows if role == "intermediate"}
        expr = expr.xreplace({s: inner.get(getattr(s, "entry", s), s) for s in expr.free_symbols})
        expr = expr.xreplace({PI: sp.pi, **at}).replace(NormalCDF, normal_cdf)
        return expr.xreplace({s: s.plain for s in expr.free_symbols if isinstance(s, Entry)})

    @property
    def definitions(self) -> list[Definition]:
        """The rows as definitions, in entries of arrays."""
        found = []
        for target, expr, role in self.rows:
            entries = {s: s.entry for s in expr.free_symbols if isinstance(s, Entry)}
            found.append(Definition(target, (("closed", expr.xreplace(entries)),), role))
        return found


def closed_system(subject: Subject, longest: float = math.inf) -> ClosedSystem | None:
    """The closed form of equations or of a risk; None where there is none.

    A system of more operations than `longest` may be given up early.
    """
    model = subject.model
    if subject.kind != "ode" or subject.fluctuates or subject.reduced or model.family != "overlaps":
        return None
    sphere = bool(getattr(subject.algorithm, "constraint", None))
    one_teacher = getattr(model.teacher, "width", None) == 1
    definitions, notes = declared_definitions(subject, sphere or not one_teacher)
    return system_of(printed_definitions(definitions), sphere, tuple(notes), longest)


@lru_cache(maxsize=32)
def system_of(
    definitions: tuple[Definition, ...], sphere: bool, notes: tuple[str, ...], longest: float
) -> ClosedSystem | None:
    """The closed form of definitions, which a document needs several times."""
    try:
        return _Closing(definitions, sphere, longest).system(notes)
    except NotClosed:
        return None


class _Closing:
    """Puts closed forms for the averages of definitions."""

    def __init__(self, definitions: Sequence[Definition], sphere: bool, longest: float) -> None:
        self.definitions, self.sphere, self.longest = definitions, sphere, longest
        read = [d for d in definitions if d.role not in ("block", "sample")]
        if any(d.role == "sample" for d in definitions):
            raise NotClosed
        self.read = read
        entries = {e for d in read for y in (d.expr, d.target) for e in y.atoms(sp.Indexed)}
        indices = {i for e in entries for i in e.indices}
        self.scalar = all(i in (*ONLY, x.block) or i.is_number for i in indices)
        self.blocks = {base_name(d.target) for d in definitions if d.role == "block"}
        if any(name.startswith("Omega_") for name in self.blocks):  # clusters with covariances
            raise NotClosed
        self.by_block = "Gram" in self.blocks
        self.orthonormal = any(
            d.name == "Omega" and d.expr.has(sp.KroneckerDelta) for d in definitions
        )
        self.values: dict[Expectation, sp.Expr] = {}

    def system(self, notes: Sequence[str]) -> ClosedSystem:
        """The system, simplified."""
        exprs = {d.target: self.closed(d.expr) for d in self.read}
        roles = {d.target: d.role for d in self.read}
        if self.scalar:
            exprs = _inlined(exprs, roles)
        fixed: dict[sp.Expr, sp.Expr] = {}
        if self.sphere:
            exprs, fixed = self.on_sphere(exprs, roles)
        if not self.scalar:
            deltas = {d: sp.Dummy() for e in exprs.values() for d in e.atoms(sp.KroneckerDelta)}
            alone = (e.xreplace(deltas) for e in exprs.values() if not e.has(sp.Sum))
            if not all(e.is_polynomial() for e in alone):
                raise NotClosed
            exprs = {
                t: over_neurons(e) if e.has(sp.Sum) else turned(sp.collect(e, t, sp.factor))
                for t, e in exprs.items()
            }
            rows = [(t, e, roles[t]) for t, e in exprs.items()]
            return ClosedSystem(tuple(rows), fixed, notes=tuple(notes))
        exprs, symbols = _as_symbols(exprs)
        plain, angle = with_angle(list(exprs.values()))
        sides = [_by_angle(e, angle) for e in plain]
        if any(e.has(BivariateNormalCDF) for e in sides):
            plain = [e.replace(sp.erf, lambda y: 2 * NormalCDF(sp.sqrt(2) * y) - 1) for e in plain]
            others = [_by_angle(e, angle) for e in plain]
            sides = min(sides, others, key=lambda y: sum(map(sp.count_ops, y)))
        sides = [_by_squares(e) for e in sides]
        rows = [(target, e, roles[target]) for target, e in zip(exprs, sides, strict=True)]
        totals = self.totals(symbols) if self.by_block else {}
        return ClosedSystem(tuple(rows), fixed, totals, angle, tuple(notes), True)

    # Averages ---------------------------------------------------------------------------------

    def closed(self, expr: sp.Expr) -> sp.Expr:
        """An expression with closed forms for its averages."""
        for average in expr.atoms(Expectation):
            if average not in self.values:
                self.values[average] = self.average(average)
        return self.placed(expr.xreplace(self.values)).doit(deep=False)

    def average(self, average: Expectation) -> sp.Expr:
        """Closed form of one average over the distinct fields that it reads."""
        if average.law != FIELDS or average.integrand.has(sp.Sum):
            raise NotClosed
        if average.integrand.has(sp.DiracDelta):
            return self.product(average)
        integrand = average.integrand.replace(lambda e: isinstance(e, At), lambda e: e.expr)
        fields = [e for e in integrand.atoms(sp.Indexed) if x.is_field(e.base)]
        fields.sort(key=sp.default_sort_key)
        if any(y.base == x.lam for y in fields):
            raise NotClosed
        others = {e: sp.Dummy(real=True) for e in integrand.atoms(sp.Indexed) if e not in fields}
        dummies = [sp.Dummy(f"y{n}", real=True) for n in range(len(fields))]
        plain = integrand.xreplace(dict(zip(fields, dummies, strict=True)) | others)
        entries: dict[sp.Expr, sp.Symbol] = {}
        size = len(fields)
        law = sp.zeros(size, size)
        for i in range(size):
            for n in range(i, size):
                value = self.placed(x.covariance(fields[i], fields[n]))
                law[i, n] = law[n, i] = entries.setdefault(value, _named(value, i == n))
        back = {symbol: value for value, symbol in entries.items()}
        back |= {symbol: self.placed(value) for value, symbol in others.items()}
        return self.expected(plain, dummies, sp.ImmutableDenseMatrix(law)).xreplace(back)

    def product(self, average: Expectation) -> sp.Expr:
        """Closed form of a product of functions of different fields, one of them a delta."""
        fields = average.fields if average.is_product else ()
        if not fields or len({*fields}) < len(fields):
            raise NotClosed
        places = (At(f, sp.Integer(n)) for n, f in enumerate(average.factors))
        law = dict[sp.Expr, sp.Symbol]()

        def cov(one: sp.Expr, two: sp.Expr) -> sp.Expr:
            value = self.placed(x.covariance(fields[int(one)], fields[int(two)]))
            return law.setdefault(value, _named(value, one == two))

        value = elementary(value_of(Expectation(*places), cov))
        if value.has(TableAverage):
            raise NotClosed
        return value.xreplace({symbol: entry for entry, symbol in law.items()})

    def expected(
        self, plain: sp.Expr, fields: Sequence[sp.Symbol], law: sp.ImmutableDenseMatrix
    ) -> sp.Expr:
        """E[plain] in the entries of `law`."""
        if plain.is_polynomial(*fields):
            value = polynomial_expectation(plain, fields, law, [sp.S.Zero] * len(fields))
            if value is not None:
                return sp.expand(value)
        if not self.scalar:
            raise NotClosed
        try:
            value = Gaussian(list(fields), law).expect(plain)
        except DmftError as error:
            raise NotClosed from error
        # Sums of averages may cancel in part, hardly by half.
        if value.has(TableAverage, sp.Integral, sp.nan, sp.zoo) or (
            sp.count_ops(value) > 2 * self.longest
        ):
            raise NotClosed
        return value

    def placed(self, expr: sp.Expr) -> sp.Expr:
        """Entries of Omega, and means, as the overlaps that they are."""
        table = {e: self.entry(e) for e in expr.atoms(sp.Indexed)}
        return expr.xreplace({e: value for e, value in table.items() if e != value})

    def entry(self, entry: sp.Indexed) -> sp.Expr:
        name = base_name(entry)
        if name == "Omega":
            return self.overlap(*entry.indices)
        if x.is_mean(entry.base):
            definition = next(d for d in self.definitions if d.name == name)
            (index,) = definition.target.indices
            at = entry.indices[0]
            at = sp.S.One if at == ONLY[0] else at
            return self.placed(definition.expr.xreplace({index: at}))
        return entry

    def overlap(self, first: sp.Expr, second: sp.Expr) -> sp.Expr:
        """Entry of Omega at two positions."""
        (one, kind), (two, other) = sorted(map(self.unit, (first, second)), key=lambda y: y[1])
        if kind != other:
            return x.M[one, two]
        if kind == "student":
            return x.Q[one, two]
        if not self.orthonormal or self.by_block:
            return x.P[one, two]
        return sp.S.One if one == two else sp.KroneckerDelta(one, two)

    def unit(self, position: sp.Expr) -> tuple[sp.Expr, str]:
        """Number of a unit at a position of all fields, and its network."""
        if position == ONLY[0] or position == 1:
            return ONLY[0], "student"
        if position.has(x.p):
            return position - x.p, "teacher"
        if position.is_number or position.has(*ONLY, x.r, x.s):  # teachers of one student
            number = position - 1
            return (ONLY[1] if number == 1 and self.scalar else number), "teacher"
        return position, "student"

    # Constraint and blocks --------------------------------------------------------------------

    def on_sphere(
        self, exprs: dict[sp.Expr, sp.Expr], roles: Mapping[sp.Expr, Role]
    ) -> tuple[dict[sp.Expr, sp.Expr], dict[sp.Expr, sp.Expr]]:
        """Equations at Q_jj = 1, where the rate of Q_jj vanishes there."""

        def at_one(expr: sp.Expr) -> sp.Expr:
            diagonal = {
                e: sp.S.One
                for e in expr.atoms(sp.Indexed)
                if e.base == x.Q and len(set(e.indices)) == 1
            }
            return expr.xreplace(diagonal)

        put = {t: at_one(e) for t, e in exprs.items()}
        kept = dict(put)
        for target in [t for t in put if base_name(t) == "Q" and roles[t] == "rate"]:
            indices = target.indices
            own = put[target].xreplace({indices[1]: indices[0]})
            if sp.expand(at_one(own)) != 0:
                return exprs, {}
            if indices[0] == indices[1]:
                del kept[target]
        return kept, {x.Q[x.j, x.j]: sp.S.One}

    def totals(self, symbols: Mapping[sp.Expr, sp.Symbol]) -> dict[sp.Expr, sp.Expr]:
        """Sums over blocks that the averages read."""
        found = {}
        read = {base_name(e): e for e in symbols}
        for entry in (read[name] for name in "QMP" if name in read):
            within = sp.IndexedBase(BLOCK + base_name(entry))[(x.block, *entry.indices)]
            found[entry] = sp.Sum(x.eigenvalue[x.block] * within, (x.block, 1, x.blocks))
        return found


def _by_squares(expr: sp.Expr) -> sp.Expr:
    """An expression with factored exponents, such as -(1 - M)^2 / (2 Q)."""
    factored = {e: sp.exp(sp.factor(e.exp)) for e in expr.atoms(sp.exp)}
    shorter = {e: y for e, y in factored.items() if sp.count_ops(y) < sp.count_ops(e)}
    squares = {y for e in shorter.values() for y in e.atoms(sp.Pow) if y.exp == 2}
    turned = {y: (-y.base) ** 2 for y in squares if y.base.as_coeff_Add()[0].is_negative}
    return expr.xreplace({e: y.xreplace(turned) for e, y in shorter.items()})


def _by_angle(expr: sp.Expr, cosine: sp.Expr | None) -> sp.Expr:
    """An expression, collected, in the angle, in pi less it or in its cosine: the shortest."""
    found = [expr]
    if expr.has(SUPPLEMENT):
        found.append(collected(expr).xreplace({SUPPLEMENT: PI - ANGLE}))
    if cosine is not None and expr.has(sp.sin):
        (M,) = sp.fraction(cosine)[0].free_symbols
        found.append(expr.xreplace({M: M * sp.cos(ANGLE) / cosine}))
    return min(map(collected, found), key=sp.count_ops)


def _named(value: sp.Expr, variance: bool) -> sp.Expr:
    """A covariance as a symbol; numbers as they are."""
    if value.is_number:
        return value
    return sp.Dummy("c", positive=True) if variance else sp.Dummy("c", real=True)


def _inlined(
    exprs: Mapping[sp.Expr, sp.Expr], roles: Mapping[sp.Expr, Role]
) -> dict[sp.Expr, sp.Expr]:
    """Rates and observables with the intermediates in them, but for those under roots."""
    inner = {t: e for t, e in exprs.items() if roles[t] == "intermediate"}
    roots = (y for e in exprs.values() for y in e.atoms(sp.Pow) if not y.exp.is_Integer)
    kept = {y.base for y in roots} & inner.keys()
    for target in kept:
        del inner[target]

    def put(expr: sp.Expr) -> sp.Expr:
        for _ in inner:
            expr = expr.xreplace(inner)
        return expr

    return {t: put(e) for t, e in exprs.items() if t not in inner}


def _as_symbols(
    exprs: Mapping[sp.Expr, sp.Expr],
) -> tuple[dict[sp.Expr, sp.Expr], dict[sp.Expr, sp.Symbol]]:
    """Entries as symbols, variances positive; what is simplified holds no indices."""
    entries = {e for expr in exprs.values() for e in expr.atoms(sp.Indexed)}
    table: dict[sp.Expr, sp.Symbol] = {entry: Entry(entry) for entry in entries}
    return {t: e.xreplace(table) for t, e in exprs.items()}, table


class Entry(sp.Symbol):
    """An entry of an array as a symbol, which is printed as the entry."""

    entry: sp.Indexed
    plain: sp.Symbol

    def __new__(cls, entry: sp.Indexed) -> Entry:
        """Name it by the entry; variances are positive."""
        base, units = base_name(entry), entry.indices[-2:]
        variance = base.removeprefix(BLOCK) in ("Q", "P") and units[0] == units[-1]
        assumed = {"positive": True} if variance else {"real": True}
        indices = [str(i) for i in entry.indices if i not in ONLY]
        name = f"{base}_{'_'.join(indices)}" if indices else base
        found: Entry = super().__new__(cls, name, **assumed)
        found.entry, found.plain = entry, sp.Symbol(name, **assumed)
        return found


# LaTeX ------------------------------------------------------------------------------------------


class ClosedPrinter(KernelPrinter):
    """Products as numbers, parameters, overlaps, sums; sums from their lowest term up."""

    def is_parameter(self, symbol: sp.Expr) -> bool:
        """Whether a symbol is printed before overlaps."""
        return is_parameter(symbol)

    def stands_behind(self, factor: sp.Expr) -> bool:
        """Functions, and sums that are no polynomials or hold products with sums."""
        if factor.is_Add:
            return not factor.is_polynomial() or any(
                f.is_Add for y in factor.args for f in sp.Mul.make_args(y)
            )
        return isinstance(factor, sp.Function) and not isinstance(factor, sp.exp)

    def first(self, factor: sp.Expr) -> tuple[int, ...]:
        """Place of a factor of a product; an entry is at that of its array."""
        return super().first(factor.entry if isinstance(factor, Entry) else factor)

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        if isinstance(expr, Entry):
            return str(self._print(expr.entry))
        if expr == SUPPLEMENT:
            return r"\left(\pi - \theta\right)"
        return super()._print_Symbol(expr, style)

    def _print_sin(self, expr: sp.sin | sp.cos, exp: str | None = None) -> str:
        power = f"^{{{exp}}}" if exp else ""
        return rf"\{expr.func}{power} {self._print(expr.args[0])}"

    _print_cos = _print_sin

    def in_order(self, terms: Sequence[sp.Expr]) -> list[sp.Expr]:
        """Terms of a sum in the order in which they are printed."""
        return sorted(terms, key=rank)


def closed_rows(
    system: ClosedSystem, printer: EquationPrinter, rate: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """Rows of the rates and of what is observed, and of what is named in them."""
    closed = ClosedPrinter(printer.names, printer.letters)
    ordered = sorted(system.rows, key=lambda row: ROLES.index(row[2]))
    exprs, parts = [expr for _, expr, _ in ordered], dict[sp.Symbol, sp.Expr]()
    if system.scalar:
        text = " ".join(closed.doprint(y) for row in ordered for y in row[:2])
        exprs, parts = named_parts(exprs, text)
    rows = []
    for (target, _, role), expr in zip(ordered, exprs, strict=True):
        head = closed.doprint(target)
        head = rate(head) if role == "rate" else head
        rows.append(f"{head} &= {closed.doprint(expr)}")
    angle = {ANGLE: sp.acos(system.angle)} if system.angle is not None else {}
    named = {**angle, **parts, **system.totals}
    return rows, [f"{closed.doprint(t)} &= {closed.doprint(e)}" for t, e in named.items()]


def fixed_values(
    notes: Sequence[str], letter: Callable[[str], str], system: ClosedSystem | None = None
) -> list[str]:
    """Declared values and constraints that were put in, as formulas."""
    Q, P = letter("Q"), letter("P")
    found = {"label_noise": rf"{letter('label_noise')} = 0", "one P": f"{P} = 1"}
    found = {name: text for name, text in found.items() if name in notes}
    if system is not None and system.values:
        length = Q if system.scalar else f"{Q}_{{jj}}"
        found["one P"] = f"{length} = {found.get('one P', '1')}"
    return [*found.values(), *([rf"{P}_{{rs}} = \delta_{{rs}}"] if "P" in notes else [])]
