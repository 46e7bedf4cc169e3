"""Escape times against the exact formula and against an independent integration."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from dmft.analysis.escape import (
    Censored,
    EscapeTime,
    EscapeWarning,
    escape_time_of,
    escape_time_of_problem,
)
from dmft.analysis.plateau import _minimum, find_plateau, risk_rate
from dmft.errors import BadParameter
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory

TIGHT = {"rtol": 1e-10, "atol": 1e-13}


def formula(gamma, noise, u0, u1):
    """Time at which m^2 grows from u0 to u1 (theory/one_pass F.1)."""
    rate = 4 - 2 * gamma * (12 + noise)
    limit = rate / (4 - 24 * gamma)
    return np.log(u1 / u0 * (limit - u0) / (limit - u1)) / (2 * rate)


def retrieval(gamma=0.05, noise=0.3):
    return {"parameters": {"learning_rate": gamma, "label_noise": noise}}


def at(m, q=1.0):
    return {"Q": [[q]], "M": [[m]]}


class Free:
    """The free problem integrated by SciPy from its own definition."""

    def __init__(self, m0, t_max):
        def flow(t, y):
            q, m = y
            return [4 * q + 8 * m * m - 12 * q * q, 6 * m - 6 * q * m]

        self.sol = solve_ivp(
            flow, (0, t_max), [1.0, m0], "DOP853", rtol=1e-12, atol=1e-18, dense_output=True
        ).sol

    def risk(self, t):
        q, m = self.sol(t)
        return 0.5 * (3 + 3 * q * q - 2 * q - 4 * m * m)

    def crossing(self, level, lo, hi):
        return brentq(lambda t: self.risk(t) - level, lo, hi, xtol=1e-13)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("gamma", [0.01, 0.1])
def test_formula_of_phase_retrieval(spherical, pair, gamma, fraction):
    u0 = 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = escape_time_of_problem(
            spherical, at(1e-2), 50.0, **pair, **retrieval(gamma, 0.1), fraction=fraction, **TIGHT
        )
    assert isinstance(found, EscapeTime)
    assert found.value == pytest.approx(
        formula(gamma, 0.1, u0, fraction + (1 - fraction) * u0), rel=1e-8
    )
    assert found.reference_value == pytest.approx(2 * (1 - u0))
    assert not found.relaxed


def test_overlap_threshold(spherical, pair):
    found = escape_time_of_problem(
        spherical, at(-1e-3), 50.0, **pair, **retrieval(), overlap=0.5, **TIGHT
    )
    assert found.value == pytest.approx(formula(0.05, 0.3, 1e-6, 0.25), rel=1e-8)
    already = escape_time_of_problem(
        spherical, at(0.6), 50.0, **pair, **retrieval(), overlap=0.5, t_start=2.0
    )
    assert already.value == 2.0


def test_start_that_escapes_is_its_own_plateau(spherical, pair):
    options = {**pair, **retrieval(), **TIGHT, "fraction": 0.5}
    start = escape_time_of_problem(spherical, at(1e-3), 50.0, **options)
    plateau = escape_time_of_problem(spherical, at(1e-3), 50.0, reference="plateau", **options)
    assert plateau.reference_time == 0.0
    assert plateau.value == pytest.approx(start.value, rel=1e-9)


def test_the_sampling_grid_has_no_say(spherical, pair):
    values = []
    for save_at in (None, 2, [49.0], np.geomspace(1e-3, 50.0, 7)):
        run = solve_problem(
            spherical, at(1e-3), 50.0, **pair, **retrieval(), **TIGHT, save_at=save_at,
            provenance={"time_step_times_dim": 0.05},
        )  # fmt: skip
        values.append(escape_time_of(run, fraction=0.5))
    assert [v.value for v in values[:2]] == [values[0].value] * 2
    assert values[2].value == pytest.approx(values[0].value, rel=1e-9)
    assert values[3].value == pytest.approx(values[0].value, rel=1e-9)
    assert values[0].steps(1000) == pytest.approx(values[0].value * 1000 / 0.05)


def test_relaxation_before_learning_warns(free, pair):
    # the risk falls from 2 to 4/3 while m stays at 1e-6
    truth = Free(1e-6, 10.0)
    with pytest.warns(EscapeWarning, match="before anything is learned"):
        found = escape_time_of_problem(free, at(1e-6), 10.0, **pair, fraction=0.1, **TIGHT)
    assert found.relaxed
    assert found.value == pytest.approx(truth.crossing(1.8, 0.0, 0.5), rel=1e-8)


def test_threshold_below_the_plateau_does_not_warn(free, pair):
    truth = Free(1e-6, 10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = escape_time_of_problem(free, at(1e-6), 10.0, **pair, fraction=0.5, **TIGHT)
    assert not found.relaxed
    assert found.value == pytest.approx(truth.crossing(1.0, 1.0, 10.0), rel=1e-8)


def test_plateau_reference(free, pair):
    truth = Free(1e-6, 10.0)
    found = escape_time_of_problem(
        free, at(1e-6), 10.0, **pair, fraction=0.1, reference="plateau", **TIGHT
    )
    assert found.reference_value == pytest.approx(4 / 3, rel=1e-6)
    assert found.value == pytest.approx(truth.crossing(1.2, 1.0, 10.0), rel=1e-6)
    assert 0.5 < found.reference_time < found.value


def test_direct_learning_does_not_warn(free, pair):
    # an informed start falls straight to zero: fast at once, and no plateau ever
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = escape_time_of_problem(free, at(0.8), 10.0, **pair, fraction=0.5)
    assert not found.relaxed


def test_relaxation_without_learning_is_censored(free, pair):
    found = escape_time_of_problem(free, at(0.0), 5.0, **pair, fraction=0.1, reference="plateau")
    assert isinstance(found, Censored)
    assert (found.horizon, found.status) == (5.0, "ok")
    assert found.reference_value == pytest.approx(4 / 3, rel=1e-6)


def test_horizon_and_failure_censor(spherical, explosive, pair):
    late = escape_time_of_problem(spherical, at(1e-3), 0.5, **pair, **retrieval())
    assert isinstance(late, Censored)
    assert (late.horizon, late.status) == (0.5, "ok")
    with pytest.raises(AttributeError, match=r"no escape until t = 0\.5"):
        _ = late.value
    lost = escape_time_of_problem(explosive, at(0.1), 50.0, **pair, parameters={"speed": 1.0})
    assert (lost.status, lost.horizon) == ("diverged", pytest.approx(1.0, rel=1e-5))


@pytest.mark.parametrize("q0", [1.0, 1e6])
def test_rate_of_the_risk_along_the_flow(free, pair, q0):
    run = solve_problem(free, at(0.1, q0), 2.0 / q0, **pair)
    q, m = run.Q[:, 0, 0], run.M[:, 0, 0]
    dq, dm = 4 * q + 8 * m * m - 12 * q * q, 6 * m - 6 * q * m
    np.testing.assert_allclose(risk_rate(run), (3 * q - 1) * dq - 4 * m * dm, 1e-9, 1e-9)


def test_flattest_point_beside_the_first_is_interpolated():
    t = np.array([0.0, 1.0, 2.5, 3.0])
    for place in (0.8, 1.2):
        slope = np.sqrt((t - place) ** 2 + 0.1)
        assert _minimum(t, slope, 1) == pytest.approx(place, rel=1e-12)


def test_plateau_is_the_flattest_point(free, pair):
    run = solve_problem(free, at(1e-5), 10.0, **pair, **TIGHT)
    plateau = find_plateau(run, origin=0.0)
    truth = Free(1e-5, 10.0)
    t = np.linspace(0.3, 2.0, 20001)
    slope = -np.gradient(np.log(truth.risk(t)), np.log(t))
    assert plateau.t == pytest.approx(t[np.argmin(np.abs(slope))], abs=2e-3)
    assert plateau.left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": 0.0}, "strictly between"),
        ({"fraction": 1.0}, "strictly between"),
        ({"reference": "end"}, "choose one of"),
        ({"overlap": 1.5}, "cosine"),
    ],
)
def test_bad_requests_are_refused(spherical, pair, change, message):
    with pytest.raises(BadParameter, match=message):
        escape_time_of_problem(spherical, at(0.1), 1.0, **pair, **retrieval(), **change)


def test_nothing_to_escape_from_and_files_are_refused(spherical, pair, tmp_path):
    with pytest.raises(BadParameter, match="nothing to escape from"):
        escape_time_of_problem(spherical, at(1.0), 1.0, **pair, **retrieval())
    run = solve_problem(spherical, at(0.1), 1.0, **pair, **retrieval())
    with pytest.raises(BadParameter, match="read from a file"):
        escape_time_of(Trajectory.load(run.save(tmp_path / "a.nc")))
