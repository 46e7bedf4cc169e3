"""Fluctuations of every algorithm against Monte Carlo of one step, and against simulated seeds.

The truth knows the update rule of a step (design.md section 5) and nothing of the library: fields
are drawn from N(0, Omega), psi is written in NumPy, Sigma is a covariance with error bars.
"""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import dmft

Z, U, V = sp.symbols("z u v", real=True)
F, Y = sp.symbols("f y", real=True)
SAMPLES = 400_000
START = dmft.Overlaps([[0.9, 0.2], [0.2, 0.7]], [[0.3], [-0.2]])
ON_SPHERE = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.2]])
A, GAMMA, NOISE, RHO = np.array([1.0, -0.7]), 0.6, 0.2, 0.4
STUDENTS = {
    "erf": (sp.erf(Z / sp.sqrt(2)), lambda h: erf(h / np.sqrt(2)),
            lambda h: np.sqrt(2 / np.pi) * np.exp(-h * h / 2)),
    "relu": (sp.Max(0, Z), lambda h: np.maximum(h, 0), lambda h: 1.0 * (h > 0)),
    "tanh": (sp.tanh(Z), np.tanh, lambda h: 1 - np.tanh(h) ** 2),
    "linear": (Z, lambda h: h, np.ones_like),
}  # fmt: skip
LOSSES = {
    "squared": ("squared", lambda f, y: y - f),
    "correlation": ("correlation", lambda f, y: y),
    "double": ((F - Y) ** 2 + F, lambda f, y: 2 * (y - f) - 1),
    "cubic": ((F - Y) ** 3 / 6 + (F - Y) ** 2 / 2, lambda f, y: -((f - y) ** 2) / 2 - (f - y)),
    "logistic": (sp.log(1 + sp.exp(-F * Y)), lambda f, y: y / (1 + np.exp(f * y))),
    "hinge": (sp.Max(0, 1 - F * Y), lambda f, y: y * (f * y < 1)),
}
REPEATS = {
    "once": None,
    "twice": dmft.Repeat(2),
    "thrice": dmft.Repeat(3),
    "lookahead": dmft.Lookahead(RHO),
    "sharpness-aware": dmft.SharpnessAware(RHO),
    "normalised": dmft.SharpnessAware(RHO, normalised=True),
}


def updates(student, pull, repeat, h, y, step, stretch=1.0):
    """Psi (p, n) and e sigma(h) (p, n) of one sample each; `stretch` is |x|^2/d."""
    _, sigma, slope = STUDENTS[student]
    a = A[: len(h), None]

    def gradient(at):
        error = pull((a * sigma(at)).sum(0) / len(h), y)
        return a * slope(at) * error, error * sigma(at)

    psi, push = gradient(h)
    if repeat in ("twice", "thrice"):
        at, last = h, psi
        for _ in range(1 if repeat == "twice" else 2):
            at = at + step * last * stretch
            last, more = gradient(at)
            psi, push = psi + last, push + more
    elif repeat == "lookahead":
        psi, push = gradient(h + RHO * psi * stretch)
    elif repeat == "sharpness-aware":
        psi, push = gradient(h - RHO * psi * stretch)
    elif repeat == "normalised":
        length = np.sqrt((psi**2).sum(0))
        psi, push = gradient(h - RHO * psi / np.where(length == 0, 1, length) * np.sqrt(stretch))
    return psi, push


def drawn(start, samples, seed=3):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((start.p + start.k, samples))
    lam = np.linalg.cholesky(start.Omega) @ z
    noise = np.sqrt(NOISE) * rng.standard_normal(samples)
    return z, lam[: start.p], lam[start.p :], noise, rng


def rows_of(start, psi, push, h, h_star, gain, rate):
    """Increments u, v, w of samples, packed as the state is; on the sphere to first order."""
    u = psi[:, None] * h[None] + psi[None] * h[:, None] + gain * psi[:, None] * psi[None]
    v = psi[:, None] * h_star[None]
    if start is ON_SPHERE:
        own = np.einsum("jjn->jn", u)
        v = v - 0.5 * start.M[:, :, None] * own[:, None]
        u = u - 0.5 * start.Q[:, :, None] * (own[:, None] + own[None])
    n = h.shape[1]
    parts = [u.reshape(-1, n), v.reshape(-1, n)]
    return np.concatenate([*parts, rate * push] if rate else parts)


def sampled_covariance(rows):
    """Covariance of samples and the standard errors of its entries."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    n = rows.shape[1]
    mean = centred @ centred.T / n
    square = centred**2 @ (centred**2).T / n
    return mean, np.sqrt(np.maximum(square - mean**2, 0) / n)


def close(found, wanted, spread, error=0.0):
    off = np.abs(found - wanted) / np.hypot(spread, error / 2.6)
    assert off[spread > 0].max() < 5, off
    np.testing.assert_allclose(found[spread == 0], wanted[spread == 0], atol=1e-12)


def declared(student, loss, repeat, *, p=2, batch=1, rate=0, **options):
    model = dmft.Model(
        dmft.Committee(STUDENTS[student][0], p, tuple(A[:p])),
        dmft.Committee(STUDENTS["erf"][0], 1),
        NOISE,
    )
    algorithm = dmft.SGD(
        GAMMA, batch_size=batch, loss=LOSSES[loss][0], repeat=REPEATS[repeat], readout_rate=rate,
        **options,
    )  # fmt: skip
    return model, algorithm


CELLS = [
    ("erf", "squared", "once", 1, True, START),
    ("erf", "double", "once", 2, True, START),
    ("erf", "cubic", "once", 1, True, START),
    ("tanh", "logistic", "once", 3, False, ON_SPHERE),
    ("linear", "hinge", "once", 1, False, START),
    ("erf", "squared", "twice", 1, False, START),
    ("erf", "squared", "thrice", 2, True, START),
    ("tanh", "logistic", "twice", 1, False, ON_SPHERE),
    ("erf", "squared", "lookahead", 2, False, ON_SPHERE),
    ("tanh", "cubic", "lookahead", 1, True, START),
    ("relu", "squared", "lookahead", 1, False, START),
    ("erf", "correlation", "sharpness-aware", 3, False, START),
    ("erf", "squared", "normalised", 2, True, START),
]


@pytest.mark.parametrize(("student", "loss", "repeat", "batch", "trained", "start"), CELLS)
def test_covariance_of_the_increments_is_that_of_samples(
    student, loss, repeat, batch, trained, start
):
    rate = 0.5 if trained else 0
    constraint = "sphere" if start is ON_SPHERE else None
    model, algorithm = declared(
        student, loss, repeat, batch=batch, rate=rate, constraint=constraint
    )
    eqs = dmft.derive(model, algorithm, dim=1000, fluctuations=True)
    found, errors = eqs.evaluate(start), eqs.evaluate_error(start)
    _, h, h_star, noise, _ = drawn(start, SAMPLES)
    gain = GAMMA / (2 * batch)
    y = erf(h_star[0] / np.sqrt(2)) + noise
    psi, push = updates(student, LOSSES[loss][1], repeat, h, y, gain)
    rows = rows_of(start, psi, push, h, h_star, gain, rate)
    close(found["Sigma"], *sampled_covariance(rows), errors["Sigma"])
    assert np.linalg.eigvalsh(found["Sigma"])[0] > -1e-12
    scale = GAMMA / (2 * 1000 * batch)
    np.testing.assert_allclose(found["covariance"], scale * found["Sigma"])


@pytest.mark.parametrize("cell", [CELLS[0], CELLS[-1]], ids=["noise apart", "noise on nodes"])
def test_compiled_fluctuations_are_those_of_the_reference(cell):
    student, loss, repeat, batch, trained, start = cell
    model, algorithm = declared(student, loss, repeat, batch=batch, rate=0.5 * trained)
    eqs = dmft.derive(model, algorithm, dim=1000, fluctuations=True)
    found, values, compiled = eqs.evaluate(start), eqs.values(start, {}), dmft.build(eqs)
    y = compiled.pack({**eqs.state(start), "readout": values.arrays["readout"]})
    par = compiled.pack_parameters(values.scalars, values.arrays)
    widths = np.array([values.widths[name] for name in compiled.widths])
    sigma, drift = np.empty((y.size, y.size)), np.empty(y.size)
    compiled.diffusion(0.0, y, widths, par, sigma)
    compiled.rhs(0.0, y, widths, par, drift)
    np.testing.assert_allclose(sigma, found["Sigma"], atol=1e-12 * np.abs(sigma).max())
    np.testing.assert_allclose(drift, compiled.pack(found), atol=1e-12)


# One step in d dimensions ------------------------------------------------------------------------


def remainder_of_one_step(start, cell, batch, dim, rate, decay, samples):
    """Mean and error of (increment/dt - what d -> infinity leaves of it) of one exact step."""
    student, loss, repeat = cell
    p, size, gain = start.p, start.p + start.k, GAMMA / (start.p * batch)
    rng = np.random.default_rng(8)
    z = rng.standard_normal((batch, size, samples))
    lam = np.linalg.cholesky(start.Omega) @ z
    gram = np.einsum("ain,bin->abn", z, z)
    T = np.zeros((batch, batch, samples))
    for i in range(batch):  # what the samples have outside the weights, by Bartlett
        T[i, i] = np.sqrt(rng.chisquare(dim - size - i, samples))
        for j in range(i):
            T[i, j] = rng.standard_normal(samples)
    gram = gram + np.einsum("acn,bcn->abn", T, T)
    dt, loss_of_rows = GAMMA / (p * dim), decay * GAMMA / (p * dim)
    ys = [erf(f[p] / np.sqrt(2)) + np.sqrt(NOISE) * rng.standard_normal(samples) for f in lam]
    pull = LOSSES[loss][1]
    both = [
        (updates(student, pull, repeat, f[:p], y, gain, gram[n, n] / dim),
         updates(student, pull, repeat, f[:p], y, gain), f)
        for n, (f, y) in enumerate(zip(lam, ys, strict=True))
    ]  # fmt: skip
    leading = np.mean(
        [rows_of(start, psi, push, f[:p], f[p:], gain, rate) for _, (psi, push), f in both], axis=0
    )
    first = sum(np.einsum("jn,ln->jln", now[0], f[:p]) for now, _, f in both) * gain / dim
    first = first + first.swapaxes(0, 1)
    cross = sum(np.einsum("jn,rn->jrn", now[0], f[p:]) for now, _, f in both) * gain / dim
    psi = np.stack([now[0] for now, _, _ in both])
    quadratic = (gain / dim) ** 2 * np.einsum("ajn,abn,bln->jln", psi, gram, psi)
    kept = 1 - loss_of_rows
    Q, M = start.Q[:, :, None], start.M[:, :, None]
    new_Q, new_M = kept**2 * Q + kept * first + quadratic, kept * M + cross
    if start is ON_SPHERE:
        length = np.sqrt(np.einsum("jjn->jn", new_Q))
        new_Q, new_M = new_Q / length[:, None] / length[None], new_M / length[:, None]
    moved = [(new_Q - Q) / dt + 2 * decay * Q, (new_M - M) / dt + decay * M]
    if rate:
        moved.append(rate * np.mean([now[1] for now, _, _ in both], axis=0))
    rest = np.concatenate([m.reshape(-1, samples) for m in moved]) - leading
    return rest.mean(axis=1), rest.std(axis=1) / np.sqrt(samples)


ONE = dmft.Overlaps([[0.9]], [[0.4]])
STEPS = [
    (("erf", "squared", "lookahead"), 1, 0.5, 0, ONE),
    (("erf", "squared", "sharpness-aware"), 2, 0, 0.7, ONE),
    (("tanh", "cubic", "normalised"), 2, 0.5, 0, ONE),
    (("erf", "squared", "lookahead"), 2, 0, 0, ON_SPHERE),
    (("erf", "logistic", "once"), 2, 0.5, 0.7, ONE),
    (("erf", "squared", "once"), 2, 0.5, 0.7, ONE),
]


@pytest.mark.parametrize(("cell", "batch", "rate", "decay", "start"), STEPS)
def test_drift_at_order_one_over_d_is_that_of_one_step(cell, batch, rate, decay, start):
    dim = 150
    options = {"constraint": "sphere"} if start is ON_SPHERE else {"weight_decay": decay}
    model, algorithm = declared(*cell, p=start.p, batch=batch, rate=rate, **options)
    eqs = dmft.derive(model, algorithm, dim=dim, fluctuations=True)
    full, leading = eqs.evaluate(start), eqs.without(*eqs.noise.terms).evaluate(start)
    names = ("Q", "M", "readout")[: 2 + bool(rate)]
    found = np.concatenate([(full[n] - leading[n]).ravel() for n in names])
    mean, spread = remainder_of_one_step(start, cell, batch, dim, rate, decay, 200_000)
    # The next order in 1/d stands beside five standard errors.
    off = np.abs(found - mean) / (5 * spread + 10 / dim * np.abs(found).max())
    moving = spread > 1e-12
    assert off[moving].max() < 1, (found, mean, spread)
    np.testing.assert_allclose(found[~moving], mean[~moving], atol=1e-12)
    assert np.max(np.abs(found[moving]) / spread[moving]) > 4
