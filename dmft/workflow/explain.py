"""`explain`: textbook steps from a definition to a result, recorded by the engine and judged."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from functools import partial
from typing import Any

from dmft.display.bibliography import ENTRIES
from dmft.equations.explained.network import explain_network
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.network import NetworkEquations
from dmft.equations.two_time.short_times import short_times
from dmft.errors import BadParameter
from dmft.explanation.steps import Explanation
from dmft.gaussian.explanations import explain_exponent
from dmft.gaussian.exponents.record import Exponent
from dmft.validation import checked, shown

FIELD = re.compile(r"^\s*(\w+)\s*=\s*\{(.*?)\},?\s*$", re.MULTILINE | re.DOTALL)


@checked
def explain(obj: Any, depth: int | None = None, *, of: Any = None) -> Explanation:
    r"""Return the steps from the definition of a result to its formula, each checked numerically.

    Equation    each step is an equation `before = after`; both sides are evaluated by a quadrature
                that uses no closed forms, for rules of vectors on samples of the fields. The steps
                are recorded during the computation
    Valid for   `Gaussian` (`of` is the integrand), `population_risk`, `Equations` (`of` is a block
                such as "M" or "Q", or a block and a term), equations of a `RandomNetwork` (`of` is
                the number of a population), exponents, escape formulas

    Parameters
    ----------
    obj : Gaussian, PopulationRisk, SequenceRisk, Equations, Exponent, EscapeFormula ...
    depth : int, optional
        Level of detail: 0 for the main argument, 1 also for the derivations of its lines, and so
        on. By default all levels are returned.
    of : expression, str or tuple, optional
        Part of the object that is explained, if the object has several results.

    Returns
    -------
    Explanation
        Record with `.steps` (each with `.rule`, `.latex` and `.check`, a (2, 2) array) and
        `.latex()`, which displays in terminals (`print`) and in notebooks.

    Raises
    ------
    BadParameter
        If the object cannot be explained.
    UnprovenStep
        If the two sides of a step differ. This is a bug of the library; please report it.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y, m = sp.symbols("x y m", real=True)
    >>> law = dmft.Gaussian([x, y], cov=[[1, m], [m, 1]])
    >>> print(dmft.explain(law, of=dmft.hermite(2, x) * dmft.hermite(2, y)).steps[-1])
    Orthogonality of linked diagrams: E[He_2(x) He_2(y)] = 2 m²
    """
    found = _explained(obj, of).to_depth(depth)
    return replace(found, references={key: in_words(ENTRIES[key]) for key in found.citations})


def _explained(obj: Any, of: Any) -> Explanation:
    """By what the object says of itself."""
    if isinstance(obj, DescentEquations) and not obj.is_flow:
        obj = short_times(obj)
    note = getattr(obj, "explain", None)
    if isinstance(obj, NetworkEquations):
        note = partial(explain_network, obj)
    if isinstance(obj, Exponent):  # whose own words have no steps
        note = partial(explain_exponent, obj)
    if note is None or isinstance(obj, type):
        raise BadParameter(
            f"{type(obj).__name__} has no explanation; explain takes a Gaussian (of= the "
            "integrand), a population risk, equations (of= a block or a block and a term), an "
            "exponent, an escape formula"
        )
    given = () if of is None else of if isinstance(of, tuple) else (of,)
    try:
        read = inspect.signature(note).bind(*given).arguments
        if "depth" in read:
            raise BadParameter(
                f"of = {shown(of)}: {type(obj).__name__} is explained as a whole; leave of out"
            )
    except TypeError as error:
        raise BadParameter(
            f"of = {shown(of)} does not specify what to explain of this {type(obj).__name__}: "
            'pass the integrand of a Gaussian, a block of equations ("M"), or a block and a '
            "term"
        ) from error
    result = note(*given)
    if not isinstance(result, Explanation):
        raise BadParameter(f"{type(obj).__name__} has a text explanation: print(it.explain())")
    return result


def in_words(entry: str) -> str:
    """A BibTeX entry as one line."""
    fields = {k: re.sub(r"[{}\\'\"]|\s+", lambda m: " " if m[0].isspace() else "", v)
              for k, v in FIELD.findall(entry)}  # fmt: skip
    parts = [fields.get(k, "") for k in ("author", "title", "journal", "booktitle", "volume")]
    place = f"arXiv:{fields['eprint']}" if "eprint" in fields else fields.get("doi", "")
    return ", ".join(p for p in [*parts, place] if p) + f" ({fields.get('year', '')})"
