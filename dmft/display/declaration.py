"""What a document says around equations: what was declared, scaling, validity, sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.equations.two_time.changes import whole_numbers
from dmft.equations.update.optimiser import step_size
from dmft.equations.views.declared import unit_readouts
from dmft.equations.views.latex import assigned, functions_of, subject_of
from dmft.equations.views.paper_units import CLOCK, SAAD_SOLLA, outputs_are_sums, summed_numbers
from dmft.equations.views.printer import EquationPrinter, Notation, letters_of
from dmft.equations.views.token_outputs import TABLE_ERROR
from dmft.explanation.latex import SPECIAL, escaped
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import GradientDescent, SequenceModel
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
UNSAID = {"readout_rate": 0, "batch_size": 1}
DESCENT = {"learning_rate": r"\eta", "samples_per_dim": r"\alpha", "ridge": r"\lambda"}
# Words of a clock as mathematics.
WORDS = {
    "learning_rate": r"\gamma",
    "gamma": r"\gamma",
    "eta": r"\eta",
    "alpha": r"\alpha",
    "infinity": r"\infty",
    "->": r"\to",
    "n_b": "n_b",
    **{letter: letter for letter in "tpkdnLTKMN"},
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
    text = _sequence(model) if sequence else _committee(model, printer, algorithm, sums, body)
    numbers = [f"${y}$" for y in _numbers(model, printer)]
    rates = [f"learning rate ${printer.letter('learning_rate')}$"]
    rates = rates if sums else _rates(algorithm, printer)
    if not sequence and are_single(model, algorithm):
        numbers = numbers[2:]  # the widths
    if sums:
        declared = summed_numbers(subject_of(equations, notation), printer.letter)
        numbers = [f"${y}$" for y in declared]
    shown = f" Here {_joined(numbers)}." if numbers else ""
    if noisy:
        shown += " $B_t$ is a standard Brownian motion."
    free = sorted(s.name for s in model.parameters if s.name not in LETTERS)
    if free:
        shown += f" Parameters: {', '.join(f'${sp.latex(sp.Symbol(y))}$' for y in free)}."
    rule = f"{_rule(algorithm, rates, printer)}{shown} {_clock(equations, notation)}"
    return fitted(f"{text}\n{rule}", width)


def _joined(parts: Sequence[str]) -> str:
    """Parts of a sentence with commas, the last one after "and"."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def _committee(
    model: Model, printer: EquationPrinter, algorithm: Any, sums: bool, body: str
) -> str:
    """Networks of a committee, its labels and overlaps."""
    letter, single = printer.letter, are_single(model, algorithm)
    p, k, d, y = (letter(n) for n in ("p", "k", "dim", "y"))
    W, W_star = letter("W"), letter("W_star")
    if single:
        W, W_star = W.lower(), W_star.lower()
    units, others = ("", "") if single else (f"${n}$ hidden units and " for n in (p, k))
    target = f"of a teacher with {others}weights"
    if model.teacher.activation is None:
        target = f"of ${k}$ directions"
    about = (
        f"A student with {units}weights ${W}$ learns labels ${y}$ {target} ${W_star}$ in ${d}$ "
        "dimensions,"
    )
    floor = f" - {letter('label_noise')}/2" if model.label_noise != 0 else ""
    risk = (
        rf"The population risk is ${letter('risk')} = \frac{{1}}{{2}} \langle (f - {y})^2 \rangle"
        rf"{floor}$, an average over new examples."
    )
    indices = "" if single else _indices(algorithm, body)
    told = (_law(model, printer, W_star), indices, risk)
    formulas = align(_outputs(model, printer, algorithm, sums, (W, W_star)))
    return "\n".join([about, formulas, " ".join(y for y in told if y)])


def _outputs(
    model: Model, printer: EquationPrinter, algorithm: Any, sums: bool, rows: tuple[str, ...]
) -> list[str]:
    """Rows that define the output, the label and the overlaps of the given weights."""
    letter, single = printer.letter, are_single(model, algorithm)
    p, k, d, a, star = (letter(n) for n in ("p", "k", "dim", "readout", "teacher_readout"))
    h, h_star, sigma, x, y = (letter(n) for n in ("h", "h_star", "sigma", "x", "y"))
    over = sigma if model.matched else letter("teacher_sigma")
    base, hat, up = h_star.partition("^")
    field = f"{base}_r{hat}{up}"

    def gram(one: str, two: str) -> str:
        if not single:
            return rf"{one} {two}^\top"
        return rf"\|{one}\|^2" if one == two else rf"{one} \cdot {two}"

    dot = r" \cdot" if single else ""
    fields = [rf"\frac{{{row}{dot} {x}}}{{\sqrt{{{d}}}}}" for row in rows]
    put_in = [sums or (algorithm.one_pass and y) for y in unit_readouts(model, algorithm)]
    one_student, one_teacher = (
        single or (one and getattr(network, "width", 0) == 1)
        for one, network in zip(put_in, (model.student, model.teacher), strict=True)
    )
    mean = "" if sums else rf"\frac{{1}}{{{p}}}"
    unit = f"{sigma}({h}_j)" if put_in[0] else rf"{a}_j\,{sigma}({h}_j)"
    output = f"{sigma}({h})" if one_student else rf"{mean} \sum_{{j=1}}^{{{p}}} {unit}"
    label = f"{'g' if sigma != 'g' else 'G'}({h_star})"
    if model.teacher.activation is not None:
        readout = star.replace("^", "_r^") if "^" in star else f"{star}_r"
        front = rf"\frac{{1}}{{{k}}}"
        unit = f"{over}({field})" if put_in[1] else rf"{readout}\,{over}({field})"
        if sums:
            equal = model.student.width == model.teacher.width
            front = "" if equal else rf"\frac{{{p}}}{{{k}}}"
        label = f"{over}({h_star})" if one_teacher else rf"{front} \sum_{{r=1}}^{{{k}}} {unit}"
    variance = letter("label_noise")
    root = variance.removesuffix("^2") if "^2" in variance else rf"\sqrt{{{variance}}}\,"
    label += f" + {root}{letter('noise')}" if model.label_noise != 0 else ""
    labels = [] if model.teacher.activation is None and model.clusters is not None else [
        rf"{y} &= {label},\quad {h_star} = {fields[1]}"
    ]  # fmt: skip
    overlaps = [
        rf"{letter(name)} {sign} \frac{{{gram(rows[one], rows[two])}}}{{{d}}}"
        for name, sign, one, two in (("Q", "&=", 0, 0), ("M", "=", 0, 1), ("P", "=", 1, 1))
    ]
    return [rf"f &= {output},\quad {h} = {fields[0]}", *labels, ",\\quad ".join(overlaps)]


def _law(model: Model, printer: EquationPrinter, W_star: str) -> str:
    """Activations and the law of the inputs and of the noise."""
    x, y, xi, d = (printer.letter(n) for n in ("x", "y", "noise", "dim"))
    functions = _joined([f"${line}$" for line in functions_of(model, printer)])
    law = rf"Here {functions}. The inputs are ${x} \sim \mathcal{{N}}(0, I_{{{d}}})$."
    if model.clusters is not None:
        law = (
            r"Inputs from a mixture of Gaussian clusters $c$; their weights $\rho_c$, the overlaps "
            rf"$\mu_c$ of their means with the rows of ${W_star}$, and their labels ${y}_c$ are "
            "given below."
        )
    if model.spectrum is not None and model.clusters is not None:
        law += (
            rf" Within cluster $z$ they have the variances $c_{{ze}}$ in $B = {model.blocks}$ "
            r"blocks that hold the fractions $\phi_e$ of the coordinates; overlaps with the index "
            r"$e$ are those of the rows within a block, not weighted by variances."
        )
    elif model.spectrum is not None:
        law = (
            rf"Here {functions}. The inputs are ${x} \sim \mathcal{{N}}(0, \Sigma)$ with "
            rf"$B = {model.spectrum.blocks}$ "
            r"blocks of eigenvalues $c_e$ and noise factors $\nu_e$; overlaps with the index $e$ "
            r"are those of the rows within a block, not weighted by $c_e$."
        )
    if model.label_noise != 0:
        law = rf"{law.removesuffix('.')} and ${xi} \sim \mathcal{{N}}(0, 1)$; the label noise has "
        law += f"the variance ${printer.letter('label_noise')}$."
    return law


def are_single(model: Any, algorithm: Any) -> bool:
    """Whether one student of unit readout learns one teacher, in one pass over Gaussian inputs."""
    single = all(getattr(n, "width", 0) == 1 for n in (model.student, model.teacher))
    plain = algorithm.one_pass and model.inputs is None
    return single and plain and all(unit_readouts(model, algorithm))


def _indices(algorithm: Any, body: str) -> str:
    """What runs over what, of the indices that occur."""
    named = {"jluv": "the hidden units of the student", "rs": "those of the teacher"}
    if algorithm.one_pass:
        named["imn"] = "all of them"
    else:
        named = {"jlm": named["jluv"], "rq": named["rs"], "tsu": "the steps"}
    formulas = re.sub(r"\\text\{[^}]*\}|^[^&$]*$", "", body, flags=re.MULTILINE)
    told: list[str] = []
    for letters, words in named.items():
        found = [y for y in letters if re.search(rf"(?<![A-Za-z\\]){y}(?![A-Za-z_])", formulas)]
        if found:
            words = words if told else words.replace("those", "the hidden units")
            told.append(f"${', '.join(found)}${'' if told else ' run'} over {words}")
    return f"Indices {_joined(told)}." if told else ""


def _sequence(model: SequenceModel) -> str:
    """Networks of a sequence model."""
    return (
        rf"Sequences of $L = {model.length}$ "
        r"tokens $x_l \sim \mathcal{N}(0, I_d)$ with positional vectors $p_l$; "
        r"fields $h_l = w \cdot (x_l + p_l)/\sqrt{d}$ of the student and "
        r"$h^*_l = w_* \cdot x_l/\sqrt{d}$ of the target, "
        r"$|w|^2 = |w_*|^2 = d$. Alignments $m$ with the target and, where there are positions, "
        r"$e$ with them; $\mathcal{L}$ is the expected loss, $\mathcal{R}$ the population risk."
    )


def _numbers(model: Any, printer: EquationPrinter) -> list[str]:
    """Declared numbers of a model."""
    found = []
    for network, width, readout in (
        (model.student, "p", "readout"),
        (model.teacher, "k", "teacher_readout"),
    ):
        size = getattr(network, "width", None)
        if size is not None and getattr(size, "is_number", True):
            found.append(f"{printer.letter(width)} = {size}")
        values = getattr(network, "readout", None)
        if values is not None:
            shown = ", ".join(sp.latex(v) for v in values)
            found.append(rf"{printer.letter(readout)} = ({shown})")
    noise = getattr(model, "label_noise", 0)
    shown = sp.latex(sp.nsimplify(noise))
    line = assigned(printer.letter("label_noise"), shown)
    return [*found, line] if noise != 0 and "=" in line else found


def _rates(algorithm: Any, printer: EquationPrinter) -> list[str]:
    """Declared numbers of an algorithm."""
    found = []
    for name, words in RATES.items():
        value = getattr(algorithm, name, None)
        if value is None or value == UNSAID.get(name):
            continue
        letter = None if algorithm.one_pass else DESCENT.get(name)
        shown = sp.latex(whole_numbers(sp.sympify(value, strict=True)))
        found.append(f"{words} ${assigned(letter or printer.letter(name), shown)}$")
    rho = getattr(getattr(algorithm, "repeat", None), "rho", None)
    if rho is not None:
        found.append(rf"displacement $\rho = {sp.latex(sp.sympify(rho, strict=True))}$")
    return found


def _rule(algorithm: Any, rates: Sequence[str], printer: EquationPrinter) -> str:
    """The algorithm, with its numbers, in a sentence."""
    if algorithm.is_flow:
        return "The weights follow the gradient flow of the population risk."
    numbers = f", with {_joined(rates)}" if rates else ""
    if not algorithm.one_pass:
        return f"Gradient descent uses all samples of a fixed set in every step{numbers}."
    name = getattr(algorithm, "words", "One-pass stochastic gradient descent")
    # The update of an `UpdateField` is printed with its equations.
    on = (
        r" along the updates $\psi$"
        if algorithm.loss is None
        else f" on {_loss(algorithm.loss, printer)}"
    )
    one = getattr(algorithm, "batch_size", 0) == 1
    words = f"{name}{on} uses {'a fresh sample' if one else 'fresh samples'} in each step{numbers}"
    if algorithm.on_sphere:
        words += ", after which the weights are scaled back to their length"
    if algorithm.repeat is not None:
        words += "; a sample is used again at weights that it has moved"
    return f"{words}."


def _loss(loss: str | sp.Expr, printer: EquationPrinter) -> str:
    """A loss by its name and, but for the correlation loss, as a formula."""
    if isinstance(loss, str):
        square = rf" $\frac{{1}}{{2}} (f - {printer.letter('y')})^2$"
        return f"the {loss} loss" + (square if loss == "squared" else "")
    name = name_of(loss).replace("huber", "Huber")
    doprint = EquationPrinter({}).doprint
    cases = loss.args if isinstance(loss, sp.Piecewise) else ((loss, sp.true),)
    shown = [f"${doprint(e)}$" + ("" if c == sp.true else f" for ${doprint(c)}$") for e, c in cases]
    return " ".join(["the", *([name] if name else []), "loss", " and ".join(shown)]) + (
        " otherwise" if len(cases) > 1 else ""
    )


def _clock(equations: Any, notation: Notation) -> str:
    """Clock, limit and approximation."""
    unit = CLOCK if summed(equations, notation) else equations.time_unit
    single = equations.model.family == "overlaps"
    if single and are_single(equations.model, equations.algorithm):
        unit = unit.replace("(p d)", "d").replace(", p, k", "").replace(" / p -> 0", " -> 0")
    unit, _, slowed = str(unit).partition("; with ")  # a rate in place of the declared one
    clock, _, rest = unit.partition(";")
    words = f"Time is {_mathematical(clock)}"
    if r"\text{steps}" in words and equations.algorithm.one_pass:
        words = words.replace("Time is", "After $n$ steps the time is")
        words = re.sub(r"\\text\{steps\}( \\,)?", "n", words)
    if slowed:
        rate = EquationPrinter({}, letters_of(notation)).doprint(step_size(equations.algorithm))
        words = words.replace(r"\gamma", rate)
    words += f", {'with ' if ' of order ' in rest else ''}{_mathematical(rest)}" if rest else ""
    definitions = getattr(equations, "definitions", ())
    if any(d.expr.has(TokenAverage) for d in definitions):  # which are not made for a sentence
        return f"{words}. Averages are interpolated in tables, with an error below ${TABLE_ERROR}$."
    approximation = getattr(equations, "approximation", "exact")
    claim = "" if approximation in ("", "exact") else f" Averages: {escaped(approximation)}."
    return f"{words}.{claim}"


def _mathematical(clock: str) -> str:
    """Words of a clock, its symbols in formulas."""
    if ", that is " in clock:
        return ", that is ".join(_mathematical(one) for one in clock.split(", that is "))
    clock, _, limits = clock.partition(" as ")
    if "->" in limits and " = " in clock:
        limits = re.sub(r"[\w>-]+", lambda m: WORDS.get(m.group(), m.group()), limits)
        parts = limits.split(" and ")
        return f"{_mathematical(clock)} as " + " and ".join(f"${y}$" for y in parts)
    clock += f" as {limits}" if limits else ""
    match = re.fullmatch(r"([\w']+) = ([\w ()*/^]+)", clock.strip(" ,"))
    if match:
        right = re.sub(r"\b(steps|samples)\b", r"\\text{\1}", match.group(2))
        right = re.sub(r"\b(learning_rate|gamma|alpha)\b", lambda m: WORDS[m.group()], right)
        if not re.search(r"(?<![\\{])\b[a-z]{3,}\b(?!\})", re.sub(r"\\[a-z]+", "", right)):
            return f"${match.group(1)} = {right.replace('*', chr(92) + ',')}$"
    parts = []
    for word in clock.split():
        bare = word.strip(",.;()")
        shown = f"${WORDS[bare]}$" if bare in WORDS else escape(bare)
        parts.append(escape(word).replace(escape(bare), shown, 1) if bare else escape(word))
    # A limit stays in one line.
    return re.sub(r"\$(\w)\$ \$\\to\$ \$(.*?)\$", r"${\1 \\to \2}$", " ".join(parts))


def sources(record: Any) -> list[str]:
    """Bibliography keys of the papers that have equations of this kind."""
    model, algorithm = getattr(record, "model", None), getattr(record, "algorithm", None)
    if isinstance(model, SequenceModel):
        return ["arnaboldi_2025"]
    if isinstance(algorithm, GradientDescent):
        return ["dandi_2024_reusing"]
    if getattr(record, "kind", "") == "two-time":
        species = ["bunin_2017", "roy_2019"] if getattr(model, "positive", False) else []
        return ["sompolinsky_1988", "eissfeller_opper_1992", *species]
    found = ["saad_solla_1995", "goldt_2019", "arnaboldi_2023_odes"]
    if getattr(record, "kind", "") == "map":
        found.append("arnaboldi_2024")
    if getattr(algorithm, "repeat", None) is not None:
        found.append("arnaboldi_2024_repetita")
    if getattr(algorithm, "constraint", None):
        found.append("ben_arous_2021")
    return found
