"""Fluctuations of every algorithm against Monte Carlo of one step, and against simulated seeds.

The truth knows the update rule of a step (theory/one_pass 0) and nothing of the library: fields
are drawn from N(0, Omega), psi is written in NumPy, Sigma is a covariance with error bars.
"""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import dmft

Z, U, V = sp.symbols("z u v", real=True)
F, Y = sp.symbols("f y", real=True)
SAMPLES = 100_000
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


@pytest.mark.cases(2)
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


@pytest.mark.cases(1)
@pytest.mark.parametrize("cell", [CELLS[0], CELLS[-1]], ids=["noise apart", "noise on nodes"])
def test_compiled_fluctuations_are_those_of_the_reference(cell, generated_code):
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


@pytest.mark.cases(2)
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


# Rules of one's own, maps ------------------------------------------------------------------------

H, H_STAR, LABEL = sp.symbols("h h_star y", real=True)
RULES = {
    "Hebb": (LABEL, lambda h, y: y),
    "perceptron": (LABEL * (1 - LABEL * sp.sign(H)) / 2, lambda h, y: y * (h * y < 0)),
    "saturating": (LABEL * sp.exp(-((H - LABEL) ** 2)), lambda h, y: y * np.exp(-((h - y) ** 2))),
}


def own_rule(name, noise, **options):
    model = dmft.Model(dmft.Committee(Z, 1), dmft.Committee(sp.sign(Z), 1), noise)
    rule = dmft.UpdateField(
        RULES[name][0], fields=(H, H_STAR, LABEL), learning_rate=GAMMA, **options
    )
    return model, rule


@pytest.mark.parametrize(
    ("name", "noise"), [("Hebb", NOISE), ("perceptron", 0), ("saturating", NOISE)]
)
def test_covariance_of_own_rules(name, noise):
    model, rule = own_rule(name, noise, batch_size=2)
    eqs = dmft.derive(model, rule, dim=300, fluctuations=True)
    found, errors = eqs.evaluate(ONE), eqs.evaluate_error(ONE)
    _, h, h_star, more, _ = drawn(ONE, SAMPLES)
    psi = np.atleast_2d(RULES[name][1](h, np.sign(h_star[0]) + (noise > 0) * more))
    rows = rows_of(ONE, psi, psi, h, h_star, GAMMA / 2, 0)
    close(found["Sigma"], *sampled_covariance(rows), errors["Sigma"])


def sampled_steps(rows_of_group, groups=8):
    """Mean and standard error of something over groups of samples."""
    each = np.stack([rows_of_group(n) for n in range(groups)])
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(groups)


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("student", "loss"), [("erf", "cubic"), ("tanh", "logistic"), ("linear", "hinge")]
)
def test_maps_of_general_losses_are_those_of_one_step(student, loss):
    dim, batch, rate, decay = 500, 900, 300.0, 0.3
    model = dmft.Model(
        dmft.Committee(STUDENTS[student][0], 2, tuple(A)),
        dmft.Committee(STUDENTS["erf"][0], 1),
        NOISE,
    )
    algorithm = dmft.SGD(
        rate, batch_size=batch, loss=LOSSES[loss][0], weight_decay=decay, readout_rate=0.5
    )
    eqs = dmft.derive(model, algorithm, dim=dim)
    step = rate / (2 * dim)
    lost = step * decay

    def means(n):
        _, h, h_star, noise, _ = drawn(START, SAMPLES // 8, seed=n)
        y = erf(h_star[0] / np.sqrt(2)) + noise
        psi, push = updates(student, LOSSES[loss][1], "once", h, y, 0)
        lam = np.concatenate([h, h_star])
        b, S = psi @ lam.T / lam.shape[1], psi @ psi.T / lam.shape[1]
        gram = b @ np.linalg.solve(START.Omega, b.T)
        dM = step * b[:, 2:] - lost * START.M
        dQ = (1 - lost) * step * (b[:, :2] + b[:, :2].T) + (lost**2 - 2 * lost) * START.Q
        dQ += step**2 * (dim / batch * S + (1 - 1 / batch) * gram)
        return np.concatenate([dQ.ravel(), dM.ravel(), 0.5 * step * push.mean(axis=1)])

    def flat(found):
        return np.concatenate([found[n].ravel() for n in ("Q", "M", "readout")])

    assert eqs.kind == "map"
    found, errors = flat(eqs.evaluate(START)), flat(eqs.evaluate_error(START))
    # Student's t of eight groups: 7 of their standard errors.
    mean, spread = sampled_steps(means)
    assert np.max(np.abs(found - mean) / np.hypot(7 * spread, errors)) < 1
    with pytest.raises(dmft.errors.BadParameter, match=r"explicit\(\)"):
        eqs.explicit()


def test_the_map_of_an_own_rule_is_that_of_one_step():
    dim, batch = 200, 400
    model, rule = own_rule("Hebb", NOISE, batch_size=batch)
    found = dmft.derive(model, rule, dim=dim).evaluate(ONE, learning_rate=100.0)
    # b = E[sign(h*) lambda] is sqrt(2/pi) times the covariances with h*, S = 1 + NOISE.
    b, step = np.sqrt(2 / np.pi) * np.array([0.4, 1.0]), 100 / dim
    gram = b @ np.linalg.solve(ONE.Omega, b)
    dQ = 2 * step * b[0] + step**2 * (dim / batch * (1 + NOISE) + (1 - 1 / batch) * gram)
    np.testing.assert_allclose(found["M"], [[step * b[1]]], rtol=1e-9)
    np.testing.assert_allclose(found["Q"], [[dQ]], rtol=2e-3)


@pytest.mark.parametrize("student", ["erf", "linear"])
def test_clipped_steps_fluctuate_with_the_noise_of_each_sample(student):
    """Sigma is the covariance of the increments themselves, not of their means over the noise."""
    model, sgd = declared(student, "squared", "once", p=1, clip=0.3)
    if student == "linear":  # the rates have closed forms
        model = dmft.Model(model.student, model.student, NOISE)
    start = dmft.Overlaps([[0.9]], [[0.3]])
    equations = dmft.derive(model, sgd, dim=10**6, fluctuations=True)
    _, h, h_star, noise, _ = drawn(start, SAMPLES)
    y = STUDENTS[student][1](h_star[0]) + noise
    psi, push = updates(student, LOSSES["squared"][1], "once", h, y, 0.0)
    psi = psi * np.minimum(1.0, 0.3 / np.abs(psi))
    wanted, spread = sampled_covariance(rows_of(start, psi, push, h, h_star, GAMMA, 0))
    close(
        equations.evaluate(start)["Sigma"], wanted, spread, equations.evaluate_error(start)["Sigma"]
    )


def test_label_noise_at_run_time_is_refused_where_none_was_declared():
    model = dmft.Model(dmft.Committee(sp.tanh(Z), 1), dmft.Committee(sp.tanh(Z), 1))
    eqs = dmft.derive(model, dmft.SGD(0.5, loss=sp.log(sp.cosh(F - Y))))
    with pytest.raises(dmft.errors.BadParameter, match="label_noise"):
        eqs.evaluate(ONE, label_noise=0.5)


def test_written_out_equations_hold_decay_and_trained_readouts():
    square = dmft.Committee(Z**2, 1)
    algorithm = dmft.SGD(0.1, readout_rate=0.3, weight_decay=0.2)
    eqs = dmft.derive(dmft.Model(square, square, NOISE), algorithm, dim=80, fluctuations=True)
    explicit, found = eqs.explicit(P=[[1]]), eqs.evaluate(ONE)
    at = dict(
        zip(
            (explicit.symbols[n] for n in ("Q_11", "M_11", "readout_1")), (0.9, 0.4, 1), strict=True
        )
    )
    names = {str(s): float(e.subs(at)) for s, e in explicit.rhs.items()}
    for name, block in (("Q_11", "Q"), ("M_11", "M"), ("a_1", "readout")):
        assert names[name] == pytest.approx(found[block].item(), rel=1e-12)
    place = [list(names).index(n) for n in ("Q_11", "M_11", "a_1")]
    Sigma = np.array(explicit.covariance.subs(at), dtype=float)[np.ix_(place, place)]
    np.testing.assert_allclose(found["Sigma"], Sigma, rtol=1e-12)


def test_print_says_what_is_of_order_one_over_d():
    shown = {}
    for repeat in ("lookahead", "twice"):
        model, algorithm = declared("erf", "squared", repeat, rate=0.5, batch=2)
        eqs = dmft.derive(model, algorithm, dim=80, fluctuations=True)
        shown[repeat] = str(eqs)
        assert r"\delta a_{j} &=" in eqs.latex()
    assert "Cov[(δ Q, δ M, δ a)]" in shown["twice"]
    assert "displaced s times as much" in shown["lookahead"]
    assert "terms of repeated steps at order 1/d are left out" in shown["twice"]


# Seeds -------------------------------------------------------------------------------------------


def seeds_in_weight_space(dim, steps, seeds, batch, rate):
    """Q, M and readout (3, seeds) of one neuron after literal double steps on each batch."""
    rng = np.random.default_rng(5)
    _, sigma, slope = STUDENTS["erf"]
    star, other = np.zeros(dim), np.zeros(dim)
    star[0] = other[1] = np.sqrt(dim)
    w = np.tile(0.4 * star + np.sqrt(0.9 - 0.16) * other, (seeds, 1))
    a = np.ones((seeds, 1))
    for _ in range(steps):
        x = rng.standard_normal((seeds, batch, dim))
        label = erf(x[..., 0] / np.sqrt(2)) + np.sqrt(NOISE) * rng.standard_normal((seeds, batch))
        for _ in range(2):
            h = np.einsum("sd,sbd->sb", w, x) / np.sqrt(dim)
            error = label - a * sigma(h)
            moved = np.einsum("sb,sbd->sd", a * slope(h) * error, x) / np.sqrt(dim)
            a = a + rate * GAMMA / (dim * batch) * (error * sigma(h)).sum(1, keepdims=True)
            w = w + GAMMA / batch * moved
    return np.stack([(w**2).sum(1) / dim, w @ star / dim, a[:, 0]])


def linear_noise_in_time(eqs, t_max, steps, **options):
    """Mean and covariance of (Q, M, readout) of one neuron at t_max, by Heun's rule."""
    point, spread, h = np.array([0.9, 0.4, 1.0]), np.zeros((3, 3)), t_max / steps

    def rates(y):
        found = eqs.evaluate(dmft.Overlaps([[y[0]]], [[y[1]]], readout=[y[2]]), **options)
        return np.array([found[n].item() for n in ("Q", "M", "readout")]), found["covariance"]

    def change(y, C):
        drift, noise = rates(y)
        J = np.stack([(rates(y + 1e-5 * e)[0] - drift) / 1e-5 for e in np.eye(3)], axis=1)
        return drift, J @ C + C @ J.T + noise

    for _ in range(steps):
        first, grown = change(point, spread)
        second, more = change(point + h * first, spread + h * grown)
        point, spread = point + h / 2 * (first + second), spread + h / 2 * (grown + more)
    return point, spread


@pytest.mark.slow
def test_seeds_of_repeated_batches_spread_as_the_equations_say():
    dim, steps, seeds, batch, rate = 150, 75, 800, 2, 0.5
    model, algorithm = declared("erf", "squared", "twice", p=1, batch=batch, rate=rate)
    eqs = dmft.derive(model, algorithm, dim=dim, fluctuations=True)
    mean, spread = linear_noise_in_time(eqs, steps * GAMMA / dim, 3, nodes=12)
    found = seeds_in_weight_space(dim, steps, seeds, batch, rate)
    std = np.sqrt(np.diag(spread))
    assert np.all(np.abs(found.mean(axis=1) - mean) < 4 * std / np.sqrt(seeds) + 2 / dim)
    # Variances of so many seeds, and linear noise to leading order.
    ratio = found.std(axis=1) / std
    assert np.all(np.abs(np.log(ratio)) < 4 * np.sqrt(0.5 / seeds) + 0.03), ratio
    cross = np.corrcoef(found) - spread / np.outer(std, std)
    assert np.abs(cross).max() < 4 / np.sqrt(seeds) + 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "batch", "rate", "decay", "method"),
    [
        (("erf", "squared", "lookahead"), 1, 0.5, 0.0, "overlaps"),
        (("erf", "squared", "twice"), 2, 0.0, 0.0, "weights"),
        (("tanh", "logistic", "once"), 1, 0.5, 0.4, "overlaps"),
    ],
)
def test_paths_spread_as_seeds_do(cell, batch, rate, decay, method):
    dim, t_max, seeds, paths = 400, 1.0, 400, 800
    model, algorithm = declared(*cell, p=1, batch=batch, rate=rate, weight_decay=decay)
    start = dmft.Overlaps(ONE.Q, ONE.M, readout=[1.0])
    truth = dmft.simulate(model, algorithm, dim, t_max, seeds, start, method, save_at=[t_max])
    eqs = dmft.derive(model, algorithm, dim=dim, fluctuations=True)
    run = dmft.solve(eqs, start, t_max, paths=paths, dt=0.05, nodes=10, save_at=[t_max])
    assert run.status == "ok"
    for name in ("Q", "M", "readout")[: 2 + bool(rate)]:
        mean, std = getattr(run.mean, name)[-1].ravel(), getattr(run.std, name)[-1].ravel()
        found = getattr(truth.runs, name)[:, -1].reshape(seeds, -1)
        error = np.hypot(found.std(axis=0) / np.sqrt(seeds), std / np.sqrt(paths))
        # Euler's step and what is of order 1/d beyond the drift, beside four standard errors.
        assert np.all(np.abs(found.mean(axis=0) - mean) < 4 * error + 0.01), name
        ratio = std / found.std(axis=0)
        assert np.all(np.abs(np.log(ratio)) < 4 * np.sqrt(0.5 / seeds + 0.5 / paths) + 0.05), name
