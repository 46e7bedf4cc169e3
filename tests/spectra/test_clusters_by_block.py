"""Clusters with a variance in each block: definitions by Monte Carlo, runs of weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.special import erf

import dmft
from dmft.codegen.blocks import check_chunks
from dmft.equations.averages.nodes import discretise
from dmft.equations.risk import ErrorRate
from dmft.errors import ShapeMismatch

z, f, y, u, v = sp.symbols("z f y u v", real=True)
ERF = sp.erf(z / sp.sqrt(2))
LOGISTIC = sp.log(1 + sp.exp(-f * y))
ACTIVATIONS = {"erf": ERF, "square": z**2}
SCALES, FRACTIONS = [[2.0, 0.5], [0.6, 1.2]], [0.3, 0.7]
SAMPLES = 80_000


def start_of(gram: Any, p: int) -> dmft.Overlaps:
    G = np.array(gram)
    return dmft.Overlaps(G[:, :p, :p], G[:, :p, p:], G[:, p:, p:])


def grams(blocks: int, n: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(blocks, n, 5)) / 3.0
    return rows @ rows.swapaxes(1, 2)


def xor(**shape: Any) -> dmft.GaussianMixture:
    corners = [[1, 0], [-1, 0], [0, 1], [0, -1]]
    return dmft.GaussianMixture(corners, [1, 1, -1, -1], **shape)


def twins(**shape: Any) -> dmft.GaussianMixture:
    return dmft.GaussianMixture([[1.2], [-0.7]], [1, -1], [0.4, 0.6], **shape)


def clipped(psi: np.ndarray, level: float, square: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(psi, axis=1) * np.sqrt(square) / psi.shape[1]
    return psi * np.minimum(1.0, level / length)[:, None]


# Model, algorithm, -dl/df of output and label, and clip level.
CASES: dict[str, tuple[Any, Any, Any, float]] = {
    "xor, square loss": (
        lambda **s: dmft.Model(dmft.Committee(ERF, 2, [2.0, -1.5]), xor(**s), 0.1),
        {}, lambda f, y: y - f, 0.0,
    ),
    "logistic": (
        lambda **s: dmft.Model(dmft.Committee(ERF, 1, [1.5]), twins(**s)),
        {"loss": LOGISTIC}, lambda f, y: y / (1 + np.exp(y * f)), 0.0,
    ),
    "logistic, flipped, linear": (
        lambda **s: dmft.Model(dmft.Committee(z, 1), twins(**s), label_flip=0.2),
        {"loss": LOGISTIC}, lambda f, y: y / (1 + np.exp(y * f)), 0.0,
    ),
    "labels by fields": (
        lambda **s: dmft.Model(
            dmft.Committee(z**2, 2),
            dmft.GaussianMixture([[1.0], [0.5]], [u**2 - 1, 0.3], [0.3, 0.7], [u], **s),
        ),
        {}, lambda f, y: y - f, 0.0,
    ),
    "teacher, momentum": (
        lambda **s: dmft.Model(
            dmft.Committee(ERF, 2), dmft.Committee(ERF, 1),
            inputs=dmft.GaussianMixture([[1.2], [-0.7]], None, [0.4, 0.6], **s),
        ),
        {"momentum": dmft.Momentum(0.8, 0.5), "weight_decay": 0.3}, lambda f, y: y - f, 0.0,
    ),
    "clipped": (
        lambda **s: dmft.Model(dmft.Committee(ERF, 1, [2.0]), twins(**s)),
        {"clip": 0.5}, lambda f, y: y - f, 0.5,
    ),
}  # fmt: skip
LABELS = {
    "labels by fields": lambda star, c: np.where(c == 0, star[:, 0] ** 2 - 1, 0.3),
    "xor, square loss": lambda star, c: np.where(c < 2, 1.0, -1.0),
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", CASES)
def test_one_step_by_monte_carlo(name: str) -> None:
    """Rates are means of psi_j x_e . row/sqrt(d) and psi_j psi_l |x_e|^2/d over drawn fields."""
    declare, options, pull, level = CASES[name]
    four = name.startswith("xor")
    scales, phi = np.array([*SCALES, *SCALES[::-1]] if four else SCALES), np.array(FRACTIONS)
    model = declare(scales=scales, fractions=phi)
    mixture, a = model.inputs, np.array(model.student.readout or [1, 1], dtype=float)
    a = a[: int(model.student.width)]
    p, k, gamma = a.size, int(model.teacher.width), 0.7
    rows = options.get("momentum") is not None
    G = grams(2, 2 * p + k if rows else p + k)
    rng = np.random.default_rng(1)
    c = rng.choice(len(scales), SAMPLES, p=mixture.weights)
    # Fields of w, velocities and w* within each block.
    means = np.einsum("ers,zs->zer", G[:, :, -k:], mixture.means)
    root = np.array([np.linalg.cholesky(g + 1e-13 * np.eye(len(g))) for g in G])
    noise = rng.standard_normal((SAMPLES, 2, G.shape[1]))
    fields = means[c] + np.sqrt(scales)[c][:, :, None] * np.einsum("ers,nes->ner", root, noise)
    total = fields.sum(axis=1)
    h, star = total[:, :p], total[:, -k:]
    sigma = sp.lambdify(z, model.student.activation, ["scipy", "numpy"])
    slope = sp.lambdify(z, sp.diff(model.student.activation, z), ["scipy", "numpy"])
    teacher = isinstance(model.teacher, dmft.Committee)
    target = sigma(star).mean(axis=1) if teacher else np.where(c == 0, 1.0, -1.0)
    target = LABELS[name](star, c) if name in LABELS else target
    flip = rng.random(SAMPLES) < float(model.label_flip)
    target = np.where(flip, -target, target)
    target = target + np.sqrt(float(model.label_noise)) * rng.standard_normal(SAMPLES)
    error = pull((a * sigma(h)).mean(axis=1), target)
    psi = a * np.broadcast_to(slope(h), h.shape) * error[:, None]
    if level:
        psi = clipped(psi, level, (scales @ phi)[c])
    F = np.einsum("nj,nei->neji", psi, fields)
    S = np.einsum("nj,nl,ne->nejl", psi, psi, scales[c] * phi) * gamma / p

    memory = None
    if rows:
        w, vel, last = slice(0, p), slice(p, 2 * p), slice(2 * p, None)
        memory = {
            "velocity_M": G[:, vel, last],
            "velocity_Q": G[:, vel, w],
            "velocity": G[:, vel, vel],
        }
    student, teachers = G[:, :p], G[:, -k:, -k:]
    start = dmft.Overlaps(student[:, :, :p], student[:, :, -k:], teachers, memory=memory)
    found = dmft.derive(model, dmft.SGD(gamma, **options)).evaluate(start)
    kappa, direct, zeta = (0.8, 0.5, 0.3) if rows else (0.0, 1.0, 0.0)
    FQ = F[..., :p]
    both = FQ + FQ.swapaxes(-1, -2)
    drawn = {"M": direct * F[..., -k:], "Q": direct * both + direct**2 * S}
    known = {"M": 0.0, "Q": 0.0}
    if rows:
        known["M"] = memory["velocity_M"] - zeta * direct * start.M
        N = memory["velocity_Q"]
        known["Q"] = N + N.swapaxes(1, 2) - 2 * zeta * direct * start.Q
        drawn["velocity_M"] = kappa * F[..., -k:]
        known["velocity_M"] = -kappa * memory["velocity_M"] - kappa * zeta * start.M
        U = F[..., p : 2 * p]
        drawn["velocity"] = kappa * (U + U.swapaxes(-1, -2)) + kappa**2 * S
        known["velocity"] = -2 * kappa * memory["velocity"] - kappa * zeta * (N + N.swapaxes(1, 2))
        drawn["velocity_Q"] = kappa * FQ + direct * U.swapaxes(-1, -2) + direct * kappa * S
        known["velocity_Q"] = (
            memory["velocity"] - kappa * N - kappa * zeta * start.Q - zeta * direct * N
        )
    for block, sample in drawn.items():
        deviation = sample.mean(axis=0) + known[block] - found[block]
        assert np.abs(deviation / (sample.std(axis=0) / SAMPLES**0.5)).max() < 4.2, block


@pytest.mark.cases("algorithm1")
@pytest.mark.parametrize(
    "algorithm",
    [dmft.SGD(0.7), dmft.SGD(0.7, momentum=dmft.Momentum(0.8, 0.5)), dmft.SGD(0.7, loss=LOGISTIC)],
)
def test_one_block_is_a_variance_of_the_cluster(algorithm: dmft.SGD) -> None:
    student = dmft.Committee(ERF, 1, [1.3])
    (G,) = grams(1, 2)
    plain = dmft.Model(student, twins(scales=[1.5, 0.4]))
    one = dmft.Model(student, twins(scales=[[1.5], [0.4]], fractions=[1.0]))
    start = dmft.Overlaps(G[:1, :1], G[:1, 1:], G[1:, 1:])
    expected = dmft.derive(plain, algorithm).evaluate(start)
    rates = dmft.derive(one, algorithm).evaluate(start_of([G], 1))
    for name, value in expected.items():
        assert np.allclose(rates[name][0], value, rtol=0, atol=1e-12), name
    seen = dmft.population_risk(one)([start.Q], [start.M], [start.P])
    assert abs(seen - dmft.population_risk(plain)(start.Q, start.M, start.P)) < 1e-13


def test_one_cluster_at_the_origin_is_a_spectrum() -> None:
    student, c, phi = dmft.Committee(ERF, 2), [2.0, 0.5], [0.3, 0.7]
    one = dmft.GaussianMixture([[0.0]], scales=[c], fractions=phi)
    start, found = start_of(grams(2, 3), 2), []
    for inputs in (one, dmft.Spectrum(c, phi)):
        model = dmft.Model(student, dmft.Committee(ERF, 1), 0.2, inputs)
        rates = dmft.derive(model, dmft.SGD(0.7)).evaluate(start)
        risk = dmft.population_risk(model)(start.Q, start.M, start.P)
        found.append([rates["Q"], rates["M"], risk])
    for one_, other in zip(*found, strict=True):
        assert np.allclose(one_, other, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_runs_agree_with_weights_in_finite_dimension() -> None:
    model = dmft.Model(dmft.Committee(z, 1), twins(scales=SCALES, fractions=FRACTIONS))
    sgd, start = dmft.SGD(0.5), start_of(grams(2, 2), 1)
    run = dmft.solve(dmft.derive(model, sgd), start, 2.0, save_at=3)
    c = np.array([0.4, 0.6]) @ np.array(SCALES)
    assert np.allclose(run.Q, np.einsum("e,teij->tij", c, run.block_Q), rtol=0, atol=1e-14)
    truth = dmft.simulate(model, sgd, 800, 2.0, seeds=12, start=start, save_at=3)
    risk = dmft.population_risk(model)
    for n in range(3):
        own = risk(truth.runs.block_Q[0, n], truth.runs.block_M[0, n], start.P)
        assert abs(own - truth.runs.risk[0, n]) < 1e-8
    for name in ("block_Q", "block_M", "risk", "Q", "M"):
        deviation = truth.mean[name][1:] - getattr(run, name)[1:]
        assert np.abs(deviation / truth.stderr[name][1:]).max() < 4.5, name


@pytest.mark.slow
def test_gradient_flow_of_blocks_runs() -> None:
    """A linear student: dM_e/dt = sum_c w_c [(y_c - m_c) mu_c P_e - c_ce M_e], m_c = mu_c M."""
    model = dmft.Model(dmft.Committee(z, 1), twins(scales=SCALES, fractions=FRACTIONS))
    start = start_of(grams(2, 2), 1)
    run = dmft.solve(dmft.derive(model, dmft.GradientFlow()), start, 1.5, save_at=4)
    mu, label, w = np.array([1.2, -0.7]), np.array([1.0, -1.0]), np.array([0.4, 0.6])
    P, c = start.P[:, 0, 0], w @ np.array(SCALES)

    def rate(_: float, M: np.ndarray) -> np.ndarray:
        return P * (w @ ((label - mu * M.sum()) * mu)) - c * M

    truth = solve_ivp(rate, (0.0, 1.5), start.M[:, 0, 0], "DOP853", run.t, rtol=1e-10, atol=1e-12)
    assert np.allclose(run.block_M[:, :, 0, 0], truth.y.T, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.compiled
def test_runs_read_all_nodes_of_each_cluster() -> None:
    """The compiled loop keeps 256 nodes at a time: fields of the first cluster at the others, too.

    Runs had those of the last nodes alone in the first cluster; the NumPy reference did not.
    """
    model = dmft.Model(dmft.Committee(ERF, 2), twins(scales=SCALES, fractions=FRACTIONS))
    equations = dmft.derive(model, dmft.SGD(0.5, loss=LOGISTIC))
    start = start_of(grams(2, 3), 2)
    nodes, step = 24, 1e-5
    assert equations.rule(start, {"nodes": nodes}).weight.size > 10 * 256
    run = dmft.solve(equations, start, step, save_at=2, nodes=nodes, rtol=1e-10, atol=1e-14)
    rates = equations.evaluate(start, nodes=nodes)
    for block, rate in rates.items():
        if block != "readout":
            found = np.diff(run[f"block_{block}"], axis=0)[0] / step
            np.testing.assert_allclose(found, rate, rtol=1e-3, atol=1e-5)
    # The loss by a product rule of two fields of its own.
    z, w = np.polynomial.hermite_e.hermegauss(60)
    grid = np.stack(np.meshgrid(z, z)).reshape(2, -1)
    weight = np.outer(w, w).ravel() / (2 * np.pi)
    loss = 0.0
    for mean, label, chance, scales in zip((1.2, -0.7), (1, -1), (0.4, 0.6), SCALES, strict=True):
        root = np.linalg.cholesky(np.einsum("e,ejl->jl", scales, start.Q))
        h = root @ grid + mean * start.M.sum(axis=0)
        output = erf(h / np.sqrt(2)).mean(axis=0)
        loss += chance * weight @ np.log1p(np.exp(-label * output))
    assert run.loss[0] == pytest.approx(loss, abs=1e-5)


def test_arrays_of_nodes_are_not_read_behind_their_loop() -> None:
    model = dmft.Model(dmft.Committee(ERF, 2), twins(scales=SCALES, fractions=FRACTIONS))
    found = list(discretise(dmft.derive(model, dmft.SGD(0.5, loss=LOGISTIC)).definitions))
    check_chunks(found)
    (second,) = (d for d in found if d.name == "root_in_2")
    found.remove(second)
    at = next(n for n, d in enumerate(found) if d.name == "lambda_at_in_1")
    with pytest.raises(AssertionError, match="reads lambda_at_in_1 after the loop"):
        check_chunks([*found[: at + 1], second, *found[at + 1 :]])


def test_error_rates_are_those_of_each_cluster() -> None:
    model = dmft.Model(dmft.Committee(z, 1), twins(scales=SCALES, fractions=FRACTIONS))
    start = start_of(grams(2, 2), 1)
    constants = {"block_P": start.P, "teacher_readout": np.ones(1), "readout": np.ones((1, 1))}
    found, error = ErrorRate(model).along(start.Q[None], start.M[None], constants, {})
    mean = start.M.sum() * np.array([1.2, -0.7]) * np.array([1.0, -1.0])
    deviation = np.sqrt(np.array(SCALES) @ start.Q[:, 0, 0])
    wrong = special_erf(-mean / deviation) / 2 + 0.5
    assert abs(found[0] - wrong @ [0.4, 0.6]) < max(2 * error[0], 1e-4)


def test_random_starts_and_printed_equations() -> None:
    model = dmft.Model(dmft.Committee(z, 2), twins(scales=SCALES, fractions=FRACTIONS))
    start = dmft.random_overlaps(model, 1000, 0)
    assert start.M.shape == (2, 2, 1)
    assert np.allclose(start.P[:, 0, 0], FRACTIONS)
    text = dmft.derive(model, dmft.SGD(0.5)).latex()
    assert r"\Omega_{i m}^{[1]} = \sum_{e=1}^{B} G_{i m e} c_{1 e}" in text
    assert r"c_{1 e} = (2, 0.5)" in text
    assert r"\phi_e = (0.3, 0.7)" in text


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: twins(scales=SCALES), dmft.errors.BadParameter, "common eigenbasis"),
        (lambda: twins(fractions=[0.5, 0.5]), dmft.errors.BadParameter, "pass scales"),
        (lambda: twins(scales=SCALES, fractions=[1.0]), ShapeMismatch, r"expected \(2, 1\)"),
        (lambda: twins(scales=SCALES, fractions=[0.5, 0.6]), dmft.errors.BadParameter, "add up"),
        (lambda: derived(dmft.SGD(0.1, constraint="sphere")), dmft.errors.BadParameter, "spectrum"),
        (
            lambda: dmft.maximal_learning_rate(derived(dmft.SGD(0.1)).model, dmft.SGD(0.1)),
            dmft.errors.BadParameter,
            "perfect recovery",
        ),
        (lambda: derived(dmft.GradientDescent(0.1, 2)), dmft.errors.BadParameter, "spectrum"),
        (
            lambda: dmft.scaling_law(derived(dmft.SGD(0.1))),
            dmft.errors.BadParameter,
            "a single spectrum",
        ),
    ],
)
def test_what_does_not_close_is_refused(call: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def derived(algorithm: Any) -> Any:
    model = dmft.Model(dmft.Committee(ERF, 2), twins(scales=SCALES, fractions=FRACTIONS))
    return dmft.derive(model, algorithm)


def test_scaled_steps_are_those_of_the_moments() -> None:
    """V_je = sum_z pi_z c_ze S^z_jj, read off the noise of SGD, whose rates are judged above."""
    model = derived(dmft.SGD(0.7)).model
    start, phi = start_of(grams(2, 3), 2), np.array(FRACTIONS)[:, None, None]
    flow = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
    noise = dmft.derive(model, dmft.SGD(0.7)).evaluate(start)["Q"] - flow["Q"]
    S = noise / phi * 2 / 0.7
    V = np.diagonal(S, axis1=1, axis2=2)
    adam = dmft.derive(model, dmft.Adam(0.7, eps=0.1)).evaluate(start)
    gain = 1 / (np.sqrt(V) + 0.1)
    assert np.allclose(adam["M"], gain[..., None] * flow["M"], rtol=1e-9)
    # Both neurons differ in their gain: the drift of each has its own.
    drift = adam["Q"] - gain[:, :, None] * gain[:, None, :] * noise
    own = np.diagonal(flow["Q"], axis1=1, axis2=2)
    assert np.allclose(np.diagonal(drift, axis1=1, axis2=2), gain * own, rtol=1e-9)
    norm = dmft.derive(model, dmft.AdaGradNorm(0.7, 0.5)).evaluate(start)
    assert np.allclose(norm["M"], flow["M"] / 0.5**0.5, rtol=1e-9)
    assert np.allclose(norm["Q"], flow["Q"] / 0.5**0.5 + noise / 0.5, rtol=1e-9)
    # dN/dtau = tr S/p^2 with inputs in it, t = gamma tau/p.
    per_tau = (phi[..., 0] * V).sum() / 4
    assert np.allclose(norm["accumulator"], per_tau * 2 / 0.7, rtol=1e-9)


@pytest.mark.parametrize("clusters", [True, False])
def test_signs_by_steps_in_finite_dimension(clusters: bool) -> None:
    """One step of SignSGD in R^400, of clusters and of a spectrum whose mean is not one."""
    d, gamma, p = 400, 0.7, 2
    phi, scales = np.array(FRACTIONS), np.array(SCALES if clusters else [[4.0, 2.0]])
    counts = np.round(phi * d).astype(int)
    rng = np.random.default_rng(3)
    W, star = rng.normal(size=(p, d)), rng.normal(size=(1, d))
    edges = np.cumsum([0, *counts])
    parts = [slice(a, b) for a, b in pairwise(edges)]
    rows = np.concatenate([W, star])
    start = start_of([rows[:, s] @ rows[:, s].T / d for s in parts], p)
    student = dmft.Committee(ERF, p, [1.5, -1.0])
    teacher = dmft.Committee(ERF, 1)
    model = dmft.Model(student, teacher, inputs=dmft.Spectrum(scales[0], phi))
    if clusters:
        model = dmft.Model(student, twins(scales=scales, fractions=phi))
    rates = dmft.derive(model, dmft.SignSGD(gamma)).evaluate(start)

    found: dict[str, list[np.ndarray]] = {"M": [], "Q": []}
    for _ in range(8):
        c = rng.choice(len(scales), 500, p=[0.4, 0.6] if clusters else [1.0])
        x = np.repeat(np.sqrt(scales), counts, axis=1)[c] * rng.standard_normal((500, d))
        if clusters:
            x += np.array([1.2, -0.7])[c][:, None] * star / np.sqrt(d)
        h = x @ W.T / np.sqrt(d)
        target = np.array([1.0, -1.0])[c] if clusters else special_erf(x @ star[0] / np.sqrt(d))
        error = target - special_erf(h) @ np.array([1.5, -1.0]) / p
        psi = np.sign(np.array([1.5, -1.0]) * error[:, None])
        signs = np.sign(x)
        along = [signs[:, s] @ rows[:, s].T / np.sqrt(d) for s in parts]
        F = psi[:, :, None] * np.array(along)[:, :, None, :]
        lengths = np.array([(signs[:, s] ** 2).sum(axis=1) / d for s in parts])
        square = (psi[:, :, None] * psi[:, None, :])[None] * lengths[:, :, None, None]
        both = F[..., :p] + F[..., :p].swapaxes(-1, -2)
        found["M"].append(F[..., p:])
        found["Q"].append(both + gamma / p * square)
    for name, values in found.items():
        sample = np.concatenate(values, axis=1)
        error = sample.std(axis=1) / sample.shape[1] ** 0.5
        deviation = sample.mean(axis=1) - rates[name]
        # Signs in d dimensions are off their limit by 1/d beside.
        assert np.abs(deviation / (error + 1e-9)).max() < 4.5, name


def special_erf(values: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return erf(values / np.sqrt(2))
