"""Formulas of LaTeX as atoms, which stay on one line or can be opened, with estimated widths.

Lines are broken in Python, where no TeX is. A width is an estimate: visible signs are counted by
kind at the 11 pt size of articles, with the spaces that TeX puts around them, and rounded up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

Kind = Literal["ord", "op", "bin", "rel", "open", "close", "punct", "inner", "space"]
TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\d+(?:\.\d+)?|[^\s\\]|\s+", re.DOTALL)

_SETS: dict[Kind, str] = {
    "bin": "+ - * times pm mp ast oplus otimes odot wedge cdot star circ",
    "rel": "= < > : approx sim simeq equiv neq ne leq le geq ge ll gg in to propto mapsto mid "
    "rightarrow leftarrow subset iff Rightarrow succeq preceq gtrsim lesssim asymp",
    "op": "arcsin arccos arctan sin cos tan exp log ln max min det sinh cosh tanh lim sup inf dim "
    "ker arg deg gcd Pr sum prod int bigcup",
    "open": "( [ langle {",
    "close": ") ] rangle }",
    "punct": ", ;",
    "space": "& displaystyle limits nolimits nonumber notag",
}
KINDS: dict[str, Kind] = {name: kind for kind, text in _SETS.items() for name in text.split()}
SPACES = {",": 2, ":": 3, ">": 3, ";": 3, "!": -2, " ": 4, "quad": 11, "qquad": 22}
LARGE = frozenset({"sum", "prod", "int", "bigcup"})
ACCENTS = re.compile("bar|hat|tilde|d?dot|vec|overline|widehat|widetilde|check|mathring")
ALPHABETS = frozenset({"mathcal", "mathbb", "mathfrak"})
WORDS = re.compile(r"text|mathrm|operatorname\*?|textrm|textbf|mathbf|mathsf|mathit|boldsymbol")
SIZED = re.compile(r"([bB]igg?)[lrm]?")
# Points of a letter, a capital, M or W, a digit or narrow sign, a wide sign, a delimiter.
LETTER, CAPITAL, WIDEST, NARROW, WIDE, DELIMITER = 6.2, 9.9, 11.8, 5.5, 8.7, 4.3
# Points of space that TeX adds on both sides of a kind of atom; none in scripts.
AROUND: dict[Kind, float] = {"bin": 4.9, "rel": 6.1, "op": 1.9, "punct": 1.9, "inner": 1.5}
# Kinds after which a sign has no space.
BEFORE_A_SIGN = ("bin", "op", "rel", "open", "punct")
# Scripts are set smaller, those of scripts a little smaller still.
SMALLER = {1.0: 0.78, 0.78: 0.7, 0.7: 0.7}


@dataclass(frozen=True)
class Atom:
    """One piece of a formula that stays on one line, or a group that may be opened.

    `text` is the LaTeX of the whole, `kind` TeX's class, which decides the space around it, `width`
    an estimate in points with that space, `height` 0 of a letter, 1 with a fraction or a large
    operator, 2 and more of nested ones. Of a group, `body` is between the delimiters `ends`;
    `scripts` are primes, subscript and superscript. `shape` is "frac", "sqrt", "group", "plain"
    (parentheses), "word" (a named function), "large" (a sum), or "", and `parts` numerator and
    denominator, or what is under the root and its order.
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


@lru_cache(maxsize=4096)
def parse(text: str, scale: float = 1.0, display: bool = True) -> tuple[Atom, ...]:
    """Atoms of a formula, in display style unless it is part of another one."""
    return tuple(_Parser(text, scale, display).atoms())


def width(formula: str | Sequence[Atom]) -> float:
    """Width of a formula in points."""
    return sum(a.width for a in (parse(formula) if isinstance(formula, str) else formula))


class Tokens:
    """Tokens of a formula, for recursive descent."""

    def __init__(self, text: str) -> None:
        self.tokens, self.place = TOKEN.findall(text), 0

    def next(self) -> str:
        """The next token, which is taken; empty at the end."""
        self.place += 1
        return self.tokens[self.place - 1] if self.place <= len(self.tokens) else ""

    def peek(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def skip(self) -> str:
        """The next token that is no white space."""
        while self.peek().isspace():
            self.place += 1
        return self.peek()


class _Parser(Tokens):
    """Atoms by recursive descent."""

    def __init__(self, text: str, scale: float, display: bool) -> None:
        super().__init__(text)
        self.scale, self.display = scale, display

    def argument(self) -> str:
        """Text of the next argument, without its braces."""
        first = self.next() if self.skip() else ""
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
            found.append(token)
        return "".join(found if depth else found[:-1])

    def atoms(self) -> list[Atom]:
        found: list[Atom] = []
        while self.skip():
            if self.peek() in ("^", "_", "'"):
                base = found.pop() if found else Atom("{}", "ord", 0.0)
                found.append(self.with_scripts(base))
                continue
            atom = self.nucleus(self.next())
            before = found[-1].kind if found else "bin"
            if self.scale == 1 and not (atom.kind == "bin" and before in BEFORE_A_SIGN):
                atom = replace(atom, width=atom.width + AROUND.get(atom.kind, 0.0))
            found.append(atom)
        return found

    def inside(self, text: str, smaller: bool = False, display: bool = False) -> tuple[Atom, ...]:
        return parse(text, SMALLER[self.scale] if smaller else self.scale, display)

    def with_scripts(self, base: Atom) -> Atom:
        """An atom with its primes, subscript and superscript."""
        corners, primes = {"_": "", "^": ""}, 0
        while self.skip() in ("^", "_", "'"):
            token = self.next()
            if token == "'":
                primes += 1
            else:
                corners[token] += self.argument()
        marks = "'" * primes + "".join(f"{c}{{{t}}}" for c, t in corners.items() if t)
        sizes = [width(self.inside(t, smaller=True)) for t in corners.values()]
        sizes[1] += 3.1 * primes
        if base.shape == "large" and self.display:
            wide = max(base.width, *sizes)
        else:
            wide = base.width + max(sizes) + 0.6
        above = corners["^"]
        deep = all(corners.values()) or any(c in above for c in (r"\frac", "^", "_", "["))
        tall = max(base.height, int(deep))
        return replace(base, text=base.text + marks, width=wide, height=tall, scripts=marks)

    def nucleus(self, token: str) -> Atom:
        if token == "{":
            return self.braces()
        if token.startswith("\\"):
            return self.command(token)
        if token == "(" and ")" in self.tokens[self.place :]:
            text = self.until("(", ")")
            return self.enclosed(f"({text})", text, ("(", ")"), "plain", kind="ord")
        kind = KINDS.get(token, "ord")
        return Atom(token, kind, self.sign(token, kind))

    def sign(self, name: str, kind: Kind) -> float:
        """Width of one letter, number, sign or delimiter."""
        if kind in ("bin", "rel"):
            size = NARROW if name in ("cdot", "star", "ast", "circ", "*", ":", "mid") else WIDE
        elif kind == "space":
            size = 0.0
        elif kind != "ord":
            size = DELIMITER
        elif name[0].isalpha():
            wide = name[0].isupper() or name in ("m", "w", "psi", "infty", "nabla", "top")
            size = 14.0 if name.endswith("dots") else CAPITAL if wide else LETTER
            size = WIDEST if name in ("M", "W") else size
        else:
            size = NARROW * len(name)
        return size * self.scale

    def words(self, text: str) -> float:
        """Width of upright text, which may hold formulas between dollars."""
        parts = text.split("$")
        upright = sum(len(part.replace("\\", "")) for part in parts[::2]) * NARROW * self.scale
        return upright + sum(width(self.inside(part)) for part in parts[1::2])

    def braces(self) -> Atom:
        """A group in braces; one that holds a single group is this group."""
        text = self.until("{", "}")
        inside = self.inside(text, display=self.display)
        if len(inside) == 1 and inside[0].shape == "group" and not inside[0].scripts:
            return replace(inside[0], width=inside[0].width - self.around("inner"))
        return Atom(f"{{{text}}}", "ord", width(inside), _height(inside))

    def around(self, kind: Kind) -> float:
        return AROUND[kind] if self.scale == 1 else 0.0

    def command(self, token: str) -> Atom:
        name = token[1:]
        if name in ("frac", "dfrac", "tfrac"):
            return self.fraction(token)
        if name == "sqrt":
            return self.root()
        if name == "left":
            return self.group()
        if SIZED.fullmatch(name):
            return self.sized(token)
        if name == "begin":
            return self.environment()
        if name in SPACES:
            return Atom(token, "space", SPACES[name] * self.scale)
        if WORDS.fullmatch(name):
            text = self.argument()
            is_function = name.startswith("operatorname")
            shape: tuple[Kind, str] = ("op", "word") if is_function else ("ord", "")
            return Atom(rf"{token}{{{text}}}", shape[0], self.words(text), shape=shape[1])
        if ACCENTS.fullmatch(name) or name in ALPHABETS:
            text = self.argument()
            wide = 11.0 * self.scale if name in ALPHABETS else width(self.inside(text)) + 0.6
            return Atom(rf"{token}{{{text}}}", "ord", wide)
        kind = KINDS.get(name, "ord")
        if name in LARGE:
            return Atom(token, kind, 16.0 * self.scale, int(self.display), shape="large")
        if kind == "op":
            return Atom(token, kind, self.words(name), shape="word")
        return Atom(token, kind, self.sign(name, kind))

    def fraction(self, token: str) -> Atom:
        parts = self.argument(), self.argument()
        display = self.display and token != r"\tfrac"
        inside = [self.inside(part, smaller=not display) for part in parts]
        height = 1 + max(map(_height, inside)) if display else 1
        text = rf"{token}{{{parts[0]}}}{{{parts[1]}}}"
        return Atom(text, "inner", max(map(width, inside)) + 2.4, height, shape="frac", parts=parts)

    def root(self) -> Atom:
        order = ""
        if self.skip() == "[":
            self.next()
            order = f"[{self.until('[', ']')}]"
        text = self.argument()
        inside = self.inside(text)
        wide = width(inside) + 9.5 * self.scale
        whole = rf"\sqrt{order}{{{text}}}"
        return Atom(whole, "ord", wide, _height(inside), shape="sqrt", parts=(text, order))

    def enclosed(
        self, whole: str, text: str, ends: tuple[str, str], shape: str, kind: Kind = "inner"
    ) -> Atom:
        """What is between delimiters, which are as wide as they are tall."""
        inside = self.inside(text, display=self.display)
        height = _height(inside)
        tall = max(min(height, 2), whole.startswith((r"\B", r"\b")))
        size = DELIMITER if shape == "plain" else 4.5 + 1.8 * tall
        wide = width(inside) + size * self.scale * sum(end != "." for end in ends)
        return Atom(whole, kind, wide, height, inside, ends, shape=shape)

    def delimiter(self) -> str:
        return self.next() if self.skip() else "."

    def group(self) -> Atom:
        r"""What is between \left and \right."""
        opening = self.delimiter()
        text = self.until(r"\left", r"\right").strip()
        ends = opening, self.delimiter()
        whole = rf"\left{_spaced(opening)}{text} \right{_spaced(ends[1])}".rstrip()
        return self.enclosed(whole, text, ends, "group")

    def sized(self, token: str) -> Atom:
        """A delimiter of a fixed size; a group up to its partner."""
        opening, partner = self.delimiter(), f"{token[:-1]}r"
        if not token.endswith("l") or partner not in self.tokens[self.place :]:
            kinds: dict[str, Kind] = {"l": "open", "r": "close", "m": "rel"}
            return Atom(token + _spaced(opening), kinds.get(token[-1], "ord"), 8.0)
        text = self.until(token, partner)
        ends = opening, self.delimiter()
        whole = rf"{token}{_spaced(opening)}{text}{partner}{_spaced(ends[1])}"
        return self.enclosed(whole, text, ends, "group")

    def environment(self) -> Atom:
        """A matrix or cases, its columns as wide as their widest entries."""
        name = self.argument()
        text = self.until(r"\begin", r"\end")
        self.argument()
        body = re.sub(r"^\{[lcr|]*\}", "", text) if name == "array" else text
        rows = [row.split("&") for row in re.split(r"\\\\", body) if row.strip()]
        columns = max(map(len, rows), default=0)
        cells = [
            max(width(self.inside(row[n])) for row in rows if n < len(row)) for n in range(columns)
        ]
        wide = sum(cells) + 11.0 * max(columns - 1, 0) + 18.0
        return Atom(rf"\begin{{{name}}}{text}\end{{{name}}}", "inner", wide, 2, shape="matrix")


def _spaced(delimiter: str) -> str:
    return f"{delimiter} " if delimiter[-1].isalpha() else delimiter


def _height(atoms: Iterable[Atom]) -> int:
    return max((a.height for a in atoms), default=0)
