"""From equations in two times to statements: the expression graph, and loops that fill arrays.

Recursions of a descent have entries by time and neuron, and causal sums; rows of a march on a grid
have entries at a time of the grid. What is not causal, and averages that no sample is asked for,
are refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sympy as sp

from dmft.codegen.functions import POINT
from dmft.codegen.graph import (
    FIXED,
    SUM_COST,
    TEXT_COST,
    Graph,
    Index,
    Loop,
    Node,
    Scope,
    loop_header,
)
from dmft.codegen.loops import LoopWriter
from dmft.codegen.lower import AXIS, Lowering
from dmft.emit import emit_expression
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import base_name
from dmft.equations.two_time.descent_process import (
    SYMMETRIC,
    TWO_TIMES,
    PathSlope,
    driving,
    g_at,
    pull_at,
    s,
    t,
    u,
)
from dmft.errors import BadParameter
from dmft.gaussian.tables.tabled import TableAverage
from dmft.solvers.two_time.descent_process import Arrays

TIMES = (t, s, u)
ONE_TIME = frozenset({"M_at", "readout_at", "g_star", "mean_pull", "Q_free"})
# Of a step alone, not yet on the sphere: their first time is that after the step and not stored.
OF_A_STEP = frozenset({"M_free", "R_free", "C_free", "G_free"})


# Earlier times of a row of the grid, cut into parts, and the place of one.
ROW: Index = ("i", "low, high")
AT_ROW = sp.Symbol("i", integer=True)


class LoopsInTime(LoopWriter):
    """Loops whose bounds may be those of others: nothing is taken out of them under other names."""

    def worth_table(self, node: Node, rest: list[Index]) -> bool:
        """No value gets a table."""
        return False

    def canonical(
        self, node: Node, rest: list[Index], depth: int
    ) -> tuple[Node, tuple[Index, ...]]:
        """Keep the names."""
        return node, tuple(rest)


def statements(
    lowering: Lowering,
    rows: Sequence[tuple[str, sp.Expr]],
    indices: Iterable[Index] = (),
    after: Sequence[str] = (),
) -> list[str | Loop]:
    """Loops over the indices around ``target = value``, then `after`; shared parts are named once.

    A target ends in its operator where that is another, as ``"x[i] +"``.
    """
    loops = LoopsInTime(lowering.graph, {})
    scopes = [loops.root]
    for index in indices:
        scopes.append(Scope(index, scopes[-1]))
    nodes = [lowering(expr) for _, expr in rows]
    for node in nodes:
        loops.note_uses(node)
    for (target, _), node in zip(rows, nodes, strict=True):
        text = loops.value(node, scopes[-1])
        scopes[-1].lines.append(f"{target}= {text}" if target[-1] == "+" else f"{target} = {text}")
    scopes[-1].lines += after
    for inner, outer in zip(scopes[:0:-1], scopes[-2::-1], strict=True):
        outer.block(loop_header(inner.index), inner)
    return scopes[0].lines


class RowLowering(Lowering):
    """Entries at one time of the grid; tables of averages are functions of the module, by key."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(Graph(()), names)
        self.tables: dict[tuple[sp.Expr, ...], str] = {}

    def lower(self, expr: sp.Expr) -> Node:
        """Lower one node."""
        if isinstance(expr, sp.Indexed):
            places = [(ROW, "") if y == AT_ROW else (FIXED, str(y)) for y in expr.indices]
            return self.graph.ref(base_name(expr), places)
        if isinstance(expr, TableAverage):
            key = (type(expr), *expr.factors)
            name = self.tables.setdefault(key, f"average_{len(self.tables)}")
            return self.graph.call(f"{POINT} {name}", *(self(y) for y in expr.numbers))
        return super().lower(expr)


class TimeLowering(Lowering):
    """Entries by time and neuron; `running` holds the loops that an expression stands in."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(Graph(()), names)
        self.running: dict[sp.Symbol, Index] = {}
        # What the bounds of loops over times depend on.
        self.bounds: dict[Index, frozenset[Index]] = {}

    def __call__(self, expr: sp.Expr) -> Node:
        """Graph node of an expression; an index means the loop it stands in, so none is kept."""
        return self.lower(expr)

    def lower(self, expr: sp.Expr) -> Node:
        """Lower one node."""
        if isinstance(expr, sp.Indexed):
            return self.entry(expr)
        if isinstance(expr, sp.Sum):
            return self.total(expr)
        if isinstance(expr, Expectation):
            return self.average(expr)
        if isinstance(expr, sp.KroneckerDelta):
            of = self.time if expr.free_symbols & set(TIMES) else self.neuron
            first, second = (of(y) for y in expr.args)
            texts = [" + ".join(z for z in (o, i[0]) if z) for i, o in (first, second)]
            deps = frozenset(i for i, _ in (first, second) if i != FIXED)
            text = f"(1.0 if {texts[0]} == {texts[1]} else 0.0)"
            return self.graph.make("text", text, (), deps, TEXT_COST)
        if expr.free_symbols & set(TIMES) and not (
            expr.is_Add or expr.is_Mul or expr.has(sp.Indexed, sp.Sum, Expectation)
        ):
            return self.of_times(expr)
        return super().lower(expr)

    def of_times(self, expr: sp.Expr) -> Node:
        """Code of a function of times and parameters."""
        names = {y: self.names.get(y.name, y.name) for y in expr.free_symbols}
        deps = frozenset(self.running[y] for y in expr.free_symbols & set(self.running))
        return self.graph.make("text", f"({emit_expression(expr, names)})", (), deps, TEXT_COST)

    def time(self, index: sp.Expr) -> tuple[Index, str]:
        """Loop and offset of a time that is only compared: t + 1 too."""
        return (FIXED, "t + 1") if index == t + 1 else self.place(index)

    def neuron(self, index: sp.Expr) -> tuple[Index, str]:
        """Loop and offset of a neuron, counted from 1 in the symbols."""
        return (FIXED, str(index - 1)) if index.is_Integer else self.place(index)

    def place(self, index: sp.Expr) -> tuple[Index, str]:
        """Loop and offset of a time, or of a neuron that runs."""
        if index.is_Integer:
            return FIXED, str(index)
        found = sorted(index.free_symbols & {*TIMES, *self.running}, key=str)
        symbol = found[0] if found else t
        shift = index - symbol
        if symbol == t and shift.is_Integer and shift <= 0:
            # w^{-1} = w^0: nothing moved before the start.
            return FIXED, "t" if shift == 0 else f"max(t - {-shift}, 0)"
        if symbol in self.running and shift == 0:
            return self.running[symbol], ""
        raise BadParameter(
            f"the index {index} is not known when it is needed: entries are allowed at t or "
            "before, at s, and at the indices of sums"
        )

    def entry(self, expr: sp.Indexed) -> Node:
        """Entry of an array, stored by (time, neuron) twice."""
        name = base_name(expr)
        if name not in Arrays._fields:
            raise BadParameter(
                f"{expr} is not an array of the process; available: {Arrays._fields}"
            )
        if name in OF_A_STEP:
            return self.graph.ref(name, self.of_a_step(expr))
        if name in ONE_TIME:
            time, *neurons = expr.indices
            after = name == "Q_free" and time == t + 1
            places = [(FIXED, "t + 1") if after else self.place(time), *map(self.neuron, neurons)]
        elif name not in TWO_TIMES:
            places = [self.neuron(y) for y in expr.indices]
        else:
            first, second, *neurons = expr.indices
            pairs = [(first, neurons[0]), (second, neurons[1])]
            # The time that is summed over goes last, where a symmetric kernel is contiguous.
            if name in SYMMETRIC and pairs[0][0] == u:
                pairs.reverse()
            places = [y for time, j in pairs for y in (self.place(time), self.neuron(j))]
        return self.graph.ref(name, places)

    def of_a_step(self, expr: sp.Indexed) -> list[tuple[Index, str]]:
        """Places of an entry of what a step leads to: neuron, then an earlier time and neuron."""
        name, (time, *rest) = base_name(expr), expr.indices
        if time != t + 1:
            raise BadParameter(f"{expr} belongs to another step: only {name} at t + 1 is available")
        if name not in TWO_TIMES:
            return [self.neuron(y) for y in rest]
        earlier, *neurons = rest
        first, second = map(self.neuron, neurons)
        return [first, self.place(earlier), second]

    def total(self, expr: sp.Sum) -> Node:
        """Sum over a time and over neurons, or over either."""
        times = [y for y in expr.limits if y[0] in TIMES]
        neurons = [y for y in expr.limits if y[0] not in TIMES]
        if len(times) > 1 or any(y[0] in self.running for y in expr.limits):
            raise BadParameter(f"{expr} may sum over at most one time, and over separate indices")
        before = dict(self.running)
        for symbol, low, high in neurons:
            if low != 1 or high not in AXIS:
                raise BadParameter(f"{expr} must sum {symbol} over all neurons, from 1 to p or k")
            self.running[symbol] = (symbol.name, AXIS[high])
        # Times innermost: loops over few neurons cost more than their bodies.
        loops = [self.running[y[0]] for y in neurons] + [self.over(y) for y in times]
        node = self(expr.function)
        for index in reversed(loops):  # sums keep the name of their index
            deps = (node.deps - {index}) | self.bounds.get(index, frozenset())
            node = self.graph.make("sum", index, (node,), deps, SUM_COST * (node.cost + 1))
        self.running = before
        return node

    def over(self, limit: sp.Tuple) -> Index:
        """Loop over a time, with the bounds of its sum."""
        symbol, low, high = limit
        texts, deps = [], set()
        for bound, shift in ((low, 0), (high, 1)):
            free = bound.free_symbols
            rest = bound - sum(free)
            last = bound == high and t in free and rest > 0
            if len(free) > 1 or not free <= {t, s} or not rest.is_Integer or last:
                raise BadParameter(f"a sum over {symbol} from {low} to {high} is not causal")
            deps |= {self.running[y] for y in free & set(self.running)}
            texts.append(str(bound + shift))
        if low.is_Integer and low < 0:
            raise BadParameter(f"a sum over {symbol} begins at {low}: times begin at 0")
        index = (symbol.name, ", ".join(texts))
        self.bounds[index] = frozenset(deps)
        self.running[symbol] = index
        return index

    def average(self, expr: Expectation) -> Node:
        """An average that the samples are asked for."""
        inside = expr.integrand
        parts = inside.args if isinstance(inside, PathSlope) else sp.Mul.make_args(inside)
        bases = [y.base if isinstance(y, sp.Indexed) else None for y in parts]
        if len(parts) == 2 and g_at in bases:
            now, other = parts
            if other.base == g_at and (now.base != g_at or now.indices[0] != t):
                now, other = other, now
            if now.indices[0] == t:
                neuron = now.indices[1]
                if isinstance(inside, PathSlope) and other.base == driving:
                    return self.sampled("slopes", neuron, *other.indices)
                if other.base == g_at:
                    return self.sampled("gradient_pairs", neuron, *other.indices)
                if other.base == x.h_star:
                    return self.sampled("gradient_stars", neuron, *other.indices)
        if len(parts) == 1 and bases[0] == pull_at and parts[0].indices[0] == t:
            return self.sampled("pulls", parts[0].indices[1])
        raise BadParameter(
            f"{expr} is not an average over samples; these are <g^t g^s>, <dg^t/dr^s>, <g^t "
            "h*> and the mean gradients of trained readouts"
        )

    def sampled(self, name: str, neuron: sp.Expr, *other: sp.Expr) -> Node:
        """Entry of the averages at t."""
        places = [self.neuron(neuron), *(self.place(y) for y in other[:-1])]
        return self.graph.ref(name, places + [self.neuron(y) for y in other[-1:]])
