"""Phase diagrams: values against a formula, failures as data, threads, interrupts, files."""

from __future__ import annotations

import time

import numpy as np
import pytest

import dmft
from dmft.analysis.escape import escape_time_of_problem
from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.errors import BadParameter
from dmft.solvers.solve import solve_problem

RATES, NOISES = np.linspace(0.02, 0.14, 5), np.array([0.0, 0.5, 4.0])


@pytest.fixture
def escape(spherical, pair):
    def measure(**parameters):
        return escape_time_of_problem(
            spherical, {"Q": [[1.0]], "M": [[1e-2]]}, 20.0, **pair, fraction=0.3,
            parameters=parameters, rtol=1e-10, atol=1e-13,
        )  # fmt: skip

    return measure


def test_escape_times_on_a_grid(escape):
    diagram = dmft.phase_diagram(escape, {"learning_rate": RATES, "label_noise": NOISES})
    gamma, noise = np.meshgrid(RATES, NOISES)
    rate, u0 = 4 - 2 * gamma * (12 + noise), 1e-4
    limit, u1 = rate / (4 - 24 * gamma), 0.3 + 0.7 * 1e-4
    with np.errstate(all="ignore"):
        exact = np.log(u1 / u0 * (limit - u0) / (limit - u1)) / (2 * rate)
    escapes = (limit > u1) & (exact < 20.0)
    assert 0 < escapes.sum() < escapes.size
    np.testing.assert_allclose(diagram.values[escapes], exact[escapes], rtol=1e-8)
    assert set(diagram.status[escapes]) == {"ok"}
    assert set(diagram.status[~escapes]) == {"not_converged"}
    assert set(diagram.horizon[~escapes]) == {20.0}
    assert np.all(np.isnan(diagram.values[~escapes]))
    assert diagram.count()["ok"] == escapes.sum()


def test_the_number_of_threads_changes_nothing(escape):
    axes = {"learning_rate": RATES, "label_noise": NOISES}
    one, four = (dmft.phase_diagram(escape, axes, threads=n) for n in (1, 4))
    assert one == four


def test_failed_points_are_data(explosive, pair):
    def measure(speed, size):
        if size < 0:
            raise ZeroDivisionError("no size")
        return solve_problem(
            explosive, {"Q": [[size]], "M": [[0.0]]}, 2.0, **pair, parameters={"speed": speed}
        )

    diagram = dmft.phase_diagram(measure, {"speed": [0.1, 1.0], "size": [1.0, -1.0]})
    assert diagram.status.tolist() == [["ok", "diverged"], ["nonfinite", "nonfinite"]]
    assert diagram.values[0, 0] == pytest.approx(2.0)
    assert diagram.horizon[0, 1] == pytest.approx(1.0, rel=1e-5)
    assert "pole at t = 1" in diagram.messages[0, 1]
    assert diagram.messages[1, 0] == "ZeroDivisionError: no size"


def test_mistakes_are_raised_with_their_point():
    def measure(x, y):
        return undefined_name  # noqa: F821

    with pytest.raises(NameError) as caught:
        dmft.phase_diagram(measure, {"x": [1.0], "y": [2.0]})
    assert caught.value.__notes__ == ["at the point {'x': 1.0, 'y': 2.0}"]


def test_pairs_and_bad_numbers():
    diagram = dmft.phase_diagram(
        lambda x, y: (x, "max_steps") if x < y else np.inf, {"x": [0.0, 1.0], "y": [0.5]}
    )
    assert diagram.status.tolist() == [["max_steps", "nonfinite"]]


def test_interrupt_keeps_what_is_done_and_stops_running_solves(free, pair):
    def measure(x, y):
        if x < 0.5:
            return x
        run = solve_problem(
            free, {"Q": [[1.0]], "M": [[0.1]]}, 1e12, **pair, max_steps=10**12,
            save_at=[1e12], progress=False, method="rk5",
        )  # fmt: skip
        return run.risk[-1]

    def press(fraction, message):
        if fraction > 0.24:
            raise KeyboardInterrupt

    began = time.monotonic()
    diagram = dmft.phase_diagram(
        measure, {"x": [0.0, 1.0, 2.0, 3.0], "y": [0.0]}, threads=2, progress=press
    )
    assert time.monotonic() - began < 60.0  # the points take hours
    assert not diagram.complete
    assert diagram.status.tolist() == [["ok", "interrupted", "interrupted", "interrupted"]]


def test_progress_reports_all_points():
    seen = []
    dmft.phase_diagram(
        lambda x, y: x * y, {"x": range(3), "y": range(2)},
        progress=lambda fraction, message: seen.append((fraction, message)),
    )  # fmt: skip
    assert seen[-1] == (1.0, "6 of 6 points")


def test_files_and_data_sets(escape, tmp_path):
    axes = {"learning_rate": RATES, "label_noise": NOISES}
    diagram = dmft.phase_diagram(escape, axes, quantity="escape_time")
    assert PhaseDiagram.load(diagram.save(tmp_path / "d.nc")) == diagram
    data = diagram.to_xarray()
    assert data["escape_time"].dims == ("label_noise", "learning_rate")
    chosen = data["escape_time"].sel(label_noise=0.5).isel(learning_rate=1)
    assert float(chosen) == diagram.values[1, 1]
    with pytest.raises(BadParameter, match="no file"):
        PhaseDiagram.load(tmp_path / "none.nc")


@pytest.mark.parametrize(
    "axes", [{"x": [1.0]}, {"x": [1.0], "y": []}, {"x": [np.nan], "y": [1.0]}, {"x": 1.0, "y": [1]}]
)
def test_bad_axes_are_refused(axes):
    with pytest.raises(BadParameter, match=r"ax[ei]s"):
        dmft.phase_diagram(lambda x, y: x, axes)


def test_records_say_what_they_hold_and_in_which_units(tmp_path):
    h5netcdf = pytest.importorskip("h5netcdf")
    pytest.importorskip("xarray")
    equations = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.1, constraint="sphere"))
    axes = {"learning_rate": [0.05, 0.1], "label_noise": [0.0, 1.0]}
    how = {"equations": equations, "start": dmft.Overlaps([[1.0]], [[0.1]]), "t_max": 20.0}
    diagram = dmft.phase_diagram("escape_time", *axes.items(), **how)
    sweep = dmft.sweep(axes, "growth_rate", **how)
    time, noise = equations.time_unit, {"long_name": "label-noise variance", "units": "1"}
    assert diagram.to_xarray()["escape_time"].attrs == {"long_name": "escape time", "units": time}
    assert diagram.to_xarray()["label_noise"].attrs == noise
    assert sweep.to_xarray()["growth_rate"].attrs["units"] == f"1/t, {time}"
    run = dmft.solve(equations, how["start"], 1.0)
    assert run.to_xarray()["t"].attrs["units"] == time
    with h5netcdf.File(diagram.save(tmp_path / "d.nc"), "r") as file:
        found = {name: dict(variable.attrs) for name, variable in file.variables.items()}
    assert found["y"] == {"quantity": "label_noise", **noise}
    assert found["values"]["units"] == time


def test_names_are_labels_in_the_order_of_the_alphabet(tmp_path):
    def measure(x, y):
        if x == 2.0:
            return np.nan if y else (np.nan, "diverged")
        return "outer" if x * x + y * y > 9 else "inner"

    axes = {"x": np.arange(7.0), "y": np.arange(6.0)}
    diagram = dmft.phase_diagram(measure, axes, quantity="region")
    assert diagram.names == ("inner", "outer")
    wanted = [
        ["diverged" if (x, y) == (2, 0) else "nonfinite" if x == 2 else measure(x, y)
         for x in axes["x"]]
        for y in axes["y"]
    ]  # fmt: skip
    assert diagram.labels.tolist() == wanted
    # The first name that comes is the second in the alphabet, or not: threads do not matter.
    turned = {"x": axes["x"][::-1], "y": axes["y"]}
    other = dmft.phase_diagram(measure, turned, quantity="region", threads=4)
    np.testing.assert_array_equal(other.labels[:, ::-1], diagram.labels)
    assert PhaseDiagram.load(diagram.save(tmp_path / "d.nc")).labels.tolist() == wanted
    line = np.linspace(-2, 2, 101)
    disc = dmft.phase_diagram(
        lambda x, y: "in" if x * x + y * y < 1 else "out", {"x": line, "y": line}, adaptive=True
    )
    np.testing.assert_array_equal(disc.labels == "in", line**2 + line[:, None] ** 2 < 1)
    assert 5 * disc.computed.sum() < disc.computed.size


def test_names_beside_numbers_are_refused():
    with pytest.raises(BadParameter, match="the name 'one' at one point and a number at another"):
        dmft.phase_diagram(lambda x, y: "one" if x else 2.0, {"x": [0.0, 1.0], "y": [0.0]})
    numbers = dmft.phase_diagram(lambda x, y: x, {"x": [0.0, 1.0], "y": [0.0]})
    assert numbers.names is None
    with pytest.raises(BadParameter, match="are numbers"):
        _ = numbers.labels
