"""The dense output of an explicit step, evaluated in compiled code."""

from __future__ import annotations

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import OPTIONS

compiled = njit(inner=True, **OPTIONS)
# A call that is not inlined copies its records of arrays, hundreds of words: what is called in
# every step goes into its caller (a step of a small problem is then three to seven times faster).
inlined = njit(forceinline=True, inner=True, **OPTIONS)
# What is called once and calls much itself: LLVM need not see it twice.
unfolded = njit(inline="always", inner=True, **OPTIONS)


@compiled
def copy(target, source):  # type: ignore[no-untyped-def]
    """Copy entry by entry."""
    # An assignment of slices would compile a second of shape checks into the loop.
    for i in range(source.size):
        target[i] = source[i]


@compiled
def interpolate(work, h, theta):  # type: ignore[no-untyped-def]
    """Write the interpolant of the last step at T_OLD + theta h into `work.point`."""
    degree = work.dense.shape[0]
    for i in range(work.old.size):
        value = 0.0
        for d in range(degree - 1, -1, -1):
            value = (work.dense[d, i] + value) * (theta if d % 2 == 0 else 1.0 - theta)
        work.point[i] = work.old[i] + h * value
