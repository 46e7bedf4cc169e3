"""Declaration of a learning rule of one's own: psi of a model, or a whole step in vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, cast, overload

import sympy as sp

from dmft.errors import BadParameter
from dmft.laws import Discrete
from dmft.model.algorithm import DIM_NAME, SGD
from dmft.model.hyperparameters import DECLARED
from dmft.model.network import FIELD
from dmft.model.rule import Named
from dmft.rules import Field, Gram, Random, Row, Vector, View, expression
from dmft.validation import checked, shown

# The student's output in a rule, and the derivative of its activation at h.
OUTPUT, SLOPE = sp.symbols("f slope", real=True)
# Attributes that runs have.
TAKEN = frozenset(
    {"t", "Q", "M", "P", "readout", "teacher_readout", "risk", "loss", "error_rate"}
    | {"blocks", "observables", "with_fields", "ending"}
    | {"status", "message", "error", "provenance", "constants", "events", "final", "method"}
    | {"save", "load", "restore", "steps", "samples", "plot", "to_xarray", "to_pandas", "stages"}
    | {"names", "last_state", "KIND", "COORDINATES", "AXES", "NAMES", "PARTS"}
    | {"layout", "problem", "quadrature_error", "parameters", "start", "statistics", "widths"}
)


@checked
@dataclass(frozen=True, init=False)
class UpdateField(SGD):
    r"""Custom one-pass learning rule w_j <- w_j + gamma/(p n_b) sum_mu psi_j^mu x^mu / sqrt(d).

    psi is an expression in the symbols of `fields`: the local field h of the unit, the teacher
    fields, and the label y with its noise. A symbol named ``f`` denotes the student's output, and
    ``slope`` denotes sigma'(h), so that for readouts a_j = 1 ``slope * (y - f)`` is SGD on the
    squared loss. The networks of the model define f, y, slope and the risk. Time is
    t = steps * gamma / (p d).

    If psi is a sum of products, each factor of which depends on one field or on signs of fields,
    averages are computed by closed forms or tables where possible, as in `derive`. Otherwise they
    are computed by quadrature, with an error estimate.

    A mapping ``{row: step}`` declares a rule of vectors instead (`dmft.rules`). Such a rule can use
    several inputs in one step, random coordinates, masks, and scalars that are trained. It is
    derived without a model, and its time is t = steps * learning_rate / d.

    Parameters
    ----------
    psi : sympy.Expr, or mapping of dmft.rules.Row to step
        Factor of x/sqrt(d), the same expression for every unit; or the step of each trained row.
        For a rule of vectors the further arguments are `scalars` (mapping of symbols to their
        rates), `learning_rate`, `batch_size`, `constraint` (None, "sphere", "orthonormal") and
        `measures`.
    fields : sequence of sympy.Symbol
        Symbols (h, h_star, y), with all teacher fields between h and y. A rule that contains the
        teacher fields cannot be implemented without access to the teacher.
    definitions : sequence of (sympy.Symbol, sympy.Expr)
        Abbreviations, in order; each may contain the fields and earlier abbreviations.
    learning_rate, batch_size, constraint, decoupled
        As in `SGD`.
    measures : mapping of str to sympy.Expr
        Named expressions in the same symbols. Their averages over a fresh sample and over units are
        attributes of the run, for example ``run.wrong``.
    **numbers
        Further hyperparameters of `SGD`.

    Raises
    ------
    BadParameter
        If fields are not distinct symbols, or if the rule contains other symbols.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> h, h_star, y, z = sp.symbols("h h_star y z", real=True)
    >>> hebb = dmft.UpdateField(y, fields=(h, h_star, y), learning_rate=1)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1))
    >>> rates = dmft.derive(model, hebb).evaluate(dmft.Overlaps([[1.0]], [[0.0]]))
    >>> round(float(rates["M"][0, 0]), 12)  # E[sign(h*) h*]
    0.797884560803
    """

    written_by: ClassVar[Named] = "dmft.equations.update.passes:rule"

    psi: sp.Expr = sp.S.Zero
    fields: tuple[sp.Symbol, ...] = ()
    definitions: tuple[tuple[sp.Symbol, sp.Expr], ...] = ()
    measures: tuple[tuple[str, sp.Expr], ...] = ()

    @overload
    def __init__(
        self,
        psi: sp.Expr | float,
        *,
        fields: Sequence[sp.Symbol],
        learning_rate: float | sp.Expr,
        definitions: Sequence[tuple[sp.Symbol, sp.Expr]] = (),
        batch_size: int | sp.Expr = 1,
        constraint: Literal["sphere"] | None = None,
        measures: Mapping[str, sp.Expr] | None = None,
        decoupled: bool = False,
        **numbers: float | sp.Expr,
    ) -> None: ...
    @overload
    def __init__(
        self,
        psi: Mapping[Row, Vector],
        *,
        learning_rate: float | sp.Expr,
        scalars: Mapping[sp.Symbol, Any] | None = None,
        batch_size: int | sp.Expr = 1,
        constraint: Literal["sphere", "orthonormal"] | None = None,
        measures: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        psi: Any,
        *,
        learning_rate: float | sp.Expr,
        fields: Sequence[sp.Symbol] = (),
        definitions: Sequence[tuple[sp.Symbol, sp.Expr]] = (),
        batch_size: int | sp.Expr = 1,
        constraint: Literal["sphere", "orthonormal"] | None = None,
        measures: Mapping[str, sp.Expr] | None = None,
        decoupled: bool = False,
        **numbers: Any,
    ) -> None:
        if isinstance(psi, Mapping):
            own = {"learning_rate": learning_rate, "batch_size": batch_size, **numbers}
            if fields or definitions or decoupled or set(numbers) - {"scalars"}:
                raise BadParameter(
                    "a rule of vectors takes scalars=, learning_rate=, batch_size=, constraint= "
                    "and measures= in addition to its steps; write everything else into the steps"
                )
            object.__setattr__(self, "__class__", VectorRule)
            VectorRule.__init__(
                cast("VectorRule", self), psi, constraint=constraint, measures=measures, **own
            )
            return
        unknown = sorted(set(numbers) - set(DECLARED))
        if unknown:
            raise BadParameter(
                f"UpdateField has no {unknown[0]}; in addition to fields and rates it accepts "
                f"{', '.join(DECLARED)}"
            )
        if isinstance(psi, Vector):
            raise BadParameter(
                "psi is a vector: name the row that takes this step, UpdateField({row: step}, ...)"
            )
        found = _symbols(fields)
        known, whole = set(found), dict[sp.Expr, sp.Expr]()
        for symbol, value in _pairs(definitions):
            whole[symbol] = _in_symbols(value, known, symbol.name).xreplace(whole)
            known.add(symbol)
        rule = _in_symbols(psi, known, "psi").xreplace(whole)
        measured = {
            _free_name(name): _in_symbols(value, known, f"measure {name}").xreplace(whole)
            for name, value in (measures or {}).items()
        }
        self._declare(
            psi=rule, fields=found, definitions=tuple(_pairs(definitions)),
            learning_rate=learning_rate, batch_size=batch_size, constraint=constraint,
            measures=tuple(measured.items()), decoupled=decoupled, **numbers,
        )  # fmt: skip
        object.__setattr__(self, "loss", None)

    def written(self, expr: sp.Expr, slope: sp.Expr) -> sp.Expr:
        """The rule or a measure with `slope`, in `FIELD`, for the derivative of the activation."""
        return expr.xreplace({SLOPE: slope.xreplace({FIELD: self.fields[0]})})


def _free_name(name: str, taken: frozenset[str] = TAKEN) -> str:
    if not (isinstance(name, str) and name.isidentifier()) or name in taken:
        raise BadParameter(
            f"a measure is called {name!r}; its name must be a valid name of an attribute, other "
            f"than {', '.join(sorted(taken))}"
        )
    return name


def _symbols(fields: Iterable[sp.Symbol]) -> tuple[sp.Symbol, ...]:
    found = tuple(fields)
    plain = all(isinstance(field, sp.Symbol) for field in found)
    if len(found) < 3 or not plain or len(set(found)) < len(found):
        raise BadParameter(f"fields must be (h, h_star, ..., y), distinct symbols, got {found}")
    return found


def _pairs(definitions: Iterable[object]) -> list[tuple[sp.Symbol, object]]:
    found = []
    for item in definitions:
        pair = tuple(item) if isinstance(item, tuple | list | sp.Tuple) else ()
        if len(pair) != 2 or not isinstance(pair[0], sp.Symbol):
            raise BadParameter(f"definitions must be pairs (symbol, expression), got {shown(item)}")
        found.append(pair)
    return found


def _in_symbols(value: object, known: set[sp.Symbol], what: str) -> sp.Expr:
    found = expression(value, what)
    own = {s.name: s for s in (OUTPUT, SLOPE)}
    rule = found.xreplace({s: own[s.name] for s in found.free_symbols - known if s.name in own})
    unknown = sorted(map(str, rule.free_symbols - known - set(own.values())))
    if unknown:
        raise BadParameter(
            f"{what} = {rule} contains {', '.join(unknown)}; it must be an expression in "
            f"{', '.join(sorted(map(str, known)))}, f and slope"
        )
    return rule


# Names that measures of a rule without a model may have; run.error stays the claimed error, and
# run["error"] is a measure of this name.
OF_MEASURES = frozenset({"risk", "error", "error_rate", "loss"})
# Distances to a pole, and the growth between them that is one: a pole of order 1/2 grows by 32.
NEAR, MOST_GROWTH = sp.Float(1e-6), 20.0
# Time, in steps of a rule whose coefficients change.
TIME = sp.Symbol("t", real=True)


class VectorRule(UpdateField):
    """A one-pass rule whose step is written with vectors (`dmft.rules`).

    `steps` are the rows that move, in the order in which they were given; `learned` scalars with
    their rates; with `orthonormal` the moving rows are orthonormalised after each step
    (Gram-Schmidt).
    """

    # A declaration is its own model.
    family: ClassVar[str] = "rule"
    reads_sequences: ClassVar[bool] = False
    flips: ClassVar[bool] = False
    draws_labels: ClassVar[bool] = False
    outputs: ClassVar[int] = 1
    inputs: ClassVar[None] = None
    spectrum: ClassVar[None] = None
    blocks: ClassVar[None] = None
    clusters: ClassVar[None] = None
    label_noise: ClassVar[sp.Expr] = sp.S.Zero
    label_flip: ClassVar[sp.Expr] = sp.S.Zero
    steps: tuple[tuple[Row, Vector], ...]
    rates: tuple[tuple[sp.Symbol, sp.Expr], ...]
    orthonormal: bool

    def __init__(
        self,
        steps: Mapping[Row, Vector],
        *,
        learning_rate: float | sp.Expr,
        scalars: Mapping[sp.Symbol, Any] | None = None,
        batch_size: int | sp.Expr = 1,
        constraint: Literal["sphere", "orthonormal"] | None = None,
        measures: Mapping[str, Any] | None = None,
    ) -> None:
        if constraint not in (None, "sphere", "orthonormal"):
            raise BadParameter(
                f'constraint = {shown(constraint)} must be None, "sphere" or "orthonormal"'
            )
        if not steps:
            raise BadParameter("a rule needs a step for at least one row, got an empty mapping")
        rates = tuple((_scalar(s), expression(y, f"d{s}/dt")) for s, y in (scalars or {}).items())
        measured = {
            _free_name(name, TAKEN - OF_MEASURES): expression(y, f"measure {name}")
            for name, y in (measures or {}).items()
        }
        self._declare(
            steps=tuple((_moving(row), _step(row, y)) for row, y in steps.items()), rates=rates,
            learning_rate=learning_rate, batch_size=batch_size,
            constraint="sphere" if constraint == "sphere" else None,
            orthonormal=constraint == "orthonormal", measures=tuple(measured.items()),
        )  # fmt: skip
        object.__setattr__(self, "loss", None)
        moving = set(self.moving)
        for view in self.views:
            for row in set(view.replaces) & moving:
                raise BadParameter(
                    f"{view} replaces its coordinate along {row}, which moves: the law of the "
                    "inputs would be defined by what is being learned; use adds="
                )
        if len({view.fractions for view in self.views}) > 1:
            raise BadParameter(
                "all views of a rule must have the same fractions of blocks: the equations "
                "do not close if covariances do not commute"
            )
        if isinstance(self.batch_size, sp.Expr):
            raise BadParameter(
                f"batch_size = {self.batch_size} must be an integer: batches of order d and "
                "samples that are used again are not derived for rules of vectors"
            )
        if any(s.name == DIM_NAME for s in self.parameters):
            raise BadParameter(
                f"the symbol {DIM_NAME} is the input dimension: latents of length sqrt(d), and "
                "scalars that move by O(1) in one step, do not close; rename it if it is a "
                "parameter"
            )
        for expr in self.expressions:
            _check_poles(expr)

    @property
    def learned(self) -> dict[sp.Symbol, sp.Expr]:
        """Rates of the numbers that are learned."""
        return dict(self.rates)

    @property
    def moving(self) -> tuple[Row, ...]:
        """Rows that move."""
        return tuple(row for row, _ in self.steps)

    @cached_property
    def expressions(self) -> tuple[sp.Expr, ...]:
        """Coefficients of the steps, rates of the scalars, and measures."""
        coefficients = (c for _, step in self.steps for c in step.terms.values())
        return (*coefficients, *self.learned.values(), *(y for _, y in self.measures))

    @cached_property
    def _parts(self) -> tuple[Any, ...]:
        vectors = (v for _, step in self.steps for v in step.terms)
        found = [*self.moving, *vectors, *(p for y in self.expressions for p in _parts_of(y))]
        return tuple(dict.fromkeys([*found, *(
            p for view in found if isinstance(view, View) for p in _parts_of_view(view)
        )]))  # fmt: skip

    @property
    def fixed(self) -> tuple[Row, ...]:
        """Rows that do not move, in the order in which they were declared."""
        rows = {p for p in self._parts if isinstance(p, Row)} - set(self.moving)
        return tuple(sorted(rows, key=lambda row: row.number))

    @property
    def views(self) -> tuple[View, ...]:
        """Inputs of one step, in the order in which they were declared."""
        found = {p for p in self._parts if isinstance(p, View)}
        return tuple(sorted(found, key=lambda view: view.number))

    @property
    def fractions(self) -> tuple[sp.Expr, ...]:
        """Shares of the coordinates in each block."""
        return self.views[0].fractions if self.views else (sp.S.One,)

    @property
    def randoms(self) -> tuple[Random, ...]:
        """Random numbers of one step, in the order in which they were declared."""
        found = {p for p in self._parts if isinstance(p, Random)}
        return tuple(sorted(found, key=lambda r: r.number))

    @cached_property
    def parameters(self) -> frozenset[sp.Symbol]:
        """Symbols that are neither fields, latents, overlaps, scalars nor the time."""
        known = [
            *self.expressions,
            *(c for v in self.views for c in (*v.latents.values(), *v.scales)),
        ]
        known += [c for v in self.views for c in (*v.fractions, *(y for m in v.covs for y in m))]
        for r in self.randoms:
            held = vars(r.law).values()
            known += [
                sp.sympify(y, strict=True)
                for part in held
                for y in (part if isinstance(part, tuple) else (part,))
            ]
        own = (Field, Gram, Random)
        found = {s for y in known for s in y.free_symbols if not isinstance(s, own)}
        return frozenset(found - set(self.learned) - {TIME, sp.Symbol("t")})

    def __repr__(self) -> str:
        steps = ", ".join(f"{row}: {step!r}" for row, step in self.steps)
        parts = [f"{{{steps}}}"]
        parts += [f"scalars={self.learned}"] if self.rates else []
        parts.append(f"learning_rate={self.learning_rate}")
        parts += [f"batch_size={self.batch_size}"] if self.batch_size != 1 else []
        limit = "orthonormal" if self.orthonormal else self.constraint
        parts += [f"constraint={limit!r}"] if limit else []
        return f"UpdateField({', '.join(parts)})"

    __str__ = __repr__


def _check_poles(expr: sp.Expr) -> None:
    """Refuse what grows without bound where a denominator that is linear in a field vanishes."""
    for power in expr.atoms(sp.Pow):
        fields = sorted(power.base.atoms(Field), key=str) if power.exp.is_negative else []
        for field in fields:
            if not (power.base.is_polynomial(field) and sp.degree(power.base, field) == 1):
                continue
            root = sp.solve(power.base, field)[0]
            others = sorted((expr.free_symbols | root.free_symbols) - {field}, key=str)
            numbers = {s: sp.Float(0.61 + 0.17 * n) for n, s in enumerate(others)}
            near, far = (
                abs(expr.xreplace({field: root + step}).xreplace(numbers)).evalf()
                for step in (NEAR, 1000 * NEAR)
            )
            if near.is_Float and far.is_Float and near > MOST_GROWTH * far:
                raise BadParameter(
                    f"{expr} has a pole at {power.base} = 0: the square of the step has no finite "
                    "mean; clip it"
                )


def _moving(row: object) -> Row:
    if not isinstance(row, Row):
        raise BadParameter(f"steps are {{row: step}} with rows of dmft.rules, got {shown(row)}")
    if row.is_fixed:
        raise BadParameter(f'{row} was declared fixed and has a step; use Rows("{row}")')
    return row


def _step(row: Row, step: object) -> Vector:
    if not isinstance(step, Vector):
        raise BadParameter(
            f"the step of {row} must be a combination of views and rows, got {shown(step)}"
        )
    return step


def _scalar(symbol: object) -> sp.Symbol:
    if not isinstance(symbol, sp.Symbol) or isinstance(symbol, Field | Gram | Random):
        raise BadParameter(f"scalars are {{symbol: rate}}, got {shown(symbol)}")
    _free_name(symbol.name)
    return symbol


def _parts_of(expr: sp.Expr) -> Iterator[Row | View | Random]:
    """Rows, views and random numbers that an expression depends on, latents included."""
    for symbol in sorted(expr.atoms(Field, Gram, Random), key=lambda s: str(s)):
        if isinstance(symbol, Random):
            yield symbol
            if isinstance(symbol.law, Discrete):
                for weight in symbol.law.weights:
                    yield from _parts_of(sp.sympify(weight, strict=True))
            continue
        for part in symbol.key:
            yield part
            if isinstance(part, View):
                yield from _parts_of_view(part)


def _parts_of_view(view: View) -> Iterator[Row | View | Random]:
    yield view
    for row, c in view.latents.items():
        yield row
        yield from _parts_of(c)
    for scale in view.scales:
        yield from _parts_of(scale)
