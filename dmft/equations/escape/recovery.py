r"""Linear dynamics around perfect recovery: largest stable learning rate and noise floor.

With delta_j = h*_j - h_j the matrix V = E[delta delta^T] obeys a closed linear equation as long
as it is small. Everything in it is an expectation of products of sigma' over independent units,
so its coefficients are counts of coinciding indices, which this file enumerates. Growth out of the
uninformed state with a spectrum is at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.escape.facts import as_committees, check_batch, check_plain, read_facts
from dmft.equations.escape.laws import law_of
from dmft.equations.risk import population_risk
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.derivative import derivative
from dmft.model import (
    FIELD,
    SGD,
    Committee,
    GradientFlow,
    Model,
    check_identity,
    check_labels,
    check_unflipped,
)
from dmft.model.algorithm import numbers_of
from dmft.validation import checked, shown

if TYPE_CHECKING:
    from dmft.model import SequenceModel, Spectrum

# Operations up to which `simplify` takes a moment only.
SIMPLE = 120
# Digits of P = sum_e c_e rho_e that are kept: where it is one, kernels close that do not elsewhere.
DIGITS = 12


@dataclass(frozen=True)
class Recovery:
    """Symmetric linear dynamics of V = alpha I + beta (1 1^T - I) at perfect recovery.

    Equation    d(alpha, beta)/dt = (drift + gamma noise)(alpha, beta) + gamma source, all sympy
                matrices; risk = risk_row (alpha, beta)
    Scaling     t = steps * gamma / (p d); alpha, beta of the order of the risk
    Source      theory/one_pass G.1
    """

    drift: sp.Matrix
    noise: sp.Matrix
    source: sp.Matrix
    risk_row: sp.Matrix
    width: sp.Expr

    @cached_property
    def maximal_learning_rate(self) -> sp.Expr:
        """Learning rate gamma at which the leading eigenvalue of the dynamics vanishes.

        The leading mode is symmetric: the dynamics maps positive matrices V to positive ones, and
        permuting the units changes nothing. For one unit it is -drift / noise.
        """
        if self.width == 1:
            value = -self.drift[0, 0] / self.noise[0, 0]
            return value if value.has(sp.Float) else sp.nsimplify(value)
        gamma = sp.Dummy("gamma", positive=True)
        # Twice the flow is stable at gamma = 0: the first zero of the determinant is the boundary.
        (one, two), (three, four) = (self.drift + gamma * self.noise).tolist()
        determinant = sp.expand(one * four - two * three)
        a, b, c = (_tidy(determinant.coeff(gamma, n)) for n in (2, 1, 0))
        if c == 0:
            raise BadParameter(
                "gradient flow has a flat direction at the perfect solution, as for a linear "
                "activation: no learning rate makes it stable"
            )
        root = sp.sqrt(_tidy(b**2 - 4 * a * c))
        # The smaller positive root, in the form without cancellation; b < 0 < c here.
        value = 2 * c / (-b + root)
        plain = value.has(sp.Float) or sp.count_ops(value) >= SIMPLE
        return value if plain else sp.simplify(value)

    def noise_floor(self, learning_rate: float | sp.Expr, label_noise: float | sp.Expr) -> sp.Expr:
        """Stationary population risk at small label noise: linear in it."""
        rate, noise = (sp.sympify(v, strict=True) for v in (learning_rate, label_noise))
        limit = self.maximal_learning_rate
        if rate.is_number and limit.is_number and not rate < limit:
            raise BadParameter(
                f"perfect recovery is unstable at learning_rate = {rate}; "
                f"it must be below {sp.N(limit, 8)}"
            )
        matrix, source = self.drift + rate * self.noise, self.source
        if self.width == 1:
            return -self.risk_row[0] * rate * noise * source[0] / matrix[0, 0]
        return sp.simplify((self.risk_row * matrix.LUsolve(-rate * noise * source))[0])


def recovery(model: Model, algorithm: SGD, *, exact: bool = True) -> Recovery:
    """Linearise one-pass SGD at the perfect solution of a matched committee.

    Equation    dV/dt = -(G V + V G)/K + gamma/(K^3 n_b) sum_mn E[s'_j s'_l s'_m s'_n] V_mn
                + gamma/(K n_b) Delta G,  G_jl = E[s'_j s'_l]
    Shapes      K = p = k units, P = I, unit readouts; K may be a symbol
    Valid for   activations whose moments E[sigma'(z)^n], n <= 4, have a closed form; in floats,
                at once, with ``exact=False``
    Source      theory/one_pass G.1
    """
    _check(model, algorithm)
    K, batch = model.student.width, algorithm.batch_size
    slope = derivative(model.student.activation)
    closed = [product_expectation([slope] * n, [0] * n, lambda *_: sp.S.One) for n in range(1, 5)]
    moments = [sp.nsimplify(sp.simplify(m)) if exact else _as_number(m) for m in closed]

    def average(*units: int) -> sp.Expr:
        """E of the product of sigma' over units, equal numbers being equal units."""
        return sp.Mul(*(moments[n - 1] for n in Counter(units).values()))

    same, cross = average(0, 0), average(0, 1)
    drift = -2 / K * sp.Matrix([[same, (K - 1) * cross], [cross, same + (K - 2) * cross]])
    noise = sp.Matrix(2, 2, lambda row, column: _sum_over_units(average, row == 0, column == 0, K))
    return Recovery(
        drift=drift,
        noise=noise / (K**3 * batch),
        source=sp.Matrix([same, cross]) / (K * batch),
        risk_row=sp.Matrix([[K * same, K * (K - 1) * cross]]) / (2 * K**2),
        width=K,
    )


def _as_number(value: sp.Expr) -> sp.Expr:
    """Rational or float."""
    return value if value.is_Rational else sp.N(value, 17)


def _tidy(expr: sp.Expr) -> sp.Expr:
    """Factor where that is quick: without radicals among the coefficients."""
    radicals = any(not power.exp.is_Integer for power in expr.atoms(sp.Pow))
    return expr if radicals else sp.factor(expr)


def _sum_over_units(
    product: Callable[..., sp.Expr], diagonal: bool, equal: bool, K: sp.Expr
) -> sp.Expr:
    """Sum of `product(j, l, m, n)` over m, n that are equal or not, for given j, l.

    Units other than j and l are interchangeable: two representatives stand for all of them.
    """
    j, l = (0, 0) if diagonal else (0, 1)  # noqa: E741
    others = sorted({j, l})
    spare = K - len(others)
    first, second = max(others) + 1, max(others) + 2
    total = sp.S.Zero
    if equal:
        total += sp.Add(*(product(j, l, m, m) for m in others))
        return sp.expand(total + spare * product(j, l, first, first))
    total += sp.Add(*(product(j, l, m, n) for m in others for n in others if m != n))
    total += 2 * spare * sp.Add(*(product(j, l, m, first) for m in others))
    return sp.expand(total + spare * (spare - 1) * product(j, l, first, second))


def _check(model: Model, algorithm: SGD) -> None:
    if algorithm.constraint is not None:
        raise BadParameter(
            "the linearisation of theory/one_pass G.1 applies without constraint, got "
            f"{algorithm.constraint!r}; on the sphere use dmft.maximal_learning_rate"
        )
    check_identity(model, "perfect recovery is linearised")
    check_unflipped(model, "perfect recovery is linearised")
    if model.reads_sequences or not model.matched:
        raise BadParameter("perfect recovery needs student and teacher of one activation")
    if model.student.width != model.teacher.width:
        raise BadParameter(
            f"perfect recovery needs equal widths, got {model.student.width} and "
            f"{model.teacher.width}"
        )
    for name in ("student", "teacher"):
        readout = getattr(model, name).readout
        if readout is not None and any(a != 1 for a in readout):
            raise BadParameter(
                f"perfect recovery is linearised at unit readouts, {name} has {readout}"
            )


# Largest learning rates --------------------------------------------------------------------------


@checked
def maximal_learning_rate(model: Model, algorithm: SGD) -> sp.Expr:
    r"""Compute the largest learning rate of SGD at which the perfect solution is stable.

    Equation    V = E[(h* - h)(h* - h)^T] obeys a closed linear equation while it is small; gamma is
                where its leading eigenvalue vanishes
    Scaling     gamma of `SGD(learning_rate)`; gamma / p multiplies the gradient
    Valid for   matched committees, P = I, unit readouts; p = k, on the sphere also k = 1 with any
                p. Exact without label noise; Notes describe the other cases
    Source      theory/one_pass F.1, G.1; theory/sequence C.8;
                theory/structured_inputs 1.4, 4.1, (19); derivations/escape_formulas.py

    Parameters
    ----------
    model : Model
        Matched student and teacher, or a sequence model.
    algorithm : SGD
        Its batch size, constraint and loss are used.

    Returns
    -------
    sympy.Expr
        Learning rate gamma; a number if the model has no symbols.

    Notes
    -----
    - On the sphere the constraint changes V only at second order, so the boundary is the same. The
      p units that learn one teacher unit become equal; their boundary is p times as large.
    - Label noise shifts the solution by an amount of the same order. The shift is included for one
      unit on the sphere whose overlap obeys dm/dt = m (Lambda - A m^2), with the boundary Lambda =
      0.
    - For sequence models whose target is the student's function, without label noise, the result is
      2 n_b E|J|^2 / E|J^T J|^2.
    - With a `Spectrum` whose teacher fields have the variance v, the result is the isotropic one
      of the activation sigma(sqrt(v) z), times v/(tr Sigma/d).
    - For one linear unit with `Momentum` or weight decay, the norm of its kernel is one at gamma.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> square = dmft.Committee(z**2, width=3)
    >>> dmft.maximal_learning_rate(dmft.Model(square, square), dmft.SGD(0.1))
    9/10
    >>> p, D = sp.symbols("p Delta", positive=True)
    >>> sphere = dmft.SGD(0.1, constraint="sphere")
    >>> dmft.maximal_learning_rate(dmft.literature.phase_retrieval(1, label_noise=D), sphere)
    2/(Delta + 12)
    >>> dmft.maximal_learning_rate(dmft.literature.phase_retrieval(p), sphere)
    p/6
    """
    return perfect_rate(model, algorithm, True)


def perfect_rate(model: Model, algorithm: SGD, exact: bool) -> sp.Expr:
    """Largest learning rate at which the perfect solution is stable, in exact numbers or floats."""
    if model.clusters is not None:
        check_identity(model, "perfect recovery is linearised")
    check_unflipped(model, "perfect recovery is linearised")
    if _keeps_more(model, algorithm):
        return sp.simplify(1 / _kernel(model, algorithm)[0])
    if model.spectrum is not None:
        whitened, factor = without_spectrum(model)
        return perfect_rate(whitened, algorithm, exact) / factor
    if model.reads_sequences:
        from dmft.equations.sequence.equations import perfect_learning_rate

        return perfect_learning_rate(cast("SequenceModel", model), algorithm)
    if algorithm.repeat is not None:
        raise BadParameter(
            f"the perfect solution is linearised for one gradient per sample, not with repeat = "
            f"{algorithm.repeat}: solve the equations from near it instead"
        )
    check_plain(algorithm, "maximal learning rates")
    if not algorithm.on_sphere:
        _check_squared(algorithm)
        return recovery(model, algorithm, exact=exact).maximal_learning_rate
    model = as_committees(model)
    free = replace(algorithm, constraint=None)
    student, teacher = model.student, model.teacher
    assert teacher.activation is not None
    if teacher.width != 1:
        _check_squared(algorithm)
        return recovery(model, free, exact=exact).maximal_learning_rate
    if any(a != 1 for a in student.readout or ()):
        raise BadParameter(
            f"perfect recovery is linearised at unit readouts, got {student.readout}"
        )
    one = replace(model, student=Committee(student.activation, 1))
    moves = model.label_noise != 0 or algorithm.loss != "squared"
    whole = _whole_limit(one, algorithm) if student.width == 1 and moves else None
    if whole is None:
        _check_squared(algorithm)
    return whole or student.width * recovery(one, free, exact=exact).maximal_learning_rate


def _check_squared(algorithm: SGD | GradientFlow) -> None:
    """Refuse losses under which the perfect solution still moves."""
    loss = algorithm.loss
    if loss != "squared":
        raise BadParameter(
            f"the perfect solution is stationary under the squared loss, not under loss = "
            f"{loss!r}; solve the equations: dmft.solve(dmft.derive(model, algorithm), ...)"
        )


def _whole_limit(model: Model, algorithm: SGD) -> sp.Expr | None:
    """With label noise, where the whole equation of one neuron is known."""
    try:
        law = law_of(read_facts(model, algorithm))
    except BadParameter:
        return None
    if law.kind != "logistic" or law.maximal is None:
        return None
    return sp.factor(law.maximal.subs(x.Delta, model.label_noise))


def without_spectrum(model: Model) -> tuple[Model, sp.Expr]:
    """The model in fields of variance one with inputs x ~ N(0, I_d), and the factor of its rate.

    Teacher fields have the variance v. The noise of steps, a sum of factors nu_e (tr Sigma/d for
    plain steps), is that of inputs N(0, I_d) at the rate gamma tr Sigma/(d v) and sigma(sqrt(v) z).
    """
    spectrum, plain = cast("Spectrum", model.spectrum), as_committees(replace(model, inputs=None))
    k = int(plain.teacher.width)
    P = np.einsum("e,eij->ij", spectrum.eigenvalues, spectrum.teacher_blocks(k))
    if not np.allclose(P, P[0, 0] * np.eye(k), rtol=1e-9, atol=1e-9 * P[0, 0]):
        raise BadParameter(
            "perfect recovery is linearised for orthogonal teachers of equal length, but with this "
            f"spectrum their fields have the covariance {shown(P.tolist())}: solve the equations"
        )
    variance, noise = (_rational(y) for y in (P[0, 0], spectrum.noise.sum()))
    if variance != 1:
        length = sp.sqrt(variance) * FIELD
        student, teacher = (
            Committee(cast(sp.Expr, u.activation).xreplace({FIELD: length}), u.width, u.readout)
            for u in (plain.student, plain.teacher)
        )
        plain = replace(plain, student=student, teacher=teacher)
    return plain, noise / variance


def _rational(value: float) -> sp.Expr:
    close = round(float(value), DIGITS)
    return sp.nsimplify(close, rational=True) if close == round(close, 9) else sp.Float(value, 17)


@checked
def noise_floor(model: Model, algorithm: SGD) -> sp.Expr:
    r"""Compute the stationary population risk due to label noise at a constant learning rate.

    Equation    linear student and teacher: R = K/(1 - K) Delta/2, K = gamma tr Sigma/(2 d n_b);
                `Momentum` has another K, and a decay adds the bias of the ridge.
                Matched committees: to first order in Delta; with a spectrum, as for the
                activation sigma(sqrt(v) z) at gamma tr Sigma/(d v), v the variance of h*
    Valid for   P = I, or the teacher of the spectrum, and unit readouts of committees
    Source      theory/structured_inputs (11), (19), 4.1; theory/one_pass G.1

    Parameters
    ----------
    model : Model
    algorithm : SGD

    Returns
    -------
    sympy.Expr
        Stationary value of 1/2 E(f* - f)^2.

    Raises
    ------
    BadParameter
        For learning rates above the maximal one, and for models without a perfect solution.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    >>> two = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    >>> noisy = dmft.Model(line, line, label_noise=0.3, inputs=two)
    >>> round(float(dmft.noise_floor(noisy, dmft.SGD(0.5))), 12)
    0.046721311475
    """
    spectrum = model.spectrum
    check_labels(model, "noise floors are known")
    check_unflipped(model, "noise floors are known")
    if is_linear_unit(model):
        return _linear_floor(model, algorithm)
    check_plain(algorithm, "noise floors")
    if algorithm.trains_readout:
        raise BadParameter(
            "noise floors are known for fixed readouts: trained ones drift along directions in "
            "which the output does not change (ReLU); solve the equations"
        )
    _check_squared(algorithm)
    if spectrum is None:
        return recovery(model, algorithm).noise_floor(algorithm.learning_rate, model.label_noise)
    whitened, factor = without_spectrum(model)
    rate = algorithm.learning_rate * factor
    return recovery(whitened, algorithm).noise_floor(rate, model.label_noise)


def is_linear_unit(model: Model) -> bool:
    """Whether one linear unit learns another."""
    units = () if model.reads_sequences else (model.student, model.teacher)
    return bool(units) and all(
        u.activation is not None
        and u.width == 1
        and u.readout is None
        and derivative(u.activation) == 1
        for u in units
    )


def _keeps_more(model: Model, algorithm: SGD) -> bool:
    """Whether a linear unit learns by velocities or with a decay, freely."""
    plain = algorithm.constraint is None and algorithm.repeat is None
    return plain and bool(numbers_of(algorithm)) and is_linear_unit(model)


def _kernel(model: Model, algorithm: SGD) -> tuple[sp.Expr, sp.Expr]:
    """Norm of the kernel of the Volterra equation of a linear unit over the rate, and its bias."""
    check_batch(algorithm)
    spectrum, numbers = model.spectrum, numbers_of(algorithm)
    unknown = set(numbers) - {"weight_decay", "momentum_rate", "momentum_direct"}
    plain = algorithm.loss == "squared" and algorithm.is_plain
    free = plain and algorithm.constraint is None and not algorithm.trains_readout
    if unknown or not free or hasattr(algorithm, "scale"):
        raise BadParameter(
            f"the kernel of {algorithm!r} has no closed form here: solve the equations"
        )
    c, nu, rho = [1.0], [1.0], [1.0]
    if spectrum is not None:
        c, nu = spectrum.eigenvalues.tolist(), spectrum.noise.tolist()
        rho = spectrum.teacher_blocks(1)[:, 0, 0].tolist()
    zeta = numbers.get("weight_decay", sp.S.Zero)
    kappa, direct = algorithm.momentum_rate, algorithm.momentum_direct
    if zeta != 0 and kappa != 0:
        raise BadParameter(
            f"momentum_rate = {kappa} with weight_decay = {zeta}: the kernel has no closed form "
            "here; compute the floor and the stability by dmft.fixed_points(dmft.derive(model, "
            "algorithm), start) and dmft.stability"
        )
    share = [
        sp.S.One if kappa == 0 else (kappa * (1 + direct) + direct**2 * e) / (kappa + direct * e)
        for e in c
    ]
    bias = sp.Add(*(e * r * zeta**2 / (e + zeta) ** 2 for e, r in zip(c, rho, strict=True)))
    norm = sp.Add(
        *(n * y * e / (e + zeta) for e, n, y in zip(c, nu, share, strict=True) if e > 0)
    ) / (2 * algorithm.batch_size)
    return norm, bias


def _linear_floor(model: Model, algorithm: SGD) -> sp.Expr:
    """Floor of a linear student, by the norm of the kernel of its Volterra equation."""
    (norm, bias), rate = _kernel(model, algorithm), algorithm.learning_rate
    norm *= rate
    if norm.is_number and not float(norm) < 1.0:
        raise BadParameter(f"learning_rate = {rate} is unstable: the norm of the kernel is {norm}")
    return (bias + model.label_noise * norm) / (1 - norm) / 2


def perfect_limit(
    model: Model, algorithm: SGD | GradientFlow, *, exact: bool = True
) -> sp.Expr | None:
    """`maximal_learning_rate`, or None for models without a perfect solution.

    With ``exact=False`` its numbers are floats, which takes milliseconds.
    """
    if algorithm.is_flow or algorithm.loss != "squared":
        return None
    try:
        return perfect_rate(model, algorithm, exact)
    except (BadParameter, NotClosed):
        return None


# The uninformed state with a spectrum ------------------------------------------------------------


@checked
def escape_rate(model: Model) -> sp.Expr:
    r"""Compute the rate at which one unit leaves the uninformative fixed point of gradient flow.

    Equation    dM/dt = Lambda M, Lambda = chi w*^T Sigma^2 w*/d = chi sum_e c_e^2 rho_e; there
                D^h = -2 dR/dQ = 0 fixes Q, and chi = -d^2R/dM^2, both at M = 0
    Scaling     t of the equations; learning_rate -> 0
    Valid for   one unit and one teacher with information exponent two, squared loss, no noise
                of the steps (with it, use `dmft.stability` at a point of `dmft.fixed_points`)
    Source      theory/structured_inputs (13)

    Parameters
    ----------
    model : Model
        Model with ``inputs=dmft.Spectrum(..., teacher=...)``, or with isotropic inputs (P is then
        a symbol).

    Returns
    -------
    sympy.Expr

    Raises
    ------
    BadParameter
    NotClosed
        If the length at the uninformative fixed point has no closed form.

    Notes
    -----
    With the noise of the steps, Lambda solves 1 = chi sum_e c_e^2 rho_e / (Lambda - c_e D^h). The
    value of Q there equals its value for isotropic inputs at the rate gamma tr Sigma/d.

    Examples
    --------
    >>> import numpy as np, sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True) ** 2, width=1)
    >>> rho = np.array([0.5, 0.25])[:, None, None]
    >>> law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7], teacher=rho)
    >>> dmft.escape_rate(dmft.Model(square, square, inputs=law))
    8.25000000000000
    >>> dmft.escape_rate(dmft.Model(square, square))
    4*P_11
    """
    units = (model.student, model.teacher)
    if model.reads_sequences or any(u.activation is None or u.width != 1 for u in units):
        raise BadParameter(
            "escape_rate is defined for one unit and one teacher unit: otherwise use "
            "dmft.stability(equations, dmft.fixed_points(equations, start)[0]).growth_rate"
        )
    check_unflipped(model, "escape rates are known")
    spectrum = model.spectrum
    if model.inputs is not None and spectrum is None:
        raise BadParameter("escape_rate supports isotropic inputs and spectra, not clusters")
    if spectrum is not None and spectrum.teacher is None:
        raise BadParameter(
            "the spectrum has no teacher: write dmft.Spectrum(eigenvalues, fractions, teacher=rho)"
        )
    risk = population_risk(replace(model, inputs=None)).explicit()
    Q, M, P = (risk.symbols[name] for name in ("Q_11", "M_11", "P_11"))
    value, along = risk.expr, P
    if spectrum is not None and spectrum.teacher is not None:
        c, rho = spectrum.eigenvalues, spectrum.teacher[:, 0, 0]
        value = value.subs(P, sp.nsimplify(round(float(c @ rho), DIGITS), rational=True))
        along = sp.Float(float(c**2 @ rho))
    drift = sp.diff(value, M).subs(M, 0)
    if sp.simplify(drift) != 0:
        raise BadParameter(
            "the information exponent is one: M grows from the start, and there is no "
            "uninformative state to escape from"
        )
    curved = sp.simplify(-sp.diff(value, M, 2).subs(M, 0))
    if curved == 0:
        raise BadParameter("the information exponent is above two: M does not grow exponentially")
    chi = curved.subs(Q, _length(value.subs(M, 0), Q, P)) if curved.has(Q) else curved
    return sp.simplify(chi * along)


def _length(risk: sp.Expr, Q: sp.Symbol, P: sp.Symbol) -> sp.Expr:
    """Q at which the risk is least while nothing is learned."""
    try:
        roots = sp.solve(sp.diff(risk, Q), Q)
    except NotImplementedError:
        roots = []
    p = sp.Dummy("P", positive=True)
    found = [r for r in roots if r.subs(P, p).is_positive and not r.has(Q)]
    if len(found) != 1:
        raise NotClosed(
            f"the length of the uninformed student has {len(found)} closed forms: use "
            "dmft.fixed_points and dmft.stability"
        )
    return found[0]
