"""Approximate message passing: the algorithm with scores written here, and state evolution."""

import numpy as np
import pytest
import sympy as sp
from scipy.special import log_ndtr

import dmft
from dmft.gaussian.channels.priors import GaussBernoulli
from dmft.simulation.message_passing import near, normalised, pass_messages
from dmft.workflow.static.bayes import state_evolution

z = sp.Symbol("z", real=True)
He3 = z**3 - 3 * z


def model(expr, **noise):
    return dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(expr, [z]), **noise)


def gaussian(field, precision):
    return field / (1 + precision), 1 / (1 + precision)


def linear_score(y, omega, V):
    g = (y[:, None] - omega) / (V + 0.2)
    return g, len(y) / 300 / (V + 0.2)


def sign_score(y, omega, V):
    y = y[:, None]
    t = y * omega / np.sqrt(V)
    ratio = np.exp(-(t**2) / 2 - log_ndtr(t)) / np.sqrt(2 * np.pi)
    slopes = -ratio * (t + ratio) / V
    return y * ratio / np.sqrt(V), -np.sum(slopes, keepdims=True) / 400


def data(dim, alpha, seed):
    rng = np.random.default_rng(seed)
    teacher = normalised(rng.standard_normal((dim, 1)), 1.0)
    X = rng.standard_normal((int(alpha * dim), dim)) / np.sqrt(dim)
    return rng, teacher, X


def test_the_linear_channel_is_ridge_regression():
    """Its fixed point is the posterior mean, which one linear system gives."""
    rng, teacher, X = data(300, 1.5, 0)
    y = (X @ teacher)[:, 0] + np.sqrt(0.2) * rng.standard_normal(len(X))
    run = pass_messages(X, y, teacher, np.zeros((300, 1)), np.eye(1), linear_score, gaussian, 60)
    exact = np.linalg.solve(X.T @ X + 0.2 * np.eye(300), X.T @ y)
    assert np.linalg.norm(run.estimate[:, 0] - exact) < 0.02 * np.linalg.norm(exact)


def test_sign_labels_follow_state_evolution_step_by_step():
    runs = []
    for seed in range(12):
        _, teacher, X = data(400, 2.0, seed)
        run = pass_messages(
            X, np.sign(X @ teacher)[:, 0], teacher, np.zeros((400, 1)), np.eye(1),
            sign_score, gaussian, 8,
        )  # fmt: skip
        runs.append(run.overlap[:, 0, 0])
    theory = state_evolution(model(sp.sign(z)), 2.0, steps=8).q
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(12)
    assert np.all(np.abs(np.mean(runs, axis=0) - theory) < 4 * error + 2 / 400)


def test_starts_have_the_overlap_that_was_asked_for():
    rng = np.random.default_rng(0)
    teacher = normalised(rng.standard_normal((10**5, 1)), 0.3)[:, 0]
    assert teacher @ teacher == pytest.approx(0.3e5)
    w = near(teacher, 0.1, 0.3, rng)
    assert [w @ teacher / 1e5, w @ w / 1e5] == pytest.approx([0.1, 0.1], abs=3e-3)


def test_the_verb_uses_the_same_algorithm():
    found = dmft.approximate_message_passing(model(sp.sign(z)), 2.0, 200, [3], steps=6)
    again = dmft.approximate_message_passing(model(sp.sign(z)), 2.0, 200, [1, 3], steps=6)
    assert np.array_equal(found.q[0], again.q[1])
    assert found.q.shape == (1, 7)
    assert np.isnan(found.stderr).all()
    assert again.length[:, -1] == pytest.approx(again.q[:, -1], abs=0.15)


@pytest.mark.parametrize("prior", ["rademacher", GaussBernoulli(0.2)])
def test_exact_recovery_ends_a_run(prior):
    alpha = 1.9 if prior == "rademacher" else 3.0
    label = sp.sign(z) if prior == "rademacher" else z
    found = dmft.approximate_message_passing(model(label), alpha, 300, 2, prior=prior)
    rho = 1.0 if prior == "rademacher" else 0.2
    assert all(found.found)
    assert found.mean[-1] == pytest.approx(rho, rel=1e-3)


def test_even_labels_start_from_the_spectral_estimate():
    found = dmft.approximate_message_passing(model(sp.Abs(z)), 2.5, 300, 3)
    assert found.q[:, 0].min() > 0.3
    assert found.mean[-1] > 0.99


def test_several_fields():
    u, v = sp.symbols("u v", real=True)
    several = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(u + u * v, [u, v]))
    found = dmft.approximate_message_passing(several, 0.8, 300, 2, steps=15)
    assert found.q.shape[2:] == (2, 2)
    assert np.allclose(found.mean[-1], [[0.4025, 0], [0, 0.262]], atol=0.12)
    with pytest.raises(dmft.errors.BadParameter, match="prior"):
        dmft.approximate_message_passing(several, 0.8, 100, 1, prior="rademacher")


def test_files_and_refusals(tmp_path):
    found = dmft.approximate_message_passing(model(sp.sign(z)), 1.0, 100, 2, steps=3)
    assert dmft.load(found.save(tmp_path / "amp.nc")) == found
    for wrong in ({"samples_per_dim": 0.0}, {"dim": 0}, {"seeds": 0}, {"start": 1.5}):
        given = {"samples_per_dim": 1.0, "dim": 50, "seeds": 1} | wrong
        with pytest.raises(dmft.errors.BadParameter, match=next(iter(wrong))):
            dmft.approximate_message_passing(model(sp.sign(z)), **given)


# Label, noise, prior, two numbers of samples, overlap at the start.
RELU, HALF = sp.Max(z, 0), sp.Rational(1, 2)
CASES = [
    (sp.sign(z), 0, "gaussian", (1.0, 2.0), None),
    (sp.sign(z), 0, "rademacher", (0.9, 1.2), None),
    (sp.sign(z), 0, GaussBernoulli(0.2), (1.0, 1.5), None),
    (RELU, 0, "gaussian", (0.7, 1.0), None),
    (sp.Abs(z), 0, "gaussian", (0.9, 1.3), 0.4),
    (He3, 0, "gaussian", (0.4, 0.6), None),
    (sp.Abs(z), 0.1, "gaussian", (1.2, 1.5), 0.4),
    (sp.sign(sp.Abs(z) - HALF), 0, "gaussian", (3.0, 4.0), 0.4),
]


def distance(case, alpha, dim, seeds, steps):
    expr, noise, prior, _, start = case
    declared = model(expr, label_noise=noise)
    runs = dmft.approximate_message_passing(
        declared, alpha, dim, seeds, prior=prior, start=start, steps=steps
    )
    first = {} if start is None else {"start": start}
    theory = state_evolution(declared, alpha, prior=prior, steps=steps, **first).q

    # The overlap of a finite dimension has a bias of order 1/d.
    return np.abs(runs.mean - theory[-1])[-1] / (runs.stderr[-1] + 1 / dim)


def test_one_case_at_small_dimension():
    assert distance(CASES[3], 1.0, 400, 8, 30) < 3


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[str(c[0]) + str(c[2])[:6] + str(c[1]) for c in CASES])
def test_message_passing_follows_state_evolution(case):
    for alpha in case[3]:
        assert distance(case, alpha, 2000, 8, 60) < 3


def test_drawn_labels_and_noise_follow_state_evolution():
    f = sp.Symbol("f", real=True)
    line = dmft.MultiIndex(z, [z])
    logit = dmft.Model(dmft.Committee(z, 1), line, label_channel=1 / (1 + sp.exp(-2 * f)))
    flipped = model(sp.sign(z), label_flip=0.1)
    for declared in (logit, flipped, model(sp.Max(z, 0), label_noise=0.2)):
        runs = dmft.approximate_message_passing(declared, 2.0, 300, 8, steps=15)
        theory = state_evolution(declared, 2.0, steps=15).q[-1]
        assert abs(runs.mean[-1] - theory) < 4 * runs.stderr[-1] + 1 / 300


@pytest.mark.slow
def test_rows_of_several_fields_specialise_from_the_default_start():
    """sign(z1) + sign(z2) at six samples per dimension: overlaps .931 and .013 (theory 5)."""
    fields = sp.symbols("z1 z2", real=True)
    committee = dmft.MultiIndex(sp.Add(*map(sp.sign, fields)), fields)
    declared = dmft.Model(dmft.Committee(z, 1), committee)
    runs = dmft.approximate_message_passing(declared, 6.0, 500, 3, steps=60)
    for q in runs.q[:, -1]:  # rows may be those of the other unit
        q = q if q[0, 0] > q[0, 1] else q[::-1]
        np.testing.assert_allclose(q, [[0.931, 0.013], [0.013, 0.931]], atol=0.05)
