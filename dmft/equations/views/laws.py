"""Laws of a sample in print, of clusters with averages over the cluster and its fields at once.

Runs take sums over clusters of averages of centred fields, to which Stein's identity is applied;
papers print the averages of the update that these are equal to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, OverSamples
from dmft.equations.definitions import Definition, MeanSlope, define, live
from dmft.equations.symbols import ONLY
from dmft.equations.update.program import error_is_linear, error_of, noiseless_label, students_at
from dmft.equations.update.rates import definitions as rate_definitions
from dmft.equations.update.rates import on_sphere
from dmft.equations.views.declared import noise_factor, unit_widths
from dmft.equations.views.paper_units import Subject, gram, letters_of
from dmft.equations.views.printer import EquationPrinter, Notation
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, SGD, GaussianMixture, GradientFlow, Model, Spectrum
from dmft.model.algorithm import numbers_of
from dmft.model.loss import LABEL, PREDICTION, loss_expr
from dmft.typeset.fragment import align

AVERAGED = r"Averages $\langle \cdot \rangle$"
# Closed forms of clusters with more operations are printed as averages.
LONGEST_OF_CLUSTERS = 240
# What is printed in front of the risk, without its definition.
THE_RISK = "the risk is\n"
# Eigenvalues of more blocks are not listed.
MOST_LISTED = 6


def at_once(subject: Subject) -> tuple[Definition, ...] | None:
    r"""Averages of the update over a sample of the mixture, for print.

    Equation    dM_jr/dt = <psi_j h*_r>,
                dQ_jl/dt = <psi_j h_l> + <psi_l h_j> + gamma/(p n_b) <s_c psi_j psi_l>;
                on the sphere the second one is Phi_jl, and M and Q move along it
    Shapes      M (p, k), Q (p, p)
    Valid for   plain gradients of a loss, as they were derived; None for others
    """
    mixture = getattr(subject.model, "clusters", None)
    if mixture is None or not _is_plain(subject, mixture):
        return None
    algorithm, psi, j, l, r = subject.algorithm, x.psi, x.j, x.l, x.r  # noqa: E741
    along = Expectation(psi[j], x.h[l]) + Expectation(psi[l], x.h[j])
    rates: dict[sp.Expr, dict[str, sp.Expr]] = {
        x.M[j, r]: {"update": Expectation(psi[j], x.h_star[r])},
        x.Q[j, l]: {"update": along},
    }
    if _is_quadratic(subject):
        scaled = (mixture.scales != 1).any()
        size = [x.cluster_variance[x.cluster]] if scaled else []
        front = x.gamma / (x.p * algorithm.batch_size)
        rates[x.Q[j, l]]["sgd_noise"] = front * Expectation(*size, psi[j], psi[l])
    blocks = [d for d in subject.definitions if d.name == "Omega"]
    found = [define(target, terms, "rate") for target, terms in rates.items()]
    found = on_sphere(found) if algorithm.on_sphere else found
    return live([*blocks, *_of_sample(subject), *found, *observed(subject)])


def _of_sample(subject: Subject) -> list[Definition]:
    """Output, label and update of a sample; labels of clusters without noise have none."""
    model, j, f, y = subject.model, x.j, x.output_pass[0], x.label
    sigma = model.student.activation
    error = error_of(subject.algorithm).xreplace({PREDICTION: f, LABEL: y})
    found = {f: students_at(x.h, sigma).xreplace({x.u: j})}
    if model.label_clusters is None or model.label_noise != 0:
        noise = sp.sqrt(x.Delta) * x.xi if model.label_noise != 0 else sp.S.Zero
        found[y] = _noiseless(model) + noise
    if not (sigma == FIELD or error_is_linear(subject.algorithm)):
        found[x.error_pass[0]], error = error, x.error_pass[0]
    found[x.psi[j]] = x.a[j] * error * At(derivative(sigma), x.h[j])
    return [define(target, {"sample": value}, "sample") for target, value in found.items()]


def _noiseless(model: Model) -> sp.Expr:
    """The label without noise."""
    clusters = model.label_clusters is not None
    return x.cluster_label[x.cluster] if clusters else noiseless_label(model)


def observed(subject: Subject) -> list[Definition]:
    """Risk, expected loss and probability of a wrong sign, those that are derived."""
    model, f, y = subject.model, x.output_pass[0], x.label
    label = _noiseless(model) if model.label_noise != 0 else y
    wrong = sp.S.Half - Expectation(y * sp.sign(f)) / 2
    found = {
        x.risk: Expectation((f - label) ** 2) / 2,
        x.loss: Expectation(loss_expr(subject.algorithm.loss).xreplace({PREDICTION: f, LABEL: y})),
        x.error_rate: wrong,
    }
    derived = {d.target for d in subject.definitions}
    return [define(t, {t.name: e}, "observable") for t, e in found.items() if t in derived]


def with_plain_risk(subject: Subject) -> tuple[Definition, ...]:
    """Definitions, the risk by output and label where the rates are averages over these."""
    targets = {d.target for d in subject.definitions}
    if not {x.psi[x.j], x.output_pass[0], x.label} <= targets:
        return subject.definitions
    risk = {d.target: d for d in observed(subject) if d.target == x.risk}
    return tuple(risk.get(d.target, d) for d in subject.definitions)


def _is_quadratic(subject: Subject) -> bool:
    """Whether the rates hold the second moment of the update."""
    return any(name == "sgd_noise" for d in subject.definitions for name, _ in d.terms)


def _is_plain(subject: Subject, mixture: GaussianMixture) -> bool:
    """Whether these are the rates of plain gradients on clusters, and nobody changed them."""
    model, algorithm = subject.model, subject.algorithm
    if algorithm is None:
        return False
    odd = model.flips or model.draws_labels or model.outputs > 1 or mixture.fractions is not None
    if odd or type(algorithm) not in (SGD, GradientFlow) or numbers_of(algorithm):
        return False
    plain = algorithm.is_plain and not algorithm.trains_readout
    if not plain or algorithm.loss is None or subject.kind != "ode" or subject.fluctuates:
        return False
    derived = rate_definitions(model, algorithm, _is_quadratic(subject))
    return not subject.reduced and {*subject.definitions} <= {*derived}


def law_of_clusters(
    subject: Subject, mixture: GaussianMixture, printer: EquationPrinter
) -> list[str]:
    """The law of the cluster, the label and the fields of a sample."""
    model, letter = subject.model, printer.letter
    Q, M, P, h, h_star, y = (letter(n) for n in ("Q", "M", "P", "h", "h_star", "y"))
    Omega, turned = letter("Omega"), "" if all(unit_widths(subject)) else r"^\top"
    mean = rf"\mu_c\, ({M}, {P})" if mixture.means.shape[1] == 1 else rf"({M} \mu_c, {P} \mu_c)"
    mean = mean if (mixture.means != 0).any() else "0"
    scale = "s_c " if (mixture.scales != 1).any() else ""
    label = rf"{y} = {y}_c,\quad " * _labels_are_clusters(model)
    inside = r" (average $\langle \cdot \rangle_c$)" * bool(label)
    noise = ""
    if model.label_noise != 0:
        noise = rf" and the noise ${letter('noise')} \sim \mathcal{{N}}(0, 1)$"
    matrix = rf"\begin{{pmatrix}} {Q} & {M} \\ {M}{turned} & {P} \end{{pmatrix}}"
    return [
        rf"{AVERAGED} are over the cluster $c$, of probability $\rho_c$, and over the local "
        f"fields{noise}; in cluster $c${inside}",
        align([
            rf"& {label}({h}, {h_star}) \sim \mathcal{{N}}({mean}, {scale}{Omega}),"
            rf"\quad {Omega} = {matrix}"
        ]),
    ]  # fmt: skip


def _labels_are_clusters(model: Model) -> bool:
    """Whether the label of a sample is that of its cluster."""
    return model.label_clusters is not None and model.label_noise == 0


def risk_by_cluster(rows: Sequence[str], model: Model, printer: EquationPrinter) -> list[str]:
    """Rows with the risk as a sum over clusters, which fix the labels."""
    y = printer.letter("y") if _labels_are_clusters(model) else None
    square = rf"\left\langle (f - {y})^{{2}} \right\rangle"
    by_cluster = rf"\sum_c \rho_c \left\langle (f - {y}_c)^{{2}} \right\rangle_c"
    return [row.replace(square, by_cluster) for row in rows]


def law_latex(
    definitions: Sequence[Definition], printer: EquationPrinter, scaled: bool = False
) -> list[str]:
    """Law of the local fields, those of clusters `scaled` by their variance; coefficients."""
    blocks = [d for d in definitions if d.role == "block"]
    if not any(d.name == "Omega" for d in blocks):
        return [align(blocks_latex(blocks, printer))]
    Q, M, P, field, student, teacher = (
        printer.letter(name) for name in ("Q", "M", "P", "lambda", "h", "h_star")
    )
    unit = any(d.name == "Omega" and d.expr.has(sp.KroneckerDelta) for d in blocks)
    fields = {e for d in definitions if d.role != "block" for e in d.expr.atoms(sp.Indexed)}
    single = all(i in ONLY for e in fields if x.is_field(e.base) for i in e.indices)
    turned = "" if single else r"^\top"
    several = any(e.base == x.h_star and e.indices[0] not in ONLY for e in fields)
    corner = ("I" if several else "1") if unit else P
    Omega = printer.letter("Omega")
    matrix = rf"\begin{{pmatrix}} {Q} & {M} \\ {M}{turned} & {corner} \end{{pmatrix}}"
    if any(d.name == "Gram" for d in blocks):  # a sum over the blocks of a spectrum
        matrix = (
            rf"\sum_{{e=1}}^{{B}} c_e G_e,\quad G_e = \begin{{pmatrix}} {Q}_e & {M}_e \\ "
            rf"{M}_e{turned} & {P}_e \end{{pmatrix}}"
        )
        blocks = [d for d in blocks if d.name != "Gram"]
    front = "s_c " if scaled else ""
    cluster = r"\text{ in cluster } c" if scaled else ""
    law = rf"{front}{Omega}){cluster},\quad {Omega} = {matrix}"
    if any(x.IN_CLUSTER in d.name for d in blocks):  # each cluster has its own
        law = Omega + r"^{[c]})\text{ in cluster } c"
    lines = [rf"& {field} = ({student}, {teacher}) \sim \mathcal{{N}}(0, {law}"]
    lines += blocks_latex((d for d in blocks if d.name != "Omega"), printer)
    if any(d.expr.has(MeanSlope) for d in definitions):
        whole = rf"({field} - m^{{[c]}})" if "in cluster" in law else field
        lines.append(rf"& z_n = \left({Omega}^{{-1/2}} {whole}\right)_n")
    whose, centred = "", "centred " * any(r"^{[c]} =" in y for y in lines)
    if any(d.expr.has(OverSamples) for d in definitions):
        whose = r" of all samples $\mu$ of a batch, which are independent"
    if any(d.expr.has(x.xi) for d in definitions):
        whose += rf" and the noise ${printer.letter('noise')} \sim \mathcal{{N}}(0, 1)$"
    return [
        rf"{AVERAGED} are over the {centred}local fields{whose},",
        align(lines),
    ]


def law_of_blocks(model: Model, x: str = "", noisy: bool = True) -> str:
    """The law of inputs `x` with a spectrum, or what blocks add to that of clusters."""
    if not x:
        return (
            rf"Within cluster $z$ they have the variances $c_{{ze}}$ in $B = {model.blocks}$ "
            r"blocks that hold the fractions $\phi_e$ of the coordinates; overlaps with the index "
            r"$e$ are those of the rows within a block, not weighted by variances."
        )
    spectrum = cast("Spectrum", model.spectrum)
    shown = (spectrum.eigenvalues, spectrum.fractions)
    few = spectrum.blocks <= MOST_LISTED
    values = [_numbered(letter, y) * few for letter, y in zip((r"c", r"\phi"), shown, strict=True)]
    return (
        rf"The inputs are ${x} \sim \mathcal{{N}}(0, \Sigma)$, "
        r"$\Sigma = \operatorname{blockdiag}(c_e I)$ with $B = "
        rf"{spectrum.blocks}$ blocks $e$ of eigenvalues $c_e${values[0]}, which hold the fractions "
        rf"$\phi_e${values[1]} of the coordinates"
        + (f"; noise factors are ${noise_factor(spectrum)}$." if noisy else ".")
    )


def _numbered(letter: str, values: Iterable[float]) -> str:
    """Values of a letter with an index, in brackets."""
    return f" (${', '.join(rf'{letter}_{n} = {y:g}' for n, y in enumerate(values, 1))}$)"


def overlap_rows(
    model: Model, rows: Sequence[str], single: Sequence[bool], printer: EquationPrinter
) -> list[str]:
    """Rows that define the overlaps of weights, with a spectrum those in a block and their sums."""
    d, blocks = printer.letter("dim"), model.spectrum is not None and model.clusters is None
    heads = [printer.letter(y) + "_e" * blocks for y in "QMP"]
    (w, w_star), e = zip(rows, single, strict=True), "_e" * blocks
    pairs = zip(heads, ((w, w), (w, w_star), (w_star, w_star)), strict=True)
    lines = [",\\quad ".join(rf"{y} = \frac{{{gram(*two, e)}}}{{{d}}}" for y, two in pairs)]
    if blocks:
        sums = zip("QMP", heads, strict=True)
        q, m, p = (rf"{printer.letter(y)} = \sum_e c_e {block}" for y, block in sums)
        whole = rf"{w[0]}^\top \Sigma {w[0]}" if w[1] else rf"{w[0]} \Sigma {w[0]}^\top"
        lines += [rf"{q} = \frac{{{whole}}}{{{d}}}", rf"{m},\quad {p}"]
    return [line.replace("=", "&=", 1) for line in lines]


def lengths_in_words(fixed: str, rows: Sequence[str], single: Sequence[bool], d: str) -> str:
    """What fixed overlaps, in a formula, say about the weights."""
    both = fixed.count("=") > 1
    if both and all(single):
        return rf"Both have the length $\|{rows[0]}\|^2 = \|{rows[1]}\|^2 = {d}$, that is {fixed}."
    if not both and single[1]:
        return rf"The teacher has the length $\|{rows[1]}\|^2 = {d}$, that is {fixed}."
    return f"The rows of the teacher are orthogonal, {fixed}." if not both else f"Here {fixed}."


def risk_in_words(model: Model, algorithm: Any, printer: EquationPrinter, article: str) -> str:
    """The name of the risk and its formula as an average."""
    noisy, squared = model.label_noise != 0, getattr(algorithm, "loss", None) in (None, "squared")
    name = f"{article} {'excess' if noisy else 'population'} risk"
    if not squared:
        half = "Half" if article == "The" else "half"
        name = f"{half} the {'excess ' if noisy else ''}squared error"
    y, risk, noise = (printer.letter(n) for n in ("y", "risk", "label_noise"))
    floor = f" - {noise}/2" if noisy else ""
    return rf"{name} ${risk} = \frac{{1}}{{2}} \langle (f - {y})^2 \rangle{floor}$"


def with_risk(text: str, equations: Any, notation: Notation) -> str:
    """Printed equations that say what the risk is of which they print the value."""
    if equations.model.reads_sequences:
        return text
    printer = EquationPrinter({}, letters_of(notation))
    told = risk_in_words(equations.model, equations.algorithm, printer, "the")
    return text.replace(THE_RISK, f"{told}, an average over a fresh example, is\n", 1)


def blocks_latex(definitions: Iterable[Definition], printer: EquationPrinter) -> list[str]:
    """Blocks of Omega and of c, one align line for each array."""
    rows: dict[str, list[str]] = {}
    for d in definitions:
        text = f"{printer.doprint(d.target)} = {printer.doprint(d.expr)}"
        row = rows.setdefault(d.name, [])
        if text not in row:  # G_12 and G_21 of single units are printed alike
            row.append(text)
    return ["& " + r",\quad ".join(row) for row in rows.values()]
