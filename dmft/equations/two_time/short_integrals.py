r"""Numbers of the first two steps: closed forms where there are any, quadrature with its error.

The first gradient depends on Gaussian fields alone. At the second step h^1 = mu + w, where mu
depends on h*, r^0 and the label, and w is the Gaussian part of r^1 that is independent of r^0: the
average over w is a closed form for most students, and one integral over (h*, r^0, zeta) is left.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, expanded
from dmft.equations.definitions import Definition
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.descent_process import (
    FREE,
    chosen,
    fraction,
    label,
    loss,
    output,
    zeta,
)
from dmft.equations.two_time.over_time import begun
from dmft.equations.two_time.short_terms import at_times
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.nodes.quadrature import AccuracyWarning, quadrature
from dmft.model import Overlaps

Key = tuple[str, tuple[int, ...]]
# A smallest eigenvalue of C_theta(0, 0), relative to its trace, below which Stein has no inverse.
SINGULAR = 1e-12


# Digits of numbers that enter an integrand.
DIGITS = 20
# Denominators beyond this make integers that no double holds.
SHORT = 10**6
KINKS = (sp.Max, sp.Min, sp.Abs, sp.sign, sp.Heaviside)
# Operations of an integrand from which kinks inside others are not looked at for a closed form.
LARGE = 150


@dataclass(frozen=True)
class Number:
    """A value, exact where it is a rational SymPy number, and its error."""

    value: sp.Expr
    error: float

    def __float__(self) -> float:
        return float(self.value)


def rational(value: float) -> sp.Expr:
    """The decimal number that a float is written as, where that is short; else the float."""
    exact = sp.Rational(repr(float(value)))
    return exact if exact.q <= SHORT else sp.Float(float(value), DIGITS)


def average(law: Gaussian, integrand: sp.Expr, rtol: float) -> Number:
    """E[integrand] in closed form, else by quadrature."""
    try:
        if _is_nested(integrand):
            raise NotClosed("kinks of several units inside those of others")
        value = law.expect(integrand)
    except NotClosed:
        # One integral of many terms is cheaper than many integrals.
        with warnings.catch_warnings():
            # What is known less well than asked for says so in its error.
            warnings.simplefilter("ignore", AccuracyWarning)
            number = quadrature(integrand, law.fields, law.cov, law.mean, {}, rtol, by_terms=False)
        return Number(sp.Float(float(number), DIGITS), number.error)
    # Closed forms are known to more digits than a float holds.
    return Number(value if value.is_Rational else sp.N(value, DIGITS), 0.0)


def _is_nested(integrand: sp.Expr) -> bool:
    """Whether kinks are inside others in so many terms that looking for a closed form is a wait."""
    if integrand.count_ops() < LARGE:
        return False
    return any(a.has(*KINKS) for e in integrand.atoms(*KINKS) for a in e.args)


def combined(row: Iterable[tuple[Number, sp.Expr]]) -> Number:
    """Sum of numbers times exact coefficients."""
    terms = list(row)
    value = sp.Add(*(n.value * c for n, c in terms))
    return Number(value, float(sum(n.error * abs(float(c)) for n, c in terms)))


def masks(batch: str | None, fraction: float) -> list[tuple[float, float, float]]:
    """Chances of the weights (s^0, s^1) of a sample in the first two steps."""
    b = fraction
    if batch == "bernoulli":
        return [(b * b, 1 / b, 1 / b), ((1 - b) * b, 0, 1 / b), (b * (1 - b), 1 / b, 0),
                ((1 - b) ** 2, 0, 0)]  # fmt: skip
    if batch == "reshuffle" and b < 1:
        return [(b, 1 / b, 0), (b, 0, 1 / b), (1 - 2 * b, 0, 0)]
    return [(1.0, 0.0, 1.0)] if batch == "fresh" else [(1.0, 1.0, 1.0)]


class ShortIntegrals:
    """Integrals of one start; `first` are those over the initial fields."""

    def __init__(
        self,
        equations: DescentEquations,
        definitions: Sequence[Definition],
        start: Overlaps,
        rtol: float,
        parameters: Mapping[str, Any],
    ) -> None:
        self.equations, self.definitions = equations, definitions
        self.rtol, self.start = rtol, start
        given, arrays = begun(equations, start, parameters, 1)
        self.p, self.k = start.p, start.k
        if given.varying:
            raise BadParameter(
                f"short_times takes numbers, got {parameters[next(iter(given.varying))]}: solve "
                "takes schedules"
            )
        self.scalars = given.scalars
        self.teacher_readout = arrays["teacher_readout"]
        self.widths = {x.p: self.p, x.k: self.k}
        free = {y for d in equations.definitions for y in d.expr.free_symbols}
        self.names: dict[sp.Basic, sp.Basic] = {
            y: rational(self.scalars[y.name]) for y in free if y.name in self.scalars
        }
        self.masks = masks(equations.algorithm.batch, self.scalars.get("batch_fraction", 1.0))
        self.h = sp.symbols(f"h1:{self.p + 1}", real=True, cls=sp.Dummy)
        self.r = sp.symbols(f"r1:{self.p + 1}", real=True, cls=sp.Dummy)
        self.w = sp.symbols(f"w1:{self.p + 1}", real=True, cls=sp.Dummy)
        self.star = sp.symbols(f"u1:{self.k + 1}", real=True, cls=sp.Dummy)
        self.zeta = sp.Dummy("zeta", real=True)
        self.y = sp.Dummy("y", real=True)
        self.numbers: dict[Key, Number] = {}
        pull = np.asarray(np.linalg.pinv(start.P), dtype=np.float64)
        self._fill("M_at", start.M, (0,))
        self._fill("P_inverse", pull, ())
        self._fill("C_theta", start.Q - start.M @ pull @ start.M.T, (0, 0))
        self._fill("readout_at", arrays["readout"], (0,))
        own = self.array("C_theta", (0, 0), (self.p, self.p))
        if np.linalg.eigvalsh(own)[0] <= SINGULAR * np.trace(own):
            raise BadParameter(
                "the start has student weights inside the span of the teacher: Q - M P^+ M^T is "
                "singular, and the response to it is not an average; change M or Q slightly"
            )

    def _fill(self, base: str, values: Array, times: tuple[int, ...]) -> None:
        for place, value in np.ndenumerate(values):
            key = (base, (*times, *(i + 1 for i in place)))
            self.numbers[key] = Number(rational(value), 0.0)

    def array(self, base: str, times: tuple[int, ...], shape: tuple[int, ...]) -> Array:
        """Known entries at these times, as floats."""
        return self._entries(base, times, shape, float)

    def errors(self, base: str, times: tuple[int, ...], shape: tuple[int, ...]) -> Array:
        """Errors of these entries."""
        return self._entries(base, times, shape, lambda number: number.error)

    def _entries(
        self, base: str, times: tuple[int, ...], shape: tuple[int, ...], of: Callable[..., float]
    ) -> Array:
        result = np.zeros(shape)
        for place in np.ndindex(*shape):
            result[place] = of(self.numbers[base, (*times, *(i + 1 for i in place))])
        return result

    def sample(
        self, t: int, h: Sequence[sp.Expr], held: Mapping[Key, sp.Expr] | None = None
    ) -> dict[str, Any]:
        """Gradient, loss and readout gradient of a sample with the label `self.y` and fields h.

        `held` are symbols that stand for numbers.
        """

        def entry(base: str, places: tuple[int, ...]) -> sp.Expr:
            if base == "h":
                return h[places[0] - 1]
            if base == "readout":
                return self.entry(("readout_at", (t, *places)), held)
            if base == "teacher_readout":
                return rational(self.teacher_readout[places[0] - 1])
            return self.star[places[0] - 1]

        found: dict[str, Any] = {"g": [], "pull": []}
        # Weights of the batches stand in front of the integrals.
        whole = {zeta: self.zeta, chosen: self.names.get(fraction, sp.S.One)}
        replaced: dict[sp.Basic, sp.Basic] = dict(self.names) | whole
        for d in self.equations.sample:
            neurons = range(1, self.p + 1) if isinstance(d.target, sp.Indexed) else (0,)
            for j in neurons:
                expr = expanded(d.expr, {x.j: j}, self.widths, entry).xreplace(replaced)
                if d.target in (output, label):
                    replaced[d.target] = self.y if d.target == label else expr
                    if d.target == label:
                        found["label"] = expr
                elif d.target == loss:
                    found["loss"] = expr
                else:
                    found["g" if d.name == "g" else "pull"].append(expr)
        return found

    @cached_property
    def first(self) -> dict[str, Any]:
        """Averages at t = 0: E[g h*], E[g g], E[g r], the mean loss and the readout's pull."""
        p, k, start = self.p, self.k, self.start
        Omega = np.block([[start.Q, start.M], [start.M.T, start.P]])
        cov = sp.diag(sp.Matrix(p + k, p + k, [rational(v) for v in Omega.flat]), 1)
        law = Gaussian((*self.h, *self.star, self.zeta), cov)
        sample = self.sample(0, self.h)
        sample_label = {self.y: sample["label"]}
        g = [e.xreplace(sample_label) for e in sample["g"]]
        teacher = {h: self.field(0, j, [sp.S.Zero] * p, ()) for j, h in enumerate(self.h)}
        marginal = sum(weight * s0 * s0 for weight, s0, _ in self.masks) if not self.fresh else 1.0

        known: dict[tuple[Any, ...], Number] = {}

        def of(value: Callable[..., sp.Expr], *units: int) -> Number:
            """Average of a function of units, of exchangeable ones that of the first of them."""
            at = tuple(map(units.index, units)) if self.exchangeable else units
            if (value, at) not in known:
                known[value, at] = average(law, sp.expand(value(*at)), self.rtol)
            return known[value, at]

        stars = [lambda j, u=u: g[j] * u for u in self.star]
        pull = [e.xreplace(sample_label) for e in sample["pull"]]
        second = rational(marginal)
        result: dict[str, Any] = {
            "star": [[of(star, j) for star in stars] for j in range(p)],
            "train": average(law, sp.expand(sample["loss"].xreplace(sample_label)), self.rtol),
            "pull": [of(pull.__getitem__, j) for j in range(len(pull))],
        }

        def product(j: int, m: int) -> sp.Expr:
            return g[j] * g[m]

        def along(j: int, m: int) -> sp.Expr:
            return g[j] * (self.h[m] - teacher[self.h[m]])

        gram = [[of(product, m, j) for m in range(j + 1)] for j in range(p)]
        result["corr"] = [
            [[combined([(gram[max(j, m)][min(j, m)], second)]) for m in range(p)] for j in range(p)]
        ]
        own = [[of(along, j, m) for m in range(p)] for j in range(p)]
        result["resp"] = [times_inverse(own, self.matrix("C_theta", (0, 0)))]
        return result

    @cached_property
    def exchangeable(self) -> bool:
        """Whether the start and its gradients are the same with any two students exchanged."""
        sample, start, order = self.sample(0, self.h), self.start, np.arange(self.p)
        for j in range(1, self.p):
            other, swap = order.copy(), {self.h[0]: self.h[j], self.h[j]: self.h[0]}
            other[[0, j]] = j, 0
            same = np.array_equal(start.Q[np.ix_(other, other)], start.Q)
            if not (same and np.array_equal(start.M[other], start.M)):
                return False
            pairs = (e for e in sample.values() if isinstance(e, list) and e)
            if any(e[0].xreplace(swap) != e[j] for e in pairs):
                return False
        return True

    @property
    def fresh(self) -> bool:
        """Whether samples of a step are never seen again."""
        return self.equations.algorithm.batch == "fresh"

    def entry(self, key: Key, held: Mapping[Key, sp.Expr] | None = None) -> sp.Expr:
        """A number, or what stands for it."""
        return held[key] if held and key in held else self.numbers[key].value

    def field(
        self,
        t: int,
        j: int,
        r: Sequence[sp.Expr],
        g: Sequence[sp.Expr],
        held: Mapping[Key, sp.Expr] | None = None,
    ) -> sp.Expr:
        """Field j (from 0) at time t, with what stands for r^t and g^0."""
        definition = next(d for d in self.definitions if d.name == "h_at" and d.target.args[1] == t)

        def entry(base: str, places: tuple[int, ...]) -> sp.Expr:
            if base == "h_star":
                return self.star[places[0] - 1]
            if base in ("r_at", "g_at"):
                return (r if base == "r_at" else g)[places[1] - 1]
            return self.entry((base, places), held)

        expr = expanded(definition.expr, {x.j: j + 1}, self.widths, entry)
        return expr.xreplace(self.names)

    def _define(self, d: Any) -> None:
        count = sum(i.is_Integer for i in d.target.indices)
        times = tuple(int(i) for i in d.target.indices[:count])
        neurons = d.target.indices[count:]
        sizes = [self.k if i in (x.r,) else self.p for i in neurons]
        for place in np.ndindex(*sizes):
            at = {i: n + 1 for i, n in zip(neurons, place, strict=True)}
            used: dict[Key, sp.Symbol] = {}

            def entry(
                base: str, places: tuple[int, ...], used: dict[Key, sp.Symbol] = used
            ) -> sp.Expr:
                return used.setdefault((base, places), sp.Dummy("e"))

            expr = expanded(d.expr, at, self.widths, entry).xreplace(self.names)
            values = {symbol: self.numbers[key].value for key, symbol in used.items()}
            error = sum(
                abs(float(sp.diff(expr, symbol).xreplace(values))) * self.numbers[key].error
                for key, symbol in used.items()
                if self.numbers[key].error
            )
            value = expr.xreplace(values)
            if value.has(sp.zoo, sp.nan) or not value.is_real:
                raise BadParameter(
                    f"{d.target} is {value}: a row has no positive length after its step and "
                    "cannot be rescaled to the sphere; use another learning_rate or ridge"
                )
            value = value if value.is_Rational else sp.N(value, DIGITS)  # lengths are roots
            self.numbers[d.name, (*times, *(n + 1 for n in place))] = Number(value, error)

    def matrix(self, base: str, times: tuple[int, int]) -> sp.Matrix:
        """Known entries at two times."""
        return sp.Matrix(
            self.p, self.p, lambda a, b: self.numbers[base, (*times, a + 1, b + 1)].value
        )

    def close(self, t: int, found: Mapping[str, Any]) -> None:
        """Take the averages at time t: kernels, then overlaps and weights at t + 1."""
        for j in range(self.p):
            share = self._share("g_star", (t,))
            for r in range(self.k):
                self.numbers["g_star", (t, j + 1, r + 1)] = combined([(found["star"][j][r], share)])
            if found["pull"]:
                share = self._share("mean_pull", (t,))
                self.numbers["mean_pull", (t, j + 1)] = combined([(found["pull"][j], share)])
        for base, kernels in (("C_l", found["corr"]), ("R_l", found["resp"])):
            for s, kernel in enumerate(kernels):
                share = self._share(base, (t, s))
                for j, m in np.ndindex(self.p, self.p):
                    number = combined([(kernel[j][m], share)])
                    self.numbers[base, (t, s, j + 1, m + 1)] = number
        names = {"M_at", "readout_at", "R_theta", "C_theta", "Q_at", *FREE}
        for d in self.definitions:
            if d.name in names and d.target.indices[0] == t + 1:
                self._define(d)
        if not found["pull"]:
            for j in range(1, self.p + 1):
                self.numbers["readout_at", (t + 1, j)] = self.numbers["readout_at", (t, j)]

    def _share(self, base: str, times: tuple[int, ...]) -> sp.Expr:
        """What stands in front of the average in a kernel of the samples."""
        definition = next(d for d in self.equations.process if d.name == base)
        expr = sp.expand(at_times(definition, times, self.equations).expr)
        averages = expr.atoms(Expectation)
        share = sp.Add(*(expr.coeff(y) for y in averages))
        if len(averages) > 1 or expr != sp.Add(*(share * y for y in averages)):
            raise BadParameter(
                f"{definition.target} = {definition.expr}: the first steps support multiples of "
                "one average; dmft.solve supports any"
            )
        return share.xreplace(self.names)


def times_inverse(rows: Sequence[Sequence[Number]], matrix: sp.Matrix) -> list[list[Number]]:
    """Rows of numbers times the inverse of a matrix."""
    inverse = matrix.inv()
    size = matrix.shape[0]
    return [
        [combined((row[n], inverse[n, m]) for n in range(size)) for m in range(size)]
        for row in rows
    ]
