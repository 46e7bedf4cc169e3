"""Descent on the sphere in its limits: small steps, and the first two; against weights.

Linear students have exact modes: `test_linear_modes.py`.
"""

from functools import cache

import numpy as np
import pytest
import scipy.special
import sympy as sp

import dmft
from dmft.equations.two_time import descent_process as eq
from dmft.errors import BadParameter

z = sp.Symbol("z", real=True)
ERF, LINE = sp.erf(z / sp.sqrt(2)), dmft.Committee(z, 1)
READOUT = np.array([2.0, -1.2])
PAIR = dmft.Model(
    dmft.Committee(ERF, 2, readout=(2, sp.Rational(-6, 5))), dmft.Committee(ERF, 1), label_noise=0.1
)
START = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.1]])
ONE = dmft.Model(dmft.Committee(ERF, 1, readout=(2,)), dmft.Committee(ERF, 1), label_noise=0.1)
START_OF_ONE = dmft.Overlaps([[1.0]], [[0.3]])
ALPHA = 2


def weights(d, seed, start=START):
    """Inputs (n, d), labels (n,) and rows with the overlaps of the start."""
    rng = np.random.default_rng([7, seed])
    rows, _ = np.linalg.qr(rng.standard_normal((d, 1 + start.p)))
    gram = np.block([[start.P, start.M.T], [start.M, start.Q]])
    rows = np.sqrt(d) * np.linalg.cholesky(gram) @ rows.T
    x = rng.standard_normal((ALPHA * d, d))
    label = scipy.special.erf(x @ rows[0] / np.sqrt(2 * d))
    return x, label + np.sqrt(0.1) * rng.standard_normal(label.size), rows[1:], rows[0]


def force(x, label, w):
    """Minus the gradient of the summed loss."""
    d = x.shape[1]
    h = x @ w.T / np.sqrt(d)
    readout = READOUT[: w.shape[0]] / w.shape[0]
    gap = scipy.special.erf(h / np.sqrt(2)) @ readout - label
    slope = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2) * readout
    return -(gap[:, None] * slope).T @ x / np.sqrt(d)


def on_sphere(w):
    return w * np.sqrt(w.shape[1]) / np.linalg.norm(w, axis=1, keepdims=True)


def flowed(x, label, w, t_max, steps):
    """Runge and Kutta along the sphere."""

    def rate(w):
        f = force(x, label, w)
        return f - np.sum(f * w, axis=1, keepdims=True) / w.shape[1] * w

    h = t_max / steps
    for _ in range(steps):
        k1 = rate(w)
        k2 = rate(w + h / 2 * k1)
        k3 = rate(w + h / 2 * k2)
        w = on_sphere(w + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(w + h * k3)))
    return w


def overlaps(w, teacher):
    d = w.shape[1]
    return np.concatenate([w @ teacher / d, [w[0] @ w[-1] / d]])


@pytest.mark.slow
def test_flow_against_weights():
    flow = dmft.derive(
        PAIR, dmft.GradientDescent(1, ALPHA, constraint="sphere"), scaling="gradient-flow"
    )
    run = dmft.solve(flow, START, 1.5, points=6, levels=3, samples=2**10, scrambles=8)
    assert run.status == "ok"
    found = []
    for seed in range(16):
        x, label, w, teacher = weights(300, seed)
        found.append(overlaps(flowed(x, label, w, 1.5, 8), teacher))
    mean, se = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    theory = np.array([*run.M[-1, :, 0], run.Q[-1, 0, 1]])
    error = np.array([*run.error.M[-1, :, 0], run.error.Q[-1, 0, 1]])
    assert np.all(np.abs(theory - mean) < 4 * np.hypot(se, error))
    free = dmft.derive(PAIR, dmft.GradientDescent(1, ALPHA), scaling="gradient-flow")
    other = dmft.solve(free, START, 1.5, points=6, levels=3, samples=2**10, scrambles=1)
    assert abs(other.M[-1, 0, 0] - theory[0]) > 5 * np.hypot(se, error)[0]


CASES = {
    "one": (ONE, START_OF_ONE, 1e-4),
    "two": (PAIR, START, 1e-5),
}


# Fast siblings: `test_first_steps_on_the_sphere` (exact, linear), and sampled histories of such
# units against weights in `tests/agreement/test_descent_against_simulation.py`.
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_steps_against_weights(name):
    model, start, rtol = CASES[name]
    equations = dmft.derive(model, dmft.GradientDescent(0.3, ALPHA, constraint="sphere"))
    run = dmft.short_times(equations).evaluate(start, rtol=rtol)
    found = []
    for seed in range(40):
        x, label, w, teacher = weights(500, seed, start)
        before = w
        for _ in range(2):
            w = on_sphere(w + 0.3 * force(x, label, w))
        found.append([*overlaps(w, teacher), w[0] @ before[0] / w.shape[1]])
    mean, se = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    theory = np.array([*run.M[-1, :, 0], run.Q[-1, 0, -1], run.Q2[2, 0, 0, 0]])
    assert np.all(np.abs(theory - mean) <= 4 * se + 1e-12)
    # The same by sampled histories, to their errors.
    sampled = dmft.solve(equations, start, 2)
    for key in ("M", "Q2", "corr", "train_loss"):
        gap = np.abs(run[key] - sampled[key])
        assert np.all(gap <= 4 * (sampled.error[key] + run.error[key]) + 1e-12), key


BOUND = dmft.derive(
    dmft.Model(LINE, LINE, 0.3), dmft.GradientDescent(1, ALPHA, ridge=0.1, constraint="sphere"),
    scaling="gradient-flow",
)  # fmt: skip
SIGNS = [
    (block, name)
    for block in (*eq.FREE, "M", "R_theta", "C_theta")
    for name in BOUND.equations.terms[block]
    # R at its beginning; the diagonal follows from t > s; without what stays there is no flow.
    if name not in ("kick", "equal", "decay")
]


@cache
def rates_of(flow):
    problem = flow.closed(dmft.Overlaps([[1.0]], [[0.2]]))
    known = {str(f): lambda t, s: 0.7 + 0.2 * t * s for f in problem.pairs}
    known |= {str(f): lambda t: 1.3 - 0.1 * t for f in problem.signals}
    return problem.evaluate(known, 0.9, 0.4, nodes=6)


@pytest.mark.cases(4)
@pytest.mark.parametrize(("block", "name"), SIGNS, ids=map("-".join, SIGNS))
def test_a_wrong_sign_of_a_step_changes_the_flow(block, name):
    """Its rates in numbers, by the symbols of the closed problem."""
    term = BOUND.equations.terms[block][name]
    right, other = rates_of(BOUND), rates_of(BOUND.replace(block, name, -term))
    assert max(abs(right[f] - other[f]) for f in right) > 1e-3


@pytest.mark.parametrize("block", ["M_free", "C_free", "G_free", "R_free"])
def test_steps_that_do_not_vanish_have_no_flow(block):
    term = BOUND.equations.terms[block]["decay"]
    for change in (
        lambda: BOUND.replace(block, "decay", -term),
        lambda: BOUND.replace(block, "decay", term / 2),
        lambda: BOUND.without("decay", block=block),
        lambda: BOUND.with_term("M_free", "pull", sp.Rational(1, 10)),
    ):
        with pytest.raises(BadParameter, match="there is no limit of small steps"):
            change()
    M, (t, j, r) = BOUND.symbols["M"], BOUND.indices.of("M_free")
    slower = BOUND.with_term("M_free", "pull", sp.Symbol("learning_rate") * M[t, j, r] / 10)
    assert slower.terms["M"]["pull"] == M[t, j, r] / 10


def test_every_block_of_a_flow_has_its_name_in_latex():
    """The multiplier of the lengths is stored by no run."""
    flow = dmft.derive(
        PAIR, dmft.GradientDescent(1, ALPHA, constraint="sphere"), scaling="gradient-flow"
    )
    assert "multiplier" in flow.terms
    assert all(flow.block_latex(block) for block in flow.terms)
