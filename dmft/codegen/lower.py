"""From the SymPy definitions to the expression graph: kernels opened, sums normalised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy as sp

from dmft.codegen.functions import POINT, PointFunctions
from dmft.codegen.graph import COST, FIXED, SAME, Graph, Index, Node, factors, terms
from dmft.emit import emit_expression
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import in_diagrams, value_of
from dmft.equations.definitions import Together, base_name, running_symbol
from dmft.errors import NotClosed
from dmft.gaussian.closed.orthant import PairOfSignsMoment
from dmft.gaussian.closed.pair import CorrelationAngle
from dmft.gaussian.tables.tabled import PlacedAverage, TableAverage

# Argument of a function at the nodes that is a name there already.
FIRST = sp.IndexedBase("argument")[0]
AXIS = {x.p: "p", x.k: "k", x.p + x.k: "N", x.nodes: "nodes", x.cosines: "cosines"}
AXIS |= {x.blocks: "blocks", x.outputs: "outputs"}


def loop_index(symbol: sp.Symbol) -> Index:
    """Loop index of an index symbol."""
    return (symbol.name, AXIS[x.AXES[symbol]])


def place(index: sp.Expr) -> tuple[Index, str]:
    """Loop index and offset of an index: r -> r, p + r -> (r, "p"), 2 -> (FIXED, "1")."""
    symbol = running_symbol(index)
    if symbol is None:
        return FIXED, str(index - 1)
    return loop_index(symbol), str(index - symbol) if index != symbol else ""


class Lowering:
    """Lowers expressions of one system, each sub-expression once."""

    def __init__(
        self, graph: Graph, names: Mapping[str, str], functions: PointFunctions | None = None
    ) -> None:
        """Start with an empty graph; `names` are those of the parameters in the code."""
        # Modules of generated code call a loop, which other languages do not have.
        self.loops_over_diagrams = functions is not None
        self.graph = graph
        self.names = names
        self.memo: dict[sp.Expr, Node] = {}
        # Functions of values at a node, by expression; the module defines them.
        self.functions = functions if functions is not None else PointFunctions(names)

    def __call__(self, expr: sp.Expr) -> Node:
        """Graph node of an expression."""
        if expr not in self.memo:
            self.memo[expr] = self.lower(expr)
        return self.memo[expr]

    def lower(self, expr: sp.Expr) -> Node:
        """Lower one node."""
        g = self.graph
        if isinstance(expr, sp.Rational):
            return g.number(Fraction(int(expr.p), int(expr.q)))
        if expr.is_number:
            return g.number(float(expr.evalf(20)))
        if isinstance(expr, sp.Symbol):
            return g.scalar(self.names.get(expr.name, expr.name))
        if isinstance(expr, sp.Indexed):
            return g.ref(base_name(expr), [place(index) for index in expr.indices])
        if isinstance(expr, sp.KroneckerDelta):
            return g.ref(SAME, map(place, expr.args))
        if isinstance(expr, Expectation):
            found = in_diagrams(expr) if self.loops_over_diagrams else None
            if found is None:
                return self(value_of(expr))
            key, covariances = found
            return g.call(f"Diagrams {key}", *(self(c) for c in covariances))
        if isinstance(expr, Together):
            return g.together(self(expr.total))
        if isinstance(expr, sp.Sum):
            return sum_over(g, [loop_index(s) for s, *_ in expr.limits], self(expr.function))
        if isinstance(expr, sp.Add):
            return g.add(self(a) for a in expr.args)
        if isinstance(expr, sp.Mul):
            return g.mul(self(a) for a in expr.args)
        if isinstance(expr, sp.Pow) and expr.exp.is_Rational and (2 * expr.exp).is_Integer:
            return g.pow(self(expr.base), Fraction(int(expr.exp.p), int(expr.exp.q)))
        name = type(expr).__name__
        if isinstance(expr, TableAverage):
            return g.call(expr.code, *(self(a) for a in expr.numbers))
        if isinstance(expr, PlacedAverage):
            return self.tabled(expr)
        if name in COST and expr.has(
            x.rest, x.spread
        ):  # what is the same at all nodes stays outside
            call = (
                f"{POINT} {self.functions(type(expr)(FIRST))[0]}" if len(expr.args) == 1 else name
            )
            return g.call(call, *(self(a) for a in expr.args))
        pair = isinstance(expr, CorrelationAngle)
        if expr.has(x.node) and not expr.has(sp.Sum, Expectation) and not pair:
            return self.at_point(expr)
        if isinstance(expr, PairOfSignsMoment):
            return self(expr.regular())
        if name in COST:
            args = [self(a) for a in expr.args]
            return quadruple(g, name, args) or g.call(name, *args)
        if not expr.has(sp.Indexed, sp.Sum, Expectation):
            names = {s: self.names.get(s.name, s.name) for s in expr.free_symbols}
            return g.text(f"({emit_expression(expr, names)})")
        if not expr.has(sp.Sum, Expectation):  # sin of a cluster's mean
            return self.at_point(expr)
        raise NotClosed(
            f"{name} in {expr} has no generated code; supported are + * powers, square roots, "
            f"{sorted(COST)}, sums, and functions without sums inside"
        )

    def at_point(self, expr: sp.Expr) -> Node:
        """Call of a small function of entries and parameters."""
        function, arguments = self.functions(expr)
        return self.graph.call(f"{POINT} {function}", *(self(a) for a in arguments))

    def tabled(self, expr: Any) -> Node:
        """Call of the table of an average over tokens; the number itself where nothing moves it."""
        from dmft.gaussian.tables.token_table import stored_table

        if not expr.free_symbols:
            return self.graph.number(expr.number({}, {}))
        key = stored_table(expr.source, expr.orders)
        return self.graph.call(f"TokenAverage {key}", *(self(a) for a in expr.place))


def sum_over(graph: Graph, indices: list[Index], body: Node) -> Node:
    """Sum a body over indices: invariants out, expanded where that frees an index.

    The bound index that leaves the fewest others is eliminated first, which finds matrix
    products; a symmetric double sum that cannot be factored is marked as a pair sum.
    """
    if not indices or body is graph.number(Fraction(0)):
        return body
    bound = set(indices)
    unused = [x for x in indices if x not in body.deps]
    if unused:
        count = graph.mul(graph.scalar(axis) for _, axis in unused)
        rest = [x for x in indices if x in body.deps]
        return graph.mul([count, sum_over(graph, rest, body)])
    outside = [f for f in factors(body) if not f.deps & bound]
    inside = [f for f in factors(body) if f.deps & bound]
    if outside:
        return graph.mul([*outside, sum_over(graph, indices, graph.mul(inside))])
    expanded = _expand(graph, inside, bound)
    if expanded:
        return graph.add(sum_over(graph, indices, part) for part in expanded)
    left = {x: (frozenset().union(*(f.deps for f in inside if x in f.deps)) - {x}) for x in indices}
    best = min(reversed(indices), key=lambda x: len(left[x]))
    if len(indices) == 1:
        return graph.sum(best, body)
    if _is_pair(graph, indices, body) and len(left[best]) == len(body.deps) - 1:
        return graph.pair(indices[0], indices[1], body)
    near = [f for f in inside if best in f.deps]
    far = [f for f in inside if best not in f.deps]
    inner = sum_over(graph, [best], graph.mul(near))
    return sum_over(graph, [x for x in indices if x != best], graph.mul([*far, inner]))


def _is_pair(graph: Graph, indices: list[Index], body: Node) -> bool:
    if len(indices) != 2 or indices[0][1] != indices[1][1]:
        return False
    return graph.is_symmetric(body, *indices)


def _expand(graph: Graph, inside: list[Node], bound: set[Index]) -> list[Node] | None:
    """Expand one Add factor if one of its terms frees the sum of an index, else None."""
    everything = frozenset().union(*(f.deps for f in inside))
    for position, factor in enumerate(inside):
        if factor.kind != "add":
            continue
        rest = inside[:position] + inside[position + 1 :]
        for term in terms(factor):
            needed = [f.deps for f in factors(term) if f.deps & bound]
            if frozenset().union(*(f.deps for f in rest), *needed) != everything:
                return [graph.mul([*rest, t]) for t in terms(factor)]
    return None


# Averages of four signs --------------------------------------------------------------------------
#
# They are arrays over four fields, filled once for each right-hand side: a quadratic term meets
# each set {j, l, m, n} of fields in many of its terms, and the one integral that is not elementary
# is evaluated once for each (`dmft.special.orthant`).

# Whether the array holds moments: an argument of the function that fills it.
MOMENTS = {"four_signs": 0, "four_signs_moments": 1}
ARRAYS = {"FourSigns": "four_signs", "FourSignsMoment": "four_signs_moments"}
COVARIANCE = "Omega"
# The arrays begin with two indices of students, whose axis this is.
STUDENTS = "p"
# Positions in the upper triangle of a (4, 4) covariance, row by row.
ROWS = [(i, j) for i in range(4) for j in range(i, 4)]
Place = tuple[Index, str]


def quadruple(graph: Graph, name: str, args: Sequence[Node]) -> Node | None:
    """Entry that holds an average of four signs, None where the covariances are not of fields."""
    if name not in ARRAYS or not all(a.kind == "ref" and a.data[0] == COVARIANCE for a in args):
        return None
    entries = dict(zip(ROWS, (a.data[1] for a in args), strict=True))
    places: list[Place] = [entries[i, i][0] for i in range(4)]
    upper = [graph.ref(COVARIANCE, [places[i], places[j]]) for i, j in ROWS]
    if upper != list(args):
        return None
    if name == "FourSigns":  # symmetric in all four fields
        places.sort(key=lambda place: not _is_student(place))
    if not (_is_student(places[0]) and _is_student(places[1])):
        return None
    return graph.ref(ARRAYS[name], places)


def _is_student(place: Place) -> bool:
    (_, axis), offset = place
    return axis == STUDENTS and not offset


def filling(array: str) -> list[str]:
    """Statements that make and fill one of the arrays."""
    call = f"four_signs_table({COVARIANCE}, {STUDENTS}, {MOMENTS[array]}, {array})"
    return [f"{array} = np.empty(({STUDENTS}, {STUDENTS}, N, N))", call]
