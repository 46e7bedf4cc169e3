r"""Equations of sequence models as averages of outputs, each function of the tokens named once.

With outputs f_i(h) of the student, y_i(h*) of the target and errors e_i = f_i - y_i, the loss is
1/2 E sum_i e_i^2, the noise of the samples E sum_l (sum_i e_i df_i/dh_l)^2, that of the labels
E sum_il (df_i/dh_l)^2 (theory/sequence C.2). Two outputs with a constant sum, as in a row of a
softmax of two tokens, are one with the weight two.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.views.closed import ClosedPrinter
from dmft.equations.views.printer import EquationPrinter
from dmft.gaussian.tables.tokens import TokenAverage, TokenLaw
from dmft.model import FIELD, SGD, Attention, SequenceModel, SequenceNetwork, token_fields
from dmft.typeset.fragment import align

# Outputs are written out one by one up to this number, and as sums over an index beyond it.
WRITTEN_OUT = 2
ZERO = r"\mathbb{E} h_l = 0"
OUTPUTS = "Outputs of student and target are"
RISK_IS_LOSS = r"The population risk $\mathcal{R}$ is the average $\mathcal{L}$ of the loss."
LOSS_AND_RISK = r"$\mathcal{L}$ is the average of the loss and $\mathcal{R}$ the population risk."
EXPONENTIAL = re.compile(r"(?<![a-z\\])e\^\{((?:[^{}]|\{[^{}]*\})*)\}")
MEAN = sp.Symbol(r"\bar{h}", real=True)
# Points at which the sum of two outputs is compared with a constant.
POINTS = (sp.Rational(1, 3), sp.Rational(-7, 5), sp.Rational(11, 8), sp.Rational(2, 9))
DIGITS = 30
MOST_TOKENS = 32


class FunctionPrinter(ClosedPrinter):
    """Functions of tokens, the parameters of the networks first."""

    parameters: Collection[sp.Symbol] = ()

    def is_parameter(self, symbol: sp.Expr) -> bool:
        """Whether a symbol is one of the networks."""
        return symbol in self.parameters


@dataclass(frozen=True)
class Output:
    """One output: subscript, the functions of student and target, how many are like it."""

    index: str
    student: sp.Expr
    target: sp.Expr
    weight: int = 1


@dataclass(frozen=True)
class TokenOutputs:
    """Outputs of a sequence model and what its equations are averages of."""

    model: SequenceModel
    squared: bool = True

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """Outputs, those that another one determines left out."""
        student, target = SequenceMoments(self.model).student, list(self.model.teacher.outputs)
        rows, columns = self.model.student.shape
        found = []
        for n, (f, y) in enumerate(zip(student, target, strict=True)):
            place = f"{n // columns + 1}{n % columns + 1}" if rows > 1 else f"{n + 1}"
            found.append(Output("" if len(student) == 1 else place, f, y))
        if not self.squared:
            return tuple(found)
        kept: list[Output] = []
        for one in found:
            like = next((k for k, other in enumerate(kept) if _complements(one, other)), None)
            if like is None:
                kept.append(one)
            else:  # the entry on the diagonal names the pair
                first = kept[like]
                name = one if len(set(one.index)) < len(set(first.index)) else first
                kept[like] = Output(name.index, name.student, name.target, first.weight + 1)
        return tuple(kept)

    @property
    def letter(self) -> str:
        """What outputs of the student are called."""
        whole = isinstance(self.model.student, Attention) and len(self.outputs) > 1
        return "A" if whole else "f"

    def name(self, letter: str, index: str, fields: str) -> str:
        """An output at fields."""
        return f"{letter}_{{{index}}}({fields})" if index else f"{letter}({fields})"

    # Averages ---------------------------------------------------------------------------------

    def averages(self) -> dict[sp.Symbol, str]:
        """The loss and the noise of its gradient, as one average each."""
        shown = self.by_index
        names = [self.name(self.letter, one.index, "h") for one in shown]
        errors = [self.name("y", one.index, "h^*") for one in shown]
        slopes = [rf"\partial_{{h_l}} {name}" for name in names]
        if self.squared:
            pairs = zip(shown, names, errors, strict=True)
            errors = [self.error(one) or rf"\left[{f} - {y}\right]" for one, f, y in pairs]
            values, space = [f"{e}^{{2}}" for e in errors], " "
        else:
            values, space = [rf"{f}\,{y}" for f, y in zip(names, errors, strict=True)], r"\,"
        weights = {one.weight for one in shown}
        number = sp.Integer(min(weights) if len(weights) == 1 else 1)
        over = rf"\sum_{{{self.running}}} " * bool(self.running)

        def total(parts: Iterable[str]) -> str:
            pairs = zip(shown, parts, strict=True)
            return over + " + ".join(_front(one.weight / number) + y for one, y in pairs)

        length = rf"\sum_{{l=1}}^{{{self.model.length}}}"
        pulls = total(f"{e}{space}{s}" for e, s in zip(errors, slopes, strict=True))
        squares = total(rf"\left( {s} \right)^{{2}}" for s in slopes)
        squares = squares if len(shown) == 1 else rf"\left[ {squares} \right]"
        front = _front(number / 2) if self.squared else "- "
        return {
            x.loss: front + _average(total(values)),
            x.update_square: _front(number**2)
            + _average(rf"{length} \left( {pulls} \right)^{{2}}"),
            x.jacobian_square: _front(number) + _average(f"{length} {squares}"),
        }

    def error(self, one: Output) -> str:
        """The name of an error on the diagonal of a matrix, of which two are written out."""
        named = self.squared and self.letter == "A" and not self.running
        return rf"\epsilon_{{{one.index[0]}}}" if named and len({*one.index}) == 1 else ""

    @property
    def running(self) -> str:
        """Indices of a sum over outputs, empty where these are written out."""
        if len(self.outputs) <= WRITTEN_OUT:
            return ""
        return "i,j" if len(self.outputs[0].index) > 1 else "i"

    @property
    def by_index(self) -> tuple[Output, ...]:
        """Outputs as they are printed in averages."""
        if not self.running:
            return self.outputs
        return (Output(self.running.replace(",", " "), sp.S.Zero, sp.S.Zero),)

    # Functions --------------------------------------------------------------------------------

    def functions(self, letters: Mapping[str, str]) -> list[str]:
        """What the outputs are, as rows of an alignment."""
        rows: list[str] = []
        printer = FunctionPrinter({}, letters)
        printer.parameters = self.model.parameters
        known = {}
        student = self.model.student
        if isinstance(student, Attention):
            known = self.softmax(rows)
        if not (isinstance(student, Attention) and student.outputs == student.matrix):
            for one in self.outputs:
                shown = printer.doprint(at_fields(one.student, "h", known))
                rows.append(f"{self.name(self.letter, one.index, 'h')} &= {shown}")
        rows += self.targets(printer, known)
        if any(map(self.error, self.outputs)):
            rows.append(r"\epsilon_i &= A_{ii}(h) - y_{ii}(h^*)")
        return [EXPONENTIAL.sub(r"\\exp\\left(\1\\right)", row) for row in rows]

    def targets(self, printer: FunctionPrinter, known: Mapping[sp.Expr, str]) -> list[str]:
        """Outputs of the target; one row for the diagonal of a matrix where they are alike."""
        rows = []
        for one in self.outputs:
            shown = printer.doprint(at_fields(one.target, "h^*", known))
            rows.append(f"{self.name('y', one.index, 'h^*')} &= {shown}")
        pairs = zip(rows, self.outputs, strict=True)
        alike = {re.sub(rf"_\{{{y.index}\}}\(", "_{ii}(", row) for row, y in pairs}
        diagonal = all(self.error(y) for y in self.outputs) and len(alike) == 1
        return [*alike] if diagonal and not any("h^*_" in y for y in alike) else rows

    def softmax(self, rows: list[str]) -> dict[sp.Expr, str]:
        """Entries of the attention matrix by name; their definition as a row."""
        student, length = self.model.student, self.model.length
        assert isinstance(student, Attention)
        matrix = student.matrix
        below = rf"\sum_{{k=1}}^{{{length}}} e^{{h_i h_k}}"
        row = rf"A_{{i j}}(h) &= \frac{{e^{{h_i h_j}}}}{{{below}}}"
        rows.append(row)
        places = [(i, j) for i in range(length) for j in range(length)]
        names = {matrix[i, j]: f"A_{{{i + 1}{j + 1}}}" for i, j in places}
        if length == 2:  # rows sum to one
            names |= {matrix[i, 1 - i]: f"1 - A_{{{i + 1}{i + 1}}}" for i in (0, 1)}
        return names


def _front(number: sp.Expr) -> str:
    return "" if number == 1 else sp.latex(number) + " "


def _average(text: str) -> str:
    return rf"\mathbb{{E}}\left[ {text} \right]"


def at_fields(
    expr: sp.Expr, fields: str, known: Mapping[sp.Expr, str] = MappingProxyType({})
) -> sp.Expr:
    """A function of tokens at the fields of the student or of the target, its parts by name."""
    named = {}
    for part, name in known.items():
        _, sign, plain = name.rpartition("1 - ")
        symbol = sp.Symbol(f"{plain}({fields})", real=True)
        named[part] = 1 - symbol if sign else symbol
    table: dict[sp.Expr, sp.Expr] = {FIELD: MEAN}
    for n, field in enumerate(token_fields(MOST_TOKENS), start=1):
        table[field] = sp.Symbol(f"{fields}_{{{n}}}", real=True)
    return expr.xreplace(named).xreplace(table)


def _complements(one: Output, other: Output) -> bool:
    """Whether two outputs have one constant sum, of the student and of the target alike."""
    sums = (one.student + other.student, one.target + other.target)
    symbols = sorted({s for e in sums for s in e.free_symbols}, key=str)
    values = []
    for shift in range(3):
        at = {s: POINTS[(n + shift * _is_field(s)) % len(POINTS)] for n, s in enumerate(symbols)}
        values += [sp.N(e.xreplace(at), DIGITS) for e in sums]
    return all(abs(v - values[0]) < sp.Float(10) ** (5 - DIGITS) for v in values)


def _is_field(symbol: sp.Symbol) -> bool:
    return symbol == FIELD or symbol in token_fields(MOST_TOKENS)


# Systems --------------------------------------------------------------------------------------


def token_outputs(
    model: SequenceModel, definitions: Sequence[Definition], squared: bool
) -> TokenOutputs | None:
    """Outputs of equations whose averages over tokens are those of the model; None for others."""
    if not any(d.expr.has(TokenAverage) for d in definitions):
        return None
    moments = SequenceMoments(model)
    noise = moments.target_noise
    noise += moments.own_noise - 2 * moments.cross_noise if squared else 0
    loss = -moments.cross
    half = sp.Rational(1, 2)
    risk = half * moments.target_square + half * moments.own_square - moments.cross
    loss = risk if squared else loss
    known = {x.update_square: noise, x.jacobian_square: moments.jacobian_square, x.risk: risk}
    known |= {x.slope_of(s): sp.diff(loss, s) for s in alignments_of(model)}
    for d in definitions:
        if d.expr.has(TokenAverage) and sp.expand(d.expr - known.get(d.target, 0)) != 0:
            return None
    return TokenOutputs(model, squared)


def alignments_of(model: SequenceModel) -> tuple[sp.Symbol, ...]:
    """Symbols of the state."""
    return (*TokenLaw.of(model).semantic, *model.encoding.alignments)


def in_one_line(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    """Definitions of sequence models: what rates are computed from in one term where it is closed.

    The length of m alone is left out: it is no equation.
    """
    return tuple(
        replace(d, terms=(("value", sp.expand(d.expr)),))
        if d.role == "intermediate" and not d.expr.has(TokenAverage) and d.expr.is_polynomial()
        else d
        for d in definitions
        if d.target != x.overlap
    )


def declared_tokens(
    model: SequenceModel, printer: EquationPrinter, squared: bool, body: str
) -> str:
    """Networks, overlaps and outputs of a sequence model, of whose equations `body` is the text."""
    encoding, outputs = model.encoding, TokenOutputs(model, squared)
    w = "w" if model.tied else "w_l"
    place = "(x_l + p_l)" if encoding.rank else "x_l"
    fields = rf"h_l &= \frac{{{w} \cdot {place}}}{{\sqrt{{d}}}},\quad "
    overlaps = rf"m{w[1:]} &= \frac{{{w} \cdot w^*}}{{d}}"
    norm = r"\|w\|^2 = \|w^*\|^2 = d" if model.tied else r"\sum_l \|w_l\|^2 = L d"
    told = f"${norm}$"
    if encoding.rank == 1:
        pair = list(encoding.pattern) == [1, -1]
        p, pattern = "p_1" if pair else "p", sp.latex(tuple(encoding.pattern))
        overlaps += rf",\quad e = \frac{{w \cdot {p}}}{{\sqrt{{d}}}}"
        told += ", $p_1 = -p_2$" if pair else rf", $p_l = c_l\, p$, $c = {pattern}$"
        told += rf", $\|{p}\| = {sp.latex(sp.sqrt(encoding.gram[1, 1]))}$"
        told += rf", ${p} \cdot w^* = 0$" * encoding.orthogonal
    elif encoding.rank:
        overlaps += r",\quad e_a = \frac{w \cdot b_a}{\sqrt{d}}"
        told += r", $p_l = \sum_a c_{la} b_a$"
    if isinstance(model.student, SequenceNetwork):
        overlaps += r",\quad \bar{h} = \sum_l h_l / \sqrt{L}"
    rows = outputs.functions(printer.letters)
    lines = [
        r"A student with weights $w$ learns outputs of a target with weights $w^*$ on sequences of "
        rf"$L = {model.length}$ tokens $x_l \sim \mathcal{{N}}(0, I_d)$"
        + r" with positional vectors $p_l$" * bool(encoding.rank) + ",",
        align([fields + r"h^*_l = \frac{w^* \cdot x_l}{\sqrt{d}}", overlaps]),
        f"with {told}. {OUTPUTS}",
        align([y for y in rows if r"\epsilon_" in body or r"\epsilon" not in y]),
        "The rows of the matrices $A$ and $y$ sum to one. "
        * any(one.weight > 1 for one in outputs.outputs)
        + (RISK_IS_LOSS if r"\mathcal{R} = \mathcal{L}" in body else LOSS_AND_RISK),
    ]  # fmt: skip
    return "\n".join(lines)


def step_of_tokens(model: SequenceModel, algorithm: Any) -> str:
    """The update of the weights in a step."""
    if type(algorithm) is not SGD or algorithm.batch_size != 1 or not model.tied:
        return ""
    place = "(x_l + p_l)" if model.encoding.rank else "x_l"
    return (
        r" Each step draws a fresh sample and updates $w \leftarrow w - \frac{\gamma}{\sqrt{d}} "
        rf"\sum_l \partial_{{h_l}} \ell \, {place}$, then rescales $w$ to $\|w\|^2 = d$."
    )


def law_of_tokens(model: SequenceModel, printer: EquationPrinter) -> str:
    """A sentence about the fields of the tokens."""
    overlap = "m" if len(TokenLaw.of(model).semantic) == 1 else "m_l"
    means = [printer.doprint(y) for y in model.encoding.means]
    shown = ",$ $".join(rf"\mathbb{{E}} h_{{{n}}} = {y}" for n, y in enumerate(means, start=1))
    mean = r" $\bar{h} = \sum_l h_l / \sqrt{L}$ over the $L$ tokens."
    return (
        r"The average $\mathbb{E}$ is over the token fields, which are Gaussian with unit variance "
        rf"and independent between tokens, with "
        rf"$\operatorname{{Cov}}(h_l, h^*_l) = {overlap}$, $\mathbb{{E}} h^*_l = 0$ and "
        rf"${shown if any(y != '0' for y in means) else ZERO}$."
    ) + (mean if isinstance(model.student, SequenceNetwork) else "")


def rows_of_averages(
    outputs: TokenOutputs, definitions: Sequence[Definition], printer: EquationPrinter
) -> list[str]:
    """Rows of the averages that equations read, and of the functions in them."""
    found = outputs.averages()
    read = {d.target for d in definitions}
    heads = {x.loss: printer.letter("loss")}
    if outputs.squared:
        heads = {x.loss: printer.letter("risk") + (f" = {heads[x.loss]}" if len(read) > 1 else "")}
    rows = [f"{heads[x.loss]} &= {found[x.loss]}"]
    rows += [
        f"{printer.doprint(s)} &= {found[s]}"
        for s in (x.update_square, x.jacobian_square)
        if s in read
    ]
    return rows
