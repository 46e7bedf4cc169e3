"""The loop over paths that every scheme shares: noise, checks, first passages, saved states."""

from __future__ import annotations

import math
from typing import Any

from dmft.solvers.runge_kutta.layout import STATE
from dmft.solvers.runge_kutta.primitives import compiled, copy, inlined, read_gap
from dmft.solvers.stochastic.layout import (
    ARRIVED,
    BEYOND,
    COVARIANCE_BAND,
    DOMAIN_ROUNDING,
    INDEFINITE,
    NONFINITE,
    OUTSIDE,
    PASSED,
    SMALLEST_PIVOT,
    WALKING,
)
from dmft.solvers.stochastic.noise import CROSSINGS, draw_increments, normal_pair, uniform, words

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
