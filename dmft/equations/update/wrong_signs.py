r"""Error rates: how often the sign of the output is not that of the teacher's label.

Where labels are signs y = +-1, before flips and noise, error_rate = P(y f < 0) = E[1 - y sign f]/2.
Of a linear student it is an average of what its output shows of a sample, in closed form; of others
see `dmft.equations.error_rate`.
"""

from __future__ import annotations

import sympy as sp

from dmft.equations.update.law import Cluster, clusters_of
from dmft.equations.update.lines import Line, label_of, line_of, writes_signs
from dmft.equations.update.moments import expectation
from dmft.equations.update.program import noiseless_label
from dmft.model import Model
from dmft.model.loss import LABEL, PREDICTION


def closed_error_rate(model: Model) -> tuple[Line, sp.Expr] | None:
    """The output of a linear student and the error rate; None for other students and labels."""
    if not writes_signs(model):
        return None
    total, line = sp.S.Zero, None
    for c in clusters_of(model):
        if c.shape:
            return None
        line = line_of(model, sign_in(model, c), False, False)
        if line is None:
            return None
        agree = line.form(LABEL * sp.sign(PREDICTION))
        assert agree is not None
        total += c.weight * expectation(c.shifted(sp.expand((1 - agree) / 2)))
    assert line is not None
    return line, total


def sign_in(model: Model, cluster: Cluster) -> sp.Expr:
    """The label in a cluster, as a sign."""
    if cluster.label is not None:
        return cluster.label
    own = label_of(model)
    return noiseless_label(model) if own is None else own
