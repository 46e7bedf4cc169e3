r"""Linked diagrams of Hermite polynomials, drawn: a line of text, a LaTeX picture, an SVG.

A vertex is a field, a line between two vertices a link of a leg of one to a leg of the other; a
polynomial of degree n has n legs. The picture environment needs no package of LaTeX.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations

import sympy as sp

Printer = Callable[[sp.Expr], str]
Point = tuple[float, float]
# Links of one, two, three lines in text; more are written as a number.
LINES = {1: "──", 2: "══", 3: "≡≡"}
# Points: length of a side, distance of lines beside each other, of labels from their vertex, room
# for a label.
SIDE, APART, AWAY, LABEL = 34.0, 14.0, 7.0, 13.0


@dataclass(frozen=True)
class Diagram:
    """One way to link the legs of fields, and how often it occurs.

    `links` are numbers of links of the pairs (1, 2), (1, 3) ... (2, 3) ... of fields, `weight` the
    pairings of legs that give it.
    """

    fields: tuple[sp.Expr, ...]
    links: tuple[int, ...]
    weight: sp.Expr

    @property
    def degrees(self) -> tuple[int, ...]:
        """Legs of each field."""
        legs = Counter[int]()
        for i, j, count in self.edges():
            legs[i] += count
            legs[j] += count
        return tuple(legs[i] for i in range(len(self.fields)))

    @property
    def kind(self) -> tuple[sp.Expr, tuple[tuple[int, int, int], ...]]:
        """Weight and edges, the same for diagrams that differ in the names of fields alone."""
        edges = list(self.edges())
        orders = permutations(range(len(self.fields)))
        moved = ([(min(at[i], at[j]), max(at[i], at[j]), n) for i, j, n in edges] for at in orders)
        return self.weight, min(tuple(sorted(found)) for found in moved)

    def edges(self) -> Iterator[tuple[int, int, int]]:
        """Linked pairs of fields, and their links."""
        pairs = combinations(range(len(self.fields)), 2)
        return ((i, j, n) for (i, j), n in zip(pairs, self.links, strict=True) if n)

    def line(self, tell: Printer) -> str:
        """The diagram in a line of text."""
        names = [tell(x) for x in self.fields]
        parts = (f"{names[i]}{LINES.get(n, f'═{n}═')}{names[j]}" for i, j, n in self.edges())
        return f"{', '.join(parts)} (weight {tell(self.weight)})"

    def picture(self, show: Printer) -> str:
        """The diagram as a LaTeX picture, with its weight in front; about 50 points high."""
        places, (width, height) = self._places()
        body = [rf"\put({a:.1f},{b:.1f}){{\circle*{{3}}}}" for a, b in places.values()]
        for i, (a, b) in places.items():
            u, v = self._label(i, places)
            name = rf"\makebox(0,0){{\footnotesize ${show(self.fields[i])}$}}"
            body.append(rf"\put({a + u:.1f},{b + v:.1f}){{{name}}}")
        for (a, b), (c, d), (e, f) in self._curves(places):
            body.append(rf"\qbezier({a:.1f},{b:.1f})({c:.1f},{d:.1f})({e:.1f},{f:.1f})")
        inside = "".join(body)
        picture = (
            rf"\setlength{{\unitlength}}{{1pt}}\begin{{picture}}({width:.1f},{height:.1f})"
            rf"{inside}\end{{picture}}"
        )
        weight = rf"${show(self.weight)}\,\times$" if self.weight != 1 else ""
        return rf"\mbox{{{weight}\raisebox{{-{height / 2 - 3:.1f}pt}}{{{picture}}}}}"

    def svg(self, tell: Printer) -> str:
        """The diagram as an SVG, with its weight in front."""
        places, (width, height) = self._places()
        flipped = {i: (a, height - b) for i, (a, b) in places.items()}
        body = [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in flipped.values()]
        for i, (a, b) in places.items():
            u, v = self._label(i, places)
            name = html.escape(tell(self.fields[i]))
            body.append(
                f'<text x="{a + u:.1f}" y="{height - b - v + 3:.1f}" font-size="10" '
                f'text-anchor="middle">{name}</text>'
            )
        for (a, b), (c, d), (e, f) in self._curves(flipped):
            body.append(
                f'<path d="M{a:.1f} {b:.1f}Q{c:.1f} {d:.1f} {e:.1f} {f:.1f}" fill="none" '
                'stroke="currentColor"/>'
            )
        weight = f"{html.escape(tell(self.weight))} × " if self.weight != 1 else ""
        words = html.escape(self.line(tell), quote=True)
        return (
            f'<span style="white-space:nowrap">{weight}<svg role="img" aria-label="{words}" '
            f'width="{1.5 * width:.0f}" height="{1.5 * height:.0f}" '
            f'viewBox="0 0 {width:.1f} {height:.1f}" style="vertical-align:middle" '
            f'fill="currentColor">{"".join(body)}</svg></span>'
        )

    # Geometry -------------------------------------------------------------------------------

    def _places(self) -> tuple[dict[int, Point], Point]:
        """Vertices of the fields that are linked, and the size of the picture."""
        linked = [i for i, legs in enumerate(self.degrees) if legs]
        n = len(linked)
        if n == 2:
            most = max(count for *_, count in self.edges())
            high = max(APART * (most - 1) / 2 + 4, 12.0)
            points = [(2 * LABEL / 2 + 2, high / 2), (LABEL + 2 + SIDE, high / 2)]
            return dict(zip(linked, points, strict=True)), (SIDE + 2 * LABEL + 4, high)
        radius = SIDE / (2 * math.sin(math.pi / max(n, 3)))
        # Polygons stand on a side.
        turn = -math.pi / 2 - math.pi / max(n, 3)
        angles = (turn - 2 * math.pi * q / max(n, 3) for q in range(n))
        centre = radius + LABEL
        points = [(centre + radius * math.cos(t), centre + radius * math.sin(t)) for t in angles]
        return dict(zip(linked, points, strict=True)), (2 * centre, 2 * centre)

    def _label(self, i: int, places: dict[int, Point]) -> Point:
        """Where a name stands, from its vertex outwards."""
        a, b = places[i]
        middle = [sum(q) / len(places) for q in zip(*places.values(), strict=True)]
        u, v = a - middle[0], b - middle[1]
        size = math.hypot(u, v) or 1.0
        return AWAY * u / size * 1.15, AWAY * v / size

    def _curves(self, places: dict[int, Point]) -> Iterator[tuple[Point, Point, Point]]:
        """Ends and control points of all links, those of one pair beside each other."""
        for i, j, count in self.edges():
            (a, b), (c, d) = places[i], places[j]
            size = math.hypot(c - a, d - b)
            normal = (b - d) / size, (c - a) / size
            for number in range(count):
                bend = APART * (number - (count - 1) / 2)
                middle = ((a + c) / 2 + bend * normal[0], (b + d) / 2 + bend * normal[1])
                yield (a, b), middle, (c, d)
