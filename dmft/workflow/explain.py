"""`explain`: textbook steps from a definition to a result, recorded by the engine and judged.

Of a random network it is the cavity argument: the sum over couplings becomes the field of a site.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from dmft.display.bibliography import ENTRIES
from dmft.equations.averages.expectation import Expectation
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.network import NetworkEquations
from dmft.equations.two_time.short_times import short_times
from dmft.errors import BadParameter
from dmft.explanation.paragraphs import Judged, Meaning
from dmft.explanation.steps import CASES, Explanation, Ledger, explanation
from dmft.gaussian.explanations import explain_exponent
from dmft.gaussian.exponents.record import Exponent
from dmft.model.random_network import S, T
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


J, PHI, ALONE, CHI = (sp.IndexedBase(y) for y in "Jyzr")
j, k, N = sp.symbols("j k N", integer=True, positive=True)

NOTATION = tuple(
    Meaning(tuple(names), text.format(*(f"${y}$" for y in names)))
    for names, text in (
        ("J", "{} are the couplings; site 0 is added to the others"),
        ("yz", "{} are the outputs of the sites at a time, {} those without site 0"),
        ("r", "{} is the response of the output of the first site to the field of the second"),
    )
)


def explain_network(equations: NetworkEquations, population: int = 0) -> Explanation:
    """Add a site to the network, then average over its own couplings."""
    network = equations.model
    if equations.is_changed or network.covariance is not None:
        raise BadParameter(
            "the cavity argument holds for declared mean, std and symmetry: explain as_derived; "
            "covariance= and memory= state its result"
        )
    if population not in range(network.populations):
        raise BadParameter(
            f"of = {shown(population)} must be the number of a population below "
            f"{network.populations}"
        )
    f, checks = equations.functions(population), Checks(equations, population)
    terms = {
        name: equations.terms[str(f.field)].get(name, sp.S.Zero)
        for name in ("mean", "low_rank", "couplings", "memory")
    }
    total, last = (sp.Sum, T - 1) if network.kind == "map" else (sp.Integral, T)
    back = total(CHI[j, k, T, S] * PHI[0, S], (S, 0, last))
    whole, alone = (sp.Sum(J[0, j] * y[j, T], (j, 1, N)) for y in (PHI, ALONE))
    own = sp.Sum(J[0, j] * J[k, 0] * back, (j, 1, N), (k, 1, N))
    ledger = Ledger(show=equations._printer.doprint)
    if not network.redrawn:
        ledger.add("linear_response", whole, alone + own, judge=with_one_site_more)
    for before, after, note, judge in (
        (alone, terms["mean"] + terms["low_rank"] + terms["couplings"],
         "Means of the couplings and their low-rank part give means of outputs.", checks.mean),
        (own, terms["memory"], "Among the pairs J[0, j], J[k, 0], only those with j = k are "
            "correlated.",
         checks.memory),
        (Expectation(f.eta(T) * f.eta(S)), equations.block(f.sigma),
         "A sum of many independent terms is Gaussian.", checks.covariance),
    ):  # fmt: skip
        ledger.add("new_couplings", before, after, note=note, judge=judge)
    return explanation(
        f"field of a site, {f.field(T)}", ledger, (whole, sp.Add(*terms.values())), [],
        claim="exact as N grows", cases=[{}, {}], whole=False, notation=NOTATION,
    )  # fmt: skip


def with_one_site_more(case: int) -> Judged:
    """Sum over couplings of a linear map of six sites, and its parts without site 0."""
    rng, steps = np.random.default_rng(CASES[case]), 4
    couplings, x = rng.standard_normal((6, 6)) / 3.0, rng.standard_normal(6)
    rest, row, alone, back = couplings[1:, 1:], couplings[0, 1:], x[1:], np.zeros(5)
    for _ in range(steps):
        back = rest @ back + couplings[1:, 0] * x[0]
        x, alone = couplings @ x, rest @ alone
    return float(row @ x[1:]), float(row @ (alone + back)), 1e-10


class Checks:
    """Terms of the record at random numbers, against averages over pairs of couplings."""

    def __init__(self, equations: NetworkEquations, population: int) -> None:
        self.equations, self.a, self.network = equations, population, equations.model
        self.every = [equations.functions(b) for b in range(self.network.populations)]

    def mean(self, case: int) -> Judged:
        """Sum over populations of mean couplings times mean outputs, and the low-rank part."""
        low = sum(
            m * sp.Function(f"kappa_{r + 1}", real=True)(T)
            for r, (m, _) in enumerate(self.network.low_rank)
        )
        means = self.network.mean[self.a]
        before = low + self._over(lambda b, n: n * means[b] * self.every[b].mean(T))
        after = self._term("mean") + self._term("low_rank")
        return self._values(case, before, after)

    def memory(self, case: int) -> Judged:
        """N E J_0j J_j0 times the response and the own output, at one earlier time."""
        own = self.every[self.a].output.xreplace({T: S})
        before = self._over(lambda b, n: n * self._pair(b)[1] * self.every[b].resp(T, S) * own)
        term = self._term("memory")
        inside = {y: y.function for y in term.atoms(sp.Integral, sp.Sum)}
        return self._values(case, before, term.xreplace(inside))

    def covariance(self, case: int) -> Judged:
        """N E J_0j^2 times the correlation of outputs, and the covariance of an input."""
        own = self.network.input_covariance[self.a]
        before = own + self._over(lambda b, n: n * self._pair(b)[0] * self.every[b].corr(T, S))
        after = self.equations.block(self.every[self.a].sigma)
        if self.network.redrawn:
            before, after = (y.xreplace({T: S}) for y in (before, after))
        return self._values(case, before, after)

    def _over(self, term: Callable[[int, float], sp.Expr]) -> sp.Expr:
        return sp.Add(*(term(b, n) for b, n in enumerate(self.network.shares)))

    def _term(self, name: str) -> sp.Expr:
        return self.equations.terms[str(self.every[self.a].field)].get(name, sp.S.Zero)

    def _pair(self, b: int) -> tuple[sp.Expr, sp.Expr]:
        """N E J_0j^2 and N E J_0j J_j0 without means, over pairs of equally likely signs."""
        net, a = self.network, self.a
        gamma, draws = net.symmetry[a][b], [(u, v) for u in (-1, 1) for v in (-1, 1)]
        pairs = [
            (net.std[a][b] * u, net.std[b][a] * (gamma * u + sp.sqrt(1 - gamma**2) * v))
            for u, v in draws
        ]
        return sum(y * y for y, _ in pairs) / 4, sp.expand(sum(y * z for y, z in pairs)) / 4

    def _values(self, case: int, *sides: sp.Expr) -> Judged:
        """Both sides at random numbers for their functions and symbols."""
        rng = np.random.default_rng(CASES[case])
        atoms = set().union(*(y.atoms(AppliedUndef) | y.free_symbols for y in sides))
        at = {y: sp.Float(rng.uniform(0.2, 0.9)) for y in sorted(atoms, key=str)}
        one, two = (float(y.xreplace(at)) for y in sides)
        return one, two, 1e-10
