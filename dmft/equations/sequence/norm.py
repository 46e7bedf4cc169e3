"""Equations of sequence models under the norm |f - y| as a loss, not squared."""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.joint_average import Tokens, free_fields, star_fields
from dmft.equations.definitions import define
from dmft.equations.sequence.equations import (
    SequenceEquations,
    check_algorithm,
    check_symbols,
    noise_terms,
    sequence_equations,
)
from dmft.errors import BadParameter
from dmft.gaussian.tables.tokens import TokenLaw
from dmft.model import SGD, SequenceModel, token_fields

# Below this the overlap is one and e vanishes with sqrt(1 - m^2).
SMALLEST_REST = sp.Float(1e-16)


def derive_norm(model: SequenceModel, algorithm: SGD) -> SequenceEquations:
    r"""Equations of the alignments under the loss ||g(h) - g*(h*)||_F.

    Equation    with D = g - g*, p_l = sum_i D_i dg_i/dh_l / |D|, rest = sqrt(1 - m^2):
                rest dR/dm = E sum_l p_l (rest h*_l - m eta_l), dR/de_a = E sum_l pattern_la p_l,
                N = E |p|^2, and ds/dt = -(G - s s^T) grad R - gamma/(2 n_b) N s
    Scaling     t = steps gamma / d
    Valid for   tied students, encodings orthogonal to the target, no label noise; averages over
                nodes. R = E |D| is what a run calls its risk
    Source      theory/sequence C.2, D.8

    Raises
    ------
    BadParameter
    """
    check_algorithm(algorithm)
    slopes = [x.slope_of(s) for s in model.encoding.alignments]
    check_symbols(model, [x.across, *slopes])
    if not model.tied:
        raise BadParameter('loss = "frobenius" is derived for tied students')
    if not model.encoding.orthogonal:
        raise BadParameter(
            'loss = "frobenius" takes positional vectors orthogonal to the target, here their '
            f"overlaps with it are {list(model.encoding.gram[0, 1:])}"
        )
    if not model.label_noise.is_zero:
        raise BadParameter('loss = "frobenius" is derived without label noise')
    law = TokenLaw.of(model)
    (m,), e = law.semantic, sp.Matrix(model.encoding.alignments)
    h, star, free = (f(model.length) for f in (token_fields, star_fields, free_fields))
    targets = [y.xreplace(dict(zip(h, star, strict=True))) for y in model.teacher.outputs]
    gaps = [f - y for f, y in zip(model.student.outputs, targets, strict=True)]
    size = sp.sqrt(sp.Add(*(gap**2 for gap in gaps)))
    pulls = [
        sp.Add(*(gap * sp.diff(f, z) for gap, f in zip(gaps, model.student.outputs, strict=True)))
        / size
        for z in h
    ]
    rest = sp.sqrt(1 - m**2)

    def average(integrand: sp.Expr) -> Expectation:
        return Expectation(integrand, Tokens(sp.Tuple(*model.encoding.means), m))

    pattern = model.encoding.pattern
    across = sp.Add(*(p * (rest * s - m * f) for p, s, f in zip(pulls, star, free, strict=True)))
    definitions = [define(x.across, {"average": average(across)}, "intermediate")]
    for a, slope in enumerate(slopes):
        along = sp.Add(*(pattern[n, a] * p for n, p in enumerate(pulls)))
        definitions.append(define(slope, {"average": average(along)}, "intermediate"))
    square = average(sp.Add(*(p**2 for p in pulls)))
    definitions.append(define(x.update_square, {"average": square}, "intermediate"))
    pull = sp.Add(*(y * slope for y, slope in zip(e, slopes, strict=True)))
    ratio = sp.Piecewise((m / rest, 1 - m**2 > SMALLEST_REST), (0, True))
    drift = e * (ratio * x.across + pull) - model.encoding.gram[1:, 1:] * sp.Matrix(slopes)
    learning = {m: m * pull - rest * x.across, **dict(zip(e, drift if e else (), strict=True))}
    rates = {
        s: {"learning": y, "sgd_noise": noise_terms(algorithm, s)["sgd_noise"]}
        for s, y in learning.items()
    }
    return sequence_equations(model, algorithm, definitions, rates, average(size))
