"""Equations of motion of the alignments of a sequence model, and the derivation of their rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.joint_average import Tokens, free_fields, star_fields
from dmft.equations.definitions import Definition, define, live
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import declared_parameters
from dmft.equations.sequence.risk import SequenceRisk
from dmft.errors import BadParameter
from dmft.gaussian.tables.tokens import TokenLaw
from dmft.model import SGD, GradientFlow, SequenceModel, token_fields

TIME = "t = steps * learning_rate / d"
TIME_UNTIED = "t = steps * learning_rate / (L d)"
# Below this the overlap is one and e vanishes with sqrt(1 - m^2).
SMALLEST_REST = sp.Float(1e-16)


def derive_sequence(model: SequenceModel, algorithm: SGD | GradientFlow) -> Equations:
    r"""Equations of the alignments s = (m, e) under spherical one-pass SGD or gradient flow.

    Equation    ds/dt = -(G - s s^T) grad L - gamma/(2 n_b) (N + Delta J) s,
                N = E|J^T (g - g*)|^2, J = E||dg/dh||_F^2; untied G = L on the m_l
    Scaling     t = steps gamma / d (untied gamma / (L d)), d -> infinity at fixed gamma
    Source      theory/sequence C.2, C.4; derivations/sequence_sgd.py
    """
    check_algorithm(algorithm)
    if algorithm.loss == "frobenius":
        raise BadParameter('loss = "frobenius" has different equations: use dmft.derive')
    risk = SequenceRisk(model)
    slopes = {s: x.slope_of(s) for s in risk.alignments}
    check_symbols(model, slopes.values())
    moments = risk.moments
    squared = algorithm.loss != "correlation"
    loss = risk.expr if squared else -moments.cross
    definitions = [
        define(slope, {"gradient": sp.diff(loss, s)}, "intermediate") for s, slope in slopes.items()
    ]
    along = sp.Add(*(s * slope for s, slope in slopes.items()))
    definitions.append(define(x.pull_along, {"radial": along}, "intermediate"))
    if not algorithm.is_flow:
        noise = {"target": moments.target_noise}
        if squared:
            noise |= {"student": moments.own_noise, "cross": -2 * moments.cross_noise}
        definitions += [
            define(x.update_square, noise, "intermediate"),
            define(x.jacobian_square, {"gradient": moments.jacobian_square}, "intermediate"),
        ]
    gram = model.encoding.gram if model.tied else model.length * sp.eye(model.length)
    drift = -gram * sp.Matrix(list(slopes.values()))
    rates = {
        s: {"learning": drift[n], "sphere": x.pull_along * s, **noise_terms(algorithm, s)}
        for n, s in enumerate(slopes)
    }
    return sequence_equations(model, algorithm, definitions, rates, risk.expr)


def noise_terms(algorithm: SGD | GradientFlow, s: sp.Symbol) -> dict[str, sp.Expr]:
    """What the noise of the samples and of the labels takes from an alignment on the sphere."""
    if algorithm.is_flow:
        return {}
    weight = x.gamma / (2 * algorithm.batch_size) * s
    noise = {"sgd_noise": -weight * x.update_square}
    return {**noise, "label_noise": -weight * x.Delta * x.jacobian_square}


def sequence_equations(
    model: SequenceModel,
    algorithm: SGD | GradientFlow,
    definitions: Sequence[Definition],
    rates: Mapping[sp.Symbol, Mapping[str, sp.Expr]],
    risk: sp.Expr,
) -> Equations:
    """Equations from what the rates are computed from, their terms, and what a run calls risk."""
    encoding, m = model.encoding, TokenLaw.of(model).semantic
    empty = {d.target: sp.S.Zero for d in definitions if not d.terms}
    length = sp.Abs(m[0]) if model.tied else sp.sqrt(sp.Add(*(y**2 for y in m)) / model.length)
    whole = [
        *(d for d in definitions if d.terms),
        *(define(s, rates[s], "rate") for s in (*encoding.alignments, *m)),
        define(x.risk, {"risk": risk}, "observable"),
        define(x.overlap, {"overlap": length}, "observable"),
    ]
    whole = [
        define(d.target, {name: y.xreplace(empty) for name, y in d.terms}, d.role) for d in whole
    ]
    return Equations(
        kind="ode",
        definitions=live(whole),
        model=model,
        algorithm=algorithm,
        scaling="gradient-flow" if algorithm.is_flow else "high-dimensional",
        time_unit=TIME if model.tied else TIME_UNTIED,
    )


RESERVED = frozenset(
    {"e", "m", "pull", "noise", "slope"} | {f"{name}{n}" for name in "em" for n in range(1, 100)}
)


def check_symbols(model: SequenceModel, others: Iterable[sp.Symbol] = ()) -> None:
    """Refuse parameters that have a name of the equations, or of the `others` that they hold."""
    names = RESERVED | {s.name for s in others}
    for symbol in model.parameters:
        if symbol.name in names:
            raise BadParameter(f"the symbol {symbol} is reserved by the equations; rename it")
    declared_parameters(model, None)  # refuses the names of keywords


def check_algorithm(algorithm: SGD | GradientFlow) -> None:
    """Refuse what is not defined for sequence models."""
    if not algorithm.one_pass:
        raise BadParameter(
            f"sequence models are learned by dmft.SGD or dmft.GradientFlow, got {algorithm!r}"
        )
    if algorithm.is_flow:
        return
    if not algorithm.is_plain or algorithm.trains_readout:
        raise BadParameter(
            "sequence models support one-pass SGD: no repeat, no custom update, no readout_rate"
        )
    if isinstance(algorithm.batch_size, sp.Expr):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension; sequence models take a "
            "number"
        )


def derive_norm(model: SequenceModel, algorithm: SGD) -> Equations:
    """Equations of the alignments under the loss ||g(h) - g*(h*)||_F.

    Equation    with D = g - g*, p_l = sum_i D_i dg_i/dh_l / |D|, rest = sqrt(1 - m^2):
                rest dR/dm = E sum_l p_l (rest h*_l - m eta_l), dR/de_a = E sum_l pattern_la p_l,
                N = E |p|^2, and ds/dt = -(G - s s^T) grad R - gamma/(2 n_b) N s
    Valid for   tied students, encodings orthogonal to the target, no label noise; averages over
                nodes. R = E |D| is what a run calls its risk
    Source      theory/sequence C.2, D.8
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
