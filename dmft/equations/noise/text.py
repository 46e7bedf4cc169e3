"""Fluctuations in LaTeX and in plain text: the definitions of the increments, printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.moments import Entry, closed_moments
from dmft.equations.definitions import Definition, used_bases
from dmft.equations.update.optimiser import step_size
from dmft.equations.views.latex import EquationPrinter, definition_latex
from dmft.equations.views.text import definition_text, model_names

if TYPE_CHECKING:
    from dmft.equations.noise.fluctuations import Noise

# Terms of a polynomial on one line.
TERMS_A_LINE = 7


def printed(noise: Noise, known: Iterable[Definition] = ()) -> tuple[Definition, ...]:
    """Update, increments, and the rates at order 1/d with what they read.

    Fields of a sample that are `known` stand elsewhere already.
    """
    own, shown = noise.increments, {d.name for d in known if d.role == "sample"}
    if own.in_clusters:
        cases = [own.of_case(case) for case in own.moments.cases]
        return tuple(d for parts in cases for part in parts for d in part if d.name not in shown)
    kept = (
        replace(d, terms=tuple((name, e) for name, e in d.terms if name in noise.terms))
        for d in own.rates
    )
    rates = [d for d in kept if d.terms]
    read = {name for d in rates for name in used_bases(d.expr)}
    excess = [d for d in own.excess if d.name in read]
    sample = [d for d in own.sample if d.name not in shown]
    return (*sample, *own.free, *own.constrained, *excess, *rates)


def noise_latex(
    noise: Noise, printer: EquationPrinter, known: Iterable[Definition] = ()
) -> list[str]:
    """Align lines: the stochastic equation, the increments, the drift at order 1/d."""
    batch = noise.algorithm.batch_size
    size = "" if batch == 1 else rf" \cdot {batch}"
    state, steps = ("Q, M, a", "u, v, w") if noise.algorithm.trains_readout else ("Q, M", "u, v")
    rate = printer.doprint(step_size(noise.algorithm))
    lines = [
        rf"d({state}) &= F\,dt + \sqrt{{\frac{{{rate}}}{{p\,d{size}}}}}\;\Sigma^{{1/2}}\,dB_t,"
        rf"\quad \Sigma = \mathrm{{Cov}}\bigl[({steps})\bigr],\quad \xi \sim \mathcal{{N}}(0, 1)"
    ]
    shown = printed(noise, known)
    rates = [d for d in shown if d.role == "rate"]
    lines += [y for d in shown if d not in rates for y in definition_latex(d, printer)]
    if rates and noise.increments.displaced:
        lines.append(r"&\text{where a sample is displaced } s \text{ times as much,}")
    lines += [r"&\text{and in } F \text{ at order } 1/d\text{:}"] if rates else []
    return lines + [y for d in rates for y in definition_latex(d, printer)]


def closed_latex(noise: Noise, printer: EquationPrinter) -> list[str]:
    """Align lines of Sigma in closed form, for one student and one teacher."""
    moments = closed_moments(
        noise.model, noise.algorithm, {"p": 1, "k": 1}, _declared(noise) | {"P": None}
    )
    entries = [e for e in moments.entries if moments.moves(e)]
    lines = []
    for number, one in enumerate(entries):
        for two in entries[: number + 1]:
            name = rf"\Sigma_{{{_name(two)}\,{_name(one)}}}"
            lines += _polynomial(name, moments.covariance(one, two), printer)
    return lines


def _declared(noise: Noise) -> dict[str, Sequence[sp.Expr]]:
    networks = {"readout": noise.model.student, "teacher_readout": noise.model.teacher}
    return {name: network.readout or (sp.Integer(1),) for name, network in networks.items()}


def _name(entry: Entry) -> str:
    name, (j, n) = entry
    return f"{name}_{{{j}{n}}}"


def _polynomial(name: str, expr: sp.Expr, printer: EquationPrinter) -> list[str]:
    """Lines of a polynomial, sorted by powers of the learning rate and of the noise."""
    terms = sorted(
        sp.Add.make_args(expr),
        key=lambda y: (sp.degree(y, x.gamma), sp.degree(y, x.Delta), sp.default_sort_key(y)),
    )
    lines = []
    for first in range(0, len(terms), TERMS_A_LINE):
        text = ""
        for term in terms[first : first + TERMS_A_LINE]:
            part = printer.doprint(term)
            signed = part.startswith("-") or (first == 0 and not text)
            text += part if signed else f" + {part}"
        lines.append(f"{name} &= {text}" if first == 0 else rf"&\quad {text}")
    return lines


def noise_text(noise: Noise, known: Iterable[Definition] = ()) -> list[str]:
    """Lines for a terminal."""
    batch = "" if noise.algorithm.batch_size == 1 else f" {noise.algorithm.batch_size}"
    state, steps = ("Q, M, a", "u, v, w") if noise.algorithm.trains_readout else ("Q, M", "u, v")
    names, shown = model_names(noise.model), printed(noise, known)
    rate = str(step_size(noise.algorithm)).replace("learning_rate", "γ")
    lines = [
        f"d({state}) = F dt + sqrt({rate}/(p d{batch})) Σ^(1/2) dB,  Σ = Cov[({steps})]  (Ito)"
    ]
    lines += [y for d in shown if d.role != "rate" for y in definition_text(d, names)]
    rates = [y for d in shown if d.role == "rate" for y in definition_text(d, names)]
    if rates:
        if noise.increments.displaced:
            lines.append("at s = |x|²/d the fields of a sample are displaced s times as much")
        parts = ", ".join(name.replace("_", " ") for name in noise.terms)
        lines += [f"F holds what a step adds at order 1/d ({parts}):", *rates]
    elif not noise.increments.terms:
        what = "inputs from clusters" if noise.increments.in_clusters else "repeated steps"
        lines.append(f"F is that of d → ∞: the terms of {what} at order 1/d are left out")
    lines.append(noise.approximation)
    return ["  " + line for line in lines]
