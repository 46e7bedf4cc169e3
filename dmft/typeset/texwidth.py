r"""How wide TeX sets a formula: a model of its glyphs, fractions, roots, scripts and spaces.

Lines are broken in Python, so that widths are needed where no TeX is. They are those of display
style in an article of 11 pt, and err on the wide side (a test compares them with TeX).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from dmft.typeset import glyphs

Kind = Literal["ord", "op", "bin", "rel", "open", "close", "punct", "inner", "space"]
TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\d+(?:\.\d+)?|[^\s\\]|\s+", re.DOTALL)
# Spaces between kinds of atoms in mu, in text and display style.
THIN, MEDIUM, THICK = 3, 4, 5
_TIGHT = frozenset({"open", "close", "punct", "space"})
# A bar of a fraction, the sign of a root, the gap between columns of a matrix.
BAR, ROOT, COLUMN = 2.4, 9.3, 11.0


@dataclass(frozen=True)
class Atom:
    """One piece of a formula that stands on one line, or a group that may be opened.

    Attributes
    ----------
    text : str
        LaTeX of the whole.
    kind : str
        TeX's class, which decides the space around it.
    width : float
        In points.
    height : int
        0 of a letter, 1 with a fraction or a large operator, 2 and more of nested ones.
    body : tuple of Atom
        Contents between delimiters, empty where it is no group.
    ends : (str, str)
        The delimiters of a group.
    scripts : str
        What stands at its corners.
    shape : str
        "frac", "sqrt", "group", "word" (a named function), "large" (a sum), or "".
    parts : tuple of str
        Numerator and denominator, or what stands under the root.
    """

    text: str
    kind: Kind
    width: float
    height: int = 0
    body: tuple[Atom, ...] = ()
    ends: tuple[str, str] = ("", "")
    scripts: str = ""
    shape: str = ""
    parts: tuple[str, ...] = ()


def parse(text: str) -> tuple[Atom, ...]:
    r"""Atoms of a formula in display style.

    Examples
    --------
    >>> [a.kind for a in parse(r"\frac{a}{b} + c_{12}")]
    ['inner', 'bin', 'ord']
    """
    return _parse(text, 0, True)


def width(text: str | Sequence[Atom]) -> float:
    """Width of a formula in points.

    Examples
    --------
    >>> round(width("x = 1"))
    26
    """
    atoms = parse(text) if isinstance(text, str) else text
    return line_width(atoms, 0)


@lru_cache(maxsize=4096)
def _parse(text: str, style: int, display: bool) -> tuple[Atom, ...]:
    parser = _Parser(TOKEN.findall(text), style, display)
    return tuple(parser.atoms())


def line_width(atoms: Sequence[Atom], style: int) -> float:
    """Width of atoms side by side; scripts have no spaces between their kinds."""
    total, before = 0.0, None
    for atom in _kinds(atoms):
        if before is not None:
            total += _space(before, atom.kind, style) * glyphs.QUAD / 18
        total += atom.width
        before = atom.kind
    return total


def _kinds(atoms: Sequence[Atom]) -> list[Atom]:
    """Atoms with the signs at the beginning and after other signs as ordinary ones."""
    found: list[Atom] = []
    for atom in atoms:
        before = found[-1].kind if found else "bin"
        if atom.kind == "bin" and before in ("bin", "op", "rel", "open", "punct"):
            atom = replace(atom, kind="ord")
        found.append(atom)
    return found


def _space(left: Kind, right: Kind, style: int) -> int:
    if style > 0:
        return THIN if "op" in (left, right) and not {left, right} & _TIGHT else 0
    if "space" in (left, right):
        return 0
    if "rel" in (left, right):
        return 0 if left == right or left == "open" or right in ("close", "punct") else THICK
    if "bin" in (left, right):
        return MEDIUM
    if left == "punct":
        return THIN
    if left == "op":
        return 0 if right in ("open", "close", "punct") else THIN
    if right == "op":
        return 0 if left == "open" else THIN
    if "inner" in (left, right):
        return 0 if left == "open" or right in ("close", "punct") else THIN
    return 0


class _Parser:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[str], style: int, display: bool) -> None:
        self.tokens, self.place = tokens, 0
        self.style, self.display = min(style, 2), display

    @property
    def scale(self) -> float:
        return glyphs.SCRIPTS[self.style]

    def next(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def skip(self) -> None:
        while self.peek() and self.peek().isspace():
            self.place += 1

    def argument(self) -> str:
        """Text of the next argument, without its braces."""
        self.skip()
        first = self.next() if self.peek() else ""
        if first[:1].isdigit() and len(first) > 1:  # TeX takes one digit
            self.place -= 1
            self.tokens[self.place] = first[1:]
            return first[0]
        return self.until("{", "}") if first == "{" else first

    def until(self, opening: str, closing: str) -> str:
        """Text up to the closing that belongs to the opening just read."""
        depth, found = 1, []
        while depth and self.peek():
            token = self.next()
            depth += (token == opening) - (token == closing)
            if depth:
                found.append(token)
        return "".join(found)

    def atoms(self) -> list[Atom]:
        found: list[Atom] = []
        while True:
            self.skip()
            if not self.peek():
                return found
            if self.peek() in ("^", "_", "'"):
                base = found.pop() if found else Atom("{}", "ord", 0.0)
                found.append(self.with_scripts(base))
                continue
            found += self.nucleus(self.next())

    def inside(self, text: str, style: int | None = None, display: bool = False) -> list[Atom]:
        return list(_parse(text, self.style if style is None else style, display))

    def with_scripts(self, base: Atom) -> Atom:
        """An atom with what follows at its corners."""
        corners: dict[str, list[str]] = {"^": [], "_": []}
        primes = 0
        while self.peek() in ("^", "_", "'") or (self.peek().isspace() and self.is_script_next()):
            token = self.next()
            if token.isspace():
                continue
            if token == "'":
                primes += 1
            else:
                corners[token].append(self.argument())
        text = base.text + "'" * primes
        texts = {c: "".join(v) for c, v in corners.items()}
        scripts = "".join(f"{c}{{{t}}}" for c, t in (("_", texts["_"]), ("^", texts["^"])) if t)
        style = min(self.style + 1, 2)
        sizes = {c: line_width(self.inside(t, style), style) for c, t in texts.items()}
        sizes["^"] += 3.1 * primes * self.scale
        if base.shape == "large" and self.display:
            wide = max(base.width, *sizes.values())
        else:
            slant = glyphs.SLANT if texts["^"] or primes else 0.0
            wide = base.width + max(sizes.values()) + glyphs.AFTER_SCRIPT + slant
        both = bool(texts["^"] and texts["_"])
        deep = both or any(c in texts["^"] for c in (r"\frac", "^", "_", "["))
        tall = max(base.height, int(deep))
        marks = "'" * primes + scripts
        return replace(base, text=text + scripts, width=wide, height=tall, scripts=marks)

    def is_script_next(self) -> bool:
        place = self.place
        while place < len(self.tokens) and self.tokens[place].isspace():
            place += 1
        return place < len(self.tokens) and self.tokens[place] in ("^", "_")

    def nucleus(self, token: str) -> list[Atom]:
        if token == "{":
            return self.braces()
        if token.startswith("\\"):
            return self.command(token)
        if token == "(" and ")" in self.tokens[self.place :]:
            return [self.plain()]
        if token in glyphs.ITALIC:
            return [Atom(token, "ord", glyphs.ITALIC[token] * self.scale)]
        wide = sum(glyphs.PLAIN.get(c, 5.6) for c in token) * self.scale
        kinds: dict[str, Kind] = {"+": "bin", "-": "bin", "*": "bin", ",": "punct", ";": "punct"}
        kinds |= {"=": "rel", "<": "rel", ">": "rel", "(": "open", "[": "open", ":": "rel"}
        kinds |= {")": "close", "]": "close", "&": "space"}
        return [Atom(token, kinds.get(token, "ord"), 0.0 if token == "&" else wide)]

    def plain(self) -> Atom:
        """What stands between plain parentheses."""
        text = self.until("(", ")")
        inside = self.inside(text, display=self.display)
        wide = line_width(inside, self.style) + 8.6 * self.scale
        ends = ("(", ")")
        height = _height(inside)
        return Atom(f"({text})", "ord", wide, height, tuple(inside), ends, shape="plain")

    def braces(self) -> list[Atom]:
        """A group in braces; one that holds a single piece is this piece."""
        text = self.until("{", "}")
        inside = self.inside(text, display=self.display)
        if len(inside) == 1 and inside[0].shape == "group" and not inside[0].scripts:
            return inside
        wide = line_width(inside, self.style)
        return [Atom(f"{{{text}}}", "ord", wide, _height(inside))]

    def command(self, token: str) -> list[Atom]:
        name = token[1:]
        if name in ("frac", "dfrac", "tfrac"):
            return [self.fraction(token)]
        if name == "sqrt":
            return [self.root()]
        if name == "left":
            return [self.group()]
        if name.rstrip("lrm") in glyphs.DELIMITERS:
            return self.sized(token)
        if name == "begin":
            return [self.environment()]
        return [self.named(token)]

    def named(self, token: str) -> Atom:
        """A command that stands for a glyph, a word, an accent or a space."""
        name, scale = token[1:], self.scale
        if name in glyphs.WORDS or name.rstrip("*") in glyphs.WORDS:
            text = self.argument()
            kind: Kind = "op" if name.startswith("operatorname") else "ord"
            whole = rf"{token}{{{text}}}"
            return Atom(whole, kind, self.words(text), shape="word" if kind == "op" else "")
        if name in glyphs.ACCENTS:
            text = self.argument()
            inside = self.inside(text)
            return Atom(rf"{token}{{{text}}}", "ord", line_width(inside, self.style) + 0.6)
        if name in ("mathcal", "mathbb", "mathfrak"):
            text = self.argument()
            wide = sum(glyphs.CALLIGRAPHIC.get(c, 8.6) for c in text)
            return Atom(rf"{token}{{{text}}}", "ord", wide * scale)
        if name in glyphs.SPACES:
            return Atom(token, "space", glyphs.SPACES[name] * glyphs.QUAD / 18 * scale)
        if name in glyphs.FUNCTIONS:
            return Atom(token, "op", glyphs.word(name) * scale, shape="word")
        if name in glyphs.LARGE:
            factor = 1.0 if self.display else 0.75 * scale
            return Atom(token, "op", glyphs.LARGE[name] * factor, int(self.display), shape="large")
        if name in glyphs.BINARY:
            return Atom(token, "bin", glyphs.BINARY[name] * scale)
        if name in glyphs.RELATIONS:
            return Atom(token, "rel", 8.6 * scale if name != "to" else 10.95 * scale)
        if name in ("displaystyle", "limits", "nolimits", "nonumber", "notag"):
            return Atom(token, "space", 0.0)
        kinds: dict[str, Kind] = {"langle": "open", "rangle": "close", "{": "open", "}": "close"}
        return Atom(token, kinds.get(name, "ord"), glyphs.NAMED.get(name, 6.5) * scale)

    def words(self, text: str) -> float:
        """Width of upright text, which may hold formulas between dollars."""
        total = 0.0
        for number, part in enumerate(text.split("$")):
            if number % 2:
                total += line_width(self.inside(part), self.style)
            else:
                total += glyphs.word(part.replace("\\", "")) * self.scale
        return total

    def fraction(self, token: str) -> Atom:
        parts = self.argument(), self.argument()
        display = self.display and token != r"\tfrac"
        style = self.style if display else min(self.style + 1, 2)
        inside = [self.inside(part, style) for part in parts]
        wide = max(line_width(part, style) for part in inside) + BAR
        height = 1 + max(map(_height, inside)) if display else 1
        text = rf"{token}{{{parts[0]}}}{{{parts[1]}}}"
        return Atom(text, "inner", wide, height, shape="frac", parts=parts)

    def root(self) -> Atom:
        self.skip()
        order = ""
        if self.peek() == "[":
            self.next()
            order = f"[{self.until('[', ']')}]"
        text = self.argument()
        inside = self.inside(text)
        wide = line_width(inside, self.style) + (ROOT + 2.0 * bool(order)) * self.scale
        whole = rf"\sqrt{order}{{{text}}}"
        parts = (text, order)
        return Atom(whole, "ord", wide, _height(inside), shape="sqrt", parts=parts)

    def delimiter(self) -> str:
        self.skip()
        return self.next() if self.peek() else "."

    def group(self) -> Atom:
        r"""What stands between \left and \right."""
        opening = self.delimiter()
        text = self.until(r"\left", r"\right").strip()
        closing = self.delimiter()
        inside = self.inside(text, display=self.display)
        height = _height(inside)
        size = int(_has_root(inside)) if height == 0 else 2 if height == 1 else 3
        wide = line_width(inside, self.style) + sum(_edge(e, size) for e in (opening, closing))
        whole = rf"\left{_spaced(opening)}{text} \right{_spaced(closing)}".rstrip()
        ends = (opening, closing)
        return Atom(whole, "inner", wide, height, tuple(inside), ends, shape="group")

    def sized(self, token: str) -> list[Atom]:
        r"""A delimiter of a fixed size; a group up to its partner."""
        size, side = token[1:].rstrip("lrm"), token[-1]
        opening = self.delimiter()
        level = list(glyphs.DELIMITERS).index(size) + 0
        if side != "l" or (f"\\{size}r") not in self.tokens[self.place :]:
            kinds: dict[str, Kind] = {"l": "open", "r": "close", "m": "rel"}
            return [Atom(token + _spaced(opening), kinds.get(side, "ord"), _edge(opening, level))]
        text = self.until(token, f"\\{size}r")
        closing = self.delimiter()
        inside = self.inside(text, display=self.display)
        wide = line_width(inside, self.style) + sum(_edge(e, level) for e in (opening, closing))
        whole = rf"{token}{_spaced(opening)}{text}\{size}r{_spaced(closing)}"
        ends = (opening, closing)
        return [Atom(whole, "inner", wide, _height(inside), tuple(inside), ends, shape="group")]

    def environment(self) -> Atom:
        """A matrix or cases, its columns as wide as their widest entries."""
        name = self.argument()
        text = self.until(r"\begin", r"\end")
        self.argument()
        body = re.sub(r"^\{[lcr|]*\}", "", text) if name == "array" else text
        rows = [row.split("&") for row in re.split(r"\\\\", body) if row.strip()]
        columns = max(map(len, rows), default=0)
        cells = [
            max(line_width(self.inside(row[n]), self.style) for row in rows if n < len(row))
            for n in range(columns)
        ]
        wide = sum(cells) + COLUMN * max(columns - 1, 0) + 18.0
        whole = rf"\begin{{{name}}}{text}\end{{{name}}}"
        return Atom(whole, "inner", wide, 2, shape="matrix")


def _spaced(delimiter: str) -> str:
    return f"{delimiter} " if delimiter[-1].isalpha() else delimiter


def _edge(delimiter: str, size: int) -> float:
    """Width of a delimiter that grew to this size (0 of letters, 3 of nested fractions)."""
    if delimiter == ".":
        return 1.2
    curved, straight = ((4.3, 3.1), *glyphs.DELIMITERS.values())[min(size + (size > 0), 4)]
    return straight if delimiter in ("[", "]", "|", r"\lvert", r"\rvert") else curved


def _has_root(atoms: Sequence[Atom]) -> bool:
    """Whether a root stands in a line: brackets around it are larger than those around letters."""
    return any(a.shape == "sqrt" or (a.shape == "group" and _has_root(a.body)) for a in atoms)


def _height(atoms: Sequence[Atom]) -> int:
    return max((a.height for a in atoms), default=0)
