r"""psi of signSGD: the sign of the gradient's psi (theory/structured_inputs 4.4).

The label's noise is averaged over by hand where it has a closed form, as of the squared loss
E sign(e + sqrt(Delta) xi) = erf(e/sqrt(2 Delta)). The square of a sign is one, but where a loss is
flat, as the hinge loss beyond its margin. In a cluster |x|^2 = s_c d makes the factors
sqrt(2 c_e/pi) and phi_e smaller than the eigenvalues by sqrt(s_c) and s_c, which is counted in psi.

Signs of sums over a batch: given psi at its samples the coordinates of sum_mu psi_j^mu x^mu are
normal variables, with covariances in proportion to A_jl = sum_mu s_mu psi_j^mu psi_l^mu, s_mu the
variance of the inputs. With the factors of the inputs in front, as of one sample,

    b_ji = E[sum_mu psi_j^mu lambda_i^mu / sqrt(A_jj)],
    S_jl = 2/pi E asin(A_jl / sqrt(A_jj A_ll)),

averages over the fields of all samples together, where both are 0 for gradients that vanish.
The samples of a batch may have different laws, by cluster and flip: every way to share these out
counts as often as it may be drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations_with_replacement
from math import comb, factorial

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.conditioned import inverse
from dmft.equations.averages.expectation import STEEP, At, Expectation, OneSample, OverSamples
from dmft.equations.definitions import Definition, define
from dmft.equations.restrict.admissible import slope_of
from dmft.equations.update.law import laws_of
from dmft.equations.update.moments import Case
from dmft.equations.update.optimiser import WEIGHTS, motion_of
from dmft.equations.update.program import Program, Writer, error_of, plain
from dmft.equations.update.terms import Parities
from dmft.errors import BadParameter
from dmft.gaussian.closed.pair import CorrelationAngle
from dmft.gaussian.closed.switch import SWITCHES
from dmft.model import FIELD, SGD, GradientFlow, Model

# Samples that have one law: the first of them, and how many they are.
Part = tuple[Case, int, int]


def signs(writer: Writer) -> Program:
    """Signs of the gradient at the fields of the sample."""
    algorithm = writer.algorithm
    if writer.model.outputs > 1 or algorithm.batch_size != 1:  # type: ignore[union-attr]
        return _of_gradient(writer)
    error = error_of(algorithm)
    sign = sp.sign(error)
    rises = inverse(writer.sigma, FIELD) is not None
    own = sp.S.One if rises else sign_of(slope_of(writer.sigma))
    along = sp.sign(x.a[x.j]) * At(own, x.h[x.j])
    # An error without pieces vanishes at single points alone.
    square = sign**2 if error.has(*SWITCHES) else sp.S.One
    moments = writer.means(sign, square)
    if moments is not None:
        return writer.program(second=writer.of_means(along, *moments))
    symbol = writer.error_at(x.h, 0)
    writer.add(x.psi[x.j], update=along * sp.sign(symbol))
    pair = along * along.xreplace({x.j: x.l})
    return writer.program(second=pair * (sp.sign(symbol) ** 2 if square != 1 else square))


def _of_gradient(writer: Writer) -> Program:
    """Signs of psi, of several outputs, or of sums of it over a batch."""
    if writer.model.outputs > 1:
        found = plain(writer)
    else:
        writer.gradient(x.h, 0, x.psi)
        found = writer.program()
    if writer.algorithm.batch_size != 1:  # type: ignore[union-attr]
        return batch_of(writer, found)
    *before, last = found.definitions
    slope = At(writer.slope, x.h[x.j])
    sign = At(sign_of(writer.slope), x.h[x.j]) * sp.sign(last.expr / slope)
    return replace(found, definitions=(*before, define(last.target, {"update": sign}, "sample")))


def sign_of(slope: sp.Expr) -> sp.Expr:
    """Sign of a function of the field, one where it is positive but at single points."""
    if not slope.has_free(FIELD):
        if slope.is_number:
            return sp.sign(slope)
        raise BadParameter(f"the sign of the slope {slope} depends on a parameter: pass its value")
    if slope.is_Mul:
        return sp.Mul(*(sign_of(factor) for factor in slope.args))
    if isinstance(slope, sp.Heaviside):
        return slope
    even = slope.is_Pow and slope.exp.is_Integer and slope.exp % 2 == 0
    if even or slope.is_positive or _is_bell(slope):
        return sp.S.One
    return sp.sign(slope)


def _is_bell(slope: sp.Expr) -> bool:
    """Whether it is a positive fraction of exponentials."""
    if slope.has(sp.Heaviside, sp.sign, sp.Abs, sp.Piecewise, sp.Max, sp.Min):
        return False
    return bool(sp.factor(sp.together(slope.rewrite(sp.exp))).is_positive)


# Samples of a batch, each of which is written out, and ways to share out laws among them.
MOST_SAMPLES, MOST_WAYS = 16, 64


def batch_of(writer: Writer, gradient: Program) -> Program:
    """The gradient at the fields of a sample, whose signs are those of a sum over a batch."""
    samples = int(writer.algorithm.batch_size)  # type: ignore[union-attr]
    ways = comb(samples + len(laws_of(writer.model)) - 1, samples)
    written_out = not _is_of_one_sample(writer.model, writer.algorithm, gradient)
    if written_out and (samples > MOST_SAMPLES or ways > MOST_WAYS):
        raise BadParameter(
            f"batch_size = {samples}: signs of sums over a batch are averages over the fields "
            f"of all its samples, which are written out up to {MOST_SAMPLES} samples and "
            f"{MOST_WAYS} ways to distribute clusters and flips among them, here {ways}; use a "
            "smaller batch, or use dmft.simulate"
        )
    if writer.cluster.shape:
        raise BadParameter(
            f"batch_size = {samples}: if variances of clusters differ from block to block, the "
            "averages of the sign of a sum over samples differ between blocks and are not derived; "
            "use one sample per step, leave fractions out, or use dmft.simulate"
        )
    if not written_out:
        gradient = _without_noise(gradient)
    return replace(gradient, students=False, batch=samples)


def _without_noise(program: Program) -> Program:
    """A psi that is linear in the label's noise as its mean, and what multiplies the noise."""
    whole = sp.expand_mul(program.inline(x.psi[x.j]))
    slope = whole.coeff(x.xi)
    if slope == 0 or sp.Tuple(slope, whole - slope * x.xi).has(x.xi):
        return program
    quiet = {x.xi: sp.S.Zero}
    *before, last = (
        replace(d, terms=tuple((t, e.xreplace(quiet)) for t, e in d.terms))
        for d in program.definitions
    )
    noise = define(x.psi_noise[x.j], {"noise": slope}, "sample")
    return replace(program, definitions=(*before, noise, last))


def _drift_of_batch(cases: Sequence[Case], samples: int) -> sp.Expr:
    """E[sum_mu psi_j^mu lambda_i^mu / sqrt(A_jj)]: along the means of fields, and across."""
    psi, lam, total = x.psi[x.j], x.lam[x.i], sp.S.Zero
    for weight, parts, law in _ways(cases, samples):
        inverse = 1 / sp.sqrt(_overlap(parts, x.j, x.j) + x.LEAST_SQUARE)
        across = sp.S.Zero
        for case, first, count in parts:
            own, mean = case.named(psi), case.cluster.mean_of(lam)
            across += case.cluster.root * OverSamples(own * lam, first, count)
            if mean != 0:
                along = OverSamples(own, first, count) * inverse
                total += weight * mean * Expectation(along, law)
        total += weight * Expectation(across * inverse, law)
    return total


def _is_of_one_sample(model: Model, algorithm: SGD | GradientFlow, program: Program) -> bool:
    """Whether there is one unit, whose psi vanishes nowhere and meets no rows but the weights.

    Where psi vanishes with a positive probability the integral over the scale decays too slowly.
    """
    plain = motion_of(algorithm).rows == (WEIGHTS,) and model.spectrum is None
    if not plain or model.student.width != 1:
        return False
    psi = program.inline(x.psi[x.j])
    parts = psi.atoms(At)
    kinked = any(a.factor.has(*SWITCHES) for a in parts if a.field.base != x.h_star)
    return not kinked and not psi.xreplace(dict.fromkeys(parts, sp.S.One)).has(*SWITCHES)


def moments_of_batch(
    model: Model, algorithm: SGD | GradientFlow, cases: Sequence[Case], samples: int
) -> tuple[list[Definition], sp.Expr, sp.Expr]:
    """Definitions that they need, b_ji, and S_jl."""
    if _is_of_one_sample(model, algorithm, cases[0].program):
        return _of_one_unit(cases, samples)
    return [], _drift_of_batch(cases, samples), _square_of_batch(cases, samples)


def _of_one_unit(cases: Sequence[Case], samples: int) -> tuple[list[Definition], sp.Expr, sp.Expr]:
    r"""1/sqrt(E psi_j^2), b_ji and S_jj of one unit, by averages over one sample.

    Equation    1/sqrt(A) = 2/sqrt(pi) int_0^oo e^{-A u^2} du, so that with n samples
                b_ji = 2 n/sqrt(pi) int du E[psi lambda_i e^{-u^2 psi^2}] E[e^{-u^2 psi^2}]^{n-1}
    Shapes      psi_scale (p,); b (p, p + k); S (p, p)
    Valid for   p = 1 without rows beside the weights or blocks, and psi that vanish nowhere, so
                that S_jj = 1

    If psi = A + B xi is linear in the label noise xi, the averages over xi are closed: with c = u^2
    and D = 1 + 2 c B^2, E e^{-c psi^2} = e^{-c A^2/D}/sqrt(D) and
    E[psi e^{-c psi^2}] = (A/D) e^{-c A^2/D}/sqrt(D).
    """
    j, scale = x.j, x.psi_scale[x.j]
    total, alone, beside = (sp.S.Zero,) * 3
    for case in cases:
        cluster, psi, slope = case.cluster, case.named(x.psi[j]), sp.S.Zero
        if x.psi_noise in case.program.table:
            slope = case.named(x.psi_noise[j])
        square = psi**2 + slope**2
        mean = partial(_of_one_sample, case, samples)
        front = cluster.variance * (scale * x.cosine[x.angle]) ** 2 / samples
        spread = 1 + 2 * front * slope**2
        bell = sp.exp(-front * psi**2 / spread) / sp.sqrt(spread)
        field = cluster.mean_of(x.lam[x.i]) + cluster.root * x.lam[x.i]
        total += cluster.weight * cluster.variance * mean(square)
        alone += cluster.weight * mean(bell)
        beside += cluster.weight * mean(psi * field * bell / spread)
    product = x.cosine_weight[x.angle] * beside * alone ** (samples - 1)
    drift = 2 * sp.sqrt(samples / sp.pi) * scale * sp.Sum(product, (x.angle, 1, x.cosines))
    defined = define(scale, {"scale": 1 / sp.sqrt(total + x.LEAST_SQUARE)}, "intermediate")
    return [defined], drift, sp.S.One


def _of_one_sample(case: Case, samples: int, value: sp.Expr) -> Expectation:
    """Average over one sample of a function with layers as thin as psi makes them."""
    program = case.program
    even = case.cluster.is_centred and Parities(program.table).of(value) == 1
    degree = sp.oo if program.degrees().of(x.psi[x.j]) >= 0 else sp.S.NegativeOne
    rest = (int(program.noisy), 0, 0, 1, STEEP, int(even), samples)
    return Expectation(value, OneSample(degree, *map(sp.Integer, rest)))


def _square_of_batch(cases: Sequence[Case], samples: int) -> sp.Expr:
    """2/pi E asin(A_jl / sqrt(A_jj A_ll))."""
    j, l, total = x.j, x.l, sp.S.Zero  # noqa: E741
    for weight, parts, law in _ways(cases, samples):
        entries = (_overlap(parts, *pair) for pair in ((j, j), (l, l), (j, l)))
        total += weight * 2 / sp.pi * Expectation(CorrelationAngle(*entries), law)
    return total


def _ways(cases: Sequence[Case], samples: int) -> Iterator[tuple[sp.Expr, list[Part], OneSample]]:
    """Probability of each way to share out laws among the samples, its parts and their law."""
    noisy, zero = sp.Integer(cases[0].program.noisy), sp.S.Zero
    law = OneSample(sp.S.NegativeOne, noisy, zero, zero, sp.Integer(samples))
    for chosen in combinations_with_replacement(range(len(cases)), samples):
        weight, parts, first = sp.Integer(factorial(samples)), [], 1
        for number in sorted(set(chosen)):
            case, count = cases[number], chosen.count(number)
            weight *= case.cluster.weight**count / sp.Integer(factorial(count))
            parts.append((case, first, count))
            first += count
        yield weight, parts, law


def _overlap(parts: Sequence[Part], one: sp.Expr, two: sp.Expr) -> sp.Expr:
    """A of two neurons."""

    def own(case: Case, first: int, count: int) -> sp.Expr:
        square = case.named(x.psi[one] * x.psi[two])
        return case.cluster.variance * OverSamples(square, first, count)

    return sp.Add(*(own(*part) for part in parts))
