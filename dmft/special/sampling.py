"""Random streams from a seed, Sobol points, and standard normal variables from uniform ones.

What a stream draws never depends on threads or order. Quantiles are rational functions fitted in
high precision (weighted least squares on Chebyshev points of q = u - 1/2 up to 0.475, and of
r = sqrt(-2 log u) beyond): relative errors 5e-13 and 2e-14. The centre is one loop without
branches; the five points in a hundred beyond are gathered for another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.errors import BadParameter
from dmft.validation import shown

# Runs whose results memory holds.
MOST_SEEDS = 10**6


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Generator of the stream `key` of this seed, independent of all other streams.

    The result works inside compiled code, where a normal variate costs about 3 ns.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def as_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return the seeds meant by a number n (0 .. n-1) or by a sequence of distinct integers."""
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        if not 1 <= seeds <= MOST_SEEDS:
            raise BadParameter(
                f"seeds must be at least 1 and at most {MOST_SEEDS} runs, got {shown(seeds)}"
            )
        return tuple(range(int(seeds)))
    values = tuple(seeds) if isinstance(seeds, Sequence | np.ndarray) else ()
    good = all(isinstance(s, int | np.integer) and s >= 0 for s in values)
    if not values or not good or len(set(values)) != len(values):
        raise BadParameter(
            f"seeds must be a number of runs or distinct non-negative integers, got {seeds!r}"
        )
    return tuple(int(s) for s in values)


VECTOR, MATRIX = types.float64[::1], types.float64[:, ::1]
WORDS = types.uint32[:, ::1]
# Half of the resolution of the Sobol points, 2^-30.
HALF_STEP = 2.0**-31
# Where the centre ends, and the smallest distance from 0 and 1 that the tail was fitted for.
CENTRE, SMALLEST = 0.475, 1.8e-10
MIDDLE, HALF = 4.7, 2.0  # of r in the tail
LOG_2 = math.log(2.0)
ROOT_HALF = int(np.array(math.sqrt(0.5)).view(np.int64))  # its bits
OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(types.void(VECTOR, VECTOR), **OPTIONS)
def _tail(u, x):  # type: ignore[no-untyped-def]
    """Minus the quantiles x of u in [SMALLEST, 1/2 - CENTRE]; u is overwritten.

    u = 2^e m, m in [sqrt(1/2), sqrt(2)): log u = e log 2 + 2 artanh s, s = (m - 1) / (m + 1), by
    its series: compilers make vectors of it, not of a call.
    """
    bits = u.view(np.int64)
    for i in range(u.size):
        # The exponent of u / sqrt(1/2), from the bits of the two; u becomes m.
        e = (bits[i] - ROOT_HALF) >> 52
        x[i] = float(e)
        bits[i] -= e << 52
    for i in range(u.size):
        s = (u[i] - 1.0) / (u[i] + 1.0)
        q = s * s
        series = 1.0 / 13.0 + q * (1.0 / 15.0 + q * (1.0 / 17.0 + q * (1.0 / 19.0)))
        series = 1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * series))
        series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * series))
        t = (math.sqrt(-2.0 * (x[i] * LOG_2 + 2.0 * s * series)) - MIDDLE) / HALF
        top = 0.160921395216922401 + t * 0.00814380488114304231
        top = 4.1592203833843542 + t * (
            6.72047788272926159 + t * (4.1095238236232045 + t * (1.1862495189573692 + t * top))
        )
        low = 0.00407044054640505567 + t * 4.31648492907637249e-8
        low = 1.0 + t * (
            1.09953072169595511 + t * (0.431605070664829755 + t * (0.0709409368690335748 + t * low))
        )
        x[i] = top / low


@njit(types.void(VECTOR, VECTOR), **OPTIONS)
def quantiles(u, x):  # type: ignore[no-untyped-def]
    """Quantiles x of a block of points u, all in the cache."""
    for i in range(u.size):
        q = u[i] - 0.5
        t = q * q * (2.0 / (CENTRE * CENTRE)) - 1.0
        top = 0.0256677058876610123 - t * 0.000307861455430719652
        top = 2.39969224835508351 + t * (-0.394413343179123676 + t * top)
        top = 11.4007903617587225 + t * (-7.20639354830631865 + t * top)
        top = 2.9107426276300766 + t * (-9.12077787649854998 + t * top)
        den = 0.0207341584534921446 - t * 0.000543102019701593468
        den = 1.17607496130789573 + t * (-0.232646727841116472 + t * den)
        den = 4.47907066174043268 + t * (-3.11117480008051248 + t * den)
        den = 1.0 + t * (-3.32787980453500267 + t * den)
        x[i] = q * top / den
    far = 0
    places = np.empty(u.size, dtype=np.int64)
    for i in range(u.size):
        places[far] = i
        far += abs(u[i] - 0.5) > CENTRE
    v, y = np.empty(far), np.empty(far)
    for i in range(far):
        v[i] = min(u[places[i]], 1.0 - u[places[i]])
    _tail(v, y)
    for i in range(far):
        x[places[i]] = -y[i] if u[places[i]] < 0.5 else y[i]


@njit(types.void(WORDS, types.uint32[::1], types.int64, types.int64, MATRIX, MATRIX), **OPTIONS)
def sobol_rows(directions, shift, block, parts, normal, uniform):  # type: ignore[no-untyped-def]
    """Scrambled Sobol points, coordinate by coordinate: normal ones, then uniform ones.

    Point i is the shift and, for each binary digit of i, a word of its own, joined by exclusive or
    (Gray code: the words are those of two directions). So blocks of points differ by one word, and
    a table of the first block gives all of them.

    directions (dim, bits), shift (dim,) are those of SciPy's engine, with 2^-bits the step of the
    grid. normal (first, n) holds standard normals of the first coordinates, uniform (others, n) the
    others as they are; n is a power of two. In each block of `block` points (a power of two), of
    each `parts` neighbours one goes into each part: neighbours stand a part apart, in equal order.
    """
    first, size = normal.shape
    bits = directions.shape[1]
    n = min(block, size)
    part = n // min(parts, n)
    table, ordered = np.empty(n, dtype=np.uint32), np.empty(n, dtype=np.uint32)
    u, words = np.empty(n), np.empty(bits, dtype=np.uint32)
    step = 0.5**bits
    for r in range(first + uniform.shape[0]):
        words[0] = directions[r, 0]
        for j in range(1, bits):
            words[j] = directions[r, j] ^ directions[r, j - 1]
        table[0] = shift[r]
        known, digit = 1, 0
        while known < n:
            for i in range(known):
                table[known + i] = table[i] ^ words[digit]
            known, digit = 2 * known, digit + 1
        for i in range(part):
            for place in range(n // part):
                ordered[place * part + i] = table[i * (n // part) + place]
        for low in range(0, size, n):
            head = np.uint32(0)
            for j in range(digit, bits):
                if (low >> j) & 1:
                    head ^= words[j]
            if r >= first:
                to = uniform[r - first, low : low + n]
                for i in range(n):
                    to[i] = np.int32(ordered[i] ^ head) * step
                continue
            for i in range(n):
                u[i] = max(np.int32(ordered[i] ^ head) * step, HALF_STEP)
            quantiles(u, normal[r, low : low + n])
