"""Largest learning rates at which what has been learned stays learned."""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from dmft.checks import checked
from dmft.equations import symbols as x
from dmft.equations.escape.recovery import recovery
from dmft.equations.escape.scope import as_committees, check_plain
from dmft.errors import BadParameter, NotClosed
from dmft.model import SGD, Committee, GradientFlow, Model, SequenceModel


@checked
def maximal_learning_rate(model: Model, algorithm: SGD) -> sp.Expr:
    r"""Largest learning rate gamma at which the perfect solution is stable under one-pass SGD.

    Equation    V = E[(h* - h)(h* - h)^T] obeys a closed linear equation while it is small; gamma is
                where its leading eigenvalue vanishes. On the sphere the constraint moves V by
                products of V only, so the boundary is the same; p students of one teacher unit
                become equal, and their boundary is p times that of one
    Scaling     gamma of `SGD(learning_rate)`; gamma / p multiplies the gradient
    Valid for   matched committees, P = I, unit readouts; p = k, on the sphere also k = 1 with any
                p. Exact without label noise. Label noise shifts the solution by its own order; for
                one neuron on the sphere whose overlap obeys dm/dt = m (Lambda - A m^2) the shift is
                taken whole: what is learned vanishes at Lambda = 0. Sequence models whose target is
                the student's function, without label noise: 2 n_b E|J|^2 / E|J^T J|^2
    Source      one_pass.md F.1, G.1; sequence.md C.8; derivations/escape_formulas.py

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
    """Largest learning rate at which the perfect solution is stable; its numbers exact or floats.

    Raises
    ------
    BadParameter, NotClosed
    """
    if isinstance(model, SequenceModel):
        from dmft.equations.sequence.limits import perfect_learning_rate

        return perfect_learning_rate(model, algorithm)
    if isinstance(algorithm, SGD) and algorithm.repeat is not None:
        raise BadParameter(
            f"the perfect solution is linearised for one gradient a sample, not with repeat = "
            f"{algorithm.repeat}: solve the equations from near it instead"
        )
    if isinstance(algorithm, SGD):
        check_plain(algorithm, "maximal learning rates")
    on_sphere = isinstance(algorithm, SGD) and algorithm.on_sphere
    if not (on_sphere and isinstance(model, Model)):
        return recovery(model, algorithm, exact=exact).maximal_learning_rate
    model = as_committees(model)
    free = replace(algorithm, constraint=None)
    student, teacher = model.student, model.teacher
    assert isinstance(teacher, Committee)
    if teacher.width != 1:
        return recovery(model, free, exact=exact).maximal_learning_rate
    if any(a != 1 for a in student.readout or ()):
        raise BadParameter(
            f"perfect recovery is linearised at unit readouts, student has {student.readout}"
        )
    one = replace(model, student=Committee(student.activation, 1))
    whole = _whole_limit(one, algorithm) if student.width == 1 and model.label_noise != 0 else None
    return whole or student.width * recovery(one, free, exact=exact).maximal_learning_rate


def _whole_limit(model: Model, algorithm: SGD) -> sp.Expr | None:
    """With label noise, where the whole equation of one neuron is known."""
    from dmft.equations.escape.facts import read_facts
    from dmft.equations.escape.laws import law_of

    try:
        law = law_of(read_facts(model, algorithm))
    except BadParameter:
        return None
    if law.kind != "logistic" or law.maximal is None:
        return None
    return sp.factor(law.maximal.subs(x.Delta, model.label_noise))


def perfect_limit(
    model: Model, algorithm: SGD | GradientFlow, *, exact: bool = True
) -> sp.Expr | None:
    """`maximal_learning_rate`, or None for models without a perfect solution.

    With ``exact=False`` its numbers are floats, which takes milliseconds.
    """
    if not isinstance(algorithm, SGD) or algorithm.loss != "squared":
        return None
    try:
        return perfect_rate(model, algorithm, exact)
    except (BadParameter, NotClosed):
        return None
