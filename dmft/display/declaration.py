"""What a document says around equations: what was declared, scaling, validity."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.equations.two_time.changes import whole_numbers
from dmft.equations.update.optimiser import step_size
from dmft.equations.views.declared import (
    assigned,
    functions_of,
    inputs_latex,
    step_of,
    unit_readouts,
    unit_widths,
)
from dmft.equations.views.latex import subject_of
from dmft.equations.views.laws import (
    THE_RISK,
    law_of_blocks,
    lengths_in_words,
    overlap_rows,
    risk_in_words,
)
from dmft.equations.views.paper_units import (
    CLOCK,
    SAAD_SOLLA,
    Subject,
    letters_of,
    outputs_are_sums,
    summed_numbers,
)
from dmft.equations.views.printer import EquationPrinter, Notation
from dmft.equations.views.token_outputs import TokenOutputs, declared_tokens, step_of_tokens
from dmft.explanation.latex import SPECIAL
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import FIELD
from dmft.model.loss import name_of
from dmft.names import LETTERS
from dmft.typeset.fragment import align, fitted

if TYPE_CHECKING:
    from dmft.model import Model

# Numbers of algorithms in words, and their letters where all samples are used again.
RATES = {
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "readout_rate": "rate of the readouts",
    "samples_per_dim": "samples per dimension",
    "ridge": "ridge",
}
UNSAID = {"readout_rate": 0, "batch_size": 1, "ridge": 0}
# The last words before equations that hold in a limit.
LIMIT = "concentrate on the solution of"
# What gradient descent computes its steps from.
BATCHES = {
    None: r"the same $n = \alpha d$ samples in each step",
    "fresh": r"$n = \alpha d$ fresh samples in each step",
}
DESCENT = {"learning_rate": r"\eta", "samples_per_dim": r"\alpha", "ridge": r"\lambda"}
# Words of a clock as mathematics.
WORDS = {
    "steps": "n",
    "learning_rate": r"\gamma",
    "gamma": r"\gamma",
    "eta": r"\eta",
    "infinity": r"\infty",
    "->": r"\to",
    " *": "",
    "!=": r"\neq",
    "diag": r"\mathrm{diag}",
    "Q_perp": r"Q^{\perp}",
    "T": r"\top",
    **{letter: letter for letter in ("n_b", *"tpkdnCKLMNPQXYz")},
}


def escape(text: str) -> str:
    """Return plain text as LaTeX, with its special characters escaped."""
    return "".join(SPECIAL.get(c, c) for c in text)


def summed(equations: Any, notation: Notation) -> bool:
    """Whether outputs are printed as sums, in the units of a paper."""
    return notation == SAAD_SOLLA and outputs_are_sums(subject_of(equations, notation))


def declaration(equations: Any, width: float, notation: Notation, body: str = "") -> str:
    """Networks, data, algorithm and clock of equations, with their declared numbers.

    `body` is the text of the equations, of which the indices are explained.
    """
    model, algorithm = equations.model, equations.algorithm
    printer = EquationPrinter({}, letters_of(notation))
    sums = summed(equations, notation)
    sequence = model.reads_sequences
    noisy = bool(getattr(equations, "noise", None))
    text = declared_tokens(model, printer, algorithm.loss == "squared", body) if sequence else ""
    text = text or _committee(model, printer, algorithm, sums, body)
    numbers = _numbers(model, printer)
    hidden = {"learning_rate"} if not algorithm.one_pass and equations.is_flow else {}
    rates = _rates(algorithm, printer, hidden)
    if sums:
        rate, *numbers = summed_numbers(subject_of(equations, notation), printer.letter)
        rates = [f"learning rate ${rate}$"]
    shown = f" Here {_joined([f'${y}$' for y in numbers])}." if numbers else ""
    if noisy:
        shown += (
            r" At finite $d$ the overlaps approximately follow a stochastic equation, whose drift "
            r"$F$ (with its part of order $1/d$) and covariance $\Sigma$ are those of the "
            r"increments in one step; $B_t$ is a standard Brownian motion."
        )
    free = sorted(s.name for s in model.parameters if s.name not in LETTERS)
    if free:
        of_target = sequence and not model.student.parameters
        which = "The target has the parameters" if of_target else "The parameters are"
        told = f" {which} {_joined([f'${sp.latex(sp.Symbol(y))}$' for y in free])}."
        text, shown = (text + told, shown) if sequence else (text, shown + told)
    updates = r"\psi" in body and not re.search(r"\\psi(_\{j\})? &=", body)
    step = step_of_tokens(model, algorithm) if sequence else step_of(equations, printer, updates)
    if step and algorithm.one_pass and algorithm.on_sphere and not sequence:
        step = f"{step[:-1]}{_rescaled(equations, printer, body)}."
    rule = _rule(equations, rates, printer, bool(step))
    if sequence and TokenOutputs(model).letter == "A":
        rule = rule.replace("(f - y)^2", r"\|A - y\|_F^2")
    if algorithm.one_pass and not algorithm.is_flow:
        velocity = " and velocity" * ("the velocity" in step)
        step += f" The initial weights{velocity} are independent of the samples."
    return fitted(f"{text}\n\n{rule}{step}{shown}\n\n{_clock(equations, notation)}", width)


def _rescaled(equations: Any, printer: EquationPrinter, body: str) -> str:
    """What follows an update on the sphere."""
    single = unit_widths(Subject(equations.model, (), equations.algorithm))[0]
    w = "w" if single else "w_j"
    fixed = re.search(r"\$Q[^$]* = (1|\\delta_\{[^}]*\})\$", body)
    length = rf"$\|{w}\|^2 = {printer.letter('dim')}$" if fixed else "its initial length"
    return f", then rescales ${w}$ to {length}"


def _joined(parts: Sequence[str]) -> str:
    """Parts of a sentence with commas, the last one after "and"."""
    *others, last = parts or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _committee(
    model: Model, printer: EquationPrinter, algorithm: Any, sums: bool, body: str
) -> str:
    """Networks of a committee, its labels and overlaps."""
    letter = printer.letter
    single = unit_widths(Subject(model, (), algorithm))
    p, k, d, y = (letter(n) for n in ("p", "k", "dim", "y"))
    rows = [
        letter(name).lower() if one else letter(name)
        for name, one in zip(("W", "W_star"), single, strict=True)
    ]
    units = [
        "" if one else f"${n}$ hidden units and " for n, one in zip((p, k), single, strict=True)
    ]
    units[1] = f"one hidden unit, output scale ${p}$ and " if sums and single[1] else units[1]
    target = f"of a teacher with {units[1]}weights"
    if model.teacher.activation is None:
        which = "the direction" if single[1] else f"${k} = {model.teacher.width}$ directions"
        target = f"that depend on {which}"
    learns = f"learns labels ${y}$"
    if model.label_clusters is not None:
        target = f"of Gaussian clusters with means along {which}"
        if all(label.is_number for label in model.label_clusters.labels or ()):
            learns, target = "is trained to classify inputs", f"drawn from {target[3:]}"
    about = (
        f"A student with {units[0]}weights ${rows[0]}$ {learns} {target} ${rows[1]}$ in ${d}$ "
        "dimensions,"
    )
    risk = "" if THE_RISK in body else risk_in_words(model, algorithm, printer, "The")
    risk += r" is the average over a fresh example." if risk else ""
    indices = _indices(model, algorithm, body, single)
    field = letter("h_star") if model.label_clusters is not None else ""
    which = "is the projection" if single[1] else "are the projections"
    along = f"The field ${field}$ {which} of ${letter('x')}$ on ${rows[1]}$."
    along = along if field and field in body else ""
    law = _law(model, printer, rows[1], body)
    shown = _outputs(model, printer, algorithm, sums, rows, body)
    overlaps = overlap_rows(model, rows, single, printer)
    formulas = align([*shown, *overlaps])
    if model.spectrum is not None and model.clusters is None:  # whose blocks overlaps refer to
        lead = rf"{law} The overlaps of the components ${rows[0]}_e$ and ${rows[1]}_e$ in block $e$"
        formulas, law = f"{align(shown)}\n{lead} are\n{align(overlaps)}", ""
    told: tuple[str, ...] = (law, along, indices, risk)
    # Said next to the definition of P, instead of after the equations.
    fixed = re.search(r"\$([PQT][^$=]* = )+(1|\\delta_\{[^}]*\})\$", body)
    told = (lengths_in_words(fixed.group(), rows, single, d) if fixed else "", *told)
    return "\n".join([about, formulas, " ".join(y for y in told if y)])


def _outputs(
    model: Model,
    printer: EquationPrinter,
    algorithm: Any,
    sums: bool,
    rows: Sequence[str],
    body: str,
) -> list[str]:
    """Rows that define the output and the label of the given weights."""
    letter, single = printer.letter, unit_widths(Subject(model, (), algorithm))
    d, x, y, h, h_star = (letter(n) for n in ("dim", "x", "y", "h", "h_star"))
    sigma, widths = letter("sigma"), (letter("p"), letter("k"))
    units = [sums or one for one in unit_readouts(model, algorithm)]

    def placed(name: str, index: str) -> str:
        base, hat, up = letter(name).partition("^")
        return f"{base}_{index}{hat}{up}"

    def output(number: int, function: str, names: tuple[str, str], mean: str) -> str:
        """The output of a network: of one unit, or a mean over several."""
        shown = [letter(n) if single[number] else placed(n, "jr"[number]) for n in names]
        unit = f"{function}({shown[0]})" if function else shown[0]
        unit = unit if units[number] else rf"{shown[1]}\,{unit}"
        total = rf"\sum_{{{'jr'[number]}=1}}^{{{widths[number]}}}"
        if single[number]:
            return rf"{mean}\, {unit}" if sums and mean else unit
        return f"{mean} {total} {unit}"

    dots = [r" \cdot" if one else "" for one in single]
    fields = [rf"\frac{{{w}{dot} {x}}}{{\sqrt{{{d}}}}}" for w, dot in zip(rows, dots, strict=True)]
    means = [rf"\frac{{1}}{{{n}}}" for n in widths]
    if sums:
        equal = model.student.width == model.teacher.width
        ratio = widths[0] if single[1] else rf"\frac{{{widths[0]}}}{{{widths[1]}}}"
        means = ["", "" if equal else ratio]
    label = f"{'g' if sigma != 'g' else 'G'}({h_star})"
    if model.teacher.activation is not None:
        over = sigma if model.matched else letter("teacher_sigma")
        over = "" if model.teacher.activation == FIELD else over
        label = output(1, over, ("h_star", "teacher_readout"), means[1])
    variance = letter("label_noise")
    root = variance.removesuffix("^2") if "^2" in variance else rf"\sqrt{{{variance}}}\,"
    label += f" + {root}{letter('noise')}" if model.label_noise != 0 else ""
    labels = [rf"{y} &= {label},\quad {h_star} = {fields[1]}"]
    if model.label_clusters is not None:
        labels = [rf"{h_star} &= {fields[1]}"] if h_star in body else []
    linear = model.student.activation == FIELD
    shown = output(0, "" if linear else sigma, ("h", "readout"), means[0])
    first = rf"f &= {shown}" + (" = " if shown == h else rf",\quad {h} = ") + fields[0]
    functions = [y.replace(" = ", " &= ", 1) for y in functions_of(model, printer)]
    return [first, *labels, *functions]


def _law(model: Model, printer: EquationPrinter, W_star: str, body: str) -> str:
    """The law of the inputs and of the noise."""
    x, y, xi, d = (printer.letter(n) for n in ("x", "y", "noise", "dim"))
    law = rf"The inputs are ${x} \sim \mathcal{{N}}(0, I_{{{d}}})$."
    if model.clusters is not None:
        mean = rf"\mu_c\, {W_star}" if W_star[0].islower() else rf"{{{W_star}}}^\top \mu_c"
        scale = "s_c " if (model.clusters.scales != 1).any() else ""
        names = [rf"means ${mean} / \sqrt{{{d}}}$"]
        names += [rf"covariances ${scale}I_{{{d}}}$"] * (model.clusters.fractions is None)
        names += [f"labels ${y}_c$"] * (model.clusters.labels is not None)
        given = _joined([f"${line}$" for line in inputs_latex(model.clusters)])
        law = (
            rf"The inputs are from Gaussian clusters $c$ with weights $\rho_c$, "
            rf"{_joined(names)}: {given}."
        )
    if model.spectrum is not None:
        plain = law_of_blocks(model, x, r"\nu" in body)
        law = f"{law} {law_of_blocks(model)}" if model.clusters else plain
    if model.label_noise != 0:
        law = rf"{law.removesuffix('.')} and ${xi} \sim \mathcal{{N}}(0, 1)$; the label noise has "
        law += f"variance ${printer.letter('label_noise')}$."
    return law


def are_single(model: Any, algorithm: Any) -> bool:
    """Whether one student of unit readout learns one teacher or direction."""
    single = all(getattr(n, "width", 0) == 1 for n in (model.student, model.teacher))
    return single and all(unit_readouts(model, algorithm))


def _indices(model: Model, algorithm: Any, body: str, single: tuple[bool, bool]) -> str:
    """What runs over what, of the indices that occur and of networks that are not single units."""
    units = ("jluv", "rs") if algorithm.one_pass else ("jlm", "rq")
    named = {"imn": "all of them"} if algorithm.one_pass and not all(single) else {}
    target = "the directions" if model.teacher.activation is None else "those of the teacher"
    networks = zip(units, ("the hidden units of the student", target), strict=True)
    named = {y: w for (y, w), one in zip(networks, single, strict=True) if not one} | named
    formulas = re.sub(r"\\text\{[^}]*\}|^[^&$]*$", "", body, flags=re.MULTILINE)
    told: list[str] = []
    for letters, words in named.items():
        found = [y for y in letters if re.search(rf"(?<![A-Za-z\\]){y}(?![A-Za-z_])", formulas)]
        if found:
            words = words if told else words.replace("those", "the hidden units")
            told.append(f"${', '.join(found)}${'' if told else ' run'} over {words}")
    return f"Indices {_joined(told)}." if told else ""


def _numbers(model: Any, printer: EquationPrinter) -> list[str]:
    """Declared numbers of a model."""
    found = []
    for network, readout in ((model.student, "readout"), (model.teacher, "teacher_readout")):
        values = getattr(network, "readout", None)
        if values is not None:
            shown = ", ".join(sp.latex(v) for v in values)
            found.append(rf"{printer.letter(readout)} = ({shown})")
    noise = getattr(model, "label_noise", 0)
    shown = sp.latex(sp.nsimplify(noise))
    line = assigned(printer.letter("label_noise"), shown)
    return [*found, line] if noise != 0 and "=" in line else found


def _rates(algorithm: Any, printer: EquationPrinter, hidden: Collection[str]) -> list[str]:
    """Declared numbers of an algorithm."""
    found = []
    for name, words in RATES.items():
        value = getattr(algorithm, name, None)
        if value is None or value == UNSAID.get(name) or name in hidden:
            continue
        letter = None if algorithm.one_pass else DESCENT.get(name)
        shown = sp.latex(whole_numbers(sp.sympify(value, strict=True)))
        found.append(f"{words} ${assigned(letter or printer.letter(name), shown)}$")
    rho = getattr(getattr(algorithm, "repeat", None), "rho", None)
    if rho is not None:
        found.append(rf"displacement $\rho = {sp.latex(sp.sympify(rho, strict=True))}$")
    return found


def _rule(equations: Any, rates: Sequence[str], printer: EquationPrinter, has_step: bool) -> str:
    """The algorithm, with its numbers, in a sentence; what a step is follows if it `has_step`."""
    algorithm = equations.algorithm
    if algorithm.is_flow:
        return "The weights follow the gradient flow of the population risk."
    numbers = f", with {_joined(rates)}" if rates else ""
    if not algorithm.one_pass:
        on = f"on {_loss(algorithm.loss, printer)}"
        if equations.is_flow:
            return rf"The weights follow the gradient flow {on} of $n = \alpha d$ samples{numbers}."
        samples = BATCHES.get(algorithm.batch, BATCHES[None].replace("same", "parts of the same"))
        name = "Gradient" if algorithm.batch else "Full-batch gradient"
        return f"{name} descent {on}, summed over samples, uses {samples}{numbers}."
    name = getattr(algorithm, "words", "One-pass stochastic gradient descent")
    # The update of an `UpdateField` is printed with its equations.
    on = (
        r" along the updates $\psi$"
        if algorithm.loss is None
        else f" on {_loss(algorithm.loss, printer)}"
    )
    if has_step:
        return f"The weights are trained by {name[0].lower()}{name[1:]}{on.rstrip(',')}{numbers}."
    one = getattr(algorithm, "batch_size", 0) == 1
    words = f"{name}{on} uses {'a fresh sample' if one else 'fresh samples'} in each step{numbers}"
    direction = getattr(algorithm, "direction", "")
    if direction:
        rate, width = (printer.letter(name) for name in ("learning_rate", "p"))
        root = r"\sqrt{d}" if are_single(equations.model, algorithm) else rf"({width}\sqrt{{d}})"
        words += f". In every coordinate a step is $-{rate}/{root}$ times {direction}"
    if algorithm.on_sphere:
        words += ", after which the weights are rescaled to their initial length"
    if algorithm.repeat is not None:
        words += "; each sample is used again, at weights that it has already moved"
    return f"{words}."


def _loss(loss: str | sp.Expr, printer: EquationPrinter) -> str:
    """A loss by its name and, but for the correlation loss, as a formula."""
    if isinstance(loss, str):
        y = printer.letter("y")
        known = {"squared": rf"\frac{{1}}{{2}} (f - {y})^2", "correlation": f"1 - {y} f"}
        return f"the {loss} loss" + (rf" $\ell = {known[loss]}$" if loss in known else "")
    name = name_of(loss).replace("huber", "Huber")
    y = printer.letter("y")
    own = EquationPrinter({}, {"y": y})

    def doprint(expr: sp.Basic) -> str:
        return str(own.doprint(expr)).replace(f"f {y}", f"{y} f")

    cases = loss.args if isinstance(loss, sp.Piecewise) else ((loss, sp.true),)
    shown = [f"${doprint(e)}$" + ("" if c == sp.true else f" for ${doprint(c)}$") for e, c in cases]
    shown[0] = shown[0].replace("$", r"$\ell = ", 1)
    words, formula = " ".join(["the", *([name] if name else []), "loss"]), " and ".join(shown)
    return f"{words}, {formula} otherwise," if len(cases) > 1 else f"{words} {formula}"


def _clock(equations: Any, notation: Notation) -> str:
    """Clock, limit and approximation."""
    if not equations.algorithm.one_pass:  # the rule says how many samples there are
        unit = r"the number of steps times $\eta$ as $\eta \to 0$"
        return f"Time is {unit}." if equations.is_flow else r"Time $t = 0, 1, \ldots$ counts steps."
    unit = CLOCK if summed(equations, notation) else equations.time_unit
    if getattr(equations.model.teacher, "width", 0) == 1:
        unit = str(unit).replace("K and M", "K")
    single = equations.model.family == "overlaps"
    if single and are_single(equations.model, equations.algorithm):
        unit = unit.replace("(p d)", "d").replace(", p, k", "").replace(" / p -> 0", " -> 0")
    elif single and getattr(equations.model.teacher, "width", 0) == 1:
        unit = unit.replace(", p, k", ", p")
    unit, _, slowed = str(unit).partition("; with ")  # a rate in place of the declared one
    clock, _, rest = unit.partition(";")
    steps = "steps of SGD, of which this is a limit," if equations.algorithm.is_flow else "steps"
    words = f"After $n$ {steps} the time is {_mathematical(clock)}"
    if slowed:
        rate = EquationPrinter({}, letters_of(notation)).doprint(step_size(equations.algorithm))
        words = words.replace(r"\gamma", rate)
    what = "alignments" if equations.model.reads_sequences else "overlaps"
    if what == "alignments" and not equations.algorithm.is_flow:
        rest = rest or "gamma of order one as d -> infinity"
    fixed, _, limit = rest.strip().partition(" of order one as ")
    if limit and not getattr(equations, "noise", None) and equations.kind == "ode":
        held = _joined([*map(_mathematical, fixed.replace(" and ", ", ").split(", "))])
        words += f". As {_mathematical(limit)} at fixed {held}, the {what} {LIMIT}"
    elif rest:
        words += f", {'with ' if limit else ''}{_mathematical(rest)}"
    if any(d.expr.has(TokenAverage) for d in getattr(equations, "definitions", ())):
        return f"{words}."  # these are not made for a sentence
    # How averages are computed is said where they are.
    space = getattr(equations, "space", None)
    claim = "" if space is None else space.approximation("exact", equations.error)
    claim = "" if claim in ("", "exact") else f"Approximation: {_mathematical(claim)}. "
    return f"{claim}{words}."


def _mathematical(text: str) -> str:
    """Words, what is mathematics in formulas: t = steps / d as d -> infinity."""
    parts, formula = list[str](), ""
    for word in [*text.split(), ""]:
        names = re.findall(r"[A-Za-z_]\w*", word)
        known = all(y in WORDS or re.fullmatch(r"[A-Za-z]_[a-z0-9]+", y) for y in names)
        ended = formula.endswith((",", ";", ":")) and formula.count("(") == formula.count(")")
        inside = word and known and (names or formula) and not ended
        if formula and not inside:
            whole = formula.rstrip(",;:.")
            whole = whole[: len(whole) - (whole.count(")") > whole.count("("))]
            shown = re.sub(
                r"([A-Za-z]_)([a-z0-9]+)|[A-Za-z]\w*|->|!=| \*",
                lambda m: WORDS.get(m.group(), f"{m.group(1)}{{{m.group(2)}}}"),
                whole,
            )
            # A limit stays in one line.
            shown = f"{{{shown}}}" if r"\to" in shown else shown
            parts.append(f"${shown}${formula[len(whole) :]}")
            formula = ""
            inside = bool(names) and known
        if inside:
            formula += f" {word}" if formula else word
        else:
            parts.append(escape(word))
    return " ".join(parts).strip()
