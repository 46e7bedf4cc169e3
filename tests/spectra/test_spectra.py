"""Inputs with a spectrum: laws, definitions by Monte Carlo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf as erf_of

import dmft
from dmft.errors import ShapeMismatch

z, f, y = sp.symbols("z f y", real=True)
ERF = sp.erf(z / sp.sqrt(2))


def start_of(gram: Any, p: int) -> dmft.Overlaps:
    G = np.array(gram)
    return dmft.Overlaps(G[:, :p, :p], G[:, :p, p:], G[:, p:, p:])


def grams(rng: np.random.Generator, blocks: int, n: int) -> np.ndarray:
    A = rng.standard_normal((blocks, n, n + 1)) / np.sqrt(n)
    return np.einsum("eij,ekj->eik", A, A)


def test_fields_see_sums_over_blocks() -> None:
    law, unit = dmft.Spectrum([2.0, 0.5], [0.3, 0.7]), dmft.Committee(z**2, 2)
    P = law.fractions[:, None, None] * np.eye(2)
    equations = dmft.derive(dmft.Model(unit, unit, inputs=law), dmft.SGD(0.05))
    run = dmft.solve(equations, dmft.Overlaps(P, 0.1 * P, P), 0.5, save_at=3)
    seen = np.einsum("e,teij->tij", law.eigenvalues, run.block_Q)
    assert np.allclose(run.Q, seen, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dim", [2, 192, 193, 500, 10**4])
def test_blocks_of_power_laws_hold_coordinates(dim: int) -> None:
    """Sums over all ranks, and a simulation in the dimension of the spectrum."""
    law, i = dmft.Spectrum.power_law(0.5, 0.4, dim), np.arange(1.0, dim + 1)
    counts = law.counts(dim)
    assert counts.min() >= 1
    assert counts.sum() == dim
    for t in (0.0, 0.1, 3.0):
        sums = i**-0.5 * np.exp(-t * i**-0.5), i**-1.4 * np.exp(-t * i**-0.5)
        seen = law.eigenvalues * np.exp(-t * law.eigenvalues)
        found = dim * law.fractions @ seen, law.teacher[:, 0, 0] @ seen
        assert np.allclose(found, [y.sum() for y in sums], rtol=2e-6, atol=0)
    if dim == 500:
        line, zero = dmft.Committee(z, 1), 0 * law.teacher
        model, start = dmft.Model(line, line, inputs=law), dmft.Overlaps(zero, zero, law.teacher)
        truth = dmft.simulate(model, dmft.SGD(0.5), dim=dim, t_max=0.5, seeds=4, start=start)
        assert np.isclose(truth.mean.risk[0], np.sum(i**-1.4) / 2, rtol=1e-6)
        assert truth.mean.risk[-1] < 0.7 * truth.mean.risk[0]


def test_nodes_of_marchenko_pastur_converge_geometrically() -> None:
    """Profiles that are smooth in the eigenvalue, as those of the shared vector."""
    unit, found = dmft.Committee(ERF, 1), []
    for nodes in (4, 8, 16, 32):
        law = dmft.Spectrum.marchenko_pastur(0.5, nodes)
        root, w = np.sqrt(law.eigenvalues), law.fractions
        rows = (w * (0.36 + 0.09 * root), w * 0.3 * root, w * root)
        start = dmft.Overlaps(*(x[:, None, None] for x in rows))
        model = dmft.Model(unit, unit, label_noise=0.05, inputs=law)
        run = dmft.solve(dmft.derive(model, dmft.SGD(1.5)), start, 6.0, rtol=1e-11)
        found.append(np.array([run.Q[-1, 0, 0], run.M[-1, 0, 0]]))
    errors = [np.abs(one - found[-1]).max() for one in found[:-1]]
    assert errors[0] < 2e-3
    assert errors[1] < 2e-5
    assert errors[2] < 2e-8


def test_few_directions_are_said() -> None:
    c = np.arange(1.0, 501.0) ** -1.5
    line = dmft.Committee(z, 1)
    law = dmft.Spectrum(c, np.full(500, 1 / 500), dim=500)
    equations = dmft.derive(dmft.Model(line, line, inputs=law), dmft.SGD(75.0))
    assert "intrinsic dimension tr Sigma/|Sigma| = 2.52: " in equations.approximation


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), parts=st.integers(2, 4))
def test_blocks_of_equal_eigenvalues_are_one(seed: int, parts: int) -> None:
    """Rates of blocks with one eigenvalue add up to those of N(0, I)."""
    rng = np.random.default_rng(seed)
    G = grams(rng, parts, 4)
    phi = rng.dirichlet(np.ones(parts))
    erf, sgd = (
        dmft.Committee(ERF, 2, readout=[1.0, -0.5]),
        dmft.SGD(0.7, batch_size=2, weight_decay=0.1),
    )
    rates = dmft.derive(
        dmft.Model(erf, erf, label_noise=0.2, inputs=dmft.Spectrum(np.ones(parts), phi)), sgd
    ).evaluate(start_of(G, 2))
    whole = G.sum(axis=0)
    start = dmft.Overlaps(whole[:2, :2], whole[:2, 2:], whole[2:, 2:])
    plain = dmft.derive(dmft.Model(erf, erf, label_noise=0.2), sgd).evaluate(start)
    for name in "QM":
        assert np.allclose(rates[name].sum(axis=0), plain[name], rtol=1e-11, atol=1e-12)


def test_risks_on_nodes_see_sums_over_blocks() -> None:
    """A target without closed averages, by samples; the call and its error take blocks."""
    u, v = sp.symbols("u v", real=True)
    target = dmft.MultiIndex(sp.tanh(u * v), [u, v])
    model = dmft.Model(dmft.Committee(ERF, 1), target, inputs=dmft.Spectrum([2.0, 0.5], [0.3, 0.7]))
    start = start_of(grams(np.random.default_rng(0), 2, 3), 1)
    risk = dmft.population_risk(model)
    found, error = risk(start.Q, start.M, start.P), risk.error(start.Q, start.M, start.P)
    root = np.linalg.cholesky(np.einsum("e,eij->ij", [2.0, 0.5], start.Omega))
    h, *star = root @ np.random.default_rng(1).normal(size=(3, 100_000))
    sample = (np.tanh(star[0] * star[1]) - erf_of(h / np.sqrt(2))) ** 2 / 2
    assert abs(found - sample.mean()) < 4.0 * sample.std() / np.sqrt(sample.size) + error
    assert error < 1e-3


def test_a_loss_without_closed_averages_against_its_definition() -> None:
    """dM_e = c_e D G_e with D = E[psi lambda] Omega^+, by samples of the fields."""
    rng = np.random.default_rng(2)
    law = dmft.Spectrum([3.0, 1.0, 0.2], [0.1, 0.4, 0.5])
    start = start_of(0.4 * grams(rng, 3, 4), 2)
    unit, noise, gamma = dmft.Committee(ERF, 2), 0.1, 1.5
    logistic = dmft.SGD(gamma, loss=sp.log(1 + sp.exp(-f * y)))
    model = dmft.Model(unit, unit, label_noise=noise, inputs=law)
    rates = dmft.derive(model, logistic).evaluate(start)
    Omega = np.einsum("e,eij->ij", law.eigenvalues, start.Omega)
    n = 250_000
    fields = rng.standard_normal((n, 4)) @ np.linalg.cholesky(Omega).T
    out = erf_of(fields / np.sqrt(2))
    label = out[:, 2:].mean(axis=1) + np.sqrt(noise) * rng.standard_normal(n)
    pull = label / (1 + np.exp(out[:, :2].mean(axis=1) * label))
    psi = np.sqrt(2 / np.pi) * np.exp(-(fields[:, :2] ** 2) / 2) * pull[:, None]
    D, S = psi.T @ fields / n @ np.linalg.inv(Omega), psi.T @ psi / n
    for e, G in enumerate(start.Omega):
        F = law.eigenvalues[e] * D @ G
        assert np.allclose(rates["M"][e], F[:, 2:], rtol=0, atol=5e-3)
        dQ = F[:, :2] + F[:, :2].T + gamma / 2 * law.noise[e] * S
        assert np.allclose(rates["Q"][e], dQ, rtol=0, atol=5e-3)


def test_claims_of_small_slopes_are_small() -> None:
    """A readout a -> 0 sees y/2 of a logistic loss: D = (2 dI/dQ, dI/dM) a/2, I = E f(h) f(h*)."""
    law, a = dmft.Spectrum([2.0, 0.5], [0.3, 0.7]), 1e-7
    student, teacher = dmft.Committee(ERF, 1, [a]), dmft.Committee(ERF, 1)
    model = dmft.Model(student, teacher, inputs=law)
    equations = dmft.derive(model, dmft.SGD(0.5, loss=sp.log(1 + sp.exp(-f * y))))
    P = law.fractions[:, None, None]
    start = dmft.Overlaps(P, 0.3 * P, P)
    found, claim = equations.evaluate(start)["M"], equations.evaluate_error(start)["M"]
    q = law.eigenvalues @ law.fractions
    m, square = 0.3 * q, (1 + q) ** 2
    across = 2 / np.pi / np.sqrt(square - m**2)
    own = -across * m / (1 + q)
    wanted = law.eigenvalues * law.fractions * (0.3 * own + across) * a / 2
    assert np.allclose(found.ravel(), wanted, rtol=1e-6, atol=0)
    assert np.all(claim < 1e-10 * np.abs(found))


@pytest.mark.parametrize(
    "loss", ["squared", pytest.param(sp.log(1 + sp.exp(-f * y)), marks=pytest.mark.slow)]
)
def test_runs_agree_with_weights_in_finite_dimension(loss: Any) -> None:
    law = dmft.Spectrum([3.0, 1.0, 0.2], [0.1, 0.4, 0.5])
    unit, sgd = dmft.Committee(ERF, 2), dmft.SGD(1.5, loss=loss)
    model = dmft.Model(unit, unit, label_noise=0.1, inputs=law)
    start = dmft.random_overlaps(model, 1000, 0)
    truth = dmft.simulate(model, sgd, 1000, 2.0, 12, start, save_at=3)
    run = dmft.solve(dmft.derive(model, sgd), start, truth.t[-1], save_at=truth.t)
    for name in ("block_Q", "block_M", "Q", "M", "risk"):
        off = (getattr(run, name) - truth.mean[name])[1:]
        # Beyond the seeds' error the mean is off by 1/D_int = 3/800 of what has moved.
        assert np.abs(off).max() < 4.5 * truth.stderr[name][1:].max() + 2e-3


def test_spectra_of_data_keep_the_trace_and_the_teacher() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4000, 30)) * np.linspace(0.5, 2, 30)
    w = rng.standard_normal(30)
    law = dmft.Spectrum.from_data(X, X @ w, bins=6)
    centred = X - X.mean(axis=0)
    assert law.dim == 30
    assert law.teacher is not None
    total = float(np.einsum("e,eij->", law.eigenvalues, law.teacher))
    assert np.isclose(total, np.var(centred @ w), rtol=1e-10)
    assert np.isclose(law.noise.sum(), centred.var(axis=0).mean(), rtol=1e-10)


def test_preconditioned_steps_are_steps_in_other_coordinates() -> None:
    """P^(1/2) Sigma P^(1/2), noise factors of P Sigma P, by their definitions."""
    rng = np.random.default_rng(3)
    A, B, C = (rng.standard_normal((5, 7)) for _ in range(3))
    Sigma, P, N = A @ A.T / 7, B @ B.T / 7 + 0.1 * np.eye(5), C @ C.T / 7
    plain = dmft.Spectrum.preconditioned(Sigma, P)
    # The spectrum of P^(1/2) Sigma P^(1/2) is that of P Sigma.
    assert np.allclose(np.sort(plain.eigenvalues), np.sort(np.linalg.eigvals(P @ Sigma).real))
    assert np.allclose(plain.noise, plain.eigenvalues / 5)
    noisy = dmft.Spectrum.preconditioned(Sigma, P, N)
    assert np.isclose(noisy.noise.sum(), np.trace(np.linalg.solve(P, N)) / 5)


REFUSED = [
    (lambda: dmft.Spectrum([1.0, 2.0], [0.5, 0.6]), "add up to one"),
    (lambda: dmft.Spectrum([-1.0], [1.0]), "must not be negative"),
    (lambda: dmft.Spectrum([0.0], [1.0]), "no input varies"),
    (lambda: dmft.Spectrum.marchenko_pastur(-1.0), "ratio = -1.0 must be positive"),
    (lambda: dmft.Spectrum.power_law(0.0, 1.0, 10), "capacity = 0.0 must be positive"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_spectra_are_refused(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_what_is_not_derived_with_a_spectrum_says_so() -> None:
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    line = dmft.Committee(z, 1)
    model = dmft.Model(line, line, inputs=law)
    for call in (
        lambda: dmft.derive(model, dmft.SGD(0.1, constraint="sphere")),
        lambda: dmft.derive(model, dmft.SGD(100, batch_size=100), dim=100),
        lambda: dmft.derive(model, dmft.SGD(0.1), dim=100, fluctuations=True),
        lambda: dmft.derive(model, dmft.SGD(0.1), scaling="mean-field"),
        lambda: dmft.derive(model, dmft.GradientDescent(0.1, samples_per_dim=2)),
        lambda: dmft.simulate(model, dmft.SGD(0.1), 100, 1.0, 1, method="overlaps"),
        lambda: dmft.derive(model, dmft.SGD(0.1)).explicit(1, 1),
    ):
        with pytest.raises(ValueError, match="pectrum"):
            call()
    with pytest.raises(ShapeMismatch, match="2 blocks"):
        dmft.derive(model, dmft.SGD(0.1)).evaluate(dmft.Overlaps([[1.0]], [[0.1]]))
    blocks = dmft.Overlaps([[[1.0]]], [[[0.1]]], [[[1.0]]])
    plain = dmft.derive(dmft.Model(line, line), dmft.SGD(0.1))
    with pytest.raises(ShapeMismatch, match="no spectrum"):
        plain.evaluate(blocks)
