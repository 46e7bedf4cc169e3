"""What both simulators share: layout of their arguments, how a step ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit, typeof, types
from numpy.typing import NDArray

from dmft.names import Status
from dmft.simulation.declaration import Experiment
from dmft.simulation.risk import FUNCTION, MATRIX, RULE, VECTOR, Rule

GENERATOR = typeof(np.random.default_rng(0))
INTEGERS = types.int64[::1]

# Codes of compiled code.
REACHED, PASSED, DIVERGED, NONFINITE = range(4)
STATUS = {
    REACHED: Status.OK,
    PASSED: Status.EVENT,
    DIVERGED: Status.DIVERGED,
    NONFINITE: Status.NONFINITE,
}
# Squared length of a student, in units of d, beyond which a run counts as diverged.
DIVERGED_LENGTH = 1e12

# Arguments that both kernels take after their state:
# P, a, a_star, rates, counts, watch, sigma, slope, sigma_star, par, par_star, rule, generator.
# rates = [gamma/(p n_b), noise standard deviation]; counts = [steps, first step, n_b, sphere, d].
COMMON = (
    MATRIX, VECTOR, VECTOR, VECTOR, INTEGERS, VECTOR,
    FUNCTION, FUNCTION, FUNCTION, VECTOR, VECTOR, RULE, GENERATOR,
)  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def length_status(Q: NDArray[np.float64]) -> int:
    """REACHED while every squared length is finite and moderate."""
    for j in range(Q.shape[0]):
        if math.isnan(Q[j, j]):
            return NONFINITE
        if not Q[j, j] <= DIVERGED_LENGTH:
            return DIVERGED
    return REACHED


@njit(nogil=True, cache=True, error_model="numpy")
def sample_updates(h, h_star, a, a_star, noise, sigma, slope, sigma_star, par, par_star, psi):  # type: ignore[no-untyped-def]
    """psi_j = a_j sigma'(h_j) (y - f) of one sample, y = f* + noise."""
    p, k = h.size, h_star.size
    f, y = 0.0, 0.0
    for j in range(p):
        f += a[j] * sigma(h[j], par)
    for r in range(k):
        y += a_star[r] * sigma_star(h_star[r], par_star)
    error = y / k + noise - f / p
    for j in range(p):
        psi[j] = a[j] * slope(h[j], par) * error


@dataclass(frozen=True)
class Constants:
    """Arguments of a run that never change, in the order of `COMMON`."""

    P: NDArray[np.float64]
    experiment: Experiment
    rule: Rule
    watch: NDArray[np.float64]
    generator: np.random.Generator

    def arguments(self, first: int, steps: int) -> tuple[object, ...]:
        """Arguments for `steps` steps after step number `first`."""
        e = self.experiment
        rates = np.array([e.learning_rate / (e.p * e.batch_size), math.sqrt(e.label_noise)])
        counts = np.array([steps, first, e.batch_size, int(e.sphere), e.dim], dtype=np.int64)
        return (
            self.P, e.readout, e.teacher_readout, rates, counts, self.watch,
            e.student.value, e.student.slope, e.teacher.value,
            e.student.parameters, e.teacher.parameters, self.rule, self.generator,
        )  # fmt: skip


# advance(first, steps) -> (code, steps done); overlaps() -> (Q, M)
Advance = Callable[[int, int], tuple[int, int]]
Observe = Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Runner:
    """One run that can be carried on in pieces."""

    advance: Advance
    overlaps: Observe
    P: NDArray[np.float64]
    # Read after every step; its first entry may be set to WATCH_NOTHING between pieces.
    watch: NDArray[np.float64]
