"""Gradient flow on repeated data: exact solutions, values of the theory, seeds; online limits."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.arrays import extrapolation
from dmft.errors import BadParameter
from dmft.solvers.solution import Values
from dmft.workflow.solving import descent_flow

z = sp.Symbol("z", real=True)
LINE = dmft.Committee(z, 1)
ERF = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)


def flow_of(student, teacher, alpha, ridge=0, **model):
    descent = dmft.GradientDescent(1, samples_per_dim=alpha, ridge=ridge)
    return dmft.derive(dmft.Model(student, teacher, **model), descent, scaling="gradient-flow")


def marchenko_pastur(function, alpha):
    """Average over the spectrum of X^T X / d for alpha > 1, by substitution of a cosine."""
    low, high = (1 - np.sqrt(alpha)) ** 2, (1 + np.sqrt(alpha)) ** 2
    angle = (np.arange(4000) + 0.5) * np.pi / 4000
    mu = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    weight = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * mu) * np.pi / 4000
    return np.sum(weight * function(mu))


def test_linear_students_follow_the_exact_flow():
    """theory/batch_reuse B.5 with a = exp(-(mu + ridge) t); the claimed errors hold."""
    alpha, ridge, m0, noise = 2.0, 0.1, 0.2, 0.3
    flow = flow_of(LINE, LINE, alpha, ridge, label_noise=noise)
    run = dmft.solve(flow, dmft.Overlaps([[1.0]], [[m0]]), 2.0, points=16, levels=4)
    assert run.status == "ok"
    for n, t in enumerate(run.t):

        def decay(mu, t=t):
            return np.exp(-(mu + ridge) * t)

        def learned(mu, t=t):
            return (1 - np.exp(-(mu + ridge) * t)) / (mu + ridge)

        def length(mu):
            a, b = decay(mu), learned(mu)
            return a**2 + 2 * a * b * mu * m0 + b**2 * (mu**2 + mu * noise)

        M = marchenko_pastur(lambda mu: decay(mu) * m0 + learned(mu) * mu, alpha)
        Q = marchenko_pastur(length, alpha)
        for mine, exact, error in (
            (run.M[n, 0, 0], M, run.error["M"][n, 0, 0]),
            (run.Q[n, 0, 0], Q, run.error["Q"][n, 0, 0]),
            (run.risk[n], (Q - 2 * M + 1) / 2, run.error["risk"][n]),
        ):
            assert abs(mine - exact) <= error + 1e-9
            assert error < 5e-3
    # theory/batch_reuse B.5, by other code.
    assert abs(run.M[4, 0, 0] - 0.6228882000578) < 1e-5
    assert abs(run.train_loss[16] - 0.08882231676519) < 1e-5
    assert abs(run.Q[8, 0, 0] - 0.8040061658107) < 1e-5


def test_more_levels_gain_an_order_each():
    flow = flow_of(LINE, LINE, 2.0, 0.1)
    start = dmft.Overlaps([[1.0]], [[0.2]])
    exact = marchenko_pastur(
        lambda mu: np.exp(-(mu + 0.1)) * 0.2 + (1 - np.exp(-(mu + 0.1))) / (mu + 0.1) * mu, 2.0
    )
    errors = [
        abs(dmft.solve(flow, start, 1.0, points=4, levels=k).M[-1, 0, 0] - exact) for k in (2, 3, 4)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_erf_on_erf_has_the_values_of_the_theory():
    """theory/batch_reuse B.3: Richardson of order two, alpha = 2, ridge .1, M0 = .2, t = 3."""
    run = dmft.solve(
        flow_of(ERF, ERF, 2.0, 0.1), dmft.Overlaps([[1.0]], [[0.2]]), 3.0, points=10, levels=3,
        samples=2**10, scrambles=4,
    )  # fmt: skip
    assert run.status == "ok"
    for mine, wanted, error in (
        (run.M[-1, 0, 0], 0.65349, run.error["M"][-1, 0, 0]),
        (run.Q[-1, 0, 0], 0.52104, run.error["Q"][-1, 0, 0]),
        (run.train_loss[-1], 0.009697, run.error["train_loss"][-1]),
    ):
        assert abs(mine - wanted) < 2e-3
        assert abs(mine - wanted) < error + 2e-4


def test_flow_against_weights_with_vanishing_steps():
    """Two step sizes of the same seeds in R^d, extrapolated as well."""
    model = dmft.Model(ERF, ERF)
    start = dmft.Overlaps([[1.0]], [[0.2]])
    runs = [
        dmft.simulate(model, dmft.GradientDescent(1.0 / n, 2.0), 300, n, 8, start) for n in (10, 20)
    ]
    values = 2 * runs[1].runs["M"][:, -1, 0, 0] - runs[0].runs["M"][:, -1, 0, 0]
    flow = dmft.solve(flow_of(ERF, ERF, 2.0), start, 1.0, points=5, samples=2**10, scrambles=4)
    error = np.hypot(values.std(ddof=1) / np.sqrt(values.size), flow.error["M"][-1, 0, 0])
    assert abs(values.mean() - flow.M[-1, 0, 0]) < 4 * error + 3 / 300


def test_kernels_are_those_of_the_ridge_problem_in_two_times():
    """g is the residual: C_l = alpha D, and R_l = alpha (delta + K), a drag and a density."""
    alpha, ridge, m0, noise = 2.0, 0.1, 0.2, 0.3
    flow = flow_of(LINE, LINE, alpha, ridge, label_noise=noise)
    run = dmft.solve(flow, dmft.Overlaps([[1.0]], [[m0]]), 1.0, levels=4)
    problem = dmft.literature.ridge_flow(alpha, ridge, (1.0, m0, 1.0), noise)
    closed = dmft.solve(problem, None, 1.0, tol=1e-6, save_at=run.t)
    assert np.allclose(run.drag[:, 0, 0], alpha, atol=1e-9)
    past = np.tri(run.t.size, k=-1, dtype=bool)
    for mine, exact, where, largest in (
        ("corr", closed.D, past | past.T, 1e-3), ("resp", closed.K, past, 3e-3),
    ):  # fmt: skip
        gap = np.abs(run[mine][:, :, 0, 0] - alpha * exact)[where]
        assert np.all(gap <= run.error[mine][:, :, 0, 0][where] + 1e-5), mine
        assert gap.max() < largest
    assert np.all(run.resp[:, :, 0, 0][~past] == 0)


def test_printed_limit():
    flow = flow_of(dmft.Committee(sp.Max(z, 0), 2), ERF, 3, 0.1)
    assert flow.is_flow
    text = flow.latex()
    assert r"\partial_t M^{t}_{j} &= - \lambda M^{t}_{j}" in text
    assert r"R^{\theta}_{j l}(s^{+}, s) &= - \delta_{j l}" in text
    assert r"\int\limits_{s}^{t}" in text
    assert r"R^{\ell}_{j l}(t) &= \alpha \left\langle H^{t}_{j l}" in text
    kick = flow.equations.terms["R_theta"]["kick"]
    wrong = flow.replace("R_theta", "kick", -kick).replace("C_l", "gradients", 0)
    assert r"R^{\theta}_{j l}(s^{+}, s) &= \delta_{j l}" in wrong.latex()
    assert r"C^{\ell}_{j l}(t, s) &= \alpha" not in wrong.latex()
    assert r"\sigma''(z) = \delta\left(z\right)" in text
    assert r"\eta" not in text
    assert text.count(r"\begin{align*}") == text.count(r"\end{align*}") == 6


def test_weights_of_the_extrapolation():
    for levels in (2, 3, 4):
        steps = 0.5 ** np.arange(levels)
        weights = extrapolation(levels)
        for power in range(levels):
            assert weights @ steps**power == pytest.approx(float(power == 0), abs=1e-12)


def test_the_time_limit_is_that_of_all_descents(monkeypatch):
    left, solve_one = [], descent_flow.run_descent

    def timed(*arguments, **options):
        left.append(arguments[3].timeout)
        return solve_one(*arguments, **options)

    monkeypatch.setattr(descent_flow, "run_descent", timed)
    start = dmft.Overlaps([[1.0]], [[0.0]])
    run = dmft.solve(flow_of(LINE, LINE, 2.0), start, 0.5, points=3, levels=3, timeout=100.0)
    assert 100.0 >= left[0] > left[1] > left[2] > 100.0 - run.statistics["seconds"]
    late = dmft.solve(flow_of(LINE, LINE, 2.0), start, 0.5, points=3, timeout=1e-9)
    assert late.status == "timeout"


def test_errors_of_the_descents_are_amplified_by_the_extrapolation(monkeypatch):
    """Independent errors s of the descents give s sqrt(sum w^2), beside the error of the step."""
    solve_one = descent_flow.run_descent

    def claimed(size):
        def with_error(*arguments):
            run = solve_one(*arguments)
            return replace(run, error=Values({n: 0 * e + size for n, e in run.error.items()}))

        monkeypatch.setattr(descent_flow, "run_descent", with_error)
        start = dmft.Overlaps([[1.0]], [[0.3]])
        run = dmft.solve(flow_of(LINE, LINE, 2.0), start, 0.5, points=3, levels=3)
        return run.error["M"]

    # Weights 1/3, -2 and 8/3 of the steps h, h/2 and h/4.
    size = np.sqrt(1 / 9 + 4 + 64 / 9)
    assert claimed(0.02) - claimed(0.0) == pytest.approx(np.full((4, 1, 1), 0.02 * size), rel=1e-9)


def test_files_and_refusals(tmp_path):
    flow = flow_of(LINE, LINE, 2.0)
    start = dmft.Overlaps([[1.0]], [[0.0]])
    run = dmft.solve(flow, start, 0.5, points=3, levels=2)
    with pytest.raises(BadParameter, match="no steps"):
        run.steps(10)
    assert run.samples(10).tolist() == [0.0, 20.0, 20.0, 20.0]
    far = dmft.solve(flow, start, 40.0, points=2, levels=2)
    assert far.status == "diverged"
    assert "use more points" in far.message
    with pytest.raises(BadParameter, match="learning_rate"):
        dmft.solve(flow, start, 1.0, learning_rate=0.1)
    with pytest.raises(BadParameter, match="have no option atol="):
        dmft.solve(flow, start, 1.0, atol=1e-3)
    with pytest.raises(BadParameter, match="levels"):
        dmft.solve(flow, start, 1.0, levels=1)
    with pytest.raises(BadParameter, match="t_max"):
        dmft.solve(flow, start, -1.0)
    for option, words in (
        ({"momentum": 0.5}, "divides time"), ({"batch": "fresh"}, "average out"),
        ({"readout_rate": 0.1}, "readouts"),
    ):  # fmt: skip
        descent = dmft.GradientDescent(1, 2, **option)
        with pytest.raises(BadParameter, match=words):
            dmft.derive(dmft.Model(LINE, LINE), descent, scaling="gradient-flow")
    pytest.importorskip("h5netcdf")
    assert dmft.load(run.save(tmp_path / "flow.nc")) == run


def test_small_fresh_batches_are_one_pass_sgd():
    """theory/batch_reuse B.4: alpha_b -> 0 at fixed rate is the ode, label noise included."""
    model = dmft.Model(ERF, ERF, label_noise=0.1)
    start = dmft.Overlaps([[1.0]], [[0.2]])
    rate, t_max = 1.5, 1.5
    ode = dmft.solve(dmft.derive(model, dmft.SGD(rate)), start, t_max)
    found = []
    for steps in (8, 16):
        descent = dmft.GradientDescent(rate, samples_per_dim=t_max / rate / steps, batch="fresh")
        run = dmft.solve(dmft.derive(model, descent), start, steps, samples=2**11, scrambles=4)
        found.append([run.M[-1, 0, 0], run.Q[-1, 0, 0], run.risk[-1]])
    wanted = np.array([ode.M[-1, 0, 0], ode.Q[-1, 0, 0], ode.risk[-1]])
    coarse, fine = np.array(found)
    assert np.all(np.abs(2 * fine - coarse - wanted) < 2e-3)
    assert np.all(np.abs(fine - wanted) < 0.6 * np.abs(coarse - wanted) + 1e-4)


def test_first_epoch_of_shuffled_batches_is_one_pass():
    """Until a sample comes back, alpha in N parts is fresh batches of alpha / N (B.4)."""
    parts, start = 4, dmft.Overlaps([[1.0]], [[0.2]])
    model = dmft.Model(ERF, ERF, label_noise=0.1)
    shuffled = dmft.GradientDescent(0.3, 4.0, batch="reshuffle", batch_fraction=1 / parts)
    # Gradients of a part are divided by its size.
    fresh = dmft.GradientDescent(0.3 * parts, 4.0 / parts, batch="fresh")
    runs = [dmft.solve(dmft.derive(model, d), start, 5, samples=2**12) for d in (shuffled, fresh)]
    for key in ("M", "Q"):
        gap = np.abs(runs[0][key] - runs[1][key])
        error = np.hypot(runs[0].error[key], runs[1].error[key])
        assert np.all(gap[: parts + 1] < 5 * error[: parts + 1] + 1e-9)
    # The second epoch sees the same labels again.
    assert abs(runs[0].M[5, 0, 0] - runs[1].M[5, 0, 0]) > 5 * runs[0].error["M"][5, 0, 0]
