r"""Number of steps against batch size: the exponents of weak recovery (theory/one_pass D.3).

With n_b = d^mu samples a step and overlaps m_0 ~ d^(-1/2) at the start, weak recovery of a target
of information exponent l takes of the order of d^theta steps. The learning rate eta = gamma/d is
limited by the noise of the sampled gradient (it inflates the rows by eta^2 (d/n_b) V m / 2 a step,
which must not beat eta c m^(l-1)) and, where the update holds the network's own output, by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.exponents.record import Exponent
from dmft.model import as_count
from dmft.record import InLatex, Shown
from dmft.summary import Summary
from dmft.typeset.fragment import align
from dmft.validation import checked

MU = sp.Symbol("mu", nonnegative=True)


@dataclass(frozen=True, repr=False)
class BatchExponents(InLatex, Shown):
    r"""Exponents of steps and samples as piecewise linear functions of mu = log_d n_b.

    Equation    steps ~ d^steps, samples ~ d^samples, eta_max = gamma_max / d ~ d^learning_rate
    Scaling     n_b = d^mu; m_0 ~ d^(-1/2); rows on the sphere; logarithms of d left out (l = 2)
    Valid for   weak recovery of one direction of information exponent l (leap l of a step) at the
                largest admissible learning rate; derived, and checked by iterating the maps
    Source      theory/one_pass D.3; derivations/large_batches.py

    Attributes
    ----------
    exponent : int
        Information exponent l.
    loss : "squared" or "correlation"
    mu : sympy.Symbol
    steps, samples, learning_rate : sympy.Expr
        Exponents as functions of mu.
    optimal_batch : sympy.Rational
        Largest mu for which the number of samples is as small as with small batches.
    one_step : sympy.Integer
        Value of mu above which one step suffices under the correlation loss, because its signal
        exceeds the noise.
    regions : tuple of ((mu_low, mu_high), str)
        Limiting factor of the number of steps in each interval of mu.

    Examples
    --------
    >>> import dmft
    >>> found = dmft.batch_exponents(3)
    >>> found.samples, found.regions[0][0]
    (mu + Max(1/2, 2 - mu), (0, 3/2))
    """

    exponent: int
    loss: str
    mu: sp.Symbol
    steps: sp.Expr
    samples: sp.Expr
    learning_rate: sp.Expr
    optimal_batch: sp.Expr
    one_step: sp.Expr
    regions: tuple[tuple[tuple[sp.Expr, sp.Expr], str], ...]

    def _summary(self) -> Summary:
        def power(value: sp.Expr) -> str:
            return f"$d^{{{sp.latex(value)}}}$"

        optimal = rf"$\mu = {sp.latex(self.optimal_batch)}$"
        regions = (
            (rf"${sp.latex(a)} \le \mu < {sp.latex(b)}$", "", text) for (a, b), text in self.regions
        )
        return Summary(
            f"Weak recovery at information exponent {self.exponent} with the {self.loss} loss and "
            r"batches of $n_b = d^\mu$ samples",
            (
                ("steps", power(self.steps), ""),
                ("samples", power(self.samples), "steps times $n_b$"),
                (r"$\eta_{max}$", power(self.learning_rate), r"largest $\eta = \gamma/d$"),
                ("largest batch", optimal, "that wastes no sample"),
                *regions,
            ),
        )

    def at(self, mu: Any) -> tuple[sp.Expr, sp.Expr]:
        """Return the exponents of steps and of samples at one mu.

        Parameters
        ----------
        mu : number
            Exponent mu >= 0 of the batch size n_b = d^mu.

        Returns
        -------
        (sympy.Expr, sympy.Expr)
            Powers of d of steps and of samples.

        Examples
        --------
        >>> import dmft
        >>> dmft.batch_exponents(3).at(1)
        (1, 2)
        """
        value = sp.nsimplify(sp.sympify(mu, strict=True))
        if value.is_number and not value >= 0:
            raise BadParameter(f"mu = log_d n_b must not be negative, got {mu!r}")
        return self.steps.subs(self.mu, value), self.samples.subs(self.mu, value)

    def latex(self) -> str:
        """LaTeX of the exponents (an amsmath `align*` environment)."""
        rows = [
            (r"\log_d(\text{steps})", self.steps),
            (r"\log_d(\text{samples})", self.samples),
            (r"\log_d \eta_{\max}", self.learning_rate),
            (r"\mu_{\mathrm{opt}}", self.optimal_batch),
        ]
        return align([f"{name} &= {sp.latex(value)}" for name, value in rows])


@checked
def batch_exponents(
    exponent: int | Exponent, loss: Literal["squared", "correlation"] = "squared"
) -> BatchExponents:
    r"""Compute the exponents of steps and samples as functions of the batch size n_b = d^mu.

    Equation    steps: max(l - 1 - mu, l/2 - 1) for the squared loss, max(l - 1 - mu, 0) for the
                correlation loss; max(1 - mu, 0) at l = 1
    Scaling     as in `BatchExponents`
    Source      theory/one_pass D.3

    Parameters
    ----------
    exponent : int or Exponent
        Information exponent l >= 1 (`dmft.information_exponent`), or the leap of a step.
    loss : "squared" or "correlation"

    Returns
    -------
    BatchExponents
        Exponents as functions of mu, the optimal batch size, and the regions of mu.

    Examples
    --------
    >>> import dmft
    >>> plain, correlation = dmft.batch_exponents(3), dmft.batch_exponents(3, "correlation")
    >>> plain.steps, plain.optimal_batch
    (Max(1/2, 2 - mu), 3/2)
    >>> correlation.steps, correlation.optimal_batch
    (Max(0, 2 - mu), 2)
    """
    order = sp.Integer(as_count(getattr(exponent, "value", exponent), "exponent"))
    if loss not in ("squared", "correlation"):
        raise BadParameter(f'loss must be "squared" or "correlation", got {loss!r}')
    own = loss == "squared"
    noise = MU - sp.Max(order / 2, 1)
    floor = sp.Max(order / 2 - 1, 0) if own else sp.S.Zero
    small = sp.Max(order - 1, 1)
    steps = sp.Max(small - MU, floor)
    best = small - floor
    return BatchExponents(
        exponent=int(order),
        loss=loss,
        mu=MU,
        steps=steps,
        samples=steps + MU,
        learning_rate=sp.Min(noise, 0) if own else noise,
        optimal_batch=best,
        one_step=order,
        regions=_regions(order, own, best),
    )


def _regions(
    order: sp.Integer, own: bool, best: sp.Expr
) -> tuple[tuple[tuple[sp.Expr, sp.Expr], str], ...]:
    noisy = ((sp.S.Zero, best), "gradient noise limits the rate: fewer steps, as many samples")
    if own and order > 2:
        return (noisy, ((best, sp.oo), "the network's own output limits the rate: samples wasted"))
    if own:
        return (noisy, ((best, sp.oo), "a number of steps of order one (log d): samples wasted"))
    last = ((order, sp.oo), "one step is enough")
    few = ((best, order), "a number of steps that grows slower than any power: samples wasted")
    return (noisy, few, last) if best < order else (noisy, last)
