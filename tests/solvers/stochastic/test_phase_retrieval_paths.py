"""Escape of one spherical neuron from mediocrity: theory/one_pass E.2, E.3, F.1 and F.4.

dm = m [A (1 - m^2) - B] dt + O(1/d) drift + sqrt(gamma/d) Sigma(m)^(1/2) dB; the increments of m in
the sphere have covariance Sigma, and both parts of E.3 follow from E.1, E.2 at q = rho = 1.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from dmft.compiled import njit
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import DOMAIN_SIGNATURE, JACOBIAN_SIGNATURE, RHS_SIGNATURE
from dmft.solvers.stochastic.paths import solve_paths


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def drift(t, y, widths, par, out):
    m, gamma, delta, dim = y[0], par[0], par[1], par[2]
    w = m * m
    field = m * ((4.0 - 24.0 * gamma) * (1.0 - w) - 2.0 * gamma * delta)
    # second moments of the free increments u (of q) and v (of m), E.1 and E.2 at q = rho = 1
    mean_u = -8.0 * (1.0 - w) + 4.0 * gamma * (delta + 12.0 * (1.0 - w))
    uv = (
        24.0 * delta * m - 480.0 * m * w + 480.0 * m
        + gamma * (delta * (144.0 * m * w - 144.0 * m)
                   - 2880.0 * m * w * w + 5760.0 * m * w - 2880.0 * m)
    )  # fmt: skip
    uu = (
        48.0 * delta + 320.0 * w * w - 1600.0 * w + 1280.0
        + gamma * (delta * (1088.0 * w - 1088.0) - 22272.0 * w * w + 44544.0 * w - 22272.0)
        + gamma * gamma * (
            128.0 * delta * delta
            + delta * (2304.0 * w * w - 9984.0 * w + 7680.0)
            - 46080.0 * w**3 + 216576.0 * w * w - 294912.0 * w + 124416.0)
        + mean_u * mean_u
    )  # fmt: skip
    ito = 0.375 * m * uu - 0.5 * uv
    # E psi^2 |x in the span|^2 - 2 E psi^2, psi^2 = 4 h^2 [(h*^2 - h^2)^2 + noise^2]
    inside = 288.0 * (1.0 - w) + 8.0 * delta
    out[0] = field + gamma / dim * (ito - 0.5 * m * inside)


@njit(JACOBIAN_SIGNATURE, nogil=True, cache=True)
def covariance(t, y, widths, par, out):
    w, gamma, delta = y[0] * y[0], par[0], par[1]
    out[0, 0] = 4.0 * (
        12.0 + delta - (4.0 + delta) * w - 28.0 * w * w + 20.0 * w**3
        - gamma * w * (1.0 - w) * (672.0 * (1.0 - w) + 32.0 * delta)
        + gamma * gamma * w * (
            8.0 * delta * delta + 480.0 * delta - 624.0 * delta * w + 144.0 * delta * w * w
            + 7776.0 - 18432.0 * w + 13536.0 * w * w - 2880.0 * w**3)
    )  # fmt: skip


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def overlap_squared(t, y, widths, par, out):
    out[0] = y[0] * y[0]


@njit(DOMAIN_SIGNATURE, nogil=True, cache=True)
def in_the_sphere(y, widths, par, shift):
    return 1.0 - y[0] * y[0] + shift


RETRIEVAL = Problem(
    "sde", drift, (Block("m", ()),), (), ("gamma", "delta", "dim"), diffusion=covariance,
    observe=overlap_squared, observables=("u",), domain=in_the_sphere,
)  # fmt: skip


def escape(dim, gamma, delta=0.0, fraction=0.1, paths=10_000, t_max=12.0, **options):
    """Random starts m ~ N(0, 1/d) and the threshold u_1 = T + (1 - T) u_0, u_0 = 1/d."""
    event = Event("u", fraction + (1 - fraction) / dim, 1, name="escape")
    start = np.random.default_rng(5).normal(size=paths) / math.sqrt(dim)
    request = {"dt": 0.01, "bridge": True, "save_at": 2, **options}
    return solve_paths(
        RETRIEVAL, {"m": start}, t_max, paths=paths, widths={}, noise_scale=gamma / dim,
        parameters={"gamma": gamma, "delta": delta, "dim": dim}, events=event, **request,
    )  # fmt: skip


def formula(dim, gamma, delta=0.0, fraction=0.1):
    """Mean and standard deviation of theory/one_pass F.4."""
    rate, a = 4 - 2 * gamma * (12 + delta), 4 - 24 * gamma
    limit, u1 = rate / a, fraction + (1 - fraction) / dim
    noise = gamma * (48 + 4 * delta) / (2 * rate)
    log = math.log(u1 * limit * dim / ((limit - u1) * (1 + noise)))
    mean = (log + np.euler_gamma + math.log(2)) / (2 * rate)
    return mean, math.pi / (2 * math.sqrt(2) * rate)


def gamma_rule(shape, order=8):
    """Nodes and weights of the Gauss rule of a Gamma(shape) variable (Golub and Welsch)."""
    i = np.arange(order)
    off = np.sqrt(i[1:] * (i[1:] + shape - 1))
    nodes, vectors = np.linalg.eigh(np.diag(2 * i + shape) + np.diag(off, 1) + np.diag(off, -1))
    return nodes, vectors[0] ** 2


def one_step(m, dim, gamma, delta):
    """Mean and variance of one step of projected SGD, per unit t, by quadrature over its law.

    theory/one_pass B.6: the sample enters by its fields and by its length outside the span.
    """
    z, w = np.polynomial.hermite_e.hermegauss(24)
    x, u = np.polynomial.hermite_e.hermegauss(6)
    g, v = gamma_rule((dim - 2) / 2)
    h, across, noise, rest = np.meshgrid(z, z, math.sqrt(delta) * x, 2 * g, indexing="ij")
    weight = np.einsum("i,j,k,l->ijkl", w / w.sum(), w / w.sum(), u / u.sum(), v)
    h_star = m * h + math.sqrt(1 - m * m) * across
    psi = 2 * h * (h_star**2 + noise - h**2)
    c = gamma / dim
    length = 1 + 2 * c * psi * h + c * c * psi**2 * (h**2 + across**2 + rest)
    change = (m + c * psi * h_star) / np.sqrt(length) - m
    mean = float(np.sum(weight * change))
    return mean / c, float(np.sum(weight * (change - mean) ** 2)) / c**2


@pytest.mark.parametrize(
    ("m", "gamma", "delta"), [(0.3, 0.05, 0.0), (0.7, 0.1, 0.5), (0.05, 1 / 12, 2.0)]
)
def test_the_typed_problem_is_the_law_of_a_step(m, gamma, delta):
    """Drift including its order 1/d, and covariance: what is left is one order smaller."""
    dims, left = (2000, 4000, 8000), []
    for dim in dims:
        mean, variance = one_step(m, dim, gamma, delta)
        y, none = np.array([m]), np.empty(0, dtype=np.int64)
        par, out, sigma = np.array([gamma, delta, dim]), np.empty(1), np.empty((1, 1))
        drift(0.0, y, none, par, out)
        covariance(0.0, y, none, par, sigma)
        left.append([abs(mean - out[0]), abs(variance - sigma[0, 0])])
    slopes = np.polyfit(np.log(dims), np.log(left), 1)[0]
    np.testing.assert_allclose(slopes, [-2, -1], atol=0.1)


def test_ten_thousand_exits_agree_with_the_formula():
    """How long they take is in tests/benchmarks/bench_paths.py."""
    run = escape(3000, 1 / 12, dt=0.02, method="weak2")
    times = run.first_passage["escape"]
    mean, std = formula(3000, 1 / 12)
    assert run.status == "event"
    assert abs(times.mean - mean) < 3.5 * times.stderr
    assert abs(times.std - std) < 3.5 * times.std_stderr


def test_exit_times_converge_in_the_step():
    """Runs along the same Brownian paths: errors against a fine step, without statistical noise."""
    means = {}
    for method, steps in (("euler", (0.08, 0.04, 0.02)), ("weak2", (0.08, 0.01))):
        for dt in steps:
            substeps = round(dt / 0.01)
            run = escape(3000, 1 / 12, dt=dt, method=method, substeps=substeps, paths=4000)
            means[method, dt] = run.first_passage["escape"].mean
    truth = means["weak2", 0.01]
    errors = [means["euler", dt] - truth for dt in (0.08, 0.04, 0.02)]
    assert np.polyfit(np.log([0.08, 0.04, 0.02]), np.log(errors), 1)[0] == pytest.approx(1, abs=0.1)
    assert abs(means["weak2", 0.08] - truth) < errors[0] / 15


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "gamma", "delta"), [(1000, 1 / 12, 0.0), (10_000, 0.05, 0.5)])
def test_exit_times_of_the_simulations_of_the_theory(dim, gamma, delta):
    """Means and spreads that simulations exact in law gave (theory/one_pass F.4)."""
    mean, error, std = {1000: (1.334, 0.012, 0.553), 10_000: (1.426, 0.021, None)}[dim]
    run = escape(dim, gamma, delta, dt=0.02, method="weak2")
    times = run.first_passage["escape"]
    assert abs(times.mean - mean) < 3 * math.hypot(error, times.stderr)
    if std is not None:
        assert abs(times.std - std) < 0.03
