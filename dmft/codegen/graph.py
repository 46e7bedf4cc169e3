"""The expression graph that code is generated from: own loop nodes, equal parts are one node.

SymPy flattens nested sums and captures bound variables under substitution; here a sum is a
node whose bound index is named by its nesting height, so that equal sums are equal nodes.

Loops are data too: neighbours over the same index become one loop, then everything is text. Fewer
loops compile faster (the vectoriser works on each) and cost less at small widths.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

Number = Fraction | float
# A loop index: name and axis, one of "p", "k", "N" = p + k.
Index = tuple[str, str]
# Stands where an index does not run: its offset is the whole place.
FIXED: Index = ("", "")
# Array of a Kronecker delta: its entries are a comparison of its two places.
SAME = "same"

# Functions of state and covariances, by name: the cost of a call, and what code calls. Those of the
# parameters alone are text of `dmft.emit`.
FUNCTIONS = {
    "asin": (20, "asin"),
    "erf": (20, "math.erf"),
    "exp": (20, "math.exp"),
    "tanh": (20, "math.tanh"),
    "sign": (2, "np.sign"),
    "BivariateNormalCDF": (400, "bivariate_normal_cdf"),
    "CorrelationRoot": (20, "correlation_root"),
    "CorrelationAngle": (40, "correlation_angle"),
    "InverseCorrelationRoot": (30, "inverse_correlation_root"),
    "RootRatio": (30, "root_ratio"),
    "CovarianceGiven": (20, "covariance_given"),
    "Correlation": (20, "correlation"),
    "HalfTangent": (30, "half_tangent"),
    "TwoSigns": (400, "two_signs"),
    "FourSigns": (10_000, "four_signs"),
    "FourSignsMoment": (10_000, "four_signs_moment"),
    "BranchField": (400, "branch_field"),
    "BranchGiven": (400, "branch_given"),
    "BranchPair": (10_000, "branch_pair"),
    "BranchSlope": (10_000, "branch_slope"),
    "BranchSlopes": (10_000, "branch_slopes"),
    "FieldTable": (400, "field_average"),
    "PairTable": (10_000, "pair_average"),
    "KinkedPairTable": (10_000, "kinked_pair_average"),
    "Diagrams": (10_000, "average_of_polynomials"),
    "TokenAverage": (1000, "token_value"),
}
COST = {name: cost for name, (cost, _) in FUNCTIONS.items()}
# Functions of a module of generated code, which other languages do not have.
COST |= {"SignsMoment": 10_000, "point": 20}
# Arrays over four fields, symmetric in the first two and in the last two.
FOUR_FIELDS = frozenset({"four_signs", "four_signs_moments"})
TEXT_COST = 20
ROOT_COST, INVERSE_COST = 15, 8
# What a sum costs against one term of it: typical widths are of order ten.
SUM_COST = 10


@dataclass(frozen=True, eq=False)
class Node:
    """One node; identity is content, since a `Graph` interns by `key`."""

    kind: str
    data: Any
    args: tuple[Node, ...]
    key: str
    deps: frozenset[Index]
    height: int
    cost: int


class Graph:
    """Builds nodes in canonical form and never twice."""

    def __init__(self, symmetric: Iterable[str]) -> None:
        self.symmetric = frozenset(symmetric) | {SAME}
        self.nodes: dict[str, Node] = {}
        self.renamed: dict[tuple[str, tuple[tuple[Index, Index], ...]], Node] = {}

    def make(
        self, kind: str, data: Any, args: tuple[Node, ...], deps: frozenset[Index], cost: int
    ) -> Node:
        """Return the interned node of this content."""
        text = f"{kind}|{data!r}|" + ",".join(a.key for a in args)
        key = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        if key not in self.nodes:
            height = max((a.height for a in args), default=0)
            height += {"sum": 1, "pair": 2}.get(kind, 0)
            self.nodes[key] = Node(kind, data, args, key, deps, height, cost)
        return self.nodes[key]

    def number(self, value: Number) -> Node:
        """Make a constant."""
        return self.make("number", value, (), frozenset(), 0)

    def scalar(self, name: str) -> Node:
        """Make a run-time scalar."""
        return self.make("scalar", name, (), frozenset(), 0)

    def ref(self, array: str, indices: Iterable[tuple[Index, str]]) -> Node:
        """Make an array entry; each index is (loop index, offset), the offset "" or "p"."""
        places = list(indices)
        if array in self.symmetric:
            places.sort()
        elif array in FOUR_FIELDS:
            places = sorted(places[:2]) + sorted(places[2:])
        deps = frozenset(index for index, _ in places if index != FIXED)
        return self.make("ref", (array, tuple(places)), (), deps, 0)

    def add(self, args: Iterable[Node]) -> Node:
        """Sum of nodes, flattened, equal terms merged."""
        constant: Number = Fraction(0)
        terms: dict[str, tuple[Node, Number]] = {}
        for arg in _flat("add", args):
            factor, rest = self.split(arg)
            if rest is None:
                constant += factor
                continue
            old = terms.get(rest.key, (rest, Fraction(0)))[1]
            terms[rest.key] = (rest, old + factor)
        parts = [self.scaled(c, node) for node, c in terms.values() if c != 0]
        if constant != 0:
            parts.append(self.number(constant))
        return self.combine("add", parts, Fraction(0))

    def mul(self, args: Iterable[Node]) -> Node:
        """Product of nodes, flattened, equal bases merged."""
        constant: Number = Fraction(1)
        powers: dict[str, tuple[Node, Fraction]] = {}
        for arg in _flat("mul", args):
            if arg.kind == "number":
                constant = constant * arg.data
                continue
            base, exponent = (arg.args[0], arg.data) if arg.kind == "pow" else (arg, Fraction(1))
            old = powers.get(base.key, (base, Fraction(0)))[1]
            powers[base.key] = (base, old + exponent)
        if constant == 0:
            return self.number(Fraction(0))
        parts = [self.pow(b, e) for b, e in powers.values() if e != 0]
        if constant != 1:
            parts.append(self.number(constant))
        return self.combine("mul", parts, Fraction(1))

    def combine(self, kind: str, parts: list[Node], empty: Fraction) -> Node:
        """Make an n-ary node of canonical parts."""
        if not parts:
            return self.number(empty)
        if len(parts) == 1:
            return parts[0]
        parts.sort(key=lambda x: (x.kind != "number", len(x.deps), x.kind, x.key))
        deps = frozenset().union(*(x.deps for x in parts))
        return self.make(
            kind, None, tuple(parts), deps, sum(x.cost for x in parts) + len(parts) - 1
        )

    def split(self, node: Node) -> tuple[Number, Node | None]:
        """Split a node into a constant factor and the rest."""
        if node.kind == "number":
            return node.data, None
        if node.kind == "mul" and node.args[0].kind == "number":
            return node.args[0].data, self.combine("mul", list(node.args[1:]), Fraction(1))
        return Fraction(1), node

    def scaled(self, factor: Number, node: Node) -> Node:
        """Constant times a node."""
        return node if factor == 1 else self.mul([self.number(factor), node])

    def pow(self, base: Node, exponent: Fraction) -> Node:
        """Power of a node."""
        if exponent == 1:
            return base
        if base.kind == "number":
            if exponent.denominator == 1 and isinstance(base.data, Fraction):
                return self.number(base.data**exponent.numerator)
            return self.number(float(base.data) ** float(exponent))
        if base.kind == "pow" and exponent.denominator == 1:
            return self.pow(base.args[0], base.data * exponent)
        cost = abs(exponent.numerator) - 1 + (ROOT_COST if exponent.denominator == 2 else 0)
        cost += INVERSE_COST if exponent < 0 else 0
        return self.make("pow", exponent, (base,), base.deps, base.cost + cost)

    def call(self, name: str, *args: Node) -> Node:
        """Function of nodes."""
        kind, *tables = name.split()
        if len(tables) == 2 and tables[0] == tables[1]:  # symmetric under exchange of fields
            first, cross, second = args
            args = (first, cross, second) if first.key <= second.key else (second, cross, first)
        deps = frozenset().union(*(a.deps for a in args))
        return self.make("call", name, args, deps, sum(a.cost for a in args) + COST[kind])

    def together(self, total: Node) -> Node:
        """Sum that nothing is distributed over: its terms cancel."""
        if total.kind != "add":
            return total
        return self.make("together", None, (total,), total.deps, total.cost)

    def text(self, text: str) -> Node:
        """Code of a function of the run-time scalars alone."""
        return self.make("text", text, (), frozenset(), TEXT_COST)

    def sum(self, index: Index, body: Node) -> Node:
        """Sum over one index, renamed to its height."""
        bound = (f"{index[1]}{body.height + 1}", index[1])
        body = self.rename(body, {index: bound})
        return self.make("sum", bound, (body,), body.deps - {bound}, SUM_COST * (body.cost + 1))

    def pair(self, first: Index, second: Index, body: Node) -> Node:
        """Double sum of a body that is symmetric in its two indices."""
        axis = first[1]
        bound = ((f"{axis}{body.height + 2}", axis), (f"{axis}{body.height + 1}", axis))
        body = self.rename(body, {first: bound[0], second: bound[1]})
        deps = body.deps - set(bound)
        return self.make("pair", bound, (body,), deps, SUM_COST**2 * (body.cost + 1))

    def rename(self, node: Node, names: Mapping[Index, Index]) -> Node:
        """Rename free indices; the result is in canonical form again."""
        names = {a: b for a, b in names.items() if a in node.deps and a != b}
        if not names:
            return node
        memo = (node.key, tuple(sorted(names.items())))
        if memo not in self.renamed:
            self.renamed[memo] = self._rename(node, names)
        return self.renamed[memo]

    def is_symmetric(self, node: Node, first: Index, second: Index) -> bool:
        """Whether a node is the same with two of its indices, of one axis, exchanged."""
        return first[1] == second[1] and self.rename(node, {first: second, second: first}) is node

    def _rename(self, node: Node, names: Mapping[Index, Index]) -> Node:
        if node.kind == "ref":
            array, places = node.data
            return self.ref(array, [(names.get(x, x), offset) for x, offset in places])
        args = [self.rename(a, names) for a in node.args]
        if node.kind == "add":
            return self.add(args)
        if node.kind == "mul":
            return self.mul(args)
        if node.kind == "pow":
            return self.pow(args[0], node.data)
        if node.kind == "call":
            return self.call(node.data, *args)
        if node.kind == "together":
            return self.together(args[0])
        if node.kind == "sum":
            return self.sum(node.data, args[0])
        first, second = node.data
        return self.pair(first, second, args[0])


def count_uses(node: Node, uses: dict[str, int]) -> None:
    """Add to `uses`, by key, how many nodes of an expression each node is an argument of."""
    seen: set[str] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current.key in seen:
            continue
        seen.add(current.key)
        for arg in current.args:
            uses[arg.key] = uses.get(arg.key, 0) + 1
            stack.append(arg)


def factors(node: Node) -> tuple[Node, ...]:
    """Factors of a product, or the node itself."""
    return node.args if node.kind == "mul" else (node,)


def terms(node: Node) -> tuple[Node, ...]:
    """Terms of a sum, or the node itself."""
    return node.args if node.kind == "add" else (node,)


def _flat(kind: str, args: Iterable[Node]) -> Iterable[Node]:
    for arg in args:
        if arg.kind == kind:
            yield from arg.args
        else:
            yield arg


INDENT = "    "
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
# Start of an accumulator: may move above an earlier loop that does not touch it.
ZERO = re.compile(r"(s[0-9]+) = 0\.0")


@dataclass
class Loop:
    """One loop: its header line and what stands inside."""

    header: str
    body: list[str | Loop] = field(default_factory=list)

    def names(self) -> set[str]:
        """All names that occur inside."""
        found: set[str] = set()
        for item in self.body:
            found |= item.names() if isinstance(item, Loop) else set(NAME.findall(item))
        return found

    def written(self) -> set[str]:
        """Names that are assigned inside (scalars, and arrays by entry)."""
        found: set[str] = set()
        for item in self.body:
            if isinstance(item, Loop):
                found |= item.written()
            elif match := NAME.match(item):
                found.add(match.group())
        return found


def loop_over(index: Index, body: list[str | Loop]) -> Loop:
    """A loop whose lines are known: of an axis, ("i", "n"), or of bounds, ("j", "1, p + 1")."""
    return Loop(f"for {index[0]} in range({index[1]}):", body)


def fuse(items: list[str | Loop]) -> list[str | Loop]:
    """Merge each loop into an earlier one over the same index where no value passes between.

    Between the two only loops and accumulator starts may stand that neither of them touches.
    """
    result: list[str | Loop] = []
    for item in items:
        if not isinstance(item, Loop):
            result.append(item)
            continue
        loop = Loop(item.header, fuse(item.body))
        target = _target(result, loop)
        if target is None:
            result.append(loop)
            continue
        position, starts = target
        earlier = result[position]
        assert isinstance(earlier, Loop)
        moved = [result[n] for n in starts]
        for n in reversed(starts):
            del result[n]
        earlier.body = fuse([*earlier.body, *loop.body])
        result[position:position] = moved
    return result


def _target(done: list[str | Loop], loop: Loop) -> tuple[int, list[int]] | None:
    """Position of a loop to merge into, and of the accumulator starts to move above it."""
    names, written = loop.names(), loop.written()
    starts: list[int] = []
    for position in range(len(done) - 1, -1, -1):
        item = done[position]
        if isinstance(item, Loop):
            if item.written() & names or item.names() & written:
                return None
            if item.header == loop.header:
                return position, sorted(starts)
        elif match := ZERO.fullmatch(item):
            if match.group(1) in names:
                starts.append(position)
        # An empty line or a comment begins a new definition: keep it readable.
        elif item.startswith("#") or not item or _passes(item, names, written):
            return None
    return None


def _passes(line: str, names: set[str], written: set[str]) -> bool:
    """Whether a value passes between a line and a loop that would move above it."""
    found = NAME.findall(line)
    return bool(set(found[:1]) & names or set(found) & written)


def render(items: list[str | Loop], depth: int = 0) -> list[str]:
    """Lines of text."""
    lines: list[str] = []
    for item in items:
        if isinstance(item, Loop):
            lines.append(INDENT * depth + item.header)
            lines += render(item.body, depth + 1)
        else:
            lines.append(INDENT * depth + item if item else "")
    return lines


@dataclass
class Scope:
    """The body of one loop (or of the function): lines, known values, tables made here."""

    index: Index | None
    parent: Scope | None
    lines: list[str | Loop] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    tables: dict[str, tuple[str, tuple[Index, ...]]] = field(default_factory=dict)

    @property
    def context(self) -> list[Index]:
        """Loop indices from the outermost to this one."""
        above = self.parent.context if self.parent else []
        return [*above, self.index] if self.index else above

    def ancestor(self, depth: int) -> Scope:
        """Return the enclosing scope below `depth` loops."""
        scope = self
        while len(scope.context) > depth:
            assert scope.parent is not None
            scope = scope.parent
        return scope

    def block(self, header: str, inner: Scope) -> None:
        """Append a loop with the lines of `inner`."""
        self.lines.append(Loop(header, inner.lines))


def loop_header(index: Index | None) -> str:
    """Header of a loop over a full axis."""
    assert index is not None
    return f"for {index[0]} in range({index[1]}):"


def product_text(parts: list[str]) -> str:
    """Product with inverses written as divisions and a sign in front."""
    top = [(f"({x})" if x.startswith("-") else x) for x in parts if not x.startswith("1.0 / ")]
    bottom = [x.removeprefix("1.0 / ") for x in parts if x.startswith("1.0 / ")]
    sign = ""
    if "(-1.0)" in top and len(top) > 1:
        top.remove("(-1.0)")
        sign = "-"
    text = sign + (" * ".join(top) if top else "1.0")
    return text + "".join(f" / {x}" for x in bottom)
