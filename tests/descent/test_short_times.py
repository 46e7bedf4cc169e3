"""First two steps as integrals: digits of theory B.1, the causal solver, finite dimension."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf

import dmft
from dmft.equations.two_time.short_integrals import ShortIntegrals
from dmft.equations.two_time.short_times import SecondStep, second_gradients
from dmft.errors import BadParameter

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "batch_reuse.json").read_text(encoding="utf-8")
)["two_step"]
z, u, v, w = sp.symbols("z u v w", real=True)
STUDENTS = {
    "relu": sp.Max(z, 0), "erf": sp.erf(z / sp.sqrt(2)), "softplus": sp.log(1 + sp.exp(z)),
}  # fmt: skip
TARGETS = {
    "tanh(He3)": sp.tanh(u**3 - 3 * u), "He3": u**3 - 3 * u, "He2": u**2 - 1,
    "erf": sp.erf(u / sp.sqrt(2)), "linear": u,
}  # fmt: skip
# What the vectors are converged to (theory/batch_reuse B.1).
DIGITS = {"relu": 1e-9, "erf": 1e-7}
START = dmft.Overlaps([[1.0]], [[0.0]])
# One rate of each pair in the fast suite, and of the targets one of each kind.
FAST = ("relu tanh(He3)", "relu He3", "erf tanh(He3)", "erf He3", "erf He2")
CASES = [
    pytest.param(
        name, case, id=f"{name} {case['target']} {case['eta']}",
        marks=()
        if case["eta"] == 0.3 and f"{name} {case['target']}" in FAST
        else pytest.mark.slow,
    )
    for name in DIGITS for case in REFERENCE[name]
]  # fmt: skip


def equations(student, target, descent, fields=(u,), width=1, **model):
    teacher = dmft.MultiIndex(target, list(fields))
    return dmft.derive(dmft.Model(dmft.Committee(student, width), teacher, **model), descent)


@pytest.mark.cases(2)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_overlaps_of_two_steps_to_the_digits(name, case):
    descent = dmft.GradientDescent(case["eta"], case["alpha"], ridge=case["lam"])
    short = dmft.short_times(equations(STUDENTS[name], TARGETS[case["target"]], descent))
    found = ShortIntegrals(short.equations, short.definitions, START, 1e-9, {})
    found.close(0, found.first)
    gradient = second_gradients(SecondStep(found), 0)[0]
    decay = 1 - case["eta"] * case["lam"]
    M1 = float(found.numbers["M_at", (1, 1, 1)])
    M2 = decay * M1 - case["eta"] * case["alpha"] * float(gradient)
    for mine, key in (
        (M1, "M1"), (M2, "M2"), (float(found.numbers["R_l", (0, 0, 1, 1)]), "Lam0"),
        (float(found.numbers["C_l", (0, 0, 1, 1)]), "C00"),
        (float(found.numbers["Q_at", (1, 1, 1, 1)]), "Q1"),
    ):  # fmt: skip
        assert abs(mine - case[key]) < DIGITS[name] * (1 + abs(case[key])), key
    assert gradient.error < 1e-9


# Fast siblings: the agreement with the sweep below, and the losses and kernels that the sweep has
# of these cases in `test_two_time_equations.py`.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "erf"])
def test_losses_and_kernels_of_two_steps(name):
    case = next(c for c in REFERENCE[name] if c["target"] == "He3")
    descent = dmft.GradientDescent(case["eta"], case["alpha"], ridge=case["lam"])
    system = equations(STUDENTS[name], TARGETS["He3"], descent)
    run = dmft.short_times(system).evaluate(START, rtol=1e-7)
    assert abs(run.train_loss[1] - case["train1"]) < 1e-7
    assert abs(run.train_loss[0] - case["train0"]) < 1e-7
    solved = dmft.solve(system, START, 2, samples=2**13, scrambles=8)
    for key in ("Q2", "corr", "resp"):
        assert np.all(np.abs(run[key] - solved[key]) < 5 * solved.error[key] + 1e-7), key


ALGORITHMS = {
    "bernoulli": {"batch": "bernoulli", "batch_fraction": 0.5, "momentum": 0.3, "ridge": 0.1},
    "reshuffle": {"batch": "reshuffle", "batch_fraction": 0.5},
    "fresh": {"batch": "fresh"},
    "readout": {"readout_rate": 0.2},
}


# Integrals over two more fields take six seconds; batches that are fresh have fewer terms.
LONG = ("bernoulli", "readout", "fresh")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in ALGORITHMS]
)
def test_batches_momentum_and_readouts_agree_with_the_sweep(name):
    descent = dmft.GradientDescent(0.3, 3, **ALGORITHMS[name])
    system = equations(STUDENTS["erf"], sp.erf(u), descent)
    start = dmft.Overlaps([[1.0]], [[0.2]], [[1.3]])
    run = dmft.short_times(system).evaluate(start, rtol=1e-6)
    solved = dmft.solve(system, start, 2, samples=2**12, scrambles=8)
    for key in ("M", "Q2", "corr", "resp", "train_loss", "readout"):
        gap, error = np.abs(run[key] - solved[key]), solved.error[key] + run.error[key]
        assert np.all(gap < 5 * error + 1e-9), key


@pytest.mark.slow
def test_label_noise_width_two_and_two_fields():
    joint = sp.tanh(u + v**3 - 3 * v)
    cases = [
        (equations(STUDENTS["relu"], TARGETS["He3"], dmft.GradientDescent(0.3, 3),
                   label_noise=0.3), dmft.Overlaps([[1.0]], [[0.2]])),
        (equations(STUDENTS["relu"], joint, dmft.GradientDescent(0.3, 3), (u, v)),
         dmft.Overlaps([[1.0]], [[0.0, 0.0]])),
        (equations(STUDENTS["erf"], sp.erf(u), dmft.GradientDescent(0.6, 3), width=2),
         dmft.Overlaps([[1.0, 0.2], [0.2, 0.9]], [[0.2], [-0.1]])),
    ]  # fmt: skip
    for system, start in cases:
        run = dmft.short_times(system).evaluate(start, rtol=1e-6)
        solved = dmft.solve(system, start, 2, samples=2**15, scrambles=8)
        for key in ("M", "Q2", "corr", "train_loss"):
            gap, error = np.abs(run[key] - solved[key]), solved.error[key] + run.error[key]
            assert np.all(gap < 5 * error + 1e-9), key


@pytest.mark.cases(1)
@pytest.mark.parametrize("readout", [None, [1.0, -0.7, 1.0]])
def test_averages_of_exchangeable_students(readout):
    """E[g_j g_m] and E[g_j h*] of three students against samples; exchangeable ones are equal."""
    activation, start = STUDENTS["erf"], dmft.Overlaps(np.eye(3), np.full((3, 1), 0.2))
    model = dmft.Model(dmft.Committee(activation, 3, readout), dmft.MultiIndex(sp.tanh(u), [u]))
    system = dmft.derive(model, dmft.GradientDescent(0.3, 3))
    own = ShortIntegrals(system, dmft.short_times(system).definitions, start, 1e-3, {})
    assert own.exchangeable == (readout is None)
    fields = np.random.default_rng(0).multivariate_normal(np.zeros(4), start.Omega, 400_000).T
    h, star = fields[:3], fields[3]
    a = np.array(readout or [1.0, 1.0, 1.0])[:, None]
    residual = (a * erf(h / np.sqrt(2))).mean(axis=0) - np.tanh(star)
    g = residual * a / 3 * np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
    found = np.array([[float(n) for n in row] for row in own.first["star"]])[:, 0]
    assert np.abs(found - (g * star).mean(axis=1)).max() < 2e-3
    gram = np.array([[float(n) for n in row] for row in own.first["corr"][0]])
    assert np.abs(gram - g @ g.T / g.shape[1]).max() < 2e-3
    assert np.ptp((g * star).mean(axis=1)) > 0.1 or readout is None


def test_one_step_in_closed_form():
    """M^1 = eta alpha / pi of an erf on itself (theory/batch_reuse B.1)."""
    erf = dmft.Committee(STUDENTS["erf"], 1)
    system = dmft.derive(dmft.Model(erf, erf), dmft.GradientDescent(0.3, 3))
    run = dmft.short_times(system).evaluate(START, steps=1)
    assert abs(run.M[1, 0, 0] - 0.9 / np.pi) < 1e-15
    assert np.all(run.error.Q == 0)


def test_printed_steps_hold_the_memory_of_the_label():
    descent = dmft.GradientDescent(0.3, 3, momentum=0.2)
    text = dmft.short_times(equations(STUDENTS["erf"], u, descent)).latex()
    assert r"- \eta g^{0}_{j} && \text{(memory)}" in text
    assert text.count(r"\begin{align*}") == text.count(r"\end{align*}")
    one_pass = dmft.GradientDescent(0.3, 3, batch="fresh")
    fresh = dmft.short_times(equations(STUDENTS["erf"], u, one_pass))
    assert "g^{0}_{j} && " not in fresh.latex()


def test_refusals():
    system = equations(STUDENTS["erf"], u, dmft.GradientDescent(0.3, 3))
    with pytest.raises(BadParameter, match="steps must be 1 or 2"):
        dmft.short_times(system).evaluate(START, steps=3)
    with pytest.raises(BadParameter, match="singular"):
        dmft.short_times(system).evaluate(dmft.Overlaps([[1.0]], [[1.0]]))
    erf = dmft.Committee(STUDENTS["erf"], 1)
    with pytest.raises(BadParameter, match="two-time"):
        dmft.short_times(dmft.derive(dmft.Model(erf, erf), dmft.SGD(0.1)))
