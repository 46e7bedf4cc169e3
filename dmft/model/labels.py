"""Labels: the class of a sample, and random labels given the output of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from dmft.errors import BadParameter
from dmft.model.loss import PREDICTION
from dmft.model.multi_index import MultiIndex, teacher_fields
from dmft.model.network import Committee
from dmft.validation import shown

if TYPE_CHECKING:
    from dmft.model.inputs.mixture import GaussianMixture

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
