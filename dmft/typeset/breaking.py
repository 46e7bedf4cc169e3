r"""Formulas broken into lines of a given width, and long parts of them named.

It works on LaTeX text, so that whatever is printed can be broken: between the terms of sums first,
inside brackets next, between factors last. What stands in one piece and is too wide for a line (a
denominator, an exponent, what is under a root) gets a name, with a definition of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from dmft.typeset.formula import Atom, parse, width

# Continuations are indented by a quad; a term is at least this share of a line before it is
# broken inside; pieces that cannot be broken are named above this share.
INDENT = 10.95
NAMED_ABOVE = 0.62
# Letters for parts with names, the first of them that is free.
LETTERS = ("A", "B", "G", "H", "U", "V")
SIZES = (("\\Bigl", "\\Bigr"), ("\\biggl", "\\biggr"), ("\\Biggl", "\\Biggr"))


@dataclass
class Names:
    """Names of parts, and what they stand for; `taken` is text whose letters are not free."""

    taken: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    unbroken: list[str] = field(default_factory=list)
    shown: int = 0
    labels: list[str] = field(default_factory=list)

    @property
    def letter(self) -> str:
        """First letter that no formula uses."""
        used = re.findall(r"(?<![\\A-Za-z])[A-Z](?![A-Za-z])", self.taken)
        return next((y for y in LETTERS if y not in used), r"\Xi")

    def name(self, text: str) -> str:
        """Name of a part, the same for equal ones; a name stays as it is."""
        text = re.sub(r" (?=\\right|[})\]])", "", text.strip())
        if text in self.texts.values():
            return text
        if text not in self.texts:
            self.texts[text] = f"{self.letter}_{{{len(self.texts) + 1}}}"
        return self.texts[text]

    def pending(self) -> Iterator[tuple[str, str]]:
        """Definitions (name, text) that were not given yet, those that they ask for included."""
        while self.shown < len(self.texts):
            text, name = list(self.texts.items())[self.shown]
            self.shown += 1
            yield name, text


# A factor of at most so many points is distributed over at most so many terms of a bracket.
SHORT_FACTOR, MOST_DISTRIBUTED = 24.0, 4
DECIMAL = re.compile(r"\d*\.\d")
# Delimiters of averages.
MEANS = (r"\langle",)


def broken(text: str, first: float, rest: float, names: Names) -> list[str]:
    """Lines of a formula; the first is at most `first` points wide, the others `rest`."""
    return [line.strip() for line in _fill(parse(text), first, rest, names, 0)]


def _text(atoms: Sequence[Atom]) -> str:
    return " ".join(a.text for a in atoms)


def _split(atoms: Sequence[Atom]) -> list[list[Atom]]:
    """Terms of a sum, each with its sign; relations and commas begin pieces, too."""
    terms: list[list[Atom]] = [[]]
    listed = any(a.kind == "punct" for a in atoms)
    for number, atom in enumerate(atoms):
        before = atoms[number - 1].kind if number else "bin"
        is_sign = atom.kind == "bin" and atom.text in ("+", "-", r"\pm")
        begins = is_sign and before not in ("bin", "op", "rel", "open", "punct")
        begins |= atom.kind == "rel" and bool(terms[-1]) and not listed
        begins |= bool(number) and before == "punct"
        if begins and terms[-1]:
            terms.append([])
        terms[-1].append(atom)
    return terms


def _fill(atoms: Sequence[Atom], first: float, rest: float, names: Names, depth: int) -> list[str]:
    """Lines of a sum."""
    if width(atoms) <= first:
        return [_text(atoms)]
    terms = _split(atoms)
    if len(terms) == 1:
        return _term(terms[0], first, rest, names, depth)
    lines: list[str] = []
    now: list[str] = []
    used, room = 0.0, first
    for term in terms:
        size = width(term)
        if used and used + size > room:
            lines.append(" ".join(now))
            now, used, room = [], 0.0, rest
        if not now and lines:
            while term and term[0].kind == "space":
                term = term[1:]
        if size <= room:
            now.append(_text(term))
            used += size
            continue
        *more, last = _term(term, room, rest, names, depth)
        lines += more
        now, used, room = [last], width(last) + 2.5, rest
    return [*lines, " ".join(now)] if now else lines


def _term(atoms: Sequence[Atom], first: float, rest: float, names: Names, depth: int) -> list[str]:
    """Lines of one term that is too wide for the first of them."""
    if width(atoms) <= first:
        return [_text(atoms)]
    shorter = [_shortened(a, min(first, rest), names, depth) for a in atoms]
    if [a.text for a in shorter] != [a.text for a in atoms]:
        again = parse(_text(shorter))
        return _fill(again, first, rest, names, depth)
    group = _widest_group(atoms)
    if group is not None:
        terms = _distributed(atoms, group)
        if terms:
            return _fill(terms, first, rest, names, depth)
        head = width(atoms[:group])
        if head <= 0.55 * first or group == 0 or head + 40 < 0.8 * first:
            return _opened(atoms, group, first, rest, names, depth)
    return _factors(atoms, first, rest, names, depth)


def _shortened(atom: Atom, room: float, names: Names, depth: int) -> Atom:
    """An atom that cannot be broken as it stands, in a form that can."""
    limit = NAMED_ABOVE * room
    if atom.width <= limit:
        return atom
    if atom.shape == "frac":
        return _fraction(atom, room, names, depth)
    if atom.shape == "sqrt" and len(parse(atom.parts[0])) > 1:
        text = rf"\sqrt{atom.parts[1]}{{{names.name(atom.parts[0])}}}"
        return replace(parse(text)[0], text=text + atom.scripts)
    if atom.scripts and not atom.body and "^{" in atom.scripts and atom.width > limit:
        base, power = atom.text.split("^{", 1)
        text = f"{base}^{{{names.name(power[:-1])}}}"
        return parse(text)[0]
    return atom


def _fraction(atom: Atom, room: float, names: Names, depth: int) -> Atom:
    """A fraction with names for what is long below, and above where it is inside of something."""
    above, below = map(parse, atom.parts)
    if width(below) > 0.5 * room:
        below = parse(_named_factors(below, 0.4 * room, names))
    top = _text(above)
    if width(above) > 0.8 * room or (depth and width(above) > NAMED_ABOVE * room):
        sums = _split(above)
        if not depth and not atom.scripts:
            one, top = _leading_number(above)
            inside = top if len(sums) == 1 else rf"\left[{top}\right]"
            text = rf"\frac{{{one}}}{{{_text(below)}}} {inside}"
            found = parse(text)
            return Atom(text, "inner", width(found), 1)
        top = _named_factors(above, 0.5 * room, names)
    text = rf"\frac{{{top}}}{{{_text(below)}}}"
    return replace(parse(text)[0], text=text + atom.scripts)


def _leading_number(atoms: Sequence[Atom]) -> tuple[str, str]:
    """Digits at the beginning of a product and the rest of it."""
    count = 0
    if len(_split(atoms)) == 1:
        while count < len(atoms) and atoms[count].text.isdigit():
            count += 1
    return _text(atoms[:count]).replace(" ", "") or "1", _text(atoms[count:])


def _named_factors(atoms: Sequence[Atom], limit: float, names: Names) -> str:
    """A product with names for its wide factors; a sum is named whole."""
    if len(_split(atoms)) > 1:
        return names.name(_text(atoms))
    parts = []
    for atom in atoms:
        if atom.width <= limit:
            parts.append(atom.text)
        elif atom.shape == "sqrt":
            parts.append(rf"\sqrt{atom.parts[1]}{{{names.name(atom.parts[0])}}}")
        elif atom.shape == "group" and atom.ends[0] not in (r"\langle",):
            parts.append(names.name(_text(atom.body)) + atom.scripts)
        else:
            parts.append(names.name(atom.text))
    text = " ".join(parts)
    return names.name(_text(atoms)) if width(text) > 2 * limit else text


def _widest_group(atoms: Sequence[Atom]) -> int | None:
    """Place of the widest group of more than one piece."""
    found = [
        n
        for n, a in enumerate(atoms)
        if a.body and (a.width > 60 or (a.shape == "group" and len(_split(a.body)) > 1))
    ]
    return max(found, key=lambda n: atoms[n].width, default=None)


def _distributed(atoms: Sequence[Atom], place: int) -> tuple[Atom, ...]:
    """The terms of a bracket times its short factor, where brackets inside would be broken."""
    relation = [a for a in atoms[:place] if a.kind == "rel"]
    group, head = atoms[place], atoms[len(relation) : place]
    sign = head[0].text if head and head[0].text in ("+", "-") else ""
    factors = head[1:] if sign else head
    terms = _split(group.body)
    nested = any(a.shape == "group" and len(_split(a.body)) > 1 for a in group.body)
    plain = all(a.kind == "ord" and not a.shape for a in factors) and len(factors) > 0
    if not (nested and plain and place == len(atoms) - 1 and not group.scripts):
        return ()
    if width(factors) > SHORT_FACTOR or len(terms) > MOST_DISTRIBUTED or group.ends[0] in MEANS:
        return ()
    number, letters = _leading_number(factors)
    parts = list[str]()
    for term in terms:
        own = term[0].text if term[0].text in ("+", "-") else ""
        rest = term[1:] if own else term
        mine, more = _leading_number(rest)
        bases = {re.split(r"[_^]", a.text)[0] for a in rest}
        same = bases & {re.split(r"[_^]", a.text)[0] for a in parse(letters)}
        decimal = any(DECIMAL.match(a.text) for a in (*factors, *rest))
        if same or decimal or rest[0].shape == "frac":
            return ()  # powers, decimals and fractions are not multiplied here
        product = int(number) * int(mine)
        whole = "" if product == 1 and letters + more else str(product)
        minus = (sign == "-") != (own == "-")
        mark = "-" if minus else "+" if parts or sign else ""
        parts.append(" ".join(y for y in (mark, whole, letters, more) if y))
    return parse(" ".join([_text(relation), *parts]))


def _opened(
    atoms: Sequence[Atom], place: int, first: float, rest: float, names: Names, depth: int
) -> list[str]:
    """Lines of a product with one of its brackets on more than one of them."""
    group = atoms[place]
    tall = group.height > 1 or r"\frac" in _text(group.body)
    left, right = SIZES[1 if tall else 0]
    opening, closing = ((e + " " if e[-1].isalpha() else e) for e in group.ends)
    head = [*atoms[:place]]
    start = f"{_text(head)} {left}{opening}" if head else f"{left}{opening}"
    tail = atoms[place + 1 :]
    end = f"{right}{closing}{group.scripts}"
    edge = 9.5
    used = width(head) + edge
    lines = _fill(group.body, first - used, rest - INDENT - edge, names, depth + 1)
    lines = [start + " " + lines[0], *(r"\quad " + line for line in lines[1:])]
    if not tail:
        lines[-1] += " " + end
        return lines
    closed = f"{lines[-1]} {end}"
    room = (first if len(lines) == 1 else rest) - width(closed) - 4
    if width(tail) <= room:
        lines[-1] = f"{closed} {_text(tail)}"
        return lines
    lines[-1] = closed
    more = _term(tail, rest - 12, rest, names, depth)
    return [*lines, _joined(more[0]), *more[1:]]


def _joined(text: str) -> str:
    r"""A factor on a new line."""
    text = text.removeprefix(r"\,").strip()
    return text if text.startswith(("+", "-", r"\times")) else rf"\times {text}"


def _factors(
    atoms: Sequence[Atom], first: float, rest: float, names: Names, depth: int
) -> list[str]:
    """Lines of a product, broken between its factors."""
    pieces: list[list[Atom]] = [[]]
    for number, atom in enumerate(atoms):
        if (
            number
            and _may_break(atoms[number - 1], atom)
            and any(a.kind not in ("bin", "space") for a in pieces[-1])
        ):
            pieces.append([])
        pieces[-1].append(atom)
    if len(pieces) == 1:
        return _whole(atoms, max(first, rest), names, depth)
    lines: list[list[str]] = [[]]
    used, room = 0.0, first
    for number, piece in enumerate(pieces):
        size = width(piece) + 2
        if used and used + size > room:
            lines.append([])
            used, room = 12.0, rest
        if size > room - used and size > first:
            parts = _term(piece, room - used, rest - 12, names, depth)
            lines[-1].append(_joined(parts[0]) if number and not lines[-1] else parts[0])
            lines += [[y] for y in parts[1:]]
            used = width(parts[-1]) if len(parts) > 1 else used + width(parts[0])
            room = rest if len(lines) > 1 else first
            continue
        text = _text(piece)
        lines[-1].append(_joined(text) if number and not lines[-1] else text)
        used += size
    return [" ".join(line) for line in lines]


def _whole(atoms: Sequence[Atom], room: float, names: Names, depth: int) -> list[str]:
    """A piece that has no place to break: parts with names, or as it is."""
    text = _text(atoms)
    if width(atoms) <= room:
        return [text]
    for number, atom in enumerate(atoms):
        if atom.shape == "group" and atom.width > 40 and atom.ends[0] != r"\langle":
            left, right = (
                f"{side}{e}" for side, e in zip((r"\left", r"\right"), atom.ends, strict=True)
            )
            inside = f"{left} {names.name(_text(atom.body))} {right}{atom.scripts}"
            short = [*atoms[:number], *parse(inside), *atoms[number + 1 :]]
            if width(short) <= room:
                return [_text(short)]
    names.unbroken.append(text)
    return [text]


def _may_break(before: Atom, after: Atom) -> bool:
    """Whether a product may go on on the next line between two factors."""
    if before.kind in ("op", "bin", "rel", "open") or before.shape in ("word", "large"):
        return False
    if before.text.startswith(r"\mathbb{E}") and after.shape == "group":
        return False
    if after.kind in ("bin", "rel", "close", "punct") or after.shape == "plain":
        return False
    return (
        after.kind in ("inner", "op", "space")
        or before.kind in ("inner", "space")
        or (after.kind == "ord")
    )
