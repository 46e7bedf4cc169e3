"""Equations as LaTeX: the same object that is compiled, with its kernels below."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import lowered
from dmft.equations.definitions import Definition, define, mapped
from dmft.equations.views import closed, laws
from dmft.equations.views.declared import (
    declared_definitions,
    functions_latex,
    functions_of,
    inputs_latex,
    meanings_latex,
    unit_widths,
)
from dmft.equations.views.explicit_latex import closed_alone, special_functions
from dmft.equations.views.kernels import (
    KERNEL_OPERATIONS,
    kernels_latex,
    name_averages,
    token_rows,
    without_zeros,
)
from dmft.equations.views.networks import of_signs, sentence_of_signs
from dmft.equations.views.paper_units import (
    CLOCK,
    Subject,
    letters_of,
    outputs_are_sums,
    sentence,
)
from dmft.equations.views.printer import (
    EquationPrinter,
    Notation,
)
from dmft.equations.views.text import in_exponentials, model_names, printed_definitions
from dmft.equations.views.token_outputs import (
    OUTPUTS,
    alignments_of,
    in_one_line,
    law_of_tokens,
    rows_of_averages,
    token_outputs,
)
from dmft.equations.views.unit_sums import (
    in_all_clusters,
    in_fields_of_clusters,
    with_scaled_fields,
)
from dmft.errors import BadParameter
from dmft.gaussian.tables.tabled import PlacedAverage
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import Model, SequenceModel
from dmft.typeset.fragment import COLUMN, WHERE, align, fitted

if TYPE_CHECKING:
    from dmft.equations.noise.record import Fluctuations
    from dmft.equations.system import System

__all__ = ["EquationPrinter", "definition_latex", "equations_latex"]

NUMERICAL = "Averages that have no closed form are computed numerically."
# A comment in the source.
CLOSED = '% These averages have closed forms, which form="{}" prints.'
# Left-hand sides of rates, increments and drifts.
OF_RATES = re.compile(r"&|\\frac\{d |\\Delta |F_\{|d [^&]* &=")
# What observables beside the risk are.
OBSERVED = {x.loss: "expected loss", x.error_rate: "probability of a wrong sign"}
# Sentences about functions that equations contain.
WORDS = {
    r"\Theta\left(": r"$\Theta$ is the step function.",
    r"\delta\left(": r"$\delta$ is the Dirac delta function.",
    r"\Omega^{+}": r"$\Omega^{+}$ is the inverse of $\Omega$, or its pseudoinverse if $\Omega$ "
    r"is singular.",
}


@dataclass(frozen=True)
class Page:
    """How equations are printed: points in a line, and letters in place of ours (`letters_of`).

    `symbolic` keeps readouts, P, the noise and indices of single units as symbols; `kernels`
    ("auto", "all" or "none") selects averages that follow in closed form; `form` is "closed"
    (without averages), "structured" (sums of averages) or None, which takes the first where it is
    short. The equations have numbers unless there is a `star`.
    """

    width: float = COLUMN
    notation: Notation = None
    symbolic: bool = False
    kernels: str = "auto"
    form: str | None = None
    star: str = "*"

    def printer(self, names: Mapping[sp.Expr, str]) -> EquationPrinter:
        """Printer in this notation."""
        return EquationPrinter(names, letters_of(self.notation))


def subject_of(equations: System, notation: Notation = None) -> Subject:
    """What is printed of equations."""
    return Subject(
        equations.model,
        equations.definitions,
        equations.algorithm,
        equations.kind,
        bool(equations.noise),
        tuple(equations.space.closure_latex(equations.definitions)),
        equations.time_unit,
        notation,
    )


def closed_form(subject: Subject, page: Page) -> closed.ClosedSystem | None:
    """The closed form that a page shows; None where it shows averages."""
    if page.form not in (None, "closed", "structured"):
        raise BadParameter(f'form = {page.form!r} must be "closed", "structured" or None')
    if page.form == "structured" or (page.form is None and page.symbolic):
        return None
    longest = closed.LONGEST
    if getattr(subject.model, "clusters", None) is not None:
        longest = laws.LONGEST_OF_CLUSTERS
    system = closed.closed_system(subject, math.inf if page.form else longest)
    if page.form == "closed" and system is None:
        raise BadParameter(
            "these equations have no closed form in the overlaps; form='structured' prints them "
            "with averages"
        )
    return system if page.form or (system and system.operations <= longest) else None


def equations_latex(equations: System, page: Page) -> str:
    """LaTeX of equations, its lines broken for the page."""
    return subject_latex(subject_of(equations, page.notation), page, equations.noise)


def risk_latex(model: Model, definitions: tuple[Definition, ...], page: Page) -> str:
    """LaTeX of a population risk, closed or with its kernels."""
    return subject_latex(Subject(model, definitions, notation=page.notation), page)


def subject_latex(subject: Subject, page: Page, noise: Fluctuations | None = None) -> str:
    """LaTeX of definitions in the form of the page, with what it says around them."""
    if subject.model.reads_sequences and page.form != "closed":
        text = token_latex(subject, page)
        if text:
            return text
    drift = replace(subject, kind="ode", fluctuates=False) if noise and noise.closed else subject
    system = closed_form(drift, page)
    if system is not None:
        return closed_latex(subject, system, page, noise)
    return structured_latex(subject, page, noise)


def closed_latex(
    subject: Subject, system: closed.ClosedSystem, page: Page, noise: Fluctuations | None = None
) -> str:
    """LaTeX of a closed system, whose rates are the drift F of a stochastic equation with noise."""
    printer = page.printer(model_names(subject.model))
    functions = [*functions_of(subject.model, printer), *inputs_latex(subject.model.clusters)]
    functions += closed.fixed_values(system.notes, printer.letter, system)
    parts = clock(subject, page, printer)
    told = meanings_latex(subject, system.definitions, printer)
    system = noise.added_to(system) if noise else system
    rate = partial(rate_of, kind="sde" if noise else "ode")
    rows, named = closed.closed_rows(system, printer, rate)
    state = (
        printer.letter("M") if system.values else f"({printer.letter('Q')}, {printer.letter('M')})"
    )
    rows = [noise.process(printer, state), *rows] if noise else rows
    parts += observed_apart(rows, page, printer, named, _here([], told))
    parts += _here(functions)
    parts += special_functions([*rows, *named], [e for _, e, _ in system.rows], printer)
    return fitted("\n".join(part for part in parts if part), page.width)


def structured_latex(subject: Subject, page: Page, noise: Fluctuations | None) -> str:
    """LaTeX of definitions in sums of averages, with the closed forms of these."""
    model, sequences = subject.model, subject.model.reads_sequences
    printer = page.printer(model_names(model))
    if getattr(subject.algorithm, "repeat", None) is None:  # one output, of one gradient
        printer.letters = {"output_0": "f", "error_0": "e"} | printer.letters
    subject, increments = _with_increments(subject, noise)
    definitions, notes = subject.definitions, list[str]()
    whole = page.form is None and not page.symbolic and page.kernels != "all"
    at_once = laws.at_once(subject) if whole else None
    derived, printed = definitions, at_once or (laws.with_plain_risk(subject) if whole else ())
    subject = replace(subject, definitions=printed or definitions)
    if not page.symbolic:
        definitions, notes = declared_definitions(subject)
    definitions = plain = printed_definitions(definitions)
    if "P" in notes:
        definitions = plain = without_zeros(definitions)
    own = {d.name for d in increments}
    increments = tuple(d for d in definitions if d.name in own)
    told = meanings_latex(subject, [d for d in definitions if d.name not in own], printer)
    mixture = getattr(model, "clusters", None)
    clusters = None if page.symbolic or at_once else mixture
    if clusters is not None:
        definitions = with_scaled_fields(definitions, model)
    scaled = definitions != plain
    definitions = averaged = tuple(d for d in definitions if d.name not in own)
    if sequences:
        definitions = in_one_line(definitions)
    elif not (clusters is None or model.flips):
        definitions = in_all_clusters(definitions, clusters)
    elif not page.symbolic:
        definitions = of_signs(definitions, model)
    signed = len(definitions) > len(averaged)
    if isinstance(getattr(subject.algorithm, "loss", None), sp.Expr):
        definitions = tuple(mapped(d, in_exponentials) for d in definitions)
    single = all(unit_widths(subject)) and page.form is None and not (page.symbolic or sequences)
    alone, left = closed_alone((*definitions, *increments), single and clusters is None)
    lines, inner = closed.closed_rows(alone, printer, partial(rate_of, kind=subject.kind))
    written = {y[0]: line for y, line in zip(alone.rows, lines, strict=True)}
    left = tuple(d for d in left if d.name not in own)
    gone = {a for d in definitions for a in d.expr.atoms(Expectation)}
    gone = gone.difference(*(d.expr.atoms(Expectation) for d in left))
    averaged = tuple(mapped(d, dict.fromkeys(gone, sp.S.Zero)) for d in averaged)
    sentences, named = name_averages(left, printer)
    rows = system_latex(subject.kind, definitions, printer, written)
    rows = laws.risk_by_cluster(rows, model, printer) if at_once and mixture else rows
    functions = [] if sequences else functions_latex(model, printer)  # these are written out
    tokens = {a.args[:3]: a for d in left for a in d.expr.atoms(TokenAverage)}
    steps = noise.latex(printer, increments) if noise else []
    opening, excess = noise.opening(printer, increments) if noise and increments else ([], [])
    inner += [*excess, *subject.reduced]
    is_open = not alone.rows or any(d.expr.has(Expectation) for d in (*left, *increments))
    law = laws.law_latex((*left, *increments), printer, scaled) if is_open else []
    about = [
        *_here(closed.fixed_values(notes, printer.letter), told),
        *(laws.law_of_clusters(subject, mixture, printer) if at_once and mixture else law),
        *sentences,
        *(words for mark, words in WORDS.items() if mark in "".join([*opening, *rows, *inner])),
    ]
    parts = [
        *clock(subject, page, printer),
        *opening,
        *observed_apart(rows, page, printer, inner, about),
    ]
    kernels = averages_latex(derived if at_once else averaged, subject, page, printer, not at_once)
    closed_too = "".join(kernels)
    named = [y for y in named if page.kernels != "none" and f"{y} = " not in closed_too]
    parts += [
        align(named),
        align(functions + ([] if opening else steps)),
        *token_rows(tokens, printer),
        *kernels,
    ]
    text = in_fields_of_clusters("\n".join(part for part in parts if part))
    told = [words for mark, words in WORDS.items() if mark in text and words not in text]
    split = signed and "z_{1}" in "".join(kernels)
    told += [sentence_of_signs(y) for y in "fh" if split and f"y {y}" in text]
    told += special_functions([*lines, *inner], [e for _, e, _ in alone.rows], printer)
    text = _without_unread("\n".join([text, *told]), printer.letter("lambda"))
    return fitted(text, page.width)


def _with_increments(
    subject: Subject, noise: Fluctuations | None
) -> tuple[Subject, tuple[Definition, ...]]:
    """What is printed with the increments of a step, and the definitions of these."""
    definitions = subject.definitions
    increments = noise.printed(definitions) if noise else ()
    if not increments:
        return subject, ()
    small = {d.target: d.terms for d in increments if d.role == "rate"}
    definitions = tuple(  # the drift with its terms of order 1/d
        replace(d, terms=(*d.terms, *small.get(d.target, ()))) for d in definitions
    )
    increments = tuple(replace(d, role="sample") for d in increments if d.role != "rate")
    definitions += increments
    return replace(subject, definitions=definitions, fluctuates=False), increments


def _without_unread(text: str, letter: str) -> str:
    """Text without the letter of all fields where nothing reads it."""
    return text if text.count(letter) > 1 else text.replace(f"& {letter} = (", "& (")


def averages_latex(
    definitions: Sequence[Definition],
    subject: Subject,
    page: Page,
    printer: EquationPrinter,
    written: bool = True,
) -> list[str]:
    """Closed forms of averages, if `written`, or where they are; what is said on the others."""
    if page.kernels == "none":
        return []
    limit = KERNEL_OPERATIONS if page.kernels == "auto" else None
    every = [*lowered(definitions)]
    shown = [a for a in every if subject.algorithm is None or a.how != "nodes"]
    found = kernels_latex(shown, printer, limit) if written else []
    if len(shown) < len(every):
        return [*found, NUMERICAL]
    form = "closed" if all(unit_widths(subject)) else "structured"
    return found if written else [CLOSED.format(form)]


def token_latex(subject: Subject, page: Page) -> str:
    """LaTeX of a sequence model by averages of its outputs; empty where it has others."""
    model, definitions = cast("SequenceModel", subject.model), subject.definitions
    squared = getattr(subject.algorithm, "loss", "squared") == "squared"
    printer = page.printer({})
    if not page.symbolic:
        definitions, _ = declared_definitions(subject)
    outputs = None if subject.fluctuates else token_outputs(model, definitions, squared)
    if outputs is None:
        return ""
    averaged = {x.update_square, x.jacobian_square, x.risk, x.overlap}
    averaged |= {x.slope_of(s) for s in alignments_of(model)}
    plain = in_one_line([d for d in definitions if d.target not in averaged])
    rows = system_latex(subject.kind, plain, printer)
    rates = next((n for n, y in enumerate(rows) if not OF_RATES.match(y)), len(rows))
    named = [*rows[rates:], *rows_of_averages(outputs, definitions, printer)]
    parts = [
        *clock(subject, page, printer),
        *([align(rows[:rates], page.star), WHERE] if rates else []),
        align(named),
        law_of_tokens(model, printer),
        OUTPUTS,
        align(outputs.functions(printer.letters)),
    ]
    return fitted("\n".join(parts), page.width)


def clock(subject: Subject, page: Page, printer: EquationPrinter) -> list[str]:
    """The time unit as a comment, and a sentence where units are those of a paper."""
    if not page.symbolic and outputs_are_sums(subject):
        return ["% " + CLOCK, sentence(subject, printer.letter)]
    return [f"% {subject.time_unit}"] if subject.time_unit else []


def sequence_risk_latex(model: SequenceModel, risk: sp.Expr, page: Page) -> str:
    """LaTeX of the risk of a sequence model, its averages over tokens named below."""
    definition = define(x.risk, {"risk": risk}, "observable")
    text = token_latex(Subject(model, (definition,)), page)
    if text:
        return text
    printer = page.printer({})
    inside = ", ".join(printer.doprint(s) for s in alignments_of(model))
    sign = r"\approx" if risk.has(PlacedAverage) else "="
    rows = [f"{printer.letter('risk')}({inside}) &{sign} {printer.doprint(risk)}"]
    found = {a.args[:3]: a for a in risk.atoms(TokenAverage)}
    return fitted("\n".join([align(rows), *token_rows(found, printer)]), page.width)


def system_latex(
    kind: str,
    definitions: Sequence[Definition],
    printer: EquationPrinter,
    written: Mapping[sp.Expr, str] = MappingProxyType({}),
) -> list[str]:
    """Rows of the rates, of what they are computed from, and of what is observed.

    Closed forms are `written` already.
    """
    roles = ("rate", "intermediate", "sample", "observable")
    ordered = sorted((d for d in definitions if d.role in roles), key=lambda d: roles.index(d.role))
    rows = (
        [written[d.target]] if d.target in written else definition_latex(d, printer, kind)
        for d in ordered
    )
    return [*chain(*rows)]


def observed_apart(
    rows: Sequence[str],
    page: Page,
    printer: EquationPrinter,
    named: Sequence[str] = (),
    about: Sequence[str] = (),
) -> list[str]:
    """Align environments of the equations and of the observables, with a sentence in between.

    Of what is named in them, `named`, each is defined after where it is first used; what is said
    `about` averages and letters follows the equations.
    """
    head = f"{printer.letter('risk')} &="
    place = next((n for n, row in enumerate(rows) if row.startswith(head)), 0)
    end = place or len(rows)
    rates = next((n for n, y in enumerate(rows[:end]) if n and not OF_RATES.match(y)), end)
    early, late = list[str](), [*named]
    for _ in named if place else ():
        told = "".join([*rows[:place], *early])
        early += [y for y in late if y.startswith("&") or y.split(" &")[0] in told]
        late = [y for y in late if y not in early]
    if place == 0:
        early, late = late, []
    early, late = ([WHERE, align(y)] if y else [] for y in ([*rows[rates:end], *early], late))
    if place == 0:
        return [align(rows[:rates], page.star), *early, *about]
    alone = all(row.startswith("&") for row in rows[place + 1 :])
    starts = {row.split(" ")[0] for row in rows}
    shown = {printer.doprint(s): told for s, told in OBSERVED.items()}
    late += _here([], [f"${y}$ is the {told}" for y, told in shown.items() if y in starts])
    letter = only_rate("\n".join(rows[:place]))
    within = f"In terms of ${letter}$" if letter else "In these order parameters"
    words = f"{within} the risk is" if alone else "The observables are"
    equations, risk = (align(y, page.star) for y in (rows[:rates], rows[place:]))
    return [equations, *early, *about, words, risk, *late]


def only_rate(text: str) -> str:
    """The letter of which the equations of motion are; empty where there are several."""
    letters = re.findall(r"^\\frac\{d (.+?)\}\{dt\} &", text, re.MULTILINE)
    return letters[0] if len(letters) == 1 and "_" not in letters[0] else ""


def _here(formulas: Sequence[str], told: Sequence[str] = ()) -> list[str]:
    """A sentence that states what letters are, and formulas."""
    parts = [*told, *(f"${y}$" for y in formulas)]
    return [f"Here {', '.join(parts)}."] if parts else []


def rate_of(target: str, kind: str) -> str:
    """The rate of a block in equations of a kind: a derivative, an increment, a drift."""
    heads = {"map": rf"\Delta {target}", "sde": f"F_{{{target}}}"}
    return heads.get(kind, rf"\frac{{d {target}}}{{dt}}")


def definition_latex(
    definition: Definition, printer: EquationPrinter, kind: str = "ode"
) -> list[str]:
    """Lines of an align environment, one for each named term."""
    target = printer.doprint(definition.target)
    if definition.role == "rate":
        target = rate_of(target, kind)
    lines: list[str] = []
    sign = r"\approx" if definition.expr.has(PlacedAverage) else "="
    if definition.name == "S_update" and not definition.expr.has(x.psi):
        update = (x.psi[i] for i in definition.target.indices)
        sign = f"= {printer.doprint(Expectation(*update))} ="
    for number, (name, expr) in enumerate(definition.terms):
        text = printer.doprint(expr)
        if number == 0:
            lines.append(f"{target} &{sign} {text}")
        else:
            lines.append(r"&\quad " + (text if text.startswith("- ") else f"+ {text}"))
        if len(definition.terms) > 1:
            lines[-1] += rf" && \text{{({words_of(name)})}}"
    return lines or [f"{target} &= 0"]


def words_of(name: str) -> str:
    """Name of a term as a label."""
    return re.sub(r"\bsgd\b", "SGD", name.replace("_", " "))
