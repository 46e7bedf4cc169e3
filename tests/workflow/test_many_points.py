"""Chunks of points that run as one batch give, bit for bit, what each point gives alone."""

from __future__ import annotations

import threading
import time
import warnings

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.analysis.escape import EscapeWarning
from dmft.analysis.phase_diagram import read_result
from dmft.analysis.sweeps.run_sweep import run_sweep
from dmft.analysis.sweeps.sweep import as_points
from dmft.workflow.diagrams import many as many_module
from dmft.workflow.diagrams.measures import EquationMeasure

pytestmark = pytest.mark.compiled

Z = sp.Symbol("z", real=True)
SQUARE = dmft.Committee(Z**2, width=1)
NOISY = dmft.Model(SQUARE, SQUARE, 0.1)
SPHERE = dmft.derive(NOISY, dmft.SGD(0.05, constraint="sphere"))
FREE = dmft.derive(NOISY, dmft.SGD(0.05))
B = sp.Symbol("b", positive=True)
SMALL = dmft.Overlaps([[1.0]], [[0.1]])
RATES = {"learning_rate": np.linspace(0.01, 0.5, 5), "label_noise": [0.0, 30.0]}
HOW = {"fraction": 0.5, "reference": "start", "overlap": None}


def measure(name, equations, start, t_max, how=HOW, **options):
    return EquationMeasure(name, equations, start, t_max, how, options)


def reading(result):
    point = read_result(result)
    return repr(point.value), point.status, repr(point.horizon), point.message


def assert_the_same(of, points, monkeypatch, batched=True):
    """Results of many points against those of one by one; their statuses."""
    calls = []
    solve_batch = many_module.solve_batch

    def counted(asked):
        calls.append(len(asked))
        return solve_batch(asked)

    monkeypatch.setattr(many_module, "solve_batch", counted)
    monkeypatch.setattr("dmft.analysis.escape.solve_batch", counted)
    where = as_points(points)
    rows = [where.at(n) for n in range(len(where))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EscapeWarning)
        together = [reading(result) for result in of.many(rows)]
        # Escapes during a relaxation are followed in a second batch.
        assert calls[:1] == ([len(rows)] if batched else [])
        assert together == [reading(of(**row)) for row in rows]
    return {str(status) for _, status, _, _ in together}


@pytest.mark.slow
def test_sweeps_with_batches_are_those_without(tmp_path):
    of = measure("final_risk", FREE, SMALL, 4.0)
    points = RATES
    alone = run_sweep(points, lambda **point: of(**point), workers=1)
    for workers in (1, 2):
        store = tmp_path / f"store{workers}"
        together = run_sweep(points, of, workers=workers, store=store, quantities=("value",))
        again = run_sweep(points, of, store=store)
        assert again.computed == 0
        for found in (together, again):
            assert np.array_equal(found.values["value"], alone.values["value"], equal_nan=True)
            assert np.array_equal(found.status, alone.status)
            assert np.array_equal(found.horizon, alone.horizon, equal_nan=True)
            assert found.messages == alone.messages
    assert set(alone.count()) == {"ok", "diverged"}


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", many_module.OF_A_RUN)
def test_measures_of_a_run(name, monkeypatch):
    found = assert_the_same(measure(name, FREE, SMALL, 4.0), RATES, monkeypatch)
    assert "ok" in found
    if name != "converged":
        assert "diverged" in found


@pytest.mark.cases(2)
@pytest.mark.parametrize("options", [{"max_steps": 30}, {"method": "rk8"}, {"rtol": 1e-5}])
def test_options_of_the_solver(options, monkeypatch):
    found = assert_the_same(
        measure("final_risk", SPHERE, SMALL, 5.0, **options), RATES, monkeypatch
    )
    assert ("max_steps" in found) == ("max_steps" in options)


@pytest.mark.parametrize(
    ("how", "start"),
    [
        ({"fraction": 0.5}, SMALL),
        ({"fraction": 0.01}, dmft.Overlaps([[0.5]], [[0.3]])),
        ({"overlap": 0.5}, SMALL),
        ({"overlap": 0.1}, SMALL),
        ({"reference": "plateau"}, SMALL),
    ],
)
@pytest.mark.parametrize("equations", [SPHERE, FREE])
def test_escape_times(how, start, equations, monkeypatch):
    if equations is SPHERE and start.Q[0, 0] != 1.0:
        start = dmft.Overlaps([[1.0]], [[0.3]])
    of = measure("escape_time", equations, start, 3.0, {**HOW, **how})
    at_once = how.get("overlap") == 0.1  # nothing is left to run
    found = assert_the_same(of, RATES, monkeypatch, batched=not at_once)
    assert "ok" in found
    assert at_once or {"not_converged", "diverged"} & found


def test_maps(monkeypatch):
    steps = dmft.derive(NOISY, dmft.SGD(0.05, batch_size=100), dim=100)
    rates = {"learning_rate": [1.0, 10.0, 30.0, 60.0], "label_noise": [0.0, 5.0]}
    found = assert_the_same(measure("final_risk", steps, SMALL, 200), rates, monkeypatch)
    assert {"ok", "diverged"} <= found


def test_parameters_that_other_parameters_depend_on(monkeypatch):
    """b is the learning rate and the readout of the teacher."""
    teacher = dmft.Committee(Z**2, width=1, readout=[B])
    equations = dmft.derive(dmft.Model(SQUARE, teacher, 0.1), dmft.SGD(B / 10))
    of = measure("final_risk", equations, SMALL, 2.0)
    found = assert_the_same(of, {"b": [0.3, 0.9, 8.0], "label_noise": [0.0, 9.0]}, monkeypatch)
    assert "ok" in found
    of = measure("final_risk", equations, SMALL, 2.0, b=0.4)
    assert_the_same(of, {"label_noise": [0.0, 9.0, 90.0]}, monkeypatch)


def test_sequence_models(monkeypatch):
    fields = sp.symbols("z1:3", real=True)
    tokens = dmft.Model(
        dmft.SequenceTarget(fields[0] ** 2, fields),
        dmft.SequenceTarget(fields[0] ** 2 + fields[1] ** 2, fields), encoding=1,
    )  # fmt: skip
    equations, start = dmft.derive(tokens, dmft.SGD(0.01)), dmft.Alignment(e=0.1, m=-0.2)
    rates = {"learning_rate": [0.01, 0.02, 0.5]}
    for name, t_max in (("final_risk", 1.0), ("overlap", 1.0), ("escape_time", 30.0)):
        of = measure(name, equations, start, t_max)
        assert "ok" in assert_the_same(of, rates, monkeypatch)


def test_what_no_batch_can_do_is_done_one_by_one(monkeypatch):
    points = {"label_noise": [0.0, 0.5, 1.0]}
    of = measure("final_risk", SPHERE, SMALL, 2.0, method="Radau")
    assert_the_same(of, points, monkeypatch, batched=False)
    for options in ({"timeout": 5.0}, {"learning_rate": sp.Symbol("risk") / 9}):
        of = measure("final_risk", SPHERE, SMALL, 2.0, **options)
        assert many_module._plan(of, {"label_noise": 0.5}) is None
    of = measure("growth_rate", SPHERE, dmft.Overlaps([[1.0]], [[0.0]]), None)
    assert_the_same(of, points, monkeypatch, batched=False)


def test_a_mistake_at_one_point_is_raised_and_what_came_before_is_kept():
    of = measure("final_risk", SPHERE, SMALL, 2.0)
    found = list(of.many([{"label_noise": x} for x in (0.0, 1.0, -1.0, 2.0)]))
    assert isinstance(found[2], dmft.errors.BadParameter)
    assert [found[n][1] for n in (0, 1, 3)] == ["ok"] * 3
    with pytest.raises(dmft.errors.BadParameter, match="label_noise must be at least"):
        run_sweep({"label_noise": [0.0, 1.0, -1.0, 2.0]}, of)
    perfect = measure("escape_time", SPHERE, dmft.Overlaps([[1.0]], [[1.0]]), 2.0)
    with pytest.raises(dmft.errors.BadParameter, match="nothing to escape from"):
        run_sweep({"label_noise": [0.0, 1.0, 2.0]}, perfect)


def test_any_measure_may_offer_many(tmp_path):
    class Squares:
        asked: list[int] = []  # noqa: RUF012

        def __call__(self, x):
            return x * x

        def many(self, points):
            self.asked.append(len(points))
            for point in points:
                yield ZeroDivisionError("at 999") if point["x"] == 999 else point["x"] ** 2

    points = {"x": np.arange(1000)}
    result = run_sweep(points, Squares(), store=tmp_path / "store")
    assert result.count() == {"nonfinite": 1, "ok": 999}
    assert result.messages == {999: "ZeroDivisionError: at 999"}
    assert max(Squares.asked) > 10
    assert result.values["value"][17] == 289

    class Short(Squares):
        def many(self, points):
            yield 1.0

    with pytest.raises(dmft.errors.BadParameter, match="1 results of"):
        run_sweep(points, Short())


def test_long_points_end_when_the_job_is_cancelled(tmp_path, ctrl_c):
    of = measure("final_risk", SPHERE, SMALL, 1e9, max_steps=10**12, method="rk5")
    run_sweep({"label_noise": [0.5]}, measure("final_risk", SPHERE, SMALL, 1.0), workers=2)  # built
    began, timer = time.monotonic(), threading.Timer(0.5, ctrl_c)
    timer.start()
    points = {"label_noise": np.linspace(0, 1, 50)}
    result = run_sweep(points, of, store=tmp_path / "store", workers=2)
    timer.join()
    assert time.monotonic() - began < 60.0  # the points take hours
    assert result.count() == {"interrupted": 50}
    assert run_sweep(points, lambda label_noise: 1.0, workers=2).count() == {"ok": 50}
