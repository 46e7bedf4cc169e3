"""From the expression graph to loops: every sub-expression is computed once, where it belongs.

A sub-expression goes to the loop of its deepest index. Where it skips an outer loop it becomes
a table, computed before the loop that it skips; tables of one or two indices are shared by
everything that needs them under any index names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

from dmft.codegen.functions import POINT
from dmft.codegen.graph import (
    FIXED,
    FOUR_FIELDS,
    FUNCTIONS,
    SAME,
    Graph,
    Index,
    Node,
    Scope,
    count_uses,
    factors,
    loop_header,
    product_text,
)
from dmft.codegen.lower import COVARIANCE, MOMENTS, ROWS, filling
from dmft.codegen.packing import flat_index
from dmft.emit.expression import sum_text

# Least cost of a sub-expression worth a table of rank one or two (measured).
TABLE_COST = {1: 1, 2: 12}
HALVED = 400  # least cost of an entry for half of a symmetric table: cheaper ones vectorise
ATOM = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(\[[^\[\]]*\])?|[0-9.]+(e[+-]?[0-9]+)?")


class LoopWriter:
    """Writes the loops of one function."""

    def __init__(
        self,
        graph: Graph,
        packed: Mapping[str, tuple[str, tuple[str, ...]]],
        shared: frozenset[str] = frozenset(),
        ordered: bool = False,
        tables: bool = True,
        plain: bool = False,
    ) -> None:
        """Start a function.

        `packed` gives the vector and the row lengths of arrays that live in one of the arguments;
        `shared` is what an earlier pass found worth a table: they are used wherever they fit.
        Sums are added in the `ordered` way, or as the compiler likes. Without `tables` what skips
        a loop is computed inside of it: less text, which compiles faster. In `plain` code each
        table is filled outside of all loops, products keep their order, and averages of four signs
        are calls.
        """
        self.ordered, self.tables, self.plain = ordered, tables, plain
        # Loops over a part of their axis.
        self.headers: dict[Index, str] = {}
        self.graph = graph
        self.packed = packed
        self.shared = shared
        self.pair_rows: set[Index] = set()
        self.sum_rows: set[Index] = set()
        self.filling: set[str] = set()
        # Roots and calls of two indices, with those that each was computed inside of.
        self.computed: dict[str, list[tuple[str, ...]]] = {}
        self.inside: tuple[str, ...] = ()
        self.root = Scope(None, None)
        self.arrays: dict[str, tuple[str, ...]] = {}
        self.count = 0  # names made
        self.parents: dict[str, int] = {}

    @property
    def worth_sharing(self) -> frozenset[str]:
        """Tables of this pass, and roots and calls of two indices that it computed in two places.

        What is computed inside another such value alone is not computed twice once that is shared.
        """
        repeated = {key for key, places in self.computed.items() if len(places) > 1}
        found = set(self.root.tables)
        for key in repeated:
            places = self.computed[key]
            around = [next((y for y in reversed(p) if y in repeated), None) for p in places]
            if around.count(None) + len(set(around) - {None}) > 1:
                found.add(key)
        return frozenset(found)

    def fresh(self, stem: str) -> str:
        """Return a new name."""
        self.count += 1
        return f"{stem}{self.count}"

    def note_uses(self, node: Node) -> None:
        """Count the parents of every node of an expression, to name what is used twice."""
        count_uses(node, self.parents)

    # Values ---------------------------------------------------------------------------------

    def value(self, node: Node, scope: Scope) -> str:
        """Text of a node's value inside a scope, hoisting or tabling what can be."""
        if node.kind == "number":
            return repr(float(node.data))  # the shortest decimal that gives the same float
        if node.kind == "scalar":
            return str(node.data)
        context = scope.context
        if node.kind == "ref" and not (self.plain and node.data[0] in FOUR_FIELDS):
            array, places = node.data
            return self.read(array, places, context)
        depth = max((context.index(x) + 1 for x in node.deps), default=0)
        home = scope.ancestor(depth)
        prefix = _prefix(context, node.deps)
        rest = [x for x in context if x in node.deps and x not in prefix]
        noted = ""
        if not rest and prefix and node.cost >= TABLE_COST[2]:
            # The row index of a pair sum runs over the same values as its column index, and a
            # table made elsewhere may hold this very value: a filled table vectorises.
            whole = node.kind in ("call", "pow") and prefix[-1] in self.sum_rows
            if prefix[-1] in self.pair_rows or whole:
                prefix, rest = prefix[:-1], prefix[-1:]
            elif len(prefix) <= 2:
                key = self.canonical(node, prefix, 0)[0].key
                if key in self.filling:
                    pass
                elif key in self.shared:
                    prefix, rest = [], prefix
                elif node.key not in home.known and _may_share(node, prefix):
                    noted = key
        if rest and self.worth_table(node, rest):
            return self.table(node, scope, prefix, rest)
        if node.key in home.known:
            return home.known[node.key]
        text = self.compute_noted(node, home, noted)
        if ATOM.fullmatch(text):
            home.known[node.key] = text
            return text
        if home is scope and self.parents.get(node.key, 0) < 2:
            return text
        name = self.fresh("w")
        home.lines.append(f"{name} = {text}")
        home.known[node.key] = name
        return name

    def read(self, array: str, places: Iterable[tuple[Index, str]], context: list[Index]) -> str:
        """Entry to read; the deepest loop index of a symmetric array goes last (contiguous)."""
        places = list(places)

        def depth(place: tuple[Index, str]) -> int:
            return -1 if place[0] == FIXED else context.index(place[0])

        if array in self.graph.symmetric:
            places.sort(key=depth)
        elif array in FOUR_FIELDS:
            places = sorted(places[:2], key=depth) + sorted(places[2:], key=depth)
            if array not in self.root.known:
                self.root.known[array] = array
                self.root.lines += filling(array)
        return self.entry(array, places)

    def entry(self, array: str, places: Iterable[tuple[Index, str]]) -> str:
        """Array entry, in its argument when it is packed there."""
        inside = [" + ".join(part for part in (offset, x[0]) if part) for x, offset in places]
        if array == SAME:
            return f"(1.0 if {inside[0]} == {inside[1]} else 0.0)"
        if array not in self.packed:
            return f"{array}[{', '.join(inside)}]"
        vector, lengths = self.packed[array]
        return f"{vector}[{array}_at + {flat_index(inside, lengths)}]"

    def worth_table(self, node: Node, rest: list[Index]) -> bool:
        """Whether a value that skips a loop is worth an array."""
        least = TABLE_COST[2] if self.plain else TABLE_COST.get(len(rest), 10**9)
        return self.tables and (node.cost >= least or node.kind == "ref")

    def table(self, node: Node, scope: Scope, prefix: list[Index], rest: list[Index]) -> str:
        """Reference to a table of the node, computed before the loop that it skips."""
        if self.plain or (len(node.deps) <= 2 and node.cost >= TABLE_COST[2]):
            rest, prefix = [x for x in scope.context if x in node.deps], []
        here = scope.ancestor(len(prefix))
        body, names = self.canonical(node, rest, len(prefix))
        if body.key not in here.tables:
            self.fill_table(body, here, names)
        array, _ = here.tables[body.key]
        return f"{array}[{', '.join(x[0] for x in rest)}]"

    def canonical(
        self, node: Node, rest: list[Index], depth: int
    ) -> tuple[Node, tuple[Index, ...]]:
        """Rename the indices of a table to the names that all its users share."""
        names = tuple((f"e{depth + n}", x[1]) for n, x in enumerate(rest))
        return self.graph.rename(node, dict(zip(rest, names, strict=True))), names

    def fill_table(self, body: Node, here: Scope, names: tuple[Index, ...]) -> None:
        """Emit the loops that fill a table."""
        array = self.fresh("table")
        self.arrays[array] = tuple(x[1] for x in names)
        scopes = [here]
        for name in names:
            scopes.append(Scope(name, scopes[-1]))
        self.note_uses(body)
        self.filling.add(body.key)
        half = len(names) == 2 and body.cost >= HALVED and self.graph.is_symmetric(body, *names)
        if half:
            self.headers[names[1]] = f"for {names[1][0]} in range({names[0][0]} + 1):"
        text = self.value(body, scopes[-1])
        self.filling.remove(body.key)
        scopes[-1].lines.append(f"{array}[{', '.join(x[0] for x in names)}] = {text}")
        if half:
            (row, _), (column, _) = names
            scopes[-1].lines.append(f"{array}[{column}, {row}] = {array}[{row}, {column}]")
            scopes[-2].block(self.headers.pop(names[1]), scopes.pop())
        for inner, outer in zip(scopes[:0:-1], scopes[-2::-1], strict=True):
            outer.block(loop_header(inner.index), inner)
        here.tables[body.key] = (array, names)

    # Nodes ----------------------------------------------------------------------------------

    def compute_noted(self, node: Node, scope: Scope, key: str) -> str:
        """Text of a node; note under `key`, unless it is empty, where that is computed."""
        if not key or key in self.inside:
            return self.compute(node, scope)
        self.computed.setdefault(key, []).append(self.inside)
        outside, self.inside = self.inside, (*self.inside, key)
        text = self.compute(node, scope)
        self.inside = outside
        return text

    def compute(self, node: Node, scope: Scope) -> str:
        """Text of a node computed in this scope."""
        if node.kind in ("add", "mul"):
            return self.compute_nary(node, scope)
        if node.kind == "pow":
            return self.compute_power(node, scope)
        if node.kind == "text":
            return str(node.data)
        if node.kind == "ref":
            return self.four_signs(node, scope)
        if node.kind == "together":
            return _bracket(self.value(node.args[0], scope))
        if node.kind == "call" and node.data == "SignsMoment":
            return self.moment_of_signs(node, scope)
        if node.kind == "call":
            kind, *tables = node.data.split()
            if kind == POINT:
                return f"{tables[0]}({', '.join(self.value(a, scope) for a in node.args)})"
            arguments = [f"TABLE_{key}" for key in tables]
            arguments += [self.value(a, scope) for a in node.args]
            return f"{FUNCTIONS[kind][1]}({', '.join(arguments)})"
        if node.kind == "sum":
            by_entry = self.ordered and len(scope.context) > 1
            return (self.sum_by_entry if by_entry else self.compute_sum)(node, scope)
        return (self.pair_by_entry if self.ordered else self.compute_pair)(node, scope)

    def four_signs(self, node: Node, scope: Scope) -> str:
        """Call for an average of four signs, from the ten covariances."""
        array, places = node.data
        pairs = ([places[i], places[j]] for i, j in ROWS)
        entries = ", ".join(self.read(COVARIANCE, pair, scope.context) for pair in pairs)
        return f"{'four_signs_moment' if MOMENTS[array] else 'four_signs'}({entries})"

    def moment_of_signs(self, node: Node, scope: Scope) -> str:
        """Call of `dmft.special.signs`, which takes any number of fields."""
        signs, count = (int(a.data) for a in node.args[:2])
        powers = ", ".join(str(int(a.data)) for a in node.args[2 : 2 + count])
        entries = ", ".join(self.value(a, scope) for a in node.args[2 + count :])
        arrays = f"np.array([{powers}]), np.array([{entries}])"
        return f"moment_of_signs({signs}, {arrays})"

    def compute_nary(self, node: Node, scope: Scope) -> str:
        """Sum or product, operands grouped by the loop that they belong to."""
        build = self.graph.add if node.kind == "add" else self.graph.mul
        groups = [] if self.plain else self.grouped(node, scope)
        if len(groups) < 2:  # all operands belong here: write them out
            args = sorted(node.args, key=_last) if self.plain else node.args
            parts = [self.operand(a, scope, node.kind) for a in args]
        else:
            whole = [build(g) for g in groups]
            parts = [self.operand(a, scope, node.kind) for a in whole]
        if node.kind == "mul":
            return product_text(parts)
        return sum_text(parts)

    def grouped(self, node: Node, scope: Scope) -> list[list[Node]]:
        """Operands grouped so that what an outer loop or a table can hold stands together."""
        context = scope.context
        full = frozenset(context)
        by_deps: dict[frozenset[Index], list[Node]] = {}
        for arg in node.args:
            by_deps.setdefault(arg.deps & full, []).append(arg)
        local = by_deps.pop(full, [])
        outer: list[Node] = []
        outer_deps: frozenset[Index] = frozenset()
        merged: list[list[Node]] = []
        innermost = context[-1] if context else None
        ordered = sorted(by_deps, key=lambda d: (_depth(context, d), len(d), sorted(d)))
        for deps in ordered:
            if innermost in deps:
                continue
            outer = [self._join(node, outer), *by_deps[deps]] if outer else list(by_deps[deps])
            outer_deps |= deps
        if outer:
            merged.append(outer)
        skipping: list[Node] = []
        skipping_deps: frozenset[Index] = frozenset()
        for deps in (d for d in ordered if innermost in d):
            if skipping and skipping_deps | deps == full:
                merged.append(skipping)
                skipping, skipping_deps = [], frozenset()
            skipping = [self._join(node, skipping), *by_deps[deps]] if skipping else by_deps[deps]
            skipping_deps |= deps
        if skipping:
            merged.append(skipping)
        if not merged:
            return [local]
        if len(merged) == 1 and not local:
            return merged if len(merged[0]) < len(node.args) else [list(node.args)]
        return [*merged, *([x] for x in local)]

    def _join(self, node: Node, parts: list[Node]) -> Node:
        return (self.graph.add if node.kind == "add" else self.graph.mul)(parts)

    def operand(self, node: Node, scope: Scope, inside: str) -> str:
        """Text of an operand, bracketed as its surroundings need."""
        text = self.value(node, scope)
        if inside == "mul" and not ATOM.fullmatch(text) and node.kind in ("add", "number"):
            return f"({text})"
        return text

    def compute_power(self, node: Node, scope: Scope) -> str:
        """Integer powers by multiplication, roots by sqrt."""
        exponent: Fraction = node.data
        text = self.value(node.args[0], scope)
        size = abs(exponent)
        if not ATOM.fullmatch(text) and size != Fraction(1, 2):
            if size == 1:
                return f"1.0 / ({text})"
            name = self.fresh("w")
            scope.lines.append(f"{name} = {text}")
            scope.known[node.args[0].key] = text = name
        whole, root = int(size), size.denominator == 2
        parts = [text] * whole + ([f"math.sqrt({text})"] if root else [])
        product = " * ".join(parts)
        if exponent > 0:
            return product if len(parts) == 1 else f"({product})"
        return f"1.0 / {product}" if len(parts) == 1 else f"1.0 / ({product})"

    def compute_sum(self, node: Node, scope: Scope) -> str:
        """Accumulate in a loop."""
        name = self.fresh("s")
        inner = Scope(node.data, scope)
        text = self.value(node.args[0], inner)
        inner.lines.append(f"{name} += {text}")
        scope.lines.append(f"{name} = 0.0")
        scope.block(loop_header(node.data), inner)
        return name

    def header(self, index: Index) -> str:
        """Header of the loop over an index."""
        return self.headers.get(index) or loop_header(index)

    def compute_pair(self, node: Node, scope: Scope) -> str:
        """Symmetric double sum: a triangle with doubled off-diagonal and the diagonal apart."""
        first, second = node.data
        self.pair_rows.add(first)
        body = node.args[0]
        only_first = [f for f in factors(body) if second not in f.deps]
        rest = [f for f in factors(body) if second in f.deps]
        total, row = self.fresh("s"), self.fresh("s")
        outer = Scope(first, scope)
        inner = Scope(second, outer)
        text = self.value(self.graph.mul(rest), inner)
        inner.lines.append(f"{row} += {text}")
        # The diagonal is evaluated on its own, before the row loop that it does not need.
        on_diagonal = self.graph.rename(self.graph.mul(rest), {second: first})
        self.note_uses(on_diagonal)
        diagonal = self.value(on_diagonal, outer)
        weight = self.value(self.graph.mul(only_first), outer)
        outer.lines.append(f"{row} = 0.0")
        outer.block(f"for {second[0]} in range({first[0]}):", inner)
        outer.lines.append(f"{total} += {_bracket(weight)} * (2.0 * {row} + {diagonal})")
        scope.lines.append(f"{total} = 0.0")
        scope.block(loop_header(first), outer)
        return total

    def sum_by_entry(self, node: Node, scope: Scope) -> str:
        """Accumulate for all entries of the loop around the sum, which becomes the inner one.

        Each entry is added up in the order of the terms, and neighbours fill vectors.
        """
        index, outer = scope.index, scope.parent
        assert index is not None
        assert outer is not None
        self.sum_rows.add(node.data)
        name = self.fresh("s")
        self.arrays[name] = (index[1],)
        entry, header = f"{name}[{index[0]}]", self.header(index)
        start = Scope(index, outer, [f"{entry} = 0.0"])
        outer.block(header, start)
        terms = Scope(node.data, outer)
        inner = Scope(index, terms)
        text = self.value(node.args[0], inner)
        inner.lines.append(f"{entry} += {text}")
        terms.block(header, inner)
        outer.block(self.header(node.data), terms)
        return entry

    def pair_by_entry(self, node: Node, scope: Scope) -> str:
        """Symmetric double sum, accumulated for all second indices side by side.

        With a body w_a w_b f_ab it is the sum over b of w_b (w_b f_bb + sum_{a > b} 2 w_a f_ab).
        """
        first, second = node.data
        self.pair_rows.add(first)
        graph, parts = self.graph, factors(node.args[0])
        weight = graph.mul(f for f in parts if first not in f.deps)
        rest = graph.mul(f for f in parts if first in f.deps)
        name, total = self.fresh("s"), self.fresh("s")
        self.arrays[name] = (second[1],)
        entry = f"{name}[{second[0]}]"
        # Named as the entries of tables are, to become one loop with theirs.
        own: Index = (f"e{len(scope.context)}", second[1])
        diagonal = graph.rename(rest, {first: own, second: own})
        self.note_uses(diagonal)
        start = Scope(own, scope)
        start.lines.append(f"{name}[{own[0]}] = {self.value(diagonal, start)}")
        scope.block(loop_header(own), start)
        rows = Scope(first, scope)
        inner = Scope(second, rows)
        self.headers[second] = f"for {second[0]} in range({first[0]}):"
        twice = graph.mul([graph.number(Fraction(2)), rest])
        self.note_uses(twice)
        inner.lines.append(f"{entry} += {self.value(twice, inner)}")
        rows.block(self.headers.pop(second), inner)
        scope.block(loop_header(first), rows)
        end = Scope(second, scope)
        end.lines.append(f"{total} += {product_text([self.operand(weight, end, 'mul'), entry])}")
        scope.lines.append(f"{total} = 0.0")
        scope.block(loop_header(second), end)
        return total


def _last(operand: Node) -> int:
    """Numbers and inverses come after what they multiply.

    Squares and products of equal entries are then rounded alike (as in the reference), and so are
    covariances and variances of fields that coincide: otherwise angles of pairs lose half of their
    digits.
    """
    return 2 if operand.kind == "number" else int(operand.kind == "pow" and operand.data < 0)


def _depth(context: list[Index], deps: frozenset[Index]) -> int:
    return max((context.index(x) + 1 for x in deps), default=0)


def _prefix(context: list[Index], deps: frozenset[Index]) -> list[Index]:
    """Longest run of outermost loops that a value depends on."""
    prefix = []
    for index in context:
        if index not in deps:
            break
        prefix.append(index)
    return prefix


def _may_share(node: Node, indices: list[Index]) -> bool:
    """Whether a value computed twice may become a table: roots and calls of pairs of fields."""
    pair = len(indices) == 2 and all(axis in ("p", "k", "N") for _, axis in indices)
    return pair and node.kind in ("call", "pow")


def _bracket(text: str) -> str:
    return text if ATOM.fullmatch(text) else f"({text})"
