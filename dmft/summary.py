"""What results say as text, HTML and LaTeX: a title, a table of rows, notes. Floor 0."""

from __future__ import annotations

import html
import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import zip_longest
from operator import attrgetter
from typing import Any

import numpy as np

# Two lines of a terminal.
LONGEST_REPR = 200
# Numbers of small arrays that a summary shows.
MOST_NUMBERS = 16
# Decimal places of numbers with errors.
MOST_PLACES = 7
# Of numbers below ROUNDING two digits are shown; entries below ZERO of the largest are zero.
ROUNDING, ZERO = 1e-9, 1e-13


def cut(text: str, most: int = LONGEST_REPR) -> str:
    """A text of at most so many characters, with the last one."""
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"


@dataclass(frozen=True)
class Summary:
    r"""What a result says: a title, rows of cells and notes, laid out as text, HTML and LaTeX.

    Cells are prose with formulas between dollars. Without a head, rows are names, values and
    meanings. `brief` replaces them in `repr`; `parts` are further tables.

    Examples
    --------
    >>> said = Summary("Fixed point", ((r"$\hat q$", "0.25", "precision"), ("risk", "1.5 ± 0.1")))
    >>> print(said.text())
    Fixed point
      q̂     0.25       precision
      risk  1.5 ± 0.1
    >>> said.line("Found")
    'Found(q̂ = 0.25, risk = 1.5 ± 0.1)'
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    head: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    brief: str = ""
    parts: tuple[Summary, ...] = ()

    @property
    def _table(self) -> list[tuple[str, ...]]:
        """Rows of equal length, the head first."""
        rows = [self.head, *self.rows] if self.head else list(self.rows)
        return list(zip(*zip_longest(*rows, fillvalue=""), strict=True)) if rows else []

    def text(self) -> str:
        """Aligned columns of at most `CHARACTERS`."""
        from dmft.typeset.plain import CHARACTERS, in_words

        table = [tuple(map(in_words, row)) for row in self._table]
        sizes = ([n for n in map(_columns, y) if n <= WIDEST] for y in zip(*table, strict=True))
        widths = [max(column, default=0) + 2 for column in sizes]
        lines = []
        for row in table:
            line, start = "", 2
            for n, (cell, width) in enumerate(zip(row, widths, strict=True), start=1):
                room = max(CHARACTERS - start, LEAST_ROOM)
                for part in textwrap.wrap(cell, room) if n == len(row) else [cell] * bool(cell):
                    if _columns(line) > start - 2:  # after a wide cell, or a line of this one
                        lines.append(line)
                        line = ""
                    line += " " * (start - _columns(line)) + part
                start += width
            lines.append(line)
        told = [textwrap.fill(in_words(y), CHARACTERS) for y in (self.title, *self.notes)]
        return "\n".join([told[0], *lines, *(part.text() for part in self.parts), *told[1:]])

    def html(self) -> str:
        """Title, table and notes."""
        title, *notes = (f"<div>{html.escape(y)}</div>" for y in (self.title, *self.notes))
        cells = [[f"<td {CELL}>{html.escape(y)}</td>" for y in row] for row in self._table]
        rows = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        table = f'<table style="border:none">{rows}</table>' if rows else ""
        more = "".join([*(part.html() for part in self.parts), *notes])
        return f"{title if self.title else ''}{table}{more}"

    def latex(self) -> str:
        """A paragraph with a tabular environment."""
        table = [tuple(map(_as_tex, row)) for row in self._table]
        if not self.head:  # a meaning below its value
            table = [(row[0], r" \newline ".join(filter(None, row[1:]))) for row in table]
        rows = [" & ".join(row) + r" \\" for row in table]
        rows[1:1] = [r"\hline"] * bool(self.head)
        sizes = [max(map(len, column)) for column in zip(*table, strict=True)]
        spare = MOST_IN_COLUMN - sum(sizes)
        columns = ["l"] * len(sizes)
        if spare < 0:  # the widest column is broken into lines
            widest = sizes.index(max(sizes))
            share = sorted([(spare + sizes[widest]) / MOST_IN_COLUMN, *SHARES])[1]
            columns[widest] = rf"p{{{share:.2f}\linewidth}}"
        body = [
            rf"{{\small\begin{{tabular}}{{@{{}}{''.join(columns)}@{{}}}}",
            *rows,
            r"\end{tabular}}",
        ]
        told = [*(part.latex() for part in self.parts), *map(_as_tex, self.notes)]
        return "\n\n".join([_as_tex(self.title), "\n".join(body), *told])

    def line(self, name: str) -> str:
        """Names and values as a line, as many as fit."""
        from dmft.typeset.plain import in_words

        sign = ": " if self.head else " = "
        parts = [sign.join(filter(None, map(in_words, row[:2]))) for row in self.rows if row[1]]
        said = in_words(self.brief) or ", ".join(parts)
        while len(name) + len(said) > LONGEST_REPR - 2 and len(parts) > 1:
            parts = parts[:-1]
            said = ", ".join([*parts, "... print shows all"])
        return cut(f"{name}({said or in_words(self.title)})")


# Columns of a cell that others are aligned with, and those that a last cell has at least.
WIDEST, LEAST_ROOM = 40, 24
# Characters of a table in a column of a document; least and largest share of one of its columns.
MOST_IN_COLUMN, SHARES = 40, (0.2, 0.8)
# How a notebook shows the cells of a table.
CELL = 'style="text-align:left;vertical-align:top;padding:1px 10px 1px 0;border:none"'


def _columns(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(not unicodedata.combining(c) for c in text)


def _as_tex(text: str) -> str:
    """Prose with formulas as LaTeX."""
    from dmft.typeset.plain import RAISED, SIGNS

    signs = {y: rf"$\{name}$" for name, y in SIGNS.items() if len(y) == 1 and not y.isascii()}
    signs |= {y: f"$^{c}$" for c, y in RAISED.items()} | {c: f"\\{c}" for c in "%&#_"}
    signs["^"] = r"\^{}"
    parts = re.split(r"(\$[^$]*\$)", text)
    parts[::2] = ["".join(signs.get(c, c) for c in part) for part in parts[::2]]
    return "".join(parts)


def as_formula(code: str) -> str:
    """Text of a SymPy expression as people write it."""
    code = re.sub(r"\bAbs\(([^()]*)\)", r"|\1|", code).replace("**", "^")
    return re.sub(r"\bM(ax|in)\(", r"m\1(", code)


def figures(value: Any, error: float | None = None, digits: int = 6) -> str:
    """A number, or a small array, with the digits that its error leaves.

    Examples
    --------
    >>> figures(0.123456789), figures(0.123456789, 3e-4), figures(float("inf")), figures(None)
    ('0.123457', '0.1235 ± 0.0003', '∞', 'none')
    >>> figures([[math.inf, 0.0], [1e-20, 7.5]]), figures([math.nan, 1.0])
    ('[[∞, 0], [0, 7.5]]', '[nan, 1]')
    """
    if value is None:
        return "none"
    if isinstance(value, str | bool | np.bool_):
        return as_formula(value) if isinstance(value, str) else "yes" if value else "no"
    if hasattr(value, "_summary"):
        return str(value._in_words()) if hasattr(value, "_in_words") else repr(value)
    if np.ndim(value):
        array = np.asarray(value)
        if array.size > MOST_NUMBERS or (array.ndim > 1 and array.dtype.kind in "OUb"):
            return _range(array)
        if array.dtype.kind in "fc":
            largest = np.abs(array[np.isfinite(array)]).max(initial=0.0)
            array = np.where(np.abs(array) <= ZERO * largest, 0.0, array)
        errors = np.broadcast_to(0.0 if error is None else error, array.shape)
        return f"[{', '.join(figures(y, e, 4) for y, e in zip(array, errors, strict=True))}]"
    if isinstance(value, complex | np.complexfloating) and value.imag:
        return f"{value:.{digits}g}"
    if getattr(value, "formula", ""):
        return as_formula(repr(value))
    error = getattr(value, "error", error)
    number = float(np.real(value)) + 0.0  # no negative zero
    if not math.isfinite(number):
        return "nan" if math.isnan(number) else "∞" if number > 0 else "-∞"
    first = math.floor(math.log10(abs(number))) if number else 0
    if not error or not 2 * error >= 10.0 ** (first - digits + 1) or math.isinf(error):
        return f"{number:.{digits if abs(number) > ROUNDING else 2}g}"
    # Errors that begin with 1 have two digits.
    places = -math.floor(math.log10(error / 2))
    if not 0 <= places <= MOST_PLACES:
        return f"{number:.3g} ± {error:.1g}"
    return f"{number:.{places}f} ± {error:.{places}f}"


def _range(array: np.ndarray[Any, Any]) -> str:
    """Number of entries, and where they begin and end; how often each text occurs."""
    if array.dtype.kind == "b":
        return f"{array.sum()} of {array.size}"
    if array.dtype.kind in "OU":
        names, counts = np.unique(array.astype(str), return_counts=True)
        return ", ".join(f"{n} {name}" for name, n in zip(names, counts, strict=True))
    size, known = " x ".join(map(str, array.shape)), array[np.isfinite(array)].real
    if not known.size:
        return f"{size} values, none known"
    ends = (known[0], known[-1]) if array.ndim == 1 else (known.min(), known.max())
    unknown = f", {array.size - known.size} unknown" * (known.size < array.size)
    return f"{size} values, {' to '.join(map(figures, ends))}{unknown}"


def of_attributes(record: Any) -> Summary | None:
    """Attributes that the docstring of the class describes, with their errors."""
    kind: Any = type(record)
    meanings = _described(kind)
    if not meanings:
        return None
    error = getattr(record, "error", None)
    of_one = re.match(r"Error of (\w+)", meanings.get("error", ""))
    errors = error if isinstance(error, Mapping) else {of_one[1] if of_one else "value": error}
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    parts: list[Summary] = []
    unshown = {f.name for f in fields(record) if not f.repr}
    for name, meaning in meanings.items():
        value = getattr(record, name)
        if name.endswith("_error") and getattr(record, name.removesuffix("_error"), 0) is None:
            continue
        if name in ("message", "proof"):
            notes += [f"Method: {value}."] if name == "proof" else filter(None, [value])
        elif isinstance(value, Mapping) and name not in UNSHOWN:
            rows += [
                (str(key), figures(y), meaning) for key, y in value.items() if key not in meanings
            ]
        elif name in unshown:
            continue
        elif isinstance(value, tuple) and value and hasattr(value[0], "_summary"):
            parts.append(table_of(meaning or name, value))
        elif name != "error" and not _is_left_out(value):
            words = WORDS.get(name, name).replace("_", " ")
            rows.append((words, figures(value, errors.get(name)), meaning))
    known = [float(np.max(y, initial=0.0)) for y in errors.values() if y is not None]
    worst = max(known, default=0.0)
    notes += [f"Errors are up to {worst:.1g}."] * bool(worst)
    title = _described(kind, title=True)[""]
    for n in range(len(rows) - 1, 0, -1):  # one sentence on several attributes
        if rows[n][2] == rows[n - 1][2]:
            rows[n] = rows[n][:2]
    title = title.replace("-> infinity", "→ ∞").replace("->", "→")
    return Summary(title, tuple(rows), notes=tuple(notes), parts=tuple(parts))


def table_of(title: str, records: Sequence[Any], names: Sequence[str] = ()) -> Summary:
    """Attributes of records of one class as columns, by default those that it describes."""
    columns = names or [name for name in _described(records[0].__class__) if name != "message"]
    rows = (tuple(figures(attrgetter(name)(one)) for name in columns) for one in records)
    head = tuple(name.rpartition(".")[2].replace("_", " ") for name in columns)
    return Summary(title, tuple(rows), head)


# Mappings that tables leave out.
UNSHOWN = ("error", "messages", "provenance", "solves", "statistics")
# Names of attributes that need other words.
WORDS = {"time_step_times_dim": "time per step, times d"}
# An entry of the attributes in a docstring, or its first sentence.
ATTRIBUTE = re.compile(r"\n {4}(\w[\w, ]*?)(?: :[^\n]*)?(?=\n)((?:\n {8,}[^\n]*)*)")


@lru_cache
def _described(kind: Any, title: bool = False) -> dict[str, str]:
    """First sentences on the attributes of a class, or on the class by an empty name."""
    text = kind.__doc__ or ""
    if title:
        return {"": re.split(r"[.;](?:\s|$)", text)[0] or kind.__name__}
    section = re.search(r"\n {4}Attributes\n {4}-+(.*?)(?=\n\n|$)", text, re.DOTALL)
    found: dict[str, str] = {}
    for names, words in ATTRIBUTE.findall(section[1] + "\n" if section else ""):
        said = re.split(r"[.;](?:\s|$)", " ".join(words.split()))[0].replace("`", "")
        # What options a field has is no meaning of one of them.
        found |= dict.fromkeys(names.split(", "), "" if said[:1] == '"' else said)
    return found


def _is_left_out(value: Any) -> bool:
    """Whether a table of attributes leaves a value out."""
    if isinstance(value, np.ndarray | tuple | list):
        unknown = isinstance(value, np.ndarray) and value.dtype.kind in "fc"
        return bool(
            np.size(value) == 0
            or (unknown and np.isnan(value).all())
            or (np.size(value) <= MOST_NUMBERS and any(map(_is_left_out, value)))
        )
    is_known = isinstance(value, str | bool | int | float | complex | np.generic)
    return not (is_known or hasattr(value, "_summary")) or bool(value != value)
