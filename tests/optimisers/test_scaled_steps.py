"""Optimisers that scale their steps: floors, definitions by Monte Carlo, simulation."""

from __future__ import annotations

import doctest
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.special import erf as erf_of
from scipy.special import erfinv

import dmft
from dmft.equations.update.adaptive_factors import constants

z, f, y = sp.symbols("z f y", real=True)
ERF = sp.erf(z / sp.sqrt(2))
LINE, RELU = dmft.Committee(z, 1), dmft.Committee(sp.Max(z, 0), 1)
LAW = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])


def start_of(gram: Any, p: int, **memory: Any) -> dmft.Overlaps:
    G = np.array(gram)
    return dmft.Overlaps(G[:, :p, :p], G[:, :p, p:], G[:, p:, p:], memory=memory or None)


def test_second_moments_that_stand_still_are_those_at_once() -> None:
    """dV/dt = kappa_2 (c S_jj - V): where it vanishes V is c S_jj, which is the adiabatic limit."""
    rng = np.random.default_rng(4)
    A = rng.standard_normal((2, 3, 3)) / 2
    G, V = np.einsum("eij,ekj->eik", A, A), np.full((2, 2), 0.3)
    model = dmft.Model(
        dmft.Committee(ERF, 2, [1.2, 0.8]), dmft.Committee(ERF, 1), label_noise=0.2, inputs=LAW
    )
    equations = dmft.derive(model, dmft.RMSProp(1.4, second_moment_rate=2.0, eps=0.1))
    rates = equations.evaluate(start_of(G, 2, second_moment=V))
    at_once = dmft.derive(model, dmft.RMSProp(1.4, eps=0.1))
    settled = start_of(G, 2, second_moment=V + rates["second_moment"] / 2.0)
    for name, value in at_once.evaluate(start_of(G, 2)).items():
        assert np.allclose(value, equations.evaluate(settled)[name], rtol=1e-12, atol=1e-14)


def test_signs_in_another_basis_are_not_simulated() -> None:
    model = dmft.Model(LINE, LINE, inputs=dmft.Spectrum.under_signs([[1.0, 0.3], [0.3, 0.5]]))
    start = dmft.Overlaps(Q=[[[0.5]]] * 2, M=[[[0.1]]] * 2, P=[[[0.5]]] * 2)
    with pytest.raises(ValueError, match="independent coordinates"):
        dmft.simulate(model, dmft.SignSGD(0.5), 2, 1.0, 1, start)


@pytest.mark.parametrize("beta2", [0.5, 0.9])
def test_constants_of_a_fixed_memory_by_samples_of_it(beta2: float) -> None:
    rng, V = np.random.default_rng(1), np.zeros(40_000)
    for _ in range(round(20 / (1 - beta2))):
        own = rng.standard_normal((2, V.size)).prod(axis=0)
        V = beta2 * V + (1 - beta2) * own**2
    own = rng.standard_normal((2, V.size)).prod(axis=0)
    u = own / np.sqrt((1 - beta2) * own**2 + beta2 * V)
    for value, sample in zip(constants(beta2), (own * u, u * u), strict=True):
        assert abs(value - sample.mean()) < 4 * sample.std() / V.size**0.5


def test_constants_are_known_at_both_ends() -> None:
    # Without memory u is a sign: a = E|y| = 2/pi.
    assert abs(constants(1e-6)[0] - 2 / np.pi) < 2e-5
    # V = 1 + 2 sqrt(1 - beta_2) (noise): a = 1 - 5/2 (1 - beta_2) to first order.
    assert abs((1 - constants(0.9999)[0]) / 1e-4 - 2.5) < 0.02


def test_floors_of_linear_students() -> None:
    """2R = A sqrt(2R + Delta), A linear in gamma: signs and second moments do not converge."""
    c, phi, gamma, noise = LAW.eigenvalues, LAW.fractions, 0.5, 0.3
    rows, model = phi[:, None, None], dmft.Model(LINE, LINE, label_noise=noise, inputs=LAW)
    start = dmft.Overlaps(0 * rows, 0 * rows, rows)
    a, s = constants(0.9)
    for algorithm, front in (
        (dmft.Adam(gamma), 1 / 2),
        (dmft.RMSProp(gamma, beta2=0.9), s / (2 * a)),
    ):
        run = dmft.solve(dmft.derive(model, algorithm), start, 150.0)
        A = front * gamma * np.sum(phi * np.sqrt(c))
        root = (A + np.sqrt(A * A + 4 * noise)) / 2
        assert np.isclose(run.risk[-1], (root**2 - noise) / 2, rtol=0, atol=1e-6)


def test_one_accumulator_against_two_plain_equations() -> None:
    """AdaGrad-norm of least squares in d = 1000 and two eigenvalues, per tau = steps/d (23)."""
    c, phi, noise, b0, gamma = np.array([2.0, 0.5]), np.array([0.3, 0.7]), 0.2, 0.5, 0.8
    rows = phi[:, None, None]
    start = dmft.Overlaps(0 * rows, 0 * rows, rows)
    model = dmft.Model(LINE, LINE, label_noise=noise, inputs=dmft.Spectrum(c, phi))

    def rates(_: float, state: Any) -> Any:
        v, N = state[:2], state[2]
        square = c @ v + noise
        step = gamma / np.sqrt(N)
        return [*(-2 * step * c * v + step**2 * c * phi * square), c @ phi * square]

    tau = np.linspace(0.0, 5.0, 11)
    found = solve_ivp(rates, (0, 5), [*phi, b0], "DOP853", tau, rtol=1e-12, atol=1e-13).y
    equations = dmft.derive(model, dmft.AdaGradNorm(gamma, b0))
    times = gamma * tau
    run = dmft.solve(equations, start, times[-1], save_at=times, rtol=1e-10, atol=1e-12)
    assert np.allclose(run.risk, c @ found[:2] / 2, rtol=1e-8)
    assert np.allclose(run.accumulator, found[2], rtol=1e-8)
    # What was reached is a start with what was accumulated.
    half = dmft.solve(equations, start, times[5], rtol=1e-10, atol=1e-12).final
    rest = dmft.solve(equations, half, times[5], rtol=1e-10, atol=1e-12)
    assert np.isclose(rest.accumulator[-1], run.accumulator[-1], rtol=1e-8)
    assert r"\mathcal{G}" in equations.latex()
    assert equations.terms["accumulator"].keys() == {"squares"}


def one_step(algorithm: Any, model: dmft.Model, start: dmft.Overlaps, d: int, n: int) -> Any:
    """Mean increments of one step from given weights, and their errors, by their definition."""
    rng = np.random.default_rng(3)
    counts = LAW.counts(d)
    parts = []
    for gram, size in zip(start.Omega, counts, strict=True):
        basis = np.linalg.qr(rng.standard_normal((size, 3)))[0].T
        parts.append(np.linalg.cholesky(gram) @ basis * np.sqrt(d))
    rows = np.concatenate(parts, axis=1)
    W, star, edge = rows[:2], rows[2], counts[0]
    deviation, a = LAW.deviations(d), np.array([1.5, 1.0])
    gamma, increments = float(algorithm.learning_rate), []
    decay = float(algorithm.weight_decay)
    for _ in range(n):
        x = deviation * rng.standard_normal((400, d))
        h, label = x @ W.T / np.sqrt(d), erf_of(x @ star / np.sqrt(2 * d))
        label = label + np.sqrt(0.1) * rng.standard_normal(400)
        error = label - (a * erf_of(h / np.sqrt(2))).mean(axis=1)
        psi = a * np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2) * error[:, None]
        g = psi[:, :, None] * x[:, None, :] - decay / np.sqrt(d) * W * (not algorithm.decoupled)
        if algorithm.scale == "sign":
            step = np.sign(g)
        elif algorithm.scale == "norm":
            step = g / np.sqrt(float(algorithm.initial))
        else:
            V = float(algorithm.initial)
            step = g / (np.sqrt(V) + float(getattr(algorithm, "eps", 0)))
        step *= gamma / (2 * np.sqrt(d))
        new = W + step - decay * gamma / (2 * d) * W * algorithm.decoupled
        for part in (slice(0, edge), slice(edge, d)):
            cross = new[..., part] @ star[part] / d - W[:, part] @ star[part] / d
            own = np.einsum("njd,nld->njl", new[..., part], new[..., part]) / d
            own -= W[:, part] @ W[:, part].T / d
            increments.append(np.concatenate([cross, own.reshape(400, 4)], axis=1))
    found = np.array(increments).reshape(n, 2, 400, 6).swapaxes(1, 2).reshape(-1, 2, 6)
    return found.mean(axis=0), found.std(axis=0) / len(found) ** 0.5


@pytest.mark.parametrize(
    "algorithm",
    [
        dmft.AdaGradNorm(0.6, 0.7),
        dmft.Adam(0.6, second_moment_rate=1e-3, eps=0.2, initial=0.5),
        pytest.param(dmft.SignSGD(0.6, weight_decay=0.9), marks=pytest.mark.slow),
        pytest.param(dmft.AdaGrad(0.6, initial=0.5), marks=pytest.mark.slow),
        *(
            pytest.param(kind(0.6, weight_decay=0.9, decoupled=apart, **own), marks=mark)
            for kind, own, mark in (
                (dmft.Adam, {"second_moment_rate": 1e-3, "eps": 0.2, "initial": 0.5}, ()),
                (dmft.AdaGrad, {"initial": 0.5}, pytest.mark.slow),
                (dmft.AdaGradNorm, {"initial": 0.7}, pytest.mark.slow),
            )
            for apart in (False, True)
        ),
    ],
)
def test_one_step_by_its_definition(algorithm: Any) -> None:
    d, n = 400, 40
    model = dmft.Model(
        dmft.Committee(ERF, 2, [1.5, 1.0]), dmft.Committee(ERF, 1), label_noise=0.1, inputs=LAW
    )
    start = dmft.random_overlaps(model, d, 1)
    mean, error = one_step(algorithm, model, start, d, n)
    rates = dmft.derive(model, algorithm).evaluate(start)
    step = float(algorithm.learning_rate) / (2 * d)
    expected = np.concatenate([rates["M"][..., 0], rates["Q"].reshape(2, 4)], axis=1) * step
    # Finite dimension moves the noise by a relative 1/d_e.
    assert (np.abs(mean - expected) / np.hypot(error, np.abs(expected) / d)).max() < 4.0


ALL = [
    dmft.SignSGD(0.5),
    dmft.Adam(0.6, 2.0, initial=0.5, momentum=0.9),
    dmft.Adam(0.6, 3.0, initial=0.3, eps=0.1, weight_decay=0.3, batch_size=3),
    dmft.AdaGrad(0.5, 0.2, average=0.5),
    dmft.AdaGradNorm(0.5, 0.5, batch_size=2),
    dmft.SignSGD(0.5, 3),
    dmft.RMSProp(0.5, beta2=0.9),
    dmft.SignSGD(0.5, 4),
]


@pytest.mark.parametrize(
    ("algorithm", "inputs", "dims"),
    [
        (ALL[4], LAW, (400,)),
        *(
            pytest.param(a, i, (300, 1200), marks=pytest.mark.slow)
            for a in ALL
            for i in (None, LAW)
        ),
    ],
)
def test_runs_agree_with_weights(algorithm: Any, inputs: Any, dims: tuple[int, ...]) -> None:
    linear = algorithm in (ALL[5], ALL[6])
    units = (LINE, LINE) if linear else (dmft.Committee(ERF, 2, [1.5, 1.0]), dmft.Committee(ERF, 1))
    model = dmft.Model(*units, label_noise=0.1, inputs=inputs)
    # Nodes for the fields of a batch are far from the usual tolerance, which only costs time here.
    options = {"quadrature_tol": 5e-3} if algorithm is ALL[7] else {}
    for dim in dims:
        start = dmft.random_overlaps(model, dim, 0)
        truth = dmft.simulate(model, algorithm, dim, 1.5, 16, start, save_at=3)
        equations = dmft.derive(model, algorithm)
        run = dmft.solve(equations, start, truth.t[-1], save_at=truth.t, **options)
        for name, value in run.blocks.items():
            if name != "readout":
                bias = 3.0 / dim
                off = np.abs(value - truth.mean[name])[1:]
                assert (off / np.hypot(truth.stderr[name][1:], bias)).max() < 4.5, (dim, name)


def test_signs_with_label_noise_match_quadrature_given_the_noise() -> None:
    """Two erf units: E sign(e + sqrt(Delta) xi) = erf(e/sqrt(2 Delta)) on the nodes of a product.

    Signs of readouts are constants, no kinks that would ask for Sobol points (1e-4 there).
    """
    noise, gamma, a, g = 0.3, 0.5, np.array([1.5, -1.0]), 1.2
    G = np.array([[0.9, 0.2, 0.3], [0.2, 0.7, 0.1], [0.3, 0.1, 1.0]])
    model = dmft.Model(dmft.Committee(ERF, 2, a), dmft.Committee(ERF, 1, [g]), label_noise=noise)
    rates = dmft.derive(model, dmft.SignSGD(gamma)).evaluate(
        dmft.Overlaps(G[:2, :2], G[:2, 2:], G[2:, 2:])
    )
    t = np.linspace(-7.0, 7.0, 57)
    w = np.exp(-(t**2) / 2) / np.exp(-(t**2) / 2).sum()
    points = np.stack(np.meshgrid(t, t, t, indexing="ij")).reshape(3, -1)
    weight = np.einsum("i,j,k->ijk", w, w, w).ravel()
    h = np.linalg.cholesky(G) @ points
    error = g * erf_of(h[2] / np.sqrt(2)) - a @ erf_of(h[:2] / np.sqrt(2)) / 2
    pull = np.sqrt(2 / np.pi) * (h @ (weight * erf_of(error / np.sqrt(2 * noise))))
    sign = np.sign(a)
    cross = sign[:, None] * pull[:2]
    assert np.abs(rates["M"][:, 0] - sign * pull[2]).max() < 1e-6
    square = cross + cross.T + gamma / 2 * np.outer(sign, sign)
    assert np.abs(rates["Q"] - square).max() < 1e-6


def test_inputs_of_one_eigenvalue_are_isotropic() -> None:
    unit = dmft.Committee(ERF, 2, [1.0, 0.5])
    plain = dmft.Overlaps([[1.0, 0.1], [0.1, 0.8]], [[0.3, 0.1], [0.0, 0.2]])
    blocked = dmft.Overlaps(plain.Q[None], plain.M[None], plain.P[None])
    one = dmft.Spectrum([1.0], [1.0])
    for algorithm in (dmft.Adam(0.6, 2.0, initial=0.5), dmft.AdaGradNorm(0.5, 0.5)):
        rates = dmft.derive(dmft.Model(unit, unit, label_noise=0.1), algorithm).evaluate(plain)
        other = dmft.Model(unit, unit, label_noise=0.1, inputs=one)
        for name, value in dmft.derive(other, algorithm).evaluate(blocked).items():
            assert np.allclose(np.squeeze(value), np.squeeze(rates[name]), rtol=1e-12, atol=1e-14)


def test_second_moments_of_a_covariance_in_another_basis() -> None:
    """A diagonal Sigma by `preconditioned` with P = Sigma^(-1/2) is that of its own coordinates."""
    unit, rng = dmft.Committee(ERF, 1), np.random.default_rng(4)
    c, adam = np.array([3.0, 1.0, 0.25]), dmft.Adam(0.6, 2.0, initial=0.5)
    tilted = dmft.Spectrum.preconditioned(np.diag(c), np.diag(c**-0.5))
    order = np.argsort(np.sqrt(c))
    law = dmft.Spectrum(c[order], np.full(3, 1 / 3))
    A = rng.standard_normal((3, 2, 2))
    G = np.einsum("eij,ekj->eik", A, A)
    # Rows are P^(-1/2) w there, and V is c S_jj here.
    root = np.sqrt(c[order])[:, None, None]
    here = start_of(G, 1, second_moment=0.5 * c[order][:, None])
    there = start_of(G * root, 1)
    one = dmft.derive(dmft.Model(unit, unit, label_noise=0.1, inputs=law), adam).evaluate(here)
    two = dmft.derive(dmft.Model(unit, unit, label_noise=0.1, inputs=tilted), adam)
    for name, value in two.evaluate(there).items():
        if name == "second_moment":
            assert np.allclose(one[name], c[order][:, None] * value, rtol=1e-12)
        else:
            assert np.allclose(value, one[name] * root, rtol=1e-12, atol=1e-14)


def test_clusters_scale_signs_by_their_own_variance() -> None:
    """E[sign(psi_j) sign(x_i) .] in clusters of two variances, by samples of the fields."""
    twins = dmft.GaussianMixture([[0.6], [-0.4]], weights=[0.4, 0.6], scales=[0.5, 2.0])
    unit = dmft.Committee(ERF, 1)
    model = dmft.Model(unit, unit, label_noise=0.2, inputs=twins)
    start = dmft.Overlaps([[0.9]], [[0.3]])
    rates = dmft.derive(model, dmft.SignSGD(0.5)).evaluate(start)
    rng, n = np.random.default_rng(0), 400_000
    cluster = rng.choice(2, n, p=twins.weights)
    scale = np.sqrt(np.array(twins.scales)[cluster])
    mean = np.array(twins.means)[cluster] * np.array([[0.3, 1.0]])
    own = rng.standard_normal((n, 2)) @ np.linalg.cholesky(start.Omega).T * scale[:, None] + mean
    error = erf_of(own[:, 1] / np.sqrt(2)) - erf_of(own[:, 0] / np.sqrt(2))
    sign = np.sign(error + np.sqrt(0.2) * rng.standard_normal(n))
    drift = np.sqrt(2 / np.pi) / scale[:, None] * sign[:, None] * own
    error = drift.std(axis=0) / n**0.5
    assert abs(rates["M"][0, 0] - drift[:, 1].mean()) < 4 * error[1] + 1e-4
    assert abs(rates["Q"][0, 0] - 2 * drift[:, 0].mean() - 0.5) < 8 * error[0] + 1e-4


def step_of_signs(g: np.ndarray) -> np.ndarray:
    return np.sign(g)


def step_of_moments(g: np.ndarray) -> np.ndarray:
    return g / np.sqrt(np.mean(g**2, axis=0))


@pytest.mark.parametrize(
    ("algorithm", "batch", "step"),
    [
        (dmft.SignSGD(0.9), 1, step_of_signs),
        (dmft.SignSGD(0.9, batch_size=2), 2, step_of_signs),
        (dmft.SignSGD(0.9, batch_size=5), 5, step_of_signs),
        (dmft.Adam(0.9), 1, step_of_moments),
        (dmft.Adam(0.9, batch_size=3), 3, step_of_moments),
        (dmft.AdaGrad(0.9, initial=0.3), 1, None),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_leading_coordinates_have_moments_of_their_own(
    algorithm: Any, batch: int, step: Any
) -> None:
    """A coordinate with a finite share of psi: one step by samples of its definition."""
    rng, size, dim = np.random.default_rng(3), 200_000, 4
    c, readout, noise = np.array([4.0, 1.5, 0.5, 0.5]), np.array([1.0, -0.7]), 0.2
    W, teacher = rng.standard_normal((2, dim)), 1.5 * rng.standard_normal(dim)
    gram = np.einsum("je,ie->eji", *[np.vstack([W, teacher])] * 2) / dim
    law = dmft.Spectrum(c, np.full(dim, 1 / dim), dim=dim)
    model = dmft.Model(dmft.Committee(z, 2, readout.tolist()), LINE, label_noise=noise, inputs=law)
    memory = {} if step else {"second_moment": np.full((dim, 2), 0.3)}
    rates = dmft.derive(model, algorithm).evaluate(start_of(gram, 2, **memory))
    g: Any = 0.0
    for _ in range(batch):
        X = rng.standard_normal((size, dim)) * np.sqrt(c)
        error = X @ (teacher - readout @ W / 2) / np.sqrt(dim)
        error += np.sqrt(noise) * rng.standard_normal(size)
        g = g + np.einsum("j,s,se->sje", readout, error, X) / batch
    if step is None:  # per unit of t = steps gamma/(p d)
        sample = (2 / 0.9 * g**2).transpose(0, 2, 1)
        found, value = sample, rates["second_moment"]
    else:
        moved = step(g)
        found = moved.transpose(0, 2, 1) * teacher[:, None] / np.sqrt(dim)
        value = rates["M"][:, :, 0]
        pairs = np.einsum("sje,le->sejl", moved, W) / np.sqrt(dim)
        noisy = 0.9 / 2 / dim * np.einsum("sje,sle->sejl", moved, moved)
        q = pairs + pairs.transpose(0, 1, 3, 2) + noisy
        assert np.all(np.abs(q.mean(0) - rates["Q"]) < 5 * q.std(0) / size**0.5 + 1e-9)
    assert np.all(np.abs(found.mean(0) - value) < 5 * found.std(0) / size**0.5 + 1e-9)


def test_eigenvalues_of_multiplicity_one_lead_in_any_dimension() -> None:
    """E[sign(psi) sign(x_1)] = 2/pi asin of their correlation, as d -> infinity too."""
    law = dmft.Spectrum([2.0, 1.0], [0.0, 1.0])
    gram = np.array([[[0.2, 0.3], [0.3, 0.9]], [[0.1, 0.2], [0.2, 0.7]]])
    rates = dmft.derive(dmft.Model(LINE, LINE, inputs=law), dmft.SignSGD(0.4)).evaluate(
        start_of(gram, 1)
    )
    v = gram[:, 0, 0] - 2 * gram[:, 0, 1] + gram[:, 1, 1]
    share = 2 * v[0] / (2 * v[0] + v[1])
    angle = 2 / np.pi * np.arcsin(np.sqrt(share)) / np.sqrt(v[0])
    assert np.isclose(rates["M"][0, 0, 0], angle * (gram[0, 1, 1] - gram[0, 0, 1]), rtol=1e-8)
    small = 2 / np.pi * (gram[1, 1, 1] - gram[1, 0, 1]) / np.sqrt(2 * v[0] + v[1])
    assert np.isclose(rates["M"][1, 0, 0], small, rtol=1e-8)


def risk_of_weights(algorithm: str, dim: int, seeds: int) -> tuple[float, float]:
    """Mean and standard error of the risk at t = 1.5: capacity .5, source .4, rate 1."""
    rng, c = np.random.default_rng(11), np.arange(1.0, dim + 1) ** -0.5
    teacher, memory = np.sqrt(dim * np.arange(1.0, dim + 1) ** -0.9), 1 / (3 * np.sqrt(dim))
    W, V = np.zeros((seeds, dim)), np.zeros((seeds, dim))
    for n in range(round(1.5 * dim)):
        X = rng.standard_normal((seeds, dim)) * np.sqrt(c)
        g = np.sum((teacher - W) * X, axis=1, keepdims=True) / np.sqrt(dim) * X
        if algorithm == "signs":
            g = np.sign(g)
        else:
            V += memory * (g**2 - V)
            g /= np.sqrt(V / (1 - (1 - memory) ** (n + 1)))
        W += g / np.sqrt(dim)
    risk = np.sum(c * (W - teacher) ** 2, axis=1) / (2 * dim)
    return float(risk.mean()), float(risk.std() / np.sqrt(seeds))


@pytest.mark.slow  # its fast sibling: leading coordinates in one step
def test_claims_cover_runs_on_a_power_law() -> None:
    law, unit = dmft.Spectrum.power_law(0.5, 0.4, 500), dmft.Committee(ERF, 1)
    model, zero = dmft.Model(LINE, LINE, inputs=law), 0 * law.teacher
    start = dmft.Overlaps(zero, zero, law.teacher)
    for name, algorithm, order in (("signs", dmft.SignSGD(1.0), 0.023), ("", dmft.Adam(1.0), 0.17)):
        equations = dmft.derive(model, algorithm)
        risk, error = risk_of_weights(name, 500, 200)
        run = dmft.solve(equations, start, 1.5, save_at=[1.5])
        assert abs(run.risk[-1] / risk - 1) < order + 3 * error / risk
        assert "7 directions carry up to 35% each of the outputs: included" in str(
            run.provenance["approximation"]
        )
    assert "a relative error of order 0.037 + 0.13 learning_rate/p" in equations.approximation
    open_one = dmft.derive(dmft.Model(unit, unit, inputs=law), algorithm)
    assert "have a relative error of the order of this share" in open_one.approximation


def test_what_is_not_derived_is_said() -> None:
    unit, two = dmft.Committee(ERF, 2), dmft.Committee(ERF, 2)
    model = dmft.Model(unit, two, label_noise=0.1)
    start = dmft.Overlaps(np.eye(2), np.zeros((2, 2)))
    adam = dmft.Adam(0.1)
    flat = dmft.Spectrum([1.0, 0.0], [0.5, 0.5])
    tilted = dmft.Spectrum.preconditioned(np.diag([2.0, 1.0]), np.diag([0.5, 1.0]))
    spectral = {law: dmft.Model(unit, two, inputs=law) for law in (flat, tilted)}
    along = dmft.Model(LINE, LINE, inputs=tilted)
    for call, words in (
        (lambda: dmft.derive(model, dmft.RMSProp(0.1, beta2=0.9)), "Gaussian"),
        (lambda: dmft.derive(model, adam, dim=100, fluctuations=True), "small batches"),
        (lambda: dmft.derive(model, dmft.Adam(0.1, batch_size=100), dim=100), "small batches"),
        (lambda: dmft.derive(model, adam, scaling="mean-field"), "small batches"),
        (lambda: dmft.escape_formula(model, adam), "small batches"),
        (lambda: dmft.maximal_learning_rate(model, adam), "small batches"),
        (lambda: dmft.derive(model, adam).explain(), "small batches"),
        (lambda: dmft.simulate(model, adam, 50, 1.0, 1, method="overlaps"), "small batches"),
        (lambda: dmft.derive(spectral[flat], adam), "eigenvalue 0"),
        (lambda: dmft.derive(spectral[tilted], dmft.Adam(0.1, eps=0.1)), "not diagonal"),
        (lambda: dmft.derive(spectral[tilted], dmft.AdaGrad(0.1, 1.0)), "independent"),
        (lambda: dmft.derive(spectral[tilted], dmft.AdaGradNorm(0.1, 1.0)), "of the gradient"),
        (lambda: dmft.derive(along, dmft.RMSProp(0.1, beta2=0.9)), "independent"),
        (lambda: dmft.solve(dmft.derive(model, dmft.AdaGrad(0.1)), start, 1.0), "initial > 0"),
        (lambda: dmft.derive(model, dmft.Adam(0.1, 2.0)).evaluate(start), "initial > 0, or eps"),
        (lambda: dmft.Adam(0.1, momentum=dmft.Momentum(1.0)), "fixed beta_1"),
        (lambda: dmft.Adam(0.1, constraint="sphere"), "has no constraint"),
        (lambda: dmft.Adam(0.1, initial=1.0), "second_moment_rate"),
        (lambda: dmft.Adam(0.1, momentum=1.0), "below 1"),
        (lambda: dmft.RMSProp(0.1, 2.0, beta2=0.9), "one of them"),
        (lambda: dmft.RMSProp(0.1, eps=0.1, beta2=0.9), "eps = 0"),
        (lambda: dmft.RMSProp(0.1, beta2=1.0), "between 0 and 1"),
        (lambda: dmft.RMSProp(0.1, beta2=0.9, batch_size=2), "one sample"),
        (lambda: dmft.AdaGradNorm(0.1, 0), "positive"),
        (
            lambda: dmft.derive(model, adam).evaluate(
                dmft.Overlaps(np.eye(2), np.zeros((2, 2)), readout=[1.0, 0.0])
            ),
            "readout 2 of the student is 0",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_numbers_are_values_of_a_run() -> None:
    rate, kappa = sp.symbols("g k2", positive=True)
    unit = dmft.Committee(ERF, 1)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.Adam(rate, kappa, initial=0.5))
    start = dmft.Overlaps([[1.0]], [[0.2]])
    found = equations.evaluate(start, g=0.4, k2=3.0, initial=0.25)
    fixed = dmft.derive(dmft.Model(unit, unit), dmft.Adam(0.4, 3.0, initial=0.25)).evaluate(start)
    assert all(np.array_equal(found[name], fixed[name]) for name in fixed)


FILE = """
[student]
activation = "erf(z/sqrt(2))"
width = 2
[teacher]
activation = "erf(z/sqrt(2))"
width = 1
[algorithm]
learning_rate = 0.5
"""


@pytest.mark.parametrize(
    ("keys", "made"),
    [
        ('kind = "sign-sgd"', dmft.SignSGD(0.5)),
        (
            'kind = "adam"\nsecond_moment_rate = 2\neps = 0.5\nmomentum = 0.5\ninitial = 0.25',
            dmft.Adam(0.5, 2, 0.5, 0.5, 0.25),
        ),
        ('kind = "rmsprop"\nbeta2 = 0.75', dmft.RMSProp(0.5, beta2=0.75)),
        (
            'kind = "adagrad"\ninitial = 0.25\nweight_decay = 1',
            dmft.AdaGrad(0.5, 0.25, weight_decay=1),
        ),
        (
            'kind = "adagrad-norm"\ninitial = 2\nbatch_size = 3',
            dmft.AdaGradNorm(0.5, 2, batch_size=3),
        ),
    ],
)
def test_files_declare_them(tmp_path: Path, keys: str, made: Any) -> None:
    from dmft.cli.toml import read_declaration

    path = tmp_path / "model.toml"
    path.write_text(FILE + keys)
    found = read_declaration(path).algorithm
    assert type(found) is type(made)
    for name in (
        "learning_rate",
        "batch_size",
        "eps",
        "initial",
        "momentum",
        "weight_decay",
        "beta2",
    ):
        one, two = getattr(found, name, None), getattr(made, name, None)
        assert one == two or abs(float(one) - float(two)) < 1e-12, name


@pytest.mark.slow
def test_the_page_of_optimisers_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "optimisers.md"
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_what_is_accumulated_begins_where_a_sweep_says() -> None:
    equations = dmft.derive(dmft.Model(LINE, LINE, label_noise=0.2), dmft.AdaGradNorm(0.5, 0.5))
    start = dmft.Overlaps([[1.0]], [[0.1]])
    found = dmft.sweep(
        {"initial": [0.3, 0.9]}, "final_risk", equations=equations, start=start, t_max=1.0
    )
    alone = [dmft.solve(equations, start, 1.0, initial=b).risk[-1] for b in (0.3, 0.9)]
    assert np.allclose(found.values["final_risk"], alone, rtol=1e-12)


@pytest.mark.parametrize("loss", ["squared", sp.log(1 + sp.exp(-f * y))])
def test_second_moments_divide_what_sgd_does(loss: Any) -> None:
    """Rates of Adam from those of SGD at two rates, which tell drift and noise apart."""
    unit = dmft.Committee(ERF, 2, [1.0, 0.5])
    model = dmft.Model(unit, dmft.Committee(ERF, 1), label_noise=0.2)
    start = dmft.Overlaps([[1.0, 0.1], [0.1, 0.8]], [[0.3], [0.1]])
    slow, fast = (dmft.derive(model, dmft.SGD(g, loss=loss)).evaluate(start) for g in (1.0, 2.0))
    S = 2 * (fast["Q"] - slow["Q"])
    drift = slow["Q"] - S / 2  # B + B^T
    gain = 1 / (np.sqrt(np.diag(S)) + 0.1)
    adam = dmft.derive(model, dmft.Adam(1.0, eps=0.1, loss=loss)).evaluate(start)
    assert np.allclose(adam["M"], gain[:, None] * slow["M"], rtol=1e-9)
    noise = gain[:, None] * gain * S / 2
    own = np.diag(adam["Q"] - noise)
    assert np.allclose(own, gain * np.diag(drift), rtol=1e-9)


def test_noise_need_not_be_declared() -> None:
    start = dmft.Overlaps([[0.5]], [[0.2]])
    for algorithm in (dmft.SignSGD(0.5), dmft.RMSProp(0.5, beta2=0.9), dmft.AdaGradNorm(0.5, 1.0)):
        quiet = dmft.derive(dmft.Model(LINE, LINE), algorithm).evaluate(start)
        noisy = dmft.Model(LINE, LINE, label_noise=sp.Symbol("noise"))
        loud = dmft.derive(noisy, algorithm).evaluate(start, noise=0.0)
        assert all(np.allclose(loud[name], quiet[name], rtol=1e-12) for name in quiet)


@pytest.mark.parametrize("t_max", [0.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_signs_of_equal_units_against_closed_rates(t_max: float) -> None:
    """Of equal units sign(e) = sign(h* - h), the sign of one normal variable."""
    P, gamma = 0.8, 0.4
    unit = dmft.Committee(ERF, 1)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.SignSGD(gamma))
    start = dmft.Overlaps([[1.5]], [[-0.3]], [[P]])

    def rates(_: float, state: Any) -> Any:
        M, Q = state  # sign(e) = sign(h* - h)
        front = 2 / np.pi / np.sqrt(P + Q - 2 * M)
        return [front * (P - M), 2 * front * (M - Q) + gamma]

    want = rates(0.0, [-0.3, 1.5])
    found = equations.evaluate(start)
    assert np.allclose([found["M"].item(), found["Q"].item()], want, rtol=0, atol=1e-13)
    if not t_max:
        return
    path = solve_ivp(rates, (0, t_max), [-0.3, 1.5], "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    run = dmft.solve(equations, start, t_max)
    assert run.provenance["quadrature_error"] < 1e-5
    assert np.allclose([run.M[-1].item(), run.Q[-1].item()], path, rtol=0, atol=1e-5)


def test_claims_cover_labels_that_doubles_round_to_one() -> None:
    """Long rows: erf(h*) is one beyond 8.3, where the field of the student is not known from it."""
    Q, M, P, gamma = 9.0, 4.0, 9.0, 0.4
    unit = dmft.Committee(ERF, 1)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.SignSGD(gamma))
    start = dmft.Overlaps([[Q]], [[M]], [[P]])
    rates, claimed = equations.evaluate(start), equations.evaluate_error(start)
    front = 2 / np.pi / np.sqrt(P + Q - 2 * M)
    for name, exact in (("M", front * (P - M)), ("Q", 2 * front * (M - Q) + gamma)):
        assert abs(rates[name].item() - exact) < claimed[name].item() < 0.3


@pytest.mark.parametrize(("a", "b"), [(-0.7, 1.2), (0.9, 0.6)], ids=["beyond", "within"])
def test_signs_of_errors_against_the_other_order_of_integration(a: float, b: float) -> None:
    """Labels within the largest output and beyond it: over h* in closed form given h."""
    P, Q, M, gamma = 0.8, 0.9, 0.4, 0.4
    edge = np.arctanh(min(b / abs(a), 1.0)) if abs(a) > b else 9.0
    found = np.zeros(2)
    for low, high in pairwise([-9.0, -edge, edge, 9.0]):
        x, weight = np.polynomial.legendre.leggauss(240)
        t, weight = (low + high + (high - low) * x) / 2, (high - low) / 2 * weight
        mean, s = M / Q * t, np.sqrt(P - M * M / Q)
        with np.errstate(invalid="ignore"):
            place = np.sqrt(2) * erfinv(np.clip(a / b * np.tanh(t), -1, 1))
        c = (place - mean) / s
        sign, pull = -erf_of(c / np.sqrt(2)), s * np.sqrt(2 / np.pi) * np.exp(-c * c / 2)
        weight = weight * np.exp(-t * t / (2 * Q)) / np.sqrt(2 * np.pi * Q)
        found += [weight @ (mean * sign + pull), weight @ (t * sign)]
    drift = np.sqrt(2 / np.pi) * np.sign(a) * found
    model = dmft.Model(dmft.Committee(sp.tanh(z), 1, [a]), dmft.Committee(ERF, 1, [b]))
    equations = dmft.derive(model, dmft.SignSGD(gamma))
    start = dmft.Overlaps([[Q]], [[M]], [[P]])
    rates, claimed = equations.evaluate(start), equations.evaluate_error(start)
    for name, value in (("M", drift[0]), ("Q", 2 * drift[1] + gamma)):
        assert abs(rates[name].item() - value) <= claimed[name].item() + 1e-9 < 0.01, name


def test_signs_of_two_units_against_samples() -> None:
    """The last unit is integrated in closed form, the other is on nodes."""
    a, gamma, n = np.array([1.0, -0.7]), 0.5, 400_000
    G = np.array([[0.9, 0.2, 0.3], [0.2, 0.7, 0.1], [0.3, 0.1, 1.0]])
    model = dmft.Model(dmft.Committee(ERF, 2, a), dmft.Committee(ERF, 1, [1.3]))
    equations = dmft.derive(model, dmft.SignSGD(gamma))
    start = dmft.Overlaps(G[:2, :2], G[:2, 2:], G[2:, 2:])
    rates, claimed = equations.evaluate(start), equations.evaluate_error(start)
    h = np.linalg.cholesky(G) @ np.random.default_rng(2).standard_normal((3, n))
    error = 1.3 * erf_of(h[2] / np.sqrt(2)) - a @ erf_of(h[:2] / np.sqrt(2)) / 2
    psi = np.sqrt(2 / np.pi) * np.sign(a)[:, None] * np.sign(error)
    cross = psi[:, None] * h[:2]
    square = cross + cross.swapaxes(0, 1) + gamma / 2 * np.outer(np.sign(a), np.sign(a))[..., None]
    for name, samples in (("M", psi[:, None] * h[2:]), ("Q", square)):
        allowed = 4.5 * samples.std(axis=-1) / n**0.5 + claimed[name]
        assert np.all(np.abs(rates[name] - samples.mean(axis=-1)) < allowed), name
        assert np.all(claimed[name] < 1e-3)
