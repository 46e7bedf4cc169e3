"""Stochastic problems with exact solutions or moments, compiled by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
from scipy.linalg import expm

from dmft.compiled import njit
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import DOMAIN_SIGNATURE, JACOBIAN_SIGNATURE, RHS_SIGNATURE
from dmft.solvers.stochastic.ensemble import PathEnsemble
from dmft.solvers.stochastic.loop import draw_areas, draw_increments
from dmft.solvers.stochastic.paths import solve_paths


@dataclass(frozen=True)
class Stochastic:
    """A problem, a start, and exact values of functions of its state at time t."""

    problem: Problem
    start: Mapping[str, Any]
    exact: Callable[[float], float] | None = None
    measure: Callable[[np.ndarray], np.ndarray] | None = None  # (..., n) -> (...)
    parameters: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)

    def solve(self, t_max: float, **options: Any) -> PathEnsemble:
        request = {"widths": self.widths, "parameters": self.parameters, **options}
        return solve_paths(self.problem, self.start, t_max, **request)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def growth(t, y, widths, par, out):
    out[0] = 0.0
    out[1] = par[0] * y[1]


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def proportional(t, y, widths, par, out):
    """Driving Brownian motion B and y = exp((mu - sigma^2/2) t + sigma B): covariance of rank 1."""
    s = par[1] * y[1]
    out[0, 0], out[0, 1], out[1, 0], out[1, 1] = 1.0, s, s, s * s


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def pull(t, y, widths, par, out):
    out[0] = -par[0] * y[0]


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def constant(t, y, widths, par, out):
    out[0, 0] = par[1] * par[1]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def sinh_drift(t, y, widths, par, out):
    out[0] = 0.5 * y[0] + math.sqrt(y[0] * y[0] + 1.0)


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def sinh_noise(t, y, widths, par, out):
    out[0, 0] = y[0] * y[0] + 1.0


# dy = A y dt + sum_j C_j y dB_j with a stretch, a rotation and a shear that do not commute.
A = np.array([[-0.6, 0.3], [-0.2, 0.1]])
C = np.array([[[0.5, 0.0], [0.0, 0.5]], [[0.0, -0.4], [0.4, 0.0]], [[0.3, 0.0], [0.2, -0.3]]])
PLANE_START = np.array([1.0, 0.4])


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def plane_drift(t, y, widths, par, out):
    out[0] = -0.6 * y[0] + 0.3 * y[1]
    out[1] = -0.2 * y[0] + 0.1 * y[1]


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def plane_noise(t, y, widths, par, out):
    out[:, :] = 0.0
    for a, b in (
        (0.5 * y[0], 0.5 * y[1]),
        (-0.4 * y[1], 0.4 * y[0]),
        (0.3 * y[0], 0.2 * y[0] - 0.3 * y[1]),
    ):
        out[0, 0] += a * a
        out[0, 1] += a * b
        out[1, 0] += a * b
        out[1, 1] += b * b


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def twin_drift(t, y, widths, par, out):
    plane_drift(t, y, widths, par, out)
    out[2] = out[1]


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def twin_noise(t, y, widths, par, out):
    """The plane with its second entry written twice, as the halves of a symmetric block are."""
    inner = np.empty((2, 2))
    plane_noise(t, y, widths, par, inner)
    for i in range(3):
        for j in range(3):
            out[i, j] = inner[min(i, 1), min(j, 1)]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def clock_drift(t, y, widths, par, out):
    out[0] = y[0] * math.cos(t)


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def clock_noise(t, y, widths, par, out):
    out[0, 0] = (0.6 * y[0] * (1.0 + math.sin(2.0 * t))) ** 2


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def drifting(t, y, widths, par, out):
    out[0] = par[0]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def square_observable(t, y, widths, par, out):
    out[0] = y[0] * y[0]


@njit(DOMAIN_SIGNATURE, nogil=True, cache=True)
def above_zero(y, widths, par, shift):
    return y[0] + shift


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def shrinking(t, y, widths, par, out):
    """Second eigenvalue 1 - |y| falls below zero where |y| > 1."""
    out[0, 0], out[0, 1], out[1, 0], out[1, 1] = 1.0, abs(y[0]), abs(y[0]), 1.0


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def still(t, y, widths, par, out):
    for i in range(out.size):
        out[i] = 0.0


@numba.njit
def increments_of(key, path, steps, normal, out):
    lanes, have = np.zeros(4), np.full(1, -1)
    for step in range(steps):
        draw_increments(key, path, step, 1, normal, 1.0, lanes, have, out[step])


@numba.njit
def areas_of(key, path, steps, out):
    for step in range(steps):
        draw_areas(key, path, step, 0.5, out[step])


@pytest.fixture(scope="session")
def noise_of_a_path() -> SimpleNamespace:
    """What the compiled loops draw: increments of unit variance, areas of unit step over two."""
    return SimpleNamespace(increments=increments_of, areas=areas_of)


@pytest.fixture(scope="session")
def geometric() -> Stochastic:
    state = (Block("B", ()), Block("y", ()))
    problem = Problem("sde", growth, state, (), ("mu", "sigma"), diffusion=proportional)
    return Stochastic(
        problem, {"B": 0.0, "y": 1.0}, lambda t: math.exp((2 * 0.5 + 0.8**2) * t),
        lambda y: y[..., 1] ** 2, {"mu": 0.5, "sigma": 0.8},
    )  # fmt: skip


@pytest.fixture(scope="session")
def ornstein_uhlenbeck() -> Stochastic:
    problem = Problem("sde", pull, (Block("y", ()),), (), ("rate", "sigma"), diffusion=constant)
    return Stochastic(
        problem, {"y": 1.5},
        lambda t: 1.5**2 * math.exp(-4 * t) + 1.2**2 * (1 - math.exp(-4 * t)) / 4,
        lambda y: y[..., 0] ** 2, {"rate": 2.0, "sigma": 1.2},
    )  # fmt: skip


@pytest.fixture(scope="session")
def sinh() -> Stochastic:
    """y = sinh(t + B), hence E sin(asinh y) = exp(-t/2) sin t."""
    problem = Problem("sde", sinh_drift, (Block("y", ()),), (), diffusion=sinh_noise)
    return Stochastic(
        problem, {"y": 0.0}, lambda t: math.exp(-t / 2) * math.sin(t),
        lambda y: np.sin(np.arcsinh(y[..., 0])),
    )  # fmt: skip


@pytest.fixture(scope="session")
def plane() -> Stochastic:
    """Second moments S obey dS/dt = A S + S A^T + sum_j C_j S C_j^T."""
    one = np.eye(2)
    generator = np.kron(A, one) + np.kron(one, A) + sum(np.kron(c, c) for c in C)
    start = np.kron(PLANE_START, PLANE_START)
    weights = np.array([1.0, 0.7, 0.7, 2.0])
    problem = Problem("sde", plane_drift, (Block("y", ("n",)),), ("n",), diffusion=plane_noise)
    return Stochastic(
        problem, {"y": PLANE_START}, lambda t: float(weights @ expm(generator * t) @ start),
        lambda y: y[..., 0] ** 2 + 1.4 * y[..., 0] * y[..., 1] + 2.0 * y[..., 1] ** 2,
        widths={"n": 2},
    )  # fmt: skip


@pytest.fixture(scope="session")
def twins(plane) -> Stochastic:
    problem = Problem("sde", twin_drift, (Block("y", ("n",)),), ("n",), diffusion=twin_noise)
    return replace(plane, problem=problem, start={"y": [1.0, 0.4, 0.4]}, widths={"n": 3})


@pytest.fixture(scope="session")
def clocked() -> Stochastic:
    """dy = y cos t dt + 0.6 y (1 + sin 2t) dB: E y^2 = exp(2 sin t + 0.36 int (1 + sin 2t)^2)."""
    problem = Problem("sde", clock_drift, (Block("y", ()),), (), diffusion=clock_noise)

    def exact(t: float) -> float:
        integral = 1.5 * t + 1.0 - math.cos(2 * t) - math.sin(4 * t) / 8
        return math.exp(2 * math.sin(t) + 0.36 * integral)

    return Stochastic(problem, {"y": 1.0}, exact, lambda y: y[..., 0] ** 2)


@pytest.fixture(scope="session")
def brownian() -> Stochastic:
    """y = x + v t + sigma B."""
    problem = Problem(
        "sde", drifting, (Block("y", ()),), (), ("v", "sigma"), diffusion=constant,
        observe=square_observable, observables=("square",),
    )  # fmt: skip
    return Stochastic(problem, {"y": 1.0}, parameters={"v": -1.0, "sigma": 0.9})


@pytest.fixture(scope="session")
def absorbed() -> Stochastic:
    """Brownian motion whose domain is y >= 0."""
    problem = Problem(
        "sde", drifting, (Block("y", ()),), (), ("v", "sigma"), diffusion=constant,
        domain=above_zero,
    )  # fmt: skip
    return Stochastic(problem, {"y": 1.0}, parameters={"v": 0.0, "sigma": 0.5})


@pytest.fixture(scope="session")
def indefinite() -> Stochastic:
    problem = Problem("sde", still, (Block("y", ("n",)),), ("n",), diffusion=shrinking)
    return Stochastic(problem, {"y": [0.0, 0.0]}, widths={"n": 2})
