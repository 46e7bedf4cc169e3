"""What an escape formula reads off the equations of motion at the uninformative point."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.derive import derive
from dmft.equations.escape.uninformative import OTHER, STUDENT, TEACHER, Uninformative, mu, q
from dmft.errors import BadParameter, NotClosed
from dmft.model import (
    FIELD,
    SGD,
    Committee,
    GradientFlow,
    Model,
    check_identity,
    check_unflipped,
)
from dmft.model.algorithm import refuse

# Powers of the overlap looked at for functions that are no polynomials.
ORDER = 8
# Degree of the polynomials whose series is taken to its end.
LARGEST_DEGREE = 12


@dataclass(frozen=True)
class Facts:
    """Rates of one overlap mu and of the length q while all other overlaps vanish.

    `drift` dM_jr/dt and `risk` are polynomials in mu = M_jr; `ends` is true if they are exact
    for one neuron, not the beginning of a series. `length_rate` is dq/dt at mu = 0 (0 on the
    sphere), `noise` d times the growth of the variance of M_jr per unit t by the noise of the
    samples at mu = 0. The teacher of `model`, of one field, is written as a committee.
    """

    model: Model
    algorithm: SGD | GradientFlow
    drift: sp.Expr
    ends: bool
    length_rate: sp.Expr
    risk: sp.Expr
    noise: sp.Expr

    @property
    def widths(self) -> tuple[sp.Expr, sp.Expr]:
        """P and k."""
        return self.model.student.width, self.model.teacher.width

    @property
    def single(self) -> bool:
        """One student and one teacher unit."""
        return self.widths == (1, 1)

    @property
    def sphere(self) -> bool:
        """Whether the students keep their length."""
        return self.algorithm.on_sphere

    @property
    def flow(self) -> sp.Expr:
        """Drift of gradient flow."""
        return sp.expand(self.drift.subs(x.gamma, 0))

    @property
    def exponent(self) -> int:
        """Smallest power of mu in the gradient-flow drift, plus one."""
        powers = [n for (n,) in sp.Poly(self.flow, mu).monoms()] if self.flow != 0 else []
        if not powers:
            seen = "at all" if self.ends and self.single else "up to the order looked at"
            raise BadParameter(
                f"the drift of the overlap vanishes {seen}: student and teacher have no "
                "nonzero coefficients E[sigma He_l] of the same order, and nothing is learned from "
                "a random start"
            )
        return min(powers) + 1


def read_facts(model: Model, algorithm: SGD | GradientFlow) -> Facts:
    """Derive the equations and evaluate them around M = 0, Q = q I, P = I."""
    model = as_committees(model)
    _check_algorithm(algorithm)
    check_plain(algorithm, "escape formulas")
    readouts = tuple(_common_readout(c, name) for c, name in _networks(model))
    equations = derive(model, algorithm)
    widths = (model.student.width, model.teacher.width)
    degree = _degree(model)
    ends = widths == (1, 1) and degree is not None
    point = Uninformative(
        definitions=equations.definitions,
        widths=widths,
        length=sp.S.One if algorithm.on_sphere else q,
        order=(degree if ends and degree else ORDER) if widths == (1, 1) else 2,
        readouts=(readouts[0], readouts[1]),
    )
    try:
        drift = point.rate("M", STUDENT, TEACHER)
        if widths != (1, 1):
            # Beyond the first power other overlaps take part.
            drift = sp.Add(*(drift.coeff(mu, n) * mu**n for n in range(2)))
            _check_decoupled(point, widths)
        resting = point.rate("Q", STUDENT, STUDENT).subs(mu, 0)
        return Facts(
            model=model,
            algorithm=algorithm,
            drift=drift,
            ends=ends,
            length_rate=sp.expand(resting),
            risk=point.rate("risk"),
            noise=_noise(point, algorithm, drift.subs(mu, 0)),
        )
    except NotClosed as error:
        raise BadParameter(f"{error}; for free lengths {INSTEAD}") from error


def _check_algorithm(algorithm: SGD | GradientFlow) -> None:
    if algorithm.trains_readout:
        raise BadParameter(f"no escape formula while the readout is trained; {INSTEAD}")
    if not algorithm.is_flow and algorithm.repeat is not None:
        raise BadParameter(f"no escape formula with repeat = {algorithm.repeat}; {INSTEAD}")


def _networks(model: Model) -> tuple[tuple[Committee, str], tuple[Committee, str]]:
    assert isinstance(model.teacher, Committee)
    return (model.student, "student"), (model.teacher, "teacher")


def _common_readout(network: Committee, name: str) -> sp.Expr:
    values = set(network.readout or (sp.S.One,))
    if len(values) > 1:
        raise BadParameter(
            f"an escape formula needs one readout for all units, the {name} has "
            f"{list(network.readout or ())}; {INSTEAD}"
        )
    return values.pop()


def _degree(model: Model) -> int | None:
    """Power of mu at which the series of polynomial networks end, None for others."""
    activations = [network.activation for network, _ in _networks(model)]
    if not all(f.is_polynomial(FIELD) for f in activations):
        return None
    degrees = [sp.degree(f, FIELD) for f in activations]
    # The quadratic term holds sigma'^2 (sigma* - sigma)^2, the sphere one more power.
    last = int(2 * max(degrees) + 1)
    return last if max(degrees) <= LARGEST_DEGREE else None


def _check_decoupled(point: Uninformative, widths: tuple[sp.Expr, sp.Expr]) -> None:
    """Refuse where neurons do not start to learn one by one."""
    reasons = []
    if widths[0] != 1:
        if point.rate("Q", STUDENT, OTHER).subs(mu, 0) != 0:
            reasons.append("orthogonal students do not stay orthogonal (E[sigma'] is not zero)")
        elsewhere = replace(point, pair=(OTHER, TEACHER), known={})
        if elsewhere.rate("M", STUDENT, TEACHER) != 0:
            reasons.append("the overlap of one student moves the others")
    if widths[1] != 1:
        elsewhere = replace(point, pair=(STUDENT, ("t", 1)), known={})
        if elsewhere.rate("M", STUDENT, TEACHER) != 0:
            reasons.append("the overlap with one teacher unit changes the overlaps with others")
    if reasons:
        raise BadParameter(
            f"M = 0, Q = q I is not where this model starts to learn: {'; '.join(reasons)}; "
            f"{INSTEAD}, or use dmft.fixed_points and dmft.stability for its plateau"
        )


def _noise(point: Uninformative, algorithm: SGD | GradientFlow, mean: sp.Expr) -> sp.Expr:
    """Variance of psi_j h*_r times gamma/(p n_b): the quadratic term with h*_r^2 in its average."""
    if algorithm.is_flow:
        return sp.S.Zero
    weighted = replace(point, order=0, weight=((FIELD**2, TEACHER),), known={})
    square = [weighted.term(name, STUDENT, STUDENT) for name in ("sgd_noise", "label_noise")]
    step = x.gamma / (point.widths[0] * algorithm.batch_size)
    return sp.expand(sp.Add(*square).subs(mu, 0) - step * mean**2)


INSTEAD = "integrate the equations instead: dmft.escape_time(dmft.derive(model, algorithm), ...)"


def check_batch(algorithm: SGD | GradientFlow) -> None:
    """Refuse batches that grow with the dimension."""
    if not algorithm.is_flow and isinstance(algorithm.batch_size, sp.Expr):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension: its steps are a "
            "map, not a flow; iterate dmft.derive(model, algorithm, dim=...)"
        )


def check_plain(algorithm: SGD | GradientFlow, what: str) -> None:
    """Refuse losses and optimisers for which there is no closed form."""
    refuse(algorithm, "escape")
    check_batch(algorithm)
    if not isinstance(algorithm.loss, str):
        raise BadParameter(
            f"{what} support the squared and the correlation loss, got loss = "
            f"{algorithm.loss}; solve the equations: dmft.solve(dmft.derive(model, algorithm), "
            "...)"
        )
    if not algorithm.is_plain:
        raise BadParameter(
            f"{what} support plain SGD and its flow, got {algorithm.rule!r}; {INSTEAD}"
        )


def as_committees(model: Model) -> Model:
    """A teacher that is a function of one field, as a committee of one unit."""
    if model.reads_sequences:
        raise BadParameter(f"escape formulas support committees, not sequences; {INSTEAD}")
    check_identity(model, "escape formulas are derived")
    check_unflipped(model, "escape formulas are derived")
    teacher = model.teacher
    if teacher.activation is not None:
        return model
    ((expr, fields),) = teacher.functions
    if len(fields) > 1:
        raise BadParameter(
            f"an escape formula needs a committee or one teacher field, the target has "
            f"{list(fields)}; {INSTEAD}"
        )
    link = expr.xreplace({fields[0]: FIELD})
    return replace(model, teacher=Committee(link, 1, field=FIELD))
