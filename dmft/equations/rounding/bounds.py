r"""How much of what the equations give is rounding: a bound beside each value.

The definitions that the reference evaluates become a list of steps, each of which gives its value,
a bound of its error and the sum of the sizes of its terms (`dmft.equations.rounding.rules`). The
list is made once for a system and holds for many states at a time.

Angles and roots of pairs of fields need more than a bound that travels: next to parallel fields
they are known to sqrt(eps) only, and yet a closed form holds them such that this cancels. All of
them come from one product sqrt(C11 C22) that is rounded, so that they are right for a pair whose
correlation is moved by a few units. The steps therefore carry, on a first axis, the values with
the correlations of all pairs moved that way at random signs, and what they change of the result,
with all that cancels, counts as its error.

The state and the constants (Q, M, P, readouts, parameters) count as exact. Compiled code adds in
another order and multiplies sums out: a sum therefore counts a unit of all that is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, is_placed
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import (
    Definition,
    FieldRoot,
    MeanSlope,
    Together,
    Whole,
    base_name,
)
from dmft.equations.parameter_values import Values
from dmft.equations.reference import COMPARISONS, FUNCTIONS, Interpreter, lift_zero_variances
from dmft.equations.rounding import rules
from dmft.equations.rounding.rules import MOVES, OF_FUNCTION, UNIT, Bounded, first
from dmft.errors import NotClosed
from dmft.gaussian.closed.orthant import UPPER, PairOfSignsMoment
from dmft.gaussian.tables.tabled import TableAverage

Array = NDArray[np.float64]

# Relative rounding of the product of the lengths of two fields, with room for another order of
# operations in compiled code.
OF_PAIR = 4 * UNIT
# Moved values beside the value itself: two draws of random signs and their opposites.
MOVED = 4
# Positions of the covariance in functions of the covariances (C11, C22, C12) of a pair; variances
# are the two before it.
PAIRS = {"CorrelationRoot": 2, "CorrelationAngle": 2, "InverseCorrelationRoot": 2}
PAIRS |= {"HalfTangent": 2, "Correlation": 2, "RootRatio": 3}
OF_FOUR = ("FourSigns", "FourSignsMoment", "SignsMoment")
# Rounding of averages of signs relative to the size of the fields, in units.
OF_SIGNS = 64 * UNIT
# Array of what is wanted, one at a time.
RESULT = "result"
# Arrays whose sizes are the ranges of the indices.
SIZED = ("readout", "teacher_readout", "weight", "cosine", "eigenvalue")
# Arrays whose diagonal entries are variances: a field is parallel to itself, without rounding.
COVARIANCES = frozenset({"Omega", "Q", "P"})


class Step(NamedTuple):
    """One operation: its kind, the steps it reads, and what else it needs."""

    kind: str
    reads: tuple[int, ...]
    data: Any


class Tape:
    """The steps of a system, in order, and after which of them an array is written."""

    def __init__(self, definitions: Sequence[Definition], wanted: str) -> None:
        """List the steps of all definitions but the rates or observables that are not wanted."""
        self.steps: list[Step] = []
        self.known: dict[sp.Expr, int] = {}
        self.writes: list[tuple[int, Definition]] = []
        self.places: dict[tuple[tuple[str, tuple[int, ...]], ...], Interpreter] = {}
        for d in definitions:
            if d.role in ("rate", "observable") and d.role != wanted:
                continue
            whole = isinstance(d.expr, Whole)
            self.writes.append((-1 if whole else self(d.expr), d))

    @property
    def paired(self) -> bool:
        """Whether functions of pairs occur."""
        return any(step.kind in ("pair", "four") for step in self.steps)

    def __call__(self, expr: sp.Expr) -> int:
        """Number of the step that gives an expression."""
        if expr not in self.known:
            step = self.step(expr)
            self.steps.append(step)
            self.known[expr] = len(self.steps) - 1
        return self.known[expr]

    def step(self, expr: sp.Expr) -> Step:
        """Step of one node; those it reads come first."""
        if expr.is_number:
            value = float(expr)
            return Step("number", (), rules.number(value, bool(expr == sp.Rational(value))))
        if isinstance(expr, sp.Symbol):
            return Step("scalar", (), expr)
        if isinstance(expr, sp.Indexed | sp.KroneckerDelta):
            return Step("entry", (), expr)
        if is_placed(expr):
            places = sorted(expr.free_symbols, key=str)
            return Step("placed", self.all(places), (expr, places))
        if isinstance(expr, Expectation):
            return Step("atom", (self(value_of(expr)),), None)
        if isinstance(expr, Together):
            return Step("atom", (self(expr.total),), None)
        if isinstance(expr, PairOfSignsMoment):
            return Step("atom", (self(expr.regular()),), None)
        if isinstance(expr, sp.Sum):
            return Step("sum", (self(expr.function),), [index for index, *_ in expr.limits])
        if isinstance(expr, TableAverage):
            return Step("table", self.all(expr.numbers), expr)
        if isinstance(expr, sp.Piecewise):
            return self.piecewise(expr)
        name = expr.func.__name__
        if isinstance(expr, sp.Pow) and expr.exp.is_number:
            return Step("power", self.all(expr.args[:1]), float(expr.exp))
        if name in PAIRS:
            return Step("pair", self.all(expr.args), (name, _sign_of(expr.args[PAIRS[name]])))
        if name in OF_FOUR:
            return Step("four", self.all(expr.args), expr)
        if isinstance(expr, sp.Add | sp.Mul) or name in FUNCTIONS:
            return Step(name, self.all(expr.args), None)
        if not expr.has(sp.Indexed, Expectation, sp.Sum):
            return Step("parameters", (), expr)
        raise NotClosed(f"{name} in {expr} has no estimate of its rounding")

    def places_of(self, arrays: Mapping[str, Array]) -> Interpreter:
        """Interpreter that knows the places of indices at these widths; kept for the next run."""
        sizes = {name: arrays[name].shape for name in SIZED if name in arrays}
        key = tuple(sizes.items())
        if key not in self.places:
            self.places[key] = Interpreter({n: np.empty(size) for n, size in sizes.items()}, {})
        return self.places[key]

    def all(self, expressions: Sequence[sp.Expr]) -> tuple[int, ...]:
        """Steps of some expressions."""
        return tuple(map(self, expressions))

    def piecewise(self, expr: sp.Piecewise) -> Step:
        """Step of a Piecewise, with those of its pieces and of what its conditions compare."""
        parts: list[sp.Expr] = []

        def collect(condition: Any) -> None:
            for a in condition.args:
                (parts.append if type(condition) in COMPARISONS else collect)(a)

        for piece, condition in expr.args:
            parts.append(piece)
            collect(condition)
        return Step("piecewise", self.all(parts), (expr, parts))


def _sign_of(cross: sp.Expr) -> sp.Expr:
    """What tells pairs apart: the entry that is their covariance, if it is one."""
    return cross.as_coeff_Mul()[1]


@lru_cache(maxsize=128)
def tape_of(definitions: tuple[Definition, ...], wanted: str) -> Tape:
    """Steps of a system, listed once."""
    return Tape(definitions, wanted)


class Running:
    """Values and bounds of the steps of a system at many states."""

    def __init__(self, tape: Tape, states: Mapping[str, Array], values: Values) -> None:
        """Take states whose first axis counts them, and the numbers of a run."""
        self.tape = tape
        self.values = values
        self.count = next(iter(states.values())).shape[0]
        one = {name: array[0] for name, array in states.items()}
        self.places = tape.places_of({**one, **values.arrays})
        self.versions = 1 + MOVED if tape.paired else 1
        self.arrays: dict[str, Bounded] = {}
        for name, array in values.arrays.items():
            self.arrays[name] = Bounded(array[None, None], 0.0, np.abs(array[None, None]))
        for name, array in states.items():
            self.arrays[name] = Bounded(array[None], 0.0, np.abs(array[None]))
        self.done: list[Bounded] = []

    def __call__(self) -> dict[str, Bounded]:
        """Take all steps; what is wanted, by name, with the states on the first axis."""
        results: dict[str, Bounded] = {}
        with np.errstate(all="ignore"):
            for last, definition in self.tape.writes:
                while len(self.done) <= last:
                    self.done.append(self.take(self.tape.steps[len(self.done)]))
                self.write(definition, last)
                if definition.role in ("rate", "observable"):
                    results[definition.name] = self.result(self.arrays.pop(RESULT))
        return results

    def take(self, step: Step) -> Bounded:
        """One step."""
        parts = [self.done[n] for n in step.reads]
        data = step.data
        match step.kind:
            case "number":
                return data
            case "scalar":
                return self.scalar(data)
            case "parameters":
                at = {s: float(first(self.scalar(s).value)) for s in data.free_symbols}
                return rules.number(float(data.subs(at)), False)
            case "placed":
                return rules.placed(data[0], data[1], parts, self.count, self.values.arrays)
            case "entry":
                return self.entry(data)
            case "atom":
                return parts[0]._replace(size=np.abs(first(parts[0].value)))
            case "sum":
                for index in data:
                    axis = 2 + self.places.axes.index(index)
                    parts = [rules.summed(parts[0], axis, self.places.size(index))]
                return parts[0]
            case "Add":
                return rules.added(parts)
            case "Mul":
                return rules.multiplied(parts)
            case "power":
                return rules.raised(parts[0], data)
            case "table":
                return rules.tabled(data, parts)
            case "piecewise":
                known_parts = dict(zip(data[1], parts, strict=True))
                return rules.piecewise(data[0], known_parts.__getitem__)
            case "pair":
                return self.pair(data[0], parts, data[1])
            case "four":
                return self.four(data, parts)
            case name:
                return rules.applied(name, parts)

    def scalar(self, symbol: sp.Symbol) -> Bounded:
        """Number of a width or of a parameter, or one that was defined."""
        known = self.places.numbers.get(symbol, self.values.scalars.get(symbol.name))
        if known is not None:
            return rules.number(known, True)
        free = (1,) * len(self.places.axes)
        parts = self.arrays[symbol.name]
        return Bounded(*(np.reshape(y, np.shape(y)[:2] + free) if np.ndim(y) else y for y in parts))

    def entry(self, expr: sp.Indexed | sp.KroneckerDelta) -> Bounded:
        """Entries of an array along the axes of its indices."""
        if isinstance(expr, sp.KroneckerDelta):
            value = self.places.same(expr)[None, None]
            return Bounded(value, 0.0, value)
        where = (slice(None), slice(None), *map(self.places.values_of, expr.indices))
        value, error, size = self.arrays[base_name(expr)]
        known = np.ndim(error) and np.any(error)
        return Bounded(value[where], error[where] if known else 0.0, size[where])

    # Pairs ----------------------------------------------------------------------------------

    def signs(self, cross: sp.Expr) -> Array:
        """Signs by which the covariance of a pair is moved; 0 for the value itself."""
        if isinstance(cross, sp.Indexed) and len(cross.indices) == 2:
            i, j = map(self.places.values_of, cross.indices)
            low, high = np.minimum(i, j), np.maximum(i, j)
            apart = (low != high) | (base_name(cross) not in COVARIANCES)
        else:
            # Other pairs are told apart by what is written, not by their place.
            low = high = np.full([1] * len(self.places.axes), self.tape.known.get(cross, 0))
            apart = np.ones_like(low, dtype=bool)
        draws = [_random_sign(low, high, n) * apart for n in range(MOVED // 2)]
        return np.stack([0.0 * draws[0], *draws, *(-d for d in draws)])[:, None]

    def moved(self, cross: Bounded, variances: Sequence[Bounded], signs: Array) -> Any:
        """A covariance, and the same moved by the rounding of the lengths of its fields.

        Moved no farther than to parallel fields: there is no law beyond.
        """
        size = np.abs(first(cross.value))
        passed: Any = cross.error
        for v in variances:
            relative = rules.ratio(v.error, np.abs(first(v.value)))
            passed = passed + rules.times(0.5 * size, relative)
        away = cross.value + signs * (OF_PAIR * size + passed)
        lengths = np.sqrt(np.multiply(*(np.maximum(v.value, 0.0) for v in variances)))
        farthest = np.fmax(lengths, np.abs(cross.value))
        return np.clip(away, -farthest, farthest)

    def pair(self, name: str, parts: Sequence[Bounded], cross: sp.Expr) -> Bounded:
        """Function of the covariances of a pair, moved as all functions of this pair are."""
        where = PAIRS[name]
        values = [part.value for part in parts]
        variances = parts[where - 2 : where]
        values[where] = self.moved(parts[where], variances, self.signs(cross))
        function = rules.half_tangent if name == "HalfTangent" else FUNCTIONS[name]
        value = np.asarray(function(*values))
        size = np.abs(first(value))
        # What rounds a correlation is in the moved values already.
        error = OF_FUNCTION * size if name != "Correlation" else 0.0 * size
        for v in variances if name != "Correlation" else ():  # a common scale of both fields
            # A field that others determine has no angle and no root: its variance is rounding.
            length = np.abs(first(v.value))
            relative = rules.ratio(v.error, length)
            error = error + np.where(length > v.error, rules.times(size, relative), 0.0)
        if name == "RootRatio":
            error = error + rules.at_moved_arguments(function, parts, first(value), only=(0,))
            # A kink of a field that another one determines is infinitely far: no rounding.
            error = np.where(np.isinf(size), 0.0, error)
        return Bounded(value, error, size)

    def four(self, expr: sp.Expr, parts: Sequence[Bounded]) -> Bounded:
        """Averages of signs and moments: functions of a whole covariance."""
        name, skipped, upper = type(expr).__name__, 0, UPPER
        if name == "SignsMoment":
            signs, powers = int(expr.args[0]), int(expr.args[1])
            skipped, rows = 2 + powers, signs + powers
            upper = tuple((i, j) for i in range(rows) for j in range(i, rows))
        entries = dict(zip(upper, parts[skipped:], strict=True))
        values: list[Any] = [part.value for part in parts]
        for n, (i, j) in enumerate(upper):
            if i != j:
                signs_of = self.signs(_sign_of(expr.args[skipped + n]))
                variances = (entries[i, i], entries[j, j])
                values[skipped + n] = self.moved(entries[i, j], variances, signs_of)
        value = np.asarray(FUNCTIONS[name](*values))
        lengths = {
            i: np.sqrt(np.abs(first(part.value))) for (i, j), part in entries.items() if i == j
        }
        scale: Any = 1.0
        if name == "FourSignsMoment":
            scale = lengths[2] * lengths[3]
        elif name == "SignsMoment":
            for m in range(powers):
                scale = scale * lengths[signs + m] ** int(expr.args[2 + m])
        relative: Any = OF_SIGNS
        for (i, j), part in entries.items():
            if i == j:
                relative = relative + rules.ratio(part.error, lengths[i] ** 2)
        return Bounded(value, relative * scale, np.abs(first(value)))

    # Arrays ---------------------------------------------------------------------------------

    def write(self, definition: Definition, last: int) -> None:
        """Store what a definition gives."""
        name, target = _key(definition), definition.target
        if last < 0:
            self.arrays[name] = self.whole(definition)
            return
        found = self.done[last]
        if not isinstance(target, sp.Indexed):
            self.arrays[name] = Bounded(*(_scalars(part) for part in found))
            return
        grids = np.broadcast_arrays(*map(self.places.values_of, target.indices))
        if name not in self.arrays:
            shape = tuple(int(grid.max()) + 1 for grid in grids)
            if definition.role == "block":  # written piece by piece over all fields
                fields = self.values.widths["p"] + self.values.widths["k"]
                shape = tuple(
                    n if s == x.block else fields
                    for s, n in zip(definition.indices, shape, strict=True)
                )
            self.arrays[name] = Bounded(
                np.zeros((self.versions, self.count, *shape)),
                np.zeros((1, self.count, *shape)),
                np.zeros((1, self.count, *shape)),
            )
        for out, part in zip(self.arrays[name], found, strict=True):
            shape = (*out.shape[:2], *grids[0].shape)
            out[(slice(None), slice(None), *grids)] = np.broadcast_to(part, shape)
        if definition.holds_variances:
            Omega, own = self.arrays[name].value, np.unique(grids[0])
            for one in Omega.reshape(-1, *Omega.shape[2:]):
                lift_zero_variances(one, own)

    def whole(self, definition: Definition) -> Bounded:
        """Matrices that are computed as one: a root of Omega, the square of error functions."""
        Omega, p = first(self.arrays["Omega"].value)[0], self.values.widths["p"]
        if isinstance(definition.expr, FieldRoot):
            from dmft.special.cholesky import field_root

            value = np.zeros_like(Omega)
            for matrix, root in zip(Omega, value, strict=True):
                field_root(np.ascontiguousarray(matrix), p, root)
            # Backward stable: the root of a covariance that is moved by a unit of its lengths;
            # directions without variance have none after it.
            lengths = np.sqrt(np.abs(np.diagonal(Omega, axis1=1, axis2=2)))
            error = np.where(value == 0.0, 0.0, Omega.shape[1] * UNIT * lengths[:, :, None])
        elif isinstance(definition.expr, MeanSlope):
            return self.slopes(definition.expr)
        else:
            c = first(self.arrays["c"].value)[0]
            points = [{"Omega": W, "c": v} for W, v in zip(Omega, c, strict=True)]
            value = np.array([definition.expr.matrix(at, p) for at in points])
            largest = np.abs(value).max(axis=(1, 2), keepdims=True)
            error = np.broadcast_to(OF_SIGNS * largest, value.shape)
        return Bounded(value[None], error[None], np.abs(value)[None])

    def slopes(self, expr: MeanSlope) -> Bounded:
        """D = pull root^+: what rounds either of them, and the product."""
        pull, root = (self.arrays[base_name(part)] for part in expr.args)
        inverse = np.linalg.pinv(first(root.value))
        value, size = pull.value @ inverse, np.abs(first(pull.value)) @ np.abs(inverse)
        passed = pull.error + np.abs(first(value)) @ root.error
        error = passed @ np.abs(inverse) + inverse.shape[-1] * UNIT * size
        return Bounded(value, error, size)

    def result(self, found: Bounded) -> Bounded:
        """Value, bound and size of what is wanted; what moved pairs change is part of the bound."""
        value, error, size = found
        change = np.abs(value[1:] - value[:1]).sum(axis=0)
        shape = (self.count, *value.shape[2:])
        parts = (value[0], np.asarray(error)[0] + change, np.asarray(size)[0])
        return Bounded(*(np.broadcast_to(part, shape) for part in parts))


def _key(definition: Definition) -> str:
    """Name of the array of a definition: rates have the names of the blocks that they move."""
    return definition.name if definition.role not in ("rate", "observable") else RESULT


def _scalars(part: Any) -> Any:
    """Numbers without indices, on the axes of versions and states."""
    return np.reshape(part, np.shape(part)[:2] or (1, 1))


def _random_sign(low: Any, high: Any, draw: int) -> Any:
    """Sign of a pair of places, the same in each run."""
    mixed = (low * 73856093 + high * 19349663 + draw * 83492791 + 12345) % 1000003
    mixed = (mixed * mixed + 7 * mixed * (draw + 1)) % 1000003
    return 1.0 - 2.0 * (mixed // 7 % 2)


def rounding(
    definitions: tuple[Definition, ...], states: Mapping[str, Array], values: Values, wanted: str
) -> dict[str, Bounded]:
    """Values, bounds of their rounding and sums of |terms| of rates or observables.

    Shapes      states (T, ...), results (T, ...)
    """
    return Running(tape_of(definitions, wanted), states, values)()


def of_one_state(
    definitions: tuple[Definition, ...], state: Mapping[str, Array], values: Values, wanted: str
) -> dict[str, Bounded]:
    """The same at one state, without its axis; where no bound is known, what moved states tell."""
    states = {name: np.asarray(array)[None] for name, array in state.items()}
    found = rounding(definitions, states, values, wanted)
    if all(np.isfinite(part.error).all() for part in found.values()):
        return {name: Bounded(*(part[0] for part in parts)) for name, parts in found.items()}
    moved = {name: np.concatenate([y, *(y * s for s in MOVES)]) for name, y in states.items()}
    others = rounding(definitions, moved, values, wanted)
    return {name: rules.measured(part, others[name].value) for name, part in found.items()}
