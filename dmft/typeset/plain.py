r"""LaTeX as plain text for terminals: Unicode letters, indices in brackets, fractions on one line.

It reads the formulas that the views print, so that a terminal shows what a document shows.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from functools import lru_cache

from dmft.typeset.formula import Tokens
from dmft.typeset.fragment import ALIGN

# Points of a line, which are about so many characters.
TERMINAL, CHARACTERS = 400.0, 96
NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega varepsilon "
    "varsigma"
)
GREEK = dict(zip(NAMES.split(), "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩες", strict=True))
QUAD = "\u2003"
SIGNS = GREEK | {
    "langle": "⟨", "rangle": "⟩", "cdot": "·", "times": "·", "sim": "~", "approx": "≈", "le": "≤",
    "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "to": "→", "infty": "∞", "in": "∈", "pm": "±",
    "partial": "∂", "ell": "ℓ", "ldots": "...", "dots": "...", "sum": "∑", "int": "∫", "prod": "∏",
    "top": "T", "star": "*", "ast": "*", "mid": "|", "quad": QUAD, "qquad": QUAD, "propto": "∝",
    "leftarrow": "←", "leftrightarrow": "↔", "neq": "≠", "dagger": "†", "simeq": "≃",
    "otimes": "⊗", "perp": "⊥", "parallel": "∥",
    ",": " ", ";": " ", ":": " ", " ": " ", "!": "", "{": "{", "}": "}", "|": "|", "%": "%",
    "_": "_", "&": "&", "#": "#", "\\": "\n", "displaystyle": "", "left": "", "right": "",
    "middle": "",
}  # fmt: skip
RAISED = dict(zip("0123456789+-T", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀ", strict=True))
ALPHABETS = re.compile(
    r"math(cal|bb|rm|sf|bf|frak|it)|operatorname\*?|text(rm|bf|it)?|boldsymbol|mathop|overline"
)
SIZED = re.compile(r"[bB]igg?[lrm]?")
ACCENTS = {"bar": "\u0304", "hat": "\u0302", "tilde": "\u0303", "dot": "\u0307", "ddot": "\u0308"}
# Spaces that no formula has, and those before the arguments of a function.
SPARE = re.compile(
    r"(?<=[(\[{⟨]) +| +(?=[)\]},;:⟩])|(?<=[σ'])(?<![\dA-Zs]') (?=\()|(?<=arc...) (?=\()|"
    r"(?<=erf) (?=\()|(?<=sign) (?=\()|(?<=Φ_2) (?=\()|(?<=[IJ]_\d) (?=\()|(?<= ) +"
)
# Indices that are no indices of arrays: numbers, several letters, the dimension, an entry.
WORD = re.compile(r"\d+|d|[^\W\d]{2,}|\w+\[[^\[\]]*\]")
# Two indices without a space between them.
PAIR = re.compile(r"[jlrsuvab]{2}")
INNER = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|⟨[^⟨⟩]*⟩")


@lru_cache(maxsize=4096)
def plain(formula: str) -> str:
    r"""A formula of LaTeX as text.

    Examples
    --------
    >>> plain(r"\frac{d M_{j r}}{dt} = \frac{1}{k} \sum_{s=1}^{k} \langle \sigma(h_{s})^{2}\rangle")
    'dM[j,r]/dt = 1/k Σ_s ⟨σ(h[s])²⟩'
    """
    text = SPARE.sub("", _Reader(formula).text()).replace("∑", "Σ")
    text = re.sub(r"(?<=[^\s,;(\[{=≈]) ([+-])(?=[^\s)])", r" \1 ", text)
    return re.sub(r"^d (?=\S+/dt$)", "d", text.replace(QUAD, "   ").strip())


def _bare(text: str) -> str:
    """A text without what is in its brackets."""
    while INNER.search(text):
        text = INNER.sub("", text)
    return text


class _Reader(Tokens):
    """Text by recursive descent."""

    def argument(self) -> str:
        """The next group, or sign."""
        if self.skip() != "{":
            return self.atom()
        self.place += 1
        return self.text("}").strip()

    def text(self, end: str = "") -> str:
        """Text up to the end of a group."""
        found = ""
        while self.place < len(self.tokens) and self.peek() != end:
            found += self.scripted()
        self.place += 1
        return found

    def scripted(self) -> str:
        """A sign or a group with its indices and powers; stars come before indices."""
        is_group = self.peek() == "{"
        base = self.atom()
        if is_group and self.peek() == "^" and re.search("[\\^⁰-⁹²³¹ᵀ]", base):
            base = f"({base})"
        below = above = ""
        if self.peek() in ("\\limits", "\\nolimits"):
            self.next()
        while self.peek() in ("_", "^"):
            if self.next() == "_":
                below = self.argument()
            else:
                above += self.argument()
        if base in ("∑", "∫", "∏"):
            return _range(base, below, above)
        star = "*" * above.startswith("*")
        above = above.removeprefix("*")
        if below == "*":
            star, below = "*", ""
        is_word = base in ("∂", "δ", "E", "n", "F") or base + below in ("ρa", "Bt")
        is_word |= len(base) > 1 and base.isalpha()
        below = f"_{below.replace(' ', '')}" if below and is_word else _index(below)
        return base + star + below + _power(above)

    def atom(self) -> str:
        """A sign, a command with its arguments, or a group."""
        token = self.next()
        if token == "{":
            return self.text("}")
        if not token.startswith("\\"):
            return " " if token.isspace() else token
        name = token[1:]
        if name in COMMANDS:
            return COMMANDS[name](self)
        if ALPHABETS.fullmatch(name):
            words = name == "text" and self.next() == "{"
            return self.text("}") if words else self.argument()
        if name in ACCENTS:
            return self.argument() + ACCENTS[name]
        if SIZED.fullmatch(name) or name in ("left", "right", "middle"):
            return "" if self.peek() != "." else self.next()[1:]
        return SIGNS.get(name, name)

    def fraction(self) -> str:
        """A fraction on one line."""
        above, below = self.argument(), self.argument()
        if above[:1] in ("d", "∂", "δ"):
            above, below = (re.sub(r"^([d∂δ]) (?=\S+$)", r"\1", y) for y in (above, below))
        above = f"({above})" if re.search(r".[+-]", _bare(above)) else above
        return f"{above}/{f'({below})' if re.search(r'[ +/·-]', _bare(below)) else below} "

    def root(self) -> str:
        """A root."""
        return f"sqrt({self.argument()})"

    def environment(self) -> str:
        """A matrix or cases, in brackets."""
        name = self.argument()
        body = ""
        while self.peek() and self.peek() != "\\end":
            body += self.scripted()
        self.next()
        self.argument()
        rows = [[cell.strip() for cell in row.split("&")] for row in body.strip().split("\n")]
        if name == "cases":
            return "{" + "; ".join(map(" ".join, rows)) + "}"
        lines = [", ".join(row) for row in rows if row != [""]]
        matrix = ", ".join(f"[{line}]" for line in lines)
        return matrix if name == "matrix" else f"[{matrix}]"  # brackets stand around one


COMMANDS: dict[str, Callable[[_Reader], str]] = {
    "frac": _Reader.fraction, "tfrac": _Reader.fraction, "dfrac": _Reader.fraction,
    "sqrt": _Reader.root, "begin": _Reader.environment,
}  # fmt: skip


def _index(below: str) -> str:
    """Indices in brackets, numbers of parts below."""
    if not below:
        return ""
    names = re.sub(r" +", ",", re.sub(r"(,) | ([+-]) ", r"\1\2", below))
    if PAIR.fullmatch(names):
        names = ",".join(names)
    return f"_{names}" if WORD.fullmatch(names) else f"[{names}]"


def _power(above: str) -> str:
    if not above or set(above) <= {"′"}:
        return above
    if len(above) < 4 and set(above) <= set(RAISED):
        return "".join(RAISED[c] for c in above)
    if above[0] in "[(" or above.isalpha():
        return f"^{above}"
    return f"^({above})"


def _range(base: str, below: str, above: str) -> str:
    """A sum over 1, 2, ... to a named width by its index, others with their range."""
    index, _, first = below.partition("=")
    named = first.strip() == "1" and not above.isdigit()
    shown = index if named or not above else f"{below}..{above}"
    if base == "∫":
        return f" ∫_{below}^{above} " if below else " ∫ "
    return f" {base}_{shown.replace(' ', '')} " if shown else f" {base} "


def in_letters(words: str, latex: Mapping[str, str] | None = None) -> str:
    """Prose with letters and signs in place of their names; `latex` has further letters."""
    own = {name: plain(letter) for name, letter in (latex or {}).items() if letter}
    names = GREEK | {"infinity": "∞"} | own

    def letter(word: re.Match[str]) -> str:
        stem, mark, index = word.group().partition("_")
        whole = names.get(stem, stem) + mark + index if index.isdigit() else word.group()
        return names.get(word.group(), whole)

    return re.sub(r"\w+", letter, words).replace("->", "→")


def plain_text(latex: str) -> str:
    """Alignments and sentences of LaTeX, of lines of `TERMINAL` points, as lines of text."""
    lines: list[str] = []
    place = 0
    for match in ALIGN.finditer(latex):
        lines += sentences(latex[place : match.start()])
        place = match.end()
        for row in re.split(r"\\\\\s*\n", match.group(3).strip()):
            lines.append("  " + _row(row))
    return "\n".join([*lines, *sentences(latex[place:])])


def _row(row: str) -> str:
    """A row of an alignment; continued lines are indented."""
    left, _, right = row.partition("&")
    indent = 0
    while match := re.match(r"\s*\\q?quad\b", right):
        indent += 4
        right = right[match.end() :]
    right = re.sub(r"&&\s*\\text\{(.*)\}", r"\\quad \1", right)
    return " " * (indent if not left.strip() else 0) + plain(f"{left} {right}")


def sentences(text: str) -> list[str]:
    """Lines of prose with formulas between dollars."""
    lines = (line for line in in_words(text).split("\n") if line.strip() and line[0] != "%")
    return [part for line in lines for part in textwrap.wrap(line, CHARACTERS)]


def in_words(text: str) -> str:
    """Prose with its formulas as text."""
    words = re.sub(r"\$([^$]*)\$", lambda m: plain(m.group(1)), text.strip())
    return re.sub(r"\\(noindent|,|quad)\s*", "", words)
