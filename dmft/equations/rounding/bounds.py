r"""How much of what the equations give is rounding: a bound beside each value.

The definitions are read as the reference reads them, at many states at a time: each expression
gives its value, a bound of its error and the sum of the sizes of its terms
(`dmft.equations.rounding.rules`).

Angles and roots of pairs of fields need more than a bound that travels: next to parallel fields
they are known to sqrt(eps) only, and yet a closed form holds them such that this cancels. All of
them come from one product sqrt(C11 C22) that is rounded, so that they are right for a pair whose
correlation is moved by a few units. A first axis therefore holds the value, then those with the
correlations of all pairs moved that way at random signs. What they change of the result, with all
that cancels, counts as its error.

The state and the constants (Q, M, P, readouts, parameters) count as exact. Compiled code adds in
another order and multiplies sums out: a sum therefore counts a unit of all that is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, FieldRoot, MeanSlope, Together, Whole, base_name
from dmft.equations.parameter_values import Values
from dmft.equations.reference import Reader, lift_zero_variances
from dmft.equations.rounding import rules
from dmft.equations.rounding.rules import MOVES, OF_FUNCTION, UNIT, Bounded, first
from dmft.errors import NotClosed
from dmft.gaussian.closed.orthant import UPPER, PairOfSignsMoment
from dmft.gaussian.tables.tabled import TableAverage

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
# Arrays whose diagonal entries are variances: a field is parallel to itself, without rounding.
COVARIANCES = frozenset({"Omega", "Q", "P"})


def _sign_of(cross: sp.Expr) -> sp.Expr:
    """What tells pairs apart: the entry that is their covariance, if it is one."""
    return cross.as_coeff_Mul()[1]


class Running(Reader):
    """Values and bounds at many states."""

    def __init__(self, states: Mapping[str, Array], values: Values) -> None:
        """Take states whose first axis counts them, and the numbers of a run."""
        one = {name: array[0] for name, array in states.items()}
        super().__init__({**one, **values.arrays}, values.scalars)
        self.values = values
        self.count = next(iter(states.values())).shape[0]
        # Numbers of the expressions, in the order in which they are known.
        self.steps: dict[sp.Expr, int] = {}
        given = {name: array[None] for name, array in values.arrays.items()} | dict(states)
        self.arrays = {n: Bounded(y[None], 0.0, np.abs(y[None])) for n, y in given.items()}

    def results(self, definitions: Sequence[Definition], wanted: str) -> dict[str, Bounded]:
        """What is wanted of the rates and observables, with the states on the first axis."""
        results: dict[str, Bounded] = {}
        with np.errstate(all="ignore"):
            for definition in definitions:
                found = definition.role in ("rate", "observable")
                if found and definition.role != wanted:
                    continue
                self.write(definition)
                if found:
                    results[definition.name] = self.result(self.arrays.pop(RESULT))
        return results

    def __call__(self, expr: sp.Expr) -> Any:
        """Value and bound of an expression."""
        found = super().__call__(expr)
        self.steps.setdefault(expr, len(self.steps))
        return found

    def number(self, expr: sp.Expr) -> Bounded:
        """Constant."""
        value = float(expr)
        return rules.number(value, bool(expr == sp.Rational(value)))

    def symbol(self, symbol: sp.Symbol) -> Bounded:
        """Number of a width or of a parameter, or one that was defined."""
        known = self.numbers.get(symbol, self.scalars.get(symbol.name))
        if known is not None:
            return rules.number(known, True)
        if symbol.name not in self.arrays:  # a field of a sample
            self.unknown(symbol)
        free = (1,) * len(self.axes)
        parts = self.arrays[symbol.name]
        return Bounded(*(np.reshape(y, np.shape(y)[:2] + free) if np.ndim(y) else y for y in parts))

    def same(self, expr: sp.KroneckerDelta) -> Bounded:
        """1 where both indices are the same, else 0."""
        value = super().same(expr)[None, None]
        return Bounded(value, 0.0, value)

    def entry(self, expr: sp.Indexed) -> Bounded:
        """Entries of an array along the axes of its indices."""
        where = (slice(None), slice(None), *map(self.values_of, expr.indices))
        value, error, size = self.arrays[base_name(expr)]
        known = np.ndim(error) and np.any(error)
        return Bounded(value[where], error[where] if known else 0.0, size[where])

    def placed(self, expr: Any) -> Bounded:
        """Average that is a number where it stands."""
        places = sorted(expr.free_symbols, key=str)
        return rules.placed(expr, places, self.all(places), self.count, self.values.arrays)

    def average(self, expr: Expectation) -> Bounded:
        """Average, of the size of its value."""
        return _whole(super().average(expr))

    def together(self, expr: Together) -> Bounded:
        """Sum whose terms cancel, of the size of its value."""
        return _whole(super().together(expr))

    def sum(self, expr: sp.Sum) -> Bounded:
        """Sum over indices."""
        part = self(expr.function)
        for index, *_ in expr.limits:
            part = rules.summed(part, 2 + self.axes.index(index), self.size(index))
        return part

    def add(self, expr: sp.Add) -> Bounded:
        """Sum of terms."""
        return rules.added(self.all(expr.args))

    def multiply(self, expr: sp.Mul) -> Bounded:
        """Product of factors."""
        return rules.multiplied(self.all(expr.args))

    def power(self, expr: sp.Pow) -> Bounded:
        """Power with a constant exponent."""
        return rules.raised(self(expr.base), float(expr.exp))

    def table(self, expr: TableAverage) -> Bounded:
        """Average of a table."""
        return rules.tabled(expr, self.all(expr.numbers))

    def piecewise(self, expr: sp.Piecewise) -> Bounded:
        """Choice between expressions."""
        return rules.piecewise(expr, self)

    def function(self, expr: sp.Function) -> Bounded:
        """Function by its name; those of pairs and of four signs have bounds of their own."""
        name = expr.func.__name__
        if isinstance(expr, PairOfSignsMoment):
            return _whole(self(expr.regular()))
        parts = self.all(expr.args)
        if name in PAIRS:
            return self.pair(name, parts, _sign_of(expr.args[PAIRS[name]]))
        found = self.four(expr, parts) if name in OF_FOUR else rules.applied(name, parts)
        if isinstance(expr, sp.exp) and _falls(expr.args[0]):  # between zero and one
            found = found._replace(error=np.minimum(found.error, 1.0))
        return found

    def of_parameters(self, expr: sp.Expr) -> Bounded:
        """Any other function of the parameters alone."""
        at = {s: float(first(self.symbol(s).value)) for s in expr.free_symbols}
        return rules.number(float(expr.subs(at)), False)

    def unknown(self, expr: sp.Expr) -> NoReturn:
        """What has no bound."""
        raise NotClosed(f"{expr.func.__name__} in {expr} has no estimate of its rounding")

    # Pairs ----------------------------------------------------------------------------------

    def signs(self, cross: sp.Expr) -> Array:
        """Signs by which the covariance of a pair is moved; 0 for the value itself."""
        if isinstance(cross, sp.Indexed) and len(cross.indices) == 2:
            i, j = map(self.values_of, cross.indices)
            low, high = np.minimum(i, j), np.maximum(i, j)
            apart = (low != high) | (base_name(cross) not in COVARIANCES)
        else:
            # Other pairs are told apart by what is written, not by their place.
            low = high = np.full([1] * len(self.axes), self.steps.get(cross, 0))
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
        function = FUNCTIONS[name]
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

    def write(self, definition: Definition) -> None:
        """Store what a definition gives."""
        name, target = (
            (definition.name if definition.role not in ("rate", "observable") else RESULT),
            definition.target,
        )
        if isinstance(definition.expr, Whole):
            self.arrays[name] = self.whole(definition)
            return
        found = self(definition.expr)
        if not isinstance(target, sp.Indexed):
            self.arrays[name] = Bounded(
                *(np.reshape(part, np.shape(part)[:2] or (1, 1)) for part in found)
            )
            return
        grids = np.broadcast_arrays(*map(self.values_of, target.indices))
        if name not in self.arrays:
            shape = tuple(int(grid.max()) + 1 for grid in grids)
            if definition.role == "block":  # written piece by piece over all fields
                fields = self.values.widths["p"] + self.values.widths["k"]
                shape = tuple(
                    n if s == x.block else fields
                    for s, n in zip(definition.indices, shape, strict=True)
                )
            self.arrays[name] = Bounded(
                np.zeros((1, self.count, *shape)),
                np.zeros((1, self.count, *shape)),
                np.zeros((1, self.count, *shape)),
            )
        value, error, size = self.arrays[name]
        if np.ndim(found.value) and len(found.value) > len(value):  # with those of moved pairs
            value = np.repeat(value, len(found.value), axis=0)
        self.arrays[name] = Bounded(value, error, size)
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
            from dmft.special.matrices import field_root

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
            mixture = first(self.arrays["mixture"].value)[0, 0]
            points = [
                {"Omega": W, "c": v, "mixture": mixture} for W, v in zip(Omega, c, strict=True)
            ]
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


def _falls(expr: sp.Expr) -> bool:
    """Whether an exponent is a negative number times a square."""
    front, square = expr.as_coeff_Mul()
    return bool(front.is_negative and square.is_Pow and square.exp == 2)


def _whole(part: Bounded) -> Bounded:
    """A value as one term."""
    return part._replace(size=np.abs(first(part.value)))


def _random_sign(low: Any, high: Any, draw: int) -> Any:
    """Sign of a pair of places, the same in each run."""
    mixed = (low * 73856093 + high * 19349663 + draw * 83492791 + 12345) % 1000003
    mixed = (mixed * mixed + 7 * mixed * (draw + 1)) % 1000003
    return 1.0 - 2.0 * (mixed // 7 % 2)


def rounding(
    definitions: Sequence[Definition], states: Mapping[str, Array], values: Values, wanted: str
) -> dict[str, Bounded]:
    """Values, bounds of their rounding and sums of |terms| of rates or observables.

    Shapes      states (T, ...), results (T, ...)
    """
    return Running(states, values).results(definitions, wanted)


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
