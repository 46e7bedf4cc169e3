"""Two learning problems written by hand: one escapes from its start, one relaxes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dmft.compiled import njit
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import RHS_SIGNATURE

OVERLAPS = (Block("Q", ("p", "p"), symmetric=True), Block("M", ("p", "k")))
TEACHER = (Block("P", ("k", "k"), symmetric=True),)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def spherical_rhs(t, y, widths, par, out):
    """Phase retrieval on the sphere, p = 1: theory/one_pass F.1."""
    a = 4.0 - 24.0 * par[0]
    b = 2.0 * par[0] * par[1]
    out[0] = 0.0
    out[1] = y[1] * (a * (1.0 - y[1] * y[1]) - b)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def spherical_observe(t, y, widths, par, out):
    out[0] = 2.0 * (1.0 - y[1] * y[1])


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def free_rhs(t, y, widths, par, out):
    """Gradient flow of phase retrieval without constraint, p = 1 (norm q relaxes to 1/3 first)."""
    q, m = y[0], y[1]
    out[0] = 4.0 * q + 8.0 * m * m - 12.0 * q * q
    out[1] = 6.0 * m - 6.0 * q * m


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def free_observe(t, y, widths, par, out):
    q, m = y[0], y[1]
    out[0] = 0.5 * (3.0 + 3.0 * q * q - 2.0 * q - 4.0 * m * m)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def explosive_rhs(t, y, widths, par, out):
    out[0] = par[0] * y[0] * y[0]
    out[1] = 0.0


def _problem(rhs: Any, observe: Any, parameters: tuple[str, ...] = ()) -> Problem:
    return Problem(
        "ode", rhs, OVERLAPS, ("p", "k"), parameters, TEACHER,
        observe=observe, observables=("risk",), source=rhs.__name__,
    )  # fmt: skip


@pytest.fixture(scope="session")
def spherical() -> Problem:
    return _problem(spherical_rhs, spherical_observe, ("learning_rate", "label_noise"))


@pytest.fixture(scope="session")
def free() -> Problem:
    return _problem(free_rhs, free_observe)


@pytest.fixture(scope="session")
def explosive() -> Problem:
    return _problem(explosive_rhs, spherical_observe, ("speed",))


@pytest.fixture
def pair() -> dict[str, Any]:
    """Widths and teacher of a problem with one student and one teacher neuron."""
    return {"widths": {"p": 1, "k": 1}, "constants": {"P": np.ones((1, 1))}}
