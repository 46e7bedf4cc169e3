r"""Drift factors alpha and noise factors nu of optimisers, and the rates of what they accumulate.

    drift_j of a block = alpha_je D G_e,   noise = gamma/(p n_b) nu_jl,e S_jl

(theory/structured_inputs (5), (6), 4.0) with, r_je = 1/(sqrt(V_je) + eps),

    SGD               alpha = c_e                     nu = c_e phi_e
    AdaGradNorm       alpha = c_e/sqrt(N)             nu = c_e phi_e/N
    Adam, AdaGrad     alpha = c_e r_je                nu = c_e phi_e r_je r_le
    signs             alpha = sqrt(2 c_e/pi)          nu = phi_e, psi -> sign(psi).

and dN/dtau = tr Sigma/d tr S/(p^2 n_b). Where psi_j is a_j times one Gaussian variable the moments
of steps of a fixed shape are those of psi times constants: alpha = A sqrt(c_e)/sqrt(S_jj), nu =
B phi_e/sqrt(S_jj S_ll), with (A, B) = (2/pi, 1) for signs of one sample, those of beta_2 else.

This holds for coordinates x_i that carry a vanishing share of psi. The leading ones of a spectrum
may carry a finite share. For psi_j in proportion to one Gaussian variable, let b_ji = E[psi_j x_i],
c_e D_j w_i/sqrt(d), and B_jl the mean of b_ji b_li over the n_e coordinates of a block,

    B_jl = c_e^2 D_j G_e D_l^T/n_e,   E[g_ji g_li] = (c_e S_jl + (n_b + 1) B_jl)/n_b,
    E sign(g_ji) = sign(b_ji) I_q(1/2, n_b/2),   q = b_ji^2/(c_e S_jj),

with the regularised incomplete beta function I, 2/pi asin(sqrt(q)) for one sample. Of a
spectrum that holds the scaling of the coordinates already (`Spectrum.preconditioned`) c_e and
c_e phi_e are those of its record, and second moments are S_jj. Of clusters with variances c_ze by
block c_e and S_jl become sums over the clusters: sum_z pi_z c_ze S^z_jl in place of c_e S_jl, and
signs have alpha_ze = sqrt(2 c_ze/pi), nu = phi_e.

At fixed beta_2, y = e z of independent standard normals, V = (1 - b) sum_n b^n y_n^2 of the samples
before,

    u = y/sqrt((1 - b) y^2 + b V),   a = E[y u],   s = E[u^2].

1/sqrt(A) = 2/sqrt(pi) int exp(-A t^2) dt and 1/A = int exp(-A t) dt make both integrals of the
Laplace transform l(t) = E exp(-t y^2) = exp(v) K_0(v)/sqrt(4 pi t), v = 1/(8 t), of one sample:

    a = 2/sqrt(pi) int -l'((1 - b) t^2) L(b t^2) dt,   s = int -l'((1 - b) t) L(b t) dt,

L(t) = prod_n l((1 - b) b^n t) (theory/structured_inputs 4.5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define
from dmft.equations.update.optimiser import WEIGHTS, Blocks, is_decoupled
from dmft.equations.update.overlaps import Factors, Moments, plain_factors
from dmft.equations.update.program import error_is_linear, is_noisy
from dmft.errors import BadParameter
from dmft.gaussian.closed.pair import CorrelationAngle, CorrelationRoot
from dmft.model import FIELD, SGD, GradientFlow, Model, Spectrum
from dmft.model.adaptive import LONG

# Below, l(t) = 1 - t + 9/2 t^2 ...: factors of the product from there on are one integral.
SMALL = 1e-6
# The integrals are sums over log t, which converge exponentially in the step, up to where the
# memory leaves nothing.
LOW, HIGH, STEP = -80.0, 200.0, 0.1
NOTHING = 1e-20


def transform(t: Array) -> Array:
    """l(t) = E exp(-t y^2)."""
    from scipy.special import kve

    found: Array = kve(0, 1 / (8 * t)) / np.sqrt(4 * np.pi * t)
    return found


def slope(t: float) -> float:
    """-l'(t) = E[y^2 exp(-t y^2)]."""
    from scipy.special import kve

    v = 1 / (8 * t)
    if v > 1e4:  # the two terms cancel: moments E y^2 = 1, E y^4 = 9, E y^6 = 225
        return 1 - 9 * t + 225 * t * t / 2
    # d/dv of sqrt(v) exp(v) K_0(v), and v' = -v/t.
    bend = kve(0, v) / (2 * v) + kve(0, v) - kve(1, v)
    return float(math.sqrt(2 * v / np.pi) * bend * v / t)


def product(t: float, beta: float) -> float:
    """L(t), the transform of the memory."""
    first = (1 - beta) * t
    count = max(math.ceil(math.log(SMALL / first) / math.log(beta)), 0) if first > SMALL else 0
    parts: Array = first * beta ** np.arange(count, dtype=np.float64)
    rest = first * beta**count
    # log l(t) = -t + 4 t^2 + ..., summed over a geometric series.
    tail = -rest / (1 - beta) + 4 * rest * rest / (1 - beta * beta)
    return math.exp(float(np.log(transform(parts)).sum()) + tail)


@lru_cache(maxsize=64)
def constants(beta: float) -> tuple[float, float]:
    """(a, s)."""
    values = np.exp(np.arange(LOW, HIGH, STEP))
    a, s = 0.0, 0.0
    for t in values:
        memory = product(beta * t, beta)
        if memory < NOTHING:
            break
        s += STEP * t * slope((1 - beta) * t) * memory
        # In t^2 instead of t: the step of log t is half as long.
        a += STEP * math.sqrt(t / math.pi) * slope((1 - beta) * t) * memory
    return float(a), float(s)


# Of a block: one over its number of coordinates, 0 where that grows with d. Of a coordinate x_i:
# E[psi_j x_i] E[psi_l x_i], its share in E[psi_j^2], and how much more the signs correlate.
inverse_count, S_coordinate = map(sp.IndexedBase, ("inverse_count", "S_coordinate"))
share_in, sign_gain = map(sp.IndexedBase, ("q", "sign_gain"))
kappa_2, eps = x.numbers["second_moment_rate"], x.numbers["eps"]
# Shares q of a coordinate in psi are moved by this towards one: asin(sqrt(q))/sqrt(q) and its slope
# have no value at 0. It changes by a sixth of this.
LEAST_SHARE = sp.Float(1e-9)


def factors_of(
    model: Model, algorithm: SGD, blocks: Blocks, step: sp.Expr, averaged: bool = True
) -> Factors:
    """Factors of an optimiser whose steps are scaled; `step` is its rate in the quadratic term."""
    scale = algorithm.scale  # type: ignore[attr-defined]
    check_spectrum(model, algorithm)
    size = step / (x.p * algorithm.batch_size)
    if scale == "norm":
        return _norm(model, algorithm, blocks, size)
    beta2 = getattr(algorithm, "beta2", None)
    if scale == "moment" and beta2 is None:
        return _second_moments(model, algorithm, blocks, size, averaged)
    if has_gaussian_error(model, algorithm):
        return _of_fixed_shape(model, algorithm, blocks, step / x.p)
    if beta2 is not None:
        raise BadParameter(
            f"beta2 = {beta2}: constants of a fixed memory are known where the error is Gaussian "
            "(linear student and teacher, inputs without clusters, a loss that is quadratic in f "
            "and y); use second_moment_rate, or dmft.simulate"
        )
    return _signs(model, algorithm, blocks, step / x.p)


def has_gaussian_error(model: Model, algorithm: SGD) -> bool:
    """Whether psi_j is a readout times a centred Gaussian variable, the error."""
    if model.clusters is not None or not error_is_linear(algorithm):
        return False
    teacher = model.teacher
    student = _is_multiple(model.student.activation, FIELD)
    if teacher.activation is not None:
        return student and _is_multiple(teacher.activation, FIELD)
    ((expr, fields),) = teacher.functions
    return student and _is_form(expr, fields)


def has_exact_coordinates(model: Model, algorithm: SGD) -> bool:
    """Whether coordinates that carry a finite share of psi have their own moments of steps."""
    spectrum = model.spectrum
    if spectrum is None or spectrum.scaled or not spectrum.inverse_counts.any():
        return False
    return has_gaussian_error(model, algorithm) and getattr(algorithm, "beta2", None) is None


def _coordinate_definitions(moments: Moments, blocks: Blocks) -> list[Definition]:
    """B_jl: the drift of neuron l, met by that of neuron j in place of a row of the weights."""
    j, l, e = x.j, x.l, x.block  # noqa: E741
    drift = sp.Add(*moments.drifts.values()).xreplace({l: x.u}).xreplace({j: l})

    def met(entry: sp.Indexed) -> sp.Expr:
        (other,) = set(entry.indices) - {x.i}
        return sp.Add(*(blocks.drift(b, WEIGHTS, j, other) for b in moments.bases.values()))

    entries = {y: met(y) for y in drift.atoms(sp.Indexed) if y.base == x.Omega and x.i in y.indices}
    front = x.eigenvalue[e] ** 2 * inverse_count[e]
    value = front * drift.xreplace(entries)
    return [define(S_coordinate[j, l, e], {"coordinate": value}, "intermediate")]


def _sign_gain(samples: int, q: sp.Expr) -> sp.Expr:
    """I_q(1/2, n/2) over its limit for small q."""
    half, odd = sp.Rational(1, 2), samples % 2
    total, cosine = sp.S.One, sp.sqrt(1 - q)
    if odd:
        total = 2 / sp.pi * CorrelationAngle(sp.S.One, q, q) / sp.sqrt(q)
        cosine = CorrelationRoot(sp.S.One, q, q) / sp.sqrt(q)
    # I_q(1/2, b + 1) = I_q(1/2, b) + sqrt(q) (1 - q)^b/(b B(1/2, b)), from b = 1/2 or b = 1.
    for n in range((samples - 1) // 2):
        b = n + half if odd else n + sp.S.One
        total += cosine ** (2 * b) / (b * _beta(b))
    return sp.expand_mul(_beta(sp.Rational(samples, 2)) / 2 * total)


def _beta(b: sp.Expr) -> sp.Expr:
    return sp.sqrt(sp.pi) * sp.gamma(b) / sp.gamma(b + sp.Rational(1, 2))


def _is_multiple(activation: sp.Expr, field_: sp.Symbol) -> bool:
    return not (activation / field_).expand().has(field_)


def _is_form(expr: sp.Expr, fields: tuple[sp.Symbol, ...]) -> bool:
    """Whether a target is a linear combination of its fields."""
    if not expr.is_polynomial(*fields):
        return False
    return all(sum(powers) == 1 for powers in sp.Poly(expr, *fields).monoms())


def check_spectrum(model: Model, algorithm: SGD | GradientFlow) -> None:
    """Refuse spectra for which the factors of an optimiser are not known."""
    spectrum, scale = model.spectrum, getattr(algorithm, "scale", None)
    if spectrum is None or scale is None:
        return
    own, name = spectrum.scaled, type(algorithm).__name__
    if own and scale == "norm":
        raise BadParameter(
            f"{name} accumulates squares of the gradient, and {spectrum} with noise factors "
            "does not determine their size: use a Spectrum of the inputs"
        )
    if own and name == "AdaGrad":
        raise BadParameter(
            f"{name} begins with the same value initial= in every coordinate, so that its steps "
            "do not "
            "scale with their variances: it is derived for a Spectrum of independent coordinates"
        )
    eps = getattr(algorithm, "eps", 0)
    if own and eps != 0:
        raise BadParameter(
            f"eps = {eps}: a covariance that is not diagonal has blocks under {name} "
            "only for eps = 0, where all steps of a coordinate scale with its variance; leave "
            "eps out, or use a Spectrum of independent coordinates"
        )
    if own and algorithm.weight_decay != 0 and not is_decoupled(algorithm):
        raise BadParameter(
            f"weight_decay = {algorithm.weight_decay} is divided in the basis of the "
            f"coordinates, which {spectrum} with noise factors does not determine: use "
            "decoupled=True"
        )
    if own and getattr(algorithm, "beta2", None) is not None:
        raise BadParameter(
            f"beta2 = {algorithm.beta2}: the noise of steps with a fixed memory is known for "  # type: ignore[union-attr]
            "independent coordinates; use second_moment_rate or leave both out"
        )
    if model.clusters is not None and scale == "sign" and not model.clusters.scales.all():
        raise BadParameter(
            f"{model.clusters} has a variance of 0: signs of constant inputs are the signs of "
            "their mean; use a small variance, or leave the block out"
        )
    if scale != "norm" and not own and not spectrum.eigenvalues.all():
        (block,) = (int(e) for e in spectrum.eigenvalues.argsort(kind="stable")[:1])
        raise BadParameter(
            f"block {block} of {spectrum} has the eigenvalue 0: inputs do not vary there, and "
            f"steps of {name} are 0/0; leave the block out (its overlaps stay as they are)"
        )


def _second_moment_definitions(
    moments: Moments, left_out: tuple[str, ...] = ()
) -> tuple[list[Definition], dict[str, sp.Expr]]:
    """S_jl by named part, and where each stands.

    Where clusters differ by block, sum_z pi_z c_ze S^z_jl in each.
    """
    j, l = x.j, x.l  # noqa: E741
    named = moments.quadratic(sp.S.One).items()
    parts = {name: value for name, value in named if value != 0 and name not in left_out}
    if _by_cluster(moments.model):
        places = {n: sp.IndexedBase(f"S_{n}")[j, l, x.block] for n in parts}
    else:
        bases = {"sgd_noise": x.S_update, "label_noise": x.S_label}
        places = {name: bases[name][j, l] for name in parts}
    found = [define(places[n], {n: value}, "intermediate") for n, value in parts.items()]
    return found, places


def _by_cluster(model: Model) -> bool:
    """Whether variances of inputs differ between clusters and blocks."""
    return model.clusters is not None and model.blocks is not None


def _own(parts: Mapping[str, sp.Expr]) -> sp.Expr:
    """S_jj."""
    return sp.Add(*parts.values()).xreplace({x.l: x.j})


def _norm(model: Model, algorithm: SGD, blocks: Blocks, size: sp.Expr) -> Factors:
    """One accumulator for all, in the gradient itself: |G|^2 = tr Sigma/d sum_j psi_j^2/p^2."""
    moments = Moments(model, algorithm)
    drift, share = plain_factors(model)
    moment_definitions, parts = _second_moment_definitions(moments)
    total = sp.Sum(_own(parts).xreplace({x.j: x.u}), (x.u, 1, x.p))
    if _by_cluster(model):
        total = sp.Sum(share * total, (x.block, 1, x.blocks))
    elif blocks.by_block:
        total *= sp.Sum(share, (x.block, 1, x.blocks))
    rate = total / (x.gamma * x.p * algorithm.batch_size)
    noise = {name: size * share / x.accumulator * s for name, s in parts.items()}
    rates = [define(x.accumulator, {"squares": rate}, "rate")]
    gain = 1 / sp.sqrt(x.accumulator)
    return Factors(moments, drift * gain, noise, moment_definitions, rates, gain)


def _second_moments(
    model: Model, algorithm: SGD, blocks: Blocks, size: sp.Expr, averaged: bool
) -> Factors:
    """A second moment for each neuron and block."""
    j, l = x.j, x.l  # noqa: E741
    moments = Moments(model, algorithm, averaged)
    drift, share = plain_factors(model)
    found, parts = _second_moment_definitions(moments)
    spectrum = model.spectrum
    within = Blocks(spectrum is not None and not spectrum.scaled)
    variance = x.eigenvalue[x.block] if within.by_block else sp.S.One
    if _by_cluster(model):  # it is part of S
        variance = sp.S.One
    square, noise = variance * _own(parts), {name: share * s for name, s in parts.items()}
    if has_exact_coordinates(model, algorithm):
        found += _coordinate_definitions(moments, blocks)
        own = (algorithm.batch_size + 1) * S_coordinate[j, l, x.block]
        square += own.xreplace({l: j})
        noise["sgd_noise"] = noise.get("sgd_noise", sp.S.Zero) + share / variance * own
    square /= algorithm.batch_size
    rates = []
    kept = algorithm.kept  # type: ignore[attr-defined]
    value = within(kept, j) if kept else square
    if kept and getattr(algorithm, "second_moment_rate", None) is None:
        # Per tau = steps/d.
        rates = [define(value, {"squares": x.p / x.gamma * square}, "rate")]
    elif kept:
        terms = {"squares": kappa_2 * square, "forgetting": -kappa_2 * value}
        rates = [define(value, terms, "rate")]
    beside = eps if getattr(algorithm, "eps", 0) != 0 else sp.S.Zero
    gain = within.entry(x.gain, j)
    found.append(define(gain, {"gain": 1 / (sp.sqrt(value) + beside)}, "intermediate"))
    both = gain * gain.xreplace({j: l})
    noise = {name: size * both * s for name, s in noise.items()}
    return Factors(moments, drift * gain, noise, found, rates, gain)


def _of_fixed_shape(model: Model, algorithm: SGD, blocks: Blocks, size: sp.Expr) -> Factors:
    """Steps along psi/|psi|, of psi that are readouts times one Gaussian variable."""
    moments = Moments(model, algorithm.gradient)  # type: ignore[attr-defined]
    # Noise that is not declared is no parameter of an update with a psi of its own.
    unknown = not algorithm.is_plain and not is_noisy(model)
    found, parts = _second_moment_definitions(moments, ("label_noise",) * unknown)
    along, across = _constants(algorithm)
    drift, share = _separable(model, along)
    gain = x.gain[x.j]
    found.append(define(gain, {"gain": 1 / sp.sqrt(_own(parts))}, "intermediate"))
    both = gain * x.gain[x.l]
    noise = {name: size * share * across * both * s for name, s in parts.items()}
    if has_exact_coordinates(model, algorithm):
        found += _coordinate_definitions(moments, blocks)
        j, e, whole = x.j, x.block, x.eigenvalue[x.block] * _own(parts)
        share, own = share_in[j, e], sign_gain[j, e]
        value = LEAST_SHARE + (1 - LEAST_SHARE) * S_coordinate[j, j, e] / whole
        found.append(define(share, {"coordinate": value}, "intermediate"))
        gain_of_signs = _sign_gain(int(algorithm.batch_size), share)
        found.append(define(own, {"signs": gain_of_signs}, "intermediate"))
        drift *= own
    return Factors(moments, drift * gain, noise, found)


def _constants(algorithm: SGD) -> tuple[sp.Expr, sp.Expr]:
    """A sqrt(pi/2) and B of steps of a fixed shape."""
    beta2 = getattr(algorithm, "beta2", None)
    if beta2 is not None:
        a, s = constants(float(beta2))
        return sp.sqrt(sp.pi / 2) * sp.Float(a), sp.Float(s)
    n = sp.Integer(algorithm.batch_size)
    return sp.sqrt(2) * sp.gamma((n + 1) / 2) / sp.gamma(n / 2), sp.S.One


def _separable(model: Model, along: sp.Expr = sp.S.One) -> tuple[sp.Expr, sp.Expr]:
    """Alpha and nu of steps along sign(x_i) times a function of psi."""
    front = sp.sqrt(2 / sp.pi) * along
    spectrum = model.spectrum
    if spectrum is None:
        return front, sp.S.One
    c, share = plain_factors(model)
    if _by_cluster(model):
        return front, share
    if spectrum.scaled:
        return along * c, share
    return front * sp.sqrt(c), share / c


def _signs(model: Model, algorithm: SGD, blocks: Blocks, size: sp.Expr) -> Factors:
    """Steps along sign(psi_j) sign(x_i)."""
    moments = Moments(model, algorithm)
    drift, share = _separable(model)
    noise = {name: size * share * s for name, s in moments.quadratic(sp.S.One).items()}
    return Factors(moments, drift, noise)


# Coordinates are leading from this share of the variance of the outputs on.
LEADING = 0.02
# Fluctuations of second moments change steps by this times 1 - beta_2.
FLUCTUATION = 2.5


def claims_of(model: Model, algorithm: Any) -> list[str]:
    """Statements on leading coordinates and on second moments, with their relative orders.

    A coordinate that carries a share of psi has other moments of steps than c_e S_jj, by the order
    of this share. That of the outputs is the one at a start of zero.
    """
    spectrum, name, found = model.spectrum, type(algorithm).__name__, []
    if spectrum is None or spectrum.scaled:
        return []
    number, share = _leading(spectrum, model.teacher.width)
    if number:
        effect = f"steps of {name} along them have a relative error of the order of this share"
        if has_exact_coordinates(model, algorithm):
            effect = "included exactly"
        directions = "direction carries" if number == 1 else "directions carry"
        found.append(f"{number} {directions} {share} of the outputs: {effect}")
    dim, fixed = spectrum.dim, getattr(algorithm, "beta2", None)
    if dim is None or fixed is not None or not hasattr(algorithm, "eps"):
        return found
    text = f"second moments of {name} in runs with d = {dim}"
    forgotten = 1 / (LONG * math.sqrt(dim))
    if algorithm.kept:
        size = FLUCTUATION / dim
        order = f"fluctuate (relative order {size:.2g} second_moment_rate learning_rate/p)"
    else:
        late = 1 / (forgotten * dim)
        order = (
            f"are averages over {1 / forgotten:.0f} steps, with a relative error of order "
            f"{FLUCTUATION * forgotten:.2g} + {late:.2g} learning_rate/p"
        )
    return [*found, f"{text} {order}"]


def _leading(spectrum: Spectrum, k: int) -> tuple[int, str]:
    """Number of coordinates that contribute a finite share of the outputs, and that share."""
    alone = spectrum.inverse_counts
    if not alone.any():
        return 0, ""
    if spectrum.teacher is None and np.any(spectrum.fractions == 0.0):
        return int(np.sum(spectrum.fractions == 0.0)), "a share"
    variance = spectrum.eigenvalues * np.einsum("err->e", spectrum.teacher_blocks(k))
    lead = variance * alone > LEADING * variance.sum()
    if not lead.any():
        return 0, ""
    largest = np.max(variance * alone) / variance.sum()
    return round(float(np.sum(1.0 / alone[lead]))), f"up to {largest:.0%} each"
