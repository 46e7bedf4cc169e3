r"""psi of repeated steps on a sample (theory/batch_reuse D.1), of users' rules, and clipped ones.

Clipping (`SGD(clip=C)`, `normalised=True`; theory/structured_inputs 4.3): the length of a gradient,
|g| = |psi| |x|/(p sqrt(d)), concentrates on that of psi, so that clipping changes the field:
psi <- psi chi with chi = min(1, C p/(|psi| sqrt(tr Sigma/d))), or that factor alone where gradients
are normalised. Label noise under the squared loss is averaged over by hand, which takes the kink
away. The residual of linear networks is normal: there, of n_b samples with the squared residuals
v R^2, R^2 ~ chi^2,

    E[chi e lambda] = Cov(lambda, e) E[chi R^2]/n_b,   E[(chi e)^2] = v E[(chi R)^2]/n_b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import define
from dmft.equations.update.linear_students import Line, line_of
from dmft.equations.update.program import (
    Program,
    Shortened,
    Writer,
    error_is_linear,
    is_noisy,
    students_at,
)
from dmft.equations.update.terms import in_products
from dmft.errors import BadParameter, NotClosed
from dmft.model import SGD, GaussianMixture, Lookahead, Repeat, SharpnessAware, UpdateField
from dmft.model.repetition import SEVERAL, Clipping
from dmft.model.update import OUTPUT

# Passes over a sample that equations are written for.
MOST_PASSES = len(x.psi_pass)


def repeated(writer: Writer) -> Program:
    """Whole steps on one sample; its last error and fields."""
    repeat = cast("Repeat", writer.rule)
    if repeat.times > MOST_PASSES:
        raise BadParameter(
            f"equations are written for at most {MOST_PASSES} passes over a sample, got "
            f"{repeat}; dmft.simulate runs any number"
        )
    batch = cast("SGD", writer.algorithm).batch_size
    step = writer.square * x.gamma / (x.p * batch)
    fields, error = x.h, x.label
    for number in range(repeat.times):
        error = writer.gradient(fields, number, x.psi_pass[number])
        if number + 1 < repeat.times:
            writer.readout += writer.along(error, fields)
            moved = fields[x.j] + step * x.psi_pass[number][x.j]
            fields = x.h_pass[number + 1]
            writer.add(fields[x.j], moved=moved)
    total = sp.Add(*(x.psi_pass[number][x.j] for number in range(repeat.times)))
    writer.add(x.psi[x.j], update=total)
    return writer.whole(error, fields)


def displaced(writer: Writer) -> Program:
    """Gradients where a step on the same sample leads."""
    repeat = cast("Lookahead | SharpnessAware", writer.rule)
    writer.gradient(x.h, 0, x.psi_pass[0])
    scale = repeat.sign * writer.scalar("rho") * writer.square
    if repeat.normalised:
        square = sp.Sum(x.psi_pass[0][x.u] ** 2, (x.u, 1, x.p))
        # Where the gradient vanishes nothing is displaced, whatever stands below.
        length = sp.Piecewise((1, sp.Eq(x.psi_square, 0)), (sp.sqrt(x.psi_square), True))
        writer.add(x.psi_square, square=square)
        writer.add(x.psi_length, length=length)
        scale /= sp.sqrt(writer.square) * x.psi_length
    writer.add(x.h_pass[1][x.j], moved=x.h[x.j] + scale * x.psi_pass[0][x.j])
    return writer.whole(writer.gradient(x.h_pass[1], 1, x.psi), x.h_pass[1])


def rule(writer: Writer) -> Program:
    """The expression at the fields of the sample, and what it measures."""
    own = cast("UpdateField", writer.rule)
    h, *stars, y = own.fields
    width = writer.model.teacher.width
    if width != len(stars):
        raise BadParameter(
            f"fields = {own.fields} has {len(stars)} teacher fields between h and y, but the "
            f"model's teacher has {width}"
        )
    place = {h: x.h[x.j]} | {s: x.h_star[r] for r, s in enumerate(stars, start=1)}
    written = [own.written(e, writer.slope) for e in (own.psi, *(e for _, e in own.measures))]
    if any(e.has(sp.DiracDelta) for e in written):
        raise BadParameter(
            f"the student's activation {writer.sigma} jumps: it has no slope for {own.psi}"
        )
    if any(e.has(OUTPUT) for e in written):
        writer.add(x.output_pass[0], output=students_at(x.h, writer.sigma))
    rest = {y: x.label, OUTPUT: x.output_pass[0]}
    # Without noise the label is a function of the teacher fields, as those of the rule are.
    known = {y: _label_of(writer, stars)} if not is_noisy(writer.model) else {}

    def closed(e: sp.Expr) -> sp.Expr | None:
        for form in dict.fromkeys((e.xreplace(known), e)):
            try:
                return in_products(form, place, rest)
            except NotClosed:
                continue
        return None

    forms = [closed(e) for e in written]
    plain = [e.xreplace(place | rest) for e in written]
    body, *measured = (p if f is None else f for f, p in zip(forms, plain, strict=True))
    writer.add(x.psi[x.j], update=body)
    names = (name for name, _ in own.measures)
    return writer.program(
        closes=forms[0] is not None, measures=dict(zip(names, measured, strict=True))
    )


def _label_of(writer: Writer, stars: Sequence[sp.Symbol]) -> sp.Expr:
    """The label in other symbols of the teacher fields."""
    teacher = writer.model.teacher
    if isinstance(teacher, GaussianMixture):
        place = {x.h_star[r]: s for r, s in enumerate(stars, start=1)}
        return writer.label.xreplace(place)
    return teacher.outputs_at(stars)[0]


# Samples of a batch whose distribution of lengths is written out.
MOST_SAMPLES = 64
ROOT = sp.sqrt(2)


def shortened(writer: Writer) -> Program:
    """One gradient at the fields of the sample, shortened."""
    rule, algorithm = cast("Clipping", writer.rule), cast("SGD", writer.algorithm)
    squared = error_is_linear(algorithm) and algorithm.loss == "squared"
    line = None
    means = writer.averaged or algorithm.batch_size != 1  # of batches there is nothing else
    if squared and not writer.cluster.shape and means:
        line = line_of(writer.model, writer.label, writer.noisy, writer.cluster.is_plain)
    if line is not None and line.symbol != x.residual:
        line = None
    spectrum = writer.model.spectrum
    if spectrum is not None and spectrum.scaled:
        raise BadParameter(
            "lengths of gradients depend on the inputs, and dmft.Spectrum.preconditioned does "
            "not contain their eigenvalues: clip= and normalised= need a Spectrum of "
            "eigenvalues"
        )
    if algorithm.batch_size != 1 and line is None:
        raise BadParameter(f"batch_size = {algorithm.batch_size}: {SEVERAL}")
    level = x.p / sp.sqrt(writer.square)
    if rule.level is not None:
        level *= writer.scalar("clip")
    if line is not None:
        return _of_batch(writer, line, level, int(algorithm.batch_size))
    if squared and writer.noisy and writer.averaged:
        return _without_noise(writer, level)
    writer.gradient(x.h, 0, x.psi_pass[0])
    square = sp.Sum(x.psi_pass[0][x.u] ** 2, (x.u, 1, x.p))
    writer.add(x.psi_square, square=square)
    factor = level / sp.sqrt(x.psi_square + x.LEAST_SQUARE)
    chi = factor if rule.level is None else sp.Min(1, factor)
    writer.add(x.psi[x.j], shortened=chi * x.psi_pass[0][x.j])
    return writer.program()


def _without_noise(writer: Writer, level: sp.Expr) -> Program:
    """The mean over the label's noise of psi, and of psi psi^T, at given fields.

    With the noiseless residual r and s = sqrt(Delta): the two first moments of clip(r + s xi) at
    the level c, between a = (-c - r)/s and b = (c - r)/s.
    """
    slopes = sp.Sum((x.a[x.u] * At(writer.slope, x.h[x.u])) ** 2, (x.u, 1, x.p))
    writer.done = []
    writer.add(x.label, label=writer.label)
    writer.add(x.error_pass[0], residual=x.label - students_at(x.h, writer.sigma))
    writer.add(x.psi_square, square=slopes)
    writer.add(x.psi_length, length=sp.sqrt(x.psi_square + x.LEAST_SQUARE))
    r, s, length = x.error_pass[0], sp.sqrt(x.Delta), x.psi_length
    if cast("Clipping", writer.rule).level is None:
        mean, square = level / length * sp.erf(r / (ROOT * s)), level**2 / length**2
    else:
        c = level / length
        a, b = (-c - r) / s, (c - r) / s
        inside = (sp.erf(b / ROOT) - sp.erf(a / ROOT)) / 2
        above, below = (1 - sp.erf(b / ROOT)) / 2, (1 + sp.erf(a / ROOT)) / 2
        at_a, at_b = (sp.exp(-(y**2) / 2) / sp.sqrt(2 * sp.pi) for y in (a, b))
        mean = r * inside - s * (at_b - at_a) + c * (above - below)
        square = (r**2 + s**2) * inside - 2 * r * s * (at_b - at_a)
        square += -(s**2) * (b * at_b - a * at_a) + c**2 * (above + below)
    writer.add(x.error_pass[1], mean=mean)
    writer.add(x.error_pass[2], square=square)
    front = x.a[x.j] * At(writer.slope, x.h[x.j])
    writer.add(x.psi[x.j], shortened=front * x.error_pass[1])
    second = front * front.xreplace({x.j: x.l}) * x.error_pass[2]
    return replace(writer.program(), second=second)


def _of_batch(writer: Writer, line: Line, level: sp.Expr, samples: int) -> Program:
    """The moments of a batch of linear networks, in closed form."""
    if samples > MOST_SAMPLES:
        raise BadParameter(
            f"batch_size = {samples}: clipped batches are derived for up to {MOST_SAMPLES} "
            "samples; the length of larger ones is almost constant: use a rescaled learning "
            "rate instead"
        )
    sigma = writer.slope
    square = sp.Sum((x.a[x.u] * sigma) ** 2, (x.u, 1, x.p))
    variance = x.line_variance(x.residual)
    far = level * samples / sp.sqrt(variance * square)
    clips = cast("Clipping", writer.rule).level is not None
    reach, gain, second = (
        sp.IndexedBase(f"clip_{name}", positive=True)[sp.S.One]
        for name in ("reach", "gain", "square")
    )
    values = (far, *moments_of_length(samples, reach, clips))
    pairs = zip((reach, gain, second), values, strict=True)
    known = tuple(define(entry, {"length": value}, "intermediate") for entry, value in pairs)
    writer.gradient(x.h, 0, x.psi)
    moments = Shortened(x.a[x.j] * sigma, gain, variance * second, known)
    return replace(writer.program(), line=line, shortened=moments)


def moments_of_length(n: int, u: sp.Expr, clips: bool) -> tuple[sp.Expr, sp.Expr]:
    """E[chi R^2]/n and E[(chi R)^2]/n of R^2 ~ chi^2 with n degrees of freedom.

    With chi = min(1, u/R), or chi = u/R where nothing is left as it is.
    """
    mean = ROOT * sp.gamma(sp.Rational(n + 1, 2)) / sp.gamma(sp.Rational(n, 2))
    if not clips:
        return u * mean / n, u**2 / n
    below = {m: _below(m, u) for m in (n, n + 1, n + 2)}
    gain = below[n + 2] + u * mean / n * (1 - below[n + 1])
    square = below[n + 2] + u**2 / n * (1 - below[n])
    return (sp.expand(gain) if n == 1 else gain), square


def _below(n: int, u: sp.Expr) -> sp.Expr:
    """P(R < u) of R^2 ~ chi^2 with n degrees of freedom, by its recurrence."""
    if n == 1:
        return sp.erf(u / ROOT)
    if n == 2:
        return 1 - sp.exp(-(u**2) / 2)
    half = sp.Rational(n - 2, 2)
    # The logarithm keeps large powers from overflowing where the exponential vanishes.
    step = (
        sp.exp(half * sp.log(u**2 / 2) - u**2 / 2)
        if n > 4
        else (u**2 / 2) ** half * sp.exp(-(u**2) / 2)
    )
    return _below(n - 2, u) - step / sp.gamma(half + 1)
