"""`erm`: what empirical risk minimisation converges to; `optimal_ridge`; `separability`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import sympy as sp
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from dmft.errors import BadParameter
from dmft.gaussian.channels.declared import Label, label_of
from dmft.gaussian.channels.panels import quiet
from dmft.model import FIELD, Model
from dmft.model.inputs.spectrum import Spectrum
from dmft.model.loss import NAMED, PREDICTION, as_loss, loss_expr
from dmft.names import Status
from dmft.record import Archived
from dmft.summary import of_attributes
from dmft.typeset.fragment import COLUMN
from dmft.validation import as_positive, checked
from dmft.workflow.static.page import erm_latex
from dmft.workflow.static.proximal import Proximal
from dmft.workflow.static.replica import LEVELS, Equations, LabelNodes, State, clean_nodes
from dmft.workflow.static.ridge import Blocks, LabelMoments, OptimalRidge, squared_loss

# Points of panels: the two results give the error.
POINTS = (24, 36)
# Labels whose probability of disagreeing with the teacher's half space is less never do.
NEVER = 1e-15
# Largest root of the ratio of signal to noise.
FARTHEST = 1e3


@dataclass(frozen=True, eq=False)
class Separability(Archived):
    """Number of samples per dimension below which labels +1 and -1 are linearly separable.

    Attributes
    ----------
    value : float
        Samples per dimension; infinite for noiseless labels of a half space.
    error : float
    proof : "closed form" or "quadrature"
    ratio : float
        Component of the separating direction along the teacher, divided by its orthogonal
        component, at the threshold.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> coin = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]), label_flip=0.5)
    >>> round(float(dmft.separability(coin)), 9)
    2.0
    """

    value: float
    error: float
    proof: str
    ratio: float

    KIND = "dmft separability"

    def __float__(self) -> float:
        return self.value


@checked
def separability(model: Model) -> Separability:
    r"""Compute the number of samples per dimension below which the labels are linearly separable.

    Equation    1/alpha_sep = min_t E[(Z - t y h*)_+^2] = min_t E[(1 + u^2) Phi(u) + u phi(u)],
                u = -t y h*
    Valid for   labels +1 and -1 of one teacher field, drawn or flipped; d -> infinity. Below it
                maximum likelihood has no finite solution
    Source      theory/static_limits (16)

    Parameters
    ----------
    model : Model
        Model with labels +1 and -1, or with ``label_channel=``.

    Returns
    -------
    Separability
        `.value` (also by `float`) and `.error`.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z, f = sp.symbols("z f", real=True)
    >>> line, logit = dmft.Committee(z, 1), 1 / (1 + sp.exp(-2 * f))
    >>> model = dmft.Model(line, dmft.MultiIndex(z, [z]), label_channel=logit)
    >>> round(float(dmft.separability(model)), 6)
    2.899138
    """
    label = label_of(model, "separability")
    if label.width > 1:
        raise BadParameter(
            f"separability is derived for labels of one teacher field; {label.expr} has "
            f"{label.width}"
        )
    label.check_numbers()
    if not has_sign_labels(label):
        raise BadParameter(
            f"separability is defined for labels +1 and -1 without additive noise; the label is "
            f"{label.expr}, label_noise = {label.noise}"
        )
    return separability_of(label)


def has_sign_labels(label: Label) -> bool:
    """Whether labels are +1 or -1."""
    return label.drawn or (label.noise == 0 and LabelNodes.of(label, 4).signs)


def separability_of(label: Label) -> Separability:
    """The border of labels +1 and -1 of one field."""
    found = []
    for points in POINTS:
        nodes = LabelNodes.of(label, points)
        field = nodes.y * nodes.u
        share = float(np.sum(nodes.weight[field < 0.0]))
        if share < NEVER or 1.0 - share < NEVER:
            return Separability(math.inf, 0.0, "closed form", math.inf)
        if float(label.flip) == 0.5:
            return Separability(2.0, 0.0, "closed form", 0.0)

        # Convex in t, the least value has the sign of E[y h*].
        field = math.copysign(1.0, float(np.sum(nodes.weight * field))) * field
        best = minimize_scalar(_missed, args=(field, nodes.weight), bounds=(0.0, FARTHEST),
                               method="bounded", options={"xatol": 1e-10})  # fmt: skip
        found.append((float(1.0 / best.fun), float(best.x**2)))
    (last, ratio), error = found[-1], abs(found[-1][0] - found[-2][0])
    return Separability(last, error + 4e-15 * last, "quadrature", ratio)


def _missed(root: float, field: np.ndarray, weight: np.ndarray) -> float:
    """E[(Z - t y h*)_+^2] at t = root^2."""
    u = -(root**2) * field
    density = np.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)
    return float(np.sum(weight * ((1.0 + u * u) * ndtr(u) + u * density)))


# Levels of nodes are refined until numbers agree to this part; rounding of a closed form.
WANTED, ROUNDING = 1e-8, 1e-14
# Standard deviations of the output within which a loss must not be too concave.
REACH = 9.0
# Ridges among which a numerical optimum is sought, and its accuracy in the logarithm.
LEAST_RIDGE, LARGEST_RIDGE, RESOLVED = 1e-3, 1e3, 1e-3
MEASURES = ("test_loss", "risk", "error_rate")


@dataclass(frozen=True, eq=False)
class ERM(Archived):
    r"""Minimiser of the summed loss plus ridge/2 |w|^2 as n = samples_per_dim d -> infinity.

    Attributes
    ----------
    M : float
        Overlap w.w*/d with the teacher. For teachers of several fields (squared loss) a tuple.
    Q : float
        Squared length w.w/d.
    V : float
        Response of an output to its sample, the parameter of the proximal operator.
    train_loss : float
        Mean loss of a training sample.
    test_loss : float
        Mean loss of a new sample, including label noise.
    risk : float
        Risk E(f* - f)^2/2 without flips and noise. For randomly drawn labels f* is the mean label.
    error_rate : float or None
        For sign labels, the probability that the sign of the output differs from the teacher's. For
        drawn labels, the probability that it differs from the label.
    stability : float
        Replicon eigenvalue, below 1 where the replica-symmetric equations are stable.
    error : mapping of str to float
        Error of each of these numbers.
    proof : "closed form" or "quadrature"
    status, message
    loss, label : str
    samples_per_dim, ridge : float
    moments : mapping of str to float
        For the squared loss and isotropic inputs, c_1 = |E[y h*]| and y_2 = E[y^2].
    declared : (Model, sympy.Expr) or None
        Model and loss, which `latex` prints; None for a record read from a file.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> found = dmft.erm(model, "squared", samples_per_dim=2, ridge=0.5)
    >>> round(found.M, 6), round(found.Q, 6), found.proof
    (0.573857, 0.473596, 'closed form')
    >>> found.formulas["M"]
    V*alpha*c_1/(V + 1)
    """

    M: float | tuple[float, ...]
    Q: float
    V: float
    train_loss: float
    test_loss: float
    risk: float
    error_rate: float | None
    stability: float
    error: Mapping[str, float]
    proof: str
    status: Status
    message: str
    loss: str
    label: str
    samples_per_dim: float
    ridge: float
    moments: Mapping[str, float] = field(default_factory=dict)
    declared: tuple[Model, sp.Expr] | None = field(default=None, repr=False, compare=False)

    KIND = "dmft erm"
    kind: ClassVar[str] = "erm"

    @property
    def cosine(self) -> float:
        """Cosine M/sqrt(Q) of the angle between student and teacher."""
        return float(np.linalg.norm(self.M)) / math.sqrt(self.Q)

    @property
    def formulas(self) -> dict[str, sp.Expr]:
        """Closed forms for the squared loss in alpha, lambda, c_1 = E[y h*], y_2 = E[y^2] and V.

        Empty for other losses and inputs. `moments` contains the values of c_1 and y_2.
        """
        return squared_loss() if self.moments and self.proof == "closed form" else {}

    def latex(self, width: float = COLUMN) -> str:
        r"""Return the equations of the minimiser and its numbers.

        Parameters
        ----------
        width : float
            Width of the text in points.

        Returns
        -------
        str
            Sentences, equations and a table; the table alone for inputs with a spectrum, for
            labels of several fields, and for a record read from a file.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), 1)
        >>> model = dmft.Model(line, line, label_noise=1)
        >>> text = dmft.erm(model, "hinge", samples_per_dim=2, ridge=0.1).latex()
        >>> text.count(r"\hat q"), "proximal operator" in text
        (2, True)
        """
        if self.declared and self.declared[0].inputs is None and isinstance(self.M, float):
            return erm_latex(self, *self.declared, width)
        summary = of_attributes(self)
        return "" if summary is None else summary.latex()


@checked
def erm(
    model: Model, loss: str | sp.Expr = "squared", samples_per_dim: float = 2.0, ridge: float = 0.0
) -> ERM:
    r"""Compute overlaps, losses and stability of empirical risk minimisation in high dimension.

    Equation    V = 1/(ridge + V_hat), M = V m_hat, Q = M^2 + V^2 q_hat;
                V_hat = -alpha E[dg/domega], q_hat = alpha E[g^2],
                m_hat = alpha E[g h*] + M V_hat; g = (prox - omega)/V,
                prox = argmin_h l + (h - omega)^2/(2 V)
    Scaling     minimum of sum_mu l(f_mu, y_mu) + ridge/2 |w|^2 (a sum over n = alpha d samples),
                h = w x/sqrt(d), teacher |w*|^2 = d
    Valid for   d -> infinity; students of one unit; convex losses, and others where the proximal
                operator does not jump; any label of one teacher field, for linear students under
                the squared loss also labels of several
    Source      theory/static_limits (13)-(15), 4.2, (17)

    Parameters
    ----------
    model : Model
        Teacher, noise and flips, with a student of width 1, linear or with an activation. Inputs
        with a `Spectrum` require the squared loss and a linear student. M and Q are then
        covariances of the fields: sums of the overlaps in the eigenspaces of the inputs'
        covariance, weighted by its eigenvalues.
    loss : str or sympy.Expr
        Name of a loss, or an expression in the symbols f and y, as in `dmft.GradientDescent`.
    samples_per_dim : float
        Ratio alpha = n/d.
    ridge : float
        Coefficient of the penalty ridge/2 |w|^2, which is added to the sum of the losses.

    Returns
    -------
    ERM
        Record with `.M`, `.Q`, `.V`, `.train_loss`, `.test_loss`, `.risk`, `.error_rate`,
        `.stability` and their `.error`. The status is "not_converged" if no solution is
        found, and "tolerance_not_met" if an error is above 1e-6 (relative).

    Raises
    ------
    BadParameter
        For invalid arguments, if the minimiser has no finite length, or if the proximal operator
        jumps. In the last case the replica-symmetric theory does not describe the minima.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]))
    >>> found = dmft.erm(model, "hinge", samples_per_dim=2, ridge=0.1)
    >>> round(found.M, 4), round(found.Q, 4), round(found.train_loss, 5)
    (1.5993, 3.6696, 0.02146)
    """
    alpha = as_positive(samples_per_dim, "samples_per_dim")
    if not 0.0 <= ridge < math.inf:
        raise BadParameter(f"ridge = {ridge:g} must be non-negative and finite")
    given, output = as_loss(loss, kept=()), _output_of(model)
    if given == NAMED["squared"] and output == PREDICTION:
        label = label_of(model, "erm", spectrum=True)
        label.check_numbers()
        found = _closed(label, model.inputs, alpha, ridge)  # type: ignore[arg-type]
        return replace(found, declared=(model, loss_expr(given)))
    label = label_of(model, f"erm with the loss {loss}")
    label.check_numbers()
    if label.width > 1:
        raise BadParameter(
            f"erm with the loss {loss} is derived for labels of one teacher field; {label.expr} "
            f'has {label.width}: use loss="squared" and a linear student, or solve '
            "dmft.GradientDescent"
        )
    found = _by_quadrature(label, given, output, alpha, ridge)
    return replace(found, declared=(model, loss_expr(given)))


def _output_of(model: Model) -> sp.Expr:
    """Output of the student in its field, which is called `PREDICTION`."""
    student = model.student
    if student.width != 1:
        raise BadParameter(
            f"erm is derived for students of one unit; this one has width {student.width}: solve "
            "dmft.GradientDescent for long times"
        )
    if student.parameters:
        symbol = sorted(student.parameters, key=str)[0]
        raise BadParameter(f"erm requires numbers: substitute a value for {symbol}")
    return student.outputs_at([FIELD])[0].xreplace({FIELD: PREDICTION})


def _closed(label: Label, inputs: Spectrum | None, alpha: float, ridge: float) -> ERM:
    """The squared loss."""
    blocks, declared = Blocks.of(inputs, label.width), str(label.expr)
    label = label if inputs is None else label.of_mixed_fields(blocks.root)
    moments = LabelMoments.of(label)
    c = np.array([float(one) for one in moments.first])
    second = float(moments.second)
    M, found = blocks.at_numbers(alpha, ridge, c, second)
    clean = float(np.dot(M, [float(one) for one in moments.clean_first]))
    found["risk"] = (float(moments.clean_second) - 2.0 * clean + found["Q"]) / 2.0
    own = {"M": float(np.linalg.norm(M)), **found}
    relative = ROUNDING + 4.0 * moments.error
    error = {name: relative * abs(y) for name, y in own.items() if math.isfinite(y)}
    rate, rate_error = _rate(label, float(M[0]), found["Q"]) if label.width == 1 else (None, 0.0)
    if rate is not None:
        error["error_rate"] = rate_error
    message = ""
    if found["V"] == math.inf:
        message = "interpolates: the solution of minimum norm, the limit of a vanishing ridge"
        if found["Q"] == math.inf:
            message = "at the interpolation peak, where lengths diverge as the ridge vanishes"
    M = blocks.root @ M
    return ERM(
        M=float(M[0]) if c.size == 1 else tuple(float(one) for one in M),
        **found, error_rate=rate, error=error,
        proof="quadrature" if moments.error else "closed form", status=Status.OK, message=message,
        loss=str(NAMED["squared"]), label=declared, samples_per_dim=alpha, ridge=ridge,
        moments={"c_1": float(np.linalg.norm(c)), "y_2": second} if inputs is None else {},
        declared=None,
    )  # fmt: skip


def _by_quadrature(
    label: Label, loss: sp.Expr | str, output: sp.Expr, alpha: float, ridge: float
) -> ERM:
    """Any other loss: finer and finer nodes until numbers agree."""
    written = loss_expr(loss)
    expr = written if output == PREDICTION else written.xreplace({PREDICTION: output})
    proximal = Proximal.of(expr)
    if ridge == 0.0:
        _refuse_separable(label, proximal, alpha)
        if alpha <= 1.0:  # some weights fit all samples: V V_hat = 1 has no solution
            raise _divergent(loss, alpha)
    state, last, error = None, dict[str, float](), {}
    for level in range(len(LEVELS)):
        equations = Equations(proximal, label, alpha, ridge, level)
        state = equations.from_scratch() if state is None else equations.solved(state, ridge)
        if state is None:
            break
        _refuse_jump(proximal, equations, state, loss)
        now = _measured(equations, state, output)
        error = {name: abs(y - last.get(name, math.inf)) for name, y in now.items()}
        last = now
        if all(e <= WANTED * (1.0 + abs(now[name])) for name, e in error.items()):
            break
    status, message = Status.OK, ""
    if state is None:
        if ridge == 0.0:
            raise _divergent(loss, alpha)
        names = ("M", "Q", "V", "train_loss", "test_loss", "risk", "stability")
        last, error = dict.fromkeys(names, math.nan), {}
        status, message = Status.NOT_CONVERGED, "no solution of the equations was found"
    elif not all(e <= 1e-6 * (1.0 + abs(last[name])) for name, e in error.items()):
        status, message = Status.TOLERANCE_NOT_MET, "averages have errors above 1e-6: see error"
    return ERM(
        **{"error_rate": None, **last}, error=error, proof="quadrature", status=status,  # type: ignore[arg-type]
        message=message, loss=str(loss), label=str(label.expr), samples_per_dim=alpha, ridge=ridge,
    )  # fmt: skip


def _measured(equations: Equations, state: State, output: sp.Expr) -> dict[str, float]:
    """What is reported of a solution at the nodes of its equations."""
    averages = equations.averages(state)
    found = {
        "M": state.m, "Q": state.q, "V": state.V, "train_loss": averages["train"],
        "test_loss": averages["test"],
        "stability": equations.alpha * state.V**2 * averages["dfdf"],
    }  # fmt: skip
    found["risk"] = equations.squared_distance(state, quiet([PREDICTION], output)) / 2
    if output != PREDICTION:
        return found
    rate, _ = _rate(equations.label, state.m, state.q)
    return found if rate is None else {**found, "error_rate": rate}


def _rate(label: Label, m: float, q: float) -> tuple[float | None, float]:
    """How often a linear student's sign is wrong, and the error of this number."""
    values = []
    for points, _ in LEVELS[1:]:
        nodes = clean_nodes(label, points, m, q)
        if not nodes.signs:
            return None, 0.0
        toward = nodes.y * m * nodes.u
        rest = math.sqrt(max(q - m * m, 0.0))
        wrong = ndtr(-toward / rest) if rest > 0.0 else (toward < 0.0) + 0.5 * (toward == 0.0)
        values.append(float(np.sum(nodes.weight * wrong)))
    return values[1], abs(values[1] - values[0])


def _refuse_separable(label: Label, proximal: Proximal, alpha: float) -> None:
    """Refuse losses that fall for ever on labels that a half space separates."""
    falls = float(proximal.slope(np.array(REACH), np.array(1.0))) <= 0.0
    border = separability_of(label).value if falls and has_sign_labels(label) else 0.0
    if alpha < border:
        raise BadParameter(
            f"samples_per_dim = {alpha:g} is below {border:.6g}, so that the labels are linearly "
            "separable and weights of this loss grow without bound: use ridge > 0 "
            "(dmft.separability)"
        )


def _divergent(loss: sp.Expr | str, alpha: float) -> BadParameter:
    return BadParameter(
        f"the loss {loss} has no single minimiser of finite length at samples_per_dim = {alpha:g} "
        "without a ridge, or none was found: use ridge > 0"
    )


def _refuse_jump(
    proximal: Proximal, equations: Equations, state: State, loss: sp.Expr | str
) -> None:
    """Refuse solutions whose proximal operator is no function."""
    labels = np.unique(np.quantile(LabelNodes.of(equations.label, 8).y, np.linspace(0.0, 1.0, 33)))
    deepest = proximal.deepest(labels, REACH * math.sqrt(state.q) + 1.0)
    if state.V * deepest > 1.0:
        raise BadParameter(
            f"the loss {loss} is concave where -d2l/df2 = {deepest:.4g}, more than 1/V = "
            f"{1.0 / state.V:.4g}: its proximal operator jumps, and the minima are beyond this "
            "replica-symmetric theory; use a larger ridge, or follow dmft.GradientDescent"
        )


@checked
def optimal_ridge(
    model: Model,
    loss: str | sp.Expr = "squared",
    samples_per_dim: float | None = None,
    minimise: str = "test_loss",
) -> OptimalRidge:
    r"""Compute the ridge with the smallest test loss.

    Equation    (E[y^2] - c^2)/c^2, c^2 = sum_r E[y h*_r]^2
    Valid for   squared loss of a linear student: any label, any samples_per_dim; other losses, and
                inputs with a `Spectrum`, by minimising the result of `dmft.erm` over the ridge
    Source      theory/static_limits 4.2

    Parameters
    ----------
    model : Model
    loss : str or sympy.Expr
    samples_per_dim : float, optional
        Required for losses other than the squared loss, for `minimise` other than "test_loss", for
        students that are not linear, and for inputs with a `Spectrum`.
    minimise : "test_loss", "risk" or "error_rate"

    Returns
    -------
    OptimalRidge
        Record with `.value` (also by `float`), `.expr`, `.error` and `.proof`. The value is
        infinite if E[y h*] = 0. A minimisation covers ridges from 1e-3 to 1e3; the value is 0 or
        infinite if the measure is smallest at one of these ends.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> line = dmft.Committee(z, 1)
    >>> dmft.optimal_ridge(dmft.Model(line, line, label_noise=0.25)).value
    0.25
    >>> model = dmft.Model(line, dmft.MultiIndex(sp.sign(z), [z]))
    >>> float(dmft.optimal_ridge(model))
    0.5707963267948967
    """
    if minimise not in MEASURES:
        raise BadParameter(f"minimise must be one of {', '.join(MEASURES)}, got {minimise!r}")
    label = label_of(model, "optimal_ridge", spectrum=True)
    is_squared = as_loss(loss, kept=()) == NAMED["squared"]
    is_same = is_squared and model.inputs is None and minimise == "test_loss"
    if is_same and _output_of(model) == PREDICTION:
        moments = LabelMoments.of(label)
        expr = moments.optimal_ridge
        value = float(expr)
        error = 0.0 if not moments.error else 4.0 * moments.error * (1.0 + value) ** 2
        proof = "quadrature" if moments.error else "closed form"
        return OptimalRidge(value, error, proof, str(expr))
    if samples_per_dim is None:
        raise BadParameter(
            f"the ridge that minimises {minimise} depends on samples_per_dim here: pass it"
        )

    def measure(log_ridge: float) -> float:
        value = getattr(erm(model, loss, samples_per_dim, math.exp(log_ridge)), minimise)
        if value is None:
            raise BadParameter("error_rate is defined for labels +1 and -1")
        return float(value)

    ends = (math.log(LEAST_RIDGE), math.log(LARGEST_RIDGE))
    found = minimize_scalar(measure, bounds=ends, method="bounded", options={"xatol": RESOLVED})
    for end, limit in zip(ends, (0.0, math.inf), strict=True):
        if measure(end) <= found.fun:
            return OptimalRidge(limit, abs(limit - math.exp(end)), "quadrature", str(sp.S(limit)))
    value = math.exp(found.x)
    # A minimum is flat: values known to e say where it is to the root of e.
    part = max(2.0 * RESOLVED, math.sqrt(WANTED))
    digits = 1 - math.floor(math.log10(part))  # rounding is below the error
    return OptimalRidge(value, part * value, "quadrature", str(sp.Float(value, digits)))
