"""Losses of a sample in the output of the student and the label, and random labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from dmft.errors import BadParameter
from dmft.model.network import Committee, MultiIndex, teacher_fields
from dmft.validation import shown

if TYPE_CHECKING:
    from dmft.model.inputs.mixture import GaussianMixture

# A general loss is an expression in these two: the output of the student and the label.
PREDICTION, LABEL = sp.symbols("f y", real=True)
_residual = sp.Abs(LABEL - PREDICTION)
# Losses that have a name. Declarations keep the two that sequence models and wide limits know, and
# the norm of matrices; any other name stands for its expression.
NAMED = {
    "squared": (PREDICTION - LABEL) ** 2 / 2,
    "correlation": 1 - LABEL * PREDICTION,
    "logistic": sp.log(1 + sp.exp(-LABEL * PREDICTION)),
    "hinge": sp.Max(0, 1 - LABEL * PREDICTION),
    "huber": sp.Piecewise(
        (_residual**2 / 2, _residual <= 1), (_residual - sp.Rational(1, 2), True)
    ),
}
# -dl/df of those whose derivative a computer writes clumsily.
ERRORS = {NAMED["huber"]: sp.Min(1, sp.Max(-1, LABEL - PREDICTION))}
KEPT = ("squared", "correlation", "frobenius")
# Of several outputs, which a sample has one class among: losses are expressions in f1, f2, ... and
# in y1, y2, ..., 1 for the class of the sample and 0 for others.
CROSS_ENTROPY = "cross-entropy"
NUMBERED = re.compile("[fy][1-9][0-9]?")


def numbered(letter: str, count: int) -> tuple[sp.Symbol, ...]:
    """Symbols of all outputs, "f", or of their labels, "y"."""
    return tuple(sp.Symbol(f"{letter}{number}", real=True) for number in range(1, count + 1))


def is_of_outputs(loss: object) -> bool:
    """Whether a loss is that of several outputs alone."""
    if isinstance(loss, sp.Expr):
        return any(NUMBERED.fullmatch(s.name) for s in loss.free_symbols)
    return loss == CROSS_ENTROPY


def loss_of_outputs(loss: str | sp.Expr, count: int) -> sp.Expr:
    """A loss of several outputs in f1, f2, ... and y1, y2, ..."""
    outputs, labels = numbered("f", count), numbered("y", count)
    pairs = list(zip(outputs, labels, strict=True))
    along = sp.Add(*(f * y for f, y in pairs))
    named = {
        "squared": sp.Add(*((f - y) ** 2 for f, y in pairs)) / 2,
        "correlation": 1 - along,
        CROSS_ENTROPY: sp.log(sp.Add(*map(sp.exp, outputs))) - along,
    }
    found = named.get(loss) if isinstance(loss, str) else loss
    if found is None or not found.free_symbols <= {*outputs, *labels}:
        raise BadParameter(
            f"loss = {loss!r} is not a loss of {count} outputs: write it in f1, ..., f{count} and "
            f"y1, ..., y{count}, which are 1 for the class of the sample and 0 for the others, or "
            f"use one of {', '.join(map(repr, named))}"
        )
    return found


def errors_of_outputs(loss: str | sp.Expr, count: int) -> list[sp.Expr]:
    """-dl/df_o of a loss of several outputs."""
    whole = loss_of_outputs(loss, count)
    return [-sp.diff(whole, f) for f in numbered("f", count)]


def as_loss(given: object, kept: tuple[str, ...] = KEPT) -> str | sp.Expr:
    """Return a name that is kept, or a loss in the two canonical symbols."""
    if isinstance(given, str) and given in kept:
        return given
    others = {name: loss for name, loss in NAMED.items() if name not in kept}
    if isinstance(given, str) and given in others:
        return others[given]
    if isinstance(given, str) and given == CROSS_ENTROPY and kept == KEPT:
        return CROSS_ENTROPY
    names = (*kept, *others, *([CROSS_ENTROPY] if kept == KEPT else ()))
    known = ", ".join(f'"{name}"' for name in names)
    if not isinstance(given, sp.Expr):
        raise BadParameter(f"loss must be {known} or an expression in f and y, got {shown(given)}")
    found = {s: s.name for s in given.free_symbols}
    if kept == KEPT and found and all(NUMBERED.fullmatch(n) for n in found.values()):
        if not any(n.startswith("f") for n in found.values()):
            raise BadParameter(
                f"loss = {given} contains no output: write it in f1, ... and y1, ..."
            )
        return given.xreplace({s: sp.Symbol(n, real=True) for s, n in found.items()})
    if not set(found.values()) <= {"f", "y"} or "f" not in found.values():
        raise BadParameter(
            f"loss = {given} must be an expression in the symbols f and y only"
            + (", for several outputs in f1, ... and y1, ..." if kept == KEPT else "")
            + "; for a diagram over another parameter, pass as measure a function that derives "
            "the equations at each value of the parameter"
        )
    return given.xreplace({s: PREDICTION if n == "f" else LABEL for s, n in found.items()})


def name_of(loss: str | sp.Expr) -> str:
    """Name of a loss; empty for expressions that have none."""
    return loss if isinstance(loss, str) else next((n for n, e in NAMED.items() if e == loss), "")


def loss_expr(loss: str | sp.Expr) -> sp.Expr:
    """A loss in `PREDICTION` and `LABEL`."""
    return NAMED[loss] if isinstance(loss, str) else loss


def check_one_output(loss: str | sp.Expr) -> None:
    """Refuse a loss of several outputs for a student of one."""
    if is_of_outputs(loss):
        raise BadParameter(
            f"loss = {loss!r} requires a student with several outputs, "
            "Committee(..., readout=[[...], [...]]) with a row for each class; the cross-entropy "
            'of two classes is loss="logistic" with labels +1 and -1'
        )


def error_expr(loss: str | sp.Expr) -> sp.Expr:
    """-dl/df of a loss, in `PREDICTION` and `LABEL`."""
    expr = loss_expr(loss)
    return (
        ERRORS[expr]
        if expr in ERRORS
        else sp.expand(_bounded(-expr.diff(PREDICTION)), power_exp=False)
    )


def _bounded(slope: sp.Expr) -> sp.Expr:
    """The same with tanh(u/2) instead of exp(u), whose overflow leaves inf/inf.

    Unchanged if the exponents are not multiples of one of them, or if a pole would be left.
    """
    slope = sp.trigsimp(slope) if slope.has(sp.sinh, sp.cosh) else slope
    exponents = sorted((e.args[0] for e in slope.atoms(sp.exp)), key=sp.count_ops)
    ratios = [sp.cancel(u / exponents[0]) for u in exponents]
    if not exponents or not all(r.is_Integer for r in ratios):
        return slope
    tangent = sp.Dummy("T", real=True)
    ratio = (1 + tangent) / (1 - tangent)
    found = sp.factor(
        slope.xreplace({sp.exp(u): ratio**n for u, n in zip(exponents, ratios, strict=True)})
    )
    _, below = sp.fraction(found)
    if found.has(sp.exp) or below.free_symbols:
        return slope
    return found.xreplace({tangent: sp.tanh(exponents[0] / 2)})


# The channel of a teacher that is the mean label E[y | x] itself.
OF_MEAN = (1 + PREDICTION) / 2
# Places at which probabilities without parameters are checked, and what rounding they may carry.
PLACES, ROUNDING = 200, 1e-9


def as_channel(given: object) -> sp.Expr:
    """P(y = 1) as an expression in `PREDICTION`, the output of the teacher."""
    if not isinstance(given, sp.Expr) or not given.free_symbols:
        raise BadParameter(
            "label_channel must be P(y = 1), an expression in the teacher's output f, for example "
            f'1/(1 + sympy.exp(-2*sympy.Symbol("f", real=True))); got {shown(given)}'
        )
    symbols = sorted(given.free_symbols, key=str)
    named = [s for s in symbols if s.name == PREDICTION.name] or symbols
    if len(named) != 1:
        raise BadParameter(
            f"label_channel = {given} contains the symbols {symbols}: call the teacher's output f"
        )
    return given.xreplace({named[0]: PREDICTION})


def with_mean_labels(
    teacher: Committee | MultiIndex | GaussianMixture, channel: sp.Expr
) -> MultiIndex | GaussianMixture:
    """The teacher whose labels are E[y | x] = 2 P(y = 1) - 1."""

    def mean(output: sp.Expr) -> sp.Expr:
        return sp.expand_mul(2 * channel.xreplace({PREDICTION: output}) - 1)

    if not isinstance(teacher, Committee | MultiIndex):
        labels = [mean(y) for y in teacher.labels or ()]
        for label in labels:
            _check(label, teacher.fields, channel)
        return teacher.relabelled(labels)
    if not teacher.width.is_Integer:
        raise BadParameter(
            f"label_channel requires a numeric teacher width, got {teacher.width}: the law of a "
            "label is a function of all teacher fields"
        )
    fields = teacher_fields(int(teacher.width))
    written = teacher.expr if isinstance(teacher, MultiIndex) else teacher.outputs_at(fields)[0]
    expr = mean(written)
    _check(expr, fields, channel)
    return MultiIndex(expr, fields)


def _check(mean: sp.Expr, fields: tuple[sp.Symbol, ...], channel: sp.Expr) -> None:
    """Refuse what is no probability at normal fields, where nothing else is a symbol."""
    if mean.free_symbols - set(fields):
        return
    draw: Any = np.random.default_rng(0).normal(scale=2.0, size=(len(fields), PLACES))
    with np.errstate(all="ignore"):
        found = np.asarray(sp.lambdify(list(fields), mean, ["scipy", "numpy"])(*draw), complex)
    values = np.where(found.imag == 0.0, found.real, np.nan)
    low, high = (1 + values.min()) / 2, (1 + values.max()) / 2
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:
        raise BadParameter(
            f"label_channel = {channel} is P(y = 1) and must lie in [0, 1]: at the teacher's "
            f"outputs it ranges from {low:.3g} to {high:.3g}"
        )
