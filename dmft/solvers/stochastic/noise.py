"""Random numbers of paths as a pure function of seed, path and position in the path.

Philox4x64-10, the counter-based generator of Salmon et al. (2011), word for word that of
`numpy.random.Philox`. Nothing is stored between draws: a path sees the same noise whatever the
number of threads, of paths or of pieces that it was computed in, and whatever the parameters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dmft.solvers.runge_kutta.primitives import inlined

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
