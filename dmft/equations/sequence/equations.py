"""Equations of motion of the alignments of a sequence model: rates, learning rates, gains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, define, live
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import declared_parameters, resolve_scalars
from dmft.equations.sequence.alignments import Tokens, free_fields, place, star_fields
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.sequence.risk import SequenceRisk, number
from dmft.errors import BadParameter
from dmft.gaussian.exponents.sequence import largest_gain, sequence_information_exponent
from dmft.gaussian.tables.tokens import TokenAverage, TokenLaw
from dmft.model import SGD, GradientFlow, SequenceModel, SequenceNetwork, token_fields
from dmft.model.sequence import TokenFunction
from dmft.validation import checked

TIME = "t = steps * learning_rate / d"
TIME_UNTIED = "t = steps * learning_rate / (L d)"
# Below this the overlap is one and e vanishes with sqrt(1 - m^2).
SMALLEST_REST = sp.Float(1e-16)
LOSSES = ("squared", "correlation", "frobenius")


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
            f"sequence models support dmft.SGD or dmft.GradientFlow, got {algorithm!r}"
        )
    if algorithm.is_flow:
        return
    if algorithm.loss not in LOSSES:
        raise BadParameter(
            f"loss = {algorithm.loss} is not derived for sequence models: choose one of {LOSSES}"
        )
    if not algorithm.is_plain or algorithm.trains_readout:
        raise BadParameter(
            "sequence models support one-pass SGD: no repeat, no custom update, no readout_rate"
        )
    if isinstance(algorithm.batch_size, sp.Expr):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension; sequence models "
            "require a number"
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
        raise BadParameter('loss = "frobenius" is derived only for tied students')
    if not model.encoding.orthogonal:
        raise BadParameter(
            'loss = "frobenius" requires positional vectors orthogonal to the target; here their '
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


# Orders of m that are looked at for the one that leaves m = 0, and what counts as zero.
MOST_ORDERS, ZERO_ORDER = 6, 1e-9


def perfect_learning_rate(model: SequenceModel, algorithm: SGD) -> sp.Expr:
    r"""Largest gamma at which the perfect solution m = 1 of a sequence model is stable.

    Equation    dm/dt = (1 - m) [2 E||J||_F^2 - (gamma/n_b) E||J^T J||_F^2] near m = 1, e = 0
    Valid for   squared loss, student and target the same function, no label noise
    Source      theory/sequence C.8
    """
    if algorithm.loss != "squared":
        raise BadParameter('the perfect solution requires dmft.SGD with loss="squared"')
    if not model.matched:
        raise BadParameter(
            f"there is no perfect solution: student {model.student} and target {model.teacher} are "
            "different functions"
        )
    if not model.label_noise.is_zero:
        raise BadParameter(
            f"label noise {model.label_noise} shifts the solution from m = 1: solve the equations"
        )
    moments = SequenceMoments(model)
    origin = dict.fromkeys(model.encoding.alignments, sp.S.Zero)
    slope, square = (y.subs(origin) for y in (moments.jacobian_square, moments.perfect_noise))
    if any(y.has(TokenAverage) for y in (slope, square)):
        slope, square = (sp.Float(number(y, {}), 17) for y in (slope, square))
    return sp.simplify(2 * algorithm.batch_size * slope / square)


@checked
def initial_learning_rate(
    model: SequenceModel, algorithm: SGD, overlap: float, e: ArrayLike = 0.0, **parameters: Any
) -> float:
    r"""Compute the largest learning rate at which a small overlap m grows.

    Equation    dm/dt = k D_k m^(k-1) - gamma N m / (2 n_b), so gamma < 2 n_b k D_k m^(k-2) / N;
                with label noise N + Delta J. Untied: D_k at its best direction of the weights
    Scaling     at m ~ d^(-1/2) of a random start gamma ~ sqrt(d) (k = 1), of order one (k = 2),
                d^(-(k-2)/2) for k > 2
    Valid for   small overlaps: higher orders of the drift and the change of N are neglected
    Source      theory/sequence B, C.8

    Parameters
    ----------
    model : SequenceModel
    algorithm : SGD
    overlap : float
        Overlap m at the start, or the overlap to be reached; for untied weights |m| / sqrt(L).
    e : float or (L,)
        Alignment with the positional vectors.
    **parameters
        Values of the model's symbols.

    Returns
    -------
    float
        Learning rate gamma.

    Raises
    ------
    BadParameter
        If nothing is learned: no order up to six, or a negative coefficient of even order.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> a = sp.Symbol("a", real=True)
    >>> linear = dmft.SequenceNetwork(a, 1)
    >>> model = dmft.Model(linear, linear)
    >>> round(dmft.initial_learning_rate(model, dmft.SGD(1), overlap=0.1), 6)  # 2 D_1 / (m N)
    10.0
    """
    if not 0.0 < abs(overlap) <= 1.0:
        raise BadParameter(f"overlap = {overlap!r} must lie in (0, 1]")
    equations = derive_sequence(model, algorithm)
    k, order = _first_order(model, e, parameters)
    gain = k * order * overlap ** (k - 2)
    if gain <= 0:
        raise BadParameter(
            f"D_{k} = {order:.6g}: the overlap {overlap:g} does not grow at any learning rate"
        )
    noise = _noise_at_start(equations, e, parameters)
    return float(2 * algorithm.batch_size * gain / noise)


def _first_order(
    model: SequenceModel, e: ArrayLike, parameters: dict[str, Any]
) -> tuple[int, float]:
    """First order k of m in the risk with D_k; for untied students that of the best direction."""
    if not model.tied:
        found = sequence_information_exponent(model.teacher, model.student)
        if found == sp.oo:
            raise BadParameter("nothing is learned: no order of the target affects the risk")
        assert found.witness is not None
        return int(found), float(found.witness.value)
    risk = SequenceRisk(model)
    for k in range(1, MOST_ORDERS + 1):
        value = risk.order(k, e, **parameters)
        if abs(value) > ZERO_ORDER:
            return k, value
    raise BadParameter(f"nothing is learned: no order of m up to {MOST_ORDERS} affects the risk")


def _noise_at_start(equations: Equations, e: ArrayLike, parameters: dict[str, Any]) -> float:
    """N + Delta J at m = 0."""
    model = cast(SequenceModel, equations.model)
    zero = 0.0 if model.tied else np.zeros(model.length)
    values: dict[sp.Symbol, float] = place(model, e, zero)
    given = {"learning_rate": 1.0, **parameters}
    scalars, _ = resolve_scalars(equations.declared, equations.parameters, given)
    values |= {s: scalars[s.name] for s in model.parameters}
    named = {d.target: d.expr for d in equations.definitions}
    noise, slope = (number(named[s], values) for s in (x.update_square, x.jacobian_square))
    return noise + scalars.get("label_noise", 0.0) * slope


@checked
def sequence_length_gain(target: TokenFunction, student: SequenceNetwork) -> float:
    r"""Compute the ratio of the steps that a network needs with untied and with tied weights.

    Equation    gain_k = L <C*_k, (1/sqrt(L))^k> / max_u <C*_k, u^k>, k the untied exponent
    Shapes      a float in [0, L]; L for targets whose best direction is the sum of all tokens
    Scaling     steps at equal gamma, t = steps gamma / d tied and steps gamma / (L d) untied
    Valid for   the escape from m = 0; token-symmetric targets gain L along the whole trajectory
    Source      theory/sequence C.7; derivations/sequence_sgd.py

    Parameters
    ----------
    target : SequenceTarget or Attention
        The target.
    student : SequenceNetwork
        Network whose activation is used for both cases.

    Returns
    -------
    float
        Ratio in [0, L].

    Raises
    ------
    BadParameter
        If the network with untied weights learns nothing.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> a, *z = sp.symbols("a z1:5", real=True)
    >>> relu = dmft.SequenceNetwork(sp.Max(0, a), 4)
    >>> gains = [dmft.sequence_length_gain(dmft.SequenceTarget(g, z), relu)
    ...          for g in (sum(z), z[0], z[0] - z[1])]
    >>> [round(gain, 12) for gain in gains]
    [4.0, 2.0, 0.0]
    """
    untied = SequenceNetwork(student.activation, student.length, False)
    found = sequence_information_exponent(target, untied)
    if not found.learned:
        raise BadParameter(f"the untied network does not learn {target}: {found.explain()}")
    assert found.witness is not None
    k, length = int(found), student.length
    # c_k(sigma) / L^(k/2) stands wherever the target has an entry.
    sign = np.sign(found.student_tensors[-1][found.student_tensors[-1] != 0].flat[0])
    tensor = sign * found.tensor[0]
    along = tensor
    for _ in range(k):
        along = along @ np.full(length, 1 / np.sqrt(length))
    gained = abs(float(along)) if k % 2 else max(0.0, float(along))
    return length * gained / largest_gain(tensor)
