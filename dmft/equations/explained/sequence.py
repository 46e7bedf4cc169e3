"""The risk of a sequence model from its definition to a function of the alignments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import sympy as sp

from dmft.equations.explained.notation import StatementPrinter
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.views.kernels import token_rows
from dmft.errors import BadParameter, NotClosed
from dmft.explanation.average import Average
from dmft.explanation.both_sides import MOST_FIELDS, exact, without_extremes
from dmft.explanation.both_sides import number as checked_number
from dmft.explanation.paragraphs import TOLERANCE, Judged, Meaning
from dmft.explanation.steps import Explanation, Ledger, explanation
from dmft.gaussian.closed.law import ClosedLaw
from dmft.gaussian.explanations import note_expectation
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import SequenceModel, token_fields
from dmft.typeset.fragment import align

# Alignments (m, share of the radius that e takes) at which steps are judged.
ALIGNMENTS = ((0.45, -0.5), (-0.35, 0.4))
PARAMETERS = (0.4, 0.7)
# Samples of the definition, and how many standard errors they may be off by.
SAMPLES, DIMENSIONS, DEVIATIONS = 2**18, 8, 6.0
# The risk.
NAME = sp.Symbol(r"\mathcal{R}")
# Outputs with exponentials of more operations than this have names in print.
SHORT_OUTPUT = 4


def explain_sequence_risk(moments: SequenceMoments, risk: sp.Expr, bound: float) -> Explanation:
    """Definition, token fields, linearity, moments, sum; `bound` is the error of tables."""
    model = moments.model
    _check(model)
    L = model.length
    fields = sp.symbols(f"h_1:{L + 1}", real=True)
    stars = sp.symbols(f"h^*_1:{L + 1}", real=True)
    m = moments.law.semantic if not model.tied else moments.law.semantic * L
    cross = sp.diag(*m)
    cov = sp.BlockMatrix([[sp.eye(L), cross], [cross, sp.eye(L)]]).as_explicit()
    mean = [*[sp.S.Zero] * L, *model.encoding.means]
    outputs = _outputs(model, stars, fields)
    pairs = list(zip(*outputs, strict=True))

    def average(integrand: sp.Expr) -> sp.Expr:
        return Average.of(integrand, [*stars, *fields], cov, mean)

    printer, names = StatementPrinter({}), _names(*outputs)
    keys = dict.fromkeys(a.args[:3] for a in _averages(moments, risk))
    printer.tokens |= {key: n for n, key in enumerate(keys, start=1)}

    ledger = Ledger(lambda e: str(printer.doprint(e.xreplace(names))))
    cases = _cases(moments)
    gap = sp.Add(*((a - b) ** 2 for a, b in pairs))
    whole = average(gap) / 2
    _definition(ledger, model, NAME, whole, (gap, stars, fields), cases)
    parts = [sp.Add(*(a * a for a, _ in pairs)), sp.Add(*(b * b for _, b in pairs))]
    parts.append(sp.Add(*(a * b for a, b in pairs)))
    averages = [average(p) for p in parts]
    half = sp.Rational(1, 2)
    weights = (half, half, -sp.S.One)
    split = sp.Add(*(w * a for w, a in zip(weights, averages, strict=True)))
    ledger.add("linearity", whole, split)
    values = [moments.target_square, moments.own_square, moments.cross]
    for part, before, value in zip(parts, averages, values, strict=True):
        _moment(ledger, part, before, value, cases)
    total = sp.Add(*(w * v for w, v in zip(weights, values, strict=True)))
    ledger.add("values", split, total, judge=lambda row: _judged(split, risk, cases[row]))
    claim = f"averages by tables, error at most {bound:.0e}" if bound else "exact"
    rows = token_rows({a.args[:3]: a for a in _averages(moments, risk)}, printer)
    return explanation(
        "Population risk of a sequence model", ledger, (NAME, risk), [],
        claim=claim, cases=cases, whole=False, notation=_notation(model, names, bool(keys)),
        appendix=(*_definitions(names, printer), *rows),
    )  # fmt: skip


def _outputs(
    model: SequenceModel, stars: Sequence[sp.Symbol], fields: Sequence[sp.Symbol]
) -> tuple[list[sp.Expr], list[sp.Expr]]:
    """Outputs of the target and of the student, in their fields."""
    found = []
    for outputs, own in ((model.teacher.outputs, stars), (model.student.outputs, fields)):
        swap = dict(zip(token_fields(model.length), own, strict=True))
        found.append([y.xreplace(swap) for y in outputs])
    return found[0], found[1]


def _names(targets: Sequence[sp.Expr], own: Sequence[sp.Expr]) -> dict[sp.Expr, sp.Expr]:
    """Names of outputs that are long, and of their squares, for print."""
    found: dict[sp.Expr, sp.Expr] = {}
    for letter, outputs in (("g^*", targets), ("g", own)):
        for number, y in enumerate(outputs, start=1):
            if y.has(sp.exp) and sp.count_ops(y) > SHORT_OUTPUT:
                symbol = sp.Symbol(f"{letter}_{number}", real=True)
                found |= {y: symbol, y**2: symbol**2}
    pairs = zip(targets, own, strict=True)
    return {a - b: found[a] - found[b] for a, b in pairs if a in found and b in found} | found


def _averages(moments: SequenceMoments, risk: sp.Expr) -> list[TokenAverage]:
    """Averages over tokens that the risk holds, in a stable order."""
    found: dict[sp.Expr, None] = {}
    for value in (moments.target_square, moments.own_square, moments.cross, risk):
        found |= dict.fromkeys(sorted(value.atoms(TokenAverage), key=str))
    return list(found)


def _definitions(names: Mapping[sp.Expr, sp.Expr], printer: StatementPrinter) -> list[str]:
    """Alignment of the outputs that have names."""
    rows = [
        f"{printer.doprint(s)} &= {printer.doprint(y)}" for y, s in names.items() if s.is_Symbol
    ]
    return [align(rows)] if rows else []


def _notation(
    model: SequenceModel,
    names: Mapping[sp.Expr, sp.Expr],
    with_averages: bool,
) -> tuple[Meaning, ...]:
    """What the names of sequence models stand for."""
    numbered = [f"{y}_{n}" for y in ("h", "h^*") for n in range(1, model.length + 1)]
    m = ["m"] if model.tied else [f"m{n}" for n in range(1, model.length + 1)]
    parameters = sorted(s.name for s in model.parameters)
    found = [
        Meaning(
            (*numbered, *m, "e", r"\mathcal{R}"),
            r"$h_l$ and $h^*_l$ are the fields of the tokens $l$ under the weights of the student "
            r"and of the target, $m$ (or $m_l$) their covariance, $e$ the overlap of the student "
            r"with the positions, which shift the mean of $h_l$; $\mathcal{R}$ is the population "
            "risk",
        )
    ]
    if parameters:
        shown = ", ".join(f"${sp.latex(sp.Symbol(y))}$" for y in parameters)
        words = "is a parameter" if len(parameters) == 1 else "are parameters"
        found.append(Meaning(tuple(parameters), f"{shown} {words} of the model"))
    if names:
        own = [(s.name, y) for y, s in names.items() if s.is_Symbol]
        found.append(
            Meaning(
                tuple(name for name, _ in own),
                "The outputs of the student, $g_n$, and of the target, $g^*_n$, are",
            )
        )
    if with_averages:
        found.insert(
            len(found) - bool(names),
            Meaning((), r"$\mathcal{E}_n(e, m)$ are averages over the fields of tokens"),
        )
    return tuple(found)


def _check(model: SequenceModel) -> None:
    """Refuse what no quadrature here judges."""
    if 2 * model.length > MOST_FIELDS:
        raise BadParameter(
            f"a sequence of {model.length} tokens has {2 * model.length} fields; explanations "
            f"are checked in up to {MOST_FIELDS}: explain two tokens"
        )
    if model.encoding.rank > 1:
        raise BadParameter("explanations are checked with positional vectors along one direction")


def _cases(moments: SequenceMoments) -> list[dict[sp.Basic, float]]:
    """Alignments inside the feasible set, and numbers of the parameters."""
    model = moments.model
    radius = math.sqrt(float(model.encoding.gram[1, 1])) if model.encoding.rank else 0.0
    found = []
    for (m, share), value in zip(ALIGNMENTS, PARAMETERS, strict=True):
        at: dict[sp.Basic, float] = dict.fromkeys(moments.law.semantic, m)
        at |= dict.fromkeys(model.encoding.alignments, share * radius)
        at |= dict.fromkeys(sorted(model.parameters, key=str), value)
        found.append(at)
    return found


def _definition(
    ledger: Ledger,
    model: SequenceModel,
    name: sp.Symbol,
    whole: sp.Expr,
    integrand: tuple[sp.Expr, tuple[sp.Symbol, ...], tuple[sp.Symbol, ...]],
    cases: list[dict[sp.Basic, float]],
) -> None:
    """The definition, by tokens drawn in a few dimensions."""
    gap, stars, fields = integrand

    def judge(row: int) -> Judged:
        value, error = _by_tokens(
            model, gap.xreplace(exact(cases[row])), (stars, fields), cases[row]
        )
        truth = checked_number(whole, cases[row])
        return value / 2, truth.value, DEVIATIONS * error / 2 + TOLERANCE * truth.size

    note = f"Checked with {SAMPLES} sequences of tokens in {DIMENSIONS} dimensions."
    ledger.add("token_fields", name, whole, note=note, judge=judge)


def _by_tokens(
    model: SequenceModel,
    gap: sp.Expr,
    symbols: tuple[tuple[sp.Symbol, ...], tuple[sp.Symbol, ...]],
    at: dict[sp.Basic, float],
) -> tuple[float, float]:
    """Average over tokens x_l = p_l + noise of weights with the alignments at hand."""
    rng = np.random.default_rng(3)
    L, encoding = model.length, model.encoding
    frame, _ = np.linalg.qr(rng.normal(size=(DIMENSIONS, 3)))
    teacher, direction, rest = frame.T
    radius = math.sqrt(float(encoding.gram[1, 1])) if encoding.rank else 1.0
    (e,) = (at[s] for s in encoding.alignments) if encoding.rank else (0.0,)
    pattern = [float(c) for c in encoding.pattern[:, 0]] if encoding.rank else [0.0] * L
    stars, fields = [], []
    m = [at[s] for s in _semantic(model, at)]
    for token in range(L):
        along = e / radius
        w = m[token] * teacher + along * direction
        w = w + math.sqrt(1 - m[token] ** 2 - along**2) * rest
        x = rng.normal(size=(SAMPLES, DIMENSIONS)) + pattern[token] * radius * direction
        stars.append(x @ teacher)
        fields.append(x @ w)
    names = [*symbols[0], *symbols[1]]
    values = sp.lambdify(names, without_extremes(gap), modules=["scipy", "numpy"])(*stars, *fields)
    return float(np.mean(values)), float(np.std(values) / math.sqrt(SAMPLES))


def _semantic(model: SequenceModel, at: dict[sp.Basic, float]) -> list[sp.Basic]:
    names = ["m"] * model.length if model.tied else [f"m{n + 1}" for n in range(model.length)]
    return [next(s for s in at if str(s) == name) for name in names]


def _moment(
    ledger: Ledger,
    integrand: sp.Expr,
    before: sp.Expr,
    value: sp.Expr,
    cases: list[dict[sp.Basic, float]],
) -> None:
    """One moment, and the steps of the calculus where it is a polynomial."""
    ledger.add("moments", before, value, judge=lambda row: _judged(before, value, cases[row]))
    if not isinstance(before, Average) or not integrand.is_polynomial(*before.fields):
        return
    law = ClosedLaw(before.fields, before.cov, before.mean)
    begin, depth = len(ledger.steps), ledger.depth
    ledger.depth += 1
    try:
        note_expectation(ledger, law, integrand)
    except NotClosed:
        del ledger.steps[begin:]
    ledger.depth = depth


def _judged(before: sp.Expr, value: sp.Expr, at: dict[sp.Basic, float]) -> Judged:
    """By quadrature, and what the engine computes with the error that its tables claim."""
    truth = checked_number(before, at)
    nodes = value.atoms(TokenAverage)
    claim = float(sum(n.table.bound + n.table.error for n in nodes))
    numbers = {s: v for s, v in at.items() if isinstance(s, sp.Symbol)}
    known = {n: sp.Float(n.value(numbers), 17) for n in nodes}
    found = float(value.xreplace(known).xreplace(exact(at)))
    return truth.value, found, claim + TOLERANCE * max(truth.size, 1e-12)
