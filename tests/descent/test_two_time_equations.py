"""Descent on repeated data: exact solutions, closed integrals, recursions term by term, seeds."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.two_time import descent_process as eq
from dmft.errors import BadParameter
from dmft.progress import CANCELLED

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "batch_reuse.json").read_text(encoding="utf-8")
)
z, u, v = sp.symbols("z u v", real=True)
ACTIVATIONS = {"relu": sp.Max(z, 0), "erf": sp.erf(z / sp.sqrt(2)), "square": z**2}
LINE = dmft.Committee(z, 1)
TARGETS = {
    "tanh(He3)": sp.tanh(u**3 - 3 * u), "He3": u**3 - 3 * u, "He2": u**2 - 1,
    "erf": sp.erf(u / sp.sqrt(2)), "linear": u,
}  # fmt: skip


@pytest.mark.parametrize("case", REFERENCE["ridge"], ids=["plain", "momentum"])
def test_linear_students_equal_marchenko_pastur(case):
    """Exact solution for every eigenvalue (theory/batch_reuse B.5)."""
    descent = dmft.GradientDescent(
        case["eta"], case["alpha"], ridge=case["lam"], momentum=case["beta"]
    )
    model = dmft.Model(LINE, LINE, label_noise=case["Delta"])
    start = dmft.Overlaps([[case["q0"]]], [[case["m0"]]], [[case["rho"]]])
    run = dmft.solve(dmft.derive(model, descent), start, case["T"])
    n = case["T"]
    assert run.status == "ok"
    for mine, name in (
        (run.M[:, 0, 0], "M"), (run.Q[:, 0, 0], "Q"), (run.train_loss, "train"),
        (run.risk + case["Delta"] / 2, "pop"), (run.Q2[n - 1, :, 0, 0], "Q_last_row"),
    ):  # fmt: skip
        assert np.abs(mine[:n] - np.array(case[name])[:n]).max() < 1e-12, name
    assert np.all(run.error["M"] == 0)


# The other rates have the same integrals; each target has code of its own to compile.
FAST = ("tanh(He3)", "He2")


@pytest.mark.parametrize("rates", ["one", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("relu", marks=pytest.mark.slow), "erf"])
def test_two_steps_equal_their_closed_integrals(name, rates):
    """theory/batch_reuse B.1; errors are those that the run claims."""
    samples = 2 ** (13 if rates == "one" else 15)  # He3 has heavy tails
    for case in REFERENCE["two_step"][name]:
        if rates == "one" and (case["eta"] != 0.3 or case["target"] not in FAST):
            continue
        target = dmft.MultiIndex(TARGETS[case["target"]], [u])
        model = dmft.Model(dmft.Committee(ACTIVATIONS[name], 1), target)
        descent = dmft.GradientDescent(case["eta"], case["alpha"], ridge=case["lam"])
        start = dmft.Overlaps([[1.0]], [[0.0]])
        run = dmft.solve(dmft.derive(model, descent), start, 2, samples=samples, scrambles=8)
        for value, error, wanted in (
            (run.M[1, 0, 0], run.error["M"][1, 0, 0], case["M1"]),
            (run.M[2, 0, 0], run.error["M"][2, 0, 0], case["M2"]),
            (run.resp[0, 0, 0, 0], run.error["resp"][0, 0, 0, 0], case["Lam0"]),
            (run.corr[0, 0, 0, 0], run.error["corr"][0, 0, 0, 0], case["C00"]),
            (run.Q[1, 0, 0], run.error["Q"][1, 0, 0], case["Q1"]),
            (run.train_loss[1], run.error["train_loss"][1], case["train1"]),
        ):
            # Sobol errors of targets with heavy tails (He3) are skewed: eight scrambles say less.
            assert abs(value - wanted) < 5 * error + 2e-7, case["target"]
            assert error < 0.01 * (1 + abs(wanted))


def reference_model(given):
    """Model, descent and start of a case of the reference file."""
    m = given["model"]
    p, k = m["p"], m["k"]
    joint = dmft.MultiIndex(sp.tanh(u + v**3 - 3 * v), [u, v])
    teacher = joint if m["target"].startswith("tanh") else dmft.Committee(ACTIVATIONS["erf"], 1)
    descent = dmft.GradientDescent(
        given["eta"], given["alpha"], ridge=given["lam"], momentum=given.get("beta", 0)
    )
    start = dmft.Overlaps(np.eye(p), given.get("M0", np.zeros((p, k))))
    return dmft.Model(dmft.Committee(ACTIVATIONS[m["act"]], p), teacher), descent, start


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", list(REFERENCE["dmft_gd"]))
def test_reference_runs(name):
    """Solution and simulation of the reference file, each within its own errors."""
    case = REFERENCE["dmft_gd"][name]
    model, descent, start = reference_model(case["input"])
    run = dmft.solve(dmft.derive(model, descent), start, 7, samples=2**14)
    values = {"M": "M", "Q": "Q", "train": "train_loss", "Cl": "corr", "pop": "risk", "Rl": "resp"}
    for key in case["dmft"].keys() & values.keys():
        mine, error = run[values[key]], run.error[values[key]]
        gap = np.abs(mine - np.array(case["dmft"][key]).reshape(mine.shape))
        assert np.all(gap < 5 * error + 4 * case["dmft"][f"{key}_se"]), key
    for key in ("M", "Q", "train"):
        truth = np.array(case["sim"][key]).squeeze()
        stderr = np.array(case["sim"][f"{key}_se"]).squeeze()
        gap = (truth - run[values[key]][: len(truth)].squeeze())[stderr > 1e-12]
        score = gap / stderr[stderr > 1e-12]
        assert np.sqrt(np.mean(score**2)) < 1.5
        assert np.abs(score).max() < 4.5


def test_kernels_satisfy_the_printed_recursions():
    """The solver's matrices, put into the symbolic equations one component after the other."""
    erf = dmft.Committee(ACTIVATIONS["erf"], 2)
    descent = dmft.GradientDescent(0.5, 1.5, ridge=0.1, momentum=0.3)
    equations = dmft.derive(dmft.Model(erf, dmft.Committee(ACTIVATIONS["erf"], 1)), descent)
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.3], [-0.1]], [[1.3]])
    # The response that closes them; one measured afterwards satisfies them up to its error.
    run = dmft.solve(equations, start, 3, samples=2**10, scrambles=1, method="stein")
    C = run.Q2 - np.einsum("tjr,slr->tsjl", run.M, run.M) / 1.3
    steps, p = 3, 2
    R = np.zeros((steps + 1, steps + 1, p, p))
    by_name = {d.name: d for d in equations.process}
    values = {eq.eta: 0.5, eq.alpha: 1.5, eq.ridge: 0.1, eq.beta: 0.3, eq.x.p: p, eq.x.k: 1}
    arrays = {"R_theta": R, "C_theta": C, "R_l": run.resp, "C_l": run.corr}

    def right(name, **where):
        symbols = {"t": eq.t, "s": eq.s, "j": eq.x.j, "l": eq.x.l}
        expr = by_name[name].expr.subs(values).subs({symbols[n]: i for n, i in where.items()})
        expr = expr.doit()
        entries = {}
        for e in expr.atoms(sp.Indexed):
            a, b, *rest = (int(i) for i in e.indices)
            a = max(a, 0)  # w^{-1} = w^0
            entries[e] = arrays[str(e.base.label)][(a, b, *(i - 1 for i in rest))]
        return float(expr.xreplace(entries))

    for t in range(steps):
        for s in range(t + 1):
            for j in (1, 2):
                for m in (1, 2):
                    R[t + 1, s, j - 1, m - 1] = right("R_theta", t=t, s=s, j=j, l=m)
    for t in range(steps):
        for s in range(t + 2):
            for j, m in ((1, 1), (1, 2), (2, 1)):
                wanted = C[t + 1, s, j - 1, m - 1]
                assert right("C_theta", t=t, s=s, j=j, l=m) == pytest.approx(wanted, abs=1e-10)


def test_fresh_samples_follow_the_one_pass_map():
    case = REFERENCE["one_pass"]
    given = case["input"]
    target = dmft.MultiIndex(TARGETS["tanh(He3)"], [u])
    student = dmft.Committee(ACTIVATIONS["erf"], 2, readout=(2, sp.Rational(-6, 5)))
    model = dmft.Model(student, target, label_noise=given["model"]["Delta"])
    descent = dmft.GradientDescent(given["eta"], given["alpha"], ridge=given["lam"], batch="fresh")
    start = dmft.Overlaps(given["Q0"], given["M0"], given["P"])
    run = dmft.solve(dmft.derive(model, descent), start, len(case["map"]["M"]) - 1)
    assert np.abs(run.M - np.array(case["map"]["M"])).max() < 5 * case["map_se"] + 5e-4
    assert np.abs(run.Q - np.array(case["map"]["Q"])).max() < 5 * case["map_se"] + 5e-4
    n = run.train_loss.size
    assert np.abs(run.train_loss - case["map"]["train"][:n]).max() < 5 * case["map_se"] + 5e-4
    for key, mine in (("M", run.M), ("Q", run.Q), ("train", run.train_loss)):
        mean, stderr = (np.array(y)[1 : len(mine)] for y in case["sim"][key])
        assert np.all(np.abs(mean - mine[1:]) < 4.5 * stderr), key


def test_simulated_fresh_samples_have_no_correlation_between_steps():
    """Other samples in each step; of one step alpha (Q - 2 M + P), the mean squared error."""
    descent = dmft.GradientDescent(0.2, 2, batch="fresh")
    runs = dmft.simulate(
        dmft.Model(LINE, LINE), descent, 100, 3, 8, dmft.Overlaps([[1.0]], [[0.1]])
    )
    error = runs.runs["Q"][:, :3, 0, 0] - 2 * runs.runs["M"][:, :3, 0, 0] + 1
    corr = runs.runs["corr"][..., 0, 0]
    for t in range(3):
        for s in range(3):
            if t != s:
                assert np.all(corr[:, t, s] == 0.0)
        # The mean of 1600 squares of normal numbers has the relative error sqrt(2 / 1600).
        assert (corr[:, t, t] / error[:, t]).mean() == pytest.approx(2, abs=2 * 4 * 0.036)


CASES = {
    "full": {},
    "bernoulli": {"batch": "bernoulli", "batch_fraction": 0.5},
    "reshuffle": {"batch": "reshuffle", "batch_fraction": 0.5},
    "momentum": {"momentum": 0.4},
    "readout": {"readout_rate": 0.3},
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", list(CASES))
def test_theory_against_weights(name):
    """Finite dimension, small: errors of the seeds, and what the dimension leaves (1/d)."""
    student = dmft.Committee(ACTIVATIONS["erf"], 2, readout=(2, sp.Rational(-6, 5)))
    model = dmft.Model(student, dmft.Committee(ACTIVATIONS["erf"], 1), label_noise=0.1)
    descent = dmft.GradientDescent(0.4, 2, ridge=0.05, **CASES[name])
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 0.9]], [[0.3], [-0.1]], [[1.4]])
    theory = dmft.solve(dmft.derive(model, descent), start, 4, samples=2**12)
    truth = dmft.simulate(model, descent, 400, 4, 12, start)
    for key in ("M", "Q", "train_loss", "corr", "Q2", "readout"):
        gap = np.abs(theory[key] - truth.mean[key])
        allowed = 4.5 * np.hypot(truth.stderr[key], theory.error[key]) + 4.0 / 400
        assert np.all(gap < allowed), (key, gap.max())


def test_an_interrupted_simulation_keeps_finished_seeds():
    model, descent = dmft.Model(LINE, LINE), dmft.GradientDescent(0.001, 2)
    start = dmft.Overlaps([[1.0]], [[0.0]])

    def press(fraction, message):
        if not message.startswith("0/"):
            raise KeyboardInterrupt

    # A seed takes about as long as progress waits.
    runs = dmft.simulate(model, descent, 600, 100, range(12), start, threads=1, progress=press)
    assert runs.status == "interrupted"
    assert "of 12 seeds interrupted" in runs.message
    assert np.isfinite(runs.runs["Q"][0]).all()
    assert np.isnan(runs.runs["M"][-1]).all()
    assert np.isfinite(runs.mean.Q).all()
    with pytest.raises(BadParameter, match="threads"):
        dmft.simulate(model, descent, 100, 2, 2, start, threads=0)


def test_threads_checkpoints_and_files(tmp_path):
    equations = dmft.derive(
        dmft.Model(dmft.Committee(ACTIVATIONS["relu"], 1), LINE), dmft.GradientDescent(0.3, 3)
    )
    start = dmft.Overlaps([[1.0]], [[0.0]])
    options = {"samples": 2**11, "scrambles": 2}
    run = dmft.solve(equations, start, 4, threads=1, **options)
    other = dmft.solve(equations, start, 4, threads=3, **options)
    assert np.array_equal(run.Q2, other.Q2)
    folder = tmp_path / "run"
    cut = dmft.solve(equations, start, 4, threads=1, checkpoint=folder, timeout=0.0, **options)
    assert cut.status == "timeout"
    assert cut.t.size < 5
    whole = dmft.solve(equations, start, 4, threads=1, checkpoint=folder, **options)
    assert np.array_equal(whole.Q2, run.Q2)
    assert whole.status == "ok"
    with pytest.raises(BadParameter, match="another run: its steps is 4, here 5; choose"):
        dmft.solve(equations, start, 5, checkpoint=folder, **options)
    pytest.importorskip("h5netcdf")
    assert dmft.load(run.save(tmp_path / "run.nc")) == run
    assert run.to_xarray().M.shape == run.M.shape


@pytest.mark.cases(1)
@pytest.mark.parametrize("threads", [1, 2])
def test_descents_end_early_where_they_are_asked_to(threads):
    relu = dmft.Model(dmft.Committee(ACTIVATIONS["relu"], 1), LINE)
    equations = dmft.derive(relu, dmft.GradientDescent(0.01, 3))
    start = dmft.Overlaps([[1.0]], [[0.0]])
    options = {"samples": 2**13, "scrambles": 4, "threads": threads}

    def press(fraction, message):
        if fraction > 0:
            raise KeyboardInterrupt

    run = dmft.solve(equations, start, 200, progress=press, **options)
    assert run.status == "interrupted"
    assert run.t.size < 200
    assert "of 200 steps" in run.message
    flag = threading.Event()
    flag.set()
    token = CANCELLED.set(flag)  # as a sweep over parameters that was interrupted does
    try:
        cancelled = dmft.solve(equations, start, 200, **options)
    finally:
        CANCELLED.reset(token)
    assert (cancelled.status, cancelled.t.size) == ("interrupted", 1)


def test_refusals():
    model = dmft.Model(dmft.Committee(ACTIVATIONS["relu"], 1), LINE)
    start = dmft.Overlaps([[1.0]], [[0.0]])
    equations = dmft.derive(model, dmft.GradientDescent(0.3, 3))
    with pytest.raises(BadParameter, match=r"samples=\d+ would fit"):
        dmft.solve(equations, start, 40, samples=2**18, memory=2**24)
    with pytest.raises(BadParameter, match="power of two"):
        dmft.solve(equations, start, 2, samples=1000)
    with pytest.raises(BadParameter, match="cubature"):
        dmft.solve(equations, start, 2, nodes="cubature")
    with pytest.raises(BadParameter, match="method"):
        dmft.solve(equations, start, 2, method="euler")
    with pytest.raises(BadParameter, match=r"kink.*stein"):
        dmft.solve(equations, start, 2, method="pathwise")
    for option in ({"rtol": 1e-3}, {"save_at": 5}, {"max_steps": 7}, {"quadrature_tol": 1e-3}):
        with pytest.raises(BadParameter, match=f"have no option {next(iter(option))}="):
            dmft.solve(equations, start, 2, **option)
    for steps in (2.5, np.inf, 0):
        with pytest.raises(BadParameter, match="t_max"):
            dmft.solve(equations, start, steps)
        with pytest.raises(BadParameter, match="t_max"):
            dmft.simulate(model, dmft.GradientDescent(0.3, 3), 50, steps, 2, start)
    with pytest.raises(BadParameter, match="repeated data"):
        dmft.derive(model, dmft.GradientDescent(0.3, 3), dim=100)
    jump = dmft.Model(dmft.Committee(sp.sign(z), 1), LINE)
    with pytest.raises(BadParameter, match="jumps"):
        dmft.derive(jump, dmft.GradientDescent(0.3, 3))
    with pytest.raises(BadParameter, match="batch_fraction"):
        dmft.GradientDescent(0.3, 3, batch="reshuffle", batch_fraction=0.4)
    run = dmft.solve(equations, start, 30, learning_rate=1e200, samples=2**8, scrambles=2)
    assert run.status in ("nonfinite", "diverged", "left_domain")
    assert "step" in run.message


def test_a_diverging_descent_says_so():
    square = dmft.Committee(z**2, 1)
    equations = dmft.derive(dmft.Model(square, square), dmft.GradientDescent(0.05, 2))
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 8)
    assert run.status == "diverged"
    assert "step" in run.message
    assert np.all(np.isfinite(run.Q))
