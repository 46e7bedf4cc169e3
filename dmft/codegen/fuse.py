"""Loops as data: neighbours over the same index become one loop, then everything is text.

Fewer loops compile faster (the vectoriser works on each) and cost less at small widths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from dmft.codegen.nodes import Index

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
