r"""The first two steps of descent on repeated data: from two-time equations to Gaussian integrals.

At t = 0 and 1 the process of a sample needs no history but its own first gradient, so that every
average is an integral over the teacher's fields, two Gaussian vectors and the label noise. What is
here is the general system at these times: sums over time written out, R_theta(1, 0) inserted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.equations.definitions import Definition
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.descent_process import (
    C_free,
    C_theta,
    G_free,
    M,
    M_free,
    Q,
    Q_free,
    R_free,
    R_theta,
    TwoTimePrinter,
    field_at,
    readout,
)
from dmft.equations.two_time.short_terms import at_times
from dmft.equations.views.latex import definition_latex
from dmft.equations.views.text import model_names
from dmft.errors import BadParameter
from dmft.explanation.steps import Explained, Explanation
from dmft.record import InLatex, Short
from dmft.typeset.fragment import align
from dmft.typeset.plain import plain_text
from dmft.validation import checked_or

if TYPE_CHECKING:
    from dmft.equations.two_time.descent import DescentEquations
    from dmft.model import Overlaps
    from dmft.solvers.two_time.run import DescentRun


@dataclass(frozen=True, repr=False)
class ShortTimes(InLatex, Explained, Short):
    """First two steps of gradient descent in closed form.

    Attributes
    ----------
    equations : DescentEquations
    definitions : tuple of Definition
        Fields, overlaps and kernels at t = 0, 1, 2, in order, for any units j, l.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=1)
    >>> eqs = dmft.derive(dmft.Model(erf, erf), dmft.GradientDescent(0.3, samples_per_dim=3))
    >>> [str(d.target) for d in dmft.short_times(eqs).definitions][:3]
    ['h_at[0, j]', 'M_at[1, j, r]', 'R_theta[1, 0, j, l]']
    """

    equations: DescentEquations
    definitions: tuple[Definition, ...]

    def _explanation(self) -> Explanation:
        """From weights and samples to M after the first step."""
        from dmft.equations.explained.risk import RTOL, explain_first_step

        def moved(start: Overlaps, values: Mapping[str, float]) -> float:
            return float(self.evaluate(start, 1, rtol=RTOL, **values).M[1, 0, 0])

        return explain_first_step(self.equations, moved)

    def _in_words(self) -> str:
        count = len(self.definitions)
        return f"{count} definitions up to the second step; {self.equations.algorithm!r}"

    def latex(self) -> str:
        """Return the fields and recursions at the first times as LaTeX."""
        printer = TwoTimePrinter(model_names(self.equations.model))
        lines = [
            line
            for d in self.definitions
            for line in definition_latex(Definition(d.target, d.terms, "intermediate"), printer)
        ]
        law = [
            r"(r^0, r^1) &\sim \mathcal{N}\left(0, \begin{pmatrix} C^{\theta}(0, 0) &"
            r" C^{\theta}(0, 1) \\ C^{\theta}(1, 0) & C^{\theta}(1, 1) \end{pmatrix}\right),"
            r"\quad h^* \sim \mathcal{N}(0, P)"
        ]
        return "\n".join([align(lines), align(law)])

    def __str__(self) -> str:
        return plain_text(self.latex())

    def evaluate(
        self, start: Overlaps, steps: int = 2, *, rtol: float = 1e-9, **parameters: Any
    ) -> DescentRun:
        r"""Evaluate overlaps, kernels and losses of the first steps, with error estimates.

        Equation    closed forms where `Gaussian.expect` has them, else `Gaussian.quad`
        Shapes      as for a `DescentRun` with T = steps
        Valid for   any student and target that `quad` integrates: k + 2p fields, k + p where the
                    last step's noise is averaged in closed form; errors of the first step are
                    carried to the second
        Source      theory/batch_reuse B.1

        Parameters
        ----------
        start : Overlaps
            Initial overlaps. Q - M P^+ M^T must not be singular.
        steps : 1 or 2
        rtol : float
            Requested relative error of each integral.
        **parameters
            Run-time values, as for `dmft.solve`.

        Returns
        -------
        DescentRun
            Run of one or two steps.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> square = dmft.Committee(z**2, width=1)
        >>> model = dmft.Model(square, dmft.MultiIndex(z**2 - 1, [z]))
        >>> short = dmft.short_times(dmft.derive(model, dmft.GradientDescent(0.3, 3)))
        >>> run = short.evaluate(dmft.Overlaps([[1.0]], [[0.1]]))
        >>> run.M[:, 0, 0].round(10).tolist(), bool(run.error.M.max() < 1e-12)
        ([0.1, -0.08, 143.205838336], True)
        """
        from dmft.equations.two_time.short_second import first_steps

        return first_steps(self.equations, self.definitions, start, steps, rtol, parameters)


@checked_or(equations="these are the two-time equations that dmft.GradientDescent has")
def short_times(equations: DescentEquations) -> ShortTimes:
    r"""Derive the first two steps of gradient descent on repeated data in closed form.

    Equation    h^1 = M^1 P^+ h* + r^1 - eta g^0(h^0, y), the memory of the same label;
                M^2 = (1 - eta ridge) M^1 - eta alpha E[g^1 h*^T]; on the sphere rows are divided
                by their lengths after each step, and -eta g^0 by the lengths after the first
    Shapes      symbolic in the neurons; `evaluate` needs numbers
    Valid for   d -> infinity at n = alpha d; batches (without replacement) and momentum
    Source      theory/batch_reuse A.1, B.1

    Parameters
    ----------
    equations : DescentEquations
        From `derive` with a `GradientDescent`.

    Returns
    -------
    ShortTimes
        Steps, which ``.evaluate(start, steps=1 or 2)`` evaluates up to rounding and ``.latex()``
        prints.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=1)
    >>> eqs = dmft.derive(dmft.Model(erf, erf), dmft.GradientDescent(0.3, samples_per_dim=3))
    >>> run = dmft.short_times(eqs).evaluate(dmft.Overlaps([[1.0]], [[0.0]]), steps=1)
    >>> round(float(run.M[1, 0, 0]), 9)  # eta alpha / pi
    0.286478898
    """
    if equations.is_flow:
        raise BadParameter("short_times computes the first steps of a descent: a flow has no steps")
    if equations.model.inputs is not None:
        raise BadParameter(
            "short_times integrates over one Gaussian law; inputs are a mixture here: use "
            "dmft.solve"
        )
    algorithm = equations.algorithm
    if algorithm.batch == "replacement" or algorithm.temperature != 0:
        raise BadParameter(
            "short_times integrates over samples that a batch contains once or not at all; for "
            "batches with replacement and Langevin noise use dmft.solve"
        )
    process = {d.target.base: d for d in equations.process if isinstance(d.target, sp.Indexed)}
    wanted: list[tuple[sp.IndexedBase, tuple[int, ...]]] = [(field_at, (0,))]
    for step in (1, 2):
        # What a step leads to, before rows are divided by their lengths.
        wanted += [(M_free, (step,))]
        wanted += [(base, (step, b)) for base in (R_free, C_free) for b in range(step)]
        wanted += [(G_free, (step,)), (Q_free, (step,)), (M, (step,)), (readout, (step,))]
        wanted += [(base, (step, b)) for base in (R_theta, C_theta) for b in range(step + 1)]
        wanted += [(Q, (step, step)), (field_at, (step,))]
    result = [
        at_times(process[base], times, equations)
        for base, times in wanted[:-1]
        if base in process and not (base == R_theta and times[0] == times[1])
    ]
    return ShortTimes(equations, tuple(result))
