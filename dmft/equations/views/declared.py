r"""Equations with the values that were declared: unit readouts, no noise, P = I, one unit.

For print alone. What is put in is told, and is exact at these values; runs read the equations as
they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, base_name, live, mapped, used_bases
from dmft.equations.symbols import BASE_LATEX, ONLY, ROW_LATEX, numbers
from dmft.equations.update.law import target
from dmft.equations.update.rates import definitions as rate_definitions
from dmft.equations.views.collected import summed
from dmft.equations.views.networks import (
    by_network,
    grams_of,
    in_overlaps,
    placed_field,
    put_in,
    with_gradients,
)
from dmft.equations.views.paper_units import Subject, gram, in_sums, outputs_are_sums
from dmft.equations.views.printer import EquationPrinter, KernelPrinter
from dmft.equations.views.unit_sums import without_deltas
from dmft.model import FIELD, SGD, GaussianMixture, GradientDescent, Model, Momentum, Spectrum
from dmft.model.algorithm import numbers_of
from dmft.names import BLOCK
from dmft.typeset.fragment import align

STUDENTS, TEACHERS = (x.j, x.l, x.u, x.v, x.row), (x.r, x.s, *x.powers)
# Bases whose first index runs over all fields.
OVER_ALL = frozenset({"lambda", "c", "Omega", "Gram", "output_covariance", "residual_covariance"})
# Intermediates with an index over all fields, which are written into the rates of single units.
OVER_FIELDS = frozenset(
    {"b_learning", "b_interaction", "b", "output_covariance", "residual_covariance"}
)
# Declarations of algorithms whose steps are plain gradients of a loss.
PLAIN: dict[str, Any] = {
    **{"batch_size": 1, "readout_rate": 0, "ridge": 0, "normalised": False},
    **dict.fromkeys(("batch", "repeat", "clip")),
}
# Indices of entries that number teachers.
OF_TEACHERS = {"h_star": {0}, "M": {1}, "P": {0, 1}}


def declared_definitions(
    subject: Subject, unit_teachers: bool = True
) -> tuple[tuple[Definition, ...], list[str]]:
    """Definitions at the declared values, and the names of these; P = I where `unit_teachers`."""
    definitions, model = with_noise(subject), subject.model
    values, notes = _values(subject, unit_teachers)
    definitions = tuple(mapped(d, partial(_put, values=values)) for d in definitions)
    definitions = by_network(with_gradients(_with_noise_in_square(definitions), model))
    if outputs_are_sums(subject):
        definitions = in_sums(definitions, bool(model.student.width == model.teacher.width))
    single, directions = unit_widths(subject), getattr(model.teacher, "activation", None) is None
    if any(single) or (directions and model.clusters is None):
        definitions = _of_single_units(definitions, *single)
        notes = ["one P" if name == "P" and single[1] else name for name in notes]
    zero = {d.name: sp.S.Zero for d in definitions if d.role == "intermediate" and d.expr == 0}
    same = {(d.name, d.expr) for d in definitions} & {("output_variance", x.Q[ONLY[0], ONLY[0]])}
    if same and single[0]:  # the output of a linear unit is its field
        definitions = tuple(mapped(d, {x.output: x.h[ONLY[0]]}) for d in definitions)
    means = {d.name: d for d in definitions if d.name.startswith("output_mean")}
    means = {name: d for name, d in means.items() if not d.expr.has(sp.Sum)}
    definitions = tuple(mapped(d, partial(put_in, inner=means)) for d in definitions)
    kept = (d for d in definitions if d.name not in zero | means)
    return live((mapped(d, partial(_put, values=zero)) for d in kept), _is_printed), notes


def _with_noise_in_square(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    """S as the second moment of psi with the label's noise, where its parts are read as a sum."""
    parts = [d for d in definitions if d.name in ("S_update", "S_label")]
    others = [d for d in definitions if d not in parts]
    entries = {e for d in others for e in d.expr.atoms(sp.Indexed) if e.base == x.S_update}
    less = {e: e - x.S_label[e.indices] for e in entries}
    if len(parts) < 2 or any(sp.expand(d.expr.xreplace(less)).has(x.S_label) for d in others):
        return tuple(definitions)
    whole = replace(parts[0], terms=parts[0].terms + parts[1].terms)
    return (whole, *(mapped(d, partial(_put, values={"S_label": sp.S.Zero})) for d in others))


def at_declared(expr: sp.Expr, subject: Subject, unit_teachers: bool = True) -> sp.Expr:
    """An expression in fields, readouts and overlaps as `declared_definitions` writes it."""
    plain = _put(expr, _values(subject, unit_teachers)[0])
    single = unit_widths(subject)
    return _Single(*single).collapsed(plain) if any(single) else plain


def unit_widths(subject: Subject) -> tuple[bool, bool]:
    """Whether there is one student, and one teacher."""
    student, teacher = subject.model.student, subject.model.teacher
    known = getattr(teacher, "activation", None) is not None or subject.model.clusters is not None
    one_student = getattr(student, "width", None) == 1
    return one_student, getattr(teacher, "width", None) == 1 and known


def update_of_loss(subject: Subject) -> str:
    """The update field of a sample by its loss, in print."""
    return rf"${update_with('h', unit_widths(subject)[0])}$ for the loss $\ell$"


def update_with(h: str, single: bool) -> str:
    """The update field as a derivative of the loss by a field."""
    slope = rf"\partial \ell / \partial {h}"
    return rf"\psi = -{slope}" if single else rf"\psi_j = -p\, {slope}_j"


def step_of(equations: Any, printer: EquationPrinter, updates: bool) -> str:
    """The update of the weights in a step, where it is a plain gradient; by `updates` psi."""
    algorithm, letter = equations.algorithm, printer.letter
    subject = Subject(equations.model, tuple(equations.definitions), algorithm)
    heavies = {n: y for n, y in vars(algorithm).items() if isinstance(y, Momentum)}
    heavy = next(iter(heavies.values()), None)
    algorithm = replace(algorithm, **dict.fromkeys(heavies, 0)) if heavies else algorithm
    changed = any(getattr(algorithm, y, value) != value for y, value in PLAIN.items())
    plain = type(algorithm) in (SGD, GradientDescent) and not numbers_of(algorithm)
    if changed or not plain or equations.kind == "map" or getattr(equations, "is_flow", False):
        return ""
    h, W, x, d, rate = (letter(y) for y in ("h", "W", "x", "dim", "learning_rate"))
    single = unit_widths(subject)[0]
    unit, share, mark, total = "" if single else "_j", "", "", ""
    w = ("w" if W == "W" else W) + unit
    field = h if single else f"{{{h}_j}}"
    slope, sign, told = rf"(\partial_{field} \ell)", "-", ""
    if not algorithm.one_pass:
        rate, mark, total = r"\eta", r"^\mu", r"\sum_{\mu=1}^{n} "
        slope = rf"\frac{{\partial \ell^\mu}}{{\partial {h}{unit}^\mu}}"
    elif updates:
        told = f", with ${update_with(h, single)}$"
        share, sign, slope = "" if single else letter("p"), "+", rf"\psi{unit}"
    if heavy:
        front = rf"{sign.strip('+')}\frac{{{rate}}}{{{share}\sqrt{{{d}}}}}"
        direct = rf"\alpha_1 G{unit} + " if heavy.direct != 0 else ""
        number = d if single else rf"({letter('p')} {d})"
        kappa = printer.doprint(heavy.rate)
        here = "" if kappa == r"\kappa" else rf" (here $\kappa = {kappa}$)"
        step = [
            rf"G{unit} &= {front} {slope} \, {x}",
            rf"u{unit} &\leftarrow (1 - \kappa {rate}/{number}) u{unit} + \kappa G{unit}",
            rf"{w} &\leftarrow {w} + {direct}({rate}/{number}) u{unit}",
        ]
        overlaps = overlaps_of("velocity", subject, printer)
        return (
            " Each step draws a fresh sample and updates the velocity $u$ and the weights"
            f"{told},\n{align(step)}\nwhere $\\kappa$ is the rate of the velocity{here}, which has "
            f"the overlaps\n{align([y.strip('$').replace('=', '&=') for y in overlaps])}\n"
        )
    front = rf"\frac{{{rate}}}{{{share}\sqrt{{{d}}}}} {total}"
    update = rf"${w} \leftarrow {w} {sign} {front}{slope} \, {x}{mark}$"
    if not algorithm.one_pass:
        return rf" With the loss $\ell^\mu$ of sample $\mu$, a step is {update}."
    rows = "" if single else f" for the rows ${w}$ of ${W}$"
    return f" Each step draws a fresh sample and updates {update}{rows}{told}."


def with_noise(subject: Subject) -> tuple[Definition, ...]:
    """Definitions with the label's noise in the update field, where its average is written out."""
    shown, algorithm = subject.definitions, subject.algorithm
    means = (d for d in shown if d.role == "sample" and d.expr.has(x.Delta))
    if all(d.expr.has(x.xi) for d in means) or subject.fluctuates:
        return shown
    kept = {d.target: {name for name, _ in d.terms} for d in shown}
    names = set().union(*kept.values())
    plain = rate_definitions(subject.model, algorithm, "sgd_noise" in names, averaged=False)
    outer = [d for d in plain if d.role in ("rate", "observable")]
    if not all(d.target in kept for d in outer) or names - {n for d in plain for n, _ in d.terms}:
        return shown  # changed by hand
    left = {d.target: tuple((n, e) for n, e in d.terms if n in kept[d.target]) for d in outer}
    return live(replace(d, terms=left.get(d.target, d.terms)) for d in plain)


def unit_readouts(model: Any, algorithm: Any) -> tuple[bool, bool]:
    """Whether the readouts of the students, and of the teachers, are one and stay so."""
    student, teacher = (getattr(n, "readout", 0) is None for n in (model.student, model.teacher))
    return student and getattr(algorithm, "readout_rate", 0) == 0, teacher


def _values(subject: Subject, unit_teachers: bool) -> tuple[dict[Any, sp.Expr], list[str]]:
    """What is put for symbols and for bases of arrays, and the names that a sentence states."""
    model = subject.model
    student, teacher = unit_readouts(model, subject.algorithm)
    units = {"readout": student, "teacher_readout": teacher}
    values: dict[Any, sp.Expr] = {name: sp.S.One for name, one in units.items() if one}
    noiseless = getattr(model, "label_noise", None) == 0
    used = {
        name
        for d in subject.definitions
        for _, e in d.terms
        if not noiseless or e.xreplace({x.Delta: sp.S.Zero}) != 0
        for name in _bases(e)
    }
    notes = []
    if noiseless:
        values[x.Delta] = sp.S.Zero
        if any(x.Delta in d.expr.free_symbols for d in subject.definitions):
            notes.append("label_noise")
    if getattr(model, "inputs", None) is None and "P" in used and unit_teachers:
        values["P"] = sp.S.One  # a Kronecker delta, made below
        notes.append("P")
    return values, notes


def _is_printed(d: Definition) -> bool:
    """Whether a definition is printed where nothing reads it: no Gram matrices of kept rows."""
    return not (d.role == "intermediate" or d.name.startswith("Gram_"))


def _bases(expr: sp.Expr) -> set[str]:
    return {base_name(e) for e in expr.atoms(sp.Indexed)}


def _put(expr: sp.Expr, values: Mapping[Any, sp.Expr]) -> sp.Expr:
    """An expression with values for symbols and for bases of arrays."""
    table: dict[sp.Expr, sp.Expr] = {s: v for s, v in values.items() if isinstance(s, sp.Symbol)}
    for entry in expr.atoms(sp.Indexed):
        name = base_name(entry)
        if name == "P" and name in values:
            table[entry] = sp.KroneckerDelta(*entry.indices)
        elif name in values:
            table[entry] = values[name]
    return expr.xreplace(table) if table else expr


# Single units ---------------------------------------------------------------------------------


def _of_single_units(
    definitions: Sequence[Definition], student: bool, teacher: bool
) -> tuple[Definition, ...]:
    """One student or one teacher: their indices and sums disappear, averages stand in the rates."""
    inner = {d.name: d for d in definitions if d.name in OVER_FIELDS}
    grams, single = grams_of(definitions), _Single(student, teacher)

    def rewritten(expr: sp.Expr) -> sp.Expr:
        return single.collapsed(in_overlaps(put_in(expr, inner), grams))

    found = []
    for d in definitions:
        whole = d.role == "block" and d.name in {"Omega", *OVER_FIELDS}
        if whole or d.name not in OVER_FIELDS:
            one = d if whole else mapped(d, rewritten)
            found.append(one if whole else replace(one, target=single.collapsed(d.target)))
    return live(found, _is_printed)


class _Single:
    """Rewrites expressions for one student, one teacher, or both."""

    def __init__(self, student: bool, teacher: bool) -> None:
        self.sizes: dict[sp.Expr, sp.Expr] = {}
        self.index: dict[sp.Expr, sp.Expr] = {}
        if student:
            self.sizes[x.p] = sp.S.One
            self.index |= dict.fromkeys(STUDENTS, ONLY[0])
        if teacher:
            self.sizes[x.k] = sp.S.One
            self.index |= dict.fromkeys(TEACHERS, ONLY[1])

    def collapsed(self, expr: sp.Expr) -> sp.Expr:
        """Sums of one term without their sign, single indices as such, deltas used up."""
        if isinstance(expr, sp.Indexed):
            return self.entry(expr)
        if isinstance(expr, sp.Sum):
            return self.sum(expr)
        if isinstance(expr, sp.KroneckerDelta):
            inside = [self.index.get(i, i) for i in expr.args]
            inside = [sp.S.One if i in ONLY else i for i in inside]
            return sp.S.One if inside[0] == inside[1] else sp.KroneckerDelta(*inside)
        if not expr.args:
            return self.sizes.get(expr, self.index.get(expr, expr))
        return expr.func(*(self.collapsed(a) for a in expr.args))

    def entry(self, expr: sp.Indexed) -> sp.Expr:
        name = base_name(expr)
        if name == "lambda" and expr.indices[0] in (*STUDENTS, *(x.p + y for y in TEACHERS)):
            return self.entry(placed_field(*expr.indices))
        indices = []
        for place, i in enumerate(expr.indices):
            one = i.xreplace({**self.index, **self.sizes})
            if one == 1 and x.k in self.sizes and place in OF_TEACHERS.get(name, ()):
                one = ONLY[1]
            if name in OVER_ALL and one == ONLY[0]:
                one = sp.S.One
            elif one.has(*ONLY) and one not in ONLY:
                one = one.xreplace({ONLY[1]: sp.S.One})
            indices.append(one)
        return expr.func(expr.base, *indices)

    def sum(self, expr: sp.Sum) -> sp.Expr:
        limits = {
            i: (i, low, high.xreplace(self.sizes))
            for i, low, high in expr.limits
            if i not in self.index
        }
        body = self.collapsed(expr.function)
        terms = sp.Add.make_args(sp.expand_mul(body)) if body.has(sp.KroneckerDelta) else [body]
        split = (without_deltas(y, tuple(limits)) for y in terms)
        parts = summed((left, term) for term, left in split)
        return sp.Add(
            *(sp.Sum(e, *map(limits.get, left)) if left else e for left, e in parts.items())
        )


# Functions and inputs --------------------------------------------------------------------------


def functions_latex(model: Model, printer: EquationPrinter) -> list[str]:
    """Align lines that say what sigma and sigma_* (or g) are, and the clusters of the inputs."""
    rows = [functions_of(model, printer), *([y] for y in inputs_latex(model.clusters))]
    return ["& " + r",\quad ".join(row) for row in rows if row]


def functions_of(model: Model, printer: EquationPrinter) -> list[str]:
    """What sigma and sigma_* (or g) are."""
    student, teacher = model.student.activation, model.teacher
    lines = [rf"{printer.letter('sigma')}(z) = {_function(student)}"] * (student != FIELD)
    if teacher.activation is None and model.label_clusters is None:
        g = "g" if printer.letter("sigma") != "g" else "G"
        lines.append(rf"{g}({printer.letter('h_star')}) = {printer.doprint(target(model))}")
    elif teacher.activation not in (None, student, FIELD):
        lines.append(rf"{printer.letter('teacher_sigma')}(z) = {_function(teacher.activation)}")
    return lines


def _function(expr: sp.Expr) -> str:
    return KernelPrinter({}).doprint(expr.xreplace({FIELD: sp.Symbol("z", real=True)}))


def inputs_latex(inputs: GaussianMixture | None) -> list[str]:
    """Weights, means and scales of clusters, and their labels."""
    if inputs is None:
        return []
    rows = zip(inputs.weights, inputs.means, inputs.scales, strict=True)
    lines = []
    for number, (weight, mean, scale) in enumerate(rows, start=1):
        text = rf"\rho_{number} = {weight:.4g},\ \mu_{number} = {listed(mean)}"
        if inputs.fractions is not None:
            text += rf",\ c_{{{number} e}} = {listed(scale)}"
        elif np.any(inputs.scales != 1):
            text += rf",\ s_{number} = {scale:g}"
        if inputs.labels is not None:
            label = {z: sp.Symbol(f"h^*_{{{r}}}") for r, z in enumerate(inputs.fields, start=1)}
            text += rf",\ y_{number} = {sp.latex(inputs.labels[number - 1].xreplace(label))}"
        lines.append(text)
    if inputs.fractions is not None:
        lines.append(rf"\phi_e = {listed(inputs.fractions)}")
    return lines


def noise_factor(spectrum: Spectrum) -> str:
    """The noise factor of a block."""
    plain = np.allclose(spectrum.noise, spectrum.eigenvalues * spectrum.fractions)
    return r"\nu_e = c_e \phi_e" if plain else r"\nu_e"


def listed(values: Array) -> str:
    """Numbers in brackets, one without."""
    text = ", ".join(f"{y:g}" for y in values)
    return f"({text})" if len(values) > 1 else text


# What letters are -------------------------------------------------------------------------------


def meanings_latex(
    subject: Subject, definitions: Sequence[Definition], printer: EquationPrinter
) -> list[str]:
    """What numbers of the optimiser, rows that it keeps, and the input spectrum are."""
    symbols = set().union(*(d.expr.free_symbols for d in definitions))
    model, algorithm = subject.model, subject.algorithm
    shown = {d.name for d in definitions}
    values = {numbers[n]: (v, n.replace("_", " ")) for n, v in numbers_of(algorithm).items()} | {
        x.flip: (getattr(model, "label_flip", 0), "probability that a label has the wrong sign"),
        x.rho_a: (getattr(algorithm, "readout_rate", 0), "rate of the readouts $a$"),
        x.rho: (getattr(getattr(algorithm, "repeat", 0), "rho", 0), "length of the displacement"),
    }
    told = [
        f"${assigned(printer.doprint(s), printer.doprint(value))}$ is the {words}"
        for s, (value, words) in values.items()
        if s in symbols
    ]
    told += ["$f$ is the output of the student"] * ("output_variance" in shown)
    if shown & {"S_update", "psi"} == {"S_update"} and algorithm.loss is not None:
        told.append(update_of_loss(subject))
    names = {d.name.removeprefix(BLOCK) for d in definitions if d.role == "rate"}
    for row, letter in ROW_LATEX.items():
        if any(name.startswith(row) for name in names):
            told.append(f"${letter}$ is the {row} of the weights")
        told += overlaps_of(row, subject, printer)
    spectrum = getattr(model, "spectrum", None)
    read = {n for e in definitions for n in used_bases(e.expr)}
    readout = getattr(model.student, "readout", None)
    if "readout" in read - names and readout is not None:
        told.append(f"$a = {printer.doprint(sp.sympify(readout, strict=True))}$ are the readouts")
    if spectrum is not None and "eigenvalue" in read:
        told.append(
            rf"block $e = 1, \ldots, B = {spectrum.blocks}$ has the eigenvalue $c_e$ and the "
            rf"fraction $\phi_e$ of the coordinates"
        )
        if "noise_factor" in read:
            factor = noise_factor(spectrum)
            told.append(f"${factor}$" + " is its noise factor" * ("=" not in factor))
    return told


def overlaps_of(row: str, subject: Subject, printer: EquationPrinter) -> list[str]:
    """Overlaps of a row that an optimiser keeps, those that have rates; by blocks if these have."""
    names = {d.name for d in subject.definitions if d.role == "rate"}
    blocks = any(name.startswith(BLOCK) for name in names)
    single = unit_widths(subject) if subject.model.family == "overlaps" else (False, False)
    W, star = (
        printer.letter(name).lower() if one else printer.letter(name)
        for name, one in zip(("W", "W_star"), single, strict=True)
    )
    own = (ROW_LATEX[row], single[0])
    others = {f"{row}_M": (star, single[1]), f"{row}_Q": (W, single[0]), row: own}
    others[f"{row}_average"] = (r"\bar{w}", single[0])
    front, e = (BLOCK, "_e") if blocks else ("", "")

    return [
        f"${BASE_LATEX[front + name]}{e} = {gram(own, other, e)} / {printer.letter('dim')}$"
        for name, other in others.items()
        if front + name in names
    ]


def assigned(letter: str, value: str) -> str:
    """A letter and its value; the letter alone where that is its value."""
    return letter if value == letter else f"{letter} = {value}"
