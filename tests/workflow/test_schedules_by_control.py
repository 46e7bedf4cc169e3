"""Schedules by control: theory/structured_inputs 5, and finite dimension."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import dmft
from dmft.codegen.linearised import compiled_adjoint
from dmft.errors import BadParameter
from dmft.workflow.optimal_control import Search, greedy_schedule, read
from dmft.workflow.solving.inputs import problem_of, run_inputs

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
LINE = dmft.Committee(z, 1)


def example_1() -> tuple[Any, dmft.Overlaps]:
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    equations = dmft.derive(dmft.Model(LINE, LINE, label_noise=0.25, inputs=law), dmft.SGD(1.0))
    zeros = np.zeros((2, 1, 1))
    return equations, dmft.Overlaps(zeros, zeros, np.array([0.4, 1.2])[:, None, None])


def example_2() -> tuple[Any, dmft.Overlaps]:
    unit = dmft.Committee(ERF, 2)
    start = dmft.Overlaps([[0.2, 0.0], [0.0, 0.25]], [[0.01, -0.01], [-0.005, 0.015]], np.eye(2))
    return dmft.derive(dmft.Model(unit, unit), dmft.SGD(1.0)), start


SQUARE = dmft.Committee(z**2, 2)
ADJOINTS = [
    (dmft.Model(SQUARE, SQUARE, label_noise=0.1), dmft.SGD(0.5, readout_rate=0.3)),
    (
        dmft.Model(SQUARE, SQUARE, inputs=dmft.Spectrum([2.0, 0.5], [0.3, 0.7])),
        dmft.SGD(0.5, momentum=dmft.Momentum(1.0, 0.3), weight_decay=0.1),
    ),
    (dmft.Model(dmft.Committee(ERF, 2), LINE, label_noise=0.1), dmft.SGD(0.5)),
]


@pytest.mark.cases(1)
@pytest.mark.parametrize("case", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_adjoint_is_the_transposed_jacobian(case: int) -> None:
    """Costate . (J move) by differences of the rates, and slopes of the risk along a move."""
    model, sgd = ADJOINTS[case]
    rng = np.random.default_rng(case)
    shape = () if model.spectrum is None else (2,)
    A = rng.standard_normal((*shape, 4, 6)) / 2
    G, k = A @ np.swapaxes(A, -1, -2), model.teacher.width
    start = dmft.Overlaps(G[..., :2, :2], G[..., :2, 2 : 2 + k], G[..., 2 : 2 + k, 2 : 2 + k])
    equations = dmft.derive(model, sgd)
    problem, inputs = problem_of(equations), run_inputs(equations, start, {})
    adjoint, gradient = compiled_adjoint(equations)
    y = problem.pack(inputs["state"])
    widths = np.array([inputs["widths"][n] for n in problem.widths])
    par = problem.pack_parameters(inputs["parameters"], inputs["constants"])
    both = np.concatenate([y, rng.standard_normal(y.size)])
    back, slopes = np.zeros(2 * y.size), np.zeros(2 * y.size)
    adjoint(0.0, both, widths, par, back)
    gradient(0.0, both, widths, par, slopes)
    move = problem.unpack(rng.standard_normal(y.size), inputs["widths"])
    for name in ("Q", "block_Q", "velocity", "block_velocity"):  # symmetric ones stay so
        if name in move:
            move[name] = move[name] + np.swapaxes(move[name], -1, -2)
    step = 1e-6 * problem.pack(move)

    def moved(function: Any, size: int, sign: float) -> np.ndarray:
        out = np.empty(size)
        function(0.0, y + sign * step, widths, par, out)
        return out

    along = (moved(problem.rhs, y.size, 1.0) - moved(problem.rhs, y.size, -1.0)) / 2
    assert np.isclose(both[y.size :] @ along, back[y.size :] @ step, rtol=1e-7, atol=1e-14)
    seen = len(problem.observables)
    rise = (moved(problem.observe, seen, 1.0) - moved(problem.observe, seen, -1.0))[0] / 2
    assert np.isclose(rise, slopes[y.size :] @ step, rtol=1e-7, atol=1e-14)


@pytest.mark.slow
def test_example_1_to_the_printed_digits() -> None:
    equations, start = example_1()
    greedy = dmft.greedy_schedule(equations, start, 10.0)
    assert f"{greedy.run.risk[-1]:.5f}" == "0.03453"
    assert greedy.at([0, 5, 10]).round(3).tolist() == [0.837, 0.245, 0.136]
    best = dmft.optimal_schedule(equations, start, 10.0)
    assert f"{best.run.risk[-1]:.5f}" == "0.02471"
    assert best.at([0, 5, 10]).round(3).tolist() == [0.958, 0.468, 0.126]
    assert np.ptp(best.hamiltonian) < 1e-8
    assert f"{best.hamiltonian[0]:.7f}" == "-0.0032663"
    assert best.hamiltonian.shape == best.t.shape == best.value.shape == best.run.t.shape
    assert str(best.status) == "ok"
    # Another way: sweeps; and another run: dX/dtau by the time of the equations.
    swept = dmft.optimal_schedule(equations, start, 10.0, method="sweep", pieces=60)
    assert np.isclose(swept.run.risk[-1], best.run.risk[-1], rtol=1e-5)


@pytest.mark.slow
def test_example_2_is_kept_by_its_hamiltonian_and_by_chains() -> None:
    equations, start = example_2()
    pieces = dmft.optimal_schedule(equations, start, 60.0, pieces=60, interpolation="constant")
    assert str(pieces.status) == "ok"
    assert np.ptp(pieces.hamiltonian) > 1e-7
    few = dmft.optimal_schedule(
        equations, start, 60.0, pieces=4, interpolation="constant", free_times=True
    )
    assert np.ptp(few.hamiltonian[1:-1]) < 1e-7
    assert few.run.risk[-1] < 6.8e-4
    best = dmft.optimal_schedule(equations, start, 60.0)
    assert best.run.risk[-1] < 6.2586e-4  # of 60 constant pieces
    assert np.ptp(best.hamiltonian) < 1e-7
    truth = dmft.simulate(
        equations.model, dmft.SGD(1.0), 20_000, 60.0, 8, start, "overlaps",
        learning_rate=best, save_at=2,
    )  # fmt: skip
    assert abs(truth.mean.risk[-1] - best.run.risk[-1]) < 4 * truth.stderr.risk[-1] + 1e-5


@pytest.mark.slow
def test_constant_pieces_of_free_times_have_one_hamiltonian() -> None:
    """dR/dt_i = H_(i-1) - H_i: the best times of pieces leave no jumps, equal pieces do.

    The risk is that of a run by `solve`, and no move of a time makes it less.
    """
    equations, start = example_1()
    options: dict[str, Any] = {"pieces": 4, "interpolation": "constant"}
    equal = dmft.optimal_schedule(equations, start, 10.0, **options)
    best = dmft.optimal_schedule(equations, start, 10.0, free_times=True, **options)
    assert best.run.risk[-1] < 0.999 * equal.run.risk[-1]
    assert np.ptp(best.hamiltonian) < 1e-7
    assert np.ptp(equal.hamiltonian) > 1e-5
    assert str(equal.status) == str(best.status) == "ok"
    for place in (1, 2, 3):
        for shift in (-0.1, 0.1):
            times = best.t.copy()
            times[place] += shift
            moved = dmft.Schedule(times, best.value, interpolation="constant")
            run = dmft.solve(equations, start, 10.0, learning_rate=moved, rtol=1e-10)
            assert run.risk[-1] > best.run.risk[-1]
    with pytest.raises(ValueError, match="constant pieces"):
        dmft.optimal_schedule(equations, start, 10.0, free_times=True)


@pytest.mark.slow
def test_a_rate_that_moves_faster_than_its_table_has_converged() -> None:
    """With momentum the best rate has no bound at the end, so H varies: no move helps, however."""
    equations, start = example_1()
    moved = dmft.derive(equations.model, dmft.SGD(1.0, momentum=dmft.Momentum(2.0)))
    best = dmft.optimal_schedule(moved, start, 10.0, pieces=30)
    assert np.ptp(best.hamiltonian[1:-1]) > 1e-3 * abs(best.hamiltonian[15])
    assert (best.status, "bound" in best.message) == ("ok", False)
    for place, factor in itertools.product((0, 15, 29, 30), (0.9, 1.1)):
        value = best.value.copy()
        value[place] *= factor
        run = dmft.solve(moved, start, 10.0, learning_rate=dmft.Schedule(best.t, value), rtol=1e-11)
        assert run.risk[-1] > best.run.risk[-1]
    few = dmft.optimal_schedule(moved, start, 10.0, pieces=30, max_iterations=3)
    assert few.status == "not_converged"


def test_constant_schedules_are_constant_rates() -> None:
    """In solve: tau = t p/gamma; in simulate: the same runs, step by step."""
    equations, start = example_1()
    same = dmft.Schedule([0.0, 4.0], [0.5, 0.5])
    table = dmft.solve(equations, start, 4.0, learning_rate=same, save_at=5)
    plain = dmft.solve(equations, start, 2.0, learning_rate=0.5, save_at=5)
    assert np.allclose(table.risk, plain.risk, rtol=1e-7)
    assert np.allclose(table.steps(100), 100 * table.t)
    sgd, model = dmft.SGD(0.5), equations.model
    one = dmft.simulate(model, sgd, 100, 4.0, 2, start, learning_rate=same, save_at=5)
    two = dmft.simulate(model, sgd, 100, 2.0, 2, start, save_at=5)
    assert np.array_equal(one.mean.M, two.mean.M)
    assert np.allclose(one.t, 2 * two.t)


def test_simulations_follow_a_schedule() -> None:
    equations, start = example_1()
    fall = dmft.Schedule([0.0, 2.0, 6.0], [1.0, 0.5, 0.1])
    run = dmft.solve(equations, start, 6.0, learning_rate=fall, save_at=3)
    truth = dmft.simulate(
        equations.model, dmft.SGD(1.0), 500, 6.0, 16, start, learning_rate=fall, save_at=3
    )
    off = np.abs(truth.mean.risk - run.risk)[1:]
    assert np.all(off < 4 * truth.stderr.risk[1:] + 2e-3)


def test_batches_in_place_of_rates() -> None:
    """Samples at gamma in batches of n_b are single samples at gamma/n_b."""
    equations, start = example_1()
    rates = dmft.greedy_schedule(equations, start, 5.0, bounds=(1e-3, 0.9))
    batches = dmft.greedy_schedule(equations, start, 5.0, control="batch_size", learning_rate=0.9)
    assert np.allclose(batches.value, 0.9 / rates.value, rtol=1e-6)
    assert batches.value.min() >= 1.0
    assert np.isclose(batches.run.risk[-1], rates.run.risk[-1], rtol=1e-5)
    # Four samples in a batch: tau = 4 samples/d are one step/d.
    four = dmft.Schedule([0.0, 4.0], [4.0, 4.0], "batch_size")
    scheduled = dmft.solve(equations, start, 4.0, batch_size=four, learning_rate=0.9)
    declared = dmft.derive(equations.model, dmft.SGD(0.9, batch_size=4))
    assert np.isclose(scheduled.risk[-1], dmft.solve(declared, start, 0.9).risk[-1], rtol=1e-6)


def test_batches_between_two_times() -> None:
    """One linear unit by SciPy at the n_b that the schedule says; the time counts samples."""
    line = dmft.Committee(sp.Symbol("z", real=True), 1)
    equations = dmft.derive(dmft.Model(line, line, label_noise=0.3), dmft.SGD(1.0, batch_size=2))
    batches = dmft.Schedule([0.0, 2.0, 4.0], [1.0, 5.0, 2.0], "batch_size")
    start = dmft.Overlaps([[0.5]], [[0.2]], [[1.0]])
    run = dmft.solve(equations, start, 4.0, batch_size=batches, rtol=1e-10, atol=1e-12)

    def rates(tau, y):
        rate = 1.0 / float(batches.at(tau))
        return rate * np.array([rate * (1.3 + y[0] - 2.0 * y[1]) - 2.0 * (y[0] - y[1]), 1.0 - y[1]])

    q, m = solve_ivp(rates, (0, 4), [0.5, 0.2], rtol=1e-10, atol=1e-12, max_step=0.05).y[:, -1]
    assert run.risk[-1] == pytest.approx((1.0 + q - 2.0 * m) / 2.0, rel=1e-6)
    assert run.samples(1000)[-1] == 4000.0
    with pytest.raises(BadParameter, match="number of samples"):
        run.steps(1000)


@pytest.mark.slow
def test_decay_under_control_ends_at_a_bound_or_helps() -> None:
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    model = dmft.Model(LINE, LINE, label_noise=1.0, inputs=law)
    equations = dmft.derive(model, dmft.SGD(0.8, weight_decay=1.0))
    zeros = np.zeros((2, 1, 1))
    start = dmft.Overlaps(zeros, zeros, np.array([0.1, 0.1])[:, None, None])
    found = dmft.optimal_schedule(
        equations, start, 10.0, control="weight_decay", bounds=(0.0, 2.0), pieces=10
    )
    plain = dmft.solve(equations, start, 8.0, weight_decay=0.0)
    assert found.run.risk[-1] < plain.risk[-1]
    assert found.value.min() >= 0.0
    assert found.value.max() <= 2.0


def test_schedules_are_kept_and_drawn(tmp_path: Path) -> None:
    equations, start = example_1()
    found = greedy_schedule(equations, start, 3.0, points=31)
    again = dmft.Schedule.load(found.save(tmp_path / "rates.csv"))
    assert np.array_equal(again.t, found.t)
    assert np.array_equal(again.value, found.value)
    assert (tmp_path / "rates.csv").read_text().startswith("tau,learning_rate,hamiltonian,risk\n")
    text = found.as_torch(1000)
    assert "LambdaLR(optimizer, part)" in text
    compile(text, "schedule", "exec")
    axes = dmft.plot(found, path=tmp_path / "rates.png")
    assert axes[0].get_xlabel() == r"$\tau$"
    steps = replace(found, run=None, hamiltonian=None, interpolation="constant")
    assert steps.at(found.t[1] * 0.999) == found.value[0]


WITHOUT_ADJOINT = {
    "ReLU": (sp.Max(0, z), {}, "learning_rate", (0.5, 3.0)),
    "decay": (sp.Max(0, z), {"weight_decay": 0.1}, "weight_decay", (0.0, 2.0)),
    "tanh": (sp.tanh(z), {}, "learning_rate", (0.5, 5.0)),
    "hinge": (ERF, {"loss": "hinge"}, "learning_rate", (0.2, 20.0)),
}


@pytest.mark.cases("ReLU")
@pytest.mark.parametrize("case", WITHOUT_ADJOINT)
def test_averages_whose_derivatives_are_not_closed_have_schedules(case: str) -> None:
    """Three constant pieces against SciPy's search, which sees the risks of runs only."""
    f, options, control, bounds = WITHOUT_ADJOINT[case]
    unit = dmft.Committee(f, 1)
    label = dmft.MultiIndex(sp.sign(z), z) if case == "hinge" else unit
    equations = dmft.derive(dmft.Model(unit, label, 0.1), dmft.SGD(1.0, **options))
    start = dmft.Overlaps([[0.5]], [[0.2]])
    found = dmft.optimal_schedule(
        equations, start, 6.0, control=control, pieces=3, interpolation="constant", bounds=bounds
    )

    def risk(values: np.ndarray) -> float:
        schedule = dmft.Schedule(
            np.linspace(0.0, 6.0, 4), [*values, values[-1]], control, interpolation="constant"
        )
        run = dmft.solve(equations, start, 6.0, save_at=2, rtol=1e-8, **{control: schedule})
        return float(run.risk[-1])

    best = minimize(
        risk, np.full(3, np.mean(bounds)), bounds=[bounds] * 3,
        # Averages with kinks move the risk by 1e-6 when nodes pass them.
        **{"method": "Powell"} if case == "hinge" else {"options": {"eps": 1e-4, "ftol": 1e-10}},
    )  # fmt: skip
    assert found.run is not None
    assert found.run.risk[-1] == pytest.approx(best.fun, rel=1e-5)
    np.testing.assert_allclose(found.value[:3], best.x, rtol=2e-2, atol=2e-2)


def test_what_has_no_schedule_says_so() -> None:
    equations, start = example_1()
    flow = dmft.derive(equations.model, dmft.GradientFlow())
    model, doubled = equations.model, dmft.Schedule([0.0, 1.0], [2.0, 2.0], "batch_size")
    # Runs with batch_size=2 have other risks than single samples at half the rate.
    depend = (
        dmft.Adam(1.0), dmft.SignSGD(1.0), dmft.AdaGradNorm(1.0, 1.0),
        dmft.SGD(1.0, gradient_noise=0.3), dmft.SGD(1.0, clip=1.0), dmft.SGD(1.0, normalised=True),
    )  # fmt: skip
    for algorithm in depend:
        with pytest.raises(BadParameter, match="steps that depend on gamma/n_b alone"):
            dmft.solve(dmft.derive(model, algorithm), start, 1.0, batch_size=doubled)
    twice = dmft.derive(dmft.Model(LINE, LINE), dmft.SGD(1.0, repeat=dmft.Repeat(2)))
    calls = [
        # From here the risk falls 3 % faster at 1.2 times the rate that A/(2B) would give.
        (
            lambda: dmft.greedy_schedule(twice, dmft.Overlaps([[0.5]], [[0.2]]), 2.0),
            "linear in the learning rate",
        ),
        (lambda: dmft.optimal_schedule(equations, start, 5.0, control="clip"), "not supported"),
        (lambda: dmft.optimal_schedule(equations, start, 5.0, control="width"), "one of"),
        (lambda: dmft.optimal_schedule(equations, start, 5.0, minimise="loss"), "population risk"),
        (lambda: dmft.optimal_schedule(equations, start, -1.0), "t_max"),
        (lambda: dmft.optimal_schedule(equations, start, 5.0, bounds=(2.0, 1.0)), "ascend"),
        (lambda: dmft.greedy_schedule(flow, start, 5.0), "GradientFlow"),
        (
            lambda: dmft.greedy_schedule(equations, start, 5.0, control="weight_decay"),
            "unknown parameter 'weight_decay'",
        ),
        (lambda: dmft.Schedule([0.0, 1.0], [1.0, -1.0]), "positive"),
        (lambda: dmft.Schedule([1.0, 0.0], [1.0, 1.0]), "increase"),
        (
            lambda: dmft.simulate(
                equations.model, dmft.SGD(1.0), 50, 1.0, 1, start,
                batch_size=dmft.Schedule([0.0, 1.0], [1.0, 2.0], "batch_size"),
            ),
            "learning rate",
        ),
        (
            lambda: dmft.solve(
                equations, start, 1.0, label_noise=dmft.Schedule([0.0, 1.0], [1.0, 1.0])
            ),
            "schedule of learning_rate",
        ),
    ]  # fmt: skip
    for call, words in calls:
        with pytest.raises(ValueError, match=words):
            call()


def test_a_run_under_a_schedule_is_not_kept_as_that_of_its_equations(monkeypatch):
    """A later process would solve the plain equations with the rates per tau."""
    from dmft.workflow import kept_problems

    stored, asked = [], set()
    monkeypatch.setattr(kept_problems, "_ASKED", asked)
    monkeypatch.setattr(kept_problems.records, "store", lambda name, *_: stored.append(name))
    equations, start = example_1()
    run = dmft.solve(
        equations, start, 1.0, learning_rate=dmft.Schedule([0.0, 1.0], [1.0, 0.5]), save_at=2
    )
    assert run.problem.tail
    kept_problems.keep_problem(run.problem)
    assert not asked
    assert not stored


def test_stored_run_of_an_optimal_schedule_is_exact():
    """A risk of 2e-8 under the schedule, against SciPy between its knots; it was 6 % off."""
    z = sp.Symbol("z", real=True)
    square = dmft.Committee(z**2, 1)
    equations = dmft.derive(dmft.Model(square, square), dmft.SGD(0.05))
    start = dmft.Overlaps([[0.3]], [[0.05]])
    found = dmft.optimal_schedule(equations, start, 60.0, pieces=8, max_iterations=4, tol=1e-6)

    def rates(tau, y):  # one unit, teacher of length one: Wick's theorem
        Q, M = y
        gamma = np.interp(tau, found.t, found.value)
        square = 3 * Q + 12 * M**2 - 2 * (3 * Q**2 + 12 * Q * M**2) + 15 * Q**3
        drift = 4 * (Q + 2 * M**2 - 3 * Q**2)
        return [gamma * (drift + 4 * gamma * square), gamma * 6 * M * (1 - Q)]

    y = np.array([0.3, 0.05])
    for left, right in itertools.pairwise(found.t):
        y = solve_ivp(rates, (left, right), y, "DOP853", rtol=1e-13, atol=1e-16).y[:, -1]
    Q, M = y
    risk = (3 * Q**2 - 2 * (Q + 2 * M**2) + 3) / 2
    assert risk < 1e-6
    assert found.run.risk[-1] == pytest.approx(risk, rel=1e-4)


@pytest.mark.parametrize("kind", ["linear", "constant", "free times"])
def test_gradients_of_the_searches_are_differences(kind: str, monkeypatch: Any) -> None:
    """The slope that the search is given, by numbers and by lengths of pieces."""
    equations, start = example_1()
    system = read(equations, start, 3.0, "risk", "learning_rate", {})
    search = Search(system, 0.05, 2.0, 1e-10, 1)
    rng, seen = np.random.default_rng(4), []

    def descended(value: Any, first: np.ndarray, reach: Any) -> np.ndarray:
        at = first + 0.3 * rng.standard_normal(first.size)
        risk, slope = value(at)
        for n in range(at.size):
            step = 1e-5 * np.eye(at.size)[n]
            gap = (value(at + step)[0] - value(at - step)[0]) / 2e-5
            assert gap == pytest.approx(slope[n], rel=1e-4, abs=1e-7)
        seen.append(risk)
        return first

    monkeypatch.setattr(search, "descended", descended)
    knots, numbers = np.array([0.0, 0.5, 1.7, 3.0]), np.array([0.5, 0.8, 0.3])
    if kind == "free times":
        moved, kept = search.minimised(knots, numbers, linear=False, free=True)
        np.testing.assert_allclose(moved, knots, atol=1e-12)
        np.testing.assert_allclose(kept, numbers, rtol=1e-12)
    elif kind == "constant":
        np.testing.assert_allclose(search.minimised(knots, numbers, linear=False)[1], numbers)
    else:
        search.minimised(knots, np.array([0.5, 0.8, 0.3, 0.4]), linear=True)
    assert len(seen) == (3 if kind == "free times" else 2)
    assert np.all(np.isfinite(seen))
