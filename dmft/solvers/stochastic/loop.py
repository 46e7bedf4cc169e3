"""The loop over paths that every scheme shares: records, noise, checks, first passages, saves.

Random numbers are a pure function of seed, path and position in the path: Philox4x64-10, the
counter-based generator of Salmon et al. (2011), word for word that of `numpy.random.Philox`.
Nothing is stored between draws: a path sees the same noise whatever the number of threads, of paths
or of pieces that it was computed in, and whatever the parameters.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dmft.solvers.runge_kutta.layout import STATE, Cube, Integers, Matrix, Vector, Words
from dmft.solvers.runge_kutta.primitives import compiled, copy, inlined, read_gap
from dmft.solvers.signatures import DOMAIN, EVENTS_TYPE, JACOBIAN_SIGNATURE, RHS, record

# How a path stands.
WALKING, ARRIVED, PASSED, BEYOND, OUTSIDE, NONFINITE, INDEFINITE = range(7)
# Negative pivots down to this fraction of the largest variance (at the start or here) are the
# rounding of a covariance whose terms cancel; the noise along them is left out and counted.
COVARIANCE_BAND = 1e-12
# A pivot below this fraction of its own variance is what a subtraction leaves of zero.
SMALLEST_PIVOT = 1e-13
# The domain may be left by rounding: this fraction of the largest overlap.
DOMAIN_ROUNDING = 1e-12


class Plan(NamedTuple):
    """What the paths share; `save` holds step numbers."""

    widths: Integers
    par: Vector
    save: Integers
    key: Words
    h: float
    t_start: float
    steps: int
    noise_scale: float
    variance: float  # largest variance per unit time at the starts, noise_scale included
    bound: float
    trace: float
    has_domain: int
    normal: int
    substeps: int
    bridge: int


class Walk(NamedTuple):
    """State of C paths of one chunk; E events, T saved times."""

    y: Matrix  # (C, n)
    trial: Matrix  # (C, n) the state that a path failed on
    step: Integers  # (C,)
    code: Integers  # (C,)
    t: Vector  # (C,) where the path ended
    when: Matrix  # (C, E) first passages, NaN before
    gap: Matrix  # (C, E) event functions at the last step
    sign: Matrix  # (C, E) side on which they were last seen
    shift: Matrix  # (C, E) what this path's threshold exceeds the event's by
    owed: Integers  # (C,) next saved time
    out: Cube  # (C, T, n)


class Scratch(NamedTuple):
    """Work space of one thread."""

    slope: Vector  # (n,)
    ahead: Vector  # (n,)
    point: Vector  # (n,) where a function is evaluated
    new: Vector  # (n,)
    increments: Vector  # (n,)
    areas: Matrix  # (n, n)
    sigma: Matrix  # (n, n)
    root: Matrix  # (n, n) factor at the start of the step
    up: Matrix  # (n, n) factors at supporting points
    down: Matrix  # (n, n)
    seen: Vector  # (m,)
    lanes: Vector  # (4,)
    have: Integers  # (1,)
    theta: Vector  # (E,)
    band: Integers  # (1,) steps with a pivot or a state within the bands of rounding


PLAN_TYPE, WALK_TYPE, SCRATCH_TYPE = record(Plan), record(Walk), record(Scratch)
COVARIANCE = types.FunctionType(JACOBIAN_SIGNATURE)
# (drift, diffusion, observe, domain, plan, events, walk, scratch, first path, last step)
PATHS_SIGNATURE = types.void(
    RHS, COVARIANCE, RHS, DOMAIN, PLAN_TYPE, EVENTS_TYPE, WALK_TYPE, SCRATCH_TYPE, types.int64,
    types.int64,
)  # fmt: skip


# What a number is drawn for: the third word of the counter.
INCREMENTS, AREAS, CROSSINGS = np.uint64(0), np.uint64(1), np.uint64(2)
# Word of the seed's spawn key that keeps paths apart from every other use of a seed.
PATHS_STREAM = 7

MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
ZERO, ONE = np.uint64(0), np.uint64(1)
UNUSED_BITS, UNIT = np.uint64(11), 2.0**-53
TWO_PI, ROOT_3 = 2.0 * math.pi, math.sqrt(3.0)


def path_key(seed: int) -> NDArray[np.uint64]:
    """Key (2,) of all paths of a seed."""
    sequence = np.random.SeedSequence(seed, spawn_key=(PATHS_STREAM,))
    return np.asarray(sequence.generate_state(2, np.uint64), dtype=np.uint64)


@intrinsic
def high_word(_context, a, b):  # type: ignore[no-untyped-def]
    """Upper 64 bits of a product of two words."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        x, y = (builder.zext(argument, wide) for argument in arguments)
        product = builder.lshr(builder.mul(x, y), ir.Constant(wide, 64))
        return builder.trunc(product, ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@inlined
def words(key, block, path, purpose):  # type: ignore[no-untyped-def]
    """Four random words: block number `block` of this path and purpose."""
    a, b, c, d = np.uint64(block), np.uint64(path), np.uint64(purpose), ZERO
    k, m = key[0], key[1]
    for _ in range(10):
        high_a, low_a = high_word(MULTIPLIER_0, a), MULTIPLIER_0 * a
        high_c, low_c = high_word(MULTIPLIER_1, c), MULTIPLIER_1 * c
        a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ m, low_a
        k += WEYL_0
        m += WEYL_1
    return a, b, c, d


@inlined
def uniform(word):  # type: ignore[no-untyped-def]
    """Uniform number in the open interval (0, 1)."""
    return (np.float64(word >> UNUSED_BITS) + 0.5) * UNIT


@inlined
def normal_pair(one, two):  # type: ignore[no-untyped-def]
    """Two independent standard normal numbers from two words (Box and Muller)."""
    radius, angle = math.sqrt(-2.0 * math.log(uniform(one))), TWO_PI * uniform(two)
    return radius * math.cos(angle), radius * math.sin(angle)


@inlined
def three_point(word):  # type: ignore[no-untyped-def]
    """Zero, or with probability 1/6 each plus or minus the root of 3: moments 0, 1, 0, 3, 0."""
    u = 6.0 * uniform(word)
    return -ROOT_3 if u < 1.0 else (ROOT_3 if u > 5.0 else 0.0)


@inlined
def draw_increments(key, path, step, substeps, normal, root, lanes, have, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the increments of one step, variance root^2 substeps each.

    `lanes` holds the last four numbers drawn and `have` their block (-1: none).
    """
    n = out.size
    for j in range(n):
        out[j] = 0.0
    for q in range(substeps):
        for j in range(n):
            index = (step * substeps + q) * n + j
            block = index // 4
            if block != have[0]:
                a, b, c, d = words(key, block, path, INCREMENTS)
                if normal != 0:
                    lanes[0], lanes[1] = normal_pair(a, b)
                    lanes[2], lanes[3] = normal_pair(c, d)
                else:
                    lanes[0], lanes[1] = three_point(a), three_point(b)
                    lanes[2], lanes[3] = three_point(c), three_point(d)
                have[0] = block
            out[j] += root * lanes[index - 4 * block]


@inlined
def draw_areas(key, path, step, h, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n, n) with the two-point variables V: antisymmetric +-h, and -h on the diagonal.

    They stand for the antisymmetric part of the iterated integrals of two Brownian motions.
    """
    n = out.shape[0]
    pairs = n * (n - 1) // 2
    blocks = (pairs + 255) // 256
    number = 0
    a, b, c, d = ZERO, ZERO, ZERO, ZERO
    for i in range(n):
        out[i, i] = -h
        for j in range(i):
            if number % 256 == 0:
                a, b, c, d = words(key, step * blocks + number // 256, path, AREAS)
            lane = (number // 64) % 4
            word = a if lane == 0 else (b if lane == 1 else (c if lane == 2 else d))
            bit = (word >> np.uint64(number % 64)) & ONE
            out[j, i] = h if bit == ONE else -h
            out[i, j] = -out[j, i]
            number += 1


# A uniform number of 53 bits is never below exp(-37.4): no bridge crosses with less probability.
LARGEST_EXPONENT = 38.0


@inlined
def factor_noise(diffusion, plan, scratch, t, y, root):  # type: ignore[no-untyped-def]
    """Lower triangular `root` with root root^T = noise_scale Sigma(t, y); WALKING or why not.

    Columns keep their order, so that they are smooth functions of y where Sigma is positive
    definite, and where its rank is lost by identities between entries of the state.
    """
    sigma, n = scratch.sigma, y.size
    diffusion(t, y, plan.widths, plan.par, sigma)
    largest = plan.variance
    for i in range(n):
        for j in range(i + 1):
            sigma[i, j] *= plan.noise_scale
        largest = max(largest, sigma[i, i])
    band = COVARIANCE_BAND * largest
    for j in range(n):
        own, pivot = sigma[j, j], sigma[j, j]
        for k in range(j):
            pivot -= root[j, k] * root[j, k]
        if not math.isfinite(pivot):
            return NONFINITE
        if pivot < -band:
            return INDEFINITE
        kept = pivot > SMALLEST_PIVOT * own
        if not kept and pivot < 0.0 and own <= 0.0:
            scratch.band[0] += 1
        width = math.sqrt(pivot) if kept else 0.0
        root[j, j] = width
        for i in range(j + 1, n):
            rest = sigma[i, j]
            for k in range(j):
                rest -= root[i, k] * root[j, k]
            root[j, i] = 0.0
            root[i, j] = rest / width if kept else 0.0
            # A direction without variance has no covariance with any other.
            if not kept and rest * rest > 4.0 * (SMALLEST_PIVOT * abs(own) + band) * largest:
                return INDEFINITE
    return WALKING


@inlined
def evaluate(function, plan, t, y, out):  # type: ignore[no-untyped-def]
    """Write a drift into `out`; NONFINITE when an entry is not finite."""
    function(t, y, plan.widths, plan.par, out)
    for i in range(out.size):
        if not math.isfinite(out[i]):
            return NONFINITE
    return WALKING


@inlined
def drift_and_factor(drift, diffusion, plan, scratch, t, y):  # type: ignore[no-untyped-def]
    """Drift and factor at y, into `scratch.slope` and `scratch.root`; WALKING or why not."""
    copy(scratch.point, y)
    code = evaluate(drift, plan, t, y, scratch.slope)
    if code == WALKING:
        code = factor_noise(diffusion, plan, scratch, t, y, scratch.root)
    return code


@inlined
def _judge(domain, plan, scratch, y):  # type: ignore[no-untyped-def]
    """WALKING when a new state is finite, moderate and inside the domain."""
    largest = plan.trace
    for i in range(y.size):
        if math.isnan(y[i]):
            return NONFINITE
        largest = max(largest, abs(y[i]))
        if abs(y[i]) > plan.bound:
            return BEYOND
    if plan.has_domain == 0 or domain(y, plan.widths, plan.par, 0.0) >= 0.0:
        return WALKING
    if domain(y, plan.widths, plan.par, DOMAIN_ROUNDING * largest) >= 0.0:
        scratch.band[0] += 1
        return WALKING
    return OUTSIDE


@compiled
def _spread(observe, plan, events, scratch, t, y, e):  # type: ignore[no-untyped-def]
    """Variance of event function e over one step, from the noise at its start."""
    total = 0.0
    if events.kind[e] == STATE:
        for j in range(y.size):
            total += scratch.root[events.first[e], j] ** 2
        return total * plan.h
    for j in range(y.size):
        change = 0.0
        for side in (-1.0, 1.0):
            for i in range(y.size):
                scratch.point[i] = y[i] + side * math.sqrt(plan.h) * scratch.root[i, j]
            if scratch.seen.size > 0:
                observe(t, scratch.point, plan.widths, plan.par, scratch.seen)
            change += side * read_gap(events, scratch.point, scratch.seen, e)
        total += 0.25 * change * change
    return total


@compiled
def _bridge(plan, path, step, events, e, old, new, spread):  # type: ignore[no-untyped-def]
    """Fraction of the step at which a Brownian bridge first crosses zero; -1 when it does not.

    In the clock u = theta/(1 - theta) the bridge is a Brownian motion with drift, whose first
    passage is inverse Gaussian (mean |old/new|, shape old^2/spread), also when both ends lie on one
    side, given that it crosses at all, which has probability exp(-2 old new/spread).
    """
    if old * new > 0.0 and not 2.0 * old * new < LARGEST_EXPONENT * spread:
        return -1.0
    a, b, c, d = words(plan.key, step * events.kind.size + e, path, CROSSINGS)
    if old * new > 0.0 and not uniform(a) < math.exp(-2.0 * old * new / spread):
        return -1.0
    if not spread > 0.0:
        return old / (old - new)
    ratio, (z, _) = abs(new / old), normal_pair(b, c)
    q = 0.5 * z * z * spread / (old * old)
    inverse = ratio + q + math.sqrt(q * (2.0 * ratio + q))
    if uniform(d) * (inverse + ratio) <= inverse:
        return 1.0 / (1.0 + inverse)
    return inverse / (inverse + ratio * ratio)


@inlined
def _take_sides(observe, plan, events, walk, scratch, c, t, y):  # type: ignore[no-untyped-def]
    """Note on which side of every threshold path c starts; on the threshold itself it has none."""
    if scratch.seen.size > 0:
        observe(t, y, plan.widths, plan.par, scratch.seen)
    for e in range(events.kind.size):
        value = read_gap(events, y, scratch.seen, e) - walk.shift[c, e]
        walk.gap[c, e] = value
        if value != 0.0 and not math.isnan(value):
            walk.sign[c, e] = math.copysign(1.0, value)


@inlined
def _cross(observe, plan, events, walk, scratch, c, path, step, t, y):  # type: ignore[no-untyped-def]
    """Fractions of the step at which events first happen; -1 for those that do not."""
    if scratch.seen.size > 0:
        observe(t + plan.h, scratch.new, plan.widths, plan.par, scratch.seen)
    for e in range(events.kind.size):
        # Until the spreads are asked for, `theta` holds the new values.
        scratch.theta[e] = read_gap(events, scratch.new, scratch.seen, e) - walk.shift[c, e]
    for e in range(events.kind.size):
        new, old, side = scratch.theta[e], walk.gap[c, e], walk.sign[c, e]
        scratch.theta[e] = -1.0
        if math.isnan(new):
            continue
        walk.gap[c, e] = new
        walk.sign[c, e] = math.copysign(1.0, new) if new != 0.0 else 0.0
        unseen = math.isnan(walk.when[c, e])
        if side == 0.0 or not unseen or events.direction[e] * side > 0.0:
            continue
        if plan.bridge != 0:
            spread = _spread(observe, plan, events, scratch, t, y, e)
            scratch.theta[e] = _bridge(plan, path, step, events, e, old, new, spread)
        elif new * side <= 0.0:
            scratch.theta[e] = old / (old - new)


@inlined
def _note(plan, events, walk, scratch, c, t):  # type: ignore[no-untyped-def]
    """Note the first passages of one step up to the first terminal one; PASSED when there is."""
    last = 2.0
    for e in range(events.kind.size):
        if events.terminal[e] != 0 and scratch.theta[e] >= 0.0:
            last = min(last, scratch.theta[e])
    for e in range(events.kind.size):
        if 0.0 <= scratch.theta[e] <= last:
            walk.when[c, e] = t + scratch.theta[e] * plan.h
    if last > 1.0:
        return WALKING
    walk.t[c] = t + last * plan.h
    return PASSED


@inlined
def _save(plan, walk, c, step):  # type: ignore[no-untyped-def]
    """Save the state of path c if this step is asked for."""
    i = walk.owed[c]
    if i < plan.save.size and plan.save[i] == step:
        copy(walk.out[c, i], walk.y[c])
        walk.owed[c] = i + 1


@inlined
def _fail(walk, c, code, t, state):  # type: ignore[no-untyped-def]
    """End path c before the step from t, and keep the state that it failed on."""
    walk.code[c], walk.t[c] = code, t
    copy(walk.trial[c], state)


def paths_loop(scheme: Any) -> Any:
    """Compiled loop around the step of a scheme, (drift, ..., t, y) -> code."""

    @inlined
    def walk_paths(  # type: ignore[no-untyped-def]
        drift, diffusion, observe, domain, plan, events, walk, scratch, first, until
    ):
        """Carry every path that still walks on to step `until`, one after the other."""
        spread = math.sqrt(plan.h / plan.substeps)
        for c in range(walk.y.shape[0]):
            y, path = walk.y[c], first + c
            scratch.have[0] = -1
            if walk.step[c] == 0 and walk.code[c] == WALKING:
                walk.code[c] = _judge(domain, plan, scratch, y)
                _take_sides(observe, plan, events, walk, scratch, c, plan.t_start, y)
            while walk.code[c] == WALKING and walk.step[c] < until:
                step = walk.step[c]
                t = plan.t_start + step * plan.h
                draw_increments(
                    plan.key, path, step, plan.substeps, plan.normal, spread, scratch.lanes,
                    scratch.have, scratch.increments,
                )  # fmt: skip
                code = scheme(drift, diffusion, plan, scratch, path, step, t, y)
                if code != WALKING:
                    _fail(walk, c, code, t, scratch.point)
                    break
                code = _judge(domain, plan, scratch, scratch.new)
                if code != WALKING:
                    _fail(walk, c, code, t, scratch.new)
                    break
                if events.kind.size > 0:
                    _cross(observe, plan, events, walk, scratch, c, path, step, t, y)
                    walk.code[c] = _note(plan, events, walk, scratch, c, t)
                    if walk.code[c] != WALKING:
                        break
                copy(y, scratch.new)
                walk.step[c] = step + 1
                _save(plan, walk, c, step + 1)
                if step + 1 == plan.steps:
                    walk.code[c], walk.t[c] = ARRIVED, t + plan.h

    return walk_paths
