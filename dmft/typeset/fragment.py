r"""Fragments of LaTeX fitted to a width: rows of alignments, broken, with what is long named below.

Views write each equation whole, one row of an `align*` for it or for each of its terms. `fitted`
reads these rows, breaks them (`dmft.typeset.breaking`), and writes what TeX, MathJax and
KaTeX take: `align*` environments with sentences between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from dmft.errors import BadParameter
from dmft.typeset.breaking import INDENT, Names, broken
from dmft.typeset.formula import TOKEN, parse, width

# One column of a journal with two, the text of an A4 page, and what a notebook shows, in points.
COLUMN, PAGE, NOTEBOOK = 246.0, 455.0, 560.0
# Below it no line of more than a symbol or two fits.
NARROWEST = 150.0
# Left-hand sides wider than this share of a line stand on a line of their own.
SHARE_OF_LEFT = 0.30
# Lines are planned for a little less than the width: alignments have edges.
EDGE = 3.0
# What a number at the right edge takes of a line.
TAG = 20.0
ALIGN = re.compile(r"\\begin\{(align|gather)(\*?)\}(.*?)\\end\{\1\2\}", re.DOTALL)
RATE = re.compile(r"\\frac\{(d .*)\}\{(dt)\}")
# Averages without fractions and sums have brackets of one size.
FLAT = re.compile(
    r"\\left\s*\\langle((?:(?!\\left|\\frac|\\sum|\\right|\\[Bb]ig|\n).)*)\\right\s*\\rangle"
)
LABEL = re.compile(r"\\text\{\((.*)\)\}\s*$")
# Rows of an equation that no column splits.
MOST_TOGETHER = 8
CONTINUED = re.compile(r"&\s*\\q?quad\b")
TAG_LABEL = r"\label{eq:%d}"
WHERE = "where"
NO_NUMBER = r"\notag"
RELATIONS = ("=", r"\approx", r"\sim", r"\simeq", r"\propto", r"\ge", r"\le", ">", "<", r"\in")


@dataclass
class Row:
    """One equation: left-hand side, the rest with its relation, and labels of its terms."""

    left: str
    right: str
    labels: list[str] = field(default_factory=list)


def check_points(width: float) -> None:
    """Refuse what is no width of lines; figures have theirs in inches."""
    if not isinstance(width, int | float) or not width >= NARROWEST:
        raise BadParameter(
            f"width = {width!r}: a number of points, {NARROWEST:g} or more; {COLUMN:g} is a "
            f"column of a journal, {PAGE:g} the text of an A4 page (inches, 'column' and 'page' "
            "are widths of figures, of dmft.plot)"
        )


def align(rows: Sequence[str], star: str = "*") -> str:
    """Rows as one alignment; nothing where there are none (TeX refuses an empty one)."""
    if not rows:
        return ""
    body = " \\\\\n".join(rows)
    return f"\\begin{{align{star}}}\n{body}\n\\end{{align{star}}}"


def fitted(text: str, points: float = COLUMN) -> str:
    """The same fragment with lines of at most `points`."""
    check_points(points)
    names = Names(text)
    parts: list[str] = []
    place = 0
    for match in ALIGN.finditer(text):
        parts.append(text[place : match.start()].strip())
        place = match.end()
        # What is named here is defined with what the text defines next.
        later = text[place:].lstrip().startswith(WHERE)
        parts += _display(match.group(3), points, names, match.group(2), parts[-1], later)
    parts.append(text[place:].strip())
    found = "\n".join(part for part in parts if part)
    return FLAT.sub(r"\\langle\1\\rangle", found)


def _display(
    body: str, points: float, names: Names, star: str, before: str, later: bool
) -> list[str]:
    """An alignment, broken, with the names of its terms and, unless `later`, its definitions."""
    found: list[str] = []
    for piece in _pieces(body):
        if isinstance(piece, str):
            found.append(piece)
            continue
        if before == WHERE:
            piece += _named(names)
        found += _environments(piece, points, names, star)
        defined = [] if later else [*_definitions(points, names, star)]
        found += defined[1:] if before == WHERE else defined
        names.labels += _labels(piece)
        if not later:  # after what is defined next
            found, names.labels = [*found, *names.labels], []
    return found


def _definitions(points: float, names: Names, star: str) -> Iterator[str]:
    """What names stand for."""
    rows = _named(names)
    if rows:
        yield WHERE
        yield from _environments(rows, points, names, star)
        yield from _definitions(points, names, star)


def _named(names: Names) -> list[Row]:
    return [Row(name, f"= {text}") for name, text in names.pending()]


def _labels(rows: Sequence[Row]) -> list[str]:
    """A sentence that names the terms of sums, in their order."""
    sums = ((RATE.sub(r"\1/\2", row.left), row.labels) for row in rows if len(row.labels) > 1)
    texts = [f"${left}$: {', '.join(labels)}" for left, labels in sums]
    return [f"Terms in this order: {'; '.join(texts)}."] if texts else []


# Reading --------------------------------------------------------------------------------------


def split_rows(body: str) -> list[str]:
    r"""Rows of an alignment, also after \\*; those of matrices inside of it stay together."""
    return [row.removeprefix("*").strip() for row in _split(body, "\\\\") if row]


def _split(text: str, mark: str) -> list[str]:
    """Text between marks that are in no group and no environment."""
    parts, depth = [""], 0
    for token in TOKEN.findall(text):
        depth += (token in ("{", r"\begin")) - (token in ("}", r"\end"))
        if token == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]


def _pieces(body: str) -> list[list[Row] | str]:
    """Rows that stand together, and sentences between them."""
    pieces: list[list[Row] | str] = [[]]
    for text in split_rows(body):
        left, *cells = _split(text, "&")
        right = cells[0] if cells else ""
        label = next((m.group(1) for c in cells if (m := LABEL.search(c)) and c != right), "")
        prose = "" if left and right else _prose(right or left)
        if prose:
            pieces += [prose, []]
            continue
        rows = pieces[-1]
        assert isinstance(rows, list)
        continues = not left and re.match(r"\\q?quad\b", right) and rows
        if continues:
            rows[-1].right += " " + re.sub(r"^(\\q?quad\b\s*)+", "", right)
        else:
            rows.append(Row(left, right))
        if label:
            rows[-1].labels.append(label)
    return [piece for piece in pieces if piece]


def _prose(row: str) -> str:
    """A row of words, with formulas between them, as a sentence; empty where it is none."""
    if not row.startswith(r"\text{") or any(a.kind == "rel" for a in parse(row)):
        return ""
    parts: list[str] = []
    formula: list[str] = []
    for atom in (*parse(row), None):
        words = atom is not None and atom.text.startswith(r"\text{")
        if atom is not None and not words:
            formula.append(atom.text)
            continue
        if formula:
            parts.append(f"${' '.join(formula).replace(' / ', '/')}$")
            formula = []
        if atom is not None:
            parts.append(atom.text.removeprefix(r"\text{").removesuffix("}").strip())
    return " ".join(part for part in parts if part)


# Writing --------------------------------------------------------------------------------------


def _environments(rows: Sequence[Row], points: float, names: Names, star: str) -> Iterator[str]:
    """Alignments of rows: those with wide left-hand sides apart from the others."""
    groups: list[tuple[bool, list[Row]]] = []
    for row in rows:
        goes_on = not row.left and row.right.startswith(RELATIONS) and bool(groups)
        wide = groups[-1][0] if goes_on else _stands_alone(row, points, names)
        if not groups or groups[-1][0] != wide:
            groups.append((wide, []))
        groups[-1][1].append(row)
    if len(groups) > 2:  # one block, its rows from the left
        groups = [
            (True, [y if one or not y.left else _flush(y) for one, some in groups for y in some])
        ]
    for wide, some in groups:
        edge = 0.0 if wide else max(width(row.left) for row in some)
        lines: list[str] = []
        for number, row in enumerate(some):
            goes_on = wide and number > 0 and row.right.startswith(RELATIONS)
            room, before = points - edge - EDGE, (dict(names.texts), len(names.unbroken))
            *parts, last = _lines(row, room, names, wide, goes_on)
            if not star and width(last.rpartition("&")[2]) > room - TAG:
                names.texts, names.unbroken = before[0], names.unbroken[: before[1]]
                *parts, last = _lines(row, room - TAG, names, wide, goes_on)
            lines += [*(y if star else rf"{y} {NO_NUMBER}" for y in parts), last]
        yield align(lines, star)


def _flush(row: Row) -> Row:
    """A row that starts at the left edge."""
    return replace(row, left="", right=f"{row.left} {row.right}")


def _stands_alone(row: Row, points: float, names: Names) -> bool:
    """Whether a left-hand side has a line of its own: a wide one, or one that costs a name."""
    size = width(row.left)
    if not row.left or size > SHARE_OF_LEFT * points:
        return True
    if size < 15 or size + width(row.right) < points - EDGE:
        return False
    counts = []
    for room in (points - size - EDGE, points - INDENT - EDGE):
        trial = Names(names.taken, dict(names.texts), shown=names.shown)
        _fit(row.right, room, room - INDENT, trial)
        counts.append(len(trial.texts) + len(trial.unbroken))
    return counts[1] < counts[0]


def _lines(row: Row, room: float, names: Names, wide: bool, goes_on: bool = False) -> list[str]:
    """Lines of one equation in an alignment, where `room` points are right of its edge.

    An equation without a left-hand side that `goes_on` is another value of the one before.
    """
    if goes_on and not row.left:
        right = _fit(row.right, room - INDENT, room - 2 * INDENT, names)
        return [rf"& \quad {right[0]}", *(rf"& \qquad {y}" for y in right[1:])]
    if wide and row.left:
        whole = f"{row.left} {row.right}"
        if width(whole) + 2 <= room:
            return [f"& {whole}"]
        left = _fit(row.left, room, room - INDENT, names)
        right = _fit(row.right, room - INDENT, room - 2 * INDENT, names)
        found = [f"& {left[0]}", *(rf"& \quad {y}" for y in left[1:])]
        return [*found, rf"& \quad {right[0]}", *(rf"& \qquad {y}" for y in right[1:])]
    first, *more = _fit(row.right, room, room - INDENT, names)
    start = f"{row.left} &{first}" if first.startswith(RELATIONS) else f"{row.left} & {first}"
    return [start.strip(), *(rf"& \quad {y}" for y in more)]


def _fit(text: str, first: float, rest: float, names: Names) -> list[str]:
    """Lines of a formula, planned anew for less room while one of them is too wide."""
    if width(text) <= first:
        return [text]
    before = dict(names.texts), len(names.unbroken)
    lines = [text]
    for share in (1.0, 0.9, 0.8, 0.68, 0.55):
        names.texts, names.unbroken = dict(before[0]), names.unbroken[: before[1]]
        lines = broken(text, share * first, share * rest, names)
        sizes = [width(line) for line in lines]
        if sizes[0] <= first and all(size <= rest for size in sizes[1:]):
            break
    return lines


# Documents -------------------------------------------------------------------------------------


def punctuated(text: str) -> str:
    """Text with commas and full stops in its displays."""

    def marked(match: re.Match[str]) -> str:
        rows, after = split_rows(match.group(3)), text[match.end() :].lstrip()
        rows = [row.removesuffix(f" {NO_NUMBER}") for row in rows]
        mark = "," if after[:1].islower() or ALIGN.match(after) else "."
        marks = ["" if re.match(r"&\s*\\q?quad\b", row) else "," for row in rows[1:]]
        marks = [mark + rf" {NO_NUMBER}" * (not match.group(2) and not mark) for mark in marks]
        pairs = zip(rows, [*marks, mark], strict=True)
        shown = [row + (y[1:] if row[-1] in ",." and y[:1] in ",." else y) for row, y in pairs]
        return align(shown, match.group(2))

    return ALIGN.sub(marked, text)


def together(match: re.Match[str]) -> str:
    """An alignment whose equations are kept in one column, unless they are long."""
    groups: list[list[str]] = []
    for row in split_rows(match.group(3)):
        if groups and CONTINUED.match(row):
            groups[-1].append(row)
        else:
            groups.append([row])
    marks = (" \\\\*\n" if len(rows) <= MOST_TOGETHER else " \\\\\n" for rows in groups)
    rows = [mark.join(rows) for mark, rows in zip(marks, groups, strict=True)]
    return align(rows, match.group(2))


def labelled(sections: Sequence[str], start: int) -> tuple[list[str], int]:
    """Sections with labels in numbered equations, counted from `start`."""
    numbers = count(start + 1)

    def with_labels(match: re.Match[str]) -> str:
        if match.group(2):
            return match.group()
        rows = split_rows(match.group(3))
        return align(
            [y if NO_NUMBER in y else f"{y} {TAG_LABEL % next(numbers)}" for y in rows], ""
        )

    found = [ALIGN.sub(with_labels, text) for text in sections]
    return found, next(numbers) - 1


def equations_of(body: str) -> list[list[str]]:
    """The equations of an alignment, each by its rows."""
    found: list[list[str]] = []
    for row in split_rows(body):
        if row.startswith("&") and found:
            found[-1].append(row)
        else:
            found.append([row])
    return found
