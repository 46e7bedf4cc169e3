r"""Standalone LaTeX documents around the equations of a record."""

from __future__ import annotations

from typing import Protocol

PREAMBLE = r"""\documentclass[11pt,a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[margin=2cm]{geometry}
\usepackage{amsmath,amssymb}
\allowdisplaybreaks
"""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{c: rf"\{c}" for c in "#$%&_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


class HasLatex(Protocol):
    """Anything with a `.latex()`: equations, a risk, a formula."""

    def latex(self) -> str:
        """LaTeX text, in its own display environments."""


def escape(text: str) -> str:
    r"""Return plain text as LaTeX, with its special characters escaped.

    Examples
    --------
    >>> from dmft.display.latex import escape
    >>> escape("50% of a_j")
    '50\\% of a\\_j'
    """
    return "".join(_SPECIAL.get(c, c) for c in text)


def document(*records: HasLatex, title: str = "", note: str = "") -> str:
    r"""Return a LaTeX document (article, amsmath) that shows these records one after another.

    Parameters
    ----------
    *records
        Objects with `.latex()`; what they return stands in its own environments.
    title, note : str
        Plain text, escaped here.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> from dmft.display.latex import document
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    >>> document(eqs, title="phase retrieval").splitlines()[0]
    '\\documentclass[11pt,a4paper]{article}'
    """
    head = rf"\section*{{{escape(title)}}}" + "\n" if title else ""
    text = f"{escape(note)}\n\n" if note else ""
    body = "\n\n".join(record.latex() for record in records)
    return f"{PREAMBLE}\\begin{{document}}\n{head}{text}{body}\n\\end{{document}}\n"
