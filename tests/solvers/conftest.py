"""Small systems with exact solutions, compiled by hand: the judges of every solver test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numba import types

from dmft.compiled import njit
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import (
    DOMAIN_SIGNATURE,
    INTEGERS,
    JACOBIAN_SIGNATURE,
    RHS_SIGNATURE,
    VECTOR,
)


@dataclass(frozen=True)
class System:
    """A problem, one start, and its exact state at time t."""

    problem: Problem
    start: dict[str, Any]
    exact: Callable[[float], np.ndarray]
    widths: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, float] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        return {
            "widths": self.widths, "parameters": self.parameters, "constants": self.constants,
        }  # fmt: skip


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def oscillator_rhs(t, y, widths, par, out):
    out[0] = par[0] * y[1]
    out[1] = -par[0] * y[0]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def oscillator_observe(t, y, widths, par, out):
    out[0] = 1.0 + y[0]
    out[1] = y[0] * y[0] + y[1] * y[1]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def forced_rhs(t, y, widths, par, out):
    out[0] = y[0] * math.cos(t)
    out[1] = y[1] * y[0] * math.cos(t)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def parabola_rhs(t, y, widths, par, out):
    out[0] = 2.0 * (t - par[0])


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def power_rhs(t, y, widths, par, out):
    out[0] = y[0] ** par[0]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def nan_rhs(t, y, widths, par, out):
    out[0] = y[1]
    out[1] = -y[0]
    if t > par[0]:
        out[1] = math.nan


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def stiff_rhs(t, y, widths, par, out):
    out[0] = -par[0] * (y[0] - math.cos(t)) - math.sin(t)


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def stiff_jacobian(t, y, widths, par, out):
    out[0, 0] = -par[0]


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def retrieval_rhs(t, y, widths, par, out):
    """One spherical neuron (Q stays 1): dm/dt = m (A (1 - m^2) - B), theory/one_pass F.1."""
    m = y[1]
    out[0] = 0.0
    out[1] = m * (par[0] * (1.0 - m * m) - par[1])


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def retrieval_observe(t, y, widths, par, out):
    out[0] = 2.0 * (1.0 - y[1] * y[1])


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def leaver_rhs(t, y, widths, par, out):
    out[0] = 0.0
    out[1] = par[0]


@njit(DOMAIN_SIGNATURE, nogil=True, cache=True)
def pair_domain(y, widths, par, shift):
    """Smaller pivot of [[Q, M], [M, P]] + shift; P is the last entry of par."""
    a, c = y[0] + shift, par[par.size - 1] + shift
    return min(a, c - y[1] * y[1] / a) if a > 0.0 else -1.0


@njit(types.float64(VECTOR, INTEGERS, VECTOR, types.float64[:, ::1]), nogil=True, cache=True)
def pair_covariance(y, widths, par, out):
    if out.shape[0] == 2:
        out[0, 0], out[0, 1], out[1, 0], out[1, 1] = y[0], y[1], y[1], par[par.size - 1]
    return 2.0


OVERLAPS = (Block("Q", ("p", "p"), symmetric=True), Block("M", ("p", "k")))


def _pair(rhs: Any, parameters: tuple[str, ...], **more: Any) -> Problem:
    return Problem(
        "ode", rhs, OVERLAPS, ("p", "k"), parameters, (Block("P", ("k", "k"), symmetric=True),),
        domain=pair_domain, covariance=pair_covariance, source=rhs.__name__, **more,
    )  # fmt: skip


@pytest.fixture(scope="session")
def oscillator() -> System:
    problem = Problem(
        "ode", oscillator_rhs, (Block("y", ("n",)),), ("n",), ("omega",),
        observe=oscillator_observe, observables=("height", "energy"), source="oscillator",
    )  # fmt: skip
    return System(
        problem, {"y": [1.0, 0.0]}, lambda t: np.array([np.cos(2 * t), -np.sin(2 * t)]),
        {"n": 2}, {"omega": 2.0},
    )  # fmt: skip


@pytest.fixture(scope="session")
def forced() -> System:
    """y' = y cos t, z' = z y cos t: y = exp(sin t), z = exp(exp(sin t) - 1)."""
    problem = Problem("ode", forced_rhs, (Block("y", ("n",)),), ("n",), source="forced")
    return System(
        problem, {"y": [1.0, 1.0]},
        lambda t: np.array([np.exp(np.sin(t)), np.exp(np.exp(np.sin(t)) - 1)]), {"n": 2},
    )  # fmt: skip


@pytest.fixture(scope="session")
def parabola() -> System:
    """y = (t - c)^2, which every method and interpolant holds exactly."""
    problem = Problem("ode", parabola_rhs, (Block("y", ()),), (), ("c",), source="parabola")
    return System(
        problem, {"y": 1.07**2}, lambda t: np.array([(t - 1.07) ** 2]), parameters={"c": 1.07}
    )


@pytest.fixture(scope="session")
def power() -> Callable[[float, float], System]:
    problem = Problem("ode", power_rhs, (Block("y", ()),), (), ("m",), source="power")

    def make(m: float, start: float) -> System:
        pole = start ** (1 - m) / (m - 1)
        return System(
            problem, {"y": start}, lambda t: ((m - 1) * (pole - t)) ** (-1 / (m - 1)),
            parameters={"m": m},
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def stiff() -> System:
    problem = Problem(
        "ode", stiff_rhs, (Block("y", ()),), (), ("rate",), jacobian=stiff_jacobian, source="stiff"
    )
    return System(problem, {"y": 1.0}, lambda t: np.array([np.cos(t)]), parameters={"rate": 1e4})


@pytest.fixture(scope="session")
def turns_nan() -> System:
    problem = Problem("ode", nan_rhs, (Block("y", ("n",)),), ("n",), ("when",), source="nan")
    return System(
        problem, {"y": [1.0, 0.0]}, lambda t: np.array([np.cos(t), -np.sin(t)]),
        {"n": 2}, {"when": 0.5},
    )  # fmt: skip


@pytest.fixture(scope="session")
def retrieval() -> Callable[..., System]:
    problem = _pair(retrieval_rhs, ("A", "B"), observe=retrieval_observe, observables=("risk",))

    def make(learning_rate: float, noise: float, start: float) -> System:
        a, b = 4 - 24 * learning_rate, 2 * learning_rate * noise

        def exact(t: float) -> np.ndarray:
            rate = 2 * (a - b)
            limit, u0 = (a - b) / a, start**2
            u = limit / (1 + (limit / u0 - 1) * np.exp(-rate * t))
            return np.array([1.0, np.sqrt(u)])

        return System(
            problem, {"Q": [[1.0]], "M": [[start]]}, exact, {"p": 1, "k": 1},
            {"A": a, "B": b}, {"P": [[1.0]]},
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def leaver() -> System:
    """M grows at the rate 1/2 with Q = P = 1: no vectors have M > 1, reached at t = 2."""
    return System(
        _pair(leaver_rhs, ("speed",)), {"Q": [[1.0]], "M": [[0.0]]},
        lambda t: np.array([1.0, t / 2]), {"p": 1, "k": 1}, {"speed": 0.5}, {"P": [[1.0]]},
    )  # fmt: skip
