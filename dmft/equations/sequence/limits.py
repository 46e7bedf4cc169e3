"""Learning rates and gains of sequence models: what is stable, what is learned, how fast."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.equations import symbols as x
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import resolve_scalars
from dmft.equations.sequence.alignments import place
from dmft.equations.sequence.equations import derive_sequence
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.sequence.risk import SequenceRisk, number
from dmft.errors import BadParameter
from dmft.gaussian.exponents.sequence import largest_gain, sequence_information_exponent
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import SGD, SequenceModel, SequenceNetwork
from dmft.model.sequence import TokenFunction
from dmft.validation import checked

# Orders of m that are looked at for the one that leaves m = 0, and what counts as zero.
MOST_ORDERS, ZERO_ORDER = 6, 1e-9


def perfect_learning_rate(model: SequenceModel, algorithm: SGD) -> sp.Expr:
    r"""Largest gamma at which the perfect solution m = 1 of a sequence model is stable.

    Equation    dm/dt = (1 - m) [2 E||J||_F^2 - (gamma/n_b) E||J^T J||_F^2] near m = 1, e = 0
    Valid for   squared loss, student and target the same function, no label noise
    Source      theory/sequence C.8
    """
    if algorithm.loss != "squared":
        raise BadParameter('the perfect solution is that of dmft.SGD with loss="squared"')
    if not model.matched:
        raise BadParameter(
            f"there is no perfect solution: student {model.student} and target {model.teacher} are "
            "different functions"
        )
    if not model.label_noise.is_zero:
        raise BadParameter(
            f"label noise {model.label_noise} moves the solution off m = 1: solve the equations"
        )
    moments = SequenceMoments(model)
    origin = dict.fromkeys(model.encoding.alignments, sp.S.Zero)
    slope, square = (y.subs(origin) for y in (moments.jacobian_square, moments.perfect_noise))
    if any(y.has(TokenAverage) for y in (slope, square)):
        slope, square = (sp.Float(number(y, {}), 17) for y in (slope, square))
    return sp.simplify(2 * algorithm.batch_size * slope / square)


@checked
def initial_learning_rate(
    model: SequenceModel,
    algorithm: SGD,
    overlap: float,
    e: ArrayLike = 0.0,
    **parameters: Any,
) -> float:
    r"""Largest gamma at which a small overlap m still grows.

    Equation    dm/dt = k D_k m^(k-1) - gamma N m / (2 n_b), so gamma < 2 n_b k D_k m^(k-2) / N;
                with label noise N + Delta J. Untied: D_k of the best direction of the weights
    Scaling     at m ~ d^(-1/2) of a random start gamma ~ sqrt(d) (k = 1), of order one (k = 2),
                d^(-(k-2)/2) beyond
    Valid for   overlap small: higher orders of the drift and the change of N are left out
    Source      theory/sequence B, C.8

    Parameters
    ----------
    model : SequenceModel
    algorithm : SGD
    overlap : float
        m of the start, or the level to be reached; for untied students |m| / sqrt(L).
    e : float or (L,)
        Alignment with the positional vectors.
    **parameters
        Values of the model's symbols.

    Returns
    -------
    float
        gamma.

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
            raise BadParameter("nothing is learned: no order of the target is seen")
        assert found.witness is not None
        return int(found), float(found.witness.value)
    risk = SequenceRisk(model)
    for k in range(1, MOST_ORDERS + 1):
        value = risk.order(k, e, **parameters)
        if abs(value) > ZERO_ORDER:
            return k, value
    raise BadParameter(f"nothing is learned: no order of m up to {MOST_ORDERS} is seen")


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
    r"""How many times fewer steps a tied network needs than an untied one, from equal overlaps.

    Equation    gain_k = L <C*_k, (1/sqrt(L))^k> / max_u <C*_k, u^k>, k the exponent of the untied
    Shapes      a float in [0, L]; L for targets whose best direction is the sum of all tokens
    Scaling     steps at equal gamma, t = steps gamma / d tied and steps gamma / (L d) untied
    Valid for   the escape from m = 0; token-symmetric targets gain L along the whole trajectory
    Source      theory/sequence C.7; derivations/sequence_sgd.py

    Parameters
    ----------
    target : SequenceTarget or Attention
        The target.
    student : SequenceNetwork
        Whose activation both networks have.

    Returns
    -------
    float
        In [0, L].

    Raises
    ------
    BadParameter
        Where the untied network learns nothing either.

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
