"""Expectations as numbers, by quadrature with an error that can be believed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.nodes.forms import Block, number, precise, to_forms, values_of
from dmft.gaussian.nodes.integrand import Integrand, lattice, sobol
from dmft.gaussian.nodes.kinks import switches
from dmft.gaussian.nodes.nested import Nested, box, without_one_form
from dmft.gaussian.nodes.reduction import MAX_TERMS, reduced, summands, with_explicit_poles
from dmft.gaussian.nodes.rules import sobol_engine, to_normal
from dmft.model import check_covariance
from dmft.names import Status
from dmft.record import InLatex

# Points of the integrand that one block may cost.
BUDGET = 30_000_000
# Nested panels up to this dimension, sampling beyond; where averaging one factor is tried.
MOST_NESTED = 3
AVERAGED = (3, 4)
# Functions that turn no faster than this per standard deviation suit a lattice.
GENTLE = 2.5
# Points that measure the size of the integrand, and the rounding of its values.
PILOT = 1024
# Of those, the ones that tell most functions from odd ones before symbols do.
ODD_POINTS = 32
# Rounding of sums of doubles, and the error that always passes, relative to E|f|.
ROUNDING = 1e-15
FLOOR = 2e-14
# The same where every value is computed in multiprecision.
PRECISE_BUDGET = 20_000
# Points of a lattice: what a smooth function of four fields needs.
LATTICE_BUDGET = 6_000_000


class AccuracyWarning(UserWarning):
    """The error estimate of a number exceeds the requested accuracy.

    Examples
    --------
    >>> import warnings
    >>> from dmft import AccuracyWarning
    >>> warnings.simplefilter("error", AccuracyWarning)  # raise an error instead
    >>> warnings.simplefilter("default", AccuracyWarning)
    """


class Quadrature(InLatex, float):
    """Result of a quadrature: a number with an error estimate. `float(result)` is the value.

    Attributes
    ----------
    error : float
        Estimated absolute error.
    status : dmft.Status
        "ok", or "tolerance_not_met" if the error exceeds rtol times the value and the rounding
        error of a sum, 2e-14 E|f|.
    method : str
        Method used for the remaining integral after the exact reductions.
    dimension : int
        Dimension of the largest integral after the exact reductions.
    evaluations : int
        Number of evaluations of the integrand.
    value : float
        The value.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y = sp.symbols("x y", real=True)
    >>> law = dmft.Gaussian([x, y], [[1, 0.5], [0.5, 1]])
    >>> value = law.quad(sp.sign(x) * sp.sign(y))
    >>> abs(value - 1/3) <= value.error < 1e-10, str(value.status)
    (True, 'ok')
    """

    error: float
    status: Status
    method: str
    dimension: int
    evaluations: int

    def __new__(
        cls,
        value: float,
        error: float = 0.0,
        status: Status = Status.OK,
        method: str = "exact",
        dimension: int = 0,
        evaluations: int = 0,
    ) -> Quadrature:
        """Make a number with attributes."""
        self = super().__new__(cls, value)
        self.error, self.status, self.method = float(error), status, method
        self.dimension, self.evaluations = dimension, evaluations
        return self

    def __repr__(self) -> str:
        return (
            f"Quadrature({float(self)!r}, error={self.error:.1e}, status='{self.status}', "
            f"method='{self.method}')"
        )

    def __str__(self) -> str:
        return float.__repr__(self)

    def latex(self) -> str:
        """Value and error."""
        return rf"{sp.latex(sp.Float(float(self), 12))} \pm {sp.latex(sp.Float(self.error, 2))}"


@dataclass(frozen=True)
class _Part:
    """Value of one block or sum, before it is judged."""

    value: float
    error: float
    size: float
    method: str = "exact"
    dimension: int = 0
    evaluations: int = 0


def quadrature(
    expr: sp.Expr,
    fields: Sequence[sp.Symbol],
    cov: sp.MatrixBase,
    mean: Sequence[sp.Expr],
    values: Mapping[Any, Any],
    rtol: float,
    by_terms: bool = True,
) -> Quadrature:
    r"""E[expr] as a number with its error; sums as they stand without `by_terms`.

    Equation    E[f(x)] = \int f(m + A u) phi(u) du, A A^T = C of least rank; Gaussian factors tilt
                the law, polynomial fields and independent factors are integrated apart
    Valid for   real integrable functions; kinks, jumps and integrable singularities at zeros of
                switching functions; numerical, error in the result
    Source      theory/one_pass A.1, A.3, A.7
    """
    if not 0 < rtol < 1:
        raise BadParameter(f"rtol = {rtol!r} must lie between 0 and 1")
    named = _named(values, fields)
    numbers = values_of(fields, [expr, *cov, *mean], named)
    integrand, n = with_explicit_poles(numbers[0]), len(fields)
    if integrand.has(sp.DiracDelta):
        raise BadParameter(
            f"{expr} contains a Dirac factor, which quadrature cannot evaluate: use expect, or "
            "condition"
        )
    check_covariance(np.array(numbers[1 : 1 + n * n], dtype=np.float64).reshape(n, n), "cov")
    with precise():
        entries = [number(v) for v in numbers[1:]]
        table = [
            [(entries[n * i + j] + entries[n * j + i]) / 2 for j in range(n)] for i in range(n)
        ]
        part = _expectation(integrand, tuple(fields), table, entries[n * n :], rtol, by_terms)
    return _judged(part, expr, rtol)


def _named(values: Mapping[Any, Any], fields: Sequence[sp.Symbol]) -> dict[str, sp.Expr]:
    """Values by name; each a real finite number, none of a field."""
    result: dict[str, sp.Expr] = {}
    names = {x.name for x in fields}
    for key, value in values.items():
        name = key.name if isinstance(key, sp.Symbol) else key
        if not isinstance(name, str) or name in names:
            raise BadParameter(f"values are for symbols other than the fields, got {key!r}")
        try:
            entry = sp.sympify(value, strict=True)
        except sp.SympifyError as error:
            raise BadParameter(f"the value of {name} is not a number: {value!r}") from error
        if not (isinstance(entry, sp.Expr) and entry.is_number and entry.is_extended_real):
            raise BadParameter(f"the value of {name} is not a real number: {value!r}")
        if not entry.is_finite:
            raise BadParameter(f"the value of {name} is not finite: {value!r}")
        result[name] = entry
    return result


def _judged(part: _Part, expr: sp.Expr, rtol: float) -> Quadrature:
    """Say whether the tolerance is met; where it is not, in a warning too."""
    if not np.isfinite(part.value + part.error):
        raise BadParameter(
            f"E[{expr}] is {part.value} with error {part.error} in double precision: the value "
            "overflows, or the function is not integrable"
        )
    # Below the rounding of a sum of its size, zero is as good as any number.
    met = part.error <= max(rtol * abs(part.value), FLOOR * part.size)
    status = Status.OK if met else Status.TOLERANCE_NOT_MET
    if not met:
        warnings.warn(
            f"E[{expr}] = {part.value:.12g} is known to {part.error:.1e} only, not to "
            f"rtol = {rtol:.1e} ({part.method}, {part.dimension} dimensions)",
            AccuracyWarning,
            stacklevel=4,
        )
    return Quadrature(part.value, part.error, status, part.method, part.dimension, part.evaluations)


def _expectation(
    expr: sp.Expr,
    fields: tuple[sp.Symbol, ...],
    cov: list[list[mpmath.mpf]],
    mean: list[mpmath.mpf],
    rtol: float,
    by_terms: bool,
) -> _Part:
    """Whole, or term by term where that leaves fewer dimensions."""
    block = to_forms(expr, fields, cov, mean)
    whole = reduced(block)
    largest = max(b.dimension for b in whole)
    exponential = expr.has(sp.sinh, sp.cosh, sp.exp)
    attempts = [[whole]]
    if by_terms and (largest > 1 or exponential):
        terms = summands(expr, fields)
        if 1 < len(terms) <= MAX_TERMS:
            split = [reduced(to_forms(t, fields, cov, mean)) for t in terms]
            if max(b.dimension for blocks in split for b in blocks) < largest or exponential:
                attempts.insert(0, split)
    if exponential:
        attempts.append([reduced(block, tilt=False)])
    # Terms may be no integrable functions though their sum is, exponentials may overflow alone.
    refusals: list[BadParameter] = []
    best: _Part | None = None
    for attempt in attempts:
        try:
            part = _sum([_product(blocks, rtol / len(attempt)) for blocks in attempt])
        except BadParameter as error:
            refusals.insert(0 if attempt[0] is whole else len(refusals), error)
            continue
        best = part if best is None or part.error < best.error else best
        if part.error <= max(rtol * abs(part.value), FLOOR * part.size):
            break
    if best is None:
        raise refusals[0]
    return best


def _sum(parts: Sequence[_Part]) -> _Part:
    hardest = max(parts, key=lambda p: p.dimension)
    return _Part(
        float(np.sum([p.value for p in parts])),
        float(np.sum([p.error for p in parts])),
        float(np.sum([p.size for p in parts])),
        hardest.method,
        hardest.dimension,
        sum(p.evaluations for p in parts),
    )


def _product(blocks: Sequence[Block], rtol: float) -> _Part:
    """Product of expectations, and its error."""
    # A block that has become a constant holds it as its weight, wherever it stands.
    weight = float(mpmath.fprod(b.weight for b in blocks))
    parts = [_block(b, rtol / len(blocks)) for b in blocks]
    value, upper, size = weight, abs(weight), abs(weight)
    for p in parts:
        value, upper, size = value * p.value, upper * (abs(p.value) + p.error), size * p.size
    hardest = max(parts, key=lambda p: p.dimension)
    if not np.isfinite(upper + size):
        raise BadParameter(
            f"E[{sp.Mul(*[b.shown() for b in blocks])}] times {mpmath.nstr(blocks[0].weight, 6)} "
            "overflows double precision"
        )
    return _Part(
        value,
        max(upper - abs(value), 0.0) + ROUNDING * size if hardest.dimension else 2e-16 * size,
        size,
        hardest.method,
        hardest.dimension,
        sum(p.evaluations for p in parts),
    )


def _block(block: Block, rtol: float) -> _Part:
    """Expectation of one irreducible block, without its weight."""
    if block.dimension == 0:
        constant = Integrand(block).precise(np.zeros(0))
        return _Part(float(constant), 2e-16 * abs(float(constant)), abs(float(constant)))
    function = Integrand(block)
    pilot = to_normal(sobol_engine(block.dimension, 0).random(PILOT).T)
    try:
        sizes = np.abs(function(pilot))
    except (NameError, TypeError, AttributeError, KeyError) as error:
        raise BadParameter(f"{block.shown()} has no numerical value: {error}") from error
    # A few points in the support of a function say nothing of its size.
    size = float(np.mean(sizes)) if np.count_nonzero(sizes) > PILOT / 20 else 0.0
    if not any(block.shift) and function.may_be_odd(pilot[:, :ODD_POINTS]) and _is_odd(block):
        # A symmetry is worth nothing where the integral does not exist.
        Nested(function, BUDGET) if block.dimension <= MOST_NESTED else box(function)
        return _Part(0.0, 0.0, size, "symmetry", block.dimension, function.evaluations)
    noise = function.rounding(pilot)
    if block.dimension == 1 and noise > rtol * size / 8:
        # The function cancels in doubles; one dimension is cheap enough without them.
        function.always_precise, noise = True, 0.0
    part = _integral(function, size, noise, rtol)
    return _Part(
        part.value,
        part.error + 2 * noise + ROUNDING * part.size,
        part.size,
        part.method,
        block.dimension,
        function.evaluations,
    )


def _is_odd(block: Block) -> bool:
    image = block.expr.xreplace({x: -x for x in block.forms})
    return bool(sp.expand(image + block.expr) == 0)


def _integral(function: Integrand, size: float, noise: float, rtol: float) -> _Part:
    """The best of the schemes that suit a dimension."""
    r = function.dimension

    def tolerance(value: float) -> float:
        return max(rtol * abs(value) / 2, FLOOR * size / 2, 2 * noise)

    def settled() -> bool:
        return bool(found) and found[-1].error <= tolerance(found[-1].value)

    found: list[_Part] = []
    gentle = r > 1 and _is_gentle(function)
    if r in AVERAGED and not (gentle and r <= MOST_NESTED):
        found += _averaged(function, noise, rtol)
    if gentle and not found:
        box(function)
        found.append(_Part(*lattice(function, tolerance, LATTICE_BUDGET), "lattice"))
    if r <= MOST_NESTED and not settled():
        found.append(_nested(function, size, noise, rtol))
    if r > MOST_NESTED and not settled():
        box(function)
        found.append(_Part(*sobol(function, tolerance, BUDGET), "quasi-Monte Carlo"))
    return min(found, key=lambda p: p.error)


def _nested(function: Integrand, size: float, noise: float, rtol: float) -> _Part:
    """Nested panels; once more where cancellation makes the value small beside its terms."""
    scheme = Nested(function, PRECISE_BUDGET if function.always_precise else BUDGET)
    # Where the pilot points saw nothing, the first panels say what there is.
    wanted = max(rtol * size / 2, 2 * noise) or np.inf
    for _ in range(4):
        result = scheme(wanted)
        value, error, size = (float(v[0]) for v in (result.value, result.error, result.size))
        goal = max(rtol * abs(value) / 2, FLOOR * size / 2, 2 * noise)
        if error <= goal or scheme.exhausted or wanted <= goal / 4:
            break
        wanted = goal / 4 if np.isfinite(wanted) else goal
    return _Part(value, error, size, "nested panels")


def _averaged(function: Integrand, noise: float, rtol: float) -> list[_Part]:
    """Nested panels after one factor is averaged given the other fields, if one stands alone."""
    reduction = without_one_form(function.block)
    if reduction is None:
        return []
    block, table, table_error = reduction
    rest = Integrand(block, {"AveragedFactor": table})
    others = Integrand(block, {"AveragedFactor": np.ones_like})
    pilot = to_normal(sobol_engine(block.dimension, 0).random(PILOT).T)
    weight, size = (float(np.mean(np.abs(f(pilot)))) for f in (others, rest))
    part = _nested(rest, size, noise, rtol)
    function.evaluations += rest.evaluations
    error = part.error + 2 * table_error * weight
    return [_Part(part.value, error, part.size, "nested panels, one factor averaged")]


def _is_gentle(function: Integrand) -> bool:
    """Whether the function is analytic and turns slowly: no switches, no poles, short rows."""
    if switches(function.block.expr, function.block.forms):
        return False
    steep = np.sqrt((function.rows**2).sum(axis=1)).max()
    return bool(steep <= GENTLE)
