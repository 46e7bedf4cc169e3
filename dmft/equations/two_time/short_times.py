r"""The first two steps of descent on repeated data: from two-time equations to Gaussian integrals.

At t = 0 and 1 the process of a sample needs no history but its own first gradient, so that every
average is an integral over the teacher's fields, two Gaussian vectors and the label noise. What is
here is the general system at these times: sums over time written out, R_theta(1, 0) inserted. At
t = 1 the part of r^1 that is new is averaged in closed form.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.definitions import Definition
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.descent_process import (
    SYMMETRIC,
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
from dmft.equations.two_time.short_integrals import (
    Number,
    ShortIntegrals,
    average,
    combined,
    rational,
    times_inverse,
)
from dmft.equations.two_time.short_terms import at_times
from dmft.equations.views.latex import definition_latex
from dmft.equations.views.text import model_names
from dmft.errors import BadParameter, NotClosed
from dmft.explanation.steps import Explained, Explanation
from dmft.gaussian.closed.bivariate import BivariateNormalCDF
from dmft.gaussian.closed.orthant import FourSigns
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.nodes.grid import evaluator
from dmft.gaussian.nodes.rules import scrambled_sobol, to_normal
from dmft.model import Overlaps
from dmft.names import VERSION, Status
from dmft.record import InLatex, Short, in_full
from dmft.solvers.solution import Values
from dmft.solvers.two_time.run import DescentRun
from dmft.typeset.fragment import align
from dmft.typeset.plain import plain_text
from dmft.validation import checked_or

if TYPE_CHECKING:
    from dmft.equations.two_time.descent import DescentEquations
    from dmft.model import Overlaps
    from dmft.solvers.two_time.run import DescentRun

# Points and displacement that measure how an integral depends on inexact numbers of the first
# step, and what this measure may miss.
PILOT, DISPLACED, MARGIN = 4096, 1e-3, 2.0
INTEGRALS = (BivariateNormalCDF, FourSigns)


class SecondStep:
    """Averages over a sample at t = 1, once the first step is closed.

    Numbers of the first step that carry an error stay symbols until an integral is taken, so that
    their errors can be carried to it.
    """

    def __init__(self, integrals: ShortIntegrals) -> None:
        self.of = integrals
        p = integrals.p
        numbers = integrals.numbers
        self.open: dict[sp.Symbol, Number] = {}
        self.mean_entries = {
            key: self._held(number)
            for key, number in numbers.items()
            if key[0] in ("M_at", "readout_at", "R_theta") and key[1][0] == 1
        }
        C00, C10, C11 = (integrals.matrix("C_theta", y) for y in ((0, 0), (1, 0), (1, 1)))
        E10, E11 = (integrals.errors("C_theta", y, (p, p)) for y in ((1, 0), (1, 1)))
        B, S = C10 * C00.inv(), C11
        error_B = E10 @ np.abs(np.array(C00.inv().tolist(), dtype=float))
        if integrals.fresh:
            B, error_B = sp.zeros(p, p), 0 * error_B
        else:
            S = C11 - B * C10.T
            size = np.abs(np.array(B.tolist(), dtype=float))
            E11 = E11 + size @ E10.T + error_B @ np.abs(np.array(C10.tolist(), dtype=float)).T
        S = (S + S.T) / 2
        self.C00, self.C10, self.S_value = C00, C10, S
        self.B = sp.Matrix(p, p, lambda a, b: self._held(Number(B[a, b], error_B[a, b])))
        rows = [
            [self._held(Number(S[a, b], E11[a, b]), a == b) if b <= a else None for b in range(p)]
            for a in range(p)
        ]
        self.S = sp.Matrix(p, p, lambda a, b: rows[max(a, b)][min(a, b)])
        self.sample = integrals.sample(1, integrals.h, self.mean_entries)
        self.mu = sp.symbols(f"mu1:{p + 1}", real=True, cls=sp.Dummy)
        self.closed_forms: dict[sp.Expr, sp.Expr | None] = {}

    def _held(self, number: Number, positive: bool | None = None) -> sp.Expr:
        """The number if it is exact, otherwise a symbol for it."""
        if number.error == 0:
            return number.value
        symbol = sp.Dummy("c", real=True, positive=positive or None)
        self.open[symbol] = number
        return symbol

    def means(self, weight: float) -> list[sp.Expr]:
        """What h^1 has as its mean given h*, r^0 and zeta, where g^0 counts `weight` times."""
        of = self.of
        h = [of.field(0, j, of.r, ()) for j in range(of.p)]
        first = of.sample(0, h)["g"]
        g = [rational(weight) * e.xreplace({of.y: self.sample["label"]}) for e in first]
        r = list(self.B * sp.Matrix(of.r))
        return [of.field(1, j, r, g, self.mean_entries) for j in range(of.p)]

    def without_noise(self, integrand: sp.Expr) -> sp.Expr | None:
        """Average of a function of h^1, mu and the label over w; None without a closed form."""
        if integrand not in self.closed_forms:
            law = Gaussian(self.of.h, self.S, mean=self.mu)
            value = None
            with suppress(NotClosed):
                value = law.expect(sp.expand(integrand))
            # An orthant under a mean is an integral itself: better taken with the others.
            self.closed_forms[integrand] = None if value and value.has(*INTEGRALS) else value
        return self.closed_forms[integrand]

    def integral(self, integrand: sp.Expr, factor: sp.Expr = sp.S.One, power: int = 1) -> Number:
        """E[(s^1)^power integrand(h^1, y) factor(h*, r^0)], summed over the masks."""
        first = operator.itemgetter(1)
        parts: list[tuple[Number, sp.Expr]] = []
        for s0, group in itertools.groupby(sorted(self.of.masks, key=first), key=first):
            chance = sum(c * s1**power for c, _, s1 in group)
            if chance:
                parts.append((self._given(integrand, factor, s0), rational(chance)))
        return combined(parts)

    def with_first(self, integrand: sp.Expr, j: int) -> Number:
        """E[s^1 integrand(h^1, y) s^0 g_j^0]."""
        of = self.of
        h = [of.field(0, m, of.r, ()) for m in range(of.p)]
        g = of.sample(0, h)["g"][j].xreplace({of.y: self.sample["label"]})
        parts = [
            (self._given(integrand, g, s0), rational(c * s0 * s1))
            for c, s0, s1 in of.masks
            if s0 * s1
        ]
        return combined(parts)

    def _given(self, integrand: sp.Expr, factor: sp.Expr, s0: float) -> Number:
        """The integral where g^0 counts s0 times."""
        of = self.of
        at_mean = dict(zip(self.mu, self.means(s0), strict=True))
        inside = self.without_noise(integrand)
        fields = [*of.r, *of.star, of.zeta]
        blocks = [self.C00, sp.Matrix(of.start.P.tolist()).applyfunc(rational), sp.eye(1)]
        if inside is None:
            new = self.S.cholesky(hermitian=False) * sp.Matrix(of.w)
            noisy = {h: m + w for h, m, w in zip(of.h, self.mu, new, strict=True)}
            inside = integrand.xreplace(noisy)
            fields, blocks = [*fields, *of.w], [*blocks, sp.eye(of.p)]
        cov = sp.diag(*blocks)
        value = inside.xreplace(at_mean).xreplace({of.y: self.sample["label"]}) * factor
        used = [i for i, y in enumerate(fields) if value.has_free(y)] or [0]
        fields, cov = [fields[i] for i in used], cov.extract(used, used)
        numbers = {symbol: n.value for symbol, n in self.open.items()}
        number = average(Gaussian(fields, cov), value.xreplace(numbers), of.rtol)
        return Number(number.value, number.error + self._carried(value, fields, cov))

    def _carried(self, value: sp.Expr, fields: Sequence[sp.Symbol], cov: sp.Matrix) -> float:
        """Error of an integral by the errors of numbers of the first step."""
        open_numbers = [y for y in self.open if value.has_free(y)]
        if not open_numbers:
            return 0.0
        cube = scrambled_sobol(len(fields), PILOT, np.random.SeedSequence(0))
        values, vectors = np.linalg.eigh(np.array(cov.tolist(), dtype=float))
        points = (vectors * np.sqrt(np.maximum(values, 0.0))) @ to_normal(cube)
        function = evaluator(value, [*open_numbers, *fields])

        def at(displaced: int | None) -> np.ndarray:
            rows = [
                np.full(PILOT, float(self.open[y]) + (DISPLACED if i == displaced else 0.0))
                for i, y in enumerate(open_numbers)
            ]
            return function(np.vstack([*rows, points]))

        here = at(None)
        slopes = [np.mean(np.abs(at(i) - here)) / DISPLACED for i in range(len(open_numbers))]
        errors = [self.open[y].error for y in open_numbers]
        return MARGIN * float(np.dot(slopes, errors))


def second_averages(integrals: ShortIntegrals) -> dict[str, Any]:
    """Everything that `ShortIntegrals.close` needs at t = 1."""
    step, p = SecondStep(integrals), integrals.p
    g, h, mu = step.sample["g"], integrals.h, step.mu
    star = [second_gradients(step, j) for j in range(p)]
    pairs = {(j, m): step.integral(g[j] * g[m], power=2) for j in range(p) for m in range(j + 1)}
    own = [[step.integral(g[j] * (h[m] - mu[m])) for m in range(p)] for j in range(p)]
    now = times_inverse(own, step.S_value)
    nothing = [[Number(sp.S.Zero, 0.0)] * p for _ in range(p)]
    first, before = nothing, nothing
    if not integrals.fresh:
        first = [[step.with_first(g[j], m) for m in range(p)] for j in range(p)]
        # E[g^1 r^0] = R(1, 0) C(0, 0) + R(1, 1) C(1, 0)
        with_old = [
            [
                combined(
                    [
                        (step.integral(g[j], integrals.r[m]), sp.S.One),
                        *((now[j][n], -step.C10[n, m]) for n in range(p)),
                    ]
                )
                for m in range(p)
            ]
            for j in range(p)
        ]
        before = times_inverse(with_old, step.C00)
    return {
        "star": star,
        "corr": [first, [[pairs[max(j, m), min(j, m)] for m in range(p)] for j in range(p)]],
        "resp": [before, now],
        "train": step.integral(step.sample["loss"], power=0),
        "pull": [step.integral(e) for e in step.sample["pull"]],
    }


def second_gradients(step: SecondStep, j: int) -> list[Number]:
    """E[s^1 g_j^1 h_r^*] for each teacher field."""
    return [step.integral(step.sample["g"][j], u) for u in step.of.star]


def first_steps(
    equations: DescentEquations,
    definitions: Sequence[Definition],
    start: Overlaps,
    steps: int,
    rtol: float,
    parameters: Mapping[str, Any],
) -> DescentRun:
    """The run of `ShortTimes.evaluate`."""
    if steps not in (1, 2):
        raise BadParameter(f"steps must be 1 or 2 (solve takes more), got {steps!r}")
    began = time.monotonic()
    found = ShortIntegrals(equations, definitions, start, rtol, parameters)
    found.close(0, found.first)
    losses = [found.first["train"]]
    if steps == 2:
        second = second_averages(found)
        losses.append(second["train"])
        found.close(1, second)
    return _record(found, steps, losses, time.monotonic() - began)


def _record(
    found: ShortIntegrals, steps: int, losses: Sequence[Number], seconds: float
) -> DescentRun:
    """Arrays and errors as a `DescentRun`."""
    p, k, start = found.p, found.k, found.start
    n = steps + 1
    values: dict[str, Array] = {}
    errors: dict[str, Array] = {}
    for into, of in ((values, found.array), (errors, found.errors)):
        M = np.stack([of("M_at", (t,), (p, k)) for t in range(n)])
        kernel = _kernel(of, "C_theta", n, p)
        pull = np.linalg.pinv(start.P)
        if into is values:
            Q2 = kernel + np.einsum("tjr,rq,slq->tsjl", M, pull, M)
        else:
            size = np.abs(np.einsum("tjr,rq->tjq", values["M"], pull))
            cross = np.einsum("tjr,slr->tsjl", size, M)
            Q2 = kernel + cross + cross.transpose(1, 0, 3, 2)
        into |= {"M": M, "Q": Q2[np.arange(n), np.arange(n)], "Q2": Q2}
        into |= {"corr": _kernel(of, "C_l", steps, p), "resp": _kernel(of, "R_l", steps, p)}
        into["readout"] = np.stack([of("readout_at", (t,), (p,)) for t in range(n)])
    values["train_loss"] = np.array([float(y) for y in losses])
    errors["train_loss"] = np.array([y.error for y in losses])
    equations = found.equations
    how = f"Gaussian integrals, closed forms and quadrature at rtol = {found.rtol:.0e}"
    return DescentRun(
        t=np.arange(n, dtype=float),
        arrays=Values(values),
        error=Values(errors),
        status=Status.OK,
        message=how,
        statistics={"seconds": seconds},
        parameters=dict(found.scalars),
        provenance={
            "equations": equations.fingerprint, "version": VERSION, "kind": "two-time",
            "time_unit": "steps", "method": how, "model": in_full(equations.model),
            "fresh": found.fresh, "algorithm": str(equations.algorithm), "approximation": how,
        },
    )  # fmt: skip


def _kernel(of: Callable[..., Array], base: str, times: int, p: int) -> Array:
    """Entries of a kernel at the first times."""
    full = np.zeros((times, times, p, p))
    for t in range(times):
        for s in range(t + 1):
            full[t, s] = of(base, (t, s), (p, p))
            if base in SYMMETRIC:
                full[s, t] = full[t, s].T
    return full


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

    source = "dandi_2024_reusing"  # key of the bibliography

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
